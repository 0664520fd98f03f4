// Checks /metrics with the linter of Prometheus. Needs promtool, which is in Debian's package prometheus.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { LOCAL, Program } from "../lib/helpers.ts";

test("promtool accepts /metrics, before and after errors were counted", async (t) => {
  const program = await Program.start(t, [...LOCAL, "--metrics"]);
  for (const path of ["/metrics", "/no-such-path"]) {
    await program.send("GET", path);
    const metrics = await program.send("GET", "/metrics");
    assert.equal(metrics.status, 200);
    const promtool = spawn("promtool", ["check", "metrics"], { stdio: ["pipe", "pipe", "pipe"] });
    promtool.stdin.end(metrics.bytes);
    const output = await Promise.all([text(promtool.stdout), text(promtool.stderr)]);
    assert.equal(output.join(""), "");
    assert.equal(promtool.exitCode ?? 0, 0);
  }
});
