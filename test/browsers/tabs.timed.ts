// Twelve tabs on twelve chats in one browser. Browsers open six connections to a host, and each waiting poll takes one.
// If every tab had a waiting poll, the seventh tab could neither load nor send.
//
// An automated Chromium reports every tab as visible. The tests make all but one report that they are hidden, as
// on a person's screen. The server then lets only a few polls wait, and the other tabs poll every two seconds.

import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Browser, BrowserContext, Page } from "playwright-core";
import type { Session } from "../../server.ts";
import { launchBrowser, newPerson, startSite, type TestSite } from "../lib/browser.ts";
import { createChat, postByApi } from "../lib/people.ts";
import { assertUnder, measureRuns } from "./measure.ts";
import { type PollWatch, watchPolls } from "./polls.ts";

const TABS = 12;
/** The server lets this many polls of one browser wait. */
const WAITING_POLLS = 4;
/** The limit for "at once", on two cores that twelve tabs share. */
const AT_ONCE_MS = 200;
/** The limit from showing a tab until its poll waits on the server. */
const RENEWED_MS = 500;
/** After switching quickly, the visible tab has settled when it has sent no new poll for this long. */
const SETTLED_MS = 500;

let browser: Browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

/** A tab on one chat, and a guest who writes in that chat through the API. */
interface Tab {
  page: Page;
  /** The session of the page in the tab. */
  session: Session;
  guest: Session;
}

interface TabSet {
  site: TestSite;
  tabs: Tab[];
  polls: PollWatch;
  /** Milliseconds that each page took to load, in the order of the tabs. */
  loadTimes: number[];
}

test("twelve tabs load, send and receive in time", { timeout: 300_000 }, async (t) => {
  const figures = await measureRuns(() =>
    withTabs(t, async (tabSet) => {
      const sends = await measureSends(tabSet);
      const delivered = await measureDelivery(tabSet);
      return { "pages load": Math.max(...tabSet.loadTimes), sends: Math.max(...sends), ...delivered };
    }),
  );
  assertUnder(t, figures, {
    "pages load": 1000,
    sends: 200,
    "delivery to the visible tab": AT_ONCE_MS,
    "delivery to tabs with a waiting poll": AT_ONCE_MS,
    "delivery to the other tabs": 3000,
  });
});

test(
  "the poll of a visible tab waits again soon after switching tabs, slowly or quickly",
  { timeout: 300_000 },
  async (t) => {
    const figures = await measureRuns(() =>
      withTabs(t, async (tabSet) => ({
        "waiting after each stop": await switchSlowly(tabSet),
        "waiting after a quick run": await switchQuickly(tabSet),
      })),
    );
    assertUnder(t, figures, { "waiting after each stop": RENEWED_MS, "waiting after a quick run": RENEWED_MS });
  },
);

/** Opens the tabs one after another, calls `use`, and closes them. */
async function withTabs<T>(t: TestContext, use: (tabSet: TabSet) => Promise<T>): Promise<T> {
  const site = await startSite(t);
  const sweeper = setInterval(() => site.app.sweep(), 250);
  const { context } = await newPerson(t, browser);
  try {
    return await use(await openTabs(site, context));
  } finally {
    clearInterval(sweeper);
    await context.close();
  }
}

async function openTabs(site: TestSite, context: BrowserContext): Promise<TabSet> {
  const tabSet: TabSet = { site, tabs: [], polls: watchPolls(site.app.server), loadTimes: [] };
  const chats = await Promise.all(
    Array.from({ length: TABS }, (_, index) => createChat(site, "Ana", `Guest ${index}`)),
  );
  for (const [, guest] of chats) for (let line = 1; line <= 5; line++) await postByApi(site, guest, `Line ${line}`);
  await storeSessions(context, site.origin, chats);
  await context.addInitScript(prepareTab);
  for (const [session, guest] of chats) {
    const page = await context.newPage();
    const previous = tabSet.tabs.at(-1);
    tabSet.tabs.push({ page, session, guest });
    if (previous) await setVisible(previous.page, false);
    await page.goto(`${site.origin}/${session.chat_id}`);
    tabSet.loadTimes.push(await page.evaluate(whenDrawn));
  }
  return tabSet;
}

/** Stores the creators' sessions in the browser, as if it had created the chats. */
async function storeSessions(context: BrowserContext, origin: string, chats: [Session, Session][]): Promise<void> {
  const page = await context.newPage();
  await page.goto(`${origin}/robots.txt`);
  await page.evaluate(
    (items) => {
      for (const [id, item] of items) localStorage.setItem(`watch-party chat ${id}`, item);
    },
    chats.map(([session, { username }]) => {
      return [session.chat_id, JSON.stringify({ session, title: username, isInviting: false })] as const;
    }),
  );
  await page.close();
}

/** Shows each tab in turn and sends a message in it. Returns the milliseconds from the press until it is confirmed. */
async function measureSends(tabSet: TabSet): Promise<number[]> {
  const times: number[] = [];
  for (const tab of tabSet.tabs) {
    await bringToFront(tabSet, tab);
    times.push(await tab.page.evaluate(timeSending, `From here, ${tab.session.chat_id}`));
  }
  return times;
}

