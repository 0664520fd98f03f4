// Codes on the page: typing one on the home screen, and showing one in the invitation.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import type { InviteReply } from "../server.ts";
import { launchBrowser, newPerson, startSite, type TestSite } from "./lib/browser.ts";
import { until } from "./lib/helpers.ts";
import { call, createChat, createInvite, readSession, runCommand, start, waitForLog } from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

/** Types a code on the home screen and presses Enter. */
async function enterCode(page: Page, code: string): Promise<void> {
  await page.getByLabel("Join with a code").fill("");
  await page.getByLabel("Join with a code").pressSequentially(code);
  await page.keyboard.press("Enter");
}

/** Waits until the page shows an error at the field for a code. */
async function waitForCodeError(page: Page, text: RegExp): Promise<void> {
  await page.locator("#codeError").filter({ hasText: text }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement?.id), "typedCode");
  assert.equal(await page.getByLabel("Join with a code").getAttribute("aria-invalid"), "true");
}

/** Waits for the join screen of Ana's chat, and joins. */
async function joinAna(page: Page, { origin }: TestSite, chatId: string): Promise<void> {
  await page.getByText("Ana is in this chat").waitFor();
  assert.equal(page.url(), `${origin}/${chatId}`);
  await page.getByLabel("Your name").fill("Mia");
  await page.getByLabel("Your name").press("Enter");
  await waitForLog(page);
}

test("a person joins with a code, and the hyphen appears while they type", async (t) => {
  const site = await startSite(t);
  const [ana] = await createChat(site, "Ana");
  const { code } = await createInvite(site, ana);
  const { page } = await newPerson(t, browser);
  await page.goto(site.origin);
  const field = page.getByLabel("Join with a code");
  await field.pressSequentially(code.replace("-", "").toLowerCase());
  assert.equal(await field.inputValue(), code.toLowerCase());
  await page.keyboard.press("Enter");
  await joinAna(page, site, ana.chat_id);
  await page.goto(site.origin);
  assert.equal(await field.inputValue(), "", "the code is gone");
});

test("the field accepts a pasted code with spaces, and a pasted link", async (t) => {
  const site = await startSite(t);
  for (const kind of ["code", "link"]) {
    const [ana] = await createChat(site, "Ana");
    const { code, magic_link } = await createInvite(site, ana);
    const { page } = await newPerson(t, browser);
    await page.goto(site.origin);
    await page.getByLabel("Join with a code").focus();
    const link = magic_link.replace(site.localOrigin, site.origin);
    await page.keyboard.insertText(kind === "link" ? link : ` ${code.replace("-", " ")} `);
    await page.keyboard.press("Enter");
    await joinAna(page, site, ana.chat_id);
  }
});

test("a wrong code, a full chat and a missing host are reported at the field, and the next code works", async (t) => {
  const site = await startSite(t);
  const [ana] = await createChat(site, "Ana");
  const [eva] = await createChat(site, "Eva", "B", "C", "D", "E", "F");
  const { page } = await newPerson(t, browser);
  await page.goto(site.origin);
  for (const wrong of ["K7QF-2M9X", "", "a name of a server that is much too long", "../create"]) {
    await enterCode(page, wrong);
    await waitForCodeError(page, /No invitation has this code/);
    await page.getByLabel("Your name").focus();
  }
  await enterCode(page, (await createInvite(site, eva)).code);
  await waitForCodeError(page, /That chat is full/);
  await page.context().setOffline(true);
  await enterCode(page, "K7QF-2M9X");
  await waitForCodeError(page, /The host can't be reached/);
  await page.context().setOffline(false);
  await page.route("**/create", (route) => route.abort());
  await page.getByLabel("Your name").fill("Mia");
  await page.getByRole("button", { name: "Start a chat" }).click();
  await page.getByRole("status").filter({ hasText: "can't be reached" }).waitFor();
  assert.equal(await page.locator("#codeError").textContent(), "", "the other request removes the error");
  await enterCode(page, (await createInvite(site, ana)).code);
  await joinAna(page, site, ana.chat_id);
});

test("an address with a code opens the join screen, and the code leaves the address", async (t) => {
  const site = await startSite(t);
  const [ana] = await createChat(site, "Ana");
  const { code } = await createInvite(site, ana);
  const { page } = await newPerson(t, browser);
  await page.goto(`${site.origin}/#code=${code.replace("-", "")}`);
  await joinAna(page, site, ana.chat_id);
  await page.goBack();
  await page.getByRole("button", { name: "Start a chat" }).waitFor();
  assert.equal(page.url(), `${site.origin}/`);

  const { page: other } = await newPerson(t, browser);
  await other.goto(`${site.origin}/#code=K7QF2M9X`);
  await waitForCodeError(other, /No invitation has this code/);
  assert.equal(await other.getByLabel("Join with a code").inputValue(), "K7QF-2M9X");
  assert.equal(other.url(), `${site.origin}/`);
});

test("the code of a person's own chat leads straight into it", async (t) => {
  const site = await startSite(t);
  const [ana] = await createChat(site, "Ana");
  const { code } = await createInvite(site, ana);
  const { page } = await newPerson(t, browser);
  await page.goto(`${site.origin}/#code=${code}`);
  await joinAna(page, site, ana.chat_id);
  await page.goto(`${site.origin}/#code=${code}`);
  await waitForLog(page);
});

test("with several servers, the code's first part is in the path of the request", async (t) => {
  const site = await startSite(t, { node: "oslo1" });
  const [ana] = await createChat(site, "Ana");
  const { code } = await createInvite(site, ana);
  const { page } = await newPerson(t, browser);
  await page.goto(site.origin);
  for (const typed of [code, code.toUpperCase().replaceAll("-", "")]) {
    await page.goto(site.origin);
    const request = page.waitForRequest(/redeem/);
    await enterCode(page, typed);
    assert.equal(new URL((await request).url()).pathname, "/redeem/oslo1");
    await page.getByText("Ana is in this chat").waitFor();
  }
});

// ---------------------------------------------------------------------------------------------------------
// The invitation.

test("the invitation and the large view show the address to open and the code", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await start(page, site);
  const session = await readSession(page);
  const { code } = await createInvite(site, session);
  const address = new URL(site.origin).host;
  for (const place of ["#shortAddress", "#largeAddress"])
    assert.equal(await page.locator(place).textContent(), address);
  for (const place of ["#joinCode", "#largeCode"]) assert.equal(await page.locator(place).textContent(), code);
  await page.getByRole("button", { name: /QR code/ }).click();
  const { width, height } = (await page.locator("#largeCode").boundingBox()) ?? { width: 0, height: 0 };
  assert.ok(height > 50 && width > 250, `${width} by ${height} pixels`);
});

