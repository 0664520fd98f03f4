// Runs the tests of this folder: all of them (`node test/run.ts`), or the files given as arguments. With
// `--executable [FILE]` it runs the tests of the API and the command line against an executable, by default the one that
// `npm run package` makes for this machine.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, globSync, readFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { explainBrowser } from "./lib/browser.ts";
import { executablePath } from "./lib/helpers.ts";

/**
 * Files that a run against an executable leaves out, besides those of the page, which is the same for both. In other files,
 * `testInProcess` marks single tests.
 */
const IN_PROCESS = [
  "addresses", // functions of lib/
  "client", // the page's functions
  "rates", // bursts need a clock that stands still
  "release", // the version and the changelog
  "docs",
  "develop", // the build and what runs it
  "executable", // always tests the executable
  "examples", // reads the store
  "expiry", // moves the clock by hours
  "openapi", // the document and the check of answers
  "text", // the server's functions
  "languages", // the page in each language
  "hot-path", // counts calls of functions
  "workflows", // .github/
];

const root = fileURLToPath(new URL("..", import.meta.url));
const parameters = process.argv.slice(2);
const isExecutable = parameters[0] === "--executable";
const all = globSync("test/*.test.ts", { cwd: root }).map((name) => basename(name, ".test.ts"));
for (const name of IN_PROCESS) assert.ok(all.includes(name), `There is no test/${name}.test.ts.`);

// Three at a time, also on two cores: the tests of the page mostly wait.
const options = ["--test", "--test-concurrency=3"];
const env = { ...process.env };
if (isExecutable) {
  const file = parameters[1] ?? executablePath();
  assert.ok(existsSync(file), `There is no ${file}: make it with \`npm run package\`.`);
  env["WATCH_PARTY_EXECUTABLE"] = resolve(file);
} else if (parameters.length === 0) {
  options.push("--experimental-test-coverage", "--test-coverage-include=server.ts", "--test-coverage-include=lib/*.ts");
  // The tests of signals and terminals need Linux, so other systems cannot reach this coverage.
  if (process.platform === "linux") options.push("--test-coverage-lines=100", "--test-coverage-branches=95");
}

// Each test file and each started program loads the same modules. This keeps what V8 made of them.
if (!isExecutable) env["NODE_COMPILE_CACHE"] = resolve(root, "node_modules/.cache/compiled");

const files = isExecutable || parameters.length === 0 ? namesOf(isExecutable) : parameters;
for (const file of files) if (!existsSync(resolve(root, file))) fail(`There is no ${file}.`);
// Checked once here, because each test of the page would fail for the same reason.
const usesBrowser = files.some((file) => readFileSync(resolve(root, file), "utf8").includes("/browser.ts"));
const problem = usesBrowser ? await explainBrowser() : undefined;
if (problem !== undefined) fail(problem);
process.exitCode =
  spawnSync(process.execPath, [...options, ...files], { cwd: root, env, stdio: "inherit" }).status ?? 1;

function namesOf(onlyExecutable: boolean): string[] {
  const names = onlyExecutable ? all.filter((name) => !/^page\b/.test(name) && !IN_PROCESS.includes(name)) : all;
  return names.toSorted().map((name) => `test/${name}.test.ts`);
}

function fail(reason: string): never {
  console.error(reason);
  process.exit(1);
}
