// The base URL of links: --url, the Host of the request, the LAN address, a proxy's headers.

import assert from "node:assert/strict";
import test from "node:test";
import type { AppOptions } from "../server.ts";
import {
  assertError,
  exchange,
  HOUR,
  invitationOf,
  Member,
  parseReply,
  sessionOf,
  startServer,
  testInProcess,
  type TestServer,
  until,
  Wire,
} from "./lib/helpers.ts";
import { assertDocumented } from "./lib/openapi.ts";

const LAN = "192.168.1.42";
const lanAddresses = () => [{ address: LAN, name: "wlan0" }];

/** The base URL of links made by a request with these headers, with "PORT" in place of the server's port. */
async function baseFor(server: TestServer, headers: Record<string, string>): Promise<string> {
  const session = sessionOf(await server.create({}, headers));
  const base = session.url.slice(0, -session.chat_id.length - 1);
  assert.equal(session.url, `${base}/${session.chat_id}`);
  const ana = new Member(server, session);
  const { magic_link, invite_token } = invitationOf(await ana.send("POST", "/invite", { headers }));
  assert.equal(magic_link, `${session.url}#invite=${invite_token}`);
  const joined = await server.join(ana.chatId, { invite_token }, headers);
  assert.equal(sessionOf(joined).url, session.url);
  return base.replace(`:${server.port}`, ":PORT");
}

const withPort = (server: TestServer, text: string): string => text.replaceAll("PORT", String(server.port));

for (const [what, options, headers, base] of [
  ["the Host as sent", {}, { Host: "party.example:81" }, "http://party.example:81"],
  ["a Host without a port", {}, { Host: "party.example" }, "http://party.example"],
  ["a LAN address", { lanAddresses }, { Host: "192.168.7.7:PORT" }, "http://192.168.7.7:PORT"],
  ["an address with another port", { lanAddresses }, { Host: "10.0.0.1:1" }, "http://10.0.0.1:1"],
  ["an IPv6 address", { lanAddresses }, { Host: "[fd00::2]:81" }, "http://[fd00::2]:81"],
  ["localhost, without a LAN", {}, { Host: "localhost:PORT" }, "http://localhost:PORT"],
  ["localhost", { lanAddresses }, { Host: "localhost:PORT" }, `http://${LAN}:PORT`],
  ["localhost in capitals", { lanAddresses }, { Host: "LOCALHOST:PORT" }, `http://${LAN}:PORT`],
  ["localhost with another port", { lanAddresses }, { Host: "localhost:1" }, `http://${LAN}:PORT`],
  ["localhost without a port", { lanAddresses }, { Host: "localhost" }, `http://${LAN}:PORT`],
  ["127.0.0.1", { lanAddresses }, { Host: "127.0.0.1:PORT" }, `http://${LAN}:PORT`],
  ["127.255.3.4", { lanAddresses }, { Host: "127.255.3.4" }, `http://${LAN}:PORT`],
  ["::1", { lanAddresses }, { Host: "[::1]:PORT" }, `http://${LAN}:PORT`],
  ["0.0.0.0", { lanAddresses }, { Host: "0.0.0.0:PORT" }, `http://${LAN}:PORT`],
  ["a name like localhost", { lanAddresses }, { Host: "localhost.example:1" }, "http://localhost.example:1"],
  ["a name like 127.0.0.1", { lanAddresses }, { Host: "127.0.0.1.example" }, "http://127.0.0.1.example"],
  ["localhost, bound to it", { lanAddresses, host: "127.0.0.1" }, { Host: "localhost:PORT" }, "http://localhost:PORT"],
  ["localhost, bound by name", { lanAddresses, host: "localhost" }, { Host: "127.0.0.1" }, "http://127.0.0.1"],
  ["localhost, bound by ::1", { lanAddresses, host: "::1" }, { Host: "[::1]:1" }, "http://[::1]:1"],
  ["localhost, bound to all", { lanAddresses, host: "0.0.0.0" }, { Host: "localhost:1" }, `http://${LAN}:PORT`],
  ["--url", { lanAddresses, url: "https://chat.example" }, { Host: "localhost:1" }, "https://chat.example"],
  [
    "--url with a proxy",
    { url: "http://chat.example:81", trustProxy: true },
    { "X-Forwarded-Host": "other" },
    "http://chat.example:81",
  ],
  [
    "no X-Forwarded-* without --trust-proxy",
    {},
    { Host: "party.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https" },
    "http://party.example",
  ],
  [
    "X-Forwarded-* with --trust-proxy",
    { trustProxy: true },
    { Host: "inner:8080", "X-Forwarded-Host": "chat.example", "X-Forwarded-Proto": "https" },
    "https://chat.example",
  ],
  [
    "the last element of each",
    { trustProxy: true },
    { "X-Forwarded-Host": "evil.example, chat.example:81", "X-Forwarded-Proto": "http,https" },
    "https://chat.example:81",
  ],
  [
    "the Host if the proxy sends no headers",
    { trustProxy: true },
    { Host: "party.example:81" },
    "http://party.example:81",
  ],
  [
    "the Host if the proxy's headers are malformed",
    { trustProxy: true },
    { Host: "party.example", "X-Forwarded-Host": "a b", "X-Forwarded-Proto": "gopher" },
    "http://party.example",
  ],
  [
    "the Host if the last element is malformed, even if an earlier one is valid",
    { trustProxy: true },
    { Host: "party.example", "X-Forwarded-Host": "chat.example, <x>" },
    "http://party.example",
  ],
] as const satisfies [string, AppOptions, Record<string, string>, string][]) {
  const choose = "lanAddresses" in options ? testInProcess : test;
  choose(`links for ${what} start with ${base}`, async (t) => {
    const server = await startServer(t, options);
    const sent = Object.entries(headers).map(([name, value]) => [name, withPort(server, value)]);
    assert.equal(await baseFor(server, Object.fromEntries(sent)), base);
  });
}

