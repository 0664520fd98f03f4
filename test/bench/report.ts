// Reports the results: the table of goals on the terminal and in docs/performance.md, the growth table and its plot, and
// the arithmetic from one core to a million people.

import { readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { chatCounts, type Growth, type HeldCost, type Settings } from "./groups.ts";
import { fileHere, ratioOf, type Series, type Summary, summaryOf } from "./measure.ts";

export interface Results {
  readonly requests: Series;
  readonly held: Series;
  readonly heldCost: HeldCost;
  readonly growth: Growth;
  readonly start: Series;
}

interface Row {
  readonly what: string;
  readonly against: string;
  readonly unit: "×" | "ms" | "kB";
  readonly measured: Summary | undefined;
  /** The figure to reach ("≥") or not to exceed ("≤"). Rows without a goal are for information. */
  readonly goal?: readonly ["≥" | "≤", number];
}

/** Every row of the table. Figures that could not be measured are undefined. */
export function makeRows(results: Results): Row[] {
  return [...requestRows(results), ...heldRows(results), ...otherRows(results)];
}

/* The ratios of requests: how many of ours take the CPU time of one of theirs. Higher is better. */
function requestRows({ requests, growth }: Results): Row[] {
  const faster = (kind: string, rival: string): Summary | undefined =>
    ratioOf(requests, `${kind} ${rival}`, `${kind} ours`);
  const counts = [...growth.series.keys()].filter((name) => /^GET \d/.test(name)).map((name) => Number(name.slice(4)));
  const [small, large] = [Math.min(...counts), Math.max(...counts)];
  const grown = (kind: string): Summary | undefined => ratioOf(growth.series, `${kind} ${large}`, `${kind} ${small}`);
  const many = `${large.toLocaleString("en")} chats of 30 messages`;
  return [
    row("`GET` with one new message", "bare `node:http`, the same answer", "×", faster("GET", "bare"), ["≥", 0.9]),
    row("`GET` with one new message", "the same with two headers", "×", faster("GET", "few")),
    row("`POST`", "bare `node:http` that reads the body", "×", faster("POST", "bare"), ["≥", 0.85]),
    row("`POST`", "the same with two headers", "×", faster("POST", "few")),
    row("`GET` of 30 messages", "Nchan, as multipart/mixed", "×", faster("history", "nchan parts"), ["≥", 1.7]),
    row("`GET` of 30 messages", "Nchan, concatenated", "×", faster("history", "nchan raw"), ["≥", 1.7]),
    row("`GET` with one new message", "fastify 5", "×", faster("GET", "fastify"), ["≥", 1.3]),
    row("`POST`", "fastify 5", "×", faster("POST", "fastify"), ["≥", 1.3]),
    row(`CPU of a \`GET\`, ${many}`, `${small} chats`, "×", grown("GET"), ["≤", 1.2]),
    row(`CPU of a \`POST\`, ${many}`, `${small} chats`, "×", grown("POST"), ["≤", 1.3]),
  ];
}

function heldRows({ held }: Results): Row[] {
  const cost = (name: string, rival: string): Summary | undefined =>
    ratioOf(held, `${name} 600 at 18000 CPU`, `${rival} 600 at 18000 CPU`);
  const late = (name: string, readers: number): Summary | undefined =>
    summaryOf(held, `${name} ${readers} at 6000 p99`);
  const others = (readers: number): Row[] =>
    ["stream", "ws", "nchan"].map((name) => row(`the same: ${RIVAL_NAMES[name]}`, "", "ms", late(name, readers)));
  return [
    row("CPU per delivery to held polls, 18,000 per second", "Nchan", "×", cost("ours", "nchan"), ["≤", 1.3]),
    row("CPU per delivery to held polls, 18,000 per second", "`ws`", "×", cost("ours", "ws"), ["≤", 1.6]),
    row("CPU per delivery to streams, 18,000 per second", "`ws`", "×", cost("stream", "ws")),
    row("post to delivery, p99: 600 held polls, 6,000 per second", "", "ms", late("ours", 600), ["≤", 3]),
    ...others(600),
    row("post to delivery, p99: 6,000 held polls, 6,000 per second", "", "ms", late("ours", 6_000), ["≤", 10]),
    ...others(6_000),
  ];
}

const RIVAL_NAMES: Record<string, string> = { stream: "our streams", ws: "`ws`", nchan: "Nchan" };

/** Kilobytes. Memory is measured once, so there is no spread. */
function kilobytes(bytes: number | undefined): Summary | undefined {
  return bytes === undefined ? undefined : { median: bytes / 1_000, low: bytes / 1_000, high: bytes / 1_000 };
}

function otherRows({ heldCost: { memory }, growth, start }: Results): Row[] {
  return [
    row("memory of a held poll", "", "kB", kilobytes(memory["ours"]?.rss), ["≤", 8]),
    row("of this on the heap", "", "kB", kilobytes(memory["ours"]?.heap)),
    row("memory of an idle connection: bare `node:http`", "", "kB", kilobytes(memory["bare"]?.rss)),
    row("memory of a reader: `ws`", "", "kB", kilobytes(memory["ws"]?.rss)),
    row("memory of a held poll: Nchan", "", "kB", kilobytes(memory["nchan"]?.rss)),
    row("a chat with 30 messages of 100 bytes", "the bytes: 3 kB", "kB", kilobytes(growth.chat.rss), ["≤", 8]),
    row("of this on the heap", "", "kB", kilobytes(growth.chat.heap)),
    row("exec to first answer, executable", "`node dist/server.cjs`", "×", ratioOf(start, "executable", "node"), [
      "≤",
      1.3,
    ]),
  ];
}

function row(what: string, against: string, unit: Row["unit"], measured: Row["measured"], goal?: Row["goal"]): Row {
  return { what, against, unit, measured, ...(goal && { goal }) };
}

/** The median, with the quartiles if they differ. */
function figure({ measured, unit }: Row): string {
  if (!measured) return "not measured";
  const [median, low, high] = [measured.median, measured.low, measured.high].map((value) =>
    value.toFixed(digits(unit)),
  );
  return low === high ? `${median} ${unit}` : `${median} ${unit} (${low} to ${high})`;
}

function digits(unit: Row["unit"]): number {
  return unit === "×" ? 2 : 1;
}

function verdict({ measured, goal }: Row): string {
  if (!measured || !goal) return "";
  const [sense, limit] = goal;
  return (sense === "≥" ? measured.median >= limit : measured.median <= limit) ? "met" : "missed";
}

function goalText({ goal, unit }: Row): string {
  return goal ? `${goal[0]} ${goal[1]} ${unit}` : "";
}

const HEADING = ["what", "against", "measured", "goal", ""];

function cells(each: Row): string[] {
  return [each.what, each.against, figure(each), goalText(each), verdict(each)];
}

export function printTable(rows: readonly Row[], settings: Settings): void {
  const lines = [HEADING, ...rows.map(cells)].map((line) => line.map((cell) => cell.replaceAll("`", "")));
  const widths = HEADING.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  for (const line of lines) {
    console.log(
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    );
  }
  console.log(`\n${methodOf(settings)}`);
}

function methodOf({ rounds, seconds }: Settings): string {
  return (
    `Median of ${rounds} rounds of ${seconds} s, with the quartiles in brackets. Servers run on one core and the load ` +
    `on another. The order is random in each round, and ratios are computed per round from the CPU time of the ` +
    `server's process. The rate limit is off (--no-rate-limit), because one sender represents many people. ` +
    `Node ${process.versions.node}, ${cpus()[0]?.model ?? "an unknown processor"}.`
  );
}

/* docs/performance.md: the text between two markers is generated here, the rest is written by hand. */

export function writeReport(results: Results, settings: Settings): void {
  const file = fileHere("../../docs/performance.md");
  const parts: Record<string, string> = {
    goals: `${markdownTable(HEADING, makeRows(results).map(cells))}\n\n${methodOf(settings)}`,
    growth: growthTable(results, settings),
    million: arithmetic(results),
  };
  let page = readFileSync(file, "utf8");
  for (const [name, part] of Object.entries(parts)) page = replacePart(page, name, part);
  writeFileSync(file, page);
  writeFileSync(fileHere("../../docs/performance.svg"), drawGrowth(results, settings));
}

function replacePart(page: string, name: string, part: string): string {
  const marked = new RegExp(`(<!-- ${name} -->\n)[^]*?(<!-- end -->)`);
  if (!marked.test(page)) throw new Error(`docs/performance.md has no marker for ${name}.`);
  return page.replace(marked, (_, start: string, end: string) => `${start}\n${part}\n\n${end}`);
}

function markdownTable(heading: readonly string[], lines: readonly (readonly string[])[]): string {
  return [heading, heading.map(() => "---"), ...lines].map((line) => `| ${line.join(" | ")} |`).join("\n");
}

function growthTable({ growth, heldCost: { memory, cpu } }: Results, settings: Settings): string {
  const micros = (name: string): string => number(summaryOf(growth.series, name)?.median, 1);
  const chats = chatCounts(settings).map((count) => [
    `${count.toLocaleString("en")} chats of 30 messages`,
    micros(`GET ${count}`),
    micros(`POST ${count}`),
    count === Math.max(...chatCounts(settings)) ? `${number(growth.chat.rss, 0)} per chat` : "",
  ]);
  const lengths = [1, 30].map((count) => [`all messages of a chat with ${count}`, micros(`GET of ${count}`), "", ""]);
  const held = [
    ["102 held polls", number(cpu["few"], 1), "", `${number(memory["ours, few"]?.heap, 0)} per poll (heap)`],
    ["10,002 held polls", number(cpu["many"], 1), "", `${number(memory["ours"]?.rss, 0)} per poll`],
  ];
  return markdownTable(["with", "µs per `GET`", "µs per `POST`", "bytes"], [...chats, ...lengths, ...held]);
}

function number(value: number | undefined, places: number): string {
  return value === undefined || Number.isNaN(value) ? "not measured" : value.toFixed(places);
}

/** How many cores and bytes a million people need if each posts every 30 seconds. */
function arithmetic({ heldCost, growth, held }: Results): string {
  const delivery = summaryOf(held, "ours 600 at 18000 CPU")?.median ?? NaN;
  const poll = heldCost.memory["ours"]?.rss ?? NaN;
  const [people, seats, everySeconds] = [1_000_000, 6, 30];
  const deliveries = (people * seats) / everySeconds;
  const cores = (deliveries * delivery) / 1e6;
  const bytes = people * poll + (people / seats) * growth.chat.rss;
  return [
    `- ${people.toLocaleString("en")} people in chats of ${seats} are ${Math.round(people / seats).toLocaleString("en")} chats.`,
    `- Each person posts every ${everySeconds} seconds, and each message goes to ${seats} held polls: ${deliveries.toLocaleString("en")} deliveries per second.`,
    `- A delivery costs ${delivery.toFixed(1)} µs of CPU, including its share of the post and the next poll: ${cores.toFixed(1)} busy cores, or ${Math.ceil(cores * 2)} at half load.`,
    `- A held poll takes ${(poll / 1_000).toFixed(1)} kB and a full chat ${(growth.chat.rss / 1_000).toFixed(1)} kB: ${(bytes / 1e9).toFixed(1)} GB in total.`,
  ].join("\n");
}

/* The plot: CPU per request by the number of chats, on a logarithmic axis. */

const PLOT = { width: 640, height: 320, left: 60, right: 600, top: 40, bottom: 270 };

function drawGrowth({ growth }: Results, settings: Settings): string {
  const counts = chatCounts(settings);
  const lines = ["GET", "POST"].map((kind) => ({
    kind,
    values: counts.map((count) => summaryOf(growth.series, `${kind} ${count}`)?.median ?? 0),
  }));
  const most = Math.max(1, ...lines.flatMap(({ values }) => values)) * 1.1;
  const x = (index: number): number =>
    PLOT.left +
    (PLOT.right - PLOT.left) *
      (Math.log10((counts[index] ?? 1) / (counts[0] ?? 1)) / Math.log10((counts.at(-1) ?? 1) / (counts[0] ?? 1)));
  const y = (value: number): number => PLOT.bottom - ((PLOT.bottom - PLOT.top) * value) / most;
  const curves = lines.flatMap(({ kind, values }, index) => drawCurve(kind, values, x, y, index));
  const ticks = counts.map((count, index) => text(x(index), PLOT.bottom + 20, count.toLocaleString("en"), "middle"));
  const rules = [0, 0.5, 1].map((part) => drawRule(y(part * most), (part * most).toFixed(0)));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${PLOT.width} ${PLOT.height}" font-family="sans-serif" font-size="13" fill="#777">
${[text(PLOT.left, 20, "µs of CPU per request, by the number of chats (30 messages each)", "start"), ...rules, ...ticks, ...curves].join("\n")}
</svg>
`;
}

function drawCurve(
  kind: string,
  values: readonly number[],
  x: (index: number) => number,
  y: (value: number) => number,
  index: number,
): string[] {
  const colour = ["#2b7bba", "#c2571a"][index];
  const points = values.map((value, place) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`);
  const label = text(PLOT.right - 4, y(values.at(-1) ?? 0) - 8, `${kind} ${(values.at(-1) ?? 0).toFixed(1)}`, "end");
  return [`<polyline fill="none" stroke="${colour}" stroke-width="2" points="${points.join(" ")}"/>`, label];
}

function drawRule(y: number, label: string): string {
  const line = `<line x1="${PLOT.left}" x2="${PLOT.right}" y1="${y.toFixed(1)}" y2="${y.toFixed(1)}" stroke="#777" stroke-opacity="0.3"/>`;
  return line + text(PLOT.left - 8, y + 4, label, "end");
}

function text(x: number, y: number, content: string, anchor: "start" | "middle" | "end"): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${content}</text>`;
}
