// Methods and headers, and the public resources: the page, the help, OpenAPI, the health check, robots.txt.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import test from "node:test";
import { gunzipSync } from "node:zlib";
import { ERRORS, ROUTES } from "../server.ts";
import {
  assertNoContent,
  assertError,
  invitationOf,
  messageOf,
  NO_CHAT,
  pollOf,
  record,
  sessionOf,
  startServer,
  stringOf,
  testInProcess,
  type Reply,
  type SendOptions,
} from "./lib/helpers.ts";

const BROWSER = { Accept: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8" };
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"];

/** The methods of each path pattern. */
const METHODS_BY_PATTERN = Array.from(
  Map.groupBy(ROUTES, ({ path }) => path),
  ([pattern, routes]) => [pattern, routes.map(({ method }): string => method)] as const,
);

/** The methods of each path. Every path is there with --metrics. */
const PATHS = METHODS_BY_PATTERN.map(
  ([pattern, methods]) =>
    [pattern.replace(":chat_id", NO_CHAT).replace(":member_id", "1").replace(":node", "a"), methods] as const,
);

function allowed(methods: readonly string[]): string[] {
  return [...methods, "OPTIONS", ...(methods.includes("GET") ? ["HEAD"] : [])].toSorted();
}

function splitList(header: string | string[] | undefined): string[] {
  return String(header)
    .split(",")
    .map((word) => word.trim())
    .toSorted();
}

for (const [path, methods] of PATHS) {
  test(`OPTIONS ${path} lists the allowed methods`, async (t) => {
    const server = await startServer(t, { metrics: true });
    const reply = await server.send("OPTIONS", path);
    assertNoContent(reply);
    assert.deepEqual(splitList(reply.headers["allow"]), allowed(methods));
  });

  test(`${path} answers any other method with method_not_allowed and the allowed methods`, async (t) => {
    const server = await startServer(t, { metrics: true });
    for (const method of METHODS) {
      const reply = await server.send(method, path);
      if (allowed(methods).includes(method)) {
        assert.notEqual(reply.status, 405, method);
      } else if (method === "HEAD") {
        assert.equal(reply.status, 405);
        assert.deepEqual(splitList(reply.headers["allow"]), allowed(methods));
      } else {
        assertError(reply, "method_not_allowed");
        assert.deepEqual(splitList(reply.headers["allow"]), allowed(methods), method);
      }
    }
  });

  test(`pages of any origin can call ${path}`, async (t) => {
    const server = await startServer(t, { metrics: true });
    const preflight = await server.send("OPTIONS", path, {
      headers: {
        Origin: "null",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
      },
    });
    assertNoContent(preflight);
    assert.equal(preflight.headers["access-control-max-age"], "86400");
    for (const method of methods) {
      assert.ok(splitList(preflight.headers["access-control-allow-methods"]).includes(method), method);
    }
    assert.deepEqual(
      splitList(preflight.headers["access-control-allow-headers"]).map((name) => name.toLowerCase()),
      ["authorization", "content-type", "idempotency-key"],
    );
    assert.equal(preflight.headers["access-control-allow-credentials"], undefined);
  });
}

test("pages of other origins can read Location and Retry-After, even in errors", async (t) => {
  const server = await startServer(t, { maxChats: 1 });
  const headers = { Origin: "https://overlay.example" };
  for (const [path, name] of [
    ["/create", "Location"],
    ["/create", "Retry-After"],
  ] as const) {
    const reply = await server.send("POST", path, { headers });
    assert.ok(reply.headers[name.toLowerCase()]);
    assert.equal(reply.headers["access-control-allow-origin"], "*");
    assert.equal(reply.headers["access-control-expose-headers"], name);
  }
  for (const path of [`/${NO_CHAT}`, "/nothing"]) {
    const reply = await server.send("GET", path, { headers });
    assert.equal(reply.headers["access-control-allow-origin"], "*");
  }
});

for (const path of [
  "/nothing",
  "/index.html",
  "/favicon.ico",
  "/create/x",
  "/Create",
  "/CREATE",
  "/healthz/x",
  "/openapi",
  "/robots.txt/x",
  "//",
  "//create",
  `/${"A".repeat(15)}`,
  `/${"A".repeat(34)}`,
  `/${"A".repeat(15)}.`,
  `/${"A".repeat(15)}~`,
  `/${"A".repeat(15)}%41`,
  `/${"A".repeat(15)}é`.replace("é", "%C3%A9"),
  `/${NO_CHAT}/nothing`,
  `/${NO_CHAT}/Invite`,
  `/${NO_CHAT}/invite/x`,
  `/${NO_CHAT}/join/x`,
  `/${NO_CHAT}/leave/x`,
  `/${NO_CHAT}/members`,
  `/${NO_CHAT}/members/1/x`,
  `/${NO_CHAT}//`,
]) {
  test(`${path} is an unknown path for every method`, async (t) => {
    const server = await startServer(t);
    for (const method of METHODS.filter((name) => name !== "HEAD")) {
      assertError(await server.send(method, path), "not_found");
      assertError(await server.send(method, path, { token: "nonsense" }), "not_found");
    }
    assert.equal((await server.send("HEAD", path)).status, 404);
  });
}

test("an error about a token or a body explains what to send", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const { magic_link, invite_token } = invitationOf(await ana.invite());
  for (const token of [invite_token, magic_link, "nonsense"]) {
    const sentence = assertError(await server.send("GET", `/${ana.chatId}`, { token }), "invalid_token");
    assert.match(sentence, /`session_token`.*create or join/);
  }
  const wrong = await server.join(ana.chatId, { invite_token: ana.token });
  assert.match(assertError(wrong, "invalid_token"), /To join, send the part of your link after `#invite=`/);
  const missing = assertError(await server.send("GET", `/${ana.chatId}`), "missing_token");
  assert.match(missing, /POST <chat>\/join.*GET \//);

  const form = { "Content-Type": "application/x-www-form-urlencoded" };
  const post = await ana.send("POST", "", { body: "Hello", headers: form });
  assert.match(
    assertError(post, "invalid_json"),
    /Example: \{"text": "Hello"\}, or plain text with "Content-Type: text\/plain"/,
  );
  assert.match(assertError(await server.create("Ana"), "invalid_json"), /Example: \{"username": "Ana"\}/);
  assert.match(assertError(await server.join(ana.chatId, "Ana"), "invalid_json"), /Example: \{"invite_token": /);
});

test("a slash at the end of a path makes no difference", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  assert.equal((await server.send("GET", "/healthz/")).text, '{"status":"ok"}');
  assert.equal(messageOf(await ana.send("POST", "/", { body: { text: "Hello" } })).text, "Hello");
  assert.equal(pollOf(await ana.poll("/?since=0")).messages.length, 1);
  const { invite_token } = invitationOf(await ana.send("POST", "/invite/"));
  sessionOf(await server.send("POST", `/${ana.chatId}/join/`, { body: { invite_token } }));
  assertNoContent(await ana.send("DELETE", "/members/2/"));
  assertError(await server.send("GET", `/${NO_CHAT}/`), "missing_token");
  assert.match(
    (await server.send("GET", `/${NO_CHAT}/`, { headers: { Accept: "text/html" } })).text,
    /^<!doctype html>/i,
  );
});

test("a chat id can have 16 to 33 characters", async (t) => {
  const server = await startServer(t);
  for (const id of ["A".repeat(16), "-".repeat(33), "_0z-".repeat(5), `abcdefghij012345-${NO_CHAT}`]) {
    assertError(await server.send("GET", `/${id}`), "missing_token");
    assertError(await server.send("PUT", `/${id}`), "method_not_allowed");
  }
});

test("a browser at an unknown path gets the page with status 404", async (t) => {
  const server = await startServer(t);
  const page = await server.send("GET", "/", { headers: BROWSER });
  for (const path of ["/nothing", `/${NO_CHAT}/nothing`, "/create/x", "/index.html"]) {
    const reply = await server.send("GET", path, { headers: BROWSER });
    assert.equal(reply.status, 404);
    assert.equal(reply.text, page.text);
    assert.match(String(reply.headers["content-type"]), /^text\/html/);
    const again = { ...BROWSER, "If-None-Match": String(page.headers["etag"]) };
    assert.equal((await server.send("GET", path, { headers: again })).status, 404);
    assertError(await server.send("GET", path, { headers: { ...BROWSER, Authorization: "Bearer x" } }), "not_found");
  }
});

// ---- HEAD --------------------------------------------------------------------------------------------------

test("HEAD returns the headers of the same GET, without a body", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const invite = await ana.inviteToken();
  await ana.say("hello");
  const asked: [string, SendOptions][] = [
    ["/", {}],
    ["/", { headers: BROWSER }],
    ["/", { headers: { ...BROWSER, "Accept-Encoding": "gzip" } }],
    ["/healthz", {}],
    ["/robots.txt", {}],
    ["/openapi.json", {}],
    ["/nothing", {}],
    ["/nothing", { headers: BROWSER }],
    [`/${ana.chatId}`, { headers: BROWSER }],
    [`/${ana.chatId}`, { token: ana.token }],
    [`/${ana.chatId}?since=1`, { token: ana.token }],
    [`/${ana.chatId}?since=x`, { token: ana.token }],
    [`/${ana.chatId}`, {}],
    [`/${ana.chatId}`, { token: "nonsense" }],
    [`/${ana.chatId}/invite`, { token: invite }],
    [`/${ana.chatId}/invite`, { token: ana.token }],
  ];
  for (const [path, options] of asked) {
    const [get, head] = [await server.send("GET", path, options), await server.send("HEAD", path, options)];
    assert.equal(head.status, get.status, path);
    assert.equal(head.bytes.length, 0);
    assert.deepEqual(withoutDate(head), withoutDate(get), path);
    assert.equal(Number(get.headers["content-length"]), get.bytes.length);
  }
});

