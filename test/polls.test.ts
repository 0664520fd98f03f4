// Long polls: what wakes and ends them, how many a browser can hold, and that none is left behind.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import test from "node:test";
import {
  assertNoContent,
  assertError,
  at,
  type HeldPoll,
  HOUR,
  type Member,
  MINUTE,
  pollOf,
  SECOND,
  sessionOf,
  startServer,
  testInProcess,
  until,
  Wire,
} from "./lib/helpers.ts";

test("a message wakes a held poll, which returns it", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const held = await ben.openPoll("?since=2&wait=50");
  const message = await ana.say("wake up");
  const reply = pollOf(await held.reply);
  assert.deepEqual(reply.messages, [message]);
  assert.equal(reply.cursor, message.id);
  assert.equal(reply.missed, false);
  assert.equal("retry_in" in reply, false);
  assert.equal(await server.countWaiters(), 0);
});

test("a member's message wakes their own poll too", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const held = await ana.openPoll();
  const message = await ana.say("echo");
  assert.deepEqual(pollOf(await held.reply).messages, [message]);
});

test("a message wakes every poll in its chat and none elsewhere", async (t) => {
  const server = await startServer(t);
  const members: Member[] = await server.chat("A", "B", "C", "D", "E", "F");
  const [eva] = await server.chat("Eva");
  const elsewhere = await eva.openPoll();
  const held: HeldPoll[] = [];
  for (const member of members) held.push(await member.openPoll());
  assert.equal(await server.countWaiters(), 7);
  const message = await at(members, 0).say("all");
  for (const { reply } of held) assert.deepEqual(pollOf(await reply).messages, [message]);
  assert.equal(await server.countWaiters(), 1);
  elsewhere.abort();
});

test("a join wakes a held poll", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const held = await ana.openPoll();
  sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" }));
  const reply = pollOf(await held.reply);
  assert.deepEqual(reply.messages, []);
  assert.equal(reply.cursor, 2);
  assert.equal(at(reply.members, 1).username, "Ben");
});

test("a leave wakes a held poll", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const held = await ana.openPoll();
  await ben.leave();
  const reply = pollOf(await held.reply);
  assert.equal(reply.cursor, 3);
  assert.equal(reply.members.length, 1);
});

test("removing a member wakes the others' polls and ends the member's own with revoked_token", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.chat("Ana", "Ben", "Eva");
  const [evas, bens] = [await eva.openPoll(), await ben.openPoll()];
  assertNoContent(await ana.remove(ben.id));
  assertError(await bens.reply, "revoked_token");
  const reply = pollOf(await evas.reply);
  assert.equal(reply.members.length, 2);
  assert.equal(reply.cursor, 4);
  assert.equal(await server.countWaiters(), 0);
});

test("the held polls of a member who leaves end with revoked_token", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const held = [await ben.openPoll(), await ben.openPoll()];
  assertNoContent(await ben.leave());
  for (const { reply } of held) assertError(await reply, "revoked_token");
  assert.equal(await server.countWaiters(), 0);
  const own = await ana.openPoll();
  assertNoContent(await ana.remove(ana.id));
  const reply = await own.reply;
  // Removing the last member also ends the chat, so chat_not_found would be true as well.
  assertError(reply, "revoked_token");
});

test("ending a chat ends its held polls with chat_not_found", async (t) => {
  const server = await startServer(t);
  const members: Member[] = await server.chat("Ana", "Ben", "Eva");
  const held: HeldPoll[] = [];
  for (const member of members) held.push(await member.openPoll());
  assertNoContent(await at(members, 0).end());
  for (const { reply } of held) assertError(await reply, "chat_not_found");
  assert.equal(await server.countWaiters(), 0);
});

testInProcess("a session that expires ends its own poll with expired_token and wakes the others", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  server.clock.advance(MINUTE);
  const invite_token = await ana.inviteToken();
  const ben = await server.join(ana.chatId, { invite_token, username: "Ben" });
  server.clock.advance(6 * HOUR - MINUTE - 10 * SECOND);
  const anas = await ana.openPoll();
  const bens = await server.openPoll(`/${ana.chatId}?since=latest&wait=50`, { token: sessionOf(ben).session_token });
  server.advanceAndSweep(10 * SECOND - 1);
  assert.equal(await server.countWaiters(), 2);
  server.advanceAndSweep(1);
  assertError(await anas.reply, "expired_token");
  const reply = pollOf(await bens.reply);
  assert.deepEqual(
    reply.members.map((member) => member.username),
    ["Ben"],
  );
  assert.equal(reply.cursor, 3);
  assert.equal(await server.countWaiters(), 0);
});

testInProcess("the poll of a chat's last session ends with expired_token when the session expires", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  server.clock.advance(6 * HOUR - 10 * SECOND);
  const held = await ana.openPoll();
  server.advanceAndSweep(10 * SECOND);
  assertError(await held.reply, "expired_token");
  assert.equal(await server.countChats(), 0);
});

