// Checks that the server accepts only tokens that it signed for exactly this use, and that secrets do not leak. Covers
// changed bits, truncation, alternative encodings, 100,000 forgeries, and all output of a server.
//
// SOAK_SEED=<seed> reproduces the forgeries.

import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import test from "node:test";
import { ApiError, readToken, signToken, type TokenPayload } from "../../server.ts";
import { at, HOUR, invitationOf, LOCAL, Program, record, type Reply, sessionOf } from "../lib/helpers.ts";
import { startServer, stringOf, type TestServer, until } from "../lib/helpers.ts";
import { chooseSeed, Line, Random } from "./tools.ts";

const NOW = Date.UTC(2026, 2, 1);
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const LETTERS = `${ALPHABET}.`.split("");
const FORGERIES = 100_000;
const FORGERIES_SENT = 6_000;

test("a token with any changed bit or character is invalid", () => {
  for (const token of samples()) {
    for (const other of [...changeBytes(token), ...changeCharacters(token)]) assertInvalid(other);
  }
});

test("a token that is truncated, repeated or has extra characters is invalid", () => {
  for (const token of samples()) {
    for (const other of changeLength(token)) assertInvalid(other);
  }
});

test("any other encoding of a token's bytes is invalid", () => {
  for (const token of samples()) {
    for (const other of encodeDifferently(token)) assertInvalid(other);
  }
});

test("a token is valid only for its kind and secret, and until the millisecond before it expires", () => {
  for (const token of samples()) {
    const { kind, expiresAt } = payloadOf(token);
    const other = kind === "session" ? "invite" : "session";
    assert.equal(readToken(token, kind, SECRET, expiresAt - 1).expiresAt, expiresAt);
    assert.equal(
      codeOf(() => readToken(token, kind, SECRET, expiresAt)),
      "expired_token",
    );
    assert.equal(
      codeOf(() => readToken(token, other, SECRET, NOW)),
      "invalid_token",
    );
    assert.equal(
      codeOf(() => readToken(token, other, SECRET, expiresAt)),
      "invalid_token",
    );
    for (let bit = 0; bit < 256; bit += 1) {
      const secret = flipBit(SECRET, bit);
      assert.equal(
        codeOf(() => readToken(token, kind, secret, NOW)),
        "invalid_token",
      );
    }
    for (const secret of [Buffer.alloc(32), Buffer.alloc(0), SECRET.subarray(1)]) {
      assert.equal(
        codeOf(() => readToken(token, kind, secret, NOW)),
        "invalid_token",
      );
    }
  }
});

test("100,000 random forgeries are all invalid", (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const forge = createForger(new Random(seed), samples());
  for (let count = 0; count < FORGERIES; count += 1) assertInvalid(forge());
});

test("over HTTP, every changed, re-encoded or forged token is rejected and changes nothing", async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const random = new Random(seed);
  const server = await startServer(t, { rateLimit: false });
  const [ana, ben] = await server.chat("Ana", "Ben");
  const [eva] = await server.chat("Eva");
  const invitation = await ana.inviteToken();
  const foreign = await signElsewhere(server);
  const line = await Line.open(server.port);
  t.after(() => line.close());

  /** Asserts that each endpoint of the chat rejects the token with this error. */
  const assertRejected = async (token: string, code: string, endpoints = ENDPOINTS): Promise<void> => {
    for (const { method, path, body } of endpoints) {
      const fields = body === "invite" ? { body: { invite_token: token } } : { token };
      const reply = await line.ask(method, `/${ana.chatId}${path}`, fields);
      assert.equal(record(reply.body)["error"], code, `${method} ${path} with ${JSON.stringify(token)}`);
      assert.equal(reply.status, code === "wrong_chat" ? 403 : 401);
    }
  };
  const valid = [ana.token, ben.token, invitation];
  const changed = valid.flatMap((token) => [
    ...changeBytes(token),
    ...changeLength(token),
    ...encodeDifferently(token),
  ]);
  const sendable = changed.filter((token) => /^[\x21-\x7e]+$/.test(token) && !/^bearer$/i.test(token));
  for (const token of sendable) await assertRejected(token, "invalid_token", [random.pick(ENDPOINTS)]);
  const forge = createForger(random, [...valid, eva.token]);
  for (let count = 0; count < FORGERIES_SENT; count += 1)
    await assertRejected(forge(), "invalid_token", [random.pick(ENDPOINTS)]);
  for (const token of foreign) await assertRejected(token, "invalid_token");
  await assertRejected(invitation, "invalid_token", MEMBER_ENDPOINTS);
  for (const token of [ana.token, ben.token]) await assertRejected(token, "invalid_token", INVITEE_ENDPOINTS);
  await assertRejected(eva.token, "wrong_chat", MEMBER_ENDPOINTS);
  await assertRejected(await eva.inviteToken(), "wrong_chat", INVITEE_ENDPOINTS);

  const seen = await ana.read();
  assert.deepEqual([seen.cursor, seen.messages.length, seen.members.length], [2, 0, 2]);
  server.clock.advance(6 * HOUR - 1);
  assert.equal((await ana.preview(invitation)).status, 200);
  await ana.read();
  server.clock.advance(1);
  for (const token of [ana.token, ben.token]) await assertRejected(token, "expired_token", MEMBER_ENDPOINTS);
  await assertRejected(invitation, "expired_token", INVITEE_ENDPOINTS);
});

