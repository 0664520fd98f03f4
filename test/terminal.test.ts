// What is shown on a terminal, run in one of its own by script(1) and ended by Ctrl+C.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import test from "node:test";
import { stripVTControlCharacters } from "node:util";
import { COMMAND, type Ended, LOCAL, plainEnvironment, Program, SERVER, testInside, until } from "./helpers.ts";

/** What the program shows on a terminal of this width, until it is ended by Ctrl+C, and its exit code. */
async function onTerminal(columns: number, flags: string[], env: NodeJS.ProcessEnv): Promise<Ended> {
  return typeOn(columns, [...COMMAND, ...flags], env, /curl[^\n]*\n/, "\u0003");
}

/** What a command shows on a terminal; where it fits the pattern, a key is pressed. */
async function typeOn(
  columns: number,
  words: string[],
  env: NodeJS.ProcessEnv,
  shown: RegExp,
  key: string,
): Promise<Ended> {
  const command = words.map((word) => `'${word}'`).join(" ");
  const child = spawn("script", ["-qec", `stty cols ${columns} && exec ${command}`, "/dev/null"], {
    env: { ...plainEnvironment(), TERM: "xterm-256color", ...env },
    stdio: ["pipe", "pipe", "inherit"],
  });
  let stdout = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => (stdout += part));
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  await until(() => shown.test(stdout) || child.exitCode !== null, "the print-out");
  child.stdin.write(key);
  return { code: await ended, signal: null, stdout, stderr: "" };
}

/** Reads a QR code of half blocks back into rows of dark (true) and light modules. */
function modulesOf(stdout: string): boolean[][] {
  return stripVTControlCharacters(stdout)
    .split(/\r?\n/)
    .filter((line) => /[\u2580-\u259F]{4}/.test(line))
    .flatMap((line) => {
      const cells = Array.from(line);
      return [cells.map((cell) => !"\u2580\u2588".includes(cell)), cells.map((cell) => !"\u2584\u2588".includes(cell))];
    });
}

const URL_FLAGS = [...LOCAL, "--url", "http://192.168.1.42:8080"];

test("on a terminal a QR code of the first address is shown, and what to do when phones cannot connect", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) takes other flags elsewhere");
  const { code, stdout } = await onTerminal(100, URL_FLAGS, {});
  assert.equal(code, 0);
  const modules = modulesOf(stdout);
  assert.ok(modules.length >= 29, stdout);
  // A finder's middle row stands in three corners: 4 light around, then 1 dark, 1 light, 3 dark, 1 light, 1 dark.
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
  assert.notEqual(stripVTControlCharacters(stdout), stdout, "in colours");
  return undefined;
});

test("the hint about Wi-Fi is left out if only this computer or the whole internet can connect", async (t) => {
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

test("a terminal that is too narrow for it shows no QR code", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) takes other flags elsewhere");
  const { code, stdout } = await onTerminal(30, URL_FLAGS, {});
  assert.equal(code, 0);
  assert.equal(modulesOf(stdout).length, 0);
  assert.match(stdout, /192\.168\.1\.42/);
  return undefined;
});

test("NO_COLOR is respected on a terminal", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) takes other flags elsewhere");
  const { stdout } = await onTerminal(100, URL_FLAGS, { NO_COLOR: "1" });
  assert.equal(stripVTControlCharacters(stdout), stdout);
  assert.ok(modulesOf(stdout).length >= 29);
  return undefined;
});

// Windows itself is not asked here: Node on Linux is told that it runs there.
const WINDOWS = 'Object.defineProperty(process, "platform", { value: "win32" });';
/** No sleep takes any time, and each says how long it would have been. */
const HURRY =
  'process.getBuiltinModule("node:timers/promises").setTimeout = async (ms) => console.log(`sleeps ${ms}`);';

function beforehand(...code: string[]): string[] {
  return [process.execPath, "--import", `data:text/javascript,${encodeURIComponent(code.join(""))}`, SERVER];
}

const BAD = { WATCH_PARTY_PORT: "many" };
const PRESS = /Press any key/;

testInside("on Windows a start that fails in a console of its own waits for a key", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) takes other flags elsewhere");
  const { code, stdout } = await typeOn(80, beforehand(WINDOWS), BAD, PRESS, "x");
  assert.match(stdout, /WATCH_PARTY_PORT needs a number from 0 to 65535, not "many"[^]*\nPress any key/);
  assert.equal(code, 2);
  return undefined;
});

testInside("on Windows a start that fails in a console of its own ends after a minute without a key", async (t) => {
  if (process.platform !== "linux") return t.skip("script(1) takes other flags elsewhere");
  const { code, stdout } = await typeOn(80, beforehand(WINDOWS, HURRY), BAD, PRESS, "");
  assert.match(stdout, /sleeps 60000/);
  assert.equal(code, 2);
  return undefined;
});

for (const [where, words, env] of [
  ["in cmd, which has a prompt", beforehand(WINDOWS), { PROMPT: "$P$G" }],
  ["where flags were typed", [...beforehand(WINDOWS), "--host", "127.0.0.1"], {}],
  ["on another system", COMMAND, {}],
] as const) {
  const choose = words === COMMAND ? test : testInside;
  choose(`a start that fails ${where} ends at once`, async (t) => {
    if (process.platform !== "linux") return t.skip("script(1) takes other flags elsewhere");
    const { code, stdout } = await typeOn(80, [...words], { ...BAD, ...env }, PRESS, "");
    assert.match(stdout, /WATCH_PARTY_PORT needs a number from 0 to 65535, not "many"/);
    assert.doesNotMatch(stdout, PRESS);
    assert.equal(code, 2);
    return undefined;
  });
}
