// The invitation, in the middle of a new chat and in its dialog: nothing moves under a finger, nothing is lost by a
// single press, and it fits every screen. Also the way from a chat that cannot invite anymore into the next one.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson, startSite, type TestSite } from "./lib/browser.ts";
import {
  call,
  join,
  joinByApi,
  openPeople,
  PHONE,
  postByApi,
  readInviteLink,
  readSession,
  readTextsByApi,
  start,
  startChatWithJonas,
  waitForNotice,
} from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

// ---------------------------------------------------------------------------------------------------------
// Nothing moves.

for (const [width, height] of [
  [1280, 800],
  [390, 844],
  [320, 568],
  [740, 360],
] as const) {
  test(`nothing in the invitation moves during a whole evening, at ${width} by ${height} pixels`, async (t) => {
    const site = await startSite(t);
    const isPhone = width < 800;
    const { page } = await newPerson(t, browser, { ...(isPhone && PHONE), viewport: { width, height } });
    await page.addInitScript(watchInvite);
    const link = await start(page, site);
    await spendEvening(page, site, link);
    assert.deepEqual(await readMoves(page), { places: 1, shifts: [] }, "in the middle of the chat");

    await page.getByRole("button", { name: "Invite", exact: true }).click();
    await page.getByRole("dialog").waitFor();
    await page.evaluate(() => Object.assign(window, { invitePlaces: new Set(), inviteShifts: [] }));
    await spendEvening(page, site, await readInviteLink(page));
    assert.deepEqual(await readMoves(page), { places: 1, shifts: [] }, "in the dialog");
  });
}

/**
 * Notes, from the first frame on, each place where the invitation's controls are, and each layout shift in it. Places
 * are measured from the top of what scrolls, as a person (and Playwright, before a press) may scroll the invitation.
 */
function watchInvite(): void {
  const places = new Set<string>();
  const shifts: string[] = [];
  Object.assign(window, { invitePlaces: places, inviteShifts: shifts });
  const ids = ["inviteTitle", "inviteClose", "code", "inviteText", "inviteCount", "link", "copy", "replaceLink"];
  const look = () => {
    const boxes = ids.map((id) => document.getElementById(id)?.getBoundingClientRect() ?? new DOMRect());
    const scrolled = document.querySelector("#invite")?.parentElement?.scrollTop ?? 0;
    const isShown = boxes.some(({ width }) => width > 0);
    const place = boxes.map(({ x, y }) => `${x} ${y + scrolled}`).join();
    if (isShown) Reflect.get(window, "invitePlaces").add(place);
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const sources: { node?: Node }[] = Reflect.get(entry, "sources");
      const invite = document.querySelector("#invite");
      if (sources.some(({ node }) => node && invite?.contains(node))) {
        Reflect.get(window, "inviteShifts").push(`${Reflect.get(entry, "value")}`);
      }
    }
  });
  observer.observe({ type: "layout-shift", buffered: true });
}

function readMoves(page: Page): Promise<{ places: number; shifts: string[] }> {
  return page.evaluate(async () => {
    // The browser reports a layout shift after the frame that contains it.
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return { places: Reflect.get(window, "invitePlaces").size, shifts: Reflect.get(window, "inviteShifts") };
  });
}

/** Copies the link; four guests join, write and leave; the link is replaced, and the new one is copied. */
async function spendEvening(page: Page, site: TestSite, link: string): Promise<void> {
  await copyLink(page);
  const guests = [];
  for (const name of ["Jonas", "Mia", "Noa", "Olaf"]) {
    const guest = await joinByApi(site, link, name);
    guests.push(guest);
    await postByApi(site, guest, `Hello, ${name} here`);
    await page.getByText(`${guests.length + 1} of 6 in the chat`).waitFor();
  }
  await page.getByRole("button", { name: "Replace the link…" }).click();
  await page.getByRole("button", { name: "Replace", exact: true }).click();
  await page.getByText("The old one no longer works").waitFor();
  await copyLink(page);
  for (const { chat_id, session_token } of guests) await call(site, "POST", `/${chat_id}/leave`, session_token);
  await page.getByText("1 of 6 in the chat").waitFor();
}

