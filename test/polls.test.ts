// Held polls: what wakes them, what ends them, how many one browser may hold, and that none is left behind.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import test from "node:test";
import {
  assertDone,
  assertError,
  at,
  type Held,
  HOUR,
  type Member,
  MINUTE,
  pollOf,
  SECOND,
  sessionOf,
  startServer,
  testInside,
  until,
  Wire,
} from "./helpers.ts";

test("a held poll is woken by a message, and carries it", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const held = await ben.hold("?since=2&wait=50");
  const message = await ana.say("wake up");
  const reply = pollOf(await held.answer);
  assert.deepEqual(reply.messages, [message]);
  assert.equal(reply.cursor, message.id);
  assert.equal(reply.missed, false);
  assert.equal("retry_in" in reply, false);
  assert.equal(await server.countHeld(), 0);
});

test("one's own message wakes one's own poll", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const held = await ana.hold();
  const message = await ana.say("echo");
  assert.deepEqual(pollOf(await held.answer).messages, [message]);
});

test("a message wakes everybody who waits in its chat, and nobody elsewhere", async (t) => {
  const server = await startServer(t);
  const members: Member[] = await server.party("A", "B", "C", "D", "E", "F");
  const [eva] = await server.party("Eva");
  const elsewhere = await eva.hold();
  const held: Held[] = [];
  for (const member of members) held.push(await member.hold());
  assert.equal(await server.countHeld(), 7);
  const message = await at(members, 0).say("all");
  for (const { answer } of held) assert.deepEqual(pollOf(await answer).messages, [message]);
  assert.equal(await server.countHeld(), 1);
  elsewhere.abort();
});

test("a held poll is woken when somebody joins", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  const held = await ana.hold();
  sessionOf(await server.join(ana.chatId, { invite_token, username: "Ben" }));
  const reply = pollOf(await held.answer);
  assert.deepEqual(reply.messages, []);
  assert.equal(reply.cursor, 2);
  assert.equal(at(reply.members, 1).username, "Ben");
});

test("a held poll is woken when somebody leaves", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const held = await ana.hold();
  await ben.leave();
  const reply = pollOf(await held.answer);
  assert.equal(reply.cursor, 3);
  assert.equal(reply.members.length, 1);
});

test("when somebody is removed, the others wake and the removed one's poll is revoked_token", async (t) => {
  const server = await startServer(t);
  const [ana, ben, eva] = await server.party("Ana", "Ben", "Eva");
  const [evas, bens] = [await eva.hold(), await ben.hold()];
  assertDone(await ana.remove(ben.id));
  assertError(await bens.answer, "revoked_token");
  const reply = pollOf(await evas.answer);
  assert.equal(reply.members.length, 2);
  assert.equal(reply.cursor, 4);
  assert.equal(await server.countHeld(), 0);
});

test("who leaves while polling is answered revoked_token", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const held = [await ben.hold(), await ben.hold()];
  assertDone(await ben.leave());
  for (const { answer } of held) assertError(await answer, "revoked_token");
  assert.equal(await server.countHeld(), 0);
  const own = await ana.hold();
  assertDone(await ana.remove(ana.id));
  const reply = await own.answer;
  // With its last member the chat is gone as well; both are true of this poll.
  assertError(reply, "revoked_token");
});

test("when the chat ends, every held poll is chat_not_found", async (t) => {
  const server = await startServer(t);
  const members: Member[] = await server.party("Ana", "Ben", "Eva");
  const held: Held[] = [];
  for (const member of members) held.push(await member.hold());
  assertDone(await at(members, 0).end());
  for (const { answer } of held) assertError(await answer, "chat_not_found");
  assert.equal(await server.countHeld(), 0);
});

testInside("when a session expires, its own poll is expired_token and the others wake", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  server.clock.advance(MINUTE);
  const invite_token = await ana.inviteToken();
  const ben = await server.join(ana.chatId, { invite_token, username: "Ben" });
  server.clock.advance(6 * HOUR - MINUTE - 10 * SECOND);
  const anas = await ana.hold();
  const bens = await server.hold(`/${ana.chatId}?since=latest&wait=50`, { token: sessionOf(ben).session_token });
  server.pass(10 * SECOND - 1);
  assert.equal(await server.countHeld(), 2);
  server.pass(1);
  assertError(await anas.answer, "expired_token");
  const reply = pollOf(await bens.answer);
  assert.deepEqual(
    reply.members.map((member) => member.username),
    ["Ben"],
  );
  assert.equal(reply.cursor, 3);
  assert.equal(await server.countHeld(), 0);
});

testInside("the last session's poll is expired_token when the chat is dropped with it", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  server.clock.advance(6 * HOUR - 10 * SECOND);
  const held = await ana.hold();
  server.pass(10 * SECOND);
  assertError(await held.answer, "expired_token");
  assert.equal(await server.countChats(), 0);
});

