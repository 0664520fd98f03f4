// POST /:chat_id and reading it back: bodies, kept messages, cursors, idempotency keys, who is online.

import assert from "node:assert/strict";
import test, { type TestContext } from "node:test";
import {
  assertError,
  at,
  HOUR,
  type Member,
  messageOf,
  MINUTE,
  parseReply,
  pollOf,
  type Reply,
  SECOND,
  startServer,
  testInProcess,
  Wire,
} from "./lib/helpers.ts";
import { assertDocumented } from "./lib/openapi.ts";

testInProcess("posting returns the message as readers see it, and its id is the cursor", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  server.clock.advance(1234);
  const message = messageOf(await ana.post("Hello, *all*"));
  assert.deepEqual(message, {
    id: 3,
    member_id: ana.id,
    username: "Ana",
    text: "Hello, *all*",
    sent_at: server.clock.iso(),
  });
  const seen = await ben.read();
  assert.deepEqual(seen.messages, [message]);
  assert.equal(seen.cursor, 3);
  assert.equal(seen.missed, false);
});

test("all members see the messages in the same order, even if all post at once", async (t) => {
  const server = await startServer(t);
  const members: Member[] = await server.chat("A", "B", "C", "D", "E", "F");
  const posted = await Promise.all(
    members.flatMap((member) => ["1", "2", "3", "4"].map(async (text) => member.say(text))),
  );
  const views = await Promise.all(members.map(async (member) => (await member.read()).messages));
  const ids = posted.map((message) => message.id).toSorted((one, other) => one - other);
  assert.equal(new Set(ids).size, 24);
  for (const view of views) {
    assert.deepEqual(view, views[0]);
    assert.deepEqual(
      view.map((message) => message.id),
      ids,
    );
  }
});

for (const [what, body] of [
  ["without a body", undefined],
  ["of an empty object", {}],
  ["that is null", { text: null }],
  ["that is a number", { text: 5 }],
  ["that is a list", { text: ["x"] }],
  ["that is an object", { text: { text: "x" } }],
  ["that is true", { text: true }],
  ["that is empty", { text: "" }],
  ["of only white space", { text: " \n\t\r\n " }],
  ["that no one can see", { text: "\u200B\u00AD \u2060\u2800\u3164\u0301" }],
  ["of only control characters", { text: "\u0000\u0007\u001B\u007F\u0085" }],
  ["of 2,001 letters", { text: "x".repeat(2001) }],
  ["of over 8,192 bytes", { text: "\u{1D11E}".repeat(2000) + "\u0301".repeat(97) }],
] as const) {
  test(`a text ${what} is invalid_text`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    assertError(await ana.send("POST", "", { body }), "invalid_text");
    assert.equal((await ana.read()).cursor, 1);
  });
}

for (const [what, body] of [
  ["a list", '["text"]'],
  ["a string", '"text"'],
  ["null", "null"],
  ["a form", "text=hello"],
  ["truncated", '{"text":"hel'],
  ["not UTF-8", Buffer.from('{"text":"caf\xe9"}', "latin1")],
  ["in UTF-16", Buffer.from('{"text":"hello"}', "utf16le")],
] as const) {
  test(`a post body that is ${what} is invalid_json`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    assertError(await ana.send("POST", "", { body }), "invalid_json");
    assertError(await ana.send("POST", "", { body, headers: { "Content-Type": "application/json" } }), "invalid_json");
  });
}

for (const type of [
  "text/plain",
  "Text/PLAIN",
  "text/plain;charset=UTF-8",
  "text/plain; charset=iso-8859-1",
  "text/plain ; format=flowed",
]) {
  test(`a body labelled ${type} is the message text, in UTF-8`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const headers = { "Content-Type": type };
    for (const body of ["Grüße 👋", "[1]", '"quoted"', "null", "{", '{"text":5}', '{"other":"x"}', "text=x"]) {
      assert.equal(messageOf(await ana.send("POST", "", { body, headers })).text, body);
    }
  });
}

test("a JSON object with a string `text` is parsed even if it is labelled text/plain", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const headers = { "Content-Type": "text/plain;charset=UTF-8" };
  for (const body of ['{"text":"hello"}', ' {"text" : "hello", "more": [1] }\n']) {
    assert.equal(messageOf(await ana.send("POST", "", { body, headers })).text, "hello");
  }
  assertError(await ana.send("POST", "", { body: '{"text":" "}', headers }), "invalid_text");
});

