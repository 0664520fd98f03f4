// Measures how much memory one seat, one chat, one connection and all addresses together can take up. Each row of the
// table "Structures that can grow" in docs/architecture.md has a test.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import test, { type TestContext } from "node:test";
import { createApp, LIMITS } from "../../server.ts";
import { assertError, at, Member, SECOND, send, sessionOf, startServer, STATUS, until } from "../lib/helpers.ts";
import { Child, type Snapshot } from "./child.ts";
import { usedHeap } from "./tools.ts";

/** Each structure in the table "Structures that can grow", with its bound in bytes. */
const ROWS = readRows();
const measured: string[] = [];

/** Adds a test that measures one row of the table. `structure` is the start of the row. */
function measure(structure: string, behaviour: string, run: (t: TestContext, most: number) => Promise<void>): void {
  measured.push(structure);
  test(`${structure}: ${behaviour}`, { timeout: 300 * SECOND }, async (t) => {
    await run(
      t,
      at(
        [...ROWS].filter(([row]) => row === structure).map(([, bytes]) => bytes),
        0,
      ),
    );
  });
}

/** Reads each row's structure (the text before the identifiers) and the first size in its bound, such as "1.2 MB". */
function readRows(): Map<string, number> {
  const text = readFileSync(new URL("../../docs/architecture.md", import.meta.url), "utf8");
  const section = text.split("\n## ").find((each) => each.startsWith("Structures that can grow")) ?? "";
  const cells = section
    .split("\n")
    .filter((line) => line.startsWith("| "))
    .map((line) => line.split(" | "));
  return new Map(
    cells.slice(1).map(([first = "", , bound = ""]) => {
      const [, number, unit = ""] = /(?:^|[^\d.,])([\d.,]+) (bytes|kB|MB)/.exec(bound) ?? [];
      const factor = { bytes: 1, kB: 1e3, MB: 1e6 }[unit] ?? NaN;
      return [first.slice(2).replace(/ \(.*$/, ""), Number(number?.replaceAll(",", "")) * factor];
    }),
  );
}

test('every row of the table "Structures that can grow" has a test, and every test has a row', () => {
  assert.deepEqual([...ROWS.keys()], measured);
  for (const [structure, bytes] of ROWS) assert.ok(bytes > 0, `${structure}: the bound has no size`);
});

/**
 * The message that takes most memory. JSON escapes each quote with a second byte, and one combining mark makes V8 store
 * the whole string with two bytes per character.
 */
const LARGEST_MESSAGE = `${'"'.repeat(1_990)}${"\u0301".repeat((LIMITS.messageBytes - 1_990) / 2)}`;

/** Returns the bytes per item that `make` adds to the heap of this process. */
async function added(count: number, make: () => unknown): Promise<number> {
  const before = await usedHeap();
  await make();
  return Math.round(((await usedHeap()) - before) / count);
}

type Seat = ReturnType<ReturnType<typeof createApp>["chats"]["create"]>;

/** Creates chats with the given number of seats and a code, without HTTP. */
function fill(count: number, seats: number): { chats: ReturnType<typeof createApp>["chats"]; made: Seat[] } {
  const { chats } = createApp({ now: () => 1e12 });
  const made = Array.from({ length: count }, (_, number) => chats.create(NAME, `key ${number}`.padEnd(44), "address"));
  for (const { chat } of made.slice()) {
    while (chat.members.length < seats) {
      made.push(chats.join(chat, undefined, `key ${chat.id} ${chat.members.length}`.padEnd(44)));
    }
  }
  for (const { chat } of made) chats.renewCode(chat, 1e12);
  return { chats, made };
}

/** The longest valid name. */
const NAME = "\u{1f600}".repeat(24);

measure(
  "chats and their seats",
  "a chat of six with keys, addresses and a code stays within its bound",
  async (t, most) => {
    fill(10, 6);
    let kept: unknown;
    const each = await added(200, () => (kept = fill(200, 6)));
    t.diagnostic(`${each} bytes per chat of six`);
    assert.ok(kept !== undefined && each > 5_000 && each < most, `${each} bytes`);

    // Fill the server repeatedly, each chat from a different address. No memory remains in use after the chats expire.
    const server = await startServer(t, { trustProxy: true, maxChats: 200 });
    const fillServer = async (round: number): Promise<void> => {
      for (let number = 0; number < 200; number += 1) {
        const headers = {
          "X-Forwarded-For": `10.${round}.${number >> 8}.${number & 255}`,
          "Idempotency-Key": `a key of more than 22 characters ${round} ${number}`,
        };
        sessionOf(await server.create({}, headers));
      }
      assertError(await server.create({}, { "X-Forwarded-For": "203.0.113.9" }), "server_full");
      server.advanceAndSweep(7 * 3_600 * SECOND);
      assert.equal(server.app.chats.count().chats, 0);
    };
    await fillServer(0);
    const grown = (await added(1, () => fillServer(1))) + (await added(1, () => fillServer(2)));
    assert.ok(grown < 200_000, `${grown} bytes remain of 400 chats`);
  },
);

/** Posts messages from each seat, each with a key of 64 characters. */
function postMessages(chats: ReturnType<typeof createApp>["chats"], seats: Seat[], times: number): void {
  for (const seat of seats) {
    for (let number = 0; number < times; number += 1) {
      chats.post(seat, Buffer.from(LARGEST_MESSAGE).toString(), `${number} ${Math.random()}`.padEnd(64, "x"));
    }
  }
}

measure("messages of a chat", "only the last 30 are kept", async (t, most) => {
  const warm = fill(1, 1);
  postMessages(warm.chats, warm.made, 100);
  const { chats, made } = fill(5, 1);
  for (const seat of made)
    for (let count = 0; count < LIMITS.keysPerSeat; count += 1) chats.post(seat, "x", `${count}`.padEnd(64));
  const each = await added(5, () => postMessages(chats, made, LIMITS.keptMessages));
  const more = await added(5, () => postMessages(chats, made, 10 * LIMITS.keptMessages));
  t.diagnostic(`${each} bytes per chat, ${more} more after another 300 messages`);
  assert.ok(each > 200_000 && each < most && more < 20_000, `${each} and ${more} bytes`);
  assert.deepEqual([made[0]?.chat.messages.length, made[0]?.chat.messageIds.length], [30, 30]);
});

measure("message buckets of a chat", "leaving and joining again adds none", async (t, most) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite_token = await ana.inviteToken();
  const chat = server.app.chats.get(ana.chatId);
  assert.ok(chat);
  const joinAndLeave = async (): Promise<void> => {
    for (let count = 0; count < 20; count += 1) {
      const reply = sessionOf(await server.join(ana.chatId, { invite_token }));
      const member = new Member(server, reply);
      await member.say("x");
      await member.leave();
      server.advanceAndSweep(2 * SECOND);
    }
  };
  await joinAndLeave();
  const grown = await added(1, joinAndLeave);
  // Ana's seat, for the invitation, and the one that the others take in turn.
  assert.deepEqual(Object.keys(chat.messageBucketFullAt), ["1", "2"]);
  assert.ok(chat.messageBucketFullAt.length <= LIMITS.seats + 1 && grown < 100_000, `${grown} bytes`);
  assert.ok(8 * (LIMITS.seats + 1) <= most);
});

