// What the tests share: a server on a free port with a clock of its own, a small client that checks the
// shape of what it gets, a bare socket for hostile bytes, and the program as a process.
//
// Where WATCH_PARTY_EXECUTABLE names an executable, that is what is started (`npm run test:executable`).

import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { Agent, request as httpRequest, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http";
import { request as httpsRequest } from "node:https";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import assets from "../dist/assets.json" with { type: "json" };
import { described } from "./openapi.ts";
import {
  type App,
  type AppOptions,
  createApp,
  type InvitePreview,
  type InviteReply,
  type MemberView,
  type MessageView,
  type PollReply,
  type Session,
} from "../server.ts";

const EXECUTABLE = process.env["WATCH_PARTY_EXECUTABLE"];

/**
 * For a test that sets the clock, brings a secret or looks inside: it tests the source, and is no part of a run
 * against an executable. Whoever does so without this mark fails there.
 */
export const testInside: typeof test = EXECUTABLE === undefined ? test : Object.assign(async () => {}, test);

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;

/** A well-formed chat id that no server has given out. */
export const NO_CHAT = "AAAAAAAAAAAAAAAA";

/** Every error code of the contract with its status. */
export const STATUS: Readonly<Record<string, number>> = {
  bad_request: 400,
  invalid_json: 400,
  invalid_cursor: 400,
  invalid_wait: 400,
  missing_token: 401,
  invalid_token: 401,
  expired_token: 401,
  revoked_token: 401,
  wrong_chat: 403,
  not_creator: 403,
  not_found: 404,
  chat_not_found: 404,
  method_not_allowed: 405,
  timeout: 408,
  chat_full: 409,
  username_taken: 409,
  too_large: 413,
  invalid_username: 422,
  invalid_text: 422,
  invalid_key: 422,
  rate_limited: 429,
  headers_too_large: 431,
  internal: 500,
  server_full: 503,
  stopping: 503,
};

/** A clock that moves only when told to, in milliseconds since 1970. */
export class Clock {
  ms = Date.UTC(2026, 2, 1, 12, 0, 0, 0);

  advance(milliseconds: number): void {
    this.ms += milliseconds;
  }

  /** The time `milliseconds` from now as the API writes it. */
  iso(milliseconds = 0): string {
    return new Date(this.ms + milliseconds).toISOString();
  }
}

export interface Reply {
  status: number;
  headers: IncomingHttpHeaders;
  bytes: Buffer;
  text: string;
  /** The body read as JSON, where the answer says that it is JSON. */
  body: unknown;
}

export interface SendOptions {
  token?: string;
  headers?: OutgoingHttpHeaders;
  /** Strings and buffers go as they are, anything else as JSON. */
  body?: unknown;
  /** Sends the body in pieces, without a Content-Length. */
  chunked?: boolean;
  signal?: AbortSignal;
}

export interface Target {
  port: number;
  agent?: Agent;
  /** Speaks TLS and takes any certificate. */
  tls?: boolean;
  /** Another program, of whose answers openapi.json says nothing. */
  isForeign?: boolean;
}

/** One request over real HTTP, with exactly the headers given (and Host and Connection). */
export function send(target: Target, method: string, path: string, options: SendOptions = {}): Promise<Reply> {
  const headers: OutgoingHttpHeaders = { ...options.headers };
  if (options.token !== undefined) headers["Authorization"] = `Bearer ${options.token}`;
  const bytes = bodyBytes(options.body);
  if (bytes !== undefined && options.chunked !== true) headers["Content-Length"] = bytes.length;
  if (bytes !== undefined && options.chunked === true) headers["Transfer-Encoding"] = "chunked";
  const isJson = typeof options.body === "object" && !Buffer.isBuffer(options.body);
  if (isJson && headers["Content-Type"] === undefined) headers["Content-Type"] = "application/json";
  return new Promise((resolve, reject) => {
    const call = target.tls === true ? httpsRequest : httpRequest;
    const outgoing = call(
      {
        host: "127.0.0.1",
        port: target.port,
        method,
        path,
        headers,
        rejectUnauthorized: false,
        ...(target.agent === undefined ? {} : { agent: target.agent }),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      },
      (incoming) => {
        const parts: Buffer[] = [];
        incoming.on("data", (part: Buffer) => parts.push(part));
        incoming.on("error", reject);
        incoming.on("end", () => {
          const reply = makeReply(incoming.statusCode ?? 0, incoming.headers, Buffer.concat(parts), method);
          if (reply instanceof Error) reject(reply);
          else resolve(target.isForeign === true ? reply : described(method, path, reply));
        });
      },
    );
    outgoing.on("error", reject);
    outgoing.end(bytes);
  });
}

function bodyBytes(body: unknown): Buffer | undefined {
  if (body === undefined) return undefined;
  if (Buffer.isBuffer(body)) return body;
  return Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
}

function makeReply(status: number, headers: IncomingHttpHeaders, bytes: Buffer, method = "GET"): Reply | Error {
  const text = bytes.toString("utf8");
  const isJson = headers["content-type"]?.startsWith("application/json") === true && method !== "HEAD";
  try {
    const body: unknown = isJson ? JSON.parse(text) : undefined;
    return { status, headers, bytes, text, body };
  } catch {
    return new Error(`Labelled JSON, but is none: ${text}`);
  }
}

// ---- What an answer must look like -------------------------------------------------------------------

/** Checks everything that the contract says of every API answer. */
export function assertApiHeaders(reply: Reply): void {
  assert.equal(reply.headers["cache-control"], "no-store");
  assert.equal(reply.headers["x-content-type-options"], "nosniff");
  assert.equal(reply.headers["access-control-allow-origin"], "*");
  if (reply.status === 204) {
    assert.equal(reply.headers["content-type"], undefined);
    assert.equal(reply.bytes.length, 0);
  } else {
    assert.equal(reply.headers["content-type"], "application/json; charset=utf-8");
  }
}

/** Checks that a reply is this error, with all that belongs to an error. Returns its sentence. */
export function assertError(reply: Reply, code: string): string {
  const fields = record(reply.body);
  assert.equal(fields["error"], code, `${reply.status} ${reply.text}`);
  assert.equal(reply.status, STATUS[code]);
  assertKeys(fields, ["error", "message"]);
  assertApiHeaders(reply);
  const message = stringOf(fields, "message");
  assert.match(message, /^\S[^\n]*[.!?]$/, "one sentence a person can read");
  assert.doesNotMatch(message, /\bat .*:\d+:\d+|node:|\.ts\b|\/[a-z]+\/[a-z]+\//, "no stack and no path");
  assert.equal(reply.headers["www-authenticate"], reply.status === 401 ? "Bearer" : undefined);
  if (reply.status === 429) assert.match(String(reply.headers["retry-after"]), /^[1-9]\d*$/);
  return message;
}

/** Checks an answer without a body. */
export function assertDone(reply: Reply): void {
  assert.equal(reply.status, 204, reply.text);
  assertApiHeaders(reply);
}

/** Checks the answer of create or join, made anew (201) or repeated (200). */
export function sessionOf(reply: Reply, status: 200 | 201 = 201): Session {
  assert.equal(reply.status, status, reply.text);
  assertApiHeaders(reply);
  const fields = record(reply.body);
  assertKeys(fields, ["chat_id", "session_token", "member_id", "username", "expires_at", "url"]);
  const session = {
    chat_id: stringOf(fields, "chat_id"),
    session_token: stringOf(fields, "session_token"),
    member_id: stringOf(fields, "member_id"),
    username: stringOf(fields, "username"),
    expires_at: timeOf(fields, "expires_at"),
    url: stringOf(fields, "url"),
  };
  assert.equal(reply.headers["location"], `/${session.chat_id}`);
  return session;
}

export function invitationOf(reply: Reply): InviteReply {
  assert.equal(reply.status, 201, reply.text);
  assertApiHeaders(reply);
  const fields = record(reply.body);
  assertKeys(fields, ["magic_link", "invite_token", "expires_at", "seats_left"]);
  return {
    magic_link: stringOf(fields, "magic_link"),
    invite_token: stringOf(fields, "invite_token"),
    expires_at: timeOf(fields, "expires_at"),
    seats_left: numberOf(fields, "seats_left"),
  };
}

export function lookOf(reply: Reply): InvitePreview {
  assert.equal(reply.status, 200, reply.text);
  assertApiHeaders(reply);
  const fields = record(reply.body);
  assertKeys(fields, ["chat_id", "seats_left", "members", "expires_at"]);
  return {
    chat_id: stringOf(fields, "chat_id"),
    seats_left: numberOf(fields, "seats_left"),
    members: listOf(fields, "members").map((name) => {
      assert.ok(typeof name === "string");
      return name;
    }),
    expires_at: timeOf(fields, "expires_at"),
  };
}

/** Checks the answer of a post, new (201) or repeated (200). */
export function messageOf(reply: Reply, status: 200 | 201 = 201): MessageView {
  assert.equal(reply.status, status, reply.text);
  assertApiHeaders(reply);
  return readMessage(reply.body);
}

/** Checks the answer of a poll. */
export function pollOf(reply: Reply): PollReply {
  assert.equal(reply.status, 200, reply.text);
  assertApiHeaders(reply);
  const fields = record(reply.body);
  const { retry_in: retryIn, ...rest } = fields;
  assertKeys(rest, ["messages", "cursor", "missed", "members", "expires_at"]);
  if ("retry_in" in fields) assert.equal(retryIn, 2);
  return {
    messages: listOf(fields, "messages").map(readMessage),
    cursor: numberOf(fields, "cursor"),
    missed: booleanOf(fields, "missed"),
    members: listOf(fields, "members").map(memberView),
    expires_at: timeOf(fields, "expires_at"),
    ...("retry_in" in fields ? { retry_in: numberOf(fields, "retry_in") } : {}),
  };
}

export function readMessage(value: unknown): MessageView {
  const fields = record(value);
  assertKeys(fields, ["id", "member_id", "username", "text", "sent_at"]);
  return {
    id: numberOf(fields, "id"),
    member_id: stringOf(fields, "member_id"),
    username: stringOf(fields, "username"),
    text: stringOf(fields, "text"),
    sent_at: timeOf(fields, "sent_at"),
  };
}

function memberView(value: unknown): MemberView {
  const fields = record(value);
  assertKeys(fields, ["id", "username", "creator", "online", "you"]);
  return {
    id: stringOf(fields, "id"),
    username: stringOf(fields, "username"),
    creator: booleanOf(fields, "creator"),
    online: booleanOf(fields, "online"),
    you: booleanOf(fields, "you"),
  };
}

export function record(value: unknown): Record<string, unknown> {
  assert.ok(typeof value === "object" && value !== null && !Array.isArray(value), `no object: ${String(value)}`);
  return { ...value };
}

export function assertKeys(fields: Record<string, unknown>, keys: string[]): void {
  assert.deepEqual(Object.keys(fields).toSorted(), keys.toSorted());
}

export function stringOf(fields: Record<string, unknown>, key: string): string {
  const value = fields[key];
  assert.ok(typeof value === "string", `${key} is no string`);
  return value;
}

export function numberOf(fields: Record<string, unknown>, key: string): number {
  const value = fields[key];
  assert.ok(typeof value === "number" && Number.isInteger(value), `${key} is no integer`);
  return value;
}

function booleanOf(fields: Record<string, unknown>, key: string): boolean {
  const value = fields[key];
  assert.ok(typeof value === "boolean", `${key} is no boolean`);
  return value;
}

function timeOf(fields: Record<string, unknown>, key: string): string {
  const value = stringOf(fields, key);
  assert.match(value, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, `${key} is no time in UTC with milliseconds`);
  return value;
}

export function listOf(fields: Record<string, unknown>, key: string): unknown[] {
  const value = fields[key];
  assert.ok(Array.isArray(value), `${key} is no list`);
  return value.map((item: unknown) => item);
}

/** The only element of a list, or the one at `index`; a test fails where there is none. */
export function at<T>(list: readonly T[], index: number): T {
  const item = list.at(index);
  assert.ok(item !== undefined, `nothing at ${index}`);
  return item;
}

// ---- A server and the people in it ---------------------------------------------------------------------

export interface Held {
  answer: Promise<Reply>;
  /** Goes away without waiting for the answer. */
  abort(): void;
}

/** One value of what a server with --metrics shows; NaN where there is none of that name. */
export async function readMetric(server: { send: TestServer["send"] }, name: string): Promise<number> {
  const { text } = await server.send("GET", "/metrics");
  return Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)?.[1]);
}

