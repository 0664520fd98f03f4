// Codes on the page: typing one on the home screen, and showing one in the invitation.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launchBrowser, newPerson, startSite, type TestSite } from "./lib/browser.ts";
import { createChat, createInvite, waitForLog } from "./lib/people.ts";

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
