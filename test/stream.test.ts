// The stream: one line of JSON per message, until the session ends.

import assert from "node:assert/strict";
import { once } from "node:events";
import { type ClientRequest, type IncomingMessage, request } from "node:http";
import type { Socket } from "node:net";
import { createInterface } from "node:readline";
import { test, type TestContext } from "node:test";
import { connect as connectTls } from "node:tls";
import { createApp, type ErrorCode, type MessageView } from "../server.ts";
import { selfSigned } from "./lib/certificate.ts";
import {
  assertError,
  at,
  HOUR,
  listen,
  LOCAL,
  type Member,
  pollOf,
  Program,
  SECOND,
  sessionOf,
  startServer,
  type StreamLine,
  testInProcess,
  readAs,
  until,
  Wire,
} from "./lib/helpers.ts";

const NDJSON = { Accept: "application/x-ndjson" };

/** Reads a stream line by line. */
class Stream {
  readonly response: IncomingMessage;
  readonly outgoing: ClientRequest;
  readonly #lines: AsyncIterator<string>;

  constructor(outgoing: ClientRequest, response: IncomingMessage) {
    this.outgoing = outgoing;
    this.response = response;
    this.#lines = createInterface({ input: response })[Symbol.asyncIterator]();
  }

  static async open(t: TestContext, port: number, path: string, token: string): Promise<Stream> {
    const headers = { ...NDJSON, Authorization: `Bearer ${token}` };
    const outgoing = request({ host: "127.0.0.1", port, path, headers, agent: false });
    outgoing.on("error", () => {});
    t.after(() => outgoing.destroy());
    outgoing.end();
    const response = await new Promise<IncomingMessage>((resolve) => outgoing.once("response", resolve));
    return new Stream(outgoing, response);
  }

  /** The next line unparsed, or undefined at the end of the stream. */
  async line(): Promise<string | undefined> {
    const { value, done } = await this.#lines.next();
    return done === true ? undefined : value;
  }

  async next(): Promise<StreamLine> {
    const line = await this.line();
    assert.ok(line !== undefined, "the stream has ended");
    return readAs("StreamLine", JSON.parse(line));
  }

  /** The next line, which must list the members. */
  async members(): Promise<{ names: string[]; cursor: number }> {
    const line = await this.next();
    assert.ok("members" in line, JSON.stringify(line));
    assert.deepEqual(Object.keys(line), ["members", "cursor"]);
    return { names: line.members.map(({ username }) => username), cursor: line.cursor };
  }

  /** The next line, which must be a message. */
  async message(): Promise<MessageView> {
    const line = await this.next();
    assert.ok("text" in line, JSON.stringify(line));
    return line;
  }

  async text(): Promise<string> {
    return (await this.message()).text;
  }

  /** The next line, which must be an error and the last line. */
  async end(): Promise<ErrorCode> {
    const last = await this.next();
    assert.ok("error" in last, JSON.stringify(last));
    assert.deepEqual(Object.keys(last), ["error", "message"]);
    assert.equal(await this.line(), undefined);
    return last.error;
  }
}

function openStream(t: TestContext, member: Member, query = ""): Promise<Stream> {
  return Stream.open(t, member.server.port, `/${member.chatId}${query}`, member.token);
}

function streamRequest({ chatId, token }: Pick<Member, "chatId" | "token">, version: "1.0" | "1.1"): string {
  const headers = `Host: x\r\nAuthorization: Bearer ${token}\r\nAccept: application/x-ndjson`;
  return `GET /${chatId} HTTP/${version}\r\n${headers}\r\n\r\n`;
}

/** Removes the chunked transfer coding (RFC 9112, section 7.1) from bytes read as Latin-1. Throws if it is malformed. */
function decodeChunks(bytes: string): string {
  let [text, rest] = ["", bytes];
  while (rest !== "0\r\n\r\n") {
    const [line = "", size = ""] = /^([0-9a-f]+)\r\n/.exec(rest) ?? [];
    const end = line.length + parseInt(size, 16);
    assert.equal(rest.slice(end, end + 2), "\r\n", rest.slice(0, 100));
    text += rest.slice(line.length, end);
    rest = rest.slice(end + 2);
  }
  return text;
}

