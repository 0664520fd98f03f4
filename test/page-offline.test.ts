// The page in a real browser when something around it fails: the network is down, the computer sleeps, a phone freezes
// the tab or covers part of it with the keyboard, the browser stores nothing.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { after as afterAll, before as beforeAll, test, type TestContext } from "node:test";
import type { Browser, Page } from "playwright-core";
import type { PollReply, Session } from "../server.ts";
import { launchBrowser, newPerson, startSite, type TestSite, toLocal } from "./lib/browser.ts";
import { until } from "./lib/helpers.ts";
import {
  call,
  join,
  joinByApi,
  PHONE,
  postByApi,
  readInviteLink,
  readTextsByApi,
  sendMessage,
  setVisible,
  start,
  startChatWithJonas,
  waitForLog,
  waitForMessages,
  waitForNotice,
  waitForUnsent,
} from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

// ---------------------------------------------------------------------------------------------------------
// A network that fails.

/** A TCP proxy between the browser and the server, which fails on demand. */
interface FaultyProxy {
  /** The server's address through the proxy. */
  origin: string;
  /** Ends all connections and refuses new ones. */
  cut(): void;
  restore(): void;
  /** Cuts the connections once the server has received a POST, so that its answer is lost. */
  cutBeforeReply(): void;
  /** Drops the answers to all waiting polls but keeps the connections open, as when a computer has slept. */
  stall(): void;
}

