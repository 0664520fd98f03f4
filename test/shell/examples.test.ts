// Runs the examples that need curl, jq and Python, unchanged.

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { test as untimed, type TestContext } from "node:test";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { generate } from "lean-qr/nano";
import { launchBrowser } from "../lib/browser.ts";
import {
  at,
  freePort,
  invitationOf,
  type Member,
  MINUTE,
  redeemedOf,
  SECOND,
  startServer,
  until,
} from "../lib/helpers.ts";

/** A test with a time limit: the server's clock stands still, so a lost event would block the test forever. */
function test(name: string, run: (t: TestContext) => Promise<void> | void): void {
  void untimed(name, { timeout: MINUTE }, run);
}

const EXAMPLES = fileURLToPath(new URL("../../examples/", import.meta.url));

/** An example in its own process group, as a terminal starts it. It is killed after the test. */
class Example {
  readonly child: ChildProcess;
  stdout = "";
  stderr = "";
  readonly code: Promise<number | null>;

  constructor(t: TestContext, name: string, ...parameters: string[]) {
    this.child = spawn(`${EXAMPLES}${name}`, parameters, { detached: true, stdio: ["ignore", "pipe", "pipe"] });
    this.child.stdout?.setEncoding("utf8").on("data", (part: string) => (this.stdout += part));
    this.child.stderr?.setEncoding("utf8").on("data", (part: string) => (this.stderr += part));
    this.code = new Promise((resolve, reject) => {
      this.child.once("error", reject);
      this.child.once("close", resolve);
    });
    t.after(() => this.child.exitCode === null && this.child.signalCode === null && this.kill("SIGKILL"));
  }

  /** Ctrl-C reaches every process of the group. */
  kill(signal: NodeJS.Signals): void {
    if (this.child.pid !== undefined) process.kill(-this.child.pid, signal);
  }
}

async function linkOf(member: Member): Promise<string> {
  return invitationOf(await member.invite()).magic_link;
}

/** One sentence from the server on a line: no JSON and no message from curl. */
const SENTENCE = /^[A-Z][^\n{}]*[.!?]\n$/;

/** Waits for this many messages of other members after a cursor. Returns them with their authors. */
async function readOthers(ana: Member, since: number, count: number): Promise<string[]> {
  const found: string[] = [];
  for (let cursor = since; found.length < count;) {
    const news = await ana.read(`?since=${cursor}&wait=50`);
    const others = news.messages.filter((each) => each.member_id !== ana.id);
    found.push(...others.map((each) => `${each.username}: ${each.text}`));
    cursor = news.cursor;
  }
  return found;
}

/** Waits until the chat has exactly these members. */
async function waitForMembers(ana: Member, ...names: string[]): Promise<void> {
  for (let news = await ana.read(); ; news = await ana.read(`?since=${news.cursor}&wait=50`)) {
    if (news.members.map((each) => each.username).join() === names.join()) return;
  }
}

test("bot.sh has at most twenty lines of code", () => {
  const lines = readFileSync(`${EXAMPLES}bot.sh`, "utf8").trim().split("\n");
  const code = lines.filter((line) => line !== "" && !line.startsWith("#"));
  assert.ok(code.length <= 20, `${code.length} lines`);
});

for (const [name, ...parameters] of [["bot.sh"], ["bot.py"], ["notify.sh", "true"]] as const) {
  test(`${name} reports a missing or malformed link in one line with exit code 2`, async (t) => {
    for (const wrong of [[], ["nonsense", ...parameters], ["http://127.0.0.1/x", ...parameters]]) {
      const example = new Example(t, name, ...wrong);
      assert.equal(await example.code, 2, wrong.join(" "));
      assert.match(example.stderr, /^usage: .*'<magic link>'.*#invite=.*\n$/);
      assert.equal(example.stdout, "");
    }
  });

  test(`${name} reports in one line why it cannot join with a link`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const link = await linkOf(ana);
    const elsewhere = `http://127.0.0.1:${await freePort()}/x`;
    for (const [wrong, line] of [
      [link.replace(/#.*/, "#invite=nonsense"), SENTENCE],
      [`${elsewhere}#invite=y`, new RegExp(`^No chat answers at ${elsewhere}.*\n$`)],
    ] as const) {
      const example = new Example(t, name, wrong, ...parameters);
      // notify.sh exits with the code of its command.
      assert.equal(await example.code, name === "notify.sh" ? 0 : 2, wrong);
      assert.match(example.stderr, line);
    }
    await ana.revoke();
    const late = new Example(t, name, link, ...parameters);
    await late.code;
    assert.match(late.stderr, SENTENCE);
  });
}

test("bot.sh answers pings, and leaves on Ctrl-C", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  await ana.say("ping");
  const bot = new Example(t, "bot.sh", await linkOf(ana));
  await until(() => server.app.chats.count().waiters === 1, `the bot to open its poll: ${bot.stderr}`);
  const { id } = await ana.say("ping");
  assert.deepEqual(await readOthers(ana, id, 1), ["Bot: pong, Ana"]);
  await ana.say("@/etc/passwd");
  const last = await ana.say("ping");
  assert.deepEqual(await readOthers(ana, last.id, 1), ["Bot: pong, Ana"]);
  assert.equal((await ana.read()).messages.length, 6);
  bot.kill("SIGINT");
  await waitForMembers(ana, "Ana");
  await bot.code;
  assert.equal(bot.stderr, "");
});

test("bot.sh prints the reason and exits with 1 when the chat ends", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const bot = new Example(t, "bot.sh", await linkOf(ana));
  await until(() => server.app.chats.count().waiters === 1, "the bot to open its poll");
  await ana.end();
  assert.equal(await bot.code, 1);
  assert.deepEqual([bot.stdout, bot.stderr], ["", "This chat has ended.\n"]);
});

