// Bounds on what one connection, one seat or one address can use, in bytes and time as well as in counts.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { test, type TestContext } from "node:test";
import { connect as connectTls } from "node:tls";
import { createApp, LIMITS } from "../server.ts";
import { selfSigned } from "./lib/certificate.ts";
import {
  assertNoContent,
  assertError,
  at,
  exchange,
  invitationOf,
  LOCAL,
  listen,
  Member,
  messageOf,
  pollOf,
  Program,
  record,
  SECOND,
  sessionOf,
  startServer,
  testInProcess,
  until,
  Wire,
} from "./lib/helpers.ts";

/** A request with this many short headers. */
function withHeaders(first: string, count: number): string {
  return `${first} HTTP/1.1\r\nHost: x\r\n${"a: b\r\n".repeat(count - 1)}\r\n`;
}

test("a request with 100 headers is served, and one with more is headers_too_large", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.write(withHeaders("GET /healthz", 100));
  await wire.waitFor(/"ok"/);
  for (const count of [101, 102, 990]) {
    assertError(await exchange(t, server.port, withHeaders("GET /healthz", count)), "headers_too_large");
  }
});

testInProcess(
  "requests queued behind a held poll or a stream count by size, and too many bytes end the connection",
  async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    for (const accept of ["application/json", "application/x-ndjson"]) {
      const head = `Host: x\r\nAuthorization: ${ana.token}\r\nAccept: ${accept}\r\n`;
      const first = `GET /${ana.chatId}?since=latest&wait=50 HTTP/1.1\r\n${head}\r\n`;
      const large = `GET /healthz HTTP/1.1\r\nHost: x\r\n${`a: ${"b".repeat(90)}\r\n`.repeat(90)}\r\n`;
      const few = await Wire.open(t, server.port);
      few.write(first + large.repeat(5));
      await until(() => server.app.chats.count().waiters === 1, "the first poll to be held");
      await ana.read();
      assert.equal(few.isClosed, false);
      few.write(large.repeat(5));
      await until(() => few.isClosed, "the connection with ten large requests to close");
      await until(() => server.app.chats.count().waiters === 0, "the poll to be removed");

      const many = await Wire.open(t, server.port);
      many.write(first + "GET / HTTP/1.1\r\nHost:x\r\n\r\n".repeat(100));
      await until(() => many.isClosed, "the connection with a hundred small requests to close");
    }
  },
);

/** A chat with 240 kB of messages, and a socket that requests them 65 times and reads no answer. */
async function requestWithoutReading(
  t: TestContext,
  accept: string,
): Promise<[Awaited<ReturnType<typeof startServer>>, Wire]> {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  for (let count = 0; count < 30; count += 1) await ana.say("😀".repeat(2_000));
  const wire = await Wire.open(t, server.port);
  wire.socket.pause();
  wire.write(
    `GET /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\nAccept: ${accept}\r\n\r\n`.repeat(65),
  );
  return [server, wire];
}

testInProcess(
  "a connection that reads none of its answers is closed after 75 s, and a slow reader stays connected",
  async (t) => {
    const [server, wire] = await requestWithoutReading(t, "application/json");
    const countConnections = (): Promise<number> =>
      new Promise((resolve, reject) => {
        server.app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
      });
    // Wait until the server has filled the buffers of both kernels and is blocked.
    let times = 0;
    for (let last = -1; times < 20; times = last === wire.socket.bytesRead ? times + 1 : 0) {
      last = wire.socket.bytesRead;
      await server.send("GET", "/healthz");
    }
    server.agent.destroy();
    await until(async () => (await countConnections()) === 1, "the other connections to close");
    server.advanceAndSweep(0);
    server.advanceAndSweep(74 * SECOND);
    assert.equal(await countConnections(), 1);
    for (let round = 0; round < 2; round += 1) {
      // Reading any part of the answers is enough for another 75 s.
      const before = wire.received.length;
      wire.socket.resume();
      await until(() => wire.received.length > before + 1_000_000, "some bytes to be read");
      wire.socket.pause();
      await server.send("GET", "/healthz");
      server.agent.destroy();
      server.advanceAndSweep(74 * SECOND);
      assert.equal(wire.isClosed, false);
    }
    await until(async () => (await countConnections()) === 1, "the other connections to close again");
    server.advanceAndSweep(0);
    server.advanceAndSweep(75 * SECOND);
    await until(async () => (await countConnections()) === 0, "the connection to close");
  },
);

