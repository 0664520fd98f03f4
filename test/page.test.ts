// The page in a real browser, on http://party.test. To the browser this address is as insecure as
// http://192.168.1.42, so the page has no navigator.clipboard, no randomUUID and no locks. Each test starts a server
// and new browsers, and fails if a browser's console has any message at the end.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test, type TestContext } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson, startSite, type TestSite, toLocal } from "./lib/browser.ts";
import {
  call,
  createInvite,
  findOverflowing,
  findSmallTargets,
  join,
  joinByApi,
  openPeople,
  PHONE,
  postByApi,
  readCode,
  readInviteLink,
  readSession,
  readTextsByApi,
  sendMessage,
  start,
  startChatWithJonas,
  tabTo,
  waitForLog,
  waitForMessages,
  waitForNotice,
  waitForUnsent,
} from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

// ---------------------------------------------------------------------------------------------------------
// Starting a chat, inviting, joining, returning.

test("a new chat shows its invitation, and Copy copies the link even on an insecure page", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  const link = await start(page, site);
  assert.equal(await page.evaluate(() => isSecureContext), false);
  assert.match(link, new RegExp(`^${site.origin}/[\\w-]{16}#invite=[\\w.-]{74}$`));
  assert.equal(page.url(), link.split("#")[0]);
  assert.match(await page.title(), /^New chat, \d\d:\d\d · Watch Party$/);
  await page.getByText("Let up to 5 people scan this").waitFor();
  await page.getByText("1 of 6 in the chat").waitFor();
  await page.getByRole("button", { name: "Copy" }).click();
  await page.getByText("Copied").waitFor();
  await page.getByLabel("Message", { exact: true }).focus();
  await page.keyboard.press("ControlOrMeta+V");
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), link);
});

test("two people talk, and return through a reload, a new tab and the list on the home screen", async (t) => {
  const site = await startSite(t);
  const ana = await newPerson(t, browser);
  const jonas = await newPerson(t, browser);
  await join(jonas.page, await start(ana.page, site), "Jonas");
  assert.ok(!jonas.page.url().includes("#"), "the address doesn't show the token");
  await sendMessage(jonas.page, "Hello from Jonas");
  await waitForMessages(ana.page, "Hello from Jonas");
  await sendMessage(ana.page, "Hello from Ana");
  await waitForMessages(jonas.page, "Hello from Jonas", "Hello from Ana");
  await ana.page.getByText("Jonas joined").waitFor();
  await ana.page.reload();
  await waitForMessages(ana.page, "Hello from Jonas", "Hello from Ana");
  await jonas.page.close();
  const again = await jonas.context.newPage();
  await again.goto(site.origin);
  assert.equal(await again.getByLabel("Your name").inputValue(), "Jonas");
  await again.getByRole("link", { name: /Ana.* left$/ }).click();
  await waitForMessages(again, "Hello from Jonas", "Hello from Ana");
  await sendMessage(again, "Back");
  await waitForMessages(ana.page, "Hello from Jonas", "Hello from Ana", "Back");
  await again.goBack();
  await again.getByRole("heading", { name: "Your chats" }).waitFor();
  await again.goForward();
  await waitForMessages(again, "Hello from Jonas", "Hello from Ana", "Back");
});

test("the invitation stays while others join and write, until the creator writes", async (t) => {
  const { site, page, jonas, link } = await startChatWithJonas(t, browser);
  await postByApi(site, jonas, "I am in");
  await waitForMessages(page, "I am in");
  await page.getByText("2 of 6 in the chat").waitFor();
  await page.reload();
  await page.getByRole("button", { name: "Copy" }).waitFor();
  await sendMessage(page, "Welcome");
  await page.getByRole("button", { name: "Copy" }).waitFor({ state: "hidden" });
  assert.equal(await readInviteLink(page), await page.getByLabel("Invitation link", { exact: true }).inputValue());
  await page.getByRole("button", { name: "Invite" }).click();
  await page.getByRole("dialog").getByText("2 of 6 in the chat").waitFor();
  await joinByApi(site, link, "Mia");
  await page.getByRole("dialog").getByText("3 of 6 in the chat").waitFor();
});

