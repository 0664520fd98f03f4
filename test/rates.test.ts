// How often: messages a session, creations, joins and refused tokens an address, chats a server.

import assert from "node:assert/strict";
import test from "node:test";
import {
  assertDone,
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
} from "./helpers.ts";

test("a session posts 20 messages at once, then 5 a second", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
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
  await ben.say("I have not said a thing yet");
  server.clock.advance(HOUR);
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
});

test("whoever waits as long as Retry-After says can post", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  const refused = await ana.post("x");
  assertError(refused, "rate_limited");
  assert.equal(refused.headers["retry-after"], "1");
  server.clock.advance(SECOND);
  await ana.say("x");
});

test("a post that is refused before its text is examined does not count", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  messageOf(await ana.post("x", { "Idempotency-Key": "k" }));
  for (let count = 0; count < 30; count += 1) {
    assertError(await ana.send("POST", "", { body: "{" }), "invalid_json");
    assertError(await ana.post("x", { "Idempotency-Key": "x".repeat(65) }), "invalid_key");
    assertError(await ana.post("y", { "Idempotency-Key": "k" }), "invalid_key");
  }
  for (let count = 0; count < 19; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
});

test("a repeat with a known key does not count, nor is it refused when the rate is used up", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  messageOf(await ana.post("x", { "Idempotency-Key": "k" }));
  for (let count = 0; count < 30; count += 1) messageOf(await ana.post("x", { "Idempotency-Key": "k" }), 200);
  for (let count = 0; count < 19; count += 1) await ana.say("x");
  assertError(await ana.post("x"), "rate_limited");
  messageOf(await ana.post("x", { "Idempotency-Key": "k" }), 200);
  assertError(await ana.post("y", { "Idempotency-Key": "k" }), "invalid_key");
});

test("a key that was refused for the rate posts when it comes again", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  assertError(await ana.post("patience", { "Idempotency-Key": "k" }), "rate_limited");
  server.clock.advance(SECOND);
  messageOf(await ana.post("patience", { "Idempotency-Key": "k" }));
});

test("a rate-limited message is seen by nobody", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 20; count += 1) await ana.say("x");
  assertError(await ana.post("too much"), "rate_limited");
  assert.equal((await ana.read()).cursor, 21);
});

test("reading is not limited", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 300; count += 1) await ana.read();
});

test("an address creates 60 chats at once, then one per second", async (t) => {
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

test("requests to create count before all else, whatever is wrong with them", async (t) => {
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

test("an address asks 60 times to join, then once a second, wherever and however", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
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

test("creating and joining count each for itself", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  for (let count = 0; count < 59; count += 1) sessionOf(await server.create());
  assertError(await server.create(), "rate_limited");
  sessionOf(await server.join(ana.chatId, { invite_token }));
});

test("an address is refused 60 tokens, then one a second, and a good token still gets in", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite = await ana.inviteToken();
  const guess = (): Promise<Reply> => server.send("GET", `/${ana.chatId}`, { token: "guess" });
  for (let count = 0; count < 20; count += 1) {
    assertError(await guess(), "invalid_token");
    assertError(await ana.look("guess"), "invalid_token");
    assertError(await server.send("POST", `/${NO_CHAT}/leave`, { token: "guess" }), "invalid_token");
  }
  assertError(await guess(), "rate_limited");
  assertError(await ana.look("guess"), "rate_limited");
  assertError(await server.join(ana.chatId, { invite_token: "guess" }), "rate_limited");
  await ana.read();
  await ana.say("I am still in");
  assert.equal((await ana.look(invite)).status, 200);
  sessionOf(await server.join(ana.chatId, { invite_token: invite }));
  server.clock.advance(SECOND);
  assertError(await guess(), "invalid_token");
  assertError(await guess(), "rate_limited");
});

test("only invalid_token counts as a refused token", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const [eva] = await server.party("Eva");
  await ben.leave();
  for (let count = 0; count < 30; count += 1) {
    assertError(await server.send("GET", `/${ana.chatId}`), "missing_token");
    assertError(await ben.poll(), "revoked_token");
    assertError(await server.send("GET", `/${ana.chatId}`, { token: eva.token }), "wrong_chat");
  }
  assertError(await server.send("GET", `/${ana.chatId}`, { token: "guess" }), "invalid_token");
});

/** Uses up what the client at this address may create, and says whether the one at the other still can. */
async function doShare(server: TestServer, one: string, other: string): Promise<boolean> {
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
  test(`behind a proxy, ${one} and ${other} ${share ? "count together" : "count apart"}`, async (t) => {
    const server = await startServer(t, { trustProxy: true });
    assert.equal(await doShare(server, one, other), share);
  });
}

for (const header of ["nonsense", "", "1.2.3", "1.2.3.4.5", "256.1.1.1", "<b>", "2001:db8:::1", "1.2.3.4, unknown"]) {
  test(`behind a proxy, X-Forwarded-For "${header}" counts as the proxy itself`, async (t) => {
    const server = await startServer(t, { trustProxy: true });
    for (let count = 0; count < 60; count += 1) sessionOf(await server.create());
    assertError(await server.create({}, { "X-Forwarded-For": header }), "rate_limited");
  });
}

test("without --trust-proxy X-Forwarded-For makes nobody somebody else", async (t) => {
  const server = await startServer(t);
  assert.equal(await doShare(server, "203.0.113.7", "203.0.113.8"), true);
});

test("--no-rate-limit turns all of it off", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 70; count += 1) {
    await ana.say("x");
    sessionOf(await server.create());
    assertError(await server.join(ana.chatId), "missing_token");
    assertError(await server.send("GET", `/${ana.chatId}`, { token: "guess" }), "invalid_token");
  }
});

