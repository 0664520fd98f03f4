// Pictures of every state of the page, into dist/screenshots/, to be looked at: `node test/screenshots.ts`,
// after a build. With an argument, only those whose name and screen ("busy phone-dark") contain it; with --readme
// the two pictures of the README instead, into docs/. (Smaller still by `pngquant --force --ext .png docs/*.png`.)

import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContextOptions } from "playwright-core";
import { launchBrowser } from "./browser.ts";
import { closeScenes, openEvening, openScenes, type Scene, SCENES } from "./scenes.ts";

const FOLDER = fileURLToPath(new URL("../dist/screenshots/", import.meta.url));
const DOCS = fileURLToPath(new URL("../docs/", import.meta.url));
const phone = { hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
const SCREENS: Record<string, BrowserContextOptions> = {
  "phone-light": { ...phone, viewport: { width: 390, height: 844 }, colorScheme: "light" },
  "phone-dark": { ...phone, viewport: { width: 390, height: 844 }, colorScheme: "dark" },
  "desktop-light": { viewport: { width: 1280, height: 800 }, colorScheme: "light" },
  "desktop-dark": { viewport: { width: 1280, height: 800 }, colorScheme: "dark" },
  "small-light": { ...phone, viewport: { width: 320, height: 568 }, colorScheme: "light" },
  "small-dark": { ...phone, viewport: { width: 320, height: 568 }, colorScheme: "dark" },
  "tablet-light": { ...phone, viewport: { width: 768, height: 1024 }, colorScheme: "light" },
  "tablet-dark": { ...phone, viewport: { width: 768, height: 1024 }, colorScheme: "dark" },
};

async function takeAll(browser: Browser, wanted: string): Promise<void> {
  mkdirSync(FOLDER, { recursive: true });
  for (const screen of Object.keys(SCREENS)) {
    for (const name of Object.keys(SCENES)) {
      if (!`${name} ${screen}`.includes(wanted)) continue;
      await take(browser, screen, SCENES[name], `${FOLDER}${name}.${screen}.png`);
    }
  }
}

/** A browser of its own for each picture, so that no scene finds what another has left behind. */
async function take(browser: Browser, screen: string, scene: Scene | undefined, file: string): Promise<void> {
  const context = await browser.newContext({ locale: "en-GB", reducedMotion: "reduce", ...SCREENS[screen] });
  context.setDefaultTimeout(8000);
  const page = await context.newPage();
  try {
    await scene?.(page);
    await page.waitForTimeout(100);
    await page.screenshot({ path: file });
  } catch (error) {
    console.error(`${file}: ${String(error)}`);
    process.exitCode = 1;
  }
  await context.close();
}

const browser = await launchBrowser("this machine's");
await openScenes();
const [wanted = ""] = process.argv.slice(2);
if (wanted === "--readme") {
  await take(browser, "desktop-light", openEvening, `${DOCS}chat.png`);
  await take(browser, "phone-dark", openEvening, `${DOCS}chat-phone.png`);
} else {
  await takeAll(browser, wanted);
}
await browser.close();
await closeScenes();
