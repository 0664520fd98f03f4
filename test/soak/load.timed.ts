// Load tests. They measure time, so they run without other tests in parallel.
//
// Ten thousand readers in two thousand chats receive messages immediately, even while slow clients attack the server.
// They leave no memory in use when they disconnect. A busy chat does not delay other chats. Open connections keep
// working when the process runs out of file descriptors.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { LIMITS } from "../../server.ts";
import { at, invitationOf, LOCAL, Program, record, SECOND, send, stringOf, until } from "../lib/helpers.ts";
import { Child } from "./child.ts";
import { Line } from "./tools.ts";

const CHATS = 2_000;
const READERS_PER_CHAT = 5;
const SLOW_CLIENTS = 500;
const ROUNDS = 3;
const ROUND = 5 * SECOND;
/** Messages per second, each delivered to five readers. */
const RATE = 100;
const MEGABYTE = 1_048_576;

interface Member {
  chatId: string;
  token: string;
}

test("10,000 readers get each message within 100 ms and leave no memory in use", { timeout: 120_000 }, async (t) => {
  const chats = Math.min(CHATS, Math.floor((openFiles() - SLOW_CLIENTS - 500) / READERS_PER_CHAT));
  t.diagnostic(`${chats} chats, because this system allows ${openFiles()} open files per process`);
  const child = await Child.start(t, { rateLimit: false, maxChats: chats });
  const members = await createChats(child.port, chats);

  const before = await child.snapshot();

  const readers = members.flat().map((member) => new Reader(child.port, member));
  for (let index = 0; index < readers.length; index += 200) {
    await Promise.all(readers.slice(index, index + 200).map((reader) => reader.start()));
  }

  const waiting = await child.waitUntil(({ waiters }) => waiters === readers.length);

  assert.equal(waiting.waiters, readers.length);
  const perReader = (kind: "heap" | "external" | "resident") =>
    Math.round((waiting[kind] - before[kind]) / readers.length);
  const perPoll = { heap: perReader("heap"), external: perReader("external"), resident: perReader("resident") };
  t.diagnostic(JSON.stringify({ "bytes per waiting poll": perPoll }));
  assert.ok(perPoll.resident < 40_000, "a waiting poll takes less than 40 kB");

  const slowClients = Array.from({ length: SLOW_CLIENTS }, () => new SlowClient(child.port));
  t.after(() => {
    for (const one of [...slowClients, ...readers]) one.stop();
  });
  const lines = await Promise.all(Array.from({ length: 10 }, () => Line.open(child.port)));
  const rounds: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const delays = await runRound(lines, members, readers);
    rounds.push(percentile(delays, 0.99));
    t.diagnostic(JSON.stringify({ deliveries: delays.length, p50: percentile(delays, 0.5), p99: rounds.at(-1) }));
  }
  const busy = await child.snapshot();
  assert.deepEqual(busy.errors, []);
  assert.equal(readers.filter(({ isDisconnected }) => isDisconnected).length, 0, "readers disconnected");
  assert.ok(
    slowClients.every(({ sent }) => sent > 0),
    "every slow client sent something",
  );
  assert.ok(percentile(rounds, 0.5) < 100, `p99 of three rounds in ms: ${rounds.join(", ")}`);

  for (const client of slowClients) client.stop();
  for (const reader of readers) reader.stop();
  const after = await child.waitUntil(({ connections, waiters, heap }) => {
    return connections <= lines.length && waiters === 0 && heap - before.heap < 2 * MEGABYTE;
  });
  t.diagnostic(JSON.stringify({ before, waiting, after }));
  assert.equal(after.waiters, 0);
  assert.equal(after.connections, lines.length);
  assert.ok(after.heap - before.heap < 4 * MEGABYTE, `${after.heap - before.heap} bytes are still in use`);
  for (const line of lines) line.close();
});

/** Returns how many files a process can have open. Node raises its own limit to the hard limit. */
function openFiles(): number {
  const limit = execFileSync("sh", ["-c", "ulimit -Hn"]).toString().trim();
  return limit === "unlimited" ? Infinity : Number(limit);
}

/** Creates chats with five members each. */
async function createChats(port: number, chats: number): Promise<Member[][]> {
  const members: Member[][] = [];
  const run = async (): Promise<void> => {
    const line = await Line.open(port);
    while (members.length < chats) {
      const chat: Member[] = [];
      members.push(chat);
      const creator = memberOf((await line.ask("POST", "/create")).body);
      chat.push(creator);
      const invited = await line.ask("POST", `/${creator.chatId}/invite`, { token: creator.token });
      const body = { invite_token: stringOf(record(invited.body), "invite_token") };
      while (chat.length < READERS_PER_CHAT) {
        chat.push(memberOf((await line.ask("POST", `/${creator.chatId}/join`, { body })).body));
      }
    }
    line.close();
  };
  await Promise.all(Array.from({ length: 8 }, run));
  return members;
}

