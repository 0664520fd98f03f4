// For the servers that the bench starts: reports the memory in use after each line on stdin.

/** Needs --expose-gc. Without it, garbage counts too. */
export function answerMemory(): void {
  process.stdin.on("data", () => {
    // Twice, because the second collection frees what the first one finalised.
    globalThis.gc?.();
    globalThis.gc?.();
    const { rss, heapUsed, external } = process.memoryUsage();
    process.stdout.write(`${rss} ${heapUsed + external}\n`);
  });
}
