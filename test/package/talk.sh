# shellcheck shell=bash
# Functions for the scripts that test the program in different environments: start it, chat with it, stop it. Source
# this file after `set -euo pipefail`. Needs curl and jq.

program= # the process id of the running program
log=$(mktemp)

end_talk() {
  [ -z "$program" ] || kill -KILL "$program" 2>/dev/null || true
  rm -f "$log"
}
trap end_talk EXIT

# Starts the command as the program. Waits until it has printed its address, and puts that into $address.
start_program() {
  address=
  exec {output}< <(exec "$@")
  program=$!
  local line
  # The curl line is the last line that it prints. 60 seconds without a line count as a failure.
  while read -r -t 60 -u "$output" line; do
    case $line in
      http://localhost:*) address=${line%% *} ;;
      *curl*) break ;;
    esac
  done
  [ -n "$address" ] || { echo "It printed no address." >&2; return 1; }
}

# Chats with curl, with a reader that already waits when the message is posted. Then loads the page.
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
  # Not through a pipe: grep exits at the first match, and curl would then report an error.
  curl -sS --fail-with-body "$address" -H 'Accept: text/html' >"$log"
  grep -q '<title>Watch Party</title>' "$log"
}

# Stops the program as systemd and container engines do.
stop_program() {
  kill -TERM "$program"
  local code=0
  wait "$program" || code=$?
  program=
  exec {output}<&-
  [ "$code" = 0 ] || { echo "It exited with code $code." >&2; return 1; }
}