test("text/plain that is not UTF-8 is invalid_json, and an empty one is invalid_text", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const headers = { "Content-Type": "text/plain" };
  assertError(await ana.send("POST", "", { body: Buffer.from([0x68, 0xe9]), headers }), "invalid_json");
  assertError(await ana.send("POST", "", { body: "", headers }), "invalid_text");
  assertError(await ana.send("POST", "", { headers }), "invalid_text");
});

test("a content type that only starts like text/plain is parsed as JSON", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const type of ["text/plainer", "text/plain-ish; x=y", "text/html", "application/x-www-form-urlencoded", ""]) {
    const headers = { "Content-Type": type };
    assertError(await ana.send("POST", "", { body: "hello", headers }), "invalid_json");
    assert.equal(messageOf(await ana.send("POST", "", { body: '{"text":"x"}', headers })).text, "x");
  }
});

test("a text is returned exactly as it was sent", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const text of ["<b>&amp;</b>", "a  b", "line 1\n\n\tline 3", '\\u0041 "x" \'', "__proto__", "👨‍👩‍👧‍👦 🇩🇪"]) {
    assert.equal((await ana.say(text)).text, text);
    assert.equal(at((await ana.read()).messages, -1).text, text);
  }
});

test("2,000 characters are accepted, even if each is several code points", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const text = "e\u0323\u0302".normalize("NFC").repeat(2000);
  assert.equal((await ana.say(text)).text, text);
});

test("the last 30 messages are kept, and older ones are reported as missed", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  for (let id = 2; id <= 31; id += 1) await ana.say(`message ${id}`);
  const full = await ana.read();
  assert.equal(full.messages.length, 30);
  assert.equal(full.missed, false);
  await ana.say("message 32");
  const { messages, missed, cursor } = await ana.read();
  assert.deepEqual(
    messages.map((message) => message.id),
    Array.from({ length: 30 }, (_, index) => index + 3),
  );
  assert.equal(missed, true);
  assert.equal(cursor, 32);
  assert.equal((await ana.read("?since=1")).missed, true);
  const next = await ana.read("?since=2");
  assert.equal(next.missed, false, "the cursor just before the oldest kept message");
  assert.equal(next.messages.length, 30);
});

test("a join that was dropped from the history does not count as missed", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  assert.equal((await ana.say("the first")).id, 2);
  const [ben] = [await server.join(ana.chatId, { invite_token: await ana.inviteToken() })];
  assert.equal(ben.status, 201);
  for (let id = 4; id <= 33; id += 1) assert.equal((await ana.say("x")).id, id);
  assert.equal((await ana.read("?since=1")).missed, true);
  assert.equal((await ana.read("?since=2")).missed, false);
  assert.equal((await ana.read("?since=3")).missed, false);
});

test("a poll returns the messages after its cursor, oldest first, and no others", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const text of ["a", "b", "c", "d"]) await ana.say(text);
  for (const [query, texts] of [
    ["", ["a", "b", "c", "d"]],
    ["?since=0", ["a", "b", "c", "d"]],
    ["?since=1", ["a", "b", "c", "d"]],
    ["?since=3", ["c", "d"]],
    ["?since=5", []],
    ["?since=latest", []],
    ["?since=3&since=0", ["c", "d"]],
    ["?since=3&since=x", ["c", "d"]],
    ["?other=1&since=3&text=x", ["c", "d"]],
    ["?%73ince=%33", ["c", "d"]],
  ] as const) {
    const reply = await ana.read(query);
    assert.deepEqual(
      reply.messages.map((message) => message.text),
      texts,
      query,
    );
    assert.equal(reply.cursor, 5);
    assert.equal(reply.missed, false);
  }
});

test("since=latest misses nothing, even if messages were dropped", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 40; count += 1) await ana.say("x");
  const reply = await ana.read("?since=latest");
  assert.deepEqual([reply.messages, reply.missed, reply.cursor], [[], false, 41]);
});

for (const since of [
  "",
  "-1",
  "+1",
  "%201",
  "1%20",
  "+",
  "1.0",
  "1.",
  "1e0",
  "0x1",
  "0b1",
  "1_0",
  "x",
  "NaN",
  "Infinity",
  "Latest",
  "LATEST",
  "latest%20",
  "%EF%BC%91",
  "%D9%A1",
  "2",
  "9007199254740993",
  "99999999999999999999",
  "1%00",
  "%zz",
  "0,1",
]) {
  test(`since=${since} is invalid_cursor`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    assertError(await ana.poll(`?since=${since}`), "invalid_cursor");
    assertError(await ana.poll(`?since=${since}&since=0&wait=1`), "invalid_cursor");
  });
}

