// What a hostile client could send: requests that can be read but ask for nonsense, and bytes that are none.

import type { Chance } from "./tools.ts";

/** One chat that the nonsense is about. */
export interface Target {
  chatId: string;
  session: string;
  invite: string;
}

const WORDS = [
  "",
  "0",
  "-1",
  "1e3",
  "NaN",
  "null",
  "undefined",
  "true",
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  "../../etc/passwd",
  "%00",
  "%zz",
  "%2e%2e%2f",
  "<script>alert(1)</script>",
  "'\"`;--",
  "${7*7}",
  "{base}",
  "$&$1$`",
  "\u202e\u2066",
  "\ud83d\udc69\u200d\ud83d\ude80",
  "\u0000",
  "\ufeff",
  "\ufdfa",
  "A".repeat(16),
  "A".repeat(33),
  "9".repeat(400),
  "a".repeat(1_500),
] as const;

const METHODS = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "PURGE", "PROPFIND", "TRACE"] as const;

/** A request of well-formed HTTP, and whether it is HEAD, whose answer has no body. */
export interface Readable {
  bytes: Buffer;
  isHead: boolean;
}

/** A request that can be read, though hardly be understood. */
export function readableRequest(chance: Chance, target: Target): Readable {
  const method = chance.isTrue(0.7) ? chance.pick(["GET", "POST", "DELETE"] as const) : chance.pick(METHODS);
  const [body, framing] = framed(chance, bodyOf(chance, target));
  const head = [`${method} ${pathOf(chance, target)} HTTP/1.1`, `Host: ${hostOf(chance)}`];
  if (chance.isTrue(0.7)) head.push(`Authorization: ${authorizationOf(chance, target)}`);
  if (chance.isTrue(0.3)) head.push(`Idempotency-Key: ${inHeader(chance.pick(WORDS)) || "a key of many characters"}`);
  if (chance.isTrue(0.3)) head.push(`Content-Type: ${chance.pick(["text/plain", "text/plain;x", "a/b", "\u00e9"])}`);
  if (chance.isTrue(0.3)) head.push(`Accept: ${chance.pick(["text/html", "*/*", "text/html;q=0", ",,,;", "\u00ff"])}`);
  while (chance.isTrue(0.3)) head.push(strangeHeader(chance));
  const isBare = chance.isTrue(0.4);
  const lines = isBare ? head : [...head, ...framing];
  const text = Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1");
  return { bytes: isBare ? text : Buffer.concat([text, body]), isHead: method === "HEAD" };
}

function pathOf(chance: Chance, { chatId }: Target): string {
  const word = encodeURI(chance.pick(WORDS).toWellFormed());
  const path = chance.pick([
    "/",
    "/create",
    "/healthz",
    "/openapi.json",
    `/${chatId}`,
    `/${chatId}`,
    `/${chatId}/join`,
    `/${chatId}/invite`,
    `/${chatId}/leave`,
    `/${chatId}/members/${word}`,
    `/${chatId}/members/1`,
    `/${chatId}/${word}`,
    `/${word}`,
    `/${word}/join`,
    `//${word}`,
    `http://evil.example/${chatId}`,
    `HTTPS://[::1]:1/${word}`,
    `/${chatId.toLowerCase()}`,
    `/${"x/".repeat(200)}`,
    "*",
  ]);
  if (chance.isTrue(0.5)) return path;
  const [since, other] = [
    chance.pick(["0", "latest", "1", word, "%C2%B9"]),
    chance.pick(["0", "00", "51", word, "-0"]),
  ];
  // Never a wait that could be granted: a poll that is held would hold up what is sent behind it.
  const wait = /^0*$|[^0-9]|.{3}|51/.test(other) ? other : "0";
  return `${path}?since=${since}&wait=${wait}&browser=${word}&${word}=${word}${"&since=1".repeat(chance.below(50))}`;
}

/** A valid host: any other makes the request a bad one and ends the connection (see `wildBytes`). */
function hostOf(chance: Chance): string {
  return chance.pick(["127.0.0.1", "x", "evil.example:80", "[::1]:9999", "__proto__", "1e3", "null", "A".repeat(200)]);
}

function authorizationOf(chance: Chance, { session, invite }: Target): string {
  const token = chance.pick([session, session, session, invite, invite, `${session}x`, session.slice(1)]);
  const scheme = chance.pick(["Bearer ", "Bearer ", "bearer  ", "", "Basic ", "Bearer", "Bearer\t"]);
  return chance.isTrue(0.1) ? inHeader(chance.pick(WORDS)) : `${scheme}${token}`;
}