for (const host of [
  "a b",
  "a/b",
  "a@b",
  "a?b",
  "a#b",
  'a"b',
  "a'b",
  "<b>",
  "a\\b",
  "a:b",
  "a:99999",
  "a:80:80",
  ":80",
  "[::1",
  "[x]",
  "::1",
  "a,b",
  "a%20b",
  "http://a",
  "caf\u00E9",
]) {
  test(`the malformed Host ${JSON.stringify(host)} is bad_request, so it reaches no link`, async (t) => {
    const server = await startServer(t);
    for (const start of ["POST /create", "GET /"]) {
      const headers = `Host: ${host}\r\nConnection: close\r\nContent-Length: 0`;
      assertError(await exchange(t, server.port, `${start} HTTP/1.1\r\n${headers}\r\n\r\n`), "bad_request");
    }
  });
}

testInProcess(
  "a request without a Host gets links for the socket's address, replaced by the LAN address on loopback",
  async (t) => {
    const server = await startServer(t, { lanAddresses });
    const reply = await exchange(t, server.port, "POST /create HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}");
    assert.ok(sessionOf(reply).url.startsWith(`http://${LAN}:${server.port}/`));
  },
);

testInProcess("links follow the LAN address when it changes", async (t) => {
  let found = [{ address: "192.168.1.2", name: "wlan0" }];
  const server = await startServer(t, { lanAddresses: () => found });
  assert.equal(await baseFor(server, {}), "http://192.168.1.2:PORT");
  found = [{ address: "10.1.1.1", name: "eth0" }];
  server.advanceAndSweep(HOUR);
  assert.equal(await baseFor(server, {}), "http://10.1.1.1:PORT");
  found = [];
  server.advanceAndSweep(HOUR);
  assert.equal(await baseFor(server, {}), "http://127.0.0.1:PORT");
});

testInProcess("the help shows the address of the request, not the LAN address", async (t) => {
  const server = await startServer(t, { lanAddresses });
  assert.ok((await server.send("GET", "/")).text.includes(`"${server.base}/create"`));
  const named = await server.send("GET", "/", { headers: { Host: "party.example:81" } });
  assert.ok(named.text.includes('"http://party.example:81/create"'));
});

test("the help shows --url, or the address that a trusted proxy sends", async (t) => {
  const given = await startServer(t, { url: "https://chat.example" });
  assert.ok((await given.send("GET", "/")).text.includes('"https://chat.example/create"'));
  const proxied = await startServer(t, { trustProxy: true });
  const headers = { "X-Forwarded-Host": "chat.example", "X-Forwarded-Proto": "https" };
  assert.ok((await proxied.send("GET", "/", { headers })).text.includes('"https://chat.example/create"'));
});

test("two requests on one connection get links for their own Host", async (t) => {
  const server = await startServer(t);
  const wire = await Wire.open(t, server.port);
  for (const host of ["one.example", "two.example"]) {
    wire.received = "";
    wire.write(`POST /create HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 2\r\n\r\n{}`);
    await until(() => wire.received.includes("}"), "an answer");
    const reply = await assertDocumented("POST", "/create", parseReply(wire.received));
    assert.ok(sessionOf(reply).url.startsWith(`http://${host}/`));
  }
});

// ---- The machine's other addresses -----------------------------------------------------------------------------

const OTHERS = [
  { address: LAN, name: "wlan0" },
  { address: "fd00::2", name: "eth1" },
  { address: "172.17.0.1", name: "docker0" },
];
const ALL = [`http://${LAN}:PORT`, "http://[fd00::2]:PORT", "http://172.17.0.1:PORT"];

