// Whatever people do, in whatever order and at whatever time, the server does what the contract says: random
// sequences over HTTP against a model of the contract, each answer compared in full.
//
// SOAK_SEED=<seed> repeats a run; a failure is shrunk to a short sequence and printed.

import assert from "node:assert/strict";
import { once } from "node:events";
import test, { type TestContext } from "node:test";
import * as fc from "fast-check";
import { at, HOUR, MINUTE, record, SECOND, startServer, STATUS, stringOf, type TestServer } from "../lib/helpers.ts";
import {
  type Invitation,
  Model,
  type Outcome,
  type Poll,
  Refused,
  type Room,
  type Seat,
  type Ticket,
} from "./model.ts";
import { type Answer, chooseSeed, Line, type Question } from "./tools.ts";

const SEQUENCES = 10_000;
const MAX_CHATS = 4;
const KEYS = ["a-key-of-22-characters", "a-key-of-22-characters", "another-key-of-just-so-many"] as const;

/** Whose token is used where: somebody who sits in a chat, or any token there ever was; its own chat, or any. */
interface Whose {
  isLive: boolean;
  who: number;
  where: number | undefined;
}

type Action =
  | { do: "create"; name: unknown; key: string | undefined }
  | {
      do: "join";
      name: unknown;
      key: string | undefined;
      invitation: number;
      where: number | undefined;
      isBody: boolean;
    }
  | { do: "crowd"; count: number; invitation: number }
  | { do: "look"; invitation: number; where: number | undefined }
  | ({ do: "invite" | "revoke" | "leave" | "end" } & Whose)
  | ({ do: "post"; text: string; key: string | undefined } & Whose)
  | ({ do: "burst"; count: number } & Whose)
  | ({ do: "read"; since: "latest" | "none" | number } & Whose)
  | ({ do: "hold"; wait: number; browser: string | undefined; visible: boolean } & Whose)
  | ({ do: "tabs"; visible: boolean[] } & Whose)
  | ({ do: "remove"; member: number } & Whose)
  | { do: "pass"; time: number; isSwept: boolean };

/** The server under test, and what has happened in all sequences together. */
class Bench {
  readonly server: TestServer;
  readonly line: Line;
  readonly spare: Line[] = [];
  readonly seen = new Map<string, number>();
  requests = 0;

  constructor(server: TestServer, line: Line) {
    this.server = server;
    this.line = line;
  }

  static async start(t: TestContext): Promise<Bench> {
    const server = await startServer(t, { maxChats: MAX_CHATS });
    const bench = new Bench(server, await Line.open(server.port));
    t.after(() => {
      for (const line of [bench.line, ...bench.spare]) line.close();
    });
    return bench;
  }
}

/** One sequence: the model beside the server, and all tokens handed out so far. */
class Run {
  readonly bench: Bench;
  readonly model: Model;
  readonly rooms: Room[] = [];
  readonly seats: Seat[] = [];
  readonly invitations: Invitation[] = [];
  readonly held = new Map<Poll, { line: Line; answer: Promise<Answer> }>();

  constructor(bench: Bench) {
    this.bench = bench;
    this.model = new Model(bench.server.clock.ms, MAX_CHATS);
  }

