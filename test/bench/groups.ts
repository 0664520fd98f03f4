// The groups of measurements. Each group starts its servers, runs its rounds and stops the servers.

import { readFileSync, writeFileSync } from "node:fs";
import { Agent } from "node:http";
import { createConnection } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { InviteReply, MessageView, Session } from "../../server.ts";
import { at, call, freePort, type Reply, send, type SendOptions } from "../helpers.ts";
import { named, ReaderPool } from "./held.ts";
import {
  fileHere,
  type Memory,
  memoryOf,
  type Probe,
  residentOf,
  runRounds,
  type Series,
  startTarget,
  stopTarget,
  stopTargets,
  type Target,
} from "./measure.ts";
import { hasNchan, nchanCommand } from "./nchan.ts";
import {
  type Chat,
  idleProtocol,
  nchanProtocol,
  pollProtocol,
  type Protocol,
  SEATS,
  streamProtocol,
  wsProtocol,
} from "./rooms.ts";
import { hasProgram, load, requestLine } from "./wrk.ts";

export interface Settings {
  readonly isQuick: boolean;
  readonly rounds: number;
  readonly seconds: number;
  /** For temporary files. */
  readonly folder: string;
}

const TEXT = "x".repeat(100);
const PROGRAM = fileHere("../../dist/server.cjs");
const LISTEN = ["--host", "127.0.0.1", "--no-rate-limit", "--max-chats", "100000"];

function startOurs(): Promise<Target> {
  return startTarget([process.execPath, PROGRAM, ...LISTEN, "--port", "0"]);
}

function startRival(file: string, ...parameters: string[]): Promise<Target> {
  return startTarget([process.execPath, "--expose-gc", fileHere(file), ...parameters]);
}

const agent = new Agent({ keepAlive: true });

/** Sends one request with the tests' HTTP client. */
function request(target: Target, method: string, path: string, options: SendOptions = {}): Promise<Reply> {
  return send({ port: target.port, agent }, method, path, options);
}

async function makeChat({ port }: Target, names: readonly string[]): Promise<Chat> {
  const target = { port, agent };
  const creator = await call<Session>(target, "POST", "/create", { body: { username: names[0] } });
  const { chat_id: id, session_token: token } = creator;
  const { invite_token } = await call<InviteReply>(target, "POST", `/${id}/invite`, { token });
  const tokens = [token];
  for (const username of names.slice(1)) {
    const joined = await call<Session>(target, "POST", `/${id}/join`, { body: { invite_token, username } });
    tokens.push(joined.session_token);
  }
  return { id, tokens };
}

function post({ port }: Target, { id, tokens }: Chat): Promise<MessageView> {
  return call<MessageView>({ port, agent }, "POST", `/${id}`, { token: at(tokens, 0), body: { text: TEXT } });
}

/* Requests with an immediate answer. */

/** A probe that sends requests to one server with wrk. */
function probe(settings: Settings, name: string, target: Target, lines: readonly string[]): Probe {
  const file = join(settings.folder, `${name.replaceAll(/\W/g, "-")}.txt`);
  writeFileSync(file, lines.map((line) => `${line}\n`).join(""));
  return () => load(name, target, file, settings.seconds);
}

/** Compares GET and POST with the bare server and fastify, and a whole history with Nchan. Empty without wrk. */
export async function measureRequests(settings: Settings): Promise<Series> {
  if (!hasProgram("wrk", "-v")) return new Map();
  const ours = await startOurs();
  const probes = [...(await probeMessages(settings, ours)), ...(await probeHistory(settings, ours))];
  const series = await runRounds("requests", settings.rounds, probes);
  await stopTargets();
  return series;
}

