// Waiting readers, and posts at a steady rate that wait for nothing: an open loop. Latency counts from the time when a
// post was due, so a stall of the server also counts against the posts that it delays (no coordinated omission).

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { cpuOf, type Figures } from "./measure.ts";
import { ROOM_SIZE, type Rooms } from "./rooms.ts";

const TEXT_BYTES = 100;
const POSTING = 50;
const MARK = '"text":"#';
const DIGITS = 9;

/** Waiting readers of one server, and the latencies of the messages that reached them. */
export class Audience {
  readonly #rooms: Rooms;
  readonly #roomCount: number;
  readonly #readers: Socket[] = [];
  readonly #posters: Socket[] = [];
  /** When each post was due, by its number. */
  #due = new Float64Array(0);
  #latencies: number[] = [];
  /** The first answer that reported an error. */
  #failure: string | undefined;

  private constructor(rooms: Rooms, roomCount: number) {
    this.#rooms = rooms;
    this.#roomCount = roomCount;
  }

  /** Connects six readers to each room, and resolves when all of them are waiting. */
  static async gather(rooms: Rooms, roomCount: number): Promise<Audience> {
    const audience = new Audience(rooms, roomCount);
    for (let room = 0; room < roomCount; room += 1) {
      const seats = Array.from({ length: ROOM_SIZE }, (_, seat) => audience.#open(audience.#readers, room, seat));
      await Promise.all(seats);
    }
    if (!rooms.isOwnSocket) await Promise.all(Array.from({ length: POSTING }, () => audience.#openPoster()));
    // Readers that got an answer have just sent their next poll. Give the polls time to arrive.
    await sleep(200);
    return audience;
  }

  async #openPoster(): Promise<void> {
    const socket = await openSocket(this.#rooms.target.port);
    socket.on("data", (part: string) => {
      // A part may start in the middle of an answer.
      if (/HTTP\/1\.1 (?!20)/.test(part)) this.#failure ??= part;
    });
    this.#posters.push(socket);
  }

  async #open(readers: Socket[], room: number, seat: number): Promise<void> {
    const socket = await openSocket(this.#rooms.target.port);
    readers[room * ROOM_SIZE + seat] = socket;
    const { poll } = this.#rooms;
    let pending = "";
    socket.on("data", (part: string) => {
      pending += part;
      if (!poll) {
        pending = this.#take(pending);
      } else if (isWhole(pending)) {
        if (!pending.startsWith("HTTP/1.1 200")) this.#failure ??= pending;
        this.#take(pending);
        socket.write(poll(room, seat, pending), "latin1");
        pending = "";
      }
    });
    const greeted = this.#rooms.isGreeted && once(socket, "data");
    socket.write(this.#rooms.listen(room, seat), "latin1");
    await greeted;
  }

  /** Records the latency of each message in `text`. Returns its end, which may contain the start of another message. */
  #take(text: string): string {
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

  /** Posts at `rate` deliveries per second. Returns the CPU time per delivery (µs) and the latencies (ms). */
  async run(rate: number, seconds: number): Promise<{ cpu: number; p50: number; p99: number }> {
    const posts = Math.round((rate * seconds) / ROOM_SIZE);
    this.#due = new Float64Array(posts);
    this.#latencies = [];
    const { pid } = this.#rooms.target;
    const before = cpuOf(pid);
    await this.#post(posts, (1_000 * ROOM_SIZE) / rate);
    const expected = posts * ROOM_SIZE;
    for (let tries = 0; this.#latencies.length < expected && tries < 500; tries += 1) await sleep(20);
    if (this.#failure !== undefined) throw new Error(this.#failure);
    if (this.#latencies.length !== expected) throw new Error(`${this.#latencies.length} of ${expected} delivered`);
    const sorted = Float64Array.from(this.#latencies).toSorted();
    const at = (part: number): number => sorted[Math.floor(part * (expected - 1))] ?? NaN;
    return { cpu: (cpuOf(pid) - before) / expected, p50: at(0.5), p99: at(0.99) };
  }

  /** Sends each post when it is due, or as soon after that as this process can. */
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
    const room = number % this.#roomCount;
    const text = `#${String(number).padStart(DIGITS, "0")}`.padEnd(TEXT_BYTES, "x");
    const socket = this.#rooms.isOwnSocket ? this.#readers[room * ROOM_SIZE] : this.#posters[number % POSTING];
    socket?.write(this.#rooms.post(room, text), "latin1");
  }

  async leave(): Promise<void> {
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
export function isWhole(text: string): boolean {
  const head = text.indexOf("\r\n\r\n");
  const [, length] = /content-length: (\d+)/i.exec(text) ?? [];
  return head > 0 && text.length >= head + 4 + Number(length);
}

/** Names figures: "<name> CPU" and "<name> p99". */
export function named(name: string, { cpu, p99 }: { cpu: number; p99: number }): Figures {
  return { [`${name} CPU`]: cpu, [`${name} p99`]: p99 };
}
