// nginx and Caddy in front of the program, with their files from deploy/. Only ports and paths are changed.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { Agent, request } from "node:https";
import test, { type TestContext } from "node:test";
import { selfSigned } from "../lib/certificate.ts";
import {
  assertError,
  builtPage,
  at,
  freePort,
  invitationOf,
  LOCAL,
  messageOf,
  pollOf,
  Program,
  type Reply,
  send,
  type SendOptions,
  sessionOf,
  temporaryFolder,
} from "../lib/helpers.ts";
import { countWaiters, createChat, eventually, join, openStream, replaceAll, startProxy } from "../lib/proxies.ts";

const HOST = { Host: "chat.example.org" };
const URL_FLAGS = ["--url", "https://chat.example.org"];

/** Functions that start a proxy in front of a port and return the proxy's port. */
const PROXIES = { nginx: startNginx, Caddy: startCaddy };

async function startNginx(t: TestContext, nodePort: number): Promise<number> {
  const folder = temporaryFolder(t);
  const [port, plainPort] = [await freePort(), await freePort()];
  const { cert, key } = selfSigned();
  writeFileSync(`${folder}/cert.pem`, cert);
  writeFileSync(`${folder}/key.pem`, key);
  const site = replaceAll(readDeploy("nginx.conf"), {
    "127.0.0.1:8080": `127.0.0.1:${nodePort}`,
    "listen 443": `listen 127.0.0.1:${port}`,
    "listen [::]:443": `listen [::1]:${port}`,
    "listen 80": `listen 127.0.0.1:${plainPort}`,
    "listen [::]:80": `listen [::1]:${plainPort}`,
    "/etc/ssl/chat.example.org.pem": `${folder}/cert.pem`,
    "/etc/ssl/chat.example.org.key": `${folder}/key.pem`,
  });
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  );
  writeFileSync(
    `${folder}/nginx.conf`,
    `daemon off; pid ${folder}/pid; events {} http { access_log off; ${folders.join(" ")}\n${site}}`,
  );
  await startProxy(t, port, "nginx", ["-e", "stderr", "-p", folder, "-c", `${folder}/nginx.conf`]);
  return port;
}

async function startCaddy(t: TestContext, nodePort: number): Promise<number> {
  const folder = temporaryFolder(t);
  const port = await freePort();
  const site = replaceAll(readDeploy("Caddyfile"), {
    "127.0.0.1:8080": `127.0.0.1:${nodePort}`,
    // A certificate from Caddy's internal authority, because no public one issues it for this name.
    "\nchat.example.org {": `\nhttps://chat.example.org:${port} {\n\tbind 127.0.0.1\n\ttls internal`,
  });
  writeFileSync(
    `${folder}/Caddyfile`,
    `{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n${site}`,
  );
  mkdirSync(`${folder}/home`);
  await startProxy(t, port, "caddy", ["run", "--adapter", "caddyfile", "--config", `${folder}/Caddyfile`], {
    HOME: `${folder}/home`,
    XDG_DATA_HOME: `${folder}/home`,
    XDG_CONFIG_HOME: `${folder}/home`,
  });
  // Caddy listens before it has its certificate.
  await eventually("Caddy's certificate", () =>
    send({ port, tls: true }, "GET", "/healthz", { headers: HOST }).then(
      ({ status }) => status === 200,
      () => false,
    ),
  );
  return port;
}

function readDeploy(name: string): string {
  return readFileSync(new URL(`../../deploy/${name}`, import.meta.url), "utf8");
}

test("nginx accepts IPv6 connections", async (t) => {
  const { target } = await start(t, startNginx, URL_FLAGS);
  const options = { host: "::1", port: target.port, path: "/healthz", headers: HOST, rejectUnauthorized: false };
  const [answer]: IncomingMessage[] = await once(request({ ...options, agent: false }).end(), "response");
  answer?.resume();
  assert.equal(answer?.statusCode, 200);
  assert.equal(readDeploy("nginx.conf").match(/listen \[::\]:(443 ssl|80)\b/g)?.length, 2);
});

