// Runs random sequences of requests over HTTP and compares every response with a model of the API.
//
// SOAK_SEED=<seed> reproduces a run. A failing sequence is shrunk to a short one and printed.

import assert from "node:assert/strict";
import { once } from "node:events";
import test, { type TestContext } from "node:test";
import * as fc from "fast-check";
import { at, HOUR, MINUTE, record, SECOND, startServer, STATUS, stringOf, type TestServer } from "../lib/helpers.ts";
import {
  type Chat,
  type Credential,
  type Invitation,
  type Member,
  Model,
  ModelError,
  type Outcome,
  type Poll,
} from "./model.ts";
import { chooseSeed, Line, type LineReply, type RequestFields } from "./tools.ts";

const SEQUENCES = 10_000;
const MAX_CHATS = 4;
const KEYS = ["a-key-of-22-characters", "a-key-of-22-characters", "another-key-of-just-so-many"] as const;

/** Selects the token and the chat of a request. */
interface Caller {
  /** Use the token of a current member. Otherwise use any token issued so far. */
  isLive: boolean;
  /** The index among those tokens, modulo their number. */
  index: number;
  /** The index of the chat, modulo the number of chats, or undefined for the chat of the token. */
  target: number | undefined;
}

type Action =
  | { type: "create"; name: unknown; key: string | undefined }
  | {
      type: "join";
      name: unknown;
      key: string | undefined;
      invitation: number;
      target: number | undefined;
      isBody: boolean;
    }
  | { type: "joinMany"; count: number; invitation: number }
  | { type: "redeem"; invitation: number }
  | { type: "preview"; invitation: number; target: number | undefined }
  | ({ type: "invite" } & Caller)
  | ({ type: "revoke" | "leave" | "end" } & Caller)
  | ({ type: "post"; text: string; key: string | undefined } & Caller)
  | ({ type: "burst"; count: number } & Caller)
  | ({ type: "read"; since: "latest" | "none" | number } & Caller)
  | ({ type: "poll"; wait: number; browser: string | undefined; visible: boolean } & Caller)
  | ({ type: "pollInTabs"; visible: boolean[] } & Caller)
  | ({ type: "remove"; member: number } & Caller)
  | { type: "advance"; time: number; isSwept: boolean };

/** The server under test, and the outcomes of all sequences. */
class Harness {
  readonly server: TestServer;
  readonly line: Line;
  readonly idleLines: Line[] = [];
  readonly outcomes = new Map<string, number>();
  requests = 0;

  constructor(server: TestServer, line: Line) {
    this.server = server;
    this.line = line;
  }

  static async start(t: TestContext): Promise<Harness> {
    const server = await startServer(t, { maxChats: MAX_CHATS });
    const harness = new Harness(server, await Line.open(server.port));
    t.after(() => {
      for (const line of [harness.line, ...harness.idleLines]) line.close();
    });
    return harness;
  }
}

/** One sequence: the model and all tokens issued so far. */
class Run {
  readonly harness: Harness;
  readonly model: Model;
  readonly chats: Chat[] = [];
  readonly members: Member[] = [];
  readonly invitations: Invitation[] = [];
  readonly waiting = new Map<Poll, { line: Line; reply: Promise<LineReply> }>();

  constructor(harness: Harness) {
    this.harness = harness;
    this.model = new Model(harness.server.clock.ms, MAX_CHATS);
  }

