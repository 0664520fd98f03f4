/*
 * Watch Party: an ephemeral group chat that anyone can host. This file is the whole server; lib/addresses.ts knows this
 * machine's addresses, and lib/terminal.ts what the program prints at its start.
 *
 *   GET    /                                 the page; for clients that do not ask for HTML, help with curl commands
 *   POST   /create                           create a chat and take its first seat
 *   POST   /:chat_id/invite                  make a magic link (creator)
 *   GET    /:chat_id/invite                  preview an invitation without using it (invite token)
 *   DELETE /:chat_id/invite                  revoke every magic link made so far (creator)
 *   POST   /:chat_id/join                    take a free seat (invite token)
 *   POST   /redeem, /redeem/:node            get an invitation for its code
 *   GET    /:chat_id                         read messages after a cursor, wait for new ones, or stream them (member)
 *   POST   /:chat_id                         post a message (member)
 *   POST   /:chat_id/leave                   leave the chat (member)
 *   DELETE /:chat_id/members/:member_id      remove a member (creator)
 *   DELETE /:chat_id                         end the chat (creator)
 *   GET    /addresses                        where others reach this machine (only for requests from the machine itself)
 *   GET    /openapi.json, /healthz, /robots.txt, /llms.txt, and /metrics with --metrics
 *
 * Promises (test/promises.test.ts has a test for each number):
 *
 *    1. Once a post is acknowledged, every member sees the message, and all see the same order.
 *    2. A reader never skips messages silently: if some were dropped before it read them, `missed` is true.
 *    3. No message falls between two polls, and a poll at the cursor returns with the next change.
 *    4. A request repeated with its Idempotency-Key takes effect once.
 *    5. A chat never has more than six members, however many join at once, and no two share a name.
 *    6. Without a valid token or code the server reveals nothing about a chat, not even whether it exists.
 *    7. A token works for one purpose, in one chat, in one spelling, until it expires or its seat is freed.
 *    8. Expired seats and chats are freed on time, not at the next request.
 *    9. Any input gets an answer from ERRORS at worst: no stack trace, no hang, and no effect on other clients.
 *   10. No token, code, name, key or message reaches a log, and nothing reaches a disk.
 *   11. A reader who disconnects leaves nothing behind.
 *   12. On a stop signal the server answers waiting readers, finishes requests under way and exits within two seconds.
 *
 * Left out on purpose: accounts, storage, several processes per chat, files, push notifications. A restart ends all
 * chats, because the secret and the store exist only in memory.
 */
import { isUtf8 } from "node:buffer";
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import * as http from "node:http";
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import * as https from "node:https";
import { Server as NetServer, type Socket, isIP, isIPv6 } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import assets from "./dist/assets.json" with { type: "json" };
import {
  addressUrl,
  findLanAddresses,
  isLoopback,
  type LanAddress,
  listeningAddresses,
  plainAddress,
} from "./lib/addresses.ts";
import { type Certificate, certificateReader, readCertificate } from "./lib/certificate.ts";
import { listen } from "./lib/listen.ts";
import { drawQr } from "./lib/qr.ts";
import { messageOf, NODE_NAME_LENGTH, readFlags, readSettings, type Settings } from "./lib/settings.ts";
import { bannerValues, waitForKey } from "./lib/terminal.ts";

/* ---- Vocabulary --------------------------------------------------------------------------------------
 * Limits and their reasons, the wire types (the page imports them), and the data structures in memory.
 * Nothing here does anything. */

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

export const LIMITS = {
  /** Small enough that everyone can follow one thread. */
  seats: 6,
  /** Enough to catch up. 10,000 full chats of ordinary messages take about 100 MB. */
  keptMessages: 30,
  sessionMs: 6 * 60 * MINUTE,
  /** How long a code works after the last request for an invitation. A class needs a few minutes to type it. */
  codeMs: 30 * MINUTE,
  messageGraphemes: 2_000,
  messageBytes: 8_192,
  usernameGraphemes: 24,
  usernameBytes: 96,
  /** Stacked marks ("zalgo") reach into neighbouring lines. No script needs more than this on one base. */
  combiningMarks: 8,
  bodyBytes: 32_768,
  /** Proxies and phones cut connections that are silent for a minute. */
  waitSeconds: 50,
  /** A silent stream writes an empty line this often, so that nothing on the way takes it for dead. */
  streamSeconds: 25,
  /** Browsers open six connections per host. Four held polls leave two for loading pages and posting. */
  pollsPerBrowser: 4,
  /** Polls and streams one seat may have open, for example in 32 tabs. Every post writes to each of them. */
  pollsPerSeat: 32,
  retrySeconds: 2,
  onlineMs: MINUTE,
  /** How long an Idempotency-Key is remembered, and for how many posts per seat. */
  keyMs: 10 * MINUTE,
  keysPerSeat: 256,
  keyLength: 64,
  /** A key for create or join retrieves a session token, so it must be hard to guess: 22 base64 characters are 128 bits. */
  seatKeyLength: 22,
  /** A full server ends a chat whose only member has not polled or posted for this long. */
  idleMs: 10 * MINUTE,
  /** The default of --max-chats. */
  chats: 1_000,
  /** One address may have a tenth of the chats, but at least ten. */
  addressShare: 0.1,
  chatsPerAddress: 10,
  /** Browsers behind proxies send 20 to 40 headers. Even a one-byte header costs about 100 bytes of memory. */
  headers: 100,
  /** Weight of the requests one connection may have queued behind an unfinished answer (see `queueWeight`). */
  queuedBytes: 131_072,
  /** A peer that takes no byte of an answer for this long is disconnected. Longer than any poll or stream pause. */
  unreadMs: 75 * SECOND,
  /** Addresses with rate-limit counts at one time, at about 100 bytes each. */
  countedAddresses: 65_536,
} as const;

/** Token buckets: `burst` at once, then `perSecond`. Posts and invitations count per seat; creates, joins and bad tokens
 * each per address. Wrong codes count as bad tokens, and also all together. */
const RATES = {
  message: { burst: 20, perSecond: 5 },
  address: { burst: 60, perSecond: 1 },
  wrongCode: { burst: 100, perSecond: 10 },
} as const;

/** 12 random bytes in base64url. With --node, a name of 1 to 16 characters and a dash precede them. */
const RANDOM_ID_LENGTH = 16;

/** `expires_at` and all other times: ISO 8601 in UTC with milliseconds. */
export interface Session {
  chat_id: string;
  session_token: string;
  member_id: string;
  username: string;
  expires_at: string;
  url: string;
}
type InviteLink = { magic_link: string; invite_token: string; expires_at: string; seats_left: number };
export type InviteReply = InviteLink & { qr: string; other_links: LinkWithQr[]; code: string; code_expires_at: string };
type LinkWithQr = { magic_link: string; qr: string };
export type AddressesReply = { addresses: string[]; qr: string };
export type InvitePreview = { chat_id: string; seats_left: number; members: string[]; expires_at: string };
export type RedeemReply = InviteLink & InvitePreview;
export type MessageView = { id: number; member_id: string; username: string; text: string; sent_at: string };
export type MemberView = { id: string; username: string; creator: boolean; online: boolean; you: boolean };
export interface PollReply {
  messages: MessageView[];
  cursor: number;
  missed: boolean;
  members: MemberView[];
  expires_at: string;
  retry_in?: number;
  removed?: string[];
}
export type ErrorReply = { error: ErrorCode; message: string };

/** One seat in a chat, until its member leaves, is removed or expires. */
interface Member {
  readonly chat: Chat;
  /** 1 for the creator, then counting up. Never reused within a chat. */
  readonly id: string;
  /** 1 to 6: the lowest seat that was free. */
  readonly seat: number;
  readonly username: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  readonly token: string;
  /** JSON of the constant part of its MemberView (without braces) and of its `expires_at`. */
  readonly viewJson: string;
  readonly expiresAtJson: string;
  /** Finds this seat when the create or join that took it is repeated: see `readSeatKey`. */
  readonly seatKey: string | undefined;
  lastSeen: number;
  /** Held polls and streams. */
  openPolls: number;
  /** Its posts by Idempotency-Key. A repeat sends the text again, so a digest of the text is enough. */
  postsByKey: Map<string, { id: number; sentAt: number; digest: string }> | undefined;
}

class Chat {
  readonly id: string;
  /** The address that created it, for the limit of chats per address. */
  readonly address: string;
  readonly members: Member[] = [];
  /** The last 30 messages as JSON (MessageView), serialised once, and their ids. */
  readonly messages: string[] = [];
  readonly messageIds: number[] = [];
  readonly waiters = new Set<Waiter>();
  /** By seat number: when the seat's message bucket is full again. Outlives the member, so rejoining does not refill it. */
  readonly messageBucketFullAt: number[] = [];
  creator: Member | undefined;
  membersEver = 0;
  /** Grows by one with every change that readers see. Joining as the creator is the first. */
  cursor = 0;
  /** The cursor of the last join, leave or removal. */
  membersChangedAt = 0;
  /** The ids of the last six members that the creator removed. */
  removed: string[] = [];
  /** The id of the newest message that is no longer kept. */
  lastDropped = 0;
  inviteGeneration = 0;
  /** Stands for the newest invitation until `codeExpiresAt` (ms since 1970). Folded by `foldCode`. */
  code: string | undefined;
  codeExpiresAt = 0;

  constructor(id: string, address: string) {
    this.id = id;
    this.address = address;
  }
}

/** A held poll, or a stream, which is added again after every line. `wait` is in seconds. */
interface Waiter {
  readonly kind: "waiter";
  readonly member: Member;
  since: number;
  heldAt: number;
  readonly wait: number;
  readonly isStream: boolean;
  /** The browser's own id; "" for any other client. */
  readonly browser: string;
  readonly isVisible: boolean;
  /** Called once, when the wait is over. */
  onEnd?: (end: WaitEnd) => void;
}

/** "answer": news, or the time is up. "retry": the browser needs the place. An error: the seat or chat is gone. */
type WaitEnd = "answer" | "retry" | ErrorCode;

export interface AppOptions {
  /** 32 bytes that sign tokens. Random if missing. */
  secret?: Buffer;
  /** The clock, in ms since 1970. */
  now?: () => number;
  /** This machine's addresses on its networks, the best to share first. */
  lanAddresses?: () => LanAddress[];
  host?: string | undefined;
  url?: string | undefined;
  tls?: { cert: string | Buffer; key: string | Buffer } | undefined;
  trustProxy?: boolean;
  maxChats?: number | undefined;
  rateLimit?: boolean;
  node?: string | undefined;
  metrics?: boolean;
  log?: ((line: string) => void) | undefined;
  logError?: (error: unknown) => void;
}

type Options = AppOptions & Required<Pick<AppOptions, "secret" | "now">>;

/** One request as a handler sees it. */
interface RequestContext {
  readonly state: ServerState;
  readonly method: string;
  readonly path: string;
  readonly query: string;
  /** The ids in the path, or "". */
  readonly chatId: string;
  readonly memberId: string;
  headers: IncomingHttpHeaders;
  /** The host and port the request was sent to: from an absolute target, else from the Host header. */
  readonly host: string | undefined;
  readonly socket: Socket;
  /** Milliseconds since 1970. Read again when the body is complete, which can take a while. */
  now: number;
  /** The body of a request that was queued. It arrives while the request waits. */
  readonly arriving: ArrivingBody | undefined;
  /** Empty until it is complete. */
  body: Buffer;
  isTooLarge: boolean;
  /** A body this route accepts, for the error message of one it does not. */
  bodyExample: string;
}