for (const [name, startIt] of Object.entries(PROXIES)) {
  test(`${name} serves the page and a chat, whose links start with --url`, async (t) => {
    const { ask } = await start(t, startIt, URL_FLAGS);
    const page = await ask("GET", "/", { headers: { Accept: "text/html" } });
    assert.equal(page.text, builtPage().text);
    assert.equal(page.headers["content-security-policy"], builtPage().policy);
    const ana = sessionOf(await ask("POST", "/create", { body: { username: "Ana" } }));
    assert.equal(ana.url, `https://chat.example.org/${ana.chat_id}`);
    const post = { token: ana.session_token, body: { text: "ä".repeat(2000) } };
    const message = messageOf(await ask("POST", `/${ana.chat_id}`, post));
    const poll = pollOf(await ask("GET", `/${ana.chat_id}`, { token: ana.session_token }));
    assert.deepEqual(poll.messages, [message]);
    const { magic_link } = invitationOf(await ask("POST", `/${ana.chat_id}/invite`, { token: ana.session_token }));
    assert.ok(magic_link.startsWith(`https://chat.example.org/${ana.chat_id}#invite=`), magic_link);
    const large = await ask("POST", `/${ana.chat_id}`, { ...post, body: "x".repeat(40_000) });
    assertError(large, "too_large");
  });

  test(`behind ${name} without --url, links start with the browser's address`, async (t) => {
    const { ask } = await start(t, startIt, []);
    const ana = sessionOf(await ask("POST", "/create"));
    assert.equal(ana.url, `https://chat.example.org/${ana.chat_id}`);
  });

  test(`${name} holds a poll, passes its answer at once, and closes it when its reader disconnects`, async (t) => {
    const { ask, node, target } = await start(t, startIt, URL_FLAGS);
    const ana = await createChat(target, { headers: HOST });
    const ben = await join(target, ana, { headers: HOST });
    const held = ask("GET", `${ben.path}?since=latest&wait=50`, { token: ben.token });
    await eventually("the poll to be held", async () => (await countWaiters(node)) === 1);
    const message = messageOf(await ask("POST", ana.path, { token: ana.token, body: { text: "Hello" } }));
    assert.deepEqual(pollOf(await held).messages, [message]);

    const controller = new AbortController();
    const { signal } = controller;
    const aborted = ask("GET", `${ben.path}?since=latest&wait=50`, { token: ben.token, signal });
    await eventually("the poll to be held", async () => (await countWaiters(node)) === 1);
    controller.abort();
    await assert.rejects(aborted);
    await eventually("the poll to be removed", async () => (await countWaiters(node)) === 0);
  });

  test(`${name} passes a stream line by line`, async (t) => {
    const { ask, node, target } = await start(t, startIt, URL_FLAGS);
    const ana = await createChat(target, { headers: HOST });
    const lines = await openStream(t, target, ana, HOST);
    assert.match(String((await lines.next()).value), /^\{"members":/);
    for (const text of ["one", "two", "three"]) {
      const message = messageOf(await ask("POST", ana.path, { token: ana.token, body: { text } }));
      assert.deepEqual(JSON.parse(String((await lines.next()).value)), message);
    }
    assert.equal(await countWaiters(node), 1, "the stream is still open");
  });

  test(`behind ${name}, the rate limit counts real addresses and ignores forged headers`, async (t) => {
    const { ask, target } = await start(t, startIt, URL_FLAGS);
    const replies: Reply[] = [];
    for (let index = 0; index < 80; index += 1) {
      replies.push(await ask("POST", "/create", { headers: { "X-Forwarded-For": `203.0.113.${index}` } }));
    }
    assertError(at(replies, -1), "rate_limited");
    const elsewhere = new Agent({ localAddress: "127.0.0.2" });
    t.after(() => elsewhere.destroy());
    sessionOf(await send({ ...target, agent: elsewhere }, "POST", "/create", { headers: HOST }));
  });

  test(`${name} does not expose the metrics`, async (t) => {
    const { target, node } = await start(t, startIt, URL_FLAGS);
    assert.equal((await node.send("GET", "/metrics")).status, 200);
    // The proxy itself answers 404.
    const reply = await send({ ...target, isForeign: true }, "GET", "/metrics", { headers: HOST });
    assert.equal(reply.status, 404);
    assert.doesNotMatch(reply.text, /watch_party/);
  });
}

async function start(t: TestContext, startIt: typeof startNginx, flags: string[]) {
  const node = await Program.start(t, [...LOCAL, "--trust-proxy", "--metrics", ...flags]);
  const target = { port: await startIt(t, node.port), tls: true };
  const ask = (method: string, path: string, options: SendOptions = {}): Promise<Reply> =>
    send(target, method, path, { ...options, headers: { ...HOST, ...options.headers } });
  return { node, target, ask };
}
