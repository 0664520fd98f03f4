// Sends more than 100,000 hostile inputs while two members of another chat exchange messages. Each connection must get
// valid responses or close, and the other chat must not be affected.
//
// SOAK_SEED=<seed> reproduces the inputs.

import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { invitationOf, pollOf, record, SECOND, send, sessionOf, STATUS, stringOf } from "../lib/helpers.ts";
import { LIMITS } from "../../server.ts";
import { Child, type Snapshot } from "./child.ts";
import { type WellFormedRequest, wellFormedRequest, smugglingPair, type Target, malformedBytes } from "./hostile.ts";
import { chooseSeed, Random } from "./tools.ts";

const WELL_FORMED = 80_000;
const MALFORMED = 18_000;
const SMUGGLING = 4_000;
/** Requests per pipeline, few enough to stay below `LIMITS.queuedBytes` with any content. */
const PIPELINED = 3;
const CONCURRENCY = 24;
/** Shorter than the server's defaults, so that the test can wait for stalled clients. Node checks once per second. */
const TIMES = { headersTimeout: SECOND, requestTimeout: 2 * SECOND, keepAliveTimeout: 2 * SECOND };
const DEADLINE = TIMES.requestTimeout + 4 * SECOND;
const MEGABYTE = 1_048_576;

test("100,000 hostile inputs get valid responses and do not affect other chats", { timeout: 600_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const random = new Random(seed);
  const child = await Child.start(t, { ...TIMES, rateLimit: false });
  const canary = await Canary.start(child.port);
  const attack = new Attack(child.port, random);

  await attack.run(4_000, 1_000, 200);
  const before = await waitUntilCalm(child);
  attack.resetCounters();
  const startedAt = performance.now();
  await attack.run(WELL_FORMED, MALFORMED, SMUGGLING);
  const seconds = (performance.now() - startedAt) / SECOND;
  const after = await waitUntilCalm(child);
  const { longest, count } = await canary.stop();

  t.diagnostic(
    JSON.stringify({
      inputs: attack.inputs,
      connections: attack.connections,
      endedEarly: attack.endedEarly,
      seconds: Math.round(seconds),
    }),
  );
  t.diagnostic(JSON.stringify(Object.fromEntries([...attack.responses].toSorted(([a], [b]) => a - b))));
  t.diagnostic(JSON.stringify({ canary: count, "longest ms": Math.round(longest), before, after }));
  assert.deepEqual(after.errors, []);
  assert.ok(attack.inputs > 100_000, `only ${attack.inputs} inputs`);
  assert.ok(attack.endedEarly < WELL_FORMED / PIPELINED / 10, `${attack.endedEarly} pipelines ended early`);
  for (const status of [200, 201, 204, 400, 401, 403, 404, 405, 408, 413, 422, 431]) {
    assert.ok(attack.responses.has(status), `no response had status ${status}`);
  }
  assert.ok(after.heap - before.heap < 4 * MEGABYTE, `the heap has grown by ${after.heap - before.heap} bytes`);
  assert.ok(after.resident - before.resident < 64 * MEGABYTE, "memory has grown");
  assert.ok(count > 100, `only ${count} messages of the canary`);
  assert.ok(longest < 2 * SECOND, `a message took ${longest} ms`);
});

/** Waits until only the canary's connections remain. Its poll may or may not be waiting. */
async function waitUntilCalm(child: Child): Promise<Snapshot> {
  const snapshot = await child.waitUntil(({ connections, waiters }) => connections <= 3 && waiters <= 1);
  assert.deepEqual(snapshot.errors, []);
  assert.ok(snapshot.connections <= 3, `${snapshot.connections} connections remain`);
  assert.ok(snapshot.waiters <= 1, `${snapshot.waiters} polls remain`);
  return snapshot;
}

