// Measures how much one seat, one chat, one connection and all addresses together can make the server hold: a test for
// each row of the table in docs/architecture.md.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import test, { type TestContext } from "node:test";
import { createApp, LIMITS } from "../../server.ts";
import { assertError, at, Member, SECOND, send, sessionOf, startServer, STATUS, until } from "../lib/helpers.ts";
import { Child, type Look } from "./child.ts";
import { usedHeap } from "./tools.ts";

/** The rows of the table "What can grow" in docs/architecture.md: each structure with its bound in bytes. */
const ROWS = readRows();
const measured: string[] = [];

/** A test that measures one row of that table: `structure` is how the row begins. */
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

/** Each row's structure (what precedes its code names) and the first size of its bound, for example "1.2 MB". */
function readRows(): Map<string, number> {
  const text = readFileSync(new URL("../../docs/architecture.md", import.meta.url), "utf8");
  const section = text.split("\n## ").find((each) => each.startsWith("What can grow")) ?? "";
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

test("each row of the table of what can grow is measured here, and nothing else claims to be", () => {
  assert.deepEqual([...ROWS.keys()], measured);
  for (const [structure, bytes] of ROWS) assert.ok(bytes > 0, `${structure}: the bound names no size`);
});

/** The message that takes most: each quote is two in JSON, and one mark makes all characters two bytes. */
const FATTEST = `${'"'.repeat(1_990)}${"\u0301".repeat((LIMITS.messageBytes - 1_990) / 2)}`;

/** The bytes per item that `make` adds to this process. */
async function added(count: number, make: () => unknown): Promise<number> {
  const before = await usedHeap();
  await make();
  return Math.round(((await usedHeap()) - before) / count);
}

type Seat = ReturnType<ReturnType<typeof createApp>["chats"]["create"]>;

/** So many chats, each with so many seats, without HTTP. */
function fill(count: number, seats: number): { chats: ReturnType<typeof createApp>["chats"]; made: Seat[] } {
  const { chats } = createApp({ now: () => 1e12 });
  const made = Array.from({ length: count }, (_, number) => chats.create(NAME, `key ${number}`.padEnd(44), "address"));
  for (const { chat } of made.slice()) {
    while (chat.members.length < seats) {
      made.push(chats.join(chat, undefined, `key ${chat.id} ${chat.members.length}`.padEnd(44)));
    }
  }
  return { chats, made };
}

/** The longest name there is. */
const NAME = "\u{1f600}".repeat(24);

measure("chats and their seats", "a chat of six with keys and addresses has a bounded size", async (t, most) => {
  fill(10, 6);
  let kept: unknown;
  const each = await added(200, () => (kept = fill(200, 6)));
  t.diagnostic(`${each} bytes per chat of six`);
  assert.ok(kept !== undefined && each > 5_000 && each < most, `${each} bytes`);

  // The server is full twice, each chat from another address, and nothing is left when their time is over.
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
    server.pass(7 * 3_600 * SECOND);
    assert.equal(server.app.chats.count().chats, 0);
  };
  await fillServer(0);
  const grown = (await added(1, () => fillServer(1))) + (await added(1, () => fillServer(2)));
  assert.ok(grown < 200_000, `${grown} bytes are left of 400 chats`);
});

/** Posts so often from each seat, each time with a key of 64 characters. */
function say(chats: ReturnType<typeof createApp>["chats"], seats: Seat[], times: number): void {
  for (const seat of seats) {
    for (let number = 0; number < times; number += 1) {
      chats.post(seat, Buffer.from(FATTEST).toString(), `${number} ${Math.random()}`.padEnd(64, "x"));
    }
  }
}

measure("the messages of a chat", "30 of the largest are kept, however many are posted", async (t, most) => {
  const warm = fill(1, 1);
  say(warm.chats, warm.made, 100);
  const { chats, made } = fill(5, 1);
  for (const seat of made)
    for (let count = 0; count < LIMITS.keysPerSeat; count += 1) chats.post(seat, "x", `${count}`.padEnd(64));
  const each = await added(5, () => say(chats, made, LIMITS.keptMessages));
  const more = await added(5, () => say(chats, made, 10 * LIMITS.keptMessages));
  t.diagnostic(`${each} bytes per chat, ${more} more after 300 further messages`);
  assert.ok(each > 200_000 && each < most && more < 20_000, `${each} and ${more} bytes`);
  assert.deepEqual([made[0]?.chat.messages.length, made[0]?.chat.messageIds.length], [30, 30]);
});

