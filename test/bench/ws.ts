// The competing WebSocket server: `ws`, with one room per path. Each message goes to everyone in the room, the sender
// included, in the same shape as ours, serialised once.

import { createServer } from "node:http";
import { type WebSocket, WebSocketServer } from "ws";
import { portOf, record } from "../lib/helpers.ts";
import { answerMemory } from "./memory.ts";

const rooms = new Map<string, Set<WebSocket>>();
const server = createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
let id = 0;

sockets.on("connection", (socket, { url = "" }) => {
  const room = rooms.get(url) ?? new Set();
  rooms.set(url, room.add(socket));
  socket.on("close", () => room.delete(socket));
  socket.on("message", (data: Buffer) => {
    const { text } = record(JSON.parse(data.toString()));
    const sentAt = new Date().toISOString();
    const line = JSON.stringify({ id: (id += 1), member_id: "1", username: "Ana", text, sent_at: sentAt });
    for (const each of room) each.send(line);
  });
});

answerMemory();
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${portOf(server.address())}`));