/** A member posts five messages per second, and a reader must receive each one. */
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
    canary.#over = canary.#run();
    // `stop` reports the error. Until then, this handler prevents an unhandled rejection.
    canary.#over.catch(() => {});
    return canary;
  }

  async stop(): Promise<{ longest: number; count: number }> {
    this.#end.abort();
    await this.#over;
    return { longest: this.#longest, count: this.#count };
  }

  async #run(): Promise<void> {
    const [target, path] = [{ port: this.#port }, `/${this.#target.chatId}`];
    const token = this.#target.session;
    let { cursor } = pollOf(await send(target, "GET", path, { token }));
    while (!this.#end.signal.aborted) {
      const poll = send(target, "GET", `${path}?since=${cursor}&wait=50`, { token });
      await sleep(150 + Math.random() * 50);
      const startedAt = performance.now();
      const text = `Message ${this.#count}`;
      const posted = await send(target, "POST", path, { token, body: { text } });
      assert.equal(posted.status, 201, posted.text);
      const reply = pollOf(await poll);
      assert.deepEqual(
        reply.messages.map((message) => message.text),
        [text],
      );
      ({ cursor } = reply);
      this.#longest = Math.max(this.#longest, performance.now() - startedAt);
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
  readonly #random: Random;
  #target: Target = { chatId: "", session: "", invite: "" };
  /** The number of responses per status. */
  readonly responses = new Map<number, number>();
  inputs = 0;
  connections = 0;
  /** Pipelines that ended because a response preceded the rest of its request. */
  endedEarly = 0;
  #isFailed = false;

  constructor(port: number, random: Random) {
    this.#port = port;
    this.#random = random;
  }

  resetCounters(): void {
    this.responses.clear();
    this.inputs = 0;
    this.connections = 0;
    this.endedEarly = 0;
  }

  async run(wellFormed: number, malformed: number, smuggling: number): Promise<void> {
    const jobs: (() => Promise<void>)[] = [];
    for (let count = 0; count < wellFormed; count += PIPELINED) jobs.push(() => this.#sendPipeline());
    for (let count = 0; count < malformed; count += 1) jobs.push(() => this.#sendMalformed());
    for (let count = 0; count < smuggling; count += 1) jobs.push(() => this.#sendSmuggling());
    // Shuffle the jobs, so that all kinds run at the same time.
    const order = jobs.map((job) => ({ job, at: this.#random.next() })).toSorted((a, b) => a.at - b.at);
    const next = order.values();
    const runJobs = async (): Promise<void> => {
      for (const { job } of next) {
        if (this.#isFailed) return;
        this.connections += 1;
        if (this.connections % 20 === 1) this.#target = await this.#replaceTarget();
        try {
          await job();
        } catch (error) {
          this.#isFailed = true;
          throw error;
        }
      }
    };
    await Promise.all(Array.from({ length: CONCURRENCY }, runJobs));
  }

  /** Replaces the target, because some requests end the chat, leave it or fill it. */
  async #replaceTarget(): Promise<Target> {
    const { chatId, session } = this.#target;
    if (chatId !== "") await send({ port: this.#port }, "DELETE", `/${chatId}`, { token: session });
    return newTarget(this.#port).catch(() => this.#target);
  }

  /**
   * Sends many requests on one connection and expects as many responses, in the same order. A response that precedes
   * the rest of its request's body must have `Connection: close`.
   */
  async #sendPipeline(): Promise<void> {
    const requests = Array.from({ length: PIPELINED }, () => wellFormedRequest(this.#random, this.#target));
    this.inputs += PIPELINED;
    const last: WellFormedRequest = {
      bytes: Buffer.from("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
      isHead: false,
    };
    const bytes = Buffer.concat([...requests, last].map((each) => each.bytes));
    const received = await exchange(this.#port, bytes, "wait");
    const responses = readResponses(received, (index) => requests[index]?.isHead ?? false);
    const context = (): string => `\n${bytes.toString("latin1")}\n=>\n${received.slice(-2_000)}`;
    const isEndedEarly = responses.length <= PIPELINED;
    if (isEndedEarly) {
      this.endedEarly += 1;
      assert.match(responses.at(-1)?.head ?? "", /^Connection: close\r?$/im, context());
    } else assert.equal(responses.at(-1)?.status, 200, context());
    for (const response of responses) this.#check(response, context);
  }

  /** Sends malformed bytes. The connection must close, and every response must be valid. */
  async #sendMalformed(): Promise<void> {
    this.inputs += 1;
    const bytes = malformedBytes(this.#random, this.#target);
    const roll = this.#random.next();
    const ending = roll < 0.02 ? "wait" : roll < 0.2 ? "reset" : roll < 0.25 ? "destroy" : "end";
    const received = await exchange(this.#port, bytes, ending, this.#random.isTrue(0.2) ? this.#random : undefined);
    if (ending === "reset" || ending === "destroy") return;
    const context = (): string => `${ending}:\n${bytes.toString("latin1").slice(0, 4_000)}\n=>\n${received}`;
    for (const response of readResponses(received)) this.#check(response, context);
  }

  /** Sends a request that two servers could parse differently. The server must reject it and ignore what follows. */
  async #sendSmuggling(): Promise<void> {
    this.inputs += 1;
    const bytes = smugglingPair(this.#random);
    const received = await exchange(this.#port, bytes, "end");
    const responses = readResponses(received);
    const context = `\n${bytes.toString("latin1")}\n=>\n${received}`;
    assert.deepEqual(
      responses.map(({ status }) => status),
      [400],
      context,
    );
    for (const response of responses) this.#check(response, () => context);
  }

  #check({ status, head, text, isHead }: Response, context: () => string): void {
    this.responses.set(status, (this.responses.get(status) ?? 0) + 1);
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
 * Sends bytes and returns everything received until the connection closes. Sends two pieces if `random` is given. With
 * "wait", the server closes the connection. With "end", the client closes its side first. With "reset" and "destroy",
 * the client does not wait for a response.
 */
async function exchange(
  port: number,
  bytes: Buffer,
  ending: "wait" | "end" | "reset" | "destroy",
  random?: Random,
): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  let received = "";
  socket.setEncoding("latin1").on("data", (part: string) => (received += part));
  // A reset by the server is a valid end.
  socket.on("error", () => {});
  socket.on("end", () => socket.end());
  const closed = new Promise((resolve) => socket.once("close", resolve));
  const split = random === undefined ? bytes.length : random.below(bytes.length);
  socket.write(bytes.subarray(0, split));
  if (split < bytes.length) {
    await sleep(2);
    socket.write(bytes.subarray(split));
  }
  await closeSocket(socket, ending);
  let isHanging = false;
  const timer = setTimeout(() => {
    isHanging = true;
    socket.destroy();
  }, DEADLINE);
  await closed;
  clearTimeout(timer);
  assert.ok(!isHanging, `still open after ${DEADLINE} ms (${ending}):\n${bytes.toString("latin1")}\n=>\n${received}`);
  return received;
}

async function closeSocket(socket: Socket, ending: "wait" | "end" | "reset" | "destroy"): Promise<void> {
  if (ending === "end") socket.end();
  if (ending === "reset" || ending === "destroy") await sleep(1);
  if (ending === "reset") socket.resetAndDestroy();
  if (ending === "destroy") socket.destroy();
}

interface Response {
  status: number;
  head: string;
  text: string;
  isHead: boolean;
}

/**
 * Splits received text into responses. Without `isHead`, a response counts as one to HEAD if the next response follows
 * its head directly.
 */
function readResponses(received: string, isHead?: (index: number) => boolean): Response[] {
  const responses: Response[] = [];
  for (let at = 0; at < received.length;) {
    const split = received.indexOf("\r\n\r\n", at);
    const head = received.slice(at, split);
    assert.ok(
      split > 0 && /^HTTP\/1\.1 \d{3} [A-Za-z -]+(?:\r\n|$)/.test(head),
      `not a response: ${received.slice(at, at + 500)}`,
    );
    const [status, length] = [Number(head.slice(9, 12)), Number(/^Content-Length: (\d+)/im.exec(head)?.[1] ?? 0)];
    const next = split + 4;
    const isBodiless =
      isHead?.(responses.length) ?? (next >= received.length || received.startsWith("HTTP/1.1 ", next));
    at = isBodiless ? next : next + length;
    assert.ok(at <= received.length, `truncated: ${received.slice(next - head.length)}`);
    if (status !== 100) responses.push({ status, head, text: received.slice(next, at), isHead: isBodiless });
  }
  return responses;
}

/** Megabytes of heap: a tenth of what the attacks below would use if the server limited only the number of requests. */
const MAX_HEAP = 300;

/** Opens a connection per text, sends the text and reads no response. */
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

/** Returns 90 header lines with the given number of bytes in total. */
function headers(bytes: number): string[] {
  return Array.from({ length: 90 }, (_, index) => `a${index}: ${"b".repeat(bytes / 90 - 8)}`);
}

test("large requests behind waiting polls and streams do not exhaust memory", { timeout: 200_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false, maxHeap: MAX_HEAP });
  const canary = await Canary.start(child.port);
  const before = await child.snapshot();
  const firsts: string[] = [];
  while (firsts.length < 200) {
    const { chatId, session } = await newTarget(child.port);
    const token = `Authorization: Bearer ${session}`;
    for (let pair = 0; pair < LIMITS.pollsPerSeat / 2; pair += 1) {
      firsts.push(get(`/${chatId}?since=latest&wait=50`, token));
      firsts.push(get(`/${chatId}`, token, "Accept: application/x-ndjson"));
    }
  }
  // Just within the limit, to measure the largest amount that the server keeps.
  const few = open(
    t,
    child.port,
    firsts.map((first, index) => first + get("/healthz", ...headers(8_000 + (index % 5) * 1_000)).repeat(6)),
  );
  const full = await child.waitUntil(({ waiters }) => waiters >= firsts.length);
  const each = Math.round((full.heap + full.external - before.heap - before.external) / firsts.length);
  t.diagnostic(`${each} bytes per connection with six large requests`);
  assert.ok(full.waiters >= firsts.length, `only ${full.waiters} wait`);
  assert.ok(each < 2 * LIMITS.queuedBytes, `${each} bytes per connection`);
  for (const socket of few) socket.destroy();
  await child.waitUntil(({ waiters }) => waiters <= 1);
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
  const after = await waitUntilCalm(child);
  t.diagnostic(JSON.stringify({ before, full, after }));
  assert.ok(after.heap - before.heap < 8 * MEGABYTE, `the heap has grown by ${after.heap - before.heap} bytes`);
  const { longest } = await canary.stop();
  assert.ok(longest < 5 * SECOND, `a message took ${longest} ms`);
});

test("bodies in chunks of one byte do not exhaust memory", { timeout: 200_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false, maxHeap: MAX_HEAP });
  const canary = await Canary.start(child.port);
  const before = await child.snapshot();
  const text = `POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${"1\r\n \r\n".repeat(32_000)}`;
  const goal = before.received + 100 * text.length;
  const sockets = open(t, child.port, Array<string>(100).fill(text));
  const full = await child.waitUntil(({ received }) => received >= goal);
  const each = Math.round((full.heap + full.external - before.heap - before.external) / sockets.length);
  t.diagnostic(`${each} bytes per connection`);
  assert.ok(each < 100_000, `${each} bytes per connection`);
  for (const socket of sockets) socket.destroy();
  await waitUntilCalm(child);
  await canary.stop();
});

test("connections whose responses are never read close after the time limit", { timeout: 200_000 }, async (t) => {
  const child = await Child.start(t, { rateLimit: false, maxHeap: MAX_HEAP, isClockStopped: true });
  const target = { port: child.port };
  const { chatId, session } = await newTarget(child.port);
  for (let count = 0; count < LIMITS.keptMessages; count += 1) {
    await send(target, "POST", `/${chatId}`, { token: session, body: { text: "\u{1f600}".repeat(2_000) } });
  }
  const full = get(`/${chatId}`, `Authorization: Bearer ${session}`);
  const count = 40;
  let snapshot = await child.snapshot();
  const sockets: Socket[] = [];
  for (const request of [full, get("/openapi.json")]) {
    const before = snapshot;
    const mine = open(t, child.port, Array<string>(count).fill(""));
    sockets.push(...mine);
    const { text } = await send(target, "GET", request === full ? `/${chatId}` : "/openapi.json", { token: session });
    // The socket buffers on both sides take some megabytes before a write is pending on the server.
    for (let sent = 40; ; sent += 40) {
      for (const socket of mine) socket.write(request.repeat(40));
      snapshot = await child.waitUntilQuiet();
      if (snapshot.written - before.written < count * sent * Buffer.byteLength(text)) break;
    }
  }
  t.diagnostic(JSON.stringify({ snapshot }));
  assert.ok(snapshot.connections >= sockets.length, "all connections are open");
  await child.pass(LIMITS.unreadMs - 1);
  assert.ok((await child.snapshot()).connections >= sockets.length, "none has closed early");
  await child.pass(1);
  const after = await waitUntilCalm(child);
  assert.ok(after.heap < snapshot.heap, "their memory is free again");
});

test("thousands of combining marks do not block the event loop", { timeout: 60_000 }, async (t: TestContext) => {
  const child = await Child.start(t, { rateLimit: false });
  const { chatId, session } = await newTarget(child.port);
  // Unicode normalisation sorts combining marks in quadratic time. Two kinds in the wrong order are the worst case.
  for (const marks of [3_000, 5_000, 10_000, 15_000]) {
    const word = `a${"\u0300".repeat(marks / 2)}${"\u0316".repeat(marks / 2)}`;
    await child.snapshot();
    await send({ port: child.port }, "POST", `/${chatId}`, { token: session, body: { text: word } });
    await send({ port: child.port }, "POST", "/create", { body: { username: word } });
    const { longestStall } = await child.snapshot();
    t.diagnostic(`${marks} marks: ${Math.round(longestStall)} ms`);
    assert.ok(longestStall < 100, `${marks} marks block the event loop for ${longestStall} ms`);
  }
});
