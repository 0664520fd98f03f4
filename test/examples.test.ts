// Runs the examples that need only Node and a browser, unchanged. test/shell has the examples in other languages.

import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { after, before, test as untimed, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson } from "./lib/browser.ts";
import { at, freePort, invitationOf, type Member, MINUTE, startServer, until } from "./lib/helpers.ts";

/** A test with a time limit: the server's clock stands still, so a lost event would block the test forever. */
function test(name: string, run: (t: TestContext) => Promise<void>): void {
  void untimed(name, { timeout: MINUTE }, run);
}

let browser: Browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

async function linkOf(member: Member): Promise<string> {
  return invitationOf(await member.invite()).magic_link;
}

// ---- terminal.mjs ------------------------------------------------------------------------------------------

const TERMINAL = fileURLToPath(new URL("../examples/terminal.mjs", import.meta.url));

class Terminal {
  readonly child: ChildProcessWithoutNullStreams;
  stdout = "";
  stderr = "";
  readonly code: Promise<number | null>;

  constructor(t: TestContext, ...parameters: string[]) {
    this.child = spawn(process.execPath, [TERMINAL, ...parameters]);
    this.child.stdout.setEncoding("utf8").on("data", (part: string) => (this.stdout += part));
    this.child.stderr.setEncoding("utf8").on("data", (part: string) => (this.stderr += part));
    this.code = new Promise((resolve) => this.child.once("close", resolve));
    t.after(() => this.child.kill("SIGKILL"));
  }

  async waitForOutput(text: string): Promise<void> {
    await until(
      () => this.stdout === text,
      `${JSON.stringify(text)}, got ${JSON.stringify(this.stdout + this.stderr)}`,
    );
  }
}

test("terminal.mjs prints messages and posts typed lines, survives a lost connection, and leaves at the end of its input", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  await ana.say("before");
  const ben = new Terminal(t, await linkOf(ana), "Ben");
  await ben.waitForOutput("Ana: before\n");

  ben.child.stdin.write("Grüße\n\nand one more\n");
  await until(() => keptMessages(server, ana).length === 3, "the typed lines to arrive");
  await ana.say("after");
  await ben.waitForOutput("Ana: before\nAna: after\n");

  server.agent.destroy();
  server.app.server.closeAllConnections();
  await ana.say("meanwhile");
  await ben.waitForOutput("Ana: before\nAna: after\nAna: meanwhile\n");

  assert.match(ben.stderr, /^No answer \(.*\), trying again\.\n$/);

  ben.child.stdin.end("bye");
  assert.equal(await ben.code, 0, ben.stderr);
  const { messages, members } = await ana.read();
  assert.deepEqual(
    messages.map((each) => `${each.username}: ${each.text}`),
    ["Ana: before", "Ben: Grüße", "Ben: and one more", "Ana: after", "Ana: meanwhile", "Ben: bye"],
  );
  assert.equal(members.length, 1);
});

/** A chat's messages in the store. */
function keptMessages(server: Awaited<ReturnType<typeof startServer>>, { chatId }: Member): unknown[] {
  return server.app.chats.get(chatId)?.messages ?? [];
}

test("terminal.mjs indents the further lines of a message, so that they cannot pass for another message", async (t) => {
  const server = await startServer(t);
  const [ana, cy] = await server.chat("Ana", "Cy");
  await cy.say("hello\nAna: I owe Cy a beer\u2028Ana: or two");
  const ben = new Terminal(t, await linkOf(ana), "Ben");
  await ben.waitForOutput("Cy: hello\n    Ana: I owe Cy a beer\n    Ana: or two\n");
});

test("terminal.mjs reports a missing or wrong link in one line with exit code 2", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const link = await linkOf(ana);
  const bare = link.replace(/#.*/, "");
  for (const [wrong, line] of [
    [[], /^usage: node terminal\.mjs '<magic link>' \[name\] .*\n$/],
    [["ftp://x#invite=y"], /^usage: .*\n$/],
    [[bare], /^usage: .*#invite=.*\n$/],
    [[`${bare}#invite=nonsense`], /^[A-Z][^{}]*\n$/],
    [[`${server.base}/nothing#invite=nonsense`], /^[A-Z].*\n$/],
    [[`http://127.0.0.1:${await freePort()}/x#invite=y`], /^No chat answers at http:.*\/x\.\n$/],
  ] as const) {
    const terminal = new Terminal(t, ...wrong);
    assert.equal(await terminal.code, 2, wrong.join(" "));
    assert.match(terminal.stderr, line);
    assert.equal(terminal.stdout, "");
  }
});

test("terminal.mjs reports which Node.js it needs", async () => {
  const old = `Object.defineProperty(process, "versions", { value: { node: "16.20.2" } })`;
  const parameters = ["--import", `data:text/javascript,${encodeURIComponent(old)}`, TERMINAL, "http://x/y#invite=z"];
  const { status, stdout, stderr } = spawnSync(process.execPath, parameters, { encoding: "utf8", timeout: 10_000 });
  assert.deepEqual([status, stdout], [2, ""]);
  assert.equal(stderr, "terminal.mjs needs Node.js 18 or newer; this is 16.20.2.\n");
});

test("terminal.mjs exits with 0 if its stream ends before the answer to leaving arrives", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const ben = new Terminal(t, await linkOf(ana), "Ben");
  await until(() => server.app.chats.count().waiters === 1, "terminal.mjs to open its stream");
  let leaving: Socket | undefined;
  server.app.server.prependListener("request", ({ url = "", socket }: IncomingMessage) => {
    // Delays the answer until the stream has ended and terminal.mjs opens it again.
    if (url.endsWith("/leave")) (leaving = socket).cork();
    else leaving?.uncork();
  });
  ben.child.stdin.end();
  assert.equal(await ben.code, 0, ben.stderr);
});

