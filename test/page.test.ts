// The page in a real browser, on http://party.test: an origin as insecure as http://192.168.1.42, where
// browsers have no clipboard, no randomUUID, no locks. Each test has a server and browsers of its own; each
// browser's console has to stay empty (see browser.ts).

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import type { InviteReply, MessageView } from "../server.ts";
import { launchBrowser, newPerson, type Party, startParty } from "./browser.ts";
import {
  anaAndJonas,
  call,
  invitation,
  isIn,
  join,
  joinByScript,
  notice,
  openPeople,
  overflowing,
  PHONE,
  reads,
  say,
  sayByScript,
  sessionOf,
  smallTargets,
  start,
  tabTo,
} from "./people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

// ---------------------------------------------------------------------------------------------------------
// Starting, inviting, joining, coming back.

test("a new chat shows its invitation, and Copy puts it on the clipboard of an insecure page", async (t) => {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser);
  const link = await start(page, party);
  assert.equal(await page.evaluate(() => isSecureContext), false);
  assert.match(link, new RegExp(`^${party.origin}/[\\w-]{16}#invite=[\\w.-]{74}$`));
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

test("two people talk both ways; a reload, a new tab and home's list bring them back", async (t) => {
  const party = await startParty(t);
  const ana = await newPerson(t, browser);
  const jonas = await newPerson(t, browser);
  await join(jonas.page, await start(ana.page, party), "Jonas");
  assert.ok(!jonas.page.url().includes("#"), "the token is not in the address");
  await say(jonas.page, "Hello from Jonas");
  await reads(ana.page, "Hello from Jonas");
  await say(ana.page, "Hello from Ana");
  await reads(jonas.page, "Hello from Jonas", "Hello from Ana");
  await ana.page.getByText("Jonas joined").waitFor();
  await ana.page.reload();
  await reads(ana.page, "Hello from Jonas", "Hello from Ana");
  await jonas.page.close();
  const again = await jonas.context.newPage();
  await again.goto(party.origin);
  assert.equal(await again.getByLabel("Your name").inputValue(), "Jonas");
  await again.getByRole("link", { name: /Ana.* left$/ }).click();
  await reads(again, "Hello from Jonas", "Hello from Ana");
  await say(again, "Back");
  await reads(ana.page, "Hello from Jonas", "Hello from Ana", "Back");
  await again.goBack();
  await again.getByRole("heading", { name: "Your chats" }).waitFor();
  await again.goForward();
  await reads(again, "Hello from Jonas", "Hello from Ana", "Back");
});

test("the invitation stays while others come and write, until its maker writes", async (t) => {
  const { party, page, jonas, link } = await anaAndJonas(t, browser);
  await sayByScript(party, jonas, "I am in");
  await reads(page, "I am in");
  await page.getByText("2 of 6 in the chat").waitFor();
  await page.reload();
  await page.getByRole("button", { name: "Copy" }).waitFor();
  await say(page, "Welcome");
  await page.getByRole("button", { name: "Copy" }).waitFor({ state: "hidden" });
  assert.equal(await invitation(page), await page.getByLabel("Invitation link", { exact: true }).inputValue());
  await page.getByRole("button", { name: "Invite" }).click();
  await page.getByRole("dialog").getByText("2 of 6 in the chat").waitFor();
  await joinByScript(party, link, "Mia");
  await page.getByRole("dialog").getByText("3 of 6 in the chat").waitFor();
});

test("the last free seat closes the invitation, and so does its cross", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  for (const name of ["Mia", "Noa", "Olaf"]) await joinByScript(party, link, name);
  await page.getByText("5 of 6 in the chat").waitFor();
  await joinByScript(party, link, "Pia");
  await page.getByRole("button", { name: "Copy" }).waitFor({ state: "hidden" });
  const other = await page.context().newPage();
  await start(other, party);
  await other.getByRole("button", { name: "Close" }).click();
  await other.getByRole("button", { name: "Copy" }).waitFor({ state: "hidden" });
});

test("the QR code is the link, in whole pixels with a margin, and fills the screen when pressed", async (t) => {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser);
  const link = await start(page, party);
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

/** Whether each module of the code in a canvas is dark, by the pixel at its middle. */
function readCode(page: Page, id: string, across: number): Promise<{ width: number; dark: boolean[] }> {
  return page.evaluate(
    ([canvasId, count]) => {
      const canvas = document.querySelector<HTMLCanvasElement>(`#${canvasId}`);
      const pixels = canvas?.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height).data;
      if (!canvas || !pixels) throw new Error("no code");
      const module = canvas.width / count;
      const middle = (index: number) => Math.floor((index + 0.5) * module);
      const dark = Array.from({ length: count ** 2 }, (_, index) => {
        const [x, y] = [middle(index % count), middle(Math.floor(index / count))];
        return pixels[4 * (y * canvas.width + x)] === 0;
      });
      return { width: canvas.width, dark };
    },
    [id, across] as const,
  );
}

