// Sharing through the system, and notifications, which browsers allow only on https and localhost. Chromium
// on Linux can do neither without a desktop, so functions that record their calls take their place.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test, type TestContext } from "node:test";
import type { Browser, Page } from "playwright-core";
import type { Session } from "../server.ts";
import { launchBrowser, newPerson, startSite, type TestSite } from "./lib/browser.ts";
import { joinByApi, openPeople, postByApi, readInviteLink, start, waitForMessages } from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

/** Opens Ana's page on 127.0.0.1, in a new chat that Jonas joins, with the two functions replaced. */
async function startOnLocalhost(t: TestContext): Promise<{ site: TestSite; page: Page; jonas: Session; link: string }> {
  const site = await startSite(t, { url: "http://party.test" });
  const { page } = await newPerson(t, browser);
  await page.addInitScript(replaceFunctions);
  const link = await start(page, { origin: site.localOrigin });
  const jonas = await joinByApi(site, link, "Jonas");
  await page.getByText("2 of 6 in the chat").waitFor();
  return { site, page, jonas, link };
}

function replaceFunctions(): void {
  const calls: unknown[] = [];
  let answer = "granted";
  class FakeNotification extends EventTarget {
    static permission = "default";
    static requestPermission(): Promise<string> {
      calls.push("asked");
      FakeNotification.permission = answer;
      return Promise.resolve(answer);
    }
    constructor(title: string, { body, tag }: NotificationOptions) {
      super();
      calls.push({ title, body, tag });
      Object.assign(window, { lastNotification: this });
    }
    close(): void {
      calls.push("closed");
    }
  }
  const share = (data: ShareData) => {
    calls.push(data);
    return Promise.reject(new DOMException("Closed", "AbortError"));
  };
  Object.assign(navigator, { share });
  Object.assign(window, { calls, Notification: FakeNotification, focus: () => calls.push("focused") });
  Object.assign(window, { setAnswer: (next: string) => (answer = next) });
}

function readCalls(page: Page): Promise<unknown[]> {
  return page.evaluate(() => Reflect.get(window, "calls"));
}

async function setHidden(page: Page, isHidden: boolean): Promise<void> {
  await page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, isHidden);
}

test("where the browser can share, a button beside Copy shares the link", async (t) => {
  const { page, link } = await startOnLocalhost(t);
  await page.getByRole("button", { name: "Share the link" }).click();
  assert.deepEqual(await readCalls(page), [{ title: "Watch Party", url: link }]);
});

test("notifications are off until switched on, appear only while the tab is hidden, and lead back to it", async (t) => {
  const { site, page, jonas } = await startOnLocalhost(t);
  await setHidden(page, true);
  await postByApi(site, jonas, "one");
  await waitForMessages(page, "one");
  await setHidden(page, false);
  assert.deepEqual(await readCalls(page), []);

  await openPeople(page);
  await page.getByLabel("Notifications for new messages").check();
  await postByApi(site, jonas, "two");
  await waitForMessages(page, "one", "two");
  assert.deepEqual(await readCalls(page), ["asked"]);

  await setHidden(page, true);
  await postByApi(site, jonas, "three");
  await waitForMessages(page, "one", "two", "three");
  const shown = { title: "Jonas", body: "three", tag: `/${jonas.chat_id}` };
  assert.deepEqual(await readCalls(page), ["asked", shown]);
  await page.evaluate(() => Reflect.get(window, "lastNotification").dispatchEvent(new Event("click")));
  await setHidden(page, false);
  assert.deepEqual(await readCalls(page), ["asked", shown, "focused", "closed"]);
});

test("a choice of notifications survives a reload", async (t) => {
  const { site, page, jonas } = await startOnLocalhost(t);
  await page.addInitScript(() => Object.assign(Notification, { permission: "granted" }));
  await openPeople(page);
  await page.getByLabel("Notifications for new messages").check();
  await page.reload();
  await readInviteLink(page);
  await setHidden(page, true);
  await postByApi(site, jonas, "Are you there?");
  await waitForMessages(page, "Are you there?");
  assert.equal((await readCalls(page)).length, 1);
  await openPeople(page);
  assert.equal(await page.getByLabel("Notifications for new messages").isChecked(), true);
});

test("if the browser refuses notifications, the page says so and leaves them off", async (t) => {
  const { page } = await startOnLocalhost(t);
  await page.evaluate(() => Reflect.get(window, "setAnswer")("denied"));
  await openPeople(page);
  await page.getByLabel("Notifications for new messages").click();
  await page.getByText("This browser does not allow notifications from here.").waitFor();
  assert.equal(await page.getByLabel("Notifications for new messages").isChecked(), false);
});

test("on plain http, the page offers neither sharing nor notifications", async (t) => {
  const site = await startSite(t);
  const { page } = await newPerson(t, browser);
  await start(page, site);
  assert.equal(await page.getByRole("button", { name: "Share the link" }).isVisible(), false);
  await openPeople(page);
  assert.equal(await page.getByLabel("Notifications for new messages").isVisible(), false);
});
