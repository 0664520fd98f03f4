// Generates hostile input: well-formed requests with nonsensical content, and bytes that are not valid HTTP.

import type { Random } from "./tools.ts";

/** The chat that hostile requests refer to. */
export interface Target {
  chatId: string;
  session: string;
  invite: string;
}

const VALUES = [
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

/** A request of well-formed HTTP. */
export interface WellFormedRequest {
  bytes: Buffer;
  /** The method is HEAD, so the response has no body. */
  isHead: boolean;
}

/** Returns a request with valid syntax, but with random and mostly invalid content. */
export function wellFormedRequest(random: Random, target: Target): WellFormedRequest {
  const method = random.isTrue(0.7) ? random.pick(["GET", "POST", "DELETE"] as const) : random.pick(METHODS);
  const [body, framing] = frame(random, randomBody(random, target));
  const head = [`${method} ${randomPath(random, target)} HTTP/1.1`, `Host: ${randomHost(random)}`];
  if (random.isTrue(0.7)) head.push(`Authorization: ${randomAuthorization(random, target)}`);
  if (random.isTrue(0.3))
    head.push(`Idempotency-Key: ${toHeaderValue(random.pick(VALUES)) || "a key of many characters"}`);
  if (random.isTrue(0.3)) head.push(`Content-Type: ${random.pick(["text/plain", "text/plain;x", "a/b", "\u00e9"])}`);
  if (random.isTrue(0.3)) head.push(`Accept: ${random.pick(["text/html", "*/*", "text/html;q=0", ",,,;", "\u00ff"])}`);
  while (random.isTrue(0.3)) head.push(randomHeader(random));
  const hasNoBody = random.isTrue(0.4);
  const lines = hasNoBody ? head : [...head, ...framing];
  const text = Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1");
  return { bytes: hasNoBody ? text : Buffer.concat([text, body]), isHead: method === "HEAD" };
}

function randomPath(random: Random, { chatId }: Target): string {
  const value = encodeURI(random.pick(VALUES).toWellFormed());
  const path = random.pick([
    "/",
    "/create",
    "/redeem",
    "/redeem/a",
    "/healthz",
    "/openapi.json",
    `/${chatId}`,
    `/${chatId}`,
    `/${chatId}/join`,
    `/${chatId}/invite`,
    `/${chatId}/leave`,
    `/${chatId}/members/${value}`,
    `/${chatId}/members/1`,
    `/${chatId}/${value}`,
    `/${value}`,
    `/${value}/join`,
    `//${value}`,
    `http://evil.example/${chatId}`,
    `HTTPS://[::1]:1/${value}`,
    `/${chatId.toLowerCase()}`,
    `/${"x/".repeat(200)}`,
    "*",
  ]);
  if (random.isTrue(0.5)) return path;
  const [since, other] = [
    random.pick(["0", "latest", "1", value, "%C2%B9"]),
    random.pick(["0", "00", "51", value, "-0"]),
  ];
  // Never a valid wait above 0: a waiting poll would delay the requests behind it.
  const wait = /^0*$|[^0-9]|.{3}|51/.test(other) ? other : "0";
  return `${path}?since=${since}&wait=${wait}&browser=${value}&${value}=${value}${"&since=1".repeat(random.below(50))}`;
}

/** Returns a valid host. An invalid one closes the connection, so `malformedBytes` covers those. */
function randomHost(random: Random): string {
  return random.pick(["127.0.0.1", "x", "evil.example:80", "[::1]:9999", "__proto__", "1e3", "null", "A".repeat(200)]);
}

function randomAuthorization(random: Random, { session, invite }: Target): string {
  const token = random.pick([session, session, session, invite, invite, `${session}x`, session.slice(1)]);
  const scheme = random.pick(["Bearer ", "Bearer ", "bearer  ", "", "Basic ", "Bearer", "Bearer\t"]);
  return random.isTrue(0.1) ? toHeaderValue(random.pick(VALUES)) : `${scheme}${token}`;
}

function randomHeader(random: Random): string {
  const name = random.pick([
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
  return `${name}: ${name === "Expect" ? "unknown-expectation" : toHeaderValue(random.pick(VALUES))}`;
}

/** Removes the control characters, which a header value must not contain. */
function toHeaderValue(text: string): string {
  return [...Buffer.from(text.slice(0, 3_000))]
    .filter((byte) => byte >= 32 && byte !== 127)
    .map((byte) => String.fromCodePoint(byte))
    .join("");
}

function randomBody(random: Random, { invite }: Target): Buffer {
  const value = random.pick(VALUES);
  const field = random.pick(["text", "username", "invite_token", "__proto__", value]);
  const deep = random.pick([10, 1_000, 6_000]);
  return random.pick<() => Buffer>([
    () => Buffer.alloc(0),
    () => Buffer.from(JSON.stringify({ [field]: value })),
    () => Buffer.from(JSON.stringify({ text: value, username: value, invite_token: random.pick([invite, value, 1]) })),
    () => Buffer.from(JSON.stringify({ text: random.pick([null, 1, true, [], {}, [value], { text: value }]) })),
    () => Buffer.from(`{"__proto__":{"text":"x","username":"x"},"constructor":{"prototype":{"text":"y"}}}`),
    () => Buffer.from(`{"text":"${"\\ud800".repeat(random.below(50))}"}`),
    () => Buffer.from(`{"text":"${"e\u0301".repeat(random.below(50))}\u2028\u2029"}`),
    () => Buffer.from(`{"text":${"[".repeat(deep)}${"]".repeat(random.pick([0, deep]))}}`),
    () => Buffer.from(`${'{"text":'.repeat(deep >> 3)}1${"}".repeat(deep >> 3)}`),
    () => Buffer.from(`{${'"text":"x",'.repeat(deep >> 2)}"text":1e999}`),
    () => Buffer.from(`{"username":"${"\u0303".repeat(random.below(200))}"}`),
    () => Buffer.from(`{"text":"${"x".repeat(random.pick([2_000, 8_192, 30_000]))}"}`),
    () => Buffer.from(random.pick(["null", "[]", '"text"', "1", "{", "}", "\u0000", "\ufeff{}", "{}{}", "NaN"])),
    () => random.bytes(random.below(64)),
    () => Buffer.concat([Buffer.from('{"text":"'), Buffer.from([0xc0, 0xaf, 0xed, 0xa0, 0x80]), Buffer.from('"}')]),
  ])();
}

/** Returns an encoded body, and the header lines that delimit it. */
function frame(random: Random, body: Buffer): [body: Buffer, lines: string[]] {
  if (random.isTrue(0.7)) return [body, [`Content-Length: ${body.length}`]];
  const pieces: Buffer[] = [];
  for (let at = 0; at < body.length;) {
    const piece = body.subarray(at, at + 1 + random.below(5_000));
    const extension = random.pick(["", "", ";a=b", ';a="b c"', ";x"]);
    const size = random.pick([piece.length.toString(16), `000${piece.length.toString(16).toUpperCase()}`]);
    pieces.push(Buffer.from(`${size}${extension}\r\n`), piece, Buffer.from("\r\n"));
    at += piece.length;
  }
  const trailer = random.pick(["", "", "Authorization: Bearer x\r\n", "X: y\r\n"]);
  return [Buffer.concat([...pieces, Buffer.from(`0\r\n${trailer}\r\n`)]), ["Transfer-Encoding: chunked"]];
}

const FRAMINGS = [
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
 * Returns a request whose end two servers could place differently, followed by one that the server must not see. The
 * server must reject the first with bad_request and read nothing behind it.
 */
export function smugglingPair(random: Random): Buffer {
  const first = random.pick(FRAMINGS);
  const second = random.pick(FRAMINGS.slice(2));
  const isPair = first !== second && !isUnambiguous(first, second);
  const frames = isPair ? random.pick([`${first}\r\n${second}`, `${second}\r\n${first}`]) : conflictingFrames(random);
  const head = `POST /create HTTP/1.1\r\nHost: x\r\n${frames}\r\n\r\n`;
  return Buffer.from(`${head}0\r\n\r\nGET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n`, "latin1");
}

/** Returns whether the lines are two codings that include chunked. These are unusual, but the body's end is clear. */
function isUnambiguous(first: string, second: string): boolean {
  const lines = [first, second];
  return lines.every((line) => /^Transfer-Encoding: \S+$/.test(line)) && lines.includes("Transfer-Encoding: chunked");
}

function conflictingFrames(random: Random): string {
  return `${random.pick(FRAMINGS.slice(0, 10))}\r\n${random.pick(FRAMINGS.slice(10))}`;
}

/** Returns bytes that are not HTTP, or a request with a syntax error. */
export function malformedBytes(random: Random, target: Target): Buffer {
  const good = wellFormedRequest(random, target).bytes;
  const offset = random.below(good.length);
  return random.pick<() => Buffer>([
    () => random.bytes(1 + random.below(100)),
    () => good.subarray(0, offset),
    () => Buffer.concat([good.subarray(0, offset), random.bytes(1 + random.below(4)), good.subarray(offset)]),
    () => Buffer.concat([good.subarray(0, offset), good.subarray(Math.min(good.length, offset + 1))]),
    () => Buffer.concat([good.subarray(offset), good]),
    () =>
      Buffer.from(
        good.toString("latin1").replace(/\r\n/g, () => random.pick(["\n", "\r", "\r\n", "\r\n "])),
        "latin1",
      ),
    () => Buffer.from(good.toString("latin1").replace("HTTP/1.1", random.pick(VERSIONS)), "latin1"),
    () =>
      Buffer.from(
        good.toString("latin1").replace(/^Host: .*$/m, `Host: ${toHeaderValue(random.pick(VALUES))}`),
        "latin1",
      ),
    () => Buffer.from(good.toString("latin1").replace(/^(?=Host: )/m, "a: b\r\n".repeat(random.pick([1, 100, 900])))),
    () =>
      Buffer.from(
        `CONNECT ${random.pick(["x:1", "/", "*", ""])} HTTP/1.1\r\nHost: x\r\n\r\n${good.toString("latin1")}`,
        "latin1",
      ),
    () =>
      Buffer.from(
        `GET / HTTP/1.1\r\nHost: x\r\nUpgrade: ${random.pick(["h2c", "websocket", ""])}\r\nConnection: Upgrade\r\n\r\n${random.bytes(20).toString("latin1")}`,
        "latin1",
      ),
    () =>
      Buffer.from(
        `POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${random.pick(CHUNKS)}`,
        "latin1",
      ),
    () => Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(random.pick([16_300, 16_400, 40_000]))}\r\n\r\n`),
    () => Buffer.from(`GET /${"x".repeat(random.pick([16_000, 20_000]))} HTTP/1.1\r\nHost: x\r\n\r\n`),
    () =>
      Buffer.from(
        `POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n${"x".repeat(random.pick([0, 100, 40_000]))}`,
      ),
    () =>
      Buffer.from(
        `POST /create HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n${random.pick(["", "{}", "{"])}`,
      ),
    () => Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, ...random.bytes(20)]),
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
