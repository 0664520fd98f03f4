// Counts, on which other load on the machine has no influence: bytes allocated on the heap and system calls, per request
// and per delivery, and the garbage collector's time per thousand deliveries.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Audience, isWhole } from "./held.ts";
import { fileHere, heapOf, memoryOf, type Target } from "./measure.ts";
import { ROOM_SIZE, type Rooms } from "./rooms.ts";

/** Flags for a server whose allocations are counted. The young generation is so large that nothing is collected meanwhile.
 * Optimised code allocates less, so it must not depend on the load of the machine when code is optimised. */
export const COUNTING = ["--min-semi-space-size=128", "--max-semi-space-size=128", "--no-concurrent-recompilation"];

/** Flags that make a server answer `heapOf` and `memoryOf`. */
export const REPORTING = ["--expose-gc", "--import", fileHere("memory.ts")];

const BATCHES = 5;
const BATCH = 200;

/**
 * Bytes that a server allocates on its heap per repetition of `repeat(times)`. The server needs COUNTING and REPORTING. The least
 * of a few batches, because compiling code allocates too.
 * @throws Error if no batch went by without a collection
 */
export async function bytesPer(target: Target, repeat: (times: number) => Promise<void>): Promise<number> {
  await repeat(5 * BATCH);
  const batches: number[] = [];
  for (let n = 0; n < BATCHES; n += 1) {
    await memoryOf(target);
    const before = await heapOf(target);
    await repeat(BATCH);
    const after = await heapOf(target);
    if (after.collections === before.collections) batches.push((after.used - before.used) / BATCH);
  }
  if (batches.length === 0) throw new Error("The server collected garbage in every batch.");
  return Math.min(...batches);
}

/** System calls of all threads of a server per repetition, counted by strace. */
export async function callsPer(
  target: Target,
  folder: string,
  repeat: (times: number) => Promise<void>,
): Promise<number> {
  await repeat(BATCH);
  const file = join(folder, `calls-${target.pid}.txt`);
  const strace = spawn("strace", ["-c", "-f", "-o", file, "-p", String(target.pid)], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  await once(strace.stderr, "data");
  await repeat(BATCH);
  const gone = once(strace, "exit");
  strace.kill("SIGINT");
  await gone;
  const [, calls] = /^100\.00\s+[\d.]+\s+\d+\s+(\d+).*total$/m.exec(readFileSync(file, "utf8")) ?? [];
  return Number(calls) / BATCH;
}

/** Sends the same request again and again on a few connections, each after the answer to the one before. */
export async function repeatRequest(
  port: number,
  request: string,
  connections: number,
): Promise<(times: number) => Promise<void>> {
  const sockets = Array.from({ length: connections }, () => connect({ port, host: "127.0.0.1", noDelay: true }));
  await Promise.all(sockets.map((socket) => once(socket.setEncoding("latin1"), "connect")));
  return async (times) => {
    for (let n = 0; n < times; n += connections) {
      for (const socket of sockets) socket.write(request, "latin1");
      await Promise.all(sockets.map(answerOf));
    }
  };
}

async function answerOf(socket: Socket): Promise<void> {
  for (let answer = ""; !isWhole(answer);) {
    const [part]: unknown[] = await once(socket, "data");
    answer += String(part);
    if (!answer.startsWith("HTTP/1.1 20")) throw new Error(answer);
  }
}

/** How many rooms `gatherRooms` uses. A stall of the machine must not let a room forget messages. */
export const COUNTED_ROOMS = 20;

/** Gathers the readers of a few rooms. A repetition is a post and its six deliveries. */
export async function gatherRooms(
  rooms: Rooms,
): Promise<{ audience: Audience; repeat: (times: number) => Promise<void> }> {
  const audience = await Audience.gather(rooms, COUNTED_ROOMS);
  // One post per 2 ms, so that a quiet server answers all polls before the next post.
  return { audience, repeat: async (times) => void (await audience.run(500 * ROOM_SIZE, times / 500)) };
}

/** Milliseconds of garbage collection per thousand deliveries (microseconds per delivery), to 600 readers at 6,000 per second. */
export async function collectionTime(rooms: Rooms, seconds: number): Promise<number> {
  const audience = await Audience.gather(rooms, 100);
  await audience.run(6_000, 1);
  const before = await heapOf(rooms.target);
  await audience.run(6_000, seconds);
  // The server observes its last collections a turn later.
  await sleep(50);
  const after = await heapOf(rooms.target);
  await audience.leave();
  return (after.milliseconds - before.milliseconds) / (6 * seconds);
}
