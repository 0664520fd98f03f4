// Codes: what stands for an invitation when there is no channel for a link, and what limits guessing.

import assert from "node:assert/strict";
import test from "node:test";
import { LIMITS } from "../server.ts";
import {
  assertNoContent,
  assertError,
  invitationOf,
  Member,
  MINUTE,
  NO_CHAT,
  previewOf,
  redeemedOf,
  type Reply,
  SECOND,
  sessionOf,
  startServer,
  testInProcess,
  type TestServer,
} from "./lib/helpers.ts";

/** A code that no server has issued. */
const WRONG = "0000-0000";

testInProcess("an invitation has a code of eight characters that works for 30 minutes", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const { code, code_expires_at } = invitationOf(await ana.invite());
  assert.match(code, /^[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}$/);
  assert.equal(code_expires_at, server.clock.iso(30 * MINUTE));
});

test("a code gives the newest link, the members and the free seats, and takes no seat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana", "Ben");
  const { code, magic_link, invite_token, expires_at } = invitationOf(await ana.invite());
  const members = ["Ana", "Ben"];
  const expected = { chat_id: ana.chatId, magic_link, invite_token, expires_at, seats_left: 4, members };
  for (let count = 0; count < 3; count += 1) assert.deepEqual(redeemedOf(await server.redeem(code)), expected);
  assert.deepEqual(previewOf(await ana.preview(invite_token)).members, members);
  sessionOf(await server.join(ana.chatId, { invite_token }));
});

test("only letters and digits of a code count, in any case, O is 0, and I and L are 1", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  // Until there is a code with both digits: about one in five has.
  let code = "";
  while (!/0.*1|1.*0/.test(code)) {
    const [ana] = await server.chat("Ana");
    code = await ana.code();
    if (!/0.*1|1.*0/.test(code)) await ana.end();
  }
  const plain = code.replace("-", "");
  for (const spelling of [
    plain,
    code.toLowerCase(),
    ` ${plain.split("").join(" - ")}\n`,
    code.replace("-", "\u2011"),
    // As it stands in a sentence, and as it is copied out of a text from right to left.
    `“${code}”.`,
    `\u2066${code}\u2069`,
    code.replaceAll("0", "O").replaceAll("1", "I"),
    code.replaceAll("0", "o").replaceAll("1", "l"),
    code.replaceAll("1", "L"),
  ]) {
    redeemedOf(await server.redeem(spelling));
  }
});

testInProcess("a chat has one code, which each invitation extends to 30 minutes from then", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const code = await ana.code();
  server.clock.advance(29 * MINUTE);
  const again = invitationOf(await ana.invite());
  assert.deepEqual([again.code, again.code_expires_at], [code, server.clock.iso(30 * MINUTE)]);
  server.clock.advance(30 * MINUTE - 1);
  assert.equal(redeemedOf(await server.redeem(code)).expires_at, again.expires_at);
  server.clock.advance(1);
  assertError(await server.redeem(code), "invalid_code");
  const fresh = await ana.code();
  assert.notEqual(fresh, code);
  redeemedOf(await server.redeem(fresh));
  assertError(await server.redeem(code), "invalid_code");
});

testInProcess("the invitation of a code does not outlive the creator's own link", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const { code, expires_at } = invitationOf(await ana.invite());
  server.clock.advance(20 * MINUTE);
  assert.equal(redeemedOf(await server.redeem(code)).expires_at, expires_at);
});

testInProcess("a code and its link are of the same moment, however long the request takes", async (t) => {
  let now = Date.now();
  const server = await startServer(t, { now: () => (now += 1) });
  const [ana] = await server.chat("Ana");
  const { code, code_expires_at, expires_at } = invitationOf(await ana.invite());
  assert.equal(Date.parse(expires_at) - Date.parse(code_expires_at), LIMITS.sessionMs - LIMITS.codeMs);
  assert.equal(redeemedOf(await server.redeem(code)).expires_at, expires_at);
});

test("a code ends with its invitation and with its chat", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const revoked = await ana.code();
  assertNoContent(await ana.revoke());
  assertError(await server.redeem(revoked), "invalid_code");
  const code = await ana.code();
  assert.notEqual(code, revoked);
  assertNoContent(await ana.end());
  assertError(await server.redeem(code), "invalid_code");
});

