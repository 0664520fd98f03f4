// Helpers of the soak tests: seeded random numbers, and a minimal HTTP client for large numbers of requests.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { queryObjects } from "node:v8";

/** Returns SOAK_SEED if it is set, so that a failure can be reproduced. Otherwise returns a new seed. */
export function chooseSeed(): number {
  const given = process.env["SOAK_SEED"] ?? "";
  return given === "" ? Math.floor(Math.random() * 2 ** 31) : Number(given) | 0;
}

/** A pseudo-random generator (mulberry32). The same seed gives the same numbers in every run. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** Returns a number from 0 (inclusive) to 1 (exclusive). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Returns an integer from 0 (inclusive) to `end` (exclusive). */
  below(end: number): number {
    return Math.floor(this.next() * end);
  }

  isTrue(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    const item = list[this.below(list.length)];
    assert.ok(item !== undefined, "the list is empty");
    return item;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)));
  }
}

export interface RequestFields {
  /** The Host header. Defaults to the server's address. */
  host?: string;
  token?: string | undefined;
  key?: string | undefined;
  /** Additional header lines, sent exactly as given. */
  lines?: string[];
  /** Sent as JSON. */
  body?: object;
}

export interface LineReply {
  status: number;
  /** The status line and the headers, as received. */
  head: string;
  text: string;
  /** The parsed body, or undefined if the response is not JSON. */
  body: unknown;
}

/**
 * A keep-alive connection that sends one request at a time. It parses only the HTTP that the server produces, which
 * makes it several times faster than an http.Agent.
 */
export class Line {
  readonly #socket: Socket;
  readonly #port: number;
  #received: Buffer = Buffer.alloc(0);
  #settle: { resolve: (reply: LineReply) => void; reject: (error: Error) => void } | undefined;

  constructor(socket: Socket, port: number) {
    this.#socket = socket;
    this.#port = port;
    socket.setNoDelay(true);
    socket.on("data", (part: Buffer) => {
      this.#received = this.#received.length === 0 ? part : Buffer.concat([this.#received, part]);
      this.#read();
    });
    socket.on("error", (error) => this.#settle?.reject(error));
    socket.on("close", () => this.#settle?.reject(new Error("the connection closed without a response")));
  }

  static async open(port: number): Promise<Line> {
    const socket = connect({ port, host: "127.0.0.1" });
    await once(socket, "connect");
    return new Line(socket, port);
  }

  ask(method: string, path: string, { host, token, key, lines = [], body }: RequestFields = {}): Promise<LineReply> {
    assert.ok(this.#settle === undefined, "one request at a time");
    const content = body === undefined ? "" : JSON.stringify(body);
    const head = [
      `${method} ${path} HTTP/1.1`,
      `Host: ${host ?? `127.0.0.1:${this.#port}`}`,
      ...(token === undefined ? [] : [`Authorization: Bearer ${token}`]),
      ...(key === undefined ? [] : [`Idempotency-Key: ${key}`]),
      ...(body === undefined ? [] : [`Content-Length: ${Buffer.byteLength(content)}`]),
      ...lines,
    ];
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
      this.#socket.write(`${head.join("\r\n")}\r\n\r\n${content}`);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(): void {
    const split = this.#received.indexOf("\r\n\r\n");
    if (split < 0) return;
    const head = this.#received.toString("latin1", 0, split);
    const length = Number(/\r\nContent-Length: (\d+)/i.exec(head)?.[1] ?? 0);
    const end = split + 4 + length;
    if (this.#received.length < end) return;
    const text = this.#received.toString("utf8", split + 4, end);
    this.#received = this.#received.subarray(end);
    const isJson = /\r\nContent-Type: application\/json/i.test(head);
    const body: unknown = isJson ? JSON.parse(text) : undefined;
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.resolve({ status: Number(head.slice(9, 12)), head, text, body });
  }
}

/**
 * Returns the bytes of heap in use after a full garbage collection. Before it counts objects, V8 collects everything it
 * can, including compiled code that has not run recently. An ordinary collection leaves megabytes of that behind.
 */
export async function usedHeap(): Promise<number> {
  for (let turn = 0; turn < 4; turn += 1) {
    // Recently closed sockets become unreachable only in the next turns of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    queryObjects(Line, { format: "count" });
  }
  return process.memoryUsage().heapUsed;
}