/** Returns the answer of GET /addresses to a request with this Host, and the bases of its invitation's links. */
async function addressesFor(options: AppOptions, server: TestServer, headers: Record<string, string>) {
  const reply = await server.send("GET", "/addresses", { headers });
  assert.equal(reply.status, 200, JSON.stringify(options));
  const { addresses }: { addresses: string[] } = JSON.parse(reply.text);
  const ana = new Member(server, sessionOf(await server.create()));
  const { magic_link, other_links } = invitationOf(await ana.send("POST", "/invite", { headers }));
  const links = [magic_link, ...other_links.map((other) => other.magic_link)].map((link) => {
    const { origin, pathname, hash } = new URL(link);
    assert.equal(pathname + hash, magic_link.slice(new URL(magic_link).origin.length));
    return origin;
  });
  const plain = (urls: string[]): string[] => urls.map((url) => url.replace(`:${server.port}`, ":PORT"));
  return { addresses: plain(addresses), links: plain(links) };
}

for (const [who, options, headers, addresses, links] of [
  ["localhost", {}, { Host: "localhost:PORT" }, ALL, ALL],
  ["127.0.0.1", {}, { Host: "127.0.0.1:PORT" }, ALL, ALL],
  ["an address of the machine", {}, { Host: `${LAN}:PORT` }, ALL, ALL],
  ["another address of the machine", {}, { Host: "[fd00::2]:PORT" }, ALL, [ALL[1], ALL[0], ALL[2]]],
  ["its own page", {}, { Host: "localhost:PORT", Origin: "http://localhost:PORT" }, ALL, ALL],
  ["IPv4 alone", { host: "0.0.0.0" }, { Host: "localhost:PORT" }, [ALL[0], ALL[2]], [ALL[0], ALL[2]]],
  ["one address", { host: LAN }, { Host: `${LAN}:PORT` }, [ALL[0]], [ALL[0]]],
  ["loopback alone", { host: "127.0.0.1" }, { Host: "localhost:PORT" }, [], ["http://localhost:PORT"]],
  ["--url", { url: "https://chat.example" }, { Host: "localhost:PORT" }, [], ["https://chat.example"]],
] as const satisfies [string, AppOptions, Record<string, string>, unknown[], unknown[]][]) {
  testInProcess(`a request from the machine itself learns its addresses: ${who}`, async (t) => {
    const server = await startServer(t, { lanAddresses: () => OTHERS, ...options });
    const sent = Object.entries(headers).map(([name, value]) => [name, withPort(server, value)]);
    assert.deepEqual(await addressesFor(options, server, Object.fromEntries(sent)), { addresses, links });
  });
}

for (const [who, options, headers, link] of [
  // A site can point its name to 127.0.0.1 and so read what a browser on this machine gets (DNS rebinding).
  ["a name that leads here", {}, { Host: "rebind.example:PORT" }, "http://rebind.example:PORT"],
  ["an address of no interface", {}, { Host: "192.168.7.7:PORT" }, "http://192.168.7.7:PORT"],
  ["another port", {}, { Host: `${LAN}:1` }, `http://${LAN}:1`],
  ["a page of another site", {}, { Host: "localhost:PORT", Origin: "https://evil.example" }, ALL[0]],
  ["a page in a sandbox", {}, { Host: "localhost:PORT", Origin: "null" }, ALL[0]],
  ["a page of another server here", {}, { Host: "localhost:PORT", Origin: "http://localhost:3000" }, ALL[0]],
  [
    "a trusted proxy's client",
    { trustProxy: true },
    { Host: "localhost:PORT", "X-Forwarded-For": "192.168.1.9" },
    ALL[0],
  ],
  ["a proxy's client", {}, { Host: "localhost:PORT", "X-Forwarded-For": "127.0.0.1" }, ALL[0]],
  [
    "a proxy that names no client",
    { trustProxy: true },
    { Host: "127.0.0.1:PORT", "X-Forwarded-Proto": "http" },
    ALL[0],
  ],
  ["a proxy of the newer standard", {}, { Host: "localhost:PORT", Forwarded: "for=127.0.0.1" }, ALL[0]],
  ["a proxy that names only itself", {}, { Host: "127.0.0.1:PORT", Via: "1.1 proxy" }, ALL[0]],
  ["a proxy that names its client in nginx's way", {}, { Host: "127.0.0.1:PORT", "X-Real-IP": "192.168.1.9" }, ALL[0]],
] as const satisfies [string, AppOptions, Record<string, string>, unknown][]) {
  testInProcess(`a request from elsewhere learns no address of the machine: ${who}`, async (t) => {
    const server = await startServer(t, { lanAddresses: () => OTHERS, ...options });
    const sent = Object.entries(headers).map(([name, value]) => [name, withPort(server, value)]);
    const found = await addressesFor(options, server, Object.fromEntries(sent));
    assert.deepEqual(found, { addresses: [], links: [link] });
  });
}
