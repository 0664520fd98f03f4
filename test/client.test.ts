// The pure functions of the page's script: how its state changes, and which rows and texts it shows. These tests need
// no browser and no DOM.

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
  describeClosing,
  describeFailure,
  endsInvite,
  endsSession,
  formatDuration,
  getText,
  initial,
  isEmojiOnly,
  isPrivateHost,
  isolateName,
  isStale,
  isVisible,
  KEY_LIFE_MS,
  logRows,
  measureLength,
  type MessageRow,
  type Outgoing,
  POLL_SECONDS,
  removeIndent,
  type SavedChat,
  SESSION_MS,
  splitLinks,
  splitText,
  type State,
  type StateEvent,
  update,
} from "../client.ts";
import { TEXTS } from "../dist/texts.ts";
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

function makeMessage(id: number, text = `text ${id}`, author: MemberView = jonas, minute = 0): MessageView {
  const sent_at = new Date(NOON + minute * MINUTE).toISOString();
  return { id, member_id: author.id, username: author.username, text, sent_at };
}

function makeMember(id: string): MemberView {
  return { ...jonas, id };
}

function makeOutgoing(key: string, text = key, at = NOON): Outgoing {
  return { key, text, at, state: "waiting", why: "" };
}

/** The event of a successful poll. What `reply` leaves out is as in a quiet chat of Ana and Jonas. */
function polled(reply: Partial<PollReply>, view: { isHidden?: boolean; isAtEnd?: boolean } = {}): StateEvent {
  const { messages = [], members = [ana, jonas] } = reply;
  const cursor = messages.at(-1)?.id ?? 2;
  const expires_at = saved.session.expires_at;
  const whole = { cursor, missed: false, expires_at, ...reply, messages, members };
  return { type: "polled", reply: whole, isHidden: false, isAtEnd: true, ...view };
}

/** Returns the state of a chat that has just been opened, after these events. */
function chatAfter(...events: StateEvent[]): ChatState {
  const state = stateAfter({ type: "chat opened", saved, outbox: [], now: NOON }, ...events);
  assert.equal(state.screen, "chat");
  return state.screen === "chat" ? state : assert.fail();
}

/** Returns the state after these events, starting on an empty home screen. */
function stateAfter(...events: StateEvent[]): State {
  const start: State = {
    screen: "home",
    notice: "",
    isNeutral: false,
    chats: [],
    host: { addresses: [], qr: "" },
    fieldError: "",
    badField: "name",
    isBusy: false,
  };
  return events.reduce(update, start);
}

function messageRows(state: ChatState, now = NOON): MessageRow[] {
  return logRows(state, now).filter((row) => row.kind === "message");
}

/** Returns the rows of the log in a short form, with the status of messages that are not sent: "hello (sending)". */
function describeRows(state: ChatState, now = NOON): string[] {
  return logRows(state, now).map((row) => {
    if (row.kind === "message") return row.status !== "sent" ? `${row.text} (${row.status})` : row.text;
    return row.kind === "line" ? `${row.name} ${row.change}` : `-- ${row.text}`;
  });
}

test("an event of another screen returns the same state object", () => {
  const home = stateAfter();
  assert.equal(update(home, polled({})), home);
  const chat = chatAfter();
  assert.equal(update(chat, { type: "field rejected", field: "name", why: "no" }), chat);
});

test("home lists the chats, and no longer one that the server does not know", () => {
  const home = stateAfter({ type: "home opened", notice: "hello", isNeutral: true, chats: [saved] });
  const rest = { chats: [saved], host: { addresses: [], qr: "" }, fieldError: "", badField: "name", isBusy: false };
  assert.deepEqual(home, { screen: "home", notice: "hello", isNeutral: true, ...rest });
  const failed = update(home, { type: "failed", notice: "no Wi-Fi" });
  assert.equal(failed.screen === "home" && failed.isNeutral, false, "a failure is a warning");
  const fewer = update(home, { type: "chats checked", chats: [] });
  assert.deepEqual(fewer.screen === "home" && fewer.chats, []);
});