test("the invitation closes when the last seat is taken or its close button is pressed", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  for (const name of ["Mia", "Noa", "Olaf"]) await joinByApi(site, link, name);
  await page.getByText("5 of 6 in the chat").waitFor();
  await joinByApi(site, link, "Pia");
  await page.getByRole("button", { name: "Copy" }).waitFor({ state: "hidden" });
  const other = await page.context().newPage();
  await start(other, site);
  await other.getByRole("button", { name: "Close" }).click();
  await other.getByRole("button", { name: "Copy" }).waitFor({ state: "hidden" });
});

test("the QR code contains the link, has whole pixels and a margin, and fills the screen when pressed", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  const link = await start(page, site);
  const { generate } = await import("lean-qr/nano");
  const code = generate(link);
  await page.getByRole("button", { name: /QR code/ }).click();
  for (const id of ["qr", "largeQr"]) {
    const { width, dark } = await readCode(page, id, code.size + 8);
    assert.equal(width % (code.size + 8), 0);
    for (let y = -4; y < code.size + 4; y++)
      for (let x = -4; x < code.size + 4; x++) {
        assert.equal(dark[(y + 4) * (code.size + 8) + x + 4], code.get(x, y), `module ${x}, ${y}`);
      }
  }
  await page.keyboard.press("Escape");
  await page.locator("#largeQr").waitFor({ state: "hidden" });
});

test("the name field shows an error if the name is empty, too long or taken", async (t) => {
  const site = await startSite(t);
  const ana = await newPerson(t, browser);
  const page = (await newPerson(t, browser)).page;
  await ana.page.goto(site.origin);
  await ana.page.getByRole("button", { name: "Start a chat" }).click();
  await ana.page.getByRole("alert").filter({ hasText: "enter a name" }).waitFor();
  await page.goto(await start(ana.page, site));
  await page.getByText("Ana is in this chat. There is room for 5 more.").waitFor();
  for (const [name, error] of [
    ["", "enter a name"],
    ["x".repeat(25), "24 characters"],
    ["ANA", "Someone here is already called ANA. Please choose another name."],
  ] as const) {
    await page.getByLabel("Your name").fill(name);
    await page.getByRole("button", { name: "Join" }).click();
    await page.getByRole("alert").filter({ hasText: error }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement?.id), "name");
    assert.equal(await page.getByLabel("Your name").getAttribute("aria-invalid"), "true");
  }
});

test("a seventh person lands on the home screen with the reason", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  for (const name of ["Mia", "Noa", "Olaf", "Pia"]) await joinByApi(site, link, name);
  const seventh = await newPerson(t, browser);
  await seventh.page.goto(link);
  await waitForNotice(seventh.page, /full: six people/);
  await page.getByText("Pia joined").waitFor();
});

test("a bad link, an ended chat, a missing invitation and an unknown address lead home, each with a reason", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  const ana = await readSession(page);
  const { page: stranger } = await newPerson(t, browser);
  await stranger.goto(`${site.origin}/${ana.chat_id}`);
  await waitForNotice(stranger, /Ask the person who started it for an invitation/);
  await stranger.goto(`${site.origin}/no/such/page`);
  await waitForNotice(stranger, /nothing at this address/);
  await stranger.goto(link.slice(0, -1));
  await waitForNotice(stranger, /doesn't work/);
  await call(site, "DELETE", `/${ana.chat_id}/invite`, ana.session_token);
  await stranger.goto(link);
  await waitForNotice(stranger, /has been replaced/);
  const { magic_link } = await createInvite(site, ana);
  await call(site, "DELETE", `/${ana.chat_id}`, ana.session_token);
  await stranger.goto(magic_link.replace(site.localOrigin, site.origin));
  await waitForNotice(stranger, /has ended/);
});

test("the join screen keeps the invitation through a reload, and the address never shows the token", async (t) => {
  const { link } = await startChatWithJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await page.goto(link);
  await page.getByText("Ana and Jonas are in this chat").waitFor();
  assert.equal(page.url(), link.split("#")[0]);
  await page.reload();
  await page.getByText("Ana and Jonas are in this chat").waitFor();
  await page.getByLabel("Your name").fill("Mia");
  await page.getByLabel("Your name").press("Enter");
  await waitForLog(page);
  const kept = await page.evaluate(() => JSON.stringify(sessionStorage));
  assert.ok(!kept.includes("invite"), "the page forgets the invitation once it has been used");
});