  async perform(action: Action): Promise<unknown> {
    switch (action.do) {
      case "create": {
        const { name, key } = action;
        return this.#session(
          () => this.model.create(name, key),
          "/create",
          { key, body: { username: name } },
          "create",
        );
      }
      case "join":
        return this.#join(action);
      case "crowd":
        for (let count = 0; count < action.count; count += 1) {
          await this.#join({ ...action, name: undefined, key: undefined, where: undefined, isBody: true });
        }
        return undefined;
      case "look": {
        const { ticket, where } = this.#invitation(action);
        const expect = () => ({ status: 200, body: this.model.look(ticket, where) });
        return this.#ask("look", expect, "GET", `/${where.id}/invite`, { token: ticket.token });
      }
      case "invite":
        return this.#invite(action);
      case "post":
        return this.#post("post", this.#whose(action), action.text, action.key);
      case "burst":
        return this.#burst(action);
      case "read": {
        const { ticket, where } = this.#whose(action);
        const { since } = action;
        const number = since === "none" ? 0 : since === "latest" ? where.cursor : Math.max(0, where.cursor - since);
        const query = since === "none" ? "" : `?since=${since === "latest" ? since : number}`;
        const expect = () => this.#now(this.model.read(ticket, where, number, 0));
        return this.#ask("read", expect, "GET", `/${where.id}${query}`, { token: ticket.token });
      }
      case "hold":
        return this.#hold(action);
      case "tabs":
        for (const visible of action.visible) await this.#hold({ ...action, wait: 50, browser: "firefox", visible });
        return undefined;
      case "remove": {
        const { ticket, where } = this.#whose(action);
        const path = `/${where.id}/members/${action.member}`;
        const expect = () => this.#done(() => this.model.remove(ticket, where, action.member));
        return this.#ask("remove", expect, "DELETE", path, { token: ticket.token });
      }
      case "revoke":
      case "leave":
      case "end": {
        const { ticket, where } = this.#whose(action);
        const expect = () => this.#done(() => this.model[action.do](ticket, where));
        const path = { revoke: "/invite", leave: "/leave", end: "" }[action.do];
        const method = action.do === "leave" ? "POST" : "DELETE";
        return this.#ask(action.do, expect, method, `/${where.id}${path}`, { token: ticket.token });
      }
      case "pass":
        this.#pass(action.time, action.isSwept);
        return this.#settle();
      default:
        return action satisfies never;
    }
  }

  /** All sessions over: whatever has happened, nothing is left. */
  async finish(): Promise<void> {
    this.#pass(7 * HOUR, true);
    await this.#settle();
    assert.equal(this.bench.server.app.chats.count().chats, 0);
    assert.equal(this.bench.server.app.chats.count().waiters, 0);
  }

  /** Lets go of what a failed sequence has left. */
  abandon(): void {
    for (const { line, answer } of this.held.values()) {
      answer.catch(() => {});
      line.close();
    }
    this.bench.server.pass(7 * HOUR);
  }

  #pass(time: number, isSwept: boolean): void {
    this.bench.server.clock.advance(time);
    this.model.now += time;
    if (!isSwept) return;
    this.bench.server.app.sweep();
    this.model.sweep();
  }

  #join(action: Omit<Action & { do: "join" }, "do">): Promise<void> {
    const { ticket, where } = this.#invitation(action);
    const { name, key } = action;
    const body = { username: name, ...(action.isBody && { invite_token: ticket.token }) };
    const question = { key, body, ...(!action.isBody && { token: ticket.token }) };
    return this.#session(() => this.model.join(ticket, where, name, key), `/${where.id}/join`, question, "join");
  }

  async #invite(action: Whose): Promise<void> {
    const { ticket, where } = this.#whose(action);
    let made: Invitation | undefined;
    const expect = (answer: Answer): Outcome => {
      made = this.model.invite(ticket, where);
      made.token = stringIn(answer, "invite_token");
      const link = `${this.bench.server.base}/${where.id}#invite=${made.token}`;
      const [seats_left, expires_at] = [6 - where.seats.length, new Date(made.expires).toISOString()];
      return { status: 201, body: { magic_link: link, invite_token: made.token, expires_at, seats_left } };
    };
    await this.#ask("invite", expect, "POST", `/${where.id}/invite`, { token: ticket.token });
    if (made) this.invitations.push(made);
  }

  #post(what: string, whose: { ticket: Ticket; where: Room }, text: string, key: string | undefined): Promise<number> {
    const { ticket, where } = whose;
    const expect = (): Outcome => {
      const { status, message } = this.model.post(ticket, where, text, key);
      return { status, body: message };
    };
    return this.#ask(what, expect, "POST", `/${where.id}`, { token: ticket.token, key, body: { text } });
  }

  /** Many messages, just fast enough for the rate. */
  async #burst(action: Whose & { count: number }): Promise<void> {
    const whose = this.#whose(action);
    for (let count = 0; count < action.count; count += 1) {
      this.#pass(SECOND / 10, false);
      const status = await this.#post("burst", whose, `message ${count}`, undefined);
      if (status !== 201 && status !== 429) return;
    }
  }

  async #session(
    make: () => { status: number; seat: Seat },
    path: string,
    question: Question,
    what: "create" | "join",
  ): Promise<void> {
    const expect = (answer: Answer): Outcome => {
      const { status, seat } = make();
      if (status === 201) {
        if (what === "create") seat.room.id = stringIn(answer, "chat_id");
        seat.token = stringIn(answer, "session_token");
        assert.ok(!this.seats.some(({ token }) => token === seat.token), "a token is nobody else's");
        if (what === "create") this.rooms.push(seat.room);
        this.seats.push(seat);
      }
      const body = {
        chat_id: seat.room.id,
        session_token: seat.token,
        member_id: String(seat.number),
        username: seat.name,
        expires_at: new Date(seat.expires).toISOString(),
        url: `${this.bench.server.base}/${seat.room.id}`,
      };
      return { status, body };
    };
    await this.#ask(what, expect, "POST", path, question);
  }

  async #hold(action: Whose & { wait: number; browser: string | undefined; visible: boolean }): Promise<void> {
    const { ticket, where } = this.#whose(action);
    const { wait, browser, visible } = action;
    const line = this.bench.spare.pop() ?? (await Line.open(this.bench.server.port));
    const queries = [`since=latest&wait=${wait}`, browser && `browser=${browser}`, visible && "visible=1"];
    const arrived = once(this.bench.server.app.server, "request");
    const path = `/${where.id}?${queries.filter(Boolean).join("&")}`;
    const answer = line.ask("GET", path, { token: ticket.token });
    await arrived;
    this.bench.requests += 1;
    this.model.expire();
    const outcome = attempt(() => this.model.read(ticket, where, where.cursor, wait, browser, visible));
    if ("seat" in outcome) {
      this.held.set(outcome, { line, answer });
      this.#count("hold", "held");
    } else {
      this.bench.spare.push(line);
      this.#compare("hold", await answer, outcome);
    }
    await this.#settle();
  }

  /** Asks the server and the model alike. */
  async #ask(
    what: string,
    expect: (answer: Answer) => Outcome,
    method: string,
    path: string,
    question: Question,
  ): Promise<number> {
    const answer = await this.bench.line.ask(method, path, question);
    this.bench.requests += 1;
    this.model.expire();
    this.#compare(
      what,
      answer,
      attempt(() => expect(answer)),
    );
    await this.#settle();
    return answer.status;
  }

  /** Every poll that must have been answered by now is compared, and no other has been answered. */
  async #settle(): Promise<void> {
    const { chats } = this.bench.server.app;
    assert.equal(chats.count().waiters, this.model.polls.length, "polls held");
    assert.equal(chats.count().chats, this.model.rooms.length, "chats");
    for (const [poll, { line, answer }] of this.held) {
      if (!poll.outcome) continue;
      this.held.delete(poll);
      this.#compare("held", await answer, poll.outcome);
      this.bench.spare.push(line);
    }
  }

  #compare(what: string, answer: Answer, outcome: Outcome): void {
    if ("error" in outcome) {
      assert.equal(record(answer.body)["error"], outcome.error, `${what}: ${answer.text}`);
      assert.equal(answer.status, STATUS[outcome.error]);
      if (answer.status === 429) assert.match(answer.head, /\r\nRetry-After: 1(?:\r|$)/);
    } else {
      assert.equal(answer.status, outcome.status, `${what}: ${answer.text}`);
      assert.deepEqual(answer.body, outcome.body, what);
    }
    const body = "error" in outcome ? {} : { missed: false, retry_in: 0, ...outcome.body };
    this.#count(what, "error" in outcome ? outcome.error : String(outcome.status));
    if ("missed" in body && body.missed === true) this.#count(what, "missed");
    if ("retry_in" in body && body.retry_in !== 0) this.#count(what, "retry_in");
  }

  #count(what: string, how: string): void {
    const name = `${what}: ${how}`;
    this.bench.seen.set(name, (this.bench.seen.get(name) ?? 0) + 1);
  }

  #whose({ isLive, who, where }: Whose): { ticket: Ticket; where: Room } {
    const live = this.seats.filter((seat) => seat.room.seats.includes(seat) && this.model.rooms.includes(seat.room));
    const tickets = isLive && live.length > 0 ? live : [...this.seats, ...this.invitations];
    return this.#place(at(tickets, who % tickets.length), where);
  }

  #invitation(action: { invitation: number; where: number | undefined }): { ticket: Ticket; where: Room } {
    const { invitation, where } = action;
    // Now and then a session's token where an invitation belongs; the latest invitations more often than others.
    const tickets: Ticket[] = invitation % 16 === 15 ? this.seats : this.invitations;
    return this.#place(at(tickets, -1 - ((invitation >> 4) % tickets.length)), where);
  }

  #place(ticket: Ticket, where: number | undefined): { ticket: Ticket; where: Room } {
    return { ticket, where: where === undefined ? ticket.room : at(this.rooms, where % this.rooms.length) };
  }

  #done(change: () => void): Outcome {
    change();
    return { status: 204 };
  }

  #now(outcome: Outcome | Poll): Outcome {
    assert.ok(!("seat" in outcome), "a poll without wait is not held");
    return outcome;
  }
}

