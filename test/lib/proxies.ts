// Runs real proxies in front of the real program, to test the files in deploy/.

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

const DEPLOY = fileURLToPath(new URL("../../deploy/", import.meta.url));

/** Runs a proxy until the end of the test. Waits until it listens and returns its process id. */
export async function startProxy(
  t: TestContext,
  port: number,
  command: string,
  args: string[],
  env: NodeJS.ProcessEnv = {},
): Promise<number> {
  const child = spawn(command, args, { env: { ...withSbin(), ...env }, stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => (stderr += part));
  const ended = once(child, "exit");
  t.after(async () => {
    // SIGINT, because haproxy should not wait for open connections.
    child.kill("SIGINT");
    await ended;
  });
  await eventually(`${command} to listen`, async () => {
    assert.equal(child.exitCode, null, stderr);
    return isOpen(port);
  });
  return child.pid ?? 0;
}

/** Runs `haproxy -c` on the unchanged deploy/haproxy.cfg. */
export function checkHaproxy(): SpawnSyncReturns<string> {
  return spawnSync("haproxy", ["-c", "-f", `${DEPLOY}haproxy.cfg`], { env: withSbin(), encoding: "utf8" });
}

/**
 * Starts HAProxy with deploy/haproxy.cfg in front of nodes on these ports, named a, b and c in this order. Only the ports
 * and the path of the admin socket differ from the file, and user, group and chroot if the test does not run as root.
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
  // Only root can change the user and the root folder.
  const rootOnly = process.getuid?.() === 0 ? [] : ["user haproxy", "group haproxy", "chroot /var/lib/haproxy"];
  for (const line of rootOnly) changes[line] = "";
  writeFileSync(`${folder}/haproxy.cfg`, replaceAll(readFileSync(`${DEPLOY}haproxy.cfg`, "utf8"), changes));
  copyFileSync(`${DEPLOY}stopping.http`, `${folder}/stopping.http`);
  const pid = await startProxy(t, port, "haproxy", ["-db", "-f", `${folder}/haproxy.cfg`]);
  return { port, pid, admin: `${folder}/admin` };
}

/** This environment with the folders in which Debian keeps servers, which only root has on its PATH. */
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

/** Waits up to 30 seconds for a condition of another program that has no event. */
export async function eventually(what: string, isTrue: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30 * SECOND;
  while (!(await isTrue())) {
    assert.ok(Date.now() < deadline, `timed out waiting for ${what}`);
    await sleep(20);
  }
}

/** The number of held polls and open streams of a node with --metrics. */
export function countWaiters(node: Program): Promise<number> {
  return readMetric(node, "watch_party_held_polls");
}

/** Replaces each of these strings in a text. The test fails if one is missing. */
export function replaceAll(text: string, changes: Readonly<Record<string, string>>): string {
  let changed = text;
  for (const [before, after] of Object.entries(changes)) {
    assert.ok(changed.includes(before), `"${before}" is missing`);
    changed = changed.replaceAll(before, after);
  }
  return changed;
}

/** A member's chat, as a path, and session token. */
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

/** Opens a stream. Returns its lines as they arrive. */
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
