// The page's pure parts: how its state changes and what it makes a person read. No browser, no DOM.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  apiLines,
  assignHues,
  backoff,
  chatTitle,
  initial,
  isEmojiOnly,
  isolate,
  isStale,
  lengthNote,
  type Live,
  logRows,
  type MessageRow,
  nameError,
  type Outgoing,
  type SavedChat,
  splitLinks,
  type State,
  type StateEvent,
  timeLeft,
  update,
} from "../client.ts";
import type { MemberView, MessageView, PollReply } from "../server.ts";

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
  inviting: true,
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

function poll(reply: Partial<PollReply>, seen: { hidden?: boolean; stuck?: boolean } = {}): StateEvent {
  const { messages = [], members = [ana, jonas] } = reply;
  const cursor = messages.at(-1)?.id ?? 2;
  const expires_at = saved.session.expires_at;
  const whole = { cursor, missed: false, expires_at, ...reply, messages, members };
  return { type: "polled", reply: whole, hidden: false, stuck: true, ...seen };
}

/** The state after these events, which has to be in a chat. */
function live(...events: StateEvent[]): Live {
  const state = after({ type: "entered", saved, outbox: [], now: NOON }, ...events);
  assert.equal(state.at, "live");
  return state.at === "live" ? state : assert.fail();
}

function after(...events: StateEvent[]): State {
  const start: State = { at: "home", notice: "", chats: [], fieldError: "", busy: false };
  return events.reduce(update, start);
}

function messageRows(state: Live, now = NOON): MessageRow[] {
  return logRows(state, now).filter((row) => row.kind === "message");
}

function shown(state: Live, now = NOON): string[] {
  return logRows(state, now).map((row) => {
    if (row.kind === "message") return row.status ? `${row.text} (${row.status})` : row.text;
    return row.kind === "gap" ? "gap" : `${row.name} ${row.verb}`;
  });
}

test("an event of another screen changes nothing, not even the object", () => {
  const home = after();
  assert.equal(update(home, poll({})), home);
  const chat = live();
  assert.equal(update(chat, { type: "refused", why: "no" }), chat);
});

test("home lists the chats, and a dead one vanishes", () => {
  const home = after({ type: "went home", notice: "hello", chats: [saved] });
  assert.deepEqual(home, { at: "home", notice: "hello", chats: [saved], fieldError: "", busy: false });
  const fewer = update(home, { type: "chat vanished", chatId: saved.session.chat_id });
  assert.deepEqual(fewer.at === "home" && fewer.chats, []);
});

test("the name card shows who is there, waits, and says what was wrong", () => {
  const look = { chat_id: "A", seats_left: 4, members: ["Ana", "Jonas"], expires_at: "" };
  const invited: StateEvent = { type: "was invited", chatId: "A", token: "t" };
  const away = after(invited, { type: "not reached", notice: "no Wi-Fi" });
  assert.equal(away.at === "joining" && away.notice, "no Wi-Fi");
  const looked = update(away, { type: "looked", look });
  assert.deepEqual(looked.at === "joining" && [looked.notice, looked.look], ["", look]);
  const busy = update(looked, { type: "asked" });
  assert.equal(busy.at === "joining" && busy.busy, true);
  const refused = update(busy, { type: "refused", why: "taken" });
  assert.deepEqual(refused.at === "joining" && [refused.busy, refused.fieldError], [false, "taken"]);
});

test("messages come in by id, once each, and the log keeps thirty", () => {
  const state = live(poll({ messages: [message(3), message(4)] }), poll({ messages: [message(4), message(5)] }));
  assert.deepEqual(shown(state), ["text 3", "text 4", "text 5"]);
  const many = Array.from({ length: 30 }, (_, index) => message(index + 6));
  const full = update(state, poll({ messages: many }));
  assert.equal(full.at === "live" && shown(full).length, 30);
  assert.equal(full.at === "live" && shown(full)[0], "text 6");
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
  assert.deepEqual(came.at === "live" && shown(came), ["text 3", "Mia joined", "hi"]);
  const went = update(came, poll({ messages: [message(6, "bye", mia)], cursor: 7, members: [ana, jonas] }));
  assert.deepEqual(went.at === "live" && shown(went), ["text 3", "Mia joined", "hi", "bye", "Mia left"]);
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
    messageRows(state).map((row) => row.first),
    [true, false, true, true, true],
  );
});

test("one's own message is there at once, and is the same item when it is confirmed", () => {
  const queued = live(poll({}), { type: "queued", outgoing: outgoing("key", "hello") });
  assert.deepEqual(shown(queued), ["hello (sending)"]);
  const sent = update(queued, { type: "sent", key: "key", message: message(3, "hello", ana) });
  assert.ok(sent.at === "live");
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
  assert.deepEqual(sent.at === "live" && shown(sent), ["hello", "hello (sending)"]);
});

test("what was unsent before a reload is not mistaken for an older message with the same words", () => {
  const entered = after({ type: "entered", saved, outbox: [outgoing("key", "ok")], now: NOON });
  const state = update(entered, poll({ messages: [message(3, "ok", ana)] }));
  assert.deepEqual(state.at === "live" && shown(state), ["ok", "ok (sending)"]);
});

