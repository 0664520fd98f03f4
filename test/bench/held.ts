// Load with waiting readers and posts at a steady rate that never wait for answers (an open loop). Latency counts from the
// time a post was due, so a delay before sending counts too (no coordinated omission).

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { cpuOf, type Figures } from "./measure.ts";
import { type Protocol, SEATS } from "./rooms.ts";

const TEXT_BYTES = 100;
const POSTERS = 50;
const MARK = '"text":"#';
const DIGITS = 9;

/** The readers of several chats of one server, and the latencies of their messages. */
export class ReaderPool {
  readonly #protocol: Protocol;
  readonly #chatCount: number;
  readonly #readers: Socket[] = [];
  readonly #posters: Socket[] = [];
  /** When each post is due. */
  #due = new Float64Array(0);
  #latencies: number[] = [];
  /** The first answer that is an error. */
  #failure: string | undefined;

  private constructor(protocol: Protocol, chatCount: number) {
    this.#protocol = protocol;
    this.#chatCount = chatCount;
  }

  /** Connects six readers to each chat and resolves once the server holds all of them. */
  static async connect(protocol: Protocol, chatCount: number): Promise<ReaderPool> {
    const pool = new ReaderPool(protocol, chatCount);
    for (let chat = 0; chat < chatCount; chat += 1) {
      const seats = Array.from({ length: SEATS }, (_, seat) => pool.#open(pool.#readers, chat, seat));
      await Promise.all(seats);
    }
    if (!protocol.postsOnReader) await Promise.all(Array.from({ length: POSTERS }, () => pool.#openPoster()));
    // After a greeting, a reader's next poll has not arrived yet.
    await sleep(200);
    return pool;
  }

  async #openPoster(): Promise<void> {
    const socket = await openSocket(this.#protocol.target.port);
    socket.on("data", (part: string) => {
      if (!part.startsWith("HTTP/1.1 20")) this.#failure ??= part;
    });
    this.#posters.push(socket);
  }

  async #open(readers: Socket[], chat: number, seat: number): Promise<void> {
    const socket = await openSocket(this.#protocol.target.port);
    readers[chat * SEATS + seat] = socket;
    const { poll } = this.#protocol;
    let pending = "";
    socket.on("data", (part: string) => {
      pending += part;
      if (!poll) {
        pending = this.#record(pending);
      } else if (isWhole(pending)) {
        if (!pending.startsWith("HTTP/1.1 200")) this.#failure ??= pending;
        this.#record(pending);
        socket.write(poll(chat, seat, pending), "latin1");
        pending = "";
      }
    });
    const greeted = this.#protocol.hasGreeting && once(socket, "data");
    socket.write(this.#protocol.listen(chat, seat), "latin1");
    await greeted;
  }

  /** Records the latency of each message in a text. Returns its end, which may be the start of another message. */
  #record(text: string): string {
    const now = performance.now();
    const length = MARK.length + DIGITS;
    let from = 0;
    for (let at = text.indexOf(MARK); at >= 0 && at + length <= text.length; at = text.indexOf(MARK, from)) {
      from = at + length;
      const due = this.#due[Number(text.slice(at + MARK.length, from))] ?? NaN;
      this.#latencies.push(now - due);
    }
    return text.slice(Math.max(from, text.length - length));
  }

  /** Posts at `rate` deliveries per second. Returns CPU microseconds per delivery and latencies in milliseconds. */
  async run(rate: number, seconds: number): Promise<{ cpu: number; p50: number; p99: number }> {
    const posts = Math.round((rate * seconds) / SEATS);
    this.#due = new Float64Array(posts);
    this.#latencies = [];
    const { pid } = this.#protocol.target;
    const before = cpuOf(pid);
    await this.#post(posts, (1_000 * SEATS) / rate);
    const expected = posts * SEATS;
    for (let tries = 0; this.#latencies.length < expected && tries < 500; tries += 1) await sleep(20);
    if (this.#failure !== undefined) throw new Error(this.#failure);
    if (this.#latencies.length !== expected) throw new Error(`${this.#latencies.length} of ${expected} delivered`);
    const sorted = Float64Array.from(this.#latencies).toSorted();
    const at = (part: number): number => sorted[Math.floor(part * (expected - 1))] ?? NaN;
    return { cpu: (cpuOf(pid) - before) / expected, p50: at(0.5), p99: at(0.99) };
  }

  /** Sends each post when it is due, or as soon as possible after that. */
  #post(posts: number, gap: number): Promise<void> {
    const start = performance.now();
    let next = 0;
    return new Promise((resolve) => {
      const step = (): void => {
        for (; next < posts && start + next * gap <= performance.now(); next += 1) {
          this.#due[next] = start + next * gap;
          this.#sendPost(next);
        }
        if (next === posts) resolve();
        else setImmediate(step);
      };
      step();
    });
  }

  #sendPost(number: number): void {
    const chat = number % this.#chatCount;
    const text = `#${String(number).padStart(DIGITS, "0")}`.padEnd(TEXT_BYTES, "x");
    const socket = this.#protocol.postsOnReader ? this.#readers[chat * SEATS] : this.#posters[number % POSTERS];
    socket?.write(this.#protocol.post(chat, text), "latin1");
  }

  async close(): Promise<void> {
    for (const socket of [...this.#readers, ...this.#posters]) socket.destroy();
    await sleep(100);
  }
}

async function openSocket(port: number): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true });
  socket.setEncoding("latin1");
  await once(socket, "connect");
  return socket;
}

/** Whether an answer with a Content-Length is complete. */
function isWhole(text: string): boolean {
  const head = text.indexOf("\r\n\r\n");
  const at = text.indexOf("Content-Length: ");
  return head > 0 && at > 0 && text.length >= head + 4 + parseInt(text.slice(at + 16, at + 26), 10);
}

/** The figures with a name: "… CPU" and "… p99". */
export function named(name: string, { cpu, p99 }: { cpu: number; p99: number }): Figures {
  return { [`${name} CPU`]: cpu, [`${name} p99`]: p99 };
}
