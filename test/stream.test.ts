// The stream: one line of JSON a message, for as long as the session lasts.

import assert from "node:assert/strict";
import { type ClientRequest, type IncomingMessage, request } from "node:http";
import type { Socket } from "node:net";
import { createInterface } from "node:readline";
import { test, type TestContext } from "node:test";
import {
  assertError,
  at,
  HOUR,
  listOf,
  LOCAL,
  type Member,
  numberOf,
  pollOf,
  Program,
  record,
  SECOND,
  sessionOf,
  startServer,
  STATUS,
  stringOf,
  testInside,
  until,
  Wire,
} from "./helpers.ts";
import { findLineFault } from "./openapi.ts";

const NDJSON = { Accept: "application/x-ndjson" };

/** A reader of a stream. */
class Stream {
  readonly answer: IncomingMessage;
  readonly outgoing: ClientRequest;
  readonly #lines: AsyncIterator<string>;

  constructor(outgoing: ClientRequest, answer: IncomingMessage) {
    this.outgoing = outgoing;
    this.answer = answer;
    this.#lines = createInterface({ input: answer })[Symbol.asyncIterator]();
  }

  static async open(t: TestContext, port: number, path: string, token: string): Promise<Stream> {
    const headers = { ...NDJSON, Authorization: `Bearer ${token}` };
    const outgoing = request({ host: "127.0.0.1", port, path, headers, agent: false });
    outgoing.on("error", () => {});
    t.after(() => outgoing.destroy());
    outgoing.end();
    const answer = await new Promise<IncomingMessage>((resolve) => outgoing.once("response", resolve));
    return new Stream(outgoing, answer);
  }

  /** The next line as it came; undefined where the stream has ended. */
  async line(): Promise<string | undefined> {
    const { value, done } = await this.#lines.next();
    return done === true ? undefined : value;
  }

  async next(): Promise<Record<string, unknown>> {
    const line = await this.line();
    assert.ok(line !== undefined, "the stream has ended");
    assert.equal(findLineFault(line), undefined, line);
    return record(JSON.parse(line));
  }

  /** The next line, of which it is said who is in the chat. */
  async members(): Promise<{ names: string[]; cursor: number }> {
    const line = await this.next();
    assert.deepEqual(Object.keys(line), ["members", "cursor"]);
    const names = listOf(line, "members").map((each) => stringOf(record(each), "username"));
    return { names, cursor: numberOf(line, "cursor") };
  }

  async text(): Promise<string> {
    return stringOf(await this.next(), "text");
  }

  /** The last line: one of the contract's errors, and nothing behind it. */
  async end(): Promise<string> {
    const last = await this.next();
    assert.deepEqual(Object.keys(last), ["error", "message"]);
    assert.equal(await this.line(), undefined);
    return stringOf(last, "error");
  }
}

function openStream(t: TestContext, member: Member, query = ""): Promise<Stream> {
  return Stream.open(t, member.server.port, `/${member.chatId}${query}`, member.token);
}

test("a stream begins with the members, and says each message in the shape of a poll's, as it comes", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const before = await ana.say("before");
  const stream = await openStream(t, ben);
  assert.equal(stream.answer.statusCode, 200);
  assert.equal(stream.answer.headers["content-type"], "application/x-ndjson");
  assert.equal(stream.answer.headers["cache-control"], "no-store");
  assert.equal(stream.answer.headers["access-control-allow-origin"], "*");
  assert.match(stream.answer.headers.vary ?? "", /Accept, Authorization/);
  assert.deepEqual((await stream.members()).names, ["Ana", "Ben"]);
  assert.deepEqual(await stream.next(), before);
  const after = await ben.say("after");
  assert.deepEqual(await stream.next(), after);
});

test("its members are those of a poll, with who is online and who oneself is", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.party("Ana", "Ben");
  const stream = await openStream(t, ben);
  assert.deepEqual((await stream.next())["members"], (await ben.read()).members);
});

test("it starts behind `since`, with `latest` at what comes next", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const first = await ana.say("one");
  await ana.say("two");
  const behind = await openStream(t, ana, `?since=${first.id}`);
  assert.deepEqual(await behind.members(), { names: ["Ana"], cursor: first.id });
  assert.equal(await behind.text(), "two");
  const latest = await openStream(t, ana, "?since=latest");
  assert.equal((await latest.members()).cursor, first.id + 1);
  await ana.say("three");
  assert.equal(await latest.text(), "three");
});

