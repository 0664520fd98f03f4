// Told to stop amid a great deal of talk, the program loses nothing that was answered from the sight of those who
// wait, and is gone in time.

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
import { type Answer, Line } from "./tools.ts";

const CHATS = 30;
const READERS = 4;
const WRITERS = 2;

/** A chat, what its writers were told is said, and what each reader has seen. */
interface Talk {
  readonly path: string;
  readonly tokens: string[];
  readonly answered: string[];
  readonly ends: { seen: Set<string>; how: "told" | "cut" }[];
}

for (const signal of ["SIGTERM", "SIGHUP"] as const) {
  test(`${signal} under full load loses no answered message from the sight of who waits`, async (t) => {
    if (process.platform === "win32") return t.skip("Windows has no signals to send");
    const program = await Program.start(t, [...LOCAL, "--no-rate-limit"]);
    const talks = await Promise.all(Array.from({ length: CHATS }, () => newTalk(program)));
    const all = talks.flatMap((talk) => [
      ...Array.from({ length: READERS }, (_, index) => read(program, talk, at(talk.tokens, index))),
      ...Array.from({ length: WRITERS }, (_, index) => write(program, talk, at(talk.tokens, READERS + index))),
    ]);
    const count = () => talks.reduce((sum, { answered }) => sum + answered.length, 0);
    while (count() < 1_000) await sleep(20);
    const signalled = performance.now();
    program.child.kill(signal);
    const ended = await program.ended;
    const took = performance.now() - signalled;
    await Promise.all(all);

    const ends = talks.flatMap((talk) => talk.ends.map((end) => ({ ...end, talk })));
    const told = ends.filter(({ how }) => how === "told");
    const cut = ends.length - told.length;
    t.diagnostic(JSON.stringify({ messages: count(), told: told.length, cut, took: Math.round(took) }));
    assert.deepEqual([ended.code, ended.signal, ended.stderr], [0, null, ""]);
    // The contract's two seconds, and one more for a busy machine.
    assert.ok(took < 3 * SECOND, `took ${took} ms`);
    assert.equal(cut, 0, "readers were cut off instead of told");
    for (const { seen, talk, how } of ends) {
      const missing = talk.answered.filter((text) => !seen.has(text));
      assert.deepEqual(missing, [], `answered, and not seen by a reader who was ${how}`);
    }
    return undefined;
  });
}

async function newTalk(program: Program): Promise<Talk> {
  const creator = sessionOf(await program.send("POST", "/create"));
  const path = `/${creator.chat_id}`;
  const token = creator.session_token;
  const { invite_token } = invitationOf(await program.send("POST", `${path}/invite`, { token }));
  const tokens = [token];
  while (tokens.length < READERS + WRITERS) {
    tokens.push(sessionOf(await program.send("POST", `${path}/join`, { body: { invite_token } })).session_token);
  }
  return { path, tokens, answered: [], ends: [] };
}

/** Polls until the server says that it stops, or is gone. */
async function read(program: Program, talk: Talk, token: string): Promise<void> {
  const line = await Line.open(program.port);
  const seen = new Set<string>();
  for (let cursor = 0; ;) {
    try {
      const { status, body } = await askUntilOver(program, line, "GET", `${talk.path}?since=${cursor}&wait=50`, {
        token,
      });
      if (status === 503) return void talk.ends.push({ seen, how: "told" });
      const reply = pollOf({ status, headers: API, bytes: Buffer.alloc(0), text: "", body });
      assert.equal(reply.missed, false);
      for (const { text } of reply.messages) seen.add(text);
      ({ cursor } = reply);
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      return void talk.ends.push({ seen, how: "cut" });
    }
  }
}

/** A Line on which nothing is asked does not notice that it was closed; then the program's end is the end. */
function askUntilOver(program: Program, line: Line, ...question: Parameters<Line["ask"]>): Promise<Answer> {
  const over = program.ended.then(async (): Promise<Answer> => {
    await sleep(500);
    throw new Error("over");
  });
  return Promise.race([line.ask(...question), over]);
}

