// A real browser for the page's tests, and a server for it to open. The browser reaches the server as
// http://party.test, which is neither https nor localhost. Browsers withhold some APIs from such pages, so the
// tests have to manage without them too.
//
// On Linux the browser is the Chromium from npm (@sparticuz/chromium), which needs no apt package and no further
// download. On macOS and Windows it is an installed Chrome or Edge.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { type App, type AppOptions, createApp } from "../../server.ts";

const NO_BROWSER = "The page's tests need Google Chrome or Microsoft Edge. Neither is installed on this computer.";

// @sparticuz/chromium has its own list, `chromium.args`, but that one turns web security off.
const ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP party.test 127.0.0.1"];

/**
 * Starts the browser. Throws an `Error` with one plain sentence if no browser is installed. On Linux, `fonts` chooses
 * between the font bundled with Chromium, which makes a word equally wide on every machine, and all fonts of this
 * machine, which cover more scripts (the bundled font has no Hebrew, for example). A machine may have no fonts at all.
 */
export async function launchBrowser(fonts: "bundled" | "system" = "bundled"): Promise<Browser> {
  if (process.platform === "linux") {
    const folder = await unpackChromium();
    const env = { ...process.env, FONTCONFIG_FILE: `${folder}/${fonts}.conf` };
    return chromium.launch({ args: ARGUMENTS, executablePath: `${folder}/chromium`, env });
  }
  for (const channel of ["chrome", "msedge"]) {
    try {
      return await chromium.launch({ args: ARGUMENTS, channel });
    } catch {
      // Try the next one.
    }
  }
  throw new Error(NO_BROWSER);
}

/** Returns one sentence that says why the browser does not start and how to fix it; undefined if it starts. */
export async function explainBrowser(): Promise<string | undefined> {
  try {
    await (await launchBrowser()).close();
    return undefined;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    if (process.platform !== "linux") return reason;
    const missing = missingLibraries(spawnSync("ldd", [`${await unpackChromium()}/chromium`]).stdout?.toString() ?? "");
    if (missing.length === 0) return `Chromium, which the page's tests need, does not start: ${reason}`;
    const command = `apt-get update && apt-get install -y ${packagesOf(missing).join(" ")}`;
    const problem = `Chromium, which the page's tests need, is missing ${missing.join(", ")}.`;
    return `${problem} On Debian or Ubuntu, run \`${command}\` as root.`;
  }
}

/** Returns the libraries that ldd(1) reported as missing. */
export function missingLibraries(ldd: string): string[] {
  return Array.from(ldd.matchAll(/^\s*(\S+) => not found$/gm), ([, name = ""]) => name).toSorted();
}

/** Libraries whose Debian package does not follow the naming rule below. */
const SHARED_PACKAGES = new Map([
  ["libnssutil3.so", "libnss3"],
  ["libsmime3.so", "libnss3"],
  ["libplc4.so", "libnspr4"],
  ["libplds4.so", "libnspr4"],
]);

/** Returns the Debian packages of some libraries, by Debian's naming rule (Policy Manual, section 8.1). */
export function packagesOf(libraries: string[]): string[] {
  const names = libraries.map((library) => {
    const [, name = library, version = ""] = /^(.+)\.so\.?(\d*)/.exec(library) ?? [];
    const hyphen = /\d$/.test(name) && version !== "" ? "-" : "";
    return SHARED_PACKAGES.get(library) ?? `${name}${hyphen}${version}`.toLowerCase().replaceAll("_", "-");
  });
  return [...new Set(names)];
}

/**
 * Unpacks Chromium below node_modules, which takes ten seconds, and returns its folder. Later calls find it there.
 * Each call unpacks into a temporary folder and then renames it, so test files that start together, or one that is
 * interrupted, never leave a half-written program behind.
 */
export async function unpackChromium(): Promise<string> {
  const cache = fileURLToPath(new URL("../../node_modules/.cache/", import.meta.url));
  const folder = `${cache}chromium-153-font-sets`;
  if (!existsSync(folder)) {
    mkdirSync(cache, { recursive: true });
    const unfinished = mkdtempSync(`${cache}chromium-`);
    await unpackInto(unfinished);
    const fonts = `<dir>${folder}/fonts</dir><cachedir>${folder}/fonts-cache</cachedir>`;
    const system = '<include ignore_missing="yes">/etc/fonts/fonts.conf</include>';
    writeFileSync(`${unfinished}/bundled.conf`, `<?xml version="1.0"?>\n<fontconfig>${fonts}</fontconfig>\n`);
    writeFileSync(`${unfinished}/system.conf`, `<?xml version="1.0"?>\n<fontconfig>${system}${fonts}</fontconfig>\n`);
    try {
      renameSync(unfinished, folder);
    } catch {
      // Another test file was faster.
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

export interface TestSite {
  app: App;
  /** The address for the browser: "http://party.test:PORT". */
  origin: string;
  /** The address for requests from Node: "http://127.0.0.1:PORT". */
  localOrigin: string;
  port: number;
}

/** Starts a server in this process, by default on a free port. It stops when the test ends. */
export async function startSite(t: TestContext, options: AppOptions = {}, port = 0): Promise<TestSite> {
  // Other tests cover the rate limits. Here the scripts write faster than people do.
  const app = createApp({ rateLimit: false, ...options });
  const site = await openSite(app, port);
  t.after(() => app.stop());
  return site;
}

/** Makes an app listen on a port, and returns it with its addresses. */
export async function openSite(app: App, port = 0): Promise<TestSite> {
  await new Promise<void>((resolve) => app.server.listen(port, "127.0.0.1", resolve));
  const address = app.server.address();
  assert.ok(typeof address === "object" && address);
  const origin = `http://party.test:${address.port}`;
  return { app, origin, localOrigin: toLocal(origin), port: address.port };
}

/** Returns an address of the site for requests from Node, which cannot resolve party.test. */
export function toLocal(address: string): string {
  return address.replace("party.test", "127.0.0.1");
}

/** One person's browser, with separate storage. */
export interface Person {
  context: BrowserContext;
  page: Page;
}

/** Opens a browser for one person, in English. The test fails if its console has any message at the end. */
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
  const consoleMessages: string[] = [];
  context.on("weberror", (error) => consoleMessages.push(`error: ${error.error().message}`));
  context.on("console", (message) => consoleMessages.push(`${message.type()}: ${message.text()}`));
  await context.addInitScript(() =>
    document.addEventListener("securitypolicyviolation", (event) => console.error(event.violatedDirective)),
  );
  t.after(async () => {
    await context.close();
    // Chromium itself reports failed requests. Some tests cut the connection or provoke an error on purpose.
    const unexpected = consoleMessages.filter((text) => !text.includes("Failed to load resource"));
    assert.deepEqual(unexpected, [], "the console stays empty");
  });
  return { context, page: await context.newPage() };
}
