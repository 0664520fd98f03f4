#!/usr/bin/env bash
# Checks that the tests pass for an ordinary user on a minimal system. Makes a minimal Debian 12 in a temporary folder
# with a user who cannot create user namespaces. The first run lacks libraries and must end with one line: the command
# that installs them. After that command, all tests must pass with the required coverage.
#
#   test/user.sh     needs root, debootstrap, unshare, the network, and node_modules
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "test/user.sh must run as root, because of debootstrap and chroot." >&2
  exit 1
fi

debian=$(mktemp -d)
trap 'rm -rf --one-file-system "$debian"' EXIT

echo "Unpacking a minimal Debian 12 ..."
debootstrap --variant=minbase bookworm "$debian" >"$debian.log" 2>&1 || { tail -n 20 "$debian.log" >&2; exit 1; }
rm "$debian.log"
chmod 755 "$debian"
echo "127.0.0.1 localhost" >"$debian/etc/hosts"
chroot "$debian" useradd --create-home ana
mkdir "$debian/home/ana/party"
tar -c --exclude=./dist --exclude=./node_modules/.cache --exclude=./.git . | tar -x -C "$debian/home/ana/party"
install -D -m 755 "$(readlink -f node_modules/node-linux-*/bin/node)" "$debian/usr/local/bin/node"
chroot "$debian" chown -R ana:ana /home/ana

# Runs a command inside as this user. The mounts disappear when the command ends.
inside() {
  unshare --mount bash -c '
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    exec env -i HOME="/home/$2" PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      "$0" --userspec="$2:$2" "$1" sh -c "cd /home/ana/party && exec \"\$@\"" sh "${@:3}"' \
    "$(command -v chroot)" "$debian" "$@"
}

if inside ana unshare --map-root-user true 2>/dev/null; then
  echo "The user can create user namespaces." >&2
  exit 1
fi
inside ana node build.mjs
code=0
output=$(inside ana node test/run.ts 2>&1) || code=$?
echo "$output"
command=$(sed -n 's/^Chromium, .* run `\(apt-get .*\)` as root\.$/\1/p' <<<"$output")
if [ "$code" = 0 ] || [ -z "$command" ] || [ "$(wc -l <<<"$output")" != 1 ]; then
  echo "Without the browser's libraries, the tests must end with one line that says how to install them." >&2
  exit 1
fi
inside root sh -c "$command" >"$debian/apt.log" 2>&1 || { tail -n 20 "$debian/apt.log" >&2; exit 1; }
inside ana node test/run.ts