for (const wait of [
  "",
  "-1",
  "+1",
  "%201",
  "1.5",
  "1e1",
  "0x1",
  "51",
  "100",
  "x",
  "latest",
  "true",
  "%EF%BC%91",
  "99999999999999999999",
]) {
  test(`wait=${wait} is invalid_wait`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    assertError(await ana.poll(`?since=0&wait=${wait}`), "invalid_wait");
    assertError(await ana.poll(`?since=0&wait=${wait}&wait=0`), "invalid_wait");
  });
}

test("a query parameter without a value is an empty value", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assertError(await ana.poll("?since"), "invalid_cursor");
  assertError(await ana.poll("?wait"), "invalid_wait");
});

testInProcess("repeating a post with its key posts nothing and returns the first message", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const first = messageOf(await ana.post("once", { "Idempotency-Key": "k" }));
  server.clock.advance(10 * MINUTE - 1);
  assert.deepEqual(messageOf(await ana.post("once", { "Idempotency-Key": "k" }), 200), first);
  assert.deepEqual((await ben.read()).messages, [first]);
});

test("the same key with another text is invalid_key and posts nothing", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const first = await ana.post("once", { "Idempotency-Key": "k" });
  for (const text of ["twice", "Once", "once!"]) {
    assertError(await ana.post(text, { "Idempotency-Key": "k" }), "invalid_key");
  }
  assert.deepEqual((await ana.read()).messages, [messageOf(first)]);
  messageOf(await ana.post("once", { "Idempotency-Key": "k" }), 200);
});

test("without a key, the same text is another message", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  await ana.say("echo");
  await ana.say("echo");
  assert.equal((await ana.read()).messages.length, 2);
});

test("two members can use the same key for different posts", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  messageOf(await ana.post("mine", { "Idempotency-Key": "k" }));
  messageOf(await ben.post("mine", { "Idempotency-Key": "k" }));
  messageOf(await ben.post("other", { "Idempotency-Key": "K" }));
  assert.equal((await ana.read()).messages.length, 3);
});

test("a member who returns with a new seat does not share the keys of the old one", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  messageOf(await ben.post("first", { "Idempotency-Key": "k" }));
  await ben.leave();
  const invite_token = await ana.inviteToken();
  const back = await server.join(ana.chatId, { invite_token, username: "Ben" });
  assert.equal(back.status, 201);
});

test("concurrent posts with one key post one message", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const replies = await Promise.all(Array.from({ length: 50 }, () => ana.post("together", { "Idempotency-Key": "k" })));
  assert.equal(replies.filter((reply) => reply.status === 201).length, 1);
  assert.equal(replies.filter((reply) => reply.status === 200).length, 49);
  assert.equal(new Set(replies.map((reply) => reply.text)).size, 1);
  assert.equal((await ana.read()).messages.length, 1);
});

test("a key is remembered after 30 newer messages have replaced its message", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana, ben] = await server.chat("Ana", "Ben");
  const first = messageOf(await ana.post("the first", { "Idempotency-Key": "k" }));
  for (let count = 0; count < 35; count += 1) await ben.say("x");
  assert.deepEqual(messageOf(await ana.post("the first", { "Idempotency-Key": "k" }), 200), first);
  assertError(await ana.post("the second", { "Idempotency-Key": "k" }), "invalid_key");
});

test("a seat remembers its last 256 keys", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  const first = messageOf(await ana.post("the first", { "Idempotency-Key": "k" }));
  for (let key = 1; key <= 255; key += 1) await ana.post("x", { "Idempotency-Key": `${key}` });
  assert.deepEqual(messageOf(await ana.post("the first", { "Idempotency-Key": "k" }), 200), first);
  for (let key = 256; key <= 258; key += 1) await ana.post("x", { "Idempotency-Key": `${key}` });
  messageOf(await ana.post("the first", { "Idempotency-Key": "k" }));
});

testInProcess("a post's key is forgotten after ten minutes", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const first = messageOf(await ana.post("once", { "Idempotency-Key": "k" }));
  server.clock.advance(10 * MINUTE + 1);
  const second = messageOf(await ana.post("once", { "Idempotency-Key": "k" }));
  assert.notEqual(second.id, first.id);
  messageOf(await ana.post("once", { "Idempotency-Key": "k" }), 200);
});

test("a key that was sent with an invalid text can be used again with a valid one", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assertError(await ana.post(" ", { "Idempotency-Key": "k" }), "invalid_text");
  messageOf(await ana.post("better", { "Idempotency-Key": "k" }));
});