testInProcess("a held poll and an idle stream outlive the time limit for reading answers", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const stream = await Wire.open(t, server.port);
  stream.write(
    `GET /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\nAccept: application/x-ndjson\r\n\r\n`,
  );
  await stream.waitFor(/members/);
  const held = await ana.openPoll();
  for (let passed = 0; passed < 49; passed += 1) server.advanceAndSweep(SECOND);
  assert.equal(server.app.chats.count().waiters, 2);
  server.advanceAndSweep(SECOND);
  pollOf(await held.reply);
  for (let passed = 0; passed < 30; passed += 1) {
    const before = stream.received.length;
    server.advanceAndSweep(25 * SECOND);
    await until(() => stream.received.length > before, "the empty line of an idle stream");
  }
  const message = await ana.say("still there?");
  await stream.waitFor(new RegExp(`"id":${message.id},`));
});

test("an address can have a tenth of all chats, and always at least ten", async (t) => {
  for (const [maxChats, share] of [
    [200, 20],
    [30, 10],
  ] as const) {
    const server = await startServer(t, { maxChats });
    const made = [];
    for (let count = 0; count < share; count += 1) made.push(sessionOf(await server.create()));
    const refused = await server.create();
    assertError(refused, "rate_limited");
    assert.equal(refused.headers["retry-after"], "60");
    const { chat_id: id, session_token: token } = at(made, 0);
    assertNoContent(await server.send("DELETE", `/${id}`, { token }));
    sessionOf(await server.create());
    assertError(await server.create(), "rate_limited");
  }
});

test("each address has its own share, and --no-rate-limit lifts the limit", async (t) => {
  const server = await startServer(t, { maxChats: 30, trustProxy: true });
  const from = (address: string) => server.create({}, { "X-Forwarded-For": address });
  for (let count = 0; count < 10; count += 1) sessionOf(await from("203.0.113.1"));
  assertError(await from("203.0.113.1"), "rate_limited");
  for (let count = 0; count < 10; count += 1) sessionOf(await from("2001:db8::1"));
  assertError(await from("2001:db8::2"), "rate_limited");
  sessionOf(await from("203.0.113.2"));
  const free = await startServer(t, { maxChats: 30, rateLimit: false });
  for (let count = 0; count < 30; count += 1) sessionOf(await free.create());
  assertError(await free.create(), "server_full");
});

testInProcess("an expired chat no longer counts against its address", async (t) => {
  const server = await startServer(t, { maxChats: 30 });
  for (let count = 0; count < 10; count += 1) sessionOf(await server.create());
  assertError(await server.create(), "rate_limited");
  server.clock.advance(LIMITS.sessionMs);
  for (let count = 0; count < 10; count += 1) sessionOf(await server.create());
  assertError(await server.create(), "rate_limited");
});

test("a seat can have 32 polls and streams open, and the next one is rate_limited", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const held = [];
  for (let count = 0; count < 31; count += 1) held.push(await ana.openPoll());
  const stream = await Wire.open(t, server.port);
  const head = `Host: x\r\nAuthorization: ${ana.token}\r\nAccept: application/x-ndjson\r\n`;
  stream.write(`GET /${ana.chatId} HTTP/1.1\r\n${head}\r\n`);
  await stream.waitFor(/members/);
  for (const headers of [{}, { Accept: "application/x-ndjson" }]) {
    const refused = await ana.send("GET", "?since=latest&wait=50", { headers });
    assertError(refused, "rate_limited");
    assert.equal(refused.headers["retry-after"], "1");
  }
  assert.equal((await ana.read("?since=latest&wait=50&browser=b1&visible=1")).retry_in, LIMITS.retrySeconds);
  await ben.openPoll();
  await ana.read();
  at(held, 0).abort();
  await until(async () => (await server.countWaiters()) === 32, "one poll to be removed");
  await ana.openPoll();
  const message = await ben.say("to all 32");
  for (const { reply } of held.slice(1)) assert.deepEqual(pollOf(await reply).messages, [message]);
  await stream.waitFor(/to all 32/);
});

