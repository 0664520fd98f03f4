// What is timed, and so runs alone on the machine.
//
// Ten thousand readers wait in two thousand chats, and hear what is said at once, whoever else dribbles at the
// server's door; when they have gone nothing is left. One chat's noise is no other's delay. When the system has no
// more connections to give, those who have one keep it.

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
const LORISES = 500;
const ROUNDS = 3;
const ROUND = 5 * SECOND;
/** Messages a second, each to five readers. */
const RATE = 100;
const MEGABYTE = 1_048_576;

interface Seat {
  chatId: string;
  token: string;
}

test("10,000 waiting readers hear at once, and leave nothing behind", { timeout: 120_000 }, async (t) => {
  const chats = Math.min(CHATS, Math.floor((openFiles() - LORISES - 500) / READERS_PER_CHAT));
  t.diagnostic(`${chats} chats, as this system lets a process have ${openFiles()} files open`);
  const child = await Child.start(t, { rateLimit: false, maxChats: chats });
  const seats = await fill(child.port, chats);

  const before = await child.look();

  const readers = seats.flat().map((seat) => new Reader(child.port, seat));
  for (let index = 0; index < readers.length; index += 200) {
    await Promise.all(readers.slice(index, index + 200).map((reader) => reader.start()));
  }

  const held = await child.lookUntil(({ waiting }) => waiting === readers.length);

  assert.equal(held.waiting, readers.length);
  const each = (what: "heap" | "external" | "resident") => Math.round((held[what] - before[what]) / readers.length);
  const perPoll = { heap: each("heap"), external: each("external"), resident: each("resident") };
  t.diagnostic(JSON.stringify({ "bytes a waiting poll": perPoll }));
  assert.ok(perPoll.resident < 40_000, "a waiting poll is cheap");

  const lorises = Array.from({ length: LORISES }, () => new Loris(child.port));
  t.after(() => {
    for (const one of [...lorises, ...readers]) one.stop();
  });
  const lines = await Promise.all(Array.from({ length: 10 }, () => Line.open(child.port)));
  const rounds: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const delays = await talk(lines, seats, readers);
    rounds.push(percentile(delays, 0.99));
    t.diagnostic(JSON.stringify({ deliveries: delays.length, p50: percentile(delays, 0.5), p99: rounds.at(-1) }));
  }
  const busy = await child.look();
  assert.deepEqual(busy.errors, []);
  assert.equal(readers.filter(({ isLost }) => isLost).length, 0, "readers disconnected");
  assert.ok(
    lorises.every(({ sent }) => sent > 0),
    "the dribblers dribbled",
  );
  assert.ok(percentile(rounds, 0.5) < 100, `p99 of three rounds in ms: ${rounds.join(", ")}`);

  for (const loris of lorises) loris.stop();
  for (const reader of readers) reader.stop();
  const after = await child.lookUntil(({ connections, waiting, heap }) => {
    return connections <= lines.length && waiting === 0 && heap - before.heap < 2 * MEGABYTE;
  });
  t.diagnostic(JSON.stringify({ before, held, after }));
  assert.equal(after.waiting, 0);
  assert.equal(after.connections, lines.length);
  assert.ok(after.heap - before.heap < 4 * MEGABYTE, `${after.heap - before.heap} bytes are left`);
  for (const line of lines) line.close();
});

/** How many files a process may have open here; Node itself goes up to the hard limit. */
function openFiles(): number {
  const limit = execFileSync("sh", ["-c", "ulimit -Hn"]).toString().trim();
  return limit === "unlimited" ? Infinity : Number(limit);
}

/** Chats of five. */
async function fill(port: number, chats: number): Promise<Seat[][]> {
  const seats: Seat[][] = [];
  const work = async (): Promise<void> => {
    const line = await Line.open(port);
    while (seats.length < chats) {
      const chat: Seat[] = [];
      seats.push(chat);
      const creator = seatOf((await line.ask("POST", "/create")).body);
      chat.push(creator);
      const invited = await line.ask("POST", `/${creator.chatId}/invite`, { token: creator.token });
      const body = { invite_token: stringOf(record(invited.body), "invite_token") };
      while (chat.length < READERS_PER_CHAT) {
        chat.push(seatOf((await line.ask("POST", `/${creator.chatId}/join`, { body })).body));
      }
    }
    line.close();
  };
  await Promise.all(Array.from({ length: 8 }, work));
  return seats;
}

function seatOf(body: unknown): Seat {
  const fields = record(body);
  return { chatId: stringOf(fields, "chat_id"), token: stringOf(fields, "session_token") };
}

