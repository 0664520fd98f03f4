// The measurements, in groups. Each group starts its servers, runs its rounds and stops the servers.

import { readFileSync, writeFileSync } from "node:fs";
import { Agent } from "node:http";
import { createConnection } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  at,
  freePort,
  invitationOf,
  messageOf,
  NODE_FLAGS,
  type Reply,
  send,
  type SendOptions,
  sessionOf,
} from "../lib/helpers.ts";
import { Audience, named } from "./held.ts";
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
import { idleRooms, nchanRooms, pollRooms, type Room, ROOM_SIZE, type Rooms, streamRooms, wsRooms } from "./rooms.ts";
import { hasProgram, load, requestLine } from "./wrk.ts";

export interface Settings {
  readonly isQuick: boolean;
  readonly rounds: number;
  readonly seconds: number;
  /** For temporary files. The caller deletes it. */
  readonly folder: string;
}

const TEXT = "x".repeat(100);
const PROGRAM = fileHere("../../dist/server.cjs");
const LISTEN = ["--host", "127.0.0.1", "--no-rate-limit", "--max-chats", "100000"];

function startParty(): Promise<Target> {
  return startTarget([process.execPath, ...NODE_FLAGS, PROGRAM, ...LISTEN, "--port", "0"]);
}

function startHere(file: string, ...parameters: string[]): Promise<Target> {
  return startTarget([process.execPath, "--expose-gc", fileHere(file), ...parameters]);
}

const agent = new Agent({ keepAlive: true });

/** Sends one request with the client of the tests. */
function ask(target: Target, method: string, path: string, options: SendOptions = {}): Promise<Reply> {
  return send({ port: target.port, agent }, method, path, options);
}

async function makeRoom(target: Target, names: readonly string[]): Promise<Room> {
  const creator = sessionOf(await ask(target, "POST", "/create", { body: { username: names[0] } }));
  const { chat_id: id, session_token: token } = creator;
  const { invite_token } = invitationOf(await ask(target, "POST", `/${id}/invite`, { token }));
  const tokens = [token];
  for (const username of names.slice(1)) {
    const joined = await ask(target, "POST", `/${id}/join`, { body: { invite_token, username } });
    tokens.push(sessionOf(joined).session_token);
  }
  return { id, tokens };
}

async function postTo(target: Target, { id, tokens }: Room, times: number): Promise<void> {
  for (let n = 0; n < times; n += 1) {
    messageOf(await ask(target, "POST", `/${id}`, { token: at(tokens, 0), body: { text: TEXT } }));
  }
}

/* Requests with an immediate answer. */

/** A probe that lets wrk send the same requests to one server. */
function probe(settings: Settings, name: string, target: Target, lines: readonly string[]): Probe {
  const file = join(settings.folder, `${name.replaceAll(/\W/g, "-")}.txt`);
  writeFileSync(file, lines.map((line) => `${line}\n`).join(""));
  return () => load(name, target, file, settings.seconds);
}

/** Compares GET and POST with the bare server and fastify, and a whole history with Nchan. Empty without wrk. */
export async function measureRequests(settings: Settings): Promise<Series> {
  if (!hasProgram("wrk", "-v")) return new Map();
  const party = await startParty();
  const probes = [...(await probeMessages(settings, party)), ...(await probeHistory(settings, party))];
  const series = await runRounds("requests", settings.rounds, probes);
  await stopTargets();
  return series;
}

async function probeMessages(settings: Settings, party: Target): Promise<Probe[]> {
  const names = ["Ana", "Ben"];
  const [read, write] = [await makeRoom(party, names), await makeRoom(party, names)];
  await postTo(party, read, 2);
  const [token, path] = [at(read.tokens, 0), `/${read.id}?since=3`];
  const get = requestLine("GET", path, token);
  const post = requestLine("POST", `/${write.id}`, at(write.tokens, 0), TEXT);
  const answers = {
    GET: await ask(party, "GET", path, { token }),
    POST: await ask(party, "POST", `/${write.id}`, { token: at(write.tokens, 0), body: { text: TEXT } }),
  };
  const bare = await startBare(settings, "bare.json", answers, () => true);
  const few = await startBare(settings, "few.json", answers, (name) => name.startsWith("content-"));
  const fastify = await startHere("fastify.ts");
  const [readId = "", readToken = "", writeId = "", writeToken = ""] = fastify.printed.split(" ");
  return [
    probe(settings, "GET ours", party, [get]),
    probe(settings, "GET bare", bare, [get]),
    probe(settings, "GET few", few, [get]),
    probe(settings, "GET fastify", fastify, [requestLine("GET", `/${readId}?since=3`, readToken)]),
    probe(settings, "POST ours", party, [post]),
    probe(settings, "POST bare", bare, [post]),
    probe(settings, "POST few", few, [post]),
    probe(settings, "POST fastify", fastify, [requestLine("POST", `/${writeId}`, writeToken, TEXT)]),
  ];
}