/**
 * Lets the guest of each chat write. Returns the longest time until the message is on the screen, for the visible tab,
 * the tabs whose poll was waiting, and the others.
 */
async function measureDelivery(tabSet: TabSet): Promise<Record<string, number>> {
  const visible = tabSet.tabs[0];
  assert.ok(visible);
  await bringToFront(tabSet, visible);
  await until("four polls are waiting", () => tabSet.polls.count() === WAITING_POLLS);
  const hadWaitingPoll = new Set<Tab>();
  const times = await Promise.all(
    tabSet.tabs.map(async (tab, index) => {
      const { page, session, guest } = tab;
      // One after another, because each delivery ends a poll, and a poll of another tab may then wait instead.
      await sleep(index * 50);
      const text = `Delivered to ${guest.chat_id}`;
      const seen = page.evaluate(whenSeen, text);
      // Evaluates in order, so the page is observing before the message is sent.
      await page.evaluate(() => undefined);
      if (tabSet.polls.has(session.chat_id)) hadWaitingPoll.add(tab);
      const sentAt = Date.now();
      await postByApi(tabSet.site, guest, text);
      return (await seen) - sentAt;
    }),
  );
  const findLongest = (belongs: (tab: Tab) => boolean) =>
    Math.max(...times.filter((_, index) => tabSet.tabs.slice(index, index + 1).some(belongs)));
  return {
    "delivery to the visible tab": findLongest((tab) => tab === visible),
    "delivery to tabs with a waiting poll": findLongest((tab) => hadWaitingPoll.has(tab)),
    "delivery to the other tabs": findLongest((tab) => !hadWaitingPoll.has(tab)),
  };
}

/** Shows each tab, forwards and back, and waits for its poll. Returns the longest of these waits in milliseconds. */
async function switchSlowly(tabSet: TabSet): Promise<number> {
  let longest = 0;
  for (const tab of [...tabSet.tabs, ...tabSet.tabs.toReversed()]) {
    const start = performance.now();
    await bringToFront(tabSet, tab);
    longest = Math.max(longest, performance.now() - start);
  }
  return longest;
}

/**
 * Switches through all tabs without stopping and ends at one of them. Returns the milliseconds until that tab's poll
 * waits for good: at first, a poll that the tab has already aborted may still be waiting. Then checks that the poll
 * keeps waiting while the other tabs poll every two seconds.
 */
async function switchQuickly(tabSet: TabSet): Promise<number> {
  const last = tabSet.tabs[5];
  assert.ok(last);
  await Promise.all([...tabSet.tabs, ...tabSet.tabs, last].map((tab) => changeTo(tabSet, tab)));
  const start = performance.now();
  const { chat_id } = last.session;
  let polls = 0;
  let time = 0;
  await until("the poll of the last tab waits for good", () => {
    const elapsed = performance.now() - start;
    if (polls !== tabSet.polls.total(chat_id)) time = elapsed;
    polls = tabSet.polls.total(chat_id);
    return tabSet.polls.hasVisible(chat_id) && elapsed > time + SETTLED_MS;
  });
  await sleep(6000);
  assert.ok(tabSet.polls.hasVisible(chat_id), "the poll is still waiting");
  assert.equal(tabSet.polls.total(chat_id), polls, "it is the same poll as before");
  return time;
}

/** Makes a tab visible and waits for its poll. */
async function bringToFront(tabSet: TabSet, tab: Tab): Promise<void> {
  await changeTo(tabSet, tab);
  await until("the tab's poll is waiting", () => tabSet.polls.hasVisible(tab.session.chat_id));
}

/** Hides all tabs but one, all at once, because browsers don't specify which tab is notified first. */
async function changeTo(tabSet: TabSet, tab: Tab): Promise<void> {
  await Promise.all(tabSet.tabs.map(({ page }) => setVisible(page, page === tab.page)));
}

async function until(condition: string, isTrue: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!isTrue()) {
    assert.ok(performance.now() < deadline, `Timed out waiting until ${condition}`);
    await sleep(5);
  }
}

async function setVisible(page: Page, visible: boolean): Promise<void> {
  await page.evaluate((detail) => document.dispatchEvent(new CustomEvent("pretend", { detail })), visible);
}

// The functions below run in the page.

/** Lets the test control whether the tab is visible, and marks the time when its first messages are drawn. */
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

/** Returns the milliseconds from the start of navigation until messages are on the screen. */
function whenDrawn(): Promise<number> {
  return new Promise((resolve) => {
    const check = () => {
      const mark = performance.getEntriesByName("drawn")[0];
      if (mark) resolve(mark.startTime);
      else setTimeout(check, 10);
    };
    check();
  });
}

/** Sends a message. Returns the milliseconds until the server has confirmed it. */
function timeSending(text: string): Promise<number> {
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

/** Returns the time, in milliseconds since 1970, at which a message with this text appears. */
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
