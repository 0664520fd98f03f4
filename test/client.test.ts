// The page's pure parts: how its state changes and what it makes a person read. No browser, no DOM.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  assignHues,
  backoff,
  ACTIONS,
  chatTitle,
  type ChatState,
  checkName,
  commandRows,
  describeFailure,
  endsInvite,
  endsSession,
  formatDuration,
  getText,
  initial,
  isEmojiOnly,
  isolateName,
  isStale,
  KEY_LIFE_MS,
  logRows,
  measureLength,
  type MessageRow,
  type Outgoing,
  POLL_SECONDS,
  type SavedChat,
  SESSION_MS,
  splitLinks,
  type State,
  type StateEvent,
  TEXT,
  update,
} from "../client.ts";
import { LIMITS, type MemberView, type MessageView, type PollReply } from "../server.ts";

const NOON = Date.UTC(2026, 10, 22, 12);
const MINUTE = 60_000;

const saved: SavedChat = {
  session: {
    chat_id: "AAAAAAAAAAAAAAAA",
    session_token: "token",
    member_id: "1",
    username: "Ana",
    expires_at: new Date(NOON + 360 * MINUTE).toISOString(),
    url: "http://192.168.1.42:8080/AAAAAAAAAAAAAAAA",
  },
  title: "Jonas",
  isInviting: true,
};

const ana: MemberView = { id: "1", username: "Ana", creator: true, online: true, you: true };
const jonas: MemberView = { id: "2", username: "Jonas", creator: false, online: true, you: false };
const mia: MemberView = { id: "3", username: "Mia", creator: false, online: true, you: false };

function message(id: number, text = `text ${id}`, author: MemberView = jonas, minute = 0): MessageView {
  const sent_at = new Date(NOON + minute * MINUTE).toISOString();
  return { id, member_id: author.id, username: author.username, text, sent_at };
}

function somebody(id: string): MemberView {
  return { ...jonas, id };
}

function outgoing(key: string, text = key, at = NOON): Outgoing {
  return { key, text, at, state: "waiting", why: "" };
}

function poll(reply: Partial<PollReply>, seen: { isHidden?: boolean; isAtEnd?: boolean } = {}): StateEvent {
  const { messages = [], members = [ana, jonas] } = reply;
  const cursor = messages.at(-1)?.id ?? 2;
  const expires_at = saved.session.expires_at;
  const whole = { cursor, missed: false, expires_at, ...reply, messages, members };
  return { type: "polled", reply: whole, isHidden: false, isAtEnd: true, ...seen };
}

/** The state after these events, which has to be in a chat. */
function live(...events: StateEvent[]): ChatState {
  const state = after({ type: "chat opened", saved, outbox: [], now: NOON }, ...events);
  assert.equal(state.screen, "chat");
  return state.screen === "chat" ? state : assert.fail();
}

function after(...events: StateEvent[]): State {
  const start: State = { screen: "home", notice: "", chats: [], fieldError: "", isBusy: false };
  return events.reduce(update, start);
}

function messageRows(state: ChatState, now = NOON): MessageRow[] {
  return logRows(state, now).filter((row) => row.kind === "message");
}

function shown(state: ChatState, now = NOON): string[] {
  return logRows(state, now).map((row) => {
    if (row.kind === "message") return row.status !== "sent" ? `${row.text} (${row.status})` : row.text;
    return row.kind === "gap" ? "gap" : `${row.name} ${row.change}`;
  });
}

test("an event of another screen changes nothing, not even the object", () => {
  const home = after();
  assert.equal(update(home, poll({})), home);
  const chat = live();
  assert.equal(update(chat, { type: "name rejected", why: "no" }), chat);
});

test("home lists the chats, and a dead one vanishes", () => {
  const home = after({ type: "home opened", notice: "hello", chats: [saved] });
  assert.deepEqual(home, { screen: "home", notice: "hello", chats: [saved], fieldError: "", isBusy: false });
  const fewer = update(home, { type: "chat forgotten", chatId: saved.session.chat_id });
  assert.deepEqual(fewer.screen === "home" && fewer.chats, []);
});

