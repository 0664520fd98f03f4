/*
 * Watch Party: an ephemeral group chat that anybody can host. This file is the whole program.
 *
 *   GET    /                                 the page, or curl lines for those who do not ask for HTML
 *   POST   /create                           a new chat; whoever made it has the first seat
 *   POST   /:chat_id/invite                  a magic link (creator)
 *   GET    /:chat_id/invite                  looks at an invitation without using it (invite token)
 *   DELETE /:chat_id/invite                  revokes every magic link made so far (creator)
 *   POST   /:chat_id/join                    takes a free seat (invite token)
 *   GET    /:chat_id                         messages since a cursor; waits for news if asked to, or streams (member)
 *   POST   /:chat_id                         says something (member)
 *   POST   /:chat_id/leave                   gives the seat back (member)
 *   DELETE /:chat_id/members/:member_id      takes a seat back (creator)
 *   DELETE /:chat_id                         ends the chat (creator)
 *   GET    /openapi.json, /healthz, /robots.txt, and /metrics with --metrics
 *
 * What it promises (test/promises.test.ts holds it to each by its number):
 *
 *    1. Once a post is answered, every member sees it, all in the same order.
 *    2. A reader is never left behind in silence: what is no longer kept is told by `missed`.
 *    3. Nothing that arrives between two polls is lost, and a poll at the cursor is answered by the next change.
 *    4. A request repeated with its Idempotency-Key does not happen twice.
 *    5. Six seats are six, however many join at once; no two members bear the same name.
 *    6. Without a valid token nothing is said of a chat, not even whether there is one.
 *    7. A token works for one purpose, in one chat, in one spelling, until it expires or its seat is given up.
 *    8. What expires frees what it held at its time, not at the next visit.
 *    9. Whatever arrives gets one of the errors in ERRORS: no stack, no hang, and others notice nothing.
 *   10. No token, name, key or message reaches a log, and nothing at all reaches a disk.
 *   11. A reader who goes away leaves nothing behind.
 *   12. Told to stop, it answers whoever waits, finishes what is under way and is gone within two seconds.
 *
 * What it does not do, on purpose: accounts, storage, more than one process to a chat, files, push
 * notifications. A restart ends all chats, as the secret and the store live in memory alone.
 */
import { isUtf8 } from "node:buffer";
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import * as http from "node:http";
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import * as https from "node:https";
import { Server as NetServer, type Socket, isIP, isIPv6 } from "node:net";
import { networkInterfaces } from "node:os";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createSecureContext } from "node:tls";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { generate } from "lean-qr/nano";
import assets from "./dist/assets.json" with { type: "json" };

/* ------------------------------------------------------------------------------------------------
 * Vocabulary. The limits with their reasons, what goes over the wire (the page imports these types),
 * and the few types used inside.
 * --------------------------------------------------------------------------------------------- */

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

export const LIMITS = {
  /** A circle in which everybody can follow one thread. */
  seats: 6,
  /** Enough to catch up, little enough to forget: 10,000 full chats are some 100 MB. */
  keptMessages: 30,
  /** An evening. */
  sessionMs: 6 * 60 * MINUTE,
  messageGraphemes: 2_000,
  messageBytes: 8_192,
  usernameGraphemes: 24,
  usernameBytes: 96,
  /** Stacked marks ("zalgo") reach into other people's lines; no script needs more on one base. */
  combiningMarks: 8,
  bodyBytes: 32_768,
  /** Proxies and phones cut connections that are silent for a minute. */
  waitSeconds: 50,
  /** A stream that is silent writes an empty line this often, so that nobody on the way takes it for dead. */
  streamSeconds: 25,
  /** Browsers open six connections to one host: four held leave two to load pages and to send. */
  pollsPerBrowser: 4,
  retrySeconds: 2,
  onlineMs: MINUTE,
  /** How long, and for how many of a seat's posts, an Idempotency-Key is remembered. */
  keyMs: 10 * MINUTE,
  keysPerSeat: 256,
  /** Polls and streams that one seat may have open: 32 tabs. Each costs every post of the chat another write. */
  pollsPerSeat: 32,
  /** A chat with one member who neither polled nor posted for this long makes room when the server is full. */
  idleMs: 10 * MINUTE,
  /** Chats at once, where --max-chats says nothing else. */
  chats: 1_000,
  /** The part of all chats that one address may have, as 1 in so many, but always at least `chatsPerAddress`. */
  addressShare: 10,
  chatsPerAddress: 10,
  /** Headers in a request; browsers behind proxies send 20 to 40. A header of one byte costs about 100 here. */
  headers: 100,
  /** Requests that may wait on one connection for an earlier answer, by `queueWeight`; few clients send even two. */
  queuedBytes: 131_072,
  /** A connection whose peer takes none of an answer for this long ends. Longer than a poll or the pause of a stream. */
  unreadMs: 75 * SECOND,
  /** Addresses whose use is counted at once, each for what it uses: about 100 bytes each. */
  countedAddresses: 65_536,
} as const;

/** Token buckets: so many at once, then so many a second. */
const RATES = {
  /** Messages of a session. */
  message: { burst: 20, perSecond: 5 },
  /** Requests to create, to join, and refused tokens of an address, each for itself. */
  address: { burst: 60, perSecond: 1 },
} as const;

export type ErrorReply = { error: ErrorCode; message: string };
/** The answer to create and to join. `expires_at`, as all times: ISO 8601 in UTC with milliseconds. */
export interface Session {
  chat_id: string;
  session_token: string;
  member_id: string;
  username: string;
  expires_at: string;
  url: string;
}
export type InviteReply = { magic_link: string; invite_token: string; expires_at: string; seats_left: number };
export type InviteLook = { chat_id: string; seats_left: number; members: string[]; expires_at: string };
export type MessageView = { id: number; member_id: string; username: string; text: string; sent_at: string };
export type MemberView = { id: string; username: string; creator: boolean; online: boolean; you: boolean };
export interface PollReply {
  messages: MessageView[];
  cursor: number;
  missed: boolean;
  members: MemberView[];
  expires_at: string;
  retry_in?: number;
}

export interface AppOptions {
  /** 32 bytes that sign tokens; new ones are drawn where none are given. */
  secret?: Buffer;
  /** The time in milliseconds since 1970. */
  now?: () => number;
  /** This machine's address on its local network, if it has one. */
  lanAddress?: () => string | undefined;
  host?: string | undefined;
  url?: string | undefined;
  tls?: { cert: string | Buffer; key: string | Buffer } | undefined;
  trustProxy?: boolean;
  maxChats?: number | undefined;
  rateLimit?: boolean;
  node?: string | undefined;
  metrics?: boolean;
  /** Takes one line a request (--verbose). */
  log?: ((line: string) => void) | undefined;
  /** Takes what should never happen. */
  logError?: (error: unknown) => void;
}

/** One request as a handler sees it. */
interface Call {
  readonly party: Party;
  readonly method: string;
  readonly path: string;
  readonly query: string;
  /** The ids in the path, where it has some. */
  readonly chatId: string;
  readonly memberId: string;
  headers: IncomingHttpHeaders;
  /** The authority that the request was sent to, from its target or else its Host header. */
  readonly host: string | undefined;
  readonly socket: Socket;
  /** The time; looked at anew when the body has come, as that takes its time. */
  now: number;
  /** Empty until it is all there; undefined where it is too large. */
  body: Buffer | undefined;
}

/** What a handler answers with; one function, `send`, writes it. */
type Reply = { readonly status: number; readonly headers: Headers; readonly body: string | Buffer };
type Headers = Record<string, string | number>;

type Options = AppOptions & Required<Pick<AppOptions, "secret" | "now">>;

type LoopDelay = ReturnType<typeof monitorEventLoopDelay>;

/** What is kept per open connection. */
interface Connection {
  /** The weight of the requests that wait for an earlier answer. */
  queuedBytes: number;
  /** Bytes of answers that the peer had taken when something was left to take, and since when it took no more. */
  takenBytes: number;
  takenAt: number;
}

/** The running server: its settings, its chats, its counters. */
interface Party {
  readonly options: Options;
  readonly chats: Chats;
  /** When the bucket of, say, "join 192.168.1.7" is full again; the longest unused first. */
  readonly buckets: Map<string, number>;
  /** Measures only with --metrics. */
  readonly loopDelay: LoopDelay;
  /** How often each error was answered. */
  readonly refused: Map<ErrorCode, number>;
  readonly connections: Map<Socket, Connection>;
  /** Requests whose body is still coming. */
  bodies: number;
  /** "soon": nothing new begins, but what is under way may still be said and seen; "now": only what was said is shown. */
  stopping: "soon" | "now" | undefined;
}

/* ------------------------------------------------------------------------------------------------
 * Routes. All there are; a path that is not here is 404, a method that is not here 405.
 * --------------------------------------------------------------------------------------------- */

interface Rules {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: string;
  /** A browser that asks for HTML gets the page here. */
  readonly page?: true;
  readonly body?: true;
  readonly rate?: "create" | "join";
}
type Route =
  | (Rules & { caller: "anyone"; handle: (call: Call) => Reply })
  | (Rules & { caller: "member" | "creator"; handle: (call: Call, member: Member) => Reply | Waiter });

/** Not there without --metrics. */
const METRICS_PATH = "/metrics";

const ROUTES: readonly Route[] = [
  // What is asked for most stands first, as it is looked for from the top; no path fits two of these.
  { method: "GET", path: "/:chat_id", caller: "member", handle: readMessages, page: true },
  { method: "POST", path: "/:chat_id", caller: "member", handle: postMessage, body: true },
  { method: "DELETE", path: "/:chat_id", caller: "creator", handle: endChat },
  { method: "GET", path: "/", caller: "anyone", handle: showHelp, page: true },
  { method: "GET", path: "/openapi.json", caller: "anyone", handle: () => OPENAPI },
  { method: "GET", path: "/healthz", caller: "anyone", handle: () => json(200, { status: "ok" }) },
  // Search engines may find the host's home, never a chat.
  { method: "GET", path: "/robots.txt", caller: "anyone", handle: () => plainText(ROBOTS) },
  { method: "GET", path: METRICS_PATH, caller: "anyone", handle: showMetrics },
  { method: "POST", path: "/create", caller: "anyone", handle: createChat, body: true, rate: "create" },
  { method: "POST", path: "/:chat_id/invite", caller: "creator", handle: makeInvite },
  { method: "GET", path: "/:chat_id/invite", caller: "anyone", handle: lookAtInvite },
  { method: "DELETE", path: "/:chat_id/invite", caller: "creator", handle: revokeInvites },
  { method: "POST", path: "/:chat_id/join", caller: "anyone", handle: joinChat, body: true, rate: "join" },
  { method: "POST", path: "/:chat_id/leave", caller: "member", handle: leaveChat },
  { method: "DELETE", path: "/:chat_id/members/:member_id", caller: "creator", handle: removeMember },
];

const ROBOTS = "User-agent: *\nAllow: /$\nDisallow: /\n";