async function startFaultyProxy(t: TestContext, { port }: TestSite): Promise<FaultyProxy> {
  let isCut = false;
  let losesReplies = false;
  let hasPosted = false;
  const polls = new Set<Socket>();
  const sockets = new Set<Socket>();
  const cut = () => {
    isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  const server = createServer((near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = connect(port, "127.0.0.1");
    near.on("data", (chunk) => {
      if (losesReplies) hasPosted ||= chunk.includes("POST /");
      if (chunk.includes("&wait=25")) polls.add(far);
      far.write(chunk);
    });
    far.on("data", (chunk) => {
      polls.delete(far);
      // The first data is the answer to the POST, or to a poll that returns the new message. Both are dropped.
      if (hasPosted) cut();
      else near.write(chunk);
    });
    for (const [socket, other] of [[near, far] as const, [far, near] as const]) {
      sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    cut();
    server.close();
  });
  const address = server.address();
  assert.ok(typeof address === "object" && address);
  return {
    origin: `http://party.test:${address.port}`,
    cut,
    restore: () => {
      isCut = losesReplies = hasPosted = false;
    },
    cutBeforeReply: () => {
      losesReplies = true;
    },
    stall: () => polls.forEach((far) => far.removeAllListeners("data").pause()),
  };
}

/** Opens Ana's page in a new chat, through a proxy. Jonas joins the chat through the API, without the proxy. */
async function startChatBehindProxy(
  t: TestContext,
  prepare?: (page: Page) => Promise<unknown>,
): Promise<{ site: TestSite; page: Page; jonas: Session; proxy: FaultyProxy }> {
  const site = await startSite(t);
  const proxy = await startFaultyProxy(t, site);
  const { page } = await newPerson(t, browser);
  // The page waits for a random time after a failure. This makes it short.
  await page.addInitScript(() => {
    Math.random = () => 0.05;
  });
  await prepare?.(page);
  const jonas = await joinByApi(site, await start(page, proxy), "Jonas");
  await page.getByRole("heading", { name: "Jonas" }).waitFor();
  return { site, page, jonas, proxy };
}

/** Waits until this many polls are waiting on the server. */
async function waitForPolls({ app }: TestSite, count: number): Promise<void> {
  await until(() => app.chats.count().waiters === count, `${count} waiting polls`);
}

const offlineBanner = (page: Page) => page.getByRole("status").filter({ hasText: "Connection lost" });

test("a connection lost while sending loses no message, posts none twice and keeps their order", async (t) => {
  const { site, page, jonas, proxy } = await startChatBehindProxy(t);
  await sendMessage(page, "one");
  await waitForMessages(page, "one");
  proxy.cutBeforeReply();
  await sendMessage(page, "two");
  await waitForUnsent(page, 1);
  assert.deepEqual(
    await readTextsByApi(site, jonas),
    ["one", "two"],
    "the server has the message; only the answer was lost",
  );
  for (const text of ["three", "four"]) await sendMessage(page, text);
  await offlineBanner(page).waitFor();
  await waitForUnsent(page, 3);
  await postByApi(site, jonas, "five");
  await page.getByLabel("Message", { exact: true }).fill("half a sen");
  proxy.restore();
  await waitForMessages(page, "one", "two", "five", "three", "four");
  await offlineBanner(page).waitFor({ state: "hidden" });
  assert.deepEqual(await readTextsByApi(site, jonas), ["one", "two", "five", "three", "four"]);
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "half a sen");
});

test("messages that failed before the tab was closed are sent once when the chat is opened again", async (t) => {
  const { site, page, jonas, proxy } = await startChatBehindProxy(t);
  proxy.cutBeforeReply();
  for (const text of ["one", "two"]) await sendMessage(page, text);
  await waitForUnsent(page, 2);
  const address = page.url();
  const again = await page.context().newPage();
  await page.close();
  proxy.restore();
  await again.goto(address);
  await waitForMessages(again, "one", "two");
  assert.deepEqual(await readTextsByApi(site, jonas), ["one", "two"]);
});

test("after an hour's sleep the page reconnects, and asks before it sends an hour-old message", async (t) => {
  const { site, page, jonas, proxy } = await startChatBehindProxy(t, (one) => one.clock.install());
  proxy.cut();
  await sendMessage(page, "before the nap");
  await waitForUnsent(page, 1);
  await offlineBanner(page).waitFor();
  await page.clock.fastForward(3600_000);
  proxy.restore();
  await postByApi(site, jonas, "meanwhile");
  await page.getByText("meanwhile").waitFor();
  await page.getByRole("button", { name: "Send again?" }).click();
  await waitForMessages(page, "meanwhile", "before the nap");

  // The same again, but this time the connection never reports an error.
  await waitForPolls(site, 1);
  proxy.stall();
  await postByApi(site, jonas, "good morning");
  await page.clock.fastForward(3600_000);
  await page.getByText("good morning").waitFor();
});

test("a poll without an answer is aborted after 35 seconds and repeated", async (t) => {
  const { site, page, jonas, proxy } = await startChatBehindProxy(t, (one) =>
    one.addInitScript(() => {
      const timeout = AbortSignal.timeout.bind(AbortSignal);
      // A fiftieth of the time for polls; other requests keep their timeout.
      AbortSignal.timeout = (ms) => timeout(ms === 35_000 ? 700 : ms);
    }),
  );
  await waitForPolls(site, 1);
  proxy.stall();
  await postByApi(site, jonas, "still there?");
  await waitForMessages(page, "still there?");
});

test("after a restart of the host, home drops its chats without a notice, and an invitation says why it fails", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  const other = await newPerson(t, browser);
  await other.page.goto(link);
  await other.page.getByText("are in this chat").waitFor();
  await page.goto(site.origin);
  await page.getByRole("link", { name: /^Jonas/ }).waitFor();
  await site.app.stop();
  const restarted = await startSite(t, {}, site.port);
  await start(await page.context().newPage(), restarted, "Annie");
  await page.reload();
  await page.getByRole("link", { name: /^New chat/ }).waitFor();
  await page.getByRole("link", { name: /^Jonas/ }).waitFor({ state: "hidden" });
  assert.equal(await page.locator("#notice").textContent(), "");
  await other.page.getByLabel("Your name").fill("Mia");
  await other.page.getByRole("button", { name: "Join" }).click();
  await waitForNotice(other.page, /the host was restarted/);
});

