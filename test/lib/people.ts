// Actions of people on the page, and API calls beside it, for the tests in a browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import type axe from "axe-core";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import type { InviteReply, MessageView, Session } from "../../server.ts";
import { newPerson, startSite, type TestSite, toLocal } from "./browser.ts";
import { send } from "./helpers.ts";
import { waitForText } from "./texts.ts";

declare global {
  interface Window {
    axe: typeof axe;
  }
}

export const PHONE = { viewport: { width: 320, height: 568 }, hasTouch: true, isMobile: true };

// ---------------------------------------------------------------------------------------------------------
// The page.

/** Starts a chat and returns its invitation link. */
export async function start(page: Page, { origin }: Pick<TestSite, "origin">, name = "Ana"): Promise<string> {
  await page.goto(origin);
  await page.fill("#name", name);
  await page.click("#joinSubmit");
  return readInviteLink(page);
}

/** Waits until the page shows an invitation link, and returns it. */
export async function readInviteLink(page: Page): Promise<string> {
  await page.waitForFunction(() => document.querySelector<HTMLInputElement>("#link")?.value);
  return page.inputValue("#link");
}

export async function join(page: Page, link: string, name: string): Promise<void> {
  await page.goto(link);
  await page.fill("#name", name);
  await page.click("#joinSubmit");
  await waitForLog(page);
}

/** Waits for the first poll of a chat. (A log without messages is hidden while the invitation is shown.) */
export async function waitForLog(page: Page): Promise<void> {
  await page.locator("[role=log]").waitFor({ state: "attached" });
}

export async function sendMessage(page: Page, text: string): Promise<void> {
  await page.fill("#message", text);
  await page.click("#send");
}

/** Waits until the log consists of exactly these messages, all of them sent. */
export async function waitForMessages(page: Page, ...texts: string[]): Promise<void> {
  await page.waitForFunction((expected) => {
    const bubbles = Array.from(document.querySelectorAll(".bubble"), (bubble) => bubble.textContent);
    return JSON.stringify(bubbles) === expected && !document.querySelector(".sending, .unsent");
  }, JSON.stringify(texts));
}

/** Waits until the log has this many messages that wait for the connection. */
export async function waitForUnsent(page: Page, count: number): Promise<void> {
  await page.waitForFunction((wanted) => document.querySelectorAll(".unsent > .bubble").length === wanted, count);
  await waitForText(page, "message.unsent");
}

/** Waits until the home screen shows a notice with this text. */
export async function waitForNotice(page: Page, text: RegExp): Promise<void> {
  await page.getByRole("status").filter({ hasText: text }).waitFor();
  assert.equal(new URL(page.url()).pathname, "/");
}

export async function openPeople(page: Page): Promise<void> {
  await page.click("#seats");
}

/** Returns the session that the browser has stored for the chat on the screen. */
export async function readSession(page: Page): Promise<Session> {
  const json = await page.evaluate(() => localStorage.getItem(`watch-party chat ${location.pathname.slice(1)}`));
  const { session }: { session: Session } = JSON.parse(json ?? "{}");
  return session;
}

/** Opens Ana's page in a new chat. Jonas joins the chat through the API. */
export async function startChatWithJonas(
  t: TestContext,
  browser: Browser,
  options: BrowserContextOptions = {},
): Promise<{ site: TestSite; page: Page; jonas: Session; link: string }> {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser, options);
  const link = await start(page, site);
  const jonas = await joinByApi(site, link, "Jonas");
  await page.getByRole("heading", { name: "Jonas" }).waitFor();
  return { site, page, jonas, link };
}

/** Makes the page believe that it is visible or hidden. */
export async function setVisible(page: Page, visible: boolean): Promise<void> {
  await page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    Object.defineProperty(document, "visibilityState", { value: hidden ? "hidden" : "visible", configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, !visible);
}

/** Lets the next request to a matching address reach the server, and drops its answer. */
export async function loseAnswer(page: Page, pattern: string | ((url: URL) => boolean)): Promise<void> {
  await page.route(
    pattern,
    async (route) => {
      await route.fetch({ url: toLocal(route.request().url()) });
      await route.abort();
    },
    { times: 1 },
  );
}

/** Sends the request of a curl command as the page shows it, without needing curl. */
export function runCommand(site: TestSite, command: string): Promise<Response> {
  const words = Array.from(command.matchAll(/"([^"]*)"|(\S+)/g), ([, quoted, plain]) => quoted ?? plain ?? "");
  const headers = new Headers();
  let body: string | undefined;
  let method = "";
  for (const [index, word] of words.entries()) {
    const value = words[index + 1] ?? "";
    if (word === "-H") headers.set(value.split(": ")[0] ?? "", value.split(": ")[1] ?? "");
    if (word === "-X") method = value;
    if (word === "-d") body = value;
  }
  const url = (words.at(-1) ?? "").replace(site.origin, site.localOrigin);
  return fetch(url, { method: method || (body ? "POST" : "GET"), headers, ...(body && { body }) });
}

/**
 * Returns the elements with content wider than themselves: the page as a whole, the log, dialogs and bubbles. (Beside a
 * bubble with the focus stands its time, and beside one that is being sent a sign.)
 */
export function findOverflowing(page: Page): Promise<string[]> {
  return page.evaluate(() =>
    [document.documentElement, ...document.querySelectorAll("#log, dialog, .bubble:not(:focus, .sending > *)")]
      .filter((element) => element.scrollWidth > element.clientWidth + 1)
      .map((element) => element.id || element.className || element.tagName),
  );
}

/** Returns the texts that are wider than their elements. Names in titles are cut on purpose. */
export function findCutTexts(page: Page): Promise<string[]> {
  return page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>("button, label, a, h1, h2, p, li, span")]
      .filter((element) => element.checkVisibility() && !element.closest("#title, .title, .unseen, .meta"))
      .filter((element) => element.textContent.trim() !== "" && element.clientWidth > 0)
      .filter((element) => element.scrollWidth > element.clientWidth + 1)
      .map((element) => element.id || element.textContent),
  );
}

