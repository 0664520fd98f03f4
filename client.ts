/*
 * Watch Party: the page's script.
 *
 * It reads from top to bottom: what the page can be (`State`), how that changes (`update`, pure), what a
 * person then reads (pure), what the browser keeps, how the server is asked (`api`), the one loop that listens
 * (`poll`), the one queue that sends, what each button does, how a state becomes a screen (`render`), and at
 * the very end `start()`. Importing this file touches no DOM, so that Node can test the pure parts.
 *
 * What it keeps to:
 *  1. Nothing typed is lost: drafts and unsent messages survive a reload, a failed send keeps its text.
 *  2. Nothing is sent twice: whatever makes something carries an Idempotency-Key and keeps it for its retries.
 *  3. What people write only ever becomes text nodes; nothing here makes markup from a string.
 *  4. It runs on `http://192.168.x.x`, where browsers withhold clipboard, randomUUID, share and locks.
 *  5. At most 30 messages are on the screen, and none is skipped without a word.
 */
import { generate } from "lean-qr/nano";
import type {
  ErrorCode,
  ErrorReply,
  InviteLook,
  InviteReply,
  MemberView,
  MessageView,
  PollReply,
  Session,
} from "./server.ts";

// ---------------------------------------------------------------------------------------------------------
// Vocabulary: the limits the server also has, the states, and what can happen to them.

const SEATS = 6;
const KEPT_MESSAGES = 30;
/** Graphemes and bytes of one message, as the server counts them; the counter shows when 100 are left. */
const TEXT_GRAPHEMES = 2000;
const TEXT_BYTES = 8192;
const NAME_GRAPHEMES = 24;
/** The server knows a key for ten minutes; half a minute less, as a request also takes its time. */
const KEY_LIFE_MS = 9.5 * 60_000;
/** A group is one author within five minutes. */
const GROUP_MS = 5 * 60_000;
const COUNTDOWN_MS = 15 * 60_000;
/** The server holds a poll for 25 s; what has not come by 35 s is a dead connection. */
const POLL_SECONDS = 25;
const POLL_LIMIT_MS = 35_000;
const CALL_LIMIT_MS = 15_000;
/** A `Retry-After` up to this many seconds is simply waited for; a longer one is a failure to tell. */
const PATIENCE_SECONDS = 10;
/** Nearer to the end of the log than this many pixels, new messages scroll into view. */
const NEAR_END_PX = 100;

/** A seat that this browser holds, and what else it knows of that chat. */
export interface SavedChat {
  session: Session;
  title: string;
  /** The invitation still stands in the middle. */
  inviting: boolean;
}

/** A message of this tab's that the server has not confirmed. `at` is in ms since 1970. */
export interface Outgoing {
  key: string;
  text: string;
  at: number;
  state: "waiting" | "failed";
  /** Why the server refused it; empty when it was not reached. */
  why: string;
}

/** `key` is the Idempotency-Key of what was sent from this tab, so that it keeps its place on the screen. */
export interface LogMessage extends MessageView {
  key?: string;
}

/** "Ana joined". `after`: the id of the message it stands behind, or that of a cursor in between. */
interface SystemLine {
  key: string;
  name: string;
  verb: "joined" | "left";
  after: number;
}

export interface Home {
  at: "home";
  notice: string;
  chats: readonly SavedChat[];
  fieldError: string;
  busy: boolean;
}

export interface Joining {
  at: "joining";
  chatId: string;
  token: string;
  look: InviteLook | undefined;
  notice: string;
  fieldError: string;
  busy: boolean;
}

export interface Live {
  at: "live";
  session: Session;
  title: string;
  /** The first answer is there. */
  loaded: boolean;
  cursor: number;
  messages: readonly LogMessage[];
  /** The id of the message before which some are missing; 0 when none are. */
  gapBefore: number;
  members: readonly MemberView[];
  /** Member id to one of the six hues; those who have gone keep theirs, as their messages do. */
  hues: Readonly<Record<string, number>>;
  lines: readonly SystemLine[];
  outbox: readonly Outgoing[];
  /** When this session ends, in ms since 1970. */
  expiresAt: number;
  inviting: boolean;
  invite: InviteReply | undefined;
  /** A sentence under the invitation: what became of it last. */
  inviteStatus: string;
  /** Polls failed in a row, and whether that has been so for long enough to be said. */
  failures: number;
  offline: boolean;
  /** New messages below what is being read, and those that came while the tab was hidden. */
  below: number;
  unread: number;
}

export interface Ended {
  at: "ended";
  sentence: string;
  /** What was typed and never sent, to be copied elsewhere. */
  unsent: string;
}

