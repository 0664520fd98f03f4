// Real proxies in front of the real program, for the tests of the files in deploy/.

import assert from "node:assert/strict";
import { spawn, spawnSync, type SpawnSyncReturns } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import {
  freePort,
  invitationOf,
  type Program,
  readMetric,
  SECOND,
  send,
  type SendOptions,
  sessionOf,
  type Target,
  temporaryFolder,
} from "./helpers.ts";

const DEPLOY = fileURLToPath(new URL("../deploy/", import.meta.url));

/** Runs a proxy until the test is over. Returns its process id as soon as it listens. */
export async function startProxy(
  t: TestContext,
  port: number,
  command: string,
  args: string[],
  env: NodeJS.ProcessEnv = {},
): Promise<number> {
  const child = spawn(command, args, { env: { ...withSbin(), ...env }, stdio: ["ignore", "ignore", "pipe"] });
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

/** What `haproxy -c` says to deploy/haproxy.cfg, with nothing in it changed. */
export function checkHaproxy(): SpawnSyncReturns<string> {
  return spawnSync("haproxy", ["-c", "-f", `${DEPLOY}haproxy.cfg`], { env: withSbin(), encoding: "utf8" });
}

/**
 * HAProxy with deploy/haproxy.cfg in front of nodes on these ports, named a, b and c in that order. Ports and the admin
 * socket's place differ from the file, and so do user, group and chroot unless root runs the test.
 */
export async function startHaproxy(
  t: TestContext,
  nodePorts: readonly number[],
): Promise<{ port: number; pid: number; admin: string }> {
  const [folder, port] = [temporaryFolder(t), await freePort()];
  const changes: Record<string, string> = {
    "bind :80": `bind 127.0.0.1:${port}`,
    "/run/haproxy/watch-party.sock": `${folder}/admin`,
  };
  for (const [index, name] of ["a", "b", "c"].entries()) {
    const [line, nodePort] = [`server ${name} 127.0.0.1:808${index + 1}`, nodePorts[index]];
    changes[line] = nodePort === undefined ? "" : `server ${name} 127.0.0.1:${nodePort}`;
  }
  // Only root may change user and root folder.
  const rootOnly = process.getuid?.() === 0 ? [] : ["user haproxy", "group haproxy", "chroot /var/lib/haproxy"];
  for (const line of rootOnly) changes[line] = "";
  writeFileSync(`${folder}/haproxy.cfg`, replaceAll(readFileSync(`${DEPLOY}haproxy.cfg`, "utf8"), changes));
  copyFileSync(`${DEPLOY}stopping.http`, `${folder}/stopping.http`);
  const pid = await startProxy(t, port, "haproxy", ["-db", "-f", `${folder}/haproxy.cfg`]);
  return { port, pid, admin: `${folder}/admin` };
}

/** This environment; Debian keeps servers where only root's PATH looks. */
function withSbin(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` };
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
