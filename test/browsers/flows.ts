// What has to work alike in every engine, on http://party.test: an address that browsers trust with nothing.

import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { startParty } from "../browser.ts";
import { type Engine, type Person, until, untilReads } from "./engine.ts";

const ANSWER = "ערב טוב, מגיעים בשמונה?";
const FAMILY = "👨‍👩‍👧‍👦";

/** Two people in one chat, which Ana has started. */
interface Chat {
  origin: string;
  ana: Person;
  shira: Person;
  link: string;
}

const SCENARIOS = {
  "two people meet by a link, talk, and are back after a reload": meet,
  "a link is copied where there is no navigator.clipboard": copyLink,
  "the composer stays at the lower edge of the screen": keepComposer,
  "Hebrew runs from the right, in a bubble whose corner is its author's": writeHebrew,
  "one to three emoji are large, more are text": writeEmoji,
  "nothing scrolls sideways on a screen of 320 pixels": fitNarrow,
};

/** Runs all of it in one engine. `name` stands before each test's. */
export function testEngine(name: string, launch: () => Promise<Engine>): void {
  let engine: Engine | undefined;
  before(async () => {
    engine = await launch();
  });
  after(() => engine?.close());
  for (const [behaviour, run] of Object.entries(SCENARIOS)) {
    test(`${name}: ${behaviour}`, { timeout: 90_000 }, async (t) => {
      assert.ok(engine);
      await run(t, engine);
    });
  }
}

async function meet(t: TestContext, engine: Engine): Promise<void> {
  const { ana, shira } = await startChat(t, engine);
  await say(ana, "Hello from Ana");
  await untilReads(shira, ".message:not(.own) .bubble", "Hello from Ana");
  await say(shira, "Hello from Shira");
  await untilReads(ana, ".message:not(.own) .bubble", "Hello from Shira");

  await shira.reload();
  await untilReads(shira, ".own .bubble", "Hello from Shira");
  await say(ana, "Are you back?");
  await untilReads(shira, ".message:not(.own) .bubble", "Are you back?");
  await say(shira, "I am");
  await untilReads(ana, ".message:not(.own) .bubble", "I am");
  assert.equal(await ana.run(() => document.querySelectorAll(".message").length), 4);
}

async function copyLink(t: TestContext, engine: Engine): Promise<void> {
  const { origin, ana, link } = await startChat(t, engine);
  assert.ok(link.startsWith(origin), "the link leads to the address that Ana has opened");
  assert.deepEqual(await ana.run(() => [isSecureContext, "clipboard" in navigator]), [false, false]);
  await ana.press("#inviteOpen");
  await until(ana, "the link is there", () => document.querySelector<HTMLInputElement>("#link")?.value);
  await ana.press("#copy");
  await untilReads(ana, "#inviteStatus", "Copied");
  const shown = await ana.run(() => document.querySelector<HTMLInputElement>("#link")?.value);
  await ana.press("#inviteClose");
  await ana.paste("#message");
  assert.equal(await until(ana, "the link is pasted", readDraft), shown);
}

async function keepComposer(t: TestContext, engine: Engine): Promise<void> {
  const { ana } = await startChat(t, engine);
  await assertComposerBelow(ana, "in an empty chat");
  // As long as the log can get, and past what fits any of the screens below.
  for (let line = 1; line <= 30; line++) await say(ana, `Line ${line}`);
  await untilReads(ana, ".message:last-child:not(.sending) .bubble", "Line 30");
  for (const [width, height] of [[1000, 700] as const, [390, 640] as const, [320, 560] as const]) {
    await ana.resize(width, height);
    await assertComposerBelow(ana, `at ${width} by ${height} pixels`);
    await ana.run(() => document.querySelector("#log")?.scrollTo(0, 0));
    await assertComposerBelow(ana, "when the oldest messages are being read");
    await ana.run(() => document.querySelector("#log")?.scrollTo(0, 1e6));
  }
}

