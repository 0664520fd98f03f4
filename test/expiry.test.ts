// Time travel: what ends at its time, and what it frees there and then.

import assert from "node:assert/strict";
import test from "node:test";
import { assertError, at, HOUR, Member, MINUTE, pollOf, sessionOf, startServer } from "./helpers.ts";

test("a session is good for six hours and not a millisecond longer", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
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

test("a session is not prolonged by being used", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const end = server.clock.iso(6 * HOUR);
  for (let hour = 1; hour < 6; hour += 1) {
    server.clock.advance(HOUR);
    assert.equal((await ana.read()).expires_at, end);
  }
  server.clock.advance(HOUR);
  assertError(await ana.poll(), "expired_token");
});

test("an expired session frees seat and name at its time, before anybody sweeps", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
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

test("the messages of an expired member stay under their name", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const message = await ana.say("I was here");
  server.clock.advance(HOUR);
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken() })));
  server.pass(5 * HOUR);
  assert.deepEqual((await ben.read()).messages, [message]);
});

test("who stays when the creator's session expires can do all but what a creator may", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  server.clock.advance(HOUR);
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken() })));
  server.clock.advance(5 * HOUR);
  assertError(await ben.invite(), "not_creator");
  assertError(await ben.end(), "not_creator");
  await ben.say("alone now");
});

test("a chat is dropped when its last session expires", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  server.clock.advance(HOUR);
  // Made an hour after the session, so that it is still good when the chat is gone.
  const invite_token = await ana.inviteToken();
  server.pass(5 * HOUR - 1);
  assert.equal(server.app.chats.count().chats, 1);
  server.pass(1);
  assert.equal(server.app.chats.count().chats, 0);
  const reply = await server.join(ana.chatId, { invite_token });
  assert.ok(reply.status === 404 || reply.status === 401);
  assertError(reply, reply.status === 404 ? "chat_not_found" : "expired_token");
  assertError(await ana.poll(), "expired_token");
});

test("a dropped chat gives its place under --max-chats to the next at once, without a sweep", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  // Two members, so that this chat gives way to none.
  await server.party("Ana", "Ben");
  server.clock.advance(6 * HOUR - 1);
  assertError(await server.create({ username: "Eva" }), "server_full");
  server.clock.advance(1);
  sessionOf(await server.create({ username: "Eva" }));
  server.app.sweep();
  assert.equal(server.app.chats.count().chats, 1);
});

test("a thousand chats are swept when their time is over, and no other", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  await Promise.all(Array.from({ length: 500 }, () => server.create()));
  server.pass(MINUTE);
  await Promise.all(Array.from({ length: 500 }, () => server.create()));
  assert.equal(server.app.chats.count().chats, 1000);
  server.pass(6 * HOUR - MINUTE);
  assert.equal(server.app.chats.count().chats, 500);
  server.pass(MINUTE);
  assert.equal(server.app.chats.count().chats, 0);
});

test("leaving or ending a chat before its time leaves nothing to expire later", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const [eva] = await server.party("Eva");
  await ben.leave();
  await eva.end();
  server.pass(6 * HOUR - 1);
  assert.equal((await ana.read()).members.length, 1);
  server.pass(1);
  assert.equal(server.app.chats.count().chats, 0);
});

test("sessions that end together are all told so, and nobody is shown one of them", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  server.clock.advance(HOUR);
  const cleo = sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken(), username: "Cleo" }));
  const held = [await ana.hold(), await ben.hold()];
  const stays = await server.hold(`/${ana.chatId}?since=latest&wait=50`, { token: cleo.session_token });
  server.clock.ms = Date.parse(ana.session.expires_at);
  server.app.sweep();
  for (const { answer } of held) assertError(await answer, "expired_token");
  assert.deepEqual(
    pollOf(await stays.answer).members.map(({ username }) => username),
    ["Cleo"],
  );
});