// The next two tests need a clock that stands still: a real one refills the bucket while they post.
testInProcess("leaving and joining again does not refill the message bucket", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const { invite_token } = invitationOf(await ana.invite());
  const join = async (): Promise<Member> => {
    return new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
  };
  const ben = await join();
  for (let count = 0; count < 20; count += 1) await ben.say("x");
  assertError(await ben.post("x"), "rate_limited");
  assertNoContent(await ben.leave());
  const again = await join();
  assertError(await again.post("x"), "rate_limited");
  // Nobody has used the next seat yet.
  await (await join()).say("x");
  await ana.say("x");
});

testInProcess("an invalid text counts against the rate limit, because validating it is most of the work", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const heavy = `a${"\u0301\u0316".repeat(15)}`.repeat(480);
  for (let count = 0; count < 20; count += 1) assertError(await ana.post(heavy), "invalid_text");
  assertError(await ana.post(heavy), "rate_limited");
  assertError(await ana.post("x"), "rate_limited");
});

test("a key that repeats with another text is refused before the text is validated", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const key = { "Idempotency-Key": "k" };
  const message = messageOf(await ana.post(" e\u0301 ", key));
  assert.equal(message.text, "\u00e9");
  assert.deepEqual(messageOf(await ana.post(" e\u0301 ", key), 200), message);
  for (const other of ["\u00e9", "", 7, null]) assertError(await ana.post(other, key), "invalid_key");
});

test("a request that is refused before its body arrives does not read the whole body", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const other = `/${"A".repeat(16)}`;
  for (const [line, status] of [
    [`POST ${other} HTTP/1.1\r\nHost: x\r\n`, 401],
    [`POST /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: nonsense\r\n`, 401],
    [`POST /nothing HTTP/1.1\r\nHost: x\r\n`, 404],
    [`PUT /create HTTP/1.1\r\nHost: x\r\n`, 405],
    [`GET /healthz HTTP/1.1\r\nHost: x\r\n`, 200],
    [`POST /${ana.chatId}/invite HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\n`, 201],
  ] as const) {
    for (const length of ["Content-Length: 100000000000", "Transfer-Encoding: chunked"]) {
      const wire = await Wire.open(t, server.port);
      wire.write(`${line}${length}\r\n\r\n`);
      await wire.waitFor(new RegExp(`^HTTP/1.1 ${status} [^]*Connection: close`));
      const isChunked = length.startsWith("Transfer");
      const piece = `${isChunked ? "10000\r\n" : ""}${"x".repeat(0x10000)}${isChunked ? "\r\n" : ""}`;
      const pump = (): void => {
        while (!wire.isClosed && wire.socket.writable && wire.socket.write(piece, "latin1"));
      };
      wire.socket.on("drain", pump);
      pump();
      await until(() => wire.isClosed, `the connection to close after ${line}`);
      // One megabyte, plus the buffers of the two kernels.
      assert.ok(wire.socket.bytesWritten < 40_000_000, `${wire.socket.bytesWritten} bytes taken`);
    }
  }
});

test("a pipelined request keeps its body while it waits, and at most three such requests can wait", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const head = `Host: x\r\nAuthorization: ${ana.token}\r\n`;
  const poll = `GET /${ana.chatId}?since=latest&wait=50 HTTP/1.1\r\n${head}\r\n`;
  const post = `POST /${ana.chatId} HTTP/1.1\r\n${head}Transfer-Encoding: chunked\r\n\r\n`;
  const body = Array.from('{"text":"byte by byte"}', (letter) => `1\r\n${letter}\r\n`).join("");
  const wire = await Wire.open(t, server.port);
  wire.write(poll + post + body);
  await until(async () => (await server.countWaiters()) === 1, "the poll to be held");
  await ana.say("news");
  await wire.waitFor(/"news"/);
  wire.write("0\r\n\r\n");
  await wire.waitFor(/201 Created[^]*"byte by byte"/);

  const many = await Wire.open(t, server.port);
  many.write(poll + `${post}${body}0\r\n\r\n`.repeat(4));
  await until(() => many.isClosed, "the connection to close");
  assert.equal((await ana.read()).messages.length, 2);
});

