// Chats to look at, made by the API.

import assert from "node:assert/strict";
import type { InviteReply, Session } from "../../server.ts";

/** A chat of two people who have not opened it yet. `origin` is the server's. */
export async function makeChat(origin: string, creator: string, guest: string): Promise<[Session, Session]> {
  const first = await call<Session>(origin, "/create", undefined, { username: creator });
  const { invite_token } = await call<InviteReply>(origin, `/${first.chat_id}/invite`, first.session_token);
  const second = await call<Session>(origin, `/${first.chat_id}/join`, invite_token, { username: guest });
  return [first, second];
}

export async function say(origin: string, { chat_id, session_token }: Session, text: string): Promise<void> {
  await call(origin, `/${chat_id}`, session_token, { text });
}

async function call<T>(origin: string, path: string, token?: string, body: object = {}): Promise<T> {
  const response = await fetch(origin + path, {
    method: "POST",
    body: JSON.stringify(body),
    ...(token && { headers: { Authorization: `Bearer ${token}` } }),
  });
  assert.ok(response.ok, `${path}: ${response.status}`);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: the server's own types
  return (await response.json()) as T;
}