/** Says something in one chat after the other for a round; returns what each delivery took, in milliseconds. */
async function talk(lines: Line[], seats: Seat[][], readers: Reader[]): Promise<number[]> {
  const end = performance.now() + ROUND;
  for (const reader of readers) reader.delays = [];
  let said = 0;
  const work = async (line: Line): Promise<void> => {
    while (performance.now() < end) {
      const begun = performance.now();
      const { chatId, token } = at(at(seats, (said * 7) % seats.length), said % READERS_PER_CHAT);
      said += 1;
      const reply = await line.ask("POST", `/${chatId}`, { token, body: { text: `at ${performance.now()}` } });
      assert.equal(reply.status, 201, reply.text);
      await sleep(Math.max(0, begun + (SECOND * lines.length) / RATE - performance.now()));
    }
  };
  await Promise.all(lines.map(work));
  const heard = (): number => readers.reduce((sum, reader) => sum + reader.delays.length, 0);
  await until(() => heard() >= said * READERS_PER_CHAT, "the last delivery");
  assert.equal(heard(), said * READERS_PER_CHAT, "everybody heard everything once");
  return readers.flatMap(({ delays }) => delays);
}

function percentile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return Math.round((sorted[Math.ceil(sorted.length * part) - 1] ?? NaN) * 10) / 10;
}

/** Polls for ever on a connection of its own. */
class Reader {
  readonly #port: number;
  readonly #seat: Seat;
  #socket: Socket | undefined;
  #received = "";
  #cursor = "latest";
  isLost = false;
  /** From a message's being sent to its being here, in milliseconds. */
  delays: number[] = [];

  constructor(port: number, seat: Seat) {
    this.#port = port;
    this.#seat = seat;
  }

