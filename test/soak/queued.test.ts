// Limits the bodies of pipelined requests.

import assert from "node:assert/strict";
import { connect } from "node:net";
import test from "node:test";
import { LIMITS } from "../../server.ts";
import { send, sessionOf } from "../lib/helpers.ts";
import { Child } from "./child.ts";

test("the bodies of pipelined requests count towards the connection limit", { timeout: 120_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false });
  const { chat_id: id, session_token: token } = sessionOf(await send({ port: child.port }, "POST", "/create"));
  const poll = `GET /${id}?since=latest&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`;
  const head = "POST /create HTTP/1.1\r\nHost: x\r\n";
  const chunks = `${head}Transfer-Encoding: chunked\r\n\r\n${"1\r\n \r\n".repeat(10_000)}0\r\n\r\n`;
  const before = await child.snapshot();
  // Three bodies are within the limit, and the connection stays open.
  const text = poll + chunks.repeat(3);
  for (let count = 0; count < 20; count += 1) {
    const few = connect({ port: child.port, host: "127.0.0.1" });
    t.after(() => few.destroy());
    few.on("error", () => {}).write(text);
  }
  const snapshot = await child.waitUntil(({ received }) => received >= before.received + 20 * text.length);
  const each = Math.round((snapshot.heap + snapshot.external - before.heap - before.external) / 20);
  t.diagnostic(`${each} bytes per connection`);
  assert.ok(each < 2 * LIMITS.queuedBytes, `${each} bytes`);
  // Larger pipelines exceed the limit, and the server closes the connection.
  for (const more of [chunks.repeat(70), `${head}Content-Length: 30000\r\n\r\n${" ".repeat(30_000)}`.repeat(20)]) {
    const many = connect({ port: child.port, host: "127.0.0.1" });
    t.after(() => many.destroy());
    const closed = new Promise((resolve) => many.on("error", () => {}).once("close", resolve));
    many.resume();
    many.write(poll + more);
    await closed;
  }
});
