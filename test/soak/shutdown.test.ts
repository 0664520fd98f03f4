// Shutdown under load: every acknowledged message reaches the waiting readers, and the program exits in time.

import assert from "node:assert/strict";
import { connect } from "node:net";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  assertError,
  at,
  freePort,
  invitationOf,
  LOCAL,
  messageOf,
  Program,
  type Reply,
  SECOND,
} from "../lib/helpers.ts";
import { pollOf, send, sessionOf, Wire } from "../lib/helpers.ts";
import { Line, type LineReply } from "./tools.ts";

const CHATS = 30;
const READERS = 4;
const WRITERS = 2;

/** A chat with its acknowledged messages, and the messages that each reader received before its last poll ended. */
interface ChatRecord {
  readonly path: string;
  readonly tokens: string[];
  readonly acknowledged: string[];
  readonly ends: { received: Set<string>; outcome: "stopping" | "disconnected" }[];
}

for (const signal of ["SIGTERM", "SIGHUP"] as const) {
  test(`after ${signal} under load every waiting reader receives every acknowledged message`, async (t) => {
    if (process.platform === "win32") return t.skip("Windows has no signals");
    const program = await Program.start(t, [...LOCAL, "--no-rate-limit"]);
    const chats = await Promise.all(Array.from({ length: CHATS }, () => createFullChat(program)));
    const clients = chats.flatMap((chat) => [
      ...Array.from({ length: READERS }, (_, index) => read(program, chat, at(chat.tokens, index))),
      ...Array.from({ length: WRITERS }, (_, index) => write(program, chat, at(chat.tokens, READERS + index))),
    ]);
    const count = () => chats.reduce((sum, { acknowledged }) => sum + acknowledged.length, 0);
    while (count() < 1_000) await sleep(20);
    const signalled = performance.now();
    program.child.kill(signal);
    const ended = await program.ended;
    const took = performance.now() - signalled;
    await Promise.all(clients);

    const ends = chats.flatMap((chat) => chat.ends.map((end) => ({ ...end, chat })));
    const notified = ends.filter(({ outcome }) => outcome === "stopping");
    const disconnected = ends.length - notified.length;
    t.diagnostic(
      JSON.stringify({ messages: count(), notified: notified.length, disconnected, took: Math.round(took) }),
    );
    assert.deepEqual([ended.code, ended.signal, ended.stderr], [0, null, ""]);
    // Two seconds by the specification, plus one for a busy machine.
    assert.ok(took < 3 * SECOND, `took ${took} ms`);
    assert.equal(disconnected, 0, "readers were disconnected without a stopping error");
    for (const { received, chat, outcome } of ends) {
      const missing = chat.acknowledged.filter((text) => !received.has(text));
      assert.deepEqual(missing, [], `acknowledged, but not received by a reader that ended with ${outcome}`);
    }
    return undefined;
  });
}

async function createFullChat(program: Program): Promise<ChatRecord> {
  const creator = sessionOf(await program.send("POST", "/create"));
  const path = `/${creator.chat_id}`;
  const token = creator.session_token;
  const { invite_token } = invitationOf(await program.send("POST", `${path}/invite`, { token }));
  const tokens = [token];
  while (tokens.length < READERS + WRITERS) {
    tokens.push(sessionOf(await program.send("POST", `${path}/join`, { body: { invite_token } })).session_token);
  }
  return { path, tokens, acknowledged: [], ends: [] };
}

/** Polls until the server returns `stopping` or closes the connection. */
async function read(program: Program, chat: ChatRecord, token: string): Promise<void> {
  const line = await Line.open(program.port);
  const received = new Set<string>();
  for (let cursor = 0; ;) {
    try {
      const { status, body } = await askUntilExit(program, line, "GET", `${chat.path}?since=${cursor}&wait=50`, {
        token,
      });
      if (status === 503) return void chat.ends.push({ received, outcome: "stopping" });
      const reply = pollOf({ status, headers: API_HEADERS, bytes: Buffer.alloc(0), text: "", body });
      assert.equal(reply.missed, false);
      for (const { text } of reply.messages) received.add(text);
      ({ cursor } = reply);
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      return void chat.ends.push({ received, outcome: "disconnected" });
    }
  }
}

/** Sends a request. Rejects once the program has exited, because an idle Line does not notice that it was closed. */
function askUntilExit(program: Program, line: Line, ...request: Parameters<Line["ask"]>): Promise<LineReply> {
  const exited = program.ended.then(async (): Promise<LineReply> => {
    await sleep(500);
    throw new Error("the program has exited");
  });
  return Promise.race([line.ask(...request), exited]);
}

