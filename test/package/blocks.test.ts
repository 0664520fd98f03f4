// Runs the shell blocks of README.md and docs/hosting.md unchanged and in order, in sh and in zsh. A folder with the files
// of dist/ replaces the downloads from the release page.
//
// Each section runs in new namespaces. Port 8080 is free there, `sudo` is allowed, and files installed into /etc and
// /usr/local/bin disappear afterwards. Only the blocks for a clone have the network, because `npm ci` needs it.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { MINUTE, plainEnvironment, temporaryFolder } from "../lib/helpers.ts";
import { isPartOf, NOT_RUN, type Place, readBlocks, SECTIONS } from "./blocks.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const DIST = `${ROOT}dist/`;
const DOCUMENTS = ["README.md", "docs/hosting.md"] as const;

/** Replacements for commands that a test cannot run or does not have. */
const STAND_INS: Readonly<Record<string, string>> = {
  sudo: 'exec "$@"',
  // No systemd runs here. The stand-in checks everything that the unit needs to start.
  systemctl: `
case $1 in
  daemon-reload) exit ;;
  enable) [ "$2" = --now ] && shift 2 ;;
  restart) shift ;;
  *) echo "systemctl: no stand-in for $1" >&2; exit 1 ;;
esac
for unit; do
  case $unit in *@*) grep -q '^WATCH_PARTY_PORT=[0-9]*$' "/etc/watch-party-\${unit#*@}.env" || exit ;; esac
  output=$(systemd-analyze verify --man=no "$unit.service" 2>&1) && ! printf %s "$output" | grep "^[^:]*$unit\\|watch-party" >&2 || exit 1
done`,
  make: 'echo "make $*"',
};

test("every shell block of README.md and docs/hosting.md runs, or is listed with a reason", () => {
  const blocks = DOCUMENTS.flatMap(readBlocks);
  assert.ok(blocks.length > 8, `${blocks.length} blocks`);
  for (const block of blocks) {
    const count = SECTIONS.filter((section) => isPartOf(block, section)).length;
    const isListed = (block.lines[0] ?? "") in NOT_RUN;
    assert.equal(count, isListed ? 0 : 1, `${block.document}, ${block.heading}: ${block.lines.join("; ")}`);
  }
  const first = new Set(blocks.map(({ lines }) => lines[0]));
  for (const line of Object.keys(NOT_RUN)) assert.ok(first.has(line), `no block starts with: ${line}`);
});

for (const shell of ["sh", "zsh"]) {
  for (const { document, heading, place } of SECTIONS) {
    test(`in ${shell}, the blocks of ${document}, ${heading}, work unchanged (${place})`, (t) => {
      const command = [process.execPath, `${ROOT}test/package/blocks.ts`, shell, document, heading, place];
      const isolated = ["unshare", "--map-root-user", "--mount", "--net", "sh", "-ec", ISOLATE, temporaryFolder(t)];
      const [file = "", ...parameters] = place === "clone" ? command : [...isolated, ...command];
      const options = {
        cwd: makeFolder(t, place),
        env: environment(t),
        timeout: 5 * MINUTE,
        encoding: "utf8",
      } as const;
      const run = spawnSync(file, parameters, options);
      assert.equal(run.status, 0, `${run.stdout}${run.stderr}`);
      t.diagnostic(run.stdout);
    });
  }
}

/** Enables the loopback interface and mounts temporary folders over those that a block writes to. */
const ISOLATE = `
ip link set lo up
mount -t tmpfs none "$0"
mkdir "$0/upper" "$0/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/upper,workdir=$0/work" /etc
mount -t tmpfs none /usr/local/bin
exec "$@"`;

/** Makes the folder in which a reader runs the blocks. */
function makeFolder(t: TestContext, place: Place): string {
  const folder = temporaryFolder(t);
  if (place === "clone") {
    const files = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: ROOT });
    for (const name of files.toString().split("\0").filter(Boolean)) cpSync(`${ROOT}${name}`, `${folder}/${name}`);
    return folder;
  }
  const own = new RegExp(`-linux-${process.arch}(\\.tar\\.gz)?$|^SHA256SUMS$|^watch-party-.*\\.cjs$`);
  for (const name of readdirSync(DIST).filter((each) => own.test(each))) {
    copyFileSync(`${DIST}${name}`, `${folder}/${name}`);
    chmodSync(`${folder}/${name}`, 0o644);
  }
  if (place === "downloads") return folder;
  execFileSync("sh", ["-c", "tar -xzf *.tar.gz"], { cwd: folder });
  return execFileSync("sh", ["-c", 'printf %s "$PWD"/watch-party-*/'], { cwd: folder, encoding: "utf8" });
}

/** An environment in which PATH starts with the stand-ins, and curl exits with an error for an error status. */
function environment(t: TestContext): NodeJS.ProcessEnv {
  const folder = temporaryFolder(t);
  mkdirSync(`${folder}/bin`);
  for (const [name, script] of Object.entries(STAND_INS)) {
    writeFileSync(`${folder}/bin/${name}`, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }
  writeFileSync(`${folder}/.curlrc`, "fail\nshow-error\n");
  const env = Object.entries(plainEnvironment()).filter(
    ([name]) => !/^(NODE_OPTIONS|NODE_TEST|NODE_V8|npm_)/.test(name),
  );
  const path = `${folder}/bin:${process.env["PATH"]}:/usr/sbin:/sbin`;
  return { ...Object.fromEntries(env), CURL_HOME: folder, PATH: path };
}