test("keys of 1 to 64 printable characters are accepted, and others are invalid_key", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const key of ["~", "!", "x y", "x".repeat(64)]) {
    messageOf(await ana.post("x", { "Idempotency-Key": key }));
    messageOf(await ana.post("x", { "Idempotency-Key": key }), 200);
  }
  for (const key of ["x".repeat(65), "\u00E9", "a\tb"]) {
    assertError(await ana.post("x", { "Idempotency-Key": key }), "invalid_key");
  }
  assert.equal((await ana.read()).messages.length, 4);
});

test("a key works the same for text/plain and JSON", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const headers = { "Idempotency-Key": "k", "Content-Type": "text/plain" };
  const first = messageOf(await ana.send("POST", "", { body: "hello", headers }));
  assert.deepEqual(messageOf(await ana.post("hello", { "Idempotency-Key": "k" }), 200), first);
});

testInProcess("a member is online for a minute after joining, polling or posting", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const isBenOnline = async (): Promise<boolean> => at((await ana.read()).members, 1).online;
  assert.equal(await isBenOnline(), true);
  server.clock.advance(MINUTE - 1);
  assert.equal(await isBenOnline(), true);
  server.clock.advance(2);
  assert.equal(await isBenOnline(), false);
  await ben.read();
  assert.equal(await isBenOnline(), true);
  server.clock.advance(MINUTE + 1);
  assert.equal(await isBenOnline(), false);
  await ben.say("hello");
  assert.equal(await isBenOnline(), true);
  server.clock.advance(MINUTE + 1);
  assert.equal(await isBenOnline(), false);
});

testInProcess("after a held poll, a member stays online for a minute from its answer", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const held = await ben.openPoll("?since=2&wait=50");
  server.advanceAndSweep(50 * SECOND);
  pollOf(await held.reply);
  server.clock.advance(MINUTE - 1);
  assert.equal(at((await ana.read()).members, 1).online, true);
});

testInProcess("a HEAD request does not make its member online", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  server.clock.advance(2 * MINUTE);
  assert.equal((await ben.send("HEAD")).status, 200);
  assert.equal(at((await ana.read()).members, 1).online, false);
});

testInProcess("going online or offline does not move the cursor", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  server.advanceAndSweep(2 * MINUTE);
  assert.equal((await ana.read()).cursor, 2);
  await ben.read();
  server.advanceAndSweep(30 * SECOND);
  assert.equal(pollOf(await ana.poll("?since=2")).cursor, 2);
});

/** Posts a message and runs `interrupt` after the server has accepted its token and before its body is sent. */
async function postInterrupted(t: TestContext, member: Member, interrupt: () => unknown): Promise<Reply> {
  const wire = await Wire.open(t, member.server.port);
  const body = '{"text":"too late"}';
  const headers = `Host: x\r\nAuthorization: Bearer ${member.token}\r\nContent-Length: ${body.length}`;
  wire.write(`POST /${member.chatId} HTTP/1.1\r\n${headers}\r\nExpect: 100-continue\r\n\r\n`);
  await wire.waitFor(/^HTTP\/1\.1 100 Continue\r\n\r\n$/);
  await interrupt();
  wire.received = "";
  wire.write(body);
  await wire.waitFor(/\}$/);
  return assertDocumented("POST", `/${member.chatId}`, parseReply(wire.received));
}

test("a message whose author is removed while its body arrives is refused", async (t) => {
  const [ana, ben] = await (await startServer(t)).chat("Ana", "Ben");
  assertError(await postInterrupted(t, ben, () => ana.send("DELETE", `/members/${ben.id}`)), "revoked_token");
  assert.deepEqual((await ana.read()).messages, []);
});

test("a message whose chat ends while its body arrives is refused", async (t) => {
  const [ana, ben] = await (await startServer(t)).chat("Ana", "Ben");
  assertError(await postInterrupted(t, ben, () => ana.send("DELETE")), "chat_not_found");
});

testInProcess(
  "a message whose author's session expires while its body arrives is refused, even after the clock was set back",
  async (t) => {
    const server = await startServer(t, { rateLimit: false });
    await server.chat("Ana");
    server.clock.advance(-HOUR);
    // Ben's seat expires first, but is stored after one that lasts an hour longer.
    const [ben] = await server.chat("Ben");
    server.clock.advance(6 * HOUR - 1);
    assertError(await postInterrupted(t, ben, () => server.clock.advance(1)), "expired_token");
  },
);
