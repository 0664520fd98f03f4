#!/usr/bin/env bash
# Installs the Debian packages for `npm run test:browsers`: two browsers, a virtual screen for the one that needs it,
# and fonts for many scripts. No other file lists these packages.
#
#   test/browsers/install.sh            installs the missing packages (as root, or with sudo)
#   test/browsers/install.sh --check    installs nothing, and fails with a list of the missing packages
set -euo pipefail

packages=(
  firefox-esr
  webkit2gtk-driver
  xvfb
  fonts-noto-core
  fonts-noto-cjk
  fonts-noto-color-emoji
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "${1:-}" = --check ]; then
  echo "These tests need missing Debian packages. Run: apt-get install ${missing[*]}" >&2
  exit 1
fi
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
as_root apt-get update
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
