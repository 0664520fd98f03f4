// The program as a process: its start-up text, and the effect of flags and environment variables.

import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { stripVTControlCharacters } from "node:util";
import { selfSigned } from "./lib/certificate.ts";
import {
  assertError,
  LOCAL,
  Program,
  record,
  send,
  sessionOf,
  stringOf,
  occupyPort,
  temporaryFolder,
  testInProcess,
  until,
} from "./lib/helpers.ts";

/** A module that hides the network from the program that imports it: no interfaces and no routes. */
const NO_NETWORK = `data:text/javascript,${encodeURIComponent(`
  import dgram from "node:dgram";
  import os from "node:os";
  import { syncBuiltinESMExports } from "node:module";
  dgram.Socket.prototype.connect = function () {
    process.nextTick(() => this.emit("error", new Error("connect ENETUNREACH")));
  };
  os.networkInterfaces = () => ({});
  syncBuiltinESMExports();
`)}`;

describe("starting the program", { concurrency: 4 }, () => {
  test("without --port, the program uses the next free port if 8080 is in use, and prints that", async (t) => {
    // Another program may be using 8080 already, which works too. If it has just stopped, the first start takes 8080.
    await occupyPort(t, 8080).catch(() => 8080);
    const start = () => Program.start(t, ["--host", "127.0.0.1"], { PORT: "", WATCH_PARTY_PORT: "" });
    const first = await start();
    const program = first.port === 8080 ? await start() : first;
    assert.ok(program.port > 8080 && program.port < 8280, String(program.port));
    assert.match(program.stdout, /8080/);
    assert.equal((await program.send("GET", "/healthz")).status, 200);
  });

  test("every printed address can be opened and is labelled with its interface", async (t) => {
    const program = await Program.start(t);
    const addresses = [...program.stdout.matchAll(/^\s+(https?:\/\/\S+)\s+(\S.*)$/gm)];
    assert.ok(addresses.length > 0, program.stdout);
    for (const [, address = "", label = ""] of addresses) {
      assert.equal((await fetch(new URL("/healthz", address))).status, 200, address);
      const { hostname } = new URL(address);
      const [name] = Object.entries(networkInterfaces()).find(([, list]) =>
        list?.some((each) => each.address === hostname),
      ) ?? [""];
      assert.ok(label.includes(name), `${address} belongs to ${name}, not ${label}`);
    }
  });

  test("without a terminal, the program prints plain lines with one curl command", async (t) => {
    const program = await Program.start(t);
    assert.equal(stripVTControlCharacters(program.stdout), program.stdout);
    assert.doesNotMatch(program.stdout, /[\u2580-\u259F]/);
    const curl = program.stdout.split("\n").filter((line) => line.includes("curl"));
    assert.equal(curl.length, 1);
    const [, method = "", url = ""] = /curl -X (\S+) "(\S+)"$/.exec(curl[0] ?? "") ?? [];
    const reply = await fetch(url, { method });
    assert.equal(stringOf(record(await reply.json()), "username"), "Guest 1");
  });

  testInProcess("the program starts on a machine without a network", async (t) => {
    const program = await Program.start(t, ["--port", "0"], { NODE_OPTIONS: `--import=${NO_NETWORK}` });
    const addresses = program.stdout.match(/https?:\/\/\S+(?= )/g);
    assert.deepEqual(addresses, [`http://localhost:${program.port}`]);
  });

  test("without --host, the program listens on IPv4 and IPv6", async (t) => {
    const program = await Program.start(t);
    assert.equal((await fetch(`http://127.0.0.1:${program.port}/healthz`)).status, 200);
    const hasIpv6 = Object.values(networkInterfaces()).some((list) => list?.some((each) => each.address === "::1"));
    if (hasIpv6) assert.equal((await fetch(`http://[::1]:${program.port}/healthz`)).status, 200);
  });

  test("--url is the first printed address and the start of links", async (t) => {
    const program = await Program.start(t, ["--port", "0", "--url", "https://chat.example"]);
    assert.match(program.stdout, /^[^]*?https?:\/\/chat\.example\s/);
    assert.equal(/https?:\/\/\S+/.exec(program.stdout)?.[0], "https://chat.example");
    const port = Number(/:\/\/\S+?:(\d+)/.exec(program.stdout)?.[1]);
    const reply = await fetch(`http://127.0.0.1:${port}/create`, { method: "POST" });
    assert.match(stringOf(record(await reply.json()), "url"), /^https:\/\/chat\.example\//);
  });

  test("after the start the program prints nothing more", async (t) => {
    const program = await Program.start(t);
    const { stdout } = program;
    for (const path of ["/", "/nothing", "/healthz", "/create"]) await program.send("GET", path);
    sessionOf(await program.send("POST", "/create"));
    const ended = await program.stop();
    assert.deepEqual([ended.code, ended.stdout, ended.stderr], [0, stdout, ""]);
  });

  test("--verbose prints one line per request, without tokens", async (t) => {
    const program = await Program.start(t, [...LOCAL, "--verbose"]);
    const { stdout } = program;
    const session = sessionOf(await program.send("POST", "/create"));
    await program.send("GET", `/${session.chat_id}?since=0`, { token: session.session_token });
    await program.send("HEAD", "/nothing?secret=1");
    await until(() => program.stdout.slice(stdout.length).split("\n").length > 3, "three log lines");
    const ended = await program.stop();
    const lines = ended.stdout.slice(stdout.length).trimEnd().split("\n");
    assert.equal(lines.length, 3);
    assert.match(lines[0] ?? "", / POST \/create 201 /);
    assert.match(lines[1] ?? "", new RegExp(` GET /${session.chat_id} 200 `));
    assert.match(lines[2] ?? "", / HEAD \/nothing 404 /);
    assert.ok(!ended.stdout.includes(session.session_token));
  });

  test("environment variables work like flags", async (t) => {
    const program = await Program.start(t, [], {
      WATCH_PARTY_PORT: "0",
      PORT: "1",
      WATCH_PARTY_HOST: "127.0.0.1",
      WATCH_PARTY_URL: "http://chat.example",
      WATCH_PARTY_MAX_CHATS: "1",
      WATCH_PARTY_NODE: "eu1",
      WATCH_PARTY_NO_RATE_LIMIT: "true",
      WATCH_PARTY_TRUST_PROXY: "0",
      WATCH_PARTY_VERBOSE: "1",
    });
    const port = Number(/:\/\/127\.0\.0\.1:(\d+)/.exec(program.stdout)?.[1]);
    const create = async (): Promise<Response> => fetch(`http://127.0.0.1:${port}/create`, { method: "POST" });
    const session = record(await (await create()).json());
    assert.match(stringOf(session, "chat_id"), /^eu1-/);
    assert.match(stringOf(session, "url"), /^http:\/\/chat\.example\//);
    for (let count = 0; count < 70; count += 1) assert.equal((await create()).status, 503);
    await until(() => / POST \/create 503 /.test(program.stdout), "the log");
  });

  test("a flag overrides its variable, and an empty variable counts as not set", async (t) => {
    const program = await Program.start(t, [...LOCAL, "--node", "flag", "--max-chats", "2"], {
      WATCH_PARTY_PORT: "1",
      WATCH_PARTY_NODE: "env",
      WATCH_PARTY_MAX_CHATS: "1",
      WATCH_PARTY_URL: "",
      WATCH_PARTY_VERBOSE: "",
      WATCH_PARTY_TRUST_PROXY: "false",
    });
    for (let count = 0; count < 2; count += 1) {
      const session = sessionOf(await program.send("POST", "/create", { headers: { "X-Forwarded-Host": "evil" } }));
      assert.match(session.chat_id, /^flag-/);
      assert.match(session.url, new RegExp(`^http://127\\.0\\.0\\.1:${program.port}/`));
    }
    assertError(await program.send("POST", "/create"), "server_full");
  });

  test("--trust-proxy uses the proxy's headers", async (t) => {
    const program = await Program.start(t, [...LOCAL, "--trust-proxy", "--no-rate-limit"]);
    const headers = { "X-Forwarded-Host": "chat.example", "X-Forwarded-Proto": "https" };
    for (let count = 0; count < 65; count += 1) {
      assert.match(sessionOf(await program.send("POST", "/create", { headers })).url, /^https:\/\/chat\.example\//);
    }
  });

  test("with a certificate, the program and its links use https", async (t) => {
    const folder = temporaryFolder(t);
    const { cert, key } = selfSigned();
    assert.equal(new X509Certificate(cert).subject, "CN=localhost");
    writeFileSync(join(folder, "cert.pem"), cert);
    writeFileSync(join(folder, "key.pem"), key);
    const program = await Program.start(t, [
      ...LOCAL,
      "--tls-cert",
      join(folder, "cert.pem"),
      "--tls-key",
      join(folder, "key.pem"),
    ]);
    assert.match(program.stdout, /https:\/\/127\.0\.0\.1:\d+/);
    assert.doesNotMatch(program.stdout, /http:\/\//);
    const { stdout } = program;
    const target = { port: program.port, tls: true };
    assert.match(sessionOf(await send(target, "POST", "/create")).url, /^https:\/\/127\.0\.0\.1:\d+\//);
    await assert.rejects(program.send("GET", "/healthz"), "plain http to the https port");
    assert.equal((await send(target, "GET", "/healthz")).status, 200);
    const ended = await program.stop();
    assert.deepEqual([ended.code, ended.stdout, ended.stderr], [0, stdout, ""]);
  });
});
