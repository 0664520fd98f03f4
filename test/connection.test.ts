// The page when things go wrong around it: the network is cut, the computer sleeps, a phone freezes the tab or
// lays its keyboard over it, the browser keeps nothing. In a real browser, on http://party.test.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { after as afterAll, before as beforeAll, test, type TestContext } from "node:test";
import type { Browser, Page } from "playwright-core";
import type { MessageView, PollReply, Session } from "../server.ts";
import { launchBrowser, newPerson, type Party, startParty } from "./browser.ts";
import {
  anaAndJonas,
  call,
  invitation,
  isIn,
  join,
  joinByScript,
  notice,
  PHONE,
  reads,
  say,
  sayByScript,
  start,
} from "./people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

// ---------------------------------------------------------------------------------------------------------
// A network that fails on demand.

/** The network between browser and server. */
interface Cable {
  /** The server's address by way of the cable. */
  origin: string;
  /** Ends all connections, and refuses new ones. */
  cut(): void;
  mend(): void;
  /** Cuts as soon as the server has taken a POST; its answer is lost. */
  cutAtAnswer(): void;
  /** What is held now gets no answer any more, and nobody is told: the connections of a computer that slept. */
  deaden(): void;
}

async function layCable(t: TestContext, party: Party): Promise<Cable> {
  const port = Number(new URL(party.origin).port);
  let isCut = false;
  let loses = false;
  let isPosting = false;
  const held = new Set<Socket>();
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
      if (loses) isPosting ||= chunk.includes("POST /");
      if (chunk.includes("&wait=25")) held.add(far);
      far.write(chunk);
    });
    far.on("data", (chunk) => {
      held.delete(far);
      // Be it an answer to the POST, or to a poll that tells of what was posted.
      if (isPosting) cut();
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
    mend: () => {
      isCut = loses = isPosting = false;
    },
    cutAtAnswer: () => {
      loses = true;
    },
    deaden: () => held.forEach((far) => far.removeAllListeners("data").pause()),
  };
}

/** Ana's page in a new chat behind a cable, and Jonas, a script beside it. */
async function anaBehindCable(
  t: TestContext,
  prepare?: (page: Page) => Promise<unknown>,
): Promise<{ party: Party; page: Page; jonas: Session; cable: Cable }> {
  const party = await startParty(t);
  const cable = await layCable(t, party);
  const { page } = await newPerson(t, browser);
  // Waiting after failures is by chance, and here short.
  await page.addInitScript(() => {
    Math.random = () => 0.05;
  });
  await prepare?.(page);
  const jonas = await joinByScript(party, await start(page, { ...party, origin: cable.origin }), "Jonas");
  await page.getByRole("heading", { name: "Jonas" }).waitFor();
  return { party, page, jonas, cable };
}

/** What the server has, in its order. */
async function texts(party: Party, { chat_id, session_token }: Session): Promise<string[]> {
  const { messages } = await call<{ messages: MessageView[] }>(party, "GET", `/${chat_id}`, session_token);
  return messages.map(({ text }) => text);
}

