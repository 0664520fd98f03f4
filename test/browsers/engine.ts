// What the tests ask of a browser, whichever it is, and of whoever sits before it.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

/** A browser engine. Each person has a storage of their own, as if before another computer. */
export interface Engine {
  /** `origin`: the server's, "http://party.test:PORT", the only one that this person will visit. */
  newPerson(origin: string): Promise<Person>;
  close(): Promise<void>;
}

export type Plain = string | number | boolean;
export type Action<A extends Plain[], T> = (...values: A) => T;

/** One tab of one person. Presses and keys are the browser's own, not events made by a script. */
export interface Person {
  open(address: string): Promise<void>;
  reload(): Promise<void>;
  /** Makes the page that many CSS pixels wide, and about as high. */
  resize(width: number, height: number): Promise<void>;
  press(selector: string): Promise<void>;
  /** Types at the end of a field, a line break as Enter. */
  type(selector: string, text: string): Promise<void>;
  /** Presses Ctrl and V in a field. */
  paste(selector: string): Promise<void>;
  /** Runs a function in the page. It sees nothing of its surroundings here; its result travels as JSON. */
  run<A extends Plain[], T>(action: Action<A, T>, ...values: A): Promise<T>;
  /** Errors and warnings so far, where the engine tells. */
  complaints(): string[];
  close(): Promise<void>;
}

const PATIENCE_MS = 15_000;

/** Waits until `action` gives something else than undefined, null, false, 0 and "", and gives that. */
export async function until<A extends Plain[], T>(
  person: Person,
  what: string,
  action: Action<A, T>,
  ...values: A
): Promise<NonNullable<T>> {
  const deadline = Date.now() + PATIENCE_MS;
  // By asking again and again: WebDriver has no events.
  while (Date.now() < deadline) {
    const result = await person.run(action, ...values);
    if (result) return result;
    await sleep(50);
  }
  return assert.fail(`Waited in vain until ${what}`);
}

/** Waits until a text can be read in an element that matches. */
export async function untilReads(person: Person, selector: string, text: string): Promise<void> {
  await until(
    person,
    `${selector} reads "${text}"`,
    (where, wanted) =>
      [...document.querySelectorAll<HTMLElement>(where)].some((element) => element.innerText.includes(wanted)),
    selector,
    text,
  );
}
