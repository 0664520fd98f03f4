// The invitation: made and revoked by the creator, looked at by whoever holds it, good until the chat is full.

import assert from "node:assert/strict";
import test from "node:test";
import {
  assertDone,
  assertError,
  HOUR,
  invitationOf,
  lookOf,
  Member,
  MINUTE,
  sessionOf,
  startServer,
  testInside,
} from "./helpers.ts";

testInside("the creator gets a magic link with the token in its fragment", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invitation = invitationOf(await ana.invite());
  assert.equal(invitation.magic_link, `${server.base}/${ana.chatId}#invite=${invitation.invite_token}`);
  assert.match(invitation.invite_token, /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/);
  assert.equal(invitation.seats_left, 5);
  assert.ok(invitation.expires_at <= server.clock.iso(6 * HOUR));
  assert.ok(invitation.expires_at > server.clock.iso());
});

test("for an IPv4 base the magic link has at most 128 characters", async (t) => {
  for (const url of ["http://255.255.255.255:65535", "https://255.255.255.255:65535"]) {
    const server = await startServer(t, { url });
    const [ana] = await server.party("Ana");
    const { magic_link } = invitationOf(await ana.invite());
    assert.ok(magic_link.startsWith(`${url}/`));
    assert.ok(magic_link.length <= 128, `${magic_link.length} characters`);
  }
});

test("seats_left counts down as people join, and up as they leave", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  assert.equal(invitationOf(await ana.invite()).seats_left, 4);
  await ben.leave();
  assert.equal(invitationOf(await ana.invite()).seats_left, 5);
});

test("an invitation can be made while the chat is full", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("A", "B", "C", "D", "E", "F");
  assert.equal(invitationOf(await ana.invite()).seats_left, 0);
});

test("only the creator can invite", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.party("Ana", "Ben");
  assertError(await ben.invite(), "not_creator");
});

test("a body sent to invite is ignored, whatever it is", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (const body of ["{", "[]", Buffer.from([0xff]), '{"username":5}', "x".repeat(20_000)]) {
    invitationOf(await ana.send("POST", "/invite", { body }));
  }
});

test("a link lets one after the other in until the chat is full", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  for (let joined = 0; joined < 5; joined += 1) sessionOf(await server.join(ana.chatId, { invite_token }));
  assertError(await server.join(ana.chatId, { invite_token }), "chat_full");
});

test("looking at an invitation says who is there and takes no seat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana", "Ben");
  const { invite_token, expires_at } = invitationOf(await ana.invite());
  for (let look = 0; look < 10; look += 1) {
    assert.deepEqual(lookOf(await ana.look(invite_token)), {
      chat_id: ana.chatId,
      seats_left: 4,
      members: ["Ana", "Ben"],
      expires_at,
    });
  }
  assert.equal((await ana.read()).members.length, 2);
});

test("looking at an invitation to a full chat is chat_full", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("A", "B", "C", "D", "E", "F");
  const token = await ana.inviteToken();
  assertError(await ana.look(token), "chat_full");
  await ben.leave();
  assert.equal(lookOf(await ana.look(token)).seats_left, 1);
});

test("an invitation outlives its maker's leaving", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const invite_token = await ana.inviteToken();
  await ana.leave();
  assert.deepEqual(lookOf(await ben.look(invite_token)).members, ["Ben"]);
  sessionOf(await server.join(ana.chatId, { invite_token }));
});

test("a revoked link lets nobody in, and the members stay", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const tokens = [await ana.inviteToken(), await ana.inviteToken()];
  assertDone(await ana.revoke());
  for (const invite_token of tokens) {
    assertError(await server.join(ana.chatId, { invite_token }), "revoked_token");
    assertError(await ana.look(invite_token), "revoked_token");
  }
  assert.equal((await ben.read()).members.length, 2);
});

test("a link made after a revocation works", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const old = await ana.inviteToken();
  assertDone(await ana.revoke());
  const invite_token = await ana.inviteToken();
  assert.notEqual(invite_token, old);
  sessionOf(await server.join(ana.chatId, { invite_token }));
  assertError(await server.join(ana.chatId, { invite_token: old }), "revoked_token");
});

test("revoking when nothing was ever made, and twice, is fine", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  assertDone(await ana.revoke());
  assertDone(await ana.revoke());
  sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken() }));
});

test("only the creator can revoke", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const invite_token = await ana.inviteToken();
  assertError(await ben.revoke(), "not_creator");
  sessionOf(await server.join(ana.chatId, { invite_token }));
});

test("making and revoking invitations is no change that a reader sees", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  await ana.inviteToken();
  await ana.revoke();
  assert.equal((await ana.read()).cursor, 1);
});

testInside("an invitation expires at its time and not before", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  server.clock.advance(HOUR);
  const { invite_token, expires_at } = invitationOf(await ana.invite());
  // Somebody must still be there when it expires, or the chat is gone before.
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
  server.clock.ms = Date.parse(expires_at) - 1;
  const late = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
  assert.equal(lookOf(await ben.look(invite_token)).expires_at, expires_at);
  server.clock.advance(1);
  assertError(await server.join(ana.chatId, { invite_token }), "expired_token");
  assertError(await late.look(invite_token), "expired_token");
});

test("an invitation to a chat that has ended is chat_not_found", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  await ana.end();
  assertError(await ana.look(invite_token), "chat_not_found");
  assertError(await server.join(ana.chatId, { invite_token }), "chat_not_found");
});

test("a revoked invitation to a chat that has ended is chat_not_found", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  await ana.revoke();
  await ana.end();
  assertError(await ana.look(invite_token), "chat_not_found");
});

test("an invitation to another chat is wrong_chat, also when that chat has ended", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const [eva] = await server.party("Eva");
  const invite_token = await eva.inviteToken();
  assertError(await ana.look(invite_token), "wrong_chat");
  assertError(await server.join(ana.chatId, { invite_token }), "wrong_chat");
  await eva.end();
  assertError(await ana.look(invite_token), "wrong_chat");
  assertError(await server.join(ana.chatId, { invite_token }), "wrong_chat");
});

testInside("an expired invitation is expired_token, also when it was revoked or its chat has ended", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  await ana.revoke();
  server.clock.advance(6 * HOUR + MINUTE);
  assertError(await ana.look(invite_token), "expired_token");
  assertError(await server.join(ana.chatId, { invite_token }), "expired_token");
});

test("a session token is no invitation, and an invitation opens no chat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  assertError(await ana.look(ana.token), "invalid_token");
  assertError(await server.join(ana.chatId, { invite_token: ana.token }), "invalid_token");
  assertError(await ana.send("POST", "/join", { token: ana.token }), "invalid_token");
  assertError(await ana.send("GET", "", { token: invite_token }), "invalid_token");
  assertError(await ana.send("POST", "", { token: invite_token, body: { text: "x" } }), "invalid_token");
  assertError(await ana.send("POST", "/invite", { token: invite_token }), "invalid_token");
  assertError(await ana.send("DELETE", "/invite", { token: invite_token }), "invalid_token");
  assertError(await ana.send("POST", "/leave", { token: invite_token }), "invalid_token");
  assertError(await ana.send("DELETE", `/members/${ana.id}`, { token: invite_token }), "invalid_token");
  assertError(await ana.send("DELETE", "", { token: invite_token }), "invalid_token");
});