measure("idempotency keys of a seat", "only the last 256 are kept", async (t, most) => {
  const { chats, made } = fill(5, 1);
  postMessages(chats, made, LIMITS.keptMessages);
  const each = await added(5, () => postMessages(chats, made, LIMITS.keysPerSeat));
  const more = await added(5, () => postMessages(chats, made, 4 * LIMITS.keysPerSeat));
  t.diagnostic(`${each} bytes per seat, ${more} more with four times as many`);
  assert.ok(each > 50_000 && each < most && more < 10_000, `${each} and ${more} bytes`);
  assert.equal(made[0]?.postsByKey?.size, LIMITS.keysPerSeat);
});

measure(
  "waiting polls",
  "a seat has at most 32, and they are removed when their readers disconnect",
  async (t, most) => {
    const child = await Child.start(t, { rateLimit: false });
    const polls = async (count: number): Promise<string[]> => {
      const made: string[] = [];
      while (made.length < count) {
        const { chat_id: id, session_token: token } = sessionOf(await send({ port: child.port }, "POST", "/create"));
        for (let each = 0; each < LIMITS.pollsPerSeat; each += 1) {
          const browser = `browser=${id}${"x".repeat(40)}${each >> 2}`;
          made.push(get(`/${id}?since=latest&wait=50&${browser}`, `Authorization: Bearer ${token}\r\n`));
        }
        made.push(get(`/${id}?since=latest&wait=50`, `Authorization: Bearer ${token}\r\n`));
      }
      return made;
    };
    const sent = await polls(320);
    const seats = sent.length / (LIMITS.pollsPerSeat + 1);
    const opened = await openConnections(t, child, sent, ({ waiters }) => waiters === seats * LIMITS.pollsPerSeat);
    t.diagnostic(`${opened.each} bytes per poll with its connection`);
    assert.equal(opened.snapshot.waiters, seats * LIMITS.pollsPerSeat);
    assert.ok(opened.each > 2_000 && opened.each < most, `${opened.each} bytes`);
    await opened.close(({ waiters }) => waiters === 0);
  },
);