for (const wait of [1, 2, 25, 50]) {
  testInProcess(`a poll that waits ${wait} s without news returns the same cursor`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const held = await ana.openPoll(`?since=1&wait=${wait}`);
    server.advanceAndSweep(wait * SECOND - 1);
    assert.equal(await server.countWaiters(), 1);
    server.advanceAndSweep(1);
    const reply = pollOf(await held.reply);
    assert.deepEqual([reply.messages, reply.cursor, reply.missed], [[], 1, false]);
    assert.equal("retry_in" in reply, false);
    assert.equal(await server.countWaiters(), 0);
  });
}

test("a poll without wait, or with wait=0, returns at once", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const query of ["", "?since=1", "?since=latest", "?since=1&wait=0", "?since=latest&wait=0", "?wait=0&wait=50"]) {
    assert.equal((await ana.read(query)).cursor, 1);
  }
});

test("a poll at an older cursor returns at once, even if only members changed", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  await ben.leave();
  for (const query of ["?wait=50", "?since=0&wait=50", "?since=1&wait=50", "?since=2&wait=50"]) {
    const reply = await ana.read(query);
    assert.deepEqual([reply.messages, reply.cursor, reply.members.length], [[], 3, 1]);
  }
});

test("no message between two polls is lost", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana, ben] = await server.chat("Ana", "Ben");
  const texts = Array.from({ length: 300 }, (_, index) => `message ${index}`);
  const writing = (async () => {
    for (const text of texts) await ana.say(text);
  })();
  const seen: string[] = [];
  let cursor = (await ben.read("?since=latest")).cursor;
  // Messages may have arrived before that poll, so read from the beginning.
  let reply = await ben.read("?since=2");
  while (seen.length < texts.length) {
    assert.equal(reply.missed, false);
    seen.push(...reply.messages.map((message) => message.text));
    assert.ok(reply.cursor >= cursor);
    cursor = reply.cursor;
    if (seen.length < texts.length) reply = await ben.read(`?since=${cursor}&wait=50`);
  }
  await writing;
  assert.deepEqual(seen, texts);
});

test("a poll whose client disconnects is removed at once", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const held = [await ana.openPoll(), await ana.openPoll(), await ben.openPoll()];
  assert.equal(await server.countWaiters(), 3);
  for (const poll of held) poll.abort();
  await until(async () => (await server.countWaiters()) === 0, "the polls to be removed");
  await ana.say("to no reader");
});

test("HEAD is never held", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const reply = await ana.send("HEAD", "?since=1&wait=50");
  assert.equal(reply.status, 200);
  assert.equal(reply.bytes.length, 0);
});

test("an invalid query is refused at once, even with wait", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assertError(await ana.poll("?since=7&wait=50"), "invalid_cursor");
  assert.equal(await server.countWaiters(), 0);
});

testInProcess("a held poll keeps its member online", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  server.clock.advance(5 * MINUTE);
  const held = await ben.openPoll();
  server.clock.advance(49 * SECOND);
  assert.equal(at((await ana.read()).members, 1).online, true);
  held.abort();
});

testInProcess("a server that stops answers held polls with stopping", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const held = [await ana.openPoll(), await ben.openPoll()];
  const stopped = server.app.stop();
  for (const { reply } of held) assertError(await reply, "stopping");
  server.agent.destroy();
  await stopped;
  assert.equal(await server.countWaiters(), 0);
});

// ---- The polls of one browser ------------------------------------------------------------------------

const BROWSER = "?since=latest&wait=50&browser=b1";

test("a browser can hold four polls, and a fifth returns at once with retry_in 2", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 4; count += 1) await ana.openPoll(BROWSER);
  const reply = await ana.read(BROWSER);
  assert.equal(reply.retry_in, 2);
  assert.deepEqual([reply.messages, reply.cursor], [[], 1]);
  assert.equal(await server.countWaiters(), 4);
});

test("a browser's polls in all chats count together", async (t) => {
  const server = await startServer(t);
  const held: HeldPoll[] = [];
  for (const name of ["A", "B", "C", "D"]) {
    const [member] = await server.chat(name);
    held.push(await member.openPoll(BROWSER));
  }
  const [eva] = await server.chat("Eva");
  assert.equal((await eva.read(BROWSER)).retry_in, 2);
  at(held, 0).abort();
  await until(async () => (await server.countWaiters()) === 3, "a place to be freed");
  await eva.openPoll(BROWSER);
});

test("each browser has its own count", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const browser of ["b1", "b2", "B1", "b1-", "x".repeat(64)]) {
    for (let count = 0; count < 4; count += 1) await ana.openPoll(`?since=latest&wait=50&browser=${browser}`);
  }
  assert.equal(await server.countWaiters(), 20);
});

test("polls without a valid browser id are not limited to four", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const query of [
    "",
    "&visible=1",
    "&browser=",
    "&browser=a%20b",
    "&browser=%C3%A9",
    `&browser=${"x".repeat(65)}`,
  ]) {
    for (let count = 0; count < 5; count += 1) await ana.openPoll(`?since=latest&wait=50${query}`);
  }
  assert.equal(await server.countWaiters(), 30);
});