/** Waits until the server holds that many polls. */
async function holds(party: Party, count: number): Promise<void> {
  for (let tries = 0; party.app.chats.count().waiters !== count; tries++) {
    assert.ok(tries < 300, `${party.app.chats.count().waiters} polls are held, not ${count}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const banner = (page: Page) => page.getByRole("status").filter({ hasText: "Connection lost" });

test("a network cut in the middle of sending loses nothing, posts nothing twice and keeps the order", async (t) => {
  const { party, page, jonas, cable } = await anaBehindCable(t);
  await say(page, "one");
  await reads(page, "one");
  cable.cutAtAnswer();
  await say(page, "two");
  await page.getByText("Not sent.").waitFor();
  assert.deepEqual(await texts(party, jonas), ["one", "two"], "only the answer was lost");
  for (const text of ["three", "four"]) await say(page, text);
  await banner(page).waitFor();
  await page.getByText("Not sent.").nth(2).waitFor();
  await sayByScript(party, jonas, "five");
  await page.getByLabel("Message", { exact: true }).fill("half a sen");
  cable.mend();
  await reads(page, "one", "two", "five", "three", "four");
  await banner(page).waitFor({ state: "hidden" });
  assert.deepEqual(await texts(party, jonas), ["one", "two", "five", "three", "four"]);
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "half a sen");
});

test("what had failed when the tab was closed goes out once when it is opened again", async (t) => {
  const { party, page, jonas, cable } = await anaBehindCable(t);
  cable.cutAtAnswer();
  for (const text of ["one", "two"]) await say(page, text);
  await page.getByText("Not sent.").nth(1).waitFor();
  const address = page.url();
  const again = await page.context().newPage();
  await page.close();
  cable.mend();
  await again.goto(address);
  await reads(again, "one", "two");
  assert.deepEqual(await texts(party, jonas), ["one", "two"]);
});

test("a computer that slept for an hour listens anew, and asks before it sends what is that old", async (t) => {
  const { party, page, jonas, cable } = await anaBehindCable(t, (one) => one.clock.install());
  cable.cut();
  await say(page, "before the nap");
  await page.getByText("Not sent.").waitFor();
  await banner(page).waitFor();
  await page.clock.fastForward(3600_000);
  cable.mend();
  await sayByScript(party, jonas, "meanwhile");
  await page.getByText("meanwhile").waitFor();
  await page.getByRole("button", { name: "Send again?" }).click();
  await reads(page, "meanwhile", "before the nap");

  // As above, but nothing has said that the connection is dead.
  await holds(party, 1);
  cable.deaden();
  await sayByScript(party, jonas, "good morning");
  await page.clock.fastForward(3600_000);
  await page.getByText("good morning").waitFor();
});

test("a poll without an answer is given up after 35 seconds", async (t) => {
  const { party, page, jonas, cable } = await anaBehindCable(t, (one) =>
    one.addInitScript(() => {
      const timeout = AbortSignal.timeout.bind(AbortSignal);
      // A fiftieth of the time; other calls have theirs.
      AbortSignal.timeout = (ms) => timeout(ms === 35_000 ? 700 : ms);
    }),
  );
  await holds(party, 1);
  cable.deaden();
  await sayByScript(party, jonas, "still there?");
  await reads(page, "still there?");
});

test("a host that was started anew is forgotten at home without a word, and by its invitations with one", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  const other = await newPerson(t, browser);
  await other.page.goto(link);
  await other.page.getByText("are in this chat").waitFor();
  await page.goto(party.origin);
  await page.getByRole("link", { name: /^Jonas/ }).waitFor();
  await party.app.stop();
  const anew = await startParty(t, {}, Number(new URL(party.origin).port));
  await start(await page.context().newPage(), anew, "Annie");
  await page.reload();
  await page.getByRole("link", { name: /^New chat/ }).waitFor();
  await page.getByRole("link", { name: /^Jonas/ }).waitFor({ state: "hidden" });
  assert.equal(await page.locator("#notice").textContent(), "");
  await other.page.getByLabel("Your name").fill("Mia");
  await other.page.getByRole("button", { name: "Join" }).click();
  await notice(other.page, /the host was restarted/);
});

test("who is asked to come back later comes back later, and says nothing of it", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  let busy = 2;
  const path = (url: URL) => url.pathname === `/${jonas.chat_id}`;
  await page.route(path, async (route) => {
    if (busy-- <= 0) return route.continue();
    const headers = { "Retry-After": "1" };
    const json = { error: busy ? "rate_limited" : "stopping", message: "Later." };
    await route.fulfill({ status: busy ? 429 : 503, headers, json });
  });
  const before = Date.now();
  await say(page, "patience");
  await reads(page, "patience");
  assert.ok(Date.now() - before >= 2000, "twice a second");
  assert.equal(await page.locator("#banner").textContent(), "");
  busy = 1;
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await sayByScript(party, jonas, "and back");
  await reads(page, "patience", "and back");
  assert.deepEqual(await texts(party, jonas), ["patience", "and back"]);
});

// ---------------------------------------------------------------------------------------------------------
// Tabs that nobody looks at. (A driven Chromium says that all are looked at, so that is emulated.)

/** Makes the page believe that it is hidden, or looked at again. */
async function show(page: Page, visible: boolean): Promise<void> {
  await page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    Object.defineProperty(document, "visibilityState", { value: hidden ? "hidden" : "visible", configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, !visible);
}

test("a frozen tab's dead connection is replaced as soon as it is looked at", async (t) => {
  const { party, page, jonas, cable } = await anaBehindCable(t);
  await show(page, false);
  await holds(party, 1);
  await page.evaluate(() => document.dispatchEvent(new Event("freeze")));
  cable.deaden();
  await sayByScript(party, jonas, "while frozen");
  const polled = page.waitForRequest((request) => request.url().includes("&visible=1"));
  await page.evaluate(() => document.dispatchEvent(new Event("resume")));
  await show(page, true);
  await polled;
  await reads(page, "while frozen");
});

test("a page in the back-forward cache holds no poll, and knows what it missed when it is back", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  const pass = (name: string) =>
    page.evaluate((type) => dispatchEvent(new PageTransitionEvent(type, { persisted: true })), name);
  await holds(party, 1);
  await pass("pagehide");
  await holds(party, 0);
  await sayByScript(party, jonas, "while away");
  await pass("pageshow");
  await reads(page, "while away");
  await holds(party, 1);
  assert.equal(await page.locator("#banner").textContent(), "", "a deliberate end is no failure");
});

test("a hidden tab waits as long as it is told to, and the one looked at takes a place at once", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  // By the page's own clock and timers, as a busy machine tells the test late.
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
  await show(page, false);
  await holds(party, 1);
  // Four tabs of the same browser, all looked at: the page's own poll gives way.
  const path = `/${jonas.chat_id}?since=latest&wait=50&browser=${id}`;
  const others = [1, 2, 3, 4].map(() => call<PollReply>(party, "GET", `${path}&visible=1`, jonas.session_token));
  await holds(party, 4);
  await page.waitForFunction(({ polls }) => polls.length >= 3, seen);
  const { polls, delays } = await seen.jsonValue();
  assert.ok(polls.every((poll) => poll.hidden && !poll.visible));
  const [, first, second] = polls;
  // Timers may be a millisecond early.
  assert.ok((second?.at ?? 0) - (first?.at ?? 0) >= 1499);
  assert.ok(delays.includes(1500), `2 seconds less a quarter, not ${delays.join(", ")}`);

  await sayByScript(party, jonas, "those four are done");
  await Promise.all(others);
  await show(page, true);
  await reads(page, "those four are done");
  const looked = (await seen.jsonValue()).polls.filter((poll) => !poll.hidden);
  assert.ok(looked.length > 0 && looked.every((poll) => poll.visible));
});

// ---------------------------------------------------------------------------------------------------------
// Browsers that keep nothing.

const NOTHING_KEPT = "This browser saves nothing (private window?). If you close this tab, you lose your seat.";

test("where storage is forbidden, a chat works for as long as its tab, which says so", async (t) => {
  const party = await startParty(t);
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
  let lost = 0;
  await page.route("**/create", async (route) => {
    if (lost++) return route.continue();
    await route.fetch({ url: route.request().url().replace("party.test", "127.0.0.1") });
    await route.abort();
  });
  await page.goto(party.origin);
  await page.getByLabel("Your name").fill("Ana");
  await page.getByRole("button", { name: "Start a chat" }).click();
  await page.getByRole("status").filter({ hasText: "can't be reached" }).waitFor();
  await page.getByRole("button", { name: "Start a chat" }).click();
  const link = await invitation(page);
  assert.equal(party.app.chats.count().chats, 1, "the key is remembered as well");
  await page.getByText(NOTHING_KEPT).waitFor();
  await say(page, "one");
  await reads(page, "one");
  await page.getByRole("link", { name: "Home" }).click();
  await page.getByRole("link", { name: /^New chat/ }).click();
  await reads(page, "one");

  const guest = await context.newPage();
  await join(guest, link, "Jonas");
  await guest.getByText(NOTHING_KEPT).waitFor();
  await say(guest, "two");
  await reads(page, "one", "two");
});

test("where storage is full, nothing is lost until the tab is closed", async (t) => {
  const { page, jonas } = await anaAndJonas(t, browser);
  await page.evaluate(() => {
    Storage.prototype.setItem = () => {
      throw new DOMException("The quota has been exceeded.", "QuotaExceededError");
    };
  });
  await page.route(`**/${jonas.chat_id}`, (route) => route.abort());
  await say(page, "kept in memory");
  await page.getByText("Not sent.").waitFor();
  await page.getByText(NOTHING_KEPT).waitFor();
  await page.getByLabel("Message", { exact: true }).fill("a draft");
  await page.getByRole("link", { name: "Home" }).click();
  await page.unroute(`**/${jonas.chat_id}`);
  await page.getByRole("link", { name: /^Jonas/ }).click();
  await reads(page, "kept in memory");
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "a draft");
});

test("a link opened within another app is a browser of its own: a new name, or nothing but the link's question", async (t) => {
  const { page: ana, link } = await anaAndJonas(t, browser);
  const mia = await newPerson(t, browser, PHONE);
  await join(mia.page, link, "Mia");
  const inApp = (await newPerson(t, browser, PHONE)).page;
  await inApp.goto(mia.page.url());
  await notice(inApp, /Ask someone in the chat for the link/);
  await inApp.goto(link);
  await inApp.getByLabel("Your name").fill("Mia");
  await inApp.getByRole("button", { name: "Join" }).click();
  await inApp.getByText("Is that you, in another browser?").waitFor();
  await inApp.getByLabel("Your name").fill("Mia 2");
  await inApp.getByRole("button", { name: "Join" }).click();
  await isIn(inApp);
  await ana.getByText("Mia 2 joined").waitFor({ state: "attached" });
});

// ---------------------------------------------------------------------------------------------------------
// Keyboards on screens.

/** Where the composer ends and whether the log is at its end, in pixels from the top of the page. */
function edges(page: Page): Promise<{ composer: number; left: number }> {
  return page.evaluate(() => {
    const log = document.querySelector("#log");
    const composer = document.querySelector("#composer");
    if (!log || !composer) throw new Error("no chat");
    const left = log.scrollHeight - log.scrollTop - log.clientHeight;
    return { composer: Math.round(composer.getBoundingClientRect().bottom), left: Math.round(left) };
  });
}

/** A phone in a chat of twenty messages, the composer focused. */
async function phoneInChat(t: TestContext, prepare?: (page: Page) => Promise<unknown>): Promise<Page> {
  const { party, page, jonas } = await anaAndJonas(t, browser, PHONE);
  for (let number = 1; number <= 20; number++) await sayByScript(party, jonas, `number ${number}`);
  await prepare?.(page);
  await say(page, "mine");
  await page.locator(".own").waitFor();
  await page.getByLabel("Message", { exact: true }).tap();
  return page;
}

test("Android's keyboard lifts the composer, and what is read stays: the end, or a place above it", async (t) => {
  const page = await phoneInChat(t);
  await page.setViewportSize({ width: 320, height: 300 });
  await page.waitForFunction(() => innerHeight === 300);
  await page.waitForTimeout(100);
  assert.deepEqual(await edges(page), { composer: 300, left: 0 });
  await page.setViewportSize({ width: 320, height: 568 });
  await page.waitForTimeout(100);
  assert.deepEqual(await edges(page), { composer: 568, left: 0 });

  const middle = page.getByText("number 5", { exact: true });
  await middle.evaluate((item) => item.scrollIntoView({ block: "start" }));
  const before = await middle.boundingBox();
  await page.setViewportSize({ width: 320, height: 300 });
  await page.waitForTimeout(100);
  assert.deepEqual(await middle.boundingBox(), before);
  await say(page, "down again");
  await page.getByText("down again").waitFor();
  assert.equal((await edges(page)).left, 0, "one's own message is always seen");
});

test("a banner comes and goes without moving what is read", async (t) => {
  const page = await phoneInChat(t);
  const middle = page.getByText("number 5", { exact: true });
  await middle.evaluate((item) => item.scrollIntoView({ block: "center" }));
  const before = (await middle.boundingBox())?.y ?? 0;
  const isStill = async () => Math.abs(((await middle.boundingBox())?.y ?? 0) - before) <= 1;
  const renew = () => page.evaluate(() => dispatchEvent(new Event("online")));
  await page.route(/since=/, (route) => route.abort());
  await renew();
  await banner(page).waitFor();
  await page.waitForTimeout(100);
  assert.ok(await isStill());
  await page.unroute(/since=/);
  await renew();
  await banner(page).waitFor({ state: "hidden" });
  await page.waitForTimeout(100);
  assert.ok(await isStill());
});

test("iOS lays its keyboard over the page, which then ends where the keyboard begins", async (t) => {
  const page = await phoneInChat(t, async (one) => {
    await one.addInitScript(() => {
      const view = Object.assign(new EventTarget(), { height: 568, scale: 1, offsetTop: 0 });
      Object.defineProperty(window, "visualViewport", { value: view });
    });
    await one.reload();
    await isIn(one);
  });
  const resize = (height: number, scale = 1) =>
    page.evaluate(
      (size) => {
        if (!visualViewport) throw new Error("no viewport");
        Object.assign(visualViewport, size).dispatchEvent(new Event("resize"));
      },
      { height, scale },
    );
  await resize(290);
  await page.waitForTimeout(100);
  assert.deepEqual(await edges(page), { composer: 290, left: 0 });
  await resize(568);
  await page.waitForTimeout(100);
  assert.deepEqual(await edges(page), { composer: 568, left: 0 });
  // Zoomed in by two fingers one sees a part of the page, which must not shrink to it.
  await resize(284, 2);
  assert.equal((await edges(page)).composer, 568);
});