test("whoever goes on from a line's cursor or from a message's id misses nothing and gets nothing twice", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 5; count += 1) await ana.say(`message ${count}`);
  const { cursor } = await (await openStream(t, ana, "?since=3")).members();
  const again = await openStream(t, ana, `?since=${cursor}`);
  await again.members();
  const second = await again.next();
  assert.equal(stringOf(second, "text"), "message 2");
  const last = await openStream(t, ana, `?since=${numberOf(second, "id")}`);
  await last.members();
  assert.deepEqual([await last.text(), await last.text()], ["message 3", "message 4"]);
});

testInside("`wait` and `browser` play no part", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 5; count += 1) {
    const stream = await openStream(t, ana, "?wait=0&browser=one&visible=1");
    await stream.members();
  }
  await until(async () => (await server.countHeld()) === 5, "five streams to be held");
  server.pass(60 * SECOND);
  assert.equal(await server.countHeld(), 5);
  const odd = await openStream(t, ana, "?wait=nonsense");
  assert.equal(odd.answer.statusCode, 200);
});

test("a refused stream is an ordinary error", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  assertError(await server.send("GET", `/${ana.chatId}`, { headers: NDJSON }), "missing_token");
  assertError(await ana.send("GET", "?since=99", { headers: NDJSON }), "invalid_cursor");
});

test("HEAD has its headers and holds nothing", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const reply = await ana.send("HEAD", "", { headers: NDJSON });
  assert.equal(reply.status, 200);
  assert.equal(reply.headers["content-type"], "application/x-ndjson");
  assert.equal(await server.countHeld(), 0);
});

test("whenever somebody comes or goes the members are told anew", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const stream = await openStream(t, ana);
  await stream.members();
  const invite_token = await ana.inviteToken();
  sessionOf(await server.join(ana.chatId, { invite_token, username: "Cy" }));
  const { cursor } = await ana.read();
  assert.deepEqual(await stream.members(), { names: ["Ana", "Ben", "Cy"], cursor });
  await ben.send("POST", "/leave");
  assert.deepEqual(await stream.members(), { names: ["Ana", "Cy"], cursor: cursor + 1 });
});

test("where messages are gone it says so, once, before those that are kept", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.party("Ana");
  for (let count = 0; count < 33; count += 1) await ana.say(String(count));
  const stream = await openStream(t, ana);
  await stream.members();
  assert.deepEqual(await stream.next(), { missed: true });
  for (let count = 3; count < 33; count += 1) assert.equal(await stream.text(), String(count));
  await ana.say("more");
  assert.equal(await stream.text(), "more");
});

testInside("every 25 seconds of silence there is an empty line", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const stream = await openStream(t, ana);
  await stream.members();
  for (let count = 0; count < 3; count += 1) {
    server.pass(25 * SECOND);
    assert.equal(await stream.line(), "");
  }
  server.pass(24 * SECOND);
  await ana.say("talk");
  assert.equal(await stream.text(), "talk");
  server.pass(24 * SECOND);
  await ana.say("and on");
  assert.equal(await stream.text(), "and on");
});

testInside("its reader is online, and not for a minute longer than it reads", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const stream = await openStream(t, ben);
  await stream.members();
  for (let count = 0; count < 10; count += 1) server.pass(25 * SECOND);
  assert.equal(at((await ana.read()).members, 1).online, true);
  stream.outgoing.destroy();
  await until(async () => (await server.countHeld()) === 0, "the stream to be forgotten");
  server.pass(60 * SECOND);
  assert.equal(at((await ana.read()).members, 1).online, false);
});

for (const [error, end] of [
  ["revoked_token", (ana, ben) => ana.remove(ben.id)],
  ["chat_not_found", (ana) => ana.send("DELETE")],
] as const satisfies [string, (ana: Member, ben: Member) => Promise<unknown>][]) {
  test(`it ends with ${error}`, async (t) => {
    const server = await startServer(t);
    const [ana, ben] = await server.party("Ana", "Ben");
    const stream = await openStream(t, ben);
    await stream.members();
    await end(ana, ben);
    assert.equal(await stream.end(), error);
    assert.ok(error in STATUS);
    assert.equal(await server.countHeld(), 0);
  });
}