test("the name card shows who is there, waits, and says what was wrong", () => {
  const preview = { chat_id: "A", seats_left: 4, members: ["Ana", "Jonas"], expires_at: "" };
  const invited: StateEvent = { type: "invite opened", chatId: "A", token: "t" };
  const away = after(invited, { type: "failed", notice: "no Wi-Fi" });
  assert.equal(away.screen === "join" && away.notice, "no Wi-Fi");
  const previewed = update(away, { type: "previewed", preview });
  assert.deepEqual(previewed.screen === "join" && [previewed.notice, previewed.preview], ["", preview]);
  const busy = update(previewed, { type: "submitted" });
  assert.equal(busy.screen === "join" && busy.isBusy, true);
  const refused = update(busy, { type: "name rejected", why: "taken" });
  assert.deepEqual(refused.screen === "join" && [refused.isBusy, refused.fieldError], [false, "taken"]);
});

test("messages come in by id, once each, and the log keeps thirty", () => {
  const state = live(poll({ messages: [message(3), message(4)] }), poll({ messages: [message(4), message(5)] }));
  assert.deepEqual(shown(state), ["text 3", "text 4", "text 5"]);
  const many = Array.from({ length: 30 }, (_, index) => message(index + 6));
  const full = update(state, poll({ messages: many }));
  assert.equal(full.screen === "chat" && shown(full).length, 30);
  assert.equal(full.screen === "chat" && shown(full)[0], "text 6");
});

test("what is on its way counts among the thirty", () => {
  const many = Array.from({ length: 30 }, (_, index) => message(index + 3));
  const state = live(poll({ messages: many }), { type: "queued", outgoing: outgoing("mine") });
  assert.equal(shown(state).length, 30);
  assert.equal(shown(state).at(-1), "mine (sending)");
  assert.equal(shown(state)[0], "text 4");
});

test("a gap is told where it is", () => {
  const state = live(poll({ messages: [message(3)] }), poll({ messages: [message(40)], missed: true }));
  assert.deepEqual(shown(state), ["text 3", "gap", "text 40"]);
});

test("who came stands before what they wrote, who went behind it; neither at the first look", () => {
  const first = live(poll({ messages: [message(3)] }));
  assert.deepEqual(shown(first), ["text 3"]);
  const came = update(first, poll({ messages: [message(5, "hi", mia)], members: [ana, jonas, mia] }));
  assert.deepEqual(came.screen === "chat" && shown(came), ["text 3", "Mia joined", "hi"]);
  const went = update(came, poll({ messages: [message(6, "bye", mia)], cursor: 7, members: [ana, jonas] }));
  assert.deepEqual(went.screen === "chat" && shown(went), ["text 3", "Mia joined", "hi", "bye", "Mia left"]);
});

test("lines about people leave with the messages around them", () => {
  const many = Array.from({ length: 30 }, (_, index) => message(index + 10));
  const state = live(
    poll({ messages: [message(3)], members: [ana] }),
    poll({ cursor: 4, members: [ana, jonas] }),
    poll({ messages: many }),
  );
  assert.equal(shown(state).length, 30);
  assert.ok(!shown(state).includes("Jonas joined"));
});

test("a group is one author within five minutes, with nothing in between", () => {
  const state = live(
    poll({ messages: [message(3), message(4, "b", jonas, 4), message(5, "c", jonas, 6), message(6, "d", ana, 6)] }),
    poll({ messages: [message(8, "e", ana, 7)], members: [ana, jonas, mia] }),
  );
  assert.deepEqual(
    messageRows(state).map((row) => row.isFirst),
    [true, false, true, true, true],
  );
});

test("one's own message is there at once, and is the same item when it is confirmed", () => {
  const queued = live(poll({}), { type: "queued", outgoing: outgoing("key", "hello") });
  assert.deepEqual(shown(queued), ["hello (sending)"]);
  const sent = update(queued, { type: "sent", key: "key", message: message(3, "hello", ana) });
  assert.ok(sent.screen === "chat");
  assert.deepEqual(shown(sent), ["hello"]);
  assert.equal(messageRows(sent)[0]?.key, "key");
  assert.deepEqual(shown(live(poll({ messages: [message(3, "hello", ana)] }))), ["hello"]);
});