test("a bar that reports a lost connection or the end of the chat does not move the invitation", async (t) => {
  for (const options of [{}, PHONE, { ...PHONE, viewport: { width: 740, height: 360 } }]) {
    const { page, jonas } = await startChatWithJonas(t, browser, options);
    const readPlace = () => page.locator("#invite").boundingBox();
    const before = await readPlace();
    assert.ok(before);
    await page.route(`**/${jonas.chat_id}?**`, (route) => route.abort());
    await page.evaluate(() => dispatchEvent(new Event("online")));
    const banner = page.getByText("Connection lost");
    await banner.waitFor();
    assert.deepEqual(await readPlace(), before);
    const [bar, composer] = await Promise.all([banner.boundingBox(), page.locator("#composer").boundingBox()]);
    assert.ok(bar && composer && bar.y > before.y && bar.y + bar.height <= composer.y + 1, "the bar is below it");
    await page.unrouteAll();
    await page.evaluate(() => dispatchEvent(new Event("online")));
    await banner.waitFor({ state: "hidden" });
    assert.deepEqual(await readPlace(), before);
    await page.locator("#inviteClose").click();
  }
});

test("a long status does not move the list of addresses below it", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  const readHeight = async () => (await page.locator("#inviteMore").boundingBox())?.height;
  const before = await readHeight();
  await page.getByRole("button", { name: "Replace the link…" }).click();
  await page.getByRole("button", { name: "Replace", exact: true }).click();
  await page.getByText("The old one no longer works").waitFor();
  assert.equal(await readHeight(), before);
});

async function copyLink(page: Page): Promise<void> {
  await page.getByRole("button", { name: "Copy" }).click();
  await page.getByText("Copied").waitFor();
}

// ---------------------------------------------------------------------------------------------------------
// The link.

test("replacing the link asks first, and then revokes the old one", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: "Replace the link…" }).click();
  await page.getByRole("dialog", { name: "Replace the link?" }).getByRole("button", { name: "Cancel" }).click();
  await joinByApi(site, link, "Mia");
  await page.getByRole("button", { name: "Replace the link…" }).click();
  await page.getByRole("button", { name: "Replace", exact: true }).click();
  await page.getByText("The old one no longer works").waitFor();
  const fresh = await readInviteLink(page);
  assert.notEqual(fresh, link);
  await assert.rejects(joinByApi(site, link, "Noa"));
  await joinByApi(site, fresh, "Noa");
});

test("Copy and the QR code cannot be pressed until there is a link", async (t) => {
  const { page, jonas, link } = await startChatWithJonas(t, browser);
  const copy = page.getByRole("button", { name: "Copy" });
  const code = page.getByRole("button", { name: /QR code/ });
  const release = await holdInvite(page, jonas.chat_id);
  await page.reload();
  await page.getByText("2 of 6 in the chat").waitFor();
  assert.deepEqual([await copy.isDisabled(), await code.isDisabled()], [true, true]);
  release();
  await readInviteLink(page);
  assert.deepEqual([await copy.isDisabled(), await code.isDisabled()], [false, false]);

  // A link that was just revoked cannot be copied either.
  const releaseNext = await holdInvite(page, jonas.chat_id);
  await page.getByRole("button", { name: "Replace the link…" }).click();
  await page.getByRole("button", { name: "Replace", exact: true }).click();
  await page.waitForFunction(() => document.querySelector<HTMLInputElement>("#link")?.value === "");
  assert.equal(await copy.isDisabled(), true);
  releaseNext();
  assert.notEqual(await readInviteLink(page), link);
});