function attempt<T>(make: () => T): T | { error: string } {
  try {
    return make();
  } catch (error) {
    if (error instanceof Refused) return { error: error.message };
    throw error;
  }
}

/** A field of the answer; "" where it has none, which the comparison tells better. */
function stringIn(answer: Answer, key: string): string {
  const fields = record(answer.body);
  return key in fields ? stringOf(fields, key) : "";
}

class Step implements fc.AsyncCommand<Run, Bench> {
  readonly action: Action;

  constructor(action: Action) {
    this.action = action;
  }

  check(): boolean {
    return true;
  }

  async run(run: Run): Promise<void> {
    await run.perform(this.action);
  }

  toString(): string {
    return JSON.stringify(this.action);
  }
}

const maybe = <T>(value: fc.Arbitrary<T>, freq: number) => fc.option(value, { nil: undefined, freq });
const often = fc.integer({ min: 0, max: 15 }).map((number) => number > 0);
const number = fc.nat({ max: 1_023 });
const where = fc.oneof({ weight: 7, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: number });
const whose = { isLive: often, who: number, where };
const key = maybe(fc.constantFrom(...KEYS), 2);
const name = fc.constantFrom(
  undefined,
  undefined,
  undefined,
  null,
  "Ana",
  "ana",
  "Ben",
  "BEN",
  "Guest 2",
  "Guest 1",
  "",
  7,
);