async function writeHebrew(t: TestContext, engine: Engine): Promise<void> {
  const { ana, shira } = await startChat(t, engine);
  await paste(shira, ANSWER);
  await untilReads(ana, ".message:not(.own) .bubble", ANSWER);
  await say(ana, "See you at eight");
  await untilReads(shira, ".message:not(.own) .bubble", "See you at eight");

  const own = await shira.run(lookAtBubble, ".own .bubble");
  assert.deepEqual(own, { direction: "rtl", beginsAt: "right", small: "bottom-right", side: "right" });
  const others = await ana.run(lookAtBubble, ".message:not(.own) .bubble");
  assert.deepEqual(others, { direction: "rtl", beginsAt: "right", small: "top-left", side: "left" });
  const english = await shira.run(lookAtBubble, ".message:not(.own) .bubble");
  assert.deepEqual(english, { direction: "ltr", beginsAt: "left", small: "top-left", side: "left" });
}

async function writeEmoji(t: TestContext, engine: Engine): Promise<void> {
  const { ana, shira } = await startChat(t, engine);
  const cases = [
    [FAMILY, true],
    ["🍿🎬🎉", true],
    ["🍿🎬🎉😀", false],
    ["👍 yes", false],
  ] as const;
  for (const [text, large] of cases) {
    await paste(ana, text);
    await untilReads(shira, ".message:last-child .bubble", text);
    const look = await shira.run(lookAtEmoji);
    assert.deepEqual({ large: look.large, bare: look.bare }, { large, bare: large }, text);
    // Four people drawn beside each other would be as wide as four.
    if (text === FAMILY) assert.ok(look.width > 0.5 * look.size && look.width < 2 * look.size, "one family, one sign");
  }
}

async function fitNarrow(t: TestContext, engine: Engine): Promise<void> {
  const { origin, ana, shira, link } = await startChat(t, engine, "A name of 24 characters!", "שירה־לאה בת־אברהם כהן");
  await ana.resize(320, 600);
  await assertFits(ana, "a new chat");
  await say(ana, "averyveryveryverylongword".repeat(8));
  await say(ana, `Have a look: http://example.org/${"path/".repeat(30)}?x=1`);
  await paste(ana, "🍿🎬🎉");
  await untilReads(shira, ".message:last-child .bubble", "🍿");
  await assertFits(ana, "a chat");
  await ana.press("#inviteOpen");
  await assertFits(ana, "the invitation");
  await ana.press("#inviteClose");
  await ana.press("#seats");
  await assertFits(ana, "the people");

  const guest = await newPerson(t, engine, origin);
  await guest.resize(320, 600);
  await guest.open(link);
  await untilReads(guest, "#joinText", "in this chat");
  await assertFits(guest, "the way in");
  await guest.open(origin);
  await untilReads(guest, "#joinSubmit", "Start");
  await assertFits(guest, "home");
}

async function startChat(t: TestContext, engine: Engine, first = "Ana", second = "Shira"): Promise<Chat> {
  const { origin } = await startParty(t);
  const ana = await newPerson(t, engine, origin);
  const shira = await newPerson(t, engine, origin);
  await ana.open(origin);
  await enter(ana, first);
  const link = await until(ana, "there is a link", () => document.querySelector<HTMLInputElement>("#link")?.value);
  await shira.open(link);
  await untilReads(shira, "#joinText", "in this chat");
  assert.equal(await shira.run(() => location.hash), "", "the invitation leaves the address bar");
  await enter(shira, second);
  await until(ana, "the other one is there", () => document.querySelectorAll("#seats [data-hue]").length === 2);
  return { origin, ana, shira, link };
}

async function newPerson(t: TestContext, engine: Engine, origin: string): Promise<Person> {
  const person = await engine.newPerson(origin);
  t.after(async () => {
    await person.close();
    assert.deepEqual(person.complaints(), [], "the console stays empty");
  });
  return person;
}