type ArrivingBody = { bytes: Buffer; size: number; isDone: boolean; onDone: () => void };

/** A handler's result. Only `sendReply` writes it. */
type Reply = { kind: "reply"; status: number; headers: ReplyHeaders; body: string | Buffer };
type ReplyHeaders = Record<string, string | number>;

/** Per connection: the weight of its queued requests (see `queueWeight`), the answer bytes that its peer had taken at
 * `takenAt` (ms), and none since, and its held poll or stream. */
type Connection = { queuedBytes: number; takenBytes: number; takenAt: number; waiter: Waiter | undefined };

/** The running server: settings, chats, counters. */
interface ServerState {
  readonly options: Options;
  readonly chats: Chats;
  /** When a bucket such as "join 192.168.1.7" is full again (ms), least recently used first. */
  readonly bucketFullAt: Map<string, number>;
  readonly connections: Map<Socket, Connection>;
  readonly errorCounts: Map<ErrorCode, number>;
  /** Event loop delays, measured only with --metrics, and their total up to the last scrape. */
  readonly loopDelay: ReturnType<typeof monitorEventLoopDelay>;
  readonly loopDelayTotal: { seconds: number; count: number };
  /** When the bucket of all wrong codes is full again (ms). Not in `bucketFullAt`, whose oldest entries are dropped. */
  wrongCodesFullAt: number;
  /** Connections with a request whose body is still arriving. */
  readonly receiving: Set<Socket>;
  /** running: everything. draining, for at most a second: no new connections, no new requests except reads; bodies that
   * are arriving may finish, so that their messages are still seen. closing: waits end with `stopping`, and only
   * messages that were already posted can still be read. */
  phase: "running" | "draining" | "closing";
}

/* ---- Routes ------------------------------------------------------------------------------------------
 * The complete list: any other path is 404, any other method 405. */

interface RouteRules {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: string;
  /** Browsers that ask for HTML get the page here. */
  readonly isPage?: true;
  /** Reads a body, such as this one. */
  readonly body?: string;
  readonly rate?: "create" | "join";
}
type Route = RouteRules & (PublicRoute | MemberRoute);
type PublicRoute = { caller: "anyone"; handle: (context: RequestContext) => Reply };
type MemberRoute = { caller: "member" | "creator"; handle: MemberHandler };
type MemberHandler = (context: RequestContext, member: Member) => Reply | Waiter;

/** Search engines may list the home page but never a chat. */
const ROBOTS = "User-agent: *\nAllow: /$\nDisallow: /\n";
const CREATE_EXAMPLE = '{"username": "Ana"}';
const REDEEM_EXAMPLE = '{"code": "K7QF-2M9X"}';
const JOIN_EXAMPLE = '{"invite_token": "INVITE_TOKEN", "username": "Ana"}';
const POST_EXAMPLE = '{"text": "Hello"}, or plain text with "Content-Type: text/plain"';

/** Scanned in order, so the busiest routes come first. No path matches two patterns. */
export const ROUTES: readonly Route[] = [
  { method: "GET", path: "/:chat_id", caller: "member", handle: readMessages, isPage: true },
  { method: "POST", path: "/:chat_id", caller: "member", handle: postMessage, body: POST_EXAMPLE },
  { method: "DELETE", path: "/:chat_id", caller: "creator", handle: endChat },
  { method: "GET", path: "/", caller: "anyone", handle: showHelp, isPage: true },
  { method: "GET", path: "/openapi.json", caller: "anyone", handle: () => OPENAPI_REPLY },
  { method: "GET", path: "/healthz", caller: "anyone", handle: () => jsonReply(200, { status: "ok" }) },
  { method: "GET", path: "/llms.txt", caller: "anyone", handle: showHelp },
  { method: "GET", path: "/addresses", caller: "anyone", handle: listAddresses },
  { method: "GET", path: "/robots.txt", caller: "anyone", handle: () => textReply(ROBOTS) },
  { method: "GET", path: "/metrics", caller: "anyone", handle: showMetrics },
  { method: "POST", path: "/create", caller: "anyone", handle: createChat, body: CREATE_EXAMPLE, rate: "create" },
  { method: "POST", path: "/:chat_id/invite", caller: "creator", handle: makeInvite },
  { method: "GET", path: "/:chat_id/invite", caller: "anyone", handle: previewInvite },
  { method: "DELETE", path: "/:chat_id/invite", caller: "creator", handle: revokeInvites },
  { method: "POST", path: "/:chat_id/join", caller: "anyone", handle: joinChat, body: JOIN_EXAMPLE, rate: "join" },
  { method: "POST", path: "/redeem", caller: "anyone", handle: redeemCode, body: REDEEM_EXAMPLE },
  { method: "POST", path: "/redeem/:node", caller: "anyone", handle: redeemCode, body: REDEEM_EXAMPLE },
  { method: "POST", path: "/:chat_id/leave", caller: "member", handle: leaveChat },
  { method: "DELETE", path: "/:chat_id/members/:member_id", caller: "creator", handle: removeMember },
];

const LONGEST_CHAT_ID = NODE_NAME_LENGTH + 1 + RANDOM_ID_LENGTH;

/** The routes of each path. A slash at the end of a path makes no difference. */
const ENDPOINTS = [...Map.groupBy(ROUTES, ({ path }) => path)].map(([path, routes]) => {
  const chatId = `[A-Za-z0-9_-]{${RANDOM_ID_LENGTH},${LONGEST_CHAT_ID}}`;
  const ids = path.replace(":chat_id", chatId).replace(":member_id", "[^/]*").replace(":node", "[a-z0-9]{1,16}");
  const pattern = new RegExp(path === "/" ? "^/$" : `^${ids}/?$`);
  const methods = routes.flatMap(({ method }) => (method === "GET" ? ["GET", "HEAD"] : [method]));
  return { path, pattern, routes, allowed: [...methods, "OPTIONS"].join(", ") };
});

/* ---- Handlers ----------------------------------------------------------------------------------------
 * One per route: they take a request context, return a reply and throw ApiError. They never see the
 * socket or the response. */

function createChat(context: RequestContext): Reply {
  const { chats } = context.state;
  const body = readObject(context);
  const seatKey = readSeatKey(context, "create");
  const earlier = chats.findSeatByKey(seatKey);
  if (earlier) return sessionReply(200, earlier, context);
  const address = clientAddress(context);
  chats.makeRoom(address);
  return sessionReply(201, chats.create(readUsername(body), seatKey, address), context);
}

function joinChat(context: RequestContext): Reply {
  const { chats } = context.state;
  const { chat, body } = readJoin(context);
  const seatKey = readSeatKey(context, chat.id);
  const earlier = chats.findSeatByKey(seatKey);
  if (earlier) return sessionReply(200, earlier, context);
  if (chat.members.length === LIMITS.seats) throw new ApiError("chat_full");
  return sessionReply(201, chats.join(chat, readUsername(body), seatKey), context);
}

function makeInvite(context: RequestContext, member: Member): Reply {
  const { chat } = member;
  countForSeat(member, context);
  const code = context.state.chats.renewCode(chat, context.now);
  const link = makeLink(chat, context.now + LIMITS.sessionMs, context);
  const base = baseUrl(context, true);
  const others = ownUrls(context).filter((url) => url !== base);
  const otherLinks = others.map((url) => addQr(url + link.magic_link.slice(base.length)));
  const codes = { qr: drawQr(link.magic_link), code, code_expires_at: toIso(chat.codeExpiresAt) };
  return jsonReply(201, { ...link, ...codes, other_links: otherLinks } satisfies InviteReply);
}

function addQr(link: string): LinkWithQr {
  return { magic_link: link, qr: drawQr(link) };
}

function previewInvite(context: RequestContext): Reply {
  const { chat, expiresAt } = authoriseInvite(bearerToken(context.headers.authorization), context);
  return jsonReply(200, viewInvite(chat, expiresAt));
}

function redeemCode(context: RequestContext): Reply {
  const chat = authoriseCode(context);
  // The invitation that the code was made for, so a code leads no further than the creator's own link.
  const expiresAt = chat.codeExpiresAt - LIMITS.codeMs + LIMITS.sessionMs;
  const reply = { ...viewInvite(chat, expiresAt), ...makeLink(chat, expiresAt, context) };
  return jsonReply(200, reply satisfies RedeemReply);
}

function revokeInvites(_context: RequestContext, { chat }: Member): Reply {
  chat.inviteGeneration = (chat.inviteGeneration + 1) % COUNTER_RANGE;
  chat.code = undefined;
  return NO_CONTENT;
}

function readMessages(context: RequestContext, member: Member): Reply | Waiter {
  const { state, now } = context;
  const { cursor } = member.chat;
  const poll = readPoll(context, cursor);
  const replyNow = (isRetry: boolean): Reply =>
    poll.isStream ? streamReply(member, poll.since, now) : pollReply(member, poll.since, now, isRetry);
  if (context.method === "HEAD") return replyNow(false);
  member.lastSeen = now;
  if (state.phase !== "running" && state.receiving.size === 0 && poll.since === cursor) throw new ApiError("stopping");
  const isDue = !poll.isStream && (poll.wait === 0 || poll.since !== cursor);
  if (isDue || state.phase === "closing") return replyNow(false);
  const waiter: Waiter = { kind: "waiter", ...poll, member, heldAt: now };
  if (state.chats.addWaiter(waiter)) return waiter;
  if (waiter.browser === "") throw new ApiError("rate_limited", retryAfter(1));
  return replyNow(true);
}

function postMessage(context: RequestContext, member: Member): Reply {
  const { chats } = context.state;
  const key = readKey(context, 1);
  const raw = readText(context);
  const earlier = chats.findPost(member, key, raw);
  if (earlier) return jsonReply(200, earlier);
  // Counted before the text is examined: examining is most of the work, also for a text that is then refused.
  countForSeat(member, context);
  return jsonReply(201, chats.post(member, cleanText(raw), key, String(raw)));
}

function leaveChat(context: RequestContext, member: Member): Reply {
  context.state.chats.freeSeats([member], "revoked_token");
  return NO_CONTENT;
}

function removeMember(context: RequestContext, creator: Member): Reply {
  const member = creator.chat.members.find(({ id }) => id === context.memberId);
  if (!member) throw new ApiError("not_found");
  // To remove oneself is to leave.
  if (member !== creator) creator.chat.removed = [...creator.chat.removed, member.id].slice(-LIMITS.seats);
  context.state.chats.freeSeats([member], "revoked_token");
  return NO_CONTENT;
}

function endChat(context: RequestContext, { chat }: Member): Reply {
  context.state.chats.end(chat);
  return NO_CONTENT;
}

function showHelp(context: RequestContext): Reply {
  // AI agents look for help in Markdown, at /llms.txt.
  const help = context.path === "/" ? assets.help : assets.llms;
  return textReply(fillTemplate(help, { base: baseUrl(context, false) }));
}

function listAddresses(context: RequestContext): Reply {
  const addresses = ownUrls(context);
  return jsonReply(200, { addresses, qr: addresses[0] ? drawQr(addresses[0]) : "" } satisfies AddressesReply);
}