function withoutDate(reply: Reply): unknown {
  const { date: _, ...headers } = reply.headers;
  return headers;
}

// ---- The page ------------------------------------------------------------------------------------------------

test("a browser gets the page at / and at every chat's address, whether or not the chat exists", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const replies = await Promise.all(
    ["/", "/?x", `/${ana.chatId}`, `/${NO_CHAT}`, `/${ana.chatId}?since=x`].map((path) =>
      server.send("GET", path, { headers: BROWSER }),
    ),
  );
  for (const reply of replies) {
    assert.equal(reply.status, 200);
    assert.equal(reply.headers["content-type"], "text/html; charset=utf-8");
    assert.equal(reply.text, replies[0]?.text);
    assert.match(reply.text, /^<!doctype html>/i);
    assert.deepEqual(
      splitList(reply.headers["vary"]).map((name) => name.toLowerCase()),
      ["accept", "accept-encoding", "accept-language", "authorization"],
    );
  }
});

test("a request with a token, or without text/html in Accept, gets the API and not the page", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const headers = { ...BROWSER, Authorization: `Bearer ${ana.token}` };
  const reply = await server.send("GET", `/${ana.chatId}`, { headers });
  assert.equal(record(reply.body)["cursor"], 1);
  assert.equal(reply.headers["cache-control"], "no-store");
  for (const accept of ["*/*", "application/json", "text/plain", "text/*"]) {
    const refused = await server.send("GET", `/${ana.chatId}`, { headers: { Accept: accept } });
    assertError(refused, "missing_token");
    assert.equal(refused.headers["cache-control"], "no-store");
  }
  assertError(await server.send("GET", `/${ana.chatId}/invite`, { headers: BROWSER }), "missing_token");
});

