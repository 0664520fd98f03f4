// This server, filled with chats to measure their cost: `node store.ts CHATS MESSAGES SEATS FILE`. Writes one line per
// chat to FILE, with its id and its members' tokens.

import { writeFileSync } from "node:fs";
import { createApp } from "../../server.ts";
import { portOf } from "../lib/helpers.ts";

const [chatCount = 0, messageCount = 0, seatCount = 0] = process.argv.slice(2, 5).map(Number);
const { server, chats, sweep } = createApp({ rateLimit: false });

function fillChat(): string {
  const creator = chats.create(undefined, undefined);
  for (let seat = 1; seat < seatCount; seat += 1) chats.join(creator.chat, undefined, undefined);
  // Each message has its own 100 bytes, as messages from HTTP requests do.
  for (let n = 0; n < messageCount; n += 1) chats.post(creator, String(Math.random()).padEnd(100, "x"), undefined);
  return [creator.chat.id, ...creator.chat.members.map(({ token }) => token)].join(" ");
}

function fill(): void {
  const lines = Array.from({ length: chatCount }, fillChat);
  writeFileSync(process.argv[5] ?? "", `${lines.join("\n")}\n`);
}

fill();
setInterval(sweep, 250);
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${portOf(server.address())}`));
