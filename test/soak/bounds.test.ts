// What one seat, one chat, one connection and all addresses together can make the server hold at most, measured.

import assert from "node:assert/strict";
import { connect } from "node:net";
import test from "node:test";
import { createApp, LIMITS } from "../../server.ts";
import { assertError, Clock, SECOND, sessionOf, startServer, until } from "../helpers.ts";
import { Child } from "./child.ts";
import { usedHeap } from "./tools.ts";

/** Requests that may wait on one connection: the server counts some 2 kB for one like those here. */
const MOST_QUEUED = 40;

/** The message that takes most: each quote is two in JSON, and one mark makes all characters two bytes. */
const FATTEST = `${'"'.repeat(1_990)}${"\u0301".repeat((LIMITS.messageBytes - 1_990) / 2)}`;

test("a seat, a full chat and a held poll have a size that they do not outgrow", async (t) => {
  const clock = new Clock();
  const { chats } = createApp({ now: () => clock.ms });
  const count = 5;
  /** What this made of each of so many chats takes, in bytes. */
  const measure = async (make: () => void, of = count): Promise<number> => {
    const before = await usedHeap();
    make();
    return Math.round(((await usedHeap()) - before) / of);
  };
  const made: ReturnType<typeof chats.create>[] = [];
  const say = (seats: typeof made, times: number): void => {
    for (const seat of seats) {
      for (let number = 0; number < times; number += 1) {
        chats.post(seat, Buffer.from(FATTEST).toString(), `${made.length} ${Math.random()}`.padEnd(64, "x"));
      }
    }
  };
  await measure(() => say([chats.create("warm", undefined)], LIMITS.keysPerSeat));
  const empty = await measure(() => {
    for (let number = 0; number < count; number += 1) made.push(chats.create("\u{1f600}".repeat(24), `key ${number}`));
  });
  const chat = await measure(() => say(made, LIMITS.keptMessages));
  const seat = await measure(() => say(made, LIMITS.keysPerSeat));
  const more = await measure(() => say(made, 4 * LIMITS.keysPerSeat));
  const joined: typeof made = [];
  const others = await measure(() => {
    for (const { chat: one } of made) {
      while (one.members.length < LIMITS.seats) joined.push(chats.join(one, undefined, undefined));
    }
    say(joined, LIMITS.keysPerSeat);
  });
  const full = empty + chat + seat + others;
  t.diagnostic(JSON.stringify({ "bytes of an empty chat": empty, "30 messages": chat, "a seat's keys": seat, full }));
  assert.ok(seat < 130_000 && chat < 600_000 && full < 1_200_000);
  assert.ok(more < 10_000, `${more} bytes more with four times as many keys`);
});

test("the counts of addresses are bounded, however many there are", { timeout: 400_000 }, async (t) => {
  // Its clock stands still, so that nobody's count is over.
  const server = await startServer(t, { trustProxy: true });
  const sizes: number[] = [];
  let sent = 0;
  for (const upTo of [1_000, LIMITS.countedAddresses + 1_000, 2 * LIMITS.countedAddresses]) {
    await pipeline(server.port, upTo - sent, () => {
      sent += 1;
      const address = `2001:db8:${(sent >> 12).toString(16)}:${(sent & 4_095).toString(16)}::1`;
      return `GET /${"A".repeat(16)} HTTP/1.1\r\nHost: x\r\nAuthorization: x\r\nX-Forwarded-For: ${address}\r\n\r\n`;
    });
    sizes.push(await usedHeap());
  }
  const [none = 0, full = 0, twice = 0] = sizes;
  t.diagnostic(JSON.stringify({ "bytes of a full table": full - none, "more with twice as many": twice - full }));
  assert.ok(full - none > 2_000_000 && full - none < 20_000_000);
  assert.ok(twice - full < 2_000_000, `grown by ${twice - full} bytes`);
});

/** So many requests on one connection; returns when the last is answered. */
async function pipeline(port: number, count: number, request: () => string): Promise<void> {
  const socket = connect({ port, host: "127.0.0.1" });
  let answers = 0;
  socket.on("data", (part: Buffer) => (answers += part.toString("latin1").split("HTTP/1.1 ").length - 1));
  socket.on("error", () => {});
  for (let sent = 0; sent < count;) {
    const batch = Math.min(MOST_QUEUED / 2, count - sent);
    sent += batch;
    socket.write(Array.from({ length: batch }, request).join(""));
    const goal = sent - MOST_QUEUED / 4;
    await until(() => answers >= goal || socket.destroyed, "answers");
    assert.ok(!socket.destroyed);
  }
  socket.destroy();
}

