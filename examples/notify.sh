#!/bin/sh
# Runs a command, then tells the chat how it went:  ./notify.sh '<magic link>' make -j4      (needs curl and jq)
# Its exit code is the command's. It takes a seat, under the command's name, only for as long as it speaks.
: "${2:?usage: $0 <magic link> <command> ...}"
link=$1 chat=${1%%#*}
shift
start=$(date +%s)
"$@"
code=$?
if [ $code = 0 ]; then how=done; else how="failed with exit code $code"; fi

# Repeated where the network or the server says "not now"; the key sees to it that nothing happens twice.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
post() { curl -sSf -X POST --retry 3 --retry-connrefused --max-time 60 -H "Idempotency-Key: $key" "$@"; }
join() { post "$chat/join" -H "Authorization: Bearer ${link#*#invite=}" -d "$1"; }

name=$(jq -n --arg name "$(basename -- "$1")" '{username: $name[:24]}')
text=$(jq -n --arg text "$* on $(uname -n): $how after $(($(date +%s) - start)) s" '{text: $text[-300:]}')
# Should somebody have that name, it is Guest and a number.
token=$( (join "$name" || join '{}') | jq -r .session_token)
if [ -n "$token" ]; then
  post "$chat" -H "Authorization: Bearer $token" -d "$text" > /dev/null
  post "$chat/leave" -H "Authorization: Bearer $token"
fi
exit $code
