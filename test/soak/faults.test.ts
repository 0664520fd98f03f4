// On a bad network nothing that was answered is lost, doubled or out of order: many chats through a proxy that
// cuts, delays, halves and stalls their connections, also in the middle of a request or of an answer.
//
// SOAK_SEED=<seed> repeats what the proxy does to its first, second, … connection.

import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { Agent, type IncomingMessage, request } from "node:http";
import { connect, createServer, type Socket } from "node:net";
import test, { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageView, PollReply, Session } from "../../server.ts";
import { invitationOf, messageOf, numberOf, pollOf, portOf, readMessage, record, type Reply } from "../lib/helpers.ts";
import { send, type SendOptions, sessionOf, startServer, type TestServer, until } from "../lib/helpers.ts";
import { Chance, chooseSeed } from "./tools.ts";

const CHATS = 16;
const MESSAGES = 50;
const END = "This is the end.";

/** What becomes of one connection. */
interface Fate {
  readonly cut: "request" | "answer" | "time";
  /** After how many bytes of requests or of answers, or milliseconds. */
  readonly after: number;
  readonly manner: "end" | "reset" | "server side first" | "client side first";
  /** Milliseconds that each piece takes more, and that everything stops for, once, after some bytes. */
  readonly delay: number;
  readonly stall: { after: number; time: number } | undefined;
  readonly isHalved: boolean;
}

function chooseFate(chance: Chance): Fate {
  const cut = chance.pick(["request", "answer", "time"] as const);
  // None lives for ever: the connections that last would soon be all that are used.
  const longest = { request: 600, answer: 1_500, time: 80 }[cut] * chance.pick([1, 1, 1, 4]);
  return {
    cut,
    after: 1 + chance.below(longest),
    manner: chance.pick(["end", "reset", "server side first", "client side first"]),
    delay: chance.isTrue(0.3) ? 1 + chance.below(12) : 0,
    stall: chance.isTrue(0.15) ? { after: chance.below(1_500), time: 20 + chance.below(100) } : undefined,
    isHalved: chance.isTrue(0.3),
  };
}

/** Stands between clients and server and treats each connection as its fate says. */
class Proxy {
  readonly #seed: number;
  readonly #upstream: number;
  readonly #server = createServer({ allowHalfOpen: true }, (client) => this.#serve(client));
  readonly #sockets = new Set<Socket>();
  connections = 0;
  readonly done = { "cut in a request": 0, "cut in an answer": 0, "cut between": 0, stalled: 0, halved: 0, delayed: 0 };

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
    return this.done["cut in a request"] + this.done["cut in an answer"] + this.done["cut between"];
  }

  stop(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #serve(client: Socket): void {
    this.connections += 1;
    const fate = chooseFate(new Chance(this.#seed + this.connections));
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
    this.#forward(client, server, fate, "request");
    this.#forward(server, client, fate, "answer");
    const time = fate.cut === "time" ? fate.after : 1_000;
    const timer = setTimeout(() => this.#cut(client, server, fate, "cut between"), time);
    client.once("close", () => clearTimeout(timer));
  }

  /** Piece by piece, each a little later and in two halves if need be. */
  #forward(from: Socket, to: Socket, fate: Fate, what: "request" | "answer"): void {
    let passed = 0;
    const pass = async (piece: Buffer): Promise<void> => {
      if (fate.delay > 0) {
        this.done.delayed += 1;
        await sleep(fate.delay);
      }
      if (fate.stall && passed <= fate.stall.after && passed + piece.length > fate.stall.after) {
        this.done.stalled += 1;
        await sleep(fate.stall.time);
      }
      const isCut = fate.cut === what && passed + piece.length >= fate.after;
      const part = isCut ? piece.subarray(0, fate.after - passed) : piece;
      passed += piece.length;
      if (fate.isHalved && part.length > 1) {
        this.done.halved += 1;
        to.write(part.subarray(0, part.length >> 1));
        await sleep(2);
        to.write(part.subarray(part.length >> 1));
      } else to.write(part);
      if (!isCut) return;
      const inside = what === "request" ? "cut in a request" : "cut in an answer";
      const [client, server] = what === "request" ? [from, to] : [to, from];
      this.#cut(client, server, fate, part.length === piece.length ? "cut between" : inside);
    };
    from.on("data", (piece: Buffer) => {
      from.pause();
      void pass(piece).then(() => from.resume());
    });
  }

  #cut(client: Socket, server: Socket, fate: Fate, how: keyof Proxy["done"]): void {
    if (client.destroyed || server.destroyed) return;
    this.done[how] += 1;
    const [first, last] = fate.manner === "server side first" ? [server, client] : [client, server];
    if (fate.manner === "end") {
      client.end();
      server.end();
    } else if (fate.manner === "reset") {
      client.resetAndDestroy();
      server.resetAndDestroy();
    } else {
      // The one side knows at once, the other believes for a while that there is somebody.
      last.removeAllListeners("data").resume();
      first.removeAllListeners("close").destroy();
      const timer = setTimeout(() => last.destroy(), 30 + fate.after / 20);
      last.once("close", () => clearTimeout(timer));
    }
  }
}

