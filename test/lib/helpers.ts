// Helpers for all tests: an HTTP client that checks every answer, a server with its own clock, a raw socket for malformed
// bytes, and the program as a process.
//
// With WATCH_PARTY_EXECUTABLE set, the tests start that executable instead of the source (`npm run test:executable`).

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
import { stripVTControlCharacters } from "node:util";
import { gunzipSync } from "node:zlib";
import assets from "../../dist/assets.json" with { type: "json" };
import packageJson from "../../package.json" with { type: "json" };
import { assertDocumented, findFault, pointerTo } from "./openapi.ts";
import {
  type App,
  type AppOptions,
  createApp,
  type ErrorReply,
  ERRORS,
  type InvitePreview,
  type InviteReply,
  type MemberView,
  type MessageView,
  type PollReply,
  type RedeemReply,
  type Session,
} from "../../server.ts";

const EXECUTABLE = process.env["WATCH_PARTY_EXECUTABLE"];

/**
 * For tests that need the server in this process: they set the clock, pass a secret or read the store. A run against an
 * executable leaves them out. In such a run, `server.app` and `server.clock` throw for tests without this mark.
 */
export const testInProcess: typeof test = EXECUTABLE === undefined ? test : Object.assign(async () => {}, test);

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;

/** A valid chat id that no server has issued. */
export const NO_CHAT = "AAAAAAAAAAAAAAAA";

/** The HTTP status of each error code. */
export const STATUS: Readonly<Record<string, number>> = Object.fromEntries(
  Object.entries(ERRORS).map(([code, { status }]) => [code, status]),
);

/** A clock that stands still until a test moves it, in milliseconds since 1970. */
export class Clock {
  ms = Date.UTC(2026, 2, 1, 12, 0, 0, 0);

  advance(milliseconds: number): void {
    this.ms += milliseconds;
  }

  /** The time `milliseconds` from now in the API's format. */
  iso(milliseconds = 0): string {
    return new Date(this.ms + milliseconds).toISOString();
  }
}

export interface Reply {
  status: number;
  headers: IncomingHttpHeaders;
  bytes: Buffer;
  text: string;
  /** The parsed body if its content type is JSON. */
  body: unknown;
}

export interface SendOptions {
  token?: string;
  headers?: OutgoingHttpHeaders;
  /** Strings and buffers are sent unchanged, anything else as JSON. */
  body?: unknown;
  /** Sends the body chunked, without a Content-Length. */
  chunked?: boolean;
  signal?: AbortSignal;
}

export interface Target {
  port: number;
  agent?: Agent;
  /** Uses TLS and accepts any certificate. */
  tls?: boolean;
  /** Another program, whose answers openapi.json does not describe. */
  isForeign?: boolean;
}

/**
 * Sends one request over HTTP with exactly these headers, plus Host and Connection. Rejects if docs/openapi.json does not
 * describe the answer.
 */
export function send(target: Target, method: string, path: string, options: SendOptions = {}): Promise<Reply> {
  const headers: OutgoingHttpHeaders = { ...options.headers };
  if (options.token !== undefined) headers["Authorization"] = `Bearer ${options.token}`;
  const bytes = bodyBytes(options.body);
  if (bytes !== undefined && options.chunked !== true) headers["Content-Length"] = bytes.length;
  if (bytes !== undefined && options.chunked === true) headers["Transfer-Encoding"] = "chunked";
  const isJson = typeof options.body === "object" && !Buffer.isBuffer(options.body);
  if (isJson && headers["Content-Type"] === undefined) headers["Content-Type"] = "application/json";
  return new Promise((resolve, reject) => {
    const request = target.tls === true ? httpsRequest : httpRequest;
    const outgoing = request(
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
          else resolve(target.isForeign === true ? reply : assertDocumented(method, path, reply));
        });
      },
    );
    outgoing.on("error", reject);
    outgoing.end(bytes);
  });
}

/** Sends a request that must succeed. Returns its body, which the type argument describes. */
export async function call<Body>(
  target: Target,
  method: string,
  path: string,
  options: SendOptions = {},
): Promise<Body> {
  const reply = await send(target, method, path, options);
  assert.ok(reply.status >= 200 && reply.status < 300, `${method} ${path}: ${reply.status} ${reply.text}`);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: `send` has checked the body
  return reply.body as Body;
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
    return new Error(`The body is labelled JSON, but is not: ${text}`);
  }
}

// ---- Checks of an answer ------------------------------------------------------------------------------

/** Asserts the headers that every API answer has. */
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