test("a connection stays open after a refusal if the whole body has arrived", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  const refused = `POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{`;
  const bodyless = `DELETE /create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}`;
  wire.write(`${refused}${bodyless}${bodyless}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n`);
  await wire.waitFor(/400 [^]* 405 [^]* 405 [^]*"ok"/);
  assert.doesNotMatch(wire.received, /connection: close/i);
});

test("a body that arrives byte by byte is assembled", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  const text = JSON.stringify({ padding: "x".repeat(30_000), username: "Ana" });
  wire.write("POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  wire.write(Array.from(text, (letter) => `1\r\n${letter}\r\n`).join(""));
  wire.write("0\r\n\r\n");
  await wire.waitFor(/201 Created[^]*"username":"Ana"/);
});

testInProcess(
  "a stalled TLS handshake ends after 10 s, and every cipher suite has forward secrecy",
  { timeout: 60 * SECOND },
  async (t) => {
    const tls = selfSigned();
    const app = createApp({ tls });
    const port = await listen(app);
    t.after(() => app.stop());
    const stalled = connect({ port, host: "127.0.0.1" });
    t.after(() => stalled.destroy());
    stalled.on("error", () => {});
    await once(stalled, "connect");
    const begun = performance.now();
    const ended = once(stalled, "close");
    for (const ciphers of ["AES128-GCM-SHA256", "AES256-SHA"]) {
      const refused = connectTls({
        port,
        host: "127.0.0.1",
        rejectUnauthorized: false,
        ciphers,
        maxVersion: "TLSv1.2",
      });
      await assert.rejects(once(refused, "secureConnect"), /handshake failure/i);
    }
    for (const maxVersion of ["TLSv1.2", "TLSv1.3"] as const) {
      const taken = connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false, maxVersion });
      await once(taken, "secureConnect");
      assert.match(
        taken.getEphemeralKeyInfo() === null ? "" : JSON.stringify(taken.getEphemeralKeyInfo()),
        /DH|TLSGroup/,
      );
      taken.destroy();
    }
    stalled.resume();
    await ended;
    const seconds = (performance.now() - begun) / SECOND;
    assert.ok(seconds > 9 && seconds < 40, `${seconds} s`);
  },
);

test("a Host header that is repeated, empty or malformed is bad_request", async (t) => {
  const server = await startServer(t);
  for (const lines of [
    "Host: a\r\nHost: a",
    "Host: a\r\nHost: b",
    "Host:",
    "Host: user@a",
    "Host: a/b",
    "Host: a, b",
    "Host: a\xff",
    "Host: a b",
    "Host: a:99999",
    "Host: [::1",
    `Host: ${"a".repeat(256)}`,
  ]) {
    for (const version of ["1.1", "1.0"]) {
      const reply = await exchange(t, server.port, `GET /healthz HTTP/${version}\r\n${lines}\r\n\r\n`);
      assertError(reply, "bad_request");
      assert.equal(reply.headers["connection"], "close", lines);
    }
  }
  const bad = "GET http://user@a/healthz HTTP/1.1\r\nHost: a\r\n\r\n";
  assertError(await exchange(t, server.port, bad), "bad_request");
  const missing = "GET http://a/healthz HTTP/1.1\r\n\r\n";
  assertError(await exchange(t, server.port, missing), "bad_request");
});

test("an empty Host is bad_request, even in the first request that a program gets", async (t) => {
  const program = await Program.start(t, LOCAL);
  assertError(await exchange(t, program.port, "GET /healthz HTTP/1.1\r\nHost:\r\n\r\n"), "bad_request");
});

test("the host of an absolute request target replaces Host in links", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.write("POST http://chat.example:81/create HTTP/1.1\r\nHost: other.example\r\nContent-Length: 0\r\n\r\n");
  await wire.waitFor(/"url":"http:\/\/chat\.example:81\//);
});

