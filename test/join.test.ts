// POST /:chat_id/join: tokens in header and body, seats, names and idempotency keys.

import assert from "node:assert/strict";
import test from "node:test";
import {
  assertNoContent,
  assertError,
  HOUR,
  Member,
  MINUTE,
  NO_CHAT,
  type Reply,
  sessionOf,
  startServer,
  testInProcess,
} from "./lib/helpers.ts";

const KEY = "another key of many characters";

testInProcess("joining returns a session like creating, and every member sees the new one", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  server.clock.advance(MINUTE);
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" })));
  assert.equal(ben.session.chat_id, ana.chatId);
  assert.equal(ben.session.username, "Ben");
  assert.equal(ben.session.expires_at, server.clock.iso(6 * HOUR));
  assert.equal(ben.session.url, `${server.base}/${ana.chatId}`);
  assert.notEqual(ben.id, ana.id);
  assert.deepEqual((await ana.read()).members, [
    { id: ana.id, username: "Ana", creator: true, online: true, you: true },
    { id: ben.id, username: "Ben", creator: false, online: true, you: false },
  ]);
  assert.deepEqual((await ben.read()).members, [
    { id: ana.id, username: "Ana", creator: true, online: true, you: false },
    { id: ben.id, username: "Ben", creator: false, online: true, you: true },
  ]);
});

test("joining moves the cursor by one", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana", "Ben");
  assert.equal((await ana.read()).cursor, 2);
});

test("the invitation can be in the header instead of the body", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const token = await ana.inviteToken();
  for (const body of [undefined, {}, { invite_token: null }, { invite_token: "" }, { username: "Ben" }]) {
    sessionOf(await server.send("POST", `/${ana.chatId}/join`, { token, body }));
  }
});

test("if both header and body have an invitation, the one in the body counts", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const revoked = await ana.inviteToken();
  await ana.revoke();
  const good = await ana.inviteToken();
  const path = `/${ana.chatId}/join`;
  assertError(await server.send("POST", path, { token: good, body: { invite_token: "nonsense" } }), "invalid_token");
  assertError(await server.send("POST", path, { token: good, body: { invite_token: revoked } }), "revoked_token");
});

test("a bad token in the header is refused before the body is read", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const body of ["{", "[]", { username: "" }, undefined, "x".repeat(40_000)]) {
    const reply = await server.send("POST", `/${ana.chatId}/join`, { token: "nonsense", body });
    assertError(reply, "invalid_token");
  }
});

testInProcess("an invitation in the header that is no longer valid is refused before the body is read", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const [eva] = await server.chat("Eva");
  const token = await ana.inviteToken();
  const join = async (chatId: string, body: string): Promise<Reply> =>
    server.send("POST", `/${chatId}/join`, { token, body });
  for (const body of ["{", "[]", '{"username":5}', "x".repeat(40_000)]) {
    assertError(await join(eva.chatId, body), "wrong_chat");
  }
  await ana.revoke();
  assertError(await join(ana.chatId, "{"), "revoked_token");
  await ana.end();
  assertError(await join(ana.chatId, "{"), "chat_not_found");
  server.clock.advance(6 * HOUR);
  assertError(await join(ana.chatId, "{"), "expired_token");
});

test("joining without an invitation explains how to send the token after #invite=", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const body of [undefined, {}, { invite_token: null }, { invite_token: "" }, { username: "Ben" }]) {
    for (const chatId of [ana.chatId, NO_CHAT]) {
      assert.match(assertError(await server.join(chatId, body), "missing_token"), /#invite=/);
    }
  }
});

test("an invitation that is not a string, or has text around it, is invalid_token", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const token = await ana.inviteToken();
  for (const invite_token of [
    5,
    0,
    true,
    false,
    {},
    [],
    [token],
    { token },
    ` ${token}`,
    `${token} `,
    `${token}\n`,
    `\t${token}`,
    `\u00A0${token}`,
    `Bearer ${token}`,
    " ",
    `#invite=${token}`,
  ]) {
    assertError(await server.join(ana.chatId, { invite_token }), "invalid_token");
  }
  assert.equal((await ana.read()).members.length, 1);
});