test("an empty, a long and a taken name are said at the field", async (t) => {
  const party = await startParty(t);
  const ana = await newPerson(t, browser);
  const page = (await newPerson(t, browser)).page;
  await ana.page.goto(party.origin);
  await ana.page.getByRole("button", { name: "Start a chat" }).click();
  await ana.page.getByRole("alert").filter({ hasText: "enter a name" }).waitFor();
  await page.goto(await start(ana.page, party));
  await page.getByText("Ana is in this chat. There is room for 5 more.").waitFor();
  for (const [name, error] of [
    ["", "enter a name"],
    ["x".repeat(25), "24 characters"],
    ["ANA", "already taken. Is that you, in another browser?"],
  ] as const) {
    await page.getByLabel("Your name").fill(name);
    await page.getByRole("button", { name: "Join" }).click();
    await page.getByRole("alert").filter({ hasText: error }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement?.id), "name");
    assert.equal(await page.getByLabel("Your name").getAttribute("aria-invalid"), "true");
  }
});

test("the seventh person is sent home, and told why", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  for (const name of ["Mia", "Noa", "Olaf", "Pia"]) await joinByScript(party, link, name);
  const seventh = await newPerson(t, browser);
  await seventh.page.goto(link);
  await notice(seventh.page, /full: six people/);
  await page.getByText("Pia joined").waitFor();
});

test("a dead link, an ended chat, no invitation and nobody's address lead home, each with its reason", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  const ana = await sessionOf(page);
  const { page: stranger } = await newPerson(t, browser);
  await stranger.goto(`${party.origin}/${ana.chat_id}`);
  await notice(stranger, /Ask someone in the chat for the link/);
  await stranger.goto(`${party.origin}/no/such/page`);
  await notice(stranger, /nothing at this address/);
  await stranger.goto(link.slice(0, -1));
  await notice(stranger, /doesn't work/);
  await call(party, "DELETE", `/${ana.chat_id}/invite`, ana.session_token);
  await stranger.goto(link);
  await notice(stranger, /has been replaced/);
  const { magic_link } = await call<InviteReply>(party, "POST", `/${ana.chat_id}/invite`, ana.session_token);
  await call(party, "DELETE", `/${ana.chat_id}`, ana.session_token);
  await stranger.goto(magic_link.replace("127.0.0.1", "party.test"));
  await notice(stranger, /has ended/);
});

test("a reload on the name card loses no invitation, and the token is never in the address", async (t) => {
  const { link } = await anaAndJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await page.goto(link);
  await page.getByText("Ana and Jonas are in this chat").waitFor();
  assert.equal(page.url(), link.split("#")[0]);
  await page.reload();
  await page.getByText("Ana and Jonas are in this chat").waitFor();
  await page.getByLabel("Your name").fill("Mia");
  await page.getByLabel("Your name").press("Enter");
  await isIn(page);
  const kept = await page.evaluate(() => JSON.stringify(sessionStorage));
  assert.ok(!kept.includes("invite"), "the invitation is forgotten once it is used");
});

test("who is in goes straight in, also by an invitation, also pasted into the tab", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  await page.evaluate((href) => location.assign(href), link);
  await page.waitForFunction(() => !location.hash);
  await say(page, "Still here");
  await reads(page, "Still here");
  await page.goto(party.origin);
  await page.goto(link);
  await reads(page, "Still here");
});

test("a link pasted into the tab of somebody who was removed is a fresh visit", async (t) => {
  const { party, page: anaPage, link } = await anaAndJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  const ana = await sessionOf(anaPage);
  const { member_id } = await sessionOf(page);
  await call(party, "DELETE", `/${ana.chat_id}/members/${member_id}`, ana.session_token);
  await page.getByRole("heading", { name: "You are no longer in this chat" }).waitFor();
  await page.evaluate((href) => location.assign(href), link);
  await page.getByText("Ana and Jonas are in this chat").waitFor();
  assert.ok(!page.url().includes("#"));
});

test("a seat that was lost meanwhile does not stand in the way of a new invitation", async (t) => {
  const { party, page: anaPage, link } = await anaAndJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  const ana = await sessionOf(anaPage);
  const { member_id } = await sessionOf(page);
  await page.goto("about:blank");
  await call(party, "DELETE", `/${ana.chat_id}/members/${member_id}`, ana.session_token);
  await page.goto(link);
  await page.getByText("Ana and Jonas are in this chat").waitFor();
});