test("a stream starts with the members and then sends each message, shaped as in a poll", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const before = await ana.say("before");
  const stream = await openStream(t, ben);
  assert.equal(stream.response.statusCode, 200);
  assert.equal(stream.response.headers["content-type"], "application/x-ndjson");
  assert.equal(stream.response.headers["cache-control"], "no-store");
  assert.equal(stream.response.headers["access-control-allow-origin"], "*");
  assert.deepEqual((await stream.members()).names, ["Ana", "Ben"]);
  assert.deepEqual(await stream.next(), before);
  const after = await ben.say("after");
  assert.deepEqual(await stream.next(), after);
});

test("a stream's members are those of a poll, including `online` and `you`", async (t) => {
  const server = await startServer(t);
  const [, ben] = await server.chat("Ana", "Ben");
  const stream = await openStream(t, ben);
  const line = await stream.next();
  assert.ok("members" in line);
  assert.deepEqual(line.members, (await ben.read()).members);
});

test("a stream lists the ids of members that the creator removed", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana", "Ben");
  const stream = await openStream(t, ana);
  await stream.members();
  await ana.remove("2");
  for (const reader of [stream, await openStream(t, ana)]) {
    const line = await reader.next();
    assert.deepEqual("removed" in line && line.removed, ["2"]);
  }
});

test("a stream starts after `since`, and with `latest` at the next message", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const first = await ana.say("one");
  await ana.say("two");
  const resumed = await openStream(t, ana, `?since=${first.id}`);
  assert.deepEqual(await resumed.members(), { names: ["Ana"], cursor: first.id });
  assert.equal(await resumed.text(), "two");
  const latest = await openStream(t, ana, "?since=latest");
  assert.equal((await latest.members()).cursor, first.id + 1);
  await ana.say("three");
  assert.equal(await latest.text(), "three");
});

test("a stream resumed from a cursor or a message id misses and repeats no message", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 5; count += 1) await ana.say(`message ${count}`);
  const { cursor } = await (await openStream(t, ana, "?since=3")).members();
  const again = await openStream(t, ana, `?since=${cursor}`);
  await again.members();
  const second = await again.message();
  assert.equal(second.text, "message 2");
  const last = await openStream(t, ana, `?since=${second.id}`);
  await last.members();
  assert.deepEqual([await last.text(), await last.text()], ["message 3", "message 4"]);
});

testInProcess("`wait` and `browser` are ignored for streams", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 5; count += 1) {
    const stream = await openStream(t, ana, "?wait=0&browser=one&visible=1");
    await stream.members();
  }
  await until(async () => (await server.countWaiters()) === 5, "five open streams");
  server.advanceAndSweep(60 * SECOND);
  assert.equal(await server.countWaiters(), 5);
  const invalid = await openStream(t, ana, "?wait=nonsense");
  assert.equal(invalid.response.statusCode, 200);
});

test("a refused stream is an ordinary error", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assertError(await server.send("GET", `/${ana.chatId}`, { headers: NDJSON }), "missing_token");
  assertError(await ana.send("GET", "?since=99", { headers: NDJSON }), "invalid_cursor");
});

test("HEAD returns the headers of a stream and opens none", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const reply = await ana.send("HEAD", "", { headers: NDJSON });
  assert.equal(reply.status, 200);
  assert.equal(reply.headers["content-type"], "application/x-ndjson");
  assert.equal(await server.countWaiters(), 0);
});

test("a stream sends the members again after every join and leave", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const stream = await openStream(t, ana);
  await stream.members();
  const invite_token = await ana.inviteToken();
  sessionOf(await server.join(ana.chatId, { invite_token, username: "Cy" }));
  const { cursor } = await ana.read();
  assert.deepEqual(await stream.members(), { names: ["Ana", "Ben", "Cy"], cursor });
  await ben.send("POST", "/leave");
  assert.deepEqual(await stream.members(), { names: ["Ana", "Cy"], cursor: cursor + 1 });
});

test("a stream reports dropped messages once, before the kept ones", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 33; count += 1) await ana.say(String(count));
  const stream = await openStream(t, ana);
  await stream.members();
  assert.deepEqual(await stream.next(), { missed: true });
  for (let count = 3; count < 33; count += 1) assert.equal(await stream.text(), String(count));
  await ana.say("more");
  assert.equal(await stream.text(), "more");
});

