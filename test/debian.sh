#!/usr/bin/env bash
# Does the executable run where there is nothing? Makes a minimal Debian 12 in a temporary folder, runs it in
# there (as root and as nobody), holds a chat with it from outside, and stops it.
#
#   test/debian.sh [EXECUTABLE]     needs root, debootstrap, curl, jq and the network
set -euo pipefail
cd "$(dirname "$0")/.."

architecture=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
executable=${1:-dist/watch-party-$(jq -r .version package.json)-linux-$architecture}
if [ "$(id -u)" != 0 ]; then
  echo "test/debian.sh has to run as root: debootstrap and chroot need it." >&2
  exit 1
fi

debian=$(mktemp -d)
log=$debian.log
program=
clean_up() {
  [ -z "$program" ] || kill -KILL "$program" 2>/dev/null || true
  rm -rf --one-file-system "$debian" "$log"
}
trap clean_up EXIT

echo "Unpacking a minimal Debian 12 ..."
debootstrap --variant=minbase bookworm "$debian" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
chmod 755 "$debian" # nobody has to get in, too
install -m 755 "$executable" "$debian/watch-party"

# Runs the executable as user:group $1, talks to it, stops it.
try_as() {
  exec {output}< <(exec env -i "$(command -v chroot)" --userspec="$1" "$debian" /watch-party --port 0)
  program=$!
  local line address=
  # The curl line is the last that it prints; that none comes for 20 seconds is a failure.
  while read -r -t 20 -u "$output" line; do
    case $line in
      http://localhost:*) address=${line%% *} ;;
      *curl*) break ;;
    esac
  done
  [ -n "$address" ] || { echo "It printed no address as $1." >&2; return 1; }

  local answer token chat_id
  answer=$(curl -sS --fail-with-body "$address/create" -d '{"username": "Ana"}')
  token=$(jq -er .session_token <<<"$answer")
  chat_id=$(jq -er .chat_id <<<"$answer")
  curl -sS --fail-with-body "$address/$chat_id" -H "Authorization: Bearer $token" -d '{"text": "Hello"}' >"$log"
  curl -sS --fail-with-body "$address/$chat_id" -H "Authorization: Bearer $token" |
    jq -e '[.messages[].text] == ["Hello"]' >"$log"
  # Not by a pipe: grep ends at the first match, and curl would complain of that.
  curl -sS --fail-with-body "$address" -H 'Accept: text/html' >"$log"
  grep -q '<title>Watch Party</title>' "$log"

  kill -TERM "$program"
  local code=0
  wait "$program" || code=$?
  program=
  exec {output}<&-
  [ "$code" = 0 ] || { echo "It ended with exit code $code as $1." >&2; return 1; }
  echo "It runs as $1: page, chat, and exit code 0 on SIGTERM."
}

try_as root:root
try_as nobody:nogroup
