// Nobody gets in by a token that was not signed for just this, and what is secret is told to nobody else: each
// bit, cut and spelling of a token, 100,000 forgeries, and all that a server writes besides its answers.
//
// SOAK_SEED=<seed> repeats the forgeries.

import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import test from "node:test";
import { ApiError, readToken, signToken, type TokenPayload } from "../../server.ts";
import { at, HOUR, invitationOf, LOCAL, Program, record, type Reply, sessionOf } from "../lib/helpers.ts";
import { startServer, stringOf, type TestServer, until } from "../lib/helpers.ts";
import { Chance, chooseSeed, Line } from "./tools.ts";

const NOW = Date.UTC(2026, 2, 1);
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const LETTERS = `${ALPHABET}.`.split("");
const FORGERIES = 100_000;
const FORGERIES_SENT = 6_000;

test("a token with any bit of its bytes or of its characters changed is invalid", () => {
  for (const token of samples()) {
    for (const other of [...bytesChanged(token), ...charactersChanged(token)]) assertInvalid(other);
  }
});

test("a token cut, doubled or with something before, in or behind it is invalid", () => {
  for (const token of samples()) {
    for (const other of pieces(token)) assertInvalid(other);
  }
});

test("any other spelling of a token's bytes is invalid", () => {
  for (const token of samples()) {
    for (const other of spellings(token)) assertInvalid(other);
  }
});