test("a code works while seats are free", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("A", "B", "C", "D", "E", "F");
  const code = await ana.code();
  assertError(await server.redeem(code), "chat_full");
  await ben.leave();
  assert.equal(redeemedOf(await server.redeem(code)).seats_left, 1);
});

test("a code still works after the creator has left", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana", "Ben");
  const code = await ana.code();
  await ana.leave();
  assert.deepEqual(redeemedOf(await server.redeem(code)).members, ["Ben"]);
});

testInProcess("wrong, expired, revoked and ended codes get the same answer, byte for byte", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const [ben] = await server.chat("Ben");
  const [eva] = await server.chat("Eva");
  const [expired, revoked, ended] = [await ana.code(), await ben.code(), await eva.code()];
  await ben.revoke();
  await eva.end();
  server.clock.advance(31 * MINUTE);
  const answers = new Set<string>();
  for (const code of [WRONG, expired, revoked, ended, "", "x", "K7QF-2M9X-K7QF-2M9X", 5, null, undefined, ["x"]]) {
    const reply = await server.redeem(code);
    assertError(reply, "invalid_code");
    delete reply.headers.date;
    answers.add(JSON.stringify([reply.headers, reply.text]));
  }
  assert.equal(answers.size, 1);
});

test("a body that is no JSON object is refused before any code is counted", async (t) => {
  const server = await startServer(t);
  for (let count = 0; count < 70; count += 1)
    assertError(await server.send("POST", "/redeem", { body: "[" }), "invalid_json");
  assertError(await server.send("POST", "/redeem", { body: "x".repeat(40_000) }), "too_large");
  assertError(await server.send("POST", "/redeem"), "invalid_code");
});

test("two chats never have the same code", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const chats = await Promise.all(Array.from({ length: 50 }, () => server.chat("Ana")));
  const codes = await Promise.all(chats.map(([ana]) => ana.code()));
  assert.equal(new Set(codes).size, 50);
  for (const [index, [ana]] of chats.entries()) {
    assert.equal(redeemedOf(await server.redeem(codes[index])).chat_id, ana.chatId);
  }
});

// ---- Guessing -------------------------------------------------------------------------------------------

/** Redeems a wrong code from another address each time. */
async function guessFromManyAddresses(server: TestServer, count: number, first = 0): Promise<void> {
  for (let index = first; index < first + count; index += 1)
    assertError(await redeemFrom(server, index, WRONG), "invalid_code");
}

function redeemFrom(server: TestServer, index: number, code: string): Promise<Reply> {
  const headers = { "X-Forwarded-For": `10.0.${index >> 8}.${index & 255}` };
  return server.send("POST", "/redeem", { body: { code }, headers });
}

testInProcess(
  "an address can send 60 wrong codes at once, then one per second; above that right codes are refused too",
  async (t) => {
    const server = await startServer(t, { trustProxy: true });
    const [ana] = await server.chat("Ana");
    const { code, invite_token } = invitationOf(await ana.invite());
    for (let count = 0; count < 60; count += 1) assertError(await redeemFrom(server, 1, WRONG), "invalid_code");
    assertError(await redeemFrom(server, 1, WRONG), "rate_limited");
    assertError(await redeemFrom(server, 1, code), "rate_limited");
    redeemedOf(await redeemFrom(server, 2, code));
    // Links and tokens keep working, from that address too.
    const headers = { "X-Forwarded-For": "10.0.0.1" };
    sessionOf(await server.join(ana.chatId, { invite_token }, headers));
    server.clock.advance(SECOND);
    redeemedOf(await redeemFrom(server, 1, code));
    assertError(await redeemFrom(server, 1, WRONG), "invalid_code");
    assertError(await redeemFrom(server, 1, code), "rate_limited");
  },
);

testInProcess("wrong codes and refused tokens share one limit per address", async (t) => {
  const server = await startServer(t);
  for (let count = 0; count < 30; count += 1) assertError(await server.redeem(WRONG), "invalid_code");
  const guess = (): Promise<Reply> => server.send("GET", `/${NO_CHAT}`, { token: "nonsense" });
  for (let count = 0; count < 30; count += 1) assertError(await guess(), "invalid_token");
  assertError(await guess(), "rate_limited");
  assertError(await server.redeem(WRONG), "rate_limited");
});