/** What `pollOf` wants of headers; a Line does not read them. */
const API = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "access-control-allow-origin": "*",
  "content-type": "application/json; charset=utf-8",
};

/** Says one thing after the other, until nobody answers any more. */
async function write(program: Program, talk: Talk, token: string): Promise<void> {
  const line = await Line.open(program.port);
  for (let count = 0; ; count += 1) {
    const text = `${talk.tokens.indexOf(token)}: ${count}`;
    try {
      const { status } = await askUntilOver(program, line, "POST", talk.path, { token, body: { text } });
      if (status !== 201) return;
      talk.answered.push(text);
      await sleep(Math.random() * 60);
    } catch {
      return;
    }
  }
}

test("a message whose body comes after the signal is seen by who waits, or is not answered as said", async (t) => {
  if (process.platform === "win32") return t.skip("Windows has no signals to send");
  const program = await Program.start(t, LOCAL);
  const session = sessionOf(await program.send("POST", "/create"));
  const token = session.session_token;
  const path = `/${session.chat_id}`;
  const held = program.send("GET", `${path}?since=1&wait=50`, { token });
  const late = await Wire.open(t, program.port);
  const head = `POST ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n`;
  late.write(`${head}Expect: 100-continue\r\nContent-Length: 15\r\n\r\n`);
  await late.waitFor(/^HTTP\/1\.1 100 /);
  program.child.kill("SIGTERM");
  await sleep(200);
  late.write('{"text":"late"}');
  await late.waitFor(/HTTP\/1\.1 (?:201|503) /);
  const reply = await held;
  if (/HTTP\/1\.1 201 /.test(late.received)) {
    assert.deepEqual(
      pollOf(reply).messages.map(({ text }) => text),
      ["late"],
      "answered as said, and not seen",
    );
  } else assertError(reply, "stopping");
  assert.equal((await program.ended).code, 0);
  return undefined;
});

test("a poll that comes after the signal still gets what was said before it", async (t) => {
  if (process.platform === "win32") return t.skip("Windows has no signals to send");
  const program = await Program.start(t, LOCAL);
  const session = sessionOf(await program.send("POST", "/create"));
  const token = session.session_token;
  const path = `/${session.chat_id}`;
  messageOf(await program.send("POST", path, { token, body: { text: "before" } }));
  const reader = await Wire.open(t, program.port);
  // The request is under way when the signal comes, so its connection is not idle.
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

for (const [what, redirection] of [
  ["full", "2> /dev/full"],
  ["closed", "2>&-"],
] as const) {
  test(`where stderr is ${what}, what fails at the start ends with its code all the same`, async (t) => {
    if (process.platform !== "linux") return t.skip("/dev/full is Linux's");
    const codes: (number | null)[] = [];
    for (const flags of [["--nonsense"], [...LOCAL, "--tls-cert", "/nowhere", "--tls-key", "/nowhere"]]) {
      codes.push((await new Program(flags, {}, `exec "$@" ${redirection}`).ended).code);
    }
    assert.deepEqual(codes, [2, 1]);
    return undefined;
  });
}

test("with stdout and stderr both full it serves, logs into the void, and ends with 0 on SIGHUP", async (t) => {
  if (process.platform !== "linux") return t.skip("/dev/full is Linux's");
  const port = await freePort();
  const flags = ["--host", "127.0.0.1", "--port", String(port), "--verbose"];
  const program = new Program(flags, {}, 'exec "$@" > /dev/full 2>&1');
  t.after(() => program.stop("SIGKILL"));
  await served(t, port);
  for (let count = 0; count < 50; count += 1) await send({ port }, "GET", "/nothing");
  assert.equal((await program.stop("SIGHUP")).code, 0);
  return undefined;
});

/** Waits for a server whose print-out nobody can read. */
async function served(t: TestContext, port: number): Promise<Reply> {
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