/** Asserts that a reply is this error, with the status and headers of an error. Returns its sentence. */
export function assertError(reply: Reply, code: string): string {
  assert.equal(reply.status, STATUS[code], reply.text);
  const { error, message } = errorOf(reply);
  assert.equal(error, code, message);
  assertApiHeaders(reply);
  assert.match(message, /^\S[^\n]*[.!?]$/, "a readable sentence");
  assert.doesNotMatch(message, /\bat .*:\d+:\d+|node:|\.ts\b|\/[a-z]+\/[a-z]+\//, "without a stack or path");
  assert.equal(reply.headers["www-authenticate"], reply.status === 401 ? "Bearer" : undefined);
  if (reply.status === 429) assert.match(String(reply.headers["retry-after"]), /^[1-9]\d*$/);
  return message;
}

/** The body of an error. */
export function errorOf({ body }: Reply): ErrorReply {
  return readAs("Error", body);
}

/** Asserts an answer without a body. */
export function assertNoContent(reply: Reply): void {
  assert.equal(reply.status, 204, reply.text);
  assertApiHeaders(reply);
}

/** The wire types of schemas in docs/openapi.json. */
interface WireTypes {
  Session: Session;
  Invite: InviteReply;
  InvitePreview: InvitePreview;
  Redeemed: RedeemReply;
  Message: MessageView;
  Poll: PollReply;
  StreamLine: StreamLine;
  Error: ErrorReply;
}
export type StreamLine =
  | { members: MemberView[]; cursor: number; removed?: string[] }
  | { missed: true }
  | MessageView
  | ErrorReply;

/** Gives a value from JSON its wire type. Asserts that it matches the schema, as bytes from raw sockets are unchecked. */
export function readAs<Name extends keyof WireTypes>(name: Name, value: unknown): WireTypes[Name] {
  assert.equal(findFault(pointerTo("components", "schemas", name), value), undefined, JSON.stringify(value));
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: checked against docs/openapi.json
  return value as WireTypes[Name];
}

/** The body of an API answer with this status. */
function bodyOf<Name extends keyof WireTypes>(name: Name, reply: Reply, status: number): WireTypes[Name] {
  assert.equal(reply.status, status, reply.text);
  assertApiHeaders(reply);
  return readAs(name, reply.body);
}

/** The body of a create or join: 201 for a new seat, 200 for a repeated request. */
export function sessionOf(reply: Reply, status: 200 | 201 = 201): Session {
  const session = bodyOf("Session", reply, status);
  assert.equal(reply.headers["location"], `/${session.chat_id}`);
  return session;
}

export function invitationOf(reply: Reply): InviteReply {
  return bodyOf("Invite", reply, 201);
}

export function previewOf(reply: Reply): InvitePreview {
  return bodyOf("InvitePreview", reply, 200);
}

export function redeemedOf(reply: Reply): RedeemReply {
  return bodyOf("Redeemed", reply, 200);
}

/** The body of a post: 201 for a new message, 200 for a repeated request. */
export function messageOf(reply: Reply, status: 200 | 201 = 201): MessageView {
  return bodyOf("Message", reply, status);
}

export function pollOf(reply: Reply): PollReply {
  return bodyOf("Poll", reply, 200);
}

/** A message from a line of a stream. */
export function readMessage(value: unknown): MessageView {
  return readAs("Message", value);
}

/** The fields of a JSON object that has no wire type. */
export function record(value: unknown): Record<string, unknown> {
  assert.ok(typeof value === "object" && value !== null && !Array.isArray(value), `not an object: ${String(value)}`);
  return { ...value };
}

export function stringOf(fields: Record<string, unknown>, key: string): string {
  const value = fields[key];
  assert.ok(typeof value === "string", `${key} is not a string`);
  return value;
}

export function numberOf(fields: Record<string, unknown>, key: string): number {
  const value = fields[key];
  assert.ok(typeof value === "number" && Number.isInteger(value), `${key} is not an integer`);
  return value;
}

/** The element at `index`, from the end if negative. The test fails if there is none. */
export function at<T>(list: readonly T[], index: number): T {
  const item = list.at(index);
  assert.ok(item !== undefined, `no element at ${index}`);
  return item;
}

// ---- A server and its members ----------------------------------------------------------------------------

export interface HeldPoll {
  reply: Promise<Reply>;
  /** Disconnects without waiting for the reply. */
  abort(): void;
}

/** One metric of a server with --metrics. NaN if there is no metric of that name. */
export async function readMetric(server: { send: TestServer["send"] }, name: string): Promise<number> {
  const { text } = await server.send("GET", "/metrics");
  return Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)?.[1]);
}

export class TestServer {
  readonly port: number;
  readonly base: string;
  readonly agent = new Agent({ keepAlive: true });
  readonly #local: { app: App; clock: Clock } | undefined;

  /** A server on this port. Without `local` it runs in another process. */
  constructor(port: number, local?: { app: App; clock: Clock }) {
    this.port = port;
    this.base = `http://127.0.0.1:${port}`;
    this.#local = local;
  }

