// Measures the figures of docs/scaling.md: memory of chats and held polls, and CPU time per message, for one node and for
// HAProxy in front of it. Run `node --test test/scale/measure.ts`; it takes two minutes and a free core.
//
// Memory is the resident set size, so it includes garbage that V8 has not collected yet.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { at, LOCAL, Program, record, stringOf } from "../lib/helpers.ts";
import { countWaiters, eventually, type Seat, startHaproxy } from "../lib/proxies.ts";
import { Line } from "../soak/tools.ts";

const FLAGS = [...LOCAL, "--node", "a", "--no-rate-limit", "--metrics", "--max-chats", "100000"];
const SEATS = 6;
const MESSAGES = 30;
const TEXT = "Most messages in a chat are about one line long, so this text has the same size.";
const TICKS = Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));

test("memory of an idle chat and of a full chat", { timeout: 300_000 }, async (t) => {
  const node = await Program.start(t, FLAGS);
  const lines = await openLines(t, node.port, 32);
  await makeChats(lines, 500, SEATS);
  const empty = resident(pidOf(node));
  await makeChats(lines, 20_000, 1);
  const idle = resident(pidOf(node));
  report(t, { "bytes per idle chat of one": (idle - empty) / 20_000 });
  const seats = await makeChats(lines, 3_000, SEATS);
  await inParallel(lines, seats, async (line, chat) => {
    for (let index = 0; index < MESSAGES; index += 1) await post(line, at(chat, index % SEATS));
  });
  report(t, { "bytes per chat of six with thirty messages": (resident(pidOf(node)) - idle) / 3_000 });
});

for (const isProxied of [false, true]) {
  test(`held polls and messages, ${isProxied ? "through HAProxy" : "direct"}`, { timeout: 300_000 }, async (t) => {
    const node = await Program.start(t, FLAGS);
    const proxy = isProxied ? await startHaproxy(t, [node.port]) : undefined;
    const port = proxy?.port ?? node.port;
    const lines = await openLines(t, port, 8);
    const chats = await makeChats(lines, 500, SEATS);
    const processes = { node: pidOf(node), ...(proxy === undefined ? {} : { haproxy: proxy.pid }) };
    const before = sample(processes);
    const readers = await openLines(t, port, chats.length * SEATS);
    for (const [index, reader] of readers.entries())
      void keepReading(reader, at(at(chats, Math.floor(index / SEATS)), index % SEATS));
    await eventually("the polls to be held", async () => (await countWaiters(node)) === readers.length);
    const held = sample(processes);
    const posts = 10_000;
    const begun = performance.now();
    await inParallel(
      lines,
      Array.from({ length: posts }, (_, index) => at(chats, index % chats.length)),
      async (line, chat) => {
        await post(line, at(chat, 0));
      },
    );
    await eventually("the polls to be held again", async () => (await countWaiters(node)) === readers.length);
    const seconds = (performance.now() - begun) / 1000;
    const after = sample(processes);
    for (const [name, { memory, cpu }] of Object.entries(after)) {
      report(t, {
        [`${name}: bytes per held poll`]:
          ((held[name]?.memory ?? memory) - (before[name]?.memory ?? memory)) / readers.length,
        [`${name}: CPU microseconds per message to six`]: ((cpu - (held[name]?.cpu ?? 0)) / posts) * 1e6,
      });
    }
    report(t, { "messages per second": posts / seconds });
  });
}

test("CPU of plain requests through HAProxy", { timeout: 300_000 }, async (t) => {
  const node = await Program.start(t, FLAGS);
  const proxy = await startHaproxy(t, [node.port]);
  const lines = await openLines(t, proxy.port, 16);
  const chats = await makeChats(lines, 16, 1);
  const processes = { node: pidOf(node), haproxy: proxy.pid };
  const before = sample(processes);
  const requests = 60_000;
  await inParallel(
    lines,
    Array.from({ length: requests }, (_, index) => at(chats, index % chats.length)),
    async (line, chat) => {
      const { path, token } = at(chat, 0);
      assert.equal((await line.ask("GET", path, { token })).status, 200);
    },
  );
  const after = sample(processes);
  const each = (name: "node" | "haproxy") => (((after[name]?.cpu ?? 0) - (before[name]?.cpu ?? 0)) / requests) * 1e6;
  report(t, {
    "node: CPU microseconds per GET": each("node"),
    "haproxy: CPU microseconds per request": each("haproxy"),
  });
});

async function openLines(t: TestContext, port: number, count: number): Promise<Line[]> {
  const lines: Line[] = [];
  while (lines.length < count) {
    const more = Math.min(100, count - lines.length);
    lines.push(...(await Promise.all(Array.from({ length: more }, () => Line.open(port)))));
  }
  t.after(() => lines.forEach((line) => line.close()));
  return lines;
}

async function makeChats(lines: Line[], count: number, seats: number): Promise<Seat[][]> {
  const chats: Seat[][] = [];
  await inParallel(lines, Array.from({ length: count }), async (line) => {
    const creator = seatOf((await line.ask("POST", "/create")).body);
    const chat = [creator];
    if (seats > 1) {
      const invite = record((await line.ask("POST", `${creator.path}/invite`, creator)).body);
      const body = { invite_token: stringOf(invite, "invite_token") };
      while (chat.length < seats) chat.push(seatOf((await line.ask("POST", `${creator.path}/join`, { body })).body));
    }
    chats.push(chat);
  });
  return chats;
}

function seatOf(body: unknown): Seat {
  const fields = record(body);
  return { path: `/${stringOf(fields, "chat_id")}`, token: stringOf(fields, "session_token") };
}

async function post(line: Line, { path, token }: Seat): Promise<void> {
  assert.equal((await line.ask("POST", path, { token, body: { text: TEXT } })).status, 201);
}

/** Polls again and again until its connection is closed. */
async function keepReading(line: Line, { path, token }: Seat): Promise<void> {
  let since = "latest";
  for (;;) {
    const answer = await line.ask("GET", `${path}?since=${since}&wait=50`, { token }).catch(() => undefined);
    if (answer === undefined) return;
    since = String(record(answer.body)["cursor"]);
  }
}

/** Every line takes the next job until none are left. */
async function inParallel<Job>(
  lines: Line[],
  jobs: Job[],
  work: (line: Line, job: Job) => Promise<void>,
): Promise<void> {
  const entries = jobs.values();
  await Promise.all(
    lines.map(async (line) => {
      for (const job of entries) await work(line, job);
    }),
  );
  await sleep(1_000);
}

function pidOf(node: Program): number {
  return node.child.pid ?? 0;
}

/** Bytes and CPU seconds of each process. */
type Samples = Record<string, { memory: number; cpu: number }>;

function sample(processes: Record<string, number>): Samples {
  const samples = Object.entries(processes).map(([name, pid]) => [
    name,
    { memory: resident(pid), cpu: cpuSeconds(pid) },
  ]);
  return Object.fromEntries(samples);
}

/** The resident set size of a process in bytes. */
function resident(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;
}

/** CPU seconds of all threads of a process, in user and kernel mode: fields 14 and 15 of /proc/PID/stat (proc(5)). */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

function report(t: TestContext, figures: Record<string, number>): void {
  for (const [what, figure] of Object.entries(figures)) t.diagnostic(`${what}: ${figure.toFixed(0)}`);
}
