// Twelve tabs on twelve chats in one browser. Browsers open six connections to a host, and a held poll takes
// one: without care, the seventh tab would neither load nor send.
//
// A driven Chromium reports every tab as visible. Here all but one say that they are hidden, as they would on
// a person's screen; the pages then hold few polls, and ask again every two seconds.

import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Browser, BrowserContext, Page } from "playwright-core";
import type { Session } from "../../server.ts";
import { launchBrowser, newPerson, type Party, startParty } from "../browser.ts";
import { makeChat, say } from "./chats.ts";
import { assertUnder, measureRuns } from "./measure.ts";
import { type HeldPolls, watchPolls } from "./polls.ts";

const TABS = 12;
const HELD = 4;
/** "At once", with two cores that twelve tabs share. */
const AT_ONCE_MS = 200;
/** How soon a tab that comes to the front has its poll held. */
const RENEWED_MS = 500;
/** A rush is over when no further poll has come for this long. */
const SETTLED_MS = 500;

let browser: Browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

/** One chat: the tab that shows it, and whoever writes to it from elsewhere. */
interface Tab {
  page: Page;
  own: Session;
  other: Session;
}

interface Desk {
  /** For fetch of Node's, which knows no party.test. */
  local: string;
  tabs: Tab[];
  polls: HeldPolls;
  loads: number[];
}

test("twelve tabs load, send and receive in time", { timeout: 300_000 }, async (t) => {
  const figures = await measureRuns(() =>
    onDesk(t, async (desk) => {
      const sends = await measureSends(desk);
      const delivered = await measureDelivery(desk);
      return { "pages load": Math.max(...desk.loads), sends: Math.max(...sends), ...delivered };
    }),
  );
  assertUnder(t, figures, {
    "pages load": 1000,
    sends: 200,
    "delivery to the visible tab": AT_ONCE_MS,
    "delivery to the held ones": AT_ONCE_MS,
    "delivery to the others": 3000,
  });
});

test(
  "flicking through the tabs never leaves the one looked at without its held poll",
  { timeout: 300_000 },
  async (t) => {
    const figures = await measureRuns(() =>
      onDesk(t, async (desk) => ({
        "held at each stop": await flickSlowly(desk),
        "held after a rush": await flickFast(desk),
      })),
    );
    assertUnder(t, figures, { "held at each stop": RENEWED_MS, "held after a rush": RENEWED_MS });
  },
);

/** Opens the tabs, one after another as people do, for `use`; closes them afterwards. */
async function onDesk<T>(t: TestContext, use: (desk: Desk) => Promise<T>): Promise<T> {
  const party = await startParty(t);
  const clock = setInterval(() => party.app.sweep(), 250);
  const { context } = await newPerson(t, browser);
  try {
    return await use(await openDesk(party, context));
  } finally {
    clearInterval(clock);
    await context.close();
  }
}

async function openDesk({ app, origin }: Party, context: BrowserContext): Promise<Desk> {
  const local = origin.replace("party.test", "127.0.0.1");
  const desk: Desk = { local, tabs: [], polls: watchPolls(app.server), loads: [] };
  const chats = await Promise.all(Array.from({ length: TABS }, (_, index) => makeChat(local, "Ana", `Guest ${index}`)));
  for (const [, other] of chats) for (let line = 1; line <= 5; line++) await say(local, other, `Line ${line}`);
  await keepSeats(context, origin, chats);
  await context.addInitScript(prepareTab);
  for (const [own, other] of chats) {
    const page = await context.newPage();
    const previous = desk.tabs.at(-1);
    desk.tabs.push({ page, own, other });
    if (previous) await show(previous.page, false);
    await page.goto(`${origin}/${own.chat_id}`);
    desk.loads.push(await page.evaluate(whenDrawn));
  }
  return desk;
}

/** As if the seats had been taken in this browser. */
async function keepSeats(context: BrowserContext, origin: string, chats: [Session, Session][]): Promise<void> {
  const page = await context.newPage();
  await page.goto(`${origin}/robots.txt`);
  await page.evaluate(
    (seats) => {
      for (const [id, seat] of seats) localStorage.setItem(`watch-party chat ${id}`, seat);
    },
    chats.map(([session, { username }]) => {
      return [session.chat_id, JSON.stringify({ session, title: username, isInviting: false })] as const;
    }),
  );
  await page.close();
}

/** Each tab comes to the front in turn and sends. Milliseconds from the press until it no longer says so. */
async function measureSends(desk: Desk): Promise<number[]> {
  const times: number[] = [];
  for (const tab of desk.tabs) {
    await bringToFront(desk, tab);
    times.push(await tab.page.evaluate(sendOne, `From here, ${tab.own.chat_id}`));
  }
  return times;
}