test("an invitation takes a member straight into the chat, in the same tab or on a later visit", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  await page.evaluate((href) => location.assign(href), link);
  await page.waitForFunction(() => !location.hash);
  await sendMessage(page, "Still here");
  await waitForMessages(page, "Still here");
  await page.goto(site.origin);
  await page.goto(link);
  await waitForMessages(page, "Still here");
});

test("a removed member can paste the link into the same tab and join again", async (t) => {
  const { site, page: anaPage, link } = await startChatWithJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  const ana = await readSession(anaPage);
  const { member_id } = await readSession(page);
  await call(site, "DELETE", `/${ana.chat_id}/members/${member_id}`, ana.session_token);
  await page.getByRole("heading", { name: "You are no longer in this chat" }).waitFor();
  await page.evaluate((href) => location.assign(href), link);
  await page.getByText("Ana and Jonas are in this chat").waitFor();
  assert.ok(!page.url().includes("#"));
});

test("a session that has ended does not get in the way of a new invitation", async (t) => {
  const { site, page: anaPage, link } = await startChatWithJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  const ana = await readSession(anaPage);
  const { member_id } = await readSession(page);
  await page.goto("about:blank");
  await call(site, "DELETE", `/${ana.chat_id}/members/${member_id}`, ana.session_token);
  await page.goto(link);
  await page.getByText("Ana and Jonas are in this chat").waitFor();
});

test("two tabs show two chats, with a different name in each", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  const other = await page.context().newPage();
  await start(other, site, "Annie");
  await sendMessage(page, "one");
  await sendMessage(other, "two");
  await waitForMessages(page, "one");
  await waitForMessages(other, "two");
  assert.equal(await page.title(), "Jonas · Watch Party");
  assert.match(await other.title(), /^New chat/);
  assert.equal((await readSession(other)).username, "Annie");
  assert.equal((await readSession(page)).username, "Ana");
  assert.ok(link);
});

/** Lets the next request to an address that matches the pattern reach the server, and drops its answer. */
async function loseAnswer(page: Page, pattern: string): Promise<void> {
  await page.route(
    pattern,
    async (route) => {
      await route.fetch({ url: toLocal(route.request().url()) });
      await route.abort();
    },
    { times: 1 },
  );
}

test("a retry after a lost answer creates no second chat and takes no second seat", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await page.goto(site.origin);
  await page.getByLabel("Your name").fill("Ana");
  await loseAnswer(page, "**/create");
  await page.getByRole("button", { name: "Start a chat" }).click();
  await page.getByRole("status").filter({ hasText: "can't be reached" }).waitFor();
  await page.reload();
  await page.getByRole("button", { name: "Start a chat" }).click();
  const link = await readInviteLink(page);
  assert.equal(site.app.chats.count().chats, 1);

  const guest = (await newPerson(t, browser)).page;
  await guest.goto(link);
  await guest.getByLabel("Your name").fill("Jonas");
  await loseAnswer(guest, "**/join");
  await guest.getByRole("button", { name: "Join" }).click();
  await guest.getByRole("status").filter({ hasText: "can't be reached" }).waitFor();
  await guest.getByRole("button", { name: "Join" }).click();
  await waitForLog(guest);
  await page.getByText("2 of 6 in the chat").waitFor();
});

test("the page is one request of at most 24 KB, one for data, and without JavaScript it says what it needs", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  const requests: string[] = [];
  page.on("request", (request) => requests.push(new URL(request.url()).pathname));
  await page.goto(site.origin);
  await page.waitForLoadState("networkidle");
  assert.deepEqual(requests, ["/", "/addresses"]);
  const headers = { Accept: "text/html", "Accept-Encoding": "gzip" };
  const reply = await fetch(site.localOrigin, { headers });
  assert.equal(reply.headers.get("Content-Encoding"), "gzip");
  const size = Number(reply.headers.get("Content-Length"));
  assert.ok(size > 10_000 && size <= 24 * 1024, `${size} bytes`);

  const plain = await newPerson(t, browser, { javaScriptEnabled: false });
  await plain.page.goto(site.origin);
  await plain.page.locator("noscript p").waitFor();
});