test("a poll that is quicker than the answer to the post makes no second one", () => {
  const state = live(
    poll({}),
    { type: "queued", outgoing: outgoing("key", " hello\r\n") },
    { type: "queued", outgoing: outgoing("other", "hello") },
    poll({ messages: [message(3, "hello", ana)] }),
  );
  assert.deepEqual(shown(state), ["hello", "hello (sending)"]);
  assert.equal(messageRows(state)[0]?.key, "key");
  const sent = update(state, { type: "sent", key: "key", message: message(3, "hello", ana) });
  assert.deepEqual(sent.screen === "chat" && shown(sent), ["hello", "hello (sending)"]);
});

test("what was unsent before a reload is not mistaken for an older message with the same words", () => {
  const entered = after({ type: "chat opened", saved, outbox: [outgoing("key", "ok")], now: NOON });
  const state = update(entered, poll({ messages: [message(3, "ok", ana)] }));
  assert.deepEqual(state.screen === "chat" && shown(state), ["ok", "ok (sending)"]);
});

test("without a connection all that wait have failed, and one retry sends them all, in order", () => {
  const failed = live(
    poll({}),
    { type: "queued", outgoing: outgoing("a") },
    { type: "queued", outgoing: outgoing("b") },
    { type: "send failed", key: "a", why: "" },
  );
  assert.deepEqual(shown(failed), ["a (failed)", "b (failed)"]);
  const retried = update(failed, { type: "retried", now: NOON });
  assert.deepEqual(retried.screen === "chat" && shown(retried), ["a (sending)", "b (sending)"]);
  const next = update(failed, { type: "queued", outgoing: outgoing("c") });
  assert.deepEqual(next.screen === "chat" && shown(next), ["a (sending)", "b (sending)", "c (sending)"]);
});

test("what the server refuses holds up nothing else, and can be thrown away", () => {
  const state = live(
    poll({}),
    { type: "queued", outgoing: outgoing("a") },
    { type: "queued", outgoing: outgoing("b") },
    { type: "send failed", key: "a", why: "Too odd." },
  );
  assert.deepEqual(shown(state), ["a (failed)", "b (sending)"]);
  assert.equal(messageRows(state)[0]?.why, "Too odd.");
  const without = update(state, { type: "discarded", key: "a" });
  assert.deepEqual(without.screen === "chat" && shown(without), ["b (sending)"]);
});

test("past the key's life it is asked again, and sent with a new key", () => {
  const late = NOON + 10 * MINUTE;
  const failed = live(
    poll({}),
    { type: "queued", outgoing: outgoing("a") },
    { type: "send failed", key: "a", why: "" },
  );
  assert.deepEqual(shown(failed, late), ["a (stale)"]);
  const retried = update(failed, { type: "retried", now: late });
  assert.deepEqual(retried.screen === "chat" && shown(retried, late), ["a (stale)"]);
  const again = update(failed, { type: "resent", key: "a", newKey: "b", now: late });
  assert.deepEqual(again.screen === "chat" && again.outbox, [outgoing("b", "a", late)]);
  assert.equal(isStale(outgoing("waiting", "", 0), late), false);
  const reopened = after({ type: "chat opened", saved, outbox: [outgoing("a")], now: late });
  assert.deepEqual(reopened.screen === "chat" && shown(reopened, late), ["a (stale)"], "nothing old is sent unasked");
});

test("the invitation stays while others write, and goes with the first word of one's own or the sixth seat", () => {
  const open = live(poll({ messages: [message(3)] }));
  assert.equal(open.isInviting, true);
  assert.equal(live(poll({}), { type: "queued", outgoing: outgoing("a") }).isInviting, false);
  assert.equal(live(poll({}), { type: "inline invite closed" }).isInviting, false);
  const six = ["1", "2", "3", "4", "5", "6"].map(somebody);
  assert.equal(live(poll({ members: six })).isInviting, false);
});

test("two failures or three seconds make a banner, one success takes it away", () => {
  const once = live(poll({}), { type: "poll failed" });
  assert.equal(once.isOffline, false);
  const waited = update(once, { type: "offline delay passed" });
  assert.equal(waited.screen === "chat" && waited.isOffline, true);
  const twice = update(once, { type: "poll failed" });
  assert.equal(twice.screen === "chat" && twice.isOffline, true);
  const well = update(twice, poll({}));
  assert.equal(well.screen === "chat" && well.isOffline, false);
  const late = update(well, { type: "offline delay passed" });
  assert.equal(late.screen === "chat" && late.isOffline, false);
});