test("if the server asks to retry in a second, the page does so and shows no error", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  let busy = 2;
  const path = (url: URL) => url.pathname === `/${jonas.chat_id}`;
  await page.route(path, async (route) => {
    if (busy-- <= 0) return route.continue();
    const headers = { "Retry-After": "1" };
    const json = { error: busy ? "rate_limited" : "stopping", message: "Later." };
    await route.fulfill({ status: busy ? 429 : 503, headers, json });
  });
  const before = Date.now();
  await sendMessage(page, "patience");
  await waitForMessages(page, "patience");
  assert.ok(Date.now() - before >= 2000, "twice a second");
  assert.equal(await page.locator("#banner").textContent(), "");
  busy = 1;
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await postByApi(site, jonas, "and back");
  await waitForMessages(page, "patience", "and back");
  assert.deepEqual(await readTextsByApi(site, jonas), ["patience", "and back"]);
});

// ---------------------------------------------------------------------------------------------------------
// Hidden tabs. (An automated Chromium reports every tab as visible, so the tests emulate it.)

test("a frozen tab replaces its dead connection as soon as it is visible again", async (t) => {
  const { site, page, jonas, proxy } = await startChatBehindProxy(t);
  await setVisible(page, false);
  await waitForPolls(site, 1);
  await page.evaluate(() => document.dispatchEvent(new Event("freeze")));
  proxy.stall();
  await postByApi(site, jonas, "while frozen");
  const polled = page.waitForRequest((request) => request.url().includes("&visible=1"));
  await page.evaluate(() => document.dispatchEvent(new Event("resume")));
  await setVisible(page, true);
  await polled;
  await waitForMessages(page, "while frozen");
});

test("a page in the back-forward cache has no poll, and shows the messages it missed when it returns", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  const pass = (name: string) =>
    page.evaluate((type) => dispatchEvent(new PageTransitionEvent(type, { persisted: true })), name);
  await waitForPolls(site, 1);
  await pass("pagehide");
  await waitForPolls(site, 0);
  await postByApi(site, jonas, "while away");
  await pass("pageshow");
  await waitForMessages(page, "while away");
  await waitForPolls(site, 1);
  assert.equal(await page.locator("#banner").textContent(), "", "the page ended the poll itself, which is no failure");
});

test("a hidden tab waits for `retry_in` between polls, and polls at once when it becomes visible", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  // Measured in the page, because on a busy machine events reach the test late.
  const seen = await page.evaluateHandle(() => {
    Math.random = () => 0;
    const polls: { at: number; hidden: boolean; visible: boolean }[] = [];
    const delays: (number | undefined)[] = [];
    const ask = window.fetch.bind(window);
    const wait = window.setTimeout.bind(window);
    window.fetch = (address, options) => {
      const { searchParams } = new URL(new Request(address).url);
      const visible = searchParams.has("visible");
      if (searchParams.has("since")) polls.push({ at: performance.now(), hidden: document.hidden, visible });
      return ask(address, options);
    };
    Reflect.set(window, "setTimeout", (run: () => void, ms?: number) => {
      delays.push(ms);
      return wait(run, ms);
    });
    return { polls, delays };
  });
  const id = await page.evaluate(() => localStorage.getItem("watch-party browser"));
  await setVisible(page, false);
  await waitForPolls(site, 1);
  // Four visible tabs of the same browser: the page's poll has to make room for theirs.
  const path = `/${jonas.chat_id}?since=latest&wait=50&browser=${id}`;
  const others = [1, 2, 3, 4].map(() => call<PollReply>(site, "GET", `${path}&visible=1`, jonas.session_token));
  await waitForPolls(site, 4);
  await page.waitForFunction(({ polls }) => polls.length >= 3, seen);
  const { polls, delays } = await seen.jsonValue();
  assert.ok(polls.every((poll) => poll.hidden && !poll.visible));
  const [, first, second] = polls;
  // Timers can fire a millisecond early.
  assert.ok((second?.at ?? 0) - (first?.at ?? 0) >= 1499);
  assert.ok(delays.includes(1500), `2 seconds minus a quarter, not ${delays.join(", ")}`);

  await postByApi(site, jonas, "all four can return");
  await Promise.all(others);
  await setVisible(page, true);
  await waitForMessages(page, "all four can return");
  const visiblePolls = (await seen.jsonValue()).polls.filter((poll) => !poll.hidden);
  assert.ok(visiblePolls.length > 0 && visiblePolls.every((poll) => poll.visible));
});

