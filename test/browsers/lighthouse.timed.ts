// Lighthouse gives full marks, on a phone and on a desktop: to the home page in everything, to a chat (with
// messages, its poll held open) in all but SEO, as robots.txt keeps chats from search engines.
//
// It audits 127.0.0.1, which browsers trust like https: on any other plain http address a part of the marks
// is for https alone.

import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import lighthouse, { type Config, desktopConfig, type Result } from "lighthouse";
import { type Browser, launch, type Page } from "puppeteer-core";
import { startParty, unpackChromium } from "../browser.ts";
import { makeChat, say } from "./chats.ts";
import { median, RUNS } from "./measure.ts";
import { watchPolls } from "./polls.ts";

const ALL = ["performance", "accessibility", "best-practices", "seo"];
const ALL_BUT_SEO = ALL.slice(0, 3);

/** Lighthouse makes the processor four times slower to stand for a phone, and means one of this speed at least. */
const EXPECTED_SPEED = 1_500;

let browser: Browser;
const speeds: number[] = [];
before(async () => {
  const executablePath = `${await unpackChromium()}/chromium`;
  // Lighthouse wants a browser that Puppeteer has started.
  browser = await launch({ executablePath, headless: "shell", args: ["--no-sandbox", "--disable-gpu"] });
});
after(() => browser.close());

for (const screen of ["mobile", "desktop"] as const) {
  test(`home has full marks on ${screen}`, { timeout: 300_000 }, async (t) => {
    const { origin } = await startParty(t);
    await assertFullMarks(t, screen, ALL, async () => origin.replace("party.test", "127.0.0.1"));
  });

  test(`a chat has full marks on ${screen}`, { timeout: 300_000 }, async (t) => {
    const { app, origin } = await startParty(t);
    const polls = watchPolls(app.server);
    const local = origin.replace("party.test", "127.0.0.1");
    const [ana, jonas] = await makeChat(local, "Ana", "Jonas");
    for (let line = 1; line <= 30; line++) {
      await say(local, line % 3 ? jonas : ana, `Line ${line}: https://example.org/${line} שלום 🎉`);
    }
    await say(local, jonas, "🎉");
    await assertFullMarks(t, screen, ALL_BUT_SEO, async (page) => {
      await page.goto(`${local}/robots.txt`);
      await page.evaluate(
        (key, seat) => localStorage.setItem(key, seat),
        `watch-party chat ${ana.chat_id}`,
        JSON.stringify({ session: ana, title: "Jonas", isInviting: false }),
      );
      return `${local}/${ana.chat_id}`;
    });
    // More where Lighthouse goes away and comes back, to see whether the browser keeps the page for that.
    assert.ok(polls.total(ana.chat_id) >= RUNS, "each time the chat was live");
  });
}

/** By the benchmark index of the audits so far: on a slower machine it takes less to be as slow as that phone. */
function slowdown(): number {
  return speeds.length === 0 ? 4 : Math.min(4, Math.max(1, (4 * median(speeds)) / EXPECTED_SPEED));
}

/** Audits three times the address that `prepare` gives. */
async function assertFullMarks(
  t: TestContext,
  screen: "mobile" | "desktop",
  categories: string[],
  prepare: (page: Page) => Promise<string>,
): Promise<void> {
  const marks = new Map<string, number[]>(categories.map((category) => [category, []]));
  const losses = new Set<string>();
  const page = await browser.newPage();
  for (let run = 0; run < RUNS; run++) {
    const address = await prepare(page);
    const { lhr } = await audit(page, address, screen, categories);
    for (const [category, mark] of marksOf(lhr, losses)) marks.get(category)?.push(mark);
    speeds.push(lhr.environment.benchmarkIndex);
  }
  t.diagnostic(
    `speed of this machine: ${speeds.slice(-RUNS).join(", ")}; slowdown on mobile: ${slowdown().toFixed(1)}`,
  );
  for (const [category, values] of marks) t.diagnostic(`${category}: ${values.join(", ")}`);
  const medians = Object.fromEntries([...marks].map(([category, values]) => [category, median(values)]));
  const full = Object.fromEntries(categories.map((category) => [category, 100]));
  assert.deepEqual(medians, full, [...losses].join("\n"));
  await page.close();
}

async function audit(page: Page, address: string, screen: "mobile" | "desktop", categories: string[]) {
  const flags = { onlyCategories: categories, disableStorageReset: true, logLevel: "error" } as const;
  const mobileConfig: Config = {
    extends: "lighthouse:default",
    settings: { throttling: { cpuSlowdownMultiplier: slowdown() } },
  };
  const result = await lighthouse(address, flags, screen === "desktop" ? desktopConfig : mobileConfig, page);
  assert.ok(result, "Lighthouse gave no answer");
  assert.equal(result.lhr.runtimeError, undefined);
  assert.equal(result.lhr.finalDisplayedUrl, new URL(address).href);
  return result;
}

/** The marks by category, 0 to 100; what cost some goes to `losses`. */
function marksOf({ categories, audits }: Result, losses: Set<string>): [string, number][] {
  return Object.entries(categories).map(([category, { score, auditRefs }]) => {
    for (const { id, weight } of auditRefs) {
      const found = audits[id];
      const lost = weight > 0 && found?.score !== null && found?.score !== undefined && found.score < 1;
      if (lost) losses.add(`${category}: ${id}, ${found.title} (${found.displayValue ?? found.score})`);
    }
    return [category, Math.round((score ?? 0) * 100)];
  });
}
