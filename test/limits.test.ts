// Size and time limits of requests, and malformed or broken connections. Many tests use a raw socket.

import assert from "node:assert/strict";
import { once } from "node:events";
import { Socket, connect } from "node:net";
import test from "node:test";
import {
  assertError,
  errorOf,
  exchange,
  Member,
  messageOf,
  parseReply,
  pollOf,
  type Reply,
  SECOND,
  sessionOf,
  startServer,
  STATUS,
  testInProcess,
  until,
  Wire,
} from "./lib/helpers.ts";

const LIMIT = 32_768;

/** A JSON body of this many bytes with a short text. */
function padded(bytes: number): string {
  const body = JSON.stringify({ text: "short", padding: "" });
  return body.replace('""', `"${"x".repeat(bytes - body.length)}"`);
}

/** Asserts an error that closes its connection. Node itself would answer some of these without a body. */
function assertClosingError(reply: Reply, code: string): void {
  assert.equal(reply.status, STATUS[code], reply.text);
  assert.equal(reply.headers["content-type"], "application/json; charset=utf-8");
  assert.equal(reply.headers["connection"]?.toLowerCase(), "close");
  assert.equal(errorOf(reply).error, code);
  assert.equal(Number(reply.headers["content-length"]), reply.bytes.length);
}

for (const chunked of [false, true]) {
  const how = chunked ? "sent in chunks" : "sent with its length";
  test(`a body of 32,768 bytes ${how} is accepted, and one byte more is too_large`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const fits = await ana.send("POST", "", { body: padded(LIMIT), chunked });
    assert.equal(messageOf(fits).text, "short");
    const reply = await ana.send("POST", "", { body: padded(LIMIT + 1), chunked });
    assertError(reply, "too_large");
    assert.equal(reply.headers["connection"], "close");
    assert.equal((await ana.read()).messages.length, 1);
  });

  test(`a body over the limit ${how} is too_large for create, for join and as text/plain`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const token = await ana.inviteToken();
    const body = padded(LIMIT + 1);
    assertError(await server.send("POST", "/create", { body, chunked }), "too_large");
    assertError(await server.send("POST", `/${ana.chatId}/join`, { body, chunked, token }), "too_large");
    assertError(await ana.send("POST", "", { body, chunked, headers: { "Content-Type": "text/plain" } }), "too_large");
    const name = sessionOf(await server.send("POST", "/create", { body: padded(LIMIT), chunked }));
    assert.equal(name.username, "Guest 1");
  });
}

test("a Content-Length over the limit is refused before the body is sent", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.write(`POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: ${LIMIT + 1}\r\n\r\n`);
  assertClosingError(await wire.lastReply(), "too_large");
});

test("a chunked body is refused as soon as it is too large", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.write("POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  wire.write(`${(LIMIT + 1).toString(16)}\r\n${"x".repeat(LIMIT + 1)}\r\n`);
  await wire.waitFor(/too_large/);
  assertClosingError(await wire.lastReply(), "too_large");
});

test("the client receives too_large even while it is still sending the body", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const wire = await Wire.open(t, server.port);
    wire.write(`POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: ${900 * 1024}\r\n\r\n`);
    for (let sent = 0; sent < 900; sent += 1) wire.write("x".repeat(1024));
    assertClosingError(await wire.lastReply(), "too_large");
  }
});

testInProcess("an endless body is cut off", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.write("POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  const piece = `10000\r\n${"x".repeat(0x10000)}\r\n`;
  const pump = (): void => {
    while (!wire.isClosed && wire.socket.writable && wire.socket.write(piece, "latin1"));
  };
  wire.socket.on("drain", pump);
  pump();
  await until(() => wire.isClosed, "the connection to close");
  assert.ok(server.app.server.listening);
  sessionOf(await server.create());
});

test("a large body is ignored where no body is defined", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const body = "x".repeat(200_000);
  assert.equal((await ana.send("POST", "/invite", { body })).status, 201);
  assert.equal((await ana.send("GET", "", { body })).status, 200);
  assert.equal((await ana.send("DELETE", "/invite", { body })).status, 204);
  assert.equal((await ben.send("POST", "/leave", { body })).status, 204);
  assert.equal((await ana.send("DELETE", "", { body })).status, 204);
});

