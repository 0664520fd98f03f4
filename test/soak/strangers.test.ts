// Attacks by a hostile web site that is open in a member's browser, or whose name resolves to the server's address. The
// site gets no rights from the browser and no information about a chat, and none of its input is reflected unescaped.
//
// SOAK_SEED=<seed> reproduces the hosts.

import assert from "node:assert/strict";
import test from "node:test";
import { record, sessionOf, startServer, stringOf, type TestServer } from "../lib/helpers.ts";
import { chooseSeed, Line, type LineReply, Random } from "./tools.ts";

const ROUNDS = 4_000;

const ORIGINS = ["https://evil.example", "null", "http://127.0.0.1", "http://localhost:8080", "file://", ""];

test("a foreign site gets no cookie, no credentials, and no information about a chat without its token", async (t) => {
  const server = await startServer(t, { rateLimit: false });
  const line = await Line.open(server.port);
  t.after(() => line.close());
  const { chatId, token } = await newChat(server);
  const requests = [
    ["GET", ""],
    ["GET", "?since=0"],
    ["POST", ""],
    ["DELETE", ""],
    ["POST", "/invite"],
    ["GET", "/invite"],
    ["DELETE", "/invite"],
    ["POST", "/join"],
    ["POST", "/leave"],
    ["DELETE", "/members/1"],
  ] as const;
  for (const origin of ORIGINS) {
    for (const [method, suffix] of requests) {
      const lines = [
        `Origin: ${origin}`,
        `Referer: ${origin}/`,
        `Cookie: token=${token}; session_token=${token}; Authorization=Bearer ${token}`,
        `X-Authorization: Bearer ${token}`,
        `X-Original-URL: /${chatId}`,
        `X-HTTP-Method-Override: GET`,
      ];
      const separator = suffix.includes("?") ? "&" : "?";
      const query = `${suffix}${separator}token=${token}&access_token=${token}&authorization=Bearer%20${token}`;
      const known = await line.ask(method, `/${chatId}${query}`, { lines, body: { token, session_token: token } });
      const unknown = await line.ask(method, `/${"A".repeat(16)}${query}`, { lines, body: { token } });
      assert.equal(known.status, 401, known.text);
      assert.equal(stringOf(record(known.body), "error"), "missing_token");
      assert.equal(withoutDate(known), withoutDate(unknown), "the response does not reveal whether the chat exists");
      assertNoBrowserRights(known);
    }
    for (const path of ["/", "/create", "/healthz", "/openapi.json", `/${chatId}`, `/${chatId}/join`]) {
      const preflight = [
        `Origin: ${origin}`,
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Private-Network: true",
      ];
      assertNoBrowserRights(await line.ask("OPTIONS", path, { lines: preflight }));
      assertNoBrowserRights(await line.ask("GET", path, { lines: [`Origin: ${origin}`, "Accept: text/html"] }));
    }
  }
});

/** Asserts that the response stores nothing in the browser and does not accept the browser's credentials. */
function assertNoBrowserRights({ head }: LineReply): void {
  assert.doesNotMatch(head, /^(?:Set-Cookie|Access-Control-Allow-Credentials|Clear-Site-Data)/im);
  const [, allowed] = /^Access-Control-Allow-Origin: (.*)$/im.exec(head) ?? [];
  assert.ok(allowed === undefined || allowed.trim() === "*", head);
}

function withoutDate({ head, text }: LineReply): string {
  return `${head.replace(/^Date: .*$/m, "")}\n${text}`;
}

async function newChat(server: TestServer): Promise<{ chatId: string; token: string }> {
  const session = sessionOf(await server.create());
  return { chatId: session.chat_id, token: session.session_token };
}

