// The upper limit: a node:http server that gives the same answer to every request. Its first argument is a file with
// the answers: {"GET": {"headers", "body"}, "POST": {"headers", "body"}}. A second argument, `tuned`, gives it our server's
// options.

import { readFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import { portOf, record } from "../lib/helpers.ts";

const answers = record(JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")));
const get = answerOf("GET");
const post = answerOf("POST");

function answerOf(method: string): { headers: Record<string, string>; body: string } {
  const { headers, body } = record(answers[method]);
  const pairs = Object.entries(record(headers)).map(([name, value]) => [name, String(value)] as const);
  return { headers: Object.fromEntries(pairs), body: String(body) };
}

function send(res: ServerResponse, status: number, { headers, body }: typeof get): void {
  res.writeHead(status, headers);
  res.end(body);
}

const server = createServer({ optimizeEmptyRequests: process.argv[3] === "tuned" }, (req, res) => {
  if (req.method === "GET") return send(res, 200, get);
  const chunks: Buffer[] = [];
  req.on("data", (chunk: Buffer) => chunks.push(chunk));
  req.on("end", () => {
    Buffer.concat(chunks);
    send(res, 201, post);
  });
});

server.keepAliveTimeout = 75_000;
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${portOf(server.address())}`));