  async perform(action: Action): Promise<unknown> {
    switch (action.type) {
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
      case "joinMany":
        for (let count = 0; count < action.count; count += 1) {
          await this.#join({ ...action, name: undefined, key: undefined, target: undefined, isBody: true });
        }
        return undefined;
      case "preview": {
        const { credential, target } = this.#invitation(action);
        const expect = () => ({ status: 200, body: this.model.preview(credential, target) });
        return this.#ask("preview", expect, "GET", `/${target.id}/invite`, { token: credential.token });
      }
      case "redeem":
        return this.#redeem(at(this.invitations, -1 - (action.invitation % this.invitations.length)));
      case "invite":
        return this.#invite(action);
      case "post":
        return this.#post("post", this.#caller(action), action.text, action.key);
      case "burst":
        return this.#burst(action);
      case "read": {
        const { credential, target } = this.#caller(action);
        const { since } = action;
        const number = since === "none" ? 0 : since === "latest" ? target.cursor : Math.max(0, target.cursor - since);
        const query = since === "none" ? "" : `?since=${since === "latest" ? since : number}`;
        const expect = () => this.#immediate(this.model.read(credential, target, number, 0));
        return this.#ask("read", expect, "GET", `/${target.id}${query}`, { token: credential.token });
      }
      case "poll":
        return this.#poll(action);
      case "pollInTabs":
        for (const visible of action.visible) await this.#poll({ ...action, wait: 50, browser: "firefox", visible });
        return undefined;
      case "remove": {
        const { credential, target } = this.#caller(action);
        const path = `/${target.id}/members/${action.member}`;
        const expect = () => this.#done(() => this.model.remove(credential, target, action.member));
        return this.#ask("remove", expect, "DELETE", path, { token: credential.token });
      }
      case "revoke":
      case "leave":
      case "end": {
        const { credential, target } = this.#caller(action);
        const expect = () => this.#done(() => this.model[action.type](credential, target));
        const path = { revoke: "/invite", leave: "/leave", end: "" }[action.type];
        const method = action.type === "leave" ? "POST" : "DELETE";
        return this.#ask(action.type, expect, method, `/${target.id}${path}`, { token: credential.token });
      }
      case "advance":
        this.#advance(action.time, action.isSwept);
        return this.#settle();
      default:
        return action satisfies never;
    }
  }

  /** Lets all sessions expire, and asserts that the server has removed everything. */
  async finish(): Promise<void> {
    this.#advance(7 * HOUR, true);
    await this.#settle();
    assert.equal(this.harness.server.app.chats.count().chats, 0);
    assert.equal(this.harness.server.app.chats.count().waiters, 0);
  }

  /** Cleans up after a failed sequence. */
  abandon(): void {
    for (const { line, reply } of this.waiting.values()) {
      reply.catch(() => {});
      line.close();
    }
    this.harness.server.advanceAndSweep(7 * HOUR);
  }