test("two chats in two tabs, each with its own name", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  const other = await page.context().newPage();
  await start(other, party, "Annie");
  await say(page, "one");
  await say(other, "two");
  await reads(page, "one");
  await reads(other, "two");
  assert.equal(await page.title(), "Jonas · Watch Party");
  assert.match(await other.title(), /^New chat/);
  assert.equal((await sessionOf(other)).username, "Annie");
  assert.equal((await sessionOf(page)).username, "Ana");
  assert.ok(link);
});

/** Lets the next request to an address of that kind reach the server, and loses its answer. */
async function loseAnswer(page: Page, address: string): Promise<void> {
  await page.route(
    address,
    async (route) => {
      await route.fetch({ url: route.request().url().replace("party.test", "127.0.0.1") });
      await route.abort();
    },
    { times: 1 },
  );
}

test("an answer lost on bad Wi-Fi makes no second chat, and takes no second seat", async (t) => {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser);
  await page.goto(party.origin);
  await page.getByLabel("Your name").fill("Ana");
  await loseAnswer(page, "**/create");
  await page.getByRole("button", { name: "Start a chat" }).click();
  await page.getByRole("status").filter({ hasText: "can't be reached" }).waitFor();
  await page.reload();
  await page.getByRole("button", { name: "Start a chat" }).click();
  const link = await invitation(page);
  assert.equal(party.app.chats.count().chats, 1);

  const guest = (await newPerson(t, browser)).page;
  await guest.goto(link);
  await guest.getByLabel("Your name").fill("Jonas");
  await loseAnswer(guest, "**/join");
  await guest.getByRole("button", { name: "Join" }).click();
  await guest.getByRole("status").filter({ hasText: "can't be reached" }).waitFor();
  await guest.getByRole("button", { name: "Join" }).click();
  await isIn(guest);
  await page.getByText("2 of 6 in the chat").waitFor();
});

test("the page is one request of at most 24,000 bytes, and without JavaScript it says what is needed", async (t) => {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser);
  const requests: string[] = [];
  page.on("request", (request) => requests.push(new URL(request.url()).pathname));
  await page.goto(party.origin);
  await page.waitForLoadState("networkidle");
  assert.deepEqual(requests, ["/"]);
  const headers = { Accept: "text/html", "Accept-Encoding": "gzip" };
  const reply = await fetch(party.origin.replace("party.test", "127.0.0.1"), { headers });
  assert.equal(reply.headers.get("Content-Encoding"), "gzip");
  const size = Number(reply.headers.get("Content-Length"));
  assert.ok(size > 10_000 && size <= 24_000, `${size} bytes`);

  const plain = await newPerson(t, browser, { javaScriptEnabled: false });
  await plain.page.goto(party.origin);
  await plain.page.locator("noscript p").waitFor();
});

test("where nothing can be copied, the link is selected, and it is said what is left to do", async (t) => {
  const party = await startParty(t);
  for (const [options, advice] of [
    [{}, /^Press (Ctrl\+|⌘)C$/],
    [PHONE, /^Hold the link to copy$/],
  ] as const) {
    const { page } = await newPerson(t, browser, options);
    const link = await start(page, party);
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
// Writing and reading.

test("Enter sends, Shift+Enter breaks the line, Ctrl+Enter sends, an IME's Enter does neither", async (t) => {
  const { page } = await anaAndJonas(t, browser);
  const box = page.getByLabel("Message", { exact: true });
  await box.fill("one");
  await box.press("Shift+Enter");
  await box.pressSequentially("two");
  await box.press("Enter");
  await reads(page, "one\ntwo");
  await box.fill("three");
  await box.press("Control+Enter");
  await reads(page, "one\ntwo", "three");
  await box.fill("and by a Mac");
  await box.press("Meta+Enter");
  await reads(page, "one\ntwo", "three", "and by a Mac");
  await box.fill("かな");
  for (const how of [{ isComposing: true }, { keyCode: 229 }]) {
    await box.dispatchEvent("keydown", { key: "Enter", ...how });
  }
  assert.equal(await box.inputValue(), "かな");
  await box.fill("   \n ");
  await box.press("Enter");
  await box.fill("four");
  await box.press("Enter");
  await reads(page, "one\ntwo", "three", "and by a Mac", "four");
});

test("on a touch screen Enter breaks the line, and the button sends and keeps the keyboard up", async (t) => {
  const { page } = await anaAndJonas(t, browser, PHONE);
  const box = page.getByLabel("Message", { exact: true });
  assert.notEqual(await page.evaluate(() => document.activeElement?.id), "message");
  await box.tap();
  await box.pressSequentially("one");
  await box.press("Enter");
  await box.pressSequentially("two");
  await page.getByRole("button", { name: "Send" }).tap();
  await reads(page, "one\ntwo");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "message");
});

test("the composer is on the screen at 320 px, nothing scrolls sideways, and it grows to five lines", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser, PHONE);
  await page.getByRole("button", { name: "Close" }).click();
  const long = "averyveryverylongunbrokenword".repeat(20);
  for (const text of [long, `https://example.org/${long}`, "x\n".repeat(30)]) await sayByScript(party, jonas, text);
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
  assert.deepEqual(await overflowing(page), []);
  await openPeople(page);
  assert.deepEqual(await overflowing(page), []);
  await page.getByRole("button", { name: "Use the API" }).click();
  assert.deepEqual(await overflowing(page), []);
  assert.deepEqual(await smallTargets(page), []);
});