testInProcess("an idle stream sends an empty line every 25 seconds", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const stream = await openStream(t, ana);
  await stream.members();
  for (let count = 0; count < 3; count += 1) {
    server.advanceAndSweep(25 * SECOND);
    assert.equal(await stream.line(), "");
  }
  server.advanceAndSweep(24 * SECOND);
  await ana.say("talk");
  assert.equal(await stream.text(), "talk");
  server.advanceAndSweep(24 * SECOND);
  await ana.say("and on");
  assert.equal(await stream.text(), "and on");
});

testInProcess("the reader of a stream is online until a minute after it disconnects", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const stream = await openStream(t, ben);
  await stream.members();
  for (let count = 0; count < 10; count += 1) server.advanceAndSweep(25 * SECOND);
  assert.equal(at((await ana.read()).members, 1).online, true);
  stream.outgoing.destroy();
  await until(async () => (await server.countWaiters()) === 0, "the stream to be removed");
  server.advanceAndSweep(60 * SECOND);
  assert.equal(at((await ana.read()).members, 1).online, false);
});

for (const [error, end] of [
  ["revoked_token", (ana, ben) => ana.remove(ben.id)],
  ["chat_not_found", (ana) => ana.send("DELETE")],
] as const satisfies [ErrorCode, (ana: Member, ben: Member) => Promise<unknown>][]) {
  test(`a stream ends with ${error}`, async (t) => {
    const server = await startServer(t);
    const [ana, ben] = await server.chat("Ana", "Ben");
    const stream = await openStream(t, ben);
    await stream.members();
    await end(ana, ben);
    assert.equal(await stream.end(), error);
    assert.equal(await server.countWaiters(), 0);
  });
}

testInProcess("a stream ends with expired_token when its session expires", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const stream = await openStream(t, ana);
  await stream.members();
  server.advanceAndSweep(6 * HOUR);
  assert.equal(await stream.end(), "expired_token");
});

test("a stream ends with stopping, after the last messages", async (t) => {
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

test("a second stream pipelined on the same connection waits for the first to end", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  await ana.say("hello");
  const wire = await Wire.open(t, server.port);
  const head = `GET /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ana.token}\r\n`;
  wire.write(`${head}Accept: application/x-ndjson\r\n\r\n${head}Accept: application/x-ndjson\r\n\r\n`);
  await wire.waitFor(/hello/);
  assert.equal(await server.countWaiters(), 1);
  await ana.send("DELETE");
  await wire.waitFor(/chat_not_found[^]*HTTP\/1\.1 404 [^]*chat_not_found/);
});

testInProcess(
  "the server buffers at most the kept messages for a slow reader, and reports the ones it missed",
  async (t) => {
    const server = await startServer(t);
    const sockets: Socket[] = [];
    server.app.server.on("connection", (socket: Socket) => sockets.push(socket));
    const [ana] = await server.chat("Ana");
    sockets.length = 0;
    const stream = await openStream(t, ana);
    stream.response.pause();
    stream.response.socket.pause();
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

    stream.response.socket.resume();
    stream.response.resume();
    await stream.members();
    let [last, gaps, missed] = [-1, 0, 0];
    while (last < 3_999) {
      const line = await stream.next();
      if ("missed" in line) missed += 1;
      else {
        assert.ok("text" in line, JSON.stringify(line));
        const count = Number(line.text.split(" ", 1)[0]);
        assert.ok(count > last, `${count} came after ${last}`);
        if (count > last + 1) gaps += 1;
        last = count;
      }
    }
    assert.ok(gaps > 0, "no message was left out");
    assert.equal(missed, gaps);
  },
);

test("a stream is valid chunked coding, also with text of several bytes per character, and ends as such", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const wire = await Wire.open(t, server.port);
  wire.write(streamRequest(ana, "1.1"));
  await wire.waitFor(/"members"/);
  for (const text of ["é".repeat(40), "日本".repeat(2_000).slice(0, 2_000), "last"]) {
    await ana.say(text);
    await wire.waitFor(new RegExp(Buffer.from(text).toString("latin1")));
  }
  await ana.send("DELETE");
  await wire.waitFor(/chat_not_found[^]*0\r\n\r\n$/);
  const [head = "", ...rest] = wire.received.split("\r\n\r\n");
  assert.match(head, /\r\nTransfer-Encoding: chunked/);
  const lines = Buffer.from(decodeChunks(rest.join("\r\n\r\n")), "latin1")
    .toString()
    .trimEnd()
    .split("\n");
  assert.deepEqual(
    lines.map((line) => Object.keys(readAs("StreamLine", JSON.parse(line)))[0]),
    ["members", "id", "id", "id", "error"],
  );
});

