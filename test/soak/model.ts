// The contract once more, as a model to hold the server against: no HTTP, no tokens' inside, nothing made fast.
// Where server.ts keeps what it needs next, this keeps all that ever was and derives the rest from it.

export interface Room {
  /** Known once the server has said it. */
  id: string;
  seats: Seat[];
  seatsEver: number;
  messages: Message[];
  cursor: number;
  generation: number;
  /** The message bucket of each place; leaving and joining again does not refill it. */
  buckets: Map<number, Bucket>;
}
/** Milliseconds' worth of messages available at once, as of `at`; a message costs 200. */
export interface Bucket {
  credit: number;
  at: number;
}
export interface Seat {
  kind: "session";
  room: Room;
  number: number;
  place: number;
  name: string;
  token: string;
  key: string | undefined;
  joined: number;
  expires: number;
  seen: number;
  posted: { key: string; at: number; message: Message }[];
}
export interface Invitation {
  kind: "invite";
  room: Room;
  generation: number;
  token: string;
  expires: number;
}
export type Ticket = Seat | Invitation;
export interface Message {
  id: number;
  member_id: string;
  username: string;
  text: string;
  sent_at: string;
}
export interface Poll {
  seat: Seat;
  since: number;
  until: number;
  browser: string | undefined;
  visible: boolean;
  /** What it is answered with, as soon as it must be. */
  outcome?: Outcome;
}
export type Outcome = { status: number; body?: object } | { error: string };

export class Refused extends Error {}

const MINUTE = 60_000;
const SESSION = 360 * MINUTE;

function iso(time: number): string {
  return new Date(time).toISOString();
}

export class Model {
  now: number;
  readonly maxChats: number;
  readonly rooms: Room[] = [];
  /** The held ones, in the order in which they came. */
  polls: Poll[] = [];

  constructor(now: number, maxChats: number) {
    this.now = now;
    this.maxChats = maxChats;
  }

  create(name: unknown, key?: string): { status: number; seat: Seat } {
    const earlier = this.#repeated(this.rooms, key);
    if (earlier) return { status: 200, seat: earlier };
    if (this.rooms.length >= this.maxChats) this.#drop(this.#idlest());
    const room: Room = { id: "", seats: [], seatsEver: 0, messages: [], cursor: 0, generation: 0, buckets: new Map() };
    const seat = this.#sit(room, name, key && `create ${key}`);
    this.rooms.push(room);
    return { status: 201, seat };
  }

  invite(ticket: Ticket, where: Room): Invitation {
    const { room } = this.#creator(ticket, where);
    return { kind: "invite", room, generation: room.generation, token: "", expires: this.now + SESSION };
  }

  look(ticket: Ticket, where: Room): object {
    const room = this.#invited(ticket, where);
    const [seats_left, members] = [6 - room.seats.length, room.seats.map((seat) => seat.name)];
    if (seats_left === 0) throw new Refused("chat_full");
    return { chat_id: room.id, seats_left, members, expires_at: iso(ticket.expires) };
  }