measure("the message buckets of a chat", "there are six, however often people leave and join", async (t, most) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const invite_token = await ana.inviteToken();
  const chat = server.app.chats.get(ana.chatId);
  assert.ok(chat);
  const comeAndGo = async (): Promise<void> => {
    for (let count = 0; count < 20; count += 1) {
      const reply = sessionOf(await server.join(ana.chatId, { invite_token }));
      const member = new Member(server, reply);
      await member.say("x");
      await member.leave();
      server.pass(2 * SECOND);
    }
  };
  await comeAndGo();
  const grown = await added(1, comeAndGo);
  assert.deepEqual(chat.messageBucketFullAt.filter(() => true).length, 1);
  assert.ok(chat.messageBucketFullAt.length <= LIMITS.seats + 1 && grown < 100_000, `${grown} bytes`);
  assert.ok(8 * (LIMITS.seats + 1) <= most);
});

measure("the keys of a seat's posts", "256 are kept, however many are sent", async (t, most) => {
  const { chats, made } = fill(5, 1);
  say(chats, made, LIMITS.keptMessages);
  const each = await added(5, () => say(chats, made, LIMITS.keysPerSeat));
  const more = await added(5, () => say(chats, made, 4 * LIMITS.keysPerSeat));
  t.diagnostic(`${each} bytes per seat, ${more} more with four times as many`);
  assert.ok(each > 50_000 && each < most && more < 10_000, `${each} and ${more} bytes`);
  assert.equal(made[0]?.postsByKey?.size, LIMITS.keysPerSeat);
});

measure(
  "held polls",
  "a seat holds 32, each has a bounded size, and they are forgotten with their readers",
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
    const held = await hold(t, child, sent, ({ waiting }) => waiting === seats * LIMITS.pollsPerSeat);
    t.diagnostic(`${held.each} bytes per poll with its connection`);
    assert.equal(held.look.waiting, seats * LIMITS.pollsPerSeat);
    assert.ok(held.each > 2_000 && held.each < most, `${held.each} bytes`);
    await held.release(({ waiting }) => waiting === 0);
  },
);

function get(path: string, lines = ""): string {
  return `GET ${path} HTTP/1.1\r\nHost: x\r\n${lines}\r\n`;
}

interface Holding {
  /** Heap and buffers per connection, in bytes. */
  each: number;
  look: Look;
  /** Ends the connections and sees that nothing of them is left. */
  release(isGone?: (look: Look) => boolean): Promise<void>;
}

/** Opens a connection per text and reads none of the answers; measures when all has arrived and is held as it should. */
async function hold(
  t: TestContext,
  child: Child,
  texts: string[],
  isHeld: (look: Look) => boolean = () => true,
  isReadInFull = true,
): Promise<Holding> {
  const before = await child.look();
  const goal = isReadInFull ? texts.reduce((sum, text) => sum + text.length, before.received) : 0;
  const sockets = texts.map((text) => {
    const socket = connect({ port: child.port, host: "127.0.0.1" });
    socket.pause().on("error", () => {});
    socket.write(text, "latin1");
    return socket;
  });
  const end = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  t.after(end);
  const look = await child.lookUntil((each) => each.received >= goal && isHeld(each));
  assert.ok(look.received >= goal, `${goal - look.received} bytes have not arrived`);
  assert.deepEqual(look.errors, []);
  const release = async (isGone: (look: Look) => boolean = () => true): Promise<void> => {
    end();
    const rest = await child.lookUntil(({ connections, external, heap, ...more }) => {
      const isSmall = external < before.external + 2e6 && heap < before.heap + 3e6;
      return connections <= before.connections && isSmall && isGone({ connections, external, heap, ...more });
    });
    assert.ok(rest.external < before.external + 2e6 && rest.heap < before.heap + 3e6, "nothing of it is left");
    assert.ok(rest.connections <= before.connections && isGone(rest));
  };
  return { each: sizeOf(look, before, texts.length), look, release };
}

function sizeOf(after: Look, before: Look, count: number): number {
  return Math.round((after.heap + after.external - before.heap - before.external) / count);
}