test("the join screen shows the members, waits for the server, and shows what is wrong with a name", () => {
  const preview = { chat_id: "A", seats_left: 4, members: ["Ana", "Jonas"], expires_at: "" };
  const invited: StateEvent = { type: "invite opened", chatId: "A", token: "t" };
  const unreachable = stateAfter(invited, { type: "failed", notice: "no Wi-Fi" });
  assert.equal(unreachable.screen === "join" && unreachable.notice, "no Wi-Fi");
  const previewed = update(unreachable, { type: "previewed", preview });
  assert.deepEqual(previewed.screen === "join" && [previewed.notice, previewed.preview], ["", preview]);
  const busy = update(previewed, { type: "submitted" });
  assert.equal(busy.screen === "join" && busy.isBusy, true);
  const rejected = update(busy, { type: "field rejected", field: "name", why: "taken" });
  assert.deepEqual(rejected.screen === "join" && [rejected.isBusy, rejected.fieldError], [false, "taken"]);
});

test("messages are sorted by id without duplicates, and the log keeps the last thirty", () => {
  const state = chatAfter(
    polled({ messages: [makeMessage(3), makeMessage(4)] }),
    polled({ messages: [makeMessage(4), makeMessage(5)] }),
  );
  assert.deepEqual(describeRows(state), ["text 3", "text 4", "text 5"]);
  const many = Array.from({ length: 30 }, (_, index) => makeMessage(index + 6));
  const full = update(state, polled({ messages: many }));
  assert.equal(full.screen === "chat" && describeRows(full).length, 30);
  assert.equal(full.screen === "chat" && describeRows(full)[0], "text 6");
});

test("a message being sent counts among the thirty", () => {
  const many = Array.from({ length: 30 }, (_, index) => makeMessage(index + 3));
  const state = chatAfter(polled({ messages: many }), { type: "queued", outgoing: makeOutgoing("mine") });
  assert.equal(describeRows(state).length, 30);
  assert.equal(describeRows(state).at(-1), "mine (sending)");
  assert.equal(describeRows(state)[0], "text 4");
});

test("a member's arrival precedes their messages, their departure follows them, and the first poll adds neither", () => {
  const first = chatAfter(polled({ messages: [makeMessage(3)] }));
  assert.deepEqual(describeRows(first), ["text 3"]);
  const joined = update(first, polled({ messages: [makeMessage(5, "hi", mia)], members: [ana, jonas, mia] }));
  assert.deepEqual(joined.screen === "chat" && describeRows(joined), ["text 3", "Mia joined", "hi"]);
  const left = update(joined, polled({ messages: [makeMessage(6, "bye", mia)], cursor: 7, members: [ana, jonas] }));
  assert.deepEqual(left.screen === "chat" && describeRows(left), ["text 3", "Mia joined", "hi", "bye", "Mia left"]);
});

test("a member who was removed did not leave", () => {
  const state = chatAfter(
    polled({ messages: [makeMessage(3)], members: [ana, jonas, mia], removed: ["2"] }),
    polled({ cursor: 4, members: [ana, jonas], removed: ["2", "3"] }),
    polled({ cursor: 5, members: [ana] }),
  );
  assert.deepEqual(describeRows(state), ["text 3", "Mia removed", "Jonas left"]);
});

test("lines about members disappear together with the messages around them", () => {
  const many = Array.from({ length: 30 }, (_, index) => makeMessage(index + 10));
  const state = chatAfter(
    polled({ messages: [makeMessage(3)], members: [ana] }),
    polled({ cursor: 4, members: [ana, jonas] }),
    polled({ messages: many }),
  );
  assert.equal(describeRows(state).length, 30);
  assert.ok(!describeRows(state).includes("Jonas joined"));
});

test("a group consists of one author's messages within five minutes, with nothing in between", () => {
  const state = chatAfter(
    polled({
      messages: [
        makeMessage(3),
        makeMessage(4, "b", jonas, 4),
        makeMessage(5, "c", jonas, 6),
        makeMessage(6, "d", ana, 6),
      ],
    }),
    polled({ messages: [makeMessage(8, "e", ana, 7)], members: [ana, jonas, mia] }),
  );
  assert.deepEqual(
    messageRows(state).map((row) => row.isFirst),
    [true, false, true, true, true],
  );
});

test("a sent message appears at once and keeps its row when it is confirmed", () => {
  const queued = chatAfter(polled({}), { type: "queued", outgoing: makeOutgoing("key", "hello") });
  assert.deepEqual(describeRows(queued), ["hello (sending)"]);
  const sent = update(queued, { type: "sent", key: "key", message: makeMessage(3, "hello", ana) });
  assert.ok(sent.screen === "chat");
  assert.deepEqual(describeRows(sent), ["hello"]);
  assert.equal(messageRows(sent)[0]?.key, "key");
  assert.deepEqual(describeRows(chatAfter(polled({ messages: [makeMessage(3, "hello", ana)] }))), ["hello"]);
});

