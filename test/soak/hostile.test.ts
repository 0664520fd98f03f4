// Whatever bytes arrive, each connection gets the contract's answers or ends, and nobody else notices: more than
// 100,000 hostile inputs, while two members of another chat go on talking.
//
// SOAK_SEED=<seed> repeats the inputs.

import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { invitationOf, pollOf, record, SECOND, send, sessionOf, STATUS, stringOf } from "../lib/helpers.ts";
import { LIMITS } from "../../server.ts";
import { Child, type Look } from "./child.ts";
import { type Readable, readableRequest, smugglingPair, type Target, wildBytes } from "./hostile.ts";
import { Chance, chooseSeed } from "./tools.ts";

const READABLE = 80_000;
const WILD = 18_000;
const SMUGGLING = 4_000;
/** Few enough that the requests that wait weigh less than `LIMITS.queuedBytes`, whatever they are. */
const PIPELINED = 16;
const AT_ONCE = 24;
/** Shorter than the contract's, so that many who stall can be waited for; looked at every second. */
const TIMES = { headersTimeout: SECOND, requestTimeout: 2 * SECOND, keepAliveTimeout: 2 * SECOND };
const LONGEST = TIMES.requestTimeout + 4 * SECOND;
const MEGABYTE = 1_048_576;

test("100,000 hostile inputs get the contract's answers, and nobody else notices", { timeout: 600_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const chance = new Chance(seed);
  const child = await Child.start(t, { ...TIMES, rateLimit: false });
  const canary = await Canary.start(child.port);
  const attack = new Attack(child.port, chance);

  await attack.run(4_000, 1_000, 200);
  const before = await calm(child);
  attack.forget();
  const begun = performance.now();
  await attack.run(READABLE, WILD, SMUGGLING);
  const seconds = (performance.now() - begun) / SECOND;
  const after = await calm(child);
  const { longest, count } = await canary.stop();

  t.diagnostic(
    JSON.stringify({
      inputs: attack.inputs,
      connections: attack.connections,
      cut: attack.cut,
      seconds: Math.round(seconds),
    }),
  );
  t.diagnostic(JSON.stringify(Object.fromEntries([...attack.answers].toSorted(([a], [b]) => a - b))));
  t.diagnostic(JSON.stringify({ canary: count, "longest ms": Math.round(longest), before, after }));
  assert.deepEqual(after.errors, []);
  assert.ok(attack.inputs > 100_000, `only ${attack.inputs} inputs`);
  assert.ok(attack.cut < READABLE / PIPELINED / 10, `${attack.cut} pipelines were cut`);
  for (const status of [200, 201, 204, 400, 401, 403, 404, 405, 408, 413, 422, 431]) {
    assert.ok(attack.answers.has(status), `never answered ${status}`);
  }
  assert.ok(after.heap - before.heap < 4 * MEGABYTE, `the heap has grown by ${after.heap - before.heap} bytes`);
  assert.ok(after.resident - before.resident < 64 * MEGABYTE, "memory has grown");
  assert.ok(count > 100, `only ${count} messages of the canary`);
  assert.ok(longest < 2 * SECOND, `a message took ${longest} ms`);
});

/** What is left when the attackers have gone: the canary's own, whose poll may just be answered. */
async function calm(child: Child): Promise<Look> {
  const look = await child.lookUntil(({ connections, waiting }) => connections <= 3 && waiting <= 1);
  assert.deepEqual(look.errors, []);
  assert.ok(look.connections <= 3, `${look.connections} connections are left`);
  assert.ok(look.waiting <= 1, `${look.waiting} polls are left`);
  return look;
}

/** Two people of whom one says something five times a second, and the other hears each of it. */
class Canary {
  readonly #port: number;
  readonly #target: Target;
  readonly #end = new AbortController();
  #longest = 0;
  #count = 0;
  #over: Promise<unknown> = Promise.resolve();

  constructor(port: number, target: Target) {
    this.#port = port;
    this.#target = target;
  }

