#!/usr/bin/env bash
# Checks that the executable for ARM runs. On other processors, qemu emulates the program with the C library of Debian's
# cross compilers.
#
#   test/package/arm64.sh [EXECUTABLE]     needs qemu-user-static, libc6-arm64-cross, libstdc++6-arm64-cross, curl, jq
set -euo pipefail
cd "$(dirname "$0")/../.."
executable=${1:-dist/watch-party-$(jq -r .version package.json)-linux-arm64}

. test/package/talk.sh
command=("$executable")
[ "$(uname -m)" = aarch64 ] || command=(qemu-aarch64-static -L /usr/aarch64-linux-gnu "$executable")
start_program "${command[@]}" --port 0
try_chat
stop_program
echo "On ARM: page and chat work, and SIGTERM ends it with exit code 0."
