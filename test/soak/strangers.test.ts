// What a hostile web site finds, opened in a member's browser or by a name that it lets point at this machine: no
// right that comes with the browser, nothing of a chat, and no place where its words end up unescaped.
//
// SOAK_SEED=<seed> repeats the hosts.

import assert from "node:assert/strict";
import test from "node:test";
import { record, sessionOf, startServer, stringOf, type TestServer } from "../lib/helpers.ts";
import { type Answer, Chance as Random, chooseSeed, Line } from "./tools.ts";

const ROUNDS = 4_000;

const ORIGINS = ["https://evil.example", "null", "http://127.0.0.1", "http://localhost:8080", "file://", ""];

test("a foreign site gets no cookie, no credentials, and nothing of a chat without its token", async (t) => {
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
    for (const [method, rest] of requests) {
      const lines = [
        `Origin: ${origin}`,
        `Referer: ${origin}/`,
        `Cookie: token=${token}; session_token=${token}; Authorization=Bearer ${token}`,
        `X-Authorization: Bearer ${token}`,
        `X-Original-URL: /${chatId}`,
        `X-HTTP-Method-Override: GET`,
      ];
      const separator = rest.includes("?") ? "&" : "?";
      const query = `${rest}${separator}token=${token}&access_token=${token}&authorization=Bearer%20${token}`;
      const known = await line.ask(method, `/${chatId}${query}`, { lines, body: { token, session_token: token } });
      const unknown = await line.ask(method, `/${"A".repeat(16)}${query}`, { lines, body: { token } });
      assert.equal(known.status, 401, known.text);
      assert.equal(stringOf(record(known.body), "error"), "missing_token");
      assert.equal(withoutDate(known), withoutDate(unknown), "there is no telling whether there is such a chat");
      assertNoRight(known);
    }
    for (const path of ["/", "/create", "/healthz", "/openapi.json", `/${chatId}`, `/${chatId}/join`]) {
      const preflight = [
        `Origin: ${origin}`,
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Private-Network: true",
      ];
      assertNoRight(await line.ask("OPTIONS", path, { lines: preflight }));
      assertNoRight(await line.ask("GET", path, { lines: [`Origin: ${origin}`, "Accept: text/html"] }));
    }
  }
});

/** Nothing is kept in a browser, and nothing that it keeps would be listened to. */
function assertNoRight({ head }: Answer): void {
  assert.doesNotMatch(head, /^(?:Set-Cookie|Access-Control-Allow-Credentials|Clear-Site-Data)/im);
  const [, allowed] = /^Access-Control-Allow-Origin: (.*)$/im.exec(head) ?? [];
  assert.ok(allowed === undefined || allowed.trim() === "*", head);
}

function withoutDate({ head, text }: Answer): string {
  return `${head.replace(/^Date: .*$/m, "")}\n${text}`;
}

async function newChat(server: TestServer): Promise<{ chatId: string; token: string }> {
  const session = sessionOf(await server.create());
  return { chatId: session.chat_id, token: session.session_token };
}

for (const trustProxy of [false, true]) {
  const how = trustProxy ? "behind a proxy" : "without one";
  test(`${how}, no Host and no X-Forwarded header ends up unescaped in page, help, link or header`, async (t) => {
    const seed = chooseSeed();
    t.diagnostic(`SOAK_SEED=${seed}`);
    const chance = new Random(seed);
    const server = await startServer(t, { rateLimit: false, trustProxy, maxChats: ROUNDS + 10 });
    const { chatId, token } = await newChat(server);
    const html = ["Accept: text/html"];
    const line = await HostLine.open(server.port);
    t.after(() => line.close());
    const page = await line.ask("GET", `/${chatId}`, "127.0.0.1", html);
    const help = (await line.ask("GET", "/", "HOST", [])).text;
    let [shown, refused] = [0, 0];
    for (let round = 0; round < ROUNDS; round += 1) {
      const host = strangeHost(chance);
      const lines = [
        `X-Forwarded-Host: ${strangeHost(chance)}`,
        `X-Forwarded-Proto: ${chance.pick(["https", "http", "javascript", "https, http", '"><b>', "ftp", ""])}`,
        `X-Forwarded-For: ${strangeHost(chance)}`,
        `Forwarded: host=${strangeHost(chance)}`,
        `X-Forwarded-Port: ${strangeHost(chance)}`,
        `X-Forwarded-Prefix: ${strangeHost(chance)}`,
      ];
      if (!isHost(host)) {
        refused += 1;
        const answer = await line.ask("GET", "/", host, lines);
        assert.equal(answer.status, 400, `Host: ${host}`);
        assert.equal(stringOf(record(answer.body), "error"), "bad_request");
        continue;
      }
      const helped = await line.ask("GET", "/", host, lines);
      const base = /https?:\/\/[a-z0-9._:[\]-]+(?=[/"\s])/i.exec(helped.text)?.[0] ?? "";
      assert.equal(helped.text.replaceAll(base, "http://HOST"), help, `Host: ${host}`);
      const shownPage = await line.ask("GET", `/${chatId}`, host, [...lines, ...html]);
      assert.equal(shownPage.text, page.text, "one page for all");
      const made = await line.ask("POST", "/create", host, lines);
      const session = sessionOf(withHeaders(made));
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
        if (link.includes(host)) shown += 1;
      }
      assert.match(made.head, new RegExp(`^Location: /${session.chat_id}\\r?$`, "m"), "the Location names no host");
      for (const each of [helped, made]) assertNoRight(each);
    }
    assert.ok(shown > 0 || trustProxy, "some were well-formed");
    assert.ok(refused > ROUNDS / 4 && refused < ROUNDS, `${refused} hosts were refused`);
  });
}

function withHeaders({ status, body, text, head }: Answer): Parameters<typeof sessionOf>[0] {
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

/** Something between a host and an attack; no line break, which would be the end of the header. */
function strangeHost(chance: Random): string {
  return Array.from({ length: 1 + chance.below(4) }, () => chance.pick(PIECES))
    .join("")
    .trim();
}

/** What the contract takes for a host: its characters, and that a URL can be made with it. */
function isHost(host: string): boolean {
  return /^[\w.:[\]-]{1,255}$/.test(host) && URL.canParse(`http://${host}`);
}

/** A Line that sends any Host, and connects again where the server ends the connection over it. */
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

  async ask(method: string, path: string, host: string, lines: string[]): Promise<Answer> {
    const answer = await this.#line.ask(method, path, { host, lines });
    if (/^Connection: close\r?$/im.test(answer.head)) {
      this.#line.close();
      this.#line = await Line.open(this.#port);
    }
    return answer;
  }

  close(): void {
    this.#line.close();
  }
}
