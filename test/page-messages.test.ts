// Writing, sending and reading messages, in a real browser.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson, startSite } from "./lib/browser.ts";
import {
  findOverflowing,
  findSmallTargets,
  join,
  joinByApi,
  loseAnswer,
  openPeople,
  PHONE,
  postByApi,
  readTextsByApi,
  sendMessage,
  start,
  startChatWithJonas,
  waitForLog,
  waitForMessages,
  waitForUnsent,
} from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

test("Enter and Ctrl+Enter send, Shift+Enter starts a new line, and an input method's Enter does neither", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  const box = page.getByLabel("Message", { exact: true });
  await box.fill("one");
  await box.press("Shift+Enter");
  await box.pressSequentially("two");
  await box.press("Enter");
  await waitForMessages(page, "one\ntwo");
  await box.fill("three");
  await box.press("Control+Enter");
  await waitForMessages(page, "one\ntwo", "three");
  await box.fill("and on a Mac");
  await box.press("Meta+Enter");
  await waitForMessages(page, "one\ntwo", "three", "and on a Mac");
  await box.fill("かな");
  for (const sign of [{ isComposing: true }, { keyCode: 229 }]) {
    await box.dispatchEvent("keydown", { key: "Enter", ...sign });
  }
  assert.equal(await box.inputValue(), "かな");
  await box.fill("   \n ");
  await box.press("Enter");
  await box.fill("four");
  await box.press("Enter");
  await waitForMessages(page, "one\ntwo", "three", "and on a Mac", "four");
});

test("on a touch screen Enter starts a new line, and the button sends and keeps the keyboard open", async (t) => {
  const { page } = await startChatWithJonas(t, browser, PHONE);
  const box = page.getByLabel("Message", { exact: true });
  assert.notEqual(await page.evaluate(() => document.activeElement?.id), "message");
  await box.tap();
  await box.pressSequentially("one");
  await box.press("Enter");
  await box.pressSequentially("two");
  await page.getByRole("button", { name: "Send" }).tap();
  await waitForMessages(page, "one\ntwo");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "message");
});

test("at 320 px the composer fits on the screen and grows to five lines, and nothing scrolls sideways", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser, PHONE);
  await page.getByRole("button", { name: "Close" }).click();
  const long = "averyveryverylongunbrokenword".repeat(20);
  for (const text of [long, `https://example.org/${long}`, "x\n".repeat(30)]) await postByApi(site, jonas, text);
  const box = page.getByLabel("Message", { exact: true });
  const heights: number[] = [];
  for (const lines of [1, 2, 5, 9]) {
    await box.fill(Array(lines).fill("line").join("\n"));
    heights.push((await box.boundingBox())?.height ?? 0);
    const send = await page.getByRole("button", { name: "Send" }).boundingBox();
    assert.ok(send && send.y + send.height <= 568 && send.x + send.width <= 320);
  }
  assert.ok(heights.every((height) => height >= 44));
  assert.deepEqual(
    heights.map((height) => height - (heights[0] ?? 0)),
    [0, 24, 96, 96],
  );
  assert.deepEqual(await findOverflowing(page), []);
  await openPeople(page);
  assert.deepEqual(await findOverflowing(page), []);
  await page.getByRole("button", { name: "Use the API" }).click();
  assert.deepEqual(await findOverflowing(page), []);
  assert.deepEqual(await findSmallTargets(page), []);
});

test("every control is at least 44 px wide and high", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser, PHONE);
  await page.goto(site.origin);
  assert.deepEqual(await findSmallTargets(page), []);
  await start(page, site);
  assert.deepEqual(await findSmallTargets(page), []);
  await openPeople(page);
  await page.getByRole("button", { name: "Leave" }).click();
  assert.deepEqual(await findSmallTargets(page), []);
});

test("a counter appears near the limit, and a message that is too long is neither sent nor cut", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  const box = page.getByLabel("Message", { exact: true });
  await box.fill("x".repeat(1990));
  await page.getByText("10 characters left").first().waitFor();
  await box.fill("x".repeat(2001));
  const counter = page.locator("#counter");
  await counter.filter({ hasText: "1 character too long" }).waitFor();
  await box.press("Enter");
  assert.equal((await box.inputValue()).length, 2001);
  const [log, note, field] = await Promise.all(
    ["#log", "#counter", "#message"].map((selector) => page.locator(selector).boundingBox()),
  );
  assert.ok(log && note && field && log.y + log.height <= note.y && note.y + note.height <= field.y);
  assert.equal(await page.locator(".bubble").count(), 0);
});

