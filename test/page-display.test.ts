// How the page adapts to the way it is displayed: a larger font, forced colors, paper, long names, an odd language.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson, startSite } from "./lib/browser.ts";
import { findOverflowing, findSmallTargets, joinByApi, openPeople, PHONE, start } from "./lib/people.ts";
import { closeScenes, openScenes, SCENES } from "./lib/scenes.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
  await openScenes();
});
afterAll(async () => {
  await browser.close();
  await closeScenes();
});

/** Sets the browser's own font size, which a person chooses in its settings. */
async function setFontSize(page: Page, pixels: number): Promise<void> {
  const session = await page.context().newCDPSession(page);
  await session.send("Page.setFontSizes", { fontSizes: { standard: pixels, fixed: pixels } });
}

function readFontSize(page: Page, selector: string): Promise<number> {
  return page
    .locator(selector)
    .first()
    .evaluate((element) => parseFloat(getComputedStyle(element).fontSize));
}

/** Returns the buttons that are too narrow for their text. */
function findNarrowButtons(page: Page): Promise<string[]> {
  const buttons = page.locator("button:visible");
  return buttons.evaluateAll((all) => all.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.id));
}

test("at 320 pixels the page follows a browser's font size of 24 pixels, and everything fits", async (t) => {
  const { page } = await newPerson(t, browser, PHONE);
  const scenes = ["join", "chat-new", "chat-closing", "log-full", "message-long", "message-refused"] as const;
  for (const name of [...scenes, "dialog-people-creator", "dialog-remove", "dialog-api"] as const) {
    await SCENES[name](page);
    await setFontSize(page, 24);
    await page.waitForFunction(() => getComputedStyle(document.body).fontSize === "24px");
    assert.deepEqual(await findOverflowing(page), [], name);
    assert.deepEqual(await findSmallTargets(page), [], name);
    assert.deepEqual(await findNarrowButtons(page), [], name);
    if (name === "log-full") {
      const sizes = [".bubble", ".meta", "time", "#message", "#title"].map((one) => readFontSize(page, one));
      assert.deepEqual(await Promise.all(sizes), [24, 19.5, 18, 24, 21]);
    }
    await setFontSize(page, 16);
    await page.context().setOffline(false);
    await page.unrouteAll();
  }
});

test("bubbles and seats have an edge in forced colors and on paper", async (t) => {
  const { page } = await newPerson(t, browser);
  await SCENES["log-full"](page);
  const readEdges = () =>
    page
      .locator(".bubble:not(.emoji), #seats .seat")
      .evaluateAll((all) => [...new Set(all.map((one) => getComputedStyle(one).borderStyle))].toSorted());
  assert.ok((await readEdges()).includes("none"));
  await page.emulateMedia({ forcedColors: "active" });
  assert.deepEqual(await readEdges(), ["solid"]);
  // An emoji has no bubble.
  const edge = await page.locator(".emoji").evaluateAll((all) => all.map((one) => getComputedStyle(one).borderStyle));
  assert.deepEqual([...new Set(edge)], ["none"]);
  await page.emulateMedia({ forcedColors: "none", media: "print" });
  assert.deepEqual(await readEdges(), ["solid"]);
});

test("a dark page prints dark text on white, and the whole log instead of the part on the screen", async (t) => {
  const { page } = await newPerson(t, browser, { colorScheme: "dark" });
  await SCENES["log-full"](page);
  await page.emulateMedia({ colorScheme: "dark", media: "print" });
  const colors = await page
    .locator(".bubble, .meta bdi, time, body, h1")
    .evaluateAll((all) => all.map((one) => getComputedStyle(one).color));
  assert.ok(colors.length > 90);
  const canvas = await page.evaluate(
    (texts) => {
      const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      return texts.map((text) => {
        if (!pen) return 255;
        pen.fillStyle = text;
        pen.fillRect(0, 0, 1, 1);
        return Math.max(...pen.getImageData(0, 0, 1, 1).data.slice(0, 3));
      });
    },
    [...new Set(colors)],
  );
  assert.ok(Math.max(...canvas) < 200, String(canvas));
  const height = await page.evaluate(() => document.documentElement.scrollHeight);
  const first = await page.locator(".message").first().boundingBox();
  assert.ok(height > 1500 && first && first.y >= 0, `${height} pixels high`);
});

test("a long second name does not cut a short first name out of the title", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser, { viewport: { width: 400, height: 700 } });
  const link = await start(page, site);
  for (const name of ["Jo", "Wilhelmina Alexandrina W", "Mia"]) await joinByApi(site, link, name);
  await page.waitForFunction(() => document.title.includes("+1"));
  const widths = await page
    .locator("#title bdi")
    .evaluateAll((all) => all.map((name) => ({ shown: name.clientWidth, whole: name.scrollWidth })));
  assert.ok(widths[0] && widths[0].shown >= widths[0].whole, "Jo");
  assert.ok(widths[1] && widths[1].shown < widths[1].whole && widths[1].shown >= 24, "Wilhelmina");
});

test("the label of the seats counts who is in the chat and who is online", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await start(page, site);
  await page.getByRole("button", { name: "People: 1 of 6 in the chat, 1 online" }).waitFor();
});

test("a tooltip says what each symbol is for, the seats look like a button, and the API comes last", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await start(page, site);
  const titles = ["#home", "#seats", "#send"].map((id) => page.locator(id).getAttribute("title"));
  assert.deepEqual(await Promise.all(titles), ["Home, all your chats", "People: 1 of 6 in the chat, 1 online", "Send"]);
  const edges = ["#seats", "#inviteOpen"].map((id) =>
    page.locator(id).evaluate((button) => getComputedStyle(button).borderColor),
  );
  const [seats, invite] = await Promise.all(edges);
  assert.equal(seats, invite);
  await openPeople(page);
  const buttons = page.getByRole("dialog").getByRole("button");
  assert.deepEqual(await buttons.allTextContents(), ["", "Leave", "End chat", "Use the API"]);
});

test("the reason why a message was refused is at the end of the line, below the message", async (t) => {
  const { page } = await newPerson(t, browser, PHONE);
  await SCENES["message-refused"](page);
  const ends = await page.locator(".status span").evaluateAll((all) =>
    all.map((one) => {
      const range = document.createRange();
      range.selectNodeContents(one);
      return one.getBoundingClientRect().right - range.getBoundingClientRect().right;
    }),
  );
  assert.equal(ends.length, 2);
  assert.ok(Math.max(...ends) < 1, String(ends));
  await page.unrouteAll();
});

test("at 320 pixels the clock beside a long message that is being sent is not cut off", async (t) => {
  const { page } = await newPerson(t, browser, PHONE);
  await SCENES["message-sending"](page);
  const left = await page.locator(".sending .bubble").evaluateAll((bubbles) =>
    bubbles.map((bubble) => {
      const { width, right } = getComputedStyle(bubble, "::after");
      const row = bubble.parentElement?.getBoundingClientRect().left ?? 0;
      return bubble.getBoundingClientRect().right - parseFloat(right) - parseFloat(width) - row;
    }),
  );
  assert.equal(left.length, 3);
  assert.ok(Math.min(...left) >= 0, String(left));
  await page.unrouteAll();
});

test("a browser that reports a malformed language still shows the page", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await page.addInitScript(() => Object.defineProperty(navigator, "languages", { value: ["en-US@posix", "en"] }));
  await page.goto(site.origin);
  await page.getByRole("button", { name: "Start a chat" }).waitFor();
});