for (const wait of [1, 2, 25, 50]) {
  testInside(`a poll that waits ${wait} s in vain is an ordinary answer with the same cursor`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.party("Ana");
    const held = await ana.hold(`?since=1&wait=${wait}`);
    server.pass(wait * SECOND - 1);
    assert.equal(await server.countHeld(), 1);
    server.pass(1);
    const reply = pollOf(await held.answer);
    assert.deepEqual([reply.messages, reply.cursor, reply.missed], [[], 1, false]);
    assert.equal("retry_in" in reply, false);
    assert.equal(await server.countHeld(), 0);
  });
}

test("without wait, or with wait=0, a poll is answered at once", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (const query of ["", "?since=1", "?since=latest", "?since=1&wait=0", "?since=latest&wait=0", "?wait=0&wait=50"]) {
    assert.equal((await ana.read(query)).cursor, 1);
  }
});

test("an older cursor is answered at once, be it only that somebody came and went", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  await ben.leave();
  for (const query of ["?wait=50", "?since=0&wait=50", "?since=1&wait=50", "?since=2&wait=50"]) {
    const reply = await ana.read(query);
    assert.deepEqual([reply.messages, reply.cursor, reply.members.length], [[], 3, 1]);
  }
});

test("nothing that arrives between two polls is lost", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana, ben] = await server.party("Ana", "Ben");
  const texts = Array.from({ length: 300 }, (_, index) => `message ${index}`);
  const writing = (async () => {
    for (const text of texts) await ana.say(text);
  })();
  const seen: string[] = [];
  let cursor = (await ben.read("?since=latest")).cursor;
  // What came before that first look belongs to it, so it is read once more from the beginning.
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

test("a poll whose client has gone is forgotten at once", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const held = [await ana.hold(), await ana.hold(), await ben.hold()];
  assert.equal(await server.countHeld(), 3);
  for (const poll of held) poll.abort();
  await until(async () => (await server.countHeld()) === 0, "the gone readers to be forgotten");
  await ana.say("to nobody");
});

test("HEAD is never held", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const reply = await ana.send("HEAD", "?since=1&wait=50");
  assert.equal(reply.status, 200);
  assert.equal(reply.bytes.length, 0);
});

test("a refused query is answered at once, whatever the wait", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  assertError(await ana.poll("?since=7&wait=50"), "invalid_cursor");
  assert.equal(await server.countHeld(), 0);
});

testInside("a held poll keeps its member online", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  server.clock.advance(5 * MINUTE);
  const held = await ben.hold();
  server.clock.advance(49 * SECOND);
  assert.equal(at((await ana.read()).members, 1).online, true);
  held.abort();
});

testInside("a server that stops answers held polls with stopping", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const held = [await ana.hold(), await ben.hold()];
  const stopped = server.app.stop();
  for (const { answer } of held) assertError(await answer, "stopping");
  server.agent.destroy();
  await stopped;
  assert.equal(await server.countHeld(), 0);
});

// ---- The polls of one browser ------------------------------------------------------------------------

const BROWSER = "?since=latest&wait=50&browser=b1";

test("of one browser four polls are held, and a further one is told to come again in 2 s", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 4; count += 1) await ana.hold(BROWSER);
  const reply = await ana.read(BROWSER);
  assert.equal(reply.retry_in, 2);
  assert.deepEqual([reply.messages, reply.cursor], [[], 1]);
  assert.equal(await server.countHeld(), 4);
});

test("a browser's polls count together, over all its chats", async (t) => {
  const server = await startServer(t);
  const held: Held[] = [];
  for (const name of ["A", "B", "C", "D"]) {
    const [member] = await server.party(name);
    held.push(await member.hold(BROWSER));
  }
  const [eva] = await server.party("Eva");
  assert.equal((await eva.read(BROWSER)).retry_in, 2);
  at(held, 0).abort();
  await until(async () => (await server.countHeld()) === 3, "a place to come free");
  await eva.hold(BROWSER);
});

test("browsers do not count for each other", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (const browser of ["b1", "b2", "B1", "b1-", "x".repeat(64)]) {
    for (let count = 0; count < 4; count += 1) await ana.hold(`?since=latest&wait=50&browser=${browser}`);
  }
  assert.equal(await server.countHeld(), 20);
});

test("scripts without a browser, or with another shape of it, are held though more than four", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (const query of [
    "",
    "&visible=1",
    "&browser=",
    "&browser=a%20b",
    "&browser=%C3%A9",
    `&browser=${"x".repeat(65)}`,
  ]) {
    for (let count = 0; count < 5; count += 1) await ana.hold(`?since=latest&wait=50${query}`);
  }
  assert.equal(await server.countHeld(), 30);
});

