// Runs the tests of this folder: `node test/run.ts`, or only the files named behind it; or with `--executable [FILE]`
// those of the API and the command line against an executable, by default the one that `npm run package` has made for
// this machine.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, globSync, readFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { explainBrowser } from "./browser.ts";
import { executablePath } from "./helpers.ts";

/** What an executable does not take part in. Elsewhere single tests are marked with `testInside`. */
const INSIDE = [
  "api", // docs/api.md
  "client", // the page's functions
  "connection", // the page in a browser, which is the same page
  "page",
  "rates", // what is at once is so by a clock that stands still
  "release", // documents
  "states",
  "docs",
  "develop", // the build and what runs it
  "executable", // is about the executable anyway
  "examples", // what they did is looked at inside
  "expiry", // hours pass
  "openapi", // the document, and what holds answers to it
  "text", // the server's functions
  "work", // counts what a request does
  "workflows", // .github/
];

const root = fileURLToPath(new URL("..", import.meta.url));
const parameters = process.argv.slice(2);
const isExecutable = parameters[0] === "--executable";
const all = globSync("test/*.test.ts", { cwd: root }).map((name) => basename(name, ".test.ts"));
for (const name of INSIDE) assert.ok(all.includes(name), `There is no test/${name}.test.ts.`);

const options = ["--test", "--test-concurrency=2"];
const env = { ...process.env };
if (isExecutable) {
  const file = parameters[1] ?? executablePath();
  assert.ok(existsSync(file), `There is no ${file}: make it with \`npm run package\`.`);
  env["WATCH_PARTY_EXECUTABLE"] = resolve(file);
} else if (parameters.length === 0) {
  options.push("--experimental-test-coverage", "--test-coverage-include=server.ts");
  // Tests of signals and terminals need Linux, so elsewhere what they cover is missing.
  if (process.platform === "linux") options.push("--test-coverage-lines=100", "--test-coverage-branches=95");
}

const files = isExecutable || parameters.length === 0 ? namesOf(isExecutable) : parameters;
for (const file of files) if (!existsSync(resolve(root, file))) fail(`There is no ${file}.`);
// Asked once here, as each of the page's tests would fail for the same reason.
const usesBrowser = files.some((file) => readFileSync(resolve(root, file), "utf8").includes("/browser.ts"));
const problem = usesBrowser ? await explainBrowser() : undefined;
if (problem !== undefined) fail(problem);
process.exitCode =
  spawnSync(process.execPath, [...options, ...files], { cwd: root, env, stdio: "inherit" }).status ?? 1;

function namesOf(onlyExecutable: boolean): string[] {
  const names = onlyExecutable ? all.filter((name) => !INSIDE.includes(name)) : all;
  return names.toSorted().map((name) => `test/${name}.test.ts`);
}

function fail(reason: string): never {
  console.error(reason);
  process.exit(1);
}
