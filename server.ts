/*
 * Watch Party: an ephemeral group chat that anybody can host. This file is the whole program.
 *
 *   GET    /                                 the page, or curl lines for those who do not ask for HTML
 *   POST   /create                           a new chat; whoever made it has the first seat
 *   POST   /:chat_id/invite                  a magic link (creator)
 *   GET    /:chat_id/invite                  looks at an invitation without using it (invite token)
 *   DELETE /:chat_id/invite                  revokes every magic link made so far (creator)
 *   POST   /:chat_id/join                    takes a free seat (invite token)
 *   GET    /:chat_id                         messages since a cursor; waits for news if asked to (member)
 *   POST   /:chat_id                         says something (member)
 *   POST   /:chat_id/leave                   gives the seat back (member)
 *   DELETE /:chat_id/members/:member_id      takes a seat back (creator)
 *   DELETE /:chat_id                         ends the chat (creator)
 *   GET    /openapi.json, /healthz, /robots.txt
 *
 * What it promises:
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
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import * as http from "node:http";
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import * as https from "node:https";
import { isIP, isIPv6 } from "node:net";
import type { Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { createSecureContext } from "node:tls";
import type { Duplex } from "node:stream";
import { parseArgs } from "node:util";
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
  /** Browsers open six connections to one host: four held leave two to load pages and to send. */
  pollsPerBrowser: 4,
  retrySeconds: 2,
  onlineMs: MINUTE,
  /** How long, and for how many of a seat's posts, an Idempotency-Key is remembered. */
  keyMs: 10 * MINUTE,
  keysPerSeat: 256,
  /** A chat nobody joined, wrote in or looked at for this long makes room when the server is full. */
  idleMs: 10 * MINUTE,
  /** Addresses whose use is counted at once: about 100 bytes each. */
  countedAddresses: 65_536,
} as const;

/** Token buckets: so many at once, then so many a second. */
const RATES = {
  message: { burst: 20, perSecond: 5 },
  create: { burst: 60, perSecond: 1 },
  join: { burst: 60, perSecond: 1 },
  refused: { burst: 60, perSecond: 1 },
} as const;

export interface ErrorReply {
  error: ErrorCode;
  message: string;
}
/** The answer to create and to join. `expires_at`, as all times: ISO 8601 in UTC with milliseconds. */
export interface Session {
  chat_id: string;
  session_token: string;
  member_id: string;
  username: string;
  expires_at: string;
  url: string;
}
export interface InviteReply {
  magic_link: string;
  invite_token: string;
  expires_at: string;
  seats_left: number;
}
export interface InviteLook {
  chat_id: string;
  seats_left: number;
  members: string[];
  expires_at: string;
}
export interface MessageView {
  id: number;
  member_id: string;
  username: string;
  text: string;
  sent_at: string;
}
export interface MemberView {
  id: string;
  username: string;
  creator: boolean;
  online: boolean;
  you: boolean;
}
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
  /** Takes one line a request (--verbose). */
  log?: ((line: string) => void) | undefined;
  /** Takes what should never happen. */
  logError?: (error: unknown) => void;
}

/** One request as a handler sees it. */
interface Call {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly headers: IncomingHttpHeaders;
  readonly socket: Socket;
  /** Set by the route and, as the body takes its time, anew when it is there. */
  now: number;
  chatId: string;
  memberId: string;
  body: Buffer;
}

/** What a handler answers with; one function, `send`, writes it. */
interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string | Buffer;
}
type Headers = Record<string, string | number>;

type Handler = (call: Call, party: Party) => Reply | Waiter;
type MemberHandler = (call: Call, party: Party, member: Member) => Reply | Waiter;

/** The running server: its settings, its chats, its counters. */
interface Party {
  readonly options: AppOptions & Required<Pick<AppOptions, "secret" | "now">>;
  readonly chats: Chats;
  readonly buckets: Record<"create" | "join" | "refused", Buckets>;
  stopping: boolean;
}

/* ------------------------------------------------------------------------------------------------
 * Routes. All there are; a path that is not here is 404, a method that is not here 405.
 * --------------------------------------------------------------------------------------------- */

type Method = "GET" | "POST" | "DELETE";
interface Rules {
  /** A browser that asks for HTML gets the page here. */
  readonly page?: true;
  readonly body?: true;
  readonly rate?: "create" | "join";
}
type Route = Rules & { readonly method: Method; readonly path: string } & (
    | { readonly caller: "anyone"; readonly handle: Handler }
    | { readonly caller: "member" | "creator"; readonly handle: MemberHandler }
  );

const ROUTES: readonly Route[] = [
  { method: "GET", path: "/", caller: "anyone", handle: showHelp, page: true },
  { method: "GET", path: "/openapi.json", caller: "anyone", handle: showOpenapi },
  { method: "GET", path: "/healthz", caller: "anyone", handle: showHealth },
  { method: "GET", path: "/robots.txt", caller: "anyone", handle: showRobots },
  { method: "POST", path: "/create", caller: "anyone", handle: createChat, body: true, rate: "create" },
  { method: "GET", path: "/:chat_id", caller: "member", handle: readMessages, page: true },
  { method: "POST", path: "/:chat_id", caller: "member", handle: postMessage, body: true },
  { method: "DELETE", path: "/:chat_id", caller: "creator", handle: endChat },
  { method: "POST", path: "/:chat_id/invite", caller: "creator", handle: makeInvite },
  { method: "GET", path: "/:chat_id/invite", caller: "anyone", handle: lookAtInvite },
  { method: "DELETE", path: "/:chat_id/invite", caller: "creator", handle: revokeInvites },
  { method: "POST", path: "/:chat_id/join", caller: "anyone", handle: joinChat, body: true, rate: "join" },
  { method: "POST", path: "/:chat_id/leave", caller: "member", handle: leaveChat },
  { method: "DELETE", path: "/:chat_id/members/:member_id", caller: "creator", handle: removeMember },
];

/** A chat's id: 16 characters of base64url, behind a node's name of up to 16 and a dash. */
const CHAT_ID = /^[A-Za-z0-9_-]{16,33}$/;

/** Route by method, for each shape of path: "/create" as it is, "*" in the place of each id. */
const ENDPOINTS = new Map<string, Map<string, Route>>();
for (const route of ROUTES) {
  const shape = route.path.replace("/:chat_id", "*").replace(":member_id", "*");
  const methods = ENDPOINTS.get(shape) ?? new Map<string, Route>();
  ENDPOINTS.set(shape, methods.set(route.method, route));
  if (route.method === "GET") methods.set("HEAD", route);
}

/** What stands at a path, with the ids in it; undefined where nothing does. */
function findEndpoint(path: string): { methods: Map<string, Route>; chatId: string; memberId: string } | undefined {
  const fixed = ENDPOINTS.get(path);
  if (fixed) return { methods: fixed, chatId: "", memberId: "" };
  const [, chatId = "", action, memberId, more] = path.split("/", 5);
  if (!CHAT_ID.test(chatId) || more !== undefined) return undefined;
  const shape = `*${action === undefined ? "" : `/${action}`}${memberId === undefined ? "" : "/*"}`;
  const methods = ENDPOINTS.get(shape);
  return methods && { methods, chatId, memberId: memberId ?? "" };
}

function allowedMethods(methods: Map<string, Route>): string {
  return [...methods.keys(), "OPTIONS"].join(", ");
}

/* ------------------------------------------------------------------------------------------------
 * Handlers. One a route, from a call to a reply; what they refuse they throw. They never see `res`.
 * --------------------------------------------------------------------------------------------- */

