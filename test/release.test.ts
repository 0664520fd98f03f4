// The version is in one place, the notes of a release come from the changelog, and its manifests from its checksums.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { releaseNotes } from "../docs/notes.ts";
import { plainEnvironment, temporaryFolder } from "./lib/helpers.ts";

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

/** Runs lib/manifests.mjs with these fields in package.json, for a release with these files. Returns what it printed. */
function writeManifests(t: TestContext, fields: object, env: NodeJS.ProcessEnv, names = RELEASED) {
  const folder = temporaryFolder(t);
  for (const name of ["lib", "release"]) mkdirSync(`${folder}/${name}`);
  cpSync(`${ROOT}lib/manifests.mjs`, `${folder}/lib/manifests.mjs`);
  const { repository: _repository, homepage: _homepage, ...others } = JSON.parse(read("package.json"));
  writeFileSync(`${folder}/package.json`, JSON.stringify({ ...others, ...fields }));
  writeFileSync(
    `${folder}/release/SHA256SUMS`,
    names.map((name, index) => `${String(index).repeat(64)}  ${name}\n`).join(""),
  );
  const parameters = ["lib/manifests.mjs", "release", "manifests"];
  const options = { cwd: folder, env: { ...plainEnvironment(), ...env }, encoding: "utf8" } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, parameters, options);
  const texts =
    status === 0
      ? readdirSync(`${folder}/manifests`).map((name) => readFileSync(`${folder}/manifests/${name}`, "utf8"))
      : [];
  return { status, stdout, stderr, text: texts.join("\n"), count: texts.length };
}

const RELEASED = [`watch-party-${VERSION}.cjs`, `watch-party-${VERSION}-windows-x64.zip`];

test("the manifests take the repository from package.json, in each form that npm allows", (t) => {
  const env = { WATCH_PARTY_REPOSITORY: "https://github.com/other/party" };
  for (const repository of [
    "ana/party",
    "github:ana/party",
    "https://github.com/ana/party",
    { type: "git", url: "git+https://github.com/ana/party.git" },
    { type: "git", url: "git+ssh://git@github.com/ana/party.git" },
    { type: "git", url: "git://github.com/ana/party.git" },
  ]) {
    const { stdout, stderr, text, count } = writeManifests(t, { repository }, env);
    assert.deepEqual([stdout, stderr, count], ["", "", 5]);
    assert.ok(text.includes(`"https://github.com/ana/party/releases/download/v${VERSION}/${RELEASED[0]}"`), text);
    assert.deepEqual(new Set(text.match(/github\.com\/\w+/g)), new Set(["github.com/ana"]));
  }
});

test("the manifests take the repository from the environment if package.json has none, and the home page from either", (t) => {
  const env = { WATCH_PARTY_REPOSITORY: "https://github.com/ana/party" };
  const { stdout, text } = writeManifests(t, { homepage: "https://party.example" }, env);
  assert.equal(stdout, "");
  assert.ok(text.includes("https://github.com/ana/party/releases/"));
  assert.equal(text.match(/"https:\/\/party\.example"/g)?.length, 3);
});

test("without a repository, the manifests contain a placeholder, and the build says so", (t) => {
  const { stdout, text } = writeManifests(t, {}, {});
  assert.match(stdout, /placeholder https:\/\/github\.com\/OWNER\/watch-party\b.*WATCH_PARTY_REPOSITORY/);
  assert.ok(text.includes("https://github.com/OWNER/watch-party/releases/"));
});

test("there are no manifests for an invalid repository, nor for a release without the files that they name", (t) => {
  for (const [env, names, reason] of [
    [{ WATCH_PARTY_REPOSITORY: "party" }, RELEASED, "party is not the address of a repository"],
    [{}, RELEASED.slice(0, 1), `does not list ${RELEASED[1]}`],
  ] as const) {
    const { status, stderr } = writeManifests(t, {}, env, [...names]);
    assert.equal(status, 1);
    assert.ok(stderr.includes(reason), stderr);
  }
});

test("the release workflow writes the manifests with the repository's address", () => {
  const workflow = read(".github/workflows/release.yml");
  assert.match(workflow, /WATCH_PARTY_REPOSITORY: \$\{\{ github\.server_url \}\}\/\$\{\{ github\.repository \}\}/);
  assert.match(workflow, /node lib\/manifests\.mjs release manifests\n/);
  assert.match(workflow, /gh release create "\$GITHUB_REF_NAME" release\/\* manifests\/\* /);
});