function get(path: string, lines = ""): string {
  return `GET ${path} HTTP/1.1\r\nHost: x\r\n${lines}\r\n`;
}

interface OpenConnections {
  /** Heap and buffers per connection, in bytes. */
  each: number;
  snapshot: Snapshot;
  /** Closes the connections and asserts that the server has freed their memory. */
  close(isFreed?: (snapshot: Snapshot) => boolean): Promise<void>;
}

/**
 * Opens a connection per text and sends the text, but reads no response. Takes the snapshot once the server has
 * received everything and the condition holds.
 */
async function openConnections(
  t: TestContext,
  child: Child,
  texts: string[],
  isReached: (snapshot: Snapshot) => boolean = () => true,
  isReadInFull = true,
): Promise<OpenConnections> {
  const before = await child.snapshot();
  const goal = isReadInFull ? texts.reduce((sum, text) => sum + text.length, before.received) : 0;
  const sockets = texts.map((text) => {
    const socket = connect({ port: child.port, host: "127.0.0.1" });
    socket.pause().on("error", () => {});
    socket.write(text, "latin1");
    return socket;
  });
  const destroyAll = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  t.after(destroyAll);
  const snapshot = await child.waitUntil((each) => each.received >= goal && isReached(each));
  assert.ok(snapshot.received >= goal, `${goal - snapshot.received} bytes have not arrived`);
  assert.deepEqual(snapshot.errors, []);
  const close = async (isFreed: (snapshot: Snapshot) => boolean = () => true): Promise<void> => {
    destroyAll();
    const rest = await child.waitUntil(({ connections, external, heap, ...more }) => {
      const isSmall = external < before.external + 2e6 && heap < before.heap + 3e6;
      return connections <= before.connections && isSmall && isFreed({ connections, external, heap, ...more });
    });
    assert.ok(rest.external < before.external + 2e6 && rest.heap < before.heap + 3e6, "the memory is free again");
    assert.ok(rest.connections <= before.connections && isFreed(rest));
  };
  return { each: sizeOf(snapshot, before, texts.length), snapshot, close };
}

function sizeOf(after: Snapshot, before: Snapshot, count: number): number {
  return Math.round((after.heap + after.external - before.heap - before.external) / count);
}