test("a link that arrives after a press of Copy leaves the outcome on the screen", async (t) => {
  const { page, jonas } = await startChatWithJonas(t, browser);
  const release = await holdInvite(page, jonas.chat_id);
  await page.getByRole("button", { name: "Invite", exact: true }).click();
  const old = await readInviteLink(page);
  await copyLink(page);
  release();
  await page.waitForFunction((before) => document.querySelector<HTMLInputElement>("#link")?.value !== before, old);
  assert.equal(await page.locator("#inviteStatus").textContent(), "Copied");
});

test("after Copy the field still shows the beginning of the link, without a selection", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  await page.locator("#link").evaluate((field) => field.scrollTo(1000, 0));
  await copyLink(page);
  const shown = await page.locator("#link").evaluate((field) => {
    return field instanceof HTMLInputElement && [field.scrollLeft, field.selectionStart, field.selectionEnd];
  });
  assert.deepEqual(shown, [0, 0, 0]);
});

test("beside a link to a private address, a hint says that it works only on the same Wi-Fi", async (t) => {
  const hint = "They must be on the same Wi-Fi as you.";
  for (const [url, isPrivate] of [
    ["http://192.168.1.20:8080", true],
    ["https://chat.example.org", false],
  ] as const) {
    const site = await startSite(t, { url });
    const { page } = await newPerson(t, browser);
    assert.ok((await start(page, site)).startsWith(url));
    assert.equal(await page.getByText(hint).isVisible(), isPrivate, url);
  }
});

test("the large view says what the QR code is for and how many are in the chat, and has a close button", async (t) => {
  const { site, page, link } = await startChatWithJonas(t, browser);
  await page.getByRole("button", { name: /QR code/ }).click();
  await page.getByRole("heading", { name: "Scan to join · 2 of 6" }).waitFor();
  await joinByApi(site, link, "Mia");
  await page.getByRole("heading", { name: "Scan to join · 3 of 6" }).waitFor();
  for (const [width, height] of [
    [390, 844],
    [740, 360],
    [1280, 800],
  ] as const) {
    await page.setViewportSize({ width, height });
    // Resizing the window redraws the code, as large as the caption allows.
    await page.waitForFunction(() => {
      const box = document.querySelector("#largeBox")?.getBoundingClientRect() ?? new DOMRect();
      const size = document.querySelector("#largeQr")?.getBoundingClientRect().width ?? 0;
      const room = Math.min(box.width, box.height);
      return size <= room && size > 0.85 * room;
    });
    const [code, caption] = [page.locator("#largeQr"), page.locator("#largeCaption")];
    for (const element of [code, caption, page.locator("#largeClose")]) {
      const box = await element.boundingBox();
      assert.ok(box && box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height);
    }
  }
  await page.locator("#largeClose").click();
  await page.locator("#large").waitFor({ state: "hidden" });
});

test("on a phone on its side and at 200 % zoom, what is needed to join is on the screen beside the messages", async (t) => {
  const site = await startSite(t, { url: "http://192.168.100.200:8080" });
  const { page } = await newPerson(t, browser);
  const link = await start(page, site);
  await postByApi(site, await joinByApi(site, link, "Jonas"), "Hello");
  await page.locator(".message").waitFor();
  for (const [width, height, hasAll] of [
    [740, 360, false],
    [640, 400, false],
    [932, 430, true],
  ] as const) {
    await page.setViewportSize({ width, height });
    const readBox = async (id: string) => (await page.locator(id).boundingBox()) ?? assert.fail(id);
    const [invite, log, message] = [await readBox("#invite"), await readBox("#log"), await readBox(".message")];
    const composer = await readBox("#composer");
    assert.ok(log.x >= invite.x + invite.width && message.y + message.height <= composer.y, "the log is beside it");
    for (const id of ["#inviteTitle", "#code", "#inviteCount", "#joinCode", "#link", "#copy", "#sameWifi"]) {
      const { y, height: own } = await readBox(id);
      assert.ok(y >= log.y && y + own <= composer.y, `${id} is on the screen at ${width} pixels`);
    }
    if (hasAll) assert.ok(invite.y + invite.height <= composer.y, `everything is on the screen at ${width} pixels`);
    const qr = await readBox("#qr");
    assert.equal(qr.width, qr.height, "the QR code is still a square");
    const [code, field] = [await readBox("#code"), await readBox("#link")];
    assert.ok(field.x > code.x + code.width, "the link is beside its QR code");
  }
});

