#!/bin/sh
# A bot that answers each "ping" with a "pong":  ./bot.sh '<magic link>'      (needs curl and jq)
# It takes a seat with the link, reads the chat as a stream, one message a line, and at its end gives the seat back.
chat=${1%%#*} token=$(curl -sSf "${1%%#*}/join" -H "Authorization: Bearer ${1#*#invite=}" -d '{"username": "Bot"}' | jq -r .session_token)
trap 'curl -s -X POST "$chat/leave" -H "Authorization: Bearer $token" > /dev/null' EXIT; trap exit INT TERM
curl -sN "$chat?since=latest" -H "Authorization: Bearer $token" -H "Accept: application/x-ndjson" |
  jq --unbuffered -r 'select(.text == "ping") | "pong, \(.username)"' |
  while read -r pong; do curl -sSf --retry 9 "$chat" -H "Authorization: Bearer $token" -H "Content-Type: text/plain" --data-raw "$pong" > /dev/null; done