export type State = Home | Joining | Live | Ended;

export type StateEvent =
  | { type: "went home"; notice: string; chats: readonly SavedChat[] }
  | { type: "was invited"; chatId: string; token: string }
  | { type: "entered"; saved: SavedChat; outbox: readonly Outgoing[] }
  | { type: "ended"; sentence: string; unsent: string }
  | { type: "chat vanished"; chatId: string }
  | { type: "looked"; look: InviteLook }
  | { type: "not reached"; notice: string }
  | { type: "asked" }
  | { type: "refused"; why: string }
  | { type: "polled"; reply: PollReply; hidden: boolean; stuck: boolean }
  | { type: "poll failed" }
  | { type: "waited long" }
  | { type: "queued"; outgoing: Outgoing }
  | { type: "sent"; key: string; message: MessageView }
  | { type: "not sent"; key: string; why: string }
  | { type: "retried"; now: number }
  | { type: "sent again"; key: string; newKey: string; now: number }
  | { type: "discarded"; key: string }
  | { type: "invitation made"; invite: InviteReply; status: string }
  | { type: "invitation failed"; why: string }
  | { type: "invitation closed" }
  | { type: "seen"; below: boolean };

// ---------------------------------------------------------------------------------------------------------
// Update: the one place where a state becomes the next one. No DOM, no clock, no chance.

/** What the page is after `event`; the very same object when the event means nothing to this state. */
export function update(state: State, event: StateEvent): State {
  switch (event.type) {
    case "went home":
      return { at: "home", notice: event.notice, chats: event.chats, fieldError: "", busy: false };
    case "was invited":
      return invited(event.chatId, event.token);
    case "entered":
      return entered(event.saved, event.outbox);
    case "ended":
      return { at: "ended", sentence: event.sentence, unsent: event.unsent };
    case "chat vanished":
    case "looked":
    case "not reached":
    case "asked":
    case "refused":
      return state.at === "home" || state.at === "joining" ? updateDoor(state, event) : state;
    default:
      return state.at === "live" ? updateLive(state, event) : state;
  }
}

type DoorEvent = Extract<
  StateEvent,
  { type: "chat vanished" | "looked" | "not reached" | "asked" | "refused" }
>;
type MoveEvent = Extract<StateEvent, { type: "went home" | "was invited" | "entered" | "ended" }>;
type LiveEvent = Exclude<StateEvent, DoorEvent | MoveEvent>;

function updateDoor(state: Home | Joining, event: DoorEvent): State {
  switch (event.type) {
    case "chat vanished":
      if (state.at !== "home") return state;
      return { ...state, chats: state.chats.filter((chat) => chat.session.chat_id !== event.chatId) };
    case "looked":
      return state.at === "joining" ? { ...state, look: event.look, notice: "" } : state;
    case "not reached":
      return { ...state, notice: event.notice, busy: false };
    case "asked":
      return { ...state, fieldError: "", notice: "", busy: true };
    case "refused":
      return { ...state, fieldError: event.why, busy: false };
    default:
      return event satisfies never;
  }
}

function updateLive(live: Live, event: LiveEvent): Live {
  switch (event.type) {
    case "polled":
      return polled(live, event);
    case "poll failed":
      return { ...live, failures: live.failures + 1, offline: live.offline || live.failures > 0 };
    case "waited long":
      return { ...live, offline: live.failures > 0 };
    case "queued":
      return queued(live, event.outgoing);
    case "sent":
      return sent(live, event.key, event.message);
    case "not sent":
      return notSent(live, event.key, event.why);
    case "retried":
      return { ...live, outbox: live.outbox.map((one) => (isStale(one, event.now) ? one : waiting(one))) };
    case "sent again":
      return sentAgain(live, event.key, event.newKey, event.now);
    case "discarded":
      return { ...live, outbox: live.outbox.filter((one) => one.key !== event.key) };
    case "invitation made":
      return { ...live, invite: event.invite, inviteStatus: event.status };
    case "invitation failed":
      return { ...live, inviteStatus: event.why };
    case "invitation closed":
      return live.inviting ? { ...live, inviting: false } : live;
    case "seen":
      return { ...live, unread: 0, below: event.below ? live.below : 0 };
    default:
      return event satisfies never;
  }
}

function invited(chatId: string, token: string): Joining {
  return { at: "joining", chatId, token, look: undefined, notice: "", fieldError: "", busy: false };
}

