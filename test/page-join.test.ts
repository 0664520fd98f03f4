// Starting a chat, inviting, joining and returning, in a real browser.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser } from "playwright-core";
import { launchBrowser, newPerson, startSite } from "./lib/browser.ts";
import {
  call,
  createInvite,
  join,
  joinByApi,
  loseAnswer,
  PHONE,
  postByApi,
  readCode,
  readInviteLink,
  readSession,
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