export class TestServer {
  readonly port: number;
  readonly base: string;
  readonly agent = new Agent({ keepAlive: true });
  readonly #inside: { app: App; clock: Clock } | undefined;

  /** A server on this port, in this process or, with nothing inside, in another. */
  constructor(port: number, inside?: { app: App; clock: Clock }) {
    this.port = port;
    this.base = `http://127.0.0.1:${port}`;
    this.#inside = inside;
  }

  get app(): App {
    assert.ok(this.#inside, "an executable lets nobody look inside: use testInside");
    return this.#inside.app;
  }

  get clock(): Clock {
    assert.ok(this.#inside, "an executable has the machine's clock: use testInside");
    return this.#inside.clock;
  }

  async countChats(): Promise<number> {
    return this.#inside?.app.chats.count().chats ?? readMetric(this, "watch_party_chats");
  }

  /** How many polls and streams it holds. */
  async countHeld(): Promise<number> {
    return this.#inside?.app.chats.count().waiters ?? readMetric(this, "watch_party_held_polls");
  }

  send(method: string, path: string, options: SendOptions = {}): Promise<Reply> {
    return send({ port: this.port, agent: this.agent }, method, path, options);
  }

  create(body?: unknown, headers?: OutgoingHttpHeaders): Promise<Reply> {
    return this.send("POST", "/create", { body, ...(headers === undefined ? {} : { headers }) });
  }

  join(chatId: string, body?: unknown, headers?: OutgoingHttpHeaders): Promise<Reply> {
    return this.send("POST", `/${chatId}/join`, { body, ...(headers === undefined ? {} : { headers }) });
  }

  /** Makes a chat of these people, the first its creator. */
  async party<Names extends string[]>(...names: Names): Promise<{ [Index in keyof Names]: Member }>;
  async party(...names: string[]): Promise<Member[]> {
    const creator = new Member(this, sessionOf(await this.create({ username: names[0] })));
    const members = [creator];
    if (names.length === 1) return members;
    const { invite_token } = invitationOf(await creator.invite());
    for (const username of names.slice(1)) {
      members.push(new Member(this, sessionOf(await this.join(creator.chatId, { invite_token, username }))));
    }
    return members;
  }

  /** Moves the clock and lets the server do what is due by then. */
  pass(milliseconds: number): void {
    this.clock.advance(milliseconds);
    this.app.sweep();
  }

  /** Sends a request and returns when the server holds it. */
  async hold(path: string, options: SendOptions = {}): Promise<Held> {
    const before = await this.countHeld();
    const controller = new AbortController();
    const answer = send({ port: this.port, agent: this.agent }, "GET", path, {
      ...options,
      signal: controller.signal,
    });
    let early: Reply | undefined;
    answer.then(
      (reply) => (early = reply),
      () => {},
    );
    await until(async () => early !== undefined || (await this.countHeld()) > before, "the poll to be held");
    assert.equal(early, undefined, `answered instead of held: ${early?.text}`);
    return { answer, abort: () => controller.abort() };
  }
}

/** Somebody with a seat. */
export class Member {
  readonly server: TestServer;
  readonly session: Session;
  readonly chatId: string;
  readonly token: string;
  readonly id: string;

  constructor(server: TestServer, session: Session) {
    this.server = server;
    this.session = session;
    this.chatId = session.chat_id;
    this.token = session.session_token;
    this.id = session.member_id;
  }

  send(method: string, path = "", options: SendOptions = {}): Promise<Reply> {
    return this.server.send(method, `/${this.chatId}${path}`, { token: this.token, ...options });
  }

  post(text: unknown, headers?: OutgoingHttpHeaders): Promise<Reply> {
    return this.send("POST", "", { body: { text }, ...(headers === undefined ? {} : { headers }) });
  }

  /** Posts and insists that it worked. */
  async say(text: string): Promise<MessageView> {
    return messageOf(await this.post(text));
  }

  poll(query = ""): Promise<Reply> {
    return this.send("GET", query);
  }

  /** Polls and insists that it worked. */
  async read(query = ""): Promise<PollReply> {
    return pollOf(await this.poll(query));
  }

  /** Polls from the chat's cursor (or with the query given) and returns when the server holds it. */
  hold(query = "?since=latest&wait=50"): Promise<Held> {
    return this.server.hold(`/${this.chatId}${query}`, { token: this.token });
  }

  invite(): Promise<Reply> {
    return this.send("POST", "/invite");
  }

  /** Makes an invitation and insists that it worked. */
  async inviteToken(): Promise<string> {
    return invitationOf(await this.invite()).invite_token;
  }

  look(inviteToken: string): Promise<Reply> {
    return this.server.send("GET", `/${this.chatId}/invite`, { token: inviteToken });
  }

  revoke(): Promise<Reply> {
    return this.send("DELETE", "/invite");
  }

  leave(): Promise<Reply> {
    return this.send("POST", "/leave");
  }

  remove(memberId: string): Promise<Reply> {
    return this.send("DELETE", `/members/${memberId}`);
  }

  end(): Promise<Reply> {
    return this.send("DELETE");
  }
}

/** A server on a free port of this machine, with a clock of its own. Gone when the test is over. */
export async function startServer(t: TestContext, options: AppOptions = {}): Promise<TestServer> {
  if (EXECUTABLE !== undefined) return startExecutable(t, options);
  const clock = new Clock();
  const app = createApp({ now: () => clock.ms, ...options });
  const port = await listen(app);
  const server = new TestServer(port, { app, clock });
  t.after(async () => {
    server.agent.destroy();
    app.server.closeAllConnections();
    await app.stop();
  });
  return server;
}

/** The same by the executable; its metrics tell what a test would otherwise count inside. */
async function startExecutable(t: TestContext, options: AppOptions): Promise<TestServer> {
  const { url, trustProxy, maxChats, rateLimit, node, metrics = true, ...inside } = options;
  assert.deepEqual(inside, {}, "an executable takes flags only: use testInside");
  const program = new Program([
    ...LOCAL,
    ...(url === undefined ? [] : ["--url", url]),
    ...(trustProxy === true ? ["--trust-proxy"] : []),
    ...(maxChats === undefined ? [] : ["--max-chats", String(maxChats)]),
    ...(rateLimit === false ? ["--no-rate-limit"] : []),
    ...(node === undefined ? [] : ["--node", node]),
    ...(metrics ? ["--metrics"] : []),
  ]);
  // Asked to stop, it would wait for the connections that a test leaves open.
  t.after(() => program.stop("SIGKILL"));
  await program.listening();
  // With --url, that is the first address.
  const server = new TestServer(Number(/http:\/\/(?:localhost|127\.0\.0\.1):(\d+)/.exec(program.stdout)?.[1]));
  t.after(() => server.agent.destroy());
  return server;
}

/** Listens on a free port, and returns it. */
export function listen(app: App): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.once("error", reject);
    app.server.listen(0, "127.0.0.1", () => resolve(portOf(app.server.address())));
  });
}