async function enter(person: Person, name: string): Promise<void> {
  await person.run((text) => {
    const field = document.querySelector<HTMLInputElement>("#name");
    if (field) field.value = text;
  }, name);
  await person.press("#joinSubmit");
  await until(person, "the chat is on the screen", () => document.querySelector("#log")?.role === "log");
}

/** Writes as a person does, key by key, and waits until it is sent. */
async function say(person: Person, text: string): Promise<void> {
  await person.type("#message", `${text}\n`);
  await untilSent(person);
}

/** For what is on no keyboard here: puts it in as a picker of emoji does, and presses the button. */
async function paste(person: Person, text: string): Promise<void> {
  await person.run((value) => {
    const field = document.querySelector<HTMLTextAreaElement>("#message");
    if (!field) return;
    field.value = value;
    field.dispatchEvent(new InputEvent("input", { bubbles: true }));
  }, text);
  await person.press("#send");
  await untilSent(person);
}

async function untilSent(person: Person): Promise<void> {
  await until(person, "the message is sent", () => {
    const own = document.querySelectorAll(".own");
    return own.length > 0 && !document.querySelector(".sending, .failed");
  });
}

// What follows runs in the page.

function readDraft(): string {
  return document.querySelector<HTMLTextAreaElement>("#message")?.value ?? "";
}

function lookAtBubble(selector: string) {
  const bubble = document.querySelector(selector);
  const list = document.querySelector("#list");
  const text = bubble && document.createTreeWalker(bubble, NodeFilter.SHOW_TEXT).nextNode();
  if (!bubble || !list || !text) return undefined;
  const range = document.createRange();
  range.setStart(text, 0);
  range.setEnd(text, 1);
  const letter = range.getBoundingClientRect();
  const box = bubble.getBoundingClientRect();
  const column = list.getBoundingClientRect();
  const style = getComputedStyle(bubble);
  const corners = ["top-left", "top-right", "bottom-right", "bottom-left"];
  return {
    direction: style.direction,
    beginsAt: box.right - letter.right < letter.left - box.left ? "right" : "left",
    small: corners.filter((corner) => style.getPropertyValue(`border-${corner}-radius`) === "6px").join(),
    side: column.right - box.right < box.left - column.left ? "right" : "left",
  };
}

function lookAtEmoji() {
  const bubble = document.querySelector(".message:last-child .bubble");
  if (!bubble) throw new Error("There is no message.");
  const range = document.createRange();
  range.selectNodeContents(bubble);
  const { fontSize, backgroundColor } = getComputedStyle(bubble);
  const size = parseFloat(fontSize);
  const bare = /^(transparent|rgba\(0, 0, 0, 0\))$/.test(backgroundColor);
  return { large: size > 30, bare, size, width: range.getBoundingClientRect().width };
}

/** Waits for it: the page follows a change of the window with its next frame. */
async function assertComposerBelow(person: Person, when: string): Promise<void> {
  await until(person, `the composer is at the lower edge ${when}`, () => {
    const composer = document.querySelector("#composer")?.getBoundingClientRect();
    const page = document.scrollingElement;
    return composer && page && Math.abs(innerHeight - composer.bottom) < 1 && page.scrollHeight <= innerHeight;
  });
}

async function assertFits(person: Person, what: string): Promise<void> {
  const found = await person.run(() => ({
    width: innerWidth,
    scrolls: [...document.querySelectorAll("html, body, main, #log, #inlineInvite, dialog[open]")]
      .filter((element) => element.scrollWidth > element.clientWidth)
      .map((element) => `${element.tagName} ${element.id}`),
    outside: [...document.querySelectorAll("button, input, textarea, .bubble, h1, h2, p")]
      .map((element) => ({ element, box: element.getBoundingClientRect() }))
      .filter(({ box }) => box.width > 1 && (box.right > innerWidth + 0.5 || box.left < -0.5))
      .map(({ element }) => `${element.tagName} ${element.id}`),
  }));
  assert.deepEqual(found, { width: 320, scrolls: [], outside: [] }, what);
}
