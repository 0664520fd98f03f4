// A model of the API to compare the server with. It has no HTTP and no token formats, and it is not optimised. Where
// server.ts stores derived state, the model stores the full history and derives the state on demand.

export interface Chat {
  /** Set once the server has returned it. */
  id: string;
  members: Member[];
  lastMemberId: number;
  messages: Message[];
  cursor: number;
  /** The ids of the members that the creator removed. */
  removed: string[];
  generation: number;
  /** Stands for the newest invitation. */
  code: { text: string; expiresAt: number; invitation: Invitation } | undefined;
  /** The message bucket of each seat. Leaving and joining again does not refill it. */
  buckets: Map<number, Bucket>;
}
/** A token bucket. `credit` is in milliseconds, as of time `at`. A message costs 200 ms. */
export interface Bucket {
  credit: number;
  at: number;
}
export interface Member {
  kind: "session";
  chat: Chat;
  /** The member id as a number. */
  id: number;
  /** The seat from 1 to 6. */
  seat: number;
  name: string;
  token: string;
  key: string | undefined;
  joinedAt: number;
  expiresAt: number;
  lastSeenAt: number;
  posts: { key: string; at: number; message: Message }[];
}
export interface Invitation {
  kind: "invite";
  chat: Chat;
  generation: number;
  token: string;
  code: string;
  expiresAt: number;
}
/** The member or invitation that a token belongs to. */
export type Credential = Member | Invitation;
export interface Message {
  id: number;
  member_id: string;
  username: string;
  text: string;
  sent_at: string;
}
export interface Poll {
  member: Member;
  since: number;
  until: number;
  browser: string | undefined;
  visible: boolean;
  /** The expected response, set once the poll has to end. */
  outcome?: Outcome;
}
export type Outcome = { status: number; body?: object } | { error: string };

export class ModelError extends Error {}

const MINUTE = 60_000;
const SESSION = 360 * MINUTE;

function iso(time: number): string {
  return new Date(time).toISOString();
}

export class Model {
  now: number;
  readonly maxChats: number;
  readonly chats: Chat[] = [];
  /** Waiting polls, in order of arrival. */
  polls: Poll[] = [];

  constructor(now: number, maxChats: number) {
    this.now = now;
    this.maxChats = maxChats;
  }

  create(name: unknown, key?: string): { status: number; member: Member } {
    const earlier = this.#repeated(this.chats, key);
    if (earlier) return { status: 200, member: earlier };
    if (this.chats.length >= this.maxChats) this.#endChat(this.#findIdlest());
    const chat: Chat = {
      id: "",
      members: [],
      lastMemberId: 0,
      messages: [],
      cursor: 0,
      removed: [],
      generation: 0,
      code: undefined,
      buckets: new Map(),
    };
    const member = this.#addMember(chat, name, key && `create ${key}`);
    this.chats.push(chat);
    return { status: 201, member };
  }

  /** `token` and `newCode` are the server's. The code of the invitation is new only if the chat has none. */
  invite(credential: Credential, target: Chat, token: string, newCode: string): Invitation {
    const creator = this.#creator(credential, target);
    this.#charge(creator);
    const { chat } = creator;
    const code = chat.code && this.now < chat.code.expiresAt ? chat.code.text : newCode;
    const { generation } = chat;
    const invitation: Invitation = { kind: "invite", chat, generation, token, code, expiresAt: this.now + SESSION };
    chat.code = { text: code, expiresAt: this.now + 30 * MINUTE, invitation };
    return invitation;
  }

  redeem(code: string): { invitation: Invitation; preview: object } {
    const found = this.chats.map((chat) => chat.code).find((each) => each?.text === code);
    if (!found || this.now >= found.expiresAt) throw new ModelError("invalid_code");
    const { invitation } = found;
    return { invitation, preview: this.preview(invitation, invitation.chat) };
  }

  preview(credential: Credential, target: Chat): object {
    const chat = this.#invited(credential, target);
    const [seats_left, members] = [6 - chat.members.length, chat.members.map((member) => member.name)];
    if (seats_left === 0) throw new ModelError("chat_full");
    return { chat_id: chat.id, seats_left, members, expires_at: iso(credential.expiresAt) };
  }

