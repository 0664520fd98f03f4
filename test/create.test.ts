// POST /create: its answer, names, bodies and idempotency keys.

import assert from "node:assert/strict";
import test from "node:test";
import { assertError, at, HOUR, Member, MINUTE, sessionOf, startServer, testInProcess } from "./lib/helpers.ts";

const KEY = "a key of 22 characters";

testInProcess("anyone can create a chat without a body or a name", async (t) => {
  const server = await startServer(t);
  const session = sessionOf(await server.send("POST", "/create"));
  assert.match(session.chat_id, /^[A-Za-z0-9_-]{16}$/);
  assert.equal(session.username, "Guest 1");
  assert.equal(session.expires_at, server.clock.iso(6 * HOUR));
  assert.equal(session.url, `${server.base}/${session.chat_id}`);
});

testInProcess("a chat starts with its creator as the only member and the cursor 1", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assert.deepEqual(await ana.read(), {
    messages: [],
    cursor: 1,
    missed: false,
    members: [{ id: ana.id, username: "Ana", creator: true, online: true, you: true }],
    expires_at: server.clock.iso(6 * HOUR),
  });
});

for (const [what, body, username] of [
  ["an empty object", {}, "Guest 1"],
  ["a name that is null", { username: null }, "Guest 1"],
  ["a name", { username: "Ana" }, "Ana"],
  ["a name with white space around and within", { username: "  Ana \n\t Maria " }, "Ana Maria"],
  ["unknown fields", { username: "Ana", colour: "red", seats: 600 }, "Ana"],
] as const) {
  test(`a chat created with ${what} has a creator called ${username}`, async (t) => {
    const server = await startServer(t);
    assert.equal(sessionOf(await server.create(body)).username, username);
  });
}

for (const [what, body] of [
  ["a list", "[]"],
  ["a string", '"Ana"'],
  ["null", "null"],
  ["a number", "1"],
  ["a truncated object", '{"username": "An'],
  ["a form", "username=Ana"],
  ["only white space", " "],
  ["not UTF-8", Buffer.from('{"username":"\xff"}', "latin1")],
  ["a surrogate encoded like a character", Buffer.from('{"username":"\xed\xa0\x80"}', "latin1")],
] as const) {
  test(`a create body that is ${what} is invalid_json`, async (t) => {
    const server = await startServer(t);
    assertError(await server.create(body), "invalid_json");
    assert.equal(await server.countChats(), 0);
  });
}

test("a body is parsed as JSON whatever its Content-Type is", async (t) => {
  const server = await startServer(t);
  for (const type of ["application/x-www-form-urlencoded", "text/plain", "image/png", "nonsense", ""]) {
    const reply = await server.create('{"username":"Ana"}', { "Content-Type": type });
    assert.equal(sessionOf(reply).username, "Ana", type);
  }
});

test("a body can be chunked, without a Content-Length", async (t) => {
  const server = await startServer(t);
  const reply = await server.send("POST", "/create", { body: { username: "Ana" }, chunked: true });
  assert.equal(sessionOf(reply).username, "Ana");
});

for (const username of ["", " \n\t ", 5, true, {}, ["Ana"], "x".repeat(25), "\u200D\u00AD"]) {
  test(`the name ${JSON.stringify(username)} is invalid_username and creates no chat`, async (t) => {
    const server = await startServer(t);
    assertError(await server.create({ username }), "invalid_username");
    assert.equal(await server.countChats(), 0);
  });
}

test("no two chats have the same id", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const replies = await Promise.all(Array.from({ length: 200 }, () => server.create()));
  assert.equal(new Set(replies.map((reply) => sessionOf(reply).chat_id)).size, 200);
  assert.equal(new Set(replies.map((reply) => sessionOf(reply).session_token)).size, 200);
});

test("a server with a node name starts every chat id with it", async (t) => {
  for (const node of ["eu1", "abcdefghij012345"]) {
    const server = await startServer(t, { node });
    const [ana] = await server.chat("Ana");
    assert.ok(ana.chatId.startsWith(`${node}-`));
    assert.match(ana.chatId.slice(node.length + 1), /^[A-Za-z0-9_-]{16}$/);
    assert.equal((await ana.read()).cursor, 1);
    assert.equal((await ana.inviteToken()).length > 0, true);
  }
});

testInProcess("repeating a create with its key returns the same session and creates no second chat", async (t) => {
  const server = await startServer(t);
  const first = sessionOf(await server.create({ username: "Ana" }, { "Idempotency-Key": KEY }));
  server.clock.advance(10 * MINUTE - 1);
  const again = sessionOf(await server.create({ username: "Ana" }, { "Idempotency-Key": KEY }), 200);
  assert.deepEqual(again, first);
  assert.equal(await server.countChats(), 1);
});