test("a message that a poll returns before the answer to its POST appears once", () => {
  const state = chatAfter(
    polled({}),
    { type: "queued", outgoing: makeOutgoing("key", " hello\r\n") },
    { type: "queued", outgoing: makeOutgoing("other", "hello") },
    polled({ messages: [makeMessage(3, "hello", ana)] }),
  );
  assert.deepEqual(describeRows(state), ["hello", "hello (sending)"]);
  assert.equal(messageRows(state)[0]?.key, "key");
  const sent = update(state, { type: "sent", key: "key", message: makeMessage(3, "hello", ana) });
  assert.deepEqual(sent.screen === "chat" && describeRows(sent), ["hello", "hello (sending)"]);
});

test("after a reload, an unsent message is not mistaken for an older message with the same text", () => {
  const entered = stateAfter({ type: "chat opened", saved, outbox: [makeOutgoing("key", "ok")], now: NOON });
  const state = update(entered, polled({ messages: [makeMessage(3, "ok", ana)] }));
  assert.deepEqual(state.screen === "chat" && describeRows(state), ["ok", "ok (sending)"]);
});

test("without a connection all messages wait for it, with one sentence under the last, and go out in order", () => {
  const failed = chatAfter(
    polled({}),
    { type: "queued", outgoing: makeOutgoing("a") },
    { type: "queued", outgoing: makeOutgoing("b") },
    { type: "send failed", key: "a", why: "" },
  );
  const waiting = ["a (unsent)", "b (unsent)"];
  assert.deepEqual(describeRows(failed), waiting);
  const sentences = messageRows(failed).map((row) => row.why);
  assert.deepEqual(sentences, ["", "Will be sent when the connection is back"]);
  const retried = update(failed, { type: "retried", now: NOON });
  assert.ok(retried.screen === "chat");
  assert.deepEqual(describeRows(retried), waiting, "a retry does not change the screen");
  const states = retried.outbox.map((outgoing) => outgoing.state);
  assert.deepEqual(states, ["retrying", "retrying"]);
  const failedAgain = update(retried, { type: "send failed", key: "a", why: "" });
  assert.deepEqual(failedAgain.screen === "chat" && describeRows(failedAgain), waiting);
  const next = update(failed, { type: "queued", outgoing: makeOutgoing("c") });
  assert.deepEqual(next.screen === "chat" && describeRows(next), [...waiting, "c (sending)"]);
  const polledTwice = [{ type: "poll failed" }, { type: "poll failed" }] as const;
  const offline = polledTwice.reduce<State>(update, next);
  assert.deepEqual(offline.screen === "chat" && describeRows(offline), [...waiting, "c (unsent)"]);
});

test("a refused message does not block the others and can be deleted", () => {
  const state = chatAfter(
    polled({}),
    { type: "queued", outgoing: makeOutgoing("a") },
    { type: "queued", outgoing: makeOutgoing("b") },
    { type: "send failed", key: "a", why: "Too odd." },
  );
  assert.deepEqual(describeRows(state), ["b (sending)", "a (failed)"]);
  assert.equal(messageRows(state)[1]?.why, "Too odd.");
  const without = update(state, { type: "discarded", key: "a" });
  assert.deepEqual(without.screen === "chat" && describeRows(without), ["b (sending)"]);
});

test("a message older than its key is resent only if the person confirms, and then with a new key", () => {
  const late = NOON + 10 * MINUTE;
  const failed = chatAfter(
    polled({}),
    { type: "queued", outgoing: makeOutgoing("a") },
    { type: "send failed", key: "a", why: "" },
  );
  assert.deepEqual(describeRows(failed, late), ["a (stale)"]);
  const retried = update(failed, { type: "retried", now: late });
  assert.deepEqual(retried.screen === "chat" && describeRows(retried, late), ["a (stale)"]);
  const again = update(failed, { type: "resent", key: "a", newKey: "b", now: late });
  assert.deepEqual(again.screen === "chat" && again.outbox, [makeOutgoing("b", "a", late)]);
  assert.equal(isStale(makeOutgoing("waiting", "", 0), late), false);
  const refused = chatAfter(
    polled({}),
    { type: "queued", outgoing: makeOutgoing("a") },
    { type: "send failed", key: "a", why: "Too odd." },
  );
  assert.deepEqual(describeRows(refused, late), ["a (failed)"], "the server did not keep it");
  const reopened = stateAfter({ type: "chat opened", saved, outbox: [makeOutgoing("a")], now: late });
  assert.deepEqual(
    reopened.screen === "chat" && describeRows(reopened, late),
    ["a (stale)"],
    "a stale message is not sent without asking",
  );
});

