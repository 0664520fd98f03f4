// Rate limits: posts per session; creates, joins and bad tokens per address; chats per server.

import assert from "node:assert/strict";
import test from "node:test";
import {
  assertNoContent,
  assertError,
  HOUR,
  invitationOf,
  Member,
  messageOf,
  MINUTE,
  NO_CHAT,
  pollOf,
  type Reply,
  SECOND,
  sessionOf,
  startServer,
  type TestServer,
} from "./lib/helpers.ts";

test("a session can post 20 messages at once, then 5 per second", async (t) => {
  const server = await startServer(t);
  // Ben made the invitation, which counts as a post.
  const [ben, ana] = await server.chat("Ben", "Ana");
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
  server.clock.advance(199);
  assertError(await ana.post("x"), "rate_limited");
  server.clock.advance(1);
  await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
  server.clock.advance(SECOND);
  for (let count = 0; count < 5; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
  await ben.say("I have not posted yet");
  server.clock.advance(HOUR);
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
});

test("a member who waits for Retry-After can post again", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  const refused = await ana.post("x");
  assertError(refused, "rate_limited");
  assert.equal(refused.headers["retry-after"], "1");
  server.clock.advance(SECOND);
  await ana.say("x");
});

test("a post that is refused before its text is validated does not count", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  messageOf(await ana.post("x", { "Idempotency-Key": "k" }));
  for (let count = 0; count < 30; count += 1) {
    assertError(await ana.send("POST", "", { body: "{" }), "invalid_json");
    assertError(await ana.post("x", { "Idempotency-Key": "x".repeat(65) }), "invalid_key");
    assertError(await ana.post("y", { "Idempotency-Key": "k" }), "invalid_key");
  }
  for (let count = 0; count < 19; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
});

test("a repeated post with its key does not count, and is answered even when the rate is used up", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  messageOf(await ana.post("x", { "Idempotency-Key": "k" }));
  for (let count = 0; count < 30; count += 1) messageOf(await ana.post("x", { "Idempotency-Key": "k" }), 200);
  for (let count = 0; count < 19; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
  messageOf(await ana.post("x", { "Idempotency-Key": "k" }), 200);
  assertError(await ana.post("y", { "Idempotency-Key": "k" }), "invalid_key");
});

test("a rate-limited key posts when it is sent again", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  assertError(await ana.post("patience", { "Idempotency-Key": "k" }), "rate_limited");
  server.clock.advance(SECOND);
  messageOf(await ana.post("patience", { "Idempotency-Key": "k" }));
});

test("a rate-limited message is not posted", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  assertError(await ana.post("too much"), "rate_limited");
  assert.equal((await ana.read()).cursor, 21);
});

test("reading is not rate-limited", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 300; count += 1) await ana.read();
});

test("an address can create 60 chats at once, then one per second", async (t) => {
  const server = await startServer(t, { maxChats: 2_000 });
  for (let count = 0; count < 60; count += 1) sessionOf(await server.create());
  assertError(await server.create(), "rate_limited");
  server.clock.advance(999);
  assertError(await server.create(), "rate_limited");
  server.clock.advance(1);
  sessionOf(await server.create());
  assertError(await server.create(), "rate_limited");
  server.clock.advance(2 * MINUTE);
  for (let count = 0; count < 60; count += 1) sessionOf(await server.create());
  assertError(await server.create(), "rate_limited");
});

test("every create request counts, even invalid and repeated ones", async (t) => {
  const server = await startServer(t);
  const key = { "Idempotency-Key": "one key of many characters" };
  sessionOf(await server.create({}, key));
  for (let count = 0; count < 10; count += 1) {
    sessionOf(await server.create({}, key), 200);
    assertError(await server.create("{"), "invalid_json");
    assertError(await server.create({ username: "" }), "invalid_username");
    assertError(await server.create({}, { "Idempotency-Key": "short" }), "invalid_key");
    assertError(await server.create("x".repeat(40_000)), "too_large");
  }
  for (let count = 0; count < 9; count += 1) sessionOf(await server.create());
  for (const body of [undefined, "{", { username: "" }, "x".repeat(40_000)]) {
    assertError(await server.create(body), "rate_limited");
  }
  assertError(await server.create({}, key), "rate_limited");
});

