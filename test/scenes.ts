// Every state that the page can be in, each made by a function that leads a browser's page there: for the
// pictures (screenshots.ts) and for the checks that all of them have to pass (states.test.ts).

import type { Page } from "playwright-core";
import { createApp, type InviteReply, type Session } from "../server.ts";

const MINUTE = 60_000;

/** The server's clock runs behind at first, so that messages are of different times. */
let behind = 0;
const app = createApp({ now: () => Date.now() - behind, rateLimit: false });
/** The server's address for scripts, and for the browser. */
let local = "";
let origin = "";

/** Starts the server, with the chats in it that took some time to become what they are. */
export async function openScenes(): Promise<void> {
  await new Promise<void>((resolve) => app.server.listen(0, "127.0.0.1", resolve));
  const address = app.server.address();
  if (typeof address !== "object" || !address) throw new Error("The server has no port.");
  local = `http://127.0.0.1:${address.port}`;
  origin = `http://party.test:${address.port}`;
  busy = await makeTalk(["Ana", "Jonas", "שירה", "田中さん", "Priya", "Yusuf al-Rahman Ibrahim"], TALK, 5);
  behind = 5.8 * 60 * MINUTE;
  closing = await makeChat("Ana", "Jonas");
  behind = 0;
  await say(closing[1] ?? closing[0], "Already so late?");
}

type People = [Session, ...Session[]];

/** A chat in which everybody has written and the last one is away, and one that ends in twelve minutes. */
let busy: People;
let closing: People;

export async function closeScenes(): Promise<void> {
  await app.stop();
}

async function call<T>(method: string, path: string, token = "", body?: object): Promise<T> {
  const headers = token ? { Authorization: `Bearer ${token}` } : undefined;
  const response = await fetch(local + path, {
    method,
    ...(headers && { headers }),
    ...(body && { body: JSON.stringify(body) }),
  });
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: the server's own types
  return (response.status === 204 ? undefined : await response.json()) as T;
}

async function invite({ chat_id, session_token }: Session): Promise<InviteReply> {
  return call<InviteReply>("POST", `/${chat_id}/invite`, session_token);
}

async function makeChat(creator: string, ...others: string[]): Promise<People> {
  const first = await call<Session>("POST", "/create", "", { username: creator });
  const { invite_token } = await invite(first);
  const rest: Session[] = [];
  for (const username of others) {
    rest.push(await call<Session>("POST", `/${first.chat_id}/join`, invite_token, { username }));
  }
  return [first, ...rest];
}

async function say({ chat_id, session_token }: Session, text: string, minutesAgo = 0): Promise<void> {
  behind = minutesAgo * MINUTE;
  await call("POST", `/${chat_id}`, session_token, { text });
}