test("a stream over HTTP/1.0 has no chunks and ends with the connection", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const wire = await Wire.open(t, server.port);
  wire.write(streamRequest(ana, "1.0"));
  await wire.waitFor(/"members"/);
  const message = await ana.say("hello");
  await wire.waitFor(/hello/);
  await ana.send("DELETE");
  await until(() => wire.isClosed, "the connection to close");
  const [head = "", body = ""] = wire.received.split("\r\n\r\n");
  assert.doesNotMatch(head, /chunked/i);
  assert.deepEqual(JSON.parse(at(body.split("\n"), 1)), message);
  assert.match(body, /\n\{"error":"chat_not_found"[^\n]*\n$/);
});

testInProcess("a stream that ends while its reader is slow ends with the error, and nothing follows", async (t) => {
  const server = await startServer(t);
  const sockets: Socket[] = [];
  server.app.server.on("connection", (socket: Socket) => sockets.push(socket));
  const [ana, ben] = await server.chat("Ana", "Ben");
  sockets.length = 0;
  const reader = await Wire.open(t, server.port);
  await until(() => sockets.length === 1, "the reader's connection");
  reader.write(streamRequest(ben, "1.1"));
  await reader.waitFor(/"members"/);
  reader.socket.pause();
  const creator = server.app.chats.get(ana.chatId)?.creator;
  assert.ok(creator);
  while (!at(sockets, 0).writableNeedDrain) {
    server.app.chats.post(creator, "x".repeat(8_000), undefined);
    await new Promise((resolve) => setImmediate(resolve));
  }
  // The reader misses this message, and then its seat is gone.
  server.app.chats.post(creator, "too late", undefined);
  await ana.send("DELETE", "/members/2");
  reader.socket.resume();
  await reader.waitFor(/revoked_token[^]*\r\n0\r\n\r\n$/);
  const body = decodeChunks(reader.received.slice(reader.received.indexOf("\r\n\r\n") + 4));
  assert.match(body, /\n\{"error":"revoked_token"[^\n]*\n$/);
  assert.doesNotMatch(body, /too late/);
});

testInProcess("a stream over TLS sends each message at once", async (t) => {
  const app = createApp({ tls: selfSigned() });
  const port = await listen(app);
  t.after(() => app.stop());
  const { token, chat } = app.chats.create("Ana", undefined);
  const socket = connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false });
  const wire = new Wire(socket);
  t.after(() => socket.destroy());
  await once(socket, "secureConnect");
  wire.write(streamRequest({ chatId: chat.id, token }, "1.1"));
  await wire.waitFor(/"members"/);
  for (const text of ["one", "two"]) {
    app.chats.post(at(chat.members, 0), text, undefined);
    await wire.waitFor(new RegExp(`"text":"${text}"`));
  }
});

test("streams whose readers disconnect leave nothing behind", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const streams = await Promise.all(Array.from({ length: 20 }, () => openStream(t, ana)));
  await until(async () => (await server.countWaiters()) === 20, "all streams to be open");
  for (const { outgoing } of streams) outgoing.destroy();
  await until(async () => (await server.countWaiters()) === 0, "all streams to be removed");
  await ana.say("to no reader");
  assert.equal(pollOf(await ana.poll()).messages.length, 1);
});

test("application/x-ndjson is recognised in any case and position in Accept, and */* is a poll", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const accepted = ana.send("HEAD", "", { headers: { Accept: "text/plain, Application/X-NDJSON;q=0.9" } });
  assert.equal((await accepted).headers["content-type"], "application/x-ndjson");
  pollOf(await ana.send("GET", "", { headers: { Accept: "*/*" } }));
});