function strangeHeader(chance: Chance): string {
  const name = chance.pick([
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "Forwarded",
    "Cookie",
    "Origin",
    "Range",
    "If-None-Match",
    "Accept-Encoding",
    "Expect",
    "TE",
    "Trailer",
    "__proto__",
    "constructor",
    "Content-Encoding",
    "HTTP2-Settings",
    "Via",
  ]);
  return `${name}: ${name === "Expect" ? "a miracle" : inHeader(chance.pick(WORDS))}`;
}

/** What may stand in a header: bytes, of those below space only tab. */
function inHeader(text: string): string {
  return [...Buffer.from(text.slice(0, 3_000))]
    .filter((byte) => byte >= 32 && byte !== 127)
    .map((byte) => String.fromCodePoint(byte))
    .join("");
}

function bodyOf(chance: Chance, { invite }: Target): Buffer {
  const word = chance.pick(WORDS);
  const field = chance.pick(["text", "username", "invite_token", "__proto__", word]);
  const deep = chance.pick([10, 1_000, 6_000]);
  return chance.pick<() => Buffer>([
    () => Buffer.alloc(0),
    () => Buffer.from(JSON.stringify({ [field]: word })),
    () => Buffer.from(JSON.stringify({ text: word, username: word, invite_token: chance.pick([invite, word, 1]) })),
    () => Buffer.from(JSON.stringify({ text: chance.pick([null, 1, true, [], {}, [word], { text: word }]) })),
    () => Buffer.from(`{"__proto__":{"text":"x","username":"x"},"constructor":{"prototype":{"text":"y"}}}`),
    () => Buffer.from(`{"text":"${"\\ud800".repeat(chance.below(50))}"}`),
    () => Buffer.from(`{"text":"${"e\u0301".repeat(chance.below(50))}\u2028\u2029"}`),
    () => Buffer.from(`{"text":${"[".repeat(deep)}${"]".repeat(chance.pick([0, deep]))}}`),
    () => Buffer.from(`${'{"text":'.repeat(deep >> 3)}1${"}".repeat(deep >> 3)}`),
    () => Buffer.from(`{${'"text":"x",'.repeat(deep >> 2)}"text":1e999}`),
    () => Buffer.from(`{"username":"${"\u0303".repeat(chance.below(200))}"}`),
    () => Buffer.from(`{"text":"${"x".repeat(chance.pick([2_000, 8_192, 30_000]))}"}`),
    () => Buffer.from(chance.pick(["null", "[]", '"text"', "1", "{", "}", "\u0000", "\ufeff{}", "{}{}", "NaN"])),
    () => chance.bytes(chance.below(64)),
    () => Buffer.concat([Buffer.from('{"text":"'), Buffer.from([0xc0, 0xaf, 0xed, 0xa0, 0x80]), Buffer.from('"}')]),
  ])();
}

/** A body and the header lines that say where it ends. */
function framed(chance: Chance, body: Buffer): [body: Buffer, lines: string[]] {
  if (chance.isTrue(0.7)) return [body, [`Content-Length: ${body.length}`]];
  const pieces: Buffer[] = [];
  for (let at = 0; at < body.length;) {
    const piece = body.subarray(at, at + 1 + chance.below(5_000));
    const extension = chance.pick(["", "", ";a=b", ';a="b c"', ";x"]);
    const size = chance.pick([piece.length.toString(16), `000${piece.length.toString(16).toUpperCase()}`]);
    pieces.push(Buffer.from(`${size}${extension}\r\n`), piece, Buffer.from("\r\n"));
    at += piece.length;
  }
  const trailer = chance.pick(["", "", "Authorization: Bearer x\r\n", "X: y\r\n"]);
  return [Buffer.concat([...pieces, Buffer.from(`0\r\n${trailer}\r\n`)]), ["Transfer-Encoding: chunked"]];
}

const FRAMES = [
  "Content-Length: 5",
  "Content-Length: 6",
  "Content-Length: +5",
  "Content-Length: -5",
  "Content-Length: 0x5",
  "Content-Length: 5, 5",
  "Content-Length: 99999999999999999999",
  "Content-Length : 5",
  "Content-Length:\r\n 5",
  "content-length:",
  "Transfer-Encoding: chunked",
  "Transfer-Encoding : chunked",
  "Transfer-Encoding: xchunked",
  "Transfer-Encoding: chunked, identity",
  "Transfer-Encoding: identity",
  "Transfer-Encoding:\u000bchunked",
  "Transfer-Encoding:\r\n chunked",
  'Transfer-Encoding: "chunked"',
] as const;

/**
 * A request about whose end two servers could disagree, and behind it one that must never be seen by itself.
 * Each is a bad request, and nothing behind it is read.
 */
