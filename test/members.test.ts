// Leaving, removing members and ending a chat, and the rights of the creator.

import assert from "node:assert/strict";
import test from "node:test";
import { assertNoContent, assertError, at, invitationOf, Member, sessionOf, startServer } from "./lib/helpers.ts";

test("a member who leaves frees seat and name, and the messages keep the name", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const message = await ben.say("I was here");
  assertNoContent(await ben.leave());
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

test("after leaving, the token works for nothing", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.chat("Ana", "Ben");
  await ben.read();
  assertNoContent(await ben.leave());
  assertError(await ben.leave(), "revoked_token");
  assertError(await ben.poll(), "revoked_token");
  assertError(await ben.post("hello?"), "revoked_token");
  assertError(await ben.invite(), "revoked_token");
  assertError(await ben.revoke(), "revoked_token");
  assertError(await ben.remove("1"), "revoked_token");
  assertError(await ben.end(), "revoked_token");
});

test("polls list the last six members that the creator removed, and none who left", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben", "Eva");
  await ben.leave();
  assert.equal((await ana.read()).removed, undefined);
  assertNoContent(await ana.remove("3"));
  assert.deepEqual((await ana.read()).removed, ["3"]);
  const invite_token = await ana.inviteToken();
  for (let id = 4; id < 10; id++) {
    sessionOf(await server.join(ana.chatId, { invite_token }));
    await ana.remove(String(id));
  }
  assert.deepEqual((await ana.read()).removed, ["4", "5", "6", "7", "8", "9"]);
  const last = sessionOf(await server.join(ana.chatId, { invite_token }));
  await ana.remove(ana.id);
  const { removed } = await new Member(server, last).read();
  assert.deepEqual(removed, ["4", "5", "6", "7", "8", "9"], "to remove oneself is to leave");
});

test("any body sent to leave is ignored", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.chat("Ana", "Ben");
  assertNoContent(await ben.send("POST", "/leave", { body: "{" }));
});

test("a chat ends when its last member leaves", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const invite_token = await ana.inviteToken();
  await ana.leave();
  assert.equal(await server.countChats(), 1);
  await ben.leave();
  assert.equal(await server.countChats(), 0);
  assertError(await ana.poll(), "chat_not_found");
  assertError(await ben.poll(), "chat_not_found");
  assertError(await server.join(ana.chatId, { invite_token }), "chat_not_found");
});

test("the creator can remove a member, whose session ends at once", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.chat("Ana", "Ben", "Eva");
  await ben.read();
  assertNoContent(await ana.remove(ben.id));
  assertError(await ben.poll(), "revoked_token");
  assertError(await ben.post("still here"), "revoked_token");
  const { members, cursor } = await eva.read();
  assert.deepEqual(
    members.map((member) => member.username),
    ["Ana", "Eva"],
  );
  assert.equal(cursor, 4);
});

test("a removed member can join again with the same link until it is revoked", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const ben = sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" }));
  assertNoContent(await ana.remove(ben.member_id));
  const again = sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" }));
  assert.notEqual(again.member_id, ben.member_id);
  assertNoContent(await ana.revoke());
  assertNoContent(await ana.remove(again.member_id));
  assertError(await server.join(ana.chatId, { invite_token, username: "Ben" }), "revoked_token");
});

test("only the creator can remove members", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.chat("Ana", "Ben", "Eva");
  assertError(await ben.remove(eva.id), "not_creator");
  assertError(await ben.remove(ana.id), "not_creator");
  assertError(await ben.remove("nobody"), "not_creator");
  assert.equal((await ana.read()).members.length, 3);
});

test("removing an unknown member is not_found", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
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
  assertNoContent(await ana.remove(ben.id));
  assertError(await ana.remove(ben.id), "not_found");
});

test("the creator can leave by removing their own seat", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  assertNoContent(await ana.remove(ana.id));
  assertError(await ana.poll(), "revoked_token");
  assert.deepEqual(
    (await ben.read()).members.map((member) => [member.username, member.creator]),
    [["Ben", false]],
  );
});

test("when the creator leaves, the chat continues without a creator", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.chat("Ana", "Ben", "Eva");
  const invite_token = await ana.inviteToken();
  assertNoContent(await ana.leave());
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

test("the creator can end the chat for everyone", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  await ben.read();
  assertNoContent(await ana.end());
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
  const [ana, ben] = await server.chat("Ana", "Ben");
  assertError(await ben.end(), "not_creator");
  await ana.read();
});

test("ending one chat does not affect others", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const [eva] = await server.chat("Eva");
  await ana.end();
  await eva.say("hello");
});

test("members are listed in the order they joined, even if one returns", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben", "Eva");
  const invite_token = await ana.inviteToken();
  await ben.leave();
  await server.join(ana.chatId, { invite_token, username: "Ben" });
  assert.deepEqual(
    (await ana.read()).members.map((member) => member.username),
    ["Ana", "Eva", "Ben"],
  );
});

test("a freed seat can be taken again by exactly one of ten who join at once", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("A", "B", "C", "D", "E", "F");
  const { invite_token, seats_left } = invitationOf(await ana.invite());
  assert.equal(seats_left, 0);
  await ben.leave();
  const replies = await Promise.all(Array.from({ length: 10 }, () => server.join(ana.chatId, { invite_token })));
  assert.equal(replies.filter((reply) => reply.status === 201).length, 1);
  assert.equal((await ana.read()).members.length, 6);
});
