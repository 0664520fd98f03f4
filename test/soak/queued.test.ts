// The bodies of requests that wait for their turn on a connection.

import assert from "node:assert/strict";
import { connect } from "node:net";
import test from "node:test";
import { LIMITS } from "../../server.ts";
import { send, sessionOf } from "../lib/helpers.ts";
import { Child } from "./child.ts";

test("bodies of requests that wait for their turn are counted with them", { timeout: 120_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false });
  const { chat_id: id, session_token: token } = sessionOf(await send({ port: child.port }, "POST", "/create"));
  const poll = `GET /${id}?since=latest&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`;
  const head = "POST /create HTTP/1.1\r\nHost: x\r\n";
  const chunks = `${head}Transfer-Encoding: chunked\r\n\r\n${"1\r\n \r\n".repeat(10_000)}0\r\n\r\n`;
  const before = await child.look();
  // Three fit, and cost what they have sent.
  const text = poll + chunks.repeat(3);
  for (let count = 0; count < 20; count += 1) {
    const few = connect({ port: child.port, host: "127.0.0.1" });
    t.after(() => few.destroy());
    few.on("error", () => {}).write(text);
  }
  const held = await child.lookUntil(({ received }) => received >= before.received + 20 * text.length);
  const each = Math.round((held.heap + held.external - before.heap - before.external) / 20);
  t.diagnostic(`${each} bytes per connection`);
  assert.ok(each < 2 * LIMITS.queuedBytes, `${each} bytes`);
  // Too many end the connection.
  for (const more of [chunks.repeat(70), `${head}Content-Length: 30000\r\n\r\n${" ".repeat(30_000)}`.repeat(20)]) {
    const many = connect({ port: child.port, host: "127.0.0.1" });
    t.after(() => many.destroy());
    const closed = new Promise((resolve) => many.on("error", () => {}).once("close", resolve));
    many.resume();
    many.write(poll + more);
    await closed;
  }
});