test("new messages are counted while one reads above, and while the tab is hidden", () => {
  const start = live(poll({ messages: [message(3)] }));
  const above = update(start, poll({ messages: [message(4), message(5, "mine", ana)] }, { isAtEnd: false }));
  assert.deepEqual(above.screen === "chat" && [above.below, above.unread], [1, 0]);
  const hidden = update(start, poll({ messages: [message(4)] }, { isHidden: true }));
  assert.deepEqual(hidden.screen === "chat" && [hidden.below, hidden.unread], [0, 1]);
  const seen = update(hidden, { type: "viewed", isAtEnd: true });
  assert.deepEqual(seen.screen === "chat" && [seen.below, seen.unread], [0, 0]);
  assert.equal(start.unread, 0, "history is not news");
});

test("six members have six hues, and those who have gone keep theirs", () => {
  const six = ["1", "2", "3", "4", "5", "6"].map(somebody);
  const hues = assignHues({}, six);
  assert.deepEqual(hues, { 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5 });
  const next = assignHues(hues, [...six.filter(({ id }) => id !== "2" && id !== "3"), somebody("7")]);
  assert.deepEqual([next["7"], next["2"], next["3"]], [1, 1, 2]);
  assert.deepEqual(assignHues({}, [somebody("9")]), { 9: 2 });
});

test("a chat is named by its other members", () => {
  const expires = NOON + 360 * MINUTE;
  const shira = { ...jonas, id: "4", username: "שירה" };
  assert.match(chatTitle([ana], expires), /^New chat, \d/);
  assert.equal(chatTitle([ana, jonas], expires), "Jonas");
  assert.equal(chatTitle([ana, jonas, mia], expires), "Jonas, Mia");
  assert.equal(chatTitle([ana, jonas, shira, mia, mia], expires), "Jonas, \u2068שירה\u2069 +2");
  assert.equal(isolateName("Ana"), "Ana");
});

for (const [text, ...parts] of [
  ["no link"],
  ["see https://a.example/b?c=d#e now", "https://a.example/b?c=d#e"],
  ["HTTP://A.example.", "HTTP://A.example"],
  ["(https://a.example/x_(y))", "https://a.example/x_(y)"],
  ["“https://a.example/”, she said", "https://a.example/"],
  ["two: http://a.example!? http://b.example:81/…", "http://a.example", "http://b.example:81/"],
  ["javascript:alert(1) data:text/html,x ftp://a.example file:///etc"],
  ["http:// https://["],
  ["https://a.example/\u202egpj.exe", "https://a.example/"],
  ["<https://a.example/>", "https://a.example/"],
] as const) {
  test(`links in ${JSON.stringify(text)}`, () => {
    const links = splitLinks(text);
    assert.equal(links.map((part) => part.text).join(""), text, "no character is lost");
    const found = links.filter((part) => part.href).map((part) => part.text);
    assert.deepEqual(found, parts);
  });
}

for (const [text, large] of [
  ["🎉", true],
  ["👩‍👩‍👧‍👦", true],
  ["🇮🇱 ❤️ 👍🏽", true],
  ["1️⃣", true],
  ["☝🏽", true],
  ["❤️‍🔥", true],
  ["🏴󠁧󠁢󠁳󠁣󠁴󠁿", true],
  ["©", false],
  ["🇮", false],
  ["🎉🎉🎉🎉", false],
  ["hi 🎉", false],
  ["12", false],
  ["", false],
] as const) {
  test(`${JSON.stringify(text)} is ${large ? "" : "not "}shown large`, () => {
    assert.equal(isEmojiOnly(text), large);
  });
}

test("the first visible character stands for a name", () => {
  assert.deepEqual(["ana", "שירה", "👩‍👧 x", "é", ""].map(initial), ["A", "ש", "👩‍👧", "É", ""]);
});

