#!/bin/sh
# Makes chats for a class:  ./classroom.sh 5 http://192.168.1.42:8080      (needs curl and jq)
# It prints each chat's code and link, and writes classroom.html with a large QR code per chat, to print or project.
# The first seat of each chat belongs to this script, so five people fit into each. Codes work for 30 minutes, links and
# QR codes for six hours. The page needs no network: jq turns the QR code that the API draws with blocks into an SVG.
case ${1:-} in
  '' | 0* | *[!0-9]*) echo "usage: $0 <number of chats> [<address of the server>]" >&2; exit 2 ;;
esac
url=${2:-http://localhost:8080} page=classroom.html number=0

# Sends a request. Prints the answer, or why there is none, and then ends the script.
post() {
  answer=$(curl -s -X POST "$@") || { echo "No server answers at $url." >&2; exit 1; }
  why=$(printf %s "$answer" | jq -r 'if .error then .message else empty end') || exit 1
  [ -z "$why" ] || { printf '%s\n' "$why" >&2; exit 1; }
  printf %s "$answer"
}

# In the blocks, light is drawn and dark is not: a space is dark in both of its halves, ▄ only in the upper one.
section='def dark($blocks; $half): (.qr | split("\n") | to_entries[] | .key as $y | .value / "" | to_entries[]
    | select(.value | IN($blocks[])) | "M\(.key) \(2 * $y + $half)h1v1h-1z");
  (.qr | split("\n")[0] | length) as $size
  | "<section><h1>\($number)</h1><svg viewBox=\"0 0 \($size) \($size)\"><path d=\"\([dark([" ", "▄"]; 0), dark([" ", "▀"]; 1)] | join(""))\"/></svg>",
    "<p>\(.magic_link | split("/")[2])</p><p><b>\(.code)</b></p></section>"'

invites=
while [ $number -lt "$1" ]; do
  number=$((number + 1))
  chat=$(post "$url/create" -d '{"username": "Host"}') || exit
  token=$(printf %s "$chat" | jq -r .session_token) id=$(printf %s "$chat" | jq -r .chat_id)
  invite=$(post "$url/$id/invite" -H "Authorization: Bearer $token") || exit
  printf %s "$invite" | jq -r --arg number $number '"\($number)\t\(.code)\t\(.magic_link)"'
  invites="$invites$(printf %s "$invite" | jq -r --arg number $number "$section")"
done
umask 077
cat > $page << END
<!doctype html><meta charset="utf-8"><title>Watch Party</title>
<style>
  body { margin: 0; font: 3vmin system-ui, sans-serif; text-align: center }
  section { display: flow-root; min-height: 99vh; break-inside: avoid } section + section { break-before: page }
  h1, p { margin: 1vmin } svg { width: 62vmin; shape-rendering: crispEdges }
  p { font: 5vmin ui-monospace, monospace } b { font-size: 10vmin }
</style>
$invites
END
echo "Open $page to print or project the QR codes." >&2
