// The program on machines with VPNs and containers. Each machine is a network namespace with pairs of veth interfaces,
// which get the names of real ones. Needs root, ip (iproute2) and script (util-linux).

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { test, type TestContext } from "node:test";
import { stripVTControlCharacters } from "node:util";
import { generate } from "lean-qr/nano";
import { drawQr } from "../../lib/qr.ts";
import { COMMAND, modulesOf, plainEnvironment, record, SECOND, stringOf, until } from "../lib/helpers.ts";

let count = 0;

/** A machine with its own interfaces and routes. It is removed after the test. */
class Machine {
  readonly name = `watch-party-${process.pid}-${(count += 1)}`;

  constructor(t: TestContext) {
    ip("netns", "add", this.name);
    t.after(() => ip("netns", "delete", this.name));
    this.ip("link", "set", "lo", "up");
  }

  ip(...words: string[]): void {
    ip("-netns", this.name, ...words);
  }

  /** Adds an interface with these addresses. Its other end is on the same machine, or on another. */
  addInterface(name: string, addresses: string[], peer: Machine = this, peerName = `${name}-peer`): this {
    this.ip("link", "add", name, "type", "veth", "peer", "name", peerName, "netns", peer.name);
    // Without detection of duplicates, an IPv6 address can be used at once.
    for (const address of addresses) this.ip("address", "add", address, "dev", name, ...nodad(address));
    this.ip("link", "set", name, "up");
    peer.ip("link", "set", peerName, "up");
    return this;
  }

  /** Runs a command here and returns its output. */
  run(...words: string[]): string {
    return execFileSync("ip", ["netns", "exec", this.name, ...words], { encoding: "utf8", timeout: 20 * SECOND });
  }

  /** Sends a request from here and returns its answer, parsed as JSON. */
  request(method: string, url: string, token = ""): Record<string, unknown> {
    const code = `const [method, url, token] = process.argv.slice(1);
      const reply = await fetch(url, { method, headers: token ? { Authorization: "Bearer " + token } : {} });
      console.log(await reply.text());`;
    return record(JSON.parse(this.run(process.execPath, "--input-type=module", "--eval", code, method, url, token)));
  }

  /** Starts the program on a terminal here and returns what it prints. It is stopped after the test. */
  async start(t: TestContext, ...flags: string[]): Promise<string> {
    const program = [...COMMAND, "--port", "8080", ...flags].map((word) => `'${word}'`).join(" ");
    const script = ["script", "-qec", `stty cols 120 && exec ${program}`, "/dev/null"];
    const child = spawn("ip", ["netns", "exec", this.name, ...script], {
      env: { ...plainEnvironment(), TERM: "xterm-256color" },
      stdio: ["pipe", "pipe", "inherit"],
    });
    const ended = new Promise((resolve) => child.once("close", resolve));
    t.after(async () => {
      child.stdin.write("\u0003");
      await ended;
    });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (part: string) => (output += part));
    await until(() => /curl[^\n]*\n/.test(output) || child.exitCode !== null, `the program to start: ${output}`);
    return output;
  }
}

function ip(...words: string[]): void {
  execFileSync("ip", words, { stdio: ["ignore", "ignore", "inherit"] });
}

function nodad(address: string): string[] {
  return address.includes(":") ? ["nodad"] : [];
}

/** The URLs printed, without those for this computer only. */
function printedUrls(output: string): string[] {
  const lines = stripVTControlCharacters(output).matchAll(/^ {2}(http:\S+) +(\S.*?)\r?$/gm);
  return [...lines].flatMap(([, url = "", label]) => (label === "this computer only" ? [] : [url]));
}

/** Checks that the banner, the QR code and the magic link made on the machine itself show this host first. */
function assertFirst(machine: Machine, output: string, host: string): void {
  const url = `http://${host}:8080`;
  assert.equal(printedUrls(output)[0], url, output);
  const code = generate(url);
  const expected = Array.from({ length: code.size }, (_, y) =>
    Array.from({ length: code.size }, (_empty, x) => code.get(x, y)),
  );
  const quiet = 4;
  const modules = modulesOf(output).slice(quiet, quiet + code.size);
  assert.deepEqual(
    modules.map((row) => row.slice(quiet, quiet + code.size)),
    expected,
    "the QR code",
  );
  const session = machine.request("POST", "http://localhost:8080/create");
  const chat = `http://localhost:8080/${stringOf(session, "chat_id")}`;
  const invitation = machine.request("POST", `${chat}/invite`, stringOf(session, "session_token"));
  assert.ok(stringOf(invitation, "magic_link").startsWith(`${url}/`), JSON.stringify(invitation));
}

