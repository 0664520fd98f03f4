// WebKitGTK, controlled with W3C WebDriver over HTTP. Each person gets a separate driver and browser, on a virtual
// screen (Xvfb).

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { globSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Action, Engine, Person, Primitive } from "./engine.ts";

/** Without this GTK style, MiniBrowser's toolbar makes the window at least 447 pixels wide. Phones have 320. */
const NARROW = "* { min-width: 0; padding: 0; margin: 0; border-width: 0; font-size: 1px; }";

const ENTER = "\uE007";
const CONTROL = "\uE009";
const ELEMENT = "element-6066-11e4-a52e-4f735466cecf";

export async function launchWebKit(): Promise<Engine> {
  const home = mkdtempSync(join(tmpdir(), "watch-party-webkit-"));
  mkdirSync(join(home, "gtk-3.0"));
  writeFileSync(join(home, "gtk-3.0", "gtk.css"), NARROW);
  const screen = spawn("Xvfb", ["-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [display]: unknown[] = await once(screen.stdout, "data");
  const environment = {
    ...process.env,
    DISPLAY: `:${String(display).trim()}`,
    LANG: "en_GB.UTF-8",
    XDG_CONFIG_HOME: home,
    XDG_DATA_HOME: home,
    XDG_CACHE_HOME: home,
    // WebKit's sandbox needs namespaces, which containers don't allow.
    WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS: "1",
  };
  return {
    newPerson: async (origin) => new WebKitPerson(await startDriver(environment, new URL(origin).port)),
    async close() {
      await stopProcess(screen);
      rmSync(home, { recursive: true, force: true });
    },
  };
}

async function stopProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill();
  await once(child, "exit");
}

/** A WebDriver process with one session. */
class Driver {
  readonly #process: ChildProcess;
  readonly #base: string;
  /** The path at the beginning of each command: "/session/ID". */
  #sessionPath = "";

  constructor(process: ChildProcess, base: string) {
    this.#process = process;
    this.#base = base;
  }

  async startSession(capabilities: object): Promise<void> {
    const answer = await this.#request("POST", "/session", { capabilities: { alwaysMatch: capabilities } });
    assert.ok(typeof answer === "object" && answer && "sessionId" in answer);
    this.#sessionPath = `/session/${String(answer.sessionId)}`;
  }

  async isReady(): Promise<boolean> {
    try {
      await this.#request("GET", "/status");
      return true;
    } catch {
      return false;
    }
  }

  /** Runs a command in the session and returns its result. Throws an `Error` with the driver's message if it fails. */
  command(method: string, path: string, body?: object): Promise<unknown> {
    return this.#request(method, this.#sessionPath + path, body);
  }

  async stop(): Promise<void> {
    try {
      await this.#request("DELETE", this.#sessionPath);
    } finally {
      await stopProcess(this.#process);
    }
  }

  async #request(method: string, path: string, body?: object): Promise<unknown> {
    const response = await fetch(this.#base + path, { method, ...(body && { body: JSON.stringify(body) }) });
    const answer: unknown = await response.json();
    assert.ok(typeof answer === "object" && answer && "value" in answer);
    if (!response.ok) throw new Error(`${method} ${path}: ${JSON.stringify(answer.value)}`);
    return answer.value;
  }
}

async function startDriver(env: NodeJS.ProcessEnv, serverPort: string): Promise<Driver> {
  const port = await freePort();
  const child = spawn("WebKitWebDriver", [`--port=${port}`], { env, stdio: "ignore" });
  const driver = new Driver(child, `http://127.0.0.1:${port}`);
  const deadline = Date.now() + 10_000;
  while (!(await driver.isReady())) {
    assert.ok(Date.now() < deadline && child.exitCode === null, "WebKitWebDriver did not start");
    await sleep(50);
  }
  const [binary] = globSync("/usr/lib/*/webkit2gtk-4.1/MiniBrowser");
  await driver.startSession({
    "webkitgtk:browserOptions": { binary, args: ["--automation"] },
    // The browser uses the server as its proxy, so it needs no entry for party.test in /etc/hosts. The server accepts
    // the absolute URLs of proxy requests.
    proxy: { proxyType: "manual", httpProxy: `127.0.0.1:${serverPort}` },
  });
  return driver;
}

/** Returns a free port, because the driver cannot choose one itself and report it. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  assert.ok(typeof address === "object" && address);
  server.close();
  await once(server, "close");
  return address.port;
}

class WebKitPerson implements Person {
  readonly #driver: Driver;

  constructor(driver: Driver) {
    this.#driver = driver;
  }

  async open(address: string): Promise<void> {
    await this.#driver.command("POST", "/url", { url: address });
  }

  async reload(): Promise<void> {
    await this.#driver.command("POST", "/refresh", {});
  }

  /** The window's toolbar takes some pixels of the height. */
  async resize(width: number, height: number): Promise<void> {
    await this.#driver.command("POST", "/window/rect", { width, height });
    assert.equal(await this.run(() => innerWidth), width, "the page has the requested width");
  }

  async press(selector: string): Promise<void> {
    await this.#driver.command("POST", `/element/${await this.#find(selector)}/click`, {});
  }

  async type(selector: string, text: string): Promise<void> {
    await this.#driver.command("POST", `/element/${await this.#find(selector)}/value`, {
      text: text.replaceAll("\n", ENTER),
    });
  }

  async paste(selector: string): Promise<void> {
    await this.type(selector, `${CONTROL}v`);
  }

  async run<A extends Primitive[], T>(action: Action<A, T>, ...values: A): Promise<T> {
    const script = `return (${String(action)}).apply(null, arguments)`;
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: JSON of what `action` returned
    return (await this.#driver.command("POST", "/execute/sync", { script, args: values })) as T;
  }

  /** WebDriver cannot read the console. */
  consoleMessages(): string[] {
    return [];
  }

  close(): Promise<void> {
    return this.#driver.stop();
  }

  async #find(selector: string): Promise<string> {
    const found = await this.#driver.command("POST", "/element", { using: "css selector", value: selector });
    assert.ok(typeof found === "object" && found && ELEMENT in found);
    return String(found[ELEMENT]);
  }
}