test("the draft survives a reload", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await page.getByLabel("Message", { exact: true }).fill("half a sen");
  await page.reload();
  await waitForLog(page);
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "half a sen");
});

test("messages without an answer survive a reload, and each is sent once and in order as soon as possible", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await page.addInitScript(() => {
    Math.random = () => 0.05;
  });
  await page.route(`**/${jonas.chat_id}`, (route) =>
    route.request().method() === "POST" ? route.abort() : route.continue(),
  );
  for (const text of ["first", "second"]) await sendMessage(page, text);
  await waitForUnsent(page, 2);
  await page.reload();
  await waitForUnsent(page, 2);
  assert.equal(await page.locator("#banner").textContent(), "", "polls get through");
  await page.unroute(`**/${jonas.chat_id}`);
  await waitForMessages(page, "first", "second");
  assert.deepEqual(await readTextsByApi(site, jonas), ["first", "second"]);
  await page.reload();
  await waitForMessages(page, "first", "second");
});

test("a message whose answer was lost is not posted twice", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  // The poll must not deliver the message, so it never gets an answer.
  await page.route(`**/${jonas.chat_id}?**`, () => undefined);
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await loseAnswer(page, (url) => url.pathname === `/${jonas.chat_id}` && !url.search);
  await sendMessage(page, "only once");
  await waitForMessages(page, "only once");
  assert.deepEqual(await readTextsByApi(site, jonas), ["only once"]);
});

test("a message that failed more than ten minutes ago can be sent again after a question, or deleted", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await page.evaluate(() => {
    for (const [index, key] of ["a", "b"].entries()) {
      const old = { key, text: `old ${key}`, at: Date.now() - 660_000 + index, state: "failed", why: "" };
      localStorage.setItem(`watch-party unsent ${location.pathname.slice(1)} ${key}`, JSON.stringify(old));
    }
  });
  await page.reload();
  await page.getByRole("button", { name: "Delete" }).first().click();
  await page.getByRole("button", { name: "Send again?" }).click();
  await waitForMessages(page, "old b");
  assert.equal(await page.evaluate(() => Object.keys(localStorage).filter((key) => key.includes("unsent")).length), 0);
});

test("a chat's name fits on a phone, is cut at its end if too long, and has its own line on the narrowest screens", async (t) => {
  const { page, link, site } = await startChatWithJonas(t, browser, {
    ...PHONE,
    viewport: { width: 390, height: 700 },
  });
  await joinByApi(site, link, "שירה");
  for (const name of ["Mia", "Noa", "Pia"]) await joinByApi(site, link, name);
  await page.waitForFunction(() => document.title.includes("+3"));
  const names = page.locator("#title bdi");
  assert.deepEqual(await names.allTextContents(), ["Jonas", "שירה", ""]);
  const isWhole = await names.evaluateAll((all) => all.every((name) => name.scrollWidth <= name.clientWidth + 1));
  assert.ok(isWhole, "both names fit");
  // A right-to-left name ends on the left, so it is cut there.
  assert.equal(await names.nth(1).evaluate((name) => getComputedStyle(name).direction), "rtl");
  await page.setViewportSize({ width: 340, height: 700 });
  const [title, seats] = [await page.locator("#title").boundingBox(), await page.locator("#seats").boundingBox()];
  assert.ok(title && seats && title.width === 340 - 16 && title.y >= seats.y + seats.height);
  await page.getByRole("heading", { name: /^Jonas ?, שירה ?\+3$/ }).waitFor();
});

/** Returns the name of the animation of each message. */
function readAnimations(page: Page): Promise<string[]> {
  const messages = page.locator(".message");
  return messages.evaluateAll((items) => items.map((item) => getComputedStyle(item).animationName));
}

test("only messages from others are animated, and none if the person prefers reduced motion", async (t) => {
  const { site, page, link, jonas } = await startChatWithJonas(t, browser);
  const animated = (await newPerson(t, browser, { reducedMotion: "no-preference" })).page;
  await join(animated, link, "Mia");
  await postByApi(site, jonas, "one");
  await waitForMessages(animated, "one");
  await sendMessage(animated, "two");
  for (const one of [page, animated]) await waitForMessages(one, "one", "two");
  assert.deepEqual(await readAnimations(page), ["none", "none"]);
  assert.deepEqual(await readAnimations(animated), ["appear", "none"]);
});

