// Expiry of sessions and chats, and what they free.

import assert from "node:assert/strict";
import test from "node:test";
import { assertError, at, HOUR, Member, MINUTE, pollOf, sessionOf, startServer } from "./lib/helpers.ts";

test("a session lasts exactly six hours", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  server.clock.advance(6 * HOUR - 1);
  await ana.read();
  await ana.say("last words");
  server.clock.advance(1);
  assertError(await ana.poll(), "expired_token");
  assertError(await ana.post("too late"), "expired_token");
  assertError(await ana.invite(), "expired_token");
  assertError(await ana.revoke(), "expired_token");
  assertError(await ana.leave(), "expired_token");
  assertError(await ana.remove("1"), "expired_token");
  assertError(await ana.end(), "expired_token");
});

test("using a session does not extend it", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const end = server.clock.iso(6 * HOUR);
  for (let hour = 1; hour < 6; hour += 1) {
    server.clock.advance(HOUR);
    assert.equal((await ana.read()).expires_at, end);
  }
  server.clock.advance(HOUR);
  assertError(await ana.poll(), "expired_token");
});

test("a session that expires frees its seat and name at once, before the next sweep", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  server.clock.advance(HOUR);
  const invite_token = await ana.inviteToken();
  const names = ["Ben", "Eva", "Udo", "Ida", "Leo"];
  const others: Member[] = [];
  for (const username of names) {
    others.push(new Member(server, sessionOf(await server.join(ana.chatId, { invite_token, username }))));
  }
  server.clock.advance(5 * HOUR - 1);
  assertError(await server.join(ana.chatId, { invite_token, username: "Ana" }), "chat_full");
  server.clock.advance(1);
  const before = await at(others, 0).read();
  assert.deepEqual(
    before.members.map((member) => member.username),
    names,
  );
  assert.equal(
    before.members.some((member) => member.creator),
    false,
  );
  assert.equal(before.cursor, 7);
  const back = sessionOf(await server.join(ana.chatId, { invite_token, username: "Ana" }));
  assert.notEqual(back.member_id, ana.id);
});

test("the messages of an expired member keep their name", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const message = await ana.say("I was here");
  server.clock.advance(HOUR);
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken() })));
  server.advanceAndSweep(5 * HOUR);
  assert.deepEqual((await ben.read()).messages, [message]);
});

test("after the creator's session expires, the others can chat but have no creator rights", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  server.clock.advance(HOUR);
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken() })));
  server.clock.advance(5 * HOUR);
  assertError(await ben.invite(), "not_creator");
  assertError(await ben.end(), "not_creator");
  await ben.say("alone now");
});

test("a chat ends when its last session expires", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  server.clock.advance(HOUR);
  // Made an hour after the session, so that the invitation is still valid when the chat ends.
  const invite_token = await ana.inviteToken();
  server.advanceAndSweep(5 * HOUR - 1);
  assert.equal(server.app.chats.count().chats, 1);
  server.advanceAndSweep(1);
  assert.equal(server.app.chats.count().chats, 0);
  const reply = await server.join(ana.chatId, { invite_token });
  assert.ok(reply.status === 404 || reply.status === 401);
  assertError(reply, reply.status === 404 ? "chat_not_found" : "expired_token");
  assertError(await ana.poll(), "expired_token");
});

test("an expired chat frees its place under --max-chats at once, without a sweep", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  // A chat with two members is never dropped to make room.
  await server.chat("Ana", "Ben");
  server.clock.advance(6 * HOUR - 1);
  assertError(await server.create({ username: "Eva" }), "server_full");
  server.clock.advance(1);
  sessionOf(await server.create({ username: "Eva" }));
  server.app.sweep();
  assert.equal(server.app.chats.count().chats, 1);
});

test("sweeping removes a thousand chats when they expire, and no others", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  await Promise.all(Array.from({ length: 500 }, () => server.create()));
  server.advanceAndSweep(MINUTE);
  await Promise.all(Array.from({ length: 500 }, () => server.create()));
  assert.equal(server.app.chats.count().chats, 1000);
  server.advanceAndSweep(6 * HOUR - MINUTE);
  assert.equal(server.app.chats.count().chats, 500);
  server.advanceAndSweep(MINUTE);
  assert.equal(server.app.chats.count().chats, 0);
});

test("leaving or ending a chat early leaves nothing to expire later", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const [eva] = await server.chat("Eva");
  await ben.leave();
  await eva.end();
  server.advanceAndSweep(6 * HOUR - 1);
  assert.equal((await ana.read()).members.length, 1);
  server.advanceAndSweep(1);
  assert.equal(server.app.chats.count().chats, 0);
});

test("sessions that expire together all get expired_token, and no member list shows one of them", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  server.clock.advance(HOUR);
  const cleo = sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken(), username: "Cleo" }));
  const held = [await ana.openPoll(), await ben.openPoll()];
  const remaining = await server.openPoll(`/${ana.chatId}?since=latest&wait=50`, { token: cleo.session_token });
  server.clock.ms = Date.parse(ana.session.expires_at);
  server.app.sweep();
  for (const { reply } of held) assertError(await reply, "expired_token");
  assert.deepEqual(
    pollOf(await remaining.reply).members.map(({ username }) => username),
    ["Cleo"],
  );
});