test("text/html is recognised in any case and position in Accept", async (t) => {
  const server = await startServer(t);
  for (const accept of ["text/html", "TEXT/HTML", "application/json, text/html;q=0.1", "text/html;charset=utf-8"]) {
    const reply = await server.send("GET", "/", { headers: { Accept: accept } });
    assert.equal(reply.headers["content-type"], "text/html; charset=utf-8", accept);
  }
});

test("the page has a strict Content-Security-Policy and security headers", async (t) => {
  const server = await startServer(t);
  const { headers, text } = await server.send("GET", "/", { headers: BROWSER });
  const script = /<script type="module">([^]*?)<\/script>/.exec(text)?.[1] ?? "";
  const style = /<style>([^]*?)<\/style>/.exec(text)?.[1] ?? "";
  assert.ok(script.length > 0 && style.length > 0);
  assert.equal(
    headers["content-security-policy"],
    `default-src 'none'; script-src 'sha256-${sha256(script)}'; style-src 'sha256-${sha256(style)}'; ` +
      "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
      "require-trusted-types-for 'script'; trusted-types 'none'",
  );
  assert.equal(headers["referrer-policy"], "no-referrer");
  assert.equal(headers["x-frame-options"], "DENY");
  assert.equal(headers["cross-origin-resource-policy"], "same-origin");
  assert.equal(headers["x-content-type-options"], "nosniff");
  assert.equal(headers["cache-control"], "no-cache");
  assert.equal(headers["strict-transport-security"], undefined);
  assert.equal(headers["cross-origin-opener-policy"], undefined);
});

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("base64");
}