test("a body that is not a JSON object is invalid_json, with a valid invitation in the header", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const token = await ana.inviteToken();
  for (const body of ["{", "[]", "null", '"x"', Buffer.from([0x7b, 0xff, 0x7d])]) {
    assertError(await server.send("POST", `/${ana.chatId}/join`, { token, body }), "invalid_json");
  }
});

test("of 60 people who join at once, exactly 5 get a seat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const replies = await Promise.all(
    Array.from({ length: 60 }, (_, index) => server.join(ana.chatId, { invite_token, username: `G${index}` })),
  );
  const seated = replies.filter((reply) => reply.status === 201).map((reply) => sessionOf(reply));
  assert.equal(seated.length, 5);
  for (const reply of replies.filter((other) => other.status !== 201)) assertError(reply, "chat_full");
  const { members, cursor } = await ana.read();
  assert.equal(members.length, 6);
  assert.equal(cursor, 6);
  assert.equal(new Set(members.map((member) => member.id)).size, 6);
  assert.deepEqual(
    members.slice(1).map((member) => member.id),
    seated.map((session) => session.member_id).toSorted((one, other) => Number(one) - Number(other)),
  );
});

test("joining a full chat is chat_full before the name is checked", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("A", "B", "C", "D", "E", "F");
  const invite_token = await ana.inviteToken();
  for (const username of ["", 5, "A", "x".repeat(100), "Greta"]) {
    assertError(await server.join(ana.chatId, { invite_token, username }), "chat_full");
  }
});

test("an invalid name takes no seat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  for (const username of ["", " ", 5, "x".repeat(25)]) {
    assertError(await server.join(ana.chatId, { invite_token, username }), "invalid_username");
  }
  assert.equal((await ana.read()).cursor, 1);
});

test("no two members of a chat have the same name", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Straße");
  const invite_token = await ana.inviteToken();
  for (const username of [
    "Straße",
    "strasse",
    "STRASSE",
    "STRA\u1E9EE",
    " Ｓｔｒａｓｓｅ ",
    "Straſſe",
    "Stra\u200Dsse",
  ]) {
    assertError(await server.join(ana.chatId, { invite_token, username }), "username_taken");
  }
  sessionOf(await server.join(ana.chatId, { invite_token, username: "Strässe" }));
});

test("of several people who join at once with the same name, one gets it", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const replies = await Promise.all(
    ["Ben", "BEN", "ben", "Bｅn"].map((username) => server.join(ana.chatId, { invite_token, username })),
  );
  assert.equal(replies.filter((reply) => reply.status === 201).length, 1);
  for (const reply of replies.filter((other) => other.status !== 201)) assertError(reply, "username_taken");
});

test("the same name is free in another chat", async (t) => {
  const server = await startServer(t);
  await server.chat("Ana");
  await server.chat("Ana");
});

test("a member without a name is called Guest and the number of the lowest free seat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const guests: Member[] = [];
  for (const expected of ["Guest 2", "Guest 3", "Guest 4"]) {
    const guest = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
    assert.equal(guest.session.username, expected);
    guests.push(guest);
  }
  assertNoContent(await ana.remove(guests[0]?.id ?? ""));
  assert.equal(sessionOf(await server.join(ana.chatId, { invite_token, username: null })).username, "Guest 2");
  assert.equal(sessionOf(await server.join(ana.chatId, { invite_token })).username, "Guest 5");
});

test("if a member already has the next guest's name, the guest gets the next number", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("guest 2", "ＧＵＥＳＴ 4");
  const invite_token = await ana.inviteToken();
  assert.equal(sessionOf(await server.join(ana.chatId, { invite_token })).username, "Guest 3");
  assert.equal(sessionOf(await server.join(ana.chatId, { invite_token })).username, "Guest 5");
});