test("everything that can be pressed is at least 44 px high", async (t) => {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser, PHONE);
  await page.goto(party.origin);
  assert.deepEqual(await smallTargets(page), []);
  await start(page, party);
  assert.deepEqual(await smallTargets(page), []);
  await openPeople(page);
  await page.getByRole("button", { name: "Leave" }).click();
  assert.deepEqual(await smallTargets(page), []);
});

test("near the limit a counter shows, and what is too long is not sent and not cut", async (t) => {
  const { page } = await anaAndJonas(t, browser);
  const box = page.getByLabel("Message", { exact: true });
  await box.fill("x".repeat(1990));
  await page.getByText("10 left").waitFor();
  await box.fill("x".repeat(2001));
  await page.getByText("1 too many").waitFor();
  await box.press("Enter");
  assert.equal((await box.inputValue()).length, 2001);
  assert.equal(await page.locator(".bubble").count(), 0);
});

test("the draft survives a reload", async (t) => {
  const { page } = await anaAndJonas(t, browser);
  await page.getByLabel("Message", { exact: true }).fill("half a sen");
  await page.reload();
  await isIn(page);
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "half a sen");
});

test("a failed send keeps its text through a reload, and Retry sends all of them once and in order", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  await page.route(`**/${jonas.chat_id}`, (route) =>
    route.request().method() === "POST" ? route.abort() : route.continue(),
  );
  await say(page, "first");
  await page.getByText("Not sent.").waitFor();
  await say(page, "second");
  await page.getByText("Not sent.").nth(1).waitFor();
  await page.reload();
  await page.getByText("Not sent.").nth(1).waitFor();
  await page.unroute(`**/${jonas.chat_id}`);
  await page.getByRole("button", { name: "Retry" }).first().click();
  await reads(page, "first", "second");
  const { messages } = await call<{ messages: MessageView[] }>(party, "GET", `/${jonas.chat_id}`, jonas.session_token);
  assert.deepEqual(
    messages.map(({ text }) => text),
    ["first", "second"],
  );
  await page.reload();
  await reads(page, "first", "second");
});

test("a message that arrived although its answer was lost is not said twice", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  // The poll must not tell that it has arrived: it does not come back.
  await page.route(`**/${jonas.chat_id}?**`, () => undefined);
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await page.route(
    (url) => url.pathname === `/${jonas.chat_id}` && !url.search,
    async (route) => {
      await route.fetch({ url: route.request().url().replace("party.test", "127.0.0.1") });
      await route.abort();
    },
    { times: 1 },
  );
  await say(page, "only once");
  await page.getByText("Not sent.").waitFor();
  await page.getByRole("button", { name: "Retry" }).click();
  await reads(page, "only once");
  const { messages } = await call<{ messages: MessageView[] }>(party, "GET", `/${jonas.chat_id}`, jonas.session_token);
  assert.deepEqual(
    messages.map(({ text }) => text),
    ["only once"],
  );
});

test("what failed more than ten minutes ago is asked about, and can be deleted", async (t) => {
  const { page } = await anaAndJonas(t, browser);
  await page.evaluate(() => {
    for (const [index, key] of ["a", "b"].entries()) {
      const old = { key, text: `old ${key}`, at: Date.now() - 660_000 + index, state: "failed", why: "" };
      localStorage.setItem(`watch-party unsent ${location.pathname.slice(1)} ${key}`, JSON.stringify(old));
    }
  });
  await page.reload();
  await page.getByRole("button", { name: "Delete" }).first().click();
  await page.getByRole("button", { name: "Send again?" }).click();
  await reads(page, "old b");
  assert.equal(await page.evaluate(() => Object.keys(localStorage).filter((key) => key.includes("unsent")).length), 0);
});

