// The interface between the tests and a browser engine.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

/** A running browser. Each person has separate storage, as if on another computer. */
export interface Engine {
  /** Opens a browser for one person, who will visit only `origin`: "http://party.test:PORT". */
  newPerson(origin: string): Promise<Person>;
  close(): Promise<void>;
}

/** Values that survive JSON, and so can travel to the page. */
export type Primitive = string | number | boolean;
export type Action<A extends Primitive[], T> = (...values: A) => T;

/** One tab of one person. The browser generates presses and keys as for real input, not by dispatching events. */
export interface Person {
  open(address: string): Promise<void>;
  reload(): Promise<void>;
  /** Makes the page exactly `width` and about `height` CSS pixels large. */
  resize(width: number, height: number): Promise<void>;
  press(selector: string): Promise<void>;
  /** Types at the end of a field. A line break presses Enter. */
  type(selector: string, text: string): Promise<void>;
  /** Presses Ctrl+V in a field. */
  paste(selector: string): Promise<void>;
  /** Runs a function in the page, where it cannot access variables of the test. Its result travels as JSON. */
  run<A extends Primitive[], T>(action: Action<A, T>, ...values: A): Promise<T>;
  /** Returns the console messages and errors so far; always empty if the engine does not report them. */
  consoleMessages(): string[];
  close(): Promise<void>;
}

const TIMEOUT_MS = 15_000;

/**
 * Runs `action` in the page until it returns a truthy value, and returns that value. `condition` completes the
 * sentence "Timed out waiting until …".
 */
export async function until<A extends Primitive[], T>(
  person: Person,
  condition: string,
  action: Action<A, T>,
  ...values: A
): Promise<NonNullable<T>> {
  const deadline = Date.now() + TIMEOUT_MS;
  // Polls, because WebDriver has no events.
  while (Date.now() < deadline) {
    const result = await person.run(action, ...values);
    if (result) return result;
    await sleep(50);
  }
  return assert.fail(`Timed out waiting until ${condition}`);
}

/** Waits until an element that matches the selector shows a text. */
export async function untilShows(person: Person, selector: string, text: string): Promise<void> {
  await until(
    person,
    `${selector} shows "${text}"`,
    (where, wanted) =>
      [...document.querySelectorAll<HTMLElement>(where)].some((element) => element.innerText.includes(wanted)),
    selector,
    text,
  );
}