test("if copying is impossible, the page selects the link and says how to copy it", async (t) => {
  const site = await startSite(t);
  for (const [options, advice] of [
    [{}, /^Press (Ctrl\+|⌘)C$/],
    [PHONE, /^Hold the link to copy$/],
  ] as const) {
    const { page } = await newPerson(t, browser, options);
    const link = await start(page, site);
    await page.evaluate(() => {
      document.execCommand = () => false;
    });
    await page.getByRole("button", { name: "Copy" }).click();
    await page.getByRole("status").filter({ hasText: advice }).waitFor();
    const selected = await page.evaluate(() => {
      const field = document.activeElement;
      return field instanceof HTMLInputElement && field.value.slice(field.selectionStart ?? 0, field.selectionEnd ?? 0);
    });
    assert.equal(selected, link);
  }
});

// ---------------------------------------------------------------------------------------------------------
// Messages.

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
  await page.route(
    (url) => url.pathname === `/${jonas.chat_id}` && !url.search,
    async (route) => {
      await route.fetch({ url: toLocal(route.request().url()) });
      await route.abort();
    },
    { times: 1 },
  );
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

// ---------------------------------------------------------------------------------------------------------
// Members, and the end of a chat.

test("removing a member revokes the old link, shows a new one, and tells the removed person", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  const { page: mia } = await newPerson(t, browser);
  await join(mia, link, "Mia");
  await page.getByText("Mia joined").waitFor();
  await openPeople(page);
  await page.getByRole("button", { name: "Remove Mia" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Remove Mia" }).click();
  assert.equal(await page.getByLabel("Also turn off the old invitation link").isChecked(), true);
  await page.getByRole("button", { name: "Remove", exact: true }).click();
  await mia.getByRole("heading", { name: "You are no longer in this chat" }).waitFor();
  await page.getByRole("dialog", { name: "Invite people" }).waitFor();
  await page.getByText("Mia was removed, so the old link no longer works.").waitFor();
  await page.waitForFunction((old) => document.querySelector<HTMLInputElement>("#link")?.value !== old, link);
  await assert.rejects(joinByApi(site, link, "Mia"));
  await joinByApi(site, await readInviteLink(page), "Noa");
  await page.getByText("Mia was removed", { exact: true }).waitFor();
  await mia.getByRole("button", { name: "Back to the start" }).click();
  await mia.getByRole("button", { name: "Start a chat" }).waitFor();
  assert.equal(await mia.locator("#chats li").count(), 0);
});

test("removing a member with the checkbox cleared keeps the link valid", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  await openPeople(page);
  await page.getByRole("button", { name: "Remove Jonas" }).click();
  await page.getByLabel("Also turn off the old invitation link").uncheck();
  await page.getByRole("button", { name: "Remove", exact: true }).click();
  await page.getByText("Jonas was removed").waitFor();
  await joinByApi(site, link, "Jonas");
});

test("a guest can leave, has no Invite button, and reads who can invite", async (t) => {
  const { page: ana, link } = await startChatWithJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  assert.equal(await page.getByRole("button", { name: "Invite" }).count(), 0);
  await openPeople(page);
  await page.getByText("ask Ana for the link").last().waitFor();
  assert.equal(await page.getByRole("button", { name: /^(Remove|End)/ }).count(), 0);
  await page.getByRole("button", { name: "Leave" }).click();
  await page.getByRole("dialog", { name: "Leave this chat?" }).getByRole("button", { name: "Leave" }).click();
  await waitForNotice(page, /You left/);
  await ana.getByText("Mia left").waitFor();
  await page.goto(link.split("#")[0] ?? "");
  await waitForNotice(page, /Ask the person who started it/);
});

test("the page warns a leaving creator that no one can invite afterwards, and later says so to the others", async (t) => {
  const { page: ana, link } = await startChatWithJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  await openPeople(ana);
  await ana.getByRole("button", { name: "Leave" }).click();
  const question = ana.getByRole("dialog", { name: "Leave this chat?" });
  await question.getByText("No one can invite people after you leave").waitFor();
  await question.getByRole("button", { name: "Leave" }).click();
  await page.getByText("Ana left").waitFor();
  await openPeople(page);
  await page.getByRole("dialog").getByText("no one can invite people now").waitFor();
});