/** Starts a bare server that gives our answers, with all of our headers or some of them. */
function startBare(
  { folder }: Settings,
  name: string,
  answers: Record<"GET" | "POST", Reply>,
  keeps: (header: string) => boolean,
): Promise<Target> {
  const fixed = Object.entries(answers).map(([method, { headers, text }]) => {
    // Node adds these headers itself.
    const { date: _d, connection: _c, "keep-alive": _k, ...own } = headers;
    const kept = Object.entries(own).filter(([header]) => keeps(header));
    return [method, { headers: Object.fromEntries(kept), body: text }] as const;
  });
  writeFileSync(join(folder, name), JSON.stringify(Object.fromEntries(fixed)));
  return startHere("bare.ts", join(folder, name));
}

async function probeHistory(settings: Settings, party: Target): Promise<Probe[]> {
  const room = await makeRoom(party, ["Ana", "Ben"]);
  await postTo(party, room, 30);
  const ours = probe(settings, "history ours", party, [requestLine("GET", `/${room.id}`, at(room.tokens, 0))]);
  if (!hasNchan()) return [ours];
  const nchan = await startNchan(settings);
  const { body } = await ask(party, "POST", `/${room.id}`, { token: at(room.tokens, 0), body: { text: TEXT } });
  const foreign = { port: nchan.port, agent, isForeign: true };
  for (let n = 0; n < 30; n += 1) await send(foreign, "POST", "/post/history", { body: JSON.stringify(body) });
  const rivals = ["raw", "parts"].map(async (location) => {
    const { text } = await send(foreign, "GET", `/${location}/history`);
    if (text.split(TEXT).length !== 31) throw new Error(`Nchan keeps another history: ${text}`);
    return probe(settings, `history nchan ${location}`, nchan, [requestLine("GET", `/${location}/history`, "none")]);
  });
  return [ours, ...(await Promise.all(rivals))];
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
  /** Bytes per chat with 30 messages: resident, and of those on the heap. */
  readonly chat: Memory;
}

/** The numbers of chats to compare. 100,000 chats take a gigabyte, and half a minute to create. */
export function chatCounts({ isQuick }: Settings): number[] {
  return isQuick ? [10, 1_000, 20_000] : [10, 1_000, 100_000];
}