/** What stands at each path, which an id of the right shape fits: 16 characters, behind a node's name of up to 16 and a dash. */
const ENDPOINTS = [...Map.groupBy(ROUTES, ({ path }) => path)].map(([path, routes]) => {
  const pattern = path.replace(":chat_id", "[A-Za-z0-9_-]{16,33}").replace(":member_id", "[^/]*");
  const methods = routes.flatMap(({ method }) => (method === "GET" ? ["GET", "HEAD"] : [method]));
  return { pattern: new RegExp(`^${pattern}$`), routes, allowed: [...methods, "OPTIONS"].join(", ") };
});

/* ------------------------------------------------------------------------------------------------
 * Handlers. One a route, from a call to a reply; what they refuse they throw. They never see `res`.
 * --------------------------------------------------------------------------------------------- */

function createChat(call: Call): Reply {
  const { chats } = call.party;
  const body = readObject(call);
  const key = readSeatKey(call, "create");
  const earlier = chats.findSeat(key);
  if (earlier) return sessionReply(200, earlier, call);
  const address = countedAddress(call);
  chats.makeRoom(address);
  return sessionReply(201, chats.create(readUsername(body), key, address), call);
}

function joinChat(call: Call): Reply {
  const { chats } = call.party;
  const { chat, body } = readJoin(call);
  const key = readSeatKey(call, chat.id);
  const earlier = chats.findSeat(key);
  if (earlier) return sessionReply(200, earlier, call);
  if (chat.members.length === LIMITS.seats) throw new ApiError("chat_full");
  return sessionReply(201, chats.join(chat, readUsername(body), key), call);
}

function makeInvite(call: Call, { chat }: Member): Reply {
  const expiresAt = call.now + LIMITS.sessionMs;
  const payload = { kind: "invite", chatId: chat.id.slice(-16), counter: chat.inviteGeneration, expiresAt } as const;
  const token = signToken(payload, call.party.options.secret);
  return json(201, {
    magic_link: `${baseUrl(call, true)}/${chat.id}#invite=${token}`,
    invite_token: token,
    expires_at: iso(expiresAt),
    seats_left: LIMITS.seats - chat.members.length,
  } satisfies InviteReply);
}

function lookAtInvite(call: Call): Reply {
  const { chat, expiresAt } = authoriseInvite(bearerToken(call.headers.authorization), call);
  if (chat.members.length === LIMITS.seats) throw new ApiError("chat_full");
  return json(200, {
    chat_id: chat.id,
    seats_left: LIMITS.seats - chat.members.length,
    members: chat.members.map((member) => member.username),
    expires_at: iso(expiresAt),
  } satisfies InviteLook);
}

function revokeInvites(_call: Call, { chat }: Member): Reply {
  chat.inviteGeneration = (chat.inviteGeneration + 1) % COUNTERS;
  return NO_CONTENT;
}

function readMessages(call: Call, member: Member): Reply | Waiter {
  const { party, now } = call;
  const { cursor } = member.chat;
  const asked = readPoll(call, cursor);
  const replyNow = (isRetry: boolean): Reply =>
    asked.isStream ? linesReply(member, asked.since, now) : pollReply(member, asked.since, now, isRetry);
  if (call.method === "HEAD") return replyNow(false);
  member.lastSeen = now;
  if (party.stopping && party.bodies === 0 && asked.since === cursor) throw new ApiError("stopping");
  const isDue = !asked.isStream && (asked.wait === 0 || asked.since !== cursor);
  if (isDue || party.stopping === "now") return replyNow(false);
  const waiter = { ...asked, member, heldAt: now };
  if (party.chats.hold(waiter)) return waiter;
  if (waiter.browser === "") throw new ApiError("rate_limited", { "Retry-After": 1 });
  return replyNow(true);
}

function postMessage(call: Call, member: Member): Reply {
  const { chats, options } = call.party;
  const key = readKey(call, 1);
  const raw = readText(call);
  const earlier = chats.findPosted(member, key, raw);
  if (earlier) return json(200, earlier);
  // Counted before the text is examined: that is most of the work, and a refused text takes as much of it.
  const { messageBuckets } = member.chat;
  if (options.rateLimit !== false) {
    messageBuckets[member.seat] = take("message", messageBuckets[member.seat] ?? 0, call.now);
  }
  const text = cleanText(raw);
  return json(201, chats.post(member, text, key, String(raw)));
}

function leaveChat(call: Call, member: Member): Reply {
  call.party.chats.free([member], "revoked_token");
  return NO_CONTENT;
}

function removeMember(call: Call, creator: Member): Reply {
  const member = creator.chat.members.find(({ id }) => id === call.memberId);
  if (!member) throw new ApiError("not_found");
  call.party.chats.free([member], "revoked_token");
  return NO_CONTENT;
}

function endChat(call: Call, { chat }: Member): Reply {
  call.party.chats.end(chat);
  return NO_CONTENT;
}

function showHelp(call: Call): Reply {
  return plainText(assets.help.replaceAll("{base}", () => baseUrl(call, false)));
}

/** For Prometheus, in its text format (version 0.0.4): sums alone, never an id or a name. */
function showMetrics({ party }: Call): Reply {
  const { chats, refused, loopDelay } = party;
  const memory = process.memoryUsage();
  const quantiles = [0.5, 0.9, 0.99].map(
    (part) => [`{quantile="${part}"}`, loopDelaySeconds(loopDelay, part)] as const,
  );
  // Each scrape tells of the time since the last.
  loopDelay.reset();
  return plainText(
    [
      metric("watch_party_chats", "gauge", [["", chats.size]]),
      metric("watch_party_members", "gauge", [["", chats.members]]),
      metric("watch_party_held_polls", "gauge", [["", chats.waiting]]),
      metric("watch_party_messages_total", "counter", [["", chats.posted]]),
      metric(
        "watch_party_refused_total",
        "counter",
        [...refused].map(([code, count]) => [`{error="${code}"}`, count]),
      ),
      metric("watch_party_event_loop_delay_seconds", "gauge", quantiles),
      metric("process_resident_memory_bytes", "gauge", [["", memory.rss]]),
      metric("nodejs_heap_size_used_bytes", "gauge", [["", memory.heapUsed]]),
    ].join(""),
    "; version=0.0.4",
  );
}

/* What handlers share: reading the parts of a call, each once, and shaping answers. */

/** The member whose live session token a call bears; anything else is thrown, in the contract's order. */
function authoriseMember(call: Call, caller: "member" | "creator"): Member {
  const token = bearerToken(call.headers.authorization);
  const chat = call.party.chats.get(call.chatId);
  // A seat remembers the token signed for it: comparing costs a tenth of signing anew. The first four characters
  // are the member's number, no secret: whose token it claims to be.
  const claimed = chat?.members.find((each) => token.startsWith(each.token.slice(0, 4)));
  const member = claimed && call.now < claimed.expiresAt && sameBytes(token, claimed.token) ? claimed : undefined;
  if (!chat || !member) {
    // Not somebody who sits here, so why is asked of the token itself. The hash is paid for here alone.
    readTokenHere(token, "session", call);
    throw new ApiError(chat ? "revoked_token" : "chat_not_found");
  }
  if (caller === "creator" && chat.creator !== member) throw new ApiError("not_creator");
  return member;
}

/** The chat that an invite token opens and until when (milliseconds since 1970). */
function authoriseInvite(token: string, call: Call): { chat: Chat; expiresAt: number } {
  const { counter, expiresAt } = readTokenHere(token, "invite", call);
  const chat = call.party.chats.get(call.chatId);
  if (!chat) throw new ApiError("chat_not_found");
  if (counter !== chat.inviteGeneration) throw new ApiError("revoked_token");
  return { chat, expiresAt };
}

/** A good token for the chat in the path, whether there still is such a chat or not. */
function readTokenHere(token: string, kind: TokenPayload["kind"], call: Call): TokenPayload {
  const { options, chats } = call.party;
  const payload = readToken(token, kind, options.secret, call.now);
  if (call.chatId !== chats.prefix + payload.chatId) throw new ApiError("wrong_chat");
  return payload;
}

/** The body of a join, and the chat that the invitation in it, or else in the header, opens. */
function readJoin(call: Call): { chat: Chat; body: Record<string, unknown> } {
  const { authorization } = call.headers;
  let body: Record<string, unknown>;
  try {
    body = readObject(call);
  } catch (error) {
    // A token in the header is looked at before the body, also where the body's would have counted.
    if (authorization !== undefined) authoriseInvite(bearerToken(authorization), call);
    throw error;
  }
  const inBody = body["invite_token"] === "" ? null : body["invite_token"];
  const token = inBody ?? bearerToken(authorization);
  if (typeof token !== "string") throw new ApiError("invalid_token");
  return { chat: authoriseInvite(token, call).chat, body };
}

/** A clean name, or undefined where none is given; `null` is what many a language writes for that. */
function readUsername({ username }: Record<string, unknown>): string | undefined {
  return username === undefined || username === null ? undefined : cleanUsername(username);
}

/** The token of an Authorization header: behind `Bearer` in any case, or bare (RFC 6750, section 2.1). */
function bearerToken(header: string | undefined): string {
  const token = (header ?? "").replace(/^bearer(?: +|$)/i, "");
  if (token === "") throw new ApiError("missing_token");
  return token;
}

/** The Idempotency-Key, if there is one: `shortest` to 64 printable ASCII characters. */
function readKey(call: Call, shortest: number): string | undefined {
  const key = call.headers["idempotency-key"]?.toString();
  if (key !== undefined && (key.length < shortest || !/^[ -~]{1,64}$/.test(key))) throw new ApiError("invalid_key");
  return key;
}

/** What the seat that a create or a join takes is found by, if it has a key: the key within "create" or the chat. */
function readSeatKey(call: Call, scope: string): string | undefined {
  const key = readKey(call, 22);
  return key && digest(`${scope} ${key}`);
}

/** What a reader asks for. `wait`: seconds. */
function readPoll(call: Call, cursor: number): Pick<Waiter, "since" | "wait" | "isStream" | "browser" | "visible"> {
  const query = new URLSearchParams(call.query);
  const isLatest = query.get("since") === "latest";
  const since = isLatest ? cursor : readNumber(query, "since", cursor, "invalid_cursor");
  const isStream = /application\/x-ndjson/i.test(call.headers.accept ?? "");
  if (isStream) return { since, wait: LIMITS.streamSeconds, isStream, browser: "", visible: false };
  const wait = readNumber(query, "wait", LIMITS.waitSeconds, "invalid_wait");
  const browser = /^[A-Za-z0-9_-]{1,64}$/.exec(query.get("browser") ?? "")?.[0] ?? "";
  return { since, wait, isStream, browser, visible: query.get("visible") === "1" };
}

/** One metric with its samples, each the labels and the value. */
function metric(
  name: string,
  type: "gauge" | "counter",
  samples: (readonly [labels: string, value: number])[],
): string {
  return `# TYPE ${name} ${type}\n${samples.map(([labels, value]) => `${name}${labels} ${value}\n`).join("")}`;
}

