// The rival with WebSockets: `ws`, with one chat per path. A message goes to every member of the chat, including its
// author, in the same shape as ours and serialised once.

import { createServer } from "node:http";
import { type WebSocket, WebSocketServer } from "ws";
import { portOf, record } from "../helpers.ts";
import { answerMemory } from "./memory.ts";

const chats = new Map<string, Set<WebSocket>>();
const server = createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
let id = 0;

sockets.on("connection", (socket, { url = "" }) => {
  const members = chats.get(url) ?? new Set();
  chats.set(url, members.add(socket));
  socket.on("close", () => members.delete(socket));
  socket.on("message", (data: Buffer) => {
    const { text } = record(JSON.parse(data.toString()));
    const sentAt = new Date().toISOString();
    const line = JSON.stringify({ id: (id += 1), member_id: "1", username: "Ana", text, sent_at: sentAt });
    for (const each of members) each.send(line);
  });
});

answerMemory();
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${portOf(server.address())}`));
