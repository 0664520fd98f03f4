// A week of use leaves nothing behind: chats come and go by the thousand, more than a million messages are said,
// and memory, timers and counts are in the end what they were. The clock is the test's own.
//
// SOAK_SEED=<seed> repeats a week.

import assert from "node:assert/strict";
import test from "node:test";
import { queryObjects } from "node:v8";
import { type App, createApp } from "../../server.ts";
import { Clock, HOUR, MINUTE, record, SECOND, startServer, stringOf } from "../helpers.ts";
import { Chance, chooseSeed, Line, usedHeap } from "./tools.ts";

const WEEK = 7 * 24 * HOUR;
const MESSAGES = 1_000_000;
const MEGABYTE = 1_048_576;

type Seat = ReturnType<App["chats"]["create"]>;
type Waiter = Parameters<App["chats"]["hold"]>[0];

/** What happens in one chat of the week. */
interface Evening {
  seats: Seat[];
  /** When the next thing happens, and when the chat is left or ended; some are just abandoned. */
  next: number;
  over: number;
}

test("after a week and a million messages nothing is left of any of it", { timeout: 300_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const timersBefore = timers();
  const clock = new Clock();
  const app = createApp({ now: () => clock.ms });
  const week = new Week(app, clock, new Chance(seed));
  const [start, heaps, peaks]: [number, number[], number[]] = [clock.ms, [], []];
  for (let day = 1; day <= 7; day += 1) {
    const morning = start + ((day - 1) * WEEK) / 7;
    // Eighteen hours of coming and going, then six in which the last sessions run out.
    while (clock.ms < morning + 18 * HOUR) week.live(true);
    peaks.push(await usedHeap());
    while (clock.ms < morning + 24 * HOUR) week.live(false);
    assert.equal(app.chats.size, 0, "chats");
    assert.equal(app.chats.waiting, 0, "held polls");
    assert.equal(week.leftBehind(), 0, "chats that somebody still refers to");
    heaps.push(await usedHeap());
  }
  const megabytes = (list: number[]) => list.map((bytes) => Number((bytes / MEGABYTE).toFixed(1)));
  t.diagnostic(JSON.stringify({ ...week.counts, "MB at night": megabytes(heaps), "MB by day": megabytes(peaks) }));
  assert.ok(week.counts.messages >= MESSAGES, `only ${week.counts.messages} messages`);
  const [first = 0, last = 0] = [heaps[0], heaps.at(-1)];
  assert.ok(last - first < MEGABYTE, `grown by ${last - first} bytes from the first night to the last`);
  assert.deepEqual(timers(), timersBefore, "timers");
});

