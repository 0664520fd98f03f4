// The order of checks when several would fail, and that a stranger learns nothing about a chat.

import assert from "node:assert/strict";
import test from "node:test";
import { ROUTES } from "../server.ts";
import { assertError, HOUR, MINUTE, NO_CHAT, type Reply, startServer, testInProcess } from "./lib/helpers.ts";

/** The paths below a chat's own, such as "/invite". The member "none" does not exist. */
const CHAT_ROUTES = ROUTES.filter(({ path }) => path.startsWith("/:chat_id")).map(({ method, path, caller }) => {
  return { method, caller, path: path.replace("/:chat_id", "").replace(":member_id", "none") };
});

/** Every route that needs a session, with an invalid query or body where it reads one. */
const SESSION_REQUESTS = CHAT_ROUTES.filter(({ caller }) => caller !== "anyone").map(({ method, path }) => {
  return {
    method,
    path: method === "GET" ? `${path}?since=x&wait=x` : path,
    body: method === "POST" ? "{" : undefined,
  };
});

for (const { method, path, body } of SESSION_REQUESTS) {
  testInProcess(`${method} /:chat_id${path} checks token, chat, query and body in this order`, async (t) => {
    const server = await startServer(t);
    const [ana, ben] = await server.chat("Ana", "Ben");
    const [eva] = await server.chat("Eva");
    const [udo] = await server.chat("Udo");
    await udo.end();
    const request = (chatId: string, headers: Record<string, string>): Promise<Reply> =>
      server.send(method, `/${chatId}${path}`, { headers, body });

    assertError(await request(ana.chatId, {}), "missing_token");
    assertError(await request(ana.chatId, bearer("nonsense")), "invalid_token");
    assertError(await request(NO_CHAT, bearer("nonsense")), "invalid_token");
    assertError(await request(ana.chatId, bearer(eva.token)), "wrong_chat");
    assertError(await request(NO_CHAT, bearer(eva.token)), "wrong_chat");
    assertError(await request(ana.chatId, bearer(udo.token)), "wrong_chat");
    assertError(await request(udo.chatId, bearer(udo.token)), "chat_not_found");
    await ben.leave();
    assertError(await request(ana.chatId, bearer(ben.token)), "revoked_token");
    await ana.leave();
    assertError(await request(ana.chatId, bearer(ben.token)), "chat_not_found");
    server.clock.advance(6 * HOUR);
    for (const { token } of [ana, ben, eva, udo]) {
      assertError(await request(ana.chatId, bearer(token)), "expired_token");
    }
  });
}

test("with a valid token, only the query or the body is refused", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assertError(await ana.poll("?since=x"), "invalid_cursor");
  assertError(await ana.poll("?wait=x"), "invalid_wait");
  assertError(await ana.send("POST", "", { body: "{" }), "invalid_json");
});

test("a token is checked before the size of the body", async (t) => {
  const server = await startServer(t);
  const body = `{"text":"${"x".repeat(40_000)}"}`;
  assertError(await server.send("POST", `/${NO_CHAT}`, { body }), "missing_token");
  assertError(await server.send("POST", `/${NO_CHAT}`, { body, token: "nonsense" }), "invalid_token");
});

test("without a valid token, the answers for existing, ended and unknown chats are identical", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana, ben] = await server.chat("Ana", "Ben");
  const [eva] = await server.chat("Eva");
  const [old] = await server.chat("Old");
  const ended = old.chatId;
  await old.end();
  const revoked = await eva.inviteToken();
  const known = new Set(CHAT_ROUTES.map(({ path }) => path));
  const paths = [...known, "?since=0", "/members/1", "/members/77", "/nothing", "/invite/1"];
  const credentials: Record<string, string>[] = [
    {},
    { Authorization: "" },
    { Authorization: "Bearer" },
    { Authorization: "Bearer nonsense" },
    { Authorization: "Basic eDp5" },
    { Authorization: `Bearer ${eva.token}` },
    { Authorization: `Bearer ${revoked}` },
    { Authorization: `Bearer ${ana.token.slice(0, -1)}` },
    { Accept: "text/html" },
  ];
  for (const method of ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
    for (const path of paths) {
      const all = await Promise.all(
        credentials.map(async (headers) =>
          Promise.all(
            [ana.chatId, NO_CHAT, ended].map(async (chatId) =>
              visibleParts(await server.send(method, `/${chatId}${path}`, { headers }), chatId),
            ),
          ),
        ),
      );
      for (const [index, [there, nowhere, gone]] of all.entries()) {
        const what = `${method} ${path} ${JSON.stringify(credentials[index])}`;
        assert.deepEqual(there, nowhere, what);
        assert.deepEqual(gone, nowhere, what);
      }
    }
  }
  assert.equal((await ben.read()).members.length, 2);
});

testInProcess("an expired token reveals nothing about its chat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const [eva] = await server.chat("Eva");
  server.clock.advance(HOUR);
  await server.join(ana.chatId, { invite_token: await ana.inviteToken() });
  server.clock.advance(5 * HOUR + MINUTE);
  server.app.sweep();
  assert.equal(await server.countChats(), 1);
  assert.deepEqual(visibleParts(await ana.poll(), ana.chatId), visibleParts(await eva.poll(), eva.chatId));
});

function bearer(token: string): Record<string, string> {
  return { Authorization: `Bearer ${token}` };
}

/** The status, text and headers of an answer, without its date and chat id. */
function visibleParts(reply: Reply, chatId: string): unknown {
  const { date: _, ...headers } = reply.headers;
  return { status: reply.status, text: reply.text.replaceAll(chatId, "ID"), headers };
}