/** A chat with what its members have sent and been told. */
class Talk {
  readonly people: Session[];
  readonly sent: { text: string; tries: number; answered: boolean; isKeyed: boolean }[] = [];
  readonly answered: MessageView[] = [];
  readonly polls: { since: number; reply: PollReply }[][] = [];
  /** What the reader of a stream was shown, over all the streams that it needed. */
  readonly streamed: (MessageView | "missed")[] = [];
  readonly news = new EventEmitter();
  isOver = false;

  constructor(people: Session[]) {
    this.people = people;
    this.news.setMaxListeners(100);
  }

  get id(): string {
    return this.people[0]?.chat_id ?? "";
  }

  /** Resolves when so many more messages have been answered, or nobody writes any more. */
  async grown(by: number): Promise<void> {
    const goal = this.answered.length + by;
    while (this.answered.length < goal && !this.isOver) await once(this.news, "answered");
  }
}

/** Clients behind the proxy, which try until they are answered. */
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

  /** Nobody tries any further: a test that has failed must end. */
  close(): void {
    this.#isClosed = true;
    this.#agent.destroy();
  }

  once(method: string, path: string, options: SendOptions): Promise<Reply> {
    return send({ port: this.#port, agent: this.#agent }, method, path, options);
  }

  /** Every whole line of a stream until it is cut; what is left of a line then is nothing. */
  async *lines(path: string, token: string): AsyncGenerator<string> {
    this.streams += 1;
    const headers = { Authorization: `Bearer ${token}`, Accept: "application/x-ndjson" };
    const outgoing = request({ host: "127.0.0.1", port: this.#port, path, headers, agent: false }).end();
    outgoing.on("error", () => {});
    let rest = "";
    try {
      const [answer]: IncomingMessage[] = await once(outgoing, "response");
      for await (const part of answer?.setEncoding("utf8") ?? []) {
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

  /** Returns the answer and how often it was asked for. */
  async insist(method: string, path: string, options: SendOptions): Promise<{ reply: Reply; tries: number }> {
    for (let tries = 1; ; tries += 1) {
      try {
        const reply = await this.once(method, path, options);
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

test("on a bad network nothing that was answered is lost, doubled or out of order", { timeout: 180_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const server = await startServer(t, { now: Date.now, rateLimit: false });
  const proxy = await Proxy.start(t, seed, server.port);
  const clients = new Clients(t, proxy.port);

  const talks = await Promise.all(
    Array.from({ length: CHATS }, async (_, index) => new Talk(await gather(clients, `chat ${index}`))),
  );
  assert.equal(server.app.chats.count().chats, CHATS, "an answer that was lost leaves no chat behind");
  const keyless = await Promise.all(Array.from({ length: CHATS }, () => clients.insist("POST", "/create", {})));
  const tries = keyless.reduce((sum, each) => sum + each.tries, 0);
  const { chats: size } = server.app.chats.count();
  assert.ok(size >= 2 * CHATS && size <= CHATS + tries, "without a key a chat a request at most");

  await Promise.all(talks.map((talk) => converse(talk, server, clients)));
  for (const talk of talks) checkTalk(talk);

  const cases = talks.flatMap((talk) => talk.polls.flat()).filter(({ reply }) => reply.missed).length;
  const { failures, repeats, streams } = clients;
  const { done, cuts, connections } = proxy;
  const doubled = countDoubled(talks);
  t.diagnostic(JSON.stringify({ connections, cuts, ...done, failures, repeats, streams, doubled, missed: cases }));
  assert.ok(cuts >= 1_000, `only ${cuts} cuts`);
  for (const [what, count] of Object.entries(done)) assert.ok(count >= 50, `hardly ever ${what}`);
  assert.ok(streams > 10 * CHATS, "streams were cut");
  assert.ok(repeats > 0 && doubled > 0 && cases > 0, "the faults have shown something");

  // At the end all go while they wait.
  const left = talks.flatMap(({ id, people }) =>
    people.map(({ session_token: token }) => clients.once("GET", `/${id}?since=latest&wait=50`, { token })),
  );
  const gone = Promise.allSettled(left);
  await until(() => server.app.chats.count().waiters >= CHATS, "polls to be held");
  clients.close();
  proxy.stop();
  await gone;
  await until(() => server.app.chats.count().waiters === 0, "those who have gone to be forgotten");
});

/** A full chat, all of it made through the proxy; everybody is seated once, though answers get lost. */
async function gather(clients: Clients, name: string): Promise<Session[]> {
  const keyed = (who: string) => ({ "Idempotency-Key": `${name}, ${who}, ${"x".repeat(22)}` });
  const made = await clients.insist("POST", "/create", { headers: keyed("creator") });
  const creator = sessionFrom(made.reply);
  const token = creator.session_token;
  const { reply } = await clients.insist("POST", `/${creator.chat_id}/invite`, { token });
  const { invite_token } = invitationOf(reply);
  const guests = await Promise.all(
    ["2", "3", "4", "5", "6"].map(async (who) => {
      const options = { body: { invite_token }, headers: keyed(who) };
      return sessionFrom((await clients.insist("POST", `/${creator.chat_id}/join`, options)).reply);
    }),
  );
  const seen = pollOf((await clients.insist("GET", `/${creator.chat_id}`, { token })).reply);
  assert.deepEqual(
    seen.members.map(({ id }) => id),
    ["1", "2", "3", "4", "5", "6"],
    "no seat was taken twice",
  );
  assert.equal(seen.cursor, 6);
  assert.deepEqual(guests.map((each) => each.member_id).toSorted(), ["2", "3", "4", "5", "6"]);
  return [creator, ...guests];
}

function sessionFrom(reply: Reply): Session {
  return sessionOf(reply, reply.status === 200 ? 200 : 201);
}

/** Everybody reads and writes until all is said. */
async function converse(talk: Talk, server: TestServer, clients: Clients): Promise<void> {
  const readers = talk.people.map((person, index) => follow(talk, person, clients, index >= 4));
  const observer = observe(talk, server);
  const streamer = stream(talk, clients);
  await Promise.all(talk.people.map((person, index) => write(talk, person, clients, index)));
  talk.isOver = true;
  talk.news.emit("answered");
  const [creator] = talk.people;
  const token = creator?.session_token ?? "";
  talk.answered.push(messageOf(await server.send("POST", `/${talk.id}`, { token, body: { text: END } })));
  await Promise.all([...readers, observer, streamer]);
}

/** Reads all until the end; a slow one only now and then, when more has been said than is kept. */
async function follow(talk: Talk, person: Session, clients: Clients, isSlow: boolean): Promise<void> {
  const polls: { since: number; reply: PollReply }[] = [];
  talk.polls.push(polls);
  let since = 0;
  for (let isDone = false; !isDone;) {
    if (isSlow) await talk.grown(15 + (polls.length % 4) * 12);
    const path = `/${talk.id}?since=${since}&wait=50`;
    const reply = pollOf((await clients.insist("GET", path, { token: person.session_token })).reply);
    polls.push({ since, reply });
    since = reply.cursor;
    isDone = reply.messages.some(({ text }) => text === END);
  }
}

/** Reads streams, going on after each cut from the last cursor or message that it was shown, until the end. */
async function stream(talk: Talk, clients: Clients): Promise<void> {
  const token = talk.people[1]?.session_token ?? "";
  for (let since = 0; ;) {
    for await (const text of clients.lines(`/${talk.id}?since=${since}`, token)) {
      const line = text === "" ? {} : record(JSON.parse(text));
      if ("missed" in line) talk.streamed.push("missed");
      if ("cursor" in line) since = numberOf(line, "cursor");
      if (!("id" in line)) continue;
      const message = readMessage(line);
      talk.streamed.push(message);
      since = message.id;
      if (message.text === END) return;
    }
  }
}

/** Reads beside the proxy. Its waits have no end of their own here, so a wake-up that fails stops the test. */
async function observe(talk: Talk, server: TestServer): Promise<void> {
  const polls: { since: number; reply: PollReply }[] = [];
  const token = talk.people[0]?.session_token ?? "";
  let since = 0;
  for (let isDone = false; !isDone;) {
    const reply = pollOf(await server.send("GET", `/${talk.id}?since=${since}&wait=50`, { token }));
    assert.equal(reply.missed, false, "beside the proxy nobody falls behind");
    polls.push({ since, reply });
    since = reply.cursor;
    isDone = reply.messages.some(({ text }) => text === END);
  }
  talk.polls.unshift(polls);
}

/** The first four repeat with a key until they are answered, the fifth without one, the sixth never repeats. */
async function write(talk: Talk, person: Session, clients: Clients, index: number): Promise<void> {
  for (let count = 0; count < MESSAGES; count += 1) {
    const isKeyed = index < 4;
    const sent = { text: `${person.member_id}: ${count}`, tries: 1, answered: false, isKeyed };
    talk.sent.push(sent);
    const headers = isKeyed ? { "Idempotency-Key": `message ${count}` } : {};
    const options = { token: person.session_token, body: { text: sent.text }, headers };
    let reply: Reply | undefined;
    if (index < 5) ({ reply, tries: sent.tries } = await clients.insist("POST", `/${talk.id}`, options));
    else reply = await clients.once("POST", `/${talk.id}`, options).catch(() => undefined);
    if (!reply) continue;
    sent.answered = true;
    talk.answered.push(messageOf(reply, reply.status === 200 ? 200 : 201));
    talk.news.emit("answered");
  }
}

/** Holds every poll against all the messages that there were. */
function checkTalk(talk: Talk): void {
  const all = allMessages(talk);
  for (const message of talk.answered) assert.deepEqual(all.get(message.id), message, "answered, so seen");
  const truth = [...all.values()].toSorted((one, other) => one.id - other.id);
  for (const { text, tries, answered, isKeyed } of talk.sent) {
    const count = truth.filter((message) => message.text === text).length;
    assert.ok(count <= (isKeyed ? 1 : tries), `"${text}" was said ${count} times in ${tries} tries`);
    assert.ok(count >= 1 || !answered, `"${text}" was answered and is gone`);
  }
  checkStream(talk.streamed, truth);
  for (const polls of talk.polls) {
    for (const { since, reply } of polls) {
      const there = truth.filter(({ id }) => id <= reply.cursor);
      assert.deepEqual(
        reply.messages,
        there.slice(-30).filter(({ id }) => id > since),
      );
      assert.equal(
        reply.missed,
        there.slice(0, -30).some(({ id }) => id > since),
        "missed says so, and only then",
      );
    }
  }
}

/** All that was said, in order, each once; what is left out is told, and nothing else is. */
function checkStream(streamed: Talk["streamed"], truth: MessageView[]): void {
  let next = 0;
  let isTold = false;
  for (const shown of streamed) {
    if (shown === "missed") isTold = true;
    else {
      const index = truth.findIndex(({ id }) => id === shown.id);
      assert.deepEqual(shown, truth[index]);
      assert.ok(index >= next, `"${shown.text}" came twice or too late`);
      assert.equal(index > next, isTold, "the stream says what it leaves out, and only that");
      next = index + 1;
      isTold = false;
    }
  }
  assert.equal(next, truth.length);
}

/** Every message that anybody saw, by its id; one id is one message for all. */
function allMessages(talk: Talk): Map<number, MessageView> {
  const all = new Map<number, MessageView>();
  for (const message of talk.polls.flatMap((polls) => polls.flatMap(({ reply }) => reply.messages))) {
    const same = all.get(message.id) ?? message;
    assert.deepEqual(message, same);
    all.set(message.id, same);
  }
  return all;
}

/** How many messages came twice, as their writers repeated them without a key. */
function countDoubled(talks: Talk[]): number {
  return talks
    .map((talk) => [...allMessages(talk).values()].map(({ text }) => text))
    .reduce((sum, texts) => sum + texts.length - new Set(texts).size, 0);
}
