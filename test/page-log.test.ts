// The log in a real browser, and what becomes of texts that were written but not sent.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson } from "./lib/browser.ts";
import {
  call,
  findOverflowing,
  join,
  PHONE,
  postByApi,
  readSession,
  readTextsByApi,
  sendMessage,
  setVisible,
  startChatWithJonas,
  tabTo,
  waitForLog,
  waitForMessages,
  waitForUnsent,
} from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

const messageField = (page: Page) => page.getByLabel("Message", { exact: true });

// ---------------------------------------------------------------------------------------------------------
// Unsent text in a chat that has ended.

test("the end page keeps its reason and the unsent text through a reload, until its button is pressed", async (t) => {
  const { page, jonas, link } = await startChatWithJonas(t, browser);
  const { page: mia } = await newPerson(t, browser);
  await join(mia, link, "Mia");
  await mia.route(`**/${jonas.chat_id}`, (route) => route.abort());
  await sendMessage(mia, "never sent");
  await waitForUnsent(mia, 1);
  await messageField(mia).fill("half a sen");
  await page.getByRole("button", { name: /^People/ }).click();
  await page.getByRole("button", { name: "Remove Mia" }).click();
  await page.getByRole("button", { name: "Remove", exact: true }).click();
  for (const reload of [false, true]) {
    await mia.unroute(`**/${jonas.chat_id}`);
    if (reload) await mia.reload();
    await mia.getByRole("heading", { name: "You are no longer in this chat" }).waitFor();
    await mia.getByText("The chat stays open for the others.").waitFor();
    assert.equal(await mia.getByLabel("Your unsent text").inputValue(), "never sent\n\nhalf a sen");
  }
  await mia.getByRole("button", { name: "Back to the start" }).click();
  await mia.getByRole("button", { name: "Start a chat" }).waitFor();
  assert.equal(await mia.locator("#chats li").count(), 0);
  assert.deepEqual(await mia.evaluate(() => Object.keys(localStorage).filter((key) => key.includes(" draft "))), []);
});

test("home lists a chat that has ended while it has unsent text, and forgets one without", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await messageField(page).fill("half a sen");
  await page.getByRole("link", { name: "Home" }).click();
  await page.getByRole("link", { name: /^Jonas.* left$/ }).waitFor();
  await page.goto("about:blank");
  const chat = site.app.chats.get(jonas.chat_id);
  assert.ok(chat);
  site.app.chats.end(chat);
  await page.goto(site.origin);
  await page.getByRole("link", { name: /^Jonas.*unsent text$/ }).click();
  await page.getByRole("heading", { name: "This chat has ended" }).waitFor();
  assert.equal(await page.getByLabel("Your unsent text").inputValue(), "half a sen");
  await page.goBack();
  await page.getByRole("link", { name: /^Jonas/ }).waitFor();
  await page.goForward();
  await page.getByRole("button", { name: "Back to the start" }).click();
  await page.getByRole("button", { name: "Start a chat" }).waitFor();
  assert.equal(await page.locator("#chats li").count(), 0);
});

test("a person who is removed and joins again finds the unsent text in the message field", async (t) => {
  const { site, page: ana, jonas, link } = await startChatWithJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  await page.route(`**/${jonas.chat_id}`, (route) => route.abort());
  await sendMessage(page, "never sent");
  await waitForUnsent(page, 1);
  const { session_token } = await readSession(ana);
  await call(site, "DELETE", `/${jonas.chat_id}/members/3`, session_token);
  await page.getByRole("heading", { name: "You are no longer in this chat" }).waitFor();
  await page.unroute(`**/${jonas.chat_id}`);
  await join(page, link, "Mia");
  assert.equal(await messageField(page).inputValue(), "never sent");
  await waitForLog(page);
  await waitForMessages(page);
});

// ---------------------------------------------------------------------------------------------------------
// Sending.

test("pasted code keeps its shape, and a message that no one could see is not sent", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await sendMessage(page, "\u200b\u2060");
  assert.equal(await messageField(page).inputValue(), "\u200b\u2060");
  await sendMessage(page, "    if (x) {\n      y();\n    }");
  await waitForMessages(page, "if (x) {\n  y();\n}");
  assert.deepEqual(await readTextsByApi(site, jonas), ["if (x) {\n  y();\n}"]);
});

