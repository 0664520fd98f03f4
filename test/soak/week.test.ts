// Simulates a week of use: thousands of chats and more than two million messages. At the end, memory, timers and counts
// must be back where they started. The clock is simulated.
//
// SOAK_SEED=<seed> reproduces a week.

import assert from "node:assert/strict";
import test from "node:test";
import { queryObjects } from "node:v8";
import { type App, createApp } from "../../server.ts";
import { Clock, HOUR, MINUTE, record, SECOND, startServer, stringOf } from "../lib/helpers.ts";
import { chooseSeed, Line, Random, usedHeap } from "./tools.ts";

const WEEK = 7 * 24 * HOUR;
const MESSAGES = 2_000_000;
const MEGABYTE = 1_048_576;

type Member = ReturnType<App["chats"]["create"]>;
type Waiter = Parameters<App["chats"]["addWaiter"]>[0];

/** One simulated chat. */
interface SimulatedChat {
  members: Member[];
  /** When the members act next, in clock time. */
  nextAt: number;
  /** When the chat ends, its members leave, or they abandon it. */
  endsAt: number;
}

test("a week with two million messages leaves no chat, poll or timer behind", { timeout: 600_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const timersBefore = countTimers();
  const clock = new Clock();
  // All chats come from one address. The rate limit would allow it only a tenth of the server's chats.
  const app = createApp({ now: () => clock.ms, rateLimit: false });
  const week = new WeekSimulation(app, clock, new Random(seed));
  const [start, heaps, peaks]: [number, number[], number[]] = [clock.ms, [], []];
  for (let day = 1; day <= 7; day += 1) {
    const morning = start + ((day - 1) * WEEK) / 7;
    // Chats start during the first 14 hours of a day and finish within four hours. The last session expires six hours
    // later.
    while (clock.ms < morning + 14 * HOUR) week.advance(true);
    peaks.push(await usedHeap());
    while (clock.ms < morning + 24 * HOUR) week.advance(false);
    assert.equal(app.chats.count().chats, 0, "chats");
    assert.equal(app.chats.count().waiters, 0, "waiting polls");
    assert.equal(week.countChatObjects(), 0, "chat objects that are still reachable");
    heaps.push(await usedHeap());
    const grown = (heaps.at(-1) ?? 0) - (heaps[0] ?? 0);
    assert.ok(grown < MEGABYTE, `night ${day}: ${grown} bytes more than on the first night`);
  }
  t.diagnostic(JSON.stringify({ ...week.counts, "MB at night": megabytes(heaps), "MB by day": megabytes(peaks) }));
  assert.ok(week.counts.messages >= MESSAGES, `only ${week.counts.messages} messages`);
  assert.equal(countTimers(), timersBefore, "timers");
});

function megabytes(sizes: number[]): number[] {
  return sizes.map((bytes) => Number((bytes / MEGABYTE).toFixed(1)));
}

class WeekSimulation {
  readonly #app: App;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #simulatedChats = new Set<SimulatedChat>();
  #chatClass: Class | undefined;
  readonly counts = { chats: 0, members: 0, messages: 0, polls: 0, ended: 0, full: 0, mostChats: 0, mostPolls: 0 };

  constructor(app: App, clock: Clock, random: Random) {
    this.#app = app;
    this.#clock = clock;
    this.#random = random;
  }

