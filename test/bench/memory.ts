// For the servers that the bench starts: says how much memory is in use, when asked by a line on stdin.

/** Needs --expose-gc; without it what is no longer needed counts too. */
export function answerMemory(): void {
  process.stdin.on("data", () => {
    // Twice: what the first one finalises goes with the second.
    globalThis.gc?.();
    globalThis.gc?.();
    const { rss, heapUsed, external } = process.memoryUsage();
    process.stdout.write(`${rss} ${heapUsed + external}\n`);
  });
}
