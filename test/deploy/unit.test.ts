// The systemd units of deploy/, checked by systemd's tools without running them.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import test, { type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../lib/helpers.ts";

const UNIT = fileURLToPath(new URL("../../deploy/watch-party.service", import.meta.url));

const NODE_UNIT = fileURLToPath(new URL("../../deploy/watch-party@.service", import.meta.url));
const HOSTING = readFileSync(fileURLToPath(new URL("../../docs/hosting.md", import.meta.url)), "utf8");

for (const [name, unit] of [
  ["watch-party.service", UNIT],
  ["watch-party@.service", NODE_UNIT],
]) {
  test(`systemd rates the exposure of ${name} below 2.0`, () => {
    const report = execFileSync("systemd-analyze", ["security", "--offline=true", "--no-pager", String(unit)], {
      encoding: "utf8",
    });
    const exposure = /Overall exposure level for watch-party@?\S*\.service: (\d+\.\d)/.exec(report)?.[1];
    assert.ok(exposure !== undefined, report);
    assert.ok(Number(exposure) < 2, `the exposure is ${exposure}`);
  });
}

test("systemd finds no problem in the units", (t) => {
  assert.equal(findProblems(t, "watch-party.service", UNIT), "");
  assert.equal(findProblems(t, "watch-party@a.service", NODE_UNIT), "");
});

test("systemd finds no problem in the additions of docs/hosting.md", (t) => {
  const additions = Array.from(HOSTING.matchAll(/```ini\n([^]*?)```/g), ([, text = ""]) => text);
  assert.equal(additions.length, 2);
  for (const addition of additions) assert.equal(findProblems(t, "watch-party.service", UNIT, addition), "");
});

test("the check detects a problem that systemd reports", (t) => {
  assert.match(findProblems(t, "watch-party.service", UNIT, "[Service]\nRestartSecs=2\n"), /RestartSecs/);
});

test("the unit of a node has the same restrictions and restart rules as the unit of a single process", () => {
  assert.deepEqual(commonLines(NODE_UNIT), commonLines(UNIT));
  assert.match(readFileSync(NODE_UNIT, "utf8"), /^ExecStart=\/usr\/local\/bin\/watch-party --node %i$/m);
});

test("the unit does not restart the program after a bad flag, which exits with 2, and waits after a crash", () => {
  const unit = readFileSync(UNIT, "utf8");
  assert.match(unit, /^RestartPreventExitStatus=2$/m);
  assert.match(unit, /^RestartSec=[1-9]\d*$/m);
  const environment = { ...process.env, WATCH_PARTY_PORT: "none" };
  const { status } = spawnSync(process.execPath, [fileURLToPath(new URL("../../dist/server.cjs", import.meta.url))], {
    env: environment,
  });
  assert.equal(status, 2);
});

/** The lines of a unit, except those that name its program and its variables. */
function commonLines(file: string): string[] {
  const lines = readFileSync(file, "utf8").split("\n");
  return lines.filter((line) => !/^(#|Description=|ExecStart=|Environment|$)/.test(line));
}

/** Returns the problems that systemd reports in a unit with a drop-in. /bin/true replaces the program, which may be missing. */
function findProblems(t: TestContext, name: string, file: string, addition = ""): string {
  const folder = temporaryFolder(t);
  const unit = readFileSync(file, "utf8").replace("ExecStart=/usr/local/bin/watch-party", "ExecStart=/bin/true");
  writeFileSync(`${folder}/${name}`, unit);
  mkdirSync(`${folder}/${name}.d`);
  writeFileSync(`${folder}/${name}.d/override.conf`, addition);
  const env = { ...process.env, SYSTEMD_LOG_LEVEL: "warning", SYSTEMD_UNIT_PATH: `${folder}:` };
  const command = 'systemd-analyze verify --man=no "$1" 2>&1';
  const output = spawnSync("sh", ["-c", command, "sh", `${folder}/${name}`], { encoding: "utf8", env }).stdout;
  return output
    .split("\n")
    .filter((line) => line.includes("watch-party"))
    .join("\n");
}