function createChat(call: Call, party: Party): Reply {
  const body = readObject(call);
  const key = readKey(call, 22);
  const earlier = party.chats.findSeat(key);
  if (earlier) return sessionReply(200, earlier, call, party);
  party.chats.makeRoom();
  return sessionReply(201, party.chats.create(readUsername(body), key), call, party);
}

function joinChat(call: Call, party: Party): Reply {
  const { chat, body } = readJoin(call, party);
  const key = readKey(call, 22);
  const earlier = party.chats.findSeat(key, chat);
  if (earlier) return sessionReply(200, earlier, call, party);
  if (chat.members.length === LIMITS.seats) throw new ApiError("chat_full");
  return sessionReply(201, party.chats.join(chat, readUsername(body), key), call, party);
}

function makeInvite(call: Call, party: Party, { chat }: Member): Reply {
  const expiresAt = call.now + LIMITS.sessionMs;
  const token = party.chats.inviteToken(chat, expiresAt);
  return json(201, {
    magic_link: `${baseUrl(call, party, true)}/${chat.id}#invite=${token}`,
    invite_token: token,
    expires_at: iso(expiresAt),
    seats_left: LIMITS.seats - chat.members.length,
  } satisfies InviteReply);
}

function lookAtInvite(call: Call, party: Party): Reply {
  const { chat, expiresAt } = authoriseInvite(bearerToken(call.headers.authorization), call, party);
  if (chat.members.length === LIMITS.seats) throw new ApiError("chat_full");
  return json(200, {
    chat_id: chat.id,
    seats_left: LIMITS.seats - chat.members.length,
    members: chat.members.map((member) => member.username),
    expires_at: iso(expiresAt),
  } satisfies InviteLook);
}

function revokeInvites(_call: Call, _party: Party, { chat }: Member): Reply {
  chat.inviteGeneration = (chat.inviteGeneration + 1) % COUNTERS;
  return NO_CONTENT;
}

function readMessages(call: Call, { chats }: Party, member: Member): Reply | Waiter {
  const query = new URLSearchParams(call.query);
  const { cursor } = member.chat;
  const isLatest = query.get("since") === "latest";
  const since = isLatest ? cursor : readNumber(query, "since", cursor, "invalid_cursor");
  const wait = readNumber(query, "wait", LIMITS.waitSeconds, "invalid_wait");
  if (call.method === "HEAD") return pollReply(member, since, call.now, false);
  member.lastSeen = call.now;
  if (wait === 0 || since !== cursor) return pollReply(member, since, call.now, false);
  const waiter = chats.hold(member, wait, readBrowser(query), query.get("visible") === "1");
  return waiter ?? pollReply(member, since, call.now, true);
}

function postMessage(call: Call, { chats, options }: Party, member: Member): Reply {
  const key = readKey(call, 1);
  const text = cleanText(readText(call));
  const earlier = chats.findPosted(member, key, text);
  if (earlier) return json(200, earlier);
  if (options.rateLimit !== false) member.posts = take(RATES.message, member.posts, call.now);
  return jsonText(201, chats.post(member, text, key));
}

function leaveChat(_call: Call, { chats }: Party, member: Member): Reply {
  chats.free(member, "revoked_token");
  return NO_CONTENT;
}

function removeMember(call: Call, { chats }: Party, creator: Member): Reply {
  const member = creator.chat.members.find(({ id }) => id === call.memberId);
  if (!member) throw new ApiError("not_found");
  chats.free(member, "revoked_token");
  return NO_CONTENT;
}

function endChat(_call: Call, { chats }: Party, { chat }: Member): Reply {
  chats.end(chat, "chat_not_found");
  return NO_CONTENT;
}

function showHelp(call: Call, party: Party): Reply {
  return plainText(assets.help.replaceAll("{base}", () => baseUrl(call, party, false)));
}

function showOpenapi(): Reply {
  return jsonText(200, assets.openapi);
}

function showHealth(): Reply {
  return json(200, { status: "ok" });
}

/** Search engines may find the host's home, never a chat. */
function showRobots(): Reply {
  return plainText("User-agent: *\nAllow: /$\nDisallow: /\n");
}

/* What handlers share: reading the parts of a call, each once, and shaping answers. */

/** The member whose live session token a call bears; anything else is thrown, in the contract's order. */
function authoriseMember(call: Call, party: Party, caller: "member" | "creator"): Member {
  const token = bearerToken(call.headers.authorization);
  const chat = party.chats.get(call.chatId);
  const member = chat?.members.find((each) => bearsToken(each, token, call.now));
  if (!chat || !member) {
    // Not somebody who sits here, so why is asked of the token itself. The hash is paid for here alone.
    const { chatId } = readToken(token, "session", party.options.secret, call.now);
    if (call.chatId !== party.chats.prefix + chatId) throw new ApiError("wrong_chat");
    throw new ApiError(chat ? "revoked_token" : "chat_not_found");
  }
  if (caller === "creator" && chat.creator !== member) throw new ApiError("not_creator");
  return member;
}

/** A seat remembers the token that was signed for it: comparing costs a tenth of signing anew. */
function bearsToken(member: Member, token: string, now: number): boolean {
  // The first four characters are the member's number, no secret: whose token it claims to be.
  return token.startsWith(member.token.slice(0, 4)) && sameBytes(token, member.token) && now < member.expiresAt;
}

/** The chat that an invite token opens and until when (milliseconds since 1970). */
function authoriseInvite(token: string, call: Call, party: Party): { chat: Chat; expiresAt: number } {
  const { chatId, counter, expiresAt } = readToken(token, "invite", party.options.secret, call.now);
  if (call.chatId !== party.chats.prefix + chatId) throw new ApiError("wrong_chat");
  const chat = party.chats.get(call.chatId);
  if (!chat) throw new ApiError("chat_not_found");
  if (counter !== chat.inviteGeneration) throw new ApiError("revoked_token");
  return { chat, expiresAt };
}

/** The body of a join, and the chat that the invitation in it, or else in the header, opens. */
function readJoin(call: Call, party: Party): { chat: Chat; body: Record<string, unknown> } {
  const { authorization } = call.headers;
  let body: Record<string, unknown>;
  try {
    body = readObject(call);
  } catch (error) {
    // A token in the header is looked at before the body, also where the body's would have counted.
    if (authorization !== undefined) authoriseInvite(bearerToken(authorization), call, party);
    throw error;
  }
  const inBody = body["invite_token"] === "" ? null : body["invite_token"];
  const token = inBody ?? bearerToken(authorization);
  if (typeof token !== "string") throw new ApiError("invalid_token");
  return { chat: authoriseInvite(token, call, party).chat, body };
}

