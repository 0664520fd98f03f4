// Which polls a server holds, seen from outside of it.

import type { Server } from "node:http";

export interface HeldPolls {
  /** Of all chats. */
  count(): number;
  /** Whether one of this chat is held for a tab that said it is being looked at. */
  isVisibleHeld(chatId: string): boolean;
  isHeld(chatId: string): boolean;
  /** How many have been held of this chat since the server began. */
  total(chatId: string): number;
}

interface Poll {
  chatId: string;
  visible: boolean;
}

export function watchPolls(server: Server): HeldPolls {
  const held = new Set<Poll>();
  const totals = new Map<string, number>();
  server.on("request", (request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://party.test");
    // The server has had its turn: what it answers at once, it has answered.
    if (response.writableEnded || request.method !== "GET") return;
    const poll = { chatId: pathname.slice(1), visible: searchParams.get("visible") === "1" };
    held.add(poll);
    totals.set(poll.chatId, (totals.get(poll.chatId) ?? 0) + 1);
    response.on("close", () => held.delete(poll));
  });
  return {
    count: () => held.size,
    isVisibleHeld: (chatId) => [...held].some((poll) => poll.chatId === chatId && poll.visible),
    isHeld: (chatId) => [...held].some((poll) => poll.chatId === chatId),
    total: (chatId) => totals.get(chatId) ?? 0,
  };
}
