// Invitations: making, previewing, revoking and expiry.

import assert from "node:assert/strict";
import test from "node:test";
import { generate } from "lean-qr/nano";
import {
  assertNoContent,
  assertError,
  HOUR,
  invitationOf,
  previewOf,
  Member,
  MINUTE,
  sessionOf,
  startServer,
  testInProcess,
} from "./lib/helpers.ts";

testInProcess("the creator gets a magic link with the token in its fragment", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invitation = invitationOf(await ana.invite());
  assert.equal(invitation.magic_link, `${server.base}/${ana.chatId}#invite=${invitation.invite_token}`);
  assert.match(invitation.invite_token, /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/);
  assert.equal(invitation.seats_left, 5);
  assert.ok(invitation.expires_at <= server.clock.iso(6 * HOUR));
  assert.ok(invitation.expires_at > server.clock.iso());
});

test("an invitation's QR code in half blocks is that of its link, with a margin of four modules", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const { magic_link, qr } = invitationOf(await ana.invite());
  const code = generate(magic_link);
  const lines = qr.split("\n");
  assert.deepEqual([...new Set(lines.map((line) => line.length))], [code.size + 8]);
  assert.equal(lines.length, Math.ceil((code.size + 8) / 2));
  lines.forEach((line, y) => {
    Array.from(line, (block, x) => {
      const isDark = [code.get(x - 4, 2 * y - 4), code.get(x - 4, 2 * y - 3)].map(Boolean);
      assert.deepEqual([" ▄".includes(block), " ▀".includes(block)], isDark, `${x}, ${y}`);
    });
  });
});

testInProcess("invitations count as posts: twenty at once, then five per second", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 19; count += 1) invitationOf(await ana.invite());
  await ana.say("the twentieth");
  assertError(await ana.invite(), "rate_limited");
  server.clock.advance(200);
  invitationOf(await ana.invite());
});

test("with an IPv4 address, the magic link has at most 128 characters", async (t) => {
  for (const url of ["http://255.255.255.255:65535", "https://255.255.255.255:65535"]) {
    const server = await startServer(t, { url });
    const [ana] = await server.chat("Ana");
    const { magic_link } = invitationOf(await ana.invite());
    assert.ok(magic_link.startsWith(`${url}/`));
    assert.ok(magic_link.length <= 128, `${magic_link.length} characters`);
  }
});

test("seats_left goes down when a member joins and up when one leaves", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  assert.equal(invitationOf(await ana.invite()).seats_left, 4);
  await ben.leave();
  assert.equal(invitationOf(await ana.invite()).seats_left, 5);
});

test("the creator of a full chat can make an invitation", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("A", "B", "C", "D", "E", "F");
  assert.equal(invitationOf(await ana.invite()).seats_left, 0);
});

test("only the creator can invite", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.chat("Ana", "Ben");
  assertError(await ben.invite(), "not_creator");
});

test("any body sent to invite is ignored", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const body of ["{", "[]", Buffer.from([0xff]), '{"username":5}', "x".repeat(20_000)]) {
    invitationOf(await ana.send("POST", "/invite", { body }));
  }
});

test("one link lets people join until the chat is full", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  for (let joined = 0; joined < 5; joined += 1) sessionOf(await server.join(ana.chatId, { invite_token }));
  assertError(await server.join(ana.chatId, { invite_token }), "chat_full");
});

test("previewing an invitation lists the members and takes no seat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana", "Ben");
  const { invite_token, expires_at } = invitationOf(await ana.invite());
  for (let count = 0; count < 10; count += 1) {
    assert.deepEqual(previewOf(await ana.preview(invite_token)), {
      chat_id: ana.chatId,
      seats_left: 4,
      members: ["Ana", "Ben"],
      expires_at,
    });
  }
  assert.equal((await ana.read()).members.length, 2);
});

test("previewing an invitation to a full chat is chat_full", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("A", "B", "C", "D", "E", "F");
  const token = await ana.inviteToken();
  assertError(await ana.preview(token), "chat_full");
  await ben.leave();
  assert.equal(previewOf(await ana.preview(token)).seats_left, 1);
});

test("an invitation stays valid after the creator has left", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const invite_token = await ana.inviteToken();
  await ana.leave();
  assert.deepEqual(previewOf(await ben.preview(invite_token)).members, ["Ben"]);
  sessionOf(await server.join(ana.chatId, { invite_token }));
});

test("a revoked link lets nobody in, and the members stay", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const tokens = [await ana.inviteToken(), await ana.inviteToken()];
  assertNoContent(await ana.revoke());
  for (const invite_token of tokens) {
    assertError(await server.join(ana.chatId, { invite_token }), "revoked_token");
    assertError(await ana.preview(invite_token), "revoked_token");
  }
  assert.equal((await ben.read()).members.length, 2);
});

test("a link made after revoking works", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const old = await ana.inviteToken();
  assertNoContent(await ana.revoke());
  const invite_token = await ana.inviteToken();
  assert.notEqual(invite_token, old);
  sessionOf(await server.join(ana.chatId, { invite_token }));
  assertError(await server.join(ana.chatId, { invite_token: old }), "revoked_token");
});

test("revoking works twice in a row and before any link was made", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assertNoContent(await ana.revoke());
  assertNoContent(await ana.revoke());
  sessionOf(await server.join(ana.chatId, { invite_token: await ana.inviteToken() }));
});

test("only the creator can revoke", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const invite_token = await ana.inviteToken();
  assertError(await ben.revoke(), "not_creator");
  sessionOf(await server.join(ana.chatId, { invite_token }));
});

test("making and revoking invitations does not move the cursor", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  await ana.inviteToken();
  await ana.revoke();
  assert.equal((await ana.read()).cursor, 1);
});

testInProcess("an invitation expires exactly at expires_at", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  server.clock.advance(HOUR);
  const { invite_token, expires_at } = invitationOf(await ana.invite());
  // Ben keeps the chat alive until the invitation expires.
  const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
  server.clock.ms = Date.parse(expires_at) - 1;
  const late = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
  assert.equal(previewOf(await ben.preview(invite_token)).expires_at, expires_at);
  server.clock.advance(1);
  assertError(await server.join(ana.chatId, { invite_token }), "expired_token");
  assertError(await late.preview(invite_token), "expired_token");
});

test("an invitation to a chat that has ended is chat_not_found", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  await ana.end();
  assertError(await ana.preview(invite_token), "chat_not_found");
  assertError(await server.join(ana.chatId, { invite_token }), "chat_not_found");
});

test("a revoked invitation to a chat that has ended is chat_not_found", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  await ana.revoke();
  await ana.end();
  assertError(await ana.preview(invite_token), "chat_not_found");
});

test("an invitation to another chat is wrong_chat, even after that chat has ended", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const [eva] = await server.chat("Eva");
  const invite_token = await eva.inviteToken();
  assertError(await ana.preview(invite_token), "wrong_chat");
  assertError(await server.join(ana.chatId, { invite_token }), "wrong_chat");
  await eva.end();
  assertError(await ana.preview(invite_token), "wrong_chat");
  assertError(await server.join(ana.chatId, { invite_token }), "wrong_chat");
});

testInProcess("an expired invitation is expired_token, even if it was revoked or its chat has ended", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  await ana.revoke();
  server.clock.advance(6 * HOUR + MINUTE);
  assertError(await ana.preview(invite_token), "expired_token");
  assertError(await server.join(ana.chatId, { invite_token }), "expired_token");
});

test("a session token does not work as an invitation, nor an invitation as a session token", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  assertError(await ana.preview(ana.token), "invalid_token");
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