test("an address can send 60 join requests at once, valid or not, then one per second", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  for (let count = 0; count < 20; count += 1) {
    assertError(await server.join(ana.chatId), "missing_token");
    assertError(await server.join(NO_CHAT, { invite_token }), "wrong_chat");
    assertError(await server.join(ana.chatId, "{"), "invalid_json");
  }
  assertError(await server.join(ana.chatId, { invite_token }), "rate_limited");
  assertError(await server.join(NO_CHAT), "rate_limited");
  server.clock.advance(SECOND);
  sessionOf(await server.join(ana.chatId, { invite_token }));
  assertError(await server.join(ana.chatId, { invite_token }), "rate_limited");
});

test("creates and joins are counted separately", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  for (let count = 0; count < 59; count += 1) sessionOf(await server.create());
  assertError(await server.create(), "rate_limited");
  sessionOf(await server.join(ana.chatId, { invite_token }));
});

test("an address can send 60 bad tokens at once, then one per second, and valid tokens still work", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite = await ana.inviteToken();
  const guess = (): Promise<Reply> => server.send("GET", `/${ana.chatId}`, { token: "guess" });
  for (let count = 0; count < 20; count += 1) {
    assertError(await guess(), "invalid_token");
    assertError(await ana.preview("guess"), "invalid_token");
    assertError(await server.send("POST", `/${NO_CHAT}/leave`, { token: "guess" }), "invalid_token");
  }
  assertError(await guess(), "rate_limited");
  assertError(await ana.preview("guess"), "rate_limited");
  assertError(await server.join(ana.chatId, { invite_token: "guess" }), "rate_limited");
  await ana.read();
  await ana.say("I am still in");
  assert.equal((await ana.preview(invite)).status, 200);
  sessionOf(await server.join(ana.chatId, { invite_token: invite }));
  server.clock.advance(SECOND);
  assertError(await guess(), "invalid_token");
  assertError(await guess(), "rate_limited");
});

test("only invalid_token counts as a bad token", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const [eva] = await server.chat("Eva");
  await ben.leave();
  for (let count = 0; count < 30; count += 1) {
    assertError(await server.send("GET", `/${ana.chatId}`), "missing_token");
    assertError(await ben.poll(), "revoked_token");
    assertError(await server.send("GET", `/${ana.chatId}`, { token: eva.token }), "wrong_chat");
  }
  assertError(await server.send("GET", `/${ana.chatId}`, { token: "guess" }), "invalid_token");
});

/** Uses up the creates of one address. Returns whether that also limits the other address. */
async function shareLimit(server: TestServer, one: string, other: string): Promise<boolean> {
  for (let count = 0; count < 61; count += 1) await server.create({}, { "X-Forwarded-For": one });
  assertError(await server.create({}, { "X-Forwarded-For": one }), "rate_limited");
  return (await server.create({}, { "X-Forwarded-For": other })).status === 429;
}

for (const [one, other, share] of [
  ["203.0.113.7", "203.0.113.7", true],
  ["203.0.113.7", "203.0.113.8", false],
  ["198.51.100.1, 203.0.113.7", "198.51.100.2, 203.0.113.7", true],
  ["198.51.100.1, 203.0.113.7", "198.51.100.1, 203.0.113.8", false],
  ["2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true],
  ["2001:db8:1:2::1", "2001:DB8:0001:0002::2", true],
  ["2001:db8:1:2::1", "2001:db8:1:3::1", false],
  ["2001:db8::1", "2001:db8:0:0:5::", true],
  ["::ffff:203.0.113.7", "203.0.113.7", true],
  ["::ffff:203.0.113.7", "::ffff:203.0.113.8", false],
  ["::ffff:203.0.113.7", "::1", false],
] as const) {
  test(`behind a proxy, ${one} and ${other} ${share ? "count as one address" : "count separately"}`, async (t) => {
    const server = await startServer(t, { trustProxy: true });
    assert.equal(await shareLimit(server, one, other), share);
  });
}

for (const header of ["nonsense", "", "1.2.3", "1.2.3.4.5", "256.1.1.1", "<b>", "2001:db8:::1", "1.2.3.4, unknown"]) {
  test(`behind a proxy, X-Forwarded-For "${header}" counts as the proxy's address`, async (t) => {
    const server = await startServer(t, { trustProxy: true });
    for (let count = 0; count < 60; count += 1) sessionOf(await server.create());
    assertError(await server.create({}, { "X-Forwarded-For": header }), "rate_limited");
  });
}

test("without --trust-proxy, X-Forwarded-For is ignored", async (t) => {
  const server = await startServer(t);
  assert.equal(await shareLimit(server, "203.0.113.7", "203.0.113.8"), true);
});

test("--no-rate-limit turns off every rate limit", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 70; count += 1) {
    await ana.say("x");
    sessionOf(await server.create());
    assertError(await server.join(ana.chatId), "missing_token");
    assertError(await server.send("GET", `/${ana.chatId}`, { token: "guess" }), "invalid_token");
  }
});

