// The chat in a terminal:  node terminal.mjs '<magic link>' [name]      (needs nothing but Node.js)
// Each line typed is posted, each message of the others is printed. Ctrl-D gives the seat back.
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const [link = "", username] = process.argv.slice(2);
const [chat, invitation] = link.split("#invite=");
const { session_token: token, member_id: me } = await post("/join", { username }, invitation);
let [cursor, isLeaving] = [0, false];
void read();
for await (const text of createInterface({ input: process.stdin })) if (text.trim()) await post("", { text });
isLeaving = true; // Else the stream would report the token as revoked.
await post("/leave", {});
process.exit();

/** Repeated until it is answered; the key sees to it that nothing happens twice. */
async function post(path, body, bearer = token) {
  const headers = { Authorization: `Bearer ${bearer}`, "Idempotency-Key": crypto.randomUUID() };
  for (;;) {
    const reply = await fetch(chat + path, { method: "POST", headers, body: JSON.stringify(body) }).catch(() => null);
    if (reply?.ok) return reply.status === 204 ? undefined : reply.json();
    if (reply && reply.status !== 429 && reply.status < 500) end(await reply.text());
    await sleep(1000 * Number(reply?.headers.get("Retry-After") ?? 1));
  }
}

/** Prints the stream; where the connection is lost it goes on from where it was. */
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
      // A refusal is no line, but JSON too.
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
  if (line.text && line.member_id !== me) console.log(`${line.username}: ${line.text}`);
  cursor = line.id ?? line.cursor ?? cursor;
}

function end(why) {
  console.error(why);
  process.exit(1);
}