/** The only fields of a response that can contain secrets. */
const SECRET_FIELDS = /"(?:session_token|invite_token|magic_link|other_links|username|text|members)":/;

test("tokens, names, keys and messages appear only in responses to members, never in logs or headers", async (t) => {
  const lines: string[] = [];
  const errors: string[] = [];
  let isBroken = false;
  const server = await startServer(t, {
    log: (line) => lines.push(line),
    logError: (error) => errors.push(error instanceof Error ? `${error.stack}${JSON.stringify(error)}` : String(error)),
    lanAddresses: () => {
      if (isBroken) throw new Error("no network");
      return [];
    },
  });
  const replies = await sendEveryRequest((...request) => server.send(...request));
  isBroken = true;
  replies.push(...(await sendEveryRequest((...request) => server.send(...request), replies)));
  isBroken = false;
  assert.ok(errors.length >= 4, "internal errors occurred");
  const requests = replies.length;
  await until(() => lines.length === requests, "a line for each request");
  const secrets = findSecrets(replies);
  assert.ok(secrets.length > 15);
  for (const secret of secrets) {
    for (const text of [...lines, ...errors]) assert.ok(!text.includes(secret), `logged: ${text}`);
    for (const reply of replies) {
      assert.ok(!JSON.stringify(reply.headers).includes(secret), `in a header: ${JSON.stringify(reply.headers)}`);
      if (!reply.text.includes(secret)) continue;
      assert.ok(reply.status < 300, `in an error: ${reply.text}`);
      assert.match(reply.text, SECRET_FIELDS);
    }
  }
  for (const { body } of replies.filter(({ status }) => status === 201)) {
    const fields = { ...record(body) };
    if ("url" in fields) assert.match(stringOf(fields, "url"), /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{16}$/);
    // The token is in the fragment, which browsers never send.
    if ("magic_link" in fields) assert.match(stringOf(fields, "magic_link"), /^[^#?]+\/[\w-]{16}#invite=[\w.-]{74}$/);
  }
});

test("a mangled invitation link leaves no token in the log", async (t) => {
  const lines: string[] = [];
  const server = await startServer(t, { log: (line) => lines.push(line) });
  const [ana] = await server.chat("Ana");
  const token = await ana.inviteToken();
  const paths = [`/${ana.chatId}%23invite=${token}`, `/${ana.chatId}/${token}`, `/${token}`, `//${token}@x/`];
  for (const path of paths) await server.send("GET", path);
  await until(() => lines.length === 2 + paths.length, "a line for each request");
  for (const line of lines) assert.ok(!line.includes(token), line);
});

test("the program with --verbose prints no secrets", async (t) => {
  const program = await Program.start(t, [...LOCAL, "--verbose"]);
  const replies = await sendEveryRequest((...request) => program.send(...request));
  await until(() => program.stdout.match(/ ms\n/g)?.length === replies.length, "a line for each request");
  const { stdout, stderr } = await program.stop();
  for (const secret of findSecrets(replies)) assert.ok(!`${stdout}${stderr}`.includes(secret), stdout);
});

// ---- Valid and forged tokens -----------------------------------------------------------------------------

const SECRET = createHash("sha256").update("a secret").digest();

const ENDPOINTS: { method: string; path: string; caller: "member" | "invitee"; body?: "invite" }[] = [
  { method: "GET", path: "", caller: "member" },
  { method: "GET", path: "?wait=50&since=latest", caller: "member" },
  { method: "POST", path: "", caller: "member" },
  { method: "DELETE", path: "", caller: "member" },
  { method: "POST", path: "/invite", caller: "member" },
  { method: "DELETE", path: "/invite", caller: "member" },
  { method: "POST", path: "/leave", caller: "member" },
  { method: "DELETE", path: "/members/2", caller: "member" },
  { method: "GET", path: "/invite", caller: "invitee" },
  { method: "POST", path: "/join", caller: "invitee" },
  { method: "POST", path: "/join", caller: "invitee", body: "invite" },
];
const MEMBER_ENDPOINTS = ENDPOINTS.filter(({ caller }) => caller === "member");
const INVITEE_ENDPOINTS = ENDPOINTS.filter(({ caller }) => caller === "invitee");

/** Returns session and invite tokens with very different bytes. */
function samples(): string[] {
  return (
    [
      { kind: "session", chatId: "abcdefghijklmnop", counter: 3, expiresAt: NOW + 6 * HOUR },
      { kind: "invite", chatId: "--------________", counter: 0, expiresAt: NOW + 1 },
      { kind: "session", chatId: "AAAAAAAAAAAAAAAA", counter: 2 ** 24 - 1, expiresAt: NOW + HOUR },
    ] as const satisfies TokenPayload[]
  ).map((payload) => signToken(payload, SECRET));
}

function payloadOf(token: string): { kind: "session" | "invite"; expiresAt: number } {
  const bytes = Buffer.from(token, "base64url");
  return { kind: bytes[3] === 1 ? "session" : "invite", expiresAt: bytes.readUIntBE(16, 6) };
}

function codeOf(read: () => unknown): string {
  try {
    read();
    return "accepted";
  } catch (error) {
    return error instanceof ApiError ? error.code : String(error);
  }
}

/** Asserts that the token is invalid as a session token and as an invite token. */
function assertInvalid(token: string): void {
  for (const kind of ["session", "invite"] as const) {
    const code = codeOf(() => readToken(token, kind, SECRET, NOW));
    if (code !== "invalid_token") assert.fail(`${code}: ${JSON.stringify(token)} as ${kind}`);
  }
}

function flipBit(bytes: Buffer, bit: number): Buffer {
  const changed = Buffer.from(bytes);
  changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return changed;
}

function decode(token: string): [Buffer, Buffer] {
  const [payload = "", signature = ""] = token.split(".");
  return [Buffer.from(payload, "base64url"), Buffer.from(signature, "base64url")];
}

function encode(payload: Buffer, signature: Buffer, coding: "base64url" | "base64" | "hex" = "base64url"): string {
  return `${payload.toString(coding)}.${signature.toString(coding)}`;
}

/** Returns the token with each single bit of its payload and of its signature flipped. */
function changeBytes(token: string): string[] {
  const [payload, signature] = decode(token);
  return [
    ...Array.from({ length: payload.length * 8 }, (_, bit) => encode(flipBit(payload, bit), signature)),
    ...Array.from({ length: signature.length * 8 }, (_, bit) => encode(payload, flipBit(signature, bit))),
  ];
}

/** Returns the token with each bit of each character flipped, and each character replaced by every other one. */
function changeCharacters(token: string): string[] {
  const bytes = Buffer.from(token);
  const bits = Array.from({ length: bytes.length * 8 }, (_, bit) => flipBit(bytes, bit).toString("latin1"));
  const letters = Array.from(token, (character, index) =>
    Array.from(`${ALPHABET}.=+/`)
      .filter((other) => other !== character)
      .map((other) => token.slice(0, index) + other + token.slice(index + 1)),
  );
  return [...bits, ...letters.flat()];
}

/** Returns every prefix and suffix, and variants with a character removed or inserted, a repetition or a reversal. */
function changeLength(token: string): string[] {
  const lengths = Array.from(token, (_, index) => index);
  return [
    ...lengths.flatMap((length) => [token.slice(0, length), token.slice(length + 1)]),
    ...lengths.map((index) => token.slice(0, index) + token.slice(index + 1)),
    ...[...lengths, token.length].flatMap((index) =>
      ["A", "=", ".", "%", "\n", " "].map((more) => token.slice(0, index) + more + token.slice(index)),
    ),
    token + token,
    `${token}.${token}`,
    `${token},${token}`,
    token.split("").toReversed().join(""),
    token.split(".").toReversed().join("."),
  ].filter((piece) => piece.trim() !== "" && piece.trim() !== token);
}

/** Returns other encodings of the token's bytes, including those that a lenient decoder would accept. */
function encodeDifferently(token: string): string[] {
  const [payload, signature] = decode(token);
  const [head = "", tail = ""] = token.split(".");
  const spare = [head, tail].flatMap((half) =>
    Array.from(ALPHABET, (last) => half.slice(0, -1) + last)
      .filter((other) => other !== half && Buffer.from(other, "base64url").equals(Buffer.from(half, "base64url")))
      .map((other) => token.replace(half, other)),
  );
  assert.ok(spare.length >= 15 + 3, "22 and 32 bytes leave four and two bits of their last characters unused");
  const padded = ["=", "==", "===", "!", "\0", "\t", "\r\n", "%3D", "~", "*", "\u00A0", "\u200B"].flatMap((pad) => [
    `${head}${pad}.${tail}`,
    `${head}.${tail}${pad}`,
    `${head}.${pad}${tail}`,
    `${pad}${head}.${tail}`,
  ]);
  const others = [
    encode(payload, signature, "base64"),
    encode(payload, signature, "hex"),
    Buffer.concat([payload, signature]).toString("base64url"),
    `${head}%2E${tail}`,
    `${head}%2e${tail}`,
    `${head}\uFF0E${tail}`,
    `${head}..${tail}`,
    head + tail,
    token.toLowerCase(),
    token.toUpperCase(),
    token.replace(/^./, (first) => `%${first.charCodeAt(0).toString(16)}`),
    token.replaceAll(/./g, (each) => String.fromCodePoint((each.codePointAt(0) ?? 0) + 0xfee0)),
    token.replaceAll("-", "+").replaceAll("_", "/"),
    `"${token}"`,
    JSON.stringify({ token }),
  ];
  return [...new Set([...spare, ...padded, ...others])].filter((other) => other !== token);
}

function sign(bytes: Buffer | string, secret: Buffer): Buffer {
  return createHmac("sha256", secret).update(bytes).digest();
}

/** Returns a function that makes forgeries: noise, parts of valid tokens, and valid payloads with a wrong signature. */
function createForger(random: Random, valid: readonly string[]): () => string {
  const payload = (): Buffer => decode(random.pick(valid))[0];
  const signature = (): Buffer => decode(random.pick(valid))[1];
  const ways: (() => string)[] = [
    () => encode(random.bytes(22), random.bytes(32)),
    () => encode(payload(), random.bytes(32)),
    () => encode(random.bytes(22), signature()),
    () => encode(flipBit(payload(), random.below(176)), signature()),
    () =>
      encode(
        flipBit(flipBit(payload(), random.below(88)), 88 + random.below(88)),
        flipBit(signature(), random.below(256)),
      ),
    () => {
      const bytes = flipBit(payload(), random.below(176));
      return encode(bytes, sign(random.isTrue(0.5) ? bytes : bytes.toString("base64url"), random.bytes(32)));
    },
    () => {
      const bytes = payload();
      return encode(bytes, createHash("sha256").update(bytes).digest());
    },
    () => encode(random.bytes(random.below(40)), random.bytes(random.below(40))),
    () => Array.from({ length: 1 + random.below(120) }, () => random.pick(LETTERS)).join(""),
    () => {
      const token = random.pick(valid);
      const [from, to] = [random.below(74), random.below(74)];
      const middle = Array.from({ length: 1 + random.below(6) }, () => random.pick(LETTERS)).join("");
      return token.slice(0, from) + middle + token.slice(to);
    },
  ];
  return () => {
    for (;;) {
      const token = random.pick(ways)();
      if (!valid.includes(token) && token !== "" && !/^bearer$/i.test(token)) return token;
    }
  };
}

/** Returns tokens for a chat of this server, signed with another server's secret. */
async function signElsewhere(server: TestServer): Promise<string[]> {
  const [ana] = await server.chat("Ana");
  const [payload] = decode(ana.token);
  const chatId = payload.toString("base64url", 4, 16);
  return (["session", "invite"] as const).map((kind) =>
    signToken({ kind, chatId, counter: 1, expiresAt: server.clock.ms + HOUR }, SECRET),
  );
}

// ---- Every request, with secrets in every place where a client can send them -------------------------------

type Send = TestServer["send"];

const NAMES = ["Anastasia-Secretive", "Benedict-Hushhush"] as const;
const TEXTS = ["the-cat-is-in-the-bag", "meet-me-at-midnight"] as const;
const KEYS = ["key-of-a-creation-0123456789", "key-of-a-joining-0123456789", "key-of-a-message"] as const;

/**
 * Sends every valid request and many invalid ones. If creating a chat may fail, `earlier` replies supply the chat and
 * its tokens.
 */
async function sendEveryRequest(send: Send, earlier?: Reply[]): Promise<Reply[]> {
  const replies: Reply[] = [];
  const ask: Send = async (...request) => {
    const reply = await send(...request);
    replies.push(reply);
    return reply;
  };
  const keyed = (index: 0 | 1 | 2) => ({ "Idempotency-Key": KEYS[index] });
  const made = await ask("POST", "/create", { body: { username: NAMES[0] }, headers: keyed(0) });
  const ana = sessionOf(earlier ? at(earlier, 0) : made);
  const [path, token] = [`/${ana.chat_id}`, ana.session_token];
  const invited = await ask("POST", `${path}/invite`, { token });
  const { invite_token } = invitationOf(earlier ? at(earlier, 1) : invited);
  const body = { invite_token, username: NAMES[1] };
  const joined = await ask("POST", `${path}/join`, { body, headers: keyed(1) });
  const ben = sessionOf(earlier ? at(earlier, 2) : joined);
  await ask("POST", `${path}/join`, { body, headers: keyed(1) });
  await ask("POST", `${path}/join`, { body });
  await ask("POST", `${path}/join?invite_token=${invite_token}&username=${NAMES[1]}`, { body: {} });
  await ask("POST", `${path}/join`, { body: { ...body, username: `${NAMES[1]}${"\u0301".repeat(9)}` } });
  await ask("POST", `${path}/join`, { body: JSON.stringify(body).slice(0, -3) });
  await ask("GET", `${path}/invite`, { token: invite_token });
  for (const wrong of [`${token}x`, token.slice(0, -1), `${token}.${token}`]) await ask("GET", path, { token: wrong });
  await ask("POST", path, { token, body: { text: TEXTS[0] }, headers: keyed(2) });
  await ask("POST", path, { token, body: { text: TEXTS[0] }, headers: keyed(2) });
  await ask("POST", path, { token, body: { text: TEXTS[1] }, headers: keyed(2) });
  await ask("POST", path, { token, body: TEXTS[1], headers: { "Content-Type": "text/plain" } });
  await ask("POST", path, { token, body: `{"text":"${TEXTS[1]}"` });
  await ask("POST", path, { token, body: { text: TEXTS[1].repeat(400) } });
  await ask("POST", path, { token, body: { text: TEXTS[1].repeat(2_000) } });
  await ask("POST", path, { token: invite_token, body: { text: TEXTS[1] } });
  await ask("POST", path, { token, body: { text: TEXTS[1] }, headers: { "Idempotency-Key": KEYS[0].repeat(9) } });
  await ask("GET", path, { token: ben.session_token });
  await ask("HEAD", path, { token: ben.session_token });
  await ask("GET", `${path}?session_token=${token}&since=${token}`);
  await ask("GET", `${path}?since=${token}`, { token });
  await ask("GET", `${path}?wait=${TEXTS[0]}&browser=${token}`, { token });
  await ask("DELETE", `${path}/invite`, { token: ben.session_token });
  await ask("PUT", path, { token, body: { text: TEXTS[0] } });
  await ask("GET", path, { headers: { Cookie: `token=${token}`, Authorization: `Basic ${token}` } });
  await ask("GET", "/", { token, headers: { Referer: `${ana.url}#invite=${invite_token}` } });
  await ask("OPTIONS", path, { token });
  return replies;
}

/** Returns the tokens in the replies, and the names, texts and keys in the requests. */
function findSecrets(replies: readonly Reply[]): string[] {
  const tokens = replies.flatMap(({ text }) => [...text.matchAll(/[\w-]{30}\.[\w-]{43}/g)].map(([token]) => token));
  const halved = tokens.flatMap((token) => token.split("."));
  return [...new Set([...tokens, ...halved, ...NAMES, ...TEXTS, ...KEYS])];
}