  /** Resolves when the first answer has come, and the next poll is on its way. */
  start(): Promise<void> {
    const socket = connect({ port: this.#port, host: "127.0.0.1", noDelay: true });
    this.#socket = socket;
    socket.setEncoding("latin1").on("data", (part: string) => this.#read(part));
    socket.on("error", () => (this.isLost = true));
    socket.on("close", () => (this.isLost = true));
    this.#poll(0);
    return new Promise((resolve) => {
      socket.once("data", () => resolve());
    });
  }

  stop(): void {
    this.#socket?.removeAllListeners("close").destroy();
  }

  #poll(wait: number): void {
    const { chatId, token } = this.#seat;
    const target = `/${chatId}?since=${this.#cursor}&wait=${wait}`;
    this.#socket?.write(`GET ${target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`);
  }

  #read(part: string): void {
    this.#received += part;
    const split = this.#received.indexOf("\r\n\r\n");
    const length = Number(/\r\nContent-Length: (\d+)/.exec(this.#received)?.[1] ?? NaN);
    if (split < 0 || this.#received.length < split + 4 + length) return;
    if (!this.#received.startsWith("HTTP/1.1 200 ")) this.isLost = true;
    const now = performance.now();
    for (const [, sent] of this.#received.matchAll(/"text":"at ([0-9.]+)"/g)) this.delays.push(now - Number(sent));
    this.#cursor = /"cursor":(\d+)/.exec(this.#received)?.[1] ?? "latest";
    this.#received = "";
    this.#poll(50);
  }
}

/** Sends a request byte by byte, and begins anew when it is sent away. */
class Loris {
  readonly #port: number;
  #socket: Socket | undefined;
  readonly #timer: NodeJS.Timeout;
  sent = 0;

  constructor(port: number) {
    this.#port = port;
    this.#timer = setInterval(() => this.#dribble(), 200 + Math.random() * 400);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#socket?.destroy();
  }

  #dribble(): void {
    if (this.#socket === undefined || this.#socket.destroyed) {
      this.#socket = connect({ port: this.#port, host: "127.0.0.1" });
      this.#socket.on("error", () => {});
      this.#socket.resume().write("POST /create HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    }
    this.#socket.write("x");
    this.sent += 1;
  }
}

/** The message that takes most: each quote is two in JSON, and one mark makes all characters two bytes. */
const FATTEST = `${'"'.repeat(1_990)}${"\u0301".repeat((LIMITS.messageBytes - 1_990) / 2)}`;

async function newChat(line: Line): Promise<[path: string, token: string]> {
  const made = record((await line.ask("POST", "/create")).body);
  return [`/${stringOf(made, "chat_id")}`, stringOf(made, "session_token")];
}

test("one chat at full speed is no other's delay", { timeout: 60_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false });
  const lines = await Promise.all(Array.from({ length: 10 }, () => Line.open(child.port)));
  const [first, second, ...noisy] = lines;
  assert.ok(first && second);
  const [noise, loud] = await newChat(first);
  const [quiet, token] = await newChat(first);
  const over = new AbortController();
  let shouts = 0;
  const shout = async (line: Line, index: number): Promise<void> => {
    while (!over.signal.aborted) {
      if (index < 4) await line.ask("GET", `${noise}?since=latest&wait=50`, { token: loud });
      else await line.ask("POST", noise, { token: loud, body: { text: FATTEST } });
      shouts += 1;
    }
  };
  const shouting = noisy.map(shout);
  const delays: number[] = [];
  for (let said = 0; said < 100; said += 1) {
    const held = second.ask("GET", `${quiet}?since=latest&wait=50`, { token });
    await sleep(20);
    const begun = performance.now();
    await first.ask("POST", quiet, { token, body: { text: "psst" } });
    await held;
    delays.push(performance.now() - begun);
  }
  const [median = NaN, worst = NaN] = [50, 99].map((index) => delays.toSorted((a, b) => a - b)[index]);
  t.diagnostic(JSON.stringify({ shouts, "median ms": Math.round(median), "worst ms": Math.round(worst) }));
  assert.ok(shouts > 1_000);
  assert.ok(median < 100 && worst < SECOND, `median ${median} ms, worst ${worst} ms`);
  over.abort();
  // Whoever still listens hears one more.
  await first.ask("POST", noise, { token: loud, body: { text: "enough" } });
  await Promise.all(shouting);
  for (const line of lines) line.close();
});

test("out of file descriptors it keeps whom it has, waits in peace and recovers", { timeout: 60_000 }, async (t) => {
  if (process.platform !== "linux") return t.skip("the processor time comes from /proc");
  const program = new Program(LOCAL, {}, 'ulimit -n 64; exec "$@"');
  t.after(() => program.stop("SIGKILL"));
  await program.listening();
  const [line, reader] = [await Line.open(program.port), await Line.open(program.port)];
  const { chatId, token } = seatOf((await line.ask("POST", "/create")).body);
  const path = `/${chatId}`;
  const held = reader.ask("GET", `${path}?since=latest&wait=50`, { token });

  const crowd = new Crowd(t, program.port, 150);
  const spent = processorTime(program.child.pid);
  // Long enough for all that is done now and then: the machine's addresses are looked up every ten seconds.
  for (let second = 0; second < 12; second += 1) {
    await sleep(SECOND);
    crowd.refill();
    assert.equal(program.child.exitCode, null, program.stderr);
  }
  const share = (processorTime(program.child.pid) - spent) / 12;
  t.diagnostic(JSON.stringify({ "turned away": crowd.turnedAway, waiting: crowd.open, "processor share": share }));
  assert.ok(crowd.open + crowd.turnedAway > 100);
  assert.ok(share < 0.3, `it spins: ${share} of a processor`);

  const posted = await line.ask("POST", path, { token, body: { text: "still here" } });
  assert.equal(posted.status, 201);
  assert.match((await held).text, /still here/);

  crowd.leave();
  let isServed = false;
  for (const deadline = Date.now() + 5 * SECOND; !isServed && Date.now() < deadline; await sleep(50)) {
    isServed = await send({ port: program.port }, "GET", "/healthz").then(
      ({ status }) => status === 200,
      () => false,
    );
  }
  assert.ok(isServed, "it has recovered");
  assert.equal(invitationOf(await program.send("POST", `${path}/invite`, { token })).seats_left, 5);
  const ended = await program.stop();
  assert.deepEqual([ended.code, ended.stderr], [0, ""]);
  line.close();
  reader.close();
  return undefined;
});

/** Many who want a connection and do nothing with it. */
class Crowd {
  readonly #port: number;
  readonly #wanted: number;
  readonly #sockets = new Set<Socket>();
  turnedAway = 0;

  constructor(t: TestContext, port: number, wanted: number) {
    this.#port = port;
    this.#wanted = wanted;
    t.after(() => this.leave());
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
        if (this.#sockets.delete(socket)) this.turnedAway += 1;
      });
    }
  }

  leave(): void {
    const all = [...this.#sockets];
    this.#sockets.clear();
    for (const socket of all) socket.destroy();
  }
}

/** Seconds that a process has spent on a processor (proc(5), fields 14 and 15, in hundredths). */
function processorTime(pid: number | undefined): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
