// Runs wrk: requests with an immediate answer, as fast as possible. Measures the CPU they cost the server.

import { execFile, spawnSync } from "node:child_process";
import { promisify } from "node:util";
import { cpuOf, type Figures, fileHere, type Target } from "./measure.ts";

const run = promisify(execFile);

export function hasProgram(name: string, ...flags: string[]): boolean {
  return spawnSync(name, flags).error === undefined;
}

/** A request as a line for requests.lua: method, path, token, body. */
export function requestLine(method: "GET" | "POST", path: string, token: string, text = ""): string {
  return [method, path, token, text && JSON.stringify({ text })].join("\t");
}

/** Sends the requests in a file in turn over 32 connections for some seconds. Every answer must be a success. Returns CPU
 * microseconds per request. */
export async function load(name: string, target: Target, file: string, seconds: number): Promise<Figures> {
  const before = cpuOf(target.pid);
  const url = `http://127.0.0.1:${target.port}`;
  const script = ["-s", fileHere("requests.lua"), url, "--", file];
  const { stdout } = await run("wrk", ["-t1", "-c32", `-d${seconds}s`, ...script]);
  const requests = Number(/(\d+) requests in/.exec(stdout)?.[1]);
  if (!requests || /Non-2xx|Socket errors/.test(stdout)) throw new Error(`${name}: ${stdout}`);
  return { [name]: (cpuOf(target.pid) - before) / requests };
}
