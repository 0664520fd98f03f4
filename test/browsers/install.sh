#!/usr/bin/env bash
# What `npm run test:browsers` needs of Debian: two browsers, a screen for the one that cannot do without, and
# fonts for what people write. This list is the only one.
#
#   test/browsers/install.sh            installs what is missing (as root, or by sudo)
#   test/browsers/install.sh --check    installs nothing; says what is missing, and then fails
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
  echo "These tests need Debian packages that are not here: apt-get install ${missing[*]}" >&2
  exit 1
fi
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
as_root apt-get update
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