measure("rate limits per address", "at most 65,536 are kept", async (t, most) => {
  // The server's clock is stopped, so that no bucket is full again.
  const server = await startServer(t, { trustProxy: true });
  const sizes: number[] = [];
  let sent = 0;
  for (const upTo of [1_000, LIMITS.countedAddresses + 1_000, 2 * LIMITS.countedAddresses]) {
    await pipeline(server.port, upTo - sent, () => {
      sent += 1;
      const address = `2001:db8:${(sent >> 12).toString(16)}:${(sent & 4_095).toString(16)}::1`;
      return get(`/${"A".repeat(16)}`, `Authorization: x\r\nX-Forwarded-For: ${address}\r\n`);
    });
    sizes.push(await usedHeap());
  }
  const [none = 0, full = 0, twice = 0] = sizes;
  t.diagnostic(JSON.stringify({ "bytes of a full table": full - none, "more with twice as many": twice - full }));
  assert.ok(full - none > 2_000_000 && full - none < most, `${full - none} bytes`);
  assert.ok(twice - full < 2_000_000, `grown by ${twice - full} bytes`);
});

/** Pipelined requests per connection, few enough for the limit. The server counts about 2 kB for each. */
const PIPELINED = 40;

/** Sends requests on one connection. Returns once almost all have a response. */
async function pipeline(port: number, count: number, request: () => string): Promise<void> {
  const socket = connect({ port, host: "127.0.0.1" });
  let answers = 0;
  socket.on("data", (part: Buffer) => (answers += part.toString("latin1").split("HTTP/1.1 ").length - 1));
  socket.on("error", () => {});
  for (let sent = 0; sent < count;) {
    const batch = Math.min(PIPELINED / 2, count - sent);
    sent += batch;
    socket.write(Array.from({ length: batch }, request).join(""));
    const goal = sent - PIPELINED / 4;
    await until(() => answers >= goal || socket.destroyed, "responses");
    assert.ok(!socket.destroyed);
  }
  socket.destroy();
}

measure("error counters", "there is at most one per error code", async (t, most) => {
  const server = await startServer(t, { metrics: true, rateLimit: false });
  const samples = async (): Promise<string[]> => {
    const { text } = await server.send("GET", "/metrics");
    return text.split("\n").filter((line) => line.startsWith("watch_party_refused_total{"));
  };
  for (const path of ["/x", "/y", "/z/1", "/create?x", `/${"A".repeat(16)}`, `/${"B".repeat(16)}`]) {
    for (const method of ["GET", "POST", "PUT", "PURGE"]) await server.send(method, path, { body: "{" });
  }
  const shown = await samples();
  assert.ok(shown.length > 2 && shown.length <= Object.keys(STATUS).length, shown.join("\n"));
  assert.ok(shown.join("").length < most);
});

measure("open connections", "an idle one stays within its bound and is freed when it closes", async (t, most) => {
  const child = await Child.start(t);
  const opened = await openConnections(
    t,
    child,
    Array.from({ length: 1_000 }, () => get("/healthz")),
  );
  t.diagnostic(`${opened.each} bytes per connection`);
  assert.equal(opened.snapshot.connections, 1_000);
  assert.ok(opened.each > 1_000 && opened.each < most, `${opened.each} bytes`);
  await opened.close();
});

/** Returns a head of 16,000 bytes with the given number of headers, but without the empty line that ends it. */
function head(first: string, headers: number): string {
  const length = Math.floor(16_000 / headers) - 10;
  const lines = Array.from({ length: headers - 1 }, (_, index) =>
    `a${index}: ${"b".repeat(length)}\r\n`.slice(-length - 9),
  );
  return `${first} HTTP/1.1\r\nHost: x\r\n${lines.join("")}`;
}

/** Timeouts long enough for a request that arrives in many small pieces. */
const LONG_TIMEOUTS = { rateLimit: false, headersTimeout: 600 * SECOND, requestTimeout: 600 * SECOND };