test("a chat's name has room on a phone, loses the end of what is too long, and gives way on the narrowest", async (t) => {
  const { page, link, party } = await anaAndJonas(t, browser, { ...PHONE, viewport: { width: 390, height: 700 } });
  await joinByScript(party, link, "שירה");
  for (const name of ["Mia", "Noa", "Pia"]) await joinByScript(party, link, name);
  await page.waitForFunction(() => document.title.includes("+3"));
  const names = page.locator("#title bdi");
  assert.deepEqual(await names.allTextContents(), ["Jonas", "שירה", ""]);
  const isWhole = await names.evaluateAll((all) => all.every((name) => name.scrollWidth <= name.clientWidth + 1));
  assert.ok(isWhole, "there is room for both");
  // A right-to-left name is cut on the left, where its end is.
  assert.equal(await names.nth(1).evaluate((name) => getComputedStyle(name).direction), "rtl");
  await page.setViewportSize({ width: 340, height: 700 });
  assert.equal((await page.locator("#title").boundingBox())?.width, 1);
  await page.getByRole("heading", { name: /^Jonas ?, שירה ?\+3$/ }).waitFor();
});

function animations(page: Page): Promise<string[]> {
  const messages = page.locator(".message");
  return messages.evaluateAll((items) => items.map((item) => getComputedStyle(item).animationName));
}

test("what others write rises into its place, what oneself writes is there, and nothing moves unwanted", async (t) => {
  const { party, page, link, jonas } = await anaAndJonas(t, browser);
  const moving = (await newPerson(t, browser, { reducedMotion: "no-preference" })).page;
  await join(moving, link, "Mia");
  await sayByScript(party, jonas, "one");
  await reads(moving, "one");
  await say(moving, "two");
  for (const one of [page, moving]) await reads(one, "one", "two");
  assert.deepEqual(await animations(page), ["none", "none"]);
  assert.deepEqual(await animations(moving), ["appear", "none"]);
});

test("hostile text and names are only text, and links only lead where they say", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  const mallory = await joinByScript(party, link, "<img src=x onerror=1>");
  const texts = [
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "javascript:alert(1) &lt;b&gt; ${1} {{2}}",
  ];
  for (const text of texts) await sayByScript(party, mallory, text);
  await sayByScript(party, mallory, "look: https://example.org/a?b=<i>&c. There");
  await reads(page, ...texts, "look: https://example.org/a?b=<i>&c. There");
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

test("marks without end, words without a gap and turned directions stay in their own message", async (t) => {
  const { party, page, link, jonas } = await anaAndJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  await sayByScript(party, jonas, "a quiet line");
  const quiet = page.getByText("a quiet line");
  const look = async (): Promise<Buffer> => {
    const box = await quiet.boundingBox();
    assert.ok(box);
    // Without its edge, which is drawn between two rows of pixels.
    const clip = { x: box.x + 4, y: Math.round(box.y) + 4, width: box.width - 8, height: Math.round(box.height) - 8 };
    return page.screenshot({ clip });
  };
  const before = await look();
  const mallory = await joinByScript(party, link, "\u0410n\u0430");
  await sayByScript(party, mallory, `Z${"\u030d".repeat(400)}algo`);
  await page.getByText("algo").waitFor();
  assert.ok(before.equals(await look()), "the marks reach into somebody else's line");
  await sayByScript(party, mallory, "\u{1f600}x".repeat(1_000));
  await sayByScript(party, mallory, "\u202e\u2066 turned \u05d0");
  await sayByScript(party, jonas, "after it");
  const after = page.getByText("after it");
  await after.waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false);
  assert.equal(await page.evaluate(() => (document.querySelector("#log")?.scrollWidth ?? 0) > innerWidth), false);
  assert.equal(await after.evaluate((bubble) => bubble.matches(":dir(ltr)")), true);
  const [box, window] = [await page.locator("#message").boundingBox(), page.viewportSize()];
  assert.ok(box && window && box.y + box.height <= window.height, "the composer is where it was");
});

