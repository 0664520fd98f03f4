// Three nodes behind HAProxy with deploy/haproxy.cfg.

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { connect } from "node:net";
import test, { type TestContext } from "node:test";
import assets from "../../dist/assets.json" with { type: "json" };
import { launchBrowser, newPerson } from "../browser.ts";
import {
  assertApiHeaders,
  assertError,
  at,
  LOCAL,
  messageOf,
  pollOf,
  Program,
  record,
  type Reply,
  send,
  sessionOf,
} from "../helpers.ts";
import { start as startChat } from "../people.ts";
import {
  checkHaproxy,
  countHeld,
  createChat,
  eventually,
  join,
  openStream,
  type Seat,
  startHaproxy,
} from "../proxies.ts";

const NAMES = ["a", "b", "c"] as const;
type Name = (typeof NAMES)[number];

class Cluster {
  readonly t: TestContext;
  readonly nodes: Record<Name, Program>;
  readonly port: number;
  readonly #admin: string;

  constructor(t: TestContext, nodes: Record<Name, Program>, port: number, admin: string) {
    this.t = t;
    this.nodes = nodes;
    this.port = port;
    this.#admin = admin;
  }

  static async start(t: TestContext, flags = ["--no-rate-limit"]): Promise<Cluster> {
    const [a, b, c] = await Promise.all(NAMES.map((name) => startNode(t, name, flags)));
    assert.ok(a && b && c);
    const nodes = { a, b, c };
    const { port, admin } = await startHaproxy(t, [a.port, b.port, c.port]);
    return new Cluster(t, nodes, port, admin);
  }

  /** A chat on each node, with somebody who listens there. */
  async chatOnEach(): Promise<Record<Name, Seat>> {
    const seats: Partial<Record<Name, Seat>> = {};
    while (Object.keys(seats).length < NAMES.length) {
      const seat = await createChat(this);
      await openStream(this.t, this, seat);
      seats[nodeOf(seat)] = seat;
    }
    return { ...NO_SEATS, ...seats };
  }

  post(seat: Seat, text: string): Promise<Reply> {
    return send(this, "POST", seat.path, { token: seat.token, body: { text } });
  }

  read(seat: Seat, query = ""): Promise<Reply> {
    return send(this, "GET", `${seat.path}${query}`, { token: seat.token });
  }

  /** Nodes of as many new chats. */
  async createMany(count: number): Promise<Set<Name>> {
    const seats = await Promise.all(Array.from({ length: count }, () => createChat(this)));
    return new Set(seats.map(nodeOf));
  }

  /** A line for HAProxy's Runtime API. */
  tell(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      let answer = "";
      const socket = connect(this.#admin, () => socket.end(`${line}\n`));
      socket.on("data", (part) => (answer += part.toString()));
      socket.on("end", () => resolve(answer.trim()));
      socket.on("error", reject);
    });
  }
}

const NO_SEATS = { a: { path: "", token: "" }, b: { path: "", token: "" }, c: { path: "", token: "" } };

function startNode(t: TestContext, name: Name, flags: string[]): Promise<Program> {
  return Program.start(t, [...LOCAL, "--node", name, "--trust-proxy", "--metrics", ...flags]);
}

function nodeOf({ path }: Seat): Name {
  const name = NAMES.find((each) => path.startsWith(`/${each}-`));
  assert.ok(name, path);
  return name;
}

test("HAProxy's own check finds nothing wrong with deploy/haproxy.cfg as it is", () => {
  const { status, stdout, stderr } = checkHaproxy();
  assert.deepEqual([status, stderr], [0, ""], stdout);
});

test("each new chat goes where the fewest people wait, and everything of it to its node", async (t) => {
  const cluster = await Cluster.start(t);
  const counts = { a: 0, b: 0, c: 0 };
  for (let index = 0; index < 9; index += 1) {
    const seat = await createChat(cluster);
    counts[nodeOf(seat)] += 1;
    await openStream(t, cluster, seat);
    const message = messageOf(await cluster.post(seat, "Hello"));
    assert.deepEqual(pollOf(await cluster.read(seat)).messages, [message]);
  }
  assert.deepEqual(counts, { a: 3, b: 3, c: 3 });
  for (const name of NAMES) assert.equal(await countHeld(cluster.nodes[name]), 3);
});