export function smugglingPair(chance: Chance): Buffer {
  const first = chance.pick(FRAMES);
  const second = chance.pick(FRAMES.slice(2));
  const isPair = first !== second && !isFine(first, second);
  const frames = isPair ? chance.pick([`${first}\r\n${second}`, `${second}\r\n${first}`]) : smuggler(chance);
  const head = `POST /create HTTP/1.1\r\nHost: x\r\n${frames}\r\n\r\n`;
  return Buffer.from(`${head}0\r\n\r\nGET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n`, "latin1");
}

/** Two codings of which chunked may be the last: strange, but nobody can doubt where the body ends. */
function isFine(first: string, second: string): boolean {
  const lines = [first, second];
  return lines.every((line) => /^Transfer-Encoding: \S+$/.test(line)) && lines.includes("Transfer-Encoding: chunked");
}

function smuggler(chance: Chance): string {
  return `${chance.pick(FRAMES.slice(0, 10))}\r\n${chance.pick(FRAMES.slice(10))}`;
}

/** Bytes that can be anything: of those who do not speak HTTP, or who speak it badly. */
export function wildBytes(chance: Chance, target: Target): Buffer {
  const good = readableRequest(chance, target).bytes;
  const somewhere = chance.below(good.length);
  return chance.pick<() => Buffer>([
    () => chance.bytes(1 + chance.below(100)),
    () => good.subarray(0, somewhere),
    () => Buffer.concat([good.subarray(0, somewhere), chance.bytes(1 + chance.below(4)), good.subarray(somewhere)]),
    () => Buffer.concat([good.subarray(0, somewhere), good.subarray(Math.min(good.length, somewhere + 1))]),
    () => Buffer.concat([good.subarray(somewhere), good]),
    () =>
      Buffer.from(
        good.toString("latin1").replace(/\r\n/g, () => chance.pick(["\n", "\r", "\r\n", "\r\n "])),
        "latin1",
      ),
    () => Buffer.from(good.toString("latin1").replace("HTTP/1.1", chance.pick(VERSIONS)), "latin1"),
    () =>
      Buffer.from(good.toString("latin1").replace(/^Host: .*$/m, `Host: ${inHeader(chance.pick(WORDS))}`), "latin1"),
    () => Buffer.from(good.toString("latin1").replace(/^(?=Host: )/m, "a: b\r\n".repeat(chance.pick([1, 100, 900])))),
    () =>
      Buffer.from(
        `CONNECT ${chance.pick(["x:1", "/", "*", ""])} HTTP/1.1\r\nHost: x\r\n\r\n${good.toString("latin1")}`,
        "latin1",
      ),
    () =>
      Buffer.from(
        `GET / HTTP/1.1\r\nHost: x\r\nUpgrade: ${chance.pick(["h2c", "websocket", ""])}\r\nConnection: Upgrade\r\n\r\n${chance.bytes(20).toString("latin1")}`,
        "latin1",
      ),
    () =>
      Buffer.from(
        `POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${chance.pick(CHUNKS)}`,
        "latin1",
      ),
    () => Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(chance.pick([16_300, 16_400, 40_000]))}\r\n\r\n`),
    () => Buffer.from(`GET /${"x".repeat(chance.pick([16_000, 20_000]))} HTTP/1.1\r\nHost: x\r\n\r\n`),
    () =>
      Buffer.from(
        `POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n${"x".repeat(chance.pick([0, 100, 40_000]))}`,
      ),
    () =>
      Buffer.from(
        `POST /create HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n${chance.pick(["", "{}", "{"])}`,
      ),
    () => Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, ...chance.bytes(20)]),
    () => Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  ])();
}

const VERSIONS = [
  "HTTP/1.0",
  "HTTP/0.9",
  "HTTP/2.0",
  "HTTP/1.2",
  "HTTP/11",
  "http/1.1",
  "HTTP/1.1 ",
  "RTSP/1.0",
  "",
] as const;

const CHUNKS = [
  "zz\r\n",
  "-1\r\n{}\r\n",
  "+2\r\n{}\r\n0\r\n\r\n",
  "0x2\r\n{}\r\n0\r\n\r\n",
  "2\n{}\n0\n\n",
  "2\r\n{}XX0\r\n\r\n",
  "fffffffffffffffff\r\n{}",
  `2;${"x".repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
  `0\r\n${"X: y\r\n".repeat(4_000)}\r\n`,
  "7fffffff\r\n{}",
  "2\r\n{}\r\n0\r\nContent-Length: 3\r\n\r\n",
] as const;