test("garbage on a connection with a stream closes it without a second status line", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const wire = await Wire.open(t, server.port);
  const head = `Host: x\r\nAuthorization: ${ana.token}\r\nAccept: application/x-ndjson\r\n`;
  wire.write(`GET /${ana.chatId} HTTP/1.1\r\n${head}\r\n`);
  await wire.waitFor(/members/);
  wire.write("\0 rubbish\r\n\r\n");
  await until(() => wire.isClosed, "the connection to close");
  assert.equal(wire.received.split("HTTP/1.1").length, 2);
  await until(async () => (await server.countWaiters()) === 0, "the stream to be removed");
});

test("U+2028 and U+2029 are escaped in every answer, so that no line reader splits a message", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const key = { "Idempotency-Key": "k" };
  const text = "one\u2028two\u2029three";
  const replies = [await ana.post(text, key), await ana.post(text, key), await ana.poll()];
  const wire = await Wire.open(t, server.port);
  const head = `Host: x\r\nAuthorization: ${ana.token}\r\nAccept: application/x-ndjson\r\n`;
  wire.write(`GET /${ana.chatId}?since=0 HTTP/1.1\r\n${head}\r\n`);
  await wire.waitFor(/three/);
  for (const raw of [...replies.map((reply) => reply.text), Buffer.from(wire.received, "latin1").toString()]) {
    assert.ok(raw.includes("one\\u2028two\\u2029three"));
    assert.doesNotMatch(raw, /[\u2028\u2029]/);
  }
  assert.equal(record(at(replies, 0).body)["text"], text);
});

test("a name made only of combining marks is refused, and with a base letter it is accepted", async (t) => {
  const server = await startServer(t);
  for (const username of ["\u0301", "\u0301\u0302", " \u0301", "\u200b\u0301", "\ufe0f"]) {
    assertError(await server.create({ username }), "invalid_username");
  }
  assert.equal(sessionOf(await server.create({ username: "n\u0303" })).username, "\u00f1");
});

testInProcess("internal errors and errors that end a stream are counted as refused", async (t) => {
  const errors: unknown[] = [];
  const server = await startServer(t, { metrics: true, logError: (error) => errors.push(error) });
  const [ana, ben] = await server.chat("Ana", "Ben");
  const wire = await Wire.open(t, server.port);
  const head = `Host: x\r\nAuthorization: ${ben.token}\r\nAccept: application/x-ndjson\r\n`;
  wire.write(`GET /${ana.chatId} HTTP/1.1\r\n${head}\r\n`);
  await wire.waitFor(/members/);
  assertNoContent(await ana.remove(ben.id));
  await wire.waitFor(/revoked_token/);
  const { chats } = server.app;
  t.mock.method(chats, "post", () => {
    throw new Error("a fault");
  });
  assertError(await ana.post("x"), "internal");
  assert.equal(errors.length, 1);
  const { text } = await server.send("GET", "/metrics");
  assert.match(text, /refused_total\{error="revoked_token"\} 1\n/);
  assert.match(text, /refused_total\{error="internal"\} 1\n/);
});

testInProcess("a token never reaches the log, however its characters are encoded", async (t) => {
  const lines: string[] = [];
  const server = await startServer(t, { log: (line) => lines.push(line) });
  const [ana] = await server.chat("Ana");
  const invite = await ana.inviteToken();
  const [payload = "", signature = ""] = invite.split(".");
  for (const path of [
    `/${ana.chatId}%23invite=${invite}`,
    `/${ana.chatId}%23invite=${payload}%2E${signature}`,
    `/${ana.chatId}%23invite=${payload}%2e${signature}`,
    `/${ana.chatId}/${payload}.${signature.replaceAll(/[A-M]/g, (letter) => `%${letter.charCodeAt(0).toString(16)}`)}`,
  ]) {
    await server.send("GET", path);
  }
  await until(() => lines.length >= 6, "the log lines");
  for (const line of lines) assert.ok(!line.includes(signature.slice(0, 8)) && !/[\w%-]{40}/.test(line), line);
});
