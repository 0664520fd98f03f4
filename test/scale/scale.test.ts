// Three nodes behind HAProxy, with deploy/haproxy.cfg.

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { connect } from "node:net";
import test, { type TestContext } from "node:test";
import { launchBrowser, newPerson } from "../lib/browser.ts";
import {
  assertApiHeaders,
  builtPage,
  assertError,
  at,
  invitationOf,
  LOCAL,
  messageOf,
  pollOf,
  Program,
  record,
  redeemedOf,
  type Reply,
  send,
  sessionOf,
} from "../lib/helpers.ts";
import { start as startChat } from "../lib/people.ts";
import {
  checkHaproxy,
  countWaiters,
  createChat,
  eventually,
  join,
  openStream,
  type Seat,
  startHaproxy,
} from "../lib/proxies.ts";

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

  /** Creates a chat on each node, with an open stream. */
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

  /** Creates this many chats. Returns their nodes. */
  async createMany(count: number): Promise<Set<Name>> {
    const seats = await Promise.all(Array.from({ length: count }, () => createChat(this)));
    return new Set(seats.map(nodeOf));
  }

  /** Sends a command to HAProxy's Runtime API. Returns its answer. */
  command(line: string): Promise<string> {
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

test("HAProxy accepts the unchanged deploy/haproxy.cfg", () => {
  const { status, stdout, stderr } = checkHaproxy();
  assert.deepEqual([status, stderr], [0, ""], stdout);
});

test("a new chat goes to the node with the fewest readers, and all its requests follow", async (t) => {
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
  for (const name of NAMES) assert.equal(await countWaiters(cluster.nodes[name]), 3);
});

test("on every node, a post answers a held poll at once", async (t) => {
  const cluster = await Cluster.start(t);
  for (const [name, seat] of Object.entries(await cluster.chatOnEach())) {
    const reader = await join(cluster, seat);
    const held = cluster.read(reader, "?since=latest&wait=50");
    const node = cluster.nodes[nodeOf(seat)];
    await eventually("the poll to be held", async () => (await countWaiters(node)) === 2);
    const message = messageOf(await cluster.post(seat, `to ${name}`));
    assert.deepEqual(pollOf(await held).messages, [message]);
  }
});

test("a poll ends when its reader disconnects, so a page can be reloaded often", async (t) => {
  const cluster = await Cluster.start(t);
  const seat = await createChat(cluster);
  const node = cluster.nodes[nodeOf(seat)];
  // A browser can hold four polls.
  const path = `${seat.path}?since=latest&wait=50&browser=reloading`;
  for (let load = 0; load < 6; load += 1) {
    const controller = new AbortController();
    const poll = send(cluster, "GET", path, { token: seat.token, signal: controller.signal });
    await eventually("the poll to be held", async () => (await countWaiters(node)) === 1);
    controller.abort();
    await assert.rejects(poll);
    await eventually("the poll to end", async () => (await countWaiters(node)) === 0);
  }
  const final = send(cluster, "GET", path, { token: seat.token });
  await eventually("the last poll to be held", async () => (await countWaiters(node)) === 1);
  const message = messageOf(await cluster.post(seat, "still here"));
  const { messages, retry_in } = pollOf(await final);
  assert.deepEqual([messages, retry_in], [[message], undefined]);
});

test("each line of a stream arrives at once", async (t) => {
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

test("a code reaches its node through the path, and is wrong on every other node", async (t) => {
  const cluster = await Cluster.start(t);
  for (const [name, seat] of Object.entries(await cluster.chatOnEach())) {
    const { code } = invitationOf(await send(cluster, "POST", `${seat.path}/invite`, { token: seat.token }));
    assert.ok(code.startsWith(`${name}-`), code);
    for (let count = 0; count < 3; count += 1) {
      const { magic_link } = redeemedOf(await send(cluster, "POST", `/redeem/${name}`, { body: { code } }));
      assert.equal(new URL(magic_link).pathname, seat.path);
    }
    const other = NAMES.find((each) => each !== name);
    assertError(await send(cluster, "POST", `/redeem/${other}`, { body: { code } }), "invalid_code");
  }
});

test("a code of a node that does not exist is a wrong code", async (t) => {
  const cluster = await Cluster.start(t);
  assertError(await send(cluster, "POST", "/redeem/z", { body: { code: "z-K7QF-2M9X" } }), "invalid_code");
});

test("a create repeated with its key reaches the same node and returns the same chat", async (t) => {
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

test("any node serves the page, even for a chat whose node does not exist", async (t) => {
  const cluster = await Cluster.start(t);
  const headers = { Accept: "text/html" };
  for (const path of ["/", "/", "/", "/b-AAAAAAAAAAAAAAAA", "/z-AAAAAAAAAAAAAAAA"]) {
    const reply = await send(cluster, "GET", path, { headers });
    assert.equal(reply.status, 200);
    assert.equal(reply.text, builtPage().text);
  }
});

test("a killed node loses only its own chats, and the API reports that", async (t) => {
  const cluster = await Cluster.start(t);
  const seats = await cluster.chatOnEach();
  const reader = await join(cluster, seats.b);
  const heldElsewhere = cluster.read(reader, "?since=latest&wait=50");
  const held = cluster.read(seats.a, "?since=latest&wait=50");
  const { a, b } = cluster.nodes;
  await eventually("the polls to be held", async () => (await countWaiters(a)) + (await countWaiters(b)) === 4);

  await a.stop("SIGKILL");
  assertError(await held, "stopping");
  // At first the node may still return. Then HAProxy marks it as down, and another node refuses its tokens.
  const replies: Reply[] = [];
  await eventually(
    "HAProxy to mark the node as down",
    async () => replies.push(await cluster.read(seats.a)) > 0 && lastStatus(replies) !== 503,
  );
  for (const reply of replies.slice(0, -1)) assertError(reply, "stopping");
  assertError(at(replies, -1), "invalid_token");
  assertApiHeaders(at(replies, -1));

  const message = messageOf(await cluster.post(seats.b, "still here"));
  assert.deepEqual(pollOf(await heldElsewhere).messages, [message]);
  messageOf(await cluster.post(seats.c, "here too"));
  assert.deepEqual([...(await cluster.createMany(12))].toSorted(), ["b", "c"]);
});

test("the page of a chat whose node was killed reports that the chat is gone", async (t) => {
  const cluster = await Cluster.start(t);
  const browser = await launchBrowser();
  t.after(() => browser.close());
  const { page } = await newPerson(t, browser);
  const link = await startChat(page, { origin: `http://party.test:${cluster.port}` });
  const name = nodeOf({ path: new URL(link).pathname, token: "" });
  await cluster.nodes[name].stop("SIGKILL");
  await page.getByText("The host was restarted, so this chat is gone.").waitFor({ timeout: 30_000 });
});

test("a node that returns gets new chats", async (t) => {
  const cluster = await Cluster.start(t);
  const { a } = cluster.nodes;
  const { port } = a;
  await a.stop();
  // No create fails, even before HAProxy has noticed.
  assert.deepEqual([...(await cluster.createMany(12))].toSorted(), ["b", "c"]);
  await startNode(t, "a", ["--no-rate-limit", "--port", String(port)]);
  await eventually("the node to get a chat", async () => (await cluster.createMany(3)).has("a"));
});

test("a drained node keeps its chats, while new ones go to other nodes", async (t) => {
  const cluster = await Cluster.start(t);
  const seats = await cluster.chatOnEach();
  assert.equal(await cluster.command("set server chats/a state drain"), "");
  assert.deepEqual([...(await cluster.createMany(12))].toSorted(), ["b", "c"]);
  const reader = await join(cluster, seats.a);
  const held = cluster.read(reader, "?since=latest&wait=50");
  await eventually("the poll to be held", async () => (await countWaiters(cluster.nodes.a)) === 2);
  const message = messageOf(await cluster.post(seats.a, "one more"));
  assert.deepEqual(pollOf(await held).messages, [message]);
  assert.equal(await cluster.command("set server chats/a state ready"), "");
  assert.ok((await cluster.createMany(12)).has("a"));
});

test("links start with the browser's address", async (t) => {
  const cluster = await Cluster.start(t);
  const session = sessionOf(await send(cluster, "POST", "/create", { headers: { Host: "chat.example.org" } }));
  assert.equal(session.url, `http://chat.example.org/${session.chat_id}`);
});

test("the rate limit counts real addresses and ignores forged headers", async (t) => {
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

test("the metrics are not exposed", async (t) => {
  const cluster = await Cluster.start(t);
  // HAProxy itself answers 404.
  assert.equal((await send({ port: cluster.port, isForeign: true }, "GET", "/metrics")).status, 404);
});

function lastStatus(replies: Reply[]): number {
  return at(replies, -1).status;
}
