// Runs the commands that the program prints at the start and at GET / in a shell. Needs sh, curl and jq.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import test from "node:test";
import { promisify } from "node:util";
import {
  assertNoContent,
  at,
  messageOf,
  pollOf,
  Program,
  record,
  startServer,
  stringOf,
  type TestServer,
} from "../lib/helpers.ts";

test("the commands of the help work when pasted into a shell", async (t) => {
  const server = await startServer(t);
  const lines = (await server.send("GET", "/")).text
    .split("\n")
    .filter((line) => line.startsWith("  "))
    .join("\n");
  const code = `$(curl -s -X POST "$chat/invite" -H "Authorization: Bearer $token" | jq -r .code)`;
  const before = lines.slice(0, lines.indexOf("  cursor=latest")).replace("K7QF-2M9X", `'"${code}"'`);
  const [bot = "", stream = ""] = lines.slice(lines.indexOf("  cursor=latest")).split(/^(?= {2}curl -sN)/m);
  assert.ok(bot.trim().split("\n").length <= 5, "a bot in five lines");
  const first = await promisify(execFile)("sh", ["-ec", `${before}\nprintf '\\n%s %s %s' "$chat" "$token" "$bot"`]);
  const [chat = "", token = "", botToken = ""] = first.stdout.trim().split(/\s+/).slice(-3);
  const path = new URL(chat).pathname;
  const { members } = pollOf(await server.send("GET", path, { token }));
  assert.deepEqual(
    members.map(({ username }) => username),
    ["Ana", "Bot", "Mia"],
  );
  const names = `chat="${chat}"\nbot="${botToken}"\n`;
  const streamed = promisify(execFile)("sh", ["-c", `${names}${stream}`]);
  await pingPong(server, path, token, `${names}${bot}`);
  assert.equal((await streamed).stdout, "Ana: ping\nBot: pong\n");
});

test("the curl command printed at the start works when pasted into a shell", async (t) => {
  const program = await Program.start(t);
  const command = /curl .*/.exec(program.stdout)?.[0] ?? "";
  const { stdout } = await promisify(execFile)("sh", ["-c", `${command} -s`]);
  assert.equal(stringOf(record(JSON.parse(stdout)), "username"), "Guest 1");
});

/** Runs the help's bot next to a stream, pings it, waits for its pong and stops it by ending the chat. */
async function pingPong(server: TestServer, path: string, token: string, script: string): Promise<void> {
  const ended = promisify(execFile)("sh", ["-c", script]);
  while (server.app.chats.count().waiters < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  const { cursor } = pollOf(await server.send("GET", path, { token }));
  messageOf(await server.send("POST", path, { token, body: { text: "ping" } }));
  const { messages } = pollOf(await server.send("GET", `${path}?since=${cursor + 1}&wait=50`, { token }));
  assert.equal(at(messages, 0).text, "pong");
  assertNoContent(await server.send("DELETE", path, { token }));
  await ended.catch(() => {});
}
