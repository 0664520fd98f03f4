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
import {
  bytesPer,
  callsPer,
  collectionTime,
  COUNTED_ROOMS,
  COUNTING,
  gatherRooms,
  repeatRequest,
  REPORTING,
} from "./counts.ts";
import { Audience, named } from "./held.ts";
import {
  fileHere,
  type Figures,
  heapOf,
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
  idleRooms,
  nchanRooms,
  pollRooms,
  type Room,
  ROOM_SIZE,
  type Rooms,
  streamRooms,
  wsRooms,
  wsRoomsByHttp,
} from "./rooms.ts";
import { hasProgram, load, rawRequest, requestLine } from "./wrk.ts";

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

/** `flags`: of Node, after those that the program is started with. */
function startParty(flags: readonly string[] = []): Promise<Target> {
  return startTarget([process.execPath, ...NODE_FLAGS, ...flags, PROGRAM, ...LISTEN, "--port", "0"]);
}

function startHere(
  file: string,
  parameters: readonly string[] = [],
  flags: readonly string[] = REPORTING,
): Promise<Target> {
  return startTarget([process.execPath, ...flags, fileHere(file), ...parameters]);
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

/** Makes rooms with all seats taken. */
async function makeRooms(target: Target, count: number): Promise<Room[]> {
  const rooms: Room[] = [];
  const names = Array.from({ length: ROOM_SIZE }, (_, seat) => `Guest ${seat}`);
  while (rooms.length < count) rooms.push(await makeRoom(target, names));
  return rooms;
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

/** A server and a request that it answers at once, as a line for requests.lua. */
interface Contestant {
  readonly target: Target;
  readonly line: string;
}

/** Compares GET and POST with bare servers and fastify, and a whole history with Nchan. Empty without wrk. */
export async function measureRequests(settings: Settings): Promise<Series> {
  if (!hasProgram("wrk", "-v")) return new Map();
  const contestants = { ...(await startContestants(settings)), ...(hasNchan() && (await startHistories(settings))) };
  const probes = Object.entries(contestants).map(([name, { target, line }]) => probe(settings, name, target, [line]));
  const series = await runRounds("requests", settings.rounds, probes);
  await stopTargets();
  return series;
}

/** Starts our server, fastify, and bare servers that give the same answers as ours. Each name is a request and a server. */
async function startContestants(
  settings: Settings,
  flags: readonly string[] = [],
): Promise<Record<string, Contestant>> {
  const party = await startParty(flags);
  const names = ["Ana", "Ben"];
  const [read, write, full] = [
    await makeRoom(party, names),
    await makeRoom(party, names),
    await makeRoom(party, names),
  ];
  await postTo(party, read, 2);
  await postTo(party, full, 30);
  const [token, path] = [at(read.tokens, 0), `/${read.id}?since=3`];
  const get = requestLine("GET", path, token);
  const post = requestLine("POST", `/${write.id}`, at(write.tokens, 0), TEXT);
  const whole = requestLine("GET", `/${full.id}`, at(full.tokens, 0));
  const answers = {
    GET: await ask(party, "GET", path, { token }),
    POST: await ask(party, "POST", `/${write.id}`, { token: at(write.tokens, 0), body: { text: TEXT } }),
  };
  const history = { ...answers, GET: await ask(party, "GET", `/${full.id}`, { token: at(full.tokens, 0) }) };
  const bare = await startHere("bare.ts", [answersFile(settings, "bare.json", answers)], flags);
  const tuned = await startHere("bare.ts", [answersFile(settings, "bare.json", answers), "tuned"], flags);
  const bareHistory = await startHere("bare.ts", [answersFile(settings, "history.json", history)], flags);
  const fastify = await startHere("fastify.ts", [], flags);
  const [readId = "", readToken = "", writeId = "", writeToken = ""] = fastify.printed.split(" ");
  return {
    "GET ours": { target: party, line: get },
    "GET bare": { target: bare, line: get },
    "GET tuned": { target: tuned, line: get },
    "GET fastify": { target: fastify, line: requestLine("GET", `/${readId}?since=3`, readToken) },
    "history ours": { target: party, line: whole },
    "history bare": { target: bareHistory, line: whole },
    "POST ours": { target: party, line: post },
    "POST bare": { target: bare, line: post },
    "POST fastify": { target: fastify, line: requestLine("POST", `/${writeId}`, writeToken, TEXT) },
  };
}

/** Writes our answers to a file for a bare server, with all of their headers. Returns its path. */
function answersFile({ folder }: Settings, name: string, answers: Record<"GET" | "POST", Reply>): string {
  const fixed = Object.entries(answers).map(([method, { headers, text }]) => {
    // Node adds these headers itself.
    const { date: _d, connection: _c, "keep-alive": _k, ...own } = headers;
    return [method, { headers: own, body: text }] as const;
  });
  writeFileSync(join(folder, name), JSON.stringify(Object.fromEntries(fixed)));
  return join(folder, name);
}

/** Starts Nchan with a channel of 30 messages like ours. */
async function startHistories(settings: Settings): Promise<Record<string, Contestant>> {
  const party = await startParty();
  const room = await makeRoom(party, ["Ana"]);
  const { body } = await ask(party, "POST", `/${room.id}`, { token: at(room.tokens, 0), body: { text: TEXT } });
  await stopTarget(party);
  const nchan = await startNchan(settings);
  const foreign = { port: nchan.port, agent, isForeign: true };
  for (let n = 0; n < 30; n += 1) await send(foreign, "POST", "/post/history", { body: JSON.stringify(body) });
  const rivals = ["raw", "parts"].map(async (location) => {
    const { text } = await send(foreign, "GET", `/${location}/history`);
    if (text.split(TEXT).length !== 31) throw new Error(`Nchan keeps another history: ${text}`);
    return [
      `history nchan ${location}`,
      { target: nchan, line: requestLine("GET", `/${location}/history`, "none") },
    ] as const;
  });
  return Object.fromEntries(await Promise.all(rivals));
}

/* Counts. */

/** The counted costs of one request or delivery. NaN where a cost was not counted. */
export interface Count {
  readonly what: string;
  readonly server: string;
  /** Bytes allocated on the heap. */
  readonly bytes: number;
  readonly calls: number;
  /** Microseconds of garbage collection, the same as milliseconds per 1,000. */
  readonly collecting: number;
}

/** Counts allocations and system calls, of each request that measureRequests times and of each delivery. */
export async function measureCounts(settings: Settings): Promise<Count[]> {
  const counts: Count[] = [];
  const flags = [...REPORTING, ...COUNTING];
  for (const [name, { target, line }] of Object.entries(await startContestants(settings, flags))) {
    const [what = "", server = ""] = name.split(" ");
    // One connection, so that each request wakes the server once.
    const repeat = await repeatRequest(target.port, rawRequest(line), 1);
    counts.push({ what, server, ...(await countOne(settings, target, repeat, 1)), collecting: NaN });
  }
  await stopTargets();
  const collecting = await measureCollections(settings);
  for (const [name, rooms] of Object.entries(await startHolders(settings, COUNTED_ROOMS, flags))) {
    const { audience, repeat } = await gatherRooms(rooms);
    const count = await countOne(settings, rooms.target, repeat, ROOM_SIZE);
    counts.push({ what: "delivery", server: name, ...count, collecting: collecting[name] ?? NaN });
    await audience.leave();
  }
  await stopTargets();
  return counts;
}

/** `parts`: how many of what is counted are in one repetition. */
async function countOne(
  { folder }: Settings,
  target: Target,
  repeat: (times: number) => Promise<void>,
  parts: number,
): Promise<{ bytes: number; calls: number }> {
  const bytes = await bytesPer(target, repeat);
  const calls = hasProgram("strace", "-V") ? await callsPer(target, folder, repeat) : NaN;
  return { bytes: bytes / parts, calls: calls / parts };
}

/** Milliseconds of garbage collection per 1,000 deliveries, with V8's young generation as the program sets it. */
async function measureCollections(settings: Settings): Promise<Record<string, number>> {
  const times: Record<string, number> = {};
  for (const [name, rooms] of Object.entries(await startHolders(settings, 100, REPORTING))) {
    times[name] = await collectionTime(rooms, settings.isQuick ? 1 : 5);
  }
  await stopTargets();
  return times;
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
  const target = await startHere(
    "store.ts",
    [String(count), String(messages), String(seats), file],
    [...NODE_FLAGS, ...REPORTING],
  );
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
  const holders = await startHolders(settings, 1_000);
  const nchan = hasNchan() ? await startNchan(settings) : undefined;
  const rivals: Record<string, () => Rooms> = {
    ...Object.fromEntries(Object.entries(holders).map(([name, rooms]) => [name, () => rooms])),
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

/** Starts the servers in Node that hold readers, and makes rooms in ours. */
async function startHolders(
  settings: Settings,
  roomCount: number,
  flags: readonly string[] = [],
): Promise<Record<string, Rooms>> {
  const party = await startParty(flags);
  const rooms = await makeRooms(party, roomCount);
  const bare = await startHere("polls.ts", [await pollAnswers(settings, party)], flags);
  const ws = await startHere("ws.ts", [], flags);
  return {
    ours: pollRooms(party, rooms),
    bare: pollRooms(bare, rooms),
    stream: streamRooms(party, rooms),
    ws: wsRooms(ws),
    "ws by HTTP": wsRoomsByHttp(ws),
  };
}

/** Writes our answers in a room of six to a file for the bare server that holds polls. Returns its path. */
async function pollAnswers(settings: Settings, party: Target): Promise<string> {
  const room = at(await makeRooms(party, 1), 0);
  const token = at(room.tokens, 0);
  const post = await ask(party, "POST", `/${room.id}`, { token, body: { text: TEXT } });
  return answersFile(settings, "polls.json", { GET: await ask(party, "GET", `/${room.id}`, { token }), POST: post });
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

/** Deliveries with one size of V8's young generation. */
export interface Young {
  /** MiB */
  readonly size: number;
  /** For 600 and 6,000 readers: "600 CPU" and "600 collecting" in µs per delivery, "600 p99" in ms. */
  readonly series: Series;
}

/** Compares sizes of V8's young generation, for held polls at 6,000 deliveries per second. */
export async function measureYoung(settings: Settings): Promise<Young[]> {
  const sizes = [];
  for (const size of [1, 2, 4, 8, 16]) {
    // Both flags, so that the size does not change.
    const flags = [...REPORTING, `--min-semi-space-size=${size}`, `--max-semi-space-size=${size}`];
    const party = await startParty(flags);
    sizes.push({ size, rooms: pollRooms(party, await makeRooms(party, 1_000)) });
  }
  const probes = sizes.flatMap(({ size, rooms }) =>
    [600, 6_000].map((readers) => () => probeYoung(settings, `${size} MiB, ${readers}`, rooms, readers)),
  );
  const all = await runRounds("young generation", settings.rounds / 2, probes, settings.isQuick ? 0 : 1);
  await stopTargets();
  return sizes.map(({ size }) => {
    const prefix = `${size} MiB, `;
    const own = [...all].filter(([name]) => name.startsWith(prefix));
    return { size, series: new Map(own.map(([name, values]) => [name.slice(prefix.length), values])) };
  });
}

async function probeYoung(settings: Settings, name: string, rooms: Rooms, readers: number): Promise<Figures> {
  const audience = await Audience.gather(rooms, readers / ROOM_SIZE);
  await audience.run(6_000, 1);
  const before = await heapOf(rooms.target);
  const figures = await audience.run(6_000, settings.seconds);
  const after = await heapOf(rooms.target);
  await audience.leave();
  const collecting = (after.milliseconds - before.milliseconds) / (6 * settings.seconds);
  return { ...named(name, figures), [`${name} collecting`]: collecting };
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
  const party = await startParty();
  const polls = await startHere("polls.ts", [await pollAnswers(settings, party)]);
  const memory = {
    ours: many,
    "ours, few": few,
    ws: await memoryOfReader(ws, HELD.many),
    bare: await memoryOfReader(pollRooms(polls, fresh.rooms), HELD.many),
    idle: await memoryOfReader(idleRooms(await startHere("bare.ts", [emptyAnswers(settings)])), HELD.many),
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
