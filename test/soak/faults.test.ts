// Checks that an unreliable network loses, duplicates or reorders no acknowledged message. Many chats run through a
// proxy that cuts, delays, splits and stalls their connections, even in the middle of a request or a response.
//
// SOAK_SEED=<seed> reproduces the proxy's faults, connection by connection.

import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { Agent, type IncomingMessage, request } from "node:http";
import { connect, createServer, type Socket } from "node:net";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageView, PollReply, Session } from "../../server.ts";
import { invitationOf, messageOf, numberOf, pollOf, portOf, readMessage, record, type Reply } from "../lib/helpers.ts";
import { send, type SendOptions, sessionOf, startServer, type TestServer, until } from "../lib/helpers.ts";
import { chooseSeed, Random } from "./tools.ts";

const CHATS = 16;
const MESSAGES = 50;
const END = "This is the end.";

/** The faults that the proxy injects into one connection. */
interface Faults {
  readonly cut: "request" | "response" | "time";
  /** The number of bytes (of requests or responses) or milliseconds before the cut. */
  readonly after: number;
  readonly manner: "end" | "reset" | "server side first" | "client side first";
  /** Milliseconds by which each piece is delayed. */
  readonly delay: number;
  /** One pause of `time` milliseconds after `after` bytes. */
  readonly stall: { after: number; time: number } | undefined;
  readonly isSplit: boolean;
}

function chooseFaults(random: Random): Faults {
  const cut = random.pick(["request", "response", "time"] as const);
  // Every connection ends eventually. Otherwise the connections without faults would soon be the only ones left.
  const longest = { request: 600, response: 1_500, time: 80 }[cut] * random.pick([1, 1, 1, 4]);
  return {
    cut,
    after: 1 + random.below(longest),
    manner: random.pick(["end", "reset", "server side first", "client side first"]),
    delay: random.isTrue(0.3) ? 1 + random.below(12) : 0,
    stall: random.isTrue(0.15) ? { after: random.below(1_500), time: 20 + random.below(100) } : undefined,
    isSplit: random.isTrue(0.3),
  };
}

/** A proxy between clients and server that injects faults into each connection. */
class Proxy {
  readonly #seed: number;
  readonly #upstream: number;
  readonly #server = createServer({ allowHalfOpen: true }, (client) => this.#serve(client));
  readonly #sockets = new Set<Socket>();
  connections = 0;
  readonly injected = {
    "cut in a request": 0,
    "cut in a response": 0,
    "cut between": 0,
    stalled: 0,
    split: 0,
    delayed: 0,
  };

  constructor(seed: number, upstream: number) {
    this.#seed = seed;
    this.#upstream = upstream;
  }