test("hostile texts and names stay plain text, and a link leads exactly to the address it shows", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  const mallory = await joinByApi(site, link, "<img src=x onerror=1>");
  const texts = [
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "javascript:alert(1) &lt;b&gt; ${1} {{2}}",
  ];
  for (const text of texts) await postByApi(site, mallory, text);
  await postByApi(site, mallory, "look: https://example.org/a?b=<i>&c. There");
  await waitForMessages(page, ...texts, "look: https://example.org/a?b=<i>&c. There");
  assert.equal(await page.locator(".bubble :is(img, script, b, i)").count(), 0);
  const anchor = page.locator(".bubble a");
  assert.equal(await anchor.count(), 1);
  assert.equal(await anchor.getAttribute("href"), "https://example.org/a?b=");
  assert.equal(await anchor.getAttribute("rel"), "noopener noreferrer nofollow");
  assert.equal(await anchor.getAttribute("target"), "_blank");
  await openPeople(page);
  await page.getByRole("dialog").getByText("<img src=x onerror=1>").waitFor();
  assert.match(await page.title(), /<img/);
});

test("stacked marks, endless words and direction controls cannot affect other messages", async (t) => {
  const { site, page, link, jonas } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  await postByApi(site, jonas, "a quiet line");
  const quiet = page.getByText("a quiet line");
  const takePicture = async (): Promise<Buffer> => {
    const box = await quiet.boundingBox();
    assert.ok(box);
    // Not its edges, which lie between two rows of pixels.
    const clip = { x: box.x + 4, y: Math.round(box.y) + 4, width: box.width - 8, height: Math.round(box.height) - 8 };
    return page.screenshot({ clip });
  };
  const before = await takePicture();
  const mallory = await joinByApi(site, link, "\u0410n\u0430");
  await postByApi(site, mallory, `Z${"\u030d".repeat(400)}algo`);
  await page.getByText("algo").waitFor();
  assert.ok(before.equals(await takePicture()), "the marks reach into another message");
  await postByApi(site, mallory, "\u{1f600}x".repeat(1_000));
  await postByApi(site, mallory, "\u202e\u2066 turned \u05d0");
  await postByApi(site, jonas, "after it");
  const after = page.getByText("after it");
  await after.waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false);
  assert.equal(await page.evaluate(() => (document.querySelector("#log")?.scrollWidth ?? 0) > innerWidth), false);
  assert.equal(await after.evaluate((bubble) => bubble.matches(":dir(ltr)")), true);
  const [box, window] = [await page.locator("#message").boundingBox(), page.viewportSize()];
  assert.ok(box && window && box.y + box.height <= window.height, "the composer is still on the screen");
});

test("messages have a name and a time, a filled log becomes a live region, and each text has its direction", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  for (const text of ["one", "two", "שלום"]) await postByApi(site, jonas, text);
  await page.addInitScript(() => {
    const seen = new MutationObserver(() => {
      const log = document.querySelector("#log");
      if (log?.role !== "log") return;
      document.documentElement.dataset["itemsBeforeRole"] = String(document.querySelectorAll(".message").length);
      seen.disconnect();
    });
    seen.observe(document, { attributes: true, subtree: true });
  });
  await page.reload();
  await waitForMessages(page, "one", "two", "שלום");
  assert.equal(await page.evaluate(() => document.documentElement.dataset["itemsBeforeRole"]), "3");
  assert.ok(await page.getByRole("log").getAttribute("aria-label"));
  const items = page.locator(".message");
  for (let index = 0; index < 3; index++) {
    assert.match((await items.nth(index).locator(".meta").textContent()) ?? "", /^Jonas \d\d:\d\d$/);
  }
  assert.equal(await items.nth(1).locator("time").isVisible(), true, "there for screen readers");
  assert.equal((await items.nth(1).locator(".meta").boundingBox())?.height, 1);
  const direction = await page
    .locator(".bubble")
    .nth(2)
    .evaluate((bubble) => bubble.matches(":dir(rtl)"));
  assert.equal(direction, true);
});