measure("incomplete headers", "a request takes little more memory than it has sent", async (t, most) => {
  const child = await Child.start(t, LONG_TIMEOUTS);
  for (const [name, text] of [
    ["one of 16 kB", head("GET /", 2)],
    ["100 in 16 kB", head("GET /", 100)],
    // The server rejects more headers than this before the request is complete.
    ["100 short ones", `GET / HTTP/1.1\r\nHost: x\r\n${"a: b\r\n".repeat(100)}`],
  ] as const) {
    const opened = await openConnections(
      t,
      child,
      Array.from({ length: 100 }, () => text),
      ({ connections }) => connections === 100,
    );
    t.diagnostic(`${name}: ${opened.each} bytes`);
    assert.equal(opened.snapshot.connections, 100, name);
    assert.ok(opened.each < most, `${name}: ${opened.each} bytes`);
    await opened.close();
  }
});

measure(
  "incomplete bodies",
  "one takes at most 32 KiB and its headers, even in chunks of one byte",
  async (t, most) => {
    const child = await Child.start(t, LONG_TIMEOUTS);
    for (const [name, text] of [
      ["in one piece", `${head("POST /create", 99)}Content-Length: 32768\r\n\r\n${" ".repeat(32_767)}`],
      [
        "in chunks of one byte",
        `${head("POST /create", 99)}Transfer-Encoding: chunked\r\n\r\n${"1\r\n \r\n".repeat(32_767)}`,
      ],
    ] as const) {
      const opened = await openConnections(
        t,
        child,
        Array.from({ length: 20 }, () => text),
        ({ connections }) => connections === 20,
      );
      t.diagnostic(`${name}: ${opened.each} bytes`);
      assert.equal(opened.snapshot.connections, 20);
      assert.ok(opened.each > 32_000 && opened.each < most, `${name}: ${opened.each} bytes`);
      await opened.close();
    }
  },
);

measure("the body of a waiting poll", "it is discarded, even in chunks of one byte", async (t, most) => {
  const child = await Child.start(t, LONG_TIMEOUTS);
  const { chat_id: id, session_token: token } = sessionOf(await send({ port: child.port }, "POST", "/create"));
  for (const accept of ["application/json", "application/x-ndjson"]) {
    const lines = `Authorization: Bearer ${token}\r\nAccept: ${accept}\r\nTransfer-Encoding: chunked\r\n`;
    const text = `${get(`/${id}?since=latest&wait=50`, lines)}${"1\r\nx\r\n".repeat(60_000)}0\r\n\r\n`;
    const opened = await openConnections(t, child, Array<string>(10).fill(text), ({ waiters }) => waiters === 10);
    t.diagnostic(`${accept}: ${opened.each} bytes`);
    assert.equal(opened.snapshot.waiters, 10);
    assert.ok(opened.each < most, `${accept}: ${opened.each} bytes`);
    await opened.close(({ waiters }) => waiters === 0);
  }
});

measure("pipelined requests", "whatever their headers, they stay within the bound", async (t, most) => {
  const child = await Child.start(t, LONG_TIMEOUTS);
  const { chat_id: id, session_token: token } = sessionOf(await send({ port: child.port }, "POST", "/create"));
  const first = get(`/${id}?since=latest&wait=50&browser=`, `Authorization: Bearer ${token}\r\n`);
  const short = "a: b\r\n".repeat(98);
  const distinct = Array.from({ length: 98 }, (_, index) => `a${index}:b\r\n`).join("");
  for (const [name, request, weight] of [
    ["without headers", get("/"), 1_536 + 1 + 2 * 32 + 5],
    ["with 100 short headers", get("/", short), 1_536 + 1 + 99 * 64 + 5 + 2 * 98],
    ["with 100 names", get("/", distinct), 1_536 + 1 + 99 * 64 + 5 + 98 * 4],
    ["with 16 kB in 100 headers", `${head("GET /", 99)}\r\n`, 1_536 + 16_000 + 99 * 64],
    ["with a long path", get(`/${"x".repeat(15_000)}`), 1_536 + 15_001 + 69],
  ] as const) {
    const text = first + request.repeat(Math.floor(LIMITS.queuedBytes / weight));
    const count = LIMITS.pollsPerSeat;
    const opened = await openConnections(
      t,
      child,
      Array.from({ length: count }, () => text),
      ({ waiters }) => waiters === count,
    );
    t.diagnostic(`${name}: ${opened.each} bytes, counted as ${LIMITS.queuedBytes}`);
    assert.equal(opened.snapshot.waiters, count, name);
    assert.ok(opened.each > LIMITS.queuedBytes / 4 && opened.each < most, `${name}: ${opened.each} bytes`);
    await opened.close(({ waiters }) => waiters === 0);
  }
});

