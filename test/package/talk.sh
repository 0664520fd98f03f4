# shellcheck shell=bash
# For the scripts that try an executable somewhere: the talk they all have with it. To be sourced.
# Needs curl and jq, and `set -euo pipefail`.

program= # what runs at the moment
log=$(mktemp)

end_talk() {
  [ -z "$program" ] || kill -KILL "$program" 2>/dev/null || true
  rm -f "$log"
}
trap end_talk EXIT

# Starts the command, which becomes the program; returns when it has said where it listens, in $address.
start_program() {
  address=
  exec {output}< <(exec "$@")
  program=$!
  local line
  # The curl line is the last that it prints; that none comes for 60 seconds is a failure.
  while read -r -t 60 -u "$output" line; do
    case $line in
      http://localhost:*) address=${line%% *} ;;
      *curl*) break ;;
    esac
  done
  [ -n "$address" ] || { echo "It printed no address." >&2; return 1; }
}

# A chat by curl, whose reader already waits when the message comes, and the page.
hold_chat() {
  local answer token chat
  answer=$(curl -sS --fail-with-body "$address/create" -d '{"username": "Ana"}')
  token=$(jq -er .session_token <<<"$answer")
  chat=$address/$(jq -er .chat_id <<<"$answer")
  curl -sS --fail-with-body "$chat?since=1&wait=50" -H "Authorization: Bearer $token" >"$log" &
  local reader=$!
  curl -sS --fail-with-body "$chat" -H "Authorization: Bearer $token" -d '{"text": "Hello"}' |
    jq -e '.text == "Hello"' >/dev/null
  wait "$reader"
  jq -e '[.messages[].text] == ["Hello"]' "$log" >/dev/null
  # Not by a pipe: grep ends at the first match, and curl would complain of that.
  curl -sS --fail-with-body "$address" -H 'Accept: text/html' >"$log"
  grep -q '<title>Watch Party</title>' "$log"
}

# Stops it as systemd and container engines do.
stop_program() {
  kill -TERM "$program"
  local code=0
  wait "$program" || code=$?
  program=
  exec {output}<&-
  [ "$code" = 0 ] || { echo "It ended with exit code $code." >&2; return 1; }
}
