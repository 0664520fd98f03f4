#!/usr/bin/env bash
# deploy/Containerfile without a container engine: its lines are read and carried out in a minimal Debian, which
# stands for the base image. The program then runs as a container's would: as process 1, on files it cannot write,
# without a single capability.
#
#   test/deploy/container.sh [EXECUTABLE]     needs root, debootstrap, curl, jq, unshare, setpriv and the network
set -euo pipefail
cd "$(dirname "$0")/../.."

architecture=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
executable=${1:-dist/watch-party-$(jq -r .version package.json)-linux-$architecture}
if [ "$(id -u)" != 0 ]; then
  echo "test/deploy/container.sh has to run as root: debootstrap and chroot need it." >&2
  exit 1
fi

root=$(mktemp -d)
log=$root.log
program=
clean_up() {
  [ -z "$program" ] || kill -KILL "$program" 2>/dev/null || true
  rm -rf --one-file-system "$root" "$log"
}
trap clean_up EXIT

# Carries out one line of the Containerfile; one that is not known here is a failure.
user= variables=() entrypoint=
step() {
  local instruction=$1
  shift
  case $instruction in
    FROM)
      local suite=${1#debian:}
      [ "$1" = "debian:${suite%-slim}-slim" ] || { echo "No base image $1 here." >&2; return 1; }
      debootstrap --variant=minbase "${suite%-slim}" "$root" >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
      chmod 755 "$root"
      ;;
    ARG) [ "${1%%=*}" = EXECUTABLE ] ;;
    COPY)
      [ "$1 $2" = '--chmod=755 ${EXECUTABLE}' ]
      install -D -m 755 "$executable" "$root$3"
      ;;
    USER) user=$1 ;;
    ENV) variables+=("$1") ;;
    EXPOSE) ;;
    ENTRYPOINT) entrypoint=$(jq -er '.[0]' <<<"$*") ;;
    *) echo "No idea how to $instruction." >&2; return 1 ;;
  esac
}

while read -r line; do
  case $line in '' | '#'*) continue ;; esac
  echo "$line"
  read -ra words <<<"$line"
  step "${words[@]}"
done <deploy/Containerfile

# A free port in place of the image's: this machine's network is not set apart as a container's is.
exec {output}< <(exec unshare --pid --fork --kill-child=KILL --mount bash -c '
  mount --bind "$0" "$0"
  mount -o remount,bind,ro "$0"
  mount -t proc proc "$0/proc"
  exec env -i "${@:3}" WATCH_PARTY_PORT=0 "$(command -v chroot)" "$0" /usr/bin/setpriv --reuid="${1%:*}" \
    --regid="${1#*:}" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs "$2"' \
  "$root" "$user" "$entrypoint" "${variables[@]}" 2>&1)
program=$!

printed= address=
# The curl line is the last that it prints; that none comes for 20 seconds is a failure.
while read -r -t 20 -u "$output" line; do
  printed+="$line"$'\n'
  case $line in
    http://localhost:*) address=${line%% *} ;;
    *curl*) break ;;
  esac
done
[ -n "$address" ] || { echo "It printed no address: $printed" >&2; exit 1; }

inside=$(pgrep -P "$program")
grep -q $'^NSpid:.*\t1$' "/proc/$inside/status" || { echo "It is not process 1." >&2; exit 1; }
grep -Eq "^Uid:\s+${user%:*}\s" "/proc/$inside/status" || { echo "It runs as somebody else." >&2; exit 1; }
grep -Eq '^CapBnd:\s+0+$' "/proc/$inside/status" || { echo "It has capabilities." >&2; exit 1; }
grep -Eq '^\S+ \S+ \S+ \S+ / ro,' "/proc/$inside/mountinfo" || { echo "It can write." >&2; exit 1; }

answer=$(curl -sS --fail-with-body "$address/create" -d '{"username": "Ana"}')
token=$(jq -er .session_token <<<"$answer")
chat=$address/$(jq -er .chat_id <<<"$answer")
curl -sS --fail-with-body "$chat" -H "Authorization: Bearer $token" -d '{"text": "Hello"}' >"$log"
curl -sS --fail-with-body "$chat" -H "Authorization: Bearer $token" | jq -e '[.messages[].text] == ["Hello"]' >"$log"
curl -sS --fail-with-body "$address" -H 'Accept: text/html' >"$log"
grep -q '<title>Watch Party</title>' "$log"

# As an engine stops it.
kill -TERM "$inside"
code=0
wait "$program" || code=$?
program=
[ "$code" = 0 ] || { echo "It ended with exit code $code." >&2; exit 1; }
echo "The Containerfile's program runs as $user, process 1, read-only, without capabilities; exit code 0 on SIGTERM."