test("one connection has at most one waiting poll, however many it sends", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const socket = connect({ port: server.port, host: "127.0.0.1" });
  t.after(() => socket.destroy());
  socket.on("error", () => {});
  const poll = get(`/${ana.chatId}?since=latest&wait=50`, `Authorization: Bearer ${ana.token}\r\n`);
  socket.write(poll.repeat(PIPELINED));
  await until(() => server.app.chats.count().waiters > 0, "the first poll to wait");
  await ana.read();
  assert.equal(server.app.chats.count().waiters, 1);
  for (let batch = 0; batch < 20; batch += 1) socket.write(poll.repeat(500));
  await until(() => socket.closed, "the connection to close");
  await until(() => server.app.chats.count().waiters === 0, "the poll to be removed");
});

measure(
  "a response being written",
  "a connection holds one, and closes after 75 s without progress",
  async (t, most) => {
    const child = await Child.start(t, { rateLimit: false, isClockStopped: true });
    const target = { port: child.port };
    const { chat_id: id, session_token: token } = sessionOf(await send(target, "POST", "/create"));
    for (let count = 0; count < LIMITS.keptMessages; count += 1) {
      await send(target, "POST", `/${id}`, { token, body: { text: LARGEST_MESSAGE } });
    }
    const text = get(`/${id}`, `Authorization: Bearer ${token}\r\n`).repeat(60);
    const idle = await child.snapshot();
    const opened = await openConnections(t, child, Array<string>(20).fill(text), undefined, false);
    const full = await child.waitUntilQuiet();
    const each = sizeOf(full, idle, 20);
    t.diagnostic(`${each} bytes per connection, without the socket buffers of the system`);
    assert.ok(full.connections >= 20);
    assert.ok(each > 200_000 && each < most, `${each} bytes`);
    await child.pass(LIMITS.unreadMs - 1);
    assert.ok((await child.snapshot()).connections >= 20, "none has closed early");
    await child.pass(1);
    assert.equal((await child.waitUntil(({ connections }) => connections === 0)).connections, 0);
    await opened.close();
  },
);

measure("lines of a stream", "a reader that takes none costs at most one response", async (t, most) => {
  const child = await Child.start(t, { rateLimit: false, isClockStopped: true });
  const target = { port: child.port };
  const { chat_id: id, session_token: token } = sessionOf(await send(target, "POST", "/create"));
  const post = (): Promise<unknown> => send(target, "POST", `/${id}`, { token, body: { text: LARGEST_MESSAGE } });
  for (let count = 0; count < LIMITS.keptMessages; count += 1) await post();
  const stream = get(`/${id}?since=latest`, `Authorization: Bearer ${token}\r\nAccept: application/x-ndjson\r\n`);
  const opened = await openConnections(t, child, [stream, stream, stream], ({ waiters }) => waiters === 3);
  const before = await child.snapshot();
  for (let count = 0; count < 1_000; count += 1) await post();
  const full = await child.waitUntilQuiet();
  const each = sizeOf(full, before, 3);
  t.diagnostic(`${each} bytes per stream`);
  assert.ok(full.written < 3 * 1_000 * LIMITS.messageBytes, "the readers have not taken everything");
  assert.ok(each < most, `${each} bytes`);
  await child.pass(0);
  await child.pass(LIMITS.unreadMs);
  assert.equal((await child.waitUntil(({ waiters }) => waiters === 0)).waiters, 0, "the streams have closed");
  await opened.close();
});

