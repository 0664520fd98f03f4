// Firefox, controlled with WebDriver BiDi.

import { type Browser, launch, type Page } from "puppeteer-core";
import type { Action, Engine, Person, Primitive } from "./engine.ts";

export async function launchFirefox(): Promise<Engine> {
  const browser = await launch({
    browser: "firefox",
    executablePath: "/usr/bin/firefox-esr",
    headless: true,
    // Resolves party.test to this machine. Firefox trusts it no more than another plain http address.
    extraPrefsFirefox: { "network.dns.localDomains": "party.test", "intl.accept_languages": "en-GB" },
  });
  return {
    newPerson: () => newPerson(browser),
    close: () => browser.close(),
  };
}

async function newPerson(browser: Browser): Promise<Person> {
  const context = await browser.createBrowserContext();
  // Each person gets a window. In a shared window all tabs but one are hidden, and a hidden page polls less often.
  const page = await context.newPage({ type: "window" });
  page.setDefaultTimeout(15_000);
  return new FirefoxPerson(page);
}

class FirefoxPerson implements Person {
  readonly #page: Page;
  readonly #consoleMessages: string[] = [];

  constructor(page: Page) {
    this.#page = page;
    page.on("console", (message) => this.#consoleMessages.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => this.#consoleMessages.push(String(error)));
  }

  async open(address: string): Promise<void> {
    await this.#page.goto(address);
  }

  async reload(): Promise<void> {
    await this.#page.reload();
  }

  async resize(width: number, height: number): Promise<void> {
    await this.#page.setViewport({ width, height });
  }

  async press(selector: string): Promise<void> {
    await this.#page.locator(selector).click();
  }

  async type(selector: string, text: string): Promise<void> {
    await this.#page.focus(selector);
    await this.#page.keyboard.type(text);
  }

  async paste(selector: string): Promise<void> {
    await this.#page.focus(selector);
    await this.#page.keyboard.down("Control");
    await this.#page.keyboard.press("KeyV");
    await this.#page.keyboard.up("Control");
  }

  async run<A extends Primitive[], T>(action: Action<A, T>, ...values: A): Promise<T> {
    const script = `(${String(action)})(...${JSON.stringify(values)})`;
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: JSON of what `action` returned
    return (await this.#page.evaluate(script)) as T;
  }

  consoleMessages(): string[] {
    return this.#consoleMessages;
  }

  close(): Promise<void> {
    return this.#page.browserContext().close();
  }
}
