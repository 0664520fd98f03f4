// How the page sounds in Chromium: the insertions into the log and the live regions, and the focus. A screen reader
// announces what is inserted into a live region, so these tests watch insertions with a MutationObserver.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson, startSite, toLocal } from "./lib/browser.ts";
import {
  call,
  joinByApi,
  openPeople,
  PHONE,
  postByApi,
  sendMessage,
  start,
  startChatWithJonas,
  waitForLog,
  waitForMessages,
  waitForNotice,
} from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

/** Records the text of everything that enters the log from now on: `readInsertions` returns it. */
function watchLog(page: Page): Promise<void> {
  return page.evaluate(() => {
    const log = document.querySelector("#log") ?? document.body;
    const insertions: string[] = [];
    Object.assign(window, { insertions });
    new MutationObserver((records) => {
      for (const node of records.flatMap((record) => [...record.addedNodes])) insertions.push(node.textContent ?? "");
    }).observe(log, { childList: true, characterData: true, subtree: true });
  });
}

/** Returns what has entered the log, without the times. */
async function readInsertions(page: Page): Promise<string[]> {
  const insertions = await page.evaluate(() => ("insertions" in window ? window.insertions : undefined));
  assert.ok(Array.isArray(insertions));
  return insertions.map((text) => String(text).replace(/ \d\d:\d\d/, ": "));
}

test("each message enters a full log once, and no other message does", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  const texts = Array.from({ length: 30 }, (_, index) => `number ${index}`);
  for (const text of texts) await postByApi(site, jonas, text);
  await waitForMessages(page, ...texts);
  await watchLog(page);
  const expected: string[] = [];
  for (let index = 0; index < 3; index++) {
    await postByApi(site, jonas, `from Jonas ${index}`);
    await page.getByText(`from Jonas ${index}`).waitFor();
    await sendMessage(page, `  from Ana ${index}\n`);
    texts.push(`from Jonas ${index}`, `from Ana ${index}`);
    await waitForMessages(page, ...texts.slice(-30));
    expected.push(`Jonas: from Jonas ${index}`, `You: from Ana ${index}`);
  }
  assert.deepEqual(await readInsertions(page), expected);
  assert.ok(
    await page
      .locator(".message")
      .first()
      .evaluate((row) => row.classList.contains("first")),
  );
});

test("a message that could not be sent is inserted once, and stays at the end when another one is sent", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  await watchLog(page);
  await page.route("**/*", (route) => {
    const isRefused = route.request().postData()?.includes("refuse me");
    const json = { error: "invalid_text", message: "No." };
    return isRefused ? route.fulfill({ status: 400, json }) : route.continue();
  });
  await sendMessage(page, "refuse me");
  await page.getByText("can't be sent").waitFor();
  await sendMessage(page, "fine");
  await waitForMessages(page, "fine", "refuse me");
  assert.deepEqual(await readInsertions(page), [
    "You: refuse me",
    "This message can't be sent. Try writing it differently.RetryDelete",
    "You: fine",
  ]);
});

test("focus and selection inside a message survive when the message before it leaves a full log", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  const texts = ["one", "two https://example.org/ and more", ...Array.from({ length: 28 }, (_, index) => `${index}`)];
  for (const text of texts) await postByApi(site, jonas, text);
  await waitForMessages(page, ...texts);
  await page.locator(".bubble a").evaluate((link) => {
    link.focus();
    getSelection()?.selectAllChildren(link.parentElement ?? link);
  });
  await postByApi(site, jonas, "the 31st");
  await page.getByText("the 31st").waitFor();
  assert.equal(await page.getByText("one", { exact: true }).count(), 0);
  const [focus, selection] = await page.evaluate(() => [document.activeElement?.tagName, String(getSelection())]);
  assert.equal(focus, "A");
  assert.equal(selection, texts[1]);
});

interface AccessibleNode {
  role: string;
  name: string;
  description: string;
}

/** Returns what the browser tells a screen reader about the page. */
async function readAccessibleNodes(page: Page): Promise<AccessibleNode[]> {
  const session = await page.context().newCDPSession(page);
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  return nodes
    .filter((node) => !node.ignored)
    .map((node) => ({ role: toText(node.role), name: toText(node.name), description: toText(node.description) }));
}

