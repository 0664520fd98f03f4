// Real proxies in front of the real program, for the tests of what deploy/ and test/scale/ hold.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  invitationOf,
  type Program,
  readMetric,
  SECOND,
  send,
  type SendOptions,
  sessionOf,
  type Target,
} from "./helpers.ts";

/** Runs a proxy until the test is over. Returns its process id as soon as it listens. */
export async function startProxy(
  t: TestContext,
  port: number,
  command: string,
  args: string[],
  env: NodeJS.ProcessEnv = {},
): Promise<number> {
  // Debian keeps servers where only root's PATH looks.
  const path = `${process.env["PATH"]}:/usr/sbin:/sbin`;
  const child = spawn(command, args, {
    env: { ...process.env, ...env, PATH: path },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let complaints = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => (complaints += part));
  const ended = once(child, "exit");
  t.after(async () => {
    // At once: haproxy would wait for those who are still connected.
    child.kill("SIGINT");
    await ended;
  });
  await eventually(`${command} to listen`, async () => {
    assert.equal(child.exitCode, null, complaints);
    return isOpen(port);
  });
  return child.pid ?? 0;
}

function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** Asks again and again, for what takes its seconds and announces itself by no event. */
export async function eventually(what: string, isTrue: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30 * SECOND;
  while (!(await isTrue())) {
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
    await sleep(20);
  }
}

/** How many polls and streams a node with --metrics holds. */
export function countHeld(node: Program): Promise<number> {
  return readMetric(node, "watch_party_held_polls");
}

/** A file's text with each of these in it replaced; a test fails where one is not there. */
export function replaceAll(text: string, changes: Readonly<Record<string, string>>): string {
  let changed = text;
  for (const [before, after] of Object.entries(changes)) {
    assert.ok(changed.includes(before), `there is no "${before}"`);
    changed = changed.replaceAll(before, after);
  }
  return changed;
}

export interface Seat {
  path: string;
  token: string;
}

export async function createChat(target: Target, options: SendOptions = {}): Promise<Seat> {
  const session = sessionOf(await send(target, "POST", "/create", { ...options, body: { username: "Ana" } }));
  return { path: `/${session.chat_id}`, token: session.session_token };
}

export async function join(target: Target, creator: Seat, options: SendOptions = {}): Promise<Seat> {
  const { invite_token } = invitationOf(
    await send(target, "POST", `${creator.path}/invite`, { ...options, ...creator }),
  );
  const joined = await send(target, "POST", `${creator.path}/join`, { ...options, body: { invite_token } });
  return { path: creator.path, token: sessionOf(joined).session_token };
}

/** Opens a stream; the lines come as they come. */
export async function openStream(
  t: TestContext,
  { port, tls }: Target,
  { path, token }: Seat,
  headers: Record<string, string> = {},
): Promise<AsyncIterator<string>> {
  const outgoing = (tls === true ? httpsRequest : httpRequest)({
    host: "127.0.0.1",
    port,
    path,
    agent: false,
    rejectUnauthorized: false,
    headers: { ...headers, Accept: "application/x-ndjson", Authorization: `Bearer ${token}` },
  });
  outgoing.on("error", () => {});
  t.after(() => outgoing.destroy());
  outgoing.end();
  const answer = await new Promise<IncomingMessage>((resolve) => outgoing.once("response", resolve));
  assert.equal(answer.statusCode, 200);
  return createInterface({ input: answer })[Symbol.asyncIterator]();
}
