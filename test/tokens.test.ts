// Tokens: only the signed spelling is valid, wherever it is sent.

import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import test from "node:test";
import { ApiError, readToken, signToken, type TokenPayload } from "../server.ts";
import { assertError, at, HOUR, type Member, pollOf, type Reply, startServer, testInProcess } from "./lib/helpers.ts";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const SECRET = Buffer.alloc(32, 7);
const NOW = Date.UTC(2026, 2, 1);

testInProcess("reading a token returns its signed payload", () => {
  for (const payload of [
    { kind: "session", chatId: "abcdefghijklmnop", counter: 1, expiresAt: NOW + 1 },
    { kind: "invite", chatId: "--------________", counter: 0, expiresAt: NOW + 6 * HOUR },
    { kind: "session", chatId: "AAAAAAAAAAAAAAAA", counter: 16_000_000, expiresAt: NOW + 6 * HOUR },
  ] as const satisfies TokenPayload[]) {
    const token = signToken(payload, SECRET);
    assert.deepEqual({ ...readToken(token, payload.kind, SECRET, NOW) }, payload);
  }
});

testInProcess("a token expires exactly at its expiry time", () => {
  const token = makeToken();
  assert.equal(readToken(token, "session", SECRET, NOW + HOUR - 1).counter, 3);
  assertRefused(token, "expired_token", NOW + HOUR);
  assertRefused(token, "expired_token", NOW + 100 * HOUR);
});

testInProcess("a token of another kind or secret is invalid, expired or not", () => {
  assert.throws(() => readToken(makeToken(), "invite", SECRET, NOW), isRefusal("invalid_token"));
  assert.throws(() => readToken(makeToken(), "invite", SECRET, NOW + 9 * HOUR), isRefusal("invalid_token"));
  const elsewhere = randomBytes(32);
  assert.throws(() => readToken(makeToken(), "session", elsewhere, NOW), isRefusal("invalid_token"));
  assert.throws(() => readToken(makeToken(), "session", elsewhere, NOW + 9 * HOUR), isRefusal("invalid_token"));
});

testInProcess("a token with any character replaced is invalid", () => {
  const token = makeToken();
  for (let index = 0; index < token.length; index += 1) {
    for (const other of `${ALPHABET}.=+/ \n%é\u0000`) {
      if (other !== token[index]) assertRefused(token.slice(0, index) + other + token.slice(index + 1));
    }
  }
});

testInProcess("a token cut at any place, from either end, is invalid", () => {
  const token = makeToken();
  for (let length = 0; length < token.length; length += 1) {
    assertRefused(token.slice(0, length));
    assertRefused(token.slice(token.length - length));
    assertRefused(token.slice(0, length) + token.slice(length + 1));
  }
});

testInProcess("a token with characters inserted at any place is invalid", () => {
  const token = makeToken();
  for (let index = 0; index <= token.length; index += 1) {
    for (const more of ["A", "=", ".", " ", "\n", "!", "\u0000", "\u200B", "=="]) {
      assertRefused(token.slice(0, index) + more + token.slice(index));
    }
  }
});

testInProcess("other spellings of a token's bytes are invalid", () => {
  for (const spelling of otherSpellings(makeToken())) assertRefused(spelling);
});

testInProcess("a token with a changed payload and the old signature is invalid", () => {
  const [payload = "", signature = ""] = makeToken().split(".");
  const bytes = Buffer.from(payload, "base64url");
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const changed = Buffer.from(bytes);
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    assertRefused(`${changed.toString("base64url")}.${signature}`);
  }
  const [other = ""] = makeToken({ counter: 1 }).split(".");
  assertRefused(`${other}.${signature}`);
});

testInProcess("a malformed payload is invalid even if it is signed with the right secret", () => {
  const [payload = ""] = makeToken().split(".");
  const bytes = Buffer.from(payload, "base64url");
  for (const forged of ["", "AAAA", payload.slice(0, -4), `${payload}AAAA`]) {
    assertRefused(`${forged}.${sign(Buffer.from(forged, "base64url"))}`);
    assertRefused(`${forged}.${sign(forged)}`);
  }
  const unknownKind = Buffer.from(bytes).fill(0xff, 0, 8);
  assertRefused(`${unknownKind.toString("base64url")}.${sign(payload)}`);
});