function toText(property?: { value?: unknown }): string {
  return typeof property?.value === "string" ? property.value : "";
}

/** Returns the ids of the live regions on the screen, after checking that a screen reader knows all of them. */
async function readLiveRegions(page: Page): Promise<string[]> {
  const ids = await page.evaluate(() => {
    const regions = document.querySelectorAll(":is([role=status], [role=alert], [role=log])");
    return [...regions].filter((region) => !region.closest("[hidden], dialog:not([open])")).map((region) => region.id);
  });
  const known = (await readAccessibleNodes(page)).filter(({ role }) => ["status", "alert", "log"].includes(role));
  assert.equal(known.length, ids.length, ids.join(", "));
  return ids;
}

test("a screen reader knows every live region before it has a text", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await page.goto(site.origin);
  assert.deepEqual(await readLiveRegions(page), ["notice", "joinText", "nameError", "codeError"]);
  const link = await start(page, site);
  await waitForLog(page);
  const regions = await readLiveRegions(page);
  for (const id of ["banner", "unsaved", "onlineSpoken", "endingSpoken", "log", "inviteStatus"]) {
    assert.ok(regions.includes(id), id);
  }
  await watchLog(page);
  await joinByApi(site, link, "Jonas");
  await page.getByText("Jonas joined").waitFor();
  assert.deepEqual(await readInsertions(page), ["Jonas joined"]);
});

test("a screen reader hears that the connection is lost and that it is back", async (t) => {
  const { page, jonas } = await startChatWithJonas(t, browser);
  const back = page.locator("#onlineSpoken");
  await page.route(`**/${jonas.chat_id}?**`, (route) => route.abort());
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await page.getByRole("status").filter({ hasText: "Connection lost" }).waitFor();
  assert.equal(await back.textContent(), "");
  await page.unroute(`**/${jonas.chat_id}?**`);
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await back.filter({ hasText: "The connection is back." }).waitFor();
  assert.equal(await page.locator("#banner").textContent(), "");
});

test("on returning home, the focus brings the notice along: to the name field, or by itself on a touch screen", async (t) => {
  for (const options of [{}, PHONE]) {
    const { page } = await startChatWithJonas(t, browser, options);
    await page.evaluate(() => {
      const notice = document.querySelector("#notice") ?? document.body;
      const onText = () => (document.documentElement.dataset["muted"] = String(notice.ariaLive === "off"));
      new MutationObserver(onText).observe(notice, { childList: true });
    });
    await openPeople(page);
    await page.getByRole("button", { name: "Leave" }).click();
    await page.getByRole("dialog", { name: "Leave" }).getByRole("button", { name: "Leave" }).click();
    await waitForNotice(page, /You left the chat/);
    const focus = await page.evaluate(() => document.activeElement?.id);
    assert.equal(focus, options === PHONE ? "notice" : "name");
    const field = (await readAccessibleNodes(page)).find(
      ({ role, name }) => role === "textbox" && name.startsWith("Your name"),
    );
    assert.equal(field?.description, "You left the chat.");
    // The focus has read it. Afterwards the region announces changes again.
    assert.equal(await page.evaluate(() => document.documentElement.dataset["muted"]), "true");
    await page.waitForFunction(() => document.querySelector("#notice")?.ariaLive === null);
  }
});

test("a screen reader hears how much too long a message is: after a pause in typing, and at every try to send it", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  const box = page.getByLabel("Message", { exact: true });
  await page.evaluate(() => {
    const spoken: string[] = [];
    Object.assign(window, { spoken });
    const region = document.querySelector("#counterSpoken") ?? document.body;
    new MutationObserver(() => spoken.push(region.textContent)).observe(region, { childList: true, subtree: true });
  });
  const readSpoken = () => page.evaluate(() => ("spoken" in window ? window.spoken : undefined));
  const waitForSpoken = (expected: string[]) =>
    page.waitForFunction(
      (json) => "spoken" in window && JSON.stringify(window.spoken) === json,
      JSON.stringify(expected),
    );
  await box.fill("x".repeat(2102));
  await box.press("x");
  assert.deepEqual(await readSpoken(), [], "not while typing");
  const expected = ["103 characters too long"];
  await waitForSpoken(expected);
  assert.equal(await box.getAttribute("aria-invalid"), "true");
  // A screen reader may ignore a text that is the same as before, so a space makes the difference.
  for (const spoken of ["103 characters too long\u00a0", "103 characters too long"]) {
    await box.press("Enter");
    expected.push(spoken);
    await waitForSpoken(expected);
  }
  await box.fill("short");
  assert.equal(await box.getAttribute("aria-invalid"), "false");
});

