// Preloaded (`--import`) into the Node servers that the bench starts: reports what the heap does, one line of numbers per
// line on stdin. `memory` collects garbage first and reports the bytes in use: resident, and on the heap with what belongs to it.
// `count` collects nothing and reports the heap's bytes in use, the collections so far and the milliseconds they took.

import { PerformanceObserver } from "node:perf_hooks";

const collections = { count: 0, milliseconds: 0 };
let observer: PerformanceObserver | undefined;

/** Needs --expose-gc. Collects twice, because the second collection frees what the first one finalised. */
function reportMemory(): number[] {
  globalThis.gc?.();
  globalThis.gc?.();
  const { rss, heapUsed, external } = process.memoryUsage();
  return [rss, heapUsed + external];
}

function reportCounts(): number[] {
  // From the first report on, because observing costs a little.
  observer ??= observeCollections();
  return [process.memoryUsage().heapUsed, collections.count, collections.milliseconds];
}

function observeCollections(): PerformanceObserver {
  const observing = new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) {
      collections.count += 1;
      collections.milliseconds += duration;
    }
  });
  observing.observe({ entryTypes: ["gc"] });
  return observing;
}

process.stdin.on("data", (line) => {
  const numbers = String(line).trim() === "memory" ? reportMemory() : reportCounts();
  process.stdout.write(`${numbers.join(" ")}\n`);
});