testInside("a place is free again as soon as a poll is answered", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let round = 0; round < 3; round += 1) {
    const held: Held[] = [];
    for (let count = 0; count < 4; count += 1) held.push(await ana.hold(BROWSER));
    await ana.say("next round");
    for (const { answer } of held) assert.equal("retry_in" in pollOf(await answer), false);
  }
  const timed = await ana.hold(`${BROWSER}&wait=50`);
  server.pass(50 * SECOND);
  assert.equal("retry_in" in pollOf(await timed.answer), false);
});

test("a visible poll takes the place of the oldest that is not visible", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const visible = await ana.hold(`${BROWSER}&visible=1`);
  const oldest = await ana.hold(BROWSER);
  const middle = await ana.hold(`${BROWSER}&visible=0`);
  await ana.hold(`${BROWSER}&visible=true`);
  const taker = ana.poll(`${BROWSER}&visible=1`);
  const gone = pollOf(await oldest.answer);
  assert.equal(gone.retry_in, 2);
  assert.deepEqual([gone.messages, gone.cursor, gone.missed], [[], 1, false]);
  assert.equal(await server.countHeld(), 4);
  const second = ana.poll(`${BROWSER}&visible=1`);
  assert.equal(pollOf(await middle.answer).retry_in, 2);
  const message = await ana.say("for all who are left");
  for (const answer of [visible.answer, taker, second]) {
    const reply = pollOf(await answer);
    assert.deepEqual(reply.messages, [message]);
    assert.equal("retry_in" in reply, false);
  }
});

test("a visible poll never gives way: a fifth visible one is answered at once", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 4; count += 1) await ana.hold(`${BROWSER}&visible=1`);
  assert.equal((await ana.read(`${BROWSER}&visible=1`)).retry_in, 2);
  assert.equal((await ana.read(BROWSER)).retry_in, 2);
  assert.equal(await server.countHeld(), 4);
});

test("a visible poll displaces only where all four places are taken", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 3; count += 1) await ana.hold(BROWSER);
  await ana.hold(`${BROWSER}&visible=1`);
  assert.equal(await server.countHeld(), 4);
});

test("a poll that need not be held carries no retry_in, though four are held", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 4; count += 1) await ana.hold(BROWSER);
  for (const query of ["?browser=b1", "?since=0&wait=50&browser=b1", "?since=latest&wait=0&browser=b1&visible=1"]) {
    assert.equal("retry_in" in (await ana.read(query)), false, query);
  }
  assert.equal(await server.countHeld(), 4);
});

test("of polls pipelined on one connection one is held, and those behind it are answered after it", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const wire = await Wire.open(t, server.port);
  const poll = `GET /${ana.chatId}?since=1&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\n\r\n`;
  wire.write(poll.repeat(10));
  await until(async () => (await server.countHeld()) > 0, "the first to be held");
  assert.equal((await server.send("GET", "/healthz")).status, 200);
  assert.equal(await server.countHeld(), 1);
  await ana.say("news");
  await wire.waitFor(/^(?:HTTP[^]*?expires_at[^]*?){10}$/);
  assert.equal(await server.countHeld(), 0);
});

test("a request pipelined behind another is done in its turn, and the connection of who sends too many ends", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const wire = await Wire.open(t, server.port);
  const head = `Host: x\r\nAuthorization: ${ana.token}\r\n`;
  const poll = `GET /${ana.chatId}?since=1&wait=50 HTTP/1.1\r\n${head}\r\n`;
  wire.write(`${poll}POST /${ana.chatId} HTTP/1.1\r\n${head}Content-Length: 17\r\n\r\n{"text":"behind"}`);
  await until(async () => (await server.countHeld()) > 0, "the first to be held");
  assert.deepEqual((await ana.read()).messages, []);
  await ana.say("news");
  await wire.waitFor(/"news"[^]*HTTP\/1\.1 201 /);

  const many = await Wire.open(t, server.port);
  many.write(poll.replace("since=1", "since=latest").repeat(102));
  await until(() => many.isClosed, "its end");
  await until(async () => (await server.countHeld()) === 0, "the poll to be forgotten");
});

testInside("answers that nobody reads do not pile up in memory", async (t) => {
  let times = 0;
  const server = await startServer(t, { now: () => (times += 1), rateLimit: false });
  const [ana] = await server.party("Ana");
  for (let n = 0; n < 30; n += 1) await ana.say("😀".repeat(2_000));
  const socket = connect({ port: server.port, host: "127.0.0.1" });
  t.after(() => socket.destroy());
  await once(socket, "connect");
  socket.pause();
  const before = times;
  const poll = `GET /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\n\r\n`;
  // Seventeen megabytes of answers: more than the buffers between the two take.
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