test("the 31st message replaces the oldest without moving the message being read", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  for (let number = 1; number <= 20; number++) await postByApi(site, jonas, `number ${number}`);
  for (let number = 21; number <= 30; number++) await postByApi(site, jonas, `number ${number}`);
  await page.getByText("number 30").waitFor();
  const middle = page.getByText("number 15", { exact: true });
  await middle.evaluate((item) => item.scrollIntoView({ block: "center" }));
  const before = await middle.boundingBox();
  await postByApi(site, jonas, "the 31st");
  await page.getByRole("button", { name: "1 new message" }).waitFor();
  const after = await middle.boundingBox();
  assert.ok(before && after && Math.abs(before.y - after.y) <= 1, `${before?.y} and ${after?.y}`);
  assert.equal(await page.locator(".bubble").count(), 30);
  assert.equal(await page.getByText("number 1", { exact: true }).count(), 0);
  await page.getByRole("button", { name: "1 new message" }).click();
  await page.getByRole("button", { name: "1 new message" }).waitFor({ state: "hidden" });
  await postByApi(site, jonas, "the 32nd");
  await page.getByText("the 32nd").waitFor();
  const last = await page.getByText("the 32nd").boundingBox();
  const log = await page.getByRole("log").boundingBox();
  assert.ok(last && log && last.y + last.height <= log.y + log.height, "the log follows new messages again");
});

test("above a full log, a line says that only the last 30 messages are kept", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  const numbers = Array.from({ length: 31 }, (_, index) => `number ${index + 1}`);
  await page.goto("about:blank");
  for (const text of numbers.slice(0, 20)) await postByApi(site, jonas, text);
  for (const text of numbers.slice(20)) await postByApi(site, jonas, text);
  await page.goBack();
  await waitForMessages(page, ...numbers.slice(1));
  const line = page.getByText("Only the last 30 messages are kept.");
  await line.waitFor();
  await postByApi(site, jonas, "number 32");
  await waitForMessages(page, ...numbers.slice(2), "number 32");
  await line.waitFor();
  const items = await page.locator("#list > li").allTextContents();
  assert.equal(items.length, 30, "the line is not an item of the list");
  const fresh = await startChatWithJonas(t, browser);
  for (const text of numbers.slice(0, 29)) await postByApi(fresh.site, fresh.jonas, text);
  await waitForMessages(fresh.page, ...numbers.slice(0, 29));
  assert.equal(await fresh.page.getByText("Only the last 30 messages are kept.").isVisible(), false);
});

test("while the tab is hidden, the title counts new messages and the icon has a dot", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  const setHidden = (hidden: boolean) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  const icon = () => page.evaluate(() => document.querySelector<HTMLLinkElement>("#icon")?.href);
  const plain = await icon();
  await setHidden(true);
  for (const text of ["one", "two"]) await postByApi(site, jonas, text);
  await page.waitForFunction(() => document.title === "(2) Jonas · Watch Party");
  assert.notEqual(await icon(), plain);
  await setHidden(false);
  assert.equal(await page.title(), "Jonas · Watch Party");
  assert.equal(await icon(), plain);
});

test("polls say whether the tab is visible and which browser it belongs to", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  const polled = page.waitForRequest((request) => request.url().includes("since="));
  await page.reload();
  const query = new URL((await polled).url()).searchParams;
  assert.equal(query.get("wait"), "25");
  assert.equal(query.get("visible"), "1");
  assert.match(query.get("browser") ?? "", /^[\w-]{22}$/);
});

test("sound is off until it is switched on, and then survives a reload", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  await page.addInitScript(() => {
    window.OscillatorNode = class extends OscillatorNode {
      override start(): void {
        const { dataset } = document.documentElement;
        dataset["tones"] = String(Number(dataset["tones"] ?? 0) + 1);
        super.start();
      }
    };
  });
  const tones = (count: number) =>
    page.waitForFunction((wanted) => Number(document.documentElement.dataset["tones"] ?? 0) === wanted, count);
  await page.reload();
  await postByApi(site, jonas, "one");
  await waitForMessages(page, "one");
  await tones(0);
  await openPeople(page);
  await page.getByLabel("Sound for new messages").check();
  await tones(1);
  await postByApi(site, jonas, "two");
  await tones(2);
  await page.reload();
  await waitForMessages(page, "one", "two");
  await page.getByLabel("Message", { exact: true }).click();
  await postByApi(site, jonas, "three");
  await tones(1);
});

test("a banner reports a lost connection after a moment, until the connection is back", async (t) => {
  const { page, jonas } = await startChatWithJonas(t, browser);
  await page.route(`**/${jonas.chat_id}?**`, (route) => route.abort());
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await page.getByRole("status").filter({ hasText: "Connection lost" }).waitFor();
  await page.unroute(`**/${jonas.chat_id}?**`);
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await page.getByText("Connection lost").waitFor({ state: "hidden" });
});
