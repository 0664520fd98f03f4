// The promises at the head of server.ts, one test for each, by its number. Their corners have tests of their own.

import assert from "node:assert/strict";
import test from "node:test";
import {
  assertDone,
  assertError,
  at,
  HOUR,
  Member,
  NO_CHAT,
  pollOf,
  Program,
  sessionOf,
  startServer,
  testInside,
  until,
  Wire,
} from "./helpers.ts";

const KEY = { "Idempotency-Key": "a-key-of-twenty-two-characters" };

test("promise 1: once a post is answered, every member sees it, all in the same order", async (t) => {
  const server = await startServer(t);
  const members: Member[] = await server.party("A", "B", "C", "D", "E", "F");
  const posted = await Promise.all(
    members.flatMap((member) => [1, 2, 3].map((n) => member.say(`${n} of ${member.id}`))),
  );
  const views = await Promise.all(members.map((member) => member.read()));
  for (const { messages } of views) assert.deepEqual(messages, at(views, 0).messages);
  assert.deepEqual(
    at(views, 0).messages.map(({ id }) => id),
    posted.map(({ id }) => id).toSorted((a, b) => a - b),
  );
});

test("promise 2: what is no longer kept is told", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.party("Ana");
  for (let n = 1; n <= 31; n += 1) await ana.say(String(n));
  const [oldest] = (await ana.read()).messages;
  assert.equal(oldest?.text, "2");
  assert.equal((await ana.read(`?since=${(oldest?.id ?? 0) - 2}`)).missed, true);
  assert.equal((await ana.read(`?since=${(oldest?.id ?? 0) - 1}`)).missed, false);
});

test("promise 3: nothing between two polls is lost, and a poll at the cursor is answered by the next change", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const { cursor } = await ben.read();
  const between = await ana.say("between two polls");
  assert.deepEqual((await ben.read(`?since=${cursor}&wait=50`)).messages, [between]);
  const held = await ben.hold(`?since=${between.id}&wait=50`);
  const next = await ana.say("the next change");
  assert.deepEqual(pollOf(await held.answer).messages, [next]);
});

test("promise 4: a request repeated with its Idempotency-Key does not happen twice", async (t) => {
  const server = await startServer(t);
  const made = sessionOf(await server.create({ username: "Ana" }, KEY));
  assert.deepEqual(sessionOf(await server.create({ username: "Ana" }, KEY), 200), made);
  const ana = new Member(server, made);
  const body = { invite_token: await ana.inviteToken(), username: "Ben" };
  const joined = sessionOf(await server.join(ana.chatId, body, KEY));
  assert.deepEqual(sessionOf(await server.join(ana.chatId, body, KEY), 200), joined);
  const said = [await ana.post("once", KEY), await ana.post("once", KEY)];
  assert.deepEqual(
    said.map(({ status }) => status),
    [201, 200],
  );
  const { messages, members } = await ana.read();
  assert.deepEqual([messages.length, members.length, await server.countChats()], [1, 2, 1]);
});

test("promise 5: six seats are six, and no two members bear the same name", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  const names = Array.from({ length: 60 }, (_, n) => `Guest ${n % 10}`);
  const replies = await Promise.all(names.map((username) => server.join(ana.chatId, { invite_token, username })));
  assert.equal(replies.filter(({ status }) => status === 201).length, 5);
  const { members } = await ana.read();
  assert.equal(new Set(members.map(({ username }) => username)).size, 6);
});

test("promise 6: without a valid token nothing is said of a chat, not even whether there is one", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (const method of ["GET", "POST", "DELETE"]) {
    for (const token of [undefined, "x", `${ana.token}x`]) {
      const options = token === undefined ? {} : { token };
      const there = await server.send(method, `/${ana.chatId}`, options);
      const nowhere = await server.send(method, `/${NO_CHAT}`, options);
      assert.equal(there.text, nowhere.text);
      assert.deepEqual({ ...there.headers, date: "" }, { ...nowhere.headers, date: "" });
      assertError(there, token === undefined ? "missing_token" : "invalid_token");
    }
  }
});

testInside("promise 7: a token works for one purpose, in one chat, in one spelling, until it ends", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const [eva] = await server.party("Eva");
  const here = `/${ana.chatId}`;
  assertError(await server.send("GET", here, { token: await ana.inviteToken() }), "invalid_token");
  assertError(await server.send("GET", here, { token: eva.token }), "wrong_chat");
  assertError(await server.send("GET", here, { token: `${ana.token}=` }), "invalid_token");
  assertDone(await ben.leave());
  assertError(await ben.poll(), "revoked_token");
  server.clock.advance(6 * HOUR);
  assertError(await ana.poll(), "expired_token");
});

testInside("promise 8: what expires frees what it held at its time", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  await server.party("Ana", "Ben");
  server.clock.advance(6 * HOUR - 1);
  assertError(await server.create(), "server_full");
  server.clock.advance(1);
  sessionOf(await server.create());
});

test("promise 9: whatever arrives gets an error of the catalogue, and others notice nothing", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const held = await ana.hold();
  const wire = await Wire.open(t, server.port);
  wire.write("\u0000\u0001 nonsense\r\n\r\n");
  assertError(await wire.lastReply(), "bad_request");
  assertError(await server.send("POST", "/create", { body: "{" }), "invalid_json");
  assertError(await server.send("PROPFIND", "/create"), "method_not_allowed");
  const message = await ana.say("still here");
  assert.deepEqual(pollOf(await held.answer).messages, [message]);
});

testInside("promise 10: no token, name, key or message reaches a log", async (t) => {
  const lines: unknown[] = [];
  const server = await startServer(t, { log: (line) => lines.push(line), logError: (error) => lines.push(error) });
  const [ana] = await server.party("Ana-the-first");
  await ana.post("a-secret-message", KEY);
  await ana.poll(`?since=0&token=${ana.token}`);
  // As a program sends it that encodes the # of a magic link.
  const inviteToken = await ana.inviteToken();
  await server.send("GET", `/${ana.chatId}%23invite=${inviteToken}`);
  await until(() => lines.length >= 5, "five lines");
  const log = lines.join("\n");
  for (const secret of [ana.token, inviteToken, "Ana-the-first", "a-secret-message", ...Object.values(KEY)]) {
    assert.ok(!log.includes(secret), log);
  }
});

test("promise 11: a reader who goes away leaves nothing behind", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const held = await ana.hold("?since=latest&wait=50&browser=one&visible=1");
  held.abort();
  await assert.rejects(held.answer);
  await until(async () => (await server.countHeld()) === 0, "the poll to be forgotten");
});

test("promise 12: told to stop, it answers whoever waits and is gone", async (t) => {
  if (process.platform === "win32") return t.skip("Windows has no signals to send");
  const program = await Program.start(t);
  const session = sessionOf(await program.send("POST", "/create"));
  const held = program.send("GET", `/${session.chat_id}?since=latest&wait=50`, { token: session.session_token });
  // An answer to a later request on another connection shows that the poll has arrived.
  await program.send("GET", "/healthz");
  const ended = program.stop();
  assertError(await held, "stopping");
  assert.equal((await ended).code, 0);
  return undefined;
});