function entered(saved: SavedChat, outbox: readonly Outgoing[]): Live {
  return {
    at: "live",
    session: saved.session,
    title: saved.title,
    loaded: false,
    cursor: 0,
    messages: [],
    gapBefore: 0,
    members: [],
    hues: {},
    lines: [],
    outbox,
    expiresAt: Date.parse(saved.session.expires_at),
    inviting: saved.inviting,
    invite: undefined,
    inviteStatus: "",
    failures: 0,
    offline: false,
    below: 0,
    unread: 0,
  };
}

/** An answer to a poll: new messages, who is here now, and that the connection is well. */
function polled(live: Live, event: Extract<LiveEvent, { type: "polled" }>): Live {
  const { reply } = event;
  const known = new Set(live.messages.map((message) => message.id));
  const fresh = reply.messages.filter((message) => !known.has(message.id));
  const [adopted, outbox] = live.loaded ? adopt(live, fresh) : [fresh, live.outbox];
  const messages = lastMessages([...live.messages, ...adopted]);
  const own = live.session.member_id;
  const news = live.loaded ? fresh.filter((message) => message.member_id !== own).length : 0;
  return {
    ...live,
    loaded: true,
    cursor: reply.cursor,
    messages,
    outbox,
    gapBefore: reply.missed ? (fresh[0]?.id ?? live.gapBefore) : live.gapBefore,
    members: reply.members,
    hues: assignHues(live.hues, reply.members),
    lines: keptLines([...live.lines, ...(live.loaded ? newLines(live, reply) : [])], messages),
    title: chatTitle(reply.members, Date.parse(live.session.expires_at)),
    expiresAt: Date.parse(reply.expires_at),
    inviting: live.inviting && reply.members.length < SEATS,
    failures: 0,
    offline: false,
    below: event.stuck ? 0 : live.below + news,
    unread: event.hidden ? live.unread + news : 0,
  };
}

/**
 * A poll often brings one's own message before the answer to its POST is there. It then takes the place of
 * what is being sent, rather than to stand beside it for a moment. (One sender at a time: only the first of
 * those that wait is on its way.)
 */
function adopt(live: Live, fresh: readonly MessageView[]): [LogMessage[], readonly Outgoing[]] {
  const first = live.outbox.find((one) => one.state === "waiting");
  const match = fresh.find(
    (message) => message.member_id === live.session.member_id && message.text === cleaned(first?.text ?? ""),
  );
  if (!first || !match) return [[...fresh], live.outbox];
  const messages = fresh.map((message) => (message === match ? { ...message, key: first.key } : message));
  return [messages, live.outbox.filter((one) => one !== first)];
}

/** As the server would clean a text, but for rarities that cost no more than a moment's double. */
function cleaned(text: string): string {
  return text.replace(/\r\n?/g, "\n").normalize("NFC").trim();
}

function lastMessages(messages: LogMessage[]): LogMessage[] {
  return messages.toSorted((a, b) => a.id - b.id).slice(-KEPT_MESSAGES);
}

/** Who came stands before the messages of this answer (they may have written them), who went behind. */
function newLines(live: Live, reply: PollReply): SystemLine[] {
  const before = new Set(live.members.map((member) => member.id));
  const now = new Set(reply.members.map((member) => member.id));
  const came = reply.members.filter((member) => !before.has(member.id));
  const went = live.members.filter((member) => !now.has(member.id));
  return [
    ...came.map(({ id, username }) => line(id, username, "joined", live.cursor)),
    ...went.map(({ id, username }) => line(id, username, "left", reply.cursor)),
  ];
}

function line(id: string, name: string, verb: "joined" | "left", after: number): SystemLine {
  return { key: `${verb} ${id}`, name, verb, after };
}

/** Lines leave at the top together with the messages they stood between. */
function keptLines(lines: SystemLine[], messages: readonly LogMessage[]): SystemLine[] {
  const oldest = messages.length < KEPT_MESSAGES ? 0 : (messages[0]?.id ?? 0);
  return lines.filter((one) => one.after >= oldest).slice(-KEPT_MESSAGES);
}

/**
 * Seat hues. A member's id is its number n in the chat, which only grows: hue (n - 1) mod 6 if nobody here
 * has it, else the lowest free one. Worked example: 1 to 6 have hues 0 to 5; 2 and 3 leave; 7 would have
 * hue 0, which is 1's, so it takes 1, the lowest of the free 1 and 2.
 */
export function assignHues(
  hues: Readonly<Record<string, number>>,
  members: readonly MemberView[],
): Record<string, number> {
  const next = { ...hues };
  const taken = new Set(members.map((member) => hues[member.id]));
  for (const { id } of members) {
    if (next[id] !== undefined) continue;
    const free = [naturalHue(id), 0, 1, 2, 3, 4, 5].find((hue) => !taken.has(hue)) ?? 0;
    next[id] = free;
    taken.add(free);
  }
  return next;
}