test("bot.sh prints the reason and exits with 1 when the server stops", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const bot = new Example(t, "bot.sh", await linkOf(ana));
  await until(() => server.app.chats.count().waiters === 1, "the bot to open its poll");
  await server.app.stop();
  assert.equal(await bot.code, 1);
  assert.match(bot.stderr, SENTENCE);
});

test("bot.sh reports a lost connection and exits with 1", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const bot = new Example(t, "bot.sh", await linkOf(ana));
  await until(() => server.app.chats.count().waiters === 1, "the bot to open its poll");
  server.agent.destroy();
  server.app.server.closeAllConnections();
  assert.equal(await bot.code, 1);
  assert.equal(bot.stderr, "The connection to the server was lost.\n");
});

for (const [script, code, how] of [
  ["exit 0", 0, "done"],
  ["exit 7", 7, "failed with exit code 7"],
] as const) {
  test(`notify.sh reports how a command ended (${script}), exits with its code, and leaves`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const { cursor } = await ana.read();
    const command = `printf "$1"; printf err >&2; ${script}`;
    const notify = new Example(t, "notify.sh", await linkOf(ana), "sh", "-c", command, "sh", "a  b");
    assert.equal(await notify.code, code);
    assert.deepEqual([notify.stdout, notify.stderr], ["a  b", "err"]);
    const { messages, members } = await ana.read(`?since=${cursor}`);
    assert.equal(messages.length, 1);
    assert.equal(at(messages, 0).username, "sh");
    assert.match(at(messages, 0).text, new RegExp(`a {2}b on \\S+: ${how} after \\d+ s$`));
    assert.equal(members.length, 1);
  });
}

test("notify.sh runs its command even if its name is taken or the chat is full", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana", "TRUE", "Cy", "Di", "Ed");
  const link = await linkOf(ana);
  const { cursor } = await ana.read();
  const first = new Example(t, "notify.sh", link, "true");
  assert.equal(await first.code, 0);
  assert.match(at(await readOthers(ana, cursor, 1), 0), /^Guest 6: true on \S+: done after \d+ s$/);
  await server.join(ana.chatId, { invite_token: link.split("#invite=")[1] });
  const second = new Example(t, "notify.sh", link, "false");
  assert.equal(await second.code, 1);
  assert.match(second.stderr, SENTENCE);
});

test("notify.sh without a command prints its usage", async (t) => {
  const wrong = new Example(t, "notify.sh", "http://x/y#invite=z");
  assert.notEqual(await wrong.code, 0);
  assert.match(wrong.stderr, /usage: .*notify\.sh '<magic link>' <command>/);
});