test("one connection cannot have more polls held than one, however many it sends", async (t) => {
  const server = await startServer(t);
  const [ana] = await server.party("Ana");
  const socket = connect({ port: server.port, host: "127.0.0.1" });
  t.after(() => socket.destroy());
  socket.on("error", () => {});
  const path = `/${ana.chatId}?since=latest&wait=50`;
  const poll = `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ana.token}\r\n\r\n`;
  socket.write(poll.repeat(MOST_QUEUED));
  await until(() => server.app.chats.count().waiters > 0, "the first to be held");
  await ana.read();
  assert.equal(server.app.chats.count().waiters, 1);
  for (let batch = 0; batch < 20; batch += 1) socket.write(poll.repeat(500));
  await until(() => socket.closed, "its end");
  await until(() => server.app.chats.count().waiters === 0, "the poll to be forgotten");
});

test("a connection that stalls in the middle holds no more than what it has sent", async (t) => {
  const child = await Child.start(t, { rateLimit: false, requestTimeout: 600 * SECOND });
  const before = await child.look();
  const head = `POST /create HTTP/1.1\r\nHost: x\r\nX-Long: ${"x".repeat(16_000)}\r\nContent-Length: 32768\r\n\r\n`;
  const count = 500;
  const sockets = Array.from({ length: count }, () => connect({ port: child.port, host: "127.0.0.1" }));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  for (const socket of sockets) socket.on("error", () => {}).write(`${head}${" ".repeat(32_767)}`);
  let stalled = await child.lookUntil(({ connections, external }) => {
    return connections === count && external - before.external > count * 32_000;
  });
  const each = Math.round((stalled.heap + stalled.external - before.heap - before.external) / count);
  t.diagnostic(`${each} bytes a connection`);
  assert.equal(stalled.connections, count);
  // What has come, once; a piece of it may be part of a larger buffer that the next connections share.
  assert.ok(each > 32_000 && each < 150_000, `${each} bytes`);
  for (const socket of sockets) socket.destroy();
  stalled = await child.lookUntil(({ connections, external }) => connections === 0 && external < before.external + 2e6);
  assert.ok(stalled.external < before.external + 2e6 && stalled.heap < before.heap + 2e6, "nothing of it is left");
});

test("however many ask at once, a server makes as many chats as it may, and again when they are over", async (t) => {
  const server = await startServer(t, { maxChats: 10, rateLimit: false });
  for (let round = 0; round < 5; round += 1) {
    const replies = await Promise.all(Array.from({ length: 60 }, () => server.create()));
    const made = replies.filter(({ status }) => status === 201).map((reply) => sessionOf(reply));
    assert.equal(made.length, 10);
    for (const reply of replies.filter(({ status }) => status !== 201)) assertError(reply, "server_full");
    if (round % 2 === 0) server.pass(7 * 3_600 * SECOND);
    else {
      const ends = made.map((each) => server.send("DELETE", `/${each.chat_id}`, { token: each.session_token }));
      await Promise.all(ends);
    }
    assert.equal(server.app.chats.count().chats, 0);
  }
});

for (const trustProxy of [false, true]) {
  test(`${trustProxy ? "behind" : "without"} a proxy no X-Forwarded-For of one's own makes one somebody else`, async (t) => {
    const server = await startServer(t, { trustProxy });
    const words = [
      "1.2.3.4",
      "::1",
      "[::1]:5",
      "1.2.3.4:5",
      "for=1.2.3.4",
      "unknown",
      "",
      " ",
      "::ffff:9.9.9.9",
      "\t8.8.8.8",
    ];
    let made = 0;
    for (let count = 0; count < 200; count += 1) {
      const own = Array.from({ length: count % 7 }, (_, index) => words[(count * 3 + index) % words.length]).join(",");
      // What a proxy makes of it: it appends the address that it sees.
      const header = trustProxy ? `${own}, 203.0.113.7` : `${own},10.0.${count}.1`;
      const reply = await server.create({}, { "X-Forwarded-For": header });
      if (reply.status === 201) made += 1;
      else assertError(reply, "rate_limited");
    }
    assert.equal(made, 60);
  });
}
