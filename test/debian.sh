#!/usr/bin/env bash
# Checks that the executable runs on a minimal system and with minimal permissions. Makes a minimal Debian 12 in a
# temporary folder and runs the executable there as root, as nobody, without a network, and as nobody on a read-only
# root file system. Except without a network, it also chats with the program from outside. Then installs the Debian
# package, chats with the program from it, and removes the package.
#
#   test/debian.sh [EXECUTABLE]     needs root, debootstrap, unshare, curl, jq and the network
#
# The package is the file next to the executable whose name also ends in .deb.
set -euo pipefail
cd "$(dirname "$0")/.."

architecture=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
executable=${1:-dist/watch-party-$(jq -r .version package.json)-linux-$architecture}
if [ "$(id -u)" != 0 ]; then
  echo "test/debian.sh has to run as root: debootstrap and chroot need it." >&2
  exit 1
fi

. test/package/talk.sh
debian=$(mktemp -d)
clean_up() {
  end_talk
  rm -rf --one-file-system "$debian" "$debian.before"
}
trap clean_up EXIT

echo "Unpacking a minimal Debian 12 ..."
debootstrap --variant=minbase bookworm "$debian" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
chmod 755 "$debian" # so that the user nobody can enter it
install -m 755 "$executable" "$debian/watch-party"

chroot=$(command -v chroot)
for user in root:root nobody:nogroup; do
  start_program env -i "$chroot" --userspec="$user" "$debian" /watch-party --port 0
  hold_chat
  stop_program
  echo "It runs as $user: page, chat, and exit code 0 on SIGTERM."
done

start_program unshare --net env -i "$chroot" --userspec=nobody:nogroup "$debian" /watch-party --port 0
stop_program
echo "It starts without a network."

# A bind mount in a separate mount namespace makes all of it read-only, /tmp and /dev/shm included. There is no /proc.
start_program unshare --mount bash -c '
  mount --bind "$1" "$1"
  mount -o remount,bind,ro "$1"
  exec env -i "$0" --userspec=nobody:nogroup "$1" /watch-party --port 0' "$chroot" "$debian"
grep -Eq "^Uid:\s+$(id -u nobody)\s" "/proc/$program/status" || { echo "It runs as another user." >&2; exit 1; }
mounts=$(awk '{print $5, substr($6, 1, 3)}' "/proc/$program/mountinfo")
[ "$mounts" = "/ ro," ] || { echo "It sees other file systems: $mounts" >&2; exit 1; }
hold_chat
stop_program
echo "It runs as nobody with all files read-only: page, chat, and exit code 0 on SIGTERM."

list_files() {
  find "$debian" -xdev -not -path "$debian/var/*" | sort
}
list_files >"$debian.before"
cp "$executable.deb" "$debian/var/watch-party.deb"
chroot "$debian" dpkg --install /var/watch-party.deb >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
[ -z "$(chroot "$debian" dpkg --verify watch-party)" ]
start_program env -i "$chroot" --userspec=nobody:nogroup "$debian" /usr/bin/watch-party --port 0
hold_chat
stop_program
unit=usr/lib/systemd/system/watch-party.service
chroot "$debian" dpkg --remove watch-party >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
[ ! -e "$debian/usr/bin/watch-party" ] && [ ! -e "$debian/$unit" ]
chroot "$debian" dpkg --purge watch-party >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
list_files | diff "$debian.before" -
echo "The Debian package: installed, page, chat, removed and purged without a trace."