test("a new member sees the earlier messages that are still kept", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const message = await ana.say("early");
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken() })));
  assert.deepEqual((await ben.read()).messages, [message]);
});

testInProcess("repeating a join with its key returns the same seat, even if the chat is full by then", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const ask = { invite_token, username: "Ben" };
  const first = sessionOf(await server.join(ana.chatId, ask, { "Idempotency-Key": KEY }));
  for (let seat = 3; seat <= 6; seat += 1) sessionOf(await server.join(ana.chatId, { invite_token }));
  server.clock.advance(10 * MINUTE - 1);
  const again = await server.join(ana.chatId, ask, { "Idempotency-Key": KEY });
  assert.deepEqual(sessionOf(again, 200), first);
  assert.equal((await ana.read()).members.length, 6);
});

test("concurrent joins with one key take one seat and all return it", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const replies = await Promise.all(
    Array.from({ length: 12 }, () => server.join(ana.chatId, { invite_token }, { "Idempotency-Key": KEY })),
  );
  assert.equal(replies.filter((reply) => reply.status === 201).length, 1);
  assert.equal(new Set(replies.map((reply) => reply.text)).size, 1);
  assert.equal((await ana.read()).members.length, 2);
});

test("a key counts only within its chat", async (t) => {
  const server = await startServer(t);
  const created = sessionOf(await server.create({}, { "Idempotency-Key": KEY }));
  const ana = new Member(server, created);
  const [eva] = await server.chat("Eva");
  const joined = sessionOf(
    await server.join(ana.chatId, { invite_token: await ana.inviteToken() }, { "Idempotency-Key": KEY }),
  );
  const other = sessionOf(
    await server.join(eva.chatId, { invite_token: await eva.inviteToken() }, { "Idempotency-Key": KEY }),
  );
  assert.notEqual(joined.session_token, created.session_token);
  assert.equal(other.chat_id, eva.chatId);
});

test("a repeated join needs a valid invitation", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const first = sessionOf(await server.join(ana.chatId, { invite_token }, { "Idempotency-Key": KEY }));
  assertError(await server.join(ana.chatId, {}, { "Idempotency-Key": KEY }), "missing_token");
  assertError(await server.join(ana.chatId, { invite_token: "x" }, { "Idempotency-Key": KEY }), "invalid_token");
  await ana.revoke();
  assertError(await server.join(ana.chatId, { invite_token }, { "Idempotency-Key": KEY }), "revoked_token");
  const renewed = { invite_token: await ana.inviteToken() };
  assert.deepEqual(sessionOf(await server.join(ana.chatId, renewed, { "Idempotency-Key": KEY }), 200), first);
});

testInProcess("a join's key is forgotten after ten minutes or when its member leaves", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const headers = { "Idempotency-Key": KEY };
  const first = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token }, headers)));
  await first.leave();
  const second = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token }, headers)));
  assert.notEqual(second.id, first.id);
  server.clock.advance(10 * MINUTE + 1);
  const third = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token }, headers)));
  assert.notEqual(third.id, second.id);
});

test("the key of a removed member takes a new seat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const headers = { "Idempotency-Key": KEY };
  const first = sessionOf(await server.join(ana.chatId, { invite_token }, headers));
  assertNoContent(await ana.remove(first.member_id));
  assert.notEqual(sessionOf(await server.join(ana.chatId, { invite_token }, headers)).member_id, first.member_id);
});

for (const [what, key] of [
  ["of 21 characters", "x".repeat(21)],
  ["of 65 characters", "x".repeat(65)],
  ["with a non-ASCII letter", `${"x".repeat(30)}\u00E9`],
] as const) {
  test(`a join's key ${what} is invalid_key and takes no seat`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const invite_token = await ana.inviteToken();
    assertError(await server.join(ana.chatId, { invite_token }, { "Idempotency-Key": key }), "invalid_key");
    assert.equal((await ana.read()).members.length, 1);
  });
}