test("in a laptop's window and on a phone, Copy stays in view when messages arrive below the invitation", async (t) => {
  const { site, page, jonas } = await startChatWithJonas(t, browser);
  for (const text of ["Hello", "Are you there?"]) await postByApi(site, jonas, text);
  await page.locator(".message").nth(1).waitFor();
  for (const [width, height] of [
    [1366, 650],
    [390, 664],
  ] as const) {
    await page.setViewportSize({ width, height });
    const [copy, log] = [await page.locator("#copy").boundingBox(), await page.locator("#log").boundingBox()];
    assert.ok(copy && log && copy.y + copy.height <= log.y, `${width} by ${height} pixels`);
  }
});

// ---------------------------------------------------------------------------------------------------------
// The way into the next chat.

test("an invitation to another chat on this host is shown as words, and one to anywhere else as its address", async (t) => {
  const { site, page, jonas, link } = await startChatWithJonas(t, browser);
  const [, hash = ""] = link.split("#");
  const other = `${site.origin}/AAAAAAAAAAAAAAAA#${hash}`;
  const foreign = `http://evil.example/AAAAAAAAAAAAAAAA#${hash}`;
  await postByApi(site, jonas, `Let's continue here: ${other}`);
  await postByApi(site, jonas, foreign);
  await postByApi(site, jonas, link);
  await page.locator(".bubble a").nth(2).waitFor();
  assert.deepEqual(await page.locator(".bubble a").allTextContents(), ["Join the new chat", foreign, link]);
  assert.equal(await page.locator(".bubble a").first().getAttribute("href"), other);
});

test("once its creator has left, any member can continue in a new chat", async (t) => {
  const { site, page, jonas, link } = await startChatWithJonas(t, browser);
  const { page: mia } = await newPerson(t, browser);
  await join(mia, link, "Mia");
  await openPeople(mia);
  const continueButton = mia.getByRole("button", { name: "Continue in a new chat" });
  assert.equal(await continueButton.isVisible(), false);
  const { chat_id, session_token } = await readSession(page);
  await call(site, "POST", `/${chat_id}/leave`, session_token);
  await mia.getByRole("dialog").getByText("no one can invite people now").waitFor();
  await continueButton.click();
  await readInviteLink(mia);
  assert.equal(new URL(mia.url()).pathname === `/${chat_id}`, false);
  assert.deepEqual(await mia.getByRole("dialog").count(), 0);
  const [text = ""] = await readTextsByApi(site, jonas);
  assert.match(text, /^Let's continue here: http/);
});

test("a notice that confirms what the person did does not look like a warning", async (t) => {
  const { page } = await startChatWithJonas(t, browser);
  const { pathname } = new URL(page.url());
  const color = () => page.locator("#notice").evaluate((notice) => getComputedStyle(notice).backgroundColor);
  await openPeople(page);
  await page.getByRole("button", { name: "Leave" }).click();
  await page.getByRole("dialog", { name: "Leave this chat?" }).getByRole("button", { name: "Leave" }).click();
  await waitForNotice(page, /You left the chat/);
  const neutral = await color();
  await page.goto(new URL(pathname, page.url()).href);
  await waitForNotice(page, /You're not in this chat/);
  assert.notEqual(await color(), neutral);
});

/** Holds requests for a link until the returned function is called. */
async function holdInvite(page: Page, chatId: string): Promise<() => void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  await page.route(`**/${chatId}/invite`, async (route) => {
    if (route.request().method() === "POST") await promise;
    await route.fallback();
  });
  return resolve;
}