test("used-up rates are forgotten in time, so that strangers leave nothing behind", async (t) => {
  const server = await startServer(t, { trustProxy: true });
  for (let host = 0; host < 250; host += 1) {
    sessionOf(await server.create({}, { "X-Forwarded-For": `203.0.113.${host}` }));
  }
  server.pass(7 * HOUR);
  assert.equal(server.app.chats.count().chats, 0);
  sessionOf(await server.create({}, { "X-Forwarded-For": "203.0.113.1" }));
});

// ---- --max-chats ------------------------------------------------------------------------------------------

test("a full server makes no more chats, and says when to come again", async (t) => {
  const server = await startServer(t, { maxChats: 2 });
  await server.party("Ana");
  await server.party("Eva");
  for (const body of [{}, { username: "" }, { username: 5 }]) {
    const reply = await server.create(body);
    assertError(reply, "server_full");
    assert.equal(reply.headers["retry-after"], "60");
  }
  assert.equal(server.app.chats.count().chats, 2);
});

test("a thousand chats are the default", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  for (let round = 0; round < 10; round += 1) {
    await Promise.all(Array.from({ length: 100 }, async () => sessionOf(await server.create())));
  }
  assertError(await server.create(), "server_full");
});

test("a chat that is ended, or left by its last member, makes room at once", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  const [ana] = await server.party("Ana");
  assertDone(await ana.end());
  const [eva] = await server.party("Eva");
  assertDone(await eva.leave());
  await server.party("Udo");
  assertError(await server.create(), "server_full");
});

test("when the server is full, the lonely chat that was idle longest makes room", async (t) => {
  const server = await startServer(t, { maxChats: 3 });
  const [first] = await server.party("First");
  server.clock.advance(SECOND);
  const [second] = await server.party("Second");
  server.clock.advance(SECOND);
  const [third] = await server.party("Third");
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

test("a chat with two members, with a poll or with a message of the last ten minutes never makes room", async (t) => {
  const server = await startServer(t, { maxChats: 3 });
  const [ana, ben] = await server.party("Ana", "Ben");
  const [eva] = await server.party("Eva");
  const [udo] = await server.party("Udo");
  server.clock.advance(9 * MINUTE + 30 * SECOND);
  await eva.say("hello, future");
  const held = await udo.hold();
  server.clock.advance(9 * MINUTE + 45 * SECOND);
  assertError(await server.create(), "server_full");
  held.abort();
  assertDone(await ben.leave());
  server.clock.advance(10 * SECOND);
  await eva.read();
  server.clock.advance(9 * MINUTE + 50 * SECOND);
  for (let count = 0; count < 2; count += 1) {
    const [next, friend] = await server.party("Next", "Friend");
    await next.read();
    await friend.read();
  }
  assertError(await server.create(), "server_full");
  assertError(await ana.poll(), "chat_not_found");
  assertError(await udo.poll(), "chat_not_found");
  await eva.read();
});

test("of the idle chats the one idle longest makes room, though it has messages", async (t) => {
  const server = await startServer(t, { maxChats: 2 });
  const [ana] = await server.party("Ana");
  await ana.say("one message kept a place for six hours");
  server.clock.advance(MINUTE);
  const [eva] = await server.party("Eva");
  server.clock.advance(10 * MINUTE);
  sessionOf(await server.create());
  assertError(await ana.poll(), "chat_not_found");
  await eva.read();
});

test("a server that is not full drops no idle chat", async (t) => {
  const server = await startServer(t, { maxChats: 2 });
  const [ana] = await server.party("Ana");
  server.pass(5 * HOUR);
  await server.party("Eva");
  pollOf(await ana.poll());
});

test("a chat that made room is gone for its link as well", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  const [ana] = await server.party("Ana");
  const { invite_token } = invitationOf(await ana.invite());
  server.clock.advance(11 * MINUTE);
  const eva = new Member(server, sessionOf(await server.create()));
  assertError(await server.join(ana.chatId, { invite_token }), "chat_not_found");
  await eva.read();
});
