// The lines that the start prints and that GET / shows, pasted into a shell. They need sh, curl and jq.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import test from "node:test";
import { promisify } from "node:util";
import { assertDone, Program, record, startServer, stringOf, type TestServer } from "../helpers.ts";

test("what the help shows works when pasted into a shell", async (t) => {
  const server = await startServer(t);
  const lines = (await server.send("GET", "/")).text
    .split("\n")
    .filter((line) => line.startsWith("  "))
    .join("\n");
  const before = lines.slice(0, lines.indexOf("  cursor=latest"));
  const [bot = "", stream = ""] = lines.slice(lines.indexOf("  cursor=latest")).split(/^(?= {2}curl -sN)/m);
  assert.ok(bot.trim().split("\n").length <= 5, "a bot in five lines");
  const done = await promisify(execFile)("sh", ["-ec", `${before}\nprintf '\\n%s %s %s' "$chat" "$token" "$bot"`]);
  const [chat = "", token = "", botToken = ""] = done.stdout.trim().split(/\s+/).slice(-3);
  const path = new URL(chat).pathname;
  const seen = record((await server.send("GET", path, { token })).body);
  assert.equal(record(Array.isArray(seen["members"]) ? seen["members"][1] : undefined)["username"], "Bot");
  const names = `chat="${chat}"\nbot="${botToken}"\n`;
  const streamed = promisify(execFile)("sh", ["-c", `${names}${stream}`]);
  await pingPong(server, path, token, `${names}${bot}`);
  assert.equal((await streamed).stdout, "Ana: ping\nBot: pong\n");
});

test("the curl line that is printed at the start works when pasted into a shell", async (t) => {
  const program = await Program.start(t);
  const command = /curl .*/.exec(program.stdout)?.[0] ?? "";
  const { stdout } = await promisify(execFile)("sh", ["-c", `${command} -s`]);
  assert.equal(stringOf(record(JSON.parse(stdout)), "username"), "Guest 1");
});

/** Runs the help's bot beside a stream, pings it, waits for its pong, and ends it by ending the chat. */
async function pingPong(server: TestServer, path: string, token: string, script: string): Promise<void> {
  const ended = promisify(execFile)("sh", ["-c", script]);
  while (server.app.chats.count().waiters < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  const cursor = Number(record((await server.send("GET", path, { token })).body)["cursor"]);
  const ping = await server.send("POST", path, { token, body: { text: "ping" } });
  assert.equal(ping.status, 201);
  const answer = record((await server.send("GET", `${path}?since=${cursor + 1}&wait=50`, { token })).body);
  const [pong] = Array.isArray(answer["messages"]) ? answer["messages"] : [];
  assert.equal(record(pong)["text"], "pong");
  assertDone(await server.send("DELETE", path, { token }));
  await ended.catch(() => {});
}