test("the invitation stays while others write, until its creator writes or the sixth member joins", () => {
  const open = chatAfter(polled({ messages: [makeMessage(3)] }));
  assert.equal(open.isInviting, true);
  assert.equal(chatAfter(polled({}), { type: "queued", outgoing: makeOutgoing("a") }).isInviting, false);
  assert.equal(chatAfter(polled({}), { type: "inline invite closed" }).isInviting, false);
  const six = ["1", "2", "3", "4", "5", "6"].map(makeMember);
  assert.equal(chatAfter(polled({ members: six })).isInviting, false);
});

test("two failed polls or three seconds show the offline banner, and one success hides it", () => {
  const once = chatAfter(polled({}), { type: "poll failed" });
  assert.equal(once.isOffline, false);
  const waited = update(once, { type: "offline delay passed" });
  assert.equal(waited.screen === "chat" && waited.isOffline, true);
  const twice = update(once, { type: "poll failed" });
  assert.equal(twice.screen === "chat" && twice.isOffline, true);
  const online = update(twice, polled({}));
  assert.equal(online.screen === "chat" && online.isOffline, false);
  const late = update(online, { type: "offline delay passed" });
  assert.equal(late.screen === "chat" && late.isOffline, false);
});

test("a connection that is back is announced once per loss, and a short loss not at all", () => {
  const failed: StateEvent = { type: "poll failed" };
  const wait: StateEvent = { type: "offline delay passed" };
  assert.equal(chatAfter(polled({}), failed, polled({})).isBackOnline, false);
  assert.equal(chatAfter(polled({}), failed, wait, polled({}), polled({})).isBackOnline, true);
  assert.equal(chatAfter(polled({}), failed, wait, polled({}), failed, wait).isBackOnline, false);
});

test("screen readers hear the countdown at 15, 5 and 1 minutes", () => {
  const spoken = Array.from({ length: 16 * 6 }, (_, tick) => describeClosing((16 * 6 - tick) * 10_000));
  assert.deepEqual(
    [...new Set(spoken)],
    ["", ...[15, 5, 1].map((minutes) => `This chat closes for you in less than ${minutes} min.`)],
  );
});

test("new messages are counted while the person reads older ones, and while the tab is hidden", () => {
  const start = chatAfter(polled({ messages: [makeMessage(3)] }));
  const scrolledUp = update(
    start,
    polled({ messages: [makeMessage(4), makeMessage(5, "mine", ana)] }, { isAtEnd: false }),
  );
  assert.deepEqual(scrolledUp.screen === "chat" && [scrolledUp.below, scrolledUp.unread], [1, 0]);
  const hidden = update(start, polled({ messages: [makeMessage(4)] }, { isHidden: true }));
  assert.deepEqual(hidden.screen === "chat" && [hidden.below, hidden.unread], [0, 1]);
  const seen = update(hidden, { type: "viewed", isAtEnd: true });
  assert.deepEqual(seen.screen === "chat" && [seen.below, seen.unread], [0, 0]);
  assert.equal(start.unread, 0, "the messages of the first poll are not new");
});

test("six members have six hues, and members who left keep theirs", () => {
  const six = ["1", "2", "3", "4", "5", "6"].map(makeMember);
  const hues = assignHues({}, six);
  assert.deepEqual(hues, { 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5 });
  const next = assignHues(hues, [...six.filter(({ id }) => id !== "2" && id !== "3"), makeMember("7")]);
  assert.deepEqual([next["7"], next["2"], next["3"]], [1, 1, 2]);
  assert.deepEqual(assignHues({}, [makeMember("9")]), { 9: 2 });
});

test("a chat's title lists its other members", () => {
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
    assert.equal(links.map((part) => part.text).join(""), text, "every character is kept");
    const found = links.filter((part) => part.href).map((part) => part.text);
    assert.deepEqual(found, parts);
  });
}

