// The bytes that the benchmark's readers exchange with each server. Every chat has six readers, and one of them posts.

import { createHash } from "node:crypto";
import { LIMITS } from "../../server.ts";
import type { Target } from "./measure.ts";

export const SEATS = LIMITS.seats;

/** The requests for the chats of one server. `chat` and `seat` count from 0. */
export interface Protocol {
  readonly target: Target;
  /** A reader's first request. With `hasGreeting`, the server sends something at once. */
  listen(chat: number, seat: number): string;
  /** A reader's next request after an answer. Without it, the first answer is a stream. */
  readonly poll?: ((chat: number, seat: number, answer: string) => string) | undefined;
  /** The request that posts a text. With `postsOnReader` it is sent on a reader's connection, else on a separate one. */
  post(chat: number, text: string): string;
  readonly postsOnReader?: true;
  readonly hasGreeting?: true;
}

/** A chat's id and its members' tokens. */
export type Chat = { id: string; tokens: readonly string[] };

const HEADERS = "Host: 127.0.0.1\r\nUser-Agent: bench\r\n";

function bearer({ tokens }: Chat, seat: number): string {
  return `${HEADERS}Authorization: Bearer ${tokens[seat]}\r\n`;
}

function chatAt(chats: readonly Chat[], index: number): Chat {
  return chats[index] ?? { id: "", tokens: [] };
}

function postByHttp(path: string, headers: string, text: string): string {
  const body = JSON.stringify({ text });
  return `POST ${path} HTTP/1.1\r\n${headers}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

/** Our server with long polls. */
export function pollProtocol(target: Target, chats: readonly Chat[]): Protocol {
  const request = (index: number, seat: number, since: string): string => {
    const chat = chatAt(chats, index);
    return `GET /${chat.id}?since=${since}&wait=50 HTTP/1.1\r\n${bearer(chat, seat)}\r\n`;
  };
  return {
    target,
    hasGreeting: true,
    listen: (chat, seat) => request(chat, seat, "0"),
    // The last one, because a message can contain the same text.
    poll: (chat, seat, answer) => {
      const start = answer.lastIndexOf('"cursor":') + 9;
      return request(chat, seat, answer.slice(start, answer.indexOf(",", start)));
    },
    post: (index, text) => postByHttp(`/${chatAt(chats, index).id}`, bearer(chatAt(chats, index), 0), text),
  };
}

/** Our server with streams. */
export function streamProtocol(target: Target, chats: readonly Chat[]): Protocol {
  const listen = (index: number, seat: number): string => {
    const chat = chatAt(chats, index);
    return `GET /${chat.id}?since=latest HTTP/1.1\r\n${bearer(chat, seat)}Accept: application/x-ndjson\r\n\r\n`;
  };
  return { ...pollProtocol(target, chats), listen, poll: undefined };
}

function nchanPoll(channel: string, after: string): string {
  return `GET /poll/${channel} HTTP/1.1\r\n${HEADERS}${after}\r\n`;
}

function headerOf(answer: string, name: string): string {
  const start = answer.indexOf(`\r\n${name}: `) + name.length + 4;
  return answer.slice(start, answer.indexOf("\r\n", start));
}

/** Numbers the calls of nchanProtocol. Each call uses new channels, because a channel sends old messages to new readers. */
let nchanCalls = 0;

export function nchanProtocol(target: Target): Protocol {
  nchanCalls += 1;
  const prefix = `${nchanCalls}-`;
  return {
    target,
    listen: (chat) => nchanPoll(prefix + chat, ""),
    poll: (chat, _seat, answer) => {
      const [time, tag] = [headerOf(answer, "Last-Modified"), headerOf(answer, "Etag")];
      return nchanPoll(prefix + chat, `If-Modified-Since: ${time}\r\nIf-None-Match: ${tag}\r\n`);
    },
    post: (chat, text) => postByHttp(`/post/${prefix}${chat}`, HEADERS, text),
  };
}

/** The bare server with idle connections: the least memory that Node needs per connection. */
export function idleProtocol(target: Target): Protocol {
  return { target, hasGreeting: true, listen: () => `GET / HTTP/1.1\r\n${HEADERS}\r\n`, post: () => "" };
}

export function wsProtocol(target: Target): Protocol {
  const key = createHash("md5").update("bench").digest("base64");
  const upgrade = `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n`;
  return {
    target,
    postsOnReader: true,
    hasGreeting: true,
    listen: (chat) => `GET /${chat} HTTP/1.1\r\n${HEADERS}${upgrade}\r\n`,
    post: (_chat, text) => frame(JSON.stringify({ text })),
  };
}

/** A WebSocket text frame (RFC 6455, section 5.2) under 126 bytes. Its mask is zeros, which change nothing. */
function frame(text: string): string {
  return `\x81${String.fromCharCode(0x80 + text.length)}\0\0\0\0${text}`;
}
