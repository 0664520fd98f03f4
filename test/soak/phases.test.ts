// Time limits of a connection: the rows of the table in docs/architecture.md that no other file tests. The limits are
// shorter than the server's defaults, so that the tests run fast.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import test, { type TestContext } from "node:test";
import { at, parseReply, SECOND, startServer, until, Wire } from "../lib/helpers.ts";
import type { TestServer } from "../lib/helpers.ts";

test("every test named in the table of time limits exists", () => {
  const text = readFileSync(new URL("../../docs/architecture.md", import.meta.url), "utf8");
  const section = text.split("\n## ").find((each) => each.startsWith("Time limits")) ?? "";
  const named = [...section.replaceAll(/\n +/g, " ").matchAll(/`([a-z/]+\.test\.ts)`: ([^|)]+?) ?[|)]/g)];
  assert.ok(named.length >= 12, `only ${named.length}`);
  for (const [, file = "", name = ""] of named) {
    const source = readFileSync(new URL(`../${file}`, import.meta.url), "utf8");
    assert.ok(source.includes(`"${name}"`), `${file} has no test "${name}"`);
  }
});

/** Starts a server with limits of 50 to 400 ms. */
async function startWithShortLimits(t: TestContext): Promise<TestServer> {
  const server = await startServer(t);
  Object.assign(server.app.server, { headersTimeout: 200, requestTimeout: 400, keepAliveTimeout: 50 });
  return server;
}

test("a connection that sends nothing gets timeout", async (t) => {
  const server = await startWithShortLimits(t);
  const wire = await Wire.open(t, server.port);
  const reply = await wire.lastReply();
  assert.equal(reply.status, 408);
  assert.match(reply.text, /"timeout"/);
});

test("a stalled request behind a waiting poll closes the connection", async (t) => {
  const server = await startWithShortLimits(t);
  const [ana] = await server.chat("Ana");
  const poll = `GET /${ana.chatId}?since=latest&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\n\r\n`;
  for (const rest of ["GET / HTTP/1.1\r\nX-Slow: ", "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"]) {
    const wire = await Wire.open(t, server.port);
    wire.write(poll + rest);
    await until(() => server.app.chats.count().waiters === 1, "the poll to wait");
    await until(() => wire.isClosed, `the connection to close after ${rest}`);
    await until(() => server.app.chats.count().waiters === 0, "the poll to be removed");
  }
});

test("an idle keep-alive connection is closed", async (t) => {
  const server = await startWithShortLimits(t);
  const wire = await Wire.open(t, server.port);
  wire.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  assert.equal((await wire.lastReply()).status, 200);
});

test("blank lines between requests keep a connection open", async (t) => {
  const server = await startWithShortLimits(t);
  const wire = await Wire.open(t, server.port);
  wire.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  await wire.waitFor(/"ok"/);
  const startedAt = performance.now();
  const timer = setInterval(() => wire.write("\r\n"), 200);
  t.after(() => clearInterval(timer));
  // Several times longer than all the limits plus the second that Node adds to keepAliveTimeout.
  await until(() => wire.isClosed || performance.now() - startedAt > 5 * SECOND, "five seconds");
  assert.equal(wire.isClosed, false);
  clearInterval(timer);
  await until(() => wire.isClosed, "the connection to close once the lines have stopped");
});

/** Opens a connection whose client never closes its side. */
async function openHalfOpen(t: TestContext, port: number): Promise<{ socket: Socket; received: () => string }> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  t.after(() => socket.destroy());
  let text = "";
  socket.setEncoding("latin1").on("data", (part: string) => (text += part));
  socket.on("error", () => {});
  await once(socket, "connect");
  return { socket, received: () => text };
}

function countConnections({ app }: TestServer): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

test("an early response closes the connection after a second even if the client sends nothing", async (t) => {
  const server = await startServer(t);
  const { socket, received } = await openHalfOpen(t, server.port);
  socket.write("POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
  await once(socket, "data");
  const startedAt = performance.now();
  assert.equal(parseReply(received()).status, 404);
  await until(async () => (await countConnections(server)) === 0, "the connection to close");
  const milliseconds = performance.now() - startedAt;
  assert.ok(milliseconds > SECOND / 2 && milliseconds < 5 * SECOND, `${milliseconds} ms`);
});

test("CONNECT or malformed input closes the connection even if the client never closes its side", async (t) => {
  const server = await startServer(t);
  for (const text of ["CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "not HTTP\r\n\r\n"]) {
    const { socket, received } = await openHalfOpen(t, server.port);
    socket.write(text);
    await once(socket, "end");
    assert.equal(at(received().split(" "), 1), "400");
    await until(async () => (await countConnections(server)) === 0, "the connection to close");
  }
});
