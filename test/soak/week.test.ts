// A week of use leaves nothing behind: chats come and go by the thousand, more than two million messages are said,
// and memory, timers and counts are in the end what they were. The clock is the test's own.
//
// SOAK_SEED=<seed> repeats a week.

import assert from "node:assert/strict";
import test from "node:test";
import { queryObjects } from "node:v8";
import { type App, createApp } from "../../server.ts";
import { Clock, HOUR, MINUTE, record, SECOND, startServer, stringOf } from "../lib/helpers.ts";
import { Chance, chooseSeed, Line, usedHeap } from "./tools.ts";

const WEEK = 7 * 24 * HOUR;
const MESSAGES = 2_000_000;
const MEGABYTE = 1_048_576;

type Seat = ReturnType<App["chats"]["create"]>;
type Waiter = Parameters<App["chats"]["addWaiter"]>[0];

/** What happens in one chat of the week. */
interface Evening {
  seats: Seat[];
  /** When the next thing happens, and when the chat is left or ended; some are just abandoned. */
  next: number;
  over: number;
}

test("after a week and two million messages nothing is left of any of it", { timeout: 600_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const timersBefore = timers();
  const clock = new Clock();
  // All its chats are created from one address, which may have a tenth of what the server holds.
  const app = createApp({ now: () => clock.ms, rateLimit: false });
  const week = new Week(app, clock, new Chance(seed));
  const [start, heaps, peaks]: [number, number[], number[]] = [clock.ms, [], []];
  for (let day = 1; day <= 7; day += 1) {
    const morning = start + ((day - 1) * WEEK) / 7;
    // Fourteen hours of coming and going, four to finish what was begun, six until the last session is over.
    while (clock.ms < morning + 14 * HOUR) week.live(true);
    peaks.push(await usedHeap());
    while (clock.ms < morning + 24 * HOUR) week.live(false);
    assert.equal(app.chats.count().chats, 0, "chats");
    assert.equal(app.chats.count().waiters, 0, "held polls");
    assert.equal(week.leftBehind(), 0, "chats that somebody still refers to");
    heaps.push(await usedHeap());
    const grown = (heaps.at(-1) ?? 0) - (heaps[0] ?? 0);
    assert.ok(grown < MEGABYTE, `night ${day}: ${grown} bytes more than in the first`);
  }
  t.diagnostic(JSON.stringify({ ...week.counts, "MB at night": megabytes(heaps), "MB by day": megabytes(peaks) }));
  assert.ok(week.counts.messages >= MESSAGES, `only ${week.counts.messages} messages`);
  assert.equal(timers(), timersBefore, "timers");
});

function megabytes(sizes: number[]): number[] {
  return sizes.map((bytes) => Number((bytes / MEGABYTE).toFixed(1)));
}

class Week {
  readonly #app: App;
  readonly #clock: Clock;
  readonly #chance: Chance;
  readonly #evenings = new Set<Evening>();
  #chatClass: Class | undefined;
  readonly counts = { chats: 0, members: 0, messages: 0, polls: 0, answered: 0, full: 0, mostChats: 0, mostPolls: 0 };

  constructor(app: App, clock: Clock, chance: Chance) {
    this.#app = app;
    this.#clock = clock;
    this.#chance = chance;
  }