/** Returns the parts of a text in a short form: `<inline code>`, `[a block]`, and the rest as it is. */
function describeParts(text: string): string {
  const marks = { inline: ["<", ">"], block: ["[", "]"], none: ["", ""] } as const;
  const parts = splitText(text).map((part) => [part.text, marks[part.code ?? "none"]] as const);
  return parts.map(([content, [before, after]]) => before + content + after).join("|");
}

for (const [text, parts] of [
  ["no code, not even ` or ``", "no code, not even ` or ``"],
  ["`a` and `b`", "<a>| and |<b>"],
  ["```a``` `b", "<a>| `b"],
  ["a `\n` b ````c````", "a `\n` b ````c````"],
  ["see:\n```ts\nif (a)\n  b();\n```\nend", "see:|[if (a)\n  b();]|end"],
  ["```\n\n  <b>\n\n  `c`\n```", "[\n<b>\n\n`c`]"],
  ["see:\n\n    a\n\n      b\n\nend", "see:|[a\n\n  b]|end"],
  ["see:\n\ta\n\t\tb", "see:|[a\n\tb]"],
  ["```\nnever closed\n    a", "```\nnever closed|[a]"],
  ["```not a language\na\n```\nb", "```not a language\na\n```\nb"],
  ["```\n```", "```\n```"],
  ["# title\n* **item**\n   three spaces", "# title\n* **item**\n   three spaces"],
] as const) {
  test(`code in ${JSON.stringify(text)}`, () => {
    assert.equal(describeParts(text), parts);
  });
}

test("no text makes splitting slow", () => {
  // If the time were quadratic, a million characters would take minutes.
  const [short, long] = [1000, 200_000];
  const hostile = ["`", "` ", "```\n", "```js\n", "```js\na\n", "\n    ", "    x\n\n", "\n", "`a", "``a`", "x `````"];
  for (const pattern of hostile) {
    const before = performance.now();
    for (const end of ["", "x", "`", "```"]) {
      splitText(pattern.repeat(long) + end);
      splitText(`a\n${pattern.repeat(short)}${" ".repeat(long)}${end}`);
    }
    const took = performance.now() - before;
    assert.ok(took < 10_000, `${JSON.stringify(pattern)} took ${took} ms`);
  }
});

test("a day that begins between two messages is named between them", () => {
  const midnight = new Date(2026, 10, 23).getTime();
  const at = (minutes: number) => (midnight - NOON) / MINUTE + minutes;
  const messages = [
    makeMessage(3, "a", jonas, at(-2)),
    makeMessage(4, "b", jonas, at(-1)),
    makeMessage(5, "c", jonas, at(1)),
  ];
  const state = chatAfter(polled({ messages }), {
    type: "queued",
    outgoing: makeOutgoing("d", "d", midnight + 24 * 60 * MINUTE),
  });
  const rows = describeRows(state).map((row) => row.replace(/^-- (\w+day)\b.*\d+.*/, "-- $1"));
  assert.deepEqual(rows, ["a", "b", "-- Monday", "c", "-- Tuesday", "d (sending)"]);
  assert.equal(messageRows(state)[2]?.isFirst, true, "the first message of a day shows its author and time");
});

test("a line marks the first message that arrived while the tab was hidden, until the tab was read and left", () => {
  const start = chatAfter(polled({ messages: [makeMessage(3)] }));
  const own = makeMessage(4, "mine", ana);
  const hidden = update(start, polled({ messages: [own, makeMessage(5)] }, { isHidden: true }));
  const more = update(hidden, polled({ messages: [makeMessage(6)] }, { isHidden: true }));
  const seen = update(more, { type: "viewed", isAtEnd: true });
  const rows = ["text 3", "mine", "-- New", "text 5", "text 6"];
  assert.deepEqual(seen.screen === "chat" && describeRows(seen), rows);
  const unread = update(seen, { type: "hidden", isAtEnd: false });
  assert.deepEqual(unread.screen === "chat" && describeRows(unread), rows, "the end was not on the screen");
  const left = update(seen, { type: "hidden", isAtEnd: true });
  assert.deepEqual(left.screen === "chat" && describeRows(left), ["text 3", "mine", "text 5", "text 6"]);
  const answered = update(seen, { type: "queued", outgoing: makeOutgoing("a") });
  assert.deepEqual(answered.screen === "chat" && describeRows(answered).includes("-- New"), false);
  const many = Array.from({ length: 30 }, (_, index) => makeMessage(index + 7));
  const full = update(more, polled({ messages: many }, { isHidden: true }));
  assert.equal(full.screen === "chat" && describeRows(full)[0], "-- New", "the first of them is no longer kept");
});

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