test("ending a chat ends it for everyone and shows each person their unsent text", async (t) => {
  const { page: ana, link } = await startChatWithJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  await page.getByLabel("Message", { exact: true }).fill("Wait, one more");
  await openPeople(ana);
  await ana.getByRole("button", { name: "End chat" }).click();
  await ana.getByRole("dialog", { name: "End this chat?" }).getByRole("button", { name: "End chat" }).click();
  await waitForNotice(ana, /You ended/);
  await page.getByRole("heading", { name: "This chat has ended" }).waitFor();
  assert.equal(await page.getByLabel("Your unsent text").inputValue(), "Wait, one more");
  await page.getByRole("button", { name: "Back to the start" }).click();
  await page.getByRole("button", { name: "Start a chat" }).waitFor();
  assert.equal(await page.evaluate(() => Object.keys(localStorage).some((key) => key.includes(" chat "))), false);
});

/**
 * Opens a chat that closes for Ana in 14 minutes. Jonas, who joined through the API a moment ago, has six hours.
 * `clock.lag` is how far the server's clock is behind, in milliseconds.
 */
async function startClosingChat(t: TestContext) {
  const clock = { lag: 345.5 * 60_000 };
  const site = await startSite(t, { now: () => Date.now() - clock.lag });
  const { page } = await newPerson(t, browser);
  const link = await start(page, site);
  const session = await readSession(page);
  clock.lag = 0;
  const jonas = await joinByApi(site, link, "Jonas");
  await page.reload();
  return { site, page, session, jonas, clock };
}

test("in the last 15 minutes the page shows a countdown and a way to continue; at the end it says so", async (t) => {
  const { site, page, session, jonas, clock } = await startClosingChat(t);
  await page.getByText("This chat closes for you in 14 min.").waitFor();
  await page.getByRole("status").filter({ hasText: "less than 15 min" }).waitFor({ state: "attached" });
  await page.getByRole("button", { name: "Continue in a new chat" }).click();
  await page.waitForFunction((path) => !location.pathname.includes(path), session.chat_id);
  await readInviteLink(page);
  const [text = ""] = await readTextsByApi(site, jonas);
  assert.match(text, /^Let's continue here: http:\/\/party\.test:\d+\/[\w-]{16}#invite=/);
  clock.lag = -15 * 60_000;
  await page.goto(session.url);
  await page.getByRole("heading", { name: "Time's up: six hours are over" }).waitFor();
});

test("if continuing in a new chat fails, the page says why, and the next try creates only one chat", async (t) => {
  const { site, page, session, jonas } = await startClosingChat(t);
  await loseAnswer(page, "**/create");
  await page.getByRole("button", { name: "Continue in a new chat" }).click();
  await page.getByRole("status").filter({ hasText: "The host can't be reached." }).waitFor();
  assert.equal(new URL(page.url()).pathname, `/${session.chat_id}`);
  assert.deepEqual(await readTextsByApi(site, jonas), []);
  await page.getByRole("button", { name: "Continue in a new chat" }).click();
  await page.waitForFunction((path) => !location.pathname.includes(path), session.chat_id);
  await readInviteLink(page);
  assert.equal((await readTextsByApi(site, jonas)).length, 1);
  assert.equal(site.app.chats.count().chats, 2);
});

test("after a restart of the host, the page says that the chat is gone", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await start(page, site);
  await page.getByRole("button", { name: "Close" }).click();
  const { port } = new URL(site.origin);
  await site.app.stop();
  await startSite(t, {}, Number(port));
  await page.getByRole("heading", { name: "The host was restarted, so this chat is gone" }).waitFor();
  await page.getByRole("button", { name: "Back to the start" }).click();
  await page.getByRole("button", { name: "Start a chat" }).waitFor();
});