  join(ticket: Ticket, where: Room, name: unknown, key?: string): { status: number; seat: Seat } {
    const room = this.#invited(ticket, where);
    const earlier = this.#repeated([room], key, "join");
    if (earlier) return { status: 200, seat: earlier };
    if (room.seats.length === 6) throw new Refused("chat_full");
    return { status: 201, seat: this.#sit(room, name, key && `join ${key}`) };
  }

  post(ticket: Ticket, where: Room, text: string, key?: string): { status: number; message: Message } {
    const seat = this.#member(ticket, where);
    const earlier = seat.posted.findLast((each) => each.key === key && this.now - each.at < 10 * MINUTE)?.message;
    if (earlier && earlier.text !== text) throw new Refused("invalid_key");
    if (earlier) return { status: 200, message: earlier };
    const bucket = where.buckets.get(seat.place) ?? { credit: 4_000, at: this.now };
    const credit = Math.min(4_000, bucket.credit + this.now - bucket.at);
    if (credit < 200) throw new Refused("rate_limited");
    // Counted before the text is examined: a refused text costs the server as much.
    where.buckets.set(seat.place, { credit: credit - 200, at: this.now });
    if (text.trim() === "") throw new Refused("invalid_text");
    seat.seen = this.now;
    const id = where.cursor + 1;
    const message = { id, member_id: String(seat.number), username: seat.name, text, sent_at: iso(this.now) };
    where.messages.push(message);
    if (key !== undefined) seat.posted.push({ key, at: this.now, message });
    this.#change(where);
    return { status: 201, message };
  }

  /** A read with `wait` 0 (or of an older cursor) is answered at once, the others are held. */
  read(ticket: Ticket, where: Room, since: number, wait: number, browser?: string, visible = false): Outcome | Poll {
    const seat = this.#member(ticket, where);
    if (since > where.cursor) throw new Refused("invalid_cursor");
    seat.seen = this.now;
    if (wait === 0 || since < where.cursor) return { status: 200, body: this.#view(seat, since) };
    if (this.polls.filter((poll) => poll.seat === seat).length >= 32) {
      if (browser === undefined) throw new Refused("rate_limited");
      return { status: 200, body: { ...this.#view(seat, since), retry_in: 2 } };
    }
    const same = this.polls.filter((poll) => browser !== undefined && poll.browser === browser);
    const weakest = same.find((poll) => visible && !poll.visible);
    if (same.length >= 4 && !weakest) return { status: 200, body: { ...this.#view(seat, since), retry_in: 2 } };
    if (same.length >= 4 && weakest) this.#answer(weakest, undefined, { retry_in: 2 });
    const poll = { seat, since, until: this.now + wait * 1_000, browser, visible };
    this.polls.push(poll);
    return poll;
  }

  leave(ticket: Ticket, where: Room): void {
    this.#free([this.#member(ticket, where)], "revoked_token");
  }

  remove(ticket: Ticket, where: Room, number: number): void {
    const seat = this.#creator(ticket, where).room.seats.find((each) => each.number === number);
    if (!seat) throw new Refused("not_found");
    this.#free([seat], "revoked_token");
  }

  revoke(ticket: Ticket, where: Room): void {
    this.#creator(ticket, where).room.generation += 1;
  }

  end(ticket: Ticket, where: Room): void {
    this.#drop(this.#creator(ticket, where).room);
  }

  /** What is due by the clock as soon as anybody asks for anything: all that has expired, at once. */
  expire(): void {
    const due = this.rooms.flatMap((room) => room.seats.filter((seat) => this.now >= seat.expires));
    this.#free(due, "expired_token");
  }

  sweep(): void {
    this.expire();
    for (const poll of this.polls.filter(({ until }) => this.now >= until)) this.#answer(poll);
  }

  #sit(room: Room, name: unknown, key?: string): Seat {
    const isFree = (wanted: string) => !room.seats.some((seat) => seat.name.toLowerCase() === wanted.toLowerCase());
    const place = [1, 2, 3, 4, 5, 6].find((each) => !room.seats.some((seat) => seat.place === each)) ?? 0;
    const guest = [1, 2, 3, 4, 5, 6, 7, 8, 9].find((each) => each >= place && isFree(`Guest ${each}`));
    if (name === "" || (typeof name !== "string" && name !== undefined && name !== null)) {
      throw new Refused("invalid_username");
    }
    if (typeof name === "string" && !isFree(name)) throw new Refused("username_taken");
    room.seatsEver += 1;
    const [joined, number] = [this.now, room.seatsEver];
    const times = { joined, expires: joined + SESSION, seen: joined };
    const who = { name: name ?? `Guest ${guest}`, token: "", key, posted: [] };
    const seat: Seat = { kind: "session", room, number, place, ...who, ...times };
    room.seats.push(seat);
    this.#change(room);
    return seat;
  }

  #repeated(rooms: Room[], key: string | undefined, how = "create"): Seat | undefined {
    const isMeant = (seat: Seat) => seat.key === `${how} ${key}` && this.now - seat.joined < 10 * MINUTE;
    return rooms.flatMap((room) => room.seats).findLast(isMeant);
  }

  #idlest(): Room {
    const isIdle = ({ seats: [only, other] }: Room) => only && !other && this.#isAway(only, 10 * MINUTE);
    const [room] = this.rooms.filter(isIdle).toSorted((a, b) => (a.seats[0]?.seen ?? 0) - (b.seats[0]?.seen ?? 0));
    if (!room) throw new Refused("server_full");
    return room;
  }

  #isAway(seat: Seat, time: number): boolean {
    return this.now - seat.seen >= time && !this.polls.some((poll) => poll.seat === seat);
  }

  #check(ticket: Ticket, where: Room, kind: Ticket["kind"]): void {
    if (ticket.kind !== kind) throw new Refused("invalid_token");
    if (this.now >= ticket.expires) throw new Refused("expired_token");
    if (ticket.room !== where) throw new Refused("wrong_chat");
    if (!this.rooms.includes(where)) throw new Refused("chat_not_found");
  }

  #member(ticket: Ticket, where: Room): Seat {
    this.#check(ticket, where, "session");
    if (ticket.kind !== "session" || !where.seats.includes(ticket)) throw new Refused("revoked_token");
    return ticket;
  }

  #creator(ticket: Ticket, where: Room): Seat {
    const seat = this.#member(ticket, where);
    if (seat.number !== 1) throw new Refused("not_creator");
    return seat;
  }

  #invited(ticket: Ticket, where: Room): Room {
    this.#check(ticket, where, "invite");
    if (ticket.kind !== "invite" || ticket.generation !== where.generation) throw new Refused("revoked_token");
    return where;
  }

  #free(seats: Seat[], why: string): void {
    for (const seat of seats) {
      const { room } = seat;
      room.seats = room.seats.filter((each) => each !== seat);
      for (const poll of this.polls.filter((each) => each.seat === seat)) this.#answer(poll, why);
      room.cursor += 1;
    }
    for (const room of new Set(seats.map((seat) => seat.room))) {
      if (room.seats.length === 0) this.#drop(room);
      else this.#wake(room);
    }
  }

  #drop(room: Room): void {
    this.rooms.splice(this.rooms.indexOf(room), 1);
    for (const poll of this.polls.filter(({ seat }) => seat.room === room)) this.#answer(poll, "chat_not_found");
  }

  #change(room: Room): void {
    room.cursor += 1;
    this.#wake(room);
  }

  #wake(room: Room): void {
    for (const poll of this.polls.filter(({ seat }) => seat.room === room)) this.#answer(poll);
  }

  #answer(poll: Poll, error?: string, more?: object): void {
    this.polls = this.polls.filter((each) => each !== poll);
    poll.seat.seen = this.now;
    poll.outcome = error ? { error } : { status: 200, body: { ...this.#view(poll.seat, poll.since), ...more } };
  }

  #view(reader: Seat, since: number): object {
    const { room } = reader;
    return {
      messages: room.messages.slice(-30).filter(({ id }) => id > since),
      cursor: room.cursor,
      missed: room.messages.slice(0, -30).some(({ id }) => id > since),
      members: room.seats.map((seat) => ({
        id: String(seat.number),
        username: seat.name,
        creator: seat.number === 1,
        online: !this.#isAway(seat, MINUTE),
        you: seat === reader,
      })),
      expires_at: iso(reader.expires),
    };
  }
}
