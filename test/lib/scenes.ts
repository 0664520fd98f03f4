// Every state that the page can be in. Each scene is a function that brings a browser's page into one of them, for
// the screenshots and for the checks that every state has to pass.

import type { Page } from "playwright-core";
import { drawQr } from "../../lib/qr.ts";
import { type AddressesReply, createApp, type InviteReply, type Session } from "../../server.ts";
import { openSite, type TestSite } from "./browser.ts";
import { call, setVisible, createChat, createInvite, postByApi, waitForLog, waitForUnsent } from "./people.ts";
import { waitForText } from "./texts.ts";

const MINUTE = 60_000;

/** How far the server's clock is behind, in milliseconds. Changing it gives messages and sessions different ages. */
let clockLag = 0;
const app = createApp({ now: () => Date.now() - clockLag, rateLimit: false, url: "http://192.168.1.20:8080" });
let site: TestSite;

type Sessions = [Session, ...Session[]];

/** The members of a chat with 31 messages, in which everyone has written and the last one is away. */
let fullLogSessions: Sessions;
/** The members of a chat that closes for its creator in twelve minutes. */
let closingSessions: [Session, Session];

/** Starts the server and creates the chats that contain old messages or sessions. */
export async function openScenes(): Promise<void> {
  site = await openSite(app);
  const names = ["Ana", "Jonas", "שירה", "田中さん", "Priya", "Yusuf al-Rahman Ibrahim"] as const;
  fullLogSessions = await createChatWithMessages(names, FULL_LOG, 5);
  clockLag = 5.8 * 60 * MINUTE;
  closingSessions = await createChat(site, "Ana", "Jonas");
  clockLag = 0;
  await postByApi(site, closingSessions[1], "Already so late?");
}

export async function closeScenes(): Promise<void> {
  await app.stop();
}

/** Messages as [index of the author, text, minutes ago]. */
const FULL_LOG: [number, string, number][] = [
  [0, "Evening! Tonight at eight?", 58],
  [1, "I'm in 🙌", 57],
  [2, "אני מביאה פיצה, מתאים לכולם?", 57],
  [3, "今夜は映画ですね！", 55],
  [4, "Can someone bring the long HDMI cable?", 54],
  [4, "Mine is 1 m and the projector hangs off the ceiling", 54],
  [5, "سأحضر العصير والمكسرات", 50],
  [0, "👍", 49],
  [1, "Two films or one? https://example.org/programme?night=2&room=attic#tickets, have a look.", 44],
  [1, "The first one is short", 43],
  [2, "🍿🎬🎉", 42],
  [3, "Line one\nLine two\n\n    indented, after a blank line", 40],
  [4, "<img src=x onerror=alert(1)> <b>not bold</b>", 38],
  [5, "averyveryveryveryveryveryveryveryveryveryveryveryveryveryveryverylongunbrokenwordthatmustwrap", 36],
  [0, "Perfect. I made the playlist, link in a sec", 30],
  [0, "https://music.example.com/playlists/2026/11/22/a-really-long-path-that-goes-on-and-on-and-on?x=1", 29],
  [
    1,
    "So the plan: we meet at seven, eat at half past, film at eight, and the first to fall asleep does the dishes. Any objections? Speak now, or wash the plates for ever.",
    25,
  ],
  [2, "none 😂", 24],
  [3, "OK", 24],
  [4, "हम आठ बजे तक पहुँच जाएँगे 🙏🏽", 20],
  [5, "שלום Ana, see you at 8 ביי", 15],
  [0, "👩‍👩‍👧‍👦", 14],
  [1, "Who is bringing snacks 👀", 12],
  [1, "Me! Also the projector.", 11],
  [2, "מעולה", 9],
  [3, "See you all tonight 💜", 8],
  [4, "On my way", 5],
  [5, "Same", 4],
  [0, "Door's open", 2],
  [1, "Two minutes", 1],
  [1, "Parking…", 0],
];

/** Creates a chat with these members and messages. Only the first `onlineCount` members are still online. */
async function createChatWithMessages(
  [creator, ...others]: readonly [string, ...string[]],
  messages: readonly [number, string, number][],
  onlineCount: number,
): Promise<Sessions> {
  clockLag = 60 * MINUTE;
  const sessions: Sessions = await createChat(site, creator, ...others);
  for (const [author, text, minutesAgo] of messages) {
    clockLag = minutesAgo * MINUTE;
    await postByApi(site, sessions[author] ?? sessions[0], text);
  }
  clockLag = 0;
  for (const { chat_id, session_token } of sessions.slice(0, onlineCount)) {
    await call(site, "GET", `/${chat_id}`, session_token);
  }
  return sessions;
}

