// `npm run bench`: measures this server beside what does nothing and what people would use instead, on two cores.
// With --quick fewer and shorter rounds, and nothing is written; in full, docs/performance.md gets its figures.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { measureGrowth, measureHeld, measureHeldCost, measureRequests, measureStart, type Settings } from "./groups.ts";
import { fileHere, pinLoad, stopTargets } from "./measure.ts";
import { record, stringOf } from "../helpers.ts";
import { makeRows, printTable, writeReport } from "./report.ts";

/** The executable that `npm run package` makes, if it has been. */
function findExecutable(): string | undefined {
  const version = stringOf(record(JSON.parse(readFileSync(fileHere("../../package.json"), "utf8"))), "version");
  const file = fileHere(`../../dist/watch-party-${version}-linux-${process.arch}`);
  return existsSync(file) ? file : undefined;
}

async function main(): Promise<void> {
  const isQuick = process.argv.includes("--quick");
  const folder = mkdtempSync(join(tmpdir(), "watch-party-bench-"));
  const settings: Settings = { isQuick, rounds: isQuick ? 2 : 16, seconds: 1, folder };
  pinLoad();
  try {
    const results = {
      requests: await measureRequests(settings),
      held: await measureHeld(settings),
      heldCost: await measureHeldCost(settings),
      growth: await measureGrowth(settings),
      start: await measureStart(settings, findExecutable()),
    };
    printTable(makeRows(results), settings);
    if (!isQuick) writeReport(results, settings);
  } finally {
    await stopTargets();
    rmSync(folder, { recursive: true });
  }
}

await main();
