#!/usr/bin/env bash
# Checks that the executable needs no libraries and no permissions. Makes a minimal Debian 12 in a temporary folder and
# runs the executable there three times: as root, as nobody, and as nobody on a read-only root file system. Each time
# it tries a chat from outside and stops the program. It also starts the program without a network.
#
#   test/debian.sh [EXECUTABLE]     needs root, debootstrap, unshare, curl, jq and the network
set -euo pipefail
cd "$(dirname "$0")/.."

architecture=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
executable=${1:-dist/watch-party-$(jq -r .version package.json)-linux-$architecture}
if [ "$(id -u)" != 0 ]; then
  echo "test/debian.sh must run as root, because of debootstrap and chroot." >&2
  exit 1
fi

. test/package/talk.sh
debian=$(mktemp -d)
clean_up() {
  end_talk
  rm -rf --one-file-system "$debian"
}
trap clean_up EXIT

echo "Unpacking a minimal Debian 12 ..."
debootstrap --variant=minbase bookworm "$debian" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
chmod 755 "$debian" # the user nobody needs access too
install -m 755 "$executable" "$debian/watch-party"

chroot=$(command -v chroot)
for user in root:root nobody:nogroup; do
  start_program env -i "$chroot" --userspec="$user" "$debian" /watch-party --port 0
  try_chat
  stop_program
  echo "As $user: page and chat work, and SIGTERM ends it with exit code 0."
done

start_program unshare --net env -i "$chroot" --userspec=nobody:nogroup "$debian" /watch-party --port 0
stop_program
echo "It starts without a network."

# Everything is read-only, including /tmp and /dev/shm, and there is no /proc: a bind mount in its own mount namespace.
start_program unshare --mount bash -c '
  mount --bind "$1" "$1"
  mount -o remount,bind,ro "$1"
  exec env -i "$0" --userspec=nobody:nogroup "$1" /watch-party --port 0' "$chroot" "$debian"
grep -Eq "^Uid:\s+$(id -u nobody)\s" "/proc/$program/status" || { echo "It runs as another user." >&2; exit 1; }
mounts=$(awk '{print $5, substr($6, 1, 3)}' "/proc/$program/mountinfo")
[ "$mounts" = "/ ro," ] || { echo "It sees other file systems: $mounts" >&2; exit 1; }
try_chat
stop_program
echo "As nobody with all files read-only: page and chat work, and SIGTERM ends it with exit code 0."