measure("the counts of addresses", "there are 65,536, however many addresses there are", async (t, most) => {
  // Its clock stands still, so that nobody's count is over.
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

/** Requests that wait on one connection without weighing too much: the server counts some 2 kB for one. */
const FEW = 40;

/** So many requests on one connection; returns when the last is answered. */
async function pipeline(port: number, count: number, request: () => string): Promise<void> {
  const socket = connect({ port, host: "127.0.0.1" });
  let answers = 0;
  socket.on("data", (part: Buffer) => (answers += part.toString("latin1").split("HTTP/1.1 ").length - 1));
  socket.on("error", () => {});
  for (let sent = 0; sent < count;) {
    const batch = Math.min(FEW / 2, count - sent);
    sent += batch;
    socket.write(Array.from({ length: batch }, request).join(""));
    const goal = sent - FEW / 4;
    await until(() => answers >= goal || socket.destroyed, "answers");
    assert.ok(!socket.destroyed);
  }
  socket.destroy();
}

measure("the counts of errors", "there is one per error code, whatever is sent", async (t, most) => {
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

measure("open connections", "an idle one has a bounded size, and nothing is left of it", async (t, most) => {
  const child = await Child.start(t);
  const held = await hold(
    t,
    child,
    Array.from({ length: 1_000 }, () => get("/healthz")),
  );
  t.diagnostic(`${held.each} bytes per connection`);
  assert.equal(held.look.connections, 1_000);
  assert.ok(held.each > 1_000 && held.each < most, `${held.each} bytes`);
  await held.release();
});

/** 16,000 bytes in so many headers, without the empty line that ends them. */
function head(first: string, headers: number): string {
  const length = Math.floor(16_000 / headers) - 10;
  const lines = Array.from({ length: headers - 1 }, (_, index) =>
    `a${index}: ${"b".repeat(length)}\r\n`.slice(-length - 9),
  );
  return `${first} HTTP/1.1\r\nHost: x\r\n${lines.join("")}`;
}

/** In how many pieces the bytes of a request may come. */
const PATIENT = { rateLimit: false, headersTimeout: 600 * SECOND, requestTimeout: 600 * SECOND };

measure("headers that are still coming", "they take what they have sent and a little per header", async (t, most) => {
  const child = await Child.start(t, PATIENT);
  for (const [name, text] of [
    ["one of 16 kB", head("GET /", 2)],
    ["100 in 16 kB", head("GET /", 100)],
    // The server refuses more of them before the rest of the request has come.
    ["100 short ones", `GET / HTTP/1.1\r\nHost: x\r\n${"a: b\r\n".repeat(100)}`],
  ] as const) {
    const held = await hold(
      t,
      child,
      Array.from({ length: 100 }, () => text),
      ({ connections }) => connections === 100,
    );
    t.diagnostic(`${name}: ${held.each} bytes`);
    assert.equal(held.look.connections, 100, name);
    assert.ok(held.each < most, `${name}: ${held.each} bytes`);
    await held.release();
  }
});

measure(
  "a body that is still coming",
  "it takes 32 KiB and its headers, in whatever pieces it comes",
  async (t, most) => {
    const child = await Child.start(t, PATIENT);
    for (const [name, text] of [
      ["in one piece", `${head("POST /create", 99)}Content-Length: 32768\r\n\r\n${" ".repeat(32_767)}`],
      [
        "in chunks of one byte",
        `${head("POST /create", 99)}Transfer-Encoding: chunked\r\n\r\n${"1\r\n \r\n".repeat(32_767)}`,
      ],
    ] as const) {
      const held = await hold(
        t,
        child,
        Array.from({ length: 20 }, () => text),
        ({ connections }) => connections === 20,
      );
      t.diagnostic(`${name}: ${held.each} bytes`);
      assert.equal(held.look.connections, 20);
      assert.ok(held.each > 32_000 && held.each < most, `${name}: ${held.each} bytes`);
      await held.release();
    }
  },
);

measure("the body of a held poll", "it is discarded, in whatever pieces it comes", async (t, most) => {
  const child = await Child.start(t, PATIENT);
  const { chat_id: id, session_token: token } = sessionOf(await send({ port: child.port }, "POST", "/create"));
  for (const accept of ["application/json", "application/x-ndjson"]) {
    const lines = `Authorization: Bearer ${token}\r\nAccept: ${accept}\r\nTransfer-Encoding: chunked\r\n`;
    const text = `${get(`/${id}?since=latest&wait=50`, lines)}${"1\r\nx\r\n".repeat(60_000)}0\r\n\r\n`;
    const held = await hold(t, child, Array<string>(10).fill(text), ({ waiting }) => waiting === 10);
    t.diagnostic(`${accept}: ${held.each} bytes`);
    assert.equal(held.look.waiting, 10);
    assert.ok(held.each < most, `${accept}: ${held.each} bytes`);
    await held.release(({ waiting }) => waiting === 0);
  }
});

measure("requests that wait for their turn", "what they hold is bounded, whatever they look like", async (t, most) => {
  const child = await Child.start(t, PATIENT);
  const { chat_id: id, session_token: token } = sessionOf(await send({ port: child.port }, "POST", "/create"));
  const first = get(`/${id}?since=latest&wait=50&browser=`, `Authorization: Bearer ${token}\r\n`);
  const short = "a: b\r\n".repeat(98);
  const own = Array.from({ length: 98 }, (_, index) => `a${index}:b\r\n`).join("");
  for (const [name, request, weight] of [
    ["without headers", get("/"), 1_536 + 1 + 2 * 32 + 5],
    ["with 100 short headers", get("/", short), 1_536 + 1 + 99 * 64 + 5 + 2 * 98],
    ["with 100 names", get("/", own), 1_536 + 1 + 99 * 64 + 5 + 98 * 4],
    ["with 16 kB in 100 headers", `${head("GET /", 99)}\r\n`, 1_536 + 16_000 + 99 * 64],
    ["with a long path", get(`/${"x".repeat(15_000)}`), 1_536 + 15_001 + 69],
  ] as const) {
    const text = first + request.repeat(Math.floor(LIMITS.queuedBytes / weight));
    const count = LIMITS.pollsPerSeat;
    const held = await hold(
      t,
      child,
      Array.from({ length: count }, () => text),
      ({ waiting }) => waiting === count,
    );
    t.diagnostic(`${name}: ${held.each} bytes, weighed as ${LIMITS.queuedBytes}`);
    assert.equal(held.look.waiting, count, name);
    assert.ok(held.each > LIMITS.queuedBytes / 4 && held.each < most, `${name}: ${held.each} bytes`);
    await held.release(({ waiting }) => waiting === 0);
  }
});

test("one connection cannot have more polls held than one, however many it sends", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const socket = connect({ port: server.port, host: "127.0.0.1" });
  t.after(() => socket.destroy());
  socket.on("error", () => {});
  const poll = get(`/${ana.chatId}?since=latest&wait=50`, `Authorization: Bearer ${ana.token}\r\n`);
  socket.write(poll.repeat(FEW));
  await until(() => server.app.chats.count().waiters > 0, "the first to be held");
  await ana.read();
  assert.equal(server.app.chats.count().waiters, 1);
  for (let batch = 0; batch < 20; batch += 1) socket.write(poll.repeat(500));
  await until(() => socket.closed, "its end");
  await until(() => server.app.chats.count().waiters === 0, "the poll to be forgotten");
});

measure(
  "an answer that is being written",
  "one per connection, as large as a full chat, until 75 s pass",
  async (t, most) => {
    const child = await Child.start(t, { rateLimit: false, isClockStill: true });
    const target = { port: child.port };
    const { chat_id: id, session_token: token } = sessionOf(await send(target, "POST", "/create"));
    for (let count = 0; count < LIMITS.keptMessages; count += 1) {
      await send(target, "POST", `/${id}`, { token, body: { text: FATTEST } });
    }
    const text = get(`/${id}`, `Authorization: Bearer ${token}\r\n`).repeat(60);
    const idle = await child.look();
    const held = await hold(t, child, Array<string>(20).fill(text), undefined, false);
    const full = await child.standstill();
    const each = sizeOf(full, idle, 20);
    t.diagnostic(`${each} bytes per connection besides what the system has taken`);
    assert.ok(full.connections >= 20);
    assert.ok(each > 200_000 && each < most, `${each} bytes`);
    await child.pass(LIMITS.unreadMs - 1);
    assert.ok((await child.look()).connections >= 20, "none has ended early");
    await child.pass(1);
    assert.equal((await child.lookUntil(({ connections }) => connections === 0)).connections, 0);
    await held.release();
  },
);

measure("the lines of a stream", "a reader who takes none of them costs one answer", async (t, most) => {
  const child = await Child.start(t, { rateLimit: false, isClockStill: true });
  const target = { port: child.port };
  const { chat_id: id, session_token: token } = sessionOf(await send(target, "POST", "/create"));
  const post = (): Promise<unknown> => send(target, "POST", `/${id}`, { token, body: { text: FATTEST } });
  for (let count = 0; count < LIMITS.keptMessages; count += 1) await post();
  const stream = get(`/${id}?since=latest`, `Authorization: Bearer ${token}\r\nAccept: application/x-ndjson\r\n`);
  const held = await hold(t, child, [stream, stream, stream], ({ waiting }) => waiting === 3);
  const before = await child.look();
  for (let count = 0; count < 1_000; count += 1) await post();
  const full = await child.standstill();
  const each = sizeOf(full, before, 3);
  t.diagnostic(`${each} bytes per stream`);
  assert.ok(full.taken < 3 * 1_000 * LIMITS.messageBytes, "the readers took everything");
  assert.ok(each < most, `${each} bytes`);
  await child.pass(0);
  await child.pass(LIMITS.unreadMs);
  assert.equal((await child.lookUntil(({ waiting }) => waiting === 0)).waiting, 0, "they have ended");
  await held.release();
});

measure("a body that is discarded", "nothing of it is kept", async (t, most) => {
  const child = await Child.start(t, PATIENT);
  const large = `POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n${" ".repeat(900_000)}`;
  const before = await child.look();
  const sockets = Array.from({ length: 30 }, () => connect({ port: child.port, host: "127.0.0.1" }));
  const ended = sockets.map((socket) => once(socket.on("error", () => {}).resume(), "close"));
  for (const socket of sockets) socket.write(large);
  // The answers have been given and the connections linger for a second.
  await Promise.all(sockets.map((socket) => once(socket, "data")));
  const each = sizeOf(await child.look(), before, sockets.length);
  t.diagnostic(`${each} bytes per connection`);
  assert.ok(each < most, `${each} bytes`);
  await Promise.all(ended);
  assert.equal((await child.lookUntil(({ connections }) => connections === 0)).connections, 0);
});

measure("a TLS handshake that stalls", "it has a bounded size", async (t, most) => {
  const child = await Child.start(t, { tls: true });
  const held = await hold(
    t,
    child,
    Array.from({ length: 100 }, () => "\x16\x03\x01\x3f\xff\x01"),
    ({ connections }) => connections === 100,
  );
  const resident = Math.round(held.look.resident / 100);
  t.diagnostic(`${held.each} bytes of heap and buffers; the whole process is ${resident * 100} bytes`);
  assert.equal(held.look.connections, 100);
  assert.ok(held.each < most, `${held.each} bytes`);
  await held.release();
});

test("however many ask at once, a server makes as many chats as it may, and again when they are over", async (t) => {
  const server = await startServer(t, { maxChats: 10, rateLimit: false });
  for (let round = 0; round < 5; round += 1) {
    const replies = await Promise.all(Array.from({ length: 60 }, () => server.create()));
    const made = replies.filter(({ status }) => status === 201).map((reply) => sessionOf(reply));
    assert.equal(made.length, 10);
    for (const reply of replies.filter(({ status }) => status !== 201)) assertError(reply, "server_full");
    if (round % 2 === 0) server.pass(7 * 3_600 * SECOND);
    else {
      const ends = made.map((each) => server.send("DELETE", `/${each.chat_id}`, { token: each.session_token }));
      await Promise.all(ends);
    }
    assert.equal(server.app.chats.count().chats, 0);
  }
});

for (const trustProxy of [false, true]) {
  test(`${trustProxy ? "behind" : "without"} a proxy no X-Forwarded-For of one's own makes one somebody else`, async (t) => {
    const server = await startServer(t, { trustProxy });
    const words = [
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
      const own = Array.from({ length: count % 7 }, (_, index) => words[(count * 3 + index) % words.length]).join(",");
      // What a proxy makes of it: it appends the address that it sees.
      const header = trustProxy ? `${own}, 203.0.113.7` : `${own},10.0.${count}.1`;
      const reply = await server.create({}, { "X-Forwarded-For": header });
      if (reply.status === 201) made += 1;
      else assertError(reply, "rate_limited");
    }
    assert.equal(made, 60);
  });
}