/** The messages on the pictures in the README. */
const README_LOG: [number, string, number][] = [
  [1, "Film night at mine on Friday? 🎬", 22],
  [2, "כן! אני מביאה פיצה 🍕", 21],
  [3, "行きます！今夜が楽しみ", 20],
  [0, "Count me in. Who picks the film?", 18],
  [4, "I did last time, so Yusuf's turn", 17],
  [4, "Nothing over two hours please 😴", 17],
  [5, "أقترح فيلمًا كوميديًا هذه المرة", 12],
  [1, "😂🙌", 11],
  [0, "Perfect. Three to choose from: https://films.example/friday", 8],
  [2, "The second one, easily", 4],
  [3, "Same here 👍", 3],
  [0, "Settled then. Doors open at seven!", 1],
];

/** The scene of the README's pictures. */
export async function openReadmeChat(page: Page): Promise<void> {
  const names = ["Mia", "Jonas", "שירה", "田中さん", "Priya", "يوسف"] as const;
  const [mia] = await createChatWithMessages(names, README_LOG, 6);
  await openChat(page, mia, "Jonas");
  await page
    .locator(".message")
    .nth(README_LOG.length - 1)
    .waitFor();
  await page.evaluate(() => document.activeElement instanceof HTMLElement && document.activeElement.blur());
}

/** Replaces the browser's storage: afterwards it has these sessions, as if the person had joined these chats. */
async function storeSessions(
  page: Page,
  chats: readonly { session: Session; title: string; isInviting?: boolean }[],
  origin = site.origin,
): Promise<void> {
  await page.goto(`${origin}/robots.txt`);
  await page.evaluate((saved) => {
    localStorage.clear();
    sessionStorage.clear();
    localStorage.setItem("watch-party name", "Ana");
    for (const chat of saved) {
      const value = JSON.stringify({ isInviting: false, ...chat });
      localStorage.setItem(`watch-party chat ${chat.session.chat_id}`, value);
    }
  }, chats);
}

/** Opens a chat as the member with this session. With `isInviting`, as if that member had just created the chat. */
async function openChat(page: Page, session: Session, title: string, isInviting = false): Promise<void> {
  await storeSessions(page, [{ session, title, isInviting }]);
  await page.goto(`${site.origin}/${session.chat_id}`);
}

/** Opens the chat with the full log as its creator, or as another member. */
async function openFullLog(page: Page, member = 0): Promise<void> {
  await openChat(page, fullLogSessions[member] ?? fullLogSessions[0], "Jonas");
  await page.locator(".message").nth(29).waitFor();
}

/** Opens a chat as its creator sees it right after creating it, with the invitation. */
async function openNewChat(page: Page, creator: Session): Promise<void> {
  await openChat(page, creator, "New chat", true);
  await waitForLink(page);
}

async function waitForLink(page: Page): Promise<void> {
  await page.waitForFunction(() => document.querySelector<HTMLInputElement>("#link")?.value);
}

export type Scene = (page: Page) => Promise<void>;