export function portOf(address: unknown): number {
  return numberOf(record(address), "port");
}

/** Waits for something that announces itself by no event. */
export async function until(isTrue: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 8 * SECOND;
  while (!(await isTrue())) {
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

// ---- Bare sockets ----------------------------------------------------------------------------------------

/** A socket that sends what no HTTP client would, and reads what comes back. */
export class Wire {
  readonly socket: Socket;
  received = "";
  isClosed = false;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding("latin1");
    socket.on("data", (part: string) => (this.received += part));
    socket.on("error", () => {});
    socket.on("close", () => (this.isClosed = true));
  }

  static open(t: TestContext, port: number): Promise<Wire> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host: "127.0.0.1" });
      t.after(() => socket.destroy());
      socket.once("error", reject);
      socket.once("connect", () => resolve(new Wire(socket)));
    });
  }

  write(text: string): void {
    this.socket.write(text, "latin1");
  }

  /** Waits until what has come fits the pattern. */
  async waitFor(pattern: RegExp): Promise<void> {
    await until(() => pattern.test(this.received) || this.isClosed, String(pattern));
    assert.match(this.received, pattern);
  }

  /** Waits for the end of the connection and returns the one answer that came. */
  async lastReply(): Promise<Reply> {
    await until(() => this.isClosed, "the end of the connection");
    return parseReply(this.received);
  }
}

