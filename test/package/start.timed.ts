// The time from starting the executable to its first answer, compared with `node dist/server.cjs`.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { request } from "node:http";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { executablePath, freePort, plainEnvironment } from "../lib/helpers.ts";

const ROUNDS = 21;
const PLAIN = [process.execPath, fileURLToPath(new URL("../../dist/server.cjs", import.meta.url))];

test("the executable's first answer takes at most 1.3 times as long as that of plain Node", async (t) => {
  const commands = [PLAIN, [executablePath()]];
  const times: number[][] = [[], []];
  // Alternating, so that other load on the machine affects both.
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [index, command] of commands.entries()) times[index]?.push(await timeFirstAnswer(command));
  }
  const [plain = NaN, executable = NaN] = times.map((list) => list.toSorted((a, b) => a - b)[(ROUNDS - 1) / 2]);
  t.diagnostic(`plain Node ${plain.toFixed(0)} ms, the executable ${executable.toFixed(0)} ms (medians of ${ROUNDS})`);
  assert.ok(executable <= 1.3 * plain);
});

/** Sends requests until one is answered. Returns the milliseconds since the start of the process. */
async function timeFirstAnswer(command: readonly string[]): Promise<number> {
  const port = await freePort();
  const [file, ...args] = [...command, "--host", "127.0.0.1", "--port", String(port)];
  const begun = performance.now();
  const child = spawn(file, args, { env: plainEnvironment(), stdio: "ignore" });
  while (!(await isHealthy(port, child))) await sleep(1);
  const elapsed = performance.now() - begun;
  child.kill("SIGKILL");
  await once(child, "close");
  return elapsed;
}

function isHealthy(port: number, child: ChildProcess): Promise<boolean> {
  assert.equal(child.exitCode, null, "the process has exited");
  return new Promise((resolve) => {
    const outgoing = request({ host: "127.0.0.1", port, path: "/healthz", agent: false }, (answer) => {
      answer.resume();
      resolve(answer.statusCode === 200);
    });
    outgoing.on("error", () => resolve(false));
    outgoing.end();
  });
}