async function probeMessages(settings: Settings, ours: Target): Promise<Probe[]> {
  const names = ["Ana", "Ben"];
  const [read, write] = [await makeChat(ours, names), await makeChat(ours, names)];
  for (let count = 0; count < 2; count += 1) await post(ours, read);
  const [token, path] = [at(read.tokens, 0), `/${read.id}?since=3`];
  const get = requestLine("GET", path, token);
  const postLine = requestLine("POST", `/${write.id}`, at(write.tokens, 0), TEXT);
  const answers = {
    GET: await request(ours, "GET", path, { token }),
    POST: await request(ours, "POST", `/${write.id}`, { token: at(write.tokens, 0), body: { text: TEXT } }),
  };
  const bare = await startBare(settings, "bare.json", answers, () => true);
  const few = await startBare(settings, "few.json", answers, (name) => name.startsWith("content-"));
  const fastify = await startRival("fastify.ts");
  const [readId = "", readToken = "", writeId = "", writeToken = ""] = fastify.printed.split(" ");
  return [
    probe(settings, "GET ours", ours, [get]),
    probe(settings, "GET bare", bare, [get]),
    probe(settings, "GET few", few, [get]),
    probe(settings, "GET fastify", fastify, [requestLine("GET", `/${readId}?since=3`, readToken)]),
    probe(settings, "POST ours", ours, [postLine]),
    probe(settings, "POST bare", bare, [postLine]),
    probe(settings, "POST few", few, [postLine]),
    probe(settings, "POST fastify", fastify, [requestLine("POST", `/${writeId}`, writeToken, TEXT)]),
  ];
}

/** Starts a bare server that sends our answers, with all or some of our headers. */
function startBare(
  { folder }: Settings,
  name: string,
  answers: Record<"GET" | "POST", Reply>,
  keeps: (header: string) => boolean,
): Promise<Target> {
  const fixed = Object.entries(answers).map(([method, { headers, text }]) => {
    // Node adds these headers.
    const { date: _d, connection: _c, "keep-alive": _k, ...own } = headers;
    const kept = Object.entries(own).filter(([header]) => keeps(header));
    return [method, { headers: Object.fromEntries(kept), body: text }] as const;
  });
  writeFileSync(join(folder, name), JSON.stringify(Object.fromEntries(fixed)));
  return startRival("bare.ts", join(folder, name));
}

async function probeHistory(settings: Settings, ours: Target): Promise<Probe[]> {
  const chat = await makeChat(ours, ["Ana", "Ben"]);
  for (let count = 0; count < 30; count += 1) await post(ours, chat);
  const probeOurs = probe(settings, "history ours", ours, [requestLine("GET", `/${chat.id}`, at(chat.tokens, 0))]);
  if (!hasNchan()) return [probeOurs];
  const nchan = await startNchan(settings);
  const message = await post(ours, chat);
  const foreign = { port: nchan.port, agent, isForeign: true };
  for (let n = 0; n < 30; n += 1) await send(foreign, "POST", "/post/history", { body: JSON.stringify(message) });
  const rivals = ["raw", "parts"].map(async (location) => {
    const { text } = await send(foreign, "GET", `/${location}/history`);
    if (text.split(TEXT).length !== 31) throw new Error(`Nchan has a different history: ${text}`);
    return probe(settings, `history nchan ${location}`, nchan, [requestLine("GET", `/${location}/history`, "none")]);
  });
  return [probeOurs, ...(await Promise.all(rivals))];
}

async function startNchan({ folder }: Settings): Promise<Target> {
  const target = await startTarget(await nchanCommand(folder));
  while (!(await isListening(target.port))) await sleep(10);
  return target;
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ port, host: "127.0.0.1" });
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

/* Growth. */

export interface Growth {
  readonly series: Series;
  /** Memory of a chat with 30 messages. */
  readonly chat: Memory;
}

/** Numbers of chats to measure. 100,000 take a gigabyte and half a minute to create. */
export function chatCounts({ isQuick }: Settings): number[] {
  return isQuick ? [10, 1_000, 20_000] : [10, 1_000, 100_000];
}

