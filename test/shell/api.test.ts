// Runs the curl commands of docs/api.md in a shell. Needs sh, curl and jq.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import test from "node:test";
import { promisify } from "node:util";
import { HOUR, SECOND, startServer, until } from "../lib/helpers.ts";

const page = readFileSync(new URL("../../docs/api.md", import.meta.url), "utf8");
const [names = "", ...blocks] = Array.from(page.matchAll(/```sh\n([^]*?)```/g), ([, lines = ""]) => lines);

assert.equal(blocks.length, page.match(/^### /gm)?.length, "one block per endpoint");

for (const block of blocks) {
  test(block.trim(), async (t) => {
    const server = await startServer(t, { metrics: true });
    // A second member joins, so that there is one to remove. With --fail, an error fails the script.
    const join = `curl -s -X POST "$chat/join" -H "Authorization: Bearer $invite" > /dev/null\n`;
    const script = `curl() { command curl --fail "$@"; }\n${names.replace(/^url=.*/, `url=${server.base}`)}${join}`;
    const ran = promisify(execFile)("sh", ["-ec", `${script}${withCode(block)}`]);
    if (!block.includes("wait=25")) return void (await ran);
    await until(() => server.app.chats.count().waiters === 1, "the poll to be held");
    server.advanceAndSweep(25 * SECOND);
    await until(() => server.app.chats.count().waiters === 1, "the stream to be held");
    server.advanceAndSweep(6 * HOUR);
    assert.match(
      (await ran).stdout,
      /^\{"messages":\[\],"cursor":\d+.*\{"members":.*\n\{"error":"expired_token".*\n$/s,
    );
    return undefined;
  });
}

/** The lines with a code of the chat in place of the one in the document. */
function withCode(lines: string): string {
  const make = `curl -s -X POST "$chat/invite" -H "Authorization: Bearer $token" | jq -r .code`;
  return lines.replace(/(?:a-)?K7QF-2M9X/, `'"$(${make})"'`);
}

/** Converts lines for the Windows command prompt to sh. Both parse the quoted parts alike. */
function toSh(text: string): string {
  return text.replaceAll(/%(\w+)%/g, "$$$1").replaceAll(/^set /gm, "");
}

function runSh(text: string): Promise<{ stdout: string }> {
  return promisify(execFile)("sh", ["-ec", `curl() { command curl --fail "$@"; }\n${text}`]);
}

test("the commands for the Windows command prompt work when converted to sh", async (t) => {
  const server = await startServer(t);
  const [, lines = ""] = /```bat\n([^]*?)```/.exec(page) ?? [];
  const [first = "", ...others] = lines.trim().split(/^(?=set chat=)/m);
  const url = `url=${server.base}\n`;
  const create = toSh(first).replace(/^url=.*\n/, url);
  const { chat_id, session_token }: Record<string, string> = JSON.parse((await runSh(create)).stdout);
  const script = toSh(others.join(""))
    .replace("CHAT_ID", String(chat_id))
    .replace("SESSION_TOKEN", String(session_token));
  const ran = runSh(url + script);
  await until(() => server.app.chats.count().waiters === 1, "the poll to be held");
  server.advanceAndSweep(25 * SECOND);
  assert.match((await ran).stdout, /"text":"Hello".*"messages":\[\]/s);
});