test("the code on the screen is renewed before its 30 minutes end, and not after the invitation has closed", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  // Every code seems to end in four minutes.
  let invites = 0;
  await page.route("**/invite", async (route) => {
    invites += 1;
    const reply = await route.fetch({ url: route.request().url().replace(site.origin, site.localOrigin) });
    const body: InviteReply = await reply.json();
    const code_expires_at = new Date(Date.now() + 4 * 60_000).toISOString();
    await route.fulfill({ response: reply, json: { ...body, code_expires_at } });
  });
  await page.clock.install();
  await start(page, site);
  const renewed = page.waitForResponse(/invite$/);
  await page.clock.fastForward(10_000);
  await renewed;
  await page.locator("#inviteClose").click();
  const before = invites;
  await page.clock.fastForward(60_000);
  const fresh = page.waitForResponse(/invite$/);
  await page.getByRole("button", { name: "Invite", exact: true }).click();
  await fresh;
  assert.equal(invites, before + 1, "only the request of the dialog itself");
});

test("where the host has other addresses, choosing one changes the address, the link and the QR code", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await page.route("**/invite", async (route) => {
    if (route.request().method() !== "POST") return route.fallback();
    const reply = await route.fetch({ url: route.request().url().replace(site.origin, site.localOrigin) });
    const body: InviteReply = await reply.json();
    const magic_link = body.magic_link.replace(/\/\/[^/]+/, "//192.168.7.7:8080");
    const other_links = [{ magic_link, qr: body.qr.replaceAll("▄", "▀") }];
    return route.fulfill({ response: reply, json: { ...body, other_links } });
  });
  const link = await start(page, site);
  const picture = (): Promise<string> =>
    page.evaluate(() => document.querySelector<HTMLCanvasElement>("#qr")?.toDataURL() ?? "");
  const before = await picture();
  await page.getByLabel("Not reachable? Try another address").selectOption("192.168.7.7:8080");
  assert.equal(await page.locator("#shortAddress").textContent(), "192.168.7.7:8080");
  assert.equal(await page.locator("#link").inputValue(), link.replace(new URL(link).host, "192.168.7.7:8080"));
  assert.notEqual(await picture(), before);
  // A new link keeps the choice.
  await page.getByRole("button", { name: "Replace the link…" }).click();
  await page.getByRole("button", { name: "Replace", exact: true }).click();
  await page.getByText("The old one no longer works").waitFor();
  assert.equal(await page.locator("#shortAddress").textContent(), "192.168.7.7:8080");
});

test("the offer of other addresses is readable in full, also in German, where it is longest", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser, { locale: "de" });
  await page.route("**/invite", async (route) => {
    const reply = await route.fetch({ url: route.request().url().replace(site.origin, site.localOrigin) });
    const body: InviteReply = await reply.json();
    const magic_link = body.magic_link.replace(/\/\/[^/]+/, "//192.168.7.7:8080");
    await route.fulfill({ response: reply, json: { ...body, other_links: [{ magic_link, qr: body.qr }] } });
  });
  await page.goto(site.origin);
  await page.locator("#name").fill("Ana");
  await page.locator("#joinSubmit").click();
  await page.locator("#addresses").waitFor();
  const [needed, room] = await page.locator("#addresses").evaluate((select: HTMLSelectElement) => {
    const { font, paddingInlineStart } = getComputedStyle(select);
    const pen = document.createElement("canvas").getContext("2d");
    if (!pen) throw new Error("no canvas");
    pen.font = font;
    const arrow = 20;
    const width = pen.measureText(select.options[0]?.text ?? "").width;
    return [width, select.clientWidth - 2 * parseFloat(paddingInlineStart) - arrow];
  });
  assert.ok(needed > 200 && needed <= room, `${needed} px of text, and room for ${room}`);
});

test("the text for a bot has a link, two commands that work when pasted, and the manners", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  const link = await start(page, site);
  await page.getByRole("button", { name: "For a bot or an AI agent" }).click();
  await page.getByText("Copied").waitFor();
  const text = await page.evaluate(() => document.querySelector<HTMLTextAreaElement>("#botText")?.value ?? "");
  assert.ok(text.includes(link) && text.includes("not instructions") && text.includes(`${site.origin}/llms.txt`), text);
  const [join = "", listen = ""] = text.match(/^curl .*$/gm) ?? [];
  const joined = await runCommand(site, join);
  const { session_token }: Record<string, string> = JSON.parse(await joined.text());
  const stream = await runCommand(site, listen.replace("SESSION_TOKEN", String(session_token)));
  await until(() => site.app.chats.count().waiters === 2, "the bot to listen");
  const { chat_id, session_token: token } = await readSession(page);
  await call(site, "DELETE", `/${chat_id}`, token);
  assert.match(await stream.text(), /^\{"members":.*"you":true/);
});