/** A moment, a little before or after something is due, or long enough for it to be. */
const time = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 400 }) },
  { weight: 3, arbitrary: fc.constantFrom(SECOND, 49_999, 50_000, MINUTE - 1, MINUTE) },
  { weight: 2, arbitrary: fc.constantFrom(10 * MINUTE - 1, 10 * MINUTE) },
  { weight: 1, arbitrary: fc.constantFrom(HOUR, 6 * HOUR - 10 * MINUTE, 6 * HOUR - 1, 6 * HOUR) },
);

const ACTIONS: [weight: number, arbitrary: fc.Arbitrary<Action>][] = [
  [4, fc.record({ do: fc.constant("create"), name, key })],
  [14, fc.record({ do: fc.constant("join"), name, key, invitation: number, where, isBody: fc.boolean() })],
  [1, fc.record({ do: fc.constant("crowd"), count: fc.integer({ min: 3, max: 6 }), invitation: number })],
  [2, fc.record({ do: fc.constant("look"), invitation: number, where })],
  [3, fc.record({ do: fc.constant("invite"), ...whose })],
  [1, fc.record({ do: fc.constantFrom("revoke", "end"), ...whose })],
  [3, fc.record({ do: fc.constant("leave"), ...whose })],
  [2, fc.record({ do: fc.constant("remove"), member: fc.integer({ min: 1, max: 7 }), ...whose })],
  [12, fc.record({ do: fc.constant("post"), text: fc.constantFrom("a", "a", "a", "b", " "), key, ...whose })],
  [1, fc.record({ do: fc.constant("burst"), count: fc.integer({ min: 1, max: 60 }), ...whose })],
  [
    8,
    fc.record({
      do: fc.constant("read"),
      since: fc.oneof(fc.constantFrom("latest", "none"), fc.integer({ min: -1, max: 45 })),
      ...whose,
    }),
  ],
  [
    14,
    fc.record({
      do: fc.constant("hold"),
      wait: fc.constantFrom(1, 49, 50),
      browser: maybe(fc.constantFrom("firefox", "chromium"), 3),
      visible: fc.boolean(),
      ...whose,
    }),
  ],
  [
    1,
    fc.record({ do: fc.constant("tabs"), visible: fc.array(fc.boolean(), { minLength: 4, maxLength: 6 }), ...whose }),
  ],
  [5, fc.record({ do: fc.constant("pass"), time, isSwept: often })],
];
const action = fc.oneof(...ACTIONS.map(([weight, arbitrary]) => ({ weight, arbitrary })));

