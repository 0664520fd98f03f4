// The competing WebSocket server: `ws`, with one room per path. Each message goes to everyone in the room, the sender
// included, in the same shape as ours, serialised once. Posts arrive by WebSocket or, as with our streams, by HTTP.

import { createServer } from "node:http";
import { type WebSocket, WebSocketServer } from "ws";
import { portOf, record } from "../lib/helpers.ts";

const rooms = new Map<string, Set<WebSocket>>();
const server = createServer((req, res) => {
  req.once("data", (chunk: Buffer) => {
    const line = broadcast(rooms.get(req.url ?? "") ?? new Set(), chunk);
    res.writeHead(201, { "Content-Type": "application/json", "Content-Length": line.length }).end(line);
  });
});
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
let id = 0;

sockets.on("connection", (socket, { url = "" }) => {
  const room = rooms.get(url) ?? new Set();
  rooms.set(url, room.add(socket));
  socket.on("close", () => room.delete(socket));
  socket.on("message", (data: Buffer) => broadcast(room, data));
});

function broadcast(room: ReadonlySet<WebSocket>, data: Buffer): string {
  const { text } = record(JSON.parse(data.toString()));
  const sentAt = new Date().toISOString();
  const line = JSON.stringify({ id: (id += 1), member_id: "1", username: "Ana", text, sent_at: sentAt });
  for (const each of room) each.send(line);
  return line;
}

server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${portOf(server.address())}`));
