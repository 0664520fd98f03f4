// The chat in a terminal:  node terminal.mjs '<magic link>' [name]      (needs only Node.js 18 or newer)
// It posts each line that is typed and prints the messages of the other members. Ctrl-D leaves the chat.
// The exit code is 2 if it cannot join, and 1 if its seat or the chat ends.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

let [token, me, cursor, isLeaving] = [undefined, undefined, 0, false];
const { node } = process.versions;
if (Number(node.split(".")[0]) < 18) end(`terminal.mjs needs Node.js 18 or newer; this is ${node}.`);
const [link = "", username] = process.argv.slice(2);
const [, chat, invitation] = /^(https?:\/\/[^#]+)#invite=(.+)$/.exec(link) ?? [];
if (!chat) end("usage: node terminal.mjs '<magic link>' [name]   (a magic link contains #invite=, so quote it)");

({ session_token: token, member_id: me } = await post("/join", { username }));
void read();
for await (const text of createInterface({ input: process.stdin })) if (text.trim()) await post("", { text });
isLeaving = true; // Leaving revokes the token, and the stream must not report that as an error.
await post("/leave", {});
process.exit();

/** Repeats a request until it is answered. The key makes repeats harmless. Joining fails if nothing answers. */
async function post(path, body) {
  const headers = { Authorization: `Bearer ${token ?? invitation}`, "Idempotency-Key": randomUUID() };
  for (;;) {
    const reply = await fetch(chat + path, { method: "POST", headers, body: JSON.stringify(body) }).catch(() => null);
    if (reply?.status === 204) return undefined;
    const answer = await reply?.json().catch(() => null);
    if (reply?.ok && answer) return answer;
    const isBusy = reply?.status === 429 || reply?.status >= 500;
    if (!isBusy && (!token || reply?.ok === false)) end(answer?.message ?? `No chat answers at ${chat}.`);
    await sleep(1000 * Number(reply?.headers.get("Retry-After") ?? 1));
  }
}

/** Prints the stream. After a lost connection it continues from the last cursor. */
async function read() {
  const headers = { Authorization: `Bearer ${token}`, Accept: "application/x-ndjson" };
  for (;;) {
    try {
      const { body } = await fetch(`${chat}?since=${cursor}`, { headers });
      let unfinished = "";
      for await (const part of body.pipeThrough(new TextDecoderStream())) {
        const lines = (unfinished + part).split("\n");
        unfinished = lines.pop();
        for (const line of lines) if (line) show(JSON.parse(line));
      }
      // An error reply is JSON without a line end.
      if (unfinished) show(JSON.parse(unfinished));
    } catch (error) {
      console.error(`No answer (${error.message}), trying again.`);
    }
    await sleep(1000);
  }
}

function show(line) {
  if (line.error && !isLeaving) end(line.message);
  if (line.missed) console.log("(Some messages are gone.)");
  // Indent further lines, so that none of them looks like another member's message.
  const text = line.text?.replace(/[\n\u2028\u2029]/g, "\n    ");
  if (text && line.member_id !== me) console.log(`${line.username}: ${text}`);
  cursor = line.id ?? line.cursor ?? cursor;
}

function end(why) {
  console.error(why);
  process.exit(token ? 1 : 2);
}