/** Returns the id of the focused element. */
function readFocus(page: Page): Promise<string | undefined> {
  return page.evaluate(() => document.activeElement?.id);
}

test("typing after a dialog was closed goes to the message field, and the space bar reopens nothing", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  const box = page.getByLabel("Message", { exact: true });
  const dialog = page.getByRole("dialog", { name: "People" });
  for (const text of ["hi you", " spaced"]) {
    await box.fill("");
    await openPeople(page);
    await dialog.getByRole("button", { name: "Close" }).click();
    await page.keyboard.type(text);
    assert.equal(await box.inputValue(), text);
    assert.equal(await dialog.isVisible(), false);
  }
  await page.locator("#seats").focus();
  await page.keyboard.press("Control+b");
  assert.equal(await readFocus(page), "seats", "a shortcut is no text");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Space");
  await dialog.waitFor();
  await page.keyboard.type("not in a dialog");
  assert.equal(await box.inputValue(), " spaced");
});

test("typing in a list of choices stays there", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await page.locator("#addresses").evaluate((list) => list.removeAttribute("hidden"));
  await page.locator("#addresses").focus();
  await page.keyboard.type("1");
  assert.equal(await readFocus(page), "addresses");
});

test("a person who leaves hears nothing of the buttons that disappear, nor of an end page", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await page.route("**/leave", async (route) => {
    const response = await route.fetch({ url: toLocal(route.request().url()) });
    // By the time of this second answer, the page has also received the answer to an open poll.
    await page.evaluate(() => fetch("/robots.txt"));
    await route.fulfill({ response });
  });
  await openPeople(page);
  await page.getByRole("button", { name: "Leave" }).click();
  await page.evaluate(() => {
    const focused: string[] = [];
    Object.assign(window, { focused });
    document.addEventListener("focusin", ({ target }) => focused.push(target instanceof Element ? target.id : ""));
  });
  await page.getByRole("dialog", { name: "Leave" }).getByRole("button", { name: "Leave" }).press("Enter");
  await waitForNotice(page, /You left the chat/);
  assert.deepEqual(await page.evaluate(() => Reflect.get(window, "focused")), ["confirm", "name"]);
});

test("if the focused button disappears, the focus goes to the message field, or to the heading in a dialog", async (t) => {
  const { page, jonas, site } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  assert.equal(await readFocus(page), "message", "after closing the invitation");
  const json = { error: "invalid_text", message: "" };
  await page.route("**/*", (route) =>
    route.request().method() === "POST" ? route.fulfill({ status: 422, json }) : route.continue(),
  );
  for (const name of ["Delete", "Retry"]) {
    await sendMessage(page, "hello");
    await page.getByRole("button", { name }).waitFor();
    if (name === "Retry") await page.unrouteAll();
    await page.getByRole("button", { name }).click();
    assert.equal(await readFocus(page), "message", `after ${name}`);
  }
  await waitForMessages(page, "hello");
  await openPeople(page);
  await page.getByLabel("Remove Jonas").focus();
  await call(site, "POST", `/${jonas.chat_id}/leave`, jonas.session_token);
  await page.getByLabel("Remove Jonas").waitFor({ state: "detached" });
  assert.equal(await readFocus(page), "peopleTitle");
});

test("the focus ring of a link stands out from its bubble, in light and dark", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await sendMessage(page, "https://example.org/");
  await page.locator(".own a").waitFor();
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    await page.getByLabel("Message", { exact: true }).focus();
    await page.keyboard.press("Shift+Tab");
    assert.equal(await page.locator(".own a:focus-visible").count(), 1);
    const [ring, bubble] = await page
      .locator(".own a")
      .evaluate((link) => [
        getComputedStyle(link).outlineColor,
        getComputedStyle(link.parentElement ?? link).backgroundColor,
      ]);
    assert.equal(ring, "rgb(255, 255, 255)");
    assert.ok(["rgb(91, 63, 214)", "rgb(74, 58, 168)"].includes(bubble ?? ""), bubble);
  }
});
