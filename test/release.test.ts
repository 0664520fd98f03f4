// The version is in one place, and the notes of a release come from the changelog.

import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { releaseNotes } from "../docs/notes.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const read = (name: string): string => readFileSync(`${ROOT}${name}`, "utf8").replaceAll("\r\n", "\n");

const CHANGELOG = read("CHANGELOG.md");
const VERSION = String(Reflect.get(Object(JSON.parse(read("package.json"))), "version"));

test("only the changelog contains the version, and no document names the file of an older release", () => {
  const patterns = ["*.md", "deploy/*", "docs/*", "examples/*"];
  const paths = globSync(patterns, { cwd: ROOT }).map((path) => path.replaceAll("\\", "/"));
  const names = paths.filter((path) => !/\.(png|svg)$/.test(path));
  assert.ok(names.includes("README.md") && names.includes("docs/hosting.md"), names.join());
  for (const name of names.filter((each) => each !== "CHANGELOG.md")) {
    const text = read(name);
    assert.ok(!text.includes(VERSION), `${name} contains ${VERSION}`);
    assert.doesNotMatch(text, /watch-party[-:@ ]v?\d+\.\d+/, name);
  }
});

test("the lockfile has the version of package.json", () => {
  const lock: { version?: string; packages?: Record<string, { version?: string }> } = JSON.parse(
    read("package-lock.json"),
  );
  assert.deepEqual([lock.version, lock.packages?.[""]?.version], [VERSION, VERSION]);
});

test("the changelog has Unreleased, then dated versions from new to old, with the usual headings", () => {
  const headings = Array.from(CHANGELOG.matchAll(/^## (.*)$/gm), ([, heading = ""]) => heading);
  assert.equal(headings[0], "[Unreleased]");
  const dates = headings.slice(1).map((heading) => /^\[\d+\.\d+\.\d+\] - (\d{4}-\d{2}-\d{2})$/.exec(heading)?.[1]);
  assert.ok(dates.length > 0 && dates.every((date) => date !== undefined), headings.join("; "));
  assert.deepEqual(dates, dates.toSorted().toReversed());
  for (const [, kind] of CHANGELOG.matchAll(/^### (.*)$/gm)) {
    assert.match(String(kind), /^(Added|Changed|Deprecated|Removed|Fixed|Security)$/);
  }
});

const EXAMPLE =
  "# Changelog\n\n## [Unreleased]\n\n## [1.1.0] - 2027-02-03\n\n### Added\n\n- A hat.\n\n## [1.0.0]\n\n- Old.\n";

test("the notes of a release are its section of the changelog without the heading", () => {
  assert.equal(releaseNotes(EXAMPLE, "1.1.0"), "### Added\n\n- A hat.\n");
  assert.match(releaseNotes(CHANGELOG, "0.1.0"), /^### Added\n\n- [^]*\.\n$/);
});

test("a version that is missing from the changelog, undated or empty has no notes", () => {
  assert.throws(() => releaseNotes(EXAMPLE, "1.2.0"), /no section \[1\.2\.0\]/);
  assert.throws(() => releaseNotes(EXAMPLE, "1.0.0"), /must have a date/);
  assert.throws(() => releaseNotes("## [2.0.0] - 2027-01-01\n\n## [1.0.0]", "2.0.0"), /nothing under \[2\.0\.0\]/);
});

test("the release workflow takes its notes from the changelog", () => {
  const workflow = read(".github/workflows/release.yml");
  assert.match(workflow, /node docs\/notes\.ts "\$\{GITHUB_REF_NAME#v\}" >notes\.md/);
  assert.match(workflow, /--notes-file notes\.md/);
});
