// WebKitGTK, driven by plain WebDriver (W3C) over HTTP: one driver, one browser, for each person, on a screen
// that exists in memory only.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { globSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Action, Engine, Person, Plain } from "./engine.ts";

/** Buttons of MiniBrowser's own would keep its window 447 pixels wide; phones are 320. */
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
    // Its sandbox needs namespaces, which containers do not grant.
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

/** A driver with its one session, the path of which all commands begin with. */
class Driver {
  readonly #process: ChildProcess;
  readonly #base: string;
  #session = "";

  constructor(process: ChildProcess, base: string) {
    this.#process = process;
    this.#base = base;
  }

  async begin(capabilities: object): Promise<void> {
    const answer = await this.#call("POST", "/session", { capabilities: { alwaysMatch: capabilities } });
    assert.ok(typeof answer === "object" && answer && "sessionId" in answer);
    this.#session = `/session/${String(answer.sessionId)}`;
  }

  async isReady(): Promise<boolean> {
    try {
      await this.#call("GET", "/status");
      return true;
    } catch {
      return false;
    }
  }

  /** A command of the session; what it answers, and an `Error` with the driver's words when it refuses. */
  command(method: string, path: string, body?: object): Promise<unknown> {
    return this.#call(method, this.#session + path, body);
  }

  async stop(): Promise<void> {
    try {
      await this.#call("DELETE", this.#session);
    } finally {
      await stopProcess(this.#process);
    }
  }

  async #call(method: string, path: string, body?: object): Promise<unknown> {
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
    assert.ok(Date.now() < deadline && child.exitCode === null, "WebKitWebDriver does not start");
    await sleep(50);
  }
  const [binary] = globSync("/usr/lib/*/webkit2gtk-4.1/MiniBrowser");
  await driver.begin({
    "webkitgtk:browserOptions": { binary, args: ["--automation"] },
    // A name of its own without touching /etc/hosts: the server takes requests as a proxy gets them.
    proxy: { proxyType: "manual", httpProxy: `127.0.0.1:${serverPort}` },
  });
  return driver;
}

/** The driver takes no port 0 and tells no port. */
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

  /** The window's bar takes some pixels of the height. */
  async resize(width: number, height: number): Promise<void> {
    await this.#driver.command("POST", "/window/rect", { width, height });
    assert.equal(await this.run(() => innerWidth), width, "the page is as wide as was asked for");
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

  async run<A extends Plain[], T>(action: Action<A, T>, ...values: A): Promise<T> {
    const script = `return (${String(action)}).apply(null, arguments)`;
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: JSON of what `action` returned
    return (await this.#driver.command("POST", "/execute/sync", { script, args: values })) as T;
  }

  /** WebDriver has no way to read the console. */
  complaints(): string[] {
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
