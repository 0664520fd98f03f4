// Which of several reasons is given, and that a stranger learns nothing of who is there.

import assert from "node:assert/strict";
import test from "node:test";
import { assertError, HOUR, MINUTE, NO_CHAT, type Reply, startServer, testInside } from "./helpers.ts";

/** Every endpoint that wants a session, with a query or a body that would itself be refused. */
const SESSION_ENDPOINTS: [method: string, path: string, body?: string][] = [
  ["GET", "?since=x&wait=x"],
  ["POST", "", "{"],
  ["POST", "/invite", "{"],
  ["DELETE", "/invite"],
  ["POST", "/leave", "{"],
  ["DELETE", "/members/none"],
  ["DELETE", ""],
];

for (const [method, path, body] of SESSION_ENDPOINTS) {
  testInside(`${method} /:chat_id${path} names the first of several reasons, in the contract's order`, async (t) => {
    const server = await startServer(t);
    const [ana, ben] = await server.party("Ana", "Ben");
    const [eva] = await server.party("Eva");
    const [udo] = await server.party("Udo");
    await udo.end();
    const ask = (chatId: string, headers: Record<string, string>): Promise<Reply> =>
      server.send(method, `/${chatId}${path}`, { headers, body });

    assertError(await ask(ana.chatId, {}), "missing_token");
    assertError(await ask(ana.chatId, bearer("nonsense")), "invalid_token");
    assertError(await ask(NO_CHAT, bearer("nonsense")), "invalid_token");
    assertError(await ask(ana.chatId, bearer(eva.token)), "wrong_chat");
    assertError(await ask(NO_CHAT, bearer(eva.token)), "wrong_chat");
    assertError(await ask(ana.chatId, bearer(udo.token)), "wrong_chat");
    assertError(await ask(udo.chatId, bearer(udo.token)), "chat_not_found");
    await ben.leave();
    assertError(await ask(ana.chatId, bearer(ben.token)), "revoked_token");
    await ana.leave();
    assertError(await ask(ana.chatId, bearer(ben.token)), "chat_not_found");
    server.clock.advance(6 * HOUR);
    for (const { token } of [ana, ben, eva, udo]) {
      assertError(await ask(ana.chatId, bearer(token)), "expired_token");
    }
  });
}

test("a good token is refused for its query or its body only", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
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

test("without a valid token, a chat that exists and one that does not answer alike", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana, ben] = await server.party("Ana", "Ben");
  const [eva] = await server.party("Eva");
  const [old] = await server.party("Old");
  const ended = old.chatId;
  await old.end();
  const revoked = await eva.inviteToken();
  const paths = ["", "?since=0", "/invite", "/join", "/leave", "/members/1", "/members/77", "/nothing", "/invite/1"];
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
              plain(await server.send(method, `/${chatId}${path}`, { headers }), chatId),
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

testInside("an expired token learns nothing of its chat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const [eva] = await server.party("Eva");
  server.clock.advance(HOUR);
  await server.join(ana.chatId, { invite_token: await ana.inviteToken() });
  server.clock.advance(5 * HOUR + MINUTE);
  server.app.sweep();
  assert.equal(await server.countChats(), 1);
  assert.deepEqual(plain(await ana.poll(), ana.chatId), plain(await eva.poll(), eva.chatId));
});

function bearer(token: string): Record<string, string> {
  return { Authorization: `Bearer ${token}` };
}

/** What there is to see in an answer: its status, text and headers but for the time. */
function plain(reply: Reply, chatId: string): unknown {
  const { date: _, ...headers } = reply.headers;
  return { status: reply.status, text: reply.text.replaceAll(chatId, "ID"), headers };
}