function naturalHue(memberId: string): number {
  return (Number(memberId) - 1) % SEATS;
}

/** Whoever writes has seen the invitation; what failed for want of a connection goes first, in order. */
function queued(live: Live, outgoing: Outgoing): Live {
  const outbox = live.outbox.map((one) => (one.why || isStale(one, outgoing.at) ? one : waiting(one)));
  return { ...live, outbox: [...outbox, outgoing], inviting: false, below: 0 };
}

function waiting(one: Outgoing): Outgoing {
  return { ...one, state: "waiting", why: "" };
}

/** Past the key's life a retry might say it twice, so that a person has to decide. */
export function isStale(one: Outgoing, now: number): boolean {
  return one.state === "failed" && now - one.at > KEY_LIFE_MS;
}

function sent(live: Live, key: string, message: MessageView): Live {
  const outbox = live.outbox.filter((one) => one.key !== key);
  if (live.messages.some((one) => one.id === message.id)) return { ...live, outbox };
  return { ...live, outbox, messages: lastMessages([...live.messages, { ...message, key }]) };
}

/** Without a connection all that wait have failed; a refusal concerns the one message alone. */
function notSent(live: Live, key: string, why: string): Live {
  const outbox = live.outbox.map((one) => {
    const concerned = why ? one.key === key : one.state === "waiting";
    return concerned ? { ...one, state: "failed" as const, why } : one;
  });
  return { ...live, outbox };
}

function sentAgain(live: Live, key: string, newKey: string, now: number): Live {
  const outbox = live.outbox.map((one) => (one.key === key ? { ...waiting(one), key: newKey, at: now } : one));
  return { ...live, outbox };
}

// ---------------------------------------------------------------------------------------------------------
// Words: what a person reads, from what the state holds. Pure as well.

/** One item of the log, as it is drawn. */
export type Row =
  | { kind: "gap"; key: string }
  | { kind: "line"; key: string; name: string; verb: string }
  | {
      kind: "message";
      key: string;
      name: string;
      own: boolean;
      hue: number;
      /** The first of its group, whose name and time are to be seen. */
      first: boolean;
      text: string;
      at: string;
      status: "" | "sending" | "failed" | "stale";
      why: string;
    };

/** The log: never more than 30 messages, those on their way among them. `now` in ms since 1970. */
export function logRows(live: Live, now: number): Row[] {
  const shown = live.messages.slice(-Math.max(1, KEPT_MESSAGES - live.outbox.length));
  const messages = live.outbox.length < KEPT_MESSAGES ? shown : [];
  const rows: Row[] = [];
  let lines = live.lines.filter((one) => one.after >= (messages[0]?.id ?? 0) || messages.length < KEPT_MESSAGES);
  for (const message of messages) {
    rows.push(...lines.filter((one) => one.after < message.id).map(lineRow));
    lines = lines.filter((one) => one.after >= message.id);
    if (message.id === live.gapBefore) rows.push({ kind: "gap", key: "gap" });
    rows.push(messageRow(live, message));
  }
  rows.push(...lines.map(lineRow), ...live.outbox.map((one) => outgoingRow(live, one, now)));
  return markGroups(rows);
}

function lineRow({ key, name, verb }: SystemLine): Row {
  return { kind: "line", key, name, verb };
}

function messageRow(live: Live, message: LogMessage): Row {
  return {
    kind: "message",
    key: message.key ?? `message ${message.id}`,
    name: message.username,
    own: message.member_id === live.session.member_id,
    hue: live.hues[message.member_id] ?? naturalHue(message.member_id),
    first: true,
    text: message.text,
    at: message.sent_at,
    status: "",
    why: "",
  };
}

function outgoingRow(live: Live, one: Outgoing, now: number): Row {
  const status = one.state === "waiting" ? "sending" : isStale(one, now) ? "stale" : "failed";
  const message = { id: 0, member_id: live.session.member_id, username: "", text: one.text };
  const sent_at = new Date(one.at).toISOString();
  return { ...messageRow(live, { ...message, sent_at, key: one.key }), status, why: one.why } as Row;
}

/** A group is one author within five minutes of the group's first message, with nothing in between. */
function markGroups(rows: readonly Row[]): Row[] {
  let head: Row | undefined;
  return rows.map((row) => {
    if (row.kind !== "message" || head?.kind !== "message" || !isSameGroup(head, row)) {
      head = row;
      return row;
    }
    return { ...row, first: false };
  });
}