  join(credential: Credential, target: Chat, name: unknown, key?: string): { status: number; member: Member } {
    const chat = this.#invited(credential, target);
    const earlier = this.#repeated([chat], key, "join");
    if (earlier) return { status: 200, member: earlier };
    if (chat.members.length === 6) throw new ModelError("chat_full");
    return { status: 201, member: this.#addMember(chat, name, key && `join ${key}`) };
  }

  post(credential: Credential, target: Chat, text: string, key?: string): { status: number; message: Message } {
    const member = this.#member(credential, target);
    const earlier = member.posts.findLast((each) => each.key === key && this.now - each.at < 10 * MINUTE)?.message;
    if (earlier && earlier.text !== text) throw new ModelError("invalid_key");
    if (earlier) return { status: 200, message: earlier };
    // Charged before the text is validated, because an invalid text costs the server as much.
    this.#charge(member);
    if (text.trim() === "") throw new ModelError("invalid_text");
    member.lastSeenAt = this.now;
    const id = target.cursor + 1;
    const message = { id, member_id: String(member.id), username: member.name, text, sent_at: iso(this.now) };
    target.messages.push(message);
    if (key !== undefined) member.posts.push({ key, at: this.now, message });
    this.#change(target);
    return { status: 201, message };
  }

  /** Takes a token from the bucket of the member's seat. */
  #charge({ chat, seat }: Member): void {
    const bucket = chat.buckets.get(seat) ?? { credit: 4_000, at: this.now };
    const credit = Math.min(4_000, bucket.credit + this.now - bucket.at);
    if (credit < 200) throw new ModelError("rate_limited");
    chat.buckets.set(seat, { credit: credit - 200, at: this.now });
  }

  /** Returns the response at once if `wait` is 0 or there is news. Otherwise returns a waiting poll. */
  read(
    credential: Credential,
    target: Chat,
    since: number,
    wait: number,
    browser?: string,
    visible = false,
  ): Outcome | Poll {
    const member = this.#member(credential, target);
    if (since > target.cursor) throw new ModelError("invalid_cursor");
    member.lastSeenAt = this.now;
    if (wait === 0 || since < target.cursor) return { status: 200, body: this.#pollReply(member, since) };
    if (this.polls.filter((poll) => poll.member === member).length >= 32) {
      if (browser === undefined) throw new ModelError("rate_limited");
      return { status: 200, body: { ...this.#pollReply(member, since), retry_in: 2 } };
    }
    const same = this.polls.filter((poll) => browser !== undefined && poll.browser === browser);
    const weakest = same.find((poll) => visible && !poll.visible);
    if (same.length >= 4 && !weakest) return { status: 200, body: { ...this.#pollReply(member, since), retry_in: 2 } };
    if (same.length >= 4 && weakest) this.#respond(weakest, undefined, { retry_in: 2 });
    const poll = { member, since, until: this.now + wait * 1_000, browser, visible };
    this.polls.push(poll);
    return poll;
  }

  leave(credential: Credential, target: Chat): void {
    this.#free([this.#member(credential, target)], "revoked_token");
  }

  remove(credential: Credential, target: Chat, id: number): void {
    const member = this.#creator(credential, target).chat.members.find((each) => each.id === id);
    if (!member) throw new ModelError("not_found");
    if (id !== 1) member.chat.removed.push(String(id));
    this.#free([member], "revoked_token");
  }

  revoke(credential: Credential, target: Chat): void {
    const { chat } = this.#creator(credential, target);
    chat.generation += 1;
    chat.code = undefined;
  }

  end(credential: Credential, target: Chat): void {
    this.#endChat(this.#creator(credential, target).chat);
  }

  /** Frees all expired seats. The server does this before each request. */
  expire(): void {
    const due = this.chats.flatMap((chat) => chat.members.filter((member) => this.now >= member.expiresAt));
    this.#free(due, "expired_token");
  }

  sweep(): void {
    this.expire();
    for (const poll of this.polls.filter(({ until }) => this.now >= until)) this.#respond(poll);
  }

  #addMember(chat: Chat, name: unknown, key?: string): Member {
    const isFree = (wanted: string) =>
      !chat.members.some((member) => member.name.toLowerCase() === wanted.toLowerCase());
    const seat = [1, 2, 3, 4, 5, 6].find((each) => !chat.members.some((member) => member.seat === each)) ?? 0;
    const guest = [1, 2, 3, 4, 5, 6, 7, 8, 9].find((each) => each >= seat && isFree(`Guest ${each}`));
    if (name === "" || (typeof name !== "string" && name !== undefined && name !== null)) {
      throw new ModelError("invalid_username");
    }
    if (typeof name === "string" && !isFree(name)) throw new ModelError("username_taken");
    chat.lastMemberId += 1;
    const [joinedAt, id] = [this.now, chat.lastMemberId];
    const times = { joinedAt, expiresAt: joinedAt + SESSION, lastSeenAt: joinedAt };
    const fields = { name: name ?? `Guest ${guest}`, token: "", key, posts: [] };
    const added: Member = { kind: "session", chat, id, seat, ...fields, ...times };
    chat.members.push(added);
    this.#change(chat);
    return added;
  }

  #repeated(chats: Chat[], key: string | undefined, route = "create"): Member | undefined {
    const isRepeated = (member: Member) => member.key === `${route} ${key}` && this.now - member.joinedAt < 10 * MINUTE;
    return chats.flatMap((chat) => chat.members).findLast(isRepeated);
  }

  #findIdlest(): Chat {
    const isIdle = ({ members: [only, other] }: Chat) => only && !other && this.#isAway(only, 10 * MINUTE);
    const [chat] = this.chats
      .filter(isIdle)
      .toSorted((a, b) => (a.members[0]?.lastSeenAt ?? 0) - (b.members[0]?.lastSeenAt ?? 0));
    if (!chat) throw new ModelError("server_full");
    return chat;
  }

  #isAway(member: Member, time: number): boolean {
    return this.now - member.lastSeenAt >= time && !this.polls.some((poll) => poll.member === member);
  }

  #check(credential: Credential, target: Chat, kind: Credential["kind"]): void {
    if (credential.kind !== kind) throw new ModelError("invalid_token");
    if (this.now >= credential.expiresAt) throw new ModelError("expired_token");
    if (credential.chat !== target) throw new ModelError("wrong_chat");
    if (!this.chats.includes(target)) throw new ModelError("chat_not_found");
  }