test("a token is good for its own kind and secret alone, and until the millisecond before it expires", () => {
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
      const secret = flipped(SECRET, bit);
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

test("of 100,000 random forgeries none is taken", (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const forge = forger(new Chance(seed), samples());
  for (let count = 0; count < FORGERIES; count += 1) assertInvalid(forge());
});

test("over HTTP no changed, respelled or forged token gets in, and nothing has happened", async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const chance = new Chance(seed);
  const server = await startServer(t, { rateLimit: false });
  const [ana, ben] = await server.party("Ana", "Ben");
  const [eva] = await server.party("Eva");
  const invitation = await ana.inviteToken();
  const elsewhere = await strangers(server);
  const line = await Line.open(server.port);
  t.after(() => line.close());

  /** Every door of the chat, opened with this token. */
  const knock = async (token: string, code: string, doors = DOORS): Promise<void> => {
    for (const { method, path, body } of doors) {
      const question = body === "invite" ? { body: { invite_token: token } } : { token };
      const answer = await line.ask(method, `/${ana.chatId}${path}`, question);
      assert.equal(record(answer.body)["error"], code, `${method} ${path} with ${JSON.stringify(token)}`);
      assert.equal(answer.status, code === "wrong_chat" ? 403 : 401);
    }
  };
  const good = [ana.token, ben.token, invitation];
  const changed = good.flatMap((token) => [...bytesChanged(token), ...pieces(token), ...spellings(token)]);
  const sendable = changed.filter((token) => /^[\x21-\x7e]+$/.test(token) && !/^bearer$/i.test(token));
  for (const token of sendable) await knock(token, "invalid_token", [chance.pick(DOORS)]);
  const forge = forger(chance, [...good, eva.token]);
  for (let count = 0; count < FORGERIES_SENT; count += 1) await knock(forge(), "invalid_token", [chance.pick(DOORS)]);
  for (const token of elsewhere) await knock(token, "invalid_token");
  await knock(invitation, "invalid_token", MEMBERS_DOORS);
  for (const token of [ana.token, ben.token]) await knock(token, "invalid_token", GUESTS_DOORS);
  await knock(eva.token, "wrong_chat", MEMBERS_DOORS);
  await knock(await eva.inviteToken(), "wrong_chat", GUESTS_DOORS);

  const seen = await ana.read();
  assert.deepEqual([seen.cursor, seen.messages.length, seen.members.length], [2, 0, 2]);
  server.clock.advance(6 * HOUR - 1);
  assert.equal((await ana.look(invitation)).status, 200);
  await ana.read();
  server.clock.advance(1);
  for (const token of [ana.token, ben.token]) await knock(token, "expired_token", MEMBERS_DOORS);
  await knock(invitation, "expired_token", GUESTS_DOORS);
});

/** Something secret in an answer may stand in these places alone. */
const PLACES = /"(?:session_token|invite_token|magic_link|username|text|members)":/;

test("tokens, names, keys and messages are told to nobody but in the answers to those who may know", async (t) => {
  const lines: string[] = [];
  const errors: string[] = [];
  let isBroken = false;
  const server = await startServer(t, {
    log: (line) => lines.push(line),
    logError: (error) => errors.push(error instanceof Error ? `${error.stack}${JSON.stringify(error)}` : String(error)),
    lanAddress: () => {
      if (isBroken) throw new Error("no network");
      return undefined;
    },
  });
  const replies = await useEverything((...call) => server.send(...call));
  isBroken = true;
  replies.push(...(await useEverything((...call) => server.send(...call), replies)));
  isBroken = false;
  assert.ok(errors.length >= 4, "internal errors were provoked");
  const requests = replies.length;
  await until(() => lines.length === requests, "a line for each request");
  const secrets = secretsIn(replies);
  assert.ok(secrets.length > 15);
  for (const secret of secrets) {
    for (const text of [...lines, ...errors]) assert.ok(!text.includes(secret), `logged: ${text}`);
    for (const reply of replies) {
      assert.ok(!JSON.stringify(reply.headers).includes(secret), `in a header: ${JSON.stringify(reply.headers)}`);
      if (!reply.text.includes(secret)) continue;
      assert.ok(reply.status < 300, `in an error: ${reply.text}`);
      assert.match(reply.text, PLACES);
    }
  }
  for (const { body } of replies.filter(({ status }) => status === 201)) {
    const fields = { ...record(body) };
    if ("url" in fields) assert.match(stringOf(fields, "url"), /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{16}$/);
    // In the fragment: what is never sent.
    if ("magic_link" in fields) assert.match(stringOf(fields, "magic_link"), /^[^#?]+\/[\w-]{16}#invite=[\w.-]{74}$/);
  }
});

test("a link that was mangled on its way leaves no token in the log", async (t) => {
  const lines: string[] = [];
  const server = await startServer(t, { log: (line) => lines.push(line) });
  const [ana] = await server.party("Ana");
  const token = await ana.inviteToken();
  const paths = [`/${ana.chatId}%23invite=${token}`, `/${ana.chatId}/${token}`, `/${token}`, `//${token}@x/`];
  for (const path of paths) await server.send("GET", path);
  await until(() => lines.length === 2 + paths.length, "a line for each request");
  for (const line of lines) assert.ok(!line.includes(token), line);
});

test("the program itself, with --verbose, prints none of it", async (t) => {
  const program = await Program.start(t, [...LOCAL, "--verbose"]);
  const replies = await useEverything((...call) => program.send(...call));
  await until(() => program.stdout.match(/ ms\n/g)?.length === replies.length, "a line for each request");
  const { stdout, stderr } = await program.stop();
  for (const secret of secretsIn(replies)) assert.ok(!`${stdout}${stderr}`.includes(secret), stdout);
});

// ---- Tokens, good and bad --------------------------------------------------------------------------------

const SECRET = createHash("sha256").update("a secret").digest();

const DOORS: { method: string; path: string; caller: "member" | "guest"; body?: "invite" }[] = [
  { method: "GET", path: "", caller: "member" },
  { method: "GET", path: "?wait=50&since=latest", caller: "member" },
  { method: "POST", path: "", caller: "member" },
  { method: "DELETE", path: "", caller: "member" },
  { method: "POST", path: "/invite", caller: "member" },
  { method: "DELETE", path: "/invite", caller: "member" },
  { method: "POST", path: "/leave", caller: "member" },
  { method: "DELETE", path: "/members/2", caller: "member" },
  { method: "GET", path: "/invite", caller: "guest" },
  { method: "POST", path: "/join", caller: "guest" },
  { method: "POST", path: "/join", caller: "guest", body: "invite" },
];
const MEMBERS_DOORS = DOORS.filter(({ caller }) => caller === "member");
const GUESTS_DOORS = DOORS.filter(({ caller }) => caller === "guest");

/** Session and invite tokens whose bytes differ much. */
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
    return "taken";
  } catch (error) {
    return error instanceof ApiError ? error.code : String(error);
  }
}

/** Refused as either kind, at any time. */
function assertInvalid(token: string): void {
  for (const kind of ["session", "invite"] as const) {
    const code = codeOf(() => readToken(token, kind, SECRET, NOW));
    if (code !== "invalid_token") assert.fail(`${code}: ${JSON.stringify(token)} as ${kind}`);
  }
}

function flipped(bytes: Buffer, bit: number): Buffer {
  const changed = Buffer.from(bytes);
  changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return changed;
}

function halves(token: string): [Buffer, Buffer] {
  const [payload = "", signature = ""] = token.split(".");
  return [Buffer.from(payload, "base64url"), Buffer.from(signature, "base64url")];
}

function written(payload: Buffer, signature: Buffer, coding: "base64url" | "base64" | "hex" = "base64url"): string {
  return `${payload.toString(coding)}.${signature.toString(coding)}`;
}

/** With each single bit of what is signed, and of the signature, the other way. */
function bytesChanged(token: string): string[] {
  const [payload, signature] = halves(token);
  return [
    ...Array.from({ length: payload.length * 8 }, (_, bit) => written(flipped(payload, bit), signature)),
    ...Array.from({ length: signature.length * 8 }, (_, bit) => written(payload, flipped(signature, bit))),
  ];
}

/** With each single bit of its characters the other way, and each character another of the alphabet. */
function charactersChanged(token: string): string[] {
  const bytes = Buffer.from(token);
  const bits = Array.from({ length: bytes.length * 8 }, (_, bit) => flipped(bytes, bit).toString("latin1"));
  const letters = Array.from(token, (character, index) =>
    Array.from(`${ALPHABET}.=+/`)
      .filter((other) => other !== character)
      .map((other) => token.slice(0, index) + other + token.slice(index + 1)),
  );
  return [...bits, ...letters.flat()];
}

/** Every prefix, suffix and gap, more on every side and in every place, twice, and turned round. */
function pieces(token: string): string[] {
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

/** The same bytes as others would write or lenient decoders read them. */
function spellings(token: string): string[] {
  const [payload, signature] = halves(token);
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
    written(payload, signature, "base64"),
    written(payload, signature, "hex"),
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

/** Makes a forgery each time it is called: noise, parts of good tokens, good bytes under a bad signature. */
function forger(chance: Chance, good: readonly string[]): () => string {
  const payload = (): Buffer => halves(chance.pick(good))[0];
  const signature = (): Buffer => halves(chance.pick(good))[1];
  const ways: (() => string)[] = [
    () => written(chance.bytes(22), chance.bytes(32)),
    () => written(payload(), chance.bytes(32)),
    () => written(chance.bytes(22), signature()),
    () => written(flipped(payload(), chance.below(176)), signature()),
    () =>
      written(
        flipped(flipped(payload(), chance.below(88)), 88 + chance.below(88)),
        flipped(signature(), chance.below(256)),
      ),
    () => {
      const bytes = flipped(payload(), chance.below(176));
      return written(bytes, sign(chance.isTrue(0.5) ? bytes : bytes.toString("base64url"), chance.bytes(32)));
    },
    () => {
      const bytes = payload();
      return written(bytes, createHash("sha256").update(bytes).digest());
    },
    () => written(chance.bytes(chance.below(40)), chance.bytes(chance.below(40))),
    () => Array.from({ length: 1 + chance.below(120) }, () => chance.pick(LETTERS)).join(""),
    () => {
      const token = chance.pick(good);
      const [from, to] = [chance.below(74), chance.below(74)];
      const middle = Array.from({ length: 1 + chance.below(6) }, () => chance.pick(LETTERS)).join("");
      return token.slice(0, from) + middle + token.slice(to);
    },
  ];
  return () => {
    for (;;) {
      const token = chance.pick(ways)();
      if (!good.includes(token) && token !== "" && !/^bearer$/i.test(token)) return token;
    }
  };
}

/** Tokens of the first chat's id that other servers have signed. */
async function strangers(server: TestServer): Promise<string[]> {
  const [ana] = await server.party("Somebody else");
  const [payload] = halves(ana.token);
  const chatId = payload.toString("base64url", 4, 16);
  return (["session", "invite"] as const).map((kind) =>
    signToken({ kind, chatId, counter: 1, expiresAt: server.clock.ms + HOUR }, SECRET),
  );
}

// ---- Everything that can be asked, with secrets in every place that they may be sent in --------------------

type Send = TestServer["send"];

const NAMES = ["Anastasia-Secretive", "Benedict-Hushhush"] as const;
const TEXTS = ["the-cat-is-in-the-bag", "meet-me-at-midnight"] as const;
const KEYS = ["key-of-a-creation-0123456789", "key-of-a-joining-0123456789", "key-of-a-message"] as const;

/** Uses a chat in every way, right and wrong; `earlier` replies lend it a chat, so that making one may fail. */
async function useEverything(send: Send, earlier?: Reply[]): Promise<Reply[]> {
  const replies: Reply[] = [];
  const ask: Send = async (...call) => {
    const reply = await send(...call);
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

/** All that nobody else may learn, as far as it went over the wire. */
function secretsIn(replies: readonly Reply[]): string[] {
  const tokens = replies.flatMap(({ text }) => [...text.matchAll(/[\w-]{30}\.[\w-]{43}/g)].map(([token]) => token));
  const halved = tokens.flatMap((token) => token.split("."));
  return [...new Set([...tokens, ...halved, ...NAMES, ...TEXTS, ...KEYS])];
}