/** A clean name, or undefined where none is given; `null` is what many a language writes for that. */
function readUsername(body: Record<string, unknown>): string | undefined {
  const username = body["username"] ?? undefined;
  return username === undefined ? undefined : cleanUsername(username);
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

/** A query parameter of plain decimal digits up to `largest`; 0 where it is not given. */
function readNumber(query: URLSearchParams, name: string, largest: number, code: ErrorCode): number {
  const digits = query.get(name);
  if (digits === null) return 0;
  if (!/^[0-9]+$/.test(digits) || Number(digits) > largest) throw new ApiError(code);
  return Number(digits);
}

function readBrowser(query: URLSearchParams): string | undefined {
  const browser = query.get("browser") ?? "";
  return /^[A-Za-z0-9_-]{1,64}$/.test(browser) ? browser : undefined;
}

/** Strict, and it takes the byte order mark off that some editors and shells put before UTF-8. */
const utf8 = new TextDecoder("utf-8", { fatal: true });

function readUtf8(body: Buffer): string {
  try {
    return utf8.decode(body);
  } catch {
    throw new ApiError("invalid_json");
  }
}

/** The body as a JSON object, whatever the Content-Type says; no body is an empty one. */
function readObject(call: Call): Record<string, unknown> {
  if (call.body.length === 0) return {};
  const value = parseJson(readUtf8(call.body));
  if (!isObject(value)) throw new ApiError("invalid_json");
  return value;
}

/** A message's text as it was sent: the body itself where it is plain text, else the field `text`. */
function readText(call: Call): unknown {
  if (!/^text\/plain *(?:;|$)/i.test(call.headers["content-type"] ?? "")) return readObject(call)["text"];
  const text = readUtf8(call.body);
  // fetch() labels every string text/plain, JSON too, when nobody says otherwise.
  const value = /^\s*\{/.test(text) ? parseJson(text) : undefined;
  return isObject(value) && typeof value["text"] === "string" ? value["text"] : text;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function iso(time: number): string {
  return new Date(time).toISOString();
}

function sessionReply(status: 200 | 201, member: Member, call: Call, party: Party): Reply {
  const { chat } = member;
  const session: Session = {
    chat_id: chat.id,
    session_token: member.token,
    member_id: member.id,
    username: member.username,
    expires_at: iso(member.expiresAt),
    url: `${baseUrl(call, party, true)}/${chat.id}`,
  };
  return json(status, session, { Location: `/${chat.id}` });
}

/**
 * A PollReply as one reader gets it. Messages and names are kept as JSON, so that one message to five
 * readers is serialised once, and 30 messages read again are not serialised at all.
 */
function pollReply(member: Member, since: number, now: number, retry: boolean): Reply {
  const { chat } = member;
  const messages = chat.messages.slice(chat.messages.findLastIndex(({ id }) => id <= since) + 1);
  const members = chat.members.map(
    (each) =>
      `{"id":"${each.id}","username":${each.usernameJson},"creator":${each === chat.creator},` +
      `"online":${isOnline(each, now)},"you":${each === member}}`,
  );
  return jsonText(
    200,
    `{"messages":[${messages.map((message) => message.json).join(",")}],"cursor":${chat.cursor},` +
      `"missed":${chat.lastDropped > since},"members":[${members.join(",")}],` +
      `"expires_at":"${iso(member.expiresAt)}"${retry ? `,"retry_in":${LIMITS.retrySeconds}` : ""}}`,
  );
}

function isOnline(member: Member, now: number): boolean {
  return member.polls > 0 || now - member.lastSeen < LIMITS.onlineMs;
}

/**
 * Where links lead: `--url`; else the address the call came to. With `forOthers`, an address that means
 * this machine alone becomes the one it has on the local network, so that a link opens on a phone.
 */
function baseUrl(call: Call, { options }: Party, forOthers: boolean): string {
  if (options.url !== undefined) return options.url;
  const own = options.tls ? "https" : "http";
  const scheme = /^https?$/.exec(forwarded(call, options, "proto").toLowerCase())?.[0] ?? own;
  const hosts = [forwarded(call, options, "host"), call.headers.host ?? ""];
  const host = hosts.find(isHost) ?? socketHost(call.socket);
  const isReachable = !isThisMachine(options.host ?? "");
  const lan = forOthers && isThisMachine(host) && isReachable ? options.lanAddress?.() : undefined;
  return lan === undefined ? `${scheme}://${host}` : addressUrl(own, lan, call.socket.localPort ?? 0);
}

/** The last element of an X-Forwarded header, the one the nearest proxy wrote; "" where it is not to be trusted. */
function forwarded(call: Call, options: AppOptions, name: "for" | "proto" | "host"): string {
  const value = options.trustProxy ? call.headers[`x-forwarded-${name}`] : "";
  return String(value ?? "")
    .replace(/^.*,/, "")
    .trim();
}

/** A well-formed host, with or without a port: what may be shown again in a link or in the help. */
function isHost(host: string): boolean {
  return /^[a-z0-9._:[\]-]{1,255}$/i.test(host) && URL.canParse(`http://${host}`);
}

function socketHost(socket: Socket): string {
  const address = plainAddress(socket.localAddress ?? "localhost");
  return `${isIPv6(address) ? `[${address}]` : address}:${socket.localPort ?? 0}`;
}

/** An address as people write it: without the IPv6 form of an IPv4 one, and without an interface's name. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=[0-9]+\.)/i, "").replace(/%.*$/, "");
}

function isThisMachine(host: string): boolean {
  return /^(?:localhost\.?|127(?:\.[0-9]+){3}|0\.0\.0\.0|\[?::1?\]?)(?::[0-9]+)?$/i.test(host);
}

/** A URL's scheme, host and port, the port left out where it is the scheme's own. */
function addressUrl(scheme: "http" | "https", address: string, port: number): string {
  return new URL(`${scheme}://${isIPv6(address) ? `[${address}]` : address}:${port}`).origin;
}

/* ------------------------------------------------------------------------------------------------
 * Chats. The store: seats, the last 30 messages, cursors, waiting readers, expiry. It knows nothing of
 * HTTP and has no timer: `expire` and `sweep` do what is due by the clock they were given.
 * --------------------------------------------------------------------------------------------- */

/** A message as it is kept: its JSON (a MessageView), made once. */
interface KeptMessage {
  readonly id: number;
  readonly json: string;
}

/** What is remembered of a post with an Idempotency-Key. The repeat brings the text again, so a digest will do. */
interface PostedKey {
  readonly id: number;
  readonly sentAt: number;
  readonly digest: string;
}

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
  readonly usernameJson: string;
  /** The name as it is compared. */
  readonly folded: string;
  readonly joinedAt: number;
  readonly expiresAt: number;
  readonly token: string;
  /** Digest of the Idempotency-Key that took this seat. */
  readonly key: string | undefined;
  lastSeen: number;
  /** How many polls it holds. */
  polls: number;
  /** The bucket of its messages. */
  posts: number;
  keys: Map<string, PostedKey> | undefined;
}

class Chat {
  readonly id: string;
  /** In the order of joining. */
  readonly members: Member[] = [];
  readonly messages: KeptMessage[] = [];
  readonly waiters = new Set<Waiter>();
  creator: Member | undefined;
  membersEver = 0;
  /** Grows with every change a reader can see; the first was the creator's joining. */
  cursor = 1;
  /** Id of the newest message no longer kept. */
  lastDropped = 0;
  inviteGeneration = 0;

  constructor(id: string) {
    this.id = id;
  }
}

/** One held poll. Whoever holds it sets `onEnd`, which is called once. */
interface Waiter {
  readonly member: Member;
  readonly since: number;
  readonly heldAt: number;
  readonly wait: number;
  readonly browser: string | undefined;
  readonly visible: boolean;
  onEnd: ((end: WaitEnd) => void) | undefined;
}

export class Chats {
  /** How many polls are held. */
  waiting = 0;
  readonly #chats = new Map<string, Chat>();
  /** All seats. They last equally long, so the order of joining is the order of expiry: the first is due first. */
  readonly #sessions = new Set<Member>();
  readonly #created = new Map<string, Member>();
  /** Held polls by their `wait`: those that wait equally long end in the order they came. */
  readonly #lines = Array.from({ length: LIMITS.waitSeconds + 1 }, () => new Set<Waiter>());
  readonly #browsers = new Map<string, Set<Waiter>>();
  readonly #secret: Buffer;
  readonly #now: () => number;
  readonly #maxChats: number;
  /** What every chat's id begins with: the node's name and a dash, or nothing. */
  readonly prefix: string;

  constructor({ secret = randomBytes(32), now = Date.now, maxChats = 1_000, node }: AppOptions) {
    this.#secret = secret;
    this.#now = now;
    this.#maxChats = maxChats;
    this.prefix = node === undefined ? "" : `${node}-`;
  }

  get size(): number {
    return this.#chats.size;
  }

  get(id: string): Chat | undefined {
    return this.#chats.get(id);
  }

  /**
   * Makes sure that one more chat has a place, at the cost of one that nobody uses if need be.
   * @throws ApiError server_full
   */
  makeRoom(): void {
    if (this.#chats.size < this.#maxChats) return;
    const idleSince = this.#now() - LIMITS.idleMs;
    let longest: Member | undefined;
    for (const { members, messages, waiters } of this.#chats.values()) {
      const [only, another] = members;
      if (!only || another || messages.length > 0 || waiters.size > 0 || only.lastSeen > idleSince) continue;
      if (!longest || only.lastSeen < longest.lastSeen) longest = only;
    }
    if (!longest) throw new ApiError("server_full", { "Retry-After": 60 });
    this.end(longest.chat, "chat_not_found");
  }

  /** A new chat (96 random bits of id); returns its creator's seat. */
  create(username: string | undefined, key: string | undefined): Member {
    const chat = new Chat(this.prefix + randomBytes(12).toString("base64url"));
    const creator = this.#seat(chat, username, key);
    chat.creator = creator;
    this.#chats.set(chat.id, chat);
    if (creator.key !== undefined) this.#created.set(creator.key, creator);
    return creator;
  }

  /**
   * Takes the lowest free seat. The caller has seen that there is one.
   * @throws ApiError username_taken
   */
  join(chat: Chat, username: string | undefined, key: string | undefined): Member {
    if (username !== undefined && isTaken(chat, username)) throw new ApiError("username_taken");
    const member = this.#seat(chat, username, key);
    this.#change(chat);
    return member;
  }

  #seat(chat: Chat, username: string | undefined, key: string | undefined): Member {
    let seat = 1;
    while (chat.members.some((member) => member.seat === seat)) seat += 1;
    const name = username ?? guestName(chat, seat);
    const now = this.#now();
    const expiresAt = now + LIMITS.sessionMs;
    chat.membersEver += 1;
    const member: Member = {
      chat,
      id: String(chat.membersEver),
      seat,
      username: name,
      usernameJson: JSON.stringify(name),
      folded: foldUsername(name),
      joinedAt: now,
      expiresAt,
      token: this.#sign("session", chat, chat.membersEver, expiresAt),
      key: key && digest(key),
      lastSeen: now,
      polls: 0,
      posts: 0,
      keys: undefined,
    };
    chat.members.push(member);
    this.#sessions.add(member);
    return member;
  }

  /** The seat taken with this key in the last ten minutes, while it is held: by a create, or by a join to `chat`. */
  findSeat(key: string | undefined, chat?: Chat): Member | undefined {
    if (key === undefined) return undefined;
    const wanted = digest(key);
    const joined = chat?.members.find((each) => each.key === wanted && each.id !== "1");
    const member = chat ? joined : this.#created.get(wanted);
    return member && this.#isFresh(member.joinedAt) ? member : undefined;
  }

  #isFresh(time: number): boolean {
    return this.#now() - time < LIMITS.keyMs;
  }

  /** An invite token for the links that are valid now; `expiresAt` in milliseconds since 1970. */
  inviteToken(chat: Chat, expiresAt: number): string {
    return this.#sign("invite", chat, chat.inviteGeneration, expiresAt);
  }

  #sign(kind: TokenPayload["kind"], chat: Chat, counter: number, expiresAt: number): string {
    return signToken({ kind, chatId: chat.id.slice(-16), counter, expiresAt }, this.#secret);
  }

  /** Adds a message (clean text) and wakes who waits for it. Returns its JSON, a MessageView. */
  post(member: Member, text: string, key: string | undefined): string {
    const { chat } = member;
    const now = this.#now();
    const id = chat.cursor + 1;
    const posted = JSON.stringify(viewMessage(member, id, text, now));
    if (chat.messages.push({ id, json: posted }) > LIMITS.keptMessages)
      chat.lastDropped = chat.messages.shift()?.id ?? 0;
    if (key !== undefined) rememberKey(member, key, { id, sentAt: now, digest: digest(text) });
    member.lastSeen = now;
    this.#change(chat);
    return posted;
  }

  /**
   * The message that this member posted with this key, if it is remembered.
   * @throws ApiError invalid_key where the key came with another text
   */
  findPosted(member: Member, key: string | undefined, text: string): MessageView | undefined {
    const posted = key === undefined ? undefined : member.keys?.get(key);
    if (!posted || !this.#isFresh(posted.sentAt)) return undefined;
    if (posted.digest !== digest(text)) throw new ApiError("invalid_key");
    return viewMessage(member, posted.id, text, posted.sentAt);
  }

  /** Gives a seat up, and the chat with its last one. `why` is what the seat's own held polls are told. */
  free(member: Member, why: "revoked_token" | "expired_token"): void {
    const { chat } = member;
    this.#forget(member);
    chat.members.splice(chat.members.indexOf(member), 1);
    if (chat.creator === member) chat.creator = undefined;
    for (const waiter of chat.waiters) if (waiter.member === member) this.#finish(waiter, why);
    if (chat.members.length === 0) this.end(chat, "chat_not_found");
    else this.#change(chat);
  }

  /** Ends a chat for everybody in it. */
  end(chat: Chat, why: ErrorCode): void {
    this.#chats.delete(chat.id);
    for (const member of chat.members) this.#forget(member);
    for (const waiter of chat.waiters) this.#finish(waiter, why);
  }

  #forget(member: Member): void {
    this.#sessions.delete(member);
    const { key = "" } = member;
    if (this.#created.get(key) === member) this.#created.delete(key);
  }

  /** Something a reader can see has changed. */
  #change(chat: Chat): void {
    chat.cursor += 1;
    for (const waiter of chat.waiters) this.#finish(waiter, "answer");
  }

  /**
   * Holds a poll at the chat's cursor for up to `wait` seconds. Of one browser, four at most: beyond that a
   * visible one takes the place of the oldest that is not; where none gives way, nothing is held.
   */
  hold(member: Member, wait: number, browser: string | undefined, visible: boolean): Waiter | undefined {
    const held = browser === undefined ? undefined : this.#browsers.get(browser);
    if (held && held.size >= LIMITS.pollsPerBrowser) {
      const hidden = visible ? [...held].find((waiter) => !waiter.visible) : undefined;
      if (!hidden) return undefined;
      this.#finish(hidden, "retry");
    }
    const heldAt = this.#now();
    const since = member.chat.cursor;
    const waiter: Waiter = { member, since, heldAt, wait, browser, visible, onEnd: undefined };
    member.chat.waiters.add(waiter);
    member.polls += 1;
    this.waiting += 1;
    this.#lines[wait]?.add(waiter);
    if (browser !== undefined) this.#browsers.set(browser, (held ?? new Set()).add(waiter));
    return waiter;
  }

  /** Forgets a held poll whose reader has gone, or has been answered. */
  release(waiter: Waiter): void {
    const { member, browser } = waiter;
    if (!member.chat.waiters.delete(waiter)) return;
    member.polls -= 1;
    member.lastSeen = this.#now();
    this.waiting -= 1;
    this.#lines[waiter.wait]?.delete(waiter);
    if (browser === undefined) return;
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
    for (const member of this.#sessions) {
      if (now < member.expiresAt) return;
      this.free(member, "expired_token");
    }
  }

  /** Ends what is due: sessions, and the polls whose time is up. */
  sweep(now: number): void {
    this.expire(now);
    for (const line of this.#lines) {
      for (const waiter of line) {
        // The distance, not the order: a clock set back an hour must not hold a poll for an hour.
        if (Math.abs(now - waiter.heldAt) < waiter.wait * SECOND) break;
        this.#finish(waiter, "answer");
      }
    }
  }

  /** Ends every held poll. */
  releaseAll(why: ErrorCode): void {
    for (const line of this.#lines) for (const waiter of line) this.#finish(waiter, why);
  }
}

function viewMessage(member: Member, id: number, text: string, sentAt: number): MessageView {
  return { id, member_id: member.id, username: member.username, text, sent_at: iso(sentAt) };
}

function isTaken(chat: Chat, username: string): boolean {
  const folded = foldUsername(username);
  return chat.members.some((member) => member.folded === folded);
}

/** `Guest n` for the n-th seat, or the next number whose name is free. */
function guestName(chat: Chat, seat: number): string {
  let number = seat;
  while (isTaken(chat, `Guest ${number}`)) number += 1;
  return `Guest ${number}`;
}

/** A Map keeps the order of insertion, so the first key is the oldest. */
function rememberKey(member: Member, key: string, posted: PostedKey): void {
  member.keys ??= new Map();
  member.keys.delete(key);
  member.keys.set(key, posted);
  for (const oldest of member.keys.keys()) {
    if (member.keys.size <= LIMITS.keysPerSeat) break;
    member.keys.delete(oldest);
  }
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

export interface TokenPayload {
  readonly kind: (typeof KINDS)[number];
  /** The chat's 16 random characters, without a node's name. */
  readonly chatId: string;
  /** The member's number or the invite's generation, below 2^24. */
  readonly counter: number;
  /** Milliseconds since 1970. */
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

/**
 * What a token says, if it is one of this kind, signed with this secret and still valid at `now`
 * (milliseconds since 1970).
 * @throws ApiError invalid_token, expired_token
 */
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
 * trimmed. 1 to 2,000 graphemes (UAX #29) and at most 8,192 bytes.
 * @throws ApiError invalid_text
 */
export function cleanText(raw: unknown): string {
  if (typeof raw !== "string") throw new ApiError("invalid_text");
  const text = trimSpace(withoutControls(raw).normalize("NFC"));
  if (!fits(text, LIMITS.messageGraphemes, LIMITS.messageBytes)) throw new ApiError("invalid_text");
  return text;
}

/**
 * A name as it will be shown: as a message, but in one line, without bidi controls and stray joiners.
 * 1 to 24 graphemes and at most 96 bytes, something visible among them.
 * @throws ApiError invalid_username
 */
export function cleanUsername(raw: unknown): string {
  if (typeof raw !== "string") throw new ApiError("invalid_username");
  const spaced = withoutControls(raw).replace(/[\p{Bidi_Control}\u2028\u2029\ufeff\u00ad]/gu, "");
  // Joiners beside white space go with it; the spaces put around the name make its edges such a place.
  const joined = ` ${spaced} `.replace(/[\u200c\u200d\p{White_Space}]+/gu, (run) =>
    /\p{White_Space}/u.test(run) ? " " : run,
  );
  const name = joined.trim().normalize("NFC");
  const visible = /[^\p{White_Space}\p{Default_Ignorable_Code_Point}\p{Cf}\u2800]/u.test(name);
  const fine = visible && fits(name, LIMITS.usernameGraphemes, LIMITS.usernameBytes) && !isStacked(name);
  if (!fine) throw new ApiError("invalid_username");
  return name;
}

/** More combining marks on one base than any script has. */
function isStacked(name: string): boolean {
  return new RegExp(`(?:\\p{M}[\\u200c\\u200d]*){${LIMITS.combiningMarks + 1}}`, "u").test(name.normalize("NFD"));
}

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
  return raw
    .toWellFormed()
    .replace(/\r\n?/g, "\n")
    .replace(/(?![\n\t])\p{Cc}/gu, "");
}

/** Trims Unicode's white space, and by hand: a pattern anchored at the end takes quadratic time on inner runs. */
function trimSpace(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && isSpace(text, start)) start += 1;
  while (end > start && isSpace(text, end - 1)) end -= 1;
  return text.slice(start, end);
}

function isSpace(text: string, index: number): boolean {
  return /\p{White_Space}/u.test(text.charAt(index));
}

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

interface Rate {
  readonly burst: number;
  readonly perSecond: number;
}

/**
 * Takes one from a bucket that is full again at `full`; returns the new such time. Milliseconds.
 * @throws ApiError rate_limited, with Retry-After
 */
function take(rate: Rate, full: number, now: number): number {
  const each = SECOND / rate.perSecond;
  const whole = rate.burst * each;
  // A clock that was set back would leave the time far ahead: never more than an empty bucket.
  const next = Math.min(Math.max(full, now), now + whole) + each;
  if (next <= now + whole) return next;
  throw new ApiError("rate_limited", { "Retry-After": Math.ceil((next - whole - now) / SECOND) });
}

/** A bucket for each address. Those that are full again are forgotten, and the longest unused where there are too many. */
class Buckets {
  readonly #rate: Rate;
  readonly #full = new Map<string, number>();

  constructor(rate: Rate) {
    this.#rate = rate;
  }

  /** @throws ApiError rate_limited */
  take(address: string, now: number): void {
    const next = take(this.#rate, this.#full.get(address) ?? 0, now);
    this.#full.delete(address);
    this.#full.set(address, next);
    if (this.#full.size > LIMITS.countedAddresses) this.sweep(Infinity);
  }

  /** Forgets buckets that are full by `now`, from the longest unused on; by Infinity one at least, so that they stay few. */
  sweep(now: number): void {
    for (const [address, full] of this.#full) {
      if (full > now || (now === Infinity && this.#full.size <= LIMITS.countedAddresses)) return;
      this.#full.delete(address);
    }
  }
}

/** @throws ApiError rate_limited */
function countCall(what: "create" | "join" | "refused", call: Call, party: Party): void {
  if (party.options.rateLimit !== false) party.buckets[what].take(countedAddress(call, party), call.now);
}

/** Whom to count: the address, of IPv6 the /64 that one household or machine has to itself. */
function countedAddress(call: Call, { options }: Party): string {
  const claimed = plainAddress(forwarded(call, options, "for"));
  const address = isIP(claimed) ? claimed : plainAddress(call.socket.remoteAddress ?? "");
  if (!isIPv6(address)) return address;
  // "2001:db8::1" has two groups before the gap and one behind it: five zeros stand in between.
  const [head = [], tail = []] = address.split("::").map((half) => half.split(":").filter(Boolean));
  const zeros = Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => "0");
  return [...head, ...zeros, ...tail]
    .slice(0, 4)
    .map((group) => parseInt(group, 16).toString(16))
    .join(":");
}

/* ------------------------------------------------------------------------------------------------
 * Errors. One catalogue, one class, and one place (`refusal`) where any thrown thing becomes a reply.
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
    'Send the token as "Authorization: Bearer <token>"; to join, what stands behind "#invite=" in the magic link, so or as "invite_token" in the body.',
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
  invalid_key: [
    422,
    "An Idempotency-Key has 1 to 64 printable ASCII characters, 22 at least to create or join, and stands for one text.",
  ],
  rate_limited: [429, "Too many at once; wait as Retry-After says."],
  internal: [500, "Something went wrong in the server; its operator finds it in the log."],
  server_full: [503, "This server has no room for another chat now; try again in a minute."],
  stopping: [503, "The server is shutting down."],
} as const satisfies Record<string, readonly [status: number, sentence: string]>;

export type ErrorCode = keyof typeof ERRORS;

/** Anything that is refused. */
export class ApiError extends Error {
  readonly code: ErrorCode;
  readonly headers: Headers;

  constructor(code: ErrorCode, headers: Headers = {}) {
    super(ERRORS[code][1]);
    this.code = code;
    this.headers = headers;
  }

  get reply(): Reply {
    const [status, message] = ERRORS[this.code];
    const challenge = status === 401 ? { "WWW-Authenticate": "Bearer" } : {};
    return json(status, { error: this.code, message } satisfies ErrorReply, {
      ...challenge,
      ...this.headers,
    });
  }
}

/** The reply to whatever was thrown. Bad tokens are counted, and past their limit told to wait. */
function refusal(thrown: unknown, call: Call, party: Party): Reply {
  let error = thrown;
  try {
    if (error instanceof ApiError && error.code === "invalid_token") countCall("refused", call, party);
  } catch (limited) {
    error = limited;
  }
  if (error instanceof ApiError) return error.reply;
  (party.options.logError ?? console.error)(error);
  return new ApiError("internal").reply;
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

function json(status: number, value: object, headers?: Headers): Reply {
  return jsonText(status, JSON.stringify(value), headers);
}

function jsonText(status: number, body: string, headers?: Headers): Reply {
  return { status, headers: { ...API_HEADERS, "Content-Length": Buffer.byteLength(body), ...headers }, body };
}

function plainText(body: string): Reply {
  return jsonText(200, body, { "Content-Type": "text/plain; charset=utf-8" });
}

/** One request with everything that belongs to it. */
interface Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly call: Call;
  readonly party: Party;
}

const NO_BODY = Buffer.alloc(0);

function handleRequest(req: IncomingMessage, res: ServerResponse, party: Party): void {
  const { path, query } = splitTarget(req.url ?? "/");
  const { method = "", headers, socket } = req;
  const call = { method, path, query, headers, socket, now: 0, chatId: "", memberId: "", body: NO_BODY };
  const exchange = { req, res, call, party };
  answer(exchange, () => dispatch(exchange));
}

/** The only way to an answer: what `make` returns is sent or held, what it throws is sent as a refusal. */
function answer(exchange: Exchange, make: () => Reply | Waiter | undefined): void {
  const { call, party } = exchange;
  let outcome: Reply | Waiter | undefined;
  try {
    outcome = make();
  } catch (error) {
    outcome = refusal(error, call, party);
  }
  if (outcome && "heldAt" in outcome) hold(exchange, outcome);
  else if (outcome) send(exchange, outcome);
}

/** Finds the route and runs it; undefined while the body is still to come. */
function dispatch(exchange: Exchange): Reply | Waiter | undefined {
  const { req, call, party } = exchange;
  startClock(call, party);
  const isHostless = call.headers.host === undefined && req.httpVersion === "1.1";
  if (isHostless) throw new ApiError("bad_request", CLOSE);
  if (party.stopping) throw new ApiError("stopping");
  const endpoint = findEndpoint(call.path);
  if (!endpoint) return replyToUnknownPath(call);
  if (call.method === "OPTIONS") return replyToOptions(endpoint.methods);
  const route = endpoint.methods.get(call.method);
  if (!route) throw new ApiError("method_not_allowed", { Allow: allowedMethods(endpoint.methods) });
  if (route.page && wantsPage(call)) return pageReply(call, 200);
  call.chatId = endpoint.chatId;
  call.memberId = endpoint.memberId;
  if (route.rate) countCall(route.rate, call, party);
  if (!route.body) return runRoute(route, call, party);
  if (route.caller !== "anyone") authoriseMember(call, party, route.caller);
  readBody(exchange, route);
  return undefined;
}

/** The time of a call; what is over by then is over before it is looked at. */
function startClock(call: Call, party: Party): void {
  call.now = party.options.now();
  party.chats.expire(call.now);
}

function runRoute(route: Route, call: Call, party: Party): Reply | Waiter {
  if (route.caller === "anyone") return route.handle(call, party);
  return route.handle(call, party, authoriseMember(call, party, route.caller));
}

/**
 * Collects the body, then runs the route. Time has passed by then, so the clock and the token are looked at
 * again. By events: `for await` over a request costs a third of the throughput.
 */
function readBody(exchange: Exchange, route: Route): void {
  const { req, call, party } = exchange;
  const chunks: Buffer[] = [];
  let size = Number(req.headers["content-length"] ?? 0);
  if (size > LIMITS.bodyBytes) return refuseBody(exchange);
  size = 0;
  req.on("data", (chunk: Buffer) => {
    size += chunk.length;
    if (size <= LIMITS.bodyBytes) chunks.push(chunk);
    else if (size - chunk.length <= LIMITS.bodyBytes) refuseBody(exchange);
  });
  req.on("end", () => {
    if (size > LIMITS.bodyBytes) return;
    answer(exchange, () => {
      startClock(call, party);
      call.body = Buffer.concat(chunks);
      return runRoute(route, call, party);
    });
  });
}

const LINGER = { ms: SECOND, bytes: 1_048_576 };

/**
 * Answers too_large at once, and goes on discarding for a while before the connection ends: closing on a
 * client that still sends would reset the connection, and the answer could be lost with it.
 */
function refuseBody({ req, res, party }: Exchange): void {
  const { status, headers, body } = new ApiError("too_large").reply;
  res.writeHead(status, { ...headers, ...CLOSE });
  res.write(body);
  let discarded = 0;
  const finish = (): void => {
    clearTimeout(timer);
    res.end();
  };
  const timer = setTimeout(finish, party.stopping ? 0 : LINGER.ms);
  req.on("data", (chunk: Buffer) => {
    discarded += chunk.length;
    if (discarded > LINGER.bytes) finish();
  });
  req.once("end", finish);
  req.once("close", finish);
}

/** Keeps a poll open until its wait ends or its reader has gone. */
function hold(exchange: Exchange, waiter: Waiter): void {
  const { res, party } = exchange;
  waiter.onEnd = (end) => {
    answer(exchange, () => {
      if (end !== "answer" && end !== "retry") throw new ApiError(end);
      return pollReply(waiter.member, waiter.since, party.options.now(), end === "retry");
    });
  };
  res.once("close", () => party.chats.release(waiter));
}

function send({ res, party }: Exchange, { status, headers, body }: Reply): void {
  if (res.destroyed) return;
  res.writeHead(status, party.stopping ? { ...headers, ...CLOSE } : headers);
  res.end(body);
}

const CLOSE = { Connection: "close" };

/** Path and query of a request target; of an absolute one (RFC 9112, section 3.2.2) too. */
function splitTarget(target: string): { path: string; query: string } {
  const [path, query = ""] = target.replace(/^https?:\/\/[^/?]*/i, "").split("?", 2);
  return { path: path || "/", query };
}

function replyToUnknownPath(call: Call): Reply {
  if (wantsPage(call)) return pageReply(call, 404);
  throw new ApiError("not_found");
}

function replyToOptions(methods: Map<string, Route>): Reply {
  const allowed = allowedMethods(methods);
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
  return headers.authorization === undefined && (headers.accept ?? "").includes("text/html");
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
  if (status === 200 && (asked["if-none-match"] ?? "").includes(tag)) return { status: 304, headers, body: "" };
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
function accepts(header: string | string[] | undefined, coding: string): boolean {
  const pattern = `(?:^|,) *${coding} *(?:$|,|;(?! *q=0(?:\\.0*)? *(?:$|,)))`;
  return new RegExp(pattern).test(String(header ?? ""));
}

/** What Node would answer by itself, in the shape of all errors. The request cannot be read, so the connection ends. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const { status, headers, body } = new ApiError(PARSER_ERRORS[error.code ?? ""] ?? "bad_request").reply;
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

type Server = http.Server | https.Server;

export interface App {
  readonly server: Server;
  readonly chats: Chats;
  /** Ends what is due by the clock. Starts no timer itself: `main` calls it four times a second. */
  sweep(): void;
  /** Shuts down as the contract says; resolves within two seconds. */
  stop(): Promise<void>;
}

const SERVER_OPTIONS = {
  maxHeaderSize: 16_384,
  headersTimeout: 10 * SECOND,
  requestTimeout: 30 * SECOND,
  keepAliveTimeout: 75 * SECOND,
  connectionsCheckingInterval: SECOND,
  // Node's own answer to a request without a Host has no body; `dispatch` says it in JSON.
  requireHostHeader: false,
};

/** The server, not yet listening. */
export function createApp(given: AppOptions = {}): App {
  const options = { secret: randomBytes(32), now: Date.now, ...given };
  const buckets = {
    create: new Buckets(RATES.create),
    join: new Buckets(RATES.join),
    refused: new Buckets(RATES.refused),
  };
  const party: Party = { options, chats: new Chats(options), buckets, stopping: false };
  const listener = (req: IncomingMessage, res: ServerResponse): void => {
    if (options.log) logWhenDone(req, res, options.log);
    handleRequest(req, res, party);
  };
  const server = options.tls
    ? https.createServer({ ...SERVER_OPTIONS, ...options.tls }, listener)
    : http.createServer(SERVER_OPTIONS, listener);
  server.on("clientError", refuseConnection);
  server.on("connect", (_req: IncomingMessage, socket: Duplex) => refuseConnection(new Error("CONNECT"), socket));
  // An expectation other than 100-continue may be ignored (RFC 9110, section 10.1.1).
  server.on("checkExpectation", listener);
  return { server, chats: party.chats, sweep: () => sweep(party), stop: () => stopServer(server, party) };
}

function sweep({ chats, buckets, options }: Party): void {
  const now = options.now();
  chats.sweep(now);
  for (const each of Object.values(buckets)) each.sweep(now);
}

/** Ends held polls, lets requests under way finish, and closes what is left after a second and a half. */
function stopServer(server: Server, party: Party): Promise<void> {
  party.stopping = true;
  return new Promise((resolve) => {
    const deadline = setTimeout(() => {
      server.closeAllConnections();
      resolve();
    }, 1.5 * SECOND);
    server.close(() => {
      clearTimeout(deadline);
      resolve();
    });
    party.chats.releaseAll("stopping");
    server.closeIdleConnections();
  });
}

/** One line a request: time, method, path without its query, status, milliseconds. */
function logWhenDone(req: IncomingMessage, res: ServerResponse, log: (line: string) => void): void {
  const start = performance.now();
  res.once("close", () => {
    const { path } = splitTarget(req.url ?? "/");
    const status = res.headersSent ? res.statusCode : "gone";
    log(`${iso(Date.now())} ${req.method} ${path} ${status} ${(performance.now() - start).toFixed(1)} ms`);
  });
}

/** What ends the program before it runs: one line, and the exit code (2 for its usage, 1 for circumstances). */
class StartError extends Error {
  readonly exitCode: 1 | 2;

  constructor(exitCode: 1 | 2, line: string) {
    super(`watch-party: ${line.replace(/\p{Cc}/gu, " ")}\n`);
    this.exitCode = exitCode;
  }
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
  verbose: { type: "boolean", fits: /^(?:1|0|true|false)$/ },
  version: { type: "boolean", fits: /^true$/ },
  help: { type: "boolean", fits: /^true$/ },
} as const;

type FlagName = keyof typeof FLAGS;
type Settings = ReturnType<typeof readSettings>;

/** @throws StartError for an unknown flag, a missing value, a stray argument */
function readFlags(args: string[]): Partial<Record<FlagName, string | boolean>> {
  try {
    return parseArgs({ args, options: FLAGS }).values;
  } catch (error) {
    // Node's first sentence names the flag; the others explain what this program has no use for.
    throw usageError(String(error instanceof Error ? error.message : error).split(/\. |\.?\n/, 1)[0] ?? "");
  }
}

function usageError(what: string): StartError {
  return new StartError(2, `${what}; see --help`);
}

/** The environment's names for a flag, the first beats the second. */
function variableNames(flag: FlagName): string[] {
  const own = `WATCH_PARTY_${flag.toUpperCase().replaceAll("-", "_")}`;
  return flag === "port" ? [own, "PORT"] : [own];
}

/**
 * Flags and environment, a flag before a variable, of which an empty one is not set.
 * @throws StartError for a value that is none
 */
function readSettings(flags: ReturnType<typeof readFlags>, env: NodeJS.ProcessEnv) {
  const read = (name: FlagName): string | undefined => {
    const variable = variableNames(name).find((each) => env[each]) ?? "";
    const value = flags[name]?.toString() ?? env[variable];
    if (value === undefined || isFlagValue(name, value)) return value;
    throw usageError(`${flags[name] === undefined ? variable : `--${name}`} cannot be "${value}"`);
  };
  const isOn = (name: FlagName): boolean => /^(?:1|true)$/.test(read(name) ?? "");
  const [url, cert, key] = [read("url"), read("tls-cert"), read("tls-key")];
  if ((cert === undefined) !== (key === undefined)) throw usageError("--tls-cert and --tls-key need each other");
  return {
    port: toNumber(read("port")),
    host: read("host"),
    url: url && new URL(url).origin,
    tlsFiles: cert === undefined || key === undefined ? undefined : { cert, key },
    trustProxy: isOn("trust-proxy"),
    maxChats: toNumber(read("max-chats")),
    rateLimit: !isOn("no-rate-limit"),
    node: read("node"),
    verbose: isOn("verbose"),
  };
}

function toNumber(digits: string | undefined): number | undefined {
  return digits === undefined ? undefined : Number(digits);
}

function isFlagValue(name: FlagName, value: string): boolean {
  if (!FLAGS[name].fits.test(value)) return false;
  return name === "port" ? Number(value) <= 65_535 : name !== "url" || URL.canParse(value);
}

/** Runs the program: reads flags, listens, prints where, stops on a signal. */
export async function main(argv: string[], env: NodeJS.ProcessEnv): Promise<void> {
  // A reader of our output who leaves, or a full disk under it, is no reason to stop.
  process.stdout.on("error", () => {});
  process.stderr.on("error", () => {});
  try {
    const flags = readFlags(argv);
    if (flags.help) print(assets.usage);
    else if (flags.version) print(`watch-party ${assets.version}\n`);
    else await runServer(readSettings(flags, env));
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    process.stderr.write(error.message);
    process.exitCode = error.exitCode;
  }
}

function print(text: string): void {
  process.stdout.write(text);
}

async function runServer(settings: Settings): Promise<void> {
  let addresses = await findLanAddresses();
  const app = createApp({
    ...settings,
    tls: settings.tlsFiles && readCertificate(settings.tlsFiles),
    lanAddress: () => addresses[0]?.address,
    log: settings.verbose ? (line) => print(`${line}\n`) : undefined,
  });
  // Before the first line is printed: whoever reads it may stop us at once.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"] as const) {
    process.on(signal, () => void app.stop().then(() => process.exit(0)));
  }
  print(banner(settings, await listen(app.server, settings), addresses));
  setInterval(() => app.sweep(), 250);
  // A laptop changes its network; links made afterwards must lead to its new address.
  setInterval(() => void findLanAddresses().then((found) => (addresses = found)), 10 * SECOND);
}

/** @throws StartError where the files cannot be read or are not what they should be */
function readCertificate(files: { cert: string; key: string }): { cert: Buffer; key: Buffer } {
  let file = files.cert;
  try {
    const cert = readFileSync(file);
    file = files.key;
    const key = readFileSync(file);
    file = `${files.cert} with ${files.key}`;
    createSecureContext({ cert, key });
    return { cert, key };
  } catch (error) {
    throw new StartError(1, `cannot use ${file} (${errorCode(error)}); check --tls-cert and --tls-key`);
  }
}

function errorCode(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}

/** Listens where it was told to; where no port was asked for, from 8080 on at the first that is free. */
async function listen(server: Server, { port, host }: Settings): Promise<number> {
  for (let candidate = port ?? 8_080; ; candidate += 1) {
    try {
      await once(server.listen({ port: candidate, ...(host !== undefined && { host }) }), "listening");
      break;
    } catch (error) {
      const code = errorCode(error);
      const isLast = port !== undefined || candidate === 65_535;
      if (isLast || code !== "EADDRINUSE") throw listenError(code, candidate, host);
    }
  }
  // Too many open files is said here: those who are connected stay, and the next may find room again.
  server.on("error", () => {});
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

function listenError(code: string, port: number, host = "any address"): StartError {
  if (code === "EADDRINUSE")
    return new StartError(1, `port ${port} is taken; choose another, or none for the next free one`);
  if (code === "EACCES") return new StartError(1, `port ${port} is not for ordinary users; choose one above 1023`);
  return new StartError(
    1,
    `cannot listen on ${host} (${code}); leave --host out to listen on all of this machine's addresses`,
  );
}

interface LanAddress {
  readonly address: string;
  /** The interface's name. */
  readonly name: string;
}

/** This machine's addresses on its networks, the one to hand out first. */
async function findLanAddresses(): Promise<LanAddress[]> {
  return rankAddresses(networkInterfaces(), await defaultRouteAddress());
}

/** The source address of the default route. Connecting a UDP socket looks the route up and sends nothing. */
async function defaultRouteAddress(): Promise<string | undefined> {
  const socket = createSocket("udp4");
  try {
    // 192.0.2.1 is set aside for documentation (RFC 5737): nobody's, so the default route leads there.
    socket.connect(9, "192.0.2.1");
    await once(socket, "connect");
    return socket.address().address;
  } catch {
    return undefined;
  } finally {
    socket.close();
  }
}

const PRIVATE_ADDRESS = /^(?:10\.|192\.168\.|172\.(?:1[6-9]|2[0-9]|3[01])\.)/;
const LINK_LOCAL_ADDRESS = /^169\.254\./;
const VIRTUAL_INTERFACE =
  /vEthernet|WSL|VirtualBox|VMware|^(?:vmnet|vboxnet|virbr|docker|br-|veth|utun|tun|tap|wg|zt|tailscale)/i;

/** The default route's address first; then private IPv4 ones; those of virtual interfaces last, link-local ones never. */
export function rankAddresses(
  interfaces: ReturnType<typeof networkInterfaces>,
  defaultRoute: string | undefined,
): LanAddress[] {
  const found = Object.entries(interfaces)
    .flatMap(([name, addresses = []]) => addresses.map((each) => ({ ...each, name })))
    .filter(({ family, internal }) => family === "IPv4" && !internal)
    .filter(({ address }) => address === defaultRoute || PRIVATE_ADDRESS.test(address))
    .filter(({ address }) => !LINK_LOCAL_ADDRESS.test(address));
  const rank = ({ address, name }: LanAddress): number => {
    if (address === defaultRoute) return 0;
    return VIRTUAL_INTERFACE.test(name) ? 2 : 1;
  };
  return found.toSorted((a, b) => rank(a) - rank(b));
}

/** What is printed at start: where to open it, for people, phones and scripts. */
function banner(settings: Settings, port: number, lan: LanAddress[]): string {
  const places = openAddresses(settings, port, lan);
  const first = places[0]?.url ?? "";
  const width = Math.max(...places.map(({ url }) => url.length));
  const isTerminal = process.stdout.isTTY;
  const bold = (text: string): string => (isTerminal && !process.env["NO_COLOR"] ? `\x1b[1m${text}\x1b[0m` : text);
  const moved = settings.port === undefined && port !== 8_080 ? `Port 8080 is taken, so this is port ${port}.\n` : "";
  const isHere = isThisMachine(new URL(first).hostname);
  return `Watch Party ${assets.version} is running. Open one of these, and share a link from there:

${places.map(({ url, label }) => `  ${bold(url.padEnd(width))}  ${label}`).join("\n")}
${moved}
${isTerminal && !isHere ? terminalQr(first, process.stdout.columns) : ""}Phones cannot connect? Same Wi-Fi (not its guest network), and let this port through the firewall.
Scripts: curl -X POST "${first}/create"
`;
}

/** Every address to open, the best to share first. */
function openAddresses(settings: Settings, port: number, lan: LanAddress[]): { url: string; label: string }[] {
  const scheme = settings.tlsFiles ? "https" : "http";
  const { host = "::" } = settings;
  const isEverywhere = host === "::" || host === "0.0.0.0";
  const places = isEverywhere
    ? lan.map(({ address, name }) => ({ url: addressUrl(scheme, address, port), label: name }))
    : [];
  if (settings.url !== undefined) places.unshift({ url: settings.url, label: "as given by --url" });
  const here = {
    url: addressUrl(scheme, isEverywhere ? "localhost" : host, port),
    label: isEverywhere || isThisMachine(host) ? "this computer only" : "as given by --host",
  };
  return [...places, here];
}

/** A QR code of half blocks, two rows of modules in one of text, with its quiet zone; "" where it does not fit. */
function terminalQr(url: string, columns: number): string {
  const code = generate(url);
  const edge = code.size + 4;
  if (columns < code.size + 8) return "";
  const rows: string[] = [];
  for (let y = -4; y < edge; y += 2) {
    let row = "";
    for (let x = -4; x < edge; x += 1) row += " ▀▄█"[(code.get(x, y) ? 0 : 1) + (code.get(x, y + 1) ? 0 : 2)];
    // Light on dark by colour, whatever the terminal's own are; without colours, on the guess that it is dark.
    rows.push(process.env["NO_COLOR"] ? row : `\x1b[97;40m${row}\x1b[0m`);
  }
  return `${rows.join("\n")}\n\n`;
}

if (import.meta.main) void main(process.argv.slice(2), process.env);
