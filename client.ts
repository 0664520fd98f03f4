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
  InvitePreview,
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
const SESSION_MS = 6 * 60 * 60_000;
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
  look: InvitePreview | undefined;
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
  | { type: "entered"; saved: SavedChat; outbox: readonly Outgoing[]; now: number }
  | { type: "ended"; sentence: string; unsent: string }
  | { type: "chat vanished"; chatId: string }
  | { type: "looked"; look: InvitePreview }
  | { type: "not reached"; notice: string }
  | { type: "asked" }
  | { type: "refused"; why: string }
  | { type: "polled"; reply: PollReply; hidden: boolean; stuck: boolean }
  | { type: "poll failed" }
  | { type: "waited long" }
  | { type: "queued"; outgoing: Outgoing }
  | { type: "sent"; key: string; message: MessageView }
  | { type: "not sent"; key: string; why: string }
  | { type: "retried"; now: number; key?: string }
  | { type: "sent again"; key: string; newKey: string; now: number }
  | { type: "discarded"; key: string }
  | { type: "invitation made"; invite: InviteReply; status: string }
  | { type: "invitation said"; status: string }
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
      return entered(event.saved, event.outbox, event.now);
    case "ended":
      return { at: "ended", sentence: event.sentence, unsent: event.unsent };
    case "chat vanished":
    case "looked":
    case "not reached":
    case "asked":
    case "refused":
      return state.at === "home" || state.at === "joining" ? updateDoor(state, event) : state;
    case "polled":
    case "poll failed":
    case "waited long":
    case "queued":
    case "sent":
    case "not sent":
    case "retried":
    case "sent again":
    case "discarded":
    case "invitation made":
    case "invitation said":
    case "invitation closed":
    case "seen":
      return state.at === "live" ? updateLive(state, event) : state;
    default:
      return event satisfies never;
  }
}

type DoorEvent = Extract<StateEvent, { type: "chat vanished" | "looked" | "not reached" | "asked" | "refused" }>;
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
      return { ...live, outbox: resumed(live.outbox, event.now, event.key) };
    case "sent again":
      return sentAgain(live, event.key, event.newKey, event.now);
    case "discarded":
      return { ...live, outbox: live.outbox.filter((one) => one.key !== event.key) };
    case "invitation made":
      return { ...live, invite: event.invite, inviteStatus: event.status };
    case "invitation said":
      return { ...live, inviteStatus: event.status };
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

function entered(saved: SavedChat, outbox: readonly Outgoing[], now: number): Live {
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
    outbox: outbox.map((one) => (now - one.at > KEY_LIFE_MS ? failed(one) : one)),
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
  const outbox = resumed(live.outbox, outgoing.at);
  return { ...live, outbox: [...outbox, outgoing], inviting: false, below: 0 };
}

/** What failed for want of a connection waits again, but for what may be there already; so does `key`. */
function resumed(outbox: readonly Outgoing[], now: number, key?: string): Outgoing[] {
  return outbox.map((one) => ((one.why && one.key !== key) || isStale(one, now) ? one : waiting(one)));
}

