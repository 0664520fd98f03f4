// Tokens: only the one spelling that was signed is good, wherever and however it is sent.

import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import test from "node:test";
import { ApiError, readToken, signToken, type TokenPayload } from "../server.ts";
import { assertError, at, HOUR, type Member, pollOf, type Reply, startServer, testInside } from "./helpers.ts";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const SECRET = Buffer.alloc(32, 7);
const NOW = Date.UTC(2026, 2, 1);

testInside("a token read back says what was signed", () => {
  for (const payload of [
    { kind: "session", chatId: "abcdefghijklmnop", counter: 1, expiresAt: NOW + 1 },
    { kind: "invite", chatId: "--------________", counter: 0, expiresAt: NOW + 6 * HOUR },
    { kind: "session", chatId: "AAAAAAAAAAAAAAAA", counter: 16_000_000, expiresAt: NOW + 6 * HOUR },
  ] as const satisfies TokenPayload[]) {
    const token = signToken(payload, SECRET);
    assert.deepEqual({ ...readToken(token, payload.kind, SECRET, NOW) }, payload);
  }
});

testInside("a token is expired from its last millisecond on", () => {
  const token = makeToken();
  assert.equal(readToken(token, "session", SECRET, NOW + HOUR - 1).counter, 3);
  assertRefused(token, "expired_token", NOW + HOUR);
  assertRefused(token, "expired_token", NOW + 100 * HOUR);
});

testInside("a token of the other kind or of another secret is invalid, expired or not", () => {
  assert.throws(() => readToken(makeToken(), "invite", SECRET, NOW), isRefusal("invalid_token"));
  assert.throws(() => readToken(makeToken(), "invite", SECRET, NOW + 9 * HOUR), isRefusal("invalid_token"));
  const elsewhere = randomBytes(32);
  assert.throws(() => readToken(makeToken(), "session", elsewhere, NOW), isRefusal("invalid_token"));
  assert.throws(() => readToken(makeToken(), "session", elsewhere, NOW + 9 * HOUR), isRefusal("invalid_token"));
});

testInside("with any one character replaced by any other a token is invalid", () => {
  const token = makeToken();
  for (let index = 0; index < token.length; index += 1) {
    for (const other of `${ALPHABET}.=+/ \n%é\u0000`) {
      if (other !== token[index]) assertRefused(token.slice(0, index) + other + token.slice(index + 1));
    }
  }
});

testInside("cut anywhere, on either side, a token is invalid", () => {
  const token = makeToken();
  for (let length = 0; length < token.length; length += 1) {
    assertRefused(token.slice(0, length));
    assertRefused(token.slice(token.length - length));
    assertRefused(token.slice(0, length) + token.slice(length + 1));
  }
});

testInside("with anything put in anywhere a token is invalid", () => {
  const token = makeToken();
  for (let index = 0; index <= token.length; index += 1) {
    for (const more of ["A", "=", ".", " ", "\n", "!", "\u0000", "\u200B", "=="]) {
      assertRefused(token.slice(0, index) + more + token.slice(index));
    }
  }
});

testInside("other spellings of a token's own bytes are invalid", () => {
  for (const spelling of otherSpellings(makeToken())) assertRefused(spelling);
});

testInside("a token with its payload changed and its signature kept is invalid", () => {
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

testInside("what was signed with the right secret over the wrong thing is invalid", () => {
  const [payload = ""] = makeToken().split(".");
  const bytes = Buffer.from(payload, "base64url");
  for (const forged of ["", "AAAA", payload.slice(0, -4), `${payload}AAAA`]) {
    assertRefused(`${forged}.${sign(Buffer.from(forged, "base64url"))}`);
    assertRefused(`${forged}.${sign(forged)}`);
  }
  const unknownKind = Buffer.from(bytes).fill(0xff, 0, 8);
  assertRefused(`${unknownKind.toString("base64url")}.${sign(payload)}`);
});

testInside("anything else at all is invalid, and never an accident", () => {
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
  ["that the server has never seen", false],
] as const) {
  test(`over HTTP, a session token ${what} is good in its one spelling only`, async (t) => {
    const server = await startServer(t, { rateLimit: false });
    const [ana] = await server.party("Ana");
    const refused = [...tampered(ana.token), ...otherSpellings(ana.token).filter(isHeaderValue)];
    if (isSeen) await ana.read();
    for (const token of refused) assertError(await ana.send("GET", "", { token }), "invalid_token");
    await ana.read();
  });
}

test("over HTTP, an invitation is good in its one spelling only, in the header and in the body", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const [ana] = await server.party("Ana");
  const token = await ana.inviteToken();
  assert.equal((await ana.look(token)).status, 200);
  for (const other of [...tampered(token), ...otherSpellings(token).filter(isHeaderValue)]) {
    assertError(await ana.look(other), "invalid_token");
  }
  for (const invite_token of otherSpellings(token)) {
    assertError(await server.join(ana.chatId, { invite_token }), "invalid_token");
  }
  assert.equal((await ana.read()).members.length, 1);
});

test("a refused token is not repeated in the answer", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const token = `${ana.token.slice(0, -4)}AAAA`;
  assert.ok(!(await ana.send("GET", "", { token })).text.includes(token.slice(0, 20)));
});