for (const [hosts, isPrivate] of [
  ["10.0.0.1 10.255.1.2 192.168.1.20:8080 172.16.0.1 172.31.9.9 169.254.7.7 100.64.0.1 100.127.0.1", true],
  ["[fc00::1] [fdab:1::2]:8080 [fe80::1] [febf::1] laptop.local LAPTOP.local:8080", true],
  ["11.0.0.1 192.169.1.1 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 8.8.8.8 127.0.0.1 localhost", false],
  ["[2001:db8::1] [fc::1] [fec0::1] chat.example.org 10.example.org local.example.org notlocal", false],
] as const) {
  for (const host of hosts.split(" ")) {
    test(`${host} can ${isPrivate ? "only" : "not only"} be reached on the same network`, () => {
      assert.equal(isPrivateHost(new URL(`http://${host}`).hostname), isPrivate);
    });
  }
}

test("a seat shows the first grapheme of a name", () => {
  assert.deepEqual(["ana", "שירה", "👩‍👧 x", "é", ""].map(initial), ["A", "ש", "👩‍👧", "É", ""]);
});

test("the counter counts graphemes and bytes, and appears only near a limit", () => {
  assert.deepEqual(measureLength("x".repeat(1899)), { note: "", isOver: false });
  assert.deepEqual(measureLength("x".repeat(1900)), { note: "100 characters left", isOver: false });
  assert.deepEqual(measureLength("x".repeat(2003)), { note: "3 characters too long", isOver: true });
  assert.deepEqual(measureLength("🏽".repeat(1000)), { note: "", isOver: false });
  assert.deepEqual(measureLength("👩‍👩‍👧‍👦".repeat(400)), { note: "1,808 bytes too long", isOver: true });
});

test("the page rejects an empty or long name without asking the server", () => {
  assert.equal(checkName("Ana"), "");
  assert.equal(checkName("👩‍👩‍👧‍👦".repeat(24)), "");
  assert.match(checkName("  "), /enter a name/);
  assert.match(checkName("x".repeat(25)), /24 characters/);
});

test("a message that no one could see is not sent", () => {
  for (const text of ["", " \n", "\u200b", "\u2060\ufeff", "\u2800", "\u3164", "\u00ad", "\u202e"])
    assert.ok(!isVisible(text));
  for (const text of ["a", "\u200bא", "1️⃣", "👩‍👩‍👧‍👦", ".", "©"]) assert.ok(isVisible(text));
});

for (const [text, shifted] of [
  ["    if (x) {\n      y();\n    }", "if (x) {\n  y();\n}"],
  ["\tone\n\n\t\ttwo", "one\n\n\ttwo"],
  ["\n  a\n \n  b\n", "\na\n\nb\n"],
  ["one\n    two", "one\n    two"],
  ["\ta\n  b", "\ta\n  b"],
] as const) {
  test(`the lines of ${JSON.stringify(text)} are sent without their common indentation`, () => {
    assert.equal(removeIndent(text), shifted);
  });
}

test("a message waiting to be sent shows the server's time", () => {
  const outgoing = { ...makeOutgoing("a"), shownAt: NOON + 60 * MINUTE };
  const state = chatAfter(polled({}), { type: "queued", outgoing });
  assert.equal(messageRows(state)[0]?.at, new Date(NOON + 60 * MINUTE).toISOString());
});

test("a duration is shown in hours and minutes", () => {
  const minutes = [0.5, 1.5, 59.9, 60, 312].map((count) => formatDuration(count * MINUTE));
  assert.deepEqual(minutes, ["less than a minute", "1 min", "59 min", "1 h 0 min", "5 h 12 min"]);
});

test("the backoff after failures grows to 15 seconds, with full jitter", () => {
  assert.deepEqual(
    [1, 2, 3, 20].map((failures) => backoff(failures, () => 1)),
    [1000, 2000, 4000, 15_000],
  );
  assert.equal(
    backoff(5, () => 0),
    0,
  );
});