function memberOf(body: unknown): Member {
  const fields = record(body);
  return { chatId: stringOf(fields, "chat_id"), token: stringOf(fields, "session_token") };
}

/** Posts messages to one chat after the other for one round. Returns the time of each delivery in milliseconds. */
async function runRound(lines: Line[], members: Member[][], readers: Reader[]): Promise<number[]> {
  const end = performance.now() + ROUND;
  for (const reader of readers) reader.delays = [];
  let posted = 0;
  const run = async (line: Line): Promise<void> => {
    while (performance.now() < end) {
      const startedAt = performance.now();
      const { chatId, token } = at(at(members, (posted * 7) % members.length), posted % READERS_PER_CHAT);
      posted += 1;
      const reply = await line.ask("POST", `/${chatId}`, { token, body: { text: `at ${performance.now()}` } });
      assert.equal(reply.status, 201, reply.text);
      await sleep(Math.max(0, startedAt + (SECOND * lines.length) / RATE - performance.now()));
    }
  };
  await Promise.all(lines.map(run));
  const countDeliveries = (): number => readers.reduce((sum, reader) => sum + reader.delays.length, 0);
  await until(() => countDeliveries() >= posted * READERS_PER_CHAT, "the last delivery");
  assert.equal(countDeliveries(), posted * READERS_PER_CHAT, "each reader received each message once");
  return readers.flatMap(({ delays }) => delays);
}

function percentile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return Math.round((sorted[Math.ceil(sorted.length * part) - 1] ?? NaN) * 10) / 10;
}

/** Polls continuously on a separate connection. */
class Reader {
  readonly #port: number;
  readonly #member: Member;
  #socket: Socket | undefined;
  #received = "";
  #cursor = "latest";
  isDisconnected = false;
  /** The time from sending each message to receiving it, in milliseconds. */
  delays: number[] = [];

  constructor(port: number, member: Member) {
    this.#port = port;
    this.#member = member;
  }

