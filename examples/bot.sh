#!/bin/sh
# A bot that answers each "ping" with a "pong":  ./bot.sh '<magic link>'      (needs curl and jq)
# It joins with the link, reads the chat as a stream with one message per line, and leaves when it ends.
# If the chat ends or the server restarts, it prints the reason. The exit code is 2 if it cannot join, otherwise 1.
case ${1:-} in
  http*"#invite="?*) chat=${1%%#*} ;;
  *) echo "usage: $0 '<magic link>'   (a magic link contains #invite=, so quote it)" >&2; exit 2 ;;
esac
joined=$(curl -s "$chat/join" -H "Authorization: Bearer ${1#*#invite=}" -d '{"username": "Bot"}')
token=$(printf %s "$joined" | jq -r '.session_token // empty' 2> /dev/null)
if [ -z "$token" ]; then
  why=$(printf %s "$joined" | jq -r '.message // empty' 2> /dev/null)
  printf '%s\n' "${why:-No chat answers at $chat.}" >&2
  exit 2
fi
trap 'curl -s -X POST "$chat/leave" -H "Authorization: Bearer $token" > /dev/null' EXIT; trap exit INT TERM

answers='if .error then "\(.message)\n" | halt_error elif .text == "ping" then "pong, \(.username)" else empty end'
curl -sN "$chat?since=latest" -H "Authorization: Bearer $token" -H "Accept: application/x-ndjson" |
  jq --unbuffered -nr "(inputs | $answers), (\"The connection to the server was lost.\n\" | halt_error)" |
  while read -r pong; do curl -sSf --retry 9 "$chat" -H "Authorization: Bearer $token" -H "Content-Type: text/plain" --data-raw "$pong" > /dev/null; done
exit 1