testInProcess("arbitrary strings are invalid and never cause another error", () => {
  for (const token of [
    ".",
    "..",
    "a.b",
    "null",
    "undefined",
    "{}",
    "\u{1F600}",
    "x".repeat(100_000),
    `${"A".repeat(30)}.${"A".repeat(43)}`,
    "eyJhbGciOiJub25lIn0.eyJraW5kIjoic2Vzc2lvbiJ9.",
  ]) {
    assertRefused(token);
  }
  for (let count = 0; count < 500; count += 1) {
    assertRefused(`${randomBytes(22).toString("base64url")}.${randomBytes(32).toString("base64url")}`);
  }
});

for (const [what, isSeen] of [
  ["that the server has seen before", true],
  ["that the server has not seen before", false],
] as const) {
  test(`over HTTP, a session token ${what} is valid only in its own spelling`, async (t) => {
    const server = await startServer(t, { rateLimit: false });
    const [ana] = await server.chat("Ana");
    const refused = [...tampered(ana.token), ...otherSpellings(ana.token).filter(isHeaderValue)];
    if (isSeen) await ana.read();
    for (const token of refused) assertError(await ana.send("GET", "", { token }), "invalid_token");
    await ana.read();
  });
}

test("over HTTP, an invitation is valid only in its own spelling, in the header and in the body", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.chat("Ana");
  const token = await ana.inviteToken();
  assert.equal((await ana.preview(token)).status, 200);
  for (const other of [...tampered(token), ...otherSpellings(token).filter(isHeaderValue)]) {
    assertError(await ana.preview(other), "invalid_token");
  }
  for (const invite_token of otherSpellings(token)) {
    assertError(await server.join(ana.chatId, { invite_token }), "invalid_token");
  }
  assert.equal((await ana.read()).members.length, 1);
});

test("an answer does not contain the refused token", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const token = `${ana.token.slice(0, -4)}AAAA`;
  assert.ok(!(await ana.send("GET", "", { token })).text.includes(token.slice(0, 20)));
});

test("a token from before the server's restart is invalid_token", async (t) => {
  const before = await startServer(t);
  const after = await startServer(t);
  const [ana] = await before.chat("Ana");
  assertError(await after.send("GET", `/${ana.chatId}`, { token: ana.token }), "invalid_token");
});

testInProcess("two servers with the same secret accept each other's tokens, but do not share chats", async (t) => {
  const secret = randomBytes(32);
  const one = await startServer(t, { secret });
  const other = await startServer(t, { secret });
  const [ana] = await one.chat("Ana");
  assertError(await other.send("GET", `/${ana.chatId}`, { token: ana.token }), "chat_not_found");
});

for (const [what, header] of [
  ["the usual spelling of the scheme", (token: string) => `Bearer ${token}`],
  ["the scheme in lowercase", (token: string) => `bearer ${token}`],
  ["the scheme in uppercase", (token: string) => `BEARER ${token}`],
  ["several spaces", (token: string) => `BeArEr    ${token}`],
  ["no scheme", (token: string) => token],
] as const) {
  test(`the Authorization header is accepted with ${what}`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const headers = { Authorization: header(ana.token) };
    pollOf(await server.send("GET", `/${ana.chatId}`, { headers }));
    const invite = { Authorization: header(await ana.inviteToken()) };
    assert.equal((await server.send("GET", `/${ana.chatId}/invite`, { headers: invite })).status, 200);
    assert.equal((await server.send("POST", `/${ana.chatId}/join`, { headers: invite })).status, 201);
  });
}

for (const [header, code] of [
  ["", "missing_token"],
  ["Bearer", "missing_token"],
  ["bearer", "missing_token"],
  ["Bearer ", "missing_token"],
  ["Bearer    ", "missing_token"],
  ["Basic TOKEN", "invalid_token"],
  ["Basic", "invalid_token"],
  ["Digest TOKEN", "invalid_token"],
  ["Token TOKEN", "invalid_token"],
  ["BearerTOKEN", "invalid_token"],
  ["Bearer: TOKEN", "invalid_token"],
  ["Bearer TOKEN x", "invalid_token"],
  ["Bearer x TOKEN", "invalid_token"],
  ["Bearer TOKEN, Bearer TOKEN", "invalid_token"],
  ["Bearer Bearer TOKEN", "invalid_token"],
  ['Bearer "TOKEN"', "invalid_token"],
  ["TOKEN TOKEN", "invalid_token"],
] as const) {
  test(`the Authorization header "${header}" is ${code}`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const headers = { Authorization: header.replaceAll("TOKEN", ana.token) };
    assertError(await server.send("GET", `/${ana.chatId}`, { headers }), code);
    assertError(await server.send("POST", `/${ana.chatId}/leave`, { headers }), code);
    const invite = { Authorization: header.replaceAll("TOKEN", await ana.inviteToken()) };
    assertError(await server.send("GET", `/${ana.chatId}/invite`, { headers: invite }), code);
    assertError(await server.send("POST", `/${ana.chatId}/join`, { headers: invite }), code);
  });
}