  get app(): App {
    assert.ok(this.#local, "an executable does not expose its app: use testInProcess");
    return this.#local.app;
  }

  get clock(): Clock {
    assert.ok(this.#local, "an executable uses the system clock: use testInProcess");
    return this.#local.clock;
  }

  async countChats(): Promise<number> {
    return this.#local?.app.chats.count().chats ?? readMetric(this, "watch_party_chats");
  }

  /** The number of held polls and open streams. */
  async countWaiters(): Promise<number> {
    return this.#local?.app.chats.count().waiters ?? readMetric(this, "watch_party_held_polls");
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

  redeem(code: unknown): Promise<Reply> {
    return this.send("POST", "/redeem", { body: { code } });
  }

  /** Creates a chat with these members. The first is the creator. */
  async chat<Names extends string[]>(...names: Names): Promise<{ [Index in keyof Names]: Member }>;
  async chat(...names: string[]): Promise<Member[]> {
    const creator = new Member(this, sessionOf(await this.create({ username: names[0] })));
    const members = [creator];
    if (names.length === 1) return members;
    const { invite_token } = invitationOf(await creator.invite());
    for (const username of names.slice(1)) {
      members.push(new Member(this, sessionOf(await this.join(creator.chatId, { invite_token, username }))));
    }
    return members;
  }

  /** Moves the clock and runs the sweep that is due by then. */
  advanceAndSweep(milliseconds: number): void {
    this.clock.advance(milliseconds);
    this.app.sweep();
  }

  /** Sends a poll and resolves once the server holds it. */
  async openPoll(path: string, options: SendOptions = {}): Promise<HeldPoll> {
    const before = await this.countWaiters();
    const controller = new AbortController();
    const reply = send({ port: this.port, agent: this.agent }, "GET", path, {
      ...options,
      signal: controller.signal,
    });
    let early: Reply | undefined;
    reply.then(
      (arrived) => (early = arrived),
      () => {},
    );
    await until(async () => early !== undefined || (await this.countWaiters()) > before, "the poll to be held");
    assert.equal(early, undefined, `the poll was answered, not held: ${early?.text}`);
    return { reply, abort: () => controller.abort() };
  }
}

/** A member of a chat, with their session. */
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

  /** Posts a message, which must succeed. */
  async say(text: string): Promise<MessageView> {
    return messageOf(await this.post(text));
  }

  poll(query = ""): Promise<Reply> {
    return this.send("GET", query);
  }

  /** Polls, which must succeed. */
  async read(query = ""): Promise<PollReply> {
    return pollOf(await this.poll(query));
  }

  /** Opens a poll, at the chat's cursor by default, and resolves once the server holds it. */
  openPoll(query = "?since=latest&wait=50"): Promise<HeldPoll> {
    return this.server.openPoll(`/${this.chatId}${query}`, { token: this.token });
  }

  invite(): Promise<Reply> {
    return this.send("POST", "/invite");
  }

  /** Makes an invitation, which must succeed. */
  async inviteToken(): Promise<string> {
    return invitationOf(await this.invite()).invite_token;
  }

  /** Makes an invitation, which must succeed, and returns its code. */
  async code(): Promise<string> {
    return invitationOf(await this.invite()).code;
  }

  preview(inviteToken: string): Promise<Reply> {
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

/** Starts a server on a free port with its own clock. It is stopped after the test. */
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

/** Starts the executable instead. Its metrics replace the counts of the store. */
async function startExecutable(t: TestContext, options: AppOptions): Promise<TestServer> {
  const { url, trustProxy, maxChats, rateLimit, node, metrics = true, ...others } = options;
  assert.deepEqual(others, {}, "an executable has no flag for this option: use testInProcess");
  const program = new Program([
    ...LOCAL,
    ...(url === undefined ? [] : ["--url", url]),
    ...(trustProxy === true ? ["--trust-proxy"] : []),
    ...(maxChats === undefined ? [] : ["--max-chats", String(maxChats)]),
    ...(rateLimit === false ? ["--no-rate-limit"] : []),
    ...(node === undefined ? [] : ["--node", node]),
    ...(metrics ? ["--metrics"] : []),
  ]);
  // SIGTERM would wait for connections that a test leaves open.
  t.after(() => program.stop("SIGKILL"));
  await program.listening();
  // With --url, the local address is not the first one printed.
  const server = new TestServer(Number(/http:\/\/(?:localhost|127\.0\.0\.1):(\d+)/.exec(program.stdout)?.[1]));
  t.after(() => server.agent.destroy());
  return server;
}

/** Makes an app listen on a free port. Returns the port. */
export function listen(app: App): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.once("error", reject);
    app.server.listen(0, "127.0.0.1", () => resolve(portOf(app.server.address())));
  });
}

export function portOf(address: unknown): number {
  return numberOf(record(address), "port");
}

/** Waits up to 8 seconds for a condition that has no event. */
export async function until(isTrue: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 8 * SECOND;
  while (!(await isTrue())) {
    assert.ok(Date.now() < deadline, `timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

// ---- Raw sockets -----------------------------------------------------------------------------------------

/** A raw socket, to send bytes that no HTTP client would send and to read the answers. */
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

  /** Waits until the received text matches the pattern. */
  async waitFor(pattern: RegExp): Promise<void> {
    await until(() => pattern.test(this.received) || this.isClosed, String(pattern));
    assert.match(this.received, pattern);
  }

  /** Waits until the connection closes and returns its only answer. */
  async lastReply(): Promise<Reply> {
    await until(() => this.isClosed, "the connection to close");
    return parseReply(this.received);
  }
}

/** Parses one answer that arrived over a raw socket. It must have a Content-Length. */
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

/** Sends bytes to the server and returns its answer once it has closed the connection. */
export async function exchange(t: TestContext, port: number, text: string): Promise<Reply> {
  const wire = await Wire.open(t, port);
  wire.write(text);
  const [, method = "", target = ""] = /^(\S+) (\S+)/.exec(text) ?? [];
  return assertDocumented(method, target, await wire.lastReply());
}

/** A port that is free at the moment. */
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

/** How a process ended, and everything it printed. */
export interface ProcessResult {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/**
 * The program with these flags. It gets no Watch Party variables from this process, only those in `env`. With a `shell`
 * line, sh runs that line, in which "$@" is the program.
 */
export class Program {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  stdout = "";
  stderr = "";
  readonly ended: Promise<ProcessResult>;

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

  /** Starts the program and waits until it has printed its addresses. It is stopped after the test. */
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

  /** Waits until the start-up text is complete: its curl line follows the addresses. */
  async listening(): Promise<void> {
    await until(
      () => /curl[^\n]*\n/.test(this.stdout) || this.child.exitCode !== null,
      `the program to start: ${this.stdout}${this.stderr}`,
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

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<ProcessResult> {
    this.child.kill(signal);
    return this.ended;
  }
}

export const SERVER = fileURLToPath(new URL("../../server.ts", import.meta.url));

/** The command that starts the program: `node server.ts`, or the executable. Windows starts no scripts by themselves. */
export const COMMAND: readonly string[] =
  EXECUTABLE === undefined
    ? [process.execPath, SERVER]
    : process.platform === "win32" && EXECUTABLE.endsWith(".cjs")
      ? [process.execPath, EXECUTABLE]
      : [EXECUTABLE];

/** The flags with which `npm start` runs Node. */
export const NODE_FLAGS = packageJson.scripts.start.split(" ").filter((word) => word.startsWith("--"));

/** The path of the executable that `npm run package` makes for this machine. */
export function executablePath(): string {
  const system = { win32: "windows", darwin: "macos" }[process.platform as string] ?? process.platform;
  const suffix = process.platform === "win32" ? ".exe" : "";
  const name = `watch-party-${assets.version}-${system}-${process.arch}${suffix}`;
  return fileURLToPath(new URL(`../../dist/${name}`, import.meta.url));
}

/** Reads a QR code of half blocks back into rows of dark (true) and light modules. */
export function modulesOf(stdout: string): boolean[][] {
  return stripVTControlCharacters(stdout)
    .split(/\r?\n/)
    .filter((line) => /[\u2580-\u259F]{4}/.test(line))
    .flatMap((line) => {
      const cells = Array.from(line);
      return [cells.map((cell) => !"\u2580\u2588".includes(cell)), cells.map((cell) => !"\u2584\u2588".includes(cell))];
    });
}

/** The page as the build made it, by default in English. */
export function builtPage(language: keyof typeof assets.pages = "en"): { text: string; policy: string } {
  const { gzip, headers } = assets.pages[language];
  return { text: gunzipSync(Buffer.from(gzip, "base64")).toString(), policy: headers["Content-Security-Policy"] };
}

/** This process's environment without the variables that set the program's flags or colours. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(
    ([name]) => !name.startsWith("WATCH_PARTY_") && name !== "PORT" && name !== "NO_COLOR" && name !== "FORCE_COLOR",
  );
  return Object.fromEntries(entries);
}

/** Runs the program until it exits. */
export function run(flags: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<ProcessResult> {
  return new Program(flags, env).ended;
}

/** Makes a folder that is deleted after the test. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "watch-party-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Occupies a port, by default any free one, until the end of the test. */
export function occupyPort(t: TestContext, port = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    const other = createServer();
    other.once("error", reject);
    other.listen(port, "127.0.0.1", () => {
      t.after(() => other.close());
      resolve(portOf(other.address()));
    });
  });
}

/** Flags to listen on loopback, on a free port. */
export const LOCAL: readonly string[] = ["--host", "127.0.0.1", "--port", "0"];
