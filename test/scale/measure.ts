// What docs/scaling.md reckons with: the memory of chats and of held polls, and the CPU time of a message, on one node
// and in HAProxy before it. `node --test test/scale/measure.ts` prints it; it takes two minutes and a free core.
//
// Memory is what the kernel counts for the process (resident), so with the garbage that V8 had not yet collected.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { at, LOCAL, Program, record, stringOf } from "../helpers.ts";
import { countHeld, eventually, type Seat, startHaproxy } from "../proxies.ts";
import { Line } from "../soak/tools.ts";

const FLAGS = [...LOCAL, "--node", "a", "--no-rate-limit", "--metrics", "--max-chats", "100000"];
const SEATS = 6;
const MESSAGES = 30;
const TEXT = "What people say in a chat has about as many characters as this line of text has.";
const TICKS = Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));

test("memory of an idle chat and of a full one", { timeout: 300_000 }, async (t) => {
  const node = await Program.start(t, FLAGS);
  const lines = await openLines(t, node.port, 32);
  await makeChats(lines, 500, SEATS);
  const empty = resident(pidOf(node));
  await makeChats(lines, 20_000, 1);
  const idle = resident(pidOf(node));
  report(t, { "bytes an idle chat of one": (idle - empty) / 20_000 });
  const seats = await makeChats(lines, 3_000, SEATS);
  await inParallel(lines, seats, async (line, chat) => {
    for (let index = 0; index < MESSAGES; index += 1) await post(line, at(chat, index % SEATS));
  });
  report(t, { "bytes a chat of six with thirty messages": (resident(pidOf(node)) - idle) / 3_000 });
});

for (const isProxied of [false, true]) {
  test(`held polls and messages, ${isProxied ? "through HAProxy" : "straight"}`, { timeout: 300_000 }, async (t) => {
    const node = await Program.start(t, FLAGS);
    const proxy = isProxied ? await startHaproxy(t, [node.port]) : undefined;
    const port = proxy?.port ?? node.port;
    const lines = await openLines(t, port, 8);
    const chats = await makeChats(lines, 500, SEATS);
    const processes = { node: pidOf(node), ...(proxy === undefined ? {} : { haproxy: proxy.pid }) };
    const before = lookAt(processes);
    const readers = await openLines(t, port, chats.length * SEATS);
    for (const [index, reader] of readers.entries())
      void keepReading(reader, at(at(chats, Math.floor(index / SEATS)), index % SEATS));
    await eventually("the polls to be held", async () => (await countHeld(node)) === readers.length);
    const held = lookAt(processes);
    const posts = 10_000;
    const begun = performance.now();
    await inParallel(
      lines,
      Array.from({ length: posts }, (_, index) => at(chats, index % chats.length)),
      async (line, chat) => {
        await post(line, at(chat, 0));
      },
    );
    await eventually("the polls to be held again", async () => (await countHeld(node)) === readers.length);
    const seconds = (performance.now() - begun) / 1000;
    const after = lookAt(processes);
    for (const [name, { memory, cpu }] of Object.entries(after)) {
      report(t, {
        [`${name}: bytes a held poll`]:
          ((held[name]?.memory ?? memory) - (before[name]?.memory ?? memory)) / readers.length,
        [`${name}: CPU microseconds a message to six`]: ((cpu - (held[name]?.cpu ?? 0)) / posts) * 1e6,
      });
    }
    report(t, { "messages a second": posts / seconds });
  });
}

test("CPU of plain requests through HAProxy", { timeout: 300_000 }, async (t) => {
  const node = await Program.start(t, FLAGS);
  const proxy = await startHaproxy(t, [node.port]);
  const lines = await openLines(t, proxy.port, 16);
  const chats = await makeChats(lines, 16, 1);
  const processes = { node: pidOf(node), haproxy: proxy.pid };
  const before = lookAt(processes);
  const requests = 60_000;
  await inParallel(
    lines,
    Array.from({ length: requests }, (_, index) => at(chats, index % chats.length)),
    async (line, chat) => {
      const { path, token } = at(chat, 0);
      assert.equal((await line.ask("GET", path, { token })).status, 200);
    },
  );
  const after = lookAt(processes);
  const each = (name: "node" | "haproxy") => (((after[name]?.cpu ?? 0) - (before[name]?.cpu ?? 0)) / requests) * 1e6;
  report(t, { "node: CPU microseconds a GET": each("node"), "haproxy: CPU microseconds a request": each("haproxy") });
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

/** Polls from the cursor on until its connection is closed. */
async function keepReading(line: Line, { path, token }: Seat): Promise<void> {
  let since = "latest";
  for (;;) {
    const answer = await line.ask("GET", `${path}?since=${since}&wait=50`, { token }).catch(() => undefined);
    if (answer === undefined) return;
    since = String(record(answer.body)["cursor"]);
  }
}

/** Each line takes the next of the jobs until there are none. */
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

type Looks = Record<string, { memory: number; cpu: number }>;

function lookAt(processes: Record<string, number>): Looks {
  const looks = Object.entries(processes).map(([name, pid]) => [name, { memory: resident(pid), cpu: cpuSeconds(pid) }]);
  return Object.fromEntries(looks);
}

/** Bytes. */
function resident(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;
}

/** Of all its threads, in its own code and in the kernel's for it (proc(5), fields 14 and 15). */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

function report(t: TestContext, figures: Record<string, number>): void {
  for (const [what, figure] of Object.entries(figures)) t.diagnostic(`${what}: ${figure.toFixed(0)}`);
}
