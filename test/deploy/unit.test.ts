// deploy/watch-party.service, checked by systemd's tools without running it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../helpers.ts";
import { replaceAll } from "../proxies.ts";

const UNIT = fileURLToPath(new URL("../../deploy/watch-party.service", import.meta.url));

test("systemd rates the unit's exposure below 2.0", () => {
  const report = execFileSync("systemd-analyze", ["security", "--offline=true", "--no-pager", UNIT], {
    encoding: "utf8",
  });
  const exposure = /Overall exposure level for watch-party\.service: (\d+\.\d)/.exec(report)?.[1];
  assert.ok(exposure !== undefined, report);
  assert.ok(Number(exposure) < 2, `the exposure is ${exposure}`);
});

test("systemd finds no problem in the unit", (t) => {
  const folder = temporaryFolder(t);
  // systemd checks that the program exists.
  const unit = replaceAll(readFileSync(UNIT, "utf8"), {
    "ExecStart=/usr/local/bin/watch-party": "ExecStart=/bin/true",
  });
  writeFileSync(`${folder}/watch-party.service`, unit);
  const env = { ...process.env, SYSTEMD_LOG_LEVEL: "warning" };
  const output = execFileSync(
    "sh",
    ["-c", 'systemd-analyze verify --man=no "$1" 2>&1', "sh", `${folder}/watch-party.service`],
    {
      encoding: "utf8",
      env,
    },
  );
  assert.equal(
    output
      .split("\n")
      .filter((line) => line.includes("watch-party"))
      .join("\n"),
    "",
  );
});
