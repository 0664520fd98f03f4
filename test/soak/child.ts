// A server in its own process, which reports what it holds when asked. Run as a program this file is that process;
// imported it starts one.

import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { Socket } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { type App, createApp } from "../../server.ts";
import { selfSigned } from "../lib/certificate.ts";
import { portOf, record, SECOND } from "../lib/helpers.ts";
import { usedHeap } from "./tools.ts";

/** How the child's server differs from the defaults; times in milliseconds. */
export interface ChildOptions {
  maxChats?: number;
  rateLimit?: boolean;
  trustProxy?: boolean;
  headersTimeout?: number;
  requestTimeout?: number;
  keepAliveTimeout?: number;
  /** Its clock moves only by `pass`. */
  isClockStill?: boolean;
  /** Speaks TLS with a certificate that it has signed itself. */
  tls?: boolean;
  /** Megabytes of heap (--max-old-space-size); with more the child crashes. */
  maxHeap?: number;
}

/** Memory in bytes, after what nobody refers to is gone. */
export interface Look {
  heap: number;
  external: number;
  resident: number;
  waiting: number;
  chats: number;
  connections: number;
  /** Bytes that connections have sent, ever, and bytes of answers that the system has taken for the open ones. */
  received: number;
  taken: number;
  /** The longest that nothing else could happen since the last look, in milliseconds. */
  longestStall: number;
  /** Internal errors, unhandled rejections, uncaught exceptions: each should be none. */
  errors: string[];
}

export class Child {
  readonly process: ChildProcess;
  readonly port: number;

  constructor(process: ChildProcess, port: number) {
    this.process = process;
    this.port = port;
  }

  static async start(t: TestContext, options: ChildOptions = {}): Promise<Child> {
    const { maxHeap, ...rest } = options;
    const execArgv = maxHeap === undefined ? process.execArgv : [`--max-old-space-size=${maxHeap}`];
    const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(rest)], { stdio: "inherit", execArgv });
    t.after(() => child.kill("SIGKILL"));
    const [message]: unknown[] = await once(child, "message");
    return new Child(child, numberIn(message, "port"));
  }

  look(): Promise<Look> {
    return this.#ask({ passed: 0, isQuick: false });
  }

  /** Moves the child's clock and lets it do what is due by then; Node's own timers are not moved. */
  pass(milliseconds: number): Promise<Look> {
    return this.#ask({ passed: milliseconds, isQuick: false });
  }

  /** Looks until it looks as it should, for a minute at most; returns the last look. */
  async lookUntil(isFine: (look: Look) => boolean): Promise<Look> {
    const deadline = Date.now() + 60 * SECOND;
    for (let round = 1; ; round += 1) {
      // Collecting all garbage takes the child's time, so it happens only when the rest looks fine, or now and then.
      if (round % 10 === 0 || isFine(await this.#ask({ passed: 0, isQuick: true }))) {
        const look = await this.look();
        if (isFine(look) || Date.now() > deadline) return look;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Looks until no more bytes arrive or leave; returns the last look. */
  async standstill(): Promise<Look> {
    let last = await this.#ask({ passed: 0, isQuick: true });
    for (let same = 0; same < 5;) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      const look = await this.#ask({ passed: 0, isQuick: true });
      same = last.taken === look.taken && last.received === look.received ? same + 1 : 0;
      last = look;
    }
    return this.look();
  }

  async #ask(question: { passed: number; isQuick: boolean }): Promise<Look> {
    assert.equal(this.process.exitCode ?? this.process.signalCode, null, "the server has ended");
    this.process.send(question);
    const [message]: unknown[] = await once(this.process, "message", { signal: AbortSignal.timeout(30 * SECOND) });
    const errors = record(message)["errors"];
    assert.ok(Array.isArray(errors));
    return {
      heap: numberIn(message, "heap"),
      external: numberIn(message, "external"),
      resident: numberIn(message, "resident"),
      waiting: numberIn(message, "waiting"),
      chats: numberIn(message, "chats"),
      connections: numberIn(message, "connections"),
      received: numberIn(message, "received"),
      taken: numberIn(message, "taken"),
      longestStall: numberIn(message, "longestStall"),
      errors: errors.map(String),
    };
  }
}

function numberIn(message: unknown, key: string): number {
  const value = record(message)[key];
  assert.ok(typeof value === "number", key);
  return value;
}

/** The child's own side. */
async function serve(given: unknown): Promise<void> {
  const errors: string[] = [];
  const note = (what: string) => (error: unknown) => {
    errors.push(`${what}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  };
  process.on("uncaughtException", note("uncaught exception"));
  process.on("unhandledRejection", note("unhandled rejection"));
  const { headersTimeout, requestTimeout, keepAliveTimeout, tls, isClockStill, ...rest } = record(given);
  const options = { ...rest, ...(tls === true && { tls: selfSigned() }) };
  const start = Date.now();
  let offset = 0;
  const now = (): number => (isClockStill === true ? start : Date.now()) + offset;
  const app = createApp({ ...options, now, logError: note("internal error") });
  const sockets = new Set<Socket>();
  let receivedByClosed = 0;
  app.server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => {
      sockets.delete(socket);
      receivedByClosed += socket.bytesRead;
    });
  });
  if (typeof headersTimeout === "number") app.server.headersTimeout = headersTimeout;
  if (typeof requestTimeout === "number") app.server.requestTimeout = requestTimeout;
  if (typeof keepAliveTimeout === "number") app.server.keepAliveTimeout = keepAliveTimeout;
  setInterval(() => app.sweep(), 250);
  const stalls = monitorEventLoopDelay({ resolution: 5 });
  stalls.enable();
  await once(app.server.listen(0, "127.0.0.1"), "listening");
  process.on("disconnect", () => process.exit());
  process.on("message", (message) => {
    offset += numberIn(message, "passed");
    app.sweep();
    void tell(record(message)["isQuick"] === true);
  });
  process.send?.({ port: portOf(app.server.address()) });

  async function tell(isQuick: boolean): Promise<void> {
    const longestStall = stalls.max / 1e6;
    const heap = isQuick ? process.memoryUsage().heapUsed : await usedHeap();
    const { external, rss: resident } = process.memoryUsage();
    const { chats, waiters: waiting } = app.chats.count();
    const connections = await countConnections(app);
    const taken = [...sockets].reduce(
      (sum, { bytesWritten, writableLength }) => sum + bytesWritten - writableLength,
      0,
    );
    const received = [...sockets].reduce((sum, { bytesRead }) => sum + bytesRead, receivedByClosed);
    process.send?.({ heap, external, resident, waiting, chats, connections, received, taken, longestStall, errors });
    if (!isQuick) stalls.reset();
  }
}

function countConnections({ server }: App): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

if (import.meta.main) await serve(JSON.parse(process.argv[2] ?? "{}"));