/** Returns the controls that are smaller than 44 px. (A link within a text may be smaller.) */
export function findSmallTargets(page: Page): Promise<string[]> {
  return page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>("button, header a, input:not([type=checkbox]), label.tick, #message")]
      .map((element) => ({ element, box: element.getBoundingClientRect() }))
      .filter(({ box }) => box.width > 0 && (box.width < 43.9 || box.height < 43.9))
      .map(({ element }) => element.id || element.textContent),
  );
}

/**
 * Returns what axe finds wrong on the page as it looks now: the contrast of its colors, or everything else.
 *
 * Runs axe itself, because axe's package for Playwright takes eight times as long for a page without frames.
 */
export async function findViolations(page: Page, subject: "contrast" | "structure"): Promise<string[]> {
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(AXE);
  return page.evaluate(async (isContrast) => {
    const { violations } = await window.axe.run(document, {
      resultTypes: ["violations"],
      ...(isContrast ? { runOnly: ["color-contrast"] } : { rules: { "color-contrast": { enabled: false } } }),
    });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  }, subject === "contrast");
}

const AXE = readFileSync(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");

/** Presses Tab, or `key`, until the element with this id has the focus. */
export async function tabTo(page: Page, id: string, key = "Tab"): Promise<void> {
  for (let presses = 0; presses < 20; presses++) {
    await page.keyboard.press(key);
    if ((await page.evaluate(() => document.activeElement?.id)) === id) return;
  }
  assert.fail(`${key} does not reach ${id}`);
}

/**
 * Reads a QR code of `count` by `count` modules from a canvas, by the pixel in the middle of each module. Returns the
 * canvas's width in pixels and which modules are dark.
 */
export function readCode(page: Page, id: string, count: number): Promise<{ width: number; dark: boolean[] }> {
  return page.evaluate(
    ([canvasId, across]) => {
      const canvas = document.querySelector<HTMLCanvasElement>(`#${canvasId}`);
      const pixels = canvas?.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height).data;
      if (!canvas || !pixels) throw new Error("There is no code.");
      const module = canvas.width / across;
      const middle = (index: number) => Math.floor((index + 0.5) * module);
      const dark = Array.from({ length: across ** 2 }, (_, index) => {
        const [x, y] = [middle(index % across), middle(Math.floor(index / across))];
        return pixels[4 * (y * canvas.width + x)] === 0;
      });
      return { width: canvas.width, dark };
    },
    [id, count] as const,
  );
}

// ---------------------------------------------------------------------------------------------------------
// The API. Every answer is checked against openapi.json, and an error makes the call throw.

type Server = Pick<TestSite, "port">;

/** Sends a request and returns the body of its answer. Throws if the answer is an error. */
export async function call<T>(
  { port }: Server,
  method: string,
  path: string,
  token?: string,
  body?: object,
): Promise<T> {
  const reply = await send({ port }, method, path, { ...(token && { token }), ...(body && { body }) });
  assert.ok(reply.status < 300, `${method} ${path.slice(0, 5)}…: ${reply.status}`);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: the server's own types
  return reply.body as T;
}

/** Creates a chat with these members, the first of them its creator. */
export async function createChat<Others extends string[]>(
  server: Server,
  creator: string,
  ...others: Others
): Promise<[Session, ...{ [Index in keyof Others]: Session }]>;
export async function createChat(server: Server, creator: string, ...others: string[]): Promise<Session[]> {
  const first = await call<Session>(server, "POST", "/create", undefined, { username: creator });
  const sessions = [first];
  if (others.length === 0) return sessions;
  const { magic_link } = await createInvite(server, first);
  for (const username of others) sessions.push(await joinByApi(server, magic_link, username));
  return sessions;
}

export async function createInvite(server: Server, { chat_id, session_token }: Session): Promise<InviteReply> {
  return call<InviteReply>(server, "POST", `/${chat_id}/invite`, session_token);
}

/** Joins a chat with the invitation link from a page. */
export async function joinByApi(server: Server, link: string, username: string): Promise<Session> {
  const { pathname, hash } = new URL(link);
  return call<Session>(server, "POST", `${pathname}/join`, hash.replace("#invite=", ""), { username });
}

export async function postByApi(server: Server, session: Session, text: string): Promise<MessageView> {
  return call<MessageView>(server, "POST", `/${session.chat_id}`, session.session_token, { text });
}

/** Returns the texts of the messages that the server has, in its order. */
export async function readTextsByApi(server: Server, { chat_id, session_token }: Session): Promise<string[]> {
  const { messages } = await call<{ messages: MessageView[] }>(server, "GET", `/${chat_id}`, session_token);
  return messages.map(({ text }) => text);
}