test("a held poll is answered at once by a post, on every node", async (t) => {
  const cluster = await Cluster.start(t);
  for (const [name, seat] of Object.entries(await cluster.chatOnEach())) {
    const reader = await join(cluster, seat);
    const held = cluster.read(reader, "?since=latest&wait=50");
    const node = cluster.nodes[nodeOf(seat)];
    await eventually("the poll to be held", async () => (await countHeld(node)) === 2);
    const message = messageOf(await cluster.post(seat, `to ${name}`));
    assert.deepEqual(pollOf(await held).messages, [message]);
  }
});

test("a reader who disconnects is not held any longer, so a page that is reloaded often still gets its polls", async (t) => {
  const cluster = await Cluster.start(t);
  const seat = await createChat(cluster);
  const node = cluster.nodes[nodeOf(seat)];
  // A browser may hold four polls.
  const path = `${seat.path}?since=latest&wait=50&browser=reloading`;
  for (let load = 0; load < 6; load += 1) {
    const controller = new AbortController();
    const poll = send(cluster, "GET", path, { token: seat.token, signal: controller.signal });
    await eventually("the poll to be held", async () => (await countHeld(node)) === 1);
    controller.abort();
    await assert.rejects(poll);
    await eventually("the poll to end", async () => (await countHeld(node)) === 0);
  }
  const final = send(cluster, "GET", path, { token: seat.token });
  await eventually("the last poll to be held", async () => (await countHeld(node)) === 1);
  const message = messageOf(await cluster.post(seat, "still here"));
  const { messages, retry_in } = pollOf(await final);
  assert.deepEqual([messages, retry_in], [[message], undefined]);
});

test("each line of a stream comes at once", async (t) => {
  const cluster = await Cluster.start(t);
  const seat = await createChat(cluster);
  const lines = await openStream(t, cluster, seat);
  await lines.next();
  const delays: number[] = [];
  for (let count = 0; count < 15; count += 1) {
    const begun = performance.now();
    const { id } = messageOf(await cluster.post(seat, `line ${count}`));
    const { value } = await lines.next();
    delays.push(performance.now() - begun);
    assert.equal(record(JSON.parse(String(value)))["id"], id);
  }
  // If HAProxy waits for more to send, each line takes more than 200 ms.
  const median = at(
    delays.toSorted((a, b) => a - b),
    7,
  );
  assert.ok(median < 100, `${median} ms`);
});

test("a create repeated with its key gives the same chat, though there are other nodes", async (t) => {
  const cluster = await Cluster.start(t);
  for (const key of ["first key, of 22 or more", "another key, as long as it"]) {
    const headers = { "Idempotency-Key": key };
    const first = sessionOf(await send(cluster, "POST", "/create", { headers }));
    for (let repeat = 0; repeat < 4; repeat += 1) {
      await createChat(cluster);
      assert.deepEqual(sessionOf(await send(cluster, "POST", "/create", { headers }), 200), first);
    }
  }
});

test("the page comes from any node, also for a chat of no node", async (t) => {
  const cluster = await Cluster.start(t);
  const headers = { Accept: "text/html" };
  for (const path of ["/", "/", "/", "/b-AAAAAAAAAAAAAAAA", "/z-AAAAAAAAAAAAAAAA"]) {
    const reply = await send(cluster, "GET", path, { headers });
    assert.equal(reply.status, 200);
    assert.equal(reply.text, assets.page);
  }
});

