#!/usr/bin/env bash
# Tests deploy/Containerfile. buildah builds it in the folder of an unpacked archive, with the podman command of
# docs/hosting.md and a minimal Debian as the base image. The program then runs from the image as in a container: as
# process 1, with read-only files and without capabilities.
#
#   test/deploy/container.sh [ARCHIVE]     needs root, buildah, debootstrap, curl, jq, unshare, setpriv and the network
set -euo pipefail
cd "$(dirname "$0")/../.."

architecture=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
archive=${1:-dist/watch-party-$(jq -r .version package.json)-linux-$architecture.tar.gz}
if [ "$(id -u)" != 0 ]; then
  echo "test/deploy/container.sh must run as root, because of debootstrap and chroot." >&2
  exit 1
fi

folder=$(mktemp -d)
log=$folder/log
program=
# Keeps images and containers in the temporary folder, separate from this machine's own.
buildah() {
  command buildah --root "$folder/images" --runroot "$folder/run" --storage-driver overlay "$@"
}
clean_up() {
  [ -z "$program" ] || kill -KILL "$program" 2>/dev/null || true
  [ ! -d "$folder/images" ] || buildah umount --all >"$log" 2>&1 || true
  rm -rf --one-file-system "$folder"
}
trap clean_up EXIT
quietly() {
  "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
}

# The base image that the Containerfile names.
base=$(sed -n 's/^FROM //p' deploy/Containerfile)
suite=${base#debian:}
suite=${suite%-slim}
[ "$base" = "debian:$suite-slim" ] || { echo "Unknown base image: $base." >&2; exit 1; }
quietly debootstrap --variant=minbase "$suite" "$folder/debian"
empty=$(buildah from scratch)
quietly buildah add "$empty" "$folder/debian" /
quietly buildah commit --rm "$empty" "docker.io/library/$base"
rm -rf --one-file-system "$folder/debian"

# Runs the document's arguments, plus those for building without starting a container.
podman() {
  [ "$1" = build ]
  quietly buildah build --isolation chroot --pull-never "${@:2}"
}
line=$(grep '^podman build ' docs/hosting.md)
echo "$line"
tar -xzf "$archive" -C "$folder"
cd "$folder"/watch-party-*/
size=$(du -sm . | cut -f 1)
[ "$size" -lt 115 ] || { echo "The build context is $size MB." >&2; exit 1; }
eval "$line"

container=$(buildah from --pull-never localhost/watch-party)
root=$(buildah mount "$container")
config=$(buildah inspect --type image localhost/watch-party | jq -e .OCIv1.config)
user=$(jq -er .User <<<"$config")
entrypoint=$(jq -er '.Entrypoint[0]' <<<"$config")
mapfile -t variables < <(jq -er '.Env[]' <<<"$config")
[[ " ${variables[*]} " = *" WATCH_PARTY_PORT=8080 "* ]]

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