/** The headers that `pollOf` checks. A Line does not parse headers. */
const API_HEADERS = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "access-control-allow-origin": "*",
  "content-type": "application/json; charset=utf-8",
};

/** Posts messages one after the other until a request fails. */
async function write(program: Program, chat: ChatRecord, token: string): Promise<void> {
  const line = await Line.open(program.port);
  for (let count = 0; ; count += 1) {
    const text = `${chat.tokens.indexOf(token)}: ${count}`;
    try {
      const { status } = await askUntilExit(program, line, "POST", chat.path, { token, body: { text } });
      if (status !== 201) return;
      chat.acknowledged.push(text);
      await sleep(Math.random() * 60);
    } catch {
      return;
    }
  }
}

test("a message whose body arrives after the signal reaches the waiting reader or is not acknowledged", async (t) => {
  if (process.platform === "win32") return t.skip("Windows has no signals");
  const program = await Program.start(t, LOCAL);
  const session = sessionOf(await program.send("POST", "/create"));
  const token = session.session_token;
  const path = `/${session.chat_id}`;
  const poll = program.send("GET", `${path}?since=1&wait=50`, { token });
  const late = await Wire.open(t, program.port);
  const head = `POST ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n`;
  late.write(`${head}Expect: 100-continue\r\nContent-Length: 15\r\n\r\n`);
  await late.waitFor(/^HTTP\/1\.1 100 /);
  program.child.kill("SIGTERM");
  await sleep(200);
  late.write('{"text":"late"}');
  await late.waitFor(/HTTP\/1\.1 (?:201|503) /);
  const reply = await poll;
  if (/HTTP\/1\.1 201 /.test(late.received)) {
    assert.deepEqual(
      pollOf(reply).messages.map(({ text }) => text),
      ["late"],
      "acknowledged, but not received",
    );
  } else assertError(reply, "stopping");
  assert.equal((await program.ended).code, 0);
  return undefined;
});

test("a poll that arrives after the signal still receives earlier messages", async (t) => {
  if (process.platform === "win32") return t.skip("Windows has no signals");
  const program = await Program.start(t, LOCAL);
  const session = sessionOf(await program.send("POST", "/create"));
  const token = session.session_token;
  const path = `/${session.chat_id}`;
  messageOf(await program.send("POST", path, { token, body: { text: "before" } }));
  const reader = await Wire.open(t, program.port);
  // Part of the request arrives before the signal, so the connection is not idle.
  reader.write(`GET ${path}?since=1&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n`);
  await sleep(100);
  program.child.kill("SIGTERM");
  await sleep(100);
  reader.write("\r\n");
  const reply = await reader.lastReply();
  assert.equal(reply.status, 200, reply.text);
  assert.match(reply.text, /"before"/);
  assert.equal((await program.ended).code, 0);
  return undefined;
});

for (const [state, redirection] of [
  ["full", "2> /dev/full"],
  ["closed", "2>&-"],
] as const) {
  test(`a start-up error exits with its code even if stderr is ${state}`, async (t) => {
    if (process.platform !== "linux") return t.skip("/dev/full exists only on Linux");
    const codes: (number | null)[] = [];
    for (const flags of [["--nonsense"], [...LOCAL, "--tls-cert", "/nowhere", "--tls-key", "/nowhere"]]) {
      codes.push((await new Program(flags, {}, `exec "$@" ${redirection}`).ended).code);
    }
    assert.deepEqual(codes, [2, 1]);
    return undefined;
  });
}

test("with stdout and stderr full the program serves requests and exits with 0 on SIGHUP", async (t) => {
  if (process.platform !== "linux") return t.skip("/dev/full exists only on Linux");
  const port = await freePort();
  const flags = ["--host", "127.0.0.1", "--port", String(port), "--verbose"];
  const program = new Program(flags, {}, 'exec "$@" > /dev/full 2>&1');
  t.after(() => program.stop("SIGKILL"));
  await waitForServer(t, port);
  for (let count = 0; count < 50; count += 1) await send({ port }, "GET", "/nothing");
  assert.equal((await program.stop("SIGHUP")).code, 0);
  return undefined;
});

/** Waits for a server whose output cannot be read. */
async function waitForServer(t: TestContext, port: number): Promise<Reply> {
  for (const deadline = Date.now() + 8 * SECOND; ; await sleep(50)) {
    const isOpen = await new Promise((resolve) => {
      const socket = connect({ port, host: "127.0.0.1" });
      t.after(() => socket.destroy());
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    if (isOpen) return send({ port }, "GET", "/healthz");
    assert.ok(Date.now() < deadline, "the server did not start");
  }
}