  #advance(time: number, isSwept: boolean): void {
    this.harness.server.clock.advance(time);
    this.model.now += time;
    if (!isSwept) return;
    this.harness.server.app.sweep();
    this.model.sweep();
  }

  #join(action: Omit<Action & { type: "join" }, "type">): Promise<void> {
    const { credential, target } = this.#invitation(action);
    const { name, key } = action;
    const body = { username: name, ...(action.isBody && { invite_token: credential.token }) };
    const fields = { key, body, ...(!action.isBody && { token: credential.token }) };
    return this.#session(() => this.model.join(credential, target, name, key), `/${target.id}/join`, fields, "join");
  }

  async #invite(action: Caller): Promise<void> {
    const { credential, target } = this.#caller(action);
    let made: Invitation | undefined;
    const expect = (reply: LineReply): Outcome => {
      made = this.model.invite(credential, target, stringIn(reply, "invite_token"), stringIn(reply, "code"));
      const code_expires_at = new Date(this.model.now + 30 * MINUTE).toISOString();
      const seats_left = 6 - target.members.length;
      const link = { ...this.#linkOf(made), qr: stringIn(reply, "qr"), other_links: [] };
      return { status: 201, body: { ...link, seats_left, code: made.code, code_expires_at } };
    };
    await this.#ask("invite", expect, "POST", `/${target.id}/invite`, { token: credential.token });
    if (made) this.invitations.push(made);
  }

  #redeem({ code }: Invitation): Promise<number> {
    const expect = (): Outcome => {
      const { invitation, preview } = this.model.redeem(code);
      return { status: 200, body: { ...preview, ...this.#linkOf(invitation) } };
    };
    return this.#ask("redeem", expect, "POST", "/redeem", { body: { code } });
  }

  #linkOf({ chat, token, expiresAt }: Invitation): object {
    const magic_link = `${this.harness.server.base}/${chat.id}#invite=${token}`;
    return { magic_link, invite_token: token, expires_at: new Date(expiresAt).toISOString() };
  }

  #post(
    operation: string,
    caller: { credential: Credential; target: Chat },
    text: string,
    key: string | undefined,
  ): Promise<number> {
    const { credential, target } = caller;
    const expect = (): Outcome => {
      const { status, message } = this.model.post(credential, target, text, key);
      return { status, body: message };
    };
    return this.#ask(operation, expect, "POST", `/${target.id}`, { token: credential.token, key, body: { text } });
  }

  /** Posts many messages, ten per second. */
  async #burst(action: Caller & { count: number }): Promise<void> {
    const caller = this.#caller(action);
    for (let count = 0; count < action.count; count += 1) {
      this.#advance(SECOND / 10, false);
      const status = await this.#post("burst", caller, `message ${count}`, undefined);
      if (status !== 201 && status !== 429) return;
    }
  }

  async #session(
    run: () => { status: number; member: Member },
    path: string,
    fields: RequestFields,
    operation: "create" | "join",
  ): Promise<void> {
    const expect = (reply: LineReply): Outcome => {
      const { status, member } = run();
      if (status === 201) {
        if (operation === "create") member.chat.id = stringIn(reply, "chat_id");
        member.token = stringIn(reply, "session_token");
        assert.ok(!this.members.some(({ token }) => token === member.token), "every token is unique");
        if (operation === "create") this.chats.push(member.chat);
        this.members.push(member);
      }
      const body = {
        chat_id: member.chat.id,
        session_token: member.token,
        member_id: String(member.id),
        username: member.name,
        expires_at: new Date(member.expiresAt).toISOString(),
        url: `${this.harness.server.base}/${member.chat.id}`,
      };
      return { status, body };
    };
    await this.#ask(operation, expect, "POST", path, fields);
  }

  async #poll(action: Caller & { wait: number; browser: string | undefined; visible: boolean }): Promise<void> {
    const { credential, target } = this.#caller(action);
    const { wait, browser, visible } = action;
    const line = this.harness.idleLines.pop() ?? (await Line.open(this.harness.server.port));
    const queries = [`since=latest&wait=${wait}`, browser && `browser=${browser}`, visible && "visible=1"];
    const arrived = once(this.harness.server.app.server, "request");
    const path = `/${target.id}?${queries.filter(Boolean).join("&")}`;
    const reply = line.ask("GET", path, { token: credential.token });
    await arrived;
    this.harness.requests += 1;
    this.model.expire();
    const outcome = attempt(() => this.model.read(credential, target, target.cursor, wait, browser, visible));
    if ("member" in outcome) {
      this.waiting.set(outcome, { line, reply });
      this.#count("poll", "waiting");
    } else {
      this.harness.idleLines.push(line);
      this.#compare("poll", await reply, outcome);
    }
    await this.#settle();
  }

  /** Sends a request to the server and compares the response with the model's. */
  async #ask(
    operation: string,
    expect: (reply: LineReply) => Outcome,
    method: string,
    path: string,
    fields: RequestFields,
  ): Promise<number> {
    const reply = await this.harness.line.ask(method, path, fields);
    this.harness.requests += 1;
    this.model.expire();
    this.#compare(
      operation,
      reply,
      attempt(() => expect(reply)),
    );
    await this.#settle();
    return reply.status;
  }

  /** Compares every poll that the model has ended, and asserts that on the server exactly the others still wait. */
  async #settle(): Promise<void> {
    const { chats } = this.harness.server.app;
    assert.equal(chats.count().waiters, this.model.polls.length, "waiting polls");
    assert.equal(chats.count().chats, this.model.chats.length, "chats");
    for (const [poll, { line, reply }] of this.waiting) {
      if (!poll.outcome) continue;
      this.waiting.delete(poll);
      this.#compare("waiter", await reply, poll.outcome);
      this.harness.idleLines.push(line);
    }
  }

  #compare(operation: string, reply: LineReply, outcome: Outcome): void {
    if ("error" in outcome) {
      assert.equal(record(reply.body)["error"], outcome.error, `${operation}: ${reply.text}`);
      assert.equal(reply.status, STATUS[outcome.error]);
      if (reply.status === 429) assert.match(reply.head, /\r\nRetry-After: 1(?:\r|$)/);
    } else {
      assert.equal(reply.status, outcome.status, `${operation}: ${reply.text}`);
      assert.deepEqual(reply.body, outcome.body, operation);
    }
    const body = "error" in outcome ? {} : { missed: false, retry_in: 0, ...outcome.body };
    this.#count(operation, "error" in outcome ? outcome.error : String(outcome.status));
    if ("missed" in body && body.missed === true) this.#count(operation, "missed");
    if ("retry_in" in body && body.retry_in !== 0) this.#count(operation, "retry_in");
  }

  #count(operation: string, result: string): void {
    const name = `${operation}: ${result}`;
    this.harness.outcomes.set(name, (this.harness.outcomes.get(name) ?? 0) + 1);
  }

  #caller({ isLive, index, target }: Caller): { credential: Credential; target: Chat } {
    const live = this.members.filter(
      (member) => member.chat.members.includes(member) && this.model.chats.includes(member.chat),
    );
    const credentials = isLive && live.length > 0 ? live : [...this.members, ...this.invitations];
    return this.#resolve(at(credentials, index % credentials.length), target);
  }

  #invitation(action: { invitation: number; target: number | undefined }): { credential: Credential; target: Chat } {
    const { invitation, target } = action;
    // Sometimes use a session token instead of an invitation. Recent invitations are the most frequent.
    const credentials: Credential[] = invitation % 16 === 15 ? this.members : this.invitations;
    return this.#resolve(at(credentials, -1 - ((invitation >> 4) % credentials.length)), target);
  }

  #resolve(credential: Credential, target: number | undefined): { credential: Credential; target: Chat } {
    return { credential, target: target === undefined ? credential.chat : at(this.chats, target % this.chats.length) };
  }

  #done(change: () => void): Outcome {
    change();
    return { status: 204 };
  }

  #immediate(outcome: Outcome | Poll): Outcome {
    assert.ok(!("member" in outcome), "a poll without wait returns at once");
    return outcome;
  }
}

