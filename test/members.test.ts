// Seats come free: leaving, removal, the end of the chat. And who may do what.

import assert from "node:assert/strict";
import test from "node:test";
import { assertDone, assertError, at, invitationOf, Member, sessionOf, startServer } from "./helpers.ts";

test("who leaves frees seat and name, and the messages stay under it", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const message = await ben.say("I was here");
  assertDone(await ben.leave());
  const { members, messages, cursor } = await ana.read();
  assert.deepEqual(
    members.map((member) => member.username),
    ["Ana"],
  );
  assert.deepEqual(messages, [message]);
  assert.equal(cursor, message.id + 1);
  const invite_token = await ana.inviteToken();
  const second = sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" }));
  assert.notEqual(second.member_id, ben.id);
  assert.equal(at((await ana.read()).messages, 0).member_id, ben.id);
});

test("leaving kills the token, for everything", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.party("Ana", "Ben");
  await ben.read();
  assertDone(await ben.leave());
  assertError(await ben.leave(), "revoked_token");
  assertError(await ben.poll(), "revoked_token");
  assertError(await ben.post("hello?"), "revoked_token");
  assertError(await ben.invite(), "revoked_token");
  assertError(await ben.revoke(), "revoked_token");
  assertError(await ben.remove("1"), "revoked_token");
  assertError(await ben.end(), "revoked_token");
});

test("a body sent to leave is ignored, whatever it is", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.party("Ana", "Ben");
  assertDone(await ben.send("POST", "/leave", { body: "{" }));
});

test("with its last member a chat is gone", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const invite_token = await ana.inviteToken();
  await ana.leave();
  assert.equal(await server.countChats(), 1);
  await ben.leave();
  assert.equal(await server.countChats(), 0);
  assertError(await ana.poll(), "chat_not_found");
  assertError(await ben.poll(), "chat_not_found");
  assertError(await server.join(ana.chatId, { invite_token }), "chat_not_found");
});

test("the creator can remove a member, whose session ends there and then", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.party("Ana", "Ben", "Eva");
  await ben.read();
  assertDone(await ana.remove(ben.id));
  assertError(await ben.poll(), "revoked_token");
  assertError(await ben.post("still here"), "revoked_token");
  const { members, cursor } = await eva.read();
  assert.deepEqual(
    members.map((member) => member.username),
    ["Ana", "Eva"],
  );
  assert.equal(cursor, 4);
});

test("the link that a removed member came by still works until it is revoked", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  const ben = sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" }));
  assertDone(await ana.remove(ben.member_id));
  const again = sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" }));
  assert.notEqual(again.member_id, ben.member_id);
  assertDone(await ana.revoke());
  assertDone(await ana.remove(again.member_id));
  assertError(await server.join(ana.chatId, { invite_token, username: "Ben" }), "revoked_token");
});

test("only the creator can remove anybody", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.party("Ana", "Ben", "Eva");
  assertError(await ben.remove(eva.id), "not_creator");
  assertError(await ben.remove(ana.id), "not_creator");
  assertError(await ben.remove("nobody"), "not_creator");
  assert.equal((await ana.read()).members.length, 3);
});

test("removing nobody is not_found", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  for (const id of [
    "99",
    "0",
    "-1",
    "nobody",
    "1e0",
    `0${ben.id}`,
    `${ben.id}.0`,
    `%20${ben.id}`,
    "__proto__",
    "%00",
  ]) {
    assertError(await ana.remove(id), "not_found");
  }
  assertDone(await ana.remove(ben.id));
  assertError(await ana.remove(ben.id), "not_found");
});

test("the creator who removes their own seat has left", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  assertDone(await ana.remove(ana.id));
  assertError(await ana.poll(), "revoked_token");
  assert.deepEqual(
    (await ben.read()).members.map((member) => [member.username, member.creator]),
    [["Ben", false]],
  );
});

test("when the creator leaves, the chat goes on and nobody is its creator", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.party("Ana", "Ben", "Eva");
  const invite_token = await ana.inviteToken();
  assertDone(await ana.leave());
  await ben.say("still here");
  const { members } = await eva.read();
  assert.deepEqual(
    members.map((member) => member.creator),
    [false, false],
  );
  for (const member of [ben, eva]) {
    assertError(await member.invite(), "not_creator");
    assertError(await member.revoke(), "not_creator");
    assertError(await member.remove(ben.id), "not_creator");
    assertError(await member.end(), "not_creator");
  }
  const back = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token, username: "Ana" })));
  assertError(await back.invite(), "not_creator");
  assert.equal(
    (await back.read()).members.some((member) => member.creator),
    false,
  );
});

test("the creator can end the chat for everybody", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  await ben.read();
  assertDone(await ana.end());
  assert.equal(await server.countChats(), 0);
  for (const member of [ana, ben]) {
    assertError(await member.poll(), "chat_not_found");
    assertError(await member.post("x"), "chat_not_found");
    assertError(await member.invite(), "chat_not_found");
    assertError(await member.revoke(), "chat_not_found");
    assertError(await member.leave(), "chat_not_found");
    assertError(await member.remove(ana.id), "chat_not_found");
    assertError(await member.end(), "chat_not_found");
  }
});

test("only the creator can end the chat", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  assertError(await ben.end(), "not_creator");
  await ana.read();
});

test("ending one chat leaves the others alone", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const [eva] = await server.party("Eva");
  await ana.end();
  await eva.say("hello");
});

test("members stand in the order of their joining, also when one comes back", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben", "Eva");
  const invite_token = await ana.inviteToken();
  await ben.leave();
  await server.join(ana.chatId, { invite_token, username: "Ben" });
  assert.deepEqual(
    (await ana.read()).members.map((member) => member.username),
    ["Ana", "Eva", "Ben"],
  );
});

test("a seat that came free can be taken again, and six stay six", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("A", "B", "C", "D", "E", "F");
  const { invite_token, seats_left } = invitationOf(await ana.invite());
  assert.equal(seats_left, 0);
  await ben.leave();
  const replies = await Promise.all(Array.from({ length: 10 }, () => server.join(ana.chatId, { invite_token })));
  assert.equal(replies.filter((reply) => reply.status === 201).length, 1);
  assert.equal((await ana.read()).members.length, 6);
});
