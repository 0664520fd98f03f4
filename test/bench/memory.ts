// For the servers that the benchmark starts: reports memory use for each line on stdin.

/** Needs --expose-gc. Without it, garbage counts too. */
export function answerMemory(): void {
  process.stdin.on("data", () => {
    // Twice: the second run frees the objects that the first one finalised.
    globalThis.gc?.();
    globalThis.gc?.();
    const { rss, heapUsed, external } = process.memoryUsage();
    process.stdout.write(`${rss} ${heapUsed + external}\n`);
  });
}