test("the API panel's commands work when pasted, and hide the token until asked", async (t) => {
  const { site, page } = await startChatWithJonas(t, browser);
  const { session_token } = await readSession(page);
  await openPeople(page);
  await page.getByRole("button", { name: "Use the API" }).click();
  const fields = page.locator("#commands textarea");
  const readCommands = () =>
    fields.evaluateAll((all) => all.map((field) => (field instanceof HTMLTextAreaElement ? field.value : "")));
  assert.ok(!(await readCommands()).join().includes(session_token));
  await page.getByRole("button", { name: "Show the token" }).click();
  await page.getByRole("button", { name: "Hide the token" }).waitFor();
  const [read = "", write = "", joining = ""] = await readCommands();
  assert.ok(read.includes(session_token) && write.includes(session_token) && !joining.includes(session_token));
  for (const command of [write, joining]) await runCommand(site, command);
  await page.getByText("Guest 3 joined").waitFor({ state: "attached" });
  await waitForMessages(page, "Hello from a terminal");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Use the API" }).click();
  assert.ok(!(await readCommands()).join().includes(session_token));
});

/** Sends the request of a curl command without curl, and expects that it creates something. */
async function runCommand(site: TestSite, command: string): Promise<void> {
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
  const response = await fetch(url, { method: method || (body ? "POST" : "GET"), headers, ...(body && { body }) });
  assert.equal(response.status, 201, command);
}

test("a chat can be started, used and left with the keyboard alone", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await page.goto(site.origin);
  await page.keyboard.type("Ana");
  await page.keyboard.press("Enter");
  await readInviteLink(page);
  await page.keyboard.type("Hello");
  await page.keyboard.press("Enter");
  await waitForMessages(page, "Hello");
  await tabTo(page, "inviteOpen");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Invite people" }).waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "inviteOpen");
  await tabTo(page, "seats", "Shift+Tab");
  await page.keyboard.press("Enter");
  await tabTo(page, "leave");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "cancel");
  await tabTo(page, "confirm");
  await page.keyboard.press("Enter");
  await waitForNotice(page, /You left/);
});

test("every dialog works with the keyboard alone and returns the focus when it closes", async (t) => {
  const { site, page, jonas, link } = await startChatWithJonas(t, browser);
  const openDialog = async (opener: string, dialog: string) => {
    await page.keyboard.press("Enter");
    await page.getByRole("dialog", { name: dialog }).waitFor();
    return async () => {
      await page.keyboard.press("Escape");
      assert.equal(await page.evaluate(() => document.activeElement?.id), opener);
    };
  };
  await page.keyboard.type("Hello");
  await page.keyboard.press("Enter");
  await tabTo(page, "inviteOpen");
  const closeInvitation = await openDialog("inviteOpen", "Invite people");
  await tabTo(page, "copy");
  await page.keyboard.press("Enter");
  await page.getByText("Copied").waitFor();
  await tabTo(page, "replaceLink");
  const askToReplace = await openDialog("replaceLink", "Replace the link?");
  await askToReplace();
  await page.keyboard.press("Enter");
  await tabTo(page, "confirm");
  await page.keyboard.press("Enter");
  await page.getByText("The old one no longer works").waitFor();
  await assert.rejects(joinByApi(site, link, "Mia"));
  await tabTo(page, "code");
  await (
    await openDialog("code", "QR code of the invitation")
  )();
  await closeInvitation();

  await tabTo(page, "seats", "Shift+Tab");
  const closePeople = await openDialog("seats", "People");
  await tabTo(page, "sound");
  await page.keyboard.press("Space");
  assert.equal(await page.getByLabel("Sound for new messages").isChecked(), true);
  await tabTo(page, "apiOpen");
  const closeApi = await openDialog("apiOpen", "Use the API");
  await tabTo(page, "toggleTokens");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Hide the token" }).waitFor();
  await closeApi();
  await tabTo(page, "end");
  await (
    await openDialog("end", "End this chat?")
  )();
  await closePeople();

  // The keyboard also scrolls the log and resends a refused message.
  await tabTo(page, "log");
  for (let number = 0; number < 20; number++) await postByApi(site, jonas, `number ${number}`);
  await page.getByText("number 19").waitFor();
  await page.keyboard.press("Home");
  await page.waitForFunction(() => document.querySelector("#log")?.scrollTop === 0);
  const json = { error: "invalid_text", message: "No." };
  await page.route(`**/${jonas.chat_id}`, (route) => route.fulfill({ status: 422, json }));
  await tabTo(page, "message");
  await page.keyboard.type("Bye");
  await page.keyboard.press("Enter");
  await page.getByText("This message can't be sent.").waitFor();
  await page.unroute(`**/${jonas.chat_id}`);
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByText("This message can't be sent.").waitFor({ state: "hidden" });
});