  /** Resolves once the first response has arrived and the next poll is sent. */
  start(): Promise<void> {
    const socket = connect({ port: this.#port, host: "127.0.0.1", noDelay: true });
    this.#socket = socket;
    socket.setEncoding("latin1").on("data", (part: string) => this.#read(part));
    socket.on("error", () => (this.isDisconnected = true));
    socket.on("close", () => (this.isDisconnected = true));
    this.#poll(0);
    return new Promise((resolve) => {
      socket.once("data", () => resolve());
    });
  }

  stop(): void {
    this.#socket?.removeAllListeners("close").destroy();
  }

  #poll(wait: number): void {
    const { chatId, token } = this.#member;
    const target = `/${chatId}?since=${this.#cursor}&wait=${wait}`;
    this.#socket?.write(`GET ${target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`);
  }

  #read(part: string): void {
    this.#received += part;
    const split = this.#received.indexOf("\r\n\r\n");
    const length = Number(/\r\nContent-Length: (\d+)/.exec(this.#received)?.[1] ?? NaN);
    if (split < 0 || this.#received.length < split + 4 + length) return;
    if (!this.#received.startsWith("HTTP/1.1 200 ")) this.isDisconnected = true;
    const now = performance.now();
    for (const [, sent] of this.#received.matchAll(/"text":"at ([0-9.]+)"/g)) this.delays.push(now - Number(sent));
    this.#cursor = /"cursor":(\d+)/.exec(this.#received)?.[1] ?? "latest";
    this.#received = "";
    this.#poll(50);
  }
}

/** Sends a request byte by byte (a Slowloris attack), and reconnects when the server closes the connection. */
class SlowClient {
  readonly #port: number;
  #socket: Socket | undefined;
  readonly #timer: NodeJS.Timeout;
  sent = 0;

  constructor(port: number) {
    this.#port = port;
    this.#timer = setInterval(() => this.#sendByte(), 200 + Math.random() * 400);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#socket?.destroy();
  }

  #sendByte(): void {
    if (this.#socket === undefined || this.#socket.destroyed) {
      this.#socket = connect({ port: this.#port, host: "127.0.0.1" });
      this.#socket.on("error", () => {});
      this.#socket.resume().write("POST /create HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    }
    this.#socket.write("x");
    this.sent += 1;
  }
}

/**
 * The message that takes most memory. JSON escapes each quote with a second byte, and one combining mark makes V8 store
 * the whole string with two bytes per character.
 */
const LARGEST_MESSAGE = `${'"'.repeat(1_990)}${"\u0301".repeat((LIMITS.messageBytes - 1_990) / 2)}`;

async function newChat(line: Line): Promise<[path: string, token: string]> {
  const made = record((await line.ask("POST", "/create")).body);
  return [`/${stringOf(made, "chat_id")}`, stringOf(made, "session_token")];
}

test("a chat at full speed does not delay another chat", { timeout: 60_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false });
  const lines = await Promise.all(Array.from({ length: 10 }, () => Line.open(child.port)));
  const [first, second, ...busyLines] = lines;
  assert.ok(first && second);
  const [busyChat, busyToken] = await newChat(first);
  const [quietChat, token] = await newChat(first);
  const over = new AbortController();
  let requests = 0;
  const loadChat = async (line: Line, index: number): Promise<void> => {
    while (!over.signal.aborted) {
      if (index < 4) await line.ask("GET", `${busyChat}?since=latest&wait=50`, { token: busyToken });
      else await line.ask("POST", busyChat, { token: busyToken, body: { text: LARGEST_MESSAGE } });
      requests += 1;
    }
  };
  const load = busyLines.map(loadChat);
  const delays: number[] = [];
  for (let posted = 0; posted < 100; posted += 1) {
    const waiting = second.ask("GET", `${quietChat}?since=latest&wait=50`, { token });
    await sleep(20);
    const startedAt = performance.now();
    await first.ask("POST", quietChat, { token, body: { text: "a message" } });
    await waiting;
    delays.push(performance.now() - startedAt);
  }
  const [median = NaN, worst = NaN] = [50, 99].map((index) => delays.toSorted((a, b) => a - b)[index]);
  t.diagnostic(JSON.stringify({ requests, "median ms": Math.round(median), "worst ms": Math.round(worst) }));
  assert.ok(requests > 1_000);
  assert.ok(median < 100 && worst < SECOND, `median ${median} ms, worst ${worst} ms`);
  over.abort();
  // One more message ends the polls that still wait.
  await first.ask("POST", busyChat, { token: busyToken, body: { text: "the last message" } });
  await Promise.all(load);
  for (const line of lines) line.close();
});

test("out of file descriptors, the server stays usable, sleeps and recovers", { timeout: 60_000 }, async (t) => {
  if (process.platform !== "linux") return t.skip("the test reads the processor time from /proc");
  const program = new Program(LOCAL, {}, 'ulimit -n 64; exec "$@"');
  t.after(() => program.stop("SIGKILL"));
  await program.listening();
  const [line, reader] = [await Line.open(program.port), await Line.open(program.port)];
  const { chatId, token } = memberOf((await line.ask("POST", "/create")).body);
  const path = `/${chatId}`;
  const waiting = reader.ask("GET", `${path}?since=latest&wait=50`, { token });

  const idle = new IdleConnections(t, program.port, 150);
  const spent = processorTime(program.child.pid);
  // Long enough for periodic work: the server reads the addresses of the machine every ten seconds.
  for (let second = 0; second < 12; second += 1) {
    await sleep(SECOND);
    idle.refill();
    assert.equal(program.child.exitCode, null, program.stderr);
  }
  const share = (processorTime(program.child.pid) - spent) / 12;
  t.diagnostic(JSON.stringify({ rejected: idle.rejected, waiting: idle.open, "processor share": share }));
  assert.ok(idle.open + idle.rejected > 100);
  assert.ok(share < 0.3, `the server spins: it uses ${share} of a processor`);

  const posted = await line.ask("POST", path, { token, body: { text: "still here" } });
  assert.equal(posted.status, 201);
  assert.match((await waiting).text, /still here/);

  idle.close();
  let isServed = false;
  for (const deadline = Date.now() + 5 * SECOND; !isServed && Date.now() < deadline; await sleep(50)) {
    isServed = await send({ port: program.port }, "GET", "/healthz").then(
      ({ status }) => status === 200,
      () => false,
    );
  }
  assert.ok(isServed, "the server has recovered");
  assert.equal(invitationOf(await program.send("POST", `${path}/invite`, { token })).seats_left, 5);
  const ended = await program.stop();
  assert.deepEqual([ended.code, ended.stderr], [0, ""]);
  line.close();
  reader.close();
  return undefined;
});

/** Keeps the given number of connections open and sends nothing on them. */
class IdleConnections {
  readonly #port: number;
  readonly #wanted: number;
  readonly #sockets = new Set<Socket>();
  rejected = 0;

  constructor(t: TestContext, port: number, wanted: number) {
    this.#port = port;
    this.#wanted = wanted;
    t.after(() => this.close());
    this.refill();
  }

  get open(): number {
    return this.#sockets.size;
  }

  refill(): void {
    while (this.#sockets.size < this.#wanted) {
      const socket = connect({ port: this.#port, host: "127.0.0.1" });
      this.#sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        if (this.#sockets.delete(socket)) this.rejected += 1;
      });
    }
  }

  close(): void {
    const all = [...this.#sockets];
    this.#sockets.clear();
    for (const socket of all) socket.destroy();
  }
}

/** Returns the processor time of a process in seconds (proc(5), fields 14 and 15, in hundredths of a second). */
function processorTime(pid: number | undefined): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