testInside("it ends with expired_token when its session does", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const stream = await openStream(t, ana);
  await stream.members();
  server.pass(6 * HOUR);
  assert.equal(await stream.end(), "expired_token");
});

test("it ends with stopping, after what was still said", async (t) => {
  if (process.platform === "win32") return t.skip("Windows has no signals to send");
  const program = await Program.start(t, LOCAL);
  const session = sessionOf(await program.send("POST", "/create"));
  const token = session.session_token;
  const path = `/${session.chat_id}`;
  const stream = await Stream.open(t, program.port, path, token);
  await stream.members();
  const late = await Wire.open(t, program.port);
  const head = `POST ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n`;
  late.write(`${head}Expect: 100-continue\r\nContent-Length: 15\r\n\r\n`);
  await late.waitFor(/^HTTP\/1\.1 100 /);
  program.child.kill("SIGTERM");
  late.write('{"text":"late"}');
  assert.equal(await stream.text(), "late");
  assert.equal(await stream.end(), "stopping");
  assert.equal((await program.ended).code, 0);
  return undefined;
});

test("a second stream on a connection that holds one waits for its turn", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  await ana.say("hello");
  const wire = await Wire.open(t, server.port);
  const head = `GET /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ana.token}\r\n`;
  wire.write(`${head}Accept: application/x-ndjson\r\n\r\n${head}Accept: application/x-ndjson\r\n\r\n`);
  await wire.waitFor(/hello/);
  assert.equal(await server.countHeld(), 1);
  await ana.send("DELETE");
  await wire.waitFor(/chat_not_found[^]*HTTP\/1\.1 404 [^]*chat_not_found/);
});

testInside("a reader that does not keep up is not buffered beyond what is kept, and told what it missed", async (t) => {
  const server = await startServer(t);
  const sockets: Socket[] = [];
  server.app.server.on("connection", (socket: Socket) => sockets.push(socket));
  const [ana] = await server.party("Ana");
  sockets.length = 0;
  const stream = await openStream(t, ana);
  stream.answer.pause();
  stream.answer.socket.pause();
  const creator = server.app.chats.get(ana.chatId)?.creator;
  assert.ok(creator);
  const buffered: number[] = [];
  for (let count = 0; count < 4_000; count += 1) {
    server.app.chats.post(creator, `${count} ${"x".repeat(8_000)}`, undefined);
    if (count % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
    buffered.push(at(sockets, 0).writableLength);
  }
  assert.ok(Math.max(...buffered) < 30 * 8_400 + 65_536, `${Math.max(...buffered)} bytes were buffered`);
  assert.ok(Math.max(...buffered) > 0, "the reader kept up");

  stream.answer.socket.resume();
  stream.answer.resume();
  await stream.members();
  let [last, gaps, missed] = [-1, 0, 0];
  while (last < 3_999) {
    const line = await stream.next();
    if ("missed" in line) missed += 1;
    else {
      const count = Number(stringOf(line, "text").split(" ", 1)[0]);
      assert.ok(count > last, `${count} came after ${last}`);
      if (count > last + 1) gaps += 1;
      last = count;
    }
  }
  assert.ok(gaps > 0, "nothing was left out");
  assert.equal(missed, gaps);
});

test("the streams of a chat that nobody reads any more leave nothing behind", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const streams = await Promise.all(Array.from({ length: 20 }, () => openStream(t, ana)));
  await until(async () => (await server.countHeld()) === 20, "all to be held");
  for (const { outgoing } of streams) outgoing.destroy();
  await until(async () => (await server.countHeld()) === 0, "all to be forgotten");
  await ana.say("nobody there");
  assert.equal(pollOf(await ana.poll()).messages.length, 1);
});

test("the word for it in Accept may stand anywhere and in any case; a browser's and a script's get what they did", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const accepted = ana.send("HEAD", "", { headers: { Accept: "text/plain, Application/X-NDJSON;q=0.9" } });
  assert.equal((await accepted).headers["content-type"], "application/x-ndjson");
  pollOf(await ana.send("GET", "", { headers: { Accept: "*/*" } }));
});