  #member(credential: Credential, target: Chat): Member {
    this.#check(credential, target, "session");
    if (credential.kind !== "session" || !target.members.includes(credential)) throw new ModelError("revoked_token");
    return credential;
  }

  #creator(credential: Credential, target: Chat): Member {
    const member = this.#member(credential, target);
    if (member.id !== 1) throw new ModelError("not_creator");
    return member;
  }

  #invited(credential: Credential, target: Chat): Chat {
    this.#check(credential, target, "invite");
    if (credential.kind !== "invite" || credential.generation !== target.generation)
      throw new ModelError("revoked_token");
    return target;
  }

  #free(members: Member[], error: string): void {
    for (const member of members) {
      const { chat } = member;
      chat.members = chat.members.filter((each) => each !== member);
      for (const poll of this.polls.filter((each) => each.member === member)) this.#respond(poll, error);
      chat.cursor += 1;
    }
    for (const chat of new Set(members.map((member) => member.chat))) {
      if (chat.members.length === 0) this.#endChat(chat);
      else this.#wake(chat);
    }
  }

  #endChat(chat: Chat): void {
    this.chats.splice(this.chats.indexOf(chat), 1);
    for (const poll of this.polls.filter(({ member }) => member.chat === chat)) this.#respond(poll, "chat_not_found");
  }

  #change(chat: Chat): void {
    chat.cursor += 1;
    this.#wake(chat);
  }

  #wake(chat: Chat): void {
    for (const poll of this.polls.filter(({ member }) => member.chat === chat)) this.#respond(poll);
  }

  #respond(poll: Poll, error?: string, more?: object): void {
    this.polls = this.polls.filter((each) => each !== poll);
    poll.member.lastSeenAt = this.now;
    poll.outcome = error ? { error } : { status: 200, body: { ...this.#pollReply(poll.member, poll.since), ...more } };
  }

  #pollReply(reader: Member, since: number): object {
    const { chat } = reader;
    return {
      messages: chat.messages.slice(-30).filter(({ id }) => id > since),
      cursor: chat.cursor,
      missed: chat.messages.slice(0, -30).some(({ id }) => id > since),
      members: chat.members.map((member) => ({
        id: String(member.id),
        username: member.name,
        creator: member.id === 1,
        online: !this.#isAway(member, MINUTE),
        you: member === reader,
      })),
      expires_at: iso(reader.expiresAt),
      ...(chat.removed.length > 0 && { removed: chat.removed.slice(-6) }),
    };
  }
}
