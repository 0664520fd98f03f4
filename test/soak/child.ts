// A server in a process of its own, which tells what it holds when asked. Run as a program this file is that
// process; imported it starts one.

import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { type App, createApp } from "../../server.ts";
import { portOf, record, SECOND } from "../helpers.ts";
import { usedHeap } from "./tools.ts";

/** What the child's server may be told beyond the defaults; times in milliseconds. */
export interface ChildOptions {
  maxChats?: number;
  rateLimit?: boolean;
  trustProxy?: boolean;
  headersTimeout?: number;
  requestTimeout?: number;
  keepAliveTimeout?: number;
}

/** Memory in bytes, after what nobody refers to is gone. */
export interface Look {
  heap: number;
  external: number;
  resident: number;
  waiting: number;
  chats: number;
  connections: number;
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
    const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(options)], { stdio: "inherit" });
    t.after(() => child.kill("SIGKILL"));
    const [message]: unknown[] = await once(child, "message");
    return new Child(child, numberIn(message, "port"));
  }

  async look(): Promise<Look> {
    assert.equal(this.process.exitCode ?? this.process.signalCode, null, "the server has ended");
    this.process.send("look");
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
      longestStall: numberIn(message, "longestStall"),
      errors: errors.map(String),
    };
  }

  /** Looks until it looks as it should, for half a minute at most; returns the last look. */
  async lookUntil(isFine: (look: Look) => boolean): Promise<Look> {
    const deadline = Date.now() + 30 * SECOND;
    let look = await this.look();
    while (!isFine(look) && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      look = await this.look();
    }
    return look;
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
  const { headersTimeout, requestTimeout, keepAliveTimeout, ...options } = record(given);
  const app = createApp({ ...options, logError: note("internal error") });
  if (typeof headersTimeout === "number") app.server.headersTimeout = headersTimeout;
  if (typeof requestTimeout === "number") app.server.requestTimeout = requestTimeout;
  if (typeof keepAliveTimeout === "number") app.server.keepAliveTimeout = keepAliveTimeout;
  setInterval(() => app.sweep(), 250);
  const stalls = monitorEventLoopDelay({ resolution: 5 });
  stalls.enable();
  await once(app.server.listen(0, "127.0.0.1"), "listening");
  process.on("disconnect", () => process.exit());
  process.on("message", () => void tell());
  process.send?.({ port: portOf(app.server.address()) });

  async function tell(): Promise<void> {
    const longestStall = stalls.max / 1e6;
    const heap = await usedHeap();
    const { external, rss: resident } = process.memoryUsage();
    const { chats, waiters: waiting } = app.chats.count();
    const connections = await countConnections(app);
    process.send?.({ heap, external, resident, waiting, chats, connections, longestStall, errors });
    stalls.reset();
  }
}

function countConnections({ server }: App): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

if (import.meta.main) await serve(JSON.parse(process.argv[2] ?? "{}"));
