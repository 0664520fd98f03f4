// The work that a request costs, counted where counting is exact. No clock: what is counted here is what the hot
// path must not do at every request.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { test, type TestContext } from "node:test";
// Not the global one, which is counted.
import { setImmediate as turn } from "node:timers/promises";
import { at, type Member, startServer, Wire } from "./helpers.ts";

const TIMES = 100;

/** Counts until the test is over: timers, hashes, tokens compared, and JSON that is read or written. */
class Work {
  readonly counts = { timers: 0, hashes: 0, compared: 0, parsed: 0, stringified: 0 };

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
    t.mock.method(
      crypto,
      "timingSafeEqual",
      counting(crypto.timingSafeEqual, () => (counts.compared += 1)),
    );
    // What was imported by name follows its module only when told to.
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

/** The same function, which tells of each call. */
function counting(make: (...given: never[]) => unknown, count: () => void) {
  return (...given: unknown[]): unknown => {
    count();
    return Reflect.apply(make, undefined, given);
  };
}

function request(member: Member, method: string, query = "", body = ""): string {
  const headers = [`Host: party`, `Authorization: Bearer ${member.token}`, `Content-Length: ${body.length}`];
  return `${method} /${member.chatId}${query} HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n${body}`;
}

/** Waits for something that comes over a socket, without a timer, which would be counted. */
async function untilTrue(isTrue: () => boolean, what: string): Promise<void> {
  for (let turns = 0; !isTrue(); turns += 1) {
    assert.ok(turns < 100_000, `waited in vain for ${what}`);
    await turn();
  }
}

/** Waits for the answers on these sockets, and forgets them. */
async function takeAnswers(wires: readonly Wire[], status: 200 | 201): Promise<void> {
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

test("a hundred polls of thirty messages start no timer, compute no hash and write no JSON", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana", "Ben");
  for (let n = 0; n < 30; n += 1) {
    server.clock.advance(1_000);
    await ana.say(`message ${n}`);
  }
  const wire = await Wire.open(t, server.port);
  const work = new Work(t);
  for (let n = 0; n < TIMES; n += 1) {
    wire.write(request(ana, "GET"));
    await takeAnswers([wire], 200);
  }
  assert.deepEqual(work.counts, { timers: 0, hashes: 0, compared: TIMES, parsed: 0, stringified: 0 });
});

test("a hundred posts to five held polls start no timer, compute no hash, compare each token once and write each message once", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana, ...readers] = await server.party("Ana", "Ben", "Cleo", "Dan", "Eve", "Fay");
  const wire = await Wire.open(t, server.port);
  const held = await Promise.all(readers.map(() => Wire.open(t, server.port)));
  const work = new Work(t);
  for (let n = 0; n < TIMES; n += 1) {
    readers.forEach((reader, index) => at(held, index).write(request(reader, "GET", "?since=latest&wait=50")));
    await untilTrue(() => server.app.chats.count().waiters === readers.length, "the polls to be held");
    wire.write(request(ana, "POST", "", `{"text":"message ${n}"}`));
    await takeAnswers([wire], 201);
    await takeAnswers(held, 200);
  }
  // A token is compared once a request, also where a body comes between.
  const compared = TIMES * (readers.length + 1);
  assert.deepEqual(work.counts, { timers: 0, hashes: 0, compared, parsed: TIMES, stringified: TIMES });
});