  static async start(t: TestContext, seed: number, upstream: number): Promise<Proxy> {
    const proxy = new Proxy(seed, upstream);
    await once(proxy.#server.listen(0, "127.0.0.1"), "listening");
    t.after(() => proxy.stop());
    return proxy;
  }

  get port(): number {
    return portOf(this.#server.address());
  }

  get cuts(): number {
    return this.injected["cut in a request"] + this.injected["cut in a response"] + this.injected["cut between"];
  }

  stop(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #serve(client: Socket): void {
    this.connections += 1;
    const faults = chooseFaults(new Random(this.#seed + this.connections));
    const server = connect({ port: this.#upstream, host: "127.0.0.1", allowHalfOpen: true });
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      socket.setNoDelay(true);
      this.#sockets.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("end", () => other.end());
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
    this.#forward(client, server, faults, "request");
    this.#forward(server, client, faults, "response");
    const time = faults.cut === "time" ? faults.after : 1_000;
    const timer = setTimeout(() => this.#cut(client, server, faults, "cut between"), time);
    client.once("close", () => clearTimeout(timer));
  }

  /** Forwards each piece, delayed or split in two as the faults require. */
  #forward(from: Socket, to: Socket, faults: Faults, direction: "request" | "response"): void {
    let passed = 0;
    const pass = async (piece: Buffer): Promise<void> => {
      if (faults.delay > 0) {
        this.injected.delayed += 1;
        await sleep(faults.delay);
      }
      if (faults.stall && passed <= faults.stall.after && passed + piece.length > faults.stall.after) {
        this.injected.stalled += 1;
        await sleep(faults.stall.time);
      }
      const isCut = faults.cut === direction && passed + piece.length >= faults.after;
      const part = isCut ? piece.subarray(0, faults.after - passed) : piece;
      passed += piece.length;
      if (faults.isSplit && part.length > 1) {
        this.injected.split += 1;
        to.write(part.subarray(0, part.length >> 1));
        await sleep(2);
        to.write(part.subarray(part.length >> 1));
      } else to.write(part);
      if (!isCut) return;
      const inside = direction === "request" ? "cut in a request" : "cut in a response";
      const [client, server] = direction === "request" ? [from, to] : [to, from];
      this.#cut(client, server, faults, part.length === piece.length ? "cut between" : inside);
    };
    from.on("data", (piece: Buffer) => {
      from.pause();
      void pass(piece).then(() => from.resume());
    });
  }

  #cut(client: Socket, server: Socket, faults: Faults, kind: keyof Proxy["injected"]): void {
    if (client.destroyed || server.destroyed) return;
    this.injected[kind] += 1;
    const [first, last] = faults.manner === "server side first" ? [server, client] : [client, server];
    if (faults.manner === "end") {
      client.end();
      server.end();
    } else if (faults.manner === "reset") {
      client.resetAndDestroy();
      server.resetAndDestroy();
    } else {
      // One side notices at once. The other side still sees an open connection for a while.
      last.removeAllListeners("data").resume();
      first.removeAllListeners("close").destroy();
      const timer = setTimeout(() => last.destroy(), 30 + faults.after / 20);
      last.once("close", () => clearTimeout(timer));
    }
  }
}

/** A chat, with a record of what its members sent and received. */
class ChatRecord {
  readonly sessions: Session[];
  readonly sent: { text: string; tries: number; acknowledged: boolean; isKeyed: boolean }[] = [];
  readonly acknowledged: MessageView[] = [];
  readonly polls: { since: number; reply: PollReply }[][] = [];
  /** The messages and `missed` lines that the stream reader received, over all its streams. */
  readonly streamed: (MessageView | "missed")[] = [];
  readonly events = new EventEmitter();
  isOver = false;

  constructor(sessions: Session[]) {
    this.sessions = sessions;
    this.events.setMaxListeners(100);
  }

  get id(): string {
    return this.sessions[0]?.chat_id ?? "";
  }

  /** Resolves after that many more acknowledged messages, or once all writers are done. */
  async waitForMessages(count: number): Promise<void> {
    const goal = this.acknowledged.length + count;
    while (this.acknowledged.length < goal && !this.isOver) await once(this.events, "acknowledged");
  }
}

/** Clients behind the proxy that retry until they get a response. */
class Clients {
  readonly #port: number;
  readonly #agent = new Agent({ keepAlive: true });
  #isClosed = false;
  failures = 0;
  repeats = 0;
  streams = 0;

  constructor(t: TestContext, port: number) {
    this.#port = port;
    t.after(() => this.close());
  }

  /** Stops all retries, so that a failed test can end. */
  close(): void {
    this.#isClosed = true;
    this.#agent.destroy();
  }

  sendOnce(method: string, path: string, options: SendOptions): Promise<Reply> {
    return send({ port: this.#port, agent: this.#agent }, method, path, options);
  }

  /** Yields every complete line of a stream until the stream is cut. Drops an incomplete last line. */
  async *lines(path: string, token: string): AsyncGenerator<string> {
    this.streams += 1;
    const headers = { Authorization: `Bearer ${token}`, Accept: "application/x-ndjson" };
    const outgoing = request({ host: "127.0.0.1", port: this.#port, path, headers, agent: false }).end();
    outgoing.on("error", () => {});
    let rest = "";
    try {
      const [response]: IncomingMessage[] = await once(outgoing, "response");
      for await (const part of response?.setEncoding("utf8") ?? []) {
        const lines = `${rest}${part}`.split("\n");
        rest = lines.pop() ?? "";
        yield* lines;
      }
    } catch {
      if (this.#isClosed) throw new Error("closed");
      this.failures += 1;
    } finally {
      outgoing.destroy();
    }
  }

  /** Retries until a response arrives. Returns the response and the number of tries. */
  async sendUntilAnswered(
    method: string,
    path: string,
    options: SendOptions,
  ): Promise<{ reply: Reply; tries: number }> {
    for (let tries = 1; ; tries += 1) {
      try {
        const reply = await this.sendOnce(method, path, options);
        assert.ok(reply.status === 200 || reply.status === 201, `${method} ${path}: ${reply.text}`);
        if (reply.status === 200 && method === "POST") this.repeats += 1;
        return { reply, tries };
      } catch (error) {
        if (error instanceof assert.AssertionError || this.#isClosed) throw error;
        this.failures += 1;
      }
    }
  }
}

test("an unreliable network loses, duplicates or reorders no acknowledged message", { timeout: 180_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const server = await startServer(t, { now: Date.now, rateLimit: false });
  const proxy = await Proxy.start(t, seed, server.port);
  const clients = new Clients(t, proxy.port);

  const chats = await Promise.all(
    Array.from({ length: CHATS }, async (_, index) => new ChatRecord(await createFullChat(clients, `chat ${index}`))),
  );
  assert.equal(server.app.chats.count().chats, CHATS, "a repeated request creates no second chat");
  const keyless = await Promise.all(
    Array.from({ length: CHATS }, () => clients.sendUntilAnswered("POST", "/create", {})),
  );
  const tries = keyless.reduce((sum, each) => sum + each.tries, 0);
  const { chats: size } = server.app.chats.count();
  assert.ok(size >= 2 * CHATS && size <= CHATS + tries, "without a key, each request creates at most one chat");

  await Promise.all(chats.map((chat) => runChat(chat, server, clients)));
  for (const chat of chats) checkChat(chat);

  const missed = chats.flatMap((chat) => chat.polls.flat()).filter(({ reply }) => reply.missed).length;
  const { failures, repeats, streams } = clients;
  const { injected, cuts, connections } = proxy;
  const duplicates = countDuplicates(chats);
  t.diagnostic(JSON.stringify({ connections, cuts, ...injected, failures, repeats, streams, duplicates, missed }));
  assert.ok(cuts >= 1_000, `only ${cuts} cuts`);
  for (const [kind, count] of Object.entries(injected)) assert.ok(count >= 50, `only ${count} times ${kind}`);
  assert.ok(streams > 10 * CHATS, "too few streams were cut");
  assert.ok(repeats > 0 && duplicates > 0 && missed > 0, "the faults had no effect");

  // Finally, all clients disconnect while their polls wait.
  const waiting = chats.flatMap(({ id, sessions }) =>
    sessions.map(({ session_token: token }) => clients.sendOnce("GET", `/${id}?since=latest&wait=50`, { token })),
  );
  const settled = Promise.allSettled(waiting);
  await until(() => server.app.chats.count().waiters >= CHATS, "polls to wait");
  clients.close();
  proxy.stop();
  await settled;
  await until(() => server.app.chats.count().waiters === 0, "polls of disconnected readers to be removed");
});

/** Creates a full chat through the proxy. Each member gets exactly one seat, even though responses are lost. */
async function createFullChat(clients: Clients, name: string): Promise<Session[]> {
  const keyed = (member: string) => ({ "Idempotency-Key": `${name}, ${member}, ${"x".repeat(22)}` });
  const made = await clients.sendUntilAnswered("POST", "/create", { headers: keyed("creator") });
  const creator = sessionFrom(made.reply);
  const token = creator.session_token;
  const { reply } = await clients.sendUntilAnswered("POST", `/${creator.chat_id}/invite`, { token });
  const { invite_token } = invitationOf(reply);
  const guests = await Promise.all(
    ["2", "3", "4", "5", "6"].map(async (member) => {
      const options = { body: { invite_token }, headers: keyed(member) };
      return sessionFrom((await clients.sendUntilAnswered("POST", `/${creator.chat_id}/join`, options)).reply);
    }),
  );
  const seen = pollOf((await clients.sendUntilAnswered("GET", `/${creator.chat_id}`, { token })).reply);
  assert.deepEqual(
    seen.members.map(({ id }) => id),
    ["1", "2", "3", "4", "5", "6"],
    "each member has one seat",
  );
  assert.equal(seen.cursor, 6);
  assert.deepEqual(guests.map((each) => each.member_id).toSorted(), ["2", "3", "4", "5", "6"]);
  return [creator, ...guests];
}

function sessionFrom(reply: Reply): Session {
  return sessionOf(reply, reply.status === 200 ? 200 : 201);
}

/** Runs all readers and writers of a chat until every message is posted and read. */
async function runChat(chat: ChatRecord, server: TestServer, clients: Clients): Promise<void> {
  const readers = chat.sessions.map((session, index) => pollUntilEnd(chat, session, clients, index >= 4));
  const direct = readDirectly(chat, server);
  const streamer = streamUntilEnd(chat, clients);
  await Promise.all(chat.sessions.map((session, index) => post(chat, session, clients, index)));
  chat.isOver = true;
  chat.events.emit("acknowledged");
  const [creator] = chat.sessions;
  const token = creator?.session_token ?? "";
  chat.acknowledged.push(messageOf(await server.send("POST", `/${chat.id}`, { token, body: { text: END } })));
  await Promise.all([...readers, direct, streamer]);
}

/** Polls until the last message. A slow reader waits until the chat has dropped messages that it has not read. */
async function pollUntilEnd(chat: ChatRecord, session: Session, clients: Clients, isSlow: boolean): Promise<void> {
  const polls: { since: number; reply: PollReply }[] = [];
  chat.polls.push(polls);
  let since = 0;
  for (let isDone = false; !isDone;) {
    if (isSlow) await chat.waitForMessages(15 + (polls.length % 4) * 12);
    const path = `/${chat.id}?since=${since}&wait=50`;
    const reply = pollOf((await clients.sendUntilAnswered("GET", path, { token: session.session_token })).reply);
    polls.push({ since, reply });
    since = reply.cursor;
    isDone = reply.messages.some(({ text }) => text === END);
  }
}

/** Streams until the last message, and resumes after each cut from the last cursor or message received. */
async function streamUntilEnd(chat: ChatRecord, clients: Clients): Promise<void> {
  const token = chat.sessions[1]?.session_token ?? "";
  for (let since = 0; ;) {
    for await (const text of clients.lines(`/${chat.id}?since=${since}`, token)) {
      const line = text === "" ? {} : record(JSON.parse(text));
      if ("missed" in line) chat.streamed.push("missed");
      if ("cursor" in line) since = numberOf(line, "cursor");
      if (!("id" in line)) continue;
      const message = readMessage(line);
      chat.streamed.push(message);
      since = message.id;
      if (message.text === END) return;
    }
  }
}

/** Polls the server without the proxy. These polls never time out here, so a missing wake-up makes the test fail. */
async function readDirectly(chat: ChatRecord, server: TestServer): Promise<void> {
  const polls: { since: number; reply: PollReply }[] = [];
  const token = chat.sessions[0]?.session_token ?? "";
  let since = 0;
  for (let isDone = false; !isDone;) {
    const reply = pollOf(await server.send("GET", `/${chat.id}?since=${since}&wait=50`, { token }));
    assert.equal(reply.missed, false, "a direct reader misses no messages");
    polls.push({ since, reply });
    since = reply.cursor;
    isDone = reply.messages.some(({ text }) => text === END);
  }
  chat.polls.unshift(polls);
}

/** Posts messages. Members 1 to 4 retry with a key, member 5 retries without one, and member 6 never retries. */
async function post(chat: ChatRecord, session: Session, clients: Clients, index: number): Promise<void> {
  for (let count = 0; count < MESSAGES; count += 1) {
    const isKeyed = index < 4;
    const sent = { text: `${session.member_id}: ${count}`, tries: 1, acknowledged: false, isKeyed };
    chat.sent.push(sent);
    const headers = isKeyed ? { "Idempotency-Key": `message ${count}` } : {};
    const options = { token: session.session_token, body: { text: sent.text }, headers };
    let reply: Reply | undefined;
    if (index < 5) ({ reply, tries: sent.tries } = await clients.sendUntilAnswered("POST", `/${chat.id}`, options));
    else reply = await clients.sendOnce("POST", `/${chat.id}`, options).catch(() => undefined);
    if (!reply) continue;
    sent.acknowledged = true;
    chat.acknowledged.push(messageOf(reply, reply.status === 200 ? 200 : 201));
    chat.events.emit("acknowledged");
  }
}

/** Compares every poll with the full list of messages. */
function checkChat(chat: ChatRecord): void {
  const all = allMessages(chat);
  for (const message of chat.acknowledged)
    assert.deepEqual(all.get(message.id), message, "an acknowledged message was read");
  const stored = [...all.values()].toSorted((one, other) => one.id - other.id);
  for (const { text, tries, acknowledged, isKeyed } of chat.sent) {
    const count = stored.filter((message) => message.text === text).length;
    assert.ok(count <= (isKeyed ? 1 : tries), `"${text}" was stored ${count} times in ${tries} tries`);
    assert.ok(count >= 1 || !acknowledged, `"${text}" was acknowledged but lost`);
  }
  checkStream(chat.streamed, stored);
  for (const polls of chat.polls) {
    for (const { since, reply } of polls) {
      const there = stored.filter(({ id }) => id <= reply.cursor);
      assert.deepEqual(
        reply.messages,
        there.slice(-30).filter(({ id }) => id > since),
      );
      assert.equal(
        reply.missed,
        there.slice(0, -30).some(({ id }) => id > since),
        "missed is true exactly if messages were dropped",
      );
    }
  }
}

/** Checks that the stream had each message once and in order, with `missed` lines exactly where messages were dropped. */
function checkStream(streamed: ChatRecord["streamed"], stored: MessageView[]): void {
  let next = 0;
  let hasMissed = false;
  for (const entry of streamed) {
    if (entry === "missed") hasMissed = true;
    else {
      const index = stored.findIndex(({ id }) => id === entry.id);
      assert.deepEqual(entry, stored[index]);
      assert.ok(index >= next, `"${entry.text}" was repeated or out of order`);
      assert.equal(index > next, hasMissed, "a missed line precedes each gap, and nothing else");
      next = index + 1;
      hasMissed = false;
    }
  }
  assert.equal(next, stored.length);
}

/** Returns every message that a reader received, by id. Asserts that all readers received the same message per id. */
function allMessages(chat: ChatRecord): Map<number, MessageView> {
  const all = new Map<number, MessageView>();
  for (const message of chat.polls.flatMap((polls) => polls.flatMap(({ reply }) => reply.messages))) {
    const known = all.get(message.id) ?? message;
    assert.deepEqual(message, known);
    all.set(message.id, known);
  }
  return all;
}

/** Counts the messages that were stored again because their writers retried without a key. */
function countDuplicates(chats: ChatRecord[]): number {
  return chats
    .map((chat) => [...allMessages(chat).values()].map(({ text }) => text))
    .reduce((sum, texts) => sum + texts.length - new Set(texts).size, 0);
}