test("a question is busy while its action runs, and shows why the action failed", () => {
  const asked = chatAfter({ type: "question asked", question: { kind: "leave" } });
  assert.deepEqual(asked.question, { kind: "leave", isBusy: false, error: "" });
  const submitted = chatAfter({ type: "question asked", question: { kind: "leave" } }, { type: "question submitted" });
  assert.equal(submitted.question?.isBusy, true);
  const failed = update(submitted, { type: "question failed", error: "No." });
  assert.deepEqual(failed.screen === "chat" && failed.question, { kind: "leave", isBusy: false, error: "No." });
  const closed = update(failed, { type: "question closed" });
  assert.equal(closed.screen === "chat" && closed.question, undefined);
  const late = update(closed, { type: "question failed", error: "No." });
  assert.equal(late.screen === "chat" && late.question, undefined, "a late answer does not reopen the question");
});

test("the API panel is closed at first and masks the tokens when it opens", () => {
  assert.equal(chatAfter().apiPanel, "closed");
  assert.equal(chatAfter({ type: "API panel changed", panel: "masked" }).apiPanel, "masked");
});

test("the state keeps the outcome of an invitation and the reason why continuing failed", () => {
  const code = { qr: "█\n█", code: "K7QF-2M9X", code_expires_at: "" };
  const invite = { magic_link: "link", other_links: [], invite_token: "token", expires_at: "", seats_left: 5, ...code };
  const created = chatAfter({ type: "invite created", invite, status: "new" });
  assert.deepEqual([created.invite, created.inviteStatus], [invite, "new"]);
  const copied = chatAfter(
    { type: "invite status changed", status: "Copied" },
    { type: "invite created", invite, status: "" },
  );
  assert.equal(copied.inviteStatus, "Copied", "a fresh link does not clear it");
  const reopened = update(copied, { type: "invite dialog opened", reason: "Mia was removed" });
  assert.ok(reopened.screen === "chat");
  assert.deepEqual([reopened.inviteStatus, reopened.inviteReason], ["", "Mia was removed"]);
  const revoked = update(copied, { type: "invite revoked" });
  assert.equal(revoked.screen === "chat" && revoked.invite, undefined);
  assert.equal(chatAfter({ type: "continue failed", error: "Full." }).continueError, "Full.");
});

test("the page's limits equal the server's", () => {
  // The type check compares the limits that are literal types.
  assert.equal(SESSION_MS, LIMITS.sessionMs);
  assert.ok(KEY_LIFE_MS < LIMITS.keyMs);
  assert.ok(POLL_SECONDS <= LIMITS.waitSeconds);
});

// ---------------------------------------------------------------------------------------------------------
// Texts, hues and actions that client.ts and index.html share.

const script = readFileSync(new URL("../client.ts", import.meta.url), "utf8");
const html = readFileSync(new URL("../index.html", import.meta.url), "utf8");
const style = /<style>([^]*)<\/style>/.exec(html)?.[1] ?? "";
const markup = html.replace(style, "");
/** The keys that the build replaces by texts, because they are needed without the script. */
const BUILT_KEY = /\{(\w+\.\w+)\}/g;

function attributeValues(names: string): string[] {
  return Array.from(markup.matchAll(new RegExp(` (?:${names})="([^"]*)"`, "g")), ([, value = ""]) => value);
}

function usedKeys(): string[] {
  const built = Array.from(markup.matchAll(BUILT_KEY), ([, key = ""]) => key);
  return [...attributeValues("data-text|data-label|data-placeholder"), ...built];
}

test("index.html has no visible text, so every word can be translated", () => {
  assert.equal(
    markup
      .replace(BUILT_KEY, "")
      .replace(/<[^>]*>/g, "")
      .trim(),
    "",
  );
  assert.deepEqual(attributeValues("aria-label|aria-description|placeholder|title|alt|value").filter(Boolean), []);
  const generated = Array.from(style.matchAll(/content: *"([^"]*)"/g), ([, text]) => text);
  assert.deepEqual(generated.filter(Boolean), ["×"]);
});

test("index.html refers only to existing texts, and every text is used", () => {
  const keys = usedKeys();
  assert.ok(keys.length > 20);
  for (const key of keys) assert.ok(Object.hasOwn(TEXTS, key), `index.html refers to ${key}`);
  for (const key of Object.keys(TEXTS)) {
    const isUsed = keys.includes(key) || new RegExp(`"${key.replace(".", "\\.")}"(?!:)`).test(script);
    assert.ok(isUsed, `${key} is used nowhere`);
  }
});

