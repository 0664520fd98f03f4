// The phases of a connection's life, and what ends each: the tests behind the table in docs/architecture.md that are
// nowhere else. Times are shorter than the contract's.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import test, { type TestContext } from "node:test";
import { at, parseReply, SECOND, startServer, until, Wire } from "../lib/helpers.ts";
import type { TestServer } from "../lib/helpers.ts";

test("each test that the table of time limits names is there", () => {
  const text = readFileSync(new URL("../../docs/architecture.md", import.meta.url), "utf8");
  const section = text.split("\n## ").find((each) => each.startsWith("Time limits")) ?? "";
  const named = [...section.replaceAll(/\n +/g, " ").matchAll(/`([a-z/]+\.test\.ts)`: ([^|)]+?) ?[|)]/g)];
  assert.ok(named.length >= 12, `only ${named.length}`);
  for (const [, file = "", name = ""] of named) {
    const source = readFileSync(new URL(`../${file}`, import.meta.url), "utf8");
    assert.ok(source.includes(`"${name}"`), `${file} has no test "${name}"`);
  }
});

/** A server whose times are a twentieth of a second to a second. */
async function startHasty(t: TestContext): Promise<TestServer> {
  const server = await startServer(t);
  Object.assign(server.app.server, { headersTimeout: 200, requestTimeout: 400, keepAliveTimeout: 50 });
  return server;
}

test("a connection on which nothing comes is answered timeout", async (t) => {
  const server = await startHasty(t);
  const wire = await Wire.open(t, server.port);
  const reply = await wire.lastReply();
  assert.equal(reply.status, 408);
  assert.match(reply.text, /"timeout"/);
});

test("a request that stalls behind a held poll ends the connection", async (t) => {
  const server = await startHasty(t);
  const [ana] = await server.party("Ana");
  const poll = `GET /${ana.chatId}?since=latest&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: ${ana.token}\r\n\r\n`;
  for (const rest of ["GET / HTTP/1.1\r\nX-Slow: ", "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"]) {
    const wire = await Wire.open(t, server.port);
    wire.write(poll + rest);
    await until(() => server.app.chats.count().waiters === 1, "the poll to be held");
    await until(() => wire.isClosed, `the end after ${rest}`);
    await until(() => server.app.chats.count().waiters === 0, "the poll to be forgotten");
  }
});

test("a connection that is silent between requests ends", async (t) => {
  const server = await startHasty(t);
  const wire = await Wire.open(t, server.port);
  wire.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  assert.equal((await wire.lastReply()).status, 200);
});

test("blank lines between requests keep a connection open", async (t) => {
  const server = await startHasty(t);
  const wire = await Wire.open(t, server.port);
  wire.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  await wire.waitFor(/"ok"/);
  const begun = performance.now();
  const timer = setInterval(() => wire.write("\r\n"), 200);
  t.after(() => clearInterval(timer));
  // Several times as long as all limits, and Node's own second.
  await until(() => wire.isClosed || performance.now() - begun > 5 * SECOND, "five seconds");
  assert.equal(wire.isClosed, false);
  clearInterval(timer);
  await until(() => wire.isClosed, "its end when the lines have stopped");
});

/** A client that never closes its side. */
async function openStubborn(t: TestContext, port: number): Promise<{ socket: Socket; received: () => string }> {
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

test("an early answer ends its connection after a second, though the client keeps silent", async (t) => {
  const server = await startServer(t);
  const { socket, received } = await openStubborn(t, server.port);
  socket.write("POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
  await once(socket, "data");
  const begun = performance.now();
  assert.equal(parseReply(received()).status, 404);
  await until(async () => (await countConnections(server)) === 0, "the end");
  const milliseconds = performance.now() - begun;
  assert.ok(milliseconds > SECOND / 2 && milliseconds < 5 * SECOND, `${milliseconds} ms`);
});

test("after CONNECT or rubbish the connection ends, though the client never closes its side", async (t) => {
  const server = await startServer(t);
  for (const text of ["CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "rubbish\r\n\r\n"]) {
    const { socket, received } = await openStubborn(t, server.port);
    socket.write(text);
    await once(socket, "end");
    assert.equal(at(received().split(" "), 1), "400");
    await until(async () => (await countConnections(server)) === 0, "the end");
  }
});
