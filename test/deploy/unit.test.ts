// The unit file, as far as systemd judges it without running it.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import test, { type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../helpers.ts";

const UNIT = fileURLToPath(new URL("../../deploy/watch-party.service", import.meta.url));

const NODE_UNIT = fileURLToPath(new URL("../../deploy/watch-party@.service", import.meta.url));
const HOSTING = readFileSync(fileURLToPath(new URL("../../docs/hosting.md", import.meta.url)), "utf8");

for (const [name, unit] of [
  ["watch-party.service", UNIT],
  ["watch-party@.service", NODE_UNIT],
]) {
  test(`systemd counts the exposure of ${name} below 2.0`, () => {
    const report = execFileSync("systemd-analyze", ["security", "--offline=true", "--no-pager", String(unit)], {
      encoding: "utf8",
    });
    const exposure = /Overall exposure level for watch-party@?\S*\.service: (\d+\.\d)/.exec(report)?.[1];
    assert.ok(exposure !== undefined, report);
    assert.ok(Number(exposure) < 2, `it is ${exposure}`);
  });
}

test("systemd finds nothing to complain of in the unit, nor in that of a node", (t) => {
  assert.equal(complaints(t, "watch-party.service", UNIT), "");
  assert.equal(complaints(t, "watch-party@a.service", NODE_UNIT), "");
});

test("systemd finds nothing to complain of in what docs/hosting.md adds to the unit", (t) => {
  const additions = Array.from(HOSTING.matchAll(/```ini\n([^]*?)```/g), ([, text = ""]) => text);
  assert.equal(additions.length, 2);
  for (const addition of additions) assert.equal(complaints(t, "watch-party.service", UNIT, addition), "");
});

test("a complaint of systemd is noticed", (t) => {
  assert.match(complaints(t, "watch-party.service", UNIT, "[Service]\nRestartSecs=2\n"), /RestartSecs/);
});

test("a node's unit confines it like the one for a single process, and both start it again alike", () => {
  assert.deepEqual(commonLines(NODE_UNIT), commonLines(UNIT));
  assert.match(readFileSync(NODE_UNIT, "utf8"), /^ExecStart=\/usr\/local\/bin\/watch-party --node %i$/m);
});

test("after a bad flag, which ends the program with 2, the unit starts nothing again; after a crash it waits", () => {
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

/** Returns systemd's complaints about a unit with a drop-in. /bin/true stands for the program, which need not be installed. */
function complaints(t: TestContext, name: string, file: string, addition = ""): string {
  const folder = temporaryFolder(t);
  const unit = readFileSync(file, "utf8").replace("ExecStart=/usr/local/bin/watch-party", "ExecStart=/bin/true");
  writeFileSync(`${folder}/${name}`, unit);
  mkdirSync(`${folder}/${name}.d`);
  writeFileSync(`${folder}/${name}.d/override.conf`, addition);
  const env = { ...process.env, SYSTEMD_LOG_LEVEL: "warning", SYSTEMD_UNIT_PATH: `${folder}:` };
  const command = 'systemd-analyze verify --man=no "$1" 2>&1';
  const said = spawnSync("sh", ["-c", command, "sh", `${folder}/${name}`], { encoding: "utf8", env }).stdout;
  return said
    .split("\n")
    .filter((line) => line.includes("watch-party"))
    .join("\n");
}
