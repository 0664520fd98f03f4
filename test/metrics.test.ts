// --metrics: the metrics, and that they contain nothing private.

import assert from "node:assert/strict";
import { test } from "node:test";
import { assertNoContent, assertError, startServer, testInProcess } from "./lib/helpers.ts";

/** Parses the Prometheus text format. Checks each line, and that each metric has its HELP and TYPE. */
function readSamples(text: string): Map<string, number> {
  const samples = new Map<string, number>();
  let [helped, type] = ["", ""];
  for (const line of text.trimEnd().split("\n")) {
    const [, named] = /^# TYPE ([a-z_]+) (?:gauge|counter|summary)$/.exec(line) ?? [];
    const [, explained] = /^# HELP ([a-z_]+) \S.*\.$/.exec(line) ?? [];
    if (explained !== undefined) helped = explained;
    else if (named !== undefined) {
      assert.equal(named, helped);
      type = named;
    } else {
      const [, name = "", value = ""] = /^([a-z_]+(?:\{(?:,?[a-z]+="[a-z0-9_.]+")+\})?) ([0-9.e-]+)$/.exec(line) ?? [];
      assert.equal(name.replace(/\{.*|_sum$|_count$/, ""), type, line);
      assert.ok(Number.isFinite(Number(value)), line);
      samples.set(name, Number(value));
    }
  }
  return samples;
}

test("without --metrics, /metrics is not_found for every method", async (t) => {
  const server = await startServer(t, { metrics: false });
  for (const method of ["GET", "OPTIONS", "POST"]) assertError(await server.send(method, "/metrics"), "not_found");
});

test("the metrics count chats, members, held polls, messages, and refusals by error", async (t) => {
  const server = await startServer(t, { metrics: true });
  const [ana, ben] = await server.chat("Ana", "Ben");
  await server.chat("Cy");
  await ana.say("one");
  await ana.say("two");
  const held = await ben.openPoll();
  assertError(await server.send("GET", "/nothing"), "not_found");
  assertError(await server.send("GET", "/nothing"), "not_found");
  assertError(await server.send("GET", `/${ana.chatId}`), "missing_token");
  const reply = await server.send("GET", "/metrics");
  assert.equal(reply.status, 200);
  assert.match(reply.headers["content-type"] ?? "", /^text\/plain; version=0\.0\.4; charset=utf-8$/);
  const samples = readSamples(reply.text);
  for (const [name, value] of [
    ["watch_party_chats", 2],
    ["watch_party_members", 3],
    ["watch_party_held_polls", 1],
    ["watch_party_messages_total", 2],
    ['watch_party_refused_total{error="not_found"}', 2],
    ['watch_party_refused_total{error="missing_token"}', 1],
  ] as const) {
    assert.equal(samples.get(name), value, name);
  }
  const [resident = 0, heap = 0] = [
    samples.get("process_resident_memory_bytes"),
    samples.get("nodejs_heap_size_used_bytes"),
  ];
  assert.ok(resident > heap && heap > 1_000_000, `${resident}, ${heap}`);
  held.abort();
});

test("the metrics contain no id, name, token or message", async (t) => {
  const server = await startServer(t, { metrics: true });
  const [ana, ben] = await server.chat("Ana Unmistakable", "Ben");
  await ana.say("a message like no other");
  assertNoContent(await ana.remove(ben.id));
  assertError(await ben.poll(), "revoked_token");
  const { text } = await server.send("GET", "/metrics");
  for (const secret of ["Unmistakable", "no other", ana.chatId, ana.token]) assert.ok(!text.includes(secret), secret);
});

testInProcess("the event loop delay covers the time since the last scrape, in seconds", async (t) => {
  const server = await startServer(t, { metrics: true });
  const delay = async (): Promise<number> => {
    const { text } = await server.send("GET", "/metrics");
    return readSamples(text).get('watch_party_event_loop_delay_seconds{quantile="0.99"}') ?? NaN;
  };
  await new Promise((resolve) => setTimeout(resolve, 30));
  await delay();
  await new Promise((resolve) => setTimeout(resolve, 30));
  const begun = performance.now();
  while (performance.now() - begun < 300);
  await new Promise((resolve) => setTimeout(resolve, 30));
  const busy = await delay();
  assert.ok(busy > 0.2, `${busy} s`);
});