// ---------------------------------------------------------------------------------------------------------
// Browsers that store nothing.

const NOTHING_STORED = "This browser saves nothing (private window?). If you close this tab, you lose your seat.";

test("without storage, a chat works until its tab is closed, and the page says so", async (t) => {
  const site = await startSite(t);
  const { page, context } = await newPerson(t, browser);
  await context.addInitScript(() => {
    for (const area of ["localStorage", "sessionStorage"]) {
      Object.defineProperty(window, area, {
        get() {
          throw new DOMException("Access is denied for this document.", "SecurityError");
        },
      });
    }
  });
  let attempts = 0;
  await page.route("**/create", async (route) => {
    if (attempts++) return route.continue();
    await route.fetch({ url: toLocal(route.request().url()) });
    await route.abort();
  });
  await page.goto(site.origin);
  await page.getByLabel("Your name").fill("Ana");
  await page.getByRole("button", { name: "Start a chat" }).click();
  await page.getByRole("status").filter({ hasText: "can't be reached" }).waitFor();
  await page.getByRole("button", { name: "Start a chat" }).click();
  const link = await readInviteLink(page);
  assert.equal(site.app.chats.count().chats, 1, "the page also remembers the key of the lost request");
  await page.getByText(NOTHING_STORED).waitFor();
  await sendMessage(page, "one");
  await waitForMessages(page, "one");
  await page.getByRole("link", { name: "Home" }).click();
  await page.getByRole("link", { name: /^New chat/ }).click();
  await waitForMessages(page, "one");

  const guest = await context.newPage();
  await join(guest, link, "Jonas");
  await guest.getByText(NOTHING_STORED).waitFor();
  await sendMessage(guest, "two");
  await waitForMessages(page, "one", "two");
});

test("with full storage, nothing is lost until the tab is closed", async (t) => {
  const { page, jonas } = await startChatWithJonas(t, browser);
  await page.evaluate(() => {
    Storage.prototype.setItem = () => {
      throw new DOMException("The quota has been exceeded.", "QuotaExceededError");
    };
  });
  await page.route(`**/${jonas.chat_id}`, (route) => route.abort());
  await sendMessage(page, "kept in memory");
  await waitForUnsent(page, 1);
  await page.getByText(NOTHING_STORED).waitFor();
  await page.getByLabel("Message", { exact: true }).fill("a draft");
  await page.getByRole("link", { name: "Home" }).click();
  await page.unroute(`**/${jonas.chat_id}`);
  await page.getByRole("link", { name: /^Jonas/ }).click();
  await waitForMessages(page, "kept in memory");
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "a draft");
});

test("a link opened in an app's built-in browser needs an invitation and a new name", async (t) => {
  const { page: ana, link } = await startChatWithJonas(t, browser);
  const mia = await newPerson(t, browser, PHONE);
  await join(mia.page, link, "Mia");
  const builtIn = (await newPerson(t, browser, PHONE)).page;
  await builtIn.goto(mia.page.url());
  await waitForNotice(builtIn, /Ask the person who started it for an invitation/);
  await builtIn.goto(link);
  await builtIn.getByLabel("Your name").fill("Mia");
  await builtIn.getByRole("button", { name: "Join" }).click();
  await builtIn.getByText("If that is you in another browser").waitFor();
  await builtIn.getByLabel("Your name").fill("Mia 2");
  await builtIn.getByRole("button", { name: "Join" }).click();
  await waitForLog(builtIn);
  await ana.getByText("Mia 2 joined").waitFor({ state: "attached" });
});

// ---------------------------------------------------------------------------------------------------------
// On-screen keyboards.

