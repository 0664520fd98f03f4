// The report of the bench: the table of goals on the terminal and in docs/performance.md, the growth table and its
// plot, and the calculation from one core to a million people.

import { readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { chatCounts, type Count, type Growth, type HeldCost, type Settings, type Young } from "./groups.ts";
import { fileHere, ratioOf, type Series, summarise, type Summary, summaryOf } from "./measure.ts";

export interface Results {
  readonly requests: Series;
  readonly held: Series;
  readonly heldCost: HeldCost;
  readonly counts: readonly Count[];
  readonly growth: Growth;
  readonly start: Series;
}

interface Row {
  readonly what: string;
  readonly against: string;
  readonly unit: "×" | "ms" | "kB";
  readonly measured: Summary | undefined;
  /** A figure to reach, or with "≤" not to exceed. Missing in rows that only inform. */
  readonly goal?: readonly ["≥" | "≤", number];
}

/** Every row of the table. Figures that could not be measured are undefined. */
function makeRows(results: Results): Row[] {
  return [...requestRows(results), ...heldRows(results), ...otherRows(results)];
}

/* A ratio of requests says how many of ours fit into the time of one of theirs. More is better. */
function requestRows({ requests, growth }: Results): Row[] {
  const faster = (kind: string, rival: string): Summary | undefined =>
    ratioOf(requests, `${kind} ${rival}`, `${kind} ours`);
  const counts = [...growth.series.keys()].filter((name) => /^GET \d/.test(name)).map((name) => Number(name.slice(4)));
  const [small, large] = [Math.min(...counts), Math.max(...counts)];
  const grown = (kind: string): Summary | undefined => ratioOf(growth.series, `${kind} ${large}`, `${kind} ${small}`);
  const many = `${large.toLocaleString("en")} chats of 30 messages`;
  return [
    row("`GET` with one new message", "bare `node:http`, the same answer", "×", faster("GET", "bare"), ["≥", 0.8]),
    row("`GET` with one new message", "the same with our server's options", "×", faster("GET", "tuned")),
    row("`GET` of 30 messages", "bare `node:http`, the same answer", "×", faster("history", "bare"), ["≥", 0.8]),
    row("`POST`", "bare `node:http` that reads it", "×", faster("POST", "bare"), ["≥", 0.72]),
    row("`GET` with one new message", "fastify 5", "×", faster("GET", "fastify"), ["≥", 1.35]),
    row("`POST`", "fastify 5", "×", faster("POST", "fastify"), ["≥", 1.35]),
    row("`GET` of 30 messages", "Nchan, without separators", "×", faster("history", "nchan raw"), ["≥", 1]),
    row("`GET` of 30 messages", "Nchan, as `multipart/mixed`", "×", faster("history", "nchan parts")),
    row(`CPU per \`GET\`, ${many}`, `${small} chats`, "×", grown("GET"), ["≤", 1.25]),
    row(`CPU per \`POST\`, ${many}`, `${small} chats`, "×", grown("POST")),
  ];
}

function heldRows({ held }: Results): Row[] {
  const cost = (name: string, rival: string, rate = 18_000): Summary | undefined =>
    ratioOf(held, `${name} 600 at ${rate} CPU`, `${rival} 600 at ${rate} CPU`);
  const late = (name: string, readers: number): Summary | undefined =>
    summaryOf(held, `${name} ${readers} at 6000 p99`);
  const others = (readers: number): Row[] =>
    Object.entries(RIVALS).map(([name, label]) => row(`the same: ${label}`, "", "ms", late(name, readers)));
  const polls = "CPU per delivery to held polls, 18,000 per second";
  const streams = "CPU per delivery to streams, 18,000 per second";
  return [
    row("CPU per delivery to held polls, 6,000 per second", HOLDER, "×", cost("ours", "bare", 6_000), ["≤", 1.05]),
    row(polls, HOLDER, "×", cost("ours", "bare"), ["≤", 1.05]),
    row(polls, "Nchan", "×", cost("ours", "nchan")),
    row(polls, "`ws`", "×", cost("ours", "ws")),
    row(streams, "`ws`, posts by WebSocket", "×", cost("stream", "ws"), ["≤", 1.3]),
    row(streams, "`ws`, posts by HTTP like ours", "×", cost("stream", "ws by HTTP"), ["≤", 1]),
    row("from post to delivery, p99: 600 held polls, 6,000 per second", "", "ms", late("ours", 600), ["≤", 3]),
    ...others(600),
    row("from post to delivery, p99: 6,000 held polls, 6,000 per second", "", "ms", late("ours", 6_000), ["≤", 5]),
    ...others(6_000),
  ];
}

const HOLDER = "bare `node:http` that holds polls";
const RIVALS = { bare: HOLDER, stream: "our streams", ws: "`ws`", nchan: "Nchan" };

/** Bytes as kB. They are measured once, so there is no spread. */
function kilobytes(bytes: number | undefined): Summary | undefined {
  return bytes === undefined ? undefined : summarise([bytes / 1_000]);
}

function otherRows({ heldCost: { memory }, growth, start }: Results): Row[] {
  return [
    row("heap per held poll", "", "kB", kilobytes(memory["ours"]?.heap), ["≤", 3.5]),
    row(`the same: ${HOLDER}`, "", "kB", kilobytes(memory["bare"]?.heap)),
    row("heap per idle connection: bare `node:http`", "", "kB", kilobytes(memory["idle"]?.heap)),
    row("memory per held poll", "", "kB", kilobytes(memory["ours"]?.rss)),
    row(`the same: ${HOLDER}`, "", "kB", kilobytes(memory["bare"]?.rss)),
    row("memory per idle connection: bare `node:http`", "", "kB", kilobytes(memory["idle"]?.rss)),
    row("memory per reader: `ws`", "", "kB", kilobytes(memory["ws"]?.rss)),
    row("memory per held poll: Nchan", "", "kB", kilobytes(memory["nchan"]?.rss)),
    row("memory per chat with 30 messages of 100 bytes", "the text alone: 3 kB", "kB", kilobytes(growth.chat.rss), [
      "≤",
      8,
    ]),
    row("of which on the heap", "", "kB", kilobytes(growth.chat.heap)),
    row("from exec to first answer: executable", "`node dist/server.cjs`", "×", ratioOf(start, "executable", "node"), [
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

/** The figure in the least disturbed rounds. Empty if there was only one. */
function leastFigure({ measured, unit }: Row): string {
  return measured && measured.low !== measured.high ? `${measured.least.toFixed(digits(unit))} ${unit}` : "";
}

function verdict({ measured, goal }: Row): string {
  if (!measured || !goal) return "";
  const [sense, limit] = goal;
  const isMet = (value: number): boolean => (sense === "≥" ? value >= limit : value <= limit);
  if (isMet(measured.median)) return "met";
  return isMet(measured.least) ? "met if undisturbed" : "missed";
}

function goalText({ goal, unit }: Row): string {
  return goal ? `${goal[0]} ${goal[1]} ${unit}` : "";
}

const HEADING = ["what", "compared with", "median", "undisturbed", "goal", ""];

function cells(each: Row): string[] {
  return [each.what, each.against, figure(each), leastFigure(each), goalText(each), verdict(each)];
}

export function printReport(results: Results, settings: Settings): void {
  printTable([HEADING, ...makeRows(results).map(cells)]);
  console.log(`\n${methodOf(settings)}\n`);
  printTable([COUNT_HEADING, ...countCells(results.counts)]);
}

export function printTable(table: readonly (readonly string[])[]): void {
  const lines = table.map((line) => line.map((cell) => cell.replaceAll("`", "")));
  const widths = lines[0]?.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0))) ?? [];
  for (const line of lines) {
    console.log(
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    );
  }
}

function methodOf({ rounds, seconds }: Settings): string {
  return (
    `Each median is of ${rounds} rounds of ${seconds} s, with the quartiles in brackets. The servers ran on ` +
    `one core and the load on another, in a new random order in each round. Ratios were taken within each round, from ` +
    `the CPU time of the server's process. "Undisturbed" is the mean of the least tenth of the rounds, and a ratio of ` +
    `two such means. The rate limit was off (--no-rate-limit), because one sender stands for many people. ` +
    `Node ${process.versions.node}, ${cpus()[0]?.model ?? "an unknown processor"}.`
  );
}

/* docs/performance.md: the parts between two markers are generated here. The rest is written by hand. */

export function writeReport(results: Results, settings: Settings): void {
  const parts: Record<string, string> = {
    goals: `${markdownTable(HEADING, makeRows(results).map(cells))}\n\n${methodOf(settings)}`,
    counts: markdownTable(COUNT_HEADING, countCells(results.counts)),
    growth: growthTable(results, settings),
    million: arithmetic(results),
  };
  writeParts(parts);
  writeFileSync(fileHere("../../docs/performance.svg"), drawGrowth(results, settings));
}

function writeParts(parts: Record<string, string>): void {
  const file = fileHere("../../docs/performance.md");
  let page = readFileSync(file, "utf8");
  for (const [name, part] of Object.entries(parts)) page = replacePart(page, name, part);
  writeFileSync(file, page);
}

const COUNT_HEADING = ["what", "server", "bytes allocated", "system calls", "µs of garbage collection"];

function countCells(counts: readonly Count[]): string[][] {
  return counts.map(({ what, server, bytes, calls, collecting }) => [
    COUNTED[what] ?? what,
    COUNTED[server] ?? server,
    number(bytes, 0),
    number(calls, 1),
    Number.isNaN(collecting) ? "" : number(collecting, 1),
  ]);
}

/** The names of counts, as people read them. */
const COUNTED: Record<string, string> = {
  GET: "`GET` with one new message",
  history: "`GET` of 30 messages",
  POST: "`POST`",
  tuned: "bare, with our server's options",
  stream: "ours, by stream",
  ws: "`ws`, posts by WebSocket",
  "ws by HTTP": "`ws`, posts by HTTP",
};

/* The young generation. */

/** Prints the costs with each size and, after a full run, writes them into docs/performance.md. */
export function writeYoung(results: readonly Young[], { isQuick }: Settings): void {
  const heading = ["MiB", ...[600, 6_000].flatMap((readers) => YOUNG_FIGURES.map((name) => `${name}, ${readers}`))];
  const lines = results.map(({ size, series }) => [
    String(size),
    ...[600, 6_000].flatMap((readers) => [
      youngFigure(series, `${readers} CPU`, 1),
      youngFigure(series, `${readers} p99`, 1),
      youngFigure(series, `${readers} collecting`, 1),
    ]),
  ]);
  printTable([heading, ...lines]);
  if (!isQuick) writeParts({ young: markdownTable(heading, lines) });
}

const YOUNG_FIGURES = ["µs of CPU", "p99 in ms", "µs of collection"];

/** The median and, after a slash, the least disturbed tenth. */
function youngFigure(series: Series, name: string, places: number): string {
  const summary = summaryOf(series, name);
  return `${number(summary?.median, places)} / ${number(summary?.least, places)}`;
}

function replacePart(page: string, name: string, part: string): string {
  const marked = new RegExp(`(<!-- ${name} -->\n)[^]*?(<!-- end -->)`);
  if (!marked.test(page)) throw new Error(`docs/performance.md has no place for ${name}.`);
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
  return markdownTable(["server state", "µs per `GET`", "µs per `POST`", "bytes"], [...chats, ...lengths, ...held]);
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
    `- ${people.toLocaleString("en")} people in chats of ${seats} fill ${Math.round(people / seats).toLocaleString("en")} chats.`,
    `- Each person posts every ${everySeconds} seconds, and each message goes to ${seats} held polls: ${deliveries.toLocaleString("en")} deliveries per second.`,
    `- A delivery costs ${delivery.toFixed(1)} µs of CPU, including its share of the post and the next poll: ${cores.toFixed(1)} busy cores, or ${Math.ceil(cores * 2)} at half load.`,
    `- A held poll takes ${(poll / 1_000).toFixed(1)} kB and a full chat ${(growth.chat.rss / 1_000).toFixed(1)} kB: ${(bytes / 1e9).toFixed(1)} GB in total.`,
  ].join("\n");
}

/* The plot: CPU per request by number of chats, on a logarithmic axis. */

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
${[text(PLOT.left, 20, "CPU per request in µs, by number of chats (30 messages each)", "start"), ...rules, ...ticks, ...curves].join("\n")}
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
