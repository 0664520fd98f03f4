// Members, and the end of a chat, in a real browser.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test, type TestContext } from "node:test";
import type { Browser } from "playwright-core";
import { launchBrowser, newPerson, startSite } from "./lib/browser.ts";
import {
  join,
  joinByApi,
  loseAnswer,
  openPeople,
  postByApi,
  readInviteLink,
  readSession,
  readTextsByApi,
  runCommand,
  start,
  startChatWithJonas,
  tabTo,
  waitForMessages,
  waitForNotice,
} from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

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
  for (const command of [write, joining]) assert.equal((await runCommand(site, command)).status, 201, command);
  await page.getByText("Guest 3 joined").waitFor({ state: "attached" });
  await waitForMessages(page, "Hello from a terminal");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Use the API" }).click();
  assert.ok(!(await readCommands()).join().includes(session_token));
});

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