function attempt<T>(make: () => T): T | { error: string } {
  try {
    return make();
  } catch (error) {
    if (error instanceof ModelError) return { error: error.message };
    throw error;
  }
}

/** Returns a field of the response, or "" if it has none. The comparison then reports the difference. */
function stringIn(reply: LineReply, key: string): string {
  const fields = record(reply.body);
  return key in fields ? stringOf(fields, key) : "";
}

class Step implements fc.AsyncCommand<Run, Harness> {
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

const optional = <T>(value: fc.Arbitrary<T>, freq: number) => fc.option(value, { nil: undefined, freq });
const usually = fc.integer({ min: 0, max: 15 }).map((number) => number > 0);
const number = fc.nat({ max: 1_023 });
const target = fc.oneof({ weight: 7, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: number });
const caller = { isLive: usually, index: number, target };
const key = optional(fc.constantFrom(...KEYS), 2);
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

/** A time step: short, just before or exactly at a time limit, or several hours. */
const time = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 400 }) },
  { weight: 3, arbitrary: fc.constantFrom(SECOND, 49_999, 50_000, MINUTE - 1, MINUTE) },
  { weight: 2, arbitrary: fc.constantFrom(10 * MINUTE - 1, 10 * MINUTE, 30 * MINUTE - 1, 30 * MINUTE) },
  { weight: 1, arbitrary: fc.constantFrom(HOUR, 6 * HOUR - 10 * MINUTE, 6 * HOUR - 1, 6 * HOUR) },
);

