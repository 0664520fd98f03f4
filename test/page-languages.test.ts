// The page in other languages than English, in Chromium.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, suite, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson, startSite } from "./lib/browser.ts";
import {
  findCutTexts,
  findOverflowing,
  findViolations,
  join,
  PHONE,
  sendMessage,
  start,
  waitForMessages,
} from "./lib/people.ts";
import { closeScenes, DUPLICATES, openScenes, SCENES } from "./lib/scenes.ts";
import { LANGUAGES, languageOf } from "./lib/texts.ts";

let browser: Browser;
beforeAll(async () => {
  // With the fonts of this machine: the bundled font has no Arabic and no Japanese.
  browser = await launchBrowser("system");
  await openScenes();
});
afterAll(async () => {
  await browser.close();
  await closeScenes();
});

/** A language with long words, one from right to left, and one without spaces. */
const EXAMPLES = ["de", "ar", "ja"];

for (const language of EXAMPLES) {
  suite(`in ${language}, every state fits on the narrowest phone and is accessible`, { concurrency: 2 }, () => {
    for (const [name, scene] of Object.entries(SCENES)) {
      test(name, async (t) => {
        const { page } = await newPerson(t, browser, { ...PHONE, locale: language });
        await scene(page);
        await assertFits(page, language);
        // test/page-states.test.ts does this for a page from left to right.
        if (language !== "de" && !DUPLICATES.has(name)) assert.deepEqual(await findViolations(page, "structure"), []);
      });
    }
  });
}

/** The states with the most words in little room. */
const NARROW = ["home", "join", "chat-new", "dialog-people-creator", "dialog-remove"] as const;

suite("in every other language, home and invitation fit on the narrowest phone", { concurrency: 2 }, () => {
  for (const language of LANGUAGES) {
    if (EXAMPLES.includes(language)) continue;
    test(language, async (t) => {
      const { page } = await newPerson(t, browser, { ...PHONE, locale: language });
      for (const name of NARROW) {
        await SCENES[name](page);
        await assertFits(page, language);
      }
    });
  }
});

/** Checks that the page is in this language, in its direction, and that everything fits. */
async function assertFits(page: Page, language: string): Promise<void> {
  assert.equal(await languageOf(page), language);
  const direction = ["ar", "he"].includes(language) ? "rtl" : "ltr";
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).direction), direction);
  assert.deepEqual([...(await findOverflowing(page)), ...(await findCutTexts(page))], [], await page.title());
}

test("six people read one chat in six languages", async (t) => {
  const site = await startSite(t);
  const languages = Array.from({ length: 6 }, (_, seat) => LANGUAGES[seat % LANGUAGES.length] ?? "en");
  const people = [];
  for (const locale of languages) people.push((await newPerson(t, browser, { locale })).page);
  const [creator, ...guests] = people;
  assert.ok(creator);
  const link = await start(creator, site);
  for (const [index, page] of guests.entries()) await join(page, link, `Guest ${index}`);
  const texts: string[] = [];
  for (const [index, page] of people.entries()) {
    texts.push(`I read ${languages[index]}`);
    await sendMessage(page, texts.at(-1) ?? "");
    for (const reader of people) await waitForMessages(reader, ...texts);
  }
  assert.deepEqual(await Promise.all(people.map(languageOf)), languages);
});

test("in Arabic the page is mirrored, and links, codes and names keep their own direction", async (t) => {
  const { page } = await newPerson(t, browser, { locale: "ar" });
  await SCENES["log-full"](page);
  const middle = (selector: string) =>
    page.evaluate((wanted) => {
      const box = document.querySelector(wanted)?.getBoundingClientRect();
      return box ? (box.left + box.right) / 2 : 0;
    }, selector);
  const center = await middle("body");
  assert.ok((await middle("#home")) > center && (await middle("#seats")) < center);
  assert.ok((await middle(".own .bubble")) < center && (await middle(".message:not(.own) .bubble")) > center);
  assert.ok((await middle("#send")) < center);
  const style = (selector: string, name: string) =>
    page.evaluate(
      ([wanted = "", property = ""]) => {
        const element = document.querySelector(wanted);
        return element ? getComputedStyle(element).getPropertyValue(property) : "";
      },
      [selector, name],
    );
  assert.equal(await style(".own .bubble", "border-bottom-left-radius"), "6px");
  assert.equal(await style(".message:not(.own) .bubble", "border-top-right-radius"), "6px");
  assert.equal(await style(".bubble a", "direction"), "ltr");
  assert.equal(await style("#home svg", "scale"), "-1 1");
  await page.click("#inviteOpen");
  assert.equal(await style("#link", "unicode-bidi"), "plaintext");
});

test("times are in the page's language, in the regional form of the browser", async (t) => {
  for (const [locale, time] of [
    ["en-GB", /, \d\d:\d\d · /],
    ["en-US", /, \d{1,2}:\d\d\s[AP]M · /],
    ["de-AT", /, \d\d:\d\d · /],
    ["ar-EG", /، [٠-٩]{1,2}:[٠-٩]{2}\s[صم] · /],
  ] as const) {
    const { page } = await newPerson(t, browser, { locale });
    await start(page, await startSite(t));
    assert.match((await page.title()).replace(/[\u200e\u200f\u2068\u2069]/g, ""), time, locale);
  }
});