const TALK: [number, string, number][] = [
  [0, "Evening! Tonight at eight?", 58],
  [1, "I'm in 🙌", 57],
  [2, "אני מביאה פיצה, מתאים לכולם?", 57],
  [3, "今夜は映画ですね！", 55],
  [4, "Can somebody bring the long HDMI cable?", 54],
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
    "So the plan: we meet at seven, eat at half past, film at eight, and whoever falls asleep first does the dishes. Any objections? Speak now or hold your plate for ever.",
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

/** The people of a chat in which each has written, and whether they are all still there. */
async function makeTalk(
  names: [string, ...string[]],
  talk: readonly [number, string, number][],
  here: number,
): Promise<People> {
  behind = 60 * MINUTE;
  const people = await makeChat(...names);
  for (const [author, text, minutesAgo] of talk) await say(people[author] ?? people[0], text, minutesAgo);
  behind = 0;
  for (const person of people.slice(0, here)) await call("GET", `/${person.chat_id}`, person.session_token);
  return people;
}

/** For the pictures in the README: an evening's chat. */
const EVENING: [number, string, number][] = [
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
export async function openEvening(page: Page): Promise<void> {
  const people = await makeTalk(["Mia", "Jonas", "שירה", "田中さん", "Priya", "يوسف"], EVENING, 6);
  await openAs(page, people[0], "Jonas");
  await page
    .locator(".message")
    .nth(EVENING.length - 1)
    .waitFor();
  await page.evaluate(() => document.activeElement instanceof HTMLElement && document.activeElement.blur());
}

/** Puts seats into the browser's storage, as if they had been taken there. */
async function holdSeats(page: Page, sessions: readonly { session: Session; title: string; isInviting?: boolean }[]) {
  await page.goto(`${origin}/robots.txt`);
  await page.evaluate((chats) => {
    localStorage.clear();
    sessionStorage.clear();
    localStorage.setItem("watch-party name", "Ana");
    for (const chat of chats) {
      const value = JSON.stringify({ isInviting: false, ...chat });
      localStorage.setItem(`watch-party chat ${chat.session.chat_id}`, value);
    }
  }, sessions);
}

/** Opens the chat as that member, who has just started it if `isInviting`. */
async function openAs(page: Page, session: Session, title: string, isInviting = false): Promise<void> {
  await holdSeats(page, [{ session, title, isInviting }]);
  await page.goto(`${origin}/${session.chat_id}`);
}

async function openBusy(page: Page, seat = 0): Promise<void> {
  const session = busy[seat] ?? busy[0];
  await openAs(page, session, "Jonas");
  await page.locator(".message").nth(29).waitFor();
}

async function openNew(page: Page, people: People): Promise<void> {
  const [session] = people;
  await openAs(page, session, "New chat", true);
  await page.waitForFunction(() => document.querySelector<HTMLInputElement>("#link")?.value);
}

export type Scene = (page: Page) => Promise<void>;

export const SCENES: Record<string, Scene> = {
  async home(page) {
    await holdSeats(page, []);
    await page.goto(origin);
  },
  async "home-empty-name"(page) {
    await holdSeats(page, []);
    await page.goto(origin);
    await page.fill("#name", "");
    await page.click("#joinSubmit");
  },
  async "home-chats"(page) {
    const [other] = await makeChat("Ana", "Mia");
    const [alone] = await makeChat("Ana");
    await holdSeats(page, [
      { session: busy[0], title: "Jonas, \u2068שירה\u2069 +3" },
      { session: other, title: "Mia" },
      { session: alone, title: "New chat, 21:05" },
    ]);
    await page.goto(origin);
  },
  async "home-notice"(page) {
    await holdSeats(page, []);
    await page.goto((await invite(busy[0])).magic_link.replace(local, origin));
    await page.locator("#notice").filter({ hasText: "full" }).waitFor();
  },
  async join(page) {
    const [creator] = await makeChat("Ana", "Jonas", "שירה");
    await holdSeats(page, []);
    const { invite_token } = await invite(creator);
    await page.goto(`${origin}/${creator.chat_id}#invite=${invite_token}`);
    await page.getByText("There is room for 3 more").waitFor();
  },
  async "join-taken"(page) {
    await SCENES["join"]?.(page);
    await page.fill("#name", "Jonas");
    await page.click("#joinSubmit");
    await page.getByText("already taken").waitFor();
  },
  async "new-chat"(page) {
    await openNew(page, await makeChat("Ana"));
  },
  async "new-chat-talk"(page) {
    const people = await makeChat("Ana", "Jonas", "Mia");
    for (const person of people.slice(1)) await say(person, `Hello, ${person.username} here`);
    await openNew(page, people);
    await page.locator(".message").nth(1).waitFor();
  },
  async "empty-guest"(page) {
    const [, guest] = await makeChat("Ana", "Jonas");
    if (!guest) return;
    await openAs(page, guest, "Ana");
    await page.getByText("No messages yet").waitFor();
  },
  async busy(page) {
    await openBusy(page);
  },
  async "busy-top"(page) {
    await openBusy(page, 1);
    await page.evaluate(() => document.querySelector("#log")?.scrollTo(0, 0));
  },
  async "busy-middle"(page) {
    await openBusy(page);
    await page.getByText("not bold").evaluate((item) => item.scrollIntoView({ block: "center" }));
  },
  async unsaved(page) {
    const people = await makeChat("Ana", "Jonas");
    await say(people[1] ?? people[0], "Can you hear me?");
    await openAs(page, people[0], "Jonas");
    await page.locator(".message").waitFor();
    await page.evaluate(() => {
      Storage.prototype.setItem = () => {
        throw new DOMException("Full", "QuotaExceededError");
      };
    });
    await page.fill("#message", "Yes");
    await page.click("#send");
    await page.getByText("This browser saves nothing").waitFor();
  },
  async stale(page) {
    const people = await makeChat("Ana", "Jonas");
    await say(people[1] ?? people[0], "Are you still there?");
    await openAs(page, people[0], "Jonas");
    await page.evaluate((id) => {
      const old = { key: "old", text: "Just a moment", at: Date.now() - 660_000, state: "failed", why: "" };
      localStorage.setItem(`watch-party unsent ${id} old`, JSON.stringify(old));
    }, people[0].chat_id);
    await page.reload();
    await page.getByText("This may already have been sent").waitFor();
    await page.getByRole("button", { name: "Send again?" }).waitFor();
  },
  async pill(page) {
    const people = await makeChat("Ana", "Jonas");
    for (let n = 1; n < 25; n++) await say(people[n % 2] ?? people[0], `Message number ${n}`);
    await openAs(page, people[0], "Jonas");
    await page.locator(".message").nth(23).waitFor();
    await page.evaluate(() => document.querySelector("#log")?.scrollTo(0, 100));
    for (let n = 0; n < 3; n++) await say(people[1] ?? people[0], "Something new");
    await page.getByText("3 new messages").waitFor();
  },
  async invite(page) {
    await openBusy(page);
    await page.click("#inviteOpen");
    await page.waitForFunction(() => document.querySelector<HTMLInputElement>("#link")?.value);
    await page.click("#copy");
  },
  async "large-code"(page) {
    await openBusy(page);
    await page.click("#inviteOpen");
    await page.waitForFunction(() => document.querySelector<HTMLInputElement>("#link")?.value);
    await page.click("#code");
  },
  async people(page) {
    await openBusy(page);
    await page.click("#seats");
  },
  async "people-guest"(page) {
    await openBusy(page, 1);
    await page.click("#seats");
  },
  async remove(page) {
    await openBusy(page);
    await page.click("#seats");
    await page.getByLabel("Remove Jonas").click();
  },
  async leave(page) {
    await openBusy(page);
    await page.click("#seats");
    await page.click("#leave");
  },
  async end(page) {
    await openBusy(page);
    await page.click("#seats");
    await page.click("#end");
  },
  async api(page) {
    await openBusy(page);
    await page.click("#seats");
    await page.click("#apiOpen");
  },
  async "api-token"(page) {
    await SCENES["api"]?.(page);
    await page.click("#toggleTokens");
    await page.getByText("Hide the token").waitFor();
  },
  async ended(page) {
    const [creator, guest] = await makeChat("Ana", "Jonas");
    if (!guest) return;
    await openAs(page, guest, "Ana");
    await page.fill("#message", "One more thing: thank you all, this was");
    await call("DELETE", `/${creator.chat_id}`, creator.session_token);
    await page.getByText("has ended").waitFor();
  },
  async sending(page) {
    const people = await makeChat("Ana", "Jonas");
    await say(people[1] ?? people[0], "Are you there?");
    await openAs(page, people[0], "Jonas");
    await page.route("**/*", (route) => (route.request().method() === "POST" ? undefined : route.continue()));
    for (const text of ["Yes!", "This one takes a while to go out, as the Wi-Fi in the attic is what it is", "🎉"]) {
      await page.fill("#message", text);
      await page.click("#send");
    }
    await page.waitForTimeout(700);
  },
  async failed(page) {
    const people = await makeChat("Ana", "Jonas");
    await say(people[1] ?? people[0], "Are you there?");
    await openAs(page, people[0], "Jonas");
    await page.locator(".message").waitFor();
    await page.context().setOffline(true);
    for (const text of ["Yes! Give me five minutes", "🎉"]) {
      await page.fill("#message", text);
      await page.click("#send");
      await page.getByText("Not sent.").last().waitFor();
    }
    await page.getByText("Connection lost").waitFor();
  },
  async counter(page) {
    await openBusy(page);
    await page.fill("#message", "To make it long: ".repeat(118));
  },
  async ending(page) {
    await openAs(page, closing[0], "Jonas");
    await page.getByText("Continue in a new chat").waitFor();
  },
};