test("locales/README.md explains every text to translators, in the same order", () => {
  const notes = readFileSync(new URL("../locales/README.md", import.meta.url), "utf8");
  const keys = Array.from(notes.matchAll(/^\| `(\w+\.\w+)` \| \S/gm), ([, key]) => key);
  assert.deepEqual(keys, Object.keys(TEXTS));
});

test("texts and hues agree with the number of seats and hours", () => {
  const numbers: Record<number, string> = { 6: "six" };
  const [seats, hours] = [numbers[LIMITS.seats], numbers[LIMITS.sessionMs / (60 * MINUTE)]];
  assert.ok(TEXTS["home.text"].includes(`up to ${seats} people`));
  assert.ok(TEXTS["invite.chatFull"].includes(`${seats} people are in it`));
  assert.ok(TEXTS["ended.time"].includes(`${hours} hours`));
  const hues = Array.from(style.matchAll(/\[data-hue="(\d+)"\] { --h/g), ([, hue]) => Number(hue));
  assert.deepEqual(hues, [...Array(LIMITS.seats).keys()]);
});

test("index.html refers only to texts without plural forms or placeholders", () => {
  for (const key of usedKeys()) {
    const text: unknown = Object.entries(TEXTS).find(([name]) => name === key)?.[1];
    assert.ok(typeof text === "string" && !text.includes("{"), key);
  }
});

test("placeholders are replaced once and literally, and the count selects the plural form", () => {
  assert.equal(getText("log.below", { count: 1 }), "1 new message ↓");
  assert.equal(getText("log.below", { count: 2 }), "2 new messages ↓");
  assert.equal(getText("log.joined", { name: "{name} $&" }), "{name} $& joined");
  const plurals = Object.values(TEXTS).filter((text) => typeof text === "object");
  for (const forms of plurals) assert.deepEqual(Object.keys(forms), ["one", "other"]);
});

test("an error shows the page's own sentence, and a general one if it cannot concern the person", () => {
  assert.equal(describeFailure({ code: "server_full" }), TEXTS["error.serverFull"]);
  assert.equal(describeFailure({ code: "unreachable" }), TEXTS["error.unreachable"]);
  assert.equal(describeFailure({ code: "expired_token" }), TEXTS["ended.time"]);
  assert.equal(
    describeFailure({ code: "expired_token" }, { expired_token: "invite.expired" }),
    TEXTS["invite.expired"],
  );
  assert.equal(describeFailure({ code: "invalid_cursor" }), TEXTS["error.internal"]);
});

test("a full chat ends an invitation but no session, and a temporary error ends neither", () => {
  assert.deepEqual([endsSession("revoked_token"), endsInvite("revoked_token")], [true, true]);
  assert.deepEqual([endsSession("chat_full"), endsInvite("chat_full")], [false, true]);
  assert.deepEqual([endsSession("rate_limited"), endsInvite("unreachable")], [false, false]);
});

test("every button and form has an existing action, and every action has a button or form", () => {
  const used = new Set(attributeValues("data-action"));
  const drawn = Array.from(script.matchAll(/makeButton\("(\w+)"/g), ([, name = ""]) => name);
  assert.deepEqual([...used, ...drawn].toSorted().filter(isFirst), Object.keys(ACTIONS).toSorted());
  for (const [tag] of markup.matchAll(/<(?:button|form)[^>]*>/g)) {
    const isSubmit = /id="(joinSubmit|codeSubmit|send|confirm)"/.test(tag);
    assert.equal(tag.includes("data-action="), !isSubmit, tag);
  }
});

function isFirst(name: string, index: number, names: string[]): boolean {
  return names.indexOf(name) === index;
}

test("terminal commands use only double quotes, and curl.exe on Windows", () => {
  const rows = commandRows("http://192.168.1.42:8080/AAAAAAAAAAAAAAAA", "TOKEN", "INVITE", false);
  const lines = rows.map(({ command }) => command);
  assert.equal(lines.length, 3);
  for (const line of lines) assert.match(line, /^curl [^'`$!%\\]*$/);
  assert.ok(commandRows("u", "t", "i", true).every(({ command }) => command.startsWith("curl.exe ")));
});
