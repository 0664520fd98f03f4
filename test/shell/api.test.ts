// The lines that docs/api.md shows for curl, pasted into a shell. They need sh, curl and jq.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import test from "node:test";
import { promisify } from "node:util";
import { HOUR, SECOND, startServer, until } from "../helpers.ts";

const page = readFileSync(new URL("../../docs/api.md", import.meta.url), "utf8");
const [names = "", ...blocks] = Array.from(page.matchAll(/```sh\n([^]*?)```/g), ([, lines = ""]) => lines);

assert.equal(blocks.length, page.match(/^### /gm)?.length, "a block for each endpoint");

for (const block of blocks) {
  test(block.trim(), async (t) => {
    const server = await startServer(t, { metrics: true });
    // Somebody else, whom one can remove; and curl's exit code says how it was answered.
    const join = `curl -s -X POST "$chat/join" -H "Authorization: Bearer $invite" > /dev/null\n`;
    const script = `curl() { command curl --fail "$@"; }\n${names.replace(/^url=.*/, `url=${server.base}`)}${join}`;
    const ran = promisify(execFile)("sh", ["-ec", `${script}${block}`]);
    if (!block.includes("wait=25")) return void (await ran);
    await until(() => server.app.chats.count().waiters === 1, "the poll to be held");
    server.pass(25 * SECOND);
    await until(() => server.app.chats.count().waiters === 1, "the stream to be held");
    server.pass(6 * HOUR);
    assert.match(
      (await ran).stdout,
      /^\{"messages":\[\],"cursor":\d+.*\{"members":.*\n\{"error":"expired_token".*\n$/s,
    );
    return undefined;
  });
}

/** Lines for cmd as sh takes them: what is quoted, both read alike. */
function inShell(text: string): string {
  return text.replaceAll(/%(\w+)%/g, "$$$1").replaceAll(/^set /gm, "");
}

function runInShell(text: string): Promise<{ stdout: string }> {
  return promisify(execFile)("sh", ["-ec", `curl() { command curl --fail "$@"; }\n${text}`]);
}

test("the lines for the Windows command prompt work, where sh stands in for it", async (t) => {
  const server = await startServer(t);
  const [, lines = ""] = /```bat\n([^]*?)```/.exec(page) ?? [];
  const [first = "", ...others] = lines.trim().split(/^(?=set chat=)/m);
  const url = `url=${server.base}\n`;
  const create = inShell(first).replace(/^url=.*\n/, url);
  const { chat_id, session_token }: Record<string, string> = JSON.parse((await runInShell(create)).stdout);
  const script = inShell(others.join(""))
    .replace("CHAT_ID", String(chat_id))
    .replace("SESSION_TOKEN", String(session_token));
  const ran = runInShell(url + script);
  await until(() => server.app.chats.count().waiters === 1, "the poll to be held");
  server.pass(25 * SECOND);
  assert.match((await ran).stdout, /"text":"Hello".*"messages":\[\]/s);
});
