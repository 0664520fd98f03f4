// Other people's tools use the OpenAPI document (dist/openapi.json). `npm run test:client` generates types from it with
// openapi-typescript (into dist/openapi.d.ts), and openapi-fetch sends requests with those types. Prism, a validating
// proxy, sits between that client and the real server and rejects every reply that the document does not describe.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import test, { type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import createClient from "openapi-fetch";
import { at, freePort, LOCAL, portOf, Program, record, stringOf, until } from "../lib/helpers.ts";
import { openapi } from "../lib/openapi.ts";
import { countWaiters, eventually } from "../lib/proxies.ts";
import type { components, paths } from "../../dist/openapi.d.ts";

const PRISM = fileURLToPath(new URL("node_modules/@stoplight/prism-cli/dist/index.js", import.meta.url));
const DOCUMENT = fileURLToPath(new URL("../../dist/openapi.json", import.meta.url));

type Client = ReturnType<typeof createClient<paths>>;
type RateLimitCode = components["responses"]["RateLimited"]["content"]["application/json"]["error"];
type StreamLine = components["schemas"]["StreamLine"];

/** Runs Prism until the end of the test. Returns its base URL. */
async function startPrism(t: TestContext, mode: "mock" | "proxy", upstream: string[] = []): Promise<string> {
  const port = await freePort();
  const parameters = [PRISM, mode, DOCUMENT, ...upstream, "--errors", "--host", "127.0.0.1", "--port", String(port)];
  const child = spawn(process.execPath, parameters, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (part: Buffer) => (output += part.toString()));
  t.after(() => child.kill());
  await eventually("Prism to listen", async () => {
    assert.equal(child.exitCode, null, output);
    return output.includes("Prism is listening");
  });
  return `http://127.0.0.1:${port}`;
}

/** Starts the real server, with one client that reaches it through Prism and one that reaches it directly. */
async function startAll(t: TestContext): Promise<{ client: Client; direct: Client; program: Program }> {
  const program = await Program.start(t, [...LOCAL, "--metrics"]);
  const base = `http://127.0.0.1:${program.port}`;
  const client = createClient<paths>({ baseUrl: await startPrism(t, "proxy", [base]) });
  return { client, direct: createClient<paths>({ baseUrl: base }), program };
}

function bearer(token: string): { Authorization: string } {
  return { Authorization: `Bearer ${token}` };
}

/** The body of a successful answer. */
function dataOf<Data>({ data, error, response }: { data?: Data; error?: unknown; response: Response }): Data {
  assert.ok(data !== undefined, `${response.url} ${response.status} ${JSON.stringify(error)}`);
  return data;
}

function assertNoContent({ error, response }: { error?: unknown; response: Response }): void {
  assert.equal(response.status, 204, JSON.stringify(error));
}

async function createChat(client: Client, username: string) {
  const session = dataOf(await client.POST("/create", { body: { username } }));
  return { session, params: { path: { chat_id: session.chat_id } }, headers: bearer(session.session_token) };
}

test("a generated client can create, invite, join, post, poll, leave and remove through a validating proxy", async (t) => {
  const { client, program } = await startAll(t);
  const ana = await createChat(client, "Ana");
  const { params } = ana;
  const invitation = dataOf(await client.POST("/{chat_id}/invite", ana));
  assert.equal(invitation.seats_left, 5);
  const guest = { params, headers: bearer(invitation.invite_token) };
  assert.deepEqual(dataOf(await client.GET("/{chat_id}/invite", guest)).members, ["Ana"]);

  const join = async (username: string) => {
    const body = { invite_token: invitation.invite_token, username };
    const session = dataOf(await client.POST("/{chat_id}/join", { params, body }));
    return { session, params, headers: bearer(session.session_token) };
  };
  const [ben, cy] = [await join("Ben"), await join("Cy")];

  const { cursor } = await poll(client, ben, { since: "latest" });
  const held = poll(client, ben, { since: cursor, wait: 50 });
  await until(async () => (await countWaiters(program)) === 1, "the poll to be held");
  const posted = dataOf(await client.POST("/{chat_id}", { ...ana, body: { text: "Who brings the popcorn?" } }));
  assert.deepEqual((await held).messages, [posted]);
  const key = { params: { ...params, header: { "Idempotency-Key": "one key" } } };
  const plain = { ...ana, ...key, headers: { ...ana.headers, "Content-Type": "text/plain" } };
  const first = await client.POST("/{chat_id}", { ...plain, body: "Me", bodySerializer: String });
  const again = await client.POST("/{chat_id}", { ...plain, body: "Me", bodySerializer: String });
  assert.deepEqual([first.response.status, again.response.status], [201, 200]);
  assert.deepEqual(first.data, again.data);

  assertNoContent(await client.POST("/{chat_id}/leave", ben));
  const path = { ...params.path, member_id: cy.session.member_id };
  assertNoContent(await client.DELETE("/{chat_id}/members/{member_id}", { ...ana, params: { path } }));
  assertNoContent(await client.DELETE("/{chat_id}/invite", ana));
  const { messages, members } = await poll(client, ana, {});
  assert.deepEqual(
    messages.map(({ text }) => text),
    ["Who brings the popcorn?", "Me"],
  );
  assert.equal(at(members, 0).id, ana.session.member_id);
  assert.equal(members.length, 1);
  assertNoContent(await client.DELETE("/{chat_id}", ana));
  const gone = await client.GET("/{chat_id}", ana);
  assert.deepEqual([gone.response.status, gone.error?.error], [404, "chat_not_found"]);
});

