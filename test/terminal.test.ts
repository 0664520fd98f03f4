// The program on a terminal. script(1) provides the terminal and Ctrl+C ends the program.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import test from "node:test";
import { stripVTControlCharacters } from "node:util";
import {
  COMMAND,
  type ProcessResult,
  LOCAL,
  modulesOf,
  plainEnvironment,
  Program,
  SERVER,
  testInProcess,
  until,
} from "./lib/helpers.ts";

/** Runs the program on a terminal of this width and ends it with Ctrl+C. Returns its output and exit code. */
async function runOnTerminal(columns: number, flags: string[], env: NodeJS.ProcessEnv): Promise<ProcessResult> {
  return runAndPressKey(columns, [...COMMAND, ...flags], env, /curl[^\n]*\n/, "\u0003");
}

/** Runs a command on a terminal, and presses a key when its output matches the pattern. */
async function runAndPressKey(
  columns: number,
  words: string[],
  env: NodeJS.ProcessEnv,
  pattern: RegExp,
  key: string,
): Promise<ProcessResult> {
  const command = words.map((word) => `'${word}'`).join(" ");
  const child = spawn("script", ["-qec", `stty cols ${columns} && exec ${command}`, "/dev/null"], {
    env: { ...plainEnvironment(), TERM: "xterm-256color", ...env },
    stdio: ["pipe", "pipe", "inherit"],
  });
  let stdout = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => (stdout += part));
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  await until(() => pattern.test(stdout) || child.exitCode !== null, `${pattern} on the terminal`);
  child.stdin.write(key);
  return { code: await ended, signal: null, stdout, stderr: "" };
}

const URL_FLAGS = [...LOCAL, "--url", "http://192.168.1.42:8080"];

test("a terminal shows a QR code of the first address, and what to try if phones cannot connect", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) has other flags on other systems");
  const { code, stdout } = await runOnTerminal(100, URL_FLAGS, {});
  assert.equal(code, 0);
  const modules = modulesOf(stdout);
  assert.ok(modules.length >= 29, stdout);
  // After 4 light modules, a finder's middle row is 1 dark, 1 light, 3 dark, 1 light, 1 dark. Three corners have one.
  const quiet = 4;
  const finder = [true, false, true, true, true, false, true];
  assert.deepEqual(modules[quiet + 3]?.slice(quiet, quiet + 7), finder);
  assert.deepEqual(modules[quiet + 3]?.slice(-quiet - 7, -quiet), finder);
  assert.ok(
    modules
      .slice(0, quiet)
      .flat()
      .every((isDark) => !isDark),
  );
  assert.match(stdout, /Scan this to open http:\/\/192\.168\.1\.42/);
  assert.match(stdout, /Wi-Fi/);
  assert.match(stdout, /guest/);
  assert.match(stdout, /firewall/);
  assert.match(stdout, /VPN/);
  assert.match(stdout, /local network/);
  assert.notEqual(stripVTControlCharacters(stdout), stdout, "the output has colours");
  return undefined;
});

test("the Wi-Fi hint is left out if only this computer, or the whole internet, can connect", async (t) => {
  for (const [flags, isShown] of [
    [["--url", "http://192.168.1.42"], true],
    [["--url", "https://chat.example.org"], false],
    [[], false],
  ] as const) {
    const program = await Program.start(t, [...LOCAL, ...flags]);
    assert.equal(/Wi-Fi|firewall/.test(program.stdout), isShown, program.stdout);
    await program.stop();
  }
});

test("a terminal that is too narrow shows no QR code", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) has other flags on other systems");
  const { code, stdout } = await runOnTerminal(30, URL_FLAGS, {});
  assert.equal(code, 0);
  assert.equal(modulesOf(stdout).length, 0);
  assert.match(stdout, /192\.168\.1\.42/);
  return undefined;
});

test("NO_COLOR turns off colours on a terminal", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) has other flags on other systems");
  const { stdout } = await runOnTerminal(100, URL_FLAGS, { NO_COLOR: "1" });
  assert.equal(stripVTControlCharacters(stdout), stdout);
  assert.ok(modulesOf(stdout).length >= 29);
  return undefined;
});

// Simulates Windows: Node on Linux reports that it runs on Windows.
const WINDOWS = 'Object.defineProperty(process, "platform", { value: "win32" });';
/** Every sleep returns at once and prints how long it would have lasted. */
const SKIP_SLEEPS =
  'process.getBuiltinModule("node:timers/promises").setTimeout = async (ms) => console.log(`sleeps ${ms}`);';

/** The command that runs the program after this code. */
function withPreload(...code: string[]): string[] {
  return [process.execPath, "--import", `data:text/javascript,${encodeURIComponent(code.join(""))}`, SERVER];
}

const BAD = { WATCH_PARTY_PORT: "many" };
const PRESS = /Press any key/;

testInProcess("on Windows, a failed start in its own console waits for a key", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) has other flags on other systems");
  const { code, stdout } = await runAndPressKey(80, withPreload(WINDOWS), BAD, PRESS, "x");
  assert.match(stdout, /WATCH_PARTY_PORT needs a number from 0 to 65535, not "many"[^]*\nPress any key/);
  assert.equal(code, 2);
  return undefined;
});

testInProcess("on Windows, a failed start in its own console exits after a minute without a key", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) has other flags on other systems");
  const { code, stdout } = await runAndPressKey(80, withPreload(WINDOWS, SKIP_SLEEPS), BAD, PRESS, "");
  assert.match(stdout, /sleeps 60000/);
  assert.equal(code, 2);
  return undefined;
});

for (const [where, words, env] of [
  ["in cmd, which has a prompt", withPreload(WINDOWS), { PROMPT: "$P$G" }],
  ["with flags", [...withPreload(WINDOWS), "--host", "127.0.0.1"], {}],
  ["on another system", COMMAND, {}],
] as const) {
  const choose = words === COMMAND ? test : testInProcess;
  choose(`a failed start ${where} exits at once`, async (t) => {
    if (process.platform !== "linux") return t.skip("script(1) has other flags on other systems");
    const { code, stdout } = await runAndPressKey(80, [...words], { ...BAD, ...env }, PRESS, "");
    assert.match(stdout, /WATCH_PARTY_PORT needs a number from 0 to 65535, not "many"/);
    assert.doesNotMatch(stdout, PRESS);
    assert.equal(code, 2);
    return undefined;
  });
}