test("the page is compressed as the browser accepts, and its content is always the same", async (t) => {
  const server = await startServer(t);
  const plain = await server.send("GET", "/", { headers: BROWSER });
  assert.equal(plain.headers["content-encoding"], undefined);
  for (const [accepted, encoding] of [
    ["gzip, deflate, br", "gzip"],
    ["gzip", "gzip"],
    ["GZIP", "gzip"],
    ["gzip;q=0.5", "gzip"],
    ["br;q=0, gzip ; q=0.001", "gzip"],
    ["gzip;q=0, br;q=0.0", undefined],
    ["br", undefined],
    ["deflate", undefined],
    ["identity", undefined],
    ["", undefined],
    ["brotli, xgzip", undefined],
  ] as const) {
    const reply = await server.send("GET", "/", { headers: { ...BROWSER, "Accept-Encoding": accepted } });
    assert.equal(reply.headers["content-encoding"], encoding, accepted);
    assert.equal(decompress(reply), plain.text);
    assert.equal(Number(reply.headers["content-length"]), reply.bytes.length);
  }
});

function decompress(reply: Reply): string {
  return reply.headers["content-encoding"] === "gzip" ? gunzipSync(reply.bytes).toString() : reply.text;
}

test("a page that the browser has cached is not sent again", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  for (const encoding of ["gzip", "identity"]) {
    const headers = { ...BROWSER, "Accept-Encoding": encoding };
    const first = await server.send("GET", "/", { headers });
    const tag = String(first.headers["etag"]);
    assert.match(tag, /^(?:W\/)?"[^"]+"$/);
    for (const [sent, path] of [
      [tag, "/"],
      [tag, `/${ana.chatId}`],
      [`W/${tag.replace("W/", "")}`, "/"],
      [`"other", ${tag}`, "/"],
      ["*", "/"],
    ] as const) {
      const again = await server.send("GET", path, { headers: { ...headers, "If-None-Match": sent } });
      assert.equal(again.status, 304, sent);
      assert.equal(again.bytes.length, 0);
      assert.equal(again.headers["etag"], tag);
      assert.equal(again.headers["cache-control"], "no-cache");
      assert.ok(splitList(again.headers["vary"]).includes("Accept"));
    }
    for (const sent of ['"other"', "", tag.slice(0, -2)]) {
      const again = await server.send("GET", "/", { headers: { ...headers, "If-None-Match": sent } });
      assert.equal(again.status, 200, sent);
    }
  }
});

test("If-None-Match applies to the page, not to answers of the API", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.chat("Ana");
  const reply = await ana.send("GET", "", { headers: { "If-None-Match": "*" } });
  assert.equal(reply.status, 200);
});

// ---- Help, OpenAPI, health and robots ------------------------------------------------------------------------