/** Prometheus text format, version 0.0.4, after docs/metrics.txt. Only sums: no ids and no names. */
function showMetrics({ state }: RequestContext): Reply {
  const { chats, errorCounts, loopDelay, loopDelayTotal: total } = state;
  const [p50, p90, p99] = [50, 90, 99].map((percent) => toDelay(loopDelay.percentile(percent)));
  if (loopDelay.count > 0) total.seconds += toDelay(loopDelay.mean) * loopDelay.count;
  total.count += loopDelay.count;
  loopDelay.reset();
  const { rss: resident, heapUsed } = process.memoryUsage();
  const errors = [...errorCounts].map(([code, count]) => `watch_party_refused_total{error="${code}"} ${count}\n`);
  const delay = { p50, p90, p99, delaySum: total.seconds, delayCount: total.count };
  const build = { version: assets.version, node: process.versions.node };
  const values = { ...chats.count(), errors: errors.join(""), ...delay, ...build, startTime, resident, heapUsed };
  return textReply(fillTemplate(assets.metrics, values), "; version=0.0.4");
}

/** Nanoseconds to seconds, less one tick: Node records the whole interval between two ticks. */
function toDelay(nanoseconds: number): number {
  return Math.max(0, nanoseconds / 1e9 - LOOP_TICK_MS / SECOND);
}

const LOOP_TICK_MS = 10;
const startTime = Date.now() / SECOND - process.uptime();

/* ---- Reading requests --------------------------------------------------------------------------------
 * Each part of a request is read in one place. These functions check what they read and throw; they
 * change nothing. */

/** The member whose session token a request bears. Checks run in this order: token, chat, seat, creator. */
function authoriseMember(context: RequestContext, caller: "member" | "creator"): Member {
  const { state, chatId, now, headers } = context;
  const token = bearerToken(headers.authorization);
  const member = state.chats.findSeat(token);
  if (!member || member.chat.id !== chatId || now >= member.expiresAt) {
    // No seat in this chat has this token. Verify it in full to find the right error; only this path pays for the HMAC.
    verifyToken(token, "session", context);
    throw new ApiError(state.chats.get(chatId) ? "revoked_token" : "chat_not_found");
  }
  if (caller === "creator" && member.chat.creator !== member) throw new ApiError("not_creator");
  return member;
}

/** The chat that an invite token opens, and until when (ms since 1970). */
function authoriseInvite(token: string, context: RequestContext): { chat: Chat; expiresAt: number } {
  const { counter, expiresAt } = verifyToken(token, "invite", context);
  const chat = context.state.chats.get(context.chatId);
  if (!chat) throw new ApiError("chat_not_found");
  if (counter !== chat.inviteGeneration) throw new ApiError("revoked_token");
  return { chat, expiresAt };
}

/** The chat whose code is in the body. Wrong, expired and revoked codes get the same error. After too many of them from
 * this address or from all, right codes are refused as well, so guessing on does not help. */
function authoriseCode(context: RequestContext): Chat {
  const { code } = readObject(context);
  const { state, now } = context;
  const countForAddress = reserveToken("bad token", context);
  const wrongCodesFullAt = takeToken("wrongCode", state.wrongCodesFullAt, now);
  const chat = typeof code === "string" ? state.chats.findByCode(code) : undefined;
  if (chat) return chat;
  countForAddress();
  state.wrongCodesFullAt = wrongCodesFullAt;
  throw new ApiError("invalid_code");
}

/** The payload of a valid token for the chat in the path, whether or not that chat still exists. Counts bad tokens. */
function verifyToken(token: string, kind: TokenPayload["kind"], context: RequestContext): TokenPayload {
  const { options, chats } = context.state;
  try {
    const payload = readToken(token, kind, options.secret, context.now);
    if (context.chatId === chats.prefix + payload.chatId) return payload;
    throw new ApiError("wrong_chat");
  } catch (error) {
    if (error instanceof ApiError && error.code === "invalid_token") countRequest("bad token", context);
    throw error;
  }
}

/** The body of a join, and the chat opened by the invite token in the body or else in the header. */
function readJoin(context: RequestContext): { chat: Chat; body: Record<string, unknown> } {
  const { authorization } = context.headers;
  let body: Record<string, unknown>;
  try {
    body = readObject(context);
  } catch (error) {
    // A bad token takes precedence over a bad body.
    if (authorization !== undefined) authoriseInvite(bearerToken(authorization), context);
    throw error;
  }
  const inBody = body["invite_token"] === "" ? null : body["invite_token"];
  const token = inBody ?? bearerToken(authorization);
  return { chat: authoriseInvite(typeof token === "string" ? token : "", context).chat, body };
}

/** A clean name, or undefined if the body has none. Many JSON libraries write `null` for that. */
function readUsername({ username }: Record<string, unknown>): string | undefined {
  return username === undefined || username === null ? undefined : cleanUsername(username);
}

/** The token of an Authorization header, with `Bearer` in any case or without it (RFC 6750, section 2.1). */
function bearerToken(header: string | undefined): string {
  const token = (header ?? "").replace(/^bearer(?: +|$)/i, "");
  if (token === "") throw new ApiError("missing_token");
  return token;
}

/** The Idempotency-Key, if any: `shortest` to 64 printable ASCII characters. */
function readKey(context: RequestContext, shortest: number): string | undefined {
  const key = context.headers["idempotency-key"]?.toString();
  const isFitting = key === undefined || (key.length >= shortest && key.length <= LIMITS.keyLength);
  if (!isFitting || /[^ -~]/.test(key ?? "")) throw new ApiError("invalid_key");
  return key;
}

/** Finds the seat that a repeated create or join took the first time. `scope`: "create" or the chat's id. */
function readSeatKey(context: RequestContext, scope: string): string | undefined {
  const key = readKey(context, LIMITS.seatKeyLength);
  return key && digest(`${scope} ${key}`);
}

/** A reader's wishes: the query parameters `since`, `wait`, `browser` and `visible`. */
function readPoll(context: RequestContext, cursor: number): Omit<Waiter, "kind" | "member" | "heldAt"> {
  const query = new URLSearchParams(context.query);
  const isLatest = query.get("since") === "latest";
  const since = isLatest ? cursor : readNumber(query, "since", cursor, "invalid_cursor");
  const isStream = /application\/x-ndjson/i.test(context.headers.accept ?? "");
  if (isStream) return { since, wait: LIMITS.streamSeconds, isStream, browser: "", isVisible: false };
  const wait = readNumber(query, "wait", LIMITS.waitSeconds, "invalid_wait");
  const browser = /^[A-Za-z0-9_-]{1,64}$/.exec(query.get("browser") ?? "")?.[0] ?? "";
  return { since, wait, isStream, browser, isVisible: query.get("visible") === "1" };
}

/** A query parameter of decimal digits, at most `largest`; 0 if it is missing. */
function readNumber(query: URLSearchParams, name: string, largest: number, code: ErrorCode): number {
  const digits = query.get(name);
  if (digits === null) return 0;
  if (!/^[0-9]+$/.test(digits) || Number(digits) > largest) throw new ApiError(code);
  return Number(digits);
}

function readBodyText({ body, isTooLarge, bodyExample }: RequestContext): string {
  if (isTooLarge) throw new ApiError("too_large");
  if (!isUtf8(body)) throw new ApiError("invalid_json", {}, bodyExample);
  // Some editors and shells put a byte order mark before UTF-8.
  return body.toString().replace(/^\ufeff/, "");
}

/** The body as a JSON object, whatever its Content-Type. No body is an empty object. */
function readObject(context: RequestContext): Record<string, unknown> {
  const isEmpty = context.body.length === 0 && !context.isTooLarge;
  const object = isEmpty ? {} : parseObject(readBodyText(context));
  if (!object) throw new ApiError("invalid_json", {}, context.bodyExample);
  return object;
}