/** GET and POST with few and many chats. Reads come first, because posts would change what they return. */
export async function measureGrowth(settings: Settings): Promise<Growth> {
  const counts = chatCounts(settings);
  const stores = [];
  for (const count of counts) stores.push(await startStore(settings, count, 30, 1));
  const single = await startStore(settings, 10, 1, 1);
  const chat = await memoryOfChat(at(stores, 0), at(stores, -1));
  const series = new Map<string, readonly number[]>();
  const rounds = settings.isQuick ? 1 : settings.rounds;
  if (hasProgram("wrk", "-v")) {
    const gets = stores.map(({ count, target, chats }) => {
      // Cursor 1 is the creator's join, so the last of the 30 messages is the only one after 30.
      const lines = chats.map(({ id, tokens }) => requestLine("GET", `/${id}?since=30`, at(tokens, 0)));
      return probe(settings, `GET ${count}`, target, lines);
    });
    const whole = [single, at(stores, 0)].map(({ messages, target, chats }) => {
      const lines = chats.map(({ id, tokens }) => requestLine("GET", `/${id}`, at(tokens, 0)));
      return probe(settings, `GET of ${messages}`, target, lines);
    });
    const posts = stores.map(({ count, target, chats }) => {
      const lines = chats.map(({ id, tokens }) => requestLine("POST", `/${id}`, at(tokens, 0), TEXT));
      return probe(settings, `POST ${count}`, target, lines);
    });
    const read = await runRounds("growth, reading", rounds, [...gets, ...whole]);
    const written = await runRounds("growth, writing", rounds, posts);
    for (const [name, values] of [...read, ...written]) series.set(name, values);
  }
  await stopTargets();
  return { series, chat };
}

interface Store {
  readonly target: Target;
  readonly count: number;
  readonly messages: number;
  readonly chats: readonly Chat[];
}

async function startStore({ folder }: Settings, count: number, messages: number, seats: number): Promise<Store> {
  const file = join(folder, `store-${count}-${messages}-${seats}.txt`);
  const target = await startRival("store.ts", String(count), String(messages), String(seats), file);
  const chats = readFileSync(file, "utf8").trimEnd().split("\n").map(readChat);
  return { target, count, messages, chats };
}

function readChat(line: string): Chat {
  const [id = "", ...tokens] = line.split(" ");
  return { id, tokens };
}

async function memoryOfChat(small: Store, large: Store): Promise<Memory> {
  const [few, many] = [await memoryOf(small.target), await memoryOf(large.target)];
  const count = large.count - small.count;
  return { rss: (many.rss - few.rss) / count, heap: (many.heap - few.heap) / count };
}

/* Waiting readers. */

/** Deliveries to 600 readers, at 18,000 and at 6,000 per second, and to 6,000 readers at 6,000 per second. */
export async function measureHeld(settings: Settings): Promise<Series> {
  const ours = await startOurs();
  const chats: Chat[] = [];
  const names = Array.from({ length: SEATS }, (_, seat) => `Guest ${seat}`);
  while (chats.length < 1_000) chats.push(await makeChat(ours, names));
  const ws = await startRival("ws.ts");
  const nchan = hasNchan() ? await startNchan(settings) : undefined;
  const protocols: Record<string, () => Protocol> = {
    ours: () => pollProtocol(ours, chats),
    ...((await hasStream(ours, at(chats, 0))) && { stream: () => streamProtocol(ours, chats) }),
    ws: () => wsProtocol(ws),
    ...(nchan && { nchan: () => nchanProtocol(nchan) }),
  };
  const probes = Object.entries(protocols).flatMap(([name, makeProtocol]) => [
    () => probeFew(settings, name, makeProtocol()),
    () => probeMany(settings, name, makeProtocol()),
  ]);
  const series = await runRounds("held readers", settings.rounds, probes, settings.isQuick ? 0 : 1);
  await stopTargets();
  return series;
}

/** Whether a server supports streams. */
async function hasStream(target: Target, { id, tokens }: Chat): Promise<boolean> {
  const headers = { Accept: "application/x-ndjson" };
  const { headers: answered } = await request(target, "HEAD", `/${id}`, { token: at(tokens, 0), headers });
  return answered["content-type"]?.startsWith("application/x-ndjson") === true;
}

async function probeFew({ seconds }: Settings, name: string, protocol: Protocol): Promise<Record<string, number>> {
  const readers = await ReaderPool.connect(protocol, 100);
  await readers.run(6_000, 0.3);
  const slow = await readers.run(6_000, seconds);
  const fast = await readers.run(18_000, seconds);
  await readers.close();
  return { ...named(`${name} 600 at 6000`, slow), ...named(`${name} 600 at 18000`, fast) };
}