test("a token of before the server's last start is invalid_token", async (t) => {
  const before = await startServer(t);
  const after = await startServer(t);
  const [ana] = await before.party("Ana");
  assertError(await after.send("GET", `/${ana.chatId}`, { token: ana.token }), "invalid_token");
});

testInside("two servers with one secret know each other's tokens, but not each other's chats", async (t) => {
  const secret = randomBytes(32);
  const one = await startServer(t, { secret });
  const other = await startServer(t, { secret });
  const [ana] = await one.party("Ana");
  assertError(await other.send("GET", `/${ana.chatId}`, { token: ana.token }), "chat_not_found");
});

for (const [what, header] of [
  ["the scheme as it is usually written", (token: string) => `Bearer ${token}`],
  ["the scheme in small letters", (token: string) => `bearer ${token}`],
  ["the scheme in capitals", (token: string) => `BEARER ${token}`],
  ["several spaces", (token: string) => `BeArEr    ${token}`],
  ["no scheme", (token: string) => token],
] as const) {
  test(`the header is taken with ${what}`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.party("Ana");
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
  test(`the header "${header}" is ${code}`, async (t) => {
    const server = await startServer(t);
    const [ana] = await server.party("Ana");
    const headers = { Authorization: header.replaceAll("TOKEN", ana.token) };
    assertError(await server.send("GET", `/${ana.chatId}`, { headers }), code);
    assertError(await server.send("POST", `/${ana.chatId}/leave`, { headers }), code);
    const invite = { Authorization: header.replaceAll("TOKEN", await ana.inviteToken()) };
    assertError(await server.send("GET", `/${ana.chatId}/invite`, { headers: invite }), code);
    assertError(await server.send("POST", `/${ana.chatId}/join`, { headers: invite }), code);
  });
}

test("a token in the query or in a cookie counts for nothing", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const reply = await server.send("GET", `/${ana.chatId}?session_token=${ana.token}&access_token=${ana.token}`, {
    headers: { Cookie: `session_token=${ana.token}` },
  });
  assertError(reply, "missing_token");
});

test("a member's token does what the member may, in its own chat alone", async (t) => {
  const server = await startServer(t);
  const [ana, ben] = await server.party("Ana", "Ben");
  const [eva] = await server.party("Eva");
  const ask = (who: Member, where: Member): Promise<Reply> =>
    server.send("GET", `/${where.chatId}`, { token: who.token });
  assert.equal(at(pollOf(await ask(ben, ana)).members, 1).you, true);
  assertError(await ask(eva, ana), "wrong_chat");
  assertError(await ask(ana, eva), "wrong_chat");
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

/** The token with each of its characters changed in turn, cut at some places, and with more at its end. */
function tampered(token: string): string[] {
  const changed = Array.from(token, (character, index) => {
    const other = character === "A" ? "B" : "A";
    return token.slice(0, index) + other + token.slice(index + 1);
  });
  const cut = [1, 29, 30, 31, 32, 73].map((length) => token.slice(0, length));
  return [...changed, ...cut, `${token}A`, `A${token}`, `${token}.`, `${token}.${token}`];
}

/** Other ways of writing the same bytes, which a lenient decoder would take. */
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
  // The last character of each half carries spare bits, which a lenient decoder drops.
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