function failed(one: Outgoing, why = ""): Outgoing {
  return { ...one, state: "failed", why };
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
    return concerned ? failed(one, why) : one;
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
export type Row = GapRow | LineRow | MessageRow;

interface GapRow {
  kind: "gap";
  key: string;
}

interface LineRow {
  kind: "line";
  key: string;
  name: string;
  verb: SystemLine["verb"];
}

export interface MessageRow {
  kind: "message";
  key: string;
  /** The server's id; Infinity for what it has not confirmed. */
  id: number;
  author: string;
  name: string;
  own: boolean;
  hue: number;
  /** The first of its group, whose name and time are to be seen. */
  first: boolean;
  text: string;
  at: string;
  status: "" | "sending" | "failed" | "stale";
  why: string;
}

/** The log: never more than 30 messages, those on their way among them. `now` in ms since 1970. */
export function logRows(live: Live, now: number): Row[] {
  const confirmed = live.messages.map((message) => messageRow(live, message));
  const unconfirmed = live.outbox.map((one) => outgoingRow(live, one, now));
  const shown = [...confirmed, ...unconfirmed].slice(-KEPT_MESSAGES);
  const rows: Row[] = [];
  let lines = live.lines;
  for (const message of shown) {
    rows.push(...lines.filter((one) => one.after < message.id).map(lineRow));
    lines = lines.filter((one) => one.after >= message.id);
    if (message.id === live.gapBefore) rows.push({ kind: "gap", key: "gap" });
    rows.push(message);
  }
  rows.push(...lines.map(lineRow));
  return markGroups(rows);
}

function lineRow({ key, name, verb }: SystemLine): LineRow {
  return { kind: "line", key, name, verb };
}

function messageRow(live: Live, message: LogMessage): MessageRow {
  return {
    kind: "message",
    key: message.key ?? `message ${message.id}`,
    id: message.id,
    author: message.member_id,
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

function outgoingRow(live: Live, one: Outgoing, now: number): MessageRow {
  const { member_id, username } = live.session;
  const sent_at = new Date(one.at).toISOString();
  const row = messageRow(live, { id: Infinity, member_id, username, text: one.text, sent_at, key: one.key });
  const status = one.state === "waiting" ? "sending" : isStale(one, now) ? "stale" : "failed";
  return { ...row, status, why: one.why };
}

/** A group is one author within five minutes of the group's first message, with nothing in between. */
function markGroups(rows: readonly Row[]): Row[] {
  let head: Row | undefined;
  return rows.map((row) => {
    if (row.kind === "message" && head?.kind === "message" && head.author === row.author) {
      if (Date.parse(row.at) - Date.parse(head.at) < GROUP_MS) return { ...row, first: false };
    }
    head = row;
    return row;
  });
}

/**
 * A chat's name: its other members ("Jonas, Ana +2"); alone, "New chat, 14:05" by when this seat was taken,
 * six hours before `expiresAt` (ms since 1970).
 */
export function chatTitle(members: readonly MemberView[], expiresAt: number): string {
  const names = members.filter((member) => !member.you).map((member) => isolate(member.username));
  if (names.length === 0) return `New chat, ${clockTime(new Date(expiresAt - SESSION_MS))}`;
  const more = names.length > 2 ? ` +${names.length - 2}` : "";
  return names.slice(0, 2).join(", ") + more;
}

/** A right-to-left name would turn the "+2" behind it around; isolating characters keep it to itself. */
export function isolate(name: string): string {
  return /[\u0590-\u08ff\ufb1d-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u.test(name)
    ? `\u2068${name}\u2069`
    : name;
}

/** "Ana, Jonas and Mia": British, which puts no comma before the "and". */
function listNames(names: readonly string[]): string {
  return new Intl.ListFormat("en-GB").format(names.map(isolate));
}

/** Made once: a formatter costs more than all that it formats on a screen. */
const SHORT_TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const FULL_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const SEGMENTER = new Intl.Segmenter();

function clockTime(date: Date): string {
  return SHORT_TIME.format(date);
}

/** What is left of `ms` milliseconds, in words: "5 h 12 min". */
export function timeLeft(ms: number): string {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return "less than a minute";
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The visible characters of a text, as a person counts them. */
function graphemes(text: string): string[] {
  return Array.from(SEGMENTER.segment(text), ({ segment }) => segment);
}

/** The one character that stands for a name. */
export function initial(name: string): string {
  return (graphemes(name)[0] ?? "").toLocaleUpperCase();
}

/** What the counter says: "" while there is room, else "40 left", "3 too many"; and whether it is too long. */
export function lengthNote(text: string): { note: string; over: boolean } {
  // Short texts are not counted at all: it would be work at every key.
  if (text.length < TEXT_GRAPHEMES - 100) return { note: "", over: false };
  const left = TEXT_GRAPHEMES - graphemes(text.trim()).length;
  const bytesLeft = TEXT_BYTES - new TextEncoder().encode(text.trim()).length;
  if (left < 0) return { note: `${-left} too many`, over: true };
  if (bytesLeft < 0) return { note: `${-bytesLeft} bytes too many`, over: true };
  return { note: left <= 100 ? `${left} left` : "", over: false };
}

/** Why this can be nobody's name, in a sentence; "" if it can. The server looks more closely. */
export function nameError(name: string): string {
  const length = graphemes(name.trim()).length;
  if (length === 0) return "Please enter a name, so that the others know who is writing.";
  return length > NAME_GRAPHEMES ? `Please shorten the name: ${NAME_GRAPHEMES} characters at most.` : "";
}

const TONE = "[\\u{1f3fb}-\\u{1f3ff}]";
const SIGN = `(?!\\p{RI})(?:\\p{Emoji_Presentation}|\\p{Extended_Pictographic}(?=[\\ufe0f\\u200d]|${TONE}))\\ufe0f?${TONE}?`;
const JOINED = `(?:\\u200d\\p{Extended_Pictographic}\\ufe0f?${TONE}?)*`;
/**
 * One emoji by the grammar of UTS #51: a flag of two letters, a keycap, or a sign with its skin tone, what is
 * joined to it, and the tags of a flag. `\p{RGI_Emoji}` says it in a word, but blocks Chromium for 35 ms at its
 * first use, which a phone feels.
 */
const EMOJI = `(?:\\p{RI}{2}|[#*\\d]\\ufe0f\\u20e3|${SIGN}${JOINED}(?:[\\u{e0020}-\\u{e007e}]+\\u{e007f})?)`;
const EMOJI_ONLY = new RegExp(`^(?:${EMOJI}\\s*){1,3}$`, "u");

/** One to three emoji and nothing else, to be shown large. */
export function isEmojiOnly(text: string): boolean {
  return text.length < 100 && EMOJI_ONLY.test(text);
}

/**
 * A text cut into plain parts and links. Only http and https become links, without the punctuation behind
 * them, and never with invisible direction marks, which could make an address look like another.
 */
export function splitLinks(text: string): { text: string; href?: string }[] {
  const parts: { text: string; href?: string }[] = [];
  let end = 0;
  for (const match of text.matchAll(/\bhttps?:\/\/[^\s<>"\u200b-\u200f\u2028-\u202e\u2066-\u2069]+/giu)) {
    const address = withoutTail(match[0]);
    if (!URL.canParse(address)) continue;
    if (match.index > end) parts.push({ text: text.slice(end, match.index) });
    parts.push({ text: address, href: new URL(address).href });
    end = match.index + address.length;
  }
  if (end < text.length) parts.push({ text: text.slice(end) });
  return parts;
}

/** Punctuation behind an address belongs to the sentence; a bracket does unless it was opened within. */
function withoutTail(address: string): string {
  const tail = /[.,;:!?'"*_~»”’…。，、！？)\]}]$/u.exec(address);
  if (!tail) return address;
  const opening = { ")": "(", "]": "[", "}": "{" }[tail[0]];
  if (opening && address.split(opening).length >= address.split(tail[0]).length) return address;
  return withoutTail(address.slice(0, -1));
}

/**
 * How long to wait after the nth failure in a row, in ms: full jitter, so that six browsers do not come back
 * in step. `random` gives 0 to 1.
 */
export function backoff(failures: number, random: () => number = Math.random): number {
  return random() * Math.min(15_000, 500 * 2 ** failures);
}

const ASK_AGAIN = "Ask whoever sent it for a new one.";
const OLD_SEAT = "Is one of them you, in another browser? Ask whoever started it to remove the old seat.";

/** Why one is no longer in a chat that one was in. */
const ENDS: Partial<Record<Code, string>> = {
  revoked_token: "You are no longer in this chat",
  chat_not_found: "This chat has ended",
  expired_token: "Six hours are over",
  invalid_token: "The host has restarted, this chat is gone",
};

/** Why an invitation leads nowhere. */
const REFUSALS: Partial<Record<Code, string>> = {
  chat_full: `That chat is full: six people are in it. ${OLD_SEAT}`,
  chat_not_found: "That chat has ended.",
  revoked_token: `That invitation was withdrawn. ${ASK_AGAIN}`,
  expired_token: `That invitation has run out. ${ASK_AGAIN}`,
  invalid_token: `That link does not work: a part of it is missing, or the host has restarted. ${ASK_AGAIN}`,
};

const NOT_REACHED = "The host cannot be reached. Are you on the same Wi-Fi?";
const NEEDS_LINK = "You are not in that chat. To get in, ask somebody who is for the link.";
const NO_SUCH_PAGE = "There is nothing at that address.";

function bearer(token: string): string {
  return `-H "Authorization: Bearer ${token}"`;
}

/** Lines for a terminal. Double quotes only, so that sh, cmd and PowerShell take them alike. */
export function apiLines(url: string, token: string, invite: string, windows: boolean): [string, string][] {
  // In Windows PowerShell plain `curl` is another program.
  const curl = windows ? "curl.exe" : "curl";
  return [
    ["Read", `${curl} ${bearer(token)} "${url}?since=0"`],
    [
      "Write. This writes as you; a bot should join with a seat of its own.",
      `${curl} ${bearer(token)} -H "Content-Type: text/plain" -d "Hello from a terminal" "${url}"`,
    ],
    ["Join with a seat of its own, and get its token", `${curl} -X POST ${bearer(invite)} "${url}/join"`],
  ];
}

// ---------------------------------------------------------------------------------------------------------
// What the browser keeps. Storage may be full or forbidden: then this tab goes on from memory, and says that
// it must not be closed. What another version has written is as good as nothing.

const PREFIX = "watch-party ";
type Area = "localStorage" | "sessionStorage";

/** What the browser would not take. (No key is used in both areas.) */
const memory = new Map<string, string>();
let isForgetful = false;

function stored(key: string, area: Area = "localStorage"): string | null {
  try {
    return memory.get(key) ?? window[area].getItem(PREFIX + key);
  } catch {
    return null;
  }
}

/** Keeps a value; null forgets it. */
function store(key: string, value: string | null, area: Area = "localStorage"): void {
  memory.delete(key);
  try {
    if (value === null) window[area].removeItem(PREFIX + key);
    else window[area].setItem(PREFIX + key, value);
  } catch {
    isForgetful = true;
    if (value !== null) memory.set(key, value);
  }
}

/** All that is kept under keys that begin so. */
function storedUnder<T>(head: string, isGood: (value: unknown) => value is T): T[] {
  const keys = new Set([...keptKeys(), ...memory.keys()].filter((key) => key.startsWith(head)));
  return Array.from(keys, (key) => parsed(stored(key))).filter(isGood);
}

function keptKeys(): string[] {
  try {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    return keys.map((key) => key.slice(PREFIX.length));
  } catch {
    return [];
  }
}

function parsed(json: string | null): unknown {
  try {
    return JSON.parse(json ?? "null");
  } catch {
    return null;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function hasTexts(value: unknown, ...names: string[]): value is Record<string, unknown> {
  return isRecord(value) && names.every((name) => typeof value[name] === "string");
}

function isSavedChat(value: unknown): value is SavedChat {
  const parts = ["chat_id", "session_token", "member_id", "username", "expires_at"];
  return hasTexts(value, "title") && hasTexts(value["session"], ...parts);
}

function isOutgoing(value: unknown): value is Outgoing {
  return hasTexts(value, "key", "text", "state", "why") && typeof value["at"] === "number";
}

function savedChats(): SavedChat[] {
  const chats = storedUnder("chat ", isSavedChat);
  return chats.toSorted((a, b) => b.session.expires_at.localeCompare(a.session.expires_at));
}

function savedChat(chatId: string): SavedChat | undefined {
  const chat = parsed(stored(`chat ${chatId}`));
  return isSavedChat(chat) ? chat : undefined;
}

function savedOutbox(chatId: string): Outgoing[] {
  return storedUnder(`unsent ${chatId} `, isOutgoing).toSorted((a, b) => a.at - b.at);
}

function saveChat(chat: SavedChat): void {
  store(`chat ${chat.session.chat_id}`, JSON.stringify(chat));
}

/** The session, the draft and what was unsent go; an invitation, which may lead back in, does not. */
function forgetChat(chatId: string): void {
  for (const one of savedOutbox(chatId)) store(`unsent ${chatId} ${one.key}`, null);
  store(`draft ${chatId}`, null);
  store(`chat ${chatId}`, null);
}

/** After each change of state: what has to survive a reload. Each message has a place of its own, so that
 *  two tabs on one chat do not overwrite each other's. */
function keep(before: State, after: State): void {
  const was = before.at === "live" ? before : undefined;
  const chatId = after.at === "live" ? after.session.chat_id : undefined;
  const same = was && was.session.chat_id === chatId;
  if (was && !same) leaveScreen();
  if (after.at !== "live" || !chatId) return;
  if (!same || was.title !== after.title || was.inviting !== after.inviting) saveChat(after);
  if (same && was.outbox === after.outbox) return;
  const kept = new Set(after.outbox.map((one) => one.key));
  const gone = same ? was.outbox.filter((one) => !kept.has(one.key)) : [];
  for (const one of gone) store(`unsent ${chatId} ${one.key}`, null);
  for (const one of after.outbox) store(`unsent ${chatId} ${one.key}`, JSON.stringify(one));
}

/** 22 characters of base64url: 132 random bits. (`crypto.randomUUID` does not exist on plain http.) */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(17));
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .slice(0, 22);
}

/** Names this browser to the server, so that a dozen tabs do not use up its six connections. */
function browserId(): string {
  const id = stored("browser") ?? randomKey();
  store("browser", id);
  return id;
}

// ---------------------------------------------------------------------------------------------------------
// The server. One wrapper; failures are values, so that nobody forgets them.

/** The contract's code, or "unreachable" when no answer of the server's came. */
type Code = ErrorCode | "unreachable";

interface Failure {
  ok: false;
  code: Code;
  /** 0 when nothing came at all. */
  status: number;
  message: string;
  /** Seconds; 0 when the answer did not say. */
  retryAfter: number;
}

type Answer<T> = { ok: true; value: T } | Failure;

interface Call {
  token?: string;
  body?: Record<string, string>;
  key?: string;
  signal?: AbortSignal;
  /** A held poll: longer, and behind everything else a page loads. */
  held?: boolean;
}

/** The server's clock minus this one's, in ms: a host without Internet may well be years off. */
let clockOffset = 0;

function serverNow(): number {
  return Date.now() + clockOffset;
}

/** Asks the server; where it says to come back in a few seconds, comes back. */
async function api<T>(method: string, path: string, call: Call = {}): Promise<Answer<T>> {
  for (;;) {
    const answer = await request<T>(method, path, call);
    if (answer.ok || !answer.retryAfter || answer.retryAfter > PATIENCE_SECONDS) return answer;
    await sleep(answer.retryAfter * 1000, call.signal);
    if (call.signal?.aborted) return answer;
  }
}

async function request<T>(method: string, path: string, call: Call): Promise<Answer<T>> {
  const headers = new Headers();
  if (call.token) headers.set("Authorization", `Bearer ${call.token}`);
  if (call.key) headers.set("Idempotency-Key", call.key);
  const limit = AbortSignal.timeout(call.held ? POLL_LIMIT_MS : CALL_LIMIT_MS);
  try {
    const response = await fetch(path, {
      method,
      headers,
      cache: "no-store",
      priority: call.held ? "low" : "auto",
      signal: call.signal ? AbortSignal.any([call.signal, limit]) : limit,
      ...(call.body && { body: JSON.stringify(call.body) }),
    });
    const date = Date.parse(response.headers.get("Date") ?? "");
    if (date) clockOffset = date - Date.now();
    const reply = parsed((await response.text()) || null);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: the server's own exported type
    return response.ok ? { ok: true, value: reply as T } : failure(response, reply);
  } catch {
    return { ok: false, code: "unreachable", status: 0, message: NOT_REACHED, retryAfter: 0 };
  }
}

function failure(response: Response, reply: unknown): Failure {
  const { status } = response;
  const retryAfter = Number(response.headers.get("Retry-After"));
  // Something else than the server may answer, a proxy or a hotel's Wi-Fi: as good as no answer.
  const { error, message } = isErrorReply(reply) ? reply : { error: "unreachable" as const, message: NOT_REACHED };
  return { ok: false, code: error, status, message, retryAfter };
}

function isErrorReply(reply: unknown): reply is ErrorReply {
  return hasTexts(reply, "error", "message");
}

/** Resolves after `ms` milliseconds, or as soon as `signal` is aborted. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    // A listener added to an aborted signal would never be called.
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
  });
}

// ---------------------------------------------------------------------------------------------------------
// The state, and the one way to change it.

let state: State = { at: "home", notice: "", chats: [], fieldError: "", busy: false };

function dispatch(event: StateEvent): void {
  const before = state;
  state = update(before, event);
  if (state === before) return;
  keep(before, state);
  render();
}

/** Whether the screen still shows this chat, to be asked after every wait. */
function isOn(chatId: string): boolean {
  return state.at === "live" && state.session.chat_id === chatId;
}

// ---------------------------------------------------------------------------------------------------------
// Listening: one loop, one AbortController. Whoever starts it anew aborts the one before.

let polling: AbortController | undefined;

function startPolling(): void {
  stopPolling();
  if (state.at !== "live") return;
  polling = new AbortController();
  void poll(state.session, polling.signal);
}

/** A deliberate end, no failure. */
function stopPolling(): void {
  polling?.abort();
}

async function poll(session: Session, signal: AbortSignal): Promise<void> {
  while (state.at === "live" && !signal.aborted) {
    // After a failure not held: otherwise "Connection lost" would stay until there is news.
    const wait = state.failures ? 0 : POLL_SECONDS;
    const path = `/${session.chat_id}?since=${state.cursor}&wait=${wait}&browser=${browserId()}`;
    const visible = document.hidden ? "" : "&visible=1";
    const answer = await api<PollReply>("GET", path + visible, {
      token: session.session_token,
      signal,
      held: true,
    });
    if (signal.aborted) return;
    if (answer.ok) await receive(answer.value, signal);
    else if (answer.code in ENDS) return endChat(answer.code);
    else await endure(answer.retryAfter, signal);
  }
}

async function receive(reply: PollReply, signal: AbortSignal): Promise<void> {
  const wasLoaded = state.at === "live" && state.loaded;
  const wasLost = state.at === "live" && state.failures > 0;
  dispatch({ type: "polled", reply, hidden: document.hidden, stuck: isNearEnd() });
  if (wasLost) resend();
  if (state.at === "live") {
    store(inviteKey(state.session.chat_id), null, "sessionStorage");
    const own = state.session.member_id;
    if (wasLoaded && reply.messages.some((message) => message.member_id !== own)) chime();
  }
  // Six connections are too few for a dozen tabs: the server says who waits. Spread, so they do not meet.
  if (reply.retry_in) await sleep(reply.retry_in * 1000 * (0.75 + Math.random() / 2), signal);
}

async function endure(retryAfter: number, signal: AbortSignal): Promise<void> {
  dispatch({ type: "poll failed" });
  setTimeout(() => dispatch({ type: "waited long" }), 3000);
  if (state.at === "live") await sleep(retryAfter * 1000 || backoff(state.failures), signal);
}

/** The session is no longer good. An invitation that was followed here opens the door again. */
function endChat(code: Code): void {
  if (state.at !== "live") return;
  const { session, outbox } = state;
  const unsent = [...outbox.map((one) => one.text), ui.message.value].filter((text) => text.trim()).join("\n\n");
  forgetChat(session.chat_id);
  const token = stored(inviteKey(session.chat_id), "sessionStorage");
  if (token) return knock(session.chat_id, token);
  dispatch({ type: "ended", sentence: ENDS[code] ?? "", unsent });
  ui.doorTitle.focus();
}

// ---------------------------------------------------------------------------------------------------------
// Sending: one at a time and in order, a chat.

/** The chat whose queue is being sent. */
let sender = "";

function send(): void {
  const text = ui.message.value;
  if (state.at !== "live" || !text.trim() || lengthNote(text).over) return;
  scrollToEnd();
  dispatch({
    type: "queued",
    outgoing: { key: randomKey(), text, at: Date.now(), state: "waiting", why: "" },
  });
  setDraft("");
  void sendQueue();
}

async function sendQueue(): Promise<void> {
  if (state.at !== "live" || sender === state.session.chat_id) return;
  const { session } = state;
  sender = session.chat_id;
  for (let next = nextOutgoing(sender); next; next = nextOutgoing(session.chat_id)) {
    const { key, text } = next;
    const call = { token: session.session_token, key, body: { text } };
    const answer = await api<MessageView>("POST", `/${session.chat_id}`, call);
    if (answer.ok) store(`unsent ${session.chat_id} ${key}`, null);
    if (!isOn(session.chat_id)) break;
    if (answer.ok) dispatch({ type: "sent", key, message: answer.value });
    else if (answer.code in ENDS) endChat(answer.code);
    else if (answer.status && answer.status < 500) dispatch({ type: "not sent", key, why: answer.message });
    else {
      dispatch({ type: "not sent", key, why: "" });
      // The held poll may not know yet that its connection is dead.
      startPolling();
    }
  }
  if (sender === session.chat_id) sender = "";
}

/** The connection is back, or the tab: what failed for want of it goes out by itself. */
function resend(key?: string): void {
  dispatch({ type: "retried", now: Date.now(), ...(key && { key }) });
  void sendQueue();
}

function nextOutgoing(chatId: string): Outgoing | undefined {
  if (state.at !== "live" || state.session.chat_id !== chatId) return undefined;
  return state.outbox.find((one) => one.state === "waiting");
}

/** "Retry", or past the key's life "Send again?", which is then a new message. */
function retry(key: string): void {
  const one = state.at === "live" ? state.outbox.find((other) => other.key === key) : undefined;
  if (!one) return;
  const now = Date.now();
  const wasAsked = ui.list.querySelector(`[data-again="${key}"]`) !== null;
  if (!isStale(one, now)) return resend(key);
  if (!wasAsked) return render();
  dispatch({ type: "sent again", key, newKey: randomKey(), now });
  void sendQueue();
}

function setDraft(text: string): void {
  ui.message.value = text;
  onDraft();
}

/** The draft was changed: keep it, grow with it (five lines at most), count it. */
function onDraft(): void {
  const { message, counter } = ui;
  if (state.at === "live") store(`draft ${state.session.chat_id}`, message.value || null);
  message.style.height = "auto";
  const height = message.scrollHeight + 2;
  message.style.height = `${Math.max(44, Math.min(height, 5 * 24 + 20))}px`;
  message.style.overflowY = height > 5 * 24 + 20 ? "auto" : "hidden";
  const { note, over } = lengthNote(message.value);
  counter.hidden = !note;
  setText(counter, note);
  counter.classList.toggle("over", over);
}

// ---------------------------------------------------------------------------------------------------------
// Coming in: which address leads where.

const inviteKey = (chatId: string) => `invite ${chatId}`;

/** Looks at the address: at the start, at "back", and when a link is pasted into a tab that shows a chat. */
function visit(): void {
  const pasted = /^#invite=(.+)$/.exec(location.hash)?.[1];
  const chatId = /^\/([\w-]{16,33})$/.exec(location.pathname)?.[1];
  // At once, so that the token gets into no history, screenshot or shared screen.
  if (location.hash || location.href.endsWith("#")) history.replaceState(null, "", location.pathname);
  if (!chatId) return goHome(location.pathname === "/" ? "" : NO_SUCH_PAGE);
  if (pasted) store(inviteKey(chatId), pasted, "sessionStorage");
  if (isOn(chatId)) return;
  const saved = savedChat(chatId);
  if (saved) return enter(saved);
  const token = pasted ?? stored(inviteKey(chatId), "sessionStorage");
  if (token) knock(chatId, token);
  else goHome(NEEDS_LINK);
}

/** At the door with an invitation. */
function knock(chatId: string, token: string): void {
  dispatch({ type: "was invited", chatId, token });
  focusName();
  void look(chatId, token);
}

function go(path: string): void {
  history.pushState(null, "", path);
  visit();
}

function goHome(notice: string): void {
  if (location.pathname !== "/") history.replaceState(null, "", "/");
  dispatch({ type: "went home", notice, chats: savedChats() });
  focusName();
  void checkChats();
}

/** Each chat of the list is looked at once; those that are no more vanish without a word. */
async function checkChats(): Promise<void> {
  await Promise.all(savedChats().map(({ session }) => checkChat(session)));
}

async function checkChat({ chat_id, session_token }: Session): Promise<void> {
  const answer = await api("HEAD", `/${chat_id}`, { token: session_token });
  if (answer.ok || ![401, 403, 404].includes(answer.status)) return;
  forgetChat(chat_id);
  dispatch({ type: "chat vanished", chatId: chat_id });
}

function enter(saved: SavedChat): void {
  const { chat_id } = saved.session;
  dispatch({ type: "entered", saved, outbox: savedOutbox(chat_id), now: Date.now() });
  setDraft(stored(`draft ${chat_id}`) ?? "");
  if (!isTouch()) ui.message.focus();
  startPolling();
  resend();
  if (saved.inviting) void makeInvitation();
}

/** Who is there already? Asked until the host answers. */
async function look(chatId: string, token: string): Promise<void> {
  const answer = await api<InvitePreview>("GET", `/${chatId}/invite`, { token });
  if (state.at !== "joining" || state.token !== token) return;
  if (answer.ok) return dispatch({ type: "looked", look: answer.value });
  if (answer.code in REFUSALS) return turnAway(chatId, answer.code);
  dispatch({ type: "not reached", notice: answer.message });
  await sleep(3000);
  if (state.at === "joining" && state.token === token) await look(chatId, token);
}

function turnAway(chatId: string, code: Code): void {
  store(inviteKey(chatId), null, "sessionStorage");
  goHome(REFUSALS[code] ?? "");
}

/** The door's one button: start, join, or home again. */
async function openDoor(): Promise<void> {
  const door = state;
  if (door.at === "ended") return go("/");
  if (door.at === "live" || door.busy) return;
  const username = ui.name.value.trim();
  const wrong = nameError(username);
  if (wrong) return refuseName(wrong);
  store("name", username);
  dispatch({ type: "asked" });
  if (door.at === "home") await startChat(username);
  else await joinChat(door, username);
}

function refuseName(why: string): void {
  dispatch({ type: "refused", why });
  ui.name.focus();
  ui.name.select();
}

async function startChat(username: string): Promise<void> {
  const answer = await callOnce("/create", { username });
  if (answer.ok) return openChat(answer.value, true);
  if (answer.code === "invalid_username") refuseName(answer.message);
  else dispatch({ type: "not reached", notice: answer.message });
}

async function joinChat(door: Joining, username: string): Promise<void> {
  const answer = await callOnce(`/${door.chatId}/join`, { username, invite_token: door.token });
  if (answer.ok) {
    store(inviteKey(door.chatId), null, "sessionStorage");
    return openChat(answer.value, false);
  }
  if (state.at !== "joining" || state.token !== door.token) return;
  if (answer.code in REFUSALS) turnAway(door.chatId, answer.code);
  else if (answer.code === "username_taken") refuseName(takenSentence(username, door.look ?? state.look));
  else if (answer.code === "invalid_username") refuseName(answer.message);
  else dispatch({ type: "not reached", notice: answer.message });
}

function takenSentence(username: string, seen: InvitePreview | undefined): string {
  const first = seen?.members[0];
  const who = first && first !== username ? isolate(first) : "whoever started the chat";
  return `${isolate(username)} is taken here. Is that you, in another browser? Ask ${who} to remove the old seat.`;
}

/**
 * Asks for a seat with a key that is kept, also through a reload, until an answer is there: an answer lost on
 * bad Wi-Fi makes no second chat and takes no second seat.
 */
async function callOnce(path: string, body: Record<string, string>): Promise<Answer<Session>> {
  const key = stored(`key ${path}`, "sessionStorage") ?? randomKey();
  store(`key ${path}`, key, "sessionStorage");
  const answer = await api<Session>("POST", path, { body, key });
  if (answer.ok || answer.code !== "unreachable") store(`key ${path}`, null, "sessionStorage");
  return answer;
}

/** A seat was taken: shows its chat, under the chat's own address. */
function openChat(session: Session, inviting: boolean): void {
  const path = `/${session.chat_id}`;
  if (location.pathname !== path) history.pushState(null, "", path);
  enter({ session, inviting, title: chatTitle([], Date.parse(session.expires_at)) });
}

// ---------------------------------------------------------------------------------------------------------
// What the buttons in a chat do.

/** A new link, of the same right as the old ones. Made anew each time, as a laptop's address changes. */
async function makeInvitation(status = ""): Promise<void> {
  if (state.at !== "live") return;
  const { chat_id, session_token } = state.session;
  const answer = await api<InviteReply>("POST", `/${chat_id}/invite`, { token: session_token });
  if (!isOn(chat_id)) return;
  if (answer.ok) dispatch({ type: "invitation made", invite: answer.value, status });
  else dispatch({ type: "invitation said", status: answer.message });
}

function revokeInvitations({ chat_id, session_token }: Session): Promise<Answer<void>> {
  return api<void>("DELETE", `/${chat_id}/invite`, { token: session_token });
}

async function renewInvitation(): Promise<void> {
  if (state.at !== "live") return;
  const revoked = await revokeInvitations(state.session);
  if (revoked.ok) await makeInvitation("This is a new link. The old one no longer works.");
  else dispatch({ type: "invitation said", status: revoked.message });
}

function openInvitation(): void {
  dispatch({ type: "invitation closed" });
  dispatch({ type: "invitation said", status: "" });
  ui.inviteDialog.append(ui.invite);
  openDialog(ui.inviteDialog);
  void makeInvitation();
}

function closeInvitation(): void {
  ui.inviteDialog.close();
  dispatch({ type: "invitation closed" });
}

/** A question that stays until the answer has been carried out; `run` gives a sentence if it could not be. */
interface Question {
  title: string;
  text: string;
  action: string;
  tick?: boolean;
  run: (session: Session, ticked: boolean) => Promise<string>;
}

let asked: Question | undefined;

function ask(question: Question): void {
  asked = question;
  setText(ui.questionTitle, question.title);
  setText(ui.questionText, question.text);
  setText(ui.questionYes, question.action);
  setText(ui.questionError, "");
  ui.tickField.hidden = !question.tick;
  ui.tick.checked = true;
  ui.question.showModal();
  // The harmless answer is the one under the Enter key.
  ui.questionNo.focus();
}

async function answerYes(): Promise<void> {
  const question = asked;
  if (!question || state.at !== "live" || ui.questionYes.ariaBusy === "true") return;
  ui.questionYes.ariaBusy = "true";
  const trouble = await question.run(state.session, ui.tick.checked);
  ui.questionYes.ariaBusy = null;
  setText(ui.questionError, trouble);
  if (!trouble) ui.question.close();
}

function askToLeave(): void {
  if (state.at !== "live") return;
  const afterwards = isCreator(state) ? " Nobody can invite anybody afterwards." : "";
  ask({
    title: "Leave this chat?",
    text: `Your seat becomes free; what you wrote stays.${afterwards}`,
    action: "Leave",
    run: ({ chat_id, session_token }) =>
      giveUp(chat_id, "You have left the chat.", api("POST", `/${chat_id}/leave`, { token: session_token })),
  });
}

function askToEnd(): void {
  ask({
    title: "End this chat?",
    text: "It ends at once, for everybody, and nothing of it remains.",
    action: "End chat",
    run: ({ chat_id, session_token }) =>
      giveUp(chat_id, "You have ended the chat.", api("DELETE", `/${chat_id}`, { token: session_token })),
  });
}

async function giveUp(chatId: string, notice: string, call: Promise<Answer<unknown>>): Promise<string> {
  const answer = await call;
  if (!answer.ok && !(answer.code in ENDS)) return answer.message;
  forgetChat(chatId);
  goHome(notice);
  return "";
}

function askToRemove(id: string, name: string): void {
  ask({
    title: `Remove ${isolate(name)}?`,
    text: "Their seat becomes free; what they wrote stays. With the old link they could come back.",
    action: "Remove",
    tick: true,
    run: (session, ticked) => removeMember(session, id, ticked),
  });
}

/** The link first: otherwise whoever is removed could be back before it is gone. */
async function removeMember(session: Session, id: string, stopLink: boolean): Promise<string> {
  if (stopLink) {
    const revoked = await revokeInvitations(session);
    if (!revoked.ok) return revoked.message;
  }
  const { chat_id, session_token } = session;
  const removed = await api("DELETE", `/${chat_id}/members/${id}`, { token: session_token });
  if (!removed.ok && removed.code !== "not_found") return removed.message;
  if (stopLink) {
    ui.question.close();
    ui.people.close();
    openInvitation();
  }
  return "";
}

/** A new chat for the next six hours, its invitation posted in this one. */
async function goOn(): Promise<void> {
  if (state.at !== "live") return;
  const old = state.session;
  const made = await callOnce("/create", { username: old.username });
  if (!made.ok) return setText(ui.endingText, made.message);
  const { chat_id, session_token } = made.value;
  const invite = await api<InviteReply>("POST", `/${chat_id}/invite`, { token: session_token });
  if (!invite.ok) return setText(ui.endingText, invite.message);
  const text = `We go on here: ${invite.value.magic_link}`;
  const call = { token: old.session_token, key: `go on ${chat_id}`, body: { text } };
  const posted = await api("POST", `/${old.chat_id}`, call);
  if (!posted.ok) return setText(ui.endingText, posted.message);
  openChat(made.value, true);
}

/** Copies a field's text and says what came of it, or what is left to do by hand. */
async function copy(field: HTMLInputElement | HTMLTextAreaElement): Promise<string> {
  const focused = document.activeElement;
  if (await isCopied(field)) {
    if (focused instanceof HTMLElement) focused.focus();
    return "Copied";
  }
  field.focus();
  field.select();
  if (isTouch()) return "Hold the link to copy";
  return navigator.userAgent.includes("Mac") ? "Press ⌘C" : "Press Ctrl+C";
}

async function isCopied(field: HTMLInputElement | HTMLTextAreaElement): Promise<boolean> {
  try {
    // Only https and localhost have a clipboard.
    if ("clipboard" in navigator) {
      await navigator.clipboard.writeText(field.value);
      return true;
    }
  } catch {
    // Not permitted: the old way may still be.
  }
  field.focus();
  field.select();
  return document.execCommand("copy");
}

async function copyLink(): Promise<void> {
  const status = await copy(ui.link);
  dispatch({ type: "invitation said", status });
}

/** The API panel: its tokens are shown when asked for, and hidden again when it closes. */
async function showTokens(shown: boolean): Promise<void> {
  if (state.at !== "live") return;
  if (shown && isCreator(state) && !state.invite) await makeInvitation();
  if (state.at !== "live") return;
  const { session, invite } = state;
  const seat = shown ? session.session_token : "YOUR_TOKEN";
  const guest = (shown && invite?.invite_token) || "WHAT_STANDS_BEHIND_invite=_IN_A_LINK";
  const url = `${location.origin}/${session.chat_id}`;
  const lines = apiLines(url, seat, guest, navigator.userAgent.includes("Windows"));
  ui.commands.replaceChildren();
  lines.forEach(addCommand);
  setText(ui.tokenShow, shown ? "Hide the token" : "Show the token");
}

let audio: AudioContext | undefined;

/** Browsers allow sound only once a person has done something, and complain if it is tried before. */
function wakeSound(): void {
  if (stored("sound") && navigator.userActivation.hasBeenActive) audio ??= new AudioContext();
}

function setSound(on: boolean): void {
  store("sound", on ? "1" : null);
  audio = undefined;
  wakeSound();
  chime();
}

function chime(): void {
  if (!audio) return;
  const now = audio.currentTime;
  const tone = new OscillatorNode(audio, { frequency: 660 });
  const volume = new GainNode(audio, { gain: 0.12 });
  volume.gain.exponentialRampToValueAtTime(0.001, now + 0.25);
  tone.connect(volume).connect(audio.destination);
  tone.start();
  tone.stop(now + 0.25);
}

// ---------------------------------------------------------------------------------------------------------
// Render: makes the screen what the state says. Called after every change, so it touches only what differs.

/** The one place where markup and script meet: every element that is used, by its id. */
type Page = Record<DoorId | ChatId | DialogId, HTMLElement> &
  Record<"name" | "link" | "sound" | "tick", HTMLInputElement> &
  Record<"message" | "unsent", HTMLTextAreaElement> &
  Record<"inviteDialog" | "large" | "people" | "question" | "api", HTMLDialogElement> &
  Record<"qr" | "largeQr", HTMLCanvasElement> &
  Record<"icon", HTMLLinkElement>;

type DoorId = Word<"door notice doorTitle doorText enter nameField nameError unsentField go before chats">;
type ChatId =
  | Word<"chat title seats inviteOpen banner forgetful ending endingText goOn here log empty list pill">
  | Word<"composer counter send">;
type DialogId =
  | Word<"invite inviteClose code inviteText seatsLeft copy inviteStatus renew commands tokenShow tickField">
  | Word<"members askForLink apiOpen leave end">
  | Word<"questionForm questionTitle questionText questionError questionYes questionNo">;

/** Any one of the words of a text. */
type Word<T extends string> = T extends `${infer First} ${infer Rest}` ? First | Word<Rest> : T;

let ui: Page;

function findPage(): Page {
  const elements = Array.from(document.querySelectorAll("[id]"), (element) => [element.id, element]);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: index.html, as the page's tests prove
  return Object.fromEntries(elements) as Page;
}

function render(): void {
  ui.door.hidden = state.at === "live";
  ui.chat.hidden = state.at !== "live";
  if (state.at === "live") renderChat(state);
  else renderDoor(state);
  renderSignals();
}

/** The tab: which chat it is, and how much came while nobody looked. */
function renderSignals(): void {
  const unread = state.at === "live" ? state.unread : 0;
  const names = { home: "", joining: "Join · ", live: "", ended: "Ended · " };
  const name = state.at === "live" ? `${state.title} · ` : names[state.at];
  const title = `${unread ? `(${unread}) ` : ""}${name}Watch Party`;
  if (document.title !== title) document.title = title;
  const icon = unread ? DOTTED_ICON(plainIcon) : plainIcon;
  if (ui.icon.href !== icon) ui.icon.href = icon;
}

let plainIcon = "";
const DOTTED_ICON = (icon: string) =>
  icon.replace("%3C/svg", "%3Ccircle cx='25' cy='7' r='7' fill='%23ff3b30'/%3E%3C/svg");

function renderDoor(door: Home | Joining | Ended): void {
  const isEnd = door.at === "ended";
  setText(ui.notice, isEnd ? "" : door.notice);
  setText(ui.doorTitle, doorTitle(door));
  setText(ui.doorText, doorText(door));
  ui.nameField.hidden = isEnd;
  const fieldError = isEnd ? "" : door.fieldError;
  setText(ui.nameError, fieldError);
  ui.name.ariaInvalid = String(fieldError !== "");
  ui.unsentField.hidden = !isEnd || !door.unsent;
  ui.unsent.value = isEnd ? door.unsent : "";
  setText(ui.go, isEnd ? "To the start" : door.at === "home" ? "Start a chat" : "Join");
  ui.go.ariaBusy = !isEnd && door.busy ? "true" : null;
  const chats = door.at === "home" ? door.chats : [];
  ui.before.hidden = chats.length === 0;
  reconcile(ui.chats, chats.map(chatRow), drawChat);
}

function doorTitle(door: Home | Joining | Ended): string {
  if (door.at === "ended") return door.sentence;
  return door.at === "home" ? "Watch Party" : "Join the chat";
}

function doorText(door: Home | Joining | Ended): string {
  if (door.at === "home") return "A private chat for up to six. Nothing is saved: when it ends, it is gone.";
  if (door.at === "ended") return "Nothing of it was saved.";
  if (!door.look) return "Looking who is there…";
  const { members, seats_left } = door.look;
  const free = seats_left === 1 ? "One seat is free." : `${seats_left} seats are free.`;
  return `${listNames(members)} ${members.length === 1 ? "is" : "are"} here. ${free}`;
}

interface ChatRow {
  key: string;
  title: string;
  left: string;
}

function chatRow({ session, title }: SavedChat): ChatRow {
  const left = timeLeft(Date.parse(session.expires_at) - serverNow());
  return { key: session.chat_id, title, left: `${left} left` };
}

function drawChat({ key, title, left }: ChatRow): HTMLElement {
  const time = make("span", { className: "small muted" }, left);
  return make("li", {}, make("a", { href: `/${key}` }, drawTitle(title), time));
}

/** Name by name, so that where room is short each loses its end, which in Hebrew is on the left. */
function drawTitle(title: string): HTMLElement {
  const parts = title.replace(/[\u2068\u2069]/g, "").split(/(, | \+\d$)/);
  return make(
    "span",
    { className: "title" },
    ...parts.map((part, index) => (index % 2 ? part : make("bdi", {}, part))),
  );
}

function renderChat(live: Live): void {
  reconcile(ui.title, [{ key: live.title }], ({ key }) => drawTitle(key));
  // None before it is known who sits there: six empty ones would flash by.
  reconcile(ui.seats, live.loaded ? seatRows(live) : [], drawSeat);
  ui.seats.ariaLabel = `People: ${live.members.length} of ${SEATS} here`;
  setText(ui.forgetful, isForgetful ? "This browser keeps nothing. Don't close this tab." : "");
  setText(ui.banner, live.offline ? "Connection lost. Trying again…" : "");
  renderEnding(live);
  renderInvitation(live);
  renderLog(live);
  renderPeople(live);
}

interface SeatRow {
  key: string;
  letter: string;
  hue: number | undefined;
  online: boolean;
}

/** Six seats; those without a member are empty circles. */
function seatRows(live: Live): SeatRow[] {
  return Array.from({ length: SEATS }, (_, index) => {
    const member = live.members[index];
    if (!member) return { key: `seat ${index}`, letter: "", hue: undefined, online: true };
    const { id, username, online } = member;
    return { key: id, letter: initial(username), hue: live.hues[id], online };
  });
}

function drawSeat({ letter, hue, online }: Omit<SeatRow, "key">): HTMLElement {
  const seat = make("span", { className: online ? "seat" : "seat absent", ariaHidden: "true" });
  // Drawn by the style sheet, as it is no part of what the button around it is called.
  seat.dataset["letter"] = letter;
  if (hue !== undefined && online) seat.dataset["hue"] = String(hue);
  return seat;
}

function renderEnding(live: Live): void {
  const left = live.expiresAt - serverNow();
  ui.ending.hidden = !live.loaded || left > COUNTDOWN_MS;
  setText(ui.endingText, `Your six hours here end in ${timeLeft(left)}.`);
  ui.goOn.hidden = !isCreator(live);
}

function isCreator(live: Live): boolean {
  return live.members.some((member) => member.you && member.creator);
}

/** By the number of seats left. */
const INVITE_TEXTS = [
  "All seats are taken. The link works again once one is free.",
  "Send this to one more person.",
  ...["two", "three", "four", "five"].map((number) => `Send this to up to ${number} people.`),
];

/** One panel in two places: in the middle of a new chat, later in a dialog. */
function renderInvitation(live: Live): void {
  ui.inviteOpen.hidden = !isCreator(live);
  ui.here.hidden = !live.inviting;
  if (live.inviting && ui.invite.parentElement !== ui.here) ui.here.append(ui.invite);
  const taken = Math.max(1, live.members.length);
  setText(ui.inviteText, INVITE_TEXTS[SEATS - taken] ?? "");
  setText(ui.seatsLeft, `${taken} of ${SEATS} here.`);
  setText(ui.inviteStatus, live.inviteStatus);
  const link = live.invite?.magic_link ?? "";
  if (ui.link.value === link) return;
  ui.link.value = link;
  drawCode(ui.qr, link, 224);
}

/**
 * A QR code about `size` CSS pixels wide with its margin of 4 modules, black on white in any theme. Modules
 * are whole device pixels, so that no edge blurs: 41 modules and the margin into 224 px are 49 of 5 px at
 * ratio 1, which makes 245, and 49 of 9 at ratio 2, 441 of them or 220.5 px.
 */
function drawCode(canvas: HTMLCanvasElement, text: string, size: number, round = Math.round): void {
  const code = generate(text);
  const module = round((size * devicePixelRatio) / (code.size + 8));
  const pixels = module * (code.size + 8);
  canvas.width = canvas.height = pixels;
  canvas.style.width = canvas.style.height = `${pixels / devicePixelRatio}px`;
  const pen = canvas.getContext("2d");
  if (!pen) return;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, pixels, pixels);
  pen.fillStyle = "#000";
  for (let y = 0; y < code.size; y++)
    for (let x = 0; x < code.size; x++)
      if (code.get(x, y)) pen.fillRect((x + 4) * module, (y + 4) * module, module, module);
}

function showLargeCode(): void {
  drawCode(ui.largeQr, ui.link.value, Math.min(innerWidth, innerHeight), Math.floor);
  ui.large.showModal();
}

/** Whether the end of the log was what is being read, before the screen changed its size. */
let stuck = true;

function isNearEnd(): boolean {
  // To measure an empty log would only make the browser lay the page out before it has to.
  if (!ui.list.hasChildNodes()) return true;
  const { scrollHeight, scrollTop, clientHeight } = ui.log;
  return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
}

function renderLog(live: Live): void {
  const rows = logRows(live, Date.now());
  stuck = isNearEnd();
  const anchors = stuck ? [] : itemsInView();
  const wasLoaded = ui.log.role === "log";
  reconcile(ui.list, rows, drawRow, wasLoaded ? "fresh" : "");
  setText(ui.empty, rows.length || live.inviting || !live.loaded ? "" : emptyNote(live));
  ui.log.hidden = live.inviting && rows.length === 0;
  if (stuck) scrollToEnd();
  else holdStill(anchors);
  ui.pill.hidden = live.below === 0;
  setText(ui.pill, live.below === 1 ? "1 new message ↓" : `${live.below} new messages ↓`);
  // Only now: history is not news, and is not to be read out.
  if (live.loaded) Object.assign(ui.log, { role: "log", ariaLabel: "Messages" });
}

function emptyNote(live: Live): string {
  return `Nobody has written yet. ${linkNote(live)}`;
}

/** To whom those turn who would like to bring somebody. */
function linkNote(live: Live): string {
  const creator = live.members.find((member) => member.creator);
  if (!creator) return "Whoever started this chat has left, so nobody can invite any more.";
  return creator.you ? "" : `To bring somebody in, ask ${isolate(creator.username)} for the link.`;
}

function scrollToEnd(): void {
  if (ui.list.hasChildNodes()) ui.log.scrollTop = ui.log.scrollHeight;
}

/** The items from the top of what is read on, with their places in the list. */
function itemsInView(): [HTMLElement, number][] {
  const top = ui.log.offsetTop + ui.log.scrollTop;
  return childrenOf(ui.list)
    .filter((item) => item.offsetTop + item.offsetHeight > top)
    .map((item) => [item, item.offsetTop]);
}

/** What is being read stays where it is, whatever leaves above it. (`overflow-anchor` is not everywhere.) */
function holdStill(anchors: readonly [HTMLElement, number][]): void {
  const [item, top = 0] = anchors.find(([one]) => one.isConnected) ?? [];
  if (item) ui.log.scrollTop += item.offsetTop - top;
}

function childrenOf(list: HTMLElement): HTMLElement[] {
  return [...list.children].filter((child) => child instanceof HTMLElement);
}

function drawRow(row: Row): HTMLElement {
  if (row.kind === "gap") return make("li", { className: "line" }, "Older messages are gone");
  if (row.kind === "line") return make("li", { className: "line" }, make("bdi", {}, row.name), ` ${row.verb}`);
  const sentAt = new Date(row.at);
  const title = FULL_TIME.format(sentAt);
  const time = make("time", { dateTime: row.at, title }, clockTime(sentAt));
  const meta = make("div", { className: "meta" }, make("bdi", {}, row.own ? "You" : row.name), " ", time);
  const bubble = make("div", { className: "bubble", dir: "auto" }, ...splitLinks(row.text).map(drawPart));
  bubble.classList.toggle("emoji", isEmojiOnly(row.text));
  const item = make("li", { className: "message" }, meta, bubble);
  item.dataset["hue"] = String(row.hue);
  item.classList.toggle("own", row.own);
  item.classList.toggle("first", row.first);
  item.classList.toggle("sending", row.status === "sending");
  if (row.status === "failed" || row.status === "stale") markFailed(item, row);
  return item;
}

function drawPart({ text, href }: { text: string; href?: string }): Node | string {
  return href ? make("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, text) : text;
}

function markFailed(item: HTMLElement, row: MessageRow): void {
  item.classList.add("failed");
  const isOld = row.status === "stale";
  const again = make("button", { className: "plain" }, isOld ? "Send again?" : "Retry");
  if (isOld) again.dataset["again"] = row.key;
  onClick(again, () => retry(row.key));
  const drop = make("button", { className: "plain" }, "Delete");
  onClick(drop, () => dispatch({ type: "discarded", key: row.key }));
  const why = row.why || (isOld ? "Perhaps sent already." : "Not sent.");
  item.append(make("div", { className: "status" }, make("span", { className: "error" }, why), again, drop));
}

interface PersonRow extends SeatRow {
  name: string;
  you: string;
  note: string;
  removable: boolean;
}

function renderPeople(live: Live): void {
  const seats = seatRows(live);
  const rows = live.members.map(({ username, online, you, creator }, index): PersonRow => {
    const seat = seats[index] ?? { key: "", letter: "", hue: undefined, online };
    const roles = [online ? "here" : "away", creator && "started this chat"].filter(Boolean).join(", ");
    return { ...seat, name: username, you: you ? " (you)" : "", note: roles, removable: isCreator(live) && !you };
  });
  reconcile(ui.members, rows, drawPerson);
  setText(ui.askForLink, linkNote(live));
  ui.end.hidden = !isCreator(live);
}

function drawPerson(row: PersonRow): HTMLElement {
  const who = make("span", { className: "who" }, make("bdi", {}, row.name), row.you, make("span", {}, row.note));
  const item = make("li", {}, drawSeat(row), who);
  if (!row.removable) return item;
  const remove = make("button", { className: "plain", ariaLabel: `Remove ${row.name}` }, "Remove");
  onClick(remove, () => askToRemove(row.key, row.name));
  item.append(remove);
  return item;
}

function addCommand([label, text]: [string, string]): void {
  const field = make("textarea", { readOnly: true, value: text, ariaLabel: label, spellcheck: false });
  const button = make("button", { className: "plain" }, "Copy");
  onClick(button, () => void copy(field).then((status) => setText(button, status)));
  ui.commands.append(make("div", { className: "command" }, label, button, field));
  // As high as its text, which can be measured only now.
  field.style.height = `${field.scrollHeight + 2}px`;
}

/** What an item looked like when it was drawn. */
const marks = new WeakMap<Element, string>();

/**
 * Makes a list's children those of `items`, drawing anew only what has changed, so that focus, selection and
 * a screen reader's place survive. New ones get the class `fresh`.
 */
function reconcile<T extends { key: string }>(
  list: HTMLElement,
  items: readonly T[],
  draw: (item: T) => HTMLElement,
  fresh = "",
): void {
  const old = new Map(childrenOf(list).map((child) => [child.dataset["key"], child]));
  const wanted = items.map((item) => {
    const mark = JSON.stringify(item);
    const before = old.get(item.key);
    if (before && marks.get(before) === mark) return before;
    const element = draw(item);
    element.dataset["key"] = item.key;
    marks.set(element, mark);
    if (fresh && !before) element.classList.add(fresh);
    return element;
  });
  const stays = new Set<Element>(wanted);
  for (const child of old.values()) if (!stays.has(child)) child.remove();
  wanted.forEach((child, index) => {
    if (list.children[index] !== child) list.insertBefore(child, list.children[index] ?? null);
  });
}

/** An element with properties and children; text becomes text nodes, never markup. */
function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]>,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Writing the same text again would make a screen reader say it again. */
function setText(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

function openDialog(dialog: HTMLDialogElement): void {
  dialog.showModal();
  dialog.querySelector("h2")?.focus();
}

/** A chat leaves the screen: nothing of it stays behind. */
function leaveScreen(): void {
  stopPolling();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  ui.list.replaceChildren();
  Object.assign(ui.log, { role: null, ariaLabel: null });
  ui.link.value = "";
}

/** A finger, for which Enter breaks the line and a keyboard covers half the screen. */
function isTouch(): boolean {
  return matchMedia("(pointer: coarse)").matches;
}

/** On a touch screen nothing is focused unasked: the keyboard would jump up. */
function focusName(): void {
  ui.name.value ||= stored("name") ?? "";
  if (!isTouch()) ui.name.focus();
}

// ---------------------------------------------------------------------------------------------------------
// Start: what a person or the browser does, and what is done then.

function onKey(event: KeyboardEvent): void {
  // While an IME composes, Enter chooses a word; old Safari says so by 229 alone.
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
  if (event.ctrlKey || event.metaKey || (!event.shiftKey && !isTouch())) {
    event.preventDefault();
    send();
  }
}

let logTop = 0;

/** A keyboard or a banner came or went: the end stays the end, and what is read above stays where it was. */
function onLogSize(): void {
  const { top } = ui.log.getBoundingClientRect();
  if (stuck) scrollToEnd();
  else ui.log.scrollTop += top - logTop;
  logTop = top;
}

function onScroll(): void {
  stuck = isNearEnd();
  if (stuck && state.at === "live" && state.below) dispatch({ type: "seen", below: false });
}

let lastTick = Date.now();

/** Every ten seconds: the countdown, the times left, keys that grow too old. */
function onTick(): void {
  const pause = Date.now() - lastTick;
  lastTick += pause;
  // Longer than browsers slow down hidden tabs: the computer slept, and its connections are dead.
  if (pause > 90_000) startPolling();
  render();
}

function onVisibility(): void {
  if (!document.hidden) dispatch({ type: "seen", below: !isNearEnd() });
  startPolling();
}

/** iOS lays its keyboard over the page: what is left of the screen is the visual viewport. */
function fitViewport(): void {
  const view = visualViewport;
  // Zoomed in, the page has to stay as it is.
  if (!view || Math.abs(view.scale - 1) > 0.01 || state.at !== "live") return;
  document.documentElement.style.setProperty("--height", `${view.height}px`);
  scrollTo(0, 0);
}

/** Links of the page's own lead on without a reload, unless a new tab is wanted. */
function onLink(event: MouseEvent): void {
  const link = event.target instanceof Element && event.target.closest("a[href^='/']:not([target])");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href") ?? "/");
}

/** A dialog closes by its cross, and by a press beside it. */
function bindDialogs(): void {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
  }
  onClick(ui.large, () => ui.large.close());
  onClick(ui.inviteClose, closeInvitation);
  onClick(ui.questionNo, () => ui.question.close());
  onSubmit(ui.questionForm, () => void answerYes());
  ui.api.addEventListener("close", () => ui.commands.replaceChildren());
}

function bindButtons(): void {
  onSubmit(ui.enter, () => void openDoor());
  onSubmit(ui.composer, send);
  onClick(ui.inviteOpen, openInvitation);
  onClick(ui.seats, () => openDialog(ui.people));
  onClick(ui.copy, () => void copyLink());
  onClick(ui.renew, () => void renewInvitation());
  onClick(ui.code, showLargeCode);
  onClick(ui.goOn, () => void goOn());
  onClick(ui.leave, askToLeave);
  onClick(ui.end, askToEnd);
  onClick(ui.tokenShow, () => void showTokens(ui.tokenShow.textContent === "Show the token"));
  onClick(ui.apiOpen, () => {
    openDialog(ui.api);
    void showTokens(false);
  });
  onClick(ui.pill, () => {
    scrollToEnd();
    if (!isTouch()) ui.message.focus();
  });
  // A finger on the button must not take the focus, or the keyboard goes down.
  ui.send.addEventListener("pointerdown", (event) => event.preventDefault());
  ui.sound.checked = stored("sound") !== null;
  ui.sound.addEventListener("change", () => setSound(ui.sound.checked));
}

function onClick(element: HTMLElement, action: () => void): void {
  element.addEventListener("click", action);
}

function onSubmit(form: HTMLElement, action: () => void): void {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

function bindBrowser(): void {
  document.addEventListener("click", onLink);
  document.addEventListener("visibilitychange", onVisibility);
  document.addEventListener("click", wakeSound);
  document.addEventListener("keydown", wakeSound);
  addEventListener("popstate", visit);
  // Browsers say both popstate and hashchange; by the second the token is out of the address.
  addEventListener("hashchange", () => location.hash && visit());
  addEventListener("online", startPolling);
  addEventListener("pagehide", stopPolling);
  addEventListener("pageshow", (event) => event.persisted && startPolling());
  visualViewport?.addEventListener("resize", fitViewport);
  visualViewport?.addEventListener("scroll", fitViewport);
  ui.message.addEventListener("input", onDraft);
  ui.message.addEventListener("keydown", onKey);
  ui.log.addEventListener("scroll", onScroll, { passive: true });
  new ResizeObserver(onLogSize).observe(ui.log);
  setInterval(onTick, 10_000);
}

function start(): void {
  ui = findPage();
  plainIcon = ui.icon.href;
  bindDialogs();
  bindButtons();
  bindBrowser();
  visit();
}

if (typeof document !== "undefined") start();