  /** Half a minute. */
  live(isNewsWelcome: boolean): void {
    const { chats } = this.#app;
    for (let second = 0; second < 30; second += 10) {
      this.#clock.advance(10 * SECOND);
      this.#app.sweep();
    }
    if (isNewsWelcome) for (let count = this.#chance.below(4); count > 0; count -= 1) this.#open();
    for (const evening of this.#evenings) {
      if (this.#clock.ms >= evening.over) this.#close(evening);
      else if (this.#clock.ms >= evening.next) this.#talk(evening);
    }
    this.counts.mostChats = Math.max(this.counts.mostChats, chats.count().chats);
    this.counts.mostPolls = Math.max(this.counts.mostPolls, chats.count().waiters);
  }

  /** How many chats are in memory, whoever holds them there. */
  leftBehind(): number {
    assert.ok(this.#chatClass);
    return queryObjects(this.#chatClass, { format: "count" });
  }

  #open(): void {
    const { chats } = this.#app;
    const key = this.#chance.isTrue(0.5) ? `create ${this.counts.chats}` : undefined;
    try {
      chats.makeRoom();
    } catch {
      this.counts.full += 1;
      return;
    }
    const creator = chats.create(undefined, key);
    this.#chatClass ??= classOf(creator.chat);
    this.counts.chats += 1;
    const over = this.#clock.ms + this.#chance.below(4 * 60) * MINUTE;
    this.#evenings.add({ seats: [creator], next: this.#clock.ms, over });
  }

  #talk(evening: Evening): void {
    const { chats } = this.#app;
    const [chance, now] = [this.#chance, this.#clock.ms];
    const chat = evening.seats[0]?.chat;
    evening.seats = evening.seats.filter((seat) => now < seat.expiresAt && seat.chat.members.includes(seat));
    if (!chat || evening.seats.length === 0 || !chats.get(chat.id)) return void this.#evenings.delete(evening);
    evening.next = now + (1 + chance.below(10)) * MINUTE;
    if (chat.members.length < 6 && chance.isTrue(0.3)) {
      evening.seats.push(chats.join(chat, undefined, chance.isTrue(0.5) ? `join ${this.counts.members}` : undefined));
      this.counts.members += 1;
    }
    for (const member of evening.seats) {
      if (member.openPolls < 2) this.#hold(member);
    }
    for (let count = chance.below(12); count > 0; count -= 1) {
      const key = chance.isTrue(0.5) ? `message ${this.counts.messages}` : undefined;
      const text = `Message ${this.counts.messages} ${"of a million ".repeat(chance.below(20))}`;
      chats.post(chance.pick(evening.seats), text, key);
      this.counts.messages += 1;
    }
    if (evening.seats.length > 1 && chance.isTrue(0.05)) chats.freeSeats([chance.pick(evening.seats)], "revoked_token");
  }

  /** A reader waits, and now and then goes away before there is an answer. */
  #hold(member: Seat): void {
    const { chats } = this.#app;
    const browser = this.#chance.isTrue(0.7) ? `browser-${this.#chance.below(1_000_000)}` : "";
    const isVisible = this.#chance.isTrue(0.5);
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
    waiter.onEnd = () => (this.counts.answered += 1);
    if (this.#chance.isTrue(0.2)) chats.removeWaiter(waiter);
  }

  /** Ended, left by all, or forgotten until the sessions are over. */
  #close(evening: Evening): void {
    const { chats } = this.#app;
    const { chat } = evening.seats[0] ?? {};
    this.#evenings.delete(evening);
    if (!chat || !chats.get(chat.id)) return;
    const how = this.#chance.pick(["ended", "left", "forgotten"] as const);
    if (how === "ended") chats.end(chat);
    if (how === "left")
      for (const member of evening.seats) if (chat.members.includes(member)) chats.freeSeats([member], "revoked_token");
  }
}

type Class = new (...parts: never[]) => object;

/** The class of something, by which all of its kind can be counted. */
function classOf(thing: object | undefined): Class {
  const made: unknown = thing?.constructor;
  assert.ok(isClass(made));
  return made;
}

function isClass(value: unknown): value is Class {
  return typeof value === "function";
}

test("requests from 60,000 addresses leave no chat, poll, timer or count behind", async (t) => {
  const timersBefore = timers();
  const server = await startServer(t, { trustProxy: true });
  const connections = await Promise.all(Array.from({ length: 8 }, () => Line.open(server.port)));
  const [line, ...readers] = connections;
  assert.ok(line);

  let firstChat = "";

  /** A token that is refused, from an address of its own. */
  const refuse = async (number: number): Promise<string> => {
    const ipv4 = `10.${number >> 16}.${(number >> 8) & 255}.${number & 255}`;
    const ipv6 = `2001:db8:${(number >> 8).toString(16)}:${(number & 255).toString(16)}::1`;
    const address = `X-Forwarded-For: ${number % 2 === 0 ? ipv4 : ipv6}`;
    await line.ask("GET", `/${"A".repeat(16)}`, { token: `forged-${number}`, lines: [address] });
    return address;
  };

  /** A chat with its own minute and addresses, some of it left to expire. */
  const live = async (number: number): Promise<void> => {
    const lines = [await refuse(number)];
    const key = `a key to create no. ${1_000_000 + number}`;
    const made = record((await line.ask("POST", "/create", { lines, key })).body);
    firstChat ||= stringOf(made, "chat_id");
    const [path, token] = [`/${stringOf(made, "chat_id")}`, stringOf(made, "session_token")];
    const invited = record((await line.ask("POST", `${path}/invite`, { token })).body);
    const body = { invite_token: stringOf(invited, "invite_token") };
    await line.ask("POST", `${path}/join`, { body, lines });
    const held = readers.map((reader, index) =>
      reader.ask("GET", `${path}?since=latest&wait=50&browser=tab-${index % 2}`, { token }),
    );
    for (let count = 0; count < 5; count += 1) {
      await line.ask("POST", path, { token, body: { text: `Message ${count}` }, key: `key ${count}` });
    }
    if (number % 2 === 0) await line.ask("POST", `${path}/leave`, { token });
    server.pass(MINUTE);
    await Promise.all(held);
  };
  const over = async (): Promise<number> => {
    server.pass(7 * HOUR);
    assert.deepEqual([server.app.chats.count().chats, server.app.chats.count().waiters], [0, 0]);
    return usedHeap();
  };

  await live(0);
  const chatClass = classOf(server.app.chats.get(firstChat));
  for (let number = 1; number < 2_000; number += 1) await live(number);
  const before = await over();
  assert.equal(queryObjects(chatClass, { format: "count" }), 0, "chats that somebody still refers to");
  for (let number = 0; number < 60_000; number += 1) await refuse(number);
  const busy = await usedHeap();
  const after = await over();
  t.diagnostic(`bytes: ${before} before, ${busy} with 60,000 addresses counted, ${after} after`);
  assert.ok(busy - before > 2 * MEGABYTE, "the counts were there");
  assert.ok(after - before < MEGABYTE, `grown by ${after - before} bytes`);
  for (const each of connections) each.close();
  await server.app.stop();
  assert.equal(timers(), timersBefore, "timers");
});

/** How many timers would keep the process alive. */
function timers(): number {
  return process.getActiveResourcesInfo().filter((what) => /Timeout|Immediate/.test(what)).length;
}