test("without a connection all that wait have failed, and one retry sends them all, in order", () => {
  const failed = live(
    poll({}),
    { type: "queued", outgoing: outgoing("a") },
    { type: "queued", outgoing: outgoing("b") },
    { type: "not sent", key: "a", why: "" },
  );
  assert.deepEqual(shown(failed), ["a (failed)", "b (failed)"]);
  const retried = update(failed, { type: "retried", now: NOON });
  assert.deepEqual(retried.at === "live" && shown(retried), ["a (sending)", "b (sending)"]);
  const next = update(failed, { type: "queued", outgoing: outgoing("c") });
  assert.deepEqual(next.at === "live" && shown(next), ["a (sending)", "b (sending)", "c (sending)"]);
});

test("what the server refuses holds up nothing else, and can be thrown away", () => {
  const state = live(
    poll({}),
    { type: "queued", outgoing: outgoing("a") },
    { type: "queued", outgoing: outgoing("b") },
    { type: "not sent", key: "a", why: "Too odd." },
  );
  assert.deepEqual(shown(state), ["a (failed)", "b (sending)"]);
  assert.equal(messageRows(state)[0]?.why, "Too odd.");
  const without = update(state, { type: "discarded", key: "a" });
  assert.deepEqual(without.at === "live" && shown(without), ["b (sending)"]);
});

test("past the key's life it is asked again, and sent with a new key", () => {
  const late = NOON + 10 * MINUTE;
  const failed = live(poll({}), { type: "queued", outgoing: outgoing("a") }, { type: "not sent", key: "a", why: "" });
  assert.deepEqual(shown(failed, late), ["a (stale)"]);
  const retried = update(failed, { type: "retried", now: late });
  assert.deepEqual(retried.at === "live" && shown(retried, late), ["a (stale)"]);
  const again = update(failed, { type: "sent again", key: "a", newKey: "b", now: late });
  assert.deepEqual(again.at === "live" && again.outbox, [outgoing("b", "a", late)]);
  assert.equal(isStale(outgoing("waiting", "", 0), late), false);
  const reopened = after({ type: "entered", saved, outbox: [outgoing("a")], now: late });
  assert.deepEqual(reopened.at === "live" && shown(reopened, late), ["a (stale)"], "nothing old is sent unasked");
});

test("the invitation stays while others write, and goes with the first word of one's own or the sixth seat", () => {
  const open = live(poll({ messages: [message(3)] }));
  assert.equal(open.inviting, true);
  assert.equal(live(poll({}), { type: "queued", outgoing: outgoing("a") }).inviting, false);
  assert.equal(live(poll({}), { type: "invitation closed" }).inviting, false);
  const six = ["1", "2", "3", "4", "5", "6"].map(somebody);
  assert.equal(live(poll({ members: six })).inviting, false);
});

test("two failures or three seconds make a banner, one success takes it away", () => {
  const once = live(poll({}), { type: "poll failed" });
  assert.equal(once.offline, false);
  const waited = update(once, { type: "waited long" });
  assert.equal(waited.at === "live" && waited.offline, true);
  const twice = update(once, { type: "poll failed" });
  assert.equal(twice.at === "live" && twice.offline, true);
  const well = update(twice, poll({}));
  assert.equal(well.at === "live" && well.offline, false);
  const late = update(well, { type: "waited long" });
  assert.equal(late.at === "live" && late.offline, false);
});

test("new messages are counted while one reads above, and while the tab is hidden", () => {
  const start = live(poll({ messages: [message(3)] }));
  const above = update(start, poll({ messages: [message(4), message(5, "mine", ana)] }, { stuck: false }));
  assert.deepEqual(above.at === "live" && [above.below, above.unread], [1, 0]);
  const hidden = update(start, poll({ messages: [message(4)] }, { hidden: true }));
  assert.deepEqual(hidden.at === "live" && [hidden.below, hidden.unread], [0, 1]);
  const seen = update(hidden, { type: "seen", below: false });
  assert.deepEqual(seen.at === "live" && [seen.below, seen.unread], [0, 0]);
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
  assert.equal(isolate("Ana"), "Ana");
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
  assert.deepEqual(lengthNote("x".repeat(1899)), { note: "", over: false });
  assert.deepEqual(lengthNote("x".repeat(1900)), { note: "100 left", over: false });
  assert.deepEqual(lengthNote("x".repeat(2003)), { note: "3 too many", over: true });
  assert.deepEqual(lengthNote("🏽".repeat(1000)), { note: "", over: false });
  assert.deepEqual(lengthNote("👩‍👩‍👧‍👦".repeat(400)), { note: "1808 bytes too many", over: true });
});

test("a name that is none is said to be so before the server is asked", () => {
  assert.equal(nameError("Ana"), "");
  assert.equal(nameError("👩‍👩‍👧‍👦".repeat(24)), "");
  assert.match(nameError("  "), /enter a name/);
  assert.match(nameError("x".repeat(25)), /24 characters/);
});

test("the time that is left reads like speech", () => {
  const minutes = [0.5, 1.5, 59.9, 60, 312].map((count) => timeLeft(count * MINUTE));
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

test("the lines for a terminal hold double quotes only, and say curl.exe on Windows", () => {
  const lines = apiLines("http://192.168.1.42:8080/AAAAAAAAAAAAAAAA", "TOKEN", "INVITE", false).map(([, line]) => line);
  assert.equal(lines.length, 3);
  for (const line of lines) assert.match(line, /^curl [^'`$!%\\]*$/);
  assert.ok(apiLines("u", "t", "i", true).every(([, line]) => line.startsWith("curl.exe ")));
});
