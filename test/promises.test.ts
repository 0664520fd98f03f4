// One test per promise in the header of server.ts, by number. Other files test the corner cases.

import assert from "node:assert/strict";
import test from "node:test";
import {
  assertNoContent,
  assertError,
  at,
  HOUR,
  Member,
  NO_CHAT,
  pollOf,
  Program,
  sessionOf,
  startServer,
  testInProcess,
  until,
  Wire,
} from "./lib/helpers.ts";

const KEY = { "Idempotency-Key": "a-key-of-twenty-two-characters" };

test("promise 1: every member sees an acknowledged post, all in the same order", async (t) => {
  const server = await startServer(t);
  const members: Member[] = await server.chat("A", "B", "C", "D", "E", "F");
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

test("promise 2: a poll reports messages that are no longer kept", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  for (let n = 1; n <= 31; n += 1) await ana.say(String(n));
  const [oldest] = (await ana.read()).messages;
  assert.equal(oldest?.text, "2");
  assert.equal((await ana.read(`?since=${(oldest?.id ?? 0) - 2}`)).missed, true);
  assert.equal((await ana.read(`?since=${(oldest?.id ?? 0) - 1}`)).missed, false);
});

test("promise 3: no message between two polls is lost, and a poll at the cursor returns with the next change", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const { cursor } = await ben.read();
  const between = await ana.say("between two polls");
  assert.deepEqual((await ben.read(`?since=${cursor}&wait=50`)).messages, [between]);
  const held = await ben.openPoll(`?since=${between.id}&wait=50`);
  const next = await ana.say("the next change");
  assert.deepEqual(pollOf(await held.reply).messages, [next]);
});

test("promise 4: a request repeated with its Idempotency-Key takes effect once", async (t) => {
  const server = await startServer(t);
  const made = sessionOf(await server.create({ username: "Ana" }, KEY));
  assert.deepEqual(sessionOf(await server.create({ username: "Ana" }, KEY), 200), made);
  const ana = new Member(server, made);
  const body = { invite_token: await ana.inviteToken(), username: "Ben" };
  const joined = sessionOf(await server.join(ana.chatId, body, KEY));
  assert.deepEqual(sessionOf(await server.join(ana.chatId, body, KEY), 200), joined);
  const replies = [await ana.post("once", KEY), await ana.post("once", KEY)];
  assert.deepEqual(
    replies.map(({ status }) => status),
    [201, 200],
  );
  const { messages, members } = await ana.read();
  assert.deepEqual([messages.length, members.length, await server.countChats()], [1, 2, 1]);
});

test("promise 5: a chat never has more than six members, and no two share a name", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const names = Array.from({ length: 60 }, (_, n) => `Guest ${n % 10}`);
  const replies = await Promise.all(names.map((username) => server.join(ana.chatId, { invite_token, username })));
  assert.equal(replies.filter(({ status }) => status === 201).length, 5);
  const { members } = await ana.read();
  assert.equal(new Set(members.map(({ username }) => username)).size, 6);
});

test("promise 6: without a valid token the server reveals nothing about a chat, not even whether it exists", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
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

testInProcess(
  "promise 7: a token works for one purpose, in one chat, in one spelling, until it expires or its seat is freed",
  async (t) => {
    const server = await startServer(t);
    const [ana, ben] = await server.chat("Ana", "Ben");
    const [eva] = await server.chat("Eva");
    const here = `/${ana.chatId}`;
    assertError(await server.send("GET", here, { token: await ana.inviteToken() }), "invalid_token");
    assertError(await server.send("GET", here, { token: eva.token }), "wrong_chat");
    assertError(await server.send("GET", here, { token: `${ana.token}=` }), "invalid_token");
    assertNoContent(await ben.leave());
    assertError(await ben.poll(), "revoked_token");
    server.clock.advance(6 * HOUR);
    assertError(await ana.poll(), "expired_token");
  },
);

testInProcess("promise 8: an expired chat is freed on time", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  await server.chat("Ana", "Ben");
  server.clock.advance(6 * HOUR - 1);
  assertError(await server.create(), "server_full");
  server.clock.advance(1);
  sessionOf(await server.create());
});

test("promise 9: any input gets an answer from ERRORS and does not affect other clients", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const held = await ana.openPoll();
  const wire = await Wire.open(t, server.port);
  wire.write("\u0000\u0001 nonsense\r\n\r\n");
  assertError(await wire.lastReply(), "bad_request");
  assertError(await server.send("POST", "/create", { body: "{" }), "invalid_json");
  assertError(await server.send("PROPFIND", "/create"), "method_not_allowed");
  const message = await ana.say("still here");
  assert.deepEqual(pollOf(await held.reply).messages, [message]);
});

testInProcess("promise 10: no token, name, key or message reaches a log", async (t) => {
  const lines: unknown[] = [];
  const server = await startServer(t, { log: (line) => lines.push(line), logError: (error) => lines.push(error) });
  const [ana] = await server.chat("Ana-the-first");
  await ana.post("a-secret-message", KEY);
  await ana.poll(`?since=0&token=${ana.token}`);
  // Some programs encode the # of a magic link.
  const inviteToken = await ana.inviteToken();
  await server.send("GET", `/${ana.chatId}%23invite=${inviteToken}`);
  await until(() => lines.length >= 5, "five lines");
  const log = lines.join("\n");
  for (const secret of [ana.token, inviteToken, "Ana-the-first", "a-secret-message", ...Object.values(KEY)]) {
    assert.ok(!log.includes(secret), log);
  }
});

test("promise 11: a reader who disconnects leaves nothing behind", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const held = await ana.openPoll("?since=latest&wait=50&browser=one&visible=1");
  held.abort();
  await assert.rejects(held.reply);
  await until(async () => (await server.countWaiters()) === 0, "the poll to be removed");
});

test("promise 12: on a stop signal, the server answers waiting readers and exits", async (t) => {
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