/** Measures GET and POST with few and many chats. All reads come first, because posts would make them longer. */
export async function measureGrowth(settings: Settings): Promise<Growth> {
  const counts = chatCounts(settings);
  const stores = [];
  for (const count of counts) stores.push(await startStore(settings, count, 30, 1));
  const single = await startStore(settings, 10, 1, 1);
  const chat = await memoryOfChat(at(stores, 0), at(stores, -1));
  const series = new Map<string, readonly number[]>();
  const rounds = settings.isQuick ? 1 : settings.rounds;
  if (hasProgram("wrk", "-v")) {
    const gets = stores.map(({ count, target, rooms }) => {
      // The creator's join moves the cursor to 1, so the 30 messages have the ids 2 to 31, and one is new after 30.
      const lines = rooms.map(({ id, tokens }) => requestLine("GET", `/${id}?since=30`, at(tokens, 0)));
      return probe(settings, `GET ${count}`, target, lines);
    });
    const whole = [single, at(stores, 0)].map(({ messages, target, rooms }) => {
      const lines = rooms.map(({ id, tokens }) => requestLine("GET", `/${id}`, at(tokens, 0)));
      return probe(settings, `GET of ${messages}`, target, lines);
    });
    const posts = stores.map(({ count, target, rooms }) => {
      const lines = rooms.map(({ id, tokens }) => requestLine("POST", `/${id}`, at(tokens, 0), TEXT));
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
  readonly rooms: readonly Room[];
}

async function startStore({ folder }: Settings, count: number, messages: number, seats: number): Promise<Store> {
  const file = join(folder, `store-${count}-${messages}-${seats}.txt`);
  const target = await startHere("store.ts", String(count), String(messages), String(seats), file);
  const rooms = readFileSync(file, "utf8").trimEnd().split("\n").map(readRoom);
  return { target, count, messages, rooms };
}

function readRoom(line: string): Room {
  const [id = "", ...tokens] = line.split(" ");
  return { id, tokens };
}

async function memoryOfChat(small: Store, large: Store): Promise<Memory> {
  const [few, many] = [await memoryOf(small.target), await memoryOf(large.target)];
  const chats = large.count - small.count;
  return { rss: (many.rss - few.rss) / chats, heap: (many.heap - few.heap) / chats };
}

/* Held readers. */

/** Deliveries to 600 readers, at 18,000 and at 6,000 a second, and to 6,000 readers at 6,000. */
export async function measureHeld(settings: Settings): Promise<Series> {
  const party = await startParty();
  const rooms: Room[] = [];
  const names = Array.from({ length: ROOM_SIZE }, (_, seat) => `Guest ${seat}`);
  while (rooms.length < 1_000) rooms.push(await makeRoom(party, names));
  const ws = await startHere("ws.ts");
  const nchan = hasNchan() ? await startNchan(settings) : undefined;
  const rivals: Record<string, () => Rooms> = {
    ours: () => pollRooms(party, rooms),
    ...((await hasStream(party, at(rooms, 0))) && { stream: () => streamRooms(party, rooms) }),
    ws: () => wsRooms(ws),
    ...(nchan && { nchan: () => nchanRooms(nchan) }),
  };
  const probes = Object.entries(rivals).flatMap(([name, rival]) => [
    () => probeFew(settings, name, rival()),
    () => probeMany(settings, name, rival()),
  ]);
  const series = await runRounds("held readers", settings.rounds, probes, settings.isQuick ? 0 : 1);
  await stopTargets();
  return series;
}

/** Whether a server offers a stream with one line of JSON per message. */
async function hasStream(target: Target, { id, tokens }: Room): Promise<boolean> {
  const headers = { Accept: "application/x-ndjson" };
  const { headers: answered } = await ask(target, "HEAD", `/${id}`, { token: at(tokens, 0), headers });
  return answered["content-type"]?.startsWith("application/x-ndjson") === true;
}

async function probeFew({ seconds }: Settings, name: string, rooms: Rooms): Promise<Record<string, number>> {
  const audience = await Audience.gather(rooms, 100);
  await audience.run(6_000, 0.3);
  const slow = await audience.run(6_000, seconds);
  const fast = await audience.run(18_000, seconds);
  await audience.leave();
  return { ...named(`${name} 600 at 6000`, slow), ...named(`${name} 600 at 18000`, fast) };
}

async function probeMany({ seconds }: Settings, name: string, rooms: Rooms): Promise<Record<string, number>> {
  const audience = await Audience.gather(rooms, 1_000);
  // A warm-up, so that each reader has had one answer before the measurement.
  await audience.run(6_000, 1);
  const figures = await audience.run(6_000, seconds);
  await audience.leave();
  return named(`${name} 6000 at 6000`, figures);
}

/** The cost of a waiting reader: its memory in each server, and the CPU time per delivery with few and with many. */
export interface HeldCost {
  readonly memory: Record<string, Memory | undefined>;
  readonly cpu: Record<string, number>;
}

const HELD = { few: 17, many: 1_667 };

export async function measureHeldCost(settings: Settings): Promise<HeldCost> {
  const { target, rooms } = await startStore(settings, HELD.many, 0, ROOM_SIZE);
  const ours = pollRooms(target, rooms);
  const cpu = { few: await deliveryTo(ours, HELD.few), many: await deliveryTo(ours, HELD.many) };
  await stopTarget(target);
  const fresh = await startStore(settings, HELD.many, 0, ROOM_SIZE);
  const few = await memoryOfReader(pollRooms(fresh.target, fresh.rooms), HELD.few);
  const many = await memoryOfReader(pollRooms(fresh.target, fresh.rooms), HELD.many);
  const ws = wsRooms(await startHere("ws.ts"));
  const memory = {
    ours: many,
    "ours, few": few,
    ws: await memoryOfReader(ws, HELD.many),
    bare: await memoryOfReader(idleRooms(await startHere("bare.ts", emptyAnswers(settings))), HELD.many),
    nchan: hasNchan() ? await memoryOfReader(nchanRooms(await startNchan(settings)), HELD.many) : undefined,
  };
  await stopTargets();
  return { memory, cpu };
}

/** Writes a file of minimal answers for the bare server, of which only the connections are measured. */
function emptyAnswers({ folder }: Settings): string {
  const file = join(folder, "empty.json");
  const answer = { headers: { "Content-Length": 2 }, body: "{}" };
  writeFileSync(file, JSON.stringify({ GET: answer, POST: answer }));
  return file;
}

/** CPU time per delivery to one of six times `roomCount` readers, in microseconds. */
async function deliveryTo(rooms: Rooms, roomCount: number): Promise<number> {
  const audience = await Audience.gather(rooms, roomCount);
  await audience.run(6_000, 1);
  const { cpu } = await audience.run(6_000, 2);
  await audience.leave();
  return cpu;
}

/** Bytes per waiting reader. */
async function memoryOfReader(rooms: Rooms, roomCount: number): Promise<Memory> {
  const before = await memoryNow(rooms.target);
  const audience = await Audience.gather(rooms, roomCount);
  const after = await memoryNow(rooms.target);
  await audience.leave();
  const readers = roomCount * ROOM_SIZE;
  return { rss: (after.rss - before.rss) / readers, heap: (after.heap - before.heap) / readers };
}

/** The memory of a server now. nginx cannot report a heap. */
async function memoryNow(target: Target): Promise<Memory> {
  const isOurs = target.child.spawnargs.includes("--expose-gc");
  return isOurs ? memoryOf(target) : { rss: residentOf(target.pid), heap: NaN };
}

/* Start. */

/** Milliseconds from exec to the first answer: of the same code in Node, and of the executable if it exists. */
export async function measureStart(settings: Settings, executable: string | undefined): Promise<Series> {
  const commands = {
    node: [process.execPath, ...NODE_FLAGS, PROGRAM],
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
  await ask({ ...(await started) }, "GET", "/healthz");
  const taken = performance.now() - begun;
  await stopTarget(await started);
  return taken;
}
