// The competing framework: fastify, with a schema for each request. Its handlers use our store and do the same work as
// ours: they find the seat by its token, read new messages, and clean and store posts. It has no long polls.

import Fastify from "fastify";
import { createApp, cleanText, type Chats } from "../../server.ts";
import { at, portOf } from "../lib/helpers.ts";

type Chat = NonNullable<ReturnType<Chats["get"]>>;
type Seat = Chat["members"][number];
type Params = { chat_id: string };

const { chats } = createApp({ rateLimit: false });
const app = Fastify({ routerOptions: { maxParamLength: 64 } });

const PARAMS = { type: "object", properties: { chat_id: { type: "string", pattern: "^[A-Za-z0-9_-]{16,33}$" } } };
const QUERY = {
  type: "object",
  properties: {
    since: { type: "integer", minimum: 0, default: 0 },
    wait: { type: "integer", minimum: 0, maximum: 50 },
  },
};
const BODY = { type: "object", required: ["text"], properties: { text: { type: "string" } } };
const HEADERS = {
  "Content-Type": "application/json; charset=utf-8",
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
  "Access-Control-Allow-Origin": "*",
};

function authorise(chatId: string, authorization = ""): Seat {
  const seat = chats.findSeat(authorization.slice("Bearer ".length));
  if (seat?.chat.id !== chatId) throw new Error("no such seat");
  return seat;
}

function view(seat: Seat, since: number): string {
  const { chat } = seat;
  const messages = chat.messages.slice(chat.messageIds.findLastIndex((id) => id <= since) + 1);
  const others = {
    cursor: chat.cursor,
    missed: chat.lastDropped > since,
    members: chat.members.map((each) => ({
      id: each.id,
      username: each.username,
      creator: each === chat.creator,
      online: each.openPolls > 0 || Date.now() - each.lastSeen < 60_000,
      you: each === seat,
    })),
    expires_at: new Date(seat.expiresAt).toISOString(),
  };
  return `{"messages":[${messages.join()}],${JSON.stringify(others).slice(1)}`;
}

app.get<{ Params: Params; Querystring: { since: number } }>(
  "/:chat_id",
  { schema: { params: PARAMS, querystring: QUERY } },
  (request, reply) => {
    const seat = authorise(request.params.chat_id, request.headers.authorization);
    seat.lastSeen = Date.now();
    reply.headers(HEADERS).send(view(seat, request.query.since));
  },
);

app.post<{ Params: Params; Body: { text: string } }>(
  "/:chat_id",
  { schema: { params: PARAMS, body: BODY } },
  (request, reply) => {
    const seat = authorise(request.params.chat_id, request.headers.authorization);
    reply
      .code(201)
      .headers(HEADERS)
      .send(chats.post(seat, cleanText(request.body.text), undefined));
  },
);

/** Creates a chat like the one that the bench creates in our server. Returns its id and its creator's token. */
function makeChat(): string {
  const { chat } = chats.create("Ana", undefined);
  const { token } = at(chat.members, 0);
  chats.join(chat, "Ben", undefined);
  for (const text of ["x".repeat(100), "x".repeat(100)]) chats.post(at(chat.members, 0), text, undefined);
  return `${chat.id} ${token}`;
}

await app.listen({ port: 0, host: "127.0.0.1" });
console.log(`${makeChat()} ${makeChat()} http://127.0.0.1:${portOf(app.server.address())}`);