test("the counter counts what is seen, and shows near the limits only", () => {
  assert.deepEqual(measureLength("x".repeat(1899)), { note: "", isOver: false });
  assert.deepEqual(measureLength("x".repeat(1900)), { note: "100 left", isOver: false });
  assert.deepEqual(measureLength("x".repeat(2003)), { note: "3 too many", isOver: true });
  assert.deepEqual(measureLength("🏽".repeat(1000)), { note: "", isOver: false });
  assert.deepEqual(measureLength("👩‍👩‍👧‍👦".repeat(400)), { note: "1808 bytes too many", isOver: true });
});

test("a name that is none is said to be so before the server is asked", () => {
  assert.equal(checkName("Ana"), "");
  assert.equal(checkName("👩‍👩‍👧‍👦".repeat(24)), "");
  assert.match(checkName("  "), /enter a name/);
  assert.match(checkName("x".repeat(25)), /24 characters/);
});

test("the time that is left reads like speech", () => {
  const minutes = [0.5, 1.5, 59.9, 60, 312].map((count) => formatDuration(count * MINUTE));
  assert.deepEqual(minutes, ["less than a minute", "1 min", "59 min", "1 h 0 min", "5 h 12 min"]);
});

test("waiting after a failure grows to 15 seconds, with full jitter", () => {
  assert.deepEqual(
    [1, 2, 3, 20].map((failures) => backoff(failures, () => 1)),
    [1000, 2000, 4000, 15_000],
  );
  assert.equal(
    backoff(5, () => 0),
    0,
  );
});

test("a question waits while its action is under way, and shows why it failed", () => {
  const asked = live({ type: "question asked", question: { kind: "leave" } });
  assert.deepEqual(asked.question, { kind: "leave", isBusy: false, error: "" });
  const submitted = live({ type: "question asked", question: { kind: "leave" } }, { type: "question submitted" });
  assert.equal(submitted.question?.isBusy, true);
  const failed = update(submitted, { type: "question failed", error: "No." });
  assert.deepEqual(failed.screen === "chat" && failed.question, { kind: "leave", isBusy: false, error: "No." });
  const closed = update(failed, { type: "question closed" });
  assert.equal(closed.screen === "chat" && closed.question, undefined);
  const late = update(closed, { type: "question failed", error: "No." });
  assert.equal(late.screen === "chat" && late.question, undefined, "a late answer opens nothing");
});

test("the API panel shows tokens only when asked to", () => {
  assert.equal(live().apiPanel, "closed");
  assert.equal(live({ type: "API panel changed", panel: "masked" }).apiPanel, "masked");
});

test("the invitation's outcome and a failure to continue are shown", () => {
  const invite = { magic_link: "link", invite_token: "token", expires_at: "", seats_left: 5 };
  const created = live({ type: "invite created", invite, status: "new" });
  assert.deepEqual([created.invite, created.inviteStatus], [invite, "new"]);
  assert.equal(live({ type: "invite status changed", status: "Copied" }).inviteStatus, "Copied");
  assert.equal(live({ type: "continue failed", error: "Full." }).continueError, "Full.");
});

test("the page's limits are those of the server", () => {
  // The type check compares those that the compiler knows exactly.
  assert.equal(SESSION_MS, LIMITS.sessionMs);
  assert.ok(KEY_LIFE_MS < LIMITS.keyMs);
  assert.ok(POLL_SECONDS <= LIMITS.waitSeconds);
});

// ---------------------------------------------------------------------------------------------------------
// Texts, hues and actions, in client.ts and index.html.

const script = readFileSync(new URL("../client.ts", import.meta.url), "utf8");
const html = readFileSync(new URL("../index.html", import.meta.url), "utf8");
const style = /<style>([^]*)<\/style>/.exec(html)?.[1] ?? "";
/** The markup that is on the screen once the script has run. */
const markup = html.replace(/<style>[^]*<\/style>|<title>.*<\/title>|<noscript>.*<\/noscript>/g, "");

function attributeValues(names: string): string[] {
  return Array.from(markup.matchAll(new RegExp(` (?:${names})="([^"]*)"`, "g")), ([, value = ""]) => value);
}

test("index.html has no visible text, so that every word can be translated", () => {
  assert.equal(markup.replace(/<[^>]*>/g, "").trim(), "");
  assert.deepEqual(attributeValues("aria-label|aria-description|placeholder|title|alt|value").filter(Boolean), []);
  const generated = Array.from(style.matchAll(/content: *"([^"]*)"/g), ([, text]) => text);
  assert.deepEqual(generated, ["×"]);
});

