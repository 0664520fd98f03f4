// Requests with an immediate answer, sent by wrk as fast as the server answers, and the CPU time they cost the server.

import { execFile, spawnSync } from "node:child_process";
import { promisify } from "node:util";
import { cpuOf, type Figures, fileHere, type Target } from "./measure.ts";

const run = promisify(execFile);

export function hasProgram(name: string, ...flags: string[]): boolean {
  return spawnSync(name, flags).error === undefined;
}

/** One request as a line for requests.lua: method, path, token, body. */
export function requestLine(method: "GET" | "POST", path: string, token: string, text = ""): string {
  return [method, path, token, text && JSON.stringify({ text })].join("\t");
}

/** The bytes of a request that `requestLine` describes. */
export function rawRequest(line: string): string {
  const [method = "", path = "", token = "", body = ""] = line.split("\t");
  const content = body === "" ? [] : ["Content-Type: application/json", `Content-Length: ${Buffer.byteLength(body)}`];
  const headers = ["Host: 127.0.0.1", "User-Agent: bench", "Accept: */*", `Authorization: Bearer ${token}`, ...content];
  return `${method} ${path} HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n${body}`;
}

/** Runs one round: sends the requests of a file in turn over 32 connections. Throws if any answer is an error. */
export async function load(name: string, target: Target, file: string, seconds: number): Promise<Figures> {
  const before = cpuOf(target.pid);
  const url = `http://127.0.0.1:${target.port}`;
  const script = ["-s", fileHere("requests.lua"), url, "--", file];
  const { stdout } = await run("wrk", ["-t1", "-c32", `-d${seconds}s`, ...script]);
  const requests = Number(/(\d+) requests in/.exec(stdout)?.[1]);
  if (!requests || /Non-2xx|Socket errors/.test(stdout)) throw new Error(`${name}: ${stdout}`);
  return { [name]: (cpuOf(target.pid) - before) / requests };
}