measure("discarded bodies", "nothing of one is kept", async (t, most) => {
  const child = await Child.start(t, LONG_TIMEOUTS);
  const large = `POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n${" ".repeat(900_000)}`;
  const before = await child.snapshot();
  const sockets = Array.from({ length: 30 }, () => connect({ port: child.port, host: "127.0.0.1" }));
  const ended = sockets.map((socket) => once(socket.on("error", () => {}).resume(), "close"));
  for (const socket of sockets) socket.write(large);
  // The server has sent its responses and keeps reading for up to a second (lingering close).
  await Promise.all(sockets.map((socket) => once(socket, "data")));
  const each = sizeOf(await child.snapshot(), before, sockets.length);
  t.diagnostic(`${each} bytes per connection`);
  assert.ok(each < most, `${each} bytes`);
  await Promise.all(ended);
  assert.equal((await child.waitUntil(({ connections }) => connections === 0)).connections, 0);
});

measure("stalled TLS handshakes", "one stays within its bound", async (t, most) => {
  const child = await Child.start(t, { tls: true });
  const opened = await openConnections(
    t,
    child,
    Array.from({ length: 100 }, () => "\x16\x03\x01\x3f\xff\x01"),
    ({ connections }) => connections === 100,
  );
  const resident = Math.round(opened.snapshot.resident / 100);
  t.diagnostic(`${opened.each} bytes of heap and buffers; the whole process is ${resident * 100} bytes`);
  assert.equal(opened.snapshot.connections, 100);
  assert.ok(opened.each < most, `${opened.each} bytes`);
  await opened.close();
});

test("concurrent requests create exactly --max-chats chats, and as many again once those have ended", async (t) => {
  const server = await startServer(t, { maxChats: 10, rateLimit: false });
  for (let round = 0; round < 5; round += 1) {
    const replies = await Promise.all(Array.from({ length: 60 }, () => server.create()));
    const made = replies.filter(({ status }) => status === 201).map((reply) => sessionOf(reply));
    assert.equal(made.length, 10);
    for (const reply of replies.filter(({ status }) => status !== 201)) assertError(reply, "server_full");
    if (round % 2 === 0) server.advanceAndSweep(7 * 3_600 * SECOND);
    else {
      const ends = made.map((each) => server.send("DELETE", `/${each.chat_id}`, { token: each.session_token }));
      await Promise.all(ends);
    }
    assert.equal(server.app.chats.count().chats, 0);
  }
});

for (const trustProxy of [false, true]) {
  test(`${trustProxy ? "behind" : "without"} a proxy, forging X-Forwarded-For does not evade the limit`, async (t) => {
    const server = await startServer(t, { trustProxy });
    const values = [
      "1.2.3.4",
      "::1",
      "[::1]:5",
      "1.2.3.4:5",
      "for=1.2.3.4",
      "unknown",
      "",
      " ",
      "::ffff:9.9.9.9",
      "\t8.8.8.8",
    ];
    let made = 0;
    for (let count = 0; count < 200; count += 1) {
      const forged = Array.from({ length: count % 7 }, (_, index) => values[(count * 3 + index) % values.length]).join(
        ",",
      );
      // A proxy appends the address of its peer.
      const header = trustProxy ? `${forged}, 203.0.113.7` : `${forged},10.0.${count}.1`;
      const reply = await server.create({}, { "X-Forwarded-For": header });
      if (reply.status === 201) made += 1;
      else assertError(reply, "rate_limited");
    }
    assert.equal(made, 60);
  });
}