  /** Simulates half a minute. */
  advance(opensChats: boolean): void {
    const { chats } = this.#app;
    for (let second = 0; second < 30; second += 10) {
      this.#clock.advance(10 * SECOND);
      this.#app.sweep();
    }
    if (opensChats) for (let count = this.#random.below(4); count > 0; count -= 1) this.#createChat();
    for (const simulated of this.#simulatedChats) {
      if (this.#clock.ms >= simulated.endsAt) this.#end(simulated);
      else if (this.#clock.ms >= simulated.nextAt) this.#act(simulated);
    }
    this.counts.mostChats = Math.max(this.counts.mostChats, chats.count().chats);
    this.counts.mostPolls = Math.max(this.counts.mostPolls, chats.count().waiters);
  }

  /** Returns the number of chat objects in memory, whatever refers to them. */
  countChatObjects(): number {
    assert.ok(this.#chatClass);
    return queryObjects(this.#chatClass, { format: "count" });
  }

  #createChat(): void {
    const { chats } = this.#app;
    const key = this.#random.isTrue(0.5) ? `create ${this.counts.chats}` : undefined;
    try {
      chats.makeRoom();
    } catch {
      this.counts.full += 1;
      return;
    }
    const creator = chats.create(undefined, key);
    this.#chatClass ??= classOf(creator.chat);
    this.counts.chats += 1;
    const endsAt = this.#clock.ms + this.#random.below(4 * 60) * MINUTE;
    this.#simulatedChats.add({ members: [creator], nextAt: this.#clock.ms, endsAt });
  }

  #act(simulated: SimulatedChat): void {
    const { chats } = this.#app;
    const [random, now] = [this.#random, this.#clock.ms];
    const chat = simulated.members[0]?.chat;
    simulated.members = simulated.members.filter(
      (member) => now < member.expiresAt && member.chat.members.includes(member),
    );
    if (!chat || simulated.members.length === 0 || !chats.get(chat.id))
      return void this.#simulatedChats.delete(simulated);
    simulated.nextAt = now + (1 + random.below(10)) * MINUTE;
    if (chat.members.length < 6 && random.isTrue(0.3)) {
      simulated.members.push(
        chats.join(chat, undefined, random.isTrue(0.5) ? `join ${this.counts.members}` : undefined),
      );
      this.counts.members += 1;
    }
    for (const member of simulated.members) {
      if (member.openPolls < 2) this.#addPoll(member);
    }
    for (let count = random.below(12); count > 0; count -= 1) {
      const key = random.isTrue(0.5) ? `message ${this.counts.messages}` : undefined;
      const text = `Message ${this.counts.messages} ${"and more text ".repeat(random.below(20))}`;
      chats.post(random.pick(simulated.members), text, key);
      this.counts.messages += 1;
    }
    if (simulated.members.length > 1 && random.isTrue(0.05))
      chats.freeSeats([random.pick(simulated.members)], "revoked_token");
  }

  /** Adds a waiting poll. One in five readers disconnects before the poll ends. */
  #addPoll(member: Member): void {
    const { chats } = this.#app;
    const browser = this.#random.isTrue(0.7) ? `browser-${this.#random.below(1_000_000)}` : "";
    const isVisible = this.#random.isTrue(0.5);
    const waiter: Waiter = {
      kind: "waiter",
      member,
      since: member.chat.cursor,
      wait: 50,
      heldAt: this.#clock.ms,
      isStream: false,
      browser,
      isVisible,
    };
    if (!chats.addWaiter(waiter)) return;
    this.counts.polls += 1;
    waiter.onEnd = () => (this.counts.ended += 1);
    if (this.#random.isTrue(0.2)) chats.removeWaiter(waiter);
  }

  /** The creator ends the chat, all members leave, or they abandon it until their sessions expire. */
  #end(simulated: SimulatedChat): void {
    const { chats } = this.#app;
    const { chat } = simulated.members[0] ?? {};
    this.#simulatedChats.delete(simulated);
    if (!chat || !chats.get(chat.id)) return;
    const outcome = this.#random.pick(["ended", "left", "abandoned"] as const);
    if (outcome === "ended") chats.end(chat);
    if (outcome === "left")
      for (const member of simulated.members)
        if (chat.members.includes(member)) chats.freeSeats([member], "revoked_token");
  }
}

type Class = new (...parts: never[]) => object;

/** Returns the class of an object, to count the instances of that class. */
function classOf(value: object | undefined): Class {
  const found: unknown = value?.constructor;
  assert.ok(isClass(found));
  return found;
}

function isClass(value: unknown): value is Class {
  return typeof value === "function";
}

test("requests from 60,000 addresses leave no chat, poll, timer or count behind", async (t) => {
  const timersBefore = countTimers();
  const server = await startServer(t, { trustProxy: true });
  const connections = await Promise.all(Array.from({ length: 8 }, () => Line.open(server.port)));
  const [line, ...readers] = connections;
  assert.ok(line);

  let firstChat = "";

  /** Sends an invalid token from a separate address. */
  const sendBadToken = async (number: number): Promise<string> => {
    const ipv4 = `10.${number >> 16}.${(number >> 8) & 255}.${number & 255}`;
    const ipv6 = `2001:db8:${(number >> 8).toString(16)}:${(number & 255).toString(16)}::1`;
    const address = `X-Forwarded-For: ${number % 2 === 0 ? ipv4 : ipv6}`;
    await line.ask("GET", `/${"A".repeat(16)}`, { token: `forged-${number}`, lines: [address] });
    return address;
  };

  /** Uses a chat from separate addresses for a minute, and leaves the rest to expire. */
  const useChat = async (number: number): Promise<void> => {
    const lines = [await sendBadToken(number)];
    const key = `a key to create no. ${1_000_000 + number}`;
    const made = record((await line.ask("POST", "/create", { lines, key })).body);
    firstChat ||= stringOf(made, "chat_id");
    const [path, token] = [`/${stringOf(made, "chat_id")}`, stringOf(made, "session_token")];
    const invited = record((await line.ask("POST", `${path}/invite`, { token })).body);
    const body = { invite_token: stringOf(invited, "invite_token") };
    await line.ask("POST", `${path}/join`, { body, lines });
    const polls = readers.map((reader, index) =>
      reader.ask("GET", `${path}?since=latest&wait=50&browser=tab-${index % 2}`, { token }),
    );
    for (let count = 0; count < 5; count += 1) {
      await line.ask("POST", path, { token, body: { text: `Message ${count}` }, key: `key ${count}` });
    }
    if (number % 2 === 0) await line.ask("POST", `${path}/leave`, { token });
    server.advanceAndSweep(MINUTE);
    await Promise.all(polls);
  };
  const expireAll = async (): Promise<number> => {
    server.advanceAndSweep(7 * HOUR);
    assert.deepEqual([server.app.chats.count().chats, server.app.chats.count().waiters], [0, 0]);
    return usedHeap();
  };

  await useChat(0);
  const chatClass = classOf(server.app.chats.get(firstChat));
  for (let number = 1; number < 2_000; number += 1) await useChat(number);
  const before = await expireAll();
  assert.equal(queryObjects(chatClass, { format: "count" }), 0, "chat objects that are still reachable");
  for (let number = 0; number < 60_000; number += 1) await sendBadToken(number);
  const busy = await usedHeap();
  const after = await expireAll();
  t.diagnostic(`bytes: ${before} before, ${busy} with 60,000 addresses counted, ${after} after`);
  assert.ok(busy - before > 2 * MEGABYTE, "the addresses were counted");
  assert.ok(after - before < MEGABYTE, `grown by ${after - before} bytes`);
  for (const each of connections) each.close();
  await server.app.stop();
  assert.equal(countTimers(), timersBefore, "timers");
});

/** Returns the number of timers that keep the process alive. */
function countTimers(): number {
  return process.getActiveResourcesInfo().filter((type) => /Timeout|Immediate/.test(type)).length;
}