test("hours later, the chats and rate counts of many addresses are forgotten", async (t) => {
  const server = await startServer(t, { trustProxy: true });
  for (let host = 0; host < 250; host += 1) {
    sessionOf(await server.create({}, { "X-Forwarded-For": `203.0.113.${host}` }));
  }
  server.advanceAndSweep(7 * HOUR);
  assert.equal(server.app.chats.count().chats, 0);
  sessionOf(await server.create({}, { "X-Forwarded-For": "203.0.113.1" }));
});

// ---- --max-chats ------------------------------------------------------------------------------------------

test("a full server refuses new chats with Retry-After", async (t) => {
  const server = await startServer(t, { maxChats: 2 });
  await server.chat("Ana");
  await server.chat("Eva");
  for (const body of [{}, { username: "" }, { username: 5 }]) {
    const reply = await server.create(body);
    assertError(reply, "server_full");
    assert.equal(reply.headers["retry-after"], "60");
  }
  assert.equal(server.app.chats.count().chats, 2);
});

test("the default limit is a thousand chats", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  for (let round = 0; round < 10; round += 1) {
    await Promise.all(Array.from({ length: 100 }, async () => sessionOf(await server.create())));
  }
  assertError(await server.create(), "server_full");
});

test("ending a chat, or its last member leaving, makes room at once", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  const [ana] = await server.chat("Ana");
  assertNoContent(await ana.end());
  const [eva] = await server.chat("Eva");
  assertNoContent(await eva.leave());
  await server.chat("Udo");
  assertError(await server.create(), "server_full");
});

test("on a full server, the chat of one member that has been idle longest makes room", async (t) => {
  const server = await startServer(t, { maxChats: 3 });
  const [first] = await server.chat("First");
  server.clock.advance(SECOND);
  const [second] = await server.chat("Second");
  server.clock.advance(SECOND);
  const [third] = await server.chat("Third");
  server.clock.advance(SECOND);
  await first.read();
  server.clock.advance(10 * MINUTE - 2 * SECOND - 1);
  assertError(await server.create(), "server_full");
  server.clock.advance(2);
  sessionOf(await server.create());
  assertError(await second.poll(), "chat_not_found");
  await third.read();
  await first.read();
  assert.equal(server.app.chats.count().chats, 3);
});

test("a chat with two members, a held poll or a message within ten minutes never makes room", async (t) => {
  const server = await startServer(t, { maxChats: 3 });
  const [ana, ben] = await server.chat("Ana", "Ben");
  const [eva] = await server.chat("Eva");
  const [udo] = await server.chat("Udo");
  server.clock.advance(9 * MINUTE + 30 * SECOND);
  await eva.say("hello, future");
  const held = await udo.openPoll();
  server.clock.advance(9 * MINUTE + 45 * SECOND);
  assertError(await server.create(), "server_full");
  held.abort();
  assertNoContent(await ben.leave());
  server.clock.advance(10 * SECOND);
  await eva.read();
  server.clock.advance(9 * MINUTE + 50 * SECOND);
  for (let count = 0; count < 2; count += 1) {
    const [next, friend] = await server.chat("Next", "Friend");
    await next.read();
    await friend.read();
  }
  assertError(await server.create(), "server_full");
  assertError(await ana.poll(), "chat_not_found");
  assertError(await udo.poll(), "chat_not_found");
  await eva.read();
});

test("the chat that has been idle longest makes room, even if it has messages", async (t) => {
  const server = await startServer(t, { maxChats: 2 });
  const [ana] = await server.chat("Ana");
  await ana.say("one message kept a place for six hours");
  server.clock.advance(MINUTE);
  const [eva] = await server.chat("Eva");
  server.clock.advance(10 * MINUTE);
  sessionOf(await server.create());
  assertError(await ana.poll(), "chat_not_found");
  await eva.read();
});

test("a server that is not full keeps idle chats", async (t) => {
  const server = await startServer(t, { maxChats: 2 });
  const [ana] = await server.chat("Ana");
  server.advanceAndSweep(5 * HOUR);
  await server.chat("Eva");
  pollOf(await ana.poll());
});

test("the link of a chat that made room is chat_not_found", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  const [ana] = await server.chat("Ana");
  const { invite_token } = invitationOf(await ana.invite());
  server.clock.advance(11 * MINUTE);
  const eva = new Member(server, sessionOf(await server.create()));
  assertError(await server.join(ana.chatId, { invite_token }), "chat_not_found");
  await eva.read();
});