test("a token in the query or in a cookie is ignored", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const reply = await server.send("GET", `/${ana.chatId}?session_token=${ana.token}&access_token=${ana.token}`, {
    headers: { Cookie: `session_token=${ana.token}` },
  });
  assertError(reply, "missing_token");
});

test("a member's token works only in its own chat", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.chat("Ana", "Ben");
  const [eva] = await server.chat("Eva");
  const pollWith = ({ token }: Member, { chatId }: Member): Promise<Reply> =>
    server.send("GET", `/${chatId}`, { token });
  assert.equal(at(pollOf(await pollWith(ben, ana)).members, 1).you, true);
  assertError(await pollWith(eva, ana), "wrong_chat");
  assertError(await pollWith(ana, eva), "wrong_chat");
});

function makeToken(changed: Partial<TokenPayload> = {}): string {
  return signToken(
    { kind: "session", chatId: "abcdefghijklmnop", counter: 3, expiresAt: NOW + HOUR, ...changed },
    SECRET,
  );
}

function sign(text: string | Buffer): string {
  return createHmac("sha256", SECRET).update(text).digest("base64url");
}

function assertRefused(token: string, code = "invalid_token", now = NOW): void {
  assert.throws(() => readToken(token, "session", SECRET, now), isRefusal(code), JSON.stringify(token));
}

function isRefusal(code: string): (error: unknown) => boolean {
  return (error) => error instanceof ApiError && error.code === code;
}

/** Copies of the token: with one character changed, cut at several lengths, or with text added. */
function tampered(token: string): string[] {
  const changed = Array.from(token, (character, index) => {
    const other = character === "A" ? "B" : "A";
    return token.slice(0, index) + other + token.slice(index + 1);
  });
  const cut = [1, 29, 30, 31, 32, 73].map((length) => token.slice(0, length));
  return [...changed, ...cut, `${token}A`, `A${token}`, `${token}.`, `${token}.${token}`];
}

/** Other spellings of the same bytes, which a lenient decoder would accept. */
function otherSpellings(token: string): string[] {
  const [payload = "", signature = ""] = token.split(".");
  const bytes = [Buffer.from(payload, "base64url"), Buffer.from(signature, "base64url")];
  const spellings = [
    `${payload}=.${signature}`,
    `${payload}==.${signature}`,
    `${payload}.${signature}=`,
    `${payload}=.${signature}=`,
    `${payload}==.${signature}==`,
    `${payload}!.${signature}`,
    `${payload}.${signature}!`,
    `${payload} .${signature}`,
    `${payload}. ${signature}`,
    `${payload}\n.${signature}`,
    `${payload}.${signature}\n`,
    `${payload}\u0000.${signature}`,
    `${payload}..${signature}`,
    `.${payload}.${signature}`,
    `${payload}%2E${signature}`,
    `${payload}\uFF0E${signature}`,
    `${payload}${signature}`,
    `${signature}.${payload}`,
    Buffer.concat(bytes).toString("base64url"),
    bytes.map((part) => part.toString("base64")).join("."),
    bytes.map((part) => part.toString("hex")).join("."),
    token.toLowerCase(),
    token.toUpperCase(),
    encodeURIComponent(token).replaceAll(".", "%2e"),
    `${payload}.${signature}`.replace(/./u, (first) => `%${first.charCodeAt(0).toString(16)}`),
  ];
  // The last character of each half has spare bits, which a lenient decoder drops.
  for (const [half, spare] of [
    [payload, (payload.length * 6) % 8],
    [signature, (signature.length * 6) % 8],
  ] as const) {
    const last = ALPHABET.indexOf(half.slice(-1));
    for (let bits = 1; bits < 1 << spare; bits += 1) {
      const spelled = half.slice(0, -1) + (ALPHABET[last ^ bits] ?? "");
      spellings.push(token.replace(half, spelled));
    }
  }
  return spellings.filter((spelling) => spelling !== token);
}

function isHeaderValue(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text);
}