  static async start(port: number): Promise<Canary> {
    const canary = new Canary(port, await newTarget(port));
    canary.#over = canary.#talk();
    // Told by stop; until then it is nobody's.
    canary.#over.catch(() => {});
    return canary;
  }

  async stop(): Promise<{ longest: number; count: number }> {
    this.#end.abort();
    await this.#over;
    return { longest: this.#longest, count: this.#count };
  }

  async #talk(): Promise<void> {
    const [target, path] = [{ port: this.#port }, `/${this.#target.chatId}`];
    const token = this.#target.session;
    let { cursor } = pollOf(await send(target, "GET", path, { token }));
    while (!this.#end.signal.aborted) {
      const held = send(target, "GET", `${path}?since=${cursor}&wait=50`, { token });
      await sleep(150 + Math.random() * 50);
      const begun = performance.now();
      const text = `Message ${this.#count}`;
      const posted = await send(target, "POST", path, { token, body: { text } });
      assert.equal(posted.status, 201, posted.text);
      const reply = pollOf(await held);
      assert.deepEqual(
        reply.messages.map((message) => message.text),
        [text],
      );
      ({ cursor } = reply);
      this.#longest = Math.max(this.#longest, performance.now() - begun);
      this.#count += 1;
    }
  }
}

async function newTarget(port: number): Promise<Target> {
  const session = sessionOf(await send({ port }, "POST", "/create"));
  const token = session.session_token;
  const { invite_token: invite } = invitationOf(await send({ port }, "POST", `/${session.chat_id}/invite`, { token }));
  return { chatId: session.chat_id, session: token, invite };
}

class Attack {
  readonly #port: number;
  readonly #chance: Chance;
  #target: Target = { chatId: "", session: "", invite: "" };
  /** How often each status was answered. */
  readonly answers = new Map<number, number>();
  inputs = 0;
  connections = 0;
  /** Pipelines that ended with an answer given before its request had come in full. */
  cut = 0;
  #isFailed = false;

  constructor(port: number, chance: Chance) {
    this.#port = port;
    this.#chance = chance;
  }

  forget(): void {
    this.answers.clear();
    this.inputs = 0;
    this.connections = 0;
    this.cut = 0;
  }

  async run(readable: number, wild: number, smuggling: number): Promise<void> {
    const jobs: (() => Promise<void>)[] = [];
    for (let count = 0; count < readable; count += PIPELINED) jobs.push(() => this.#askAll());
    for (let count = 0; count < wild; count += 1) jobs.push(() => this.#spill());
    for (let count = 0; count < smuggling; count += 1) jobs.push(() => this.#smuggle());
    // In any order, so that all kinds come together.
    const order = jobs.map((job) => ({ job, at: this.#chance.next() })).toSorted((a, b) => a.at - b.at);
    const next = order.values();
    const work = async (): Promise<void> => {
      for (const { job } of next) {
        if (this.#isFailed) return;
        this.connections += 1;
        if (this.connections % 20 === 1) this.#target = await this.#freshTarget();
        try {
          await job();
        } catch (error) {
          this.#isFailed = true;
          throw error;
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }

  /** Some of what is sent ends the chat, leaves it, or fills it. */
  async #freshTarget(): Promise<Target> {
    const { chatId, session } = this.#target;
    if (chatId !== "") await send({ port: this.#port }, "DELETE", `/${chatId}`, { token: session });
    return newTarget(this.#port).catch(() => this.#target);
  }

  /**
   * Many requests on one connection: as many answers, in the order of the requests. An answer that precedes the rest
   * of its request's body says that it is the last.
   */
  async #askAll(): Promise<void> {
    const requests = Array.from({ length: PIPELINED }, () => readableRequest(this.#chance, this.#target));
    this.inputs += PIPELINED;
    const last: Readable = {
      bytes: Buffer.from("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
      isHead: false,
    };
    const bytes = Buffer.concat([...requests, last].map((each) => each.bytes));
    const received = await exchange(this.#port, bytes, "wait");
    const answers = readAnswers(received, (index) => requests[index]?.isHead ?? false);
    const context = (): string => `\n${bytes.toString("latin1")}\n=>\n${received.slice(-2_000)}`;
    const isCut = answers.length <= PIPELINED;
    if (isCut) {
      this.cut += 1;
      assert.match(answers.at(-1)?.head ?? "", /^Connection: close\r?$/im, context());
    } else assert.equal(answers.at(-1)?.status, 200, context());
    for (const answer of answers) this.#check(answer, context);
  }

  /** Anything at all: the connection ends, whatever is answered is the contract's. */
  async #spill(): Promise<void> {
    this.inputs += 1;
    const bytes = wildBytes(this.#chance, this.#target);
    const die = this.#chance.next();
    const manner = die < 0.02 ? "wait" : die < 0.2 ? "reset" : die < 0.25 ? "destroy" : "end";
    const received = await exchange(this.#port, bytes, manner, this.#chance.isTrue(0.2) ? this.#chance : undefined);
    if (manner === "reset" || manner === "destroy") return;
    const context = (): string => `${manner}:\n${bytes.toString("latin1").slice(0, 4_000)}\n=>\n${received}`;
    for (const answer of readAnswers(received)) this.#check(answer, context);
  }

  /** A request that two servers could read differently is refused, and nothing behind it is read. */
  async #smuggle(): Promise<void> {
    this.inputs += 1;
    const bytes = smugglingPair(this.#chance);
    const received = await exchange(this.#port, bytes, "end");
    const answers = readAnswers(received);
    const context = `\n${bytes.toString("latin1")}\n=>\n${received}`;
    assert.deepEqual(
      answers.map(({ status }) => status),
      [400],
      context,
    );
    for (const answer of answers) this.#check(answer, () => context);
  }

  #check({ status, head, text, isHead }: Answer, context: () => string): void {
    this.answers.set(status, (this.answers.get(status) ?? 0) + 1);
    assert.ok(status < 500 || status === 503, context());
    assert.doesNotMatch(head + text, /\\n +at |node:internal|server\.[a-z]+:\d/, context());
    if (status < 400 || /^Content-Type: text\/html/im.test(head)) return;
    assert.match(head, /^Content-Type: application\/json; charset=utf-8\r?$/im, context());
    if (isHead) return;
    const fields = record(JSON.parse(Buffer.from(text, "latin1").toString()));
    const code = stringOf(fields, "error");
    assert.deepEqual(Object.keys(fields), ["error", "message"], context());
    assert.equal(STATUS[code], status, context());
    assert.notEqual(code, "stopping");
    const endsHere = code === "bad_request" || code === "timeout" || code === "headers_too_large" || status === 413;
    if (endsHere) assert.match(head, /^Connection: close\r?$/im, context());
  }
}

/**
 * Sends bytes, in two pieces where a chance is given, and returns what comes until the connection is over: "wait"
 * leaves the end to the server, "end" closes one's own side, the others do not look back.
 */
async function exchange(
  port: number,
  bytes: Buffer,
  manner: "wait" | "end" | "reset" | "destroy",
  chance?: Chance,
): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  let received = "";
  socket.setEncoding("latin1").on("data", (part: string) => (received += part));
  // A reset is an end like others, as long as it comes.
  socket.on("error", () => {});
  socket.on("end", () => socket.end());
  const closed = new Promise((resolve) => socket.once("close", resolve));
  const split = chance === undefined ? bytes.length : chance.below(bytes.length);
  socket.write(bytes.subarray(0, split));
  if (split < bytes.length) {
    await sleep(2);
    socket.write(bytes.subarray(split));
  }
  await leave(socket, manner);
  let isHanging = false;
  const timer = setTimeout(() => {
    isHanging = true;
    socket.destroy();
  }, LONGEST);
  await closed;
  clearTimeout(timer);
  assert.ok(!isHanging, `still open after ${LONGEST} ms (${manner}):\n${bytes.toString("latin1")}\n=>\n${received}`);
  return received;
}

async function leave(socket: Socket, manner: "wait" | "end" | "reset" | "destroy"): Promise<void> {
  if (manner === "end") socket.end();
  if (manner === "reset" || manner === "destroy") await sleep(1);
  if (manner === "reset") socket.resetAndDestroy();
  if (manner === "destroy") socket.destroy();
}

interface Answer {
  status: number;
  head: string;
  text: string;
  isHead: boolean;
}

/** Splits what came into answers; without being told, an answer to HEAD is known by what follows at once. */
function readAnswers(received: string, isHead?: (index: number) => boolean): Answer[] {
  const answers: Answer[] = [];
  for (let at = 0; at < received.length;) {
    const split = received.indexOf("\r\n\r\n", at);
    const head = received.slice(at, split);
    assert.ok(
      split > 0 && /^HTTP\/1\.1 \d{3} [A-Za-z -]+(?:\r\n|$)/.test(head),
      `no answer: ${received.slice(at, at + 500)}`,
    );
    const [status, length] = [Number(head.slice(9, 12)), Number(/^Content-Length: (\d+)/im.exec(head)?.[1] ?? 0)];
    const next = split + 4;
    const isBodiless = isHead?.(answers.length) ?? (next >= received.length || received.startsWith("HTTP/1.1 ", next));
    at = isBodiless ? next : next + length;
    assert.ok(at <= received.length, `cut off: ${received.slice(next - head.length)}`);
    if (status !== 100) answers.push({ status, head, text: received.slice(next, at), isHead: isBodiless });
  }
  return answers;
}

/** Megabytes of heap: a tenth of what the attackers below would fill if nothing but requests were counted. */
const MAX_HEAP = 300;

/** Opens a connection per text, sends the text and reads nothing. */
function open(t: TestContext, port: number, texts: string[]): Socket[] {
  const sockets = texts.map((text) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.pause().on("error", () => {});
    socket.write(text, "latin1");
    return socket;
  });
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  return sockets;
}

function get(path: string, ...lines: string[]): string {
  return `GET ${path} HTTP/1.1\r\nHost: x\r\n${lines.map((line) => `${line}\r\n`).join("")}\r\n`;
}

/** 90 header lines of so many bytes in all. */
function headers(bytes: number): string[] {
  return Array.from({ length: 90 }, (_, index) => `a${index}: ${"b".repeat(bytes / 90 - 8)}`);
}

test("large requests behind held polls and streams do not fill the memory", { timeout: 200_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false, maxHeap: MAX_HEAP });
  const canary = await Canary.start(child.port);
  const before = await child.look();
  const firsts: string[] = [];
  while (firsts.length < 200) {
    const { chatId, session } = await newTarget(child.port);
    const token = `Authorization: Bearer ${session}`;
    for (let pair = 0; pair < LIMITS.pollsPerSeat / 2; pair += 1) {
      firsts.push(get(`/${chatId}?since=latest&wait=50`, token));
      firsts.push(get(`/${chatId}`, token, "Accept: application/x-ndjson"));
    }
  }
  // Few enough to be kept until their turn comes, for the worst that can be held.
  const few = open(
    t,
    child.port,
    firsts.map((first, index) => first + get("/healthz", ...headers(8_000 + (index % 5) * 1_000)).repeat(6)),
  );
  const held = await child.lookUntil(({ waiting }) => waiting >= firsts.length);
  const each = Math.round((held.heap + held.external - before.heap - before.external) / firsts.length);
  t.diagnostic(`${each} bytes per connection with six large requests`);
  assert.ok(held.waiting >= firsts.length, `${held.waiting} are held`);
  assert.ok(each < 2 * LIMITS.queuedBytes, `${each} bytes per connection`);
  for (const socket of few) socket.destroy();
  await child.lookUntil(({ waiting }) => waiting <= 1);
  for (const bytes of [8_000, 12_000]) {
    const many = open(
      t,
      child.port,
      firsts.map((first) => first + get("/healthz", ...headers(bytes)).repeat(99)),
    );
    const closed = many.map((socket) => new Promise((resolve) => socket.once("close", resolve)));
    for (const socket of many) socket.resume();
    await Promise.all(closed);
  }
  const after = await calm(child);
  t.diagnostic(JSON.stringify({ before, held, after }));
  assert.ok(after.heap - before.heap < 8 * MEGABYTE, `the heap has grown by ${after.heap - before.heap} bytes`);
  const { longest } = await canary.stop();
  assert.ok(longest < 5 * SECOND, `a message took ${longest} ms`);
});

test("bodies in chunks of one byte do not fill the memory", { timeout: 200_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false, maxHeap: MAX_HEAP });
  const canary = await Canary.start(child.port);
  const before = await child.look();
  const text = `POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${"1\r\n \r\n".repeat(32_000)}`;
  const goal = before.received + 100 * text.length;
  const sockets = open(t, child.port, Array<string>(100).fill(text));
  const full = await child.lookUntil(({ received }) => received >= goal);
  const each = Math.round((full.heap + full.external - before.heap - before.external) / sockets.length);
  t.diagnostic(`${each} bytes per connection`);
  assert.ok(each < 100_000, `${each} bytes per connection`);
  for (const socket of sockets) socket.destroy();
  await calm(child);
  await canary.stop();
});

test("answers that nobody reads end after their time", { timeout: 200_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false, maxHeap: MAX_HEAP, isClockStill: true });
  const target = { port: child.port };
  const { chatId, session } = await newTarget(child.port);
  for (let count = 0; count < LIMITS.keptMessages; count += 1) {
    await send(target, "POST", `/${chatId}`, { token: session, body: { text: "\u{1f600}".repeat(2_000) } });
  }
  const full = get(`/${chatId}`, `Authorization: Bearer ${session}`);
  const count = 40;
  let held = await child.look();
  const sockets: Socket[] = [];
  for (const request of [full, get("/openapi.json")]) {
    const before = held;
    const mine = open(t, child.port, Array<string>(count).fill(""));
    sockets.push(...mine);
    const { text } = await send(target, "GET", request === full ? `/${chatId}` : "/openapi.json", { token: session });
    // The systems on both sides take some megabytes before the server has something left to write.
    for (let sent = 40; ; sent += 40) {
      for (const socket of mine) socket.write(request.repeat(40));
      held = await child.standstill();
      if (held.taken - before.taken < count * sent * Buffer.byteLength(text)) break;
    }
  }
  t.diagnostic(JSON.stringify({ held }));
  assert.ok(held.connections >= sockets.length, "all are still there");
  await child.pass(LIMITS.unreadMs - 1);
  assert.ok((await child.look()).connections >= sockets.length, "none has ended early");
  await child.pass(1);
  const after = await calm(child);
  assert.ok(after.heap < held.heap, "what they held is gone");
});

test("a name or a text of a great many marks holds up nobody else", { timeout: 60_000 }, async (t: TestContext) => {
  const child = await Child.start(t, { rateLimit: false });
  const { chatId, session } = await newTarget(child.port);
  // Unicode puts marks into an order of their own, which takes the square of their number: 2 kinds, the wrong way.
  for (const marks of [3_000, 5_000, 10_000, 15_000]) {
    const word = `a${"\u0300".repeat(marks / 2)}${"\u0316".repeat(marks / 2)}`;
    await child.look();
    await send({ port: child.port }, "POST", `/${chatId}`, { token: session, body: { text: word } });
    await send({ port: child.port }, "POST", "/create", { body: { username: word } });
    const { longestStall } = await child.look();
    t.diagnostic(`${marks} marks: ${Math.round(longestStall)} ms`);
    assert.ok(longestStall < 100, `${marks} marks stop everything for ${longestStall} ms`);
  }
});