test("concurrent creates with one key make one chat and all return it", async (t) => {
  const server = await startServer(t);
  const replies = await Promise.all(Array.from({ length: 20 }, () => server.create({}, { "Idempotency-Key": KEY })));
  assert.equal(replies.filter((reply) => reply.status === 201).length, 1);
  assert.equal(replies.filter((reply) => reply.status === 200).length, 19);
  assert.equal(new Set(replies.map((reply) => reply.text)).size, 1);
  assert.equal(await server.countChats(), 1);
});

test("a create with another key, or without one, makes another chat", async (t) => {
  const server = await startServer(t);
  for (const headers of [{ "Idempotency-Key": KEY }, { "Idempotency-Key": `${KEY}!` }, {}, {}]) {
    sessionOf(await server.create({}, headers));
  }
  assert.equal(await server.countChats(), 4);
});

testInProcess("a create's key is forgotten after ten minutes", async (t) => {
  const server = await startServer(t);
  const first = sessionOf(await server.create({}, { "Idempotency-Key": KEY }));
  server.clock.advance(10 * MINUTE + 1);
  const second = sessionOf(await server.create({}, { "Idempotency-Key": KEY }));
  assert.notEqual(second.chat_id, first.chat_id);
});

test("a key makes a new chat after its member has left", async (t) => {
  const server = await startServer(t);
  const first = new Member(server, sessionOf(await server.create({}, { "Idempotency-Key": KEY })));
  await first.leave();
  const second = sessionOf(await server.create({}, { "Idempotency-Key": KEY }));
  assert.notEqual(second.chat_id, first.chatId);
});

test("a key makes a new chat after its chat has ended", async (t) => {
  const server = await startServer(t);
  const first = new Member(server, sessionOf(await server.create({}, { "Idempotency-Key": KEY })));
  await first.end();
  const second = sessionOf(await server.create({}, { "Idempotency-Key": KEY }));
  assert.notEqual(second.chat_id, first.chatId);
});

test("a key that was sent with an invalid name can be used again with a valid one", async (t) => {
  const server = await startServer(t);
  assertError(await server.create({ username: "" }, { "Idempotency-Key": KEY }), "invalid_username");
  sessionOf(await server.create({ username: "Ana" }, { "Idempotency-Key": KEY }));
});

for (const [what, key] of [
  ["of 21 characters", "x".repeat(21)],
  ["of 65 characters", "x".repeat(65)],
  ["with a non-ASCII letter", `${"x".repeat(30)}\u00E9`],
  ["with a tab", `${"x".repeat(30)}\t${"x".repeat(8)}`],
] as const) {
  test(`a key ${what} is invalid_key and creates no chat`, async (t) => {
    const server = await startServer(t);
    assertError(await server.create({}, { "Idempotency-Key": key }), "invalid_key");
    assert.equal(await server.countChats(), 0);
  });
}

test("keys of 22 and of 64 printable characters are accepted", async (t) => {
  const server = await startServer(t);
  for (const key of ["~".repeat(22), `! ${"~".repeat(60)} !`.slice(0, 63) + "!"]) {
    const first = sessionOf(await server.create({}, { "Idempotency-Key": key }));
    const again = sessionOf(await server.create({}, { "Idempotency-Key": key }), 200);
    assert.equal(again.session_token, first.session_token);
  }
});

testInProcess("of two chats that have been idle equally long, the older one makes room", async (t) => {
  const server = await startServer(t, { maxChats: 2 });
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const eva = new Member(server, sessionOf(await server.create({ username: "Eva" })));
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
  assert.equal((await ana.leave()).status, 204);
  server.clock.advance(10 * MINUTE);
  // Ben's seat is younger than Eva's, but his chat is older than hers.
  sessionOf(await server.create({ username: "Mia" }));
  assertError(await ben.poll(), "chat_not_found");
  assert.equal((await eva.poll()).status, 200);
});

test("a key returns its session even after the server has become full", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  const first = sessionOf(await server.create({}, { "Idempotency-Key": KEY }));
  assertError(await server.create(), "server_full");
  assert.deepEqual(sessionOf(await server.create({}, { "Idempotency-Key": KEY }), 200), first);
});

test("a repeated create returns the creator's own seat", async (t) => {
  const server = await startServer(t);
  await server.create({ username: "Ana" }, { "Idempotency-Key": KEY });
  const ana = new Member(server, sessionOf(await server.create({}, { "Idempotency-Key": KEY }), 200));
  const { members } = await ana.read();
  assert.equal(members.length, 1);
  assert.equal(at(members, 0).you, true);
});
