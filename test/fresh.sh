#!/usr/bin/env bash
# Checks that a fresh checkout works with the versions of Node and npm that people have. For each pair, copies the
# checkout, runs `npm ci && npm start`, chats with the server, stops npm, and runs some of the tests. Then starts one of
# the copies on a read-only file system, once built and once not built. Prints a table of the outcomes.
# Also checks that Nodes that are too old for the script dist/watch-party.cjs say so in one sentence.
#
#   test/fresh.sh     needs Linux, npm, curl, jq and the network, and root or sudo to mount
set -euo pipefail
cd "$(dirname "$0")/.."

# Versions of Node with their versions of npm, from Debian 12 and nodejs.org.
PAIRS=("18 9.2.0" "20 10.8.2" "22 10.9.4" "24 11.6.2")
# The oldest one that Ubuntu and Debian still ship to some, and others that people have.
OLD_NODES=(12 14 18 22)

. test/package/talk.sh
scratch=$(mktemp -d)
clean_up() {
  end_talk
  rm -rf --one-file-system "$scratch"
}
trap clean_up EXIT

# Installs Node and npm of these versions into the folder $tools, with nothing else.
install_tools() {
  tools=$scratch/node-$1-npm-$2
  mkdir -p "$tools"
  npm install --prefix "$tools" --loglevel error --no-audit --no-fund "$package@$1" "npm@$2" >"$log"
  ln -s "$tools/node_modules/$package/bin/node" "$tools/node"
  ln -s "$tools/node_modules/npm/bin/npm-cli.js" "$tools/npm"
}
package=node-linux-$(node --print process.arch)

# Stops npm and waits for all processes that it started: the output ends when the last of them has closed it.
stop_npm() {
  kill -TERM "$program"
  timeout 10 cat <&"$output" >/dev/null || { echo "A process of npm start is still running." >&2; return 1; }
  program=
  exec {output}<&-
}

try_pair() {
  install_tools "$1" "$2"
  checkout=$tools/party
  # The first words of every command that runs in the copy.
  fresh=(env --chdir "$checkout" "PATH=$tools:/usr/sbin:/usr/bin:/sbin:/bin")
  mkdir "$checkout"
  tar -c --exclude=./dist --exclude=./node_modules --exclude=./.git . | tar -x -C "$checkout"
  "${fresh[@]}" npm ci --no-audit --no-fund --loglevel error
  start_program "${fresh[@]}" npm start -- --port 0
  hold_chat
  stop_npm
  "${fresh[@]}" npm run test:only -- test/flags.test.ts test/tokens.test.ts >"$log" || { cat "$log" >&2; return 1; }
  outcome="starts, stops, passes tests"
  [ "$1" -le 20 ] || return 0
  local code=0
  "${fresh[@]}" npm run lint >"$log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    outcome+=", lints"
  elif [ "$1" = 18 ] && grep -q '^npm has left out a part of oxlint: run ' "$log"; then
    outcome+=", asks for Node 20 to lint"
  else
    cat "$log" >&2
    return 1
  fi
}

table=()
for pair in "${PAIRS[@]}"; do
  read -r node npm <<<"$pair"
  echo "Node $node with npm $npm ..."
  try_pair "$node" "$npm"
  [ -e "$checkout/node_modules/.bin/node" ] && by="npm's link" || by="the launcher"
  versions=("$("${fresh[@]}" node --version)" "$("${fresh[@]}" npm --version)")
  table+=("$(printf '%-10s %-8s %-14s %s' "${versions[@]}" "$by" "$outcome")")
done

echo "The script with Nodes that are too old ..."
for node in "${OLD_NODES[@]}"; do
  old=$scratch/old-$node
  npm install --prefix "$old" --loglevel error --no-audit --no-fund "$package@$node" >"$log"
  code=0
  "$old/node_modules/$package/bin/node" "$checkout/dist/watch-party.cjs" --version >"$log" 2>&1 || code=$?
  if [ "$code" != 1 ] || ! grep -q "^Watch Party needs Node.js 24 or newer, and this is $node\." "$log" ||
    [ "$(wc -l <"$log")" != 1 ]; then
    echo "Exit code $code with Node $node:" >&2
    cat "$log" >&2
    exit 1
  fi
done

echo "A read-only checkout ..."
read_only=(unshare --mount bash -c '
  mount --bind "$0" "$0"
  mount -o remount,bind,ro "$0"
  exec "$@"' "$checkout" "${fresh[@]}" npm start -- --port 0)
[ "$(id -u)" = 0 ] || read_only=(sudo "${read_only[@]}")
start_program "${read_only[@]}"
hold_chat
stop_npm
rm -r "$checkout/dist"
if "${read_only[@]}" >"$log" 2>&1; then
  echo "It started although it was not built." >&2
  exit 1
fi
if ! grep -q '^dist/texts.ts is missing .* cannot be written (EROFS)\.$' "$log" || grep -q '^ *at ' "$log"; then
  cat "$log" >&2
  exit 1
fi

printf '%-10s %-8s %-14s %s\n' Node npm "Node 24 by" outcome
printf '%s\n' "${table[@]}" "A read-only checkout starts if it is built, and otherwise reports what is missing." \
  "The script reports Node ${OLD_NODES[*]} in one sentence."
