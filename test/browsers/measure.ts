// Timed tests measure three times and judge the median, because the machine may be busy during one run.

import assert from "node:assert/strict";
import type { TestContext } from "node:test";

export const RUNS = 3;

/** Returns the middle value (of an even number of values, the upper of the two in the middle). */
export function median(values: readonly number[]): number {
  const middle = values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
  assert.ok(middle !== undefined, "there are no values");
  return middle;
}

/** Runs `measure` three times. Returns its figures by name, one per run. */
export async function measureRuns(measure: () => Promise<Record<string, number>>): Promise<Map<string, number[]>> {
  const figures = new Map<string, number[]>();
  for (let run = 0; run < RUNS; run++) {
    for (const [name, value] of Object.entries(await measure())) {
      figures.set(name, [...(figures.get(name) ?? []), Math.round(value)]);
    }
  }
  return figures;
}

/** Reports the figures, and fails if a median is over its limit. All values are in milliseconds. */
export function assertUnder(t: TestContext, figures: Map<string, number[]>, limits: Record<string, number>): void {
  for (const [name, limit] of Object.entries(limits)) {
    const values = figures.get(name) ?? [];
    t.diagnostic(`${name}: ${values.join(", ")} ms; median ${median(values)} ms, limit ${limit} ms`);
  }
  for (const [name, limit] of Object.entries(limits)) {
    const middle = median(figures.get(name) ?? []);
    assert.ok(middle < limit, `${name}: ${middle} ms, over ${limit} ms`);
  }
}