test("every item has name and time, the log is filled before it speaks, and each bubble finds its direction", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  for (const text of ["one", "two", "שלום"]) await sayByScript(party, jonas, text);
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
  await reads(page, "one", "two", "שלום");
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

test("with the 31st message the oldest leaves, without moving what is being read", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  await page.getByRole("button", { name: "Close" }).click();
  for (let number = 1; number <= 20; number++) await sayByScript(party, jonas, `number ${number}`);
  for (let number = 21; number <= 30; number++) await sayByScript(party, jonas, `number ${number}`);
  await page.getByText("number 30").waitFor();
  const middle = page.getByText("number 15", { exact: true });
  await middle.evaluate((item) => item.scrollIntoView({ block: "center" }));
  const before = await middle.boundingBox();
  await sayByScript(party, jonas, "the 31st");
  await page.getByRole("button", { name: "1 new message" }).waitFor();
  const after = await middle.boundingBox();
  assert.ok(before && after && Math.abs(before.y - after.y) <= 1, `${before?.y} and ${after?.y}`);
  assert.equal(await page.locator(".bubble").count(), 30);
  assert.equal(await page.getByText("number 1", { exact: true }).count(), 0);
  await page.getByRole("button", { name: "1 new message" }).click();
  await page.getByRole("button", { name: "1 new message" }).waitFor({ state: "hidden" });
  await sayByScript(party, jonas, "the 32nd");
  await page.getByText("the 32nd").waitFor();
  const last = await page.getByText("the 32nd").boundingBox();
  const log = await page.getByRole("log").boundingBox();
  assert.ok(last && log && last.y + last.height <= log.y + log.height, "it sticks to the end again");
});

test("what was missed while away is said where it is missing", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  const numbers = Array.from({ length: 31 }, (_, index) => `number ${index + 1}`);
  await page.goto("about:blank");
  for (const text of numbers.slice(0, 20)) await sayByScript(party, jonas, text);
  for (const text of numbers.slice(20)) await sayByScript(party, jonas, text);
  await page.goBack();
  await reads(page, ...numbers.slice(1));
  assert.equal(await page.locator("#list > li").first().textContent(), "Older messages are gone");
});

test("the title counts what comes while the tab is hidden, the icon gets a dot, both until it is looked at", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
  const show = (hidden: boolean) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  const icon = () => page.evaluate(() => document.querySelector<HTMLLinkElement>("#icon")?.href);
  const plain = await icon();
  await show(true);
  for (const text of ["one", "two"]) await sayByScript(party, jonas, text);
  await page.waitForFunction(() => document.title === "(2) Jonas · Watch Party");
  assert.notEqual(await icon(), plain);
  await show(false);
  assert.equal(await page.title(), "Jonas · Watch Party");
  assert.equal(await icon(), plain);
});

test("polls say which tab is looked at, low in priority, and name the browser", async (t) => {
  const { page } = await anaAndJonas(t, browser);
  const polled = page.waitForRequest((request) => request.url().includes("since="));
  await page.reload();
  const query = new URL((await polled).url()).searchParams;
  assert.equal(query.get("wait"), "25");
  assert.equal(query.get("visible"), "1");
  assert.match(query.get("browser") ?? "", /^[\w-]{22}$/);
});

test("sound is off until it is switched on, and then stays on", async (t) => {
  const { party, page, jonas } = await anaAndJonas(t, browser);
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
  await sayByScript(party, jonas, "one");
  await reads(page, "one");
  await tones(0);
  await openPeople(page);
  await page.getByLabel("Sound for new messages").check();
  await tones(1);
  await sayByScript(party, jonas, "two");
  await tones(2);
  await page.reload();
  await reads(page, "one", "two");
  await page.getByLabel("Message", { exact: true }).click();
  await sayByScript(party, jonas, "three");
  await tones(1);
});

test("a lost connection is said after a moment, and no longer once it is back", async (t) => {
  const { page, jonas } = await anaAndJonas(t, browser);
  await page.route(`**/${jonas.chat_id}?**`, (route) => route.abort());
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await page.getByRole("status").filter({ hasText: "Connection lost" }).waitFor();
  await page.unroute(`**/${jonas.chat_id}?**`);
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await page.getByText("Connection lost").waitFor({ state: "hidden" });
});

// ---------------------------------------------------------------------------------------------------------
// People, and the end.

test("removing somebody stops the old link first, shows a new one, and tells them", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
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
  await page.waitForFunction((old) => document.querySelector<HTMLInputElement>("#link")?.value !== old, link);
  await assert.rejects(joinByScript(party, link, "Mia"));
  await joinByScript(party, await invitation(page), "Noa");
  await page.getByText("Mia left").waitFor();
  await mia.getByRole("button", { name: "Back to the start" }).click();
  await mia.getByRole("button", { name: "Start a chat" }).waitFor();
  assert.equal(await mia.locator("#chats li").count(), 0);
});

test("removing somebody without the tick leaves the link as it is", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  await openPeople(page);
  await page.getByRole("button", { name: "Remove Jonas" }).click();
  await page.getByLabel("Also turn off the old invitation link").uncheck();
  await page.getByRole("button", { name: "Remove", exact: true }).click();
  await page.getByText("Jonas left").waitFor();
  await joinByScript(party, link, "Jonas");
});