const ACTIONS: [weight: number, arbitrary: fc.Arbitrary<Action>][] = [
  [4, fc.record({ type: fc.constant("create"), name, key })],
  [14, fc.record({ type: fc.constant("join"), name, key, invitation: number, target, isBody: fc.boolean() })],
  [1, fc.record({ type: fc.constant("joinMany"), count: fc.integer({ min: 3, max: 6 }), invitation: number })],
  [2, fc.record({ type: fc.constant("preview"), invitation: number, target })],
  [3, fc.record({ type: fc.constant("invite"), ...caller })],
  [3, fc.record({ type: fc.constant("redeem"), invitation: fc.nat({ max: 3 }) })],
  [1, fc.record({ type: fc.constantFrom("revoke", "end"), ...caller })],
  [3, fc.record({ type: fc.constant("leave"), ...caller })],
  [2, fc.record({ type: fc.constant("remove"), member: fc.integer({ min: 1, max: 7 }), ...caller })],
  [12, fc.record({ type: fc.constant("post"), text: fc.constantFrom("a", "a", "a", "b", " "), key, ...caller })],
  [1, fc.record({ type: fc.constant("burst"), count: fc.integer({ min: 1, max: 60 }), ...caller })],
  [
    8,
    fc.record({
      type: fc.constant("read"),
      since: fc.oneof(fc.constantFrom("latest", "none"), fc.integer({ min: -1, max: 45 })),
      ...caller,
    }),
  ],
  [
    14,
    fc.record({
      type: fc.constant("poll"),
      wait: fc.constantFrom(1, 49, 50),
      browser: optional(fc.constantFrom("firefox", "chromium"), 3),
      visible: fc.boolean(),
      ...caller,
    }),
  ],
  [
    1,
    fc.record({
      type: fc.constant("pollInTabs"),
      visible: fc.array(fc.boolean(), { minLength: 4, maxLength: 6 }),
      ...caller,
    }),
  ],
  [5, fc.record({ type: fc.constant("advance"), time, isSwept: usually })],
];
const action = fc.oneof(...ACTIONS.map(([weight, arbitrary]) => ({ weight, arbitrary })));

/** The outcomes that must occur at least once, so that the sequences cover them. */
const REQUIRED_OUTCOMES = `
  create: 200, create: 201, create: server_full, create: invalid_username,
  join: 200, join: 201, join: chat_full, join: username_taken, join: invalid_username, join: invalid_token,
  join: expired_token, join: wrong_chat, join: chat_not_found, join: revoked_token,
  preview: 200, preview: chat_full, preview: revoked_token, preview: chat_not_found, preview: expired_token,
  redeem: 200, redeem: chat_full, redeem: invalid_code, invite: 201, invite: not_creator, invite: wrong_chat, revoke: 204, revoke: not_creator, end: 204, end: not_creator,
  remove: 204, remove: not_found, remove: not_creator, leave: 204, leave: revoked_token, leave: chat_not_found,
  post: 200, post: 201, post: invalid_text, post: invalid_key, post: expired_token, post: revoked_token,
  post: invalid_token, post: rate_limited, read: 200, read: missed, read: invalid_cursor, read: expired_token,
  poll: waiting, poll: retry_in, poll: chat_not_found, waiter: 200, waiter: retry_in, waiter: expired_token,
  waiter: revoked_token, waiter: chat_not_found
`;

test("every response in 10,000 random sequences of requests matches the model", { timeout: 600_000 }, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`SOAK_SEED=${seed}`);
  const harness = await Harness.start(t);
  const property = fc.asyncProperty(
    fc.commands([action.map((each) => new Step(each))], { maxCommands: 32, size: "max" }),
    async (commands) => {
      const run = new Run(harness);
      try {
        // Start with a chat and an invitation, so that later actions have a token to use.
        await run.perform({ type: "create", name: undefined, key: KEYS[0] });
        await run.perform({ type: "invite", isLive: true, index: 0, target: undefined });
        await fc.asyncModelRun(() => ({ model: run, real: harness }), commands);
        await run.finish();
      } catch (error) {
        run.abandon();
        throw error;
      }
    },
  );
  await fc.assert(property, { seed, numRuns: SEQUENCES, endOnFailure: false });
  t.diagnostic(
    `${harness.requests} requests: ${[...harness.outcomes].map(([outcome, count]) => `${outcome} ${count}`).join(", ")}`,
  );
  for (const outcome of REQUIRED_OUTCOMES.trim().split(/,\s+/))
    assert.ok(harness.outcomes.has(outcome), `never occurred: ${outcome}`);
});