test("a killed node loses its own chats alone, and the API says so", async (t) => {
  const cluster = await Cluster.start(t);
  const seats = await cluster.chatOnEach();
  const reader = await join(cluster, seats.b);
  const others = cluster.read(reader, "?since=latest&wait=50");
  const held = cluster.read(seats.a, "?since=latest&wait=50");
  const { a, b } = cluster.nodes;
  await eventually("the polls to be held", async () => (await countHeld(a)) + (await countHeld(b)) === 4);

  await a.stop("SIGKILL");
  assertError(await held, "stopping");
  // First it may come back; then it is taken for dead, and who has its tokens is told that they are worth nothing.
  const replies: Reply[] = [];
  await eventually(
    "the end of the chat",
    async () => replies.push(await cluster.read(seats.a)) > 0 && last(replies) !== 503,
  );
  for (const reply of replies.slice(0, -1)) assertError(reply, "stopping");
  assertError(at(replies, -1), "invalid_token");
  assertApiHeaders(at(replies, -1));

  const message = messageOf(await cluster.post(seats.b, "still here"));
  assert.deepEqual(pollOf(await others).messages, [message]);
  messageOf(await cluster.post(seats.c, "here too"));
  assert.deepEqual([...(await cluster.createMany(12))].toSorted(), ["b", "c"]);
});

test("the page of a chat whose node was killed says that the chat is gone", async (t) => {
  const cluster = await Cluster.start(t);
  const browser = await launchBrowser();
  t.after(() => browser.close());
  const { page } = await newPerson(t, browser);
  const link = await startChat(page, { origin: `http://party.test:${cluster.port}` });
  const name = nodeOf({ path: new URL(link).pathname, token: "" });
  await cluster.nodes[name].stop("SIGKILL");
  await page.getByText("The host was restarted, so this chat is gone").waitFor({ timeout: 30_000 });
});

test("a node that comes back gets new chats", async (t) => {
  const cluster = await Cluster.start(t);
  const { a } = cluster.nodes;
  const { port } = a;
  await a.stop();
  // Nobody who starts a chat is refused, not even before HAProxy has noticed.
  assert.deepEqual([...(await cluster.createMany(12))].toSorted(), ["b", "c"]);
  await startNode(t, "a", ["--no-rate-limit", "--port", String(port)]);
  await eventually("its first chat", async () => (await cluster.createMany(3)).has("a"));
});

test("a drained node finishes its chats, while new ones go elsewhere", async (t) => {
  const cluster = await Cluster.start(t);
  const seats = await cluster.chatOnEach();
  assert.equal(await cluster.tell("set server chats/a state drain"), "");
  assert.deepEqual([...(await cluster.createMany(12))].toSorted(), ["b", "c"]);
  const reader = await join(cluster, seats.a);
  const held = cluster.read(reader, "?since=latest&wait=50");
  await eventually("the poll to be held", async () => (await countHeld(cluster.nodes.a)) === 2);
  const message = messageOf(await cluster.post(seats.a, "one more"));
  assert.deepEqual(pollOf(await held).messages, [message]);
  assert.equal(await cluster.tell("set server chats/a state ready"), "");
  assert.ok((await cluster.createMany(12)).has("a"));
});

test("links begin with the address that the browser has", async (t) => {
  const cluster = await Cluster.start(t);
  const session = sessionOf(await send(cluster, "POST", "/create", { headers: { Host: "chat.example.org" } }));
  assert.equal(session.url, `http://chat.example.org/${session.chat_id}`);
});

test("who creates too much is refused, and nobody else, whatever headers they make up", async (t) => {
  const cluster = await Cluster.start(t, []);
  const replies: Reply[] = [];
  for (let index = 0; index < 240; index += 1) {
    replies.push(await send(cluster, "POST", "/create", { headers: { "X-Forwarded-For": `203.0.113.${index}` } }));
  }
  assertError(at(replies, -1), "rate_limited");
  const agent = new Agent({ localAddress: "127.0.0.2" });
  t.after(() => agent.destroy());
  sessionOf(await send({ port: cluster.port, agent }, "POST", "/create"));
});

test("the metrics are shown to nobody", async (t) => {
  const cluster = await Cluster.start(t);
  // HAProxy's own answer.
  assert.equal((await send({ port: cluster.port, isForeign: true }, "GET", "/metrics")).status, 404);
});

function last(replies: Reply[]): number {
  return at(replies, -1).status;
}