/** What must have come up, so that the sequences have shown something. */
const MUST_BE_SEEN = `
  create: 200, create: 201, create: server_full, create: invalid_username,
  join: 200, join: 201, join: chat_full, join: username_taken, join: invalid_username, join: invalid_token,
  join: expired_token, join: wrong_chat, join: chat_not_found, join: revoked_token,
  look: 200, look: chat_full, look: revoked_token, look: chat_not_found, look: expired_token,
  invite: 201, invite: not_creator, invite: wrong_chat, revoke: 204, revoke: not_creator, end: 204, end: not_creator,
  remove: 204, remove: not_found, remove: not_creator, leave: 204, leave: revoked_token, leave: chat_not_found,
  post: 200, post: 201, post: invalid_text, post: invalid_key, post: expired_token, post: revoked_token,
  post: invalid_token, post: rate_limited, read: 200, read: missed, read: invalid_cursor, read: expired_token,
  hold: held, hold: retry_in, hold: chat_not_found, held: 200, held: retry_in, held: expired_token,
  held: revoked_token, held: chat_not_found
`;

test("in 10,000 random sequences of requests every answer is the contract's", { timeout: 600_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const bench = await Bench.start(t);
  const property = fc.asyncProperty(
    fc.commands([action.map((each) => new Step(each))], { maxCommands: 32, size: "max" }),
    async (commands) => {
      const run = new Run(bench);
      try {
        // A chat of two to begin with, so that what comes next has somebody to do it.
        await run.perform({ do: "create", name: undefined, key: KEYS[0] });
        await run.perform({ do: "invite", isLive: true, who: 0, where: undefined });
        await fc.asyncModelRun(() => ({ model: run, real: bench }), commands);
        await run.finish();
      } catch (error) {
        run.abandon();
        throw error;
      }
    },
  );
  await fc.assert(property, { seed, numRuns: SEQUENCES, endOnFailure: false });
  t.diagnostic(`${bench.requests} requests: ${[...bench.seen].map(([what, count]) => `${what} ${count}`).join(", ")}`);
  for (const what of MUST_BE_SEEN.trim().split(/,\s+/)) assert.ok(bench.seen.has(what), `never came up: ${what}`);
});