testInProcess("right codes do not count", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const code = await ana.code();
  for (let count = 0; count < 150; count += 1) redeemedOf(await server.redeem(code));
  for (let count = 0; count < 60; count += 1) assertError(await server.redeem(WRONG), "invalid_code");
});

for (const rateLimit of [true, false]) {
  testInProcess(
    `all addresses together can send 100 wrong codes at once, then 10 per second${rateLimit ? "" : ", even with --no-rate-limit"}`,
    async (t) => {
      const server = await startServer(t, { trustProxy: true, rateLimit });
      const [ana] = await server.chat("Ana");
      const { code, invite_token } = invitationOf(await ana.invite());
      await guessFromManyAddresses(server, 100);
      for (const each of [WRONG, code]) {
        const refused = await redeemFrom(server, 999, each);
        assertError(refused, "rate_limited");
        assert.equal(refused.headers["retry-after"], "1");
      }
      // Links and tokens keep working.
      const ben = new Member(server, sessionOf(await server.join(ana.chatId, { invite_token })));
      await ben.say("Hello");
      previewOf(await ana.preview(invite_token));

      server.clock.advance(99);
      assertError(await redeemFrom(server, 999, code), "rate_limited");
      server.clock.advance(1);
      redeemedOf(await redeemFrom(server, 999, code));
      await guessFromManyAddresses(server, 1, 200);
      assertError(await redeemFrom(server, 999, code), "rate_limited");
      server.clock.advance(SECOND);
      await guessFromManyAddresses(server, 10, 300);
      assertError(await redeemFrom(server, 999, code), "rate_limited");
    },
  );
}

testInProcess("one address cannot use up what all may send together", async (t) => {
  const server = await startServer(t, { trustProxy: true });
  const [ana] = await server.chat("Ana");
  const code = await ana.code();
  for (let count = 0; count < 200; count += 1) await redeemFrom(server, 1, WRONG);
  redeemedOf(await redeemFrom(server, 2, code));
});

testInProcess("addresses that push others out of the table do not refill the server's limit", async (t) => {
  const server = await startServer(t, { trustProxy: true });
  await guessFromManyAddresses(server, 100);
  server.app.sweep();
  assertError(await redeemFrom(server, 999, WRONG), "rate_limited");
});

test("a guess finds one of 1,000 codes about once in three and a half years", () => {
  // The figures of README.md, section Security.
  const codes = 32 ** 8;
  assert.equal(codes, 2 ** 40);
  const seconds = codes / LIMITS.chats / 10;
  assert.equal((seconds / 86_400 / 365).toFixed(1), "3.5");
});

// ---- Several nodes --------------------------------------------------------------------------------------

test("with --node, a code begins with the node's name, which the path may repeat", async (t) => {
  const server = await startServer(t, { node: "oslo1" });
  const [ana] = await server.chat("Ana");
  const code = await ana.code();
  assert.match(code, /^oslo1-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}$/);
  for (const path of ["/redeem", "/redeem/oslo1", "/redeem/oslo1/"]) {
    for (const spelling of [code, code.toUpperCase(), code.replaceAll("-", "")]) {
      const reply = await server.send("POST", path, { body: { code: spelling } });
      assert.equal(redeemedOf(reply).chat_id, ana.chatId);
    }
  }
  for (const path of ["/redeem/Oslo1", "/redeem/a-b", `/redeem/${"a".repeat(17)}`, "/redeem/a/b"]) {
    assertError(await server.send("POST", path, { body: { code } }), "not_found");
  }
});

test("a code of another node is a wrong code", async (t) => {
  const [a, b] = [await startServer(t, { node: "a" }), await startServer(t, { node: "b" })];
  const [ana] = await a.chat("Ana");
  const code = await ana.code();
  assertError(await b.redeem(code), "invalid_code");
  assertError(await a.redeem(code.slice(2)), "invalid_code");
  redeemedOf(await a.redeem(code));
});
