// How the bench measures: processes pinned to a core, their CPU time as the kernel counts it, rounds in random order,
// and statistics.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Servers run on one core and their clients on the other, so that the clients take no time from the servers. */
const SERVER_CORE = "0";
const LOAD_CORE = "1";

/** Moves this process, and every process that it starts, to the clients' core. */
export function pinLoad(): void {
  const { status } = spawnSync("taskset", ["-acp", LOAD_CORE, String(process.pid)]);
  if (status !== 0) throw new Error("The bench needs Linux, taskset and two cores.");
}

/** A server under measurement, in its own pinned process. */
export interface Target {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly port: number;
  /** Its output up to its address. */
  readonly printed: string;
}

const running = new Set<Target>();

export function fileHere(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

/** Starts a server on its core. */
export function startTarget(command: readonly string[]): Promise<Target> {
  return startAnywhere(["taskset", "-c", SERVER_CORE, ...command]);
}

/** Starts a server and waits until it has printed its address (http://127.0.0.1:port). */
export async function startAnywhere([program = "", ...command]: readonly string[]): Promise<Target> {
  const child = spawn(program, command, { stdio: ["pipe", "pipe", "inherit"] });
  let printed = "";
  child.stdout.setEncoding("utf8");
  child.stdout.on("data", (part: string) => (printed += part));
  while (!/127\.0\.0\.1:\d+\s/.test(printed)) {
    await Promise.race([once(child.stdout, "data"), once(child, "exit")]);
    if (child.exitCode !== null) throw new Error(`${command.join(" ")} did not start: ${printed}`);
  }
  const target = { child, pid: child.pid ?? 0, port: Number(/127\.0\.0\.1:(\d+)/.exec(printed)?.[1]), printed };
  running.add(target);
  return target;
}

export async function stopTarget(target: Target): Promise<void> {
  running.delete(target);
  if (target.child.exitCode !== null) return;
  const gone = once(target.child, "exit");
  target.child.kill();
  await gone;
}

export async function stopTargets(): Promise<void> {
  await Promise.all([...running].map(stopTarget));
}

/** The memory that a server reports after a full garbage collection (memory.ts), in bytes. */
export interface Memory {
  rss: number;
  heap: number;
}

export async function memoryOf(target: Target): Promise<Memory> {
  const [rss = 0, heap = 0] = await askTarget(target, "memory");
  return { rss, heap };
}

/** The heap of a server as it is: bytes in use, and the collections since it was asked first, with their milliseconds. */
export interface Heap {
  used: number;
  collections: number;
  milliseconds: number;
}

export async function heapOf(target: Target): Promise<Heap> {
  const [used = 0, collections = 0, milliseconds = 0] = await askTarget(target, "count");
  return { used, collections, milliseconds };
}

async function askTarget({ child: { stdin, stdout } }: Target, question: "memory" | "count"): Promise<number[]> {
  if (!stdin || !stdout) throw new Error("A target has pipes.");
  const answer = once(stdout, "data");
  stdin.write(`${question}\n`);
  const [line]: unknown[] = await answer;
  return String(line).trim().split(" ").map(Number);
}

/** Microseconds of CPU time that a process, its threads and its children have used so far. */
export function cpuOf(pid: number): number {
  const path = `/proc/${pid}/task`;
  const own = readdirSync(path).map((task) => Number(readFileSync(`${path}/${task}/schedstat`, "utf8").split(" ")[0]));
  const total = own.reduce((sum, each) => sum + each, 0) / 1_000;
  return childrenOf(pid).reduce((sum, child) => sum + cpuOf(child), total);
}

/** Resident bytes of a process and its children. */
export function residentOf(pid: number): number {
  const kilobytes = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  return childrenOf(pid).reduce((sum, child) => sum + residentOf(child), kilobytes * 1_024);
}

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
}

/** The figures of one round, by name. */
export type Figures = Record<string, number>;
export type Probe = () => Promise<Figures>;
/** For each name, its figures in all rounds. */
export type Series = ReadonlyMap<string, readonly number[]>;

/** Runs all probes once per round, each round in a new random order. Figures of the warm-up rounds are dropped. */
export async function runRounds(title: string, rounds: number, probes: readonly Probe[], warmUp = 1): Promise<Series> {
  const series = new Map<string, number[]>();
  for (let round = 1 - warmUp; round <= rounds; round += 1) {
    process.stderr.write(`\r${title}: round ${round} of ${rounds} `);
    for (const probe of shuffled(probes)) {
      const figures = Object.entries(await probe());
      if (round > 0) for (const [name, value] of figures) series.set(name, [...(series.get(name) ?? []), value]);
    }
  }
  process.stderr.write("\n");
  return series;
}

export function shuffled<Item>(items: readonly Item[]): Item[] {
  return items
    .map((item) => ({ item, place: Math.random() }))
    .toSorted((a, b) => a.place - b.place)
    .map(({ item }) => item);
}

/** A figure over all rounds: the median, both quartiles, and the mean of the least disturbed tenth of the rounds. Other
 * load on the machine only adds time, so the smallest figures are closest to the cost of the program itself. */
export interface Summary {
  median: number;
  low: number;
  high: number;
  least: number;
}

export function summarise(values: readonly number[]): Summary | undefined {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (part: number): number => sorted[Math.round(part * (sorted.length - 1))] ?? 0;
  const tenth = sorted.slice(0, Math.ceil(sorted.length / 10));
  const least = tenth.reduce((sum, each) => sum + each, 0) / tenth.length;
  return sorted.length === 0 ? undefined : { median: at(0.5), low: at(0.25), high: at(0.75), least };
}

export function summaryOf(series: Series, name: string): Summary | undefined {
  return summarise(series.get(name) ?? []);
}

/** The ratio of two figures within each round, because a slow moment of the machine affects both. `least` is the ratio of
 * the least disturbed rounds of each. */
export function ratioOf(series: Series, over: string, under: string): Summary | undefined {
  const divisors = series.get(under) ?? [];
  const dividends = series.get(over) ?? [];
  const ratio = summarise(dividends.map((each, round) => each / (divisors[round] ?? NaN)));
  const [most, least] = [summarise(dividends)?.least, summarise(divisors)?.least];
  if (dividends.length !== divisors.length || !ratio || most === undefined || least === undefined) return undefined;
  return { ...ratio, least: most / least };
}