test("a connection serves many requests, even after errors", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const wire = await Wire.open(t, server.port);
  const good = `GET /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ana.token}\r\n\r\n`;
  const bad = `POST /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ana.token}\r\nContent-Length: 1\r\n\r\n{`;
  wire.write(good + bad + "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + bad + good);
  await wire.waitFor(/(HTTP\/1\.1 [^]*){5}/);
  assert.deepEqual(
    [...wire.received.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
    ["200", "400", "404", "400", "200"],
  );
});

test("an ignored body is not parsed as the next request", async (t) => {
  const server = await startServer(t);
  const inner = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
  const wire = await Wire.open(t, server.port);
  wire.write(`POST /${"A".repeat(16)}/leave HTTP/1.1\r\nHost: x\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`);
  wire.write("GET /robots.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  await until(() => wire.isClosed, "the connection to close");
  assert.doesNotMatch(wire.received, /"status":"ok"/);
});

test("malformed HTTP is bad_request", async (t) => {
  const server = await startServer(t);
  for (const bytes of [
    "nonsense\r\n\r\n",
    "GET\r\n\r\n",
    "GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nNul: a\u0000b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
    "G\u00C9T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n",
    "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00FC\u0003\u0003",
    "\u0000\u0000\u0000\u0000",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  ]) {
    assertClosingError(await exchange(t, server.port, bytes), "bad_request");
  }
  assert.equal((await server.send("GET", "/healthz")).status, 200);
});

test("HTTP/1.1 without a Host is bad_request, and HTTP/1.0 without one is served", async (t) => {
  const server = await startServer(t);
  assertClosingError(await exchange(t, server.port, "GET /healthz HTTP/1.1\r\n\r\n"), "bad_request");
  assertClosingError(
    await exchange(t, server.port, "POST /create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
    "bad_request",
  );
  const old = await exchange(t, server.port, "GET /healthz HTTP/1.0\r\n\r\n");
  assert.equal(old.status, 200);
  assert.deepEqual(old.body, { status: "ok" });
});

test("a whole chat works over HTTP/1.0", async (t) => {
  const server = await startServer(t);
  const made = await exchange(t, server.port, "POST /create HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}");
  const ana = new Member(server, sessionOf(made));
  assert.equal(ana.session.url, `${server.base}/${ana.chatId}`);
  const post = await exchange(
    t,
    server.port,
    `POST /${ana.chatId} HTTP/1.0\r\nAuthorization: Bearer ${ana.token}\r\nContent-Length: 12\r\n\r\n{"text":"x"}`,
  );
  assert.equal(post.status, 201);
  assert.equal((await ana.read()).messages.length, 1);
});

test("a request with an absolute target is served like any other", async (t) => {
  const server = await startServer(t);
  const health = await exchange(
    t,
    server.port,
    "GET http://example.com/healthz HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
  );
  assert.equal(health.status, 200);
  const nothing = await exchange(
    t,
    server.port,
    "GET http://example.com/nothing?x HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
  );
  assert.equal(nothing.status, 404);
});

for (const target of [
  "//",
  "//evil.example/",
  "/%",
  "/%zz",
  "/%00",
  "/..",
  "/%2e%2e/x",
  "/\\x",
  "/?",
  "?",
  "*",
  "http://",
  "http:///x",
  "/;x",
  "/#x",
]) {
  test(`the target ${target} gets an answer, and the server stays up`, async (t) => {
    const server = await startServer(t);
    const wire = await Wire.open(t, server.port);
    wire.write(`GET ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    await until(() => wire.isClosed, "the connection to close");
    const status = Number(/^HTTP\/1\.1 (\d+)/.exec(wire.received)?.[1]);
    assert.ok([200, 400, 404].includes(status), wire.received);
    assert.equal((await server.send("GET", "/healthz")).status, 200);
  });
}

test("CONNECT is refused and its connection closed", async (t) => {
  const server = await startServer(t);
  const reply = await exchange(t, server.port, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n");
  assert.ok([400, 404, 405].includes(reply.status), String(reply.status));
  assert.equal(typeof errorOf(reply).error, "string");
});

testInProcess("a client that resets its connection after CONNECT does not affect others", async (t) => {
  const server = await startServer(t);
  for (let round = 0; round < 5; round += 1) {
    const socket = connect(server.port, "127.0.0.1");
    await once(socket, "connect");
    socket.write("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n");
    const accepted = once(server.app.server, "connect");
    const [, onServer] = await accepted;
    assert.ok(onServer instanceof Socket);
    const closed = new Promise((resolve) => onServer.once("close", resolve));
    socket.resetAndDestroy();
    await closed;
  }
  assert.equal((await server.send("GET", "/healthz")).status, 200);
});

test("a request to upgrade the protocol is ignored", async (t) => {
  const server = await startServer(t);
  for (const upgrade of ["websocket", "h2c"]) {
    const wire = await Wire.open(t, server.port);
    wire.write(
      `GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: ${upgrade}\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    );
    await wire.waitFor(/^HTTP\/1\.1 200 [^]*"status":"ok"/);
  }
});

test("Expect: 100-continue is answered with 100, or with 413 for a body that is too large", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.write("POST /create HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  await wire.waitFor(/^HTTP\/1\.1 100 /);
  wire.write("{}");
  await wire.waitFor(/HTTP\/1\.1 201 /);
  const other = await Wire.open(t, server.port);
  other.write(`POST /create HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: ${LIMIT + 1}\r\n\r\n`);
  await other.waitFor(/HTTP\/1\.1 413 /);
});

/** A request whose header block has this many bytes. */
function withHeaderBlock(bytes: number): string {
  const head = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
  return `${head}X: ${"x".repeat(bytes - head.length - 7)}\r\n\r\n`;
}

test("a header block over 16 KiB is headers_too_large, and one slightly below is accepted", async (t) => {
  const server = await startServer(t);
  assert.equal((await exchange(t, server.port, withHeaderBlock(16_000))).status, 200);
  assertClosingError(await exchange(t, server.port, withHeaderBlock(17_000)), "headers_too_large");
  const many = Array.from({ length: 2000 }, (_, index) => `X-${index}: x\r\n`).join("");
  assertClosingError(await exchange(t, server.port, `GET / HTTP/1.1\r\nHost: x\r\n${many}\r\n`), "headers_too_large");
  assertClosingError(
    await exchange(t, server.port, `GET /?${"x".repeat(20_000)} HTTP/1.1\r\nHost: x\r\n\r\n`),
    "headers_too_large",
  );
});

testInProcess("the server has the documented connection timeouts", async (t) => {
  const { app } = await startServer(t);
  assert.equal(app.server.headersTimeout, 10 * SECOND);
  assert.equal(app.server.requestTimeout, 30 * SECOND);
  assert.equal(app.server.keepAliveTimeout, 75 * SECOND);
});

testInProcess(
  "headers that take too long are answered with timeout, and other connections are not affected",
  async (t) => {
    const server = await startServer(t);
    server.app.server.headersTimeout = 100;
    const [ana] = await server.chat("Ana");
    const held = await ana.openPoll();
    assertClosingError(await exchange(t, server.port, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "), "timeout");
    await ana.say("still here");
    assert.equal(pollOf(await held.reply).messages.length, 1);
  },
);

testInProcess("a body that takes too long is answered with timeout", async (t) => {
  const server = await startServer(t);
  server.app.server.headersTimeout = 50;
  server.app.server.requestTimeout = 100;
  const wire = await Wire.open(t, server.port);
  wire.write('POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"username":');
  assertClosingError(await wire.lastReply(), "timeout");
  assert.equal(await server.countChats(), 0);
});

test("a client that disconnects during its body leaves nothing behind", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const length of ["Content-Length: 50", "Transfer-Encoding: chunked"]) {
    const wire = await Wire.open(t, server.port);
    wire.write(`POST /${ana.chatId} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ana.token}\r\n${length}\r\n\r\n`);
    wire.write("20\r\n{");
    wire.socket.resetAndDestroy();
  }
  await ana.say("all is well");
  assert.equal((await ana.read()).messages.length, 1);
});

test("a broken connection does not affect others", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const held = await ana.openPoll();
  await exchange(t, server.port, "nonsense\r\n\r\n");
  const wire = await Wire.open(t, server.port);
  wire.socket.resetAndDestroy();
  await ana.say("undisturbed");
  assert.equal(pollOf(await held.reply).messages.length, 1);
});

test("garbage after a valid request does not affect its answer", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  await wire.waitFor(/"status":"ok"/);
  wire.received = "";
  wire.write("\u0001\u0002\r\n\r\n");
  assertClosingError(await wire.lastReply(), "bad_request");
});

test("garbage while a poll is held closes the connection and leaves no waiter", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const wire = await Wire.open(t, server.port);
  wire.write(`GET /${ana.chatId}?since=1&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ana.token}\r\n\r\n`);
  await until(async () => (await server.countWaiters()) === 1, "the poll to be held");
  wire.write("\u0001\u0002\r\n\r\n");
  await until(() => wire.isClosed, "the connection to close");
  await until(async () => (await server.countWaiters()) === 0, "the poll to be removed");
});

test("a client that closes its sending side after the request still gets its answer", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  wire.socket.end("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "latin1");
  await until(() => wire.isClosed, "the connection to close");
  assert.equal(parseReply(wire.received).status, 200);
});