test("beside a VPN that has the default route, a phone on the Wi-Fi gets in", async (t) => {
  const [phone, laptop] = [new Machine(t), new Machine(t)];
  laptop
    .addInterface("docker0", ["172.17.0.1/16"])
    .addInterface("wg0", ["10.44.0.3/24"])
    .addInterface("tun0", ["10.8.0.2/24"])
    .addInterface("eth0", ["192.168.1.20/24"], phone, "wlan0");
  laptop.ip("route", "add", "default", "via", "10.8.0.1", "dev", "tun0");
  phone.ip("address", "add", "192.168.1.30/24", "dev", "wlan0");

  const output = await laptop.start(t);
  assertFirst(laptop, output, "192.168.1.20");
  // The VPN's address comes next, because it has the default route, and every address is listed with its interface.
  const others = ["10.8.0.2", "172.17.0.1", "10.44.0.3"].map((host) => `http://${host}:8080`);
  assert.deepEqual(printedUrls(output), ["http://192.168.1.20:8080", ...others]);
  for (const name of ["eth0", "tun0", "docker0", "wg0"]) assert.match(output, new RegExp(` ${name}\\r\\n`));
  const [url = ""] = printedUrls(output);
  assert.deepEqual(phone.request("GET", `${url}/healthz`), { status: "ok" });
  // The laptop's own browser learns all of them, with a QR code of the first, whichever it opened, and the phone none.
  for (const own of ["http://localhost:8080", url]) {
    assert.deepEqual(laptop.request("GET", `${own}/addresses`), { addresses: printedUrls(output), qr: drawQr(url) });
  }
  assert.deepEqual(phone.request("GET", `${url}/addresses`), { addresses: [], qr: "" });
});

const ROUTES: [what: string, prepare: (laptop: Machine) => void][] = [
  [
    "OpenVPN's two halves of the default route",
    (laptop) => {
      laptop.addInterface("tun0", ["10.8.0.2/24"]);
      laptop.ip("route", "add", "default", "via", "192.168.1.1");
      for (const half of ["0.0.0.0/1", "128.0.0.0/1"]) laptop.ip("route", "add", half, "via", "10.8.0.1");
    },
  ],
  [
    "the routing table of wg-quick",
    (laptop) => {
      laptop.addInterface("office", ["10.44.0.3/32"]);
      laptop.ip("route", "add", "default", "via", "192.168.1.1");
      laptop.ip("route", "add", "default", "dev", "office", "table", "51820");
      laptop.ip("rule", "add", "not", "fwmark", "51820", "table", "51820");
      laptop.ip("rule", "add", "table", "main", "suppress_prefixlength", "0");
    },
  ],
  [
    "PPTP",
    (laptop) => {
      laptop.addInterface("ppp0", ["10.30.0.5/32"]);
      laptop.ip("route", "add", "default", "dev", "ppp0");
    },
  ],
  [
    "containers and no internet",
    (laptop) => {
      laptop.addInterface("lxdbr0", ["10.158.29.1/24"]);
      laptop.addInterface("podman0", ["10.88.0.1/16"]);
    },
  ],
];

for (const [what, prepare] of ROUTES) {
  test(`beside ${what}, the network card's address comes first`, async (t) => {
    const laptop = new Machine(t);
    // The virtual interface is the older one, so the order of the interfaces does not help.
    laptop.addInterface("docker0", ["172.17.0.1/16"]).addInterface("eth0", ["192.168.1.20/24"]);
    prepare(laptop);
    assertFirst(laptop, await laptop.start(t), "192.168.1.20");
  });
}

test("with IPv6 alone, the link has an IPv6 address, even beside a container bridge, and opens on a phone", async (t) => {
  const [phone, laptop] = [new Machine(t), new Machine(t)];
  laptop
    .addInterface("docker0", ["172.17.0.1/16"])
    .addInterface("eth0", ["2001:db8:1:2::20/64", "fd12:3456:789a:1::20/64"], phone, "wlan0");
  phone.ip("address", "add", "fd12:3456:789a:1::30/64", "dev", "wlan0", "nodad");
  const output = await laptop.start(t);
  assertFirst(laptop, output, "[fd12:3456:789a:1::20]");
  assert.deepEqual(phone.request("GET", `${printedUrls(output)[0]}/healthz`), { status: "ok" });
});

test("with a link-local address alone, only localhost is shown", async (t) => {
  const laptop = new Machine(t).addInterface("eth0", ["169.254.10.20/16"]);
  const output = await laptop.start(t);
  assert.deepEqual(printedUrls(output), []);
  assert.match(output, /http:\/\/localhost:8080/);
  assert.doesNotMatch(output, /169\.254|fe80/);
});

test("a server that listens on IPv4 alone shows no IPv6 address", async (t) => {
  const laptop = new Machine(t)
    .addInterface("eth0", ["192.168.1.20/24"])
    .addInterface("eth1", ["fd12:3456:789a:1::20/64"]);
  assert.deepEqual(printedUrls(await laptop.start(t, "--host", "0.0.0.0")), ["http://192.168.1.20:8080"]);
});
