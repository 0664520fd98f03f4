// `npm run bench`: measures this server beside what does nothing and what people would use instead, on two cores.
// With --quick fewer and shorter rounds, and nothing is written; in full, docs/performance.md gets its figures.

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { measureGrowth, measureHeld, measureHeldCost, measureRequests, measureStart, type Settings } from "./groups.ts";
import { pinLoad, stopTargets } from "./measure.ts";
import { executablePath } from "../helpers.ts";
import { makeRows, printTable, writeReport } from "./report.ts";

async function main(): Promise<void> {
  const isQuick = process.argv.includes("--quick");
  const executable = executablePath();
  const folder = mkdtempSync(join(tmpdir(), "watch-party-bench-"));
  const settings: Settings = { isQuick, rounds: isQuick ? 2 : 16, seconds: 1, folder };
  pinLoad();
  try {
    const results = {
      requests: await measureRequests(settings),
      held: await measureHeld(settings),
      heldCost: await measureHeldCost(settings),
      growth: await measureGrowth(settings),
      // Without the executable, which `npm run package` makes, that of plain Node alone.
      start: await measureStart(settings, existsSync(executable) ? executable : undefined),
    };
    printTable(makeRows(results), settings);
    if (!isQuick) writeReport(results, settings);
  } finally {
    await stopTargets();
    rmSync(folder, { recursive: true });
  }
}

await main();