for (const trustProxy of [false, true]) {
  const setting = trustProxy ? "behind a proxy" : "without a proxy";
  test(`${setting}, no Host or X-Forwarded header is reflected unescaped in a page, a link or a header`, async (t) => {
    const seed = chooseSeed();
    t.diagnostic(`SOAK_SEED=${seed}`);
    const random = new Random(seed);
    const server = await startServer(t, { rateLimit: false, trustProxy, maxChats: ROUNDS + 10 });
    const { chatId, token } = await newChat(server);
    const html = ["Accept: text/html"];
    const line = await HostLine.open(server.port);
    t.after(() => line.close());
    const page = await line.ask("GET", `/${chatId}`, "127.0.0.1", html);
    const help = (await line.ask("GET", "/", "HOST", [])).text;
    let [reflected, rejected] = [0, 0];
    for (let round = 0; round < ROUNDS; round += 1) {
      const host = randomHost(random);
      const lines = [
        `X-Forwarded-Host: ${randomHost(random)}`,
        `X-Forwarded-Proto: ${random.pick(["https", "http", "javascript", "https, http", '"><b>', "ftp", ""])}`,
        `X-Forwarded-For: ${randomHost(random)}`,
        `Forwarded: host=${randomHost(random)}`,
        `X-Forwarded-Port: ${randomHost(random)}`,
        `X-Forwarded-Prefix: ${randomHost(random)}`,
      ];
      if (!isValidHost(host)) {
        rejected += 1;
        const reply = await line.ask("GET", "/", host, lines);
        assert.equal(reply.status, 400, `Host: ${host}`);
        assert.equal(stringOf(record(reply.body), "error"), "bad_request");
        continue;
      }
      const helpReply = await line.ask("GET", "/", host, lines);
      const base = /https?:\/\/[a-z0-9._:[\]-]+(?=[/"\s])/i.exec(helpReply.text)?.[0] ?? "";
      assert.equal(helpReply.text.replaceAll(base, "http://HOST"), help, `Host: ${host}`);
      const pageReply = await line.ask("GET", `/${chatId}`, host, [...lines, ...html]);
      assert.equal(pageReply.text, page.text, "the page does not depend on the host");
      const created = await line.ask("POST", "/create", host, lines);
      const session = sessionOf(withHeaders(created));
      const invited = record(
        (await line.ask("POST", `/${chatId}/invite`, host, [...lines, `Authorization: Bearer ${token}`])).body,
      );
      for (const link of [session.url, stringOf(invited, "magic_link")]) {
        assert.match(
          link,
          /^https?:\/\/[a-zA-Z0-9._:[\]-]+\/[A-Za-z0-9_-]{16}(?:#invite=[A-Za-z0-9_.-]+)?$/,
          `Host: ${host}`,
        );
        assert.ok(["http:", "https:"].includes(new URL(link).protocol));
        if (link.includes(host)) reflected += 1;
      }
      assert.match(
        created.head,
        new RegExp(`^Location: /${session.chat_id}\\r?$`, "m"),
        "the Location header contains no host",
      );
      for (const each of [helpReply, created]) assertNoBrowserRights(each);
    }
    assert.ok(reflected > 0 || trustProxy, "no host was valid");
    assert.ok(rejected > ROUNDS / 4 && rejected < ROUNDS, `${rejected} hosts were rejected`);
  });
}

function withHeaders({ status, body, text, head }: LineReply): Parameters<typeof sessionOf>[0] {
  const headers = Object.fromEntries(
    head
      .split("\r\n")
      .slice(1)
      .map((each) => [each.split(": ", 1)[0]?.toLowerCase(), each.slice(each.indexOf(": ") + 2)]),
  );
  return { status, body, text, bytes: Buffer.from(text), headers };
}

const PIECES = [
  "evil.example",
  "127.0.0.1",
  "localhost",
  "[::1]",
  ":80",
  ":99999",
  ":",
  "@",
  "/",
  "\\",
  "?",
  "#",
  "%",
  "%0d%0a",
  "<b>",
  "<script>alert(1)</script>",
  '"',
  "'",
  "`",
  "$(id)",
  ";",
  "&",
  "|",
  "\t",
  " ",
  ",",
  "{base}",
  "$&",
  "$'",
  "[",
  "]",
  "..",
  "\u00e9",
  "\u00ff",
  "javascript:",
  "x".repeat(300),
  "-",
  "_",
  "xn--a",
  "1",
  "0x7f.1",
];

/** Returns a random mix of host names and injection attempts, without line breaks, which would end the header. */
function randomHost(random: Random): string {
  return Array.from({ length: 1 + random.below(4) }, () => random.pick(PIECES))
    .join("")
    .trim();
}

/** Returns whether the server must accept the host: only valid characters, and valid as part of a URL. */
function isValidHost(host: string): boolean {
  return /^[\w.:[\]-]{1,255}$/.test(host) && URL.canParse(`http://${host}`);
}

/** A Line that sends any Host header, and reconnects if the server closes the connection because of it. */
class HostLine {
  readonly #port: number;
  #line: Line;

  constructor(port: number, line: Line) {
    this.#port = port;
    this.#line = line;
  }

  static async open(port: number): Promise<HostLine> {
    return new HostLine(port, await Line.open(port));
  }

  async ask(method: string, path: string, host: string, lines: string[]): Promise<LineReply> {
    const reply = await this.#line.ask(method, path, { host, lines });
    if (/^Connection: close\r?$/im.test(reply.head)) {
      this.#line.close();
      this.#line = await Line.open(this.#port);
    }
    return reply;
  }

  close(): void {
    this.#line.close();
  }
}