test("a new link revokes the old one", async (t) => {
  const { party, page, link } = await anaAndJonas(t, browser);
  await page.getByRole("button", { name: "Make a new link" }).click();
  await page.getByText("The old one no longer works").waitFor();
  const fresh = await invitation(page);
  assert.notEqual(fresh, link);
  await assert.rejects(joinByScript(party, link, "Mia"));
  await joinByScript(party, fresh, "Mia");
});

test("a guest can leave, has no Invite button, and reads whom to ask", async (t) => {
  const { page: ana, link } = await anaAndJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  assert.equal(await page.getByRole("button", { name: "Invite" }).count(), 0);
  await openPeople(page);
  await page.getByText("ask Ana for the link").last().waitFor();
  assert.equal(await page.getByRole("button", { name: /^(Remove|End)/ }).count(), 0);
  await page.getByRole("button", { name: "Leave" }).click();
  await page.getByRole("dialog", { name: "Leave this chat?" }).getByRole("button", { name: "Leave" }).click();
  await notice(page, /You left/);
  await ana.getByText("Mia left").waitFor();
  await page.goto(link.split("#")[0] ?? "");
  await notice(page, /Ask someone/);
});

test("a leaving creator is told that nobody can invite afterwards, and so it is", async (t) => {
  const { page: ana, link } = await anaAndJonas(t, browser);
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

test("ending a chat ends it for everybody, and shows what had not been sent", async (t) => {
  const { page: ana, link } = await anaAndJonas(t, browser);
  const { page } = await newPerson(t, browser);
  await join(page, link, "Mia");
  await page.getByLabel("Message", { exact: true }).fill("Wait, one more");
  await openPeople(ana);
  await ana.getByRole("button", { name: "End chat" }).click();
  await ana.getByRole("dialog", { name: "End this chat?" }).getByRole("button", { name: "End chat" }).click();
  await notice(ana, /You ended/);
  await page.getByRole("heading", { name: "This chat has ended" }).waitFor();
  assert.equal(await page.getByLabel("Your unsent text").inputValue(), "Wait, one more");
  assert.equal(await page.evaluate(() => Object.keys(localStorage).some((key) => key.includes(" chat "))), false);
});

test("the last quarter of an hour is counted down, and offers to go on; at the end it is said", async (t) => {
  let late = 0;
  const party = await startParty(t, { now: () => Date.now() + late });
  const { page } = await newPerson(t, browser);
  const link = await start(page, party);
  const old = await sessionOf(page);
  late = 345.5 * 60_000;
  const jonas = await joinByScript(party, link, "Jonas");
  // The browser's idea of the time is the server's, by the Date of its answers; here that one is not moved.
  const soon = Date.now() - 345.5 * 60_000 + 360 * 60_000;
  assert.ok(Date.parse(old.expires_at) - soon > 0);
  await page.route(`**/${old.chat_id}?**`, async (route) => {
    const response = await route.fetch({ url: route.request().url().replace("party.test", "127.0.0.1") });
    const reply: { expires_at?: string } = await response.json();
    if (reply.expires_at) reply.expires_at = new Date(Date.parse(reply.expires_at) - late).toISOString();
    await route.fulfill({ response, json: reply });
  });
  await page.reload();
  await page.getByText("This chat closes for you in 14 min.").waitFor();
  await page.getByRole("button", { name: "Continue in a new chat" }).click();
  await page.waitForFunction((path) => !location.pathname.includes(path), old.chat_id);
  await invitation(page);
  const { messages } = await call<{ messages: MessageView[] }>(party, "GET", `/${old.chat_id}`, jonas.session_token);
  assert.match(messages[0]?.text ?? "", /^Let's continue here: http:\/\/party\.test:\d+\/[\w-]{16}#invite=/);
  late = 361 * 60_000;
  await page.goto(old.url);
  await page.getByRole("heading", { name: "Time's up: six hours are over" }).waitFor();
});

test("a host that was started anew has forgotten the chat, and the page says so", async (t) => {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser);
  await start(page, party);
  await page.getByRole("button", { name: "Close" }).click();
  const { port } = new URL(party.origin);
  await party.app.stop();
  await startParty(t, {}, Number(port));
  await page.getByRole("heading", { name: "The host was restarted, so this chat is gone" }).waitFor();
  await page.getByRole("button", { name: "Back to the start" }).click();
  await page.getByRole("button", { name: "Start a chat" }).waitFor();
});

test("the API panel's lines do what they say when pasted, and hide the token until asked", async (t) => {
  const { party, page } = await anaAndJonas(t, browser);
  const { session_token } = await sessionOf(page);
  await openPeople(page);
  await page.getByRole("button", { name: "Use the API" }).click();
  const fields = page.locator("#commands textarea");
  const lines = () =>
    fields.evaluateAll((all) => all.map((field) => (field instanceof HTMLTextAreaElement ? field.value : "")));
  assert.ok(!(await lines()).join().includes(session_token));
  await page.getByRole("button", { name: "Show the token" }).click();
  await page.getByRole("button", { name: "Hide the token" }).waitFor();
  const [read = "", write = "", joining = ""] = await lines();
  assert.ok(read.includes(session_token) && write.includes(session_token) && !joining.includes(session_token));
  for (const line of [write, joining]) await runLine(party, line);
  await page.getByText("Guest 3 joined").waitFor({ state: "attached" });
  await reads(page, "Hello from a terminal");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Use the API" }).click();
  assert.ok(!(await lines()).join().includes(session_token));
});

/** What the line asks for, without needing curl: its method, headers and body. */
async function runLine(party: Party, line: string): Promise<void> {
  const words = Array.from(line.matchAll(/"([^"]*)"|(\S+)/g), ([, quoted, plain]) => quoted ?? plain ?? "");
  const headers = new Headers();
  let body: string | undefined;
  let method = "";
  for (const [index, word] of words.entries()) {
    const value = words[index + 1] ?? "";
    if (word === "-H") headers.set(value.split(": ")[0] ?? "", value.split(": ")[1] ?? "");
    if (word === "-X") method = value;
    if (word === "-d") body = value;
  }
  const url = (words.at(-1) ?? "").replace(party.origin, party.origin.replace("party.test", "127.0.0.1"));
  const response = await fetch(url, { method: method || (body ? "POST" : "GET"), headers, ...(body && { body }) });
  assert.equal(response.status, 201, line);
}

test("a whole chat by keyboard alone", async (t) => {
  const party = await startParty(t);
  const { page } = await newPerson(t, browser);
  await page.goto(party.origin);
  await page.keyboard.type("Ana");
  await page.keyboard.press("Enter");
  await invitation(page);
  await page.keyboard.type("Hello");
  await page.keyboard.press("Enter");
  await reads(page, "Hello");
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
  await notice(page, /You left/);
});

test("every dialog by keyboard alone, and the focus is back where it was", async (t) => {
  const { party, page, jonas, link } = await anaAndJonas(t, browser);
  const opens = async (from: string, dialog: string) => {
    await page.keyboard.press("Enter");
    await page.getByRole("dialog", { name: dialog }).waitFor();
    return async () => {
      await page.keyboard.press("Escape");
      assert.equal(await page.evaluate(() => document.activeElement?.id), from);
    };
  };
  await page.keyboard.type("Hello");
  await page.keyboard.press("Enter");
  await tabTo(page, "inviteOpen");
  const closeInvitation = await opens("inviteOpen", "Invite people");
  await tabTo(page, "copy");
  await page.keyboard.press("Enter");
  await page.getByText("Copied").waitFor();
  await tabTo(page, "replaceLink");
  await page.keyboard.press("Enter");
  await page.getByText("The old one no longer works").waitFor();
  await assert.rejects(joinByScript(party, link, "Mia"));
  await tabTo(page, "code");
  await (
    await opens("code", "QR code of the invitation")
  )();
  await closeInvitation();

  await tabTo(page, "seats", "Shift+Tab");
  const closePeople = await opens("seats", "People");
  await tabTo(page, "sound");
  await page.keyboard.press("Space");
  assert.equal(await page.getByLabel("Sound for new messages").isChecked(), true);
  await tabTo(page, "apiOpen");
  const closeApi = await opens("apiOpen", "Use the API");
  await tabTo(page, "toggleTokens");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Hide the token" }).waitFor();
  await closeApi();
  await tabTo(page, "end");
  await (
    await opens("end", "End this chat?")
  )();
  await closePeople();

  // What is written above can be read without a mouse, and what failed be sent again.
  await tabTo(page, "log");
  for (let number = 0; number < 20; number++) await sayByScript(party, jonas, `number ${number}`);
  await page.getByText("number 19").waitFor();
  await page.keyboard.press("Home");
  await page.waitForFunction(() => document.querySelector("#log")?.scrollTop === 0);
  await page.route(`**/${jonas.chat_id}`, (route) => route.abort());
  await tabTo(page, "message");
  await page.keyboard.type("Bye");
  await page.keyboard.press("Enter");
  await page.getByText("Not sent.").waitFor();
  await page.unroute(`**/${jonas.chat_id}`);
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByText("Not sent.").waitFor({ state: "hidden" });
});