/** Returns where the composer ends and how far the log can still scroll down, in pixels. */
function measureLayout(page: Page): Promise<{ composerBottom: number; below: number }> {
  return page.evaluate(() => {
    const log = document.querySelector("#log");
    const composer = document.querySelector("#composer");
    if (!log || !composer) throw new Error("There is no chat.");
    const below = log.scrollHeight - log.scrollTop - log.clientHeight;
    return { composerBottom: Math.round(composer.getBoundingClientRect().bottom), below: Math.round(below) };
  });
}

/** Opens a chat with twenty messages on a phone, and focuses the composer. */
async function openChatOnPhone(t: TestContext, prepare?: (page: Page) => Promise<unknown>): Promise<Page> {
  const { site, page, jonas } = await startChatWithJonas(t, browser, PHONE);
  for (let number = 1; number <= 20; number++) await postByApi(site, jonas, `number ${number}`);
  await prepare?.(page);
  await sendMessage(page, "mine");
  await page.locator(".own").waitFor();
  await page.getByLabel("Message", { exact: true }).tap();
  return page;
}

test("Android's keyboard lifts the composer, and the log stays at its end or at the message being read", async (t) => {
  const page = await openChatOnPhone(t);
  await page.setViewportSize({ width: 320, height: 300 });
  await page.waitForFunction(() => innerHeight === 300);
  await page.waitForTimeout(100);
  assert.deepEqual(await measureLayout(page), { composerBottom: 300, below: 0 });
  await page.setViewportSize({ width: 320, height: 568 });
  await page.waitForTimeout(100);
  assert.deepEqual(await measureLayout(page), { composerBottom: 568, below: 0 });

  const middle = page.getByText("number 5", { exact: true });
  await middle.evaluate((item) => item.scrollIntoView({ block: "start" }));
  const before = await middle.boundingBox();
  await page.setViewportSize({ width: 320, height: 300 });
  await page.waitForTimeout(100);
  assert.deepEqual(await middle.boundingBox(), before);
  await sendMessage(page, "down again");
  await page.getByText("down again").waitFor();
  assert.equal((await measureLayout(page)).below, 0, "a message you send is always scrolled into view");
});

test("a banner appears and disappears without moving the message being read", async (t) => {
  const page = await openChatOnPhone(t);
  const middle = page.getByText("number 5", { exact: true });
  await middle.evaluate((item) => item.scrollIntoView({ block: "center" }));
  const before = (await middle.boundingBox())?.y ?? 0;
  const hasNotMoved = async () => Math.abs(((await middle.boundingBox())?.y ?? 0) - before) <= 1;
  const reconnect = () => page.evaluate(() => dispatchEvent(new Event("online")));
  await page.route(/since=/, (route) => route.abort());
  await reconnect();
  await offlineBanner(page).waitFor();
  await page.waitForTimeout(100);
  assert.ok(await hasNotMoved());
  await page.unroute(/since=/);
  await reconnect();
  await offlineBanner(page).waitFor({ state: "hidden" });
  await page.waitForTimeout(100);
  assert.ok(await hasNotMoved());
});

test("when iOS's keyboard covers part of the page, the page shrinks to the visible part", async (t) => {
  const page = await openChatOnPhone(t, async (one) => {
    await one.addInitScript(() => {
      const view = Object.assign(new EventTarget(), { height: 568, scale: 1, offsetTop: 0 });
      Object.defineProperty(window, "visualViewport", { value: view });
    });
    await one.reload();
    await waitForLog(one);
  });
  const resize = (height: number, scale = 1) =>
    page.evaluate(
      (size) => {
        if (!visualViewport) throw new Error("There is no viewport.");
        Object.assign(visualViewport, size).dispatchEvent(new Event("resize"));
      },
      { height, scale },
    );
  await resize(290);
  await page.waitForTimeout(100);
  assert.deepEqual(await measureLayout(page), { composerBottom: 290, below: 0 });
  await resize(568);
  await page.waitForTimeout(100);
  assert.deepEqual(await measureLayout(page), { composerBottom: 568, below: 0 });
  // Pinch zoom also shows only a part of the page, but the page must not shrink to that.
  await resize(284, 2);
  assert.equal((await measureLayout(page)).composerBottom, 568);
});
