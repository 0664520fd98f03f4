// The bytes that waiting readers and posters send to each kind of server. A room is a chat, or its counterpart in
// another server: six readers, one of whom also posts.

import { createHash } from "node:crypto";
import type { Target } from "./measure.ts";

export const ROOM_SIZE = 6;

/** How to use the rooms of one server. `room` and `seat` count from 0. */
export interface Rooms {
  readonly target: Target;
  /** A reader's first request. With `isGreeted`, the server answers at once. */
  listen(room: number, seat: number): string;
  /** A reader's request after each complete answer. Missing if the first request opens a stream. */
  readonly poll?: ((room: number, seat: number, answer: string) => string) | undefined;
  /** The bytes that post a text. They use a separate connection, or with `isOwnSocket` the one of a reader. */
  post(room: number, text: string): string;
  readonly isOwnSocket?: true;
  readonly isGreeted?: true;
}

/** A room's id and its members' tokens. */
export type Room = { id: string; tokens: readonly string[] };

const HEADERS = "Host: 127.0.0.1\r\nUser-Agent: bench\r\n";

function bearer({ tokens }: Room, seat: number): string {
  return `${HEADERS}Authorization: Bearer ${tokens[seat]}\r\n`;
}

function roomAt(rooms: readonly Room[], index: number): Room {
  return rooms[index] ?? { id: "", tokens: [] };
}

function postByHttp(path: string, headers: string, text: string): string {
  const body = JSON.stringify({ text });
  return `POST ${path} HTTP/1.1\r\n${headers}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

/** Our server, read by long polls. */
export function pollRooms(target: Target, rooms: readonly Room[]): Rooms {
  const request = (index: number, seat: number, since: string): string => {
    const room = roomAt(rooms, index);
    return `GET /${room.id}?since=${since}&wait=50 HTTP/1.1\r\n${bearer(room, seat)}\r\n`;
  };
  return {
    target,
    isGreeted: true,
    listen: (room, seat) => request(room, seat, "0"),
    // The last match, because the text of a message may contain `"cursor":` too.
    poll: (room, seat, answer) => {
      const start = answer.lastIndexOf('"cursor":') + 9;
      return request(room, seat, answer.slice(start, answer.indexOf(",", start)));
    },
    post: (index, text) => postByHttp(`/${roomAt(rooms, index).id}`, bearer(roomAt(rooms, index), 0), text),
  };
}

/** Our server, read by streams. */
export function streamRooms(target: Target, rooms: readonly Room[]): Rooms {
  const listen = (index: number, seat: number): string => {
    const room = roomAt(rooms, index);
    return `GET /${room.id}?since=latest HTTP/1.1\r\n${bearer(room, seat)}Accept: application/x-ndjson\r\n\r\n`;
  };
  return { ...pollRooms(target, rooms), listen, poll: undefined };
}

function nchanPoll(room: string, after: string): string {
  return `GET /poll/${room} HTTP/1.1\r\n${HEADERS}${after}\r\n`;
}

function headerOf(answer: string, name: string): string {
  const start = answer.indexOf(`\r\n${name}: `) + name.length + 4;
  return answer.slice(start, answer.indexOf("\r\n", start));
}

/** Counts the calls. Each one uses new channels, because a channel sends its last messages to every new reader. */
let nchanTimes = 0;

export function nchanRooms(target: Target): Rooms {
  nchanTimes += 1;
  const prefix = `${nchanTimes}-`;
  return {
    target,
    listen: (room) => nchanPoll(prefix + room, ""),
    poll: (room, _seat, answer) => {
      const [time, tag] = [headerOf(answer, "Last-Modified"), headerOf(answer, "Etag")];
      return nchanPoll(prefix + room, `If-Modified-Since: ${time}\r\nIf-None-Match: ${tag}\r\n`);
    },
    post: (room, text) => postByHttp(`/post/${prefix}${room}`, HEADERS, text),
  };
}

/** The bare server: connections that stay open after an answer, the least that Node needs for a connection. */
export function idleRooms(target: Target): Rooms {
  return { target, isGreeted: true, listen: () => `GET / HTTP/1.1\r\n${HEADERS}\r\n`, post: () => "" };
}

/** `ws`, with posts from a reader's own WebSocket. */
export function wsRooms(target: Target): Rooms {
  const key = createHash("md5").update("bench").digest("base64");
  const upgrade = `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n`;
  return {
    target,
    isOwnSocket: true,
    isGreeted: true,
    listen: (room) => `GET /${room} HTTP/1.1\r\n${HEADERS}${upgrade}\r\n`,
    post: (_room, text) => frame(JSON.stringify({ text })),
  };
}

/** `ws`, with posts by HTTP. */
export function wsRoomsByHttp(target: Target): Rooms {
  const { isOwnSocket: _, ...rooms } = wsRooms(target);
  return { ...rooms, post: (room, text) => postByHttp(`/${room}`, HEADERS, text) };
}

/** A WebSocket frame (RFC 6455, section 5.2) of a text below 126 bytes. A mask of zeros leaves the text as it is. */
function frame(text: string): string {
  return `\x81${String.fromCharCode(0x80 + text.length)}\0\0\0\0${text}`;
}