test("a generated client reads a stream line by line, and a whole ended stream through a validating proxy", async (t) => {
  const { client, direct, program } = await startAll(t);
  const ana = await createChat(client, "Ana");
  const streaming = { ...ana, headers: { ...ana.headers, Accept: "application/x-ndjson" } };
  const live = dataOf(await direct.GET("/{chat_id}", { ...streaming, parseAs: "stream" }));
  assert.ok(live);
  const lines = linesOf(live);
  assert.deepEqual(Object.keys(await nextOf(lines)), ["members", "cursor"]);
  // Prism forwards an answer only when it is complete.
  const whole = client.GET("/{chat_id}", { ...streaming, parseAs: "text" });
  await until(async () => (await countWaiters(program)) === 2, "both streams to be open");

  const posted = dataOf(await client.POST("/{chat_id}", { ...ana, body: { text: "Hello" } }));
  assert.deepEqual(await nextOf(lines), posted);
  assertNoContent(await client.DELETE("/{chat_id}", ana));
  const last = await nextOf(lines);
  assert.ok("error" in last);
  assert.equal(last.error, "chat_not_found");
  const text = dataOf(await whole);
  assert.ok(typeof text === "string");
  assert.deepEqual(JSON.parse(at(text.trim().split("\n"), -2)), posted);
});

test("an error passes the proxy with its code, and the generated types list the codes per status", async (t) => {
  const { client } = await startAll(t);
  const ana = await createChat(client, "Ana");
  const { error, response } = await client.POST("/{chat_id}", { ...ana, body: { text: " " } });
  assert.deepEqual([response.status, error?.error], [422, "invalid_text"]);
  const known: RateLimitCode = "rate_limited";
  // @ts-expect-error -- a 429 has no other code
  const unknown: RateLimitCode = "too_large";
  assert.notEqual(known, unknown);
});

test("the poll of a client that is created for JSON needs no narrowing", async (t) => {
  const program = await Program.start(t, LOCAL);
  // docs/api.md recommends the second type argument. Without it `data` might be a stream or the page, both strings.
  const client = createClient<paths, "application/json">({ baseUrl: `http://127.0.0.1:${program.port}` });
  const session = dataOf(await client.POST("/create", { body: { username: "Ana" } }));
  const params = { path: { chat_id: session.chat_id }, query: { since: 0, wait: 25 } };
  const { data } = await client.GET("/{chat_id}", { params, headers: bearer(session.session_token) });
  assert.equal(data?.cursor, 1);
});

test("Prism as a mock answers every documented error with its status and example", async (t) => {
  const base = await startPrism(t, "mock");
  const examples = openapi.components["examples"] ?? {};
  const answers = openapi.paths["/create"]?.["post"]?.responses ?? {};
  const statuses = Object.keys(answers).filter((status) => status >= "400");
  assert.ok(statuses.length > 5);
  for (const status of statuses) {
    const reply = await fetch(`${base}/create`, { method: "POST", headers: { Prefer: `code=${status}` } });
    const text = await reply.text();
    assert.equal(reply.status, Number(status), text);
    assert.ok(stringOf(record(JSON.parse(text)), "error") in examples, text);
  }
});

test("Prism refuses an answer that the document does not describe", async (t) => {
  const fake = createServer((_request, response) => {
    response.setHeader("Content-Type", "application/json");
    response.end('{"status":"ok","more":1}');
  });
  await new Promise<void>((resolve) => fake.listen(0, "127.0.0.1", resolve));
  t.after(() => fake.close());
  const base = await startPrism(t, "proxy", [`http://127.0.0.1:${portOf(fake.address())}`]);
  const { data, response } = await createClient<paths>({ baseUrl: base }).GET("/healthz");
  assert.equal(data, undefined);
  assert.equal(response.status, 500);
});

async function poll(
  client: Client,
  { params, headers }: ChatMember,
  query: { since?: number | "latest"; wait?: number },
) {
  const data = dataOf(await client.GET("/{chat_id}", { params: { ...params, query }, headers }));
  assert.ok(typeof data !== "string");
  return data;
}

/** A member's chat and authorization, as openapi-fetch takes them. */
type ChatMember = Pick<Awaited<ReturnType<typeof createChat>>, "params" | "headers">;

/** The lines of a stream as they arrive, without the empty ones. */
async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<StreamLine> {
  for await (const line of createInterface({ input: Readable.from(stream) })) {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the test compares the line with a message
    if (line !== "") yield JSON.parse(line) as StreamLine;
  }
}

async function nextOf(lines: AsyncGenerator<StreamLine>): Promise<StreamLine> {
  const { value, done } = await lines.next();
  assert.ok(done !== true, "the stream has ended");
  return value;
}
