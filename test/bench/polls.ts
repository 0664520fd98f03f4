// The limit of long polling on Node: a node:http server that holds polls and does nothing else. It checks no tokens and no
// texts. Its only argument is a file with two answers of our server ({"GET": {"headers", "body"}, "POST": {…}}), to a poll
// and to a post. It gives the same answers, with the text of each post in place of theirs.

import { readFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import { portOf, record } from "../lib/helpers.ts";

interface Template {
  readonly headers: Record<string, string>;
  /** The message with its text cut out. */
  readonly message: readonly [string, string];
  /** The part of the answer to a poll that follows the cursor. */
  readonly rest: string;
}

class Room {
  cursor = 1;
  /** The newest messages. The last one has the id `cursor`. */
  readonly messages: string[] = [];
  held: ServerResponse[] = [];
}

const KEPT = 30;
const rooms = new Map<string, Room>();
const poll = templateOf("GET");
const post = templateOf("POST");

function templateOf(method: "GET" | "POST"): Template {
  const { headers, body } = record(record(JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")))[method]);
  const { "content-length": _, ...kept } = record(headers);
  const pairs = Object.entries(kept).map(([name, value]) => [name, String(value)] as const);
  const [before = "", after = ""] = (/\{"id":[^}]*\}/.exec(String(body))?.[0] ?? "").split(/x{50,}/);
  const rest = /"cursor":\d+(.*)/.exec(String(body))?.[1] ?? "";
  return { headers: Object.fromEntries(pairs), message: [before, after], rest };
}

function send(res: ServerResponse, status: number, headers: Record<string, string>, body: string): void {
  res.writeHead(status, { ...headers, "Content-Length": Buffer.byteLength(body) });
  res.end(body);
}

function sendPoll(res: ServerResponse, { cursor, messages }: Room, since: number): void {
  const unread = messages.slice(Math.max(0, messages.length - (cursor - since)));
  send(res, 200, poll.headers, `{"messages":[${unread.join()}],"cursor":${cursor}${poll.rest}`);
}

function addMessage(room: Room, body: string): string {
  const message = post.message.join(String(record(JSON.parse(body))["text"]));
  room.messages.push(message);
  if (room.messages.length > KEPT) room.messages.shift();
  room.cursor += 1;
  const { held } = room;
  room.held = [];
  for (const res of held) sendPoll(res, room, room.cursor - 1);
  return message;
}

const server = createServer({ optimizeEmptyRequests: true }, (req, res) => {
  const [path = "", query = ""] = (req.url ?? "").split("?", 2);
  const room = rooms.get(path) ?? new Room();
  rooms.set(path, room);
  if (req.method === "GET") {
    const since = Number(/since=(\d+)/.exec(query)?.[1]);
    if (since === room.cursor) room.held.push(res);
    else sendPoll(res, room, since);
  } else {
    req.once("data", (chunk: Buffer) => send(res, 201, post.headers, addMessage(room, String(chunk))));
  }
});

server.keepAliveTimeout = 75_000;
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${portOf(server.address())}`));
