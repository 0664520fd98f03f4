// Takes screenshots of every state of the page, for a person to review: `node test/screenshots.ts`, after a build.
// They go to dist/screenshots/. With an argument, it takes only those whose scene and screen ("log-full phone-dark")
// contain the argument. With --language de it takes them in German, into dist/screenshots/de/. With --readme it takes
// the README's two pictures instead, into docs/. To make those smaller, run `pngquant --force --ext .png docs/*.png`.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Browser, BrowserContextOptions } from "playwright-core";
import { launchBrowser } from "./lib/browser.ts";
import { closeScenes, openReadmeChat, openScenes, type Scene, SCENES } from "./lib/scenes.ts";

const { values: flags, positionals } = parseArgs({
  options: { language: { type: "string" }, readme: { type: "boolean" } },
  allowPositionals: true,
});
const locale = flags.language ?? "en-GB";
const FOLDER = fileURLToPath(new URL(`../dist/screenshots/${flags.language ?? ""}`, import.meta.url));
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
  "landscape-light": { ...phone, viewport: { width: 740, height: 360 }, colorScheme: "light" },
  "landscape-dark": { ...phone, viewport: { width: 740, height: 360 }, colorScheme: "dark" },
  // How a desktop's window of 1280 by 800 pixels looks to the page at 200 % zoom.
  "zoomed-light": { viewport: { width: 640, height: 400 }, deviceScaleFactor: 2, colorScheme: "light" },
  "phone-forced": { ...phone, viewport: { width: 390, height: 844 }, colorScheme: "dark", forcedColors: "active" },
  "desktop-forced": { viewport: { width: 1280, height: 800 }, colorScheme: "light", forcedColors: "active" },
};

async function takeAll(browser: Browser, wanted: string): Promise<void> {
  mkdirSync(FOLDER, { recursive: true });
  for (const screen of Object.keys(SCREENS)) {
    for (const [name, scene] of Object.entries(SCENES)) {
      if (!`${name} ${screen}`.includes(wanted)) continue;
      await takeScreenshot(browser, screen, scene, join(FOLDER, `${name}.${screen}.png`));
    }
  }
}

/** Uses a new browser context for each screenshot, so no scene finds what another one has left in the storage. */
async function takeScreenshot(browser: Browser, screen: string, scene: Scene, file: string): Promise<void> {
  const context = await browser.newContext({ locale, reducedMotion: "reduce", ...SCREENS[screen] });
  context.setDefaultTimeout(8000);
  const page = await context.newPage();
  try {
    await scene(page);
    await page.waitForTimeout(100);
    await page.screenshot({ path: file });
  } catch (error) {
    console.error(`${file}: ${String(error)}`);
    process.exitCode = 1;
  }
  await context.close();
}

const browser = await launchBrowser("system");
await openScenes();
const [wanted = ""] = positionals;
if (flags.readme) {
  await takeScreenshot(browser, "desktop-light", openReadmeChat, `${DOCS}chat.png`);
  await takeScreenshot(browser, "phone-dark", openReadmeChat, `${DOCS}chat-phone.png`);
} else {
  await takeAll(browser, wanted);
}
await browser.close();
await closeScenes();