testInProcess("an answered poll frees its place at once", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let round = 0; round < 3; round += 1) {
    const held: HeldPoll[] = [];
    for (let count = 0; count < 4; count += 1) held.push(await ana.openPoll(BROWSER));
    await ana.say("next round");
    for (const { reply } of held) assert.equal("retry_in" in pollOf(await reply), false);
  }
  const timed = await ana.openPoll(`${BROWSER}&wait=50`);
  server.advanceAndSweep(50 * SECOND);
  assert.equal("retry_in" in pollOf(await timed.reply), false);
});

test("a visible poll replaces the oldest poll that is not visible", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const visible = await ana.openPoll(`${BROWSER}&visible=1`);
  const oldest = await ana.openPoll(BROWSER);
  const middle = await ana.openPoll(`${BROWSER}&visible=0`);
  await ana.openPoll(`${BROWSER}&visible=true`);
  const first = ana.poll(`${BROWSER}&visible=1`);
  const replaced = pollOf(await oldest.reply);
  assert.equal(replaced.retry_in, 2);
  assert.deepEqual([replaced.messages, replaced.cursor, replaced.missed], [[], 1, false]);
  assert.equal(await server.countWaiters(), 4);
  const second = ana.poll(`${BROWSER}&visible=1`);
  assert.equal(pollOf(await middle.reply).retry_in, 2);
  const message = await ana.say("for the remaining polls");
  for (const waiting of [visible.reply, first, second]) {
    const reply = pollOf(await waiting);
    assert.deepEqual(reply.messages, [message]);
    assert.equal("retry_in" in reply, false);
  }
});

test("a visible poll is never replaced: a fifth visible one returns at once", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 4; count += 1) await ana.openPoll(`${BROWSER}&visible=1`);
  assert.equal((await ana.read(`${BROWSER}&visible=1`)).retry_in, 2);
  assert.equal((await ana.read(BROWSER)).retry_in, 2);
  assert.equal(await server.countWaiters(), 4);
});

test("a visible poll replaces no other while a place is free", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 3; count += 1) await ana.openPoll(BROWSER);
  await ana.openPoll(`${BROWSER}&visible=1`);
  assert.equal(await server.countWaiters(), 4);
});

test("a poll that returns at once has no retry_in, even if four are held", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 4; count += 1) await ana.openPoll(BROWSER);
  for (const query of ["?browser=b1", "?since=0&wait=50&browser=b1", "?since=latest&wait=0&browser=b1&visible=1"]) {
    assert.equal("retry_in" in (await ana.read(query)), false, query);
  }
  assert.equal(await server.countWaiters(), 4);
});

test("of several polls pipelined on one connection, one is held and the others follow in turn", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const wire = await Wire.open(t, server.port);
  const poll = `GET /${ana.chatId}?since=1&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\n\r\n`;
  wire.write(poll.repeat(10));
  await until(async () => (await server.countWaiters()) > 0, "the first poll to be held");
  assert.equal((await server.send("GET", "/healthz")).status, 200);
  assert.equal(await server.countWaiters(), 1);
  await ana.say("news");
  await wire.waitFor(/^(?:HTTP[^]*?expires_at[^]*?){10}$/);
  assert.equal(await server.countWaiters(), 0);
});

test("pipelined requests run in turn, and too many of them close the connection", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const wire = await Wire.open(t, server.port);
  const head = `Host: x\r\nAuthorization: ${ana.token}\r\n`;
  const poll = `GET /${ana.chatId}?since=1&wait=50 HTTP/1.1\r\n${head}\r\n`;
  wire.write(`${poll}POST /${ana.chatId} HTTP/1.1\r\n${head}Content-Length: 17\r\n\r\n{"text":"second"}`);
  await until(async () => (await server.countWaiters()) > 0, "the first poll to be held");
  assert.deepEqual((await ana.read()).messages, []);
  await ana.say("news");
  await wire.waitFor(/"news"[^]*HTTP\/1\.1 201 /);

  const many = await Wire.open(t, server.port);
  many.write(poll.replace("since=1", "since=latest").repeat(102));
  await until(() => many.isClosed, "the connection to close");
  await until(async () => (await server.countWaiters()) === 0, "the poll to be removed");
});

testInProcess("answers that a client does not read do not pile up in memory", async (t) => {
  let times = 0;
  const server = await startServer(t, { now: () => (times += 1), rateLimit: false });
  const [ana] = await server.chat("Ana");
  for (let n = 0; n < 30; n += 1) await ana.say("😀".repeat(2_000));
  const socket = connect({ port: server.port, host: "127.0.0.1" });
  t.after(() => socket.destroy());
  await once(socket, "connect");
  socket.pause();
  const before = times;
  const poll = `GET /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\n\r\n`;
  // 17 MB of answers, more than the socket buffers hold.
  socket.write(poll.repeat(70));
  for (let same = 0, last = -1; same < 50; same = times === last ? same + 1 : 0) {
    last = times;
    await server.send("OPTIONS", "/");
    times -= 1;
  }
  assert.ok(times - before < 65, `${times - before} answers were made before the first was read`);
  let received = 0;
  socket.on("data", (part: Buffer) => (received += part.toString("latin1").split("HTTP/1.1 200").length - 1));
  socket.resume();
  await until(() => received === 70, "all answers");
});
