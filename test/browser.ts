// A real browser for the page's tests, and a server for it to visit: on http://party.test, which is neither
// https nor localhost, so that whatever a browser withholds from such pages is missing here too.
//
// On Linux the browser is the Chromium that npm has installed (@sparticuz/chromium: no apt, no download); on
// macOS and Windows an installed Chrome or Edge.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { type App, type AppOptions, createApp } from "../server.ts";

const NO_BROWSER = "The page's tests need Google Chrome or Microsoft Edge on this computer, and found neither.";

// Not chromium.args of @sparticuz/chromium: those switch web security off.
const ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP party.test 127.0.0.1"];

/**
 * Starts the browser; an `Error` in one plain sentence where there is none. On Linux with the one font that comes with
 * it, so that a word is as wide on every machine, or else with what this one has (one font has no Hebrew, say).
 */
export async function launchBrowser(fonts: "its own" | "this machine's" = "its own"): Promise<Browser> {
  if (process.platform === "linux") {
    const folder = await unpackChromium();
    const env = fonts === "its own" ? { ...process.env, FONTCONFIG_FILE: `${folder}/fonts.conf` } : process.env;
    return chromium.launch({ args: ARGUMENTS, executablePath: `${folder}/chromium`, env });
  }
  for (const channel of ["chrome", "msedge"]) {
    try {
      return await chromium.launch({ args: ARGUMENTS, channel });
    } catch {
      // The next one may be there.
    }
  }
  throw new Error(NO_BROWSER);
}

/** Why the browser does not start, and what helps, in one sentence; undefined if it starts. */
export async function explainBrowser(): Promise<string | undefined> {
  try {
    await (await launchBrowser()).close();
    return undefined;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    if (process.platform !== "linux") return reason;
    const missing = missingLibraries(spawnSync("ldd", [`${await unpackChromium()}/chromium`]).stdout?.toString() ?? "");
    if (missing.length === 0) return `Chromium, which the page's tests need, does not start here: ${reason}`;
    const command = `apt-get update && apt-get install -y ${packagesOf(missing).join(" ")}`;
    return `Chromium, which the page's tests need, lacks ${missing.join(", ")}: on Debian or Ubuntu, run \`${command}\` as root.`;
  }
}

/** The libraries that ldd(1) did not find. */
export function missingLibraries(ldd: string): string[] {
  return Array.from(ldd.matchAll(/^\s*(\S+) => not found$/gm), ([, name = ""]) => name).toSorted();
}

/** Libraries whose Debian package has another name than they. */
const SHARED_PACKAGES = new Map([
  ["libnssutil3.so", "libnss3"],
  ["libsmime3.so", "libnss3"],
  ["libplc4.so", "libnspr4"],
  ["libplds4.so", "libnspr4"],
]);

/** The Debian packages of some libraries, by Debian's rule for their names (Policy Manual, section 8.1). */
export function packagesOf(libraries: string[]): string[] {
  const names = libraries.map((library) => {
    const [, name = library, version = ""] = /^(.+)\.so\.?(\d*)/.exec(library) ?? [];
    const hyphen = /\d$/.test(name) && version !== "" ? "-" : "";
    return SHARED_PACKAGES.get(library) ?? `${name}${hyphen}${version}`.toLowerCase().replaceAll("_", "-");
  });
  return [...new Set(names)];
}

/**
 * Unpacks Chromium once, below node_modules: it takes ten seconds. Into a folder of its own first, so that
 * test files that start together, or one that is interrupted, never leave a half-written program.
 */
export async function unpackChromium(): Promise<string> {
  const cache = fileURLToPath(new URL("../node_modules/.cache/", import.meta.url));
  const folder = `${cache}chromium-153-fonts`;
  if (!existsSync(folder)) {
    mkdirSync(cache, { recursive: true });
    const unfinished = mkdtempSync(`${cache}chromium-`);
    await unpackInto(unfinished);
    const fonts = `<dir>${folder}/fonts</dir><cachedir>${folder}/fonts-cache</cachedir>`;
    writeFileSync(`${unfinished}/fonts.conf`, `<?xml version="1.0"?>\n<fontconfig>${fonts}</fontconfig>\n`);
    try {
      renameSync(unfinished, folder);
    } catch {
      // Somebody else was first.
      rmSync(unfinished, { recursive: true });
    }
  }
  return folder;
}

async function unpackInto(folder: string): Promise<void> {
  const before = process.env["TMPDIR"];
  process.env["TMPDIR"] = folder;
  const { default: packed } = await import("@sparticuz/chromium");
  assert.equal(await packed.executablePath(), `${folder}/chromium`);
  if (before === undefined) delete process.env["TMPDIR"];
  else process.env["TMPDIR"] = before;
}

export interface Party {
  app: App;
  /** "http://party.test:PORT" */
  origin: string;
}

/** A server in this process, on a free port unless one is given; gone when the test is. */
export async function startParty(t: TestContext, options: AppOptions = {}, port = 0): Promise<Party> {
  // The limits have tests of their own; here scripts write faster than people.
  const app = createApp({ rateLimit: false, ...options });
  await new Promise<void>((resolve) => app.server.listen(port, "127.0.0.1", resolve));
  t.after(() => app.stop());
  const address = app.server.address();
  assert.ok(typeof address === "object" && address);
  return { app, origin: `http://party.test:${address.port}` };
}

/** One person's browser: its own storage, English, and an eye on everything that goes wrong unseen. */
export interface Person {
  context: BrowserContext;
  page: Page;
}

export async function newPerson(
  t: TestContext,
  browser: Browser,
  options: BrowserContextOptions = {},
): Promise<Person> {
  const context = await browser.newContext({
    locale: "en-GB",
    viewport: { width: 1000, height: 700 },
    reducedMotion: "reduce",
    ...options,
  });
  context.setDefaultTimeout(8000);
  const complaints: string[] = [];
  context.on("weberror", (error) => complaints.push(`error: ${error.error().message}`));
  context.on("console", (message) => complaints.push(`${message.type()}: ${message.text()}`));
  await context.addInitScript(() =>
    document.addEventListener("securitypolicyviolation", (event) => console.error(event.violatedDirective)),
  );
  t.after(async () => {
    await context.close();
    // Some flows cut the connection or are refused on purpose, which Chromium reports by itself.
    const unexpected = complaints.filter((text) => !text.includes("Failed to load resource"));
    assert.deepEqual(unexpected, [], "the console stays empty");
  });
  return { context, page: await context.newPage() };
}