export const SCENES = {
  async home(page) {
    await storeSessions(page, []);
    await page.goto(site.origin);
  },
  async "home-of-host"(page) {
    await storeSessions(page, []);
    const addresses = ["http://192.168.1.20:8080"];
    const json = { addresses, qr: drawQr(addresses.join()) } satisfies AddressesReply;
    await page.route("**/addresses", (route) => route.fulfill({ json }));
    await page.goto(site.origin);
    await waitForText(page, "home.address");
  },
  async "home-name-missing"(page) {
    await storeSessions(page, []);
    await page.goto(site.origin);
    await page.fill("#name", "");
    await page.click("#joinSubmit");
  },
  async "home-code-wrong"(page) {
    await storeSessions(page, []);
    await page.goto(site.origin);
    await page.locator("#typedCode").pressSequentially("K7QF2M9X");
    await page.keyboard.press("Enter");
    await waitForText(page, "error.code");
  },
  async "home-saved-chats"(page) {
    const [other] = await createChat(site, "Ana", "Mia");
    const [alone] = await createChat(site, "Ana");
    await storeSessions(page, [
      { session: fullLogSessions[0], title: "Jonas, \u2068שירה\u2069 +3" },
      { session: other, title: "Mia" },
      { session: alone, title: "New chat, 21:05" },
    ]);
    await page.goto(site.origin);
  },
  async "home-left"(page) {
    const [session] = await createChat(site, "Ana");
    await openChat(page, session, "New chat");
    await page.click("#seats");
    await page.click("#leave");
    await page.click("#confirm");
    await waitForText(page, "notice.left");
  },
  async "home-chat-full"(page) {
    await storeSessions(page, []);
    await openInvite(page, fullLogSessions[0]);
    await waitForText(page, "invite.chatFull");
  },
  async join(page) {
    const [creator] = await createChat(site, "Ana", "Jonas", "שירה");
    await storeSessions(page, []);
    await openInvite(page, creator);
    await waitForText(page, "join.room", 3);
  },
  async "join-name-taken"(page) {
    await SCENES.join(page);
    await page.fill("#name", "Jonas");
    await page.click("#joinSubmit");
    await waitForText(page, "name.taken");
  },
  async "chat-new"(page) {
    const [creator] = await createChat(site, "Ana");
    await openNewChat(page, creator);
  },
  /** As on https and localhost, in a browser that can share. */
  async "chat-new-secure"(page) {
    const [session] = await createChat(site, "Ana");
    await page.addInitScript(() => Object.assign(navigator, { share: () => undefined }));
    await storeSessions(page, [{ session, title: "New chat", isInviting: true }], site.localOrigin);
    await page.goto(`${site.localOrigin}/${session.chat_id}`);
    await waitForLink(page);
    await page.click("#copy");
    await waitForText(page, "copy.done");
  },
  async "chat-new-with-messages"(page) {
    const [creator, ...guests] = await createChat(site, "Ana", "Jonas", "Mia");
    for (const guest of guests) await postByApi(site, guest, `Hello, ${guest.username} here`);
    await openNewChat(page, creator);
    await page.locator(".message").nth(1).waitFor();
  },
  async "chat-empty"(page) {
    const [, guest] = await createChat(site, "Ana", "Jonas");
    await openChat(page, guest, "Ana");
    await waitForText(page, "chat.empty");
  },
  async "log-full"(page) {
    await openFullLog(page);
  },
  async "log-top"(page) {
    await openFullLog(page, 1);
    await page.evaluate(() => document.querySelector("#log")?.scrollTo(0, 0));
  },
  async "log-middle"(page) {
    await openFullLog(page);
    await page.getByText("not bold").evaluate((item) => item.scrollIntoView({ block: "center" }));
  },
  async "log-new-messages-below"(page) {
    const sessions = await createChat(site, "Ana", "Jonas");
    const [ana, jonas] = sessions;
    for (let n = 1; n < 25; n++) await postByApi(site, sessions[n % 2] ?? ana, `Message number ${n}`);
    await openChat(page, ana, "Jonas");
    await page.locator(".message").nth(23).waitFor();
    await page.evaluate(() => document.querySelector("#log")?.scrollTo(0, 100));
    for (let n = 0; n < 3; n++) await postByApi(site, jonas, "Something new");
    await waitForText(page, "log.below", 3);
  },
  async "message-long"(page) {
    await openFullLog(page);
    await page.fill("#message", "To make it long: ".repeat(118));
  },
  async "message-code"(page) {
    const [ana, jonas] = await createChat(site, "Ana", "Jonas");
    const script =
      '#!/bin/sh\nset -e\nfor f in *.txt; do\n\tprintf \'%s has %s lines, which is a long line\\n\' "$f" "$(wc -l < $f)"\ndone';
    await postByApi(site, jonas, `Run \`npm ci\` first, then this:\n\`\`\`sh\n${script}\n\`\`\`\nIt takes \`~10 s\`.`);
    await postByApi(site, ana, "Mine is shorter:\n\n    wc -l *.txt\n\nIs `*.txt` enough?");
    await postByApi(site, jonas, "```\nשלום\n```");
    await openChat(page, ana, "Jonas");
    await page.locator("pre").nth(2).waitFor();
    await page.locator("pre").nth(1).focus();
  },
  async "message-time"(page) {
    await openFullLog(page);
    await page.getByText("Also the projector").focus();
  },
  async "log-new-divider"(page) {
    const [ana, jonas] = await createChat(site, "Ana", "Jonas");
    await postByApi(site, ana, "I'll be back in a moment");
    await openChat(page, ana, "Jonas");
    await page.locator(".message").waitFor();
    await setVisible(page, false);
    for (const text of ["Take your time", "We are still cooking"]) await postByApi(site, jonas, text);
    await page.locator(".message").nth(2).waitFor();
    await setVisible(page, true);
  },
  async "log-members-gone"(page) {
    const [ana, jonas, mia] = await createChat(site, "Ana", "Jonas", "Mia");
    await postByApi(site, mia, "I have to go, good night");
    await openChat(page, ana, "Jonas");
    await page.locator(".message").waitFor();
    await call(site, "POST", `/${mia.chat_id}/leave`, mia.session_token);
    await waitForText(page, "log.left");
    await call(site, "DELETE", `/${ana.chat_id}/members/${jonas.member_id}`, ana.session_token);
    await waitForText(page, "log.removed");
  },
  async "log-midnight"(page) {
    // In the time zone where a day has begun within the last hour: no message lives for six hours.
    const hour = new Date().getUTCHours();
    const timezoneId = hour <= 12 ? `Etc/GMT+${hour}` : `Etc/GMT-${24 - hour}`;
    const cdp = await page.context().newCDPSession(page);
    await cdp.send("Emulation.setTimezoneOverride", { timezoneId });
    clockLag = Date.now() - new Date().setUTCMinutes(0, 0, 0) + MINUTE;
    const [ana, jonas] = await createChat(site, "Ana", "Jonas");
    await postByApi(site, jonas, "Nearly midnight");
    clockLag -= 2 * MINUTE;
    await postByApi(site, jonas, "Good morning!");
    clockLag = 0;
    await openChat(page, ana, "Jonas");
    await page.locator(".message").nth(1).waitFor();
  },
  async "message-sending"(page) {
    await openChatWithQuestion(page, "Are you there?");
    await page.route("**/*", (route) => (route.request().method() === "POST" ? undefined : route.continue()));
    for (const text of ["Yes!", "This one takes a while to go out, as the Wi-Fi in the attic is what it is", "🎉"]) {
      await page.fill("#message", text);
      await page.click("#send");
    }
    // The clock appears half a second later.
    await page.waitForTimeout(700);
  },
  async "message-unsent"(page) {
    await openChatWithQuestion(page, "Are you there?");
    await page.context().setOffline(true);
    for (const text of ["Yes! Give me five minutes", "🎉", "Or ten"]) {
      await page.fill("#message", text);
      await page.click("#send");
    }
    await waitForText(page, "chat.offline");
    await waitForUnsent(page, 3);
  },
  async "message-refused"(page) {
    await openChatWithQuestion(page, "Are you there?");
    const json = { error: "invalid_text", message: "" };
    await page.route("**/*", (route) =>
      route.request().method() === "POST" ? route.fulfill({ status: 422, json }) : route.continue(),
    );
    for (const text of ["Yes! Give me five minutes", "🎉"]) {
      await page.fill("#message", text);
      await page.click("#send");
    }
    await waitForText(page, "error.message");
  },
  async "message-stale"(page) {
    const ana = await openChatWithQuestion(page, "Are you still there?");
    await page.evaluate((id) => {
      const old = { key: "old", text: "Just a moment", at: Date.now() - 660_000, state: "failed", why: "" };
      localStorage.setItem(`watch-party unsent ${id} old`, JSON.stringify(old));
    }, ana.chat_id);
    await page.reload();
    await waitForText(page, "message.stale");
    await page.locator("[data-action=resendMessage]").waitFor();
  },
  async "storage-full"(page) {
    await openChatWithQuestion(page, "Can you hear me?");
    await page.evaluate(() => {
      Storage.prototype.setItem = () => {
        throw new DOMException("Full", "QuotaExceededError");
      };
    });
    await page.fill("#message", "Yes");
    await page.click("#send");
    await waitForText(page, "chat.unsaved");
  },
  async "chat-closing"(page) {
    await openChat(page, closingSessions[0], "Jonas");
    await page.locator("#continueChat").waitFor();
  },
  async "dialog-invite"(page) {
    await openInviteDialog(page);
    await page.click("#copy");
  },
  async "dialog-invite-after-removal"(page) {
    const [creator] = await createChat(site, "Ana", "Jonas", "Mia");
    await openChat(page, creator, "Jonas");
    await page.locator("#seats .seat").nth(2).waitFor();
    await page.click("#seats");
    await page.click("[data-action=askToRemove][data-id='3']");
    await page.click("#confirm");
    await waitForText(page, "invite.removed");
    await waitForLink(page);
  },
  async "dialog-replace"(page) {
    await openInviteDialog(page);
    await page.click("#replaceLink");
  },
  async "dialog-invite-addresses"(page) {
    await page.route("**/invite", async (route) => {
      const reply = await route.fetch({ url: route.request().url().replace(site.origin, site.localOrigin) });
      const body: InviteReply = await reply.json();
      const magic_link = body.magic_link.replace(/\/\/[^/]+/, "//10.8.0.2:8080");
      await route.fulfill({ response: reply, json: { ...body, other_links: [{ magic_link, qr: body.qr }] } });
    });
    await openInviteDialog(page);
    await page.locator("#addresses").waitFor();
  },
  async "dialog-qr-code"(page) {
    await openInviteDialog(page);
    await page.click("#code");
  },
  async "dialog-people-creator"(page) {
    await openFullLog(page);
    await page.click("#seats");
  },
  async "dialog-people-guest"(page) {
    await openFullLog(page, 1);
    await page.click("#seats");
  },
  async "dialog-people-creator-left"(page) {
    const [ana, , mia] = await createChat(site, "Ana", "Jonas", "Mia");
    await call(site, "POST", `/${ana.chat_id}/leave`, ana.session_token);
    await postByApi(site, mia, "Let's continue here: http://192.168.1.20:8080/AAAAAAAAAAAAAAAA#invite=AAAAAAAAAAA");
    await openChat(page, mia, "Jonas");
    await waitForText(page, "message.joinLink");
    await page.click("#seats");
    await page.locator("#people [data-action=continueChat]").waitFor();
  },
  /** As on https and localhost, in a browser that refuses notifications. */
  async "dialog-people-secure"(page) {
    await SCENES["chat-new-secure"](page);
    await page.evaluate(() => {
      Notification.requestPermission = () => Promise.resolve("denied");
    });
    await page.click("#seats");
    await page.click("#notify");
    await waitForText(page, "people.notifyBlocked");
  },
  async "dialog-remove"(page) {
    await SCENES["dialog-people-creator"](page);
    await page.click("[data-action=askToRemove][data-id='2']");
  },
  async "dialog-leave"(page) {
    await SCENES["dialog-people-creator"](page);
    await page.click("#leave");
  },
  async "dialog-end"(page) {
    await SCENES["dialog-people-creator"](page);
    await page.click("#end");
  },
  async "dialog-api"(page) {
    await SCENES["dialog-people-creator"](page);
    await page.click("#apiOpen");
  },
  async "dialog-api-token-shown"(page) {
    await SCENES["dialog-api"](page);
    await page.click("#toggleTokens");
    await waitForText(page, "api.hide");
  },
  async ended(page) {
    const [creator, guest] = await createChat(site, "Ana", "Jonas");
    await openChat(page, guest, "Ana");
    await page.fill("#message", "One more thing: thank you all, this was");
    await call(site, "DELETE", `/${creator.chat_id}`, creator.session_token);
    await waitForText(page, "ended.chat");
  },
  async "ended-removed"(page) {
    const [creator, guest] = await createChat(site, "Ana", "Jonas");
    await openChat(page, guest, "Ana");
    await waitForLog(page);
    await call(site, "DELETE", `/${creator.chat_id}/members/${guest.member_id}`, creator.session_token);
    await waitForText(page, "ended.goesOn");
  },
  async "home-unsent-text"(page) {
    await SCENES.ended(page);
    await page.goto(site.origin);
    await waitForText(page, "home.unsent");
  },
} satisfies Record<string, Scene>;

/** Scenes with the same elements as another scene, but other texts. For axe, one of them is enough. */
export const DUPLICATES: ReadonlySet<string> = new Set<keyof typeof SCENES>([
  "home",
  "home-name-missing",
  "log-top",
  "log-middle",
  "message-sending",
  "chat-new",
  "dialog-invite",
  "dialog-people-guest",
  "dialog-end",
  "dialog-replace",
  "dialog-api",
]);

/** Opens a new link to a chat in the page. */
async function openInvite(page: Page, creator: Session): Promise<void> {
  const { invite_token } = await createInvite(site, creator);
  await page.goto(`${site.origin}/${creator.chat_id}#invite=${invite_token}`);
}

async function openInviteDialog(page: Page): Promise<void> {
  await openFullLog(page);
  await page.click("#inviteOpen");
  await waitForLink(page);
}

/** Opens a chat in which Jonas has asked something, as Ana, and returns her session. */
async function openChatWithQuestion(page: Page, question: string): Promise<Session> {
  const [ana, jonas] = await createChat(site, "Ana", "Jonas");
  await postByApi(site, jonas, question);
  await openChat(page, ana, "Jonas");
  await page.locator(".message").waitFor();
  return ana;
}