class Week {
  readonly #app: App;
  readonly #clock: Clock;
  readonly #chance: Chance;
  readonly #evenings = new Set<Evening>();
  #chatClass: (new (...parts: never[]) => object) | undefined;
  readonly counts = { chats: 0, members: 0, messages: 0, polls: 0, full: 0, mostChats: 0, mostPolls: 0 };

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
    if (isNewsWelcome) for (let count = this.#chance.below(5); count > 0; count -= 1) this.#open();
    for (const evening of this.#evenings) {
      if (this.#clock.ms >= evening.over) this.#close(evening);
      else if (this.#clock.ms >= evening.next) this.#talk(evening);
    }
    this.counts.mostChats = Math.max(this.counts.mostChats, chats.size);
    this.counts.mostPolls = Math.max(this.counts.mostPolls, chats.waiting);
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
    if (!this.#chatClass) {
      const made: unknown = creator.chat.constructor;
      assert.ok(isClass(made));
      this.#chatClass = made;
    }
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
      if (member.polls < 2) this.#hold(member);
    }
    for (let count = chance.below(12); count > 0; count -= 1) {
      const key = chance.isTrue(0.5) ? `message ${this.counts.messages}` : undefined;
      const text = `Message ${this.counts.messages} ${"of a million ".repeat(chance.below(20))}`;
      chats.post(chance.pick(evening.seats), text, key);
      this.counts.messages += 1;
    }
    if (evening.seats.length > 1 && chance.isTrue(0.05)) chats.free(chance.pick(evening.seats), "revoked_token");
  }

  /** A reader, who polls again when answered, or has gone. */
  #hold(member: Seat): void {
    const { chats } = this.#app;
    const browser = this.#chance.isTrue(0.7) ? `browser-${this.#chance.below(1_000_000)}` : "";
    const visible = this.#chance.isTrue(0.5);
    const waiter: Waiter = { member, since: member.chat.cursor, wait: 50, heldAt: this.#clock.ms, browser, visible };
    if (!chats.hold(waiter)) return;
    this.counts.polls += 1;
    const isPatient = this.#chance.isTrue(0.8);
    waiter.onEnd = (end) => {
      if (end === "answer" && isPatient && this.#clock.ms < member.expiresAt) setImmediate(() => {});
    };
    if (!isPatient) chats.release(waiter);
  }

  /** Ended, left by all, or forgotten until the sessions are over. */
  #close(evening: Evening): void {
    const { chats } = this.#app;
    const { chat } = evening.seats[0] ?? {};
    this.#evenings.delete(evening);
    if (!chat || !chats.get(chat.id)) return;
    const how = this.#chance.pick(["ended", "left", "forgotten"] as const);
    if (how === "ended") chats.end(chat);
    if (how === "left") for (const member of [...chat.members]) chats.free(member, "revoked_token");
  }
}

function isClass(value: unknown): value is new (...parts: never[]) => object {
  return typeof value === "function";
}

test("a day of requests from 60,000 addresses leaves no chat, poll, connection, timer or count behind", async (t) => {
  const timersBefore = timers();
  const server = await startServer(t, { trustProxy: true, maxChats: 100 });
  const lines = await Promise.all(Array.from({ length: 8 }, () => Line.open(server.port)));
  const [line, ...readers] = lines;
  assert.ok(line);

  /** Uses every counter for these addresses, and a chat in every way. */
  const live = async (from: number, to: number): Promise<void> => {
    for (let number = from; number < to; number += 1) {
      const from4 = `X-Forwarded-For: 10.${number >> 16}.${(number >> 8) & 255}.${number & 255}`;
      const from6 = `X-Forwarded-For: 2001:db8:${(number >> 8).toString(16)}:${(number & 255).toString(16)}::1`;
      const address = [number % 2 === 0 ? from4 : from6];
      await line.ask("GET", `/${"A".repeat(16)}`, { token: `forged-${number}`, lines: address });
      if (number % 50 !== 0) continue;
      const made = record(
        (await line.ask("POST", "/create", { lines: address, key: `a key to create ${number}` })).body,
      );
      const [path, token] = [`/${stringOf(made, "chat_id")}`, stringOf(made, "session_token")];
      const invited = record((await line.ask("POST", `${path}/invite`, { token })).body);
      const body = { invite_token: stringOf(invited, "invite_token") };
      await line.ask("POST", `${path}/join`, { body, lines: address });
      const held = readers.map((reader, index) =>
        reader.ask("GET", `${path}?since=latest&wait=50&browser=tab-${index % 2}`, { token }),
      );
      for (let count = 0; count < 5; count += 1) {
        await line.ask("POST", path, { token, body: { text: `Message ${count}` }, key: `key ${count}` });
      }
      await line.ask("POST", `${path}/leave`, { token });
      server.pass(MINUTE);
      await Promise.all(held);
    }
  };
  const over = async (): Promise<number> => {
    server.pass(7 * HOUR);
    assert.deepEqual([server.app.chats.size, server.app.chats.waiting], [0, 0]);
    return usedHeap();
  };

  await live(0, 2_000);
  const before = await over();
  await live(0, 60_000);
  const busy = await usedHeap();
  const after = await over();
  t.diagnostic(`bytes: ${before} before, ${busy} with 60,000 addresses counted, ${after} after`);
  assert.ok(after - before < MEGABYTE, `grown by ${after - before} bytes`);
  for (const each of lines) each.close();
  await server.app.stop();
  assert.deepEqual(timers(), timersBefore, "timers");
});

/** The timers that would keep the process alive. */
function timers(): string[] {
  return process.getActiveResourcesInfo().filter((what) => /Timeout|Immediate|Interval/.test(what));
}
