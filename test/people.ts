// What people do on the page, and what scripts do beside them, for the tests in a browser.

import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import type { MessageView, Session } from "../server.ts";
import { newPerson, type Party, startParty } from "./browser.ts";

export const PHONE = { viewport: { width: 320, height: 568 }, hasTouch: true, isMobile: true };

export async function start(page: Page, { origin }: Pick<Party, "origin">, name = "Ana"): Promise<string> {
  await page.goto(origin);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Start a chat" }).click();
  return invitation(page);
}

/** The magic link on the screen. */
export async function invitation(page: Page): Promise<string> {
  await page.waitForFunction(() => document.querySelector<HTMLInputElement>("#link")?.value);
  return page.getByLabel("Invitation link", { exact: true }).inputValue();
}

export async function join(page: Page, link: string, name: string): Promise<void> {
  await page.goto(link);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Join" }).click();
  await isIn(page);
}

/** The log has been filled. (It is hidden while nobody has written and the invitation is there.) */
export async function isIn(page: Page): Promise<void> {
  await page.locator("[role=log]").waitFor({ state: "attached" });
}

export async function say(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** The texts of the log as soon as they are these. */
export async function reads(page: Page, ...texts: string[]): Promise<void> {
  await page.waitForFunction((expected) => {
    const bubbles = Array.from(document.querySelectorAll(".bubble"), (bubble) => bubble.textContent);
    return JSON.stringify(bubbles) === expected && !document.querySelector(".sending");
  }, JSON.stringify(texts));
}

export async function notice(page: Page, text: RegExp): Promise<void> {
  await page.getByRole("status").filter({ hasText: text }).waitFor();
  assert.equal(new URL(page.url()).pathname, "/");
}

export async function openPeople(page: Page): Promise<void> {
  await page.getByRole("button", { name: /^People/ }).click();
}

export async function call<T>(party: Party, method: string, path: string, token = "", body?: object): Promise<T> {
  const headers = token ? { Authorization: `Bearer ${token}` } : undefined;
  const url = party.origin.replace("party.test", "127.0.0.1") + path;
  const response = await fetch(url, {
    method,
    ...(headers && { headers }),
    ...(body && { body: JSON.stringify(body) }),
  });
  assert.ok(response.ok, `${method} ${path.slice(0, 5)}…: ${response.status}`);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: the server's own types
  return (response.status === 204 ? undefined : await response.json()) as T;
}

/** Takes a seat by script, with the link on the screen. */
export async function joinByScript(party: Party, link: string, username: string): Promise<Session> {
  const { pathname, hash } = new URL(link);
  return call<Session>(party, "POST", `${pathname}/join`, hash.replace("#invite=", ""), { username });
}

export async function sayByScript(party: Party, session: Session, text: string): Promise<MessageView> {
  return call<MessageView>(party, "POST", `/${session.chat_id}`, session.session_token, { text });
}

/** The session that a page's browser keeps for the chat it shows. */
export async function sessionOf(page: Page): Promise<Session> {
  const json = await page.evaluate(() => localStorage.getItem(`watch-party chat ${location.pathname.slice(1)}`));
  const { session }: { session: Session } = JSON.parse(json ?? "{}");
  return session;
}

/** Ana's page in a new chat, and Jonas, who is a script, in it as well. */
export async function anaAndJonas(
  t: TestContext,
  browser: Browser,
  options: BrowserContextOptions = {},
): Promise<{ party: Party; page: Page; jonas: Session; link: string }> {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser, options);
  const link = await start(page, party);
  const jonas = await joinByScript(party, link, "Jonas");
  await page.getByRole("heading", { name: "Jonas" }).waitFor();
  return { party, page, jonas, link };
}

/** Elements that are wider than the screen, or than the box they stand in. */
export function overflowing(page: Page): Promise<string[]> {
  return page.evaluate(() =>
    [document.documentElement, ...document.querySelectorAll("#log, dialog, .bubble")]
      .filter((element) => element.scrollWidth > element.clientWidth + 1)
      .map((element) => element.id || element.className || element.tagName),
  );
}

/** What can be pressed and is smaller than 44 px. (A link within a text may be.) */
export function smallTargets(page: Page): Promise<string[]> {
  return page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>("button, header a, input:not([type=checkbox]), label.tick, #message")]
      .map((element) => ({ element, box: element.getBoundingClientRect() }))
      .filter(({ box }) => box.width > 0 && (box.width < 43.9 || box.height < 43.9))
      .map(({ element }) => element.id || element.textContent),
  );
}

/** Presses Tab, or `key`, until the element of that id has the focus. */
export async function tabTo(page: Page, id: string, key = "Tab"): Promise<void> {
  for (let presses = 0; presses < 20; presses++) {
    await page.keyboard.press(key);
    if ((await page.evaluate(() => document.activeElement?.id)) === id) return;
  }
  assert.fail(`${id} is not reached by ${key}`);
}