/** How late the event loop ran: Node measures the whole interval between two ticks of its timer. */
function loopDelaySeconds(loopDelay: LoopDelay, part: number): number {
  return Math.max(0, loopDelay.percentile(part * 100) / 1e9 - LOOP_TICK_MS / SECOND);
}

const LOOP_TICK_MS = 10;

/** A query parameter of plain decimal digits up to `largest`; 0 where it is not given. */
function readNumber(query: URLSearchParams, name: string, largest: number, code: ErrorCode): number {
  const digits = query.get(name);
  if (digits === null) return 0;
  if (!/^[0-9]+$/.test(digits) || Number(digits) > largest) throw new ApiError(code);
  return Number(digits);
}

function readBodyText({ body }: Call): string {
  if (!body) throw new ApiError("too_large");
  if (!isUtf8(body)) throw new ApiError("invalid_json");
  // Some editors and shells put a byte order mark before UTF-8.
  return body.toString().replace(/^\ufeff/, "");
}

/** The body as a JSON object, whatever the Content-Type says; no body is an empty one. */
function readObject(call: Call): Record<string, unknown> {
  const object = call.body?.length === 0 ? {} : parseObject(readBodyText(call));
  if (!object) throw new ApiError("invalid_json");
  return object;
}

/** A message's text as it was sent: the body itself where it is plain text, else the field `text`. */
function readText(call: Call): unknown {
  if (!/^text\/plain *(?:;|$)/i.test(call.headers["content-type"] ?? "")) return readObject(call)["text"];
  const text = readBodyText(call);
  // fetch() labels every string text/plain, JSON too, when nobody says otherwise.
  const inside = /^\s*\{/.test(text) ? parseObject(text)?.["text"] : undefined;
  return typeof inside === "string" ? inside : text;
}

/** The JSON object that a text is, or undefined. */
function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/**
 * A time (milliseconds since 1970) as ISO 8601 in UTC. The text of a second is made once: a Date costs more than
 * the rest of many an answer.
 */
function iso(time: number): string {
  const second = Math.floor(time / SECOND);
  if (second !== latest.second) latest = { second, text: new Date(second * SECOND).toISOString().slice(0, 20) };
  return `${latest.text}${String(time - second * SECOND).padStart(3, "0")}Z`;
}

let latest = { second: NaN, text: "" };

function sessionReply(status: 200 | 201, member: Member, call: Call): Reply {
  const { chat } = member;
  const session: Session = {
    chat_id: chat.id,
    session_token: member.token,
    member_id: member.id,
    username: member.username,
    expires_at: iso(member.expiresAt),
    url: `${baseUrl(call, true)}/${chat.id}`,
  };
  return json(status, session, { Location: `/${chat.id}` });
}

/**
 * A PollReply as one reader gets it. Messages are kept as JSON, so that one message to five readers is
 * serialised once, and 30 messages read again are not serialised at all.
 */
function pollReply(member: Member, since: number, now: number, isRetry: boolean): Reply {
  const { chat } = member;
  const missed = chat.lastDropped > since;
  const retry = isRetry ? `,"retry_in":${LIMITS.retrySeconds}` : "";
  const rest = `"members":${viewMembers(member, now)},"expires_at":${member.expiry}${retry}`;
  return json(
    200,
    `{"messages":[${messagesSince(chat, since).join()}],"cursor":${chat.cursor},"missed":${missed},${rest}}`,
  );
}

/**
 * The next lines of a stream that has come to `since`; `isFirst` begins with the members. Who goes on from the
 * `cursor` of a line, or from a message's id, has everything that was written before it and misses nothing.
 */
function streamLines(member: Member, since: number, now: number, isFirst: boolean): string {
  const { chat } = member;
  const messages = messagesSince(chat, since);
  // Not beyond what is still to be written, nor beyond what is to be told as missed.
  const cursor = messages.length > 0 ? since : chat.cursor;
  const hasMoved = isFirst || since < chat.membersChanged;
  return [
    ...(hasMoved ? [`{"members":${viewMembers(member, now)},"cursor":${cursor}}`] : []),
    ...(chat.lastDropped > since ? ['{"missed":true}'] : []),
    ...messages,
  ].join("\n");
}

function messagesSince(chat: Chat, since: number): string[] {
  return chat.messages.slice(chat.messageIds.findLastIndex((id) => id <= since) + 1);
}

/** The members as one of them sees them: a MemberView[] in JSON. */
function viewMembers(reader: Member, now: number): string {
  const views = reader.chat.members.map((each) => {
    const online = each.polls > 0 || now - each.lastSeen < LIMITS.onlineMs;
    return `{${each.view},"online":${online},"you":${each === reader}}`;
  });
  return `[${views.join()}]`;
}

/**
 * Where links lead: `--url`; else the address the call came to. With `forOthers`, an address that means
 * this machine alone becomes the one it has on the local network, so that a link opens on a phone.
 */
function baseUrl(call: Call, forOthers: boolean): string {
  const { options } = call.party;
  if (options.url !== undefined) return options.url;
  const own = options.tls ? "https" : "http";
  const scheme = /^https?$/.exec(forwarded(call, "proto").toLowerCase())?.[0] ?? own;
  const host = [forwarded(call, "host"), call.host ?? ""].find(isHost);
  const { localAddress = "localhost", localPort = 0 } = call.socket;
  const { host: bound = "::" } = options;
  const isReachable = EVERYWHERE.test(bound) || !isThisMachine(bound);
  const isHere = isThisMachine(host ?? plainAddress(localAddress));
  const lan = forOthers && isHere && isReachable ? options.lanAddress?.() : undefined;
  if (lan !== undefined) return addressUrl(own, lan, localPort);
  return host === undefined ? addressUrl(scheme, plainAddress(localAddress), localPort) : `${scheme}://${host}`;
}

/** The last element of an X-Forwarded header, the one the nearest proxy wrote; "" where it is not to be trusted. */
function forwarded(call: Call, name: "for" | "proto" | "host"): string {
  const value = call.party.options.trustProxy ? String(call.headers[`x-forwarded-${name}`] ?? "") : "";
  return value.slice(value.lastIndexOf(",") + 1).trim();
}

/** A well-formed host, with or without a port: what may be shown again in a link or in the help. */
function isHost(host: string): boolean {
  return /^[a-z0-9._:[\]-]{1,255}$/i.test(host) && URL.canParse(`http://${host}`);
}

/** An address as people write it: without the IPv6 form of an IPv4 one, and without an interface's name. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=[0-9]+\.)/i, "").replace(/%.*$/, "");
}

function isThisMachine(host: string): boolean {
  return /^(?:localhost\.?|127(?:\.[0-9]+){3}|0\.0\.0\.0|\[?::1?\]?)(?::[0-9]+)?$/i.test(host);
}

/** What --host may say to listen on all addresses, as it does without. */
const EVERYWHERE = /^(?:::|0\.0\.0\.0)$/;

/** A URL's scheme, host and port, the port left out where it is the scheme's own. */
function addressUrl(scheme: string, address: string, port: number): string {
  return new URL(`${scheme}://${isIPv6(address) ? `[${address}]` : address}:${port}`).origin;
}

/* ------------------------------------------------------------------------------------------------
 * Chats. The store: seats, the last 30 messages, cursors, waiting readers, expiry. It knows nothing of
 * HTTP and has no timer: `expire` and `sweep` do what is due by the clock they were given.
 * --------------------------------------------------------------------------------------------- */

/** Why a wait is over: an answer is due (news, or the time is up), the place is given up, or the chat or seat is gone. */
type WaitEnd = "answer" | "retry" | ErrorCode;

/** A seat in a chat, for as long as it is held. */
interface Member {
  readonly chat: Chat;
  /** The member's number in the chat; the creator's is 1. */
  readonly id: string;
  /** 1 to 6, the lowest that was free. */
  readonly seat: number;
  readonly username: string;
  readonly expiresAt: number;
  readonly token: string;
  /** In JSON what stays the same of its MemberView, without the braces, and its `expires_at`. */
  readonly view: string;
  readonly expiry: string;
  /** What this seat is found by when the request that took it is repeated: see `readSeatKey`. */
  readonly key: string | undefined;
  lastSeen: number;
  /** How many polls it holds, streams among them. */
  polls: number;
  /** Its posts by their Idempotency-Key. The repeat brings the text again, so a digest of it will do. */
  keys: Map<string, { id: number; sentAt: number; digest: string }> | undefined;
}

class Chat {
  readonly id: string;
  /** In the order of joining. */
  readonly members: Member[] = [];
  /** The last 30 in JSON (a MessageView), made once, and their ids beside them. */
  readonly messages: string[] = [];
  readonly messageIds: number[] = [];
  readonly waiters = new Set<Waiter>();
  /** The bucket of each seat's messages, by its number. It outlives the member: rejoining does not fill it. */
  readonly messageBuckets: number[] = [];
  /** The address it was created from. */
  readonly address: string;
  creator: Member | undefined;
  membersEver = 0;
  /** Grows with every change a reader can see; the first is the creator's joining. */
  cursor = 0;
  /** The cursor at which somebody last came or went. */
  membersChanged = 0;
  /** Id of the newest message no longer kept. */
  lastDropped = 0;
  inviteGeneration = 0;

  constructor(id: string, address: string) {
    this.id = id;
    this.address = address;
  }
}

/** One held poll. Whoever holds it sets `onEnd`, which is called once; a stream is held again after each of its ends. */
interface Waiter {
  readonly member: Member;
  since: number;
  heldAt: number;
  readonly wait: number;
  readonly isStream: boolean;
  /** "" where it is none of a browser's. */
  readonly browser: string;
  readonly visible: boolean;
  onEnd?: (end: WaitEnd) => void;
}

export class Chats {
  /** What every chat's id begins with: the node's name and a dash, or nothing. */
  readonly prefix: string;
  /** Messages, ever. */
  posted = 0;
  readonly #options: Options;
  readonly #chats = new Map<string, Chat>();
  /**
   * All seats. They last equally long, so the order of joining is the order of expiry: the first is due first.
   * Only behind a clock that was set back a seat may be kept for that much longer; its token ends in time.
   */
  readonly #seats = new Set<Member>();
  readonly #seatByKey = new Map<string, Member>();
  readonly #held = new Set<Waiter>();
  readonly #browsers = new Map<string, Set<Waiter>>();
  /** How many chats each address has. */
  readonly #chatsByAddress = new Map<string, number>();

  constructor(options: Options) {
    this.#options = options;
    this.prefix = options.node === undefined ? "" : `${options.node}-`;
  }

  get size(): number {
    return this.#chats.size;
  }

  /** How many seats are taken. */
  get members(): number {
    return this.#seats.size;
  }

  /** How many polls are held, streams among them. */
  get waiting(): number {
    return this.#held.size;
  }

  get(id: string): Chat | undefined {
    return this.#chats.get(id);
  }

  /** Whether a seat is still held. */
  holds(member: Member): boolean {
    return this.#seats.has(member);
  }

  /**
   * Makes sure that an address may create one more chat. A full server ends the chat that has been idle longest.
   * @throws ApiError rate_limited, server_full
   */
  makeRoom(address = ""): void {
    const most = this.#options.maxChats ?? LIMITS.chats;
    const share = Math.max(LIMITS.chatsPerAddress, Math.floor(most / LIMITS.addressShare));
    const isOverShare = (this.#chatsByAddress.get(address) ?? 0) >= share;
    if (isOverShare && this.#options.rateLimit !== false) throw new ApiError("rate_limited", { "Retry-After": 60 });
    if (this.#chats.size < most) return;
    const idleSince = this.#options.now() - LIMITS.idleMs;
    const idle = [...this.#seats].filter(({ chat, lastSeen }) => {
      return chat.members.length === 1 && chat.waiters.size === 0 && lastSeen <= idleSince;
    });
    const [longest] = idle.toSorted((a, b) => a.lastSeen - b.lastSeen);
    if (!longest) throw new ApiError("server_full", { "Retry-After": 60 });
    this.end(longest.chat);
  }

  /** A new chat (96 random bits of id) for an address; returns its creator's seat. */
  create(username: string | undefined, key: string | undefined, address = ""): Member {
    const chat = new Chat(this.prefix + randomBytes(12).toString("base64url"), address);
    this.#chats.set(chat.id, chat);
    this.#countChat(address, 1);
    chat.creator = this.join(chat, username, key);
    return chat.creator;
  }

  #countChat(address: string, change: 1 | -1): void {
    const count = (this.#chatsByAddress.get(address) ?? 0) + change;
    if (count > 0) this.#chatsByAddress.set(address, count);
    else this.#chatsByAddress.delete(address);
  }

  /** Takes the lowest free seat; the caller has seen that there is one. @throws ApiError username_taken */
  join(chat: Chat, username: string | undefined, key: string | undefined): Member {
    if (username !== undefined && isTaken(chat, username)) throw new ApiError("username_taken");
    let seat = 1;
    while (chat.members.some((member) => member.seat === seat)) seat += 1;
    chat.membersEver += 1;
    const now = this.#options.now();
    const expiresAt = now + LIMITS.sessionMs;
    const payload = { kind: "session", chatId: chat.id.slice(-16), counter: chat.membersEver, expiresAt } as const;
    const id = String(chat.membersEver);
    const name = username ?? guestName(chat, seat);
    const view = { id, username: name, creator: chat.membersEver === 1 } satisfies Partial<MemberView>;
    const member: Member = {
      chat,
      id,
      seat,
      username: name,
      expiresAt,
      token: signToken(payload, this.#options.secret),
      view: toJson(view).slice(1, -1),
      expiry: JSON.stringify(iso(expiresAt)),
      key,
      lastSeen: now,
      polls: 0,
      keys: undefined,
    };
    chat.members.push(member);
    this.#seats.add(member);
    if (key !== undefined) this.#seatByKey.set(key, member);
    chat.cursor += 1;
    chat.membersChanged = chat.cursor;
    this.#wake(chat);
    return member;
  }

  /** The seat taken with this key in the last ten minutes, while it is held. */
  findSeat(key: string | undefined): Member | undefined {
    const member = this.#seatByKey.get(key ?? "");
    return member && this.#isFresh(member.expiresAt - LIMITS.sessionMs) ? member : undefined;
  }

  #isFresh(time: number): boolean {
    return this.#options.now() - time < LIMITS.keyMs;
  }

  /** Adds a message (clean text, and as it was sent) and wakes its readers. Returns its JSON, a MessageView. */
  post(member: Member, text: string, key: string | undefined, raw = text): string {
    const { chat } = member;
    const now = this.#options.now();
    const id = chat.cursor + 1;
    const posted = toJson(viewMessage(member, id, text, now));
    chat.messages.push(posted);
    chat.messageIds.push(id);
    if (chat.messages.length > LIMITS.keptMessages) {
      chat.messages.shift();
      chat.lastDropped = chat.messageIds.shift() ?? 0;
    }
    if (key !== undefined) {
      member.keys ??= new Map();
      setNewest(member.keys, key, { id, sentAt: now, digest: digest(raw) }, LIMITS.keysPerSeat);
    }
    member.lastSeen = now;
    chat.cursor = id;
    this.posted += 1;
    this.#wake(chat);
    return posted;
  }

  /** What this member posted with this key, if it is remembered. @throws ApiError invalid_key for another text */
  findPosted(member: Member, key: string | undefined, raw: unknown): MessageView | undefined {
    const posted = member.keys?.get(key ?? "");
    if (!posted || !this.#isFresh(posted.sentAt)) return undefined;
    // The digest is that of the text as it was sent, so that only a text examined before is examined again.
    if (typeof raw !== "string" || posted.digest !== digest(raw)) throw new ApiError("invalid_key");
    return viewMessage(member, posted.id, cleanText(raw), posted.sentAt);
  }

  /**
   * Gives seats up, and a chat with its last one; `why` is what their own held polls are told. All go before
   * the others are told: who is due together with somebody must not be shown as a member once more.
   */
  free(members: Member[], why: "revoked_token" | "expired_token"): void {
    for (const member of members) {
      const { chat } = member;
      this.#forget(member);
      chat.members.splice(chat.members.indexOf(member), 1);
      if (chat.creator === member) chat.creator = undefined;
      chat.cursor += 1;
      chat.membersChanged = chat.cursor;
      for (const waiter of chat.waiters) if (waiter.member === member) this.#finish(waiter, why);
    }
    for (const { chat } of members) {
      if (chat.members.length === 0) this.end(chat);
      else this.#wake(chat);
    }
  }

  /** Ends a chat for everybody in it. */
  end(chat: Chat): void {
    if (this.#chats.delete(chat.id)) this.#countChat(chat.address, -1);
    for (const member of chat.members) this.#forget(member);
    for (const waiter of chat.waiters) this.#finish(waiter, "chat_not_found");
  }

  #forget(member: Member): void {
    this.#seats.delete(member);
    const { key = "" } = member;
    if (this.#seatByKey.get(key) === member) this.#seatByKey.delete(key);
  }

  /** Answers who waits for something to change. Of a copy: streams are held again while this goes on. */
  #wake(chat: Chat): void {
    const waiters = [...chat.waiters];
    for (const waiter of waiters) this.#finish(waiter, "answer");
  }

  /**
   * Holds a poll if its seat and its browser have room for one more; else the result is false. Of a browser's polls a
   * visible tab's takes the place of the oldest hidden one.
   */
  hold(waiter: Waiter): boolean {
    const { member, browser, visible } = waiter;
    if (member.polls >= LIMITS.pollsPerSeat) return false;
    if (browser !== "") {
      const held = this.#browsers.get(browser) ?? new Set();
      if (held.size >= LIMITS.pollsPerBrowser) {
        const hidden = visible ? [...held].find((each) => !each.visible) : undefined;
        if (!hidden) return false;
        this.#finish(hidden, "retry");
      }
      this.#browsers.set(browser, held.add(waiter));
    }
    this.#held.add(waiter);
    member.chat.waiters.add(waiter);
    member.polls += 1;
    return true;
  }

  /** Forgets a held poll whose reader has gone, or is being answered. */
  release(waiter: Waiter): void {
    const { member, browser } = waiter;
    if (!this.#held.delete(waiter)) return;
    member.chat.waiters.delete(waiter);
    member.polls -= 1;
    member.lastSeen = this.#options.now();
    const held = this.#browsers.get(browser);
    held?.delete(waiter);
    if (held?.size === 0) this.#browsers.delete(browser);
  }

  #finish(waiter: Waiter, end: WaitEnd): void {
    this.release(waiter);
    waiter.onEnd?.(end);
  }

  /** Frees the seats whose session is over. Called before every request, so it must cost nothing where none is. */
  expire(now: number): void {
    const due: Member[] = [];
    for (const member of this.#seats) {
      if (now < member.expiresAt) break;
      due.push(member);
    }
    if (due.length > 0) this.free(due, "expired_token");
  }

  /** Ends what is due: sessions, and the polls whose time is up. Looking at 60,000 polls takes a millisecond. */
  sweep(now: number): void {
    this.expire(now);
    for (const waiter of this.#held) {
      // The distance, not the order: a clock set back an hour must not hold a poll for an hour.
      if (Math.abs(now - waiter.heldAt) >= waiter.wait * SECOND) this.#finish(waiter, "answer");
    }
  }

  /** Ends every held poll. */
  releaseAll(why: ErrorCode): void {
    for (const waiter of this.#held) this.#finish(waiter, why);
  }
}

function viewMessage(member: Member, id: number, text: string, sentAt: number): MessageView {
  return { id, member_id: member.id, username: member.username, text, sent_at: iso(sentAt) };
}

function isTaken(chat: Chat, username: string): boolean {
  const folded = foldUsername(username);
  return chat.members.some((member) => foldUsername(member.username) === folded);
}

/** `Guest n`, `n` being the seat's number or the next whose name is free. */
function guestName(chat: Chat, n: number): string {
  return isTaken(chat, `Guest ${n}`) ? guestName(chat, n + 1) : `Guest ${n}`;
}

/** Sets a Map's newest entry; the oldest goes where there would be more than `most`. A Map keeps the order of insertion. */
function setNewest<Value>(map: Map<string, Value>, key: string, value: Value, most: number): void {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > most && oldest !== undefined) map.delete(oldest);
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("base64");
}

/* ------------------------------------------------------------------------------------------------
 * Tokens. Pure functions of payload, secret and time. A token is `<payload>.<signature>`, both base64url.
 * The payload is binary, as it goes into a QR code: 22 bytes against some 90 of JSON.
 *
 *   bytes  0 to 2   the member's number, or the invite's generation (big-endian, as all)
 *          3        the kind: 1 session, 2 invite
 *          4 to 15  the chat's 96 random bits
 *         16 to 21  the expiry, milliseconds since 1970
 *
 * For example the first member's session: AAABAQ… (0, 0, 1, then 1). A chat would need 16 million joins
 * for a number to come again; the token would differ even then, by its expiry.
 * --------------------------------------------------------------------------------------------- */

const KINDS = ["session", "invite"] as const;
const PAYLOAD_BYTES = 22;
const COUNTERS = 2 ** 24;

/** `chatId`: the chat's 16 random characters. `counter`: see above, below 2^24. `expiresAt`: milliseconds since 1970. */
export interface TokenPayload {
  readonly kind: (typeof KINDS)[number];
  readonly chatId: string;
  readonly counter: number;
  readonly expiresAt: number;
}

/** Signs by HMAC-SHA256 (RFC 2104); the result is 74 characters. */
export function signToken(payload: TokenPayload, secret: Buffer): string {
  const bytes = Buffer.alloc(PAYLOAD_BYTES);
  bytes.writeUIntBE(payload.counter % COUNTERS, 0, 3);
  bytes.writeUInt8(KINDS.indexOf(payload.kind) + 1, 3);
  bytes.write(payload.chatId, 4, 12, "base64url");
  bytes.writeUIntBE(payload.expiresAt, 16, 6);
  const encoded = bytes.toString("base64url");
  return `${encoded}.${createHmac("sha256", secret).update(encoded).digest("base64url")}`;
}

/** What a token of this kind, signed with this secret, says at `now` (ms). @throws ApiError invalid_token, expired_token */
export function readToken(token: string, kind: TokenPayload["kind"], secret: Buffer, now: number): TokenPayload {
  const bytes = Buffer.from(token.split(".", 1)[0] ?? "", "base64url");
  const claimed = bytes.length === PAYLOAD_BYTES ? KINDS[bytes.readUInt8(3) - 1] : undefined;
  if (claimed !== kind) throw new ApiError("invalid_token");
  const payload = {
    kind,
    chatId: bytes.toString("base64url", 4, 16),
    counter: bytes.readUIntBE(0, 3),
    expiresAt: bytes.readUIntBE(16, 6),
  };
  // Decoding takes many spellings of the same bytes; signing what was read gives the only one that counts.
  if (!sameBytes(token, signToken(payload, secret))) throw new ApiError("invalid_token");
  if (now >= payload.expiresAt) throw new ApiError("expired_token");
  return payload;
}

/** Compares in a time that tells nothing of where two strings differ. */
function sameBytes(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}

/* ------------------------------------------------------------------------------------------------
 * Text. What a name and a message may be, after Unicode's own properties: no list of our own.
 * --------------------------------------------------------------------------------------------- */

const segmenter = new Intl.Segmenter();

/**
 * A message as it will be shown: well-formed, NFC, newlines as \n, no other control characters but tab,
 * trimmed. 1 to 2,000 graphemes (UAX #29) and at most 8,192 bytes. @throws ApiError invalid_text
 */
export function cleanText(raw: unknown): string {
  if (typeof raw !== "string") throw new ApiError("invalid_text");
  const cleaned = withoutControls(raw);
  const text = (HEAPED.test(cleaned) ? cleaned : cleaned.normalize("NFC")).replace(OUTER_SPACE, "");
  if (!fits(text, LIMITS.messageGraphemes, LIMITS.messageBytes)) throw new ApiError("invalid_text");
  return text;
}

/**
 * More marks in a row than any text has: 30, the limit of the Stream-Safe Text Format (UAX #15, section 13). Sorting
 * them takes the square of their number, a second for 32 KiB, so a text with more stays as it came.
 */
const HEAPED = /\p{M}{31}/u;

/**
 * A name as it will be shown: as a message, but in one line, without bidi controls and stray joiners.
 * 1 to 24 graphemes and at most 96 bytes, among them something visible that marks can stand on. @throws ApiError invalid_username
 */
export function cleanUsername(raw: unknown): string {
  if (typeof raw !== "string") throw new ApiError("invalid_username");
  const spaced = withoutControls(raw).replace(/[\p{Bidi_Control}\u2028\u2029\ufeff\u00ad]/gu, "");
  // Joiners beside white space go with it; the spaces put around the name make its edges such a place.
  const joined = ` ${spaced} `.replace(/[\u200c\u200d\p{White_Space}]+/gu, (run) =>
    /\p{White_Space}/u.test(run) ? " " : run,
  );
  // Before normalising, which takes the square of the number of marks in a row.
  if (STACKED.test(joined)) throw new ApiError("invalid_username");
  const name = joined.trim().normalize("NFC");
  const visible = /[^\p{M}\p{White_Space}\p{Default_Ignorable_Code_Point}\p{Cf}\u2800]/u.test(name);
  const isFine = visible && fits(name, LIMITS.usernameGraphemes, LIMITS.usernameBytes);
  if (!isFine || STACKED.test(name.normalize("NFD"))) throw new ApiError("invalid_username");
  return name;
}

/** More combining marks on one base than any script has. */
const STACKED = new RegExp(`(?:\\p{M}[\\u200c\\u200d]*){${LIMITS.combiningMarks + 1}}`, "u");

/**
 * What two names have in common that are the same to the eye: Unicode's toNFKC_Casefold (The Unicode
 * Standard, section 3.13), so compatibility forms, case and invisible characters make no difference.
 */
export function foldUsername(name: string): string {
  const compatible = name.normalize("NFKC").replace(/\p{Default_Ignorable_Code_Point}/gu, "");
  // Down, up and down again is full case folding (ß and ẞ to ss) for all but the dotless ı, which folds to itself.
  const folded = compatible.split("ı").map((part) => part.toLowerCase().toUpperCase().toLowerCase());
  return folded.join("ı").normalize("NFKC");
}

function withoutControls(raw: string): string {
  const lines = raw.toWellFormed().replace(/\r\n?/g, "\n");
  return lines.replace(/[^\P{Cc}\n\t]/gu, "");
}

/** Outer white space. The lookbehind keeps it linear: else every space of an inner run would be tried as a start. */
const OUTER_SPACE = /^\p{White_Space}+|(?<!\p{White_Space})\p{White_Space}+$/gu;

/** A text has no more graphemes than code units, so only a long one needs to be counted. */
function fits(text: string, graphemes: number, bytes: number): boolean {
  if (text === "" || Buffer.byteLength(text) > bytes) return false;
  return text.length <= graphemes || [...segmenter.segment(text)].length <= graphemes;
}

/* ------------------------------------------------------------------------------------------------
 * Limits. Token buckets, each kept as one number: the time at which it will be full again (the generic
 * cell rate algorithm, ITU-T I.371). For example 20 at once and 5 a second: each take moves that time by
 * 200 ms, and it may lie at most 20 × 200 ms = 4 s ahead.
 * --------------------------------------------------------------------------------------------- */

/** Takes one from a bucket full again at `full` (ms); returns when it will be now. @throws ApiError rate_limited */
function take(what: keyof typeof RATES, full: number, now: number): number {
  const { burst, perSecond } = RATES[what];
  const each = SECOND / perSecond;
  const whole = burst * each;
  // A clock that was set back would leave the time far ahead: never more than an empty bucket.
  const next = Math.min(Math.max(full, now), now + whole) + each;
  if (next <= now + whole) return next;
  throw new ApiError("rate_limited", { "Retry-After": Math.ceil((next - whole - now) / SECOND) });
}

/** @throws ApiError rate_limited */
function countCall(what: "create" | "join" | "refused", call: Call): void {
  const { options, buckets } = call.party;
  if (options.rateLimit === false) return;
  const bucket = `${what} ${countedAddress(call)}`;
  const full = take("address", buckets.get(bucket) ?? 0, call.now);
  setNewest(buckets, bucket, full, LIMITS.countedAddresses);
}

/** Whom to count: the address, of IPv6 the /64 that one household or machine has to itself. */
function countedAddress(call: Call): string {
  const claimed = plainAddress(forwarded(call, "for"));
  const address = isIP(claimed) ? claimed : plainAddress(call.socket.remoteAddress ?? "");
  if (!isIPv6(address)) return address;
  // "2001:db8::1" has four parts, one of them the gap: 9 - 4 zeros stand for it.
  const whole = address.replace("::", `${":0".repeat(9 - address.split(":").length)}:`);
  const groups = whole.split(":", 4).map((group) => parseInt(group || "0", 16));
  return groups.join(":");
}

/* ------------------------------------------------------------------------------------------------
 * Errors. One catalogue, one class, and one place (`errorReply`) where any thrown thing becomes a reply.
 * --------------------------------------------------------------------------------------------- */

const ERRORS = {
  bad_request: [400, "This is no HTTP/1.1 request that can be read."],
  timeout: [408, "The request did not arrive in time; send it again."],
  headers_too_large: [431, "The headers are over 16 KiB; send fewer or shorter ones."],
  invalid_json: [400, 'The body must be UTF-8, and a JSON object such as {"text": "Hello"}.'],
  invalid_cursor: [400, "`since` must be a cursor that this chat has given, or `latest`."],
  invalid_wait: [400, `\`wait\` must be a whole number of seconds from 0 to ${LIMITS.waitSeconds}.`],
  missing_token: [
    401,
    'Send "Authorization: Bearer <token>"; to join, with what stands behind "#invite=" in the link.',
  ],
  invalid_token: [401, "This token is not one of this server's; it may have been cut, or the server restarted."],
  expired_token: [401, "This token has expired; ask for a new invitation."],
  revoked_token: [401, "This token was ended before its time: the seat was given up or the invitation revoked."],
  wrong_chat: [403, "This token is for another chat."],
  not_creator: [403, "Only the creator of the chat may do this."],
  not_found: [404, "There is no such address, or nobody of that id in the chat; GET / tells what there is."],
  chat_not_found: [404, "This chat has ended."],
  method_not_allowed: [405, "This address does not take this method; see the Allow header."],
  chat_full: [409, "All six seats are taken; somebody has to leave first."],
  username_taken: [409, "Somebody in this chat has that name; choose another."],
  too_large: [413, `The body is over ${LIMITS.bodyBytes} bytes.`],
  invalid_username: [422, "A name has 1 to 24 characters, at most 96 bytes, and something to see."],
  invalid_text: [422, "`text` must be a string of 1 to 2,000 characters and at most 8,192 bytes."],
  invalid_key: [422, "An Idempotency-Key is 1 (to create or join 22) to 64 ASCII characters, and for one text."],
  rate_limited: [429, "Too many at once; wait as Retry-After says."],
  internal: [500, "Something went wrong in the server; its operator finds it in the log."],
  server_full: [503, "This server has no room for another chat now; try again in a minute."],
  stopping: [503, "The server is shutting down."],
} as const satisfies Record<string, readonly [status: number, sentence: string]>;

export type ErrorCode = keyof typeof ERRORS;

/** Anything that is refused, and what is answered then. */
export class ApiError extends Error {
  readonly code: ErrorCode;
  readonly reply: Reply;

  constructor(code: ErrorCode, headers: Headers = {}) {
    const [status, message] = ERRORS[code];
    super(message);
    this.code = code;
    const challenge = status === 401 ? { "WWW-Authenticate": "Bearer" } : {};
    this.reply = json(status, { error: code, message } satisfies ErrorReply, { ...challenge, ...headers });
  }
}

/** The reply to whatever was thrown. Everything refused passes here, so that the metrics count it. */
function errorReply(thrown: unknown, { options, refused }: Party): Reply {
  const error = thrown instanceof ApiError ? thrown : new ApiError("internal");
  if (error !== thrown) (options.logError ?? console.error)(thrown);
  refused.set(error.code, (refused.get(error.code) ?? 0) + 1);
  return error.reply;
}

/** Counts an address's bad tokens; past the limit the error becomes `rate_limited`. */
function countBadToken(thrown: unknown, call: Call): unknown {
  if (!(thrown instanceof ApiError) || thrown.code !== "invalid_token") return thrown;
  try {
    countCall("refused", call);
    return thrown;
  } catch (limited) {
    return limited;
  }
}

/* ------------------------------------------------------------------------------------------------
 * HTTP. The only code that reads `req` and writes `res`.
 * --------------------------------------------------------------------------------------------- */

const API_HEADERS = {
  "Content-Type": "application/json; charset=utf-8",
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
  // Any page may call: there are no cookies, only tokens, which a stranger's page does not have.
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Expose-Headers": "Location, Retry-After",
  // The same address is the page for a browser.
  Vary: "Accept, Authorization",
} as const;

const { "Content-Type": _, ...EMPTY_HEADERS } = API_HEADERS;
const NO_CONTENT: Reply = { status: 204, headers: EMPTY_HEADERS, body: "" };

/** A reply in JSON; a string is JSON already. */
function json(status: number, value: object | string, headers?: Headers): Reply {
  const body = typeof value === "string" ? value : toJson(value);
  return { status, headers: { ...API_HEADERS, "Content-Length": Buffer.byteLength(body), ...headers }, body };
}

/** JSON without raw U+2028 and U+2029, at which Node's readline and Python's iter_lines would split a line. */
function toJson(value: object): string {
  return JSON.stringify(value).replace(/[\u2028\u2029]/g, (separator) => `\\u${separator.charCodeAt(0).toString(16)}`);
}

const OPENAPI = json(200, assets.openapi);

function plainText(body: string, parameters = ""): Reply {
  return json(200, body, { "Content-Type": `text/plain${parameters}; charset=utf-8` });
}

// nginx would keep lines back until it has a buffer full of them.
const STREAM_HEADERS = { ...API_HEADERS, "Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no" };

/** A stream that ends after what there is now. */
function linesReply(member: Member, since: number, now: number): Reply {
  return { status: 200, headers: STREAM_HEADERS, body: `${streamLines(member, since, now, true)}\n` };
}

const NO_BODY = Buffer.alloc(0);

/**
 * A request pipelined behind another waits for its turn, which comes when the answer before it has been taken. Else the
 * answers to somebody who asks and never reads would pile up, and one connection could hold any number of polls.
 */
function queueRequest(req: IncomingMessage, res: ServerResponse, party: Party): void {
  const connection = party.connections.get(req.socket);
  const weight = queueWeight(req);
  if (!connection || connection.queuedBytes + weight > LIMITS.queuedBytes) return void req.socket.destroy();
  connection.queuedBytes += weight;
  res.once("socket", () => {
    connection.queuedBytes -= weight;
    handleRequest(req, res, party);
  });
}

/** About the bytes that a waiting request holds: 1.5 kB with its response, and for each header two strings. */
function queueWeight({ url = "", rawHeaders }: IncomingMessage): number {
  return rawHeaders.reduce((sum, text) => sum + 32 + text.length, 1_536 + url.length);
}

function handleRequest(req: IncomingMessage, res: ServerResponse, party: Party): void {
  const { method = "", url = "", headers, socket } = req;
  // An absolute target (RFC 9112, section 3.2.2) is as good as its path, and its authority stands for Host.
  const [origin = "", authority] = url.startsWith("/") ? [] : (/^https?:\/\/([^/?]*)/i.exec(url) ?? []);
  const [path = "", query = ""] = url.slice(origin.length).split("?", 2);
  const [, chatId = "", , memberId = ""] = path.split("/", 4);
  const [host, body] = [authority ?? headers.host, NO_BODY];
  const call = { party, method, path: path || "/", query, chatId, memberId, headers, host, socket, now: 0, body };
  if (party.options.log) logWhenDone(call, res, party.options.log);
  answer(call, res, () => dispatch(call, res));
}

/** One line a request: time, method, path without its query, status, milliseconds. */
function logWhenDone({ method, path }: Call, res: ServerResponse, log: (line: string) => void): void {
  const start = performance.now();
  res.once("close", () => {
    const status = res.headersSent ? res.statusCode : "gone";
    // Some programs encode the # of a link, and its token arrives in the path.
    // However it is encoded, it is longer than a chat's id.
    const shown = path.replace(/[^/]{34,}/g, "<token>");
    log(`${iso(Date.now())} ${method} ${shown} ${status} ${(performance.now() - start).toFixed(1)} ms`);
  });
}

/** The only way to an answer: what `make` returns is sent or held, what it throws is sent as a refusal. */
function answer(call: Call, res: ServerResponse, make: () => Reply | Waiter | undefined): void {
  let outcome: Reply | Waiter | undefined;
  try {
    outcome = make();
  } catch (error) {
    outcome = errorReply(countBadToken(error, call), call.party);
  }
  if (outcome && "heldAt" in outcome) hold(outcome, call, res);
  else if (outcome) send(outcome, call, res);
}

/** Finds the route and runs it; undefined while the body is still to come. */
function dispatch(call: Call, res: ServerResponse): Reply | Waiter | undefined {
  startClock(call);
  checkHeaders(res.req, call);
  const { options, stopping } = call.party;
  const endpoint = ENDPOINTS.find(({ pattern }) => pattern.test(call.path));
  if (!endpoint && wantsPage(call)) return pageReply(call, 404);
  if (!endpoint || (call.path === METRICS_PATH && !options.metrics)) throw new ApiError("not_found");
  if (call.method === "OPTIONS") return replyToOptions(endpoint.allowed);
  const method = call.method === "HEAD" ? "GET" : call.method;
  const route = endpoint.routes.find((each) => each.method === method);
  if (!route) throw new ApiError("method_not_allowed", { Allow: endpoint.allowed });
  if (stopping && route.handle !== readMessages) throw new ApiError("stopping");
  if (route.page && wantsPage(call)) return pageReply(call, 200);
  if (route.rate) countCall(route.rate, call);
  if (!route.body) return runRoute(route, call);
  const member = route.caller === "anyone" ? undefined : authoriseMember(call, route.caller);
  readBody(call, res, () => runRoute(route, call, member));
  return undefined;
}

/**
 * Refuses a request with too many headers, or a Host that is missing or malformed (RFC 9112, section 3.2).
 * @throws ApiError headers_too_large, bad_request
 */
function checkHeaders({ rawHeaders, httpVersion }: IncomingMessage, { headers, host }: Call): void {
  // Node drops what is above `maxHeadersCount`, which is one more than the limit.
  if (rawHeaders.length > 2 * LIMITS.headers) throw new ApiError("headers_too_large", CLOSE);
  const isMissing = headers.host === undefined && httpVersion === "1.1";
  const isBad = [headers.host, host].some((each) => each !== undefined && !isHost(each));
  if (isMissing || isBad) throw new ApiError("bad_request", CLOSE);
}

/** The time of a call; what is over by then is over before it is looked at. */
function startClock(call: Call): void {
  call.now = call.party.options.now();
  call.party.chats.expire(call.now);
}

/** `known` is the member whose token was looked at before the body came: it need not be compared again, only sit here still. */
function runRoute(route: Route, call: Call, known?: Member): Reply | Waiter {
  if (route.caller === "anyone") return route.handle(call);
  const isHere = known && call.party.chats.holds(known) && call.now < known.expiresAt;
  return route.handle(call, isHere ? known : authoriseMember(call, route.caller));
}

/**
 * Collects the body, then runs the route; at once and without a body where it is too large. Time has passed,
 * so the clock is looked at again. By events: `for await` over a request costs a third of the throughput.
 */
function readBody(call: Call, res: ServerResponse, run: () => Reply | Waiter): void {
  let body: Buffer = NO_BODY;
  let size = 0;
  const { party } = call;
  const finish = (whole: Buffer | undefined): void => {
    call.body = whole;
    answer(call, res, () => {
      if (party.stopping === "now") throw new ApiError("stopping");
      startClock(call);
      return run();
    });
  };
  if (Number(call.headers["content-length"] ?? 0) > LIMITS.bodyBytes) return finish(undefined);
  party.bodies += 1;
  res.req.once("close", () => (party.bodies -= 1));
  res.req.on("data", (chunk: Buffer) => {
    const start = size;
    size += chunk.length;
    if (res.headersSent) return;
    if (size > LIMITS.bodyBytes) return finish(undefined);
    if (start === 0) body = chunk;
    else {
      // From the second piece on they are copied together: kept, a piece of one byte would take some 300.
      if (body.length < LIMITS.bodyBytes) body = Buffer.concat([body], LIMITS.bodyBytes);
      chunk.copy(body, start);
    }
  });
  res.req.on("end", () => {
    if (size <= LIMITS.bodyBytes) finish(body.subarray(0, size));
  });
}

/** Keeps a poll open until its wait ends or its reader has gone. */
function hold(waiter: Waiter, call: Call, res: ServerResponse): void {
  const { options, chats } = call.party;
  waiter.onEnd = (end) => {
    answer(call, res, () => {
      if (end !== "answer" && end !== "retry") throw new ApiError(end);
      return pollReply(waiter.member, waiter.since, options.now(), end === "retry");
    });
  };
  // A body has no meaning here, and left unread each piece of it would stay in memory, 200 bytes for one.
  let discarded = 0;
  res.req.on("data", (chunk: Buffer) => (discarded += chunk.length) > LINGER.bytes && call.socket.destroy());
  if (waiter.isStream) writeStream(waiter, call, res);
  // Held polls are most of what there is in memory: the headers, which only their beginning needed, go. A body that
  // is still to come needs them once more (`send`).
  if (!hasBodyToCome(res.req)) res.req.headers = call.headers = {};
  res.req.rawHeaders = [];
  res.once("close", () => chats.release(waiter));
}

/**
 * Writes what is new as lines and waits again, until there is an error to end with. Nothing is written to a reader
 * who does not keep up: from its cursor it goes on when all has been taken, with `missed` if need be.
 */
function writeStream(waiter: Waiter, { party, socket }: Call, res: ServerResponse): void {
  const { options, chats } = party;
  const { member } = waiter;
  let isWriting = false;
  const write = (isFirst: boolean): void => {
    if (isWriting) return;
    isWriting = true;
    const lines = `${streamLines(member, waiter.since, options.now(), isFirst)}\n`;
    waiter.since = member.chat.cursor;
    writePieces(Buffer.from(lines), res, () => {
      isWriting = false;
      if (waiter.since < member.chat.cursor) write(false);
    });
  };
  waiter.onEnd = (end) => {
    if (end === "answer" || end === "retry") {
      write(false);
      waiter.heldAt = options.now();
      chats.hold(waiter);
    } else {
      res.write(errorReply(new ApiError(end), party).body);
      res.end("\n");
      MID_ANSWER.delete(socket);
    }
  };
  MID_ANSWER.add(socket);
  res.writeHead(200, STREAM_HEADERS);
  write(true);
}

/**
 * Writes bytes in pieces, each when the one before has been taken: a reader who is slow but reads is seen to make
 * progress (`endUnread`). Calls `onWritten` when nothing is left to wait for.
 */
function writePieces(bytes: Buffer, res: ServerResponse, onWritten: () => void, from = 0): void {
  for (let start = from; start < bytes.length; start += PIECE_BYTES) {
    const hasRoom = res.write(bytes.subarray(start, start + PIECE_BYTES));
    if (!hasRoom) return void res.once("drain", () => writePieces(bytes, res, onWritten, start + PIECE_BYTES));
  }
  onWritten();
}

const PIECE_BYTES = 16_384;

/** Connections with an answer that has begun and not ended. Nothing else may be written there. */
const MID_ANSWER = new WeakSet<Duplex>();

function send(reply: Reply, call: Call, res: ServerResponse): void {
  if (!call.body || !hasBodyToCome(res.req)) writeReply(reply, call, res, !call.body);
  // What came together with the headers is read first: most bodies are, and their connection can be used again.
  else setImmediate(() => writeReply(reply, call, res, !res.req.complete));
}

/** Whether an answer would precede the end of the request's body. */
function hasBodyToCome({ complete, headers }: IncomingMessage): boolean {
  if (complete) return false;
  return (headers["content-length"] ?? "0") !== "0" || headers["transfer-encoding"] !== undefined;
}

function writeReply({ status, headers, body }: Reply, call: Call, res: ServerResponse, isEarly: boolean): void {
  if (res.destroyed) return;
  // While it stops, whoever gets an answer comes back on this connection for what is still said: there is no other.
  const isLast = (call.party.stopping && status === 503) || isEarly;
  res.writeHead(status, isLast ? { ...headers, ...CLOSE } : headers);
  if (!isEarly && body.length <= PIECE_BYTES) return void res.end(body);
  MID_ANSWER.add(call.socket);
  if (isEarly) return endLate(body, res, call.party.stopping ? 0 : LINGER.ms);
  writePieces(typeof body === "string" ? Buffer.from(body) : body, res, () => {
    res.end();
    MID_ANSWER.delete(call.socket);
  });
}

const CLOSE = { Connection: "close" };
const LINGER = { ms: SECOND, bytes: 1_048_576 };

/**
 * Answers at once, and goes on discarding for a while before the connection ends: closing on a client that
 * still sends would reset the connection, and the answer could be lost with it.
 */
function endLate(body: Reply["body"], res: ServerResponse, milliseconds: number): void {
  res.write(body);
  let discarded = 0;
  const finish = (): void => {
    clearTimeout(timer);
    res.end();
  };
  const timer = setTimeout(finish, milliseconds);
  res.req.on("data", (chunk: Buffer) => {
    discarded += chunk.length;
    if (discarded > LINGER.bytes) finish();
  });
  for (const event of ["end", "close"]) res.req.once(event, finish);
}

function replyToOptions(allowed: string): Reply {
  const preflight = {
    Allow: allowed,
    "Access-Control-Allow-Methods": allowed,
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
    "Access-Control-Max-Age": 86_400,
  };
  return { ...NO_CONTENT, headers: { ...EMPTY_HEADERS, ...preflight } };
}

function wantsPage({ method, headers }: Call): boolean {
  if (method !== "GET" && method !== "HEAD") return false;
  return headers.authorization === undefined && /text\/html/i.test(headers.accept ?? "");
}

/** Compressed when it was built, never at a request. */
const PAGE = {
  br: Buffer.from(assets.pageBrotli, "base64"),
  gzip: Buffer.from(assets.pageGzip, "base64"),
  identity: Buffer.from(assets.page),
};

/** The page, for the home and for every chat alike: whether there is such a chat is not for the address to tell. */
function pageReply({ headers: asked }: Call, status: 200 | 404): Reply {
  const coding = (["br", "gzip"] as const).find((each) => accepts(asked["accept-encoding"], each)) ?? "identity";
  const tag = `"${assets.pageTag}-${coding}"`;
  const headers = { ...PAGE_HEADERS, ETag: tag };
  const known = asked["if-none-match"] ?? "";
  if (status === 200 && (known === "*" || known.includes(tag))) return { status: 304, headers, body: "" };
  const content = { "Content-Type": "text/html; charset=utf-8", "Content-Length": PAGE[coding].length };
  const encoding = coding === "identity" ? {} : { "Content-Encoding": coding };
  return { status, headers: { ...headers, ...content, ...encoding }, body: PAGE[coding] };
}

const PAGE_HEADERS = {
  "Cache-Control": "no-cache",
  "Content-Security-Policy": assets.pagePolicy,
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  Vary: "Accept, Authorization, Accept-Encoding",
};

/** Whether an Accept-Encoding header names a coding and does not weigh it 0 (RFC 9110, section 12.5.3). */
function accepts(header: string | undefined, coding: string): boolean {
  return new RegExp(`(?:^|,) *${coding} *(?:$|,|;(?! *q=0(?:\\.0*)? *(?:$|,)))`, "i").test(header ?? "");
}

/** What Node would answer by itself, in the shape of all errors. The request cannot be read, so the connection ends. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Duplex, party: Party): void {
  // After CONNECT nobody else listens for the errors of its socket, and one unheard ends the program.
  socket.on("error", () => socket.destroy());
  const isMidAnswer = MID_ANSWER.has(socket);
  if (!socket.writable || isMidAnswer || error.code === "ECONNRESET") return void socket.destroy();
  const refused = new ApiError(PARSER_ERRORS[error.code ?? ""] ?? "bad_request");
  const { status, headers, body } = errorReply(refused, party);
  const lines = Object.entries({ ...headers, ...CLOSE }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\n${lines.join("")}\r\n${String(body)}`);
  // Its peer may never close its own side.
  setTimeout(() => socket.destroy(), LINGER.ms).unref();
}

const PARSER_ERRORS: Record<string, ErrorCode> = {
  HPE_HEADER_OVERFLOW: "headers_too_large",
  ERR_HTTP_REQUEST_TIMEOUT: "timeout",
};

/* ------------------------------------------------------------------------------------------------
 * Start. `createApp` for whoever brings a clock and a secret of their own; `main` for everybody else:
 * flags, the lines on the terminal, signals.
 * --------------------------------------------------------------------------------------------- */

export type App = ReturnType<typeof createApp>;

const SERVER_OPTIONS = {
  maxHeaderSize: 16_384,
  headersTimeout: 10 * SECOND,
  requestTimeout: 30 * SECOND,
  keepAliveTimeout: 75 * SECOND,
  connectionsCheckingInterval: SECOND,
  // Node's own answer to a request without a Host has no body; `checkHeaders` says it in JSON.
  requireHostHeader: false,
  // Of two Host lines Node would drop the second: joined with a comma they are no host.
  joinDuplicateHeaders: true,
};

/** TLS 1.3, and of TLS 1.2 what gives forward secrecy: a key that is stolen later opens no recording. */
const TLS_OPTIONS = {
  handshakeTimeout: 10 * SECOND,
  ciphers: "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:ECDHE+AESGCM:ECDHE+CHACHA20",
};

/**
 * The server, not yet listening. `sweep` ends what is due by the clock; no timer is started here, `main` calls
 * it four times a second. `stop` shuts down as the contract says; it resolves within two seconds.
 */
export function createApp(given: AppOptions = {}) {
  const options = { secret: randomBytes(32), now: Date.now, ...given };
  const chats = new Chats(options);
  const loopDelay = monitorEventLoopDelay({ resolution: LOOP_TICK_MS });
  if (options.metrics) loopDelay.enable();
  const counts = { buckets: new Map(), refused: new Map(), bodies: 0 };
  const party: Party = { options, chats, loopDelay, connections: new Map(), ...counts, stopping: undefined };
  // A response has its socket from the start where no other stands before it.
  const listener = (req: IncomingMessage, res: ServerResponse): void =>
    (res.socket ? handleRequest : queueRequest)(req, res, party);
  const server: http.Server = options.tls
    ? https.createServer({ ...SERVER_OPTIONS, ...TLS_OPTIONS, ...options.tls }, listener)
    : http.createServer(SERVER_OPTIONS, listener);
  server.maxHeadersCount = LIMITS.headers + 1;
  server.on(options.tls ? "secureConnection" : "connection", (socket: Socket) => {
    party.connections.set(socket, { queuedBytes: 0, takenBytes: 0, takenAt: 0 });
    socket.once("close", () => party.connections.delete(socket));
  });
  server.on("clientError", (error, socket) => refuseConnection(error, socket, party));
  server.on("connect", (_req: IncomingMessage, socket: Duplex) =>
    refuseConnection(new Error("CONNECT"), socket, party),
  );
  // An expectation other than 100-continue may be ignored (RFC 9110, section 10.1.1).
  server.on("checkExpectation", listener);
  return { server, chats, sweep: () => sweep(party), stop: () => stopServer(server, party) };
}

function sweep({ chats, buckets, connections, options }: Party): void {
  const now = options.now();
  chats.sweep(now);
  for (const [bucket, full] of buckets) if (full <= now) buckets.delete(bucket);
  for (const [socket, connection] of connections) endUnread(socket, connection, now);
}

/** Ends a connection whose peer has taken nothing of what is to be written for `LIMITS.unreadMs`. */
function endUnread(socket: Socket, connection: Connection, now: number): void {
  const taken = socket.bytesWritten - socket.writableLength;
  if (socket.writableLength === 0 || taken !== connection.takenBytes) {
    connection.takenBytes = taken;
    connection.takenAt = now;
  } else if (Math.abs(now - connection.takenAt) >= LIMITS.unreadMs) socket.destroy();
}

/**
 * Takes no new connection, and waits a second at most for bodies under way: who is told that a message was posted
 * must not be the only one to see it. Then ends held polls, and closes what is left half a second later.
 */
async function stopServer(server: http.Server, party: Party): Promise<void> {
  party.stopping ??= "soon";
  const closed = once(server, "close");
  // Not http's own close(): that cuts off whoever is between two polls, and has yet to ask for the last message.
  NetServer.prototype.close.call(server);
  const begun = performance.now();
  while (party.bodies > 0 && performance.now() - begun < SECOND) await sleep(10);
  party.stopping = "now";
  party.chats.releaseAll("stopping");
  await Promise.race([closed, sleep(SECOND / 2, undefined, { ref: false })]);
  server.closeAllConnections();
}

/** The flags: whether a value follows, and what it must be. What each does says docs/usage.txt, which is --help. */
const FLAGS = {
  port: { type: "string", fits: /^[0-9]{1,5}$/ },
  host: { type: "string", fits: /^[^\s/]+$/ },
  url: { type: "string", fits: /^https?:\/\/[^\s/?#@]+\/?$/i },
  "tls-cert": { type: "string", fits: /./ },
  "tls-key": { type: "string", fits: /./ },
  "trust-proxy": { type: "boolean", fits: /^(?:1|0|true|false)$/ },
  "max-chats": { type: "string", fits: /^[1-9][0-9]{0,8}$/ },
  "no-rate-limit": { type: "boolean", fits: /^(?:1|0|true|false)$/ },
  node: { type: "string", fits: /^[a-z0-9]{1,16}$/ },
  metrics: { type: "boolean", fits: /^(?:1|0|true|false)$/ },
  verbose: { type: "boolean", fits: /^(?:1|0|true|false)$/ },
  version: { type: "boolean", fits: /^true$/ },
  help: { type: "boolean", fits: /^true$/ },
} as const;

type FlagName = keyof typeof FLAGS;
type Settings = ReturnType<typeof readSettings>;

/** @throws Error for an unknown flag, a missing value, a stray argument */
function readFlags(args: string[]): Partial<Record<FlagName, string | boolean>> {
  try {
    return parseArgs({ args, options: FLAGS }).values;
  } catch (error) {
    // Node's first sentence names the flag; the others explain what this program has no use for.
    throw new Error(messageOf(error).split(/\. |\.?\n/, 1)[0], { cause: error });
  }
}

/** Flags and environment, a flag before a variable, of which an empty one is not set. @throws Error for a bad value */
function readSettings(flags: ReturnType<typeof readFlags>, env: NodeJS.ProcessEnv) {
  const read = (name: FlagName): string | undefined => {
    const own = `WATCH_PARTY_${name.toUpperCase().replaceAll("-", "_")}`;
    const variable = [own, name === "port" ? "PORT" : own].find((each) => env[each]) ?? "";
    const value = flags[name]?.toString() ?? env[variable];
    if (value === undefined) return undefined;
    const isOutside = (name === "port" && Number(value) > 65_535) || (name === "url" && !URL.canParse(value));
    if (FLAGS[name].fits.test(value) && !isOutside) return value;
    throw new Error(`${flags[name] === undefined ? variable : `--${name}`} cannot be "${value}"`);
  };
  const isOn = (name: FlagName): boolean => /^(?:1|true)$/.test(read(name) ?? "");
  const toNumber = (name: FlagName) => (read(name) === undefined ? undefined : Number(read(name)));
  const [cert, key] = [read("tls-cert"), read("tls-key")];
  if ((cert === undefined) !== (key === undefined)) throw new Error("--tls-cert and --tls-key need each other");
  return {
    port: toNumber("port"),
    host: read("host"),
    url: URL.parse(read("url") ?? "")?.origin,
    files: cert === undefined || key === undefined ? undefined : { cert, key },
    trustProxy: isOn("trust-proxy"),
    maxChats: toNumber("max-chats"),
    rateLimit: !isOn("no-rate-limit"),
    node: read("node"),
    metrics: isOn("metrics"),
    verbose: isOn("verbose"),
  };
}

/** Runs the program: reads flags, listens, prints where, stops on a signal. What fails is told in one line. */
export async function main(argv: string[], env: NodeJS.ProcessEnv): Promise<void> {
  // A reader of our output who leaves, or a full disk under it, is no reason to stop.
  process.stdout.on("error", ignore);
  process.stderr.on("error", ignore);
  let isUsageRead = false;
  try {
    const flags = readFlags(argv);
    if (flags.help) return void process.stdout.write(assets.usage);
    if (flags.version) return void process.stdout.write(`watch-party ${assets.version}\n`);
    const settings = readSettings(flags, env);
    isUsageRead = true;
    await runServer(settings);
  } catch (error) {
    const line = messageOf(error).replace(/\p{Cc}/gu, " ");
    process.stderr.write(`watch-party: ${line}${isUsageRead ? "" : "; see --help"}\n`);
    process.exitCode = isUsageRead ? 1 : 2;
    if (argv.length === 0 && !env["PROMPT"]) await holdConsole();
  }
}

/**
 * A double click on Windows opens a console that closes with the program, and with what it said. So a start that failed
 * waits for a key, or a minute; not where somebody typed flags, or has a prompt (cmd) that stays.
 */
async function holdConsole(): Promise<void> {
  const { platform, stdin, stderr } = process;
  if (platform !== "win32" || !stdin.isTTY || !stderr.isTTY) return;
  stderr.write("Press any key to close this window.\n");
  stdin.setRawMode(true);
  await Promise.race([once(stdin, "data"), sleep(MINUTE)]);
  process.exit();
}

function ignore(): void {}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function runServer(settings: Settings): Promise<void> {
  // Young objects get 1 MiB, and not up to 16: those of held polls stay alive, so the collector has to move them, and
  // 16 MiB at once take it 20 to 40 ms. It costs some more collections, and makes a held poll a third smaller.
  setFlagsFromString("--semi-space-growth-factor=1");
  let addresses = await findLanAddresses();
  const app = createApp({
    ...settings,
    tls: settings.files && readCertificate(settings.files),
    lanAddress: () => addresses[0]?.address,
    log: settings.verbose ? (line) => process.stdout.write(`${line}\n`) : undefined,
  });
  // Before the first line is printed: whoever reads it may stop us at once.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"] as const) {
    process.on(signal, () => void app.stop().then(() => process.exit(0)));
  }
  process.stdout.write(banner(settings, await listen(app.server, settings), addresses));
  setInterval(() => app.sweep(), 250);
  // A laptop changes its network; links made afterwards must lead to its new address. Out of file descriptors
  // nothing is found, and the last ones stay.
  const refresh = (): void => void findLanAddresses().then((found) => (addresses = found), ignore);
  setInterval(refresh, 10 * SECOND);
}

/** @throws Error where the files cannot be read or are not what they should be */
function readCertificate({ cert, key }: { cert: string; key: string }): { cert: Buffer; key: Buffer } {
  try {
    const pair = { cert: readFileSync(cert), key: readFileSync(key) };
    createSecureContext(pair);
    return pair;
  } catch (error) {
    const what = `cannot use ${cert} with ${key} (${messageOf(error)})`;
    throw new Error(`${what}; check --tls-cert and --tls-key`, { cause: error });
  }
}

const DEFAULT_PORT = 8_080;

/** Listens where it was told to; where no port was asked for, at the first that is free. Returns the port. */
async function listen(server: http.Server, { port, host }: Settings): Promise<number> {
  for (let candidate = port ?? DEFAULT_PORT; ; candidate += 1) {
    try {
      await once(server.listen({ port: candidate, host }), "listening");
      break;
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "";
      if (port === undefined && code === "EADDRINUSE") continue;
      const reason = LISTEN_FAILURES[code] ?? `${code}; leave --host out to listen on all of this machine's addresses`;
      throw new Error(`cannot listen on ${host ?? "any address"}, port ${candidate}: ${reason}`, { cause: error });
    }
  }
  // Too many open files is said here: those who are connected stay, and the next may find room again.
  server.on("error", ignore);
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

const LISTEN_FAILURES: Record<string, string> = {
  EADDRINUSE: "the port is taken; choose another, or none for the next free one",
  EACCES: "the port is not for ordinary users; choose one above 1023",
};

/** An address of this machine, and the name of the interface that has it. */
type LanAddress = { readonly address: string; readonly name: string };

/** This machine's addresses on its networks, the one to hand out first. */
async function findLanAddresses(): Promise<LanAddress[]> {
  const socket = createSocket("udp4");
  try {
    // Connecting a UDP socket looks its route up and sends nothing. 192.0.2.1 is set aside for documentation
    // (RFC 5737): nobody's, so the default route leads there.
    socket.connect(9, "192.0.2.1");
    await once(socket, "connect");
    return rankAddresses(networkInterfaces(), socket.address().address);
  } catch {
    return rankAddresses(networkInterfaces());
  } finally {
    socket.close();
  }
}

const PRIVATE = /^(?:10\.|192\.168\.|172\.(?:1[6-9]|2[0-9]|3[01])\.)/;
const LINK_LOCAL = /^169\.254\./;
const VIRTUAL_INTERFACE =
  /vEthernet|WSL|VirtualBox|VMware|^(?:vmnet|vboxnet|virbr|docker|br-|veth|utun|tun|tap|wg|zt|tailscale)/i;

/** The default route's address first; then private IPv4 ones; those of virtual interfaces last, link-local ones never. */
export function rankAddresses(interfaces: ReturnType<typeof networkInterfaces>, defaultRoute?: string): LanAddress[] {
  const found = Object.entries(interfaces)
    .flatMap(([name, addresses = []]) => addresses.map((each) => ({ ...each, name })))
    .filter(({ family, internal }) => family === "IPv4" && !internal)
    .filter(({ address }) => (address === defaultRoute ? !LINK_LOCAL.test(address) : PRIVATE.test(address)));
  const rank = ({ address, name }: LanAddress): number =>
    address === defaultRoute ? 0 : 1 + Number(VIRTUAL_INTERFACE.test(name));
  return found.toSorted((a, b) => rank(a) - rank(b));
}

/** What is printed at start: where to open it, for people, phones and scripts. */
function banner(settings: Settings, port: number, lan: LanAddress[]): string {
  const places = openAddresses(settings, port, lan);
  const first = places[0]?.url ?? "";
  const width = Math.max(...places.map(({ url }) => url.length));
  const { isTTY, columns } = process.stdout;
  const bold = (text: string): string => (isTTY && !process.env["NO_COLOR"] ? `\x1b[1m${text}\x1b[0m` : text);
  const isMoved = settings.port === undefined && port !== DEFAULT_PORT;
  return `Watch Party ${assets.version} is running. Open one of these, and share a link from there:

${places.map(({ url, label }) => `  ${bold(url.padEnd(width))}  ${label}`).join("\n")}
${isMoved ? `Port ${DEFAULT_PORT} is taken, so this is port ${port}.\n` : ""}
${isTTY && !isThisMachine(new URL(first).hostname) ? terminalQr(first, columns) : ""}Phones cannot connect? They need the same Wi-Fi (not its guest network),
and the firewall has to let this port through.
Scripts: curl -X POST "${first}/create"
`;
}

/** Every address to open, the best to share first. */
function openAddresses(settings: Settings, port: number, lan: LanAddress[]): { url: string; label: string }[] {
  const { url, files, host = "::" } = settings;
  const isEverywhere = EVERYWHERE.test(host);
  const found = isEverywhere
    ? [...lan, { address: "localhost", name: "" }]
    : [{ address: host, name: "as given by --host" }];
  const places = found.map(({ address, name }) => ({
    url: addressUrl(files ? "https" : "http", address, port),
    label: isThisMachine(address) ? "this computer only" : name,
  }));
  return url === undefined ? places : [{ url, label: "as given by --url" }, ...places];
}

/** A QR code of half blocks, two rows of modules in one of text, with its quiet zone; "" where it does not fit. */
function terminalQr(url: string, columns: number): string {
  const code = generate(url);
  if (columns < code.size + 8) return "";
  const rows: string[] = [];
  for (let y = -4; y < code.size + 4; y += 2) {
    let row = "";
    for (let x = -4; x < code.size + 4; x += 1) row += " ▀▄█"[(code.get(x, y) ? 0 : 1) + (code.get(x, y + 1) ? 0 : 2)];
    // Light on dark by colour, whatever the terminal's own are; without colours, on the guess that it is dark.
    rows.push(process.env["NO_COLOR"] ? row : `\x1b[97;40m${row}\x1b[0m`);
  }
  return `${rows.join("\n")}\n\n`;
}

if (import.meta.main) void main(process.argv.slice(2), process.env);
