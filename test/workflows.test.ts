// .github/: every action is pinned by commit hash, because a tag can move to other code.

import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const WORKFLOWS = globSync(".github/workflows/*", { cwd: ROOT });

test("every workflow pins its actions by full commit hash, with the version as a comment", () => {
  const uses = WORKFLOWS.flatMap((file) => {
    const lines = readFileSync(`${ROOT}${file}`, "utf8").split("\n");
    return lines.filter((line) => /^\s*(?:-\s+)?uses:/.test(line)).map((line) => ({ file, line: line.trim() }));
  });
  assert.ok(uses.length >= 7, `${uses.length} in ${WORKFLOWS.join(", ")}`);
  for (const { file, line } of uses) {
    assert.match(line, /uses: [\w-]+\/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, file);
  }
});

test("an action has the same hash in all workflows", () => {
  const pins = new Map<string, string>();
  for (const file of WORKFLOWS) {
    for (const [, action = "", pin = ""] of readFileSync(`${ROOT}${file}`, "utf8").matchAll(/uses: (\S+)@(.+)/g)) {
      assert.equal(pins.get(action) ?? pin, pin, `${action} in ${file}`);
      pins.set(action, pin);
    }
  }
});

test("Dependabot updates the actions and every folder with npm packages", () => {
  const config = readFileSync(`${ROOT}.github/dependabot.yml`, "utf8");
  assert.match(config, /package-ecosystem: github-actions\n\s+directory: \/\n/);
  const folders: unknown = JSON.parse(/package-ecosystem: npm\n\s+directories: (\[.*\])\n/.exec(config)?.[1] ?? "[]");
  const locks = globSync("**/package-lock.json", { cwd: ROOT, exclude: ["**/node_modules", "dist"] });
  const wanted = locks.map((file) => `/${file.replaceAll("\\", "/").replace(/\/?package-lock\.json$/, "")}`);
  assert.ok(wanted.includes("/"));
  assert.deepEqual(folders, wanted.toSorted());
});