test("bot.py answers each message once, despite a lost connection and the rate limit, and leaves on Ctrl-C", async (t) => {
  const log: string[] = [];
  const server = await startServer(t, { log: (line) => log.push(line) });
  const [ana] = await server.chat("Ana");
  const bot = new Example(t, "bot.py", await linkOf(ana), "Würfel");
  await until(() => server.app.chats.count().waiters === 1, `the bot to open its poll: ${bot.stderr}`);

  server.agent.destroy();
  server.app.server.closeAllConnections();
  const { id } = await ana.say("!roll");
  assert.match(at(await readOthers(ana, id, 1), 0), /^Würfel: Ana rolls [1-6]$/);
  assert.match(bot.stderr, /^No answer \(.*\), trying again\.\n$/);

  // The clock stands still, so 19 messages of the burst of 20 are left.
  const { cursor } = await ana.read();
  const creator = server.app.chats.get(ana.chatId)?.creator;
  assert.ok(creator);
  for (let count = 0; count < 21; count += 1) server.app.chats.post(creator, "!roll", undefined);
  await until(() => log.some((line) => line.includes(" 429 ")), "the bot to reach the rate limit");
  server.advanceAndSweep(SECOND);
  // The first 12 of 42 messages are dropped. All of the bot's messages come after them.
  await readOthers(ana, cursor, 21);
  const all = (await ana.read()).messages.filter((each) => each.member_id !== ana.id);
  assert.equal(all.length, 21);

  bot.kill("SIGINT");
  assert.equal(await bot.code, 0, bot.stderr);
  await waitForMembers(ana, "Ana");
});

test("classroom.sh prints a code and a link per chat, and its page shows them with their QR codes", async (t) => {
  const server = await startServer(t);
  const folder = mkdtempSync(join(tmpdir(), "watch-party-classroom-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const { stdout } = await promisify(execFile)(`${EXAMPLES}classroom.sh`, ["3", server.base], { cwd: folder });
  const rows = stdout.trim().split("\n");
  assert.equal(rows.length, 3);
  const file = join(folder, "classroom.html");
  assert.equal(statSync(file).mode & 0o777, 0o600, "the links in it are secret");
  const sections = readFileSync(file, "utf8").split("<section>").slice(1);
  for (const [index, row] of rows.entries()) {
    const [number, code, link = ""] = row.split("\t");
    assert.equal(number, String(index + 1));
    assert.equal(redeemedOf(await server.redeem(code)).magic_link, link);
    const section = at(sections, index);
    assert.ok(section.includes(`<p>${new URL(server.base).host}</p><p><b>${code}</b></p>`));
    const drawn = Array.from(
      section.matchAll(/M(\d+) (\d+)h1v1h-1z/g),
      ([, x, y]) => `${Number(x) - 4} ${Number(y) - 4}`,
    );
    const qr = generate(link);
    const size = Array.from({ length: qr.size }, (_, each) => each);
    const dark = size.flatMap((y) => size.filter((x) => qr.get(x, y)).map((x) => `${x} ${y}`));
    assert.deepEqual(new Set(drawn), new Set(dark));
    assert.ok(section.includes(`viewBox="0 0 ${qr.size + 8} ${qr.size + 8}"`));
  }
});

test("the page of classroom.sh shows one chat per screen, and prints one per page", async (t) => {
  const server = await startServer(t);
  const folder = mkdtempSync(join(tmpdir(), "watch-party-classroom-"));
  t.after(() => rmSync(folder, { recursive: true }));
  await promisify(execFile)(`${EXAMPLES}classroom.sh`, ["3", server.base], { cwd: folder });
  const browser = await launchBrowser();
  t.after(() => browser.close());
  const page = await browser.newPage();
  await page.goto(pathToFileURL(join(folder, "classroom.html")).href);
  for (const [width, height] of [
    [1024, 768],
    [1280, 720],
    [1920, 1080],
    [390, 844],
  ] as const) {
    await page.setViewportSize({ width, height });
    const heights = await page.locator("section").evaluateAll((all) => all.map((each) => each.clientHeight));
    assert.ok(heights.length === 3 && heights.every((each) => each <= height), `${heights.join()} of ${height}`);
  }
  for (const format of ["A4", "Letter"]) {
    for (const landscape of [false, true]) {
      const pdf = (await page.pdf({ format, landscape })).toString("latin1");
      assert.deepEqual(pdf.match(/\/Count \d+/g), ["/Count 3"], format);
    }
  }
});

test("classroom.sh reports a bad number, a missing server and a full server in one line", async (t) => {
  for (const wrong of [[], ["0"], ["two"], ["-1"]]) {
    const example = new Example(t, "classroom.sh", ...wrong);
    assert.equal(await example.code, 2);
    assert.match(example.stderr, /^usage: .*<number of chats>.*\n$/);
  }
  const nobody = new Example(t, "classroom.sh", "1", `http://127.0.0.1:${await freePort()}`);
  assert.equal(await nobody.code, 1);
  assert.match(nobody.stderr, /^No server answers at .*\n$/);
  const server = await startServer(t, { maxChats: 1 });
  await server.chat("Ana");
  const full = new Example(t, "classroom.sh", "1", server.base);
  assert.equal(await full.code, 1);
  assert.match(full.stderr, SENTENCE);
});
