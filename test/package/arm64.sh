#!/usr/bin/env bash
# Checks that the executable for ARM runs. On another processor, qemu emulates it, with the C library of Debian's cross
# compilers.
#
#   test/package/arm64.sh [EXECUTABLE]     needs qemu-user-static, libc6-arm64-cross, libstdc++6-arm64-cross, curl, jq
set -euo pipefail
cd "$(dirname "$0")/../.."
executable=${1:-dist/watch-party-$(jq -r .version package.json)-linux-arm64}

. test/package/talk.sh
command=("$executable")
[ "$(uname -m)" = aarch64 ] || command=(qemu-aarch64-static -L /usr/aarch64-linux-gnu "$executable")
start_program "${command[@]}" --port 0
hold_chat
stop_program
echo "It runs on ARM: page, chat, and exit code 0 on SIGTERM."