async function probeMany({ seconds }: Settings, name: string, protocol: Protocol): Promise<Record<string, number>> {
  const readers = await ReaderPool.connect(protocol, 1_000);
  // Warm-up: every reader gets an answer before the measurement.
  await readers.run(6_000, 1);
  const figures = await readers.run(6_000, seconds);
  await readers.close();
  return named(`${name} 6000 at 6000`, figures);
}

/** Memory per waiting reader, and CPU per delivery with few and with many of our readers. */
export interface HeldCost {
  readonly memory: Record<string, Memory | undefined>;
  readonly cpu: Record<string, number>;
}

const HELD = { few: 17, many: 1_667 };

export async function measureHeldCost(settings: Settings): Promise<HeldCost> {
  const { target, chats } = await startStore(settings, HELD.many, 0, SEATS);
  const ours = pollProtocol(target, chats);
  const cpu = { few: await deliveryTo(ours, HELD.few), many: await deliveryTo(ours, HELD.many) };
  await stopTarget(target);
  const fresh = await startStore(settings, HELD.many, 0, SEATS);
  const few = await memoryOfReader(pollProtocol(fresh.target, fresh.chats), HELD.few);
  const many = await memoryOfReader(pollProtocol(fresh.target, fresh.chats), HELD.many);
  const ws = wsProtocol(await startRival("ws.ts"));
  const memory = {
    ours: many,
    "ours, few": few,
    ws: await memoryOfReader(ws, HELD.many),
    bare: await memoryOfReader(idleProtocol(await startRival("bare.ts", emptyAnswers(settings))), HELD.many),
    nchan: hasNchan() ? await memoryOfReader(nchanProtocol(await startNchan(settings)), HELD.many) : undefined,
  };
  await stopTargets();
  return { memory, cpu };
}

/** Makes a file of answers for a bare server that only has to keep connections open. */
function emptyAnswers({ folder }: Settings): string {
  const file = join(folder, "empty.json");
  const answer = { headers: { "Content-Length": 2 }, body: "{}" };
  writeFileSync(file, JSON.stringify({ GET: answer, POST: answer }));
  return file;
}

/** CPU microseconds per delivery to the readers of this many chats. */
async function deliveryTo(protocol: Protocol, chatCount: number): Promise<number> {
  const readers = await ReaderPool.connect(protocol, chatCount);
  await readers.run(6_000, 1);
  const { cpu } = await readers.run(6_000, 2);
  await readers.close();
  return cpu;
}

/** Bytes per waiting reader. */
async function memoryOfReader(protocol: Protocol, chatCount: number): Promise<Memory> {
  const before = await memoryNow(protocol.target);
  const readers = await ReaderPool.connect(protocol, chatCount);
  const after = await memoryNow(protocol.target);
  await readers.close();
  const count = chatCount * SEATS;
  return { rss: (after.rss - before.rss) / count, heap: (after.heap - before.heap) / count };
}

/** nginx has no JavaScript heap. */
async function memoryNow(target: Target): Promise<Memory> {
  const isOurs = target.child.spawnargs.includes("--expose-gc");
  return isOurs ? memoryOf(target) : { rss: residentOf(target.pid), heap: NaN };
}

/* Start-up. */

/** Milliseconds from exec to the first answer, for Node with the bundle and for the executable if it exists. */
export async function measureStart(settings: Settings, executable: string | undefined): Promise<Series> {
  const commands = {
    node: [process.execPath, PROGRAM],
    ...(executable !== undefined && { executable: [executable] }),
  };
  const probes = Object.entries(commands).map(([name, command]) => async () => ({ [name]: await timeStart(command) }));
  return runRounds("start", settings.rounds, probes);
}

async function timeStart(command: readonly string[]): Promise<number> {
  const port = await freePort();
  const begun = performance.now();
  const started = startTarget([...command, ...LISTEN, "--port", String(port)]);
  while (!(await isListening(port))) await sleep(1);
  await request(await started, "GET", "/healthz");
  const elapsed = performance.now() - begun;
  await stopTarget(await started);
  return elapsed;
}
