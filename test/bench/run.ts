// `npm run bench` compares this server, on two cores, with a bare server and with the software that people would use
// instead. The full run writes its figures into docs/performance.md. `--quick` runs fewer rounds and writes nothing.
// `--young` compares sizes of V8's young generation instead, and writes their table.

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  measureCounts,
  measureGrowth,
  measureHeld,
  measureHeldCost,
  measureRequests,
  measureStart,
  measureYoung,
  type Settings,
} from "./groups.ts";
import { pinLoad, stopTargets } from "./measure.ts";
import { executablePath } from "../lib/helpers.ts";
import { printReport, writeReport, writeYoung } from "./report.ts";

async function main(): Promise<void> {
  const isQuick = process.argv.includes("--quick");
  const executable = executablePath();
  const folder = mkdtempSync(join(tmpdir(), "watch-party-bench-"));
  const settings: Settings = { isQuick, rounds: isQuick ? 2 : 16, seconds: 1, folder };
  pinLoad();
  try {
    if (process.argv.includes("--young")) return writeYoung(await measureYoung(settings), settings);
    const results = {
      requests: await measureRequests(settings),
      held: await measureHeld(settings),
      heldCost: await measureHeldCost(settings),
      counts: await measureCounts(settings),
      growth: await measureGrowth(settings),
      // Without the executable, which `npm run package` makes, only plain Node is measured.
      start: await measureStart(settings, existsSync(executable) ? executable : undefined),
    };
    printReport(results, settings);
    if (!isQuick) writeReport(results, settings);
  } finally {
    await stopTargets();
    rmSync(folder, { recursive: true });
  }
}

await main();
