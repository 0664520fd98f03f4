# shellcheck shell=bash
# Sourced by the scripts that try the program in different environments: starts it, tries a chat, stops it.
# Needs curl, jq and `set -euo pipefail`.

program= # the id of the running process
log=$(mktemp)

end_talk() {
  [ -z "$program" ] || kill -KILL "$program" 2>/dev/null || true
  rm -f "$log"
}
trap end_talk EXIT

# Starts a command that runs the program, and waits for its start-up text. Sets $program and $address.
start_program() {
  address=
  exec {output}< <(exec "$@")
  program=$!
  local line
  # The curl line is the last one. Fails if the program prints nothing for 60 seconds.
  while read -r -t 60 -u "$output" line; do
    case $line in
      http://localhost:*) address=${line%% *} ;;
      *curl*) break ;;
    esac
  done
  [ -n "$address" ] || { echo "It printed no address." >&2; return 1; }
}

# Posts a message while another request polls for it, and loads the page. Uses curl.
try_chat() {
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
  # Not through a pipe: grep exits at the first match, and curl would report a write error.
  curl -sS --fail-with-body "$address" -H 'Accept: text/html' >"$log"
  grep -q '<title>Watch Party</title>' "$log"
}

# Stops the program with SIGTERM, as systemd and container engines do.
stop_program() {
  kill -TERM "$program"
  local code=0
  wait "$program" || code=$?
  program=
  exec {output}<&-
  [ "$code" = 0 ] || { echo "It ended with exit code $code." >&2; return 1; }
}
