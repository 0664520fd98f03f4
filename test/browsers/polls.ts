// Observes from outside which polls are waiting on a server.

import type { Server } from "node:http";

export interface PollWatch {
  /** Returns the number of waiting polls, of all chats. */
  count(): number;
  /** Whether a poll of this chat is waiting that was sent by a visible tab. */
  hasVisible(chatId: string): boolean;
  /** Whether a poll of this chat is waiting. */
  has(chatId: string): boolean;
  /** Returns how many polls of this chat have waited since the watch began. */
  total(chatId: string): number;
}

interface Poll {
  chatId: string;
  visible: boolean;
}

export function watchPolls(server: Server): PollWatch {
  const waiting = new Set<Poll>();
  const totals = new Map<string, number>();
  server.on("request", (request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://party.test");
    // This listener runs after the server's listener, which has already answered requests that don't have to wait.
    if (response.writableEnded || request.method !== "GET") return;
    const poll = { chatId: pathname.slice(1), visible: searchParams.get("visible") === "1" };
    waiting.add(poll);
    totals.set(poll.chatId, (totals.get(poll.chatId) ?? 0) + 1);
    response.on("close", () => waiting.delete(poll));
  });
  return {
    count: () => waiting.size,
    hasVisible: (chatId) => [...waiting].some((poll) => poll.chatId === chatId && poll.visible),
    has: (chatId) => [...waiting].some((poll) => poll.chatId === chatId),
    total: (chatId) => totals.get(chatId) ?? 0,
  };
}
