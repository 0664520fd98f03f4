// Firefox, driven by WebDriver BiDi.

import { type Browser, launch, type Page } from "puppeteer-core";
import type { Action, Engine, Person, Plain } from "./engine.ts";

export async function launchFirefox(): Promise<Engine> {
  const browser = await launch({
    browser: "firefox",
    executablePath: "/usr/bin/firefox-esr",
    headless: true,
    // The name leads here, and still is neither https nor localhost.
    extraPrefsFirefox: { "network.dns.localDomains": "party.test", "intl.accept_languages": "en-GB" },
  });
  return {
    newPerson: () => newPerson(browser),
    close: () => browser.close(),
  };
}

async function newPerson(browser: Browser): Promise<Person> {
  const context = await browser.createBrowserContext();
  // A window each: all but one tab of a window are hidden, and the page then does less.
  const page = await context.newPage({ type: "window" });
  page.setDefaultTimeout(15_000);
  return new FirefoxPerson(page);
}

class FirefoxPerson implements Person {
  readonly #page: Page;
  readonly #complaints: string[] = [];

  constructor(page: Page) {
    this.#page = page;
    page.on("console", (message) => this.#complaints.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => this.#complaints.push(String(error)));
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

  async run<A extends Plain[], T>(action: Action<A, T>, ...values: A): Promise<T> {
    const script = `(${String(action)})(...${JSON.stringify(values)})`;
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: JSON of what `action` returned
    return (await this.#page.evaluate(script)) as T;
  }

  complaints(): string[] {
    return this.#complaints;
  }

  close(): Promise<void> {
    return this.#page.browserContext().close();
  }
}
