#!/usr/bin/env bash
# Tests deploy/Containerfile without a container engine: runs its instructions in a minimal Debian in place of the base
# image. The program then runs as in a container: as process 1, with read-only files and without capabilities.
#
#   test/deploy/container.sh [EXECUTABLE]     needs root, debootstrap, curl, jq, unshare, setpriv and the network
set -euo pipefail
cd "$(dirname "$0")/../.."

architecture=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
executable=${1:-dist/watch-party-$(jq -r .version package.json)-linux-$architecture}
if [ "$(id -u)" != 0 ]; then
  echo "test/deploy/container.sh must run as root, because of debootstrap and chroot." >&2
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

# Runs one instruction of the Containerfile. Fails for an unknown one.
user= variables=() entrypoint=
step() {
  local instruction=$1
  shift
  case $instruction in
    FROM)
      local suite=${1#debian:}
      [ "$1" = "debian:${suite%-slim}-slim" ] || { echo "Unknown base image: $1." >&2; return 1; }
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
    *) echo "Unknown instruction: $instruction." >&2; return 1 ;;
  esac
}

while read -r line; do
  case $line in '' | '#'*) continue ;; esac
  echo "$line"
  read -ra words <<<"$line"
  step "${words[@]}"
done <deploy/Containerfile

# Uses a free port instead of the image's, because the program shares this machine's network.
exec {output}< <(exec unshare --pid --fork --kill-child=KILL --mount bash -c '
  mount --bind "$0" "$0"
  mount -o remount,bind,ro "$0"
  mount -t proc proc "$0/proc"
  exec env -i "${@:3}" WATCH_PARTY_PORT=0 "$(command -v chroot)" "$0" /usr/bin/setpriv --reuid="${1%:*}" \
    --regid="${1#*:}" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs "$2"' \
  "$root" "$user" "$entrypoint" "${variables[@]}" 2>&1)
program=$!

printed= address=
# The curl line is the last one. Fails if the program prints nothing for 20 seconds.
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
grep -Eq "^Uid:\s+${user%:*}\s" "/proc/$inside/status" || { echo "It runs as another user." >&2; exit 1; }
grep -Eq '^CapBnd:\s+0+$' "/proc/$inside/status" || { echo "It has capabilities." >&2; exit 1; }
grep -Eq '^\S+ \S+ \S+ \S+ / ro,' "/proc/$inside/mountinfo" || { echo "It can write." >&2; exit 1; }

answer=$(curl -sS --fail-with-body "$address/create" -d '{"username": "Ana"}')
token=$(jq -er .session_token <<<"$answer")
chat=$address/$(jq -er .chat_id <<<"$answer")
curl -sS --fail-with-body "$chat" -H "Authorization: Bearer $token" -d '{"text": "Hello"}' >"$log"
curl -sS --fail-with-body "$chat" -H "Authorization: Bearer $token" | jq -e '[.messages[].text] == ["Hello"]' >"$log"
curl -sS --fail-with-body "$address" -H 'Accept: text/html' >"$log"
grep -q '<title>Watch Party</title>' "$log"

# Container engines stop with SIGTERM.
kill -TERM "$inside"
code=0
wait "$program" || code=$?
program=
[ "$code" = 0 ] || { echo "It ended with exit code $code." >&2; exit 1; }
echo "From the Containerfile: runs as $user, as process 1, read-only, without capabilities. SIGTERM ends it with exit code 0."
