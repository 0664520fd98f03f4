// Lighthouse gives the page full scores, on a phone and on a desktop. The home screen has them in every category, in one
// language for each script. A chat, with messages and a waiting poll, has them in all categories but SEO, because
// robots.txt keeps search engines away from chats.
//
// The tests audit 127.0.0.1, which browsers trust like https. On any other plain http address, the missing https
// alone costs points.

import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import lighthouse, { type Config, desktopConfig, type Result } from "lighthouse";
import { type Browser, launch, type Page } from "puppeteer-core";
import { startSite, unpackChromium } from "../lib/browser.ts";
import { createChat, postByApi } from "../lib/people.ts";
import { LANGUAGES } from "../lib/texts.ts";
import { median, RUNS } from "./measure.ts";
import { watchPolls } from "./polls.ts";

const ALL = ["performance", "accessibility", "best-practices", "seo"];
const ALL_BUT_SEO = ALL.slice(0, 3);

/** Lighthouse simulates a phone by a slowdown of four, which assumes a machine of at least this benchmark index. */
const EXPECTED_SPEED = 1_500;

let browser: Browser;
const speeds: number[] = [];
before(async () => {
  const executablePath = `${await unpackChromium()}/chromium`;
  // Lighthouse needs a browser started by Puppeteer.
  browser = await launch({ executablePath, headless: "shell", args: ["--no-sandbox", "--disable-gpu"] });
});
after(() => browser.close());

for (const screen of ["mobile", "desktop"] as const) {
  test(`home has full scores on ${screen}`, { timeout: 300_000 }, async (t) => {
    const { localOrigin } = await startSite(t);
    await assertFullScores(t, screen, ALL, async () => localOrigin);
  });

  test(`a chat has full scores on ${screen}`, { timeout: 300_000 }, async (t) => {
    const site = await startSite(t);
    const polls = watchPolls(site.app.server);
    const [ana, jonas] = await createChat(site, "Ana", "Jonas");
    for (let line = 1; line <= 30; line++) {
      await postByApi(site, line % 3 ? jonas : ana, `Line ${line}: https://example.org/${line} שלום 🎉`);
    }
    await postByApi(site, jonas, "🎉");
    await assertFullScores(t, screen, ALL_BUT_SEO, async (page) => {
      await page.goto(`${site.localOrigin}/robots.txt`);
      await page.evaluate(
        (key, value) => localStorage.setItem(key, value),
        `watch-party chat ${ana.chat_id}`,
        JSON.stringify({ session: ana, title: "Jonas", isInviting: false }),
      );
      return `${site.localOrigin}/${ana.chat_id}`;
    });
    // There can be more, because Lighthouse also leaves the page and returns, to test the back-forward cache.
    assert.ok(polls.total(ana.chat_id) >= RUNS, "the chat was polling in each run");
  });
}

/** One language for each script: Arabic for Arabic letters, Japanese for Japanese, and so on. */
const BY_SCRIPT = Map.groupBy(LANGUAGES, (language) => new Intl.Locale(language).maximize().script);

for (const [language = "en"] of BY_SCRIPT.values()) {
  test(`home has full scores on mobile in ${language}`, { timeout: 300_000 }, async (t) => {
    const { localOrigin } = await startSite(t);
    await assertFullScores(t, "mobile", ALL, async () => localOrigin, language);
  });
}

/**
 * Returns the slowdown that makes this machine as slow as Lighthouse's phone, by the benchmark index of the audits so
 * far. It is 4 on a fast machine and less on a slow one.
 */
function computeSlowdown(): number {
  return speeds.length === 0 ? 4 : Math.min(4, Math.max(1, (4 * median(speeds)) / EXPECTED_SPEED));
}

/** Audits the address that `prepare` returns three times, and expects a median score of 100 in each category. */
async function assertFullScores(
  t: TestContext,
  screen: "mobile" | "desktop",
  categories: string[],
  prepare: (page: Page) => Promise<string>,
  language = "en",
): Promise<void> {
  const scores = new Map<string, number[]>(categories.map((category) => [category, []]));
  const losses = new Set<string>();
  const page = await browser.newPage();
  for (let run = 0; run < RUNS; run++) {
    const address = await prepare(page);
    const { lhr } = await audit(page, address, screen, categories, language);
    for (const [category, score] of readScores(lhr, losses)) scores.get(category)?.push(score);
    speeds.push(lhr.environment.benchmarkIndex);
  }
  t.diagnostic(
    `speed of this machine: ${speeds.slice(-RUNS).join(", ")}; slowdown on mobile: ${computeSlowdown().toFixed(1)}`,
  );
  for (const [category, values] of scores) t.diagnostic(`${category}: ${values.join(", ")}`);
  const medians = Object.fromEntries([...scores].map(([category, values]) => [category, median(values)]));
  const full = Object.fromEntries(categories.map((category) => [category, 100]));
  assert.deepEqual(medians, full, [...losses].join("\n"));
  await page.close();
}

async function audit(
  page: Page,
  address: string,
  screen: "mobile" | "desktop",
  onlyCategories: string[],
  language: string,
) {
  const extraHeaders = { "Accept-Language": language };
  const flags = { onlyCategories, extraHeaders, disableStorageReset: true, logLevel: "error" } as const;
  const mobileConfig: Config = {
    extends: "lighthouse:default",
    settings: { throttling: { cpuSlowdownMultiplier: computeSlowdown() } },
  };
  const result = await lighthouse(address, flags, screen === "desktop" ? desktopConfig : mobileConfig, page);
  assert.ok(result, "Lighthouse returned nothing");
  assert.equal(result.lhr.runtimeError, undefined);
  assert.equal(result.lhr.finalDisplayedUrl, new URL(address).href);
  return result;
}

/** Returns the scores by category, 0 to 100. Adds the audits that cost points to `losses`. */
function readScores({ categories, audits }: Result, losses: Set<string>): [string, number][] {
  return Object.entries(categories).map(([category, { score, auditRefs }]) => {
    for (const { id, weight } of auditRefs) {
      const result = audits[id];
      const lost = weight > 0 && result?.score !== null && result?.score !== undefined && result.score < 1;
      if (lost) losses.add(`${category}: ${id}, ${result.title} (${result.displayValue ?? result.score})`);
    }
    return [category, Math.round((score ?? 0) * 100)];
  });
}