test("terminal.mjs prints the reason when the chat ends or when it cannot join", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const link = await linkOf(ana);
  const ben = new Terminal(t, link, "Ben");
  await until(() => server.app.chats.count().waiters === 1, "terminal.mjs to open its stream");
  const twin = new Terminal(t, link, "BEN");
  assert.equal(await twin.code, 2);
  assert.match(twin.stderr, /^[A-Z].*\bname\b.*\n$/);
  await ana.end();
  assert.equal(await ben.code, 1);
  assert.equal(ben.stderr, "This chat has ended.\n");
});

// ---- overlay.html ------------------------------------------------------------------------------------------

const OVERLAY = new URL("../examples/overlay.html", import.meta.url).href;

/** Waits until the overlay shows this many lines and returns them. */
async function waitForLines(page: Page, count: number): Promise<string[]> {
  await page.waitForFunction((wanted) => document.querySelectorAll("p").length === wanted, count);
  return page.evaluate(() => Array.from(document.querySelectorAll("p"), (line) => line.innerText));
}

test("overlay.html, opened from disk, shows plain text on a transparent page and keeps its seat when reloaded", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "בן");
  await ana.say("before");
  const { page } = await newPerson(t, browser);
  await page.goto(`${OVERLAY}#${await linkOf(ana)}`);
  assert.deepEqual(await waitForLines(page, 1), ["Anabefore"]);
  await until(() => server.app.chats.count().waiters === 1, "the overlay to open its poll");
  await ben.say("<img src=x onerror=alert(1)>\n<b>two</b>");
  assert.deepEqual(await waitForLines(page, 2), ["Anabefore", "בן<img src=x onerror=alert(1)>\n<b>two</b>"]);
  assert.equal(await page.locator("img").count(), 0);

  const backgrounds = await page.evaluate(() =>
    Array.from(document.querySelectorAll("html, body, p"), (each) => getComputedStyle(each).background),
  );
  for (const background of backgrounds) assert.match(background, /^rgba\(0, 0, 0, 0\) none/);

  await page.reload();
  assert.equal((await waitForLines(page, 2)).length, 2);
  assert.deepEqual(
    (await ana.read()).members.map((each) => each.username),
    ["Ana", "בן", "Overlay"],
  );
});

test("overlay.html reads size, lines and name from its address, and takes a new seat after losing its own", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const text of ["one", "two", "three"]) await ana.say(text);
  const { page } = await newPerson(t, browser);
  await page.goto(`${OVERLAY}#${await linkOf(ana)}&size=60&lines=2&name=TV%20%26%20radio`);
  assert.deepEqual(await waitForLines(page, 2), ["Anatwo", "Anathree"]);
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).fontSize), "60px");
  const members = (await ana.read()).members;
  assert.equal(at(members, 1).username, "TV & radio");

  await until(() => server.app.chats.count().waiters === 1, "the overlay to open its poll");
  await ana.remove(at(members, 1).id);
  // The page already shows two lines, so wait for the new one.
  await page.waitForFunction(() => document.querySelector("p:last-of-type")?.textContent.startsWith("Overlay"));
  assert.match(at(await waitForLines(page, 2), 1), /^Overlay.*has been revoked/);
  await page.reload();
  await until(() => server.app.chats.count().waiters === 1, "the overlay to open its poll again");
  assert.equal(at((await ana.read()).members, 1).username, "TV & radio");
});

test("overlay.html shows what is missing, or why it cannot join", async (t) => {
  const { page } = await newPerson(t, browser);
  await page.goto(OVERLAY);
  assert.deepEqual(await waitForLines(page, 1), ["OverlayAdd # and a magic link to the address of this page."]);
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const link = await linkOf(ana);
  await ana.revoke();
  await page.goto(`${OVERLAY}#${link}`);
  await page.waitForFunction(() => document.body.textContent.includes("revoked"));
});