/** Somebody writes in each chat: how long until it is on the screen, by the state that the tab's poll was in. */
async function measureDelivery(desk: Desk): Promise<Record<string, number>> {
  const visible = desk.tabs[0];
  assert.ok(visible);
  await bringToFront(desk, visible);
  await until("four polls are held", () => desk.polls.count() === HELD);
  const wasHeld = new Set<Tab>();
  const times = await Promise.all(
    desk.tabs.map(async (tab, index) => {
      const { page, own, other } = tab;
      // One by one, as each delivery frees a place that another tab may take.
      await sleep(index * 50);
      const text = `Delivered to ${other.chat_id}`;
      const seen = page.evaluate(whenSeen, text);
      // The page listens before anything is sent.
      await page.evaluate(() => undefined);
      if (desk.polls.isHeld(own.chat_id)) wasHeld.add(tab);
      const sentAt = Date.now();
      await say(desk.local, other, text);
      return (await seen) - sentAt;
    }),
  );
  const worst = (belongs: (tab: Tab) => boolean) =>
    Math.max(...times.filter((_, index) => desk.tabs.slice(index, index + 1).some(belongs)));
  return {
    "delivery to the visible tab": worst((tab) => tab === visible),
    "delivery to the held ones": worst((tab) => wasHeld.has(tab)),
    "delivery to the others": worst((tab) => !wasHeld.has(tab)),
  };
}

/** Stops at each tab, forwards and back: the longest time until its poll is held. */
async function flickSlowly(desk: Desk): Promise<number> {
  let longest = 0;
  for (const tab of [...desk.tabs, ...desk.tabs.toReversed()]) {
    const start = performance.now();
    await bringToFront(desk, tab);
    longest = Math.max(longest, performance.now() - start);
  }
  return longest;
}

/**
 * Runs through all tabs without a stop, then looks at where it ends: how long until that tab's poll is held for
 * good (one of the rush, which it has given up already, may still be held). It then has to stay so while the
 * others ask again and again.
 */
async function flickFast(desk: Desk): Promise<number> {
  const last = desk.tabs[5];
  assert.ok(last);
  await Promise.all([...desk.tabs, ...desk.tabs, last].map((tab) => changeTo(desk, tab)));
  const start = performance.now();
  const { chat_id } = last.own;
  let polls = 0;
  let time = 0;
  await until("the last tab's poll is held for good", () => {
    const elapsed = performance.now() - start;
    if (polls !== desk.polls.total(chat_id)) time = elapsed;
    polls = desk.polls.total(chat_id);
    return desk.polls.isVisibleHeld(chat_id) && elapsed > time + SETTLED_MS;
  });
  await sleep(6000);
  assert.ok(desk.polls.isVisibleHeld(chat_id), "the poll is still held");
  assert.equal(desk.polls.total(chat_id), polls, "it was not given up in between");
  return time;
}

async function bringToFront(desk: Desk, tab: Tab): Promise<void> {
  await changeTo(desk, tab);
  await until("its poll is held", () => desk.polls.isVisibleHeld(tab.own.chat_id));
}

/** Hides one and shows the other at once: which hears of it first, browsers do not promise. */
async function changeTo(desk: Desk, tab: Tab): Promise<void> {
  await Promise.all(desk.tabs.map(({ page }) => show(page, page === tab.page)));
}

async function until(what: string, isSo: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!isSo()) {
    assert.ok(performance.now() < deadline, `Waited in vain until ${what}`);
    await sleep(5);
  }
}

async function show(page: Page, visible: boolean): Promise<void> {
  await page.evaluate((detail) => document.dispatchEvent(new CustomEvent("pretend", { detail })), visible);
}

// What follows runs in the page.

/** Lets the tab be told whether it is visible, and notes when its first messages are drawn. */
function prepareTab(): void {
  let visible = true;
  Object.defineProperty(Document.prototype, "hidden", { get: () => !visible });
  Object.defineProperty(Document.prototype, "visibilityState", { get: () => (visible ? "visible" : "hidden") });
  document.addEventListener("pretend", (event) => {
    const now = event instanceof CustomEvent && event.detail === true;
    if (now === visible) return;
    visible = now;
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
  });
  new MutationObserver((_, observer) => {
    if (!document.querySelector(".message")) return;
    observer.disconnect();
    performance.mark("drawn");
  }).observe(document, { childList: true, subtree: true });
}

/** Milliseconds from the beginning of the visit until messages are on the screen. */
function whenDrawn(): Promise<number> {
  return new Promise((resolve) => {
    const look = () => {
      const mark = performance.getEntriesByName("drawn")[0];
      if (mark) resolve(mark.startTime);
      else setTimeout(look, 10);
    };
    look();
  });
}

/** Writes and presses; milliseconds until the server has confirmed it. */
function sendOne(text: string): Promise<number> {
  const field = document.querySelector<HTMLTextAreaElement>("#message");
  const log = document.querySelector("#list");
  if (!field || !log) throw new Error("There is no composer.");
  field.value = text;
  const start = performance.now();
  return new Promise((resolve) => {
    new MutationObserver((_, observer) => {
      const bubbles = Array.from(log.querySelectorAll(".own:not(.sending) .bubble"), (bubble) => bubble.textContent);
      if (!bubbles.includes(text)) return;
      observer.disconnect();
      resolve(performance.now() - start);
    }).observe(log, { childList: true, subtree: true, attributes: true });
    document.querySelector<HTMLButtonElement>("#send")?.click();
  });
}

/** The time (milliseconds since 1970) at which a message with this text comes. */
function whenSeen(text: string): Promise<number> {
  return new Promise((resolve) => {
    const log = document.querySelector("#list");
    new MutationObserver((_, observer) => {
      if (!log?.textContent.includes(text)) return;
      observer.disconnect();
      resolve(Date.now());
    }).observe(document, { childList: true, subtree: true });
  });
}