/** Reads one answer with a Content-Length from what came over a bare socket. */
export function parseReply(received: string): Reply {
  const split = received.indexOf("\r\n\r\n");
  assert.ok(split > 0, `no answer: ${JSON.stringify(received)}`);
  const [first = "", ...lines] = received.slice(0, split).split("\r\n");
  const headers: IncomingHttpHeaders = {};
  for (const line of lines) {
    const colon = line.indexOf(":");
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  const reply = makeReply(
    Number(/^HTTP\/1\.1 (\d{3})/.exec(first)?.[1]),
    headers,
    Buffer.from(received.slice(split + 4), "latin1"),
  );
  if (reply instanceof Error) throw reply;
  return reply;
}

/** Sends bytes to the server and returns what it answers before it ends the connection. */
export async function exchange(t: TestContext, port: number, text: string): Promise<Reply> {
  const wire = await Wire.open(t, port);
  wire.write(text);
  const [, method = "", target = ""] = /^(\S+) (\S+)/.exec(text) ?? [];
  return described(method, target, await wire.lastReply());
}

/** A port that nobody listens on at the moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const port = portOf(probe.address());
      probe.close(() => resolve(port));
    });
  });
}

// ---- The program as a process ----------------------------------------------------------------------------

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/**
 * The program with these flags; only the environment given says anything of Watch Party. With a
 * `shell` line it is run by sh, where "$@" stands for it.
 */
export class Program {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  stdout = "";
  stderr = "";
  readonly ended: Promise<Ended>;

  constructor(flags: readonly string[], env: NodeJS.ProcessEnv = {}, shell = 'exec "$@"') {
    const command = [...COMMAND, ...flags];
    const [file, ...parameters] = shell === 'exec "$@"' ? command : ["sh", "-c", shell, "sh", ...command];
    this.child = spawn(file ?? "", parameters, {
      env: { ...plainEnvironment(), ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.child.stdout.setEncoding("utf8").on("data", (part: string) => (this.stdout += part));
    this.child.stderr.setEncoding("utf8").on("data", (part: string) => (this.stderr += part));
    this.ended = new Promise((resolve) => {
      this.child.on("close", (code, signal) => {
        resolve({ code, signal, stdout: this.stdout, stderr: this.stderr });
      });
    });
  }

  /** Starts the program and returns when it has printed where it listens. Stopped when the test is over. */
  static async start(
    t: TestContext,
    flags: readonly string[] = ["--port", "0"],
    env: NodeJS.ProcessEnv = {},
  ): Promise<Program> {
    const program = new Program(flags, env);
    t.after(() => program.stop());
    await program.listening();
    return program;
  }

  /** Waits for the print-out of the start to be complete: its curl line comes after the addresses. */
  async listening(): Promise<void> {
    await until(
      () => /curl[^\n]*\n/.test(this.stdout) || this.child.exitCode !== null,
      `the start of the program: ${this.stdout}${this.stderr}`,
    );
    assert.equal(this.child.exitCode, null, this.stderr);
  }

  /** The port in the first address printed. */
  get port(): number {
    return Number(/https?:\/\/\S+?:(\d+)/.exec(this.stdout)?.[1]);
  }

  send(method: string, path: string, options: SendOptions = {}): Promise<Reply> {
    return send({ port: this.port }, method, path, options);
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<Ended> {
    this.child.kill(signal);
    return this.ended;
  }
}

export const SERVER = fileURLToPath(new URL("../server.ts", import.meta.url));

/** What starts the program: `node server.ts`, or the executable. */
export const COMMAND: readonly string[] = EXECUTABLE === undefined ? [process.execPath, SERVER] : [EXECUTABLE];

/** The executable that `npm run package` makes for this machine. */
export function executablePath(): string {
  const system = { win32: "windows", darwin: "macos" }[process.platform as string] ?? process.platform;
  const suffix = process.platform === "win32" ? ".exe" : "";
  const name = `watch-party-${assets.version}-${system}-${process.arch}${suffix}`;
  return fileURLToPath(new URL(`../dist/${name}`, import.meta.url));
}

/** This process's environment without what would set one of the program's flags. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(
    ([name]) => !name.startsWith("WATCH_PARTY_") && name !== "PORT" && name !== "NO_COLOR" && name !== "FORCE_COLOR",
  );
  return Object.fromEntries(entries);
}

/** Runs the program to its end. */
export function run(flags: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  return new Program(flags, env).ended;
}

/** A folder that is gone when the test is over. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "watch-party-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Listens on a port (any by default) until the test is over. */
export function takenPort(t: TestContext, port = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    const other = createServer();
    other.once("error", reject);
    other.listen(port, "127.0.0.1", () => {
      t.after(() => other.close());
      resolve(portOf(other.address()));
    });
  });
}

/** Flags to listen where nobody else sees it. */
export const LOCAL: readonly string[] = ["--host", "127.0.0.1", "--port", "0"];