test("a script at / gets help as plain text, with commands to paste", async (t) => {
  const server = await startServer(t);
  for (const headers of [{}, { Accept: "*/*" }, { ...BROWSER, Authorization: "Bearer x" }]) {
    const reply = await server.send("GET", "/", { headers });
    assert.equal(reply.status, 200);
    assert.equal(reply.headers["content-type"], "text/plain; charset=utf-8");
    assert.equal(reply.headers["cache-control"], "no-store");
    assert.equal(reply.headers["x-content-type-options"], "nosniff");
    assert.equal(reply.headers["access-control-allow-origin"], "*");
    for (const url of reply.text.matchAll(/https?:\/\/[^/\s"]+/g)) assert.equal(url[0], server.base);
    assert.ok(reply.text.includes(`"${server.base}/create"`));
    for (const line of reply.text.split("\n").filter((each) => /\bcurl -/.test(each))) {
      assert.match(line, /curl [^']*"(?:http:\/\/|\$chat)/, "the URL is in double quotes");
    }
    assert.doesNotMatch(reply.text, /^\s*#/m, "no comment lines");
  }
});

test("/llms.txt is the help as Markdown", async (t) => {
  const server = await startServer(t);
  const reply = await server.send("GET", "/llms.txt");
  assert.equal(reply.headers["content-type"], "text/plain; charset=utf-8");
  assert.match(reply.text, /^# Watch Party\n\n> A chat for up to six people\..*\n\n/);
  // The same text as at /, apart from the first line: blocks of sh instead of indented lines.
  const [, ...plain] = (await server.send("GET", "/")).text.replaceAll(/^ {2}/gm, "").split("\n");
  const [, , , ...marked] = reply.text.split("\n").filter((line) => !line.startsWith("```"));
  assert.deepEqual(marked.slice(1), plain);
  assert.equal(reply.text.match(/^```sh$/gm)?.length, reply.text.match(/^```$/gm)?.length);
});

test("the health check returns only the status ok", async (t) => {
  const server = await startServer(t);
  const reply = await server.send("GET", "/healthz");
  assert.equal(reply.status, 200);
  assert.equal(reply.text, '{"status":"ok"}');
  assert.equal(reply.headers["content-type"], "application/json; charset=utf-8");
  assert.equal(reply.headers["cache-control"], "no-store");
});

test("robots.txt allows the home page and nothing else", async (t) => {
  const server = await startServer(t);
  const reply = await server.send("GET", "/robots.txt");
  assert.equal(reply.status, 200);
  assert.match(String(reply.headers["content-type"]), /^text\/plain/);
  assert.deepEqual(reply.text.trim().split("\n"), ["User-agent: *", "Allow: /$", "Disallow: /"]);
});

test("the OpenAPI document has every path, method and error code, and no other path", async (t) => {
  const server = await startServer(t);
  const reply = await server.send("GET", "/openapi.json");
  assert.equal(reply.headers["content-type"], "application/json; charset=utf-8");
  const document = record(reply.body);
  assert.match(stringOf(document, "openapi"), /^3\.1\.\d$/);
  const paths = record(document["paths"]);
  for (const [pattern, methods] of METHODS_BY_PATTERN) {
    const template = pattern.replaceAll(/:(\w+)/g, "{$1}");
    assert.ok(paths[template] !== undefined, template);
    for (const method of methods) assert.ok(method.toLowerCase() in record(paths[template]), `${method} ${template}`);
  }
  assert.equal(Object.keys(paths).length, METHODS_BY_PATTERN.length);
  for (const code of Object.keys(ERRORS)) assert.ok(reply.text.includes(`"${code}"`), code);
});

testInProcess(
  "an unexpected error is answered internal, its details reach only the log, and the server keeps running",
  async (t) => {
    const errors: unknown[] = [];
    let isBroken = false;
    const now = (): number => {
      if (isBroken) throw new Error("the clock at /usr/lib/clock.ts:7 has stopped");
      return 1_700_000_000_000;
    };
    const server = await startServer(t, { now, logError: (error) => errors.push(error) });
    const [ana] = await server.chat("Ana");
    isBroken = true;
    for (const reply of [await ana.poll(), await ana.post("x"), await server.create(), await ana.leave()]) {
      const message = assertError(reply, "internal");
      assert.doesNotMatch(message, /clock/);
    }
    assert.equal(errors.length, 4);
    assert.ok(errors.every((error) => error instanceof Error && /has stopped/.test(error.message)));
    isBroken = false;
    await ana.read();
  },
);

testInProcess(
  "a server that is stopping answers held polls with stopping and accepts no new connections",
  async (t) => {
    const server = await startServer(t);
    const [ana] = await server.chat("Ana");
    const held = await ana.openPoll();
    const stopped = server.app.stop();
    assertError(await held.reply, "stopping");
    server.agent.destroy();
    await stopped;
    await assert.rejects(server.send("GET", "/healthz"), "no new connections");
  },
);

// ---- The log of --verbose ------------------------------------------------------------------------------------

testInProcess("each request is one log line: time, method, path without query, status, milliseconds", async (t) => {
  const lines: string[] = [];
  const server = await startServer(t, { log: (line) => lines.push(line) });
  const [ana, ben] = await server.chat("Ana", "Ben");
  lines.length = 0;
  await ana.read("?since=0");
  await ben.post("a secret", { "Idempotency-Key": "hush" });
  await server.send("GET", "/nothing");
  await ana.remove(ben.id);
  assert.equal(lines.length, 4);
  for (const [index, [method, path, status]] of [
    ["GET", `/${ana.chatId}`, "200"],
    ["POST", `/${ana.chatId}`, "201"],
    ["GET", "/nothing", "404"],
    ["DELETE", `/${ana.chatId}/members/${ben.id}`, "204"],
  ].entries()) {
    const line = lines[index] ?? "";
    assert.match(line, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S+ \S+ \d{3} \d+(?:\.\d+)? ?ms$/);
    assert.deepEqual(line.split(" ").slice(1, 4), [method, path, status]);
  }
});

testInProcess("no token, name, key or message reaches the log", async (t) => {
  const lines: string[] = [];
  const server = await startServer(t, { log: (line) => lines.push(line) });
  const [ana, ben] = await server.chat("Anastasia", "Benjamin");
  const invite = await ana.inviteToken();
  await ana.preview(invite);
  await server.send("GET", `/${ana.chatId}?token=${ana.token}&since=${invite}`, { token: ana.token });
  await ben.post("a secret message", { "Idempotency-Key": "a secret key" });
  await server.send("GET", `/${ana.chatId}/invite?${invite}`);
  await server.send("GET", "/\u001B[31mred".replace("\u001B", "%1B"));
  const log = lines.join("\n");
  for (const secret of [ana.token, ben.token, invite, "Anastasia", "Benjamin", "secret", "\u001B", "?"]) {
    assert.ok(!log.includes(secret), secret);
  }
});
