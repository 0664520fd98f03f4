// What holds in every state of the page, on any screen: nothing that axe objects to, in light and dark; nothing
// wider than the screen, nothing too small to press; and all of it usable at twice the size.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, suite, test, type TestContext } from "node:test";
import { AxeBuilder } from "@axe-core/playwright";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson } from "./browser.ts";
import { overflowing, PHONE, smallTargets } from "./people.ts";
import { closeScenes, openScenes, type Scene, SCENES } from "./scenes.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
  await openScenes();
});
afterAll(async () => {
  await browser.close();
  await closeScenes();
});

/** These differ from others in what one reads, not in what is on the screen. */
const ALIKE = new Set(["home", "busy-top", "busy-middle", "people-guest", "api", "end", "sending", "home-empty-name"]);

suite("every state, in light and dark, on phones and desktops", { concurrency: 2 }, () => {
  for (const [name, scene] of Object.entries(SCENES)) {
    if (!ALIKE.has(name)) test(name, (t) => assertGood(t, scene));
  }
});

async function assertGood(t: TestContext, scene: Scene): Promise<void> {
  const { page } = await newPerson(t, browser, { ...PHONE, deviceScaleFactor: 2 });
  await scene(page);
  await assertFits(page);
  await assertAccessible(page, true);
  // A screen of 1280 by 800 pixels at 200 %.
  await resize(page, 640, 400);
  await assertFits(page);
  await resize(page, 1280, 800);
  await assertFits(page);
  await assertAccessible(page, false);
  await page.context().setOffline(false);
}

async function resize(page: Page, width: number, height: number): Promise<void> {
  await page.setViewportSize({ width, height });
  await page.waitForFunction((wanted) => innerWidth === wanted && visualViewport?.height === innerHeight, width);
  // The page fits itself to what the browser tells it, a frame later.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

/** Contrast is looked at in both schemes and on each screen; whatever else axe knows depends on neither. */
async function assertAccessible(page: Page, all: boolean): Promise<void> {
  for (const colorScheme of ["dark", "light"] as const) {
    await page.emulateMedia({ colorScheme });
    const axe = new AxeBuilder({ page }).setLegacyMode();
    const isOnlyContrast = !all || colorScheme === "dark";
    const { violations } = await (isOnlyContrast ? axe.withRules("color-contrast") : axe).analyze();
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
    assert.deepEqual(found, [], `${colorScheme}, ${page.viewportSize()?.width} pixels wide`);
  }
}

async function assertFits(page: Page): Promise<void> {
  const size = `at ${page.viewportSize()?.width} pixels`;
  assert.deepEqual(await overflowing(page), [], size);
  assert.deepEqual(await smallTargets(page), [], size);
  assert.deepEqual(await outOfReach(page), [], size);
}

/** What cannot be brought onto the screen by scrolling what it stands in, and fields that make iOS zoom in. */
function outOfReach(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
    const controls = [...top.querySelectorAll<HTMLElement>("button, a, input, textarea")];
    const shown = controls.filter((element) => element.checkVisibility());
    return shown
      .filter((element) => {
        element.scrollIntoView({ block: "nearest" });
        const { left, top: upper, right, bottom } = element.getBoundingClientRect();
        const small = !element.matches("[readonly]") && parseFloat(getComputedStyle(element).fontSize) < 16;
        const isOut = left < 0 || upper < -0.5 || right > innerWidth || bottom > innerHeight + 0.5;
        return isOut ? bottom - upper < innerHeight : element.matches("input, textarea") && small;
      })
      .map((element) => element.id || element.outerHTML);
  });
}
