// Counts the expensive calls of the hot path instead of measuring time, so the result is exact. These are the calls that
// a request must not make, or only once.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { test, type TestContext } from "node:test";
// The global setImmediate is counted.
import { setImmediate as nextTurn } from "node:timers/promises";
import { at, type Member, startServer, Wire } from "./lib/helpers.ts";

const TIMES = 100;

/** Counts calls until the end of the test: timers, hashes, and JSON parsed or written. */
class CallCounter {
  readonly counts = { timers: 0, hashes: 0, parsed: 0, stringified: 0 };

  constructor(t: TestContext) {
    const { counts } = this;
    for (const name of ["setTimeout", "setInterval", "setImmediate"] as const) {
      t.mock.method(
        globalThis,
        name,
        counting(globalThis[name], () => (counts.timers += 1)),
      );
    }
    for (const name of ["createHash", "createHmac", "hash"] as const) {
      t.mock.method(
        crypto,
        name,
        counting(crypto[name], () => (counts.hashes += 1)),
      );
    }
    // Named imports of a built-in module see the mocks only after this call.
    syncBuiltinESMExports();
    t.after(syncBuiltinESMExports);
    t.mock.method(
      JSON,
      "parse",
      counting(JSON.parse, () => (counts.parsed += 1)),
    );
    t.mock.method(
      JSON,
      "stringify",
      counting(JSON.stringify, () => (counts.stringified += 1)),
    );
  }
}

/** The same function, with `count` called before it. */
function counting(make: (...given: never[]) => unknown, count: () => void) {
  return (...given: unknown[]): unknown => {
    count();
    return Reflect.apply(make, undefined, given);
  };
}

function request(member: Member, method: string, query = "", body = ""): string {
  const headers = [`Host: x`, `Authorization: Bearer ${member.token}`, `Content-Length: ${body.length}`];
  return `${method} /${member.chatId}${query} HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n${body}`;
}

/** Waits for data from a socket without a timer, which would be counted. */
async function untilTrue(isTrue: () => boolean, what: string): Promise<void> {
  for (let turns = 0; !isTrue(); turns += 1) {
    assert.ok(turns < 100_000, `timed out waiting for ${what}`);
    await nextTurn();
  }
}

/** Waits for one answer on each of these sockets and discards it. */
async function discardAnswers(wires: readonly Wire[], status: 200 | 201): Promise<void> {
  for (const wire of wires) {
    await untilTrue(() => isWhole(wire.received), "an answer");
    assert.match(wire.received, new RegExp(`^HTTP/1.1 ${status} `));
    wire.received = "";
  }
}

function isWhole(answer: string): boolean {
  const [head = "", body = ""] = answer.split("\r\n\r\n", 2);
  return body.length > 0 && body.length === Number(/Content-Length: (\d+)/.exec(head)?.[1]);
}

test("a hundred polls of thirty messages start no timers, compute no hashes and write no JSON", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana", "Ben");
  for (let n = 0; n < 30; n += 1) {
    server.clock.advance(1_000);
    await ana.say(`message ${n}`);
  }
  const wire = await Wire.open(t, server.port);
  const { counts } = new CallCounter(t);
  for (let n = 0; n < TIMES; n += 1) {
    wire.write(request(ana, "GET"));
    await discardAnswers([wire], 200);
  }
  assert.deepEqual(counts, { timers: 0, hashes: 0, parsed: 0, stringified: 0 });
});

test("a hundred posts to five held polls start no timers, compute no hashes and write each message once", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana, ...readers] = await server.chat("Ana", "Ben", "Cleo", "Dan", "Eve", "Fay");
  const wire = await Wire.open(t, server.port);
  const held = await Promise.all(readers.map(() => Wire.open(t, server.port)));
  const { counts } = new CallCounter(t);
  for (let n = 0; n < TIMES; n += 1) {
    readers.forEach((reader, index) => at(held, index).write(request(reader, "GET", "?since=latest&wait=50")));
    await untilTrue(() => server.app.chats.count().waiters === readers.length, "the polls to be held");
    wire.write(request(ana, "POST", "", `{"text":"message ${n}"}`));
    await discardAnswers([wire], 201);
    await discardAnswers(held, 200);
  }
  assert.deepEqual(counts, { timers: 0, hashes: 0, parsed: TIMES, stringified: TIMES });
});