/** A message as it was sent: the whole body if it is plain text, else the field `text`. */
function readText(context: RequestContext): unknown {
  if (!/^text\/plain *(?:;|$)/i.test(context.headers["content-type"] ?? "")) return readObject(context)["text"];
  const text = readBodyText(context);
  // fetch() labels every string body text/plain unless told otherwise, JSON included.
  const inside = /^\s*\{/.test(text) ? parseObject(text)?.["text"] : undefined;
  return typeof inside === "string" ? inside : text;
}

/** The JSON object in a text, or undefined. */
function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/* ---- Shaping replies ---------------------------------------------------------------------------------
 * From data structures to JSON. Nothing here decides whether a reply is allowed. */

const API_HEADERS = {
  "Content-Type": "application/json; charset=utf-8",
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
  // Any page may call: there are no cookies, only tokens, which another site's page does not have.
  "Access-Control-Allow-Origin": "*",
} as const;

const { "Content-Type": _, ...EMPTY_HEADERS } = API_HEADERS;
const NO_CONTENT: Reply = { kind: "reply", status: 204, headers: EMPTY_HEADERS, body: "" };

/** A page on another site may read these headers only if they are exposed. */
const retryAfter = (seconds: number) => ({ "Retry-After": seconds, "Access-Control-Expose-Headers": "Retry-After" });

/** A JSON reply. A string is JSON already. */
function jsonReply(status: number, value: object | string, headers?: ReplyHeaders): Reply {
  const body = typeof value === "string" ? value : toJson(value);
  const length = Buffer.byteLength(body);
  return { kind: "reply", status, headers: { ...API_HEADERS, "Content-Length": length, ...headers }, body };
}

/** JSON without raw U+2028 and U+2029: Node's readline and Python's iter_lines would split a line there. */
function toJson(value: object): string {
  return JSON.stringify(value).replace(/[\u2028\u2029]/g, (separator) => `\\u${separator.charCodeAt(0).toString(16)}`);
}

/** A text with values in place of `{name}`; other braces stay. */
export function fillTemplate(template: string, values: Record<string, string | number | undefined>): string {
  return template.replace(/\{(\w+)\}/g, (placeholder, name: string) => String(values[name] ?? placeholder));
}

function textReply(body: string, parameters = ""): Reply {
  return jsonReply(200, body, { "Content-Type": `text/plain${parameters}; charset=utf-8` });
}

const OPENAPI_REPLY = jsonReply(200, fillTemplate(assets.openapi, LIMITS));

/** A time (ms since 1970) as ISO 8601 in UTC. The text is made once per second: a Date is 4 % of a post. */
function toIso(time: number): string {
  const second = Math.floor(time / SECOND);
  if (second !== latest.second) latest = { second, text: new Date(second * SECOND).toISOString().slice(0, 20) };
  return `${latest.text}${String(time - second * SECOND).padStart(3, "0")}Z`;
}

let latest = { second: NaN, text: "" };

/** An invitation that expires at `expiresAt` (ms since 1970). */
function makeLink(chat: Chat, expiresAt: number, context: RequestContext): InviteLink {
  const chatId = chat.id.slice(-RANDOM_ID_LENGTH);
  const payload = { kind: "invite", chatId, counter: chat.inviteGeneration, expiresAt } as const;
  const token = signToken(payload, context.state.options.secret);
  return {
    magic_link: `${baseUrl(context, true)}/${chat.id}#invite=${token}`,
    invite_token: token,
    expires_at: toIso(expiresAt),
    seats_left: LIMITS.seats - chat.members.length,
  };
}

/** A view of an invitation for people who have not joined yet. @throws ApiError chat_full */
function viewInvite(chat: Chat, expiresAt: number): InvitePreview {
  const seatsLeft = LIMITS.seats - chat.members.length;
  if (seatsLeft === 0) throw new ApiError("chat_full");
  const members = chat.members.map((member) => member.username);
  return { chat_id: chat.id, seats_left: seatsLeft, members, expires_at: toIso(expiresAt) };
}

function sessionReply(status: 200 | 201, member: Member, context: RequestContext): Reply {
  const { chat } = member;
  const session: Session = {
    chat_id: chat.id,
    session_token: member.token,
    member_id: member.id,
    username: member.username,
    expires_at: toIso(member.expiresAt),
    url: `${baseUrl(context, true)}/${chat.id}`,
  };
  return jsonReply(status, session, { Location: `/${chat.id}`, "Access-Control-Expose-Headers": "Location" });
}

/** A PollReply for one reader. Messages are stored as JSON, so one message for five readers is serialised once and
 * reading 30 messages again serialises nothing. */
function pollReply(member: Member, since: number, now: number, isRetry: boolean): Reply {
  const { chat } = member;
  // One entry per field: a field missing here fails the type check. Joining the entries in a loop would cost 0.4 µs.
  const json = {
    messages: `[${messagesSince(chat, since).join()}]`,
    cursor: chat.cursor,
    missed: chat.lastDropped > since,
    members: membersJson(member, now),
    expires_at: member.expiresAtJson,
    retry_in: isRetry ? `,"retry_in":${LIMITS.retrySeconds}` : "",
    removed: removedJson(chat),
  } satisfies Record<keyof PollReply, unknown>;
  const rest = `"members":${json.members},"expires_at":${json.expires_at}${json.retry_in}${json.removed}`;
  return jsonReply(200, `{"messages":${json.messages},"cursor":${json.cursor},"missed":${json.missed},${rest}}`);
}

// X-Accel-Buffering: nginx would hold lines back until it has a buffer full of them.
const STREAM_HEADERS = { ...API_HEADERS, "Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no" };

/** A stream that ends after what there is now. */
function streamReply(member: Member, since: number, now: number): Reply {
  return { ...NO_CONTENT, status: 200, headers: STREAM_HEADERS, body: `${streamLines(member, since, now, true)}\n` };
}

/** The next lines of a stream that has reached `since`. `isFirst` starts with the members. A reader that continues from
 * the `cursor` of any line, or from a message's id, has everything written before that line and misses nothing. */
function streamLines(member: Member, since: number, now: number, isFirst: boolean): string {
  const { chat } = member;
  const messages = messagesSince(chat, since);
  // Not beyond the messages that follow, nor beyond those reported as missed.
  const cursor = messages.length > 0 ? since : chat.cursor;
  const hasNewMembers = isFirst || since < chat.membersChangedAt;
  return [
    ...(hasNewMembers ? [`{"members":${membersJson(member, now)},"cursor":${cursor}${removedJson(chat)}}`] : []),
    ...(chat.lastDropped > since ? ['{"missed":true}'] : []),
    ...messages,
  ].join("\n");
}

function messagesSince(chat: Chat, since: number): string[] {
  return chat.messages.slice(chat.messageIds.findLastIndex((id) => id <= since) + 1);
}

/** The ids of removed members as the last field of a JSON object; empty if there are none. */
function removedJson({ removed }: Chat): string {
  return removed.length > 0 ? `,"removed":${toJson(removed)}` : "";
}

/** The members as `reader` sees them: a MemberView[] in JSON. */
function membersJson(reader: Member, now: number): string {
  const views = reader.chat.members.map((member) => {
    const isOnline = member.openPolls > 0 || now - member.lastSeen < LIMITS.onlineMs;
    return `{${member.viewJson},"online":${isOnline},"you":${member === reader}}`;
  });
  return `[${views.join()}]`;
}

/* ---- Addresses ---------------------------------------------------------------------------------------
 * Where links point, and whom to count for a request. Headers of a proxy are used only with
 * --trust-proxy. */

/** Where links point: `--url`, else the address the request was sent to. With `forOthers`, a loopback address is
 * replaced by the one on the local network, so that the link opens on a phone. */
function baseUrl(context: RequestContext, forOthers: boolean): string {
  const { options } = context.state;
  if (options.url !== undefined) return options.url;
  const scheme = /^https?$/.exec(forwarded(context, "proto").toLowerCase())?.[0] ?? ownScheme(context);
  const host = [forwarded(context, "host"), context.host ?? ""].find(isHost);
  const { localAddress = "localhost", localPort = 0 } = context.socket;
  const isLocal = isLoopback(host ?? plainAddress(localAddress));
  const [lan] = forOthers && isLocal ? lanUrls(context) : [];
  if (lan !== undefined) return lan;
  return host === undefined ? addressUrl(scheme, plainAddress(localAddress), localPort) : `${scheme}://${host}`;
}

function ownScheme({ state }: RequestContext): "http" | "https" {
  return state.options.tls ? "https" : "http";
}

/** The URLs at which other devices reach this machine, the best to share first. */
function lanUrls(context: RequestContext): string[] {
  const { lanAddresses, host } = context.state.options;
  const found = listeningAddresses(lanAddresses?.() ?? [], host);
  return found.map(({ address }) => addressUrl(ownScheme(context), address, context.socket.localPort ?? 0));
}

/** The same, but only for a person or a script on this machine itself, and not with `--url`. */
function ownUrls(context: RequestContext): string[] {
  const urls = context.state.options.url === undefined ? lanUrls(context) : [];
  return isFromThisMachine(context, urls) ? urls : [];
}

/** Whether a request comes from this machine, and from no page of another site. Such a page sends its own Origin, or
 * the site's name as Host, if that name leads here (DNS rebinding). Nor does the client of a proxy count. */
function isFromThisMachine(context: RequestContext, urls: string[]): boolean {
  const { headers, host = "", socket } = context;
  if (Object.keys(headers).some((name) => /^(?:(?:x-)?forwarded|via$|x-real-ip$)/.test(name))) return false;
  const [remote, local] = [socket.remoteAddress, socket.localAddress].map((each) => plainAddress(each ?? ""));
  const isSameMachine = isLoopback(remote ?? "") || remote === local;
  const origin = `${ownScheme(context)}://${host}`;
  const isOwnName = isLoopback(host) || urls.includes(origin);
  return isSameMachine && isOwnName && (headers.origin ?? origin) === origin;
}

/** The last element of an X-Forwarded header, which the nearest proxy wrote; "" without --trust-proxy. */
function forwarded(context: RequestContext, name: "for" | "proto" | "host"): string {
  if (!context.state.options.trustProxy) return "";
  const value = String(context.headers[`x-forwarded-${name}`] ?? "");
  return value.slice(value.lastIndexOf(",") + 1).trim();
}

/** A well-formed host with or without a port, safe to repeat in a link or in the help. */
function isHost(host: string): boolean {
  return /^[a-z0-9._:[\]-]{1,255}$/i.test(host) && URL.canParse(`http://${host}`);
}

/** The address to count a request for. Of IPv6 only the /64, which one household or machine has to itself. */
function clientAddress(context: RequestContext): string {
  const claimed = plainAddress(forwarded(context, "for"));
  const address = isIP(claimed) ? claimed : plainAddress(context.socket.remoteAddress ?? "");
  if (!isIPv6(address)) return address;
  // "2001:db8::1" has four parts, one of them the gap: 9 - 4 zeros stand for it.
  const full = address.replace("::", `${":0".repeat(9 - address.split(":").length)}:`);
  const groups = full.split(":", 4).map((group) => parseInt(group || "0", 16));
  return groups.join(":");
}

/* ---- Chats -------------------------------------------------------------------------------------------
 * The store: seats, the last 30 messages, cursors, waiters, expiry. It knows nothing of HTTP and has no
 * timer: `expire` and `sweep` do what is due by the injected clock. */

export class Chats {
  /** The start of every chat id: the node's name and a dash, or nothing. */
  readonly prefix: string;
  readonly #options: Options;
  readonly #chats = new Map<string, Chat>();
  /** All seats by session token, in order of joining. Sessions last equally long, so this is also the order of expiry.
   * After the clock was set back a seat may be kept for that much longer; its token still ends on time. */
  readonly #seats = new Map<string, Member>();
  /** No seat expires before this time (ms), so most requests need not look for one. */
  #nextExpiry = Infinity;
  readonly #seatByKey = new Map<string, Member>();
  readonly #waiters = new Set<Waiter>();
  readonly #waitersByBrowser = new Map<string, Set<Waiter>>();
  #messages = 0;

  constructor(options: Options) {
    this.#options = options;
    this.prefix = options.node === undefined ? "" : `${options.node}-`;
  }

  /** Chats, taken seats, held polls and streams; and messages since the start. */
  count(): { chats: number; members: number; waiters: number; messages: number } {
    const [chats, members, waiters] = [this.#chats.size, this.#seats.size, this.#waiters.size];
    return { chats, members, waiters, messages: this.#messages };
  }

  get(id: string): Chat | undefined {
    return this.#chats.get(id);
  }

  /** The seat with this session token, which may have expired. The time of the lookup reveals no part of a token: V8 hashes
   * strings with a random seed, and compares characters only if two hashes are equal. */
  findSeat(token: string): Member | undefined {
    return this.#seats.get(token);
  }

  /** Ensures that an address may create one more chat. A full server ends the chat that has been idle longest. @throws
   * ApiError rate_limited, server_full */
  makeRoom(address = ""): void {
    const { maxChats = LIMITS.chats, rateLimit, now } = this.#options;
    const share = Math.max(LIMITS.chatsPerAddress, Math.floor(maxChats * LIMITS.addressShare));
    const own = rateLimit === false ? [] : [...this.#chats.values()].filter((chat) => chat.address === address);
    if (own.length >= share) throw new ApiError("rate_limited", retryAfter(60));
    if (this.#chats.size < maxChats) return;
    const idleSince = now() - LIMITS.idleMs;
    const alone = [...this.#chats.values()].flatMap(({ members }) => (members.length === 1 ? members : []));
    const idle = alone.filter(({ chat, lastSeen }) => chat.waiters.size === 0 && lastSeen <= idleSince);
    const [longest] = idle.toSorted((a, b) => a.lastSeen - b.lastSeen);
    if (!longest) throw new ApiError("server_full", retryAfter(60));
    this.end(longest.chat);
  }

  /** Creates a chat (96 random bits of id) and returns its creator's seat. */
  create(username: string | undefined, seatKey: string | undefined, address = ""): Member {
    const chat = new Chat(this.prefix + randomBytes(12).toString("base64url"), address);
    this.#chats.set(chat.id, chat);
    chat.creator = this.join(chat, username, seatKey);
    return chat.creator;
  }

  /** Takes the lowest free seat. The caller has checked that there is one. @throws ApiError username_taken */
  join(chat: Chat, username: string | undefined, seatKey: string | undefined): Member {
    if (username !== undefined && isNameTaken(chat, username)) throw new ApiError("username_taken");
    chat.membersEver += 1;
    const member = this.#newMember(chat, username, seatKey);
    chat.members.push(member);
    this.#seats.set(member.token, member);
    this.#nextExpiry = Math.min(this.#nextExpiry, member.expiresAt);
    if (seatKey !== undefined) this.#seatByKey.set(seatKey, member);
    chat.cursor += 1;
    chat.membersChangedAt = chat.cursor;
    this.#wake(chat);
    return member;
  }

  #newMember(chat: Chat, username: string | undefined, seatKey: string | undefined): Member {
    const { now, secret } = this.#options;
    const [id, seat, lastSeen] = [String(chat.membersEver), lowestFreeSeat(chat), now()];
    const expiresAt = lastSeen + LIMITS.sessionMs;
    const chatId = chat.id.slice(-RANDOM_ID_LENGTH);
    const token = signToken({ kind: "session", chatId, counter: chat.membersEver, expiresAt }, secret);
    const name = username ?? guestName(chat, seat);
    const view = { id, username: name, creator: chat.membersEver === 1 } satisfies Partial<MemberView>;
    const json = { viewJson: toJson(view).slice(1, -1), expiresAtJson: JSON.stringify(toIso(expiresAt)) };
    const start = { lastSeen, openPolls: 0, postsByKey: undefined };
    return { chat, id, seat, username: name, expiresAt, token, ...json, seatKey, ...start };
  }

  /** The seat taken with this key in the last ten minutes, unless it has been freed. */
  findSeatByKey(seatKey: string | undefined): Member | undefined {
    const member = this.#seatByKey.get(seatKey ?? "");
    return member && this.#isFresh(member.expiresAt - LIMITS.sessionMs) ? member : undefined;
  }

  #isFresh(time: number): boolean {
    return this.#options.now() - time < LIMITS.keyMs;
  }

  /** Makes a chat's code valid for 30 minutes from `now` (ms), the time of its link. Returns it as people write it. */
  renewCode(chat: Chat, now: number): string {
    if (chat.code === undefined || this.findByCode(chat.code) !== chat) chat.code = this.#newCode();
    chat.codeExpiresAt = now + LIMITS.codeMs;
    return `${this.prefix}${chat.code.slice(-8, -4)}-${chat.code.slice(-4)}`;
  }

  #newCode(): string {
    // 40 random bits: 32 divides 256, so each digit is equally likely.
    const digits = Array.from(randomBytes(8), (byte) => CODE_DIGITS[byte % 32]);
    const code = foldCode(this.prefix) + digits.join("");
    return this.findByCode(code) ? this.#newCode() : code;
  }

  /** The chat that a code, in any spelling, stands for now. Scanning 1,000 chats takes 0.02 ms. */
  findByCode(code: string): Chat | undefined {
    const [folded, now] = [foldCode(code), this.#options.now()];
    for (const chat of this.#chats.values()) if (chat.code === folded && now < chat.codeExpiresAt) return chat;
    return undefined;
  }

  /** Adds a message and wakes its readers. `raw`: the text as it was sent. Returns the message's JSON, a MessageView. */
  post(member: Member, text: string, key: string | undefined, raw = text): string {
    const { chat } = member;
    const now = this.#options.now();
    const id = chat.cursor + 1;
    const json = toJson(viewMessage(member, id, text, now));
    chat.messages.push(json);
    chat.messageIds.push(id);
    if (chat.messages.length > LIMITS.keptMessages) {
      chat.messages.shift();
      chat.lastDropped = chat.messageIds.shift() ?? 0;
    }
    if (key !== undefined) {
      member.postsByKey ??= new Map();
      setNewest(member.postsByKey, key, { id, sentAt: now, digest: digest(raw) }, LIMITS.keysPerSeat);
    }
    member.lastSeen = now;
    chat.cursor = id;
    this.#messages += 1;
    this.#wake(chat);
    return json;
  }

  /** The message this member posted with this key, if remembered. @throws ApiError invalid_key for another text */
  findPost(member: Member, key: string | undefined, raw: unknown): MessageView | undefined {
    const post = member.postsByKey?.get(key ?? "");
    if (!post || !this.#isFresh(post.sentAt)) return undefined;
    // The digest covers the text as it was sent, so only a text that was accepted before is cleaned again.
    if (typeof raw !== "string" || post.digest !== digest(raw)) throw new ApiError("invalid_key");
    return viewMessage(member, post.id, cleanText(raw), post.sentAt);
  }

  /** Frees seats, and ends a chat with its last one. `why` is sent to the freed members' own waiters. All seats go
   * before anyone is woken, so that nobody who expires at the same moment is shown as a member once more. */
  freeSeats(members: Member[], why: "revoked_token" | "expired_token"): void {
    for (const member of members) {
      const { chat } = member;
      this.#forget(member);
      chat.members.splice(chat.members.indexOf(member), 1);
      if (chat.creator === member) chat.creator = undefined;
      chat.cursor += 1;
      chat.membersChangedAt = chat.cursor;
      for (const waiter of chat.waiters) if (waiter.member === member) this.#endWait(waiter, why);
    }
    for (const { chat } of members) {
      if (chat.members.length === 0) this.end(chat);
      else this.#wake(chat);
    }
  }

  /** Ends a chat for all its members. */
  end(chat: Chat): void {
    this.#chats.delete(chat.id);
    for (const member of chat.members) this.#forget(member);
    for (const waiter of chat.waiters) this.#endWait(waiter, "chat_not_found");
  }

  #forget(member: Member): void {
    this.#seats.delete(member.token);
    const { seatKey = "" } = member;
    if (this.#seatByKey.get(seatKey) === member) this.#seatByKey.delete(seatKey);
  }

  /** Ends the waits of a chat's readers. Iterates over a copy, because streams are added again meanwhile. */
  #wake(chat: Chat): void {
    const waiters = [...chat.waiters];
    for (const waiter of waiters) this.#endWait(waiter, "answer");
  }

  /** Adds a waiter, or returns false if its seat or its browser has too many. A visible tab's poll takes the place of
   * the browser's oldest hidden one. */
  addWaiter(waiter: Waiter): boolean {
    const { member, browser } = waiter;
    if (member.openPolls >= LIMITS.pollsPerSeat || !this.#hasBrowserRoom(waiter)) return false;
    if (browser !== "") {
      const waiters = this.#waitersByBrowser.get(browser) ?? new Set();
      this.#waitersByBrowser.set(browser, waiters.add(waiter));
    }
    this.#waiters.add(waiter);
    member.chat.waiters.add(waiter);
    member.openPolls += 1;
    return true;
  }

  #hasBrowserRoom({ browser, isVisible }: Waiter): boolean {
    const waiters = this.#waitersByBrowser.get(browser);
    if (!waiters || waiters.size < LIMITS.pollsPerBrowser) return true;
    const hidden = isVisible ? [...waiters].find((waiter) => !waiter.isVisible) : undefined;
    if (hidden) this.#endWait(hidden, "retry");
    return hidden !== undefined;
  }

  /** Forgets a waiter that is about to be answered, or whose reader has disconnected. */
  removeWaiter(waiter: Waiter): void {
    const { member, browser } = waiter;
    if (!this.#waiters.delete(waiter)) return;
    member.chat.waiters.delete(waiter);
    member.openPolls -= 1;
    member.lastSeen = this.#options.now();
    const waiters = this.#waitersByBrowser.get(browser);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.#waitersByBrowser.delete(browser);
  }

  #endWait(waiter: Waiter, end: WaitEnd): void {
    this.removeWaiter(waiter);
    waiter.onEnd?.(end);
  }

  /** Frees expired seats. Runs before every request, so it looks at the seats only when one is due. */
  expire(now: number): void {
    if (now < this.#nextExpiry) return;
    const due: Member[] = [];
    this.#nextExpiry = Infinity;
    for (const member of this.#seats.values()) {
      if (now < member.expiresAt) {
        this.#nextExpiry = member.expiresAt;
        break;
      }
      due.push(member);
    }
    this.freeSeats(due, "expired_token");
  }

  /** Ends expired sessions, and polls whose time is up. Scanning 60,000 polls takes a millisecond. */
  sweep(now: number): void {
    this.expire(now);
    for (const waiter of this.#waiters) {
      // The distance, not the order: after the clock was set back an hour a poll must not last an hour.
      if (Math.abs(now - waiter.heldAt) >= waiter.wait * SECOND) this.#endWait(waiter, "answer");
    }
  }

  endAllWaits(why: ErrorCode): void {
    for (const waiter of this.#waiters) this.#endWait(waiter, why);
  }
}

/** Crockford's base32: without I, L, O and U. */
const CODE_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** Gives all spellings of a code the same form: only letters and digits, upper case, O read as 0, I and L read as 1. */
function foldCode(code: string): string {
  return code
    .replace(/[^\p{L}\p{N}]/gu, "")
    .toUpperCase()
    .replaceAll("O", "0")
    .replace(/[IL]/g, "1");
}

function viewMessage(member: Member, id: number, text: string, sentAt: number): MessageView {
  return { id, member_id: member.id, username: member.username, text, sent_at: toIso(sentAt) };
}

function lowestFreeSeat(chat: Chat): number {
  let seat = 1;
  while (chat.members.some((member) => member.seat === seat)) seat += 1;
  return seat;
}

function isNameTaken(chat: Chat, username: string): boolean {
  const folded = foldUsername(username);
  return chat.members.some((member) => foldUsername(member.username) === folded);
}

/** `Guest n`: n is the seat's number, or the next one whose name is free. */
function guestName(chat: Chat, n: number): string {
  return isNameTaken(chat, `Guest ${n}`) ? guestName(chat, n + 1) : `Guest ${n}`;
}

/** Sets a Map's entry as the newest and drops the oldest above `limit`. A Map keeps the order of insertion. */
function setNewest<Value>(map: Map<string, Value>, key: string, value: Value, limit: number): void {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > limit && oldest !== undefined) map.delete(oldest);
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("base64");
}

/* ---- Tokens ------------------------------------------------------------------------------------------
 * Pure functions of payload, secret and time. A token is `<payload>.<signature>`, both in
 * base64url. The payload is binary, 22 bytes instead of about 90 of JSON, to keep the QR code small:
 *
 *   bytes  0 to 2   the member's number, or the invitation's generation (big-endian, like all numbers)
 *          3        the kind: 1 session, 2 invite
 *          4 to 15  the chat's 96 random bits
 *         16 to 21  the expiry, ms since 1970
 *
 * For example, the first member's session token starts with AAABAQ (0, 0, 1, then 1). The counter wraps
 * after 16 million joins in one chat; even then the expiry makes the tokens differ. */

const TOKEN_KINDS = ["session", "invite"] as const;
const PAYLOAD_BYTES = 22;
const COUNTER_RANGE = 2 ** 24;

/** `chatId`: the chat's 16 random characters. `counter`: below 2^24, see above. `expiresAt`: ms since 1970. */
export interface TokenPayload {
  readonly kind: (typeof TOKEN_KINDS)[number];
  readonly chatId: string;
  readonly counter: number;
  readonly expiresAt: number;
}

/** Signs with HMAC-SHA256 (RFC 2104). Returns 74 characters. */
export function signToken(payload: TokenPayload, secret: Buffer): string {
  const bytes = Buffer.alloc(PAYLOAD_BYTES);
  bytes.writeUIntBE(payload.counter % COUNTER_RANGE, 0, 3);
  bytes.writeUInt8(TOKEN_KINDS.indexOf(payload.kind) + 1, 3);
  bytes.write(payload.chatId, 4, 12, "base64url");
  bytes.writeUIntBE(payload.expiresAt, 16, 6);
  const encoded = bytes.toString("base64url");
  return `${encoded}.${createHmac("sha256", secret).update(encoded).digest("base64url")}`;
}

/** The payload of a token of this kind, signed with this secret. `now`: ms. @throws ApiError invalid_token, expired_token */
export function readToken(token: string, kind: TokenPayload["kind"], secret: Buffer, now: number): TokenPayload {
  const bytes = Buffer.from(token.split(".", 1)[0] ?? "", "base64url");
  const claimed = bytes.length === PAYLOAD_BYTES ? TOKEN_KINDS[bytes.readUInt8(3) - 1] : undefined;
  if (claimed !== kind) throw new ApiError("invalid_token");
  const [chatId, counter] = [bytes.toString("base64url", 4, 16), bytes.readUIntBE(0, 3)];
  const payload = { kind, chatId, counter, expiresAt: bytes.readUIntBE(16, 6) };
  // base64url decoding accepts several spellings of the same bytes. Signing the payload again gives the valid one.
  if (!constantTimeEqual(token, signToken(payload, secret))) throw new ApiError("invalid_token");
  if (now >= payload.expiresAt) throw new ApiError("expired_token");
  return payload;
}

/** Compares in a time that does not depend on where the strings differ. */
function constantTimeEqual(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}

/* ---- Text --------------------------------------------------------------------------------------------
 * The rules for names and messages, by Unicode properties only: no lists of characters of our own.
 * Pure functions. */

const segmenter = new Intl.Segmenter();
/** A character that is not blank and does not only change its neighbours. U+2800 is an empty Braille pattern. */
const VISIBLE = /[^\p{M}\p{White_Space}\p{Default_Ignorable_Code_Point}\p{Cf}\u2800]/u;

/** A message as readers get it: well-formed, NFC, newlines as \n, no control characters except newline and tab,
 * trimmed. 1 to 2,000 graphemes (UAX #29), one of them visible, and at most 8,192 bytes. @throws ApiError invalid_text */
export function cleanText(raw: unknown): string {
  if (typeof raw !== "string") throw new ApiError("invalid_text");
  const cleaned = removeControls(raw);
  const text = (LONG_MARKS.test(cleaned) ? cleaned : cleaned.normalize("NFC")).trim();
  const isValid = VISIBLE.test(text) && fits(text, LIMITS.messageGraphemes, LIMITS.messageBytes);
  if (!isValid) throw new ApiError("invalid_text");
  return text;
}

/** More marks in a row than any real text has: 30 is the limit of the Stream-Safe Text Format (UAX #15, section 13).
 * Normalising sorts them in quadratic time, a second for 32 KiB, so a text with more is left as it is. The lookbehind
 * tries each run of marks once, and not again from each of its marks. */
const LONG_MARKS = /(?<!\p{M})\p{M}{31}/u;

/** A name as readers get it: like a message, but on one line, without bidi controls and stray joiners. 1 to 24
 * graphemes and at most 96 bytes, with at least one visible base character. @throws ApiError invalid_username */
export function cleanUsername(raw: unknown): string {
  if (typeof raw !== "string") throw new ApiError("invalid_username");
  const spaced = removeControls(raw).replace(/[\p{Bidi_Control}\u2028\u2029\ufeff\u00ad]/gu, "");
  // Joiners next to white space are removed with it. The added spaces do the same for the ends of the name.
  const joined = ` ${spaced} `.replace(/[\u200c\u200d\p{White_Space}]+/gu, (run) =>
    /\p{White_Space}/u.test(run) ? " " : run,
  );
  // Checked before normalising, which takes quadratic time for marks in a row.
  if (STACKED_MARKS.test(joined)) throw new ApiError("invalid_username");
  const name = joined.trim().normalize("NFC");
  const isValid = VISIBLE.test(name) && fits(name, LIMITS.usernameGraphemes, LIMITS.usernameBytes);
  if (!isValid || STACKED_MARKS.test(name.normalize("NFD"))) throw new ApiError("invalid_username");
  return name;
}

const STACKED_MARKS = new RegExp(`(?:\\p{M}[\\u200c\\u200d]*){${LIMITS.combiningMarks + 1}}`, "u");

/** Folds names that look the same to the same string: Unicode's toNFKC_Casefold (The Unicode Standard, section 3.13),
 * so compatibility forms, case and invisible characters make no difference. */
export function foldUsername(name: string): string {
  const compatible = name.normalize("NFKC").replace(/\p{Default_Ignorable_Code_Point}/gu, "");
  // Lower, upper, lower is full case folding (ß and ẞ become ss), except for the dotless ı, which folds to itself.
  const folded = compatible.split("ı").map((part) => part.toLowerCase().toUpperCase().toLowerCase());
  return folded.join("ı").normalize("NFKC");
}

function removeControls(raw: string): string {
  const lines = raw.toWellFormed().replace(/\r\n?/g, "\n");
  return lines.replace(/[^\P{Cc}\n\t]/gu, "");
}

/** A text has at most as many graphemes as code units, so only a long one has to be segmented. */
function fits(text: string, graphemes: number, bytes: number): boolean {
  if (text === "" || Buffer.byteLength(text) > bytes) return false;
  return text.length <= graphemes || [...segmenter.segment(text)].length <= graphemes;
}

/* ---- Rate limits -------------------------------------------------------------------------------------
 * Token buckets, each stored as one number: the time at which it will be full again (the generic cell
 * rate algorithm, ITU-T I.371). For example, with a burst of 20 and 5 per second each token moves that
 * time by 200 ms, and it may be at most 20 × 200 ms = 4 s ahead. */

/** Takes a token from a bucket that is full at `fullAt` (ms). Returns when it will be full then. @throws ApiError
 * rate_limited */
function takeToken(rate: keyof typeof RATES, fullAt: number, now: number): number {
  const { burst, perSecond } = RATES[rate];
  const interval = SECOND / perSecond;
  const capacity = burst * interval;
  // After the clock was set back `fullAt` may be far ahead; the bucket is then just empty.
  const next = Math.min(Math.max(fullAt, now), now + capacity) + interval;
  if (next <= now + capacity) return next;
  throw new ApiError("rate_limited", retryAfter(Math.ceil((next - capacity - now) / SECOND)));
}

/** Counts a post, or an invitation, whose QR code takes a millisecond, against its member's seat. @throws ApiError
 * rate_limited */
function countForSeat({ chat, seat }: Member, { state, now }: RequestContext): void {
  if (state.options.rateLimit === false) return;
  chat.messageBucketFullAt[seat] = takeToken("message", chat.messageBucketFullAt[seat] ?? 0, now);
}

/** Counts a request against its client's address. @throws ApiError rate_limited */
function countRequest(what: "create" | "join" | "bad token", context: RequestContext): void {
  reserveToken(what, context)();
}

/** Checks whether a client's address has a token left, and returns a function that takes it. @throws ApiError rate_limited */
function reserveToken(what: "create" | "join" | "bad token", context: RequestContext): () => void {
  const { options, bucketFullAt } = context.state;
  if (options.rateLimit === false) return ignore;
  const bucket = `${what} ${clientAddress(context)}`;
  const fullAt = takeToken("address", bucketFullAt.get(bucket) ?? 0, context.now);
  return () => setNewest(bucketFullAt, bucket, fullAt, LIMITS.countedAddresses);
}

/* ---- Errors ------------------------------------------------------------------------------------------
 * One catalogue, one class, and one function (`errorReply`) that turns anything thrown into a reply.
 * Every sentence says what is wrong and what to do. */

/** The catalogue, docs/errors.json. Its sentences take their numbers from LIMITS. */
export const ERRORS = assets.errors;
export type ErrorCode = keyof typeof ERRORS;

/** A refused request, with the reply to send. `example`: what would have been accepted. */
export class ApiError extends Error {
  readonly code: ErrorCode;
  readonly reply: Reply;

  constructor(code: ErrorCode, headers: ReplyHeaders = {}, example = "") {
    const { status, message: template } = ERRORS[code];
    const sentence = fillTemplate(template, LIMITS);
    const message = example === "" ? sentence : `${sentence} Example: ${example}.`;
    super(message);
    this.code = code;
    const challenge = status === 401 ? { "WWW-Authenticate": "Bearer" } : {};
    this.reply = jsonReply(status, { error: code, message } satisfies ErrorReply, { ...challenge, ...headers });
  }
}

/** The reply to anything thrown. Every refusal passes here, so the metrics count it. */
function errorReply(thrown: unknown, { options, errorCounts }: ServerState): Reply {
  const error = thrown instanceof ApiError ? thrown : new ApiError("internal");
  if (error !== thrown) (options.logError ?? console.error)(thrown);
  errorCounts.set(error.code, (errorCounts.get(error.code) ?? 0) + 1);
  return error.reply;
}

/* ---- HTTP --------------------------------------------------------------------------------------------
 * The only code that reads `req` and writes `res`: from a request to a context, through its route, to a
 * written reply. It also bounds what a connection may hold, in bytes and in time. */

const NO_BODY = Buffer.alloc(0);

/** Makes a pipelined request wait until the answer before it has been taken. Otherwise the answers to a client that
 * never reads would pile up, and one connection could hold any number of polls. */
function queueRequest(req: IncomingMessage, res: ServerResponse, state: ServerState): void {
  const connection = state.connections.get(req.socket);
  const weight = queueWeight(req);
  if (!connection || connection.queuedBytes + weight > LIMITS.queuedBytes) return void req.socket.destroy();
  connection.queuedBytes += weight;
  const arriving = hasPendingBody(req) ? collectBody(req) : undefined;
  // Node attaches a response to its socket when the response before it has finished.
  res.once("socket", () => {
    connection.queuedBytes -= weight;
    handleRequest(req, res, state, arriving);
  });
}

/** Roughly the bytes a queued request holds: 1.5 kB with its response, two strings per header, and its body. */
function queueWeight(req: IncomingMessage): number {
  const base = 1_536 + (req.url?.length ?? 0) + (hasPendingBody(req) ? bodyCapacity(req) : 0);
  return req.rawHeaders.reduce((sum, text) => sum + 32 + text.length, base);
}

function handleRequest(req: IncomingMessage, res: ServerResponse, state: ServerState, arriving?: ArrivingBody): void {
  const { method = "", url = "", headers, socket } = req;
  // In an absolute target (RFC 9112, section 3.2.2) the authority replaces Host.
  const [origin = "", authority] = url.startsWith("/") ? [] : (/^https?:\/\/([^/?]*)/i.exec(url) ?? []);
  const [path = "", query = ""] = url.slice(origin.length).split("?", 2);
  const [, chatId = "", , memberId = ""] = path.split("/", 4);
  const context: RequestContext = {
    state,
    method,
    path: path || "/",
    query,
    chatId,
    memberId,
    headers,
    host: authority ?? headers.host,
    socket,
    now: 0,
    arriving,
    body: NO_BODY,
    isTooLarge: false,
    bodyExample: "",
  };
  if (state.options.log) logWhenDone(context, res, state.options.log);
  respond(context, res, () => dispatch(context, res));
}

/** One line per request: time, method, path without its query, status, milliseconds. */
function logWhenDone({ method, path }: RequestContext, res: ServerResponse, log: (line: string) => void): void {
  const start = performance.now();
  // Some programs encode the # of a link, and its token arrives in the path. Any encoding of a token is longer than an id.
  const shown = path.replace(new RegExp(`[^/]{${LONGEST_CHAT_ID + 1},}`, "g"), "<token>");
  res.once("close", () => {
    const status = res.headersSent ? res.statusCode : "gone";
    log(`${toIso(Date.now())} ${method} ${shown} ${status} ${(performance.now() - start).toFixed(1)} ms`);
  });
}

/** The only way to a reply: sends what `run` returns, keeps a waiter open, and turns what `run` throws into an error. */
function respond(context: RequestContext, res: ServerResponse, run: () => Reply | Waiter | undefined): void {
  let outcome: Reply | Waiter | undefined;
  try {
    outcome = run();
  } catch (error) {
    outcome = errorReply(error, context.state);
  }
  if (outcome?.kind === "waiter") keepOpen(outcome, context, res);
  else if (outcome) sendReply(outcome, context, res);
}

/** Finds the route and runs it. Returns undefined while the body is still arriving. */
function dispatch(context: RequestContext, res: ServerResponse): Reply | Waiter | undefined {
  startClock(context);
  checkHeaders(res.req, context);
  const { options, phase } = context.state;
  const endpoint = ENDPOINTS.find(({ pattern }) => pattern.test(context.path));
  if (!endpoint && wantsPage(context)) return pageReply(context, 404);
  if (!endpoint || (endpoint.path === "/metrics" && !options.metrics)) throw new ApiError("not_found");
  if (context.method === "OPTIONS") return optionsReply(endpoint.allowed);
  const method = context.method === "HEAD" ? "GET" : context.method;
  const route = endpoint.routes.find((each) => each.method === method);
  if (!route) throw new ApiError("method_not_allowed", { Allow: endpoint.allowed });
  if (phase !== "running" && route.handle !== readMessages) throw new ApiError("stopping");
  if (route.isPage && wantsPage(context)) return pageReply(context, 200);
  if (route.rate) countRequest(route.rate, context);
  if (route.body === undefined) return runRoute(route, context);
  context.bodyExample = route.body;
  const member = route.caller === "anyone" ? undefined : authoriseMember(context, route.caller);
  if (!context.arriving && !hasPendingBody(res.req)) return runRoute(route, context, member);
  readBody(context, res, () => runRoute(route, context, member));
  return undefined;
}

/** Sets the request's time, and first ends what has expired by then. */
function startClock(context: RequestContext): void {
  context.now = context.state.options.now();
  context.state.chats.expire(context.now);
}

/** Refuses a request with too many headers, or with a Host that is missing or malformed (RFC 9112, section 3.2).
 * @throws ApiError headers_too_large, bad_request */
function checkHeaders({ rawHeaders, httpVersion }: IncomingMessage, { headers, host }: RequestContext): void {
  // Node drops headers above `maxHeadersCount`, which is one more than the limit.
  if (rawHeaders.length > 2 * LIMITS.headers) throw new ApiError("headers_too_large", CLOSE);
  // Most requests have the same Host, and checking it again would take one or two microseconds.
  if (host !== undefined && host === headers.host && host === latestHost) return;
  const isBad = headers.host === undefined ? httpVersion === "1.1" : !isHost(headers.host);
  if (isBad || (host !== headers.host && !isHost(host ?? ""))) throw new ApiError("bad_request", CLOSE);
  latestHost = headers.host ?? latestHost;
}

let latestHost: string | undefined;

/** `known`: the member whose token was checked before the body arrived. It only has to hold its seat still. */
function runRoute(route: Route, context: RequestContext, known?: Member): Reply | Waiter {
  if (route.caller === "anyone") return route.handle(context);
  const isValid = known && context.state.chats.findSeat(known.token) && context.now < known.expiresAt;
  return route.handle(context, isValid ? known : authoriseMember(context, route.caller));
}

/** Waits for the body, then runs the route; a body that is too large runs it at once, without a body. */
function readBody(context: RequestContext, res: ServerResponse, run: () => Reply | Waiter): void {
  const { state } = context;
  const body = context.arriving ?? collectBody(res.req);
  const announced = Number(context.headers["content-length"] ?? 0);
  const finish = (): void => {
    context.isTooLarge = Math.max(announced, body.size) > LIMITS.bodyBytes;
    if (!context.isTooLarge) context.body = body.bytes.subarray(0, body.size);
    respond(context, res, () => {
      if (state.phase === "closing") throw new ApiError("stopping");
      startClock(context);
      return run();
    });
  };
  if (body.isDone || announced > LIMITS.bodyBytes) return finish();
  state.receiving.add(context.socket);
  body.onDone = () => {
    finish();
    state.receiving.delete(context.socket);
  };
}

/** The most bytes of a body that are kept: as many as it announces, up to the limit. */
function bodyCapacity({ headers }: IncomingMessage): number {
  return Math.min(Number(headers["content-length"] ?? LIMITS.bodyBytes), LIMITS.bodyBytes);
}

/** Reads a body into one buffer, up to the limit. Uses events: `for await` over a request costs a third of the throughput. */
function collectBody(req: IncomingMessage): ArrivingBody {
  const capacity = bodyCapacity(req);
  const body: ArrivingBody = { bytes: NO_BODY, size: 0, isDone: false, onDone: ignore };
  const finish = (): void => {
    body.isDone = true;
    body.onDone();
  };
  req.on("data", (chunk: Buffer) => {
    if (body.isDone) return;
    // From the second chunk on they share one buffer: kept apart, chunks of one byte would take 300 bytes each.
    if (body.size === 0) body.bytes = chunk;
    else if (body.bytes.length < capacity) body.bytes = Buffer.concat([body.bytes], capacity);
    if (body.size > 0) chunk.copy(body.bytes, body.size);
    body.size += chunk.length;
    if (body.size > LIMITS.bodyBytes) finish();
  });
  req.on("end", () => body.isDone || finish());
  return body;
}

/** Keeps a poll open until its wait ends or its reader disconnects. */
function keepOpen(waiter: Waiter, context: RequestContext, res: ServerResponse): void {
  const { options, connections } = context.state;
  const connection = connections.get(context.socket);
  if (connection) connection.waiter = waiter;
  waiter.onEnd = (end) => {
    if (connection) connection.waiter = undefined;
    respond(context, res, () => {
      if (end !== "answer" && end !== "retry") throw new ApiError(end);
      return pollReply(waiter.member, waiter.since, options.now(), end === "retry");
    });
  };
  if (waiter.isStream) writeStream(waiter, context, res);
  // Held polls are most of what is in memory, and only their start needed the headers. A body has no meaning here;
  // unread, each piece of it would stay in memory, 200 bytes for a piece of one byte.
  if (hasPendingBody(res.req)) discardBody(res.req, () => context.socket.destroy());
  else res.req.headers = context.headers = {};
  res.req.rawHeaders = [];
}

/** Writes new lines and waits again, until an error ends the stream. A reader that does not keep up gets nothing more
 * until it has taken everything. Then it continues from its cursor, with `missed` if messages were dropped. */
function writeStream(waiter: Waiter, { state, socket }: RequestContext, res: ServerResponse): void {
  const { options, chats } = state;
  const { member } = waiter;
  let isWriting = false;
  const onWritten = (): void => {
    isWriting = false;
    if (waiter.since < member.chat.cursor && !res.writableEnded) write(false);
  };
  const write = (isFirst: boolean): void => {
    if (isWriting) return;
    isWriting = true;
    const lines = `${streamLines(member, waiter.since, options.now(), isFirst)}\n`;
    waiter.since = member.chat.cursor;
    const size = Buffer.byteLength(lines);
    if (isFirst || size > PIECE_BYTES || res.req.httpVersion === "1.0")
      return writePieces(Buffer.from(lines), res, onWritten);
    // A chunk (RFC 9112, section 7.1) in one write saves a fifth of a delivery's CPU time, as `res.write` makes four of it.
    // Once the headers are out, `res` holds nothing back, so both can write in turn.
    return socket.write(`${size.toString(16)}\r\n${lines}\r\n`) ? onWritten() : void socket.once("drain", onWritten);
  };
  waiter.onEnd = (end) => {
    if (end === "answer" || end === "retry") {
      write(false);
      waiter.heldAt = options.now();
      chats.addWaiter(waiter);
    } else {
      res.write(errorReply(new ApiError(end), state).body);
      res.end("\n");
      MID_ANSWER.delete(socket);
    }
  };
  MID_ANSWER.add(socket);
  res.writeHead(200, STREAM_HEADERS);
  write(true);
}

/** Writes bytes in pieces, each after the one before has been taken, so that `endUnread` sees a slow reader make
 * progress. Calls `onWritten` when nothing is left to wait for. */
function writePieces(bytes: Buffer, res: ServerResponse, onWritten: () => void, from = 0): void {
  for (let start = from; start < bytes.length; start += PIECE_BYTES) {
    const hasRoom = res.write(bytes.subarray(start, start + PIECE_BYTES));
    if (!hasRoom) return void res.once("drain", () => writePieces(bytes, res, onWritten, start + PIECE_BYTES));
  }
  onWritten();
}

const PIECE_BYTES = 16_384;

/** Connections with an answer that has begun and not ended. Nothing else may be written to them. */
const MID_ANSWER = new WeakSet<Duplex>();

function sendReply(reply: Reply, context: RequestContext, res: ServerResponse): void {
  if (context.isTooLarge || !hasPendingBody(res.req)) writeReply(reply, context, res, context.isTooLarge);
  // Most bodies arrive with their headers. Reading what is there first keeps the connection usable.
  else setImmediate(() => writeReply(reply, context, res, !res.req.complete));
}

/** Whether part of the request's body has not arrived yet. */
function hasPendingBody({ complete, headers }: IncomingMessage): boolean {
  if (complete) return false;
  return (headers["content-length"] ?? "0") !== "0" || headers["transfer-encoding"] !== undefined;
}

/** `isEarly`: the request's body has not arrived completely. */
function writeReply(reply: Reply, context: RequestContext, res: ServerResponse, isEarly: boolean): void {
  if (res.destroyed) return;
  const { status, headers, body } = reply;
  const { state, socket } = context;
  // While the server stops, a client that got a message comes back on the same connection for the last ones: it cannot
  // open another.
  const isLast = isEarly || (state.phase !== "running" && status === 503);
  res.writeHead(status, isLast ? { ...headers, ...CLOSE } : headers);
  if (!isEarly && body.length <= PIECE_BYTES) return void res.end(body);
  MID_ANSWER.add(socket);
  if (isEarly) return lingeringClose(body, res, state.phase === "running" ? LINGER.ms : 0);
  writePieces(typeof body === "string" ? Buffer.from(body) : body, res, () => {
    res.end();
    MID_ANSWER.delete(socket);
  });
}

const CLOSE = { Connection: "close" };
const LINGER = { ms: SECOND, bytes: 1_048_576 };

/** Writes the answer, then discards what still arrives for a while before closing. Closing at once on a client that is
 * still sending would reset the connection, and the answer could be lost (RFC 9112, section 9.6). */
function lingeringClose(body: Reply["body"], res: ServerResponse, milliseconds: number): void {
  res.write(body);
  const finish = (): void => {
    clearTimeout(timer);
    res.end();
  };
  const timer = setTimeout(finish, milliseconds);
  discardBody(res.req, finish);
  for (const event of ["end", "close"]) res.req.once(event, finish);
}

/** Reads a body and keeps none of it. Calls `onExcess` when it is larger than any honest mistake. */
function discardBody(req: IncomingMessage, onExcess: () => void): void {
  let discarded = 0;
  req.on("data", (chunk: Buffer) => {
    discarded += chunk.length;
    if (discarded > LINGER.bytes) onExcess();
  });
}

function optionsReply(allowed: string): Reply {
  const preflight = {
    Allow: allowed,
    "Access-Control-Allow-Methods": allowed,
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
    "Access-Control-Max-Age": 86_400,
  };
  return { ...NO_CONTENT, headers: { ...EMPTY_HEADERS, ...preflight } };
}

function wantsPage({ method, headers }: RequestContext): boolean {
  if (method !== "GET" && method !== "HEAD") return false;
  return headers.authorization === undefined && /text\/html/i.test(headers.accept ?? "");
}

const readPage = ({ gzip, ...page }: typeof assets.pages.en) => ({ ...page, gzip: Buffer.from(gzip, "base64") });
/** One page per language, compressed by the build, never per request. */
const PAGES = new Map(Object.entries(assets.pages).map(([tag, page]) => [withScript(tag), readPage(page)]));
const ENGLISH = readPage(assets.pages.en);

/** The page, the same for the home and for every chat: the address alone must not reveal whether a chat exists. */
function pageReply({ headers: asked }: RequestContext, status: 200 | 404): Reply {
  const languages = readPreferences(asked["accept-language"]).map(withScript);
  const page = PAGES.get(languages.find((language) => PAGES.has(language)) ?? "") ?? ENGLISH;
  const isGzip = readPreferences(asked["accept-encoding"]).includes("gzip");
  const tag = `"${page.tag}-${isGzip ? "gzip" : "identity"}"`;
  const headers = { ...page.headers, ETag: tag };
  const cached = asked["if-none-match"] ?? "";
  const isCached = status === 200 && (cached === "*" || cached.includes(tag));
  if (isCached) return { kind: "reply", status: 304, headers, body: "" };
  const body = isGzip ? page.gzip : gunzipSync(page.gzip);
  const content = { "Content-Type": "text/html; charset=utf-8", "Content-Length": body.length };
  const encoding = isGzip ? { "Content-Encoding": "gzip" } : {};
  return { kind: "reply", status, headers: { ...headers, ...content, ...encoding }, body };
}

/** Returns the values a client accepts, the best first (RFC 9110, section 12.4.2). A weight of 0 is a refusal. Only the
 * first 20 values count, and none above 64 characters: one that fills a header with spaces would take half a second. */
function readPreferences(header = ""): string[] {
  const short = header.split(",", 20).filter(({ length }) => length <= 64);
  const values = short.map((value) => value.trim().split(/\s*;\s*q=/i));
  const accepted = values.filter(([, weight = 1]) => Number(weight) > 0);
  return accepted.toSorted(([, a = 1], [, b = 1]) => Number(b) - Number(a)).map(([name = ""]) => name.toLowerCase());
}

/** A language and its likeliest script: "pt-Latn" for "pt-BR", "zh-Hant" for "zh-TW". Empty for `*` and nonsense. */
function withScript(tag: string): string {
  try {
    const { language, script } = new Intl.Locale(tag).maximize();
    return `${language}-${script}`;
  } catch {
    return "";
  }
}

/** Answers what Node's parser rejects in the shape of all errors. The request cannot be read, so the connection ends. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Duplex, state: ServerState): void {
  // After CONNECT nothing else listens for the socket's errors, and an unhandled one would end the program.
  socket.on("error", () => socket.destroy());
  const canWrite = socket.writable && !MID_ANSWER.has(socket) && error.code !== "ECONNRESET";
  if (!canWrite) return void socket.destroy();
  const refused = new ApiError(PARSER_ERRORS[error.code ?? ""] ?? "bad_request");
  const { status, headers, body } = errorReply(refused, state);
  const lines = Object.entries({ ...headers, ...CLOSE }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\n${lines.join("")}\r\n${String(body)}`);
  // The peer may never close its side.
  setTimeout(() => socket.destroy(), LINGER.ms).unref();
}

const PARSER_ERRORS: Record<string, ErrorCode> = {
  HPE_HEADER_OVERFLOW: "headers_too_large",
  ERR_HTTP_REQUEST_TIMEOUT: "timeout",
};

/** Ends a connection whose peer has taken no byte of a pending answer for `LIMITS.unreadMs`. */
function endUnread(socket: Socket, connection: Connection, now: number): void {
  const taken = socket.bytesWritten - socket.writableLength;
  if (socket.writableLength === 0 || taken !== connection.takenBytes) {
    connection.takenBytes = taken;
    connection.takenAt = now;
  } else if (Math.abs(now - connection.takenAt) >= LIMITS.unreadMs) socket.destroy();
}

/* ---- Start-up ----------------------------------------------------------------------------------------
 * `createApp` is for callers that bring a clock and a secret, such as tests. `main` is the program:
 * flags, listening, signals. */

export type App = ReturnType<typeof createApp>;

const SERVER_OPTIONS = {
  // Requests without a body skip the stream that would read it. Such a request emits no events.
  optimizeEmptyRequests: true,
  maxHeaderSize: 16_384,
  headersTimeout: 10 * SECOND,
  requestTimeout: 30 * SECOND,
  keepAliveTimeout: 75 * SECOND,
  connectionsCheckingInterval: SECOND,
  // Node's own answer to a missing Host has no body; `checkHeaders` sends JSON.
  requireHostHeader: false,
  // Node would drop the second of two Host headers. Joined with a comma they are not a valid host.
  joinDuplicateHeaders: true,
};

/** Only suites with forward secrecy: a key stolen later decrypts no recording. */
const TLS_OPTIONS = {
  handshakeTimeout: 10 * SECOND,
  ciphers: "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:ECDHE+AESGCM:ECDHE+CHACHA20",
};

/** Creates the server without listening. Call `sweep` several times per second to end what is due; no timer is started
 * here. `stop` shuts down in phases (see `ServerState.phase`) and resolves within two seconds. */
export function createApp(given: AppOptions = {}) {
  const state = newState({ secret: randomBytes(32), now: Date.now, ...given });
  const { options, chats } = state;
  // A response has its socket at once unless another response is still unfinished.
  const listener = (req: IncomingMessage, res: ServerResponse): void =>
    res.socket ? handleRequest(req, res, state) : queueRequest(req, res, state);
  const server: http.Server = options.tls
    ? https.createServer({ ...SERVER_OPTIONS, ...TLS_OPTIONS, ...options.tls }, listener)
    : http.createServer(SERVER_OPTIONS, listener);
  server.maxHeadersCount = LIMITS.headers + 1;
  server.on(options.tls ? "secureConnection" : "connection", (socket: Socket) => {
    const connection: Connection = { queuedBytes: 0, takenBytes: 0, takenAt: 0, waiter: undefined };
    state.connections.set(socket, connection);
    socket.once("close", () => {
      state.connections.delete(socket);
      state.receiving.delete(socket);
      if (connection.waiter) chats.removeWaiter(connection.waiter);
    });
  });
  server.on("clientError", (error, socket) => refuseConnection(error, socket, state));
  server.on("connect", (_req, socket) => refuseConnection(new Error("CONNECT"), socket, state));
  // An expectation other than 100-continue may be ignored (RFC 9110, section 10.1.1).
  server.on("checkExpectation", listener);
  // For new connections. Those that are open, and their chats, go on.
  const useCertificate = (pair: Certificate): void => {
    if (server instanceof https.Server) server.setSecureContext({ ...TLS_OPTIONS, ...pair });
  };
  return { server, chats, sweep: () => sweep(state), useCertificate, stop: () => stopServer(server, state) };
}

function newState(options: Options): ServerState {
  const loopDelay = monitorEventLoopDelay({ resolution: LOOP_TICK_MS });
  if (options.metrics) loopDelay.enable();
  const maps = { bucketFullAt: new Map(), connections: new Map(), errorCounts: new Map() };
  const start = { loopDelayTotal: { seconds: 0, count: 0 }, wrongCodesFullAt: 0, phase: "running" } as const;
  return { options, chats: new Chats(options), ...maps, receiving: new Set(), loopDelay, ...start };
}

function sweep({ chats, bucketFullAt, connections, options }: ServerState): void {
  const now = options.now();
  chats.sweep(now);
  for (const [bucket, fullAt] of bucketFullAt) if (fullAt <= now) bucketFullAt.delete(bucket);
  for (const [socket, connection] of connections) endUnread(socket, connection, now);
}

/** Stops listening and waits up to a second for pending bodies, so that a client whose post is acknowledged is not the
 * only one to see it. Then ends all waits, and half a second later closes the connections that are left. */
async function stopServer(server: http.Server, state: ServerState): Promise<void> {
  if (state.phase === "running") state.phase = "draining";
  const closed = once(server, "close");
  // Not http's close(), which would cut off a client between two polls that has not asked for the last message yet.
  NetServer.prototype.close.call(server);
  const start = performance.now();
  while (state.receiving.size > 0 && performance.now() - start < SECOND) await sleep(10);
  state.phase = "closing";
  state.chats.endAllWaits("stopping");
  await Promise.race([closed, sleep(SECOND / 2, undefined, { ref: false })]);
  server.closeAllConnections();
}

/** Runs the program: reads flags, listens, prints where, stops on a signal. Reports a failure in one line. */
export async function main(argv: string[], env: NodeJS.ProcessEnv): Promise<void> {
  // Standard output may be closed or its disk full; neither is a reason to stop.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", ignore);
  // 2: bad usage. 1: it could not start.
  let exitCode = 2;
  try {
    const flags = readFlags(argv);
    if (flags.help) return void process.stdout.write(assets.usage);
    const versions = `watch-party ${assets.version} (Node ${process.versions.node})\n`;
    if (flags.version) return void process.stdout.write(versions);
    const settings = readSettings(flags, env);
    exitCode = 1;
    await runServer(settings);
  } catch (error) {
    printProblem(`${messageOf(error)}${exitCode === 2 ? "; see --help" : ""}`);
    process.exitCode = exitCode;
    if (argv.length === 0 && !env["PROMPT"]) await waitForKey();
  }
}

/** Prints one line, whatever is in the text. */
function printProblem(text: string): void {
  process.stderr.write(`watch-party: ${text.replace(/\p{Cc}/gu, " ")}\n`);
}

function ignore(): void {}

async function runServer(settings: Settings): Promise<void> {
  const { files } = settings;
  const tls = files && readCertificate(files);
  let addresses = await findLanAddresses();
  const app = createApp({
    ...settings,
    tls,
    lanAddresses: () => addresses,
    log: settings.verbose ? (line) => process.stdout.write(`${line}\n`) : undefined,
  });
  // Before the first line is printed, because a script that reads it may stop the program at once.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"] as const) {
    process.on(signal, () => void app.stop().then(() => process.exit(0)));
  }
  const port = await listen(app.server, settings);
  process.stdout.write(fillTemplate(assets.banner, bannerValues(settings, port, addresses)));
  setInterval(() => app.sweep(), 250);
  const rereadCertificate = files && tls ? certificateReader(files, tls, app.useCertificate, printProblem) : ignore;
  setInterval(() => {
    // A laptop changes its network, and new links must point to its new address. Without file descriptors the lookup
    // fails, and the last addresses stay.
    void findLanAddresses().then((found) => (addresses = found), ignore);
    rereadCertificate();
  }, 10 * SECOND);
}

if (import.meta.main) void main(process.argv.slice(2), process.env);