test("every text that the page refers to exists, and every text is used", () => {
  const referred = attributeValues("data-text|data-label|data-placeholder");
  assert.ok(referred.length > 20);
  for (const key of referred) assert.ok(Object.hasOwn(TEXT, key), `index.html refers to ${key}`);
  for (const key of Object.keys(TEXT)) {
    const isUsed = referred.includes(key) || new RegExp(`"${key.replace(".", "\\.")}"(?!:)`).test(script);
    assert.ok(isUsed, `${key} is used nowhere`);
  }
});

test("the texts and the hues know how many seats there are", () => {
  const numbers: Record<number, string> = { 6: "six" };
  const [seats, hours] = [numbers[LIMITS.seats], numbers[LIMITS.sessionMs / (60 * MINUTE)]];
  assert.ok(TEXT["home.text"].includes(`up to ${seats} people`));
  assert.ok(TEXT["invite.chatFull"].includes(`${seats} people are in it`));
  assert.ok(TEXT["ended.time"].includes(`${hours} hours`));
  const hues = Array.from(style.matchAll(/\[data-hue="(\d+)"\] { --h/g), ([, hue]) => Number(hue));
  assert.deepEqual(hues, [...Array(LIMITS.seats).keys()]);
});

test("index.html refers only to texts without numbers or placeholders", () => {
  for (const key of attributeValues("data-text|data-label|data-placeholder")) {
    const text: unknown = Object.entries(TEXT).find(([name]) => name === key)?.[1];
    assert.ok(typeof text === "string" && !text.includes("{"), key);
  }
});

test("texts are filled in once, literally, in the form that the number asks for", () => {
  assert.equal(getText("log.below", { count: 1 }), "1 new message ↓");
  assert.equal(getText("log.below", { count: 2 }), "2 new messages ↓");
  assert.equal(
    getText("name.taken", { name: "{person} $&", person: "Ana" }).startsWith("The name {person} $& is"),
    true,
  );
  const plurals = Object.values(TEXT).filter((text) => typeof text === "object");
  for (const forms of plurals) assert.deepEqual(Object.keys(forms), ["one", "other"]);
});

test("errors have the page's own sentences, and the server's only where the page has none", () => {
  const sentence = "The server's sentence.";
  assert.equal(describeFailure({ code: "server_full", message: sentence }), TEXT["error.serverFull"]);
  assert.equal(describeFailure({ code: "unreachable", message: "" }), TEXT["error.unreachable"]);
  assert.equal(describeFailure({ code: "invalid_cursor", message: sentence }), sentence);
});

test("a full chat ends an invitation but no session, and an error of the moment ends neither", () => {
  assert.deepEqual([endsSession("revoked_token"), endsInvite("revoked_token")], [true, true]);
  assert.deepEqual([endsSession("chat_full"), endsInvite("chat_full")], [false, true]);
  assert.deepEqual([endsSession("rate_limited"), endsInvite("unreachable")], [false, false]);
});

test("every button and form of index.html has an action that exists, and every action has a button or form", () => {
  const used = new Set(attributeValues("data-action"));
  const drawn = Array.from(script.matchAll(/makeButton\("(\w+)"/g), ([, name = ""]) => name);
  assert.deepEqual([...used, ...drawn].toSorted().filter(isFirst), Object.keys(ACTIONS).toSorted());
  for (const [tag] of markup.matchAll(/<(?:button|form)[^>]*>/g)) {
    const isSubmit = /id="(joinSubmit|send|confirm)"/.test(tag);
    assert.equal(tag.includes("data-action="), !isSubmit, tag);
  }
});

function isFirst(name: string, index: number, names: string[]): boolean {
  return names.indexOf(name) === index;
}

test("the lines for a terminal hold double quotes only, and say curl.exe on Windows", () => {
  const rows = commandRows("http://192.168.1.42:8080/AAAAAAAAAAAAAAAA", "TOKEN", "INVITE", false);
  const lines = rows.map(({ command }) => command);
  assert.equal(lines.length, 3);
  for (const line of lines) assert.match(line, /^curl [^'`$!%\\]*$/);
  assert.ok(commandRows("u", "t", "i", true).every(({ command }) => command.startsWith("curl.exe ")));
});