test("on a device with a wrong clock, a message has the server's time before and after it is sent", async (t) => {
  const { page, jonas } = await startChatWithJonas(t, browser, { timezoneId: "UTC" });
  await page.clock.install({ time: Date.now() + 5 * 3600_000 });
  // The next answer tells the page the server's time.
  await page.reload();
  await waitForLog(page);
  const times = page.locator("#list time");
  await page.route(`**/${jonas.chat_id}`, (route) => route.abort());
  await sendMessage(page, "what time is it?");
  await waitForUnsent(page, 1);
  const shown = (await times.getAttribute("datetime")) ?? "";
  assert.ok(Math.abs(Date.parse(shown) - Date.now()) < 60_000, shown);
});

// ---------------------------------------------------------------------------------------------------------
// Content of the log.

test("code is shown as it was typed, scrolls within its message, and its button copies it", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser, PHONE);
  const script = `for (const a of b) {\n\tconsole.log("${"long ".repeat(40)}");\n}`;
  await postByApi(site, jonas, `Try <b>this</b>:\n\`\`\`js\n${script}\n\`\`\`\nand \`npm ci\` *then*`);
  const block = page.locator("pre");
  assert.equal(await block.textContent(), script);
  assert.equal(await page.locator("code").textContent(), "npm ci");
  const text = await page.locator(".bubble").evaluate((bubble) => [...bubble.childNodes].map((node) => node.nodeName));
  assert.deepEqual(text, ["#text", "DIV", "#text", "CODE", "#text"]);
  assert.ok(await block.evaluate((pre) => pre.scrollWidth > pre.clientWidth));
  assert.match(await block.evaluate((pre) => getComputedStyle(pre).fontFamily), /monospace/);
  assert.deepEqual(await findOverflowing(page), []);
  const copy = page.locator(".code button");
  const opacity = () => copy.evaluate((button) => getComputedStyle(button).opacity);
  await page.mouse.move(0, 0);
  assert.equal(await opacity(), "0");
  await block.focus();
  assert.equal(await opacity(), "1");
  await copy.click();
  assert.equal(await copy.textContent(), "Copied");
  await messageField(page).focus();
  await page.keyboard.press("Control+V");
  assert.equal(await messageField(page).inputValue(), script);
});

test("the focus ring of code in an own message stands out from the bubble", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await sendMessage(page, "```\ncode\n```");
  await page.locator(".own pre").waitFor();
  await messageField(page).focus();
  for (const element of [".code button", "pre"]) {
    await page.keyboard.press("Shift+Tab");
    const own = page.locator(`.own ${element}:focus-visible`);
    const { ring, color } = await own.evaluate((node) => {
      const style = getComputedStyle(node);
      return { ring: style.outlineColor, color: style.color };
    });
    assert.equal(ring, color, element);
  }
});

test("the time of a message within a group is shown when the message or the log has the focus", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  for (const text of ["one", "two"]) await postByApi(site, jonas, text);
  await waitForMessages(page, "one", "two");
  const note = (text: string) =>
    page.getByText(text, { exact: true }).evaluate((bubble) => getComputedStyle(bubble, "::after").content);
  assert.equal(await note("two"), "none");
  await page.getByText("two", { exact: true }).click();
  assert.match(await note("two"), /^"\d\d:\d\d"/);
  assert.match((await page.getByText("two", { exact: true }).getAttribute("title")) ?? "", /20\d\d.*:\d\d:\d\d/);
  await messageField(page).focus();
  assert.equal(await note("two"), "none");
  await tabTo(page, "log", "Shift+Tab");
  assert.match(await note("two"), /^"\d\d:\d\d"/);
  assert.equal(await note("one"), "none", "the first message of a group shows its time anyway");
});

test("on returning to a hidden tab, a line marks the first unread message, until the tab is left again", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await postByApi(site, jonas, "read");
  await waitForMessages(page, "read");
  await setVisible(page, false);
  for (const text of ["unread", "unread too"]) await postByApi(site, jonas, text);
  await waitForMessages(page, "read", "unread", "unread too");
  await setVisible(page, true);
  const texts = () =>
    page
      .locator("#list > li")
      .evaluateAll((all) => all.map((item) => item.querySelector(".bubble")?.textContent ?? item.textContent));
  assert.deepEqual(await texts(), ["Jonas joined", "read", "New", "unread", "unread too"]);
  await setVisible(page, false);
  assert.deepEqual(await texts(), ["Jonas joined", "read", "unread", "unread too"]);
});
