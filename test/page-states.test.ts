// Rules for every state of the page, on a phone and on a desktop. axe finds nothing to fix, in light and in dark.
// Nothing is wider than the screen or too small to press. Everything still works at 200 % zoom and on
// a phone on its side.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, suite, test, type TestContext } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson } from "./lib/browser.ts";
import { findOverflowing, findSmallTargets, findViolations, PHONE } from "./lib/people.ts";
import { closeScenes, DUPLICATES, openScenes, type Scene, SCENES } from "./lib/scenes.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
  await openScenes();
});
afterAll(async () => {
  await browser.close();
  await closeScenes();
});

suite("every state is accessible and fits, on a phone in dark and on a desktop in light", { concurrency: 2 }, () => {
  for (const [name, scene] of Object.entries(SCENES)) {
    if (!DUPLICATES.has(name)) test(name, (t) => assertUsable(t, scene));
  }
});

async function assertUsable(t: TestContext, scene: Scene): Promise<void> {
  const { page } = await newPerson(t, browser, { ...PHONE, deviceScaleFactor: 2 });
  await scene(page);
  await assertFits(page);
  assert.deepEqual(await findViolations(page, "structure"), []);
  await assertContrast(page, "dark");
  // This is how a screen of 1280 by 800 pixels looks to the page at 200 % zoom.
  await resize(page, 640, 400);
  await assertFits(page);
  // A phone on its side.
  await resize(page, 740, 360);
  await assertFits(page);
  await resize(page, 1280, 800);
  await assertFits(page);
  await assertContrast(page, "light");
  await page.context().setOffline(false);
}

async function resize(page: Page, width: number, height: number): Promise<void> {
  await page.setViewportSize({ width, height });
  await page.waitForFunction((wanted) => innerWidth === wanted && visualViewport?.height === innerHeight, width);
  // The page adapts to the new size one frame after the browser reports it.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

async function assertContrast(page: Page, colorScheme: "dark" | "light"): Promise<void> {
  await page.emulateMedia({ colorScheme });
  assert.deepEqual(await findViolations(page, "contrast"), [], colorScheme);
}

async function assertFits(page: Page): Promise<void> {
  const size = `at ${page.viewportSize()?.width} pixels`;
  assert.deepEqual(await findOverflowing(page), [], size);
  assert.deepEqual(await findSmallTargets(page), [], size);
  assert.deepEqual(await findUnreachable(page), [], size);
}

/**
 * Returns the controls that scrolling cannot bring onto the screen, and the fields with text below 16 px, because iOS
 * zooms in when such a field gets the focus.
 */
function findUnreachable(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
    const controls = [...top.querySelectorAll<HTMLElement>("button, a, input, textarea")];
    const shown = controls.filter((element) => element.checkVisibility());
    return shown
      .filter((element) => {
        element.scrollIntoView({ block: "nearest" });
        const { left, top: upper, right, bottom } = element.getBoundingClientRect();
        const isSmall = !element.matches("[readonly]") && parseFloat(getComputedStyle(element).fontSize) < 16;
        const isOut = left < 0 || upper < -0.5 || right > innerWidth || bottom > innerHeight + 0.5;
        return isOut ? bottom - upper < innerHeight : element.matches("input, textarea") && isSmall;
      })
      .map((element) => element.id || element.outerHTML);
  });
}
