// A server in a child process that reports its memory and connections on request. Run as a program, this file is the
// child process. Imported, it exports the class that starts one.

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

/** Options that differ from the defaults. Times are in milliseconds. */
export interface ChildOptions {
  maxChats?: number;
  rateLimit?: boolean;
  trustProxy?: boolean;
  headersTimeout?: number;
  requestTimeout?: number;
  keepAliveTimeout?: number;
  /** Stops the server's clock. Only `pass` moves it. */
  isClockStopped?: boolean;
  /** Uses TLS with a self-signed certificate. */
  tls?: boolean;
  /** The heap limit in megabytes (--max-old-space-size). The child crashes when it exceeds the limit. */
  maxHeap?: number;
}

/** The state of the child. Memory is in bytes, measured after a full garbage collection. */
export interface Snapshot {
  heap: number;
  external: number;
  resident: number;
  /** Polls and streams that wait for news. */
  waiters: number;
  chats: number;
  connections: number;
  /** Bytes received on all connections since the start, closed ones included. */
  received: number;
  /** Bytes that the operating system has accepted for the open connections. */
  written: number;
  /** The longest time since the last full snapshot for which the event loop was blocked, in milliseconds. */
  longestStall: number;
  /** Internal errors, unhandled rejections and uncaught exceptions. Tests expect none. */
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

  snapshot(): Promise<Snapshot> {
    return this.#request({ passed: 0, isQuick: false });
  }

  /** Advances the server's clock and runs a sweep. Node's own timers are not affected. */
  pass(milliseconds: number): Promise<Snapshot> {
    return this.#request({ passed: milliseconds, isQuick: false });
  }

  /** Takes snapshots until one satisfies the condition, for at most a minute. Returns the last snapshot. */
  async waitUntil(isReached: (snapshot: Snapshot) => boolean): Promise<Snapshot> {
    const deadline = Date.now() + 60 * SECOND;
    for (let round = 1; ; round += 1) {
      // A full garbage collection blocks the child. It runs only if the condition already holds, and every tenth time.
      if (round % 10 === 0 || isReached(await this.#request({ passed: 0, isQuick: true }))) {
        const snapshot = await this.snapshot();
        if (isReached(snapshot) || Date.now() > deadline) return snapshot;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Waits until the server neither receives nor writes bytes. Returns the last snapshot. */
  async waitUntilQuiet(): Promise<Snapshot> {
    let last = await this.#request({ passed: 0, isQuick: true });
    for (let same = 0; same < 5;) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      const snapshot = await this.#request({ passed: 0, isQuick: true });
      same = last.written === snapshot.written && last.received === snapshot.received ? same + 1 : 0;
      last = snapshot;
    }
    return this.snapshot();
  }

  async #request(options: { passed: number; isQuick: boolean }): Promise<Snapshot> {
    assert.equal(this.process.exitCode ?? this.process.signalCode, null, "the server has exited");
    this.process.send(options);
    const [message]: unknown[] = await once(this.process, "message", { signal: AbortSignal.timeout(30 * SECOND) });
    const errors = record(message)["errors"];
    assert.ok(Array.isArray(errors));
    return {
      heap: numberIn(message, "heap"),
      external: numberIn(message, "external"),
      resident: numberIn(message, "resident"),
      waiters: numberIn(message, "waiters"),
      chats: numberIn(message, "chats"),
      connections: numberIn(message, "connections"),
      received: numberIn(message, "received"),
      written: numberIn(message, "written"),
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

/** Runs the server in the child process. */
async function serve(given: unknown): Promise<void> {
  const errors: string[] = [];
  const recordAs = (kind: string) => (error: unknown) => {
    errors.push(`${kind}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  };
  process.on("uncaughtException", recordAs("uncaught exception"));
  process.on("unhandledRejection", recordAs("unhandled rejection"));
  const { headersTimeout, requestTimeout, keepAliveTimeout, tls, isClockStopped, ...rest } = record(given);
  const options = { ...rest, ...(tls === true && { tls: selfSigned() }) };
  const start = Date.now();
  let offset = 0;
  const now = (): number => (isClockStopped === true ? start : Date.now()) + offset;
  const app = createApp({ ...options, now, logError: recordAs("internal error") });
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
    void sendSnapshot(record(message)["isQuick"] === true);
  });
  process.send?.({ port: portOf(app.server.address()) });

  async function sendSnapshot(isQuick: boolean): Promise<void> {
    const longestStall = stalls.max / 1e6;
    const heap = isQuick ? process.memoryUsage().heapUsed : await usedHeap();
    const { external, rss: resident } = process.memoryUsage();
    const { chats, waiters } = app.chats.count();
    const connections = await countConnections(app);
    const written = [...sockets].reduce(
      (sum, { bytesWritten, writableLength }) => sum + bytesWritten - writableLength,
      0,
    );
    const received = [...sockets].reduce((sum, { bytesRead }) => sum + bytesRead, receivedByClosed);
    process.send?.({ heap, external, resident, waiters, chats, connections, received, written, longestStall, errors });
    if (!isQuick) stalls.reset();
  }
}

function countConnections({ server }: App): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

if (import.meta.main) await serve(JSON.parse(process.argv[2] ?? "{}"));
