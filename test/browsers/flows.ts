// The behaviours that must work in every engine, on http://party.test. Browsers treat this address as insecure.

import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { startSite } from "../lib/browser.ts";
import { type Engine, type Person, until, untilShows } from "./engine.ts";

const HEBREW = "ערב טוב, מגיעים בשמונה?";
const FAMILY = "👨‍👩‍👧‍👦";

/** A chat that Ana has started and Shira has joined with the link. */
interface Chat {
  origin: string;
  ana: Person;
  shira: Person;
  link: string;
}

const TESTS = {
  "two people meet through a link, talk, and continue after a reload": testMeeting,
  "Copy works without navigator.clipboard": testCopying,
  "the invitation stays in its place when a guest joins and when its link is copied": testInvitation,
  "the composer stays at the lower edge of the screen": testComposer,
  "Hebrew text is right-to-left, in a bubble on its author's side": testHebrew,
  "one to three emoji are large, more are normal text": testEmoji,
  "nothing scrolls sideways on a screen 320 pixels wide": testNarrowScreen,
};

/** Defines the tests for one engine. Their names begin with `name`. */
export function testEngine(name: string, launch: () => Promise<Engine>): void {
  let engine: Engine | undefined;
  before(async () => {
    engine = await launch();
  });
  after(() => engine?.close());
  for (const [behaviour, run] of Object.entries(TESTS)) {
    test(`${name}: ${behaviour}`, { timeout: 90_000 }, async (t) => {
      assert.ok(engine);
      await run(t, engine);
    });
  }
}

async function testMeeting(t: TestContext, engine: Engine): Promise<void> {
  const { ana, shira } = await startChat(t, engine);
  await say(ana, "Hello from Ana");
  await untilShows(shira, ".message:not(.own) .bubble", "Hello from Ana");
  await say(shira, "Hello from Shira");
  await untilShows(ana, ".message:not(.own) .bubble", "Hello from Shira");

  await shira.reload();
  await untilShows(shira, ".own .bubble", "Hello from Shira");
  await say(ana, "Are you back?");
  await untilShows(shira, ".message:not(.own) .bubble", "Are you back?");
  await say(shira, "I am");
  await untilShows(ana, ".message:not(.own) .bubble", "I am");
  assert.equal(await ana.run(() => document.querySelectorAll(".message").length), 4);
}

async function testCopying(t: TestContext, engine: Engine): Promise<void> {
  const { origin, ana, link } = await startChat(t, engine);
  assert.ok(link.startsWith(origin), "the link has the address that Ana opened");
  assert.deepEqual(await ana.run(() => [isSecureContext, "clipboard" in navigator]), [false, false]);
  await ana.press("#inviteOpen");
  await until(ana, "the link appears", () => document.querySelector<HTMLInputElement>("#link")?.value);
  await ana.press("#copy");
  await untilShows(ana, "#inviteStatus", "Copied");
  const shown = await ana.run(() => document.querySelector<HTMLInputElement>("#link")?.value);
  assert.equal(await ana.run(() => document.querySelector("#link")?.scrollLeft), 0, "the field shows the link's start");
  await ana.press("#inviteClose");
  await ana.paste("#message");
  assert.equal(await until(ana, "the link is pasted", readDraft), shown);
}

async function testInvitation(t: TestContext, engine: Engine): Promise<void> {
  const { origin } = await startSite(t);
  const ana = await newPerson(t, engine, origin);
  await ana.open(origin);
  await submitName(ana, "Ana");
  const link = await until(ana, "there is a link", () => document.querySelector<HTMLInputElement>("#link")?.value);
  // Tall enough for all of it. Otherwise a press may scroll.
  await ana.resize(1000, 800);
  const places = await ana.run(readInvitePlaces);
  const shira = await newPerson(t, engine, origin);
  await shira.open(link);
  await submitName(shira, "Shira");
  await untilShows(ana, "#list", "Shira joined");
  assert.deepEqual(await ana.run(readInvitePlaces), places, "after a guest has joined");
  await ana.press("#copy");
  await untilShows(ana, "#inviteStatus", "Copied");
  assert.deepEqual(await ana.run(readInvitePlaces), places, "after the link was copied");
}

async function testComposer(t: TestContext, engine: Engine): Promise<void> {
  const { ana } = await startChat(t, engine);
  await assertComposerAtBottom(ana, "in an empty chat");
  // The longest possible log. It is higher than each of the screens below.
  for (let line = 1; line <= 30; line++) await say(ana, `Line ${line}`);
  await untilShows(ana, ".message:last-child:not(.sending) .bubble", "Line 30");
  for (const [width, height] of [[1000, 700] as const, [390, 640] as const, [320, 560] as const]) {
    await ana.resize(width, height);
    await assertComposerAtBottom(ana, `at ${width} by ${height} pixels`);
    await ana.run(() => document.querySelector("#log")?.scrollTo(0, 0));
    await assertComposerAtBottom(ana, "while the log shows the oldest messages");
    await ana.run(() => document.querySelector("#log")?.scrollTo(0, 1e6));
  }
}

async function testHebrew(t: TestContext, engine: Engine): Promise<void> {
  const { ana, shira } = await startChat(t, engine);
  await insertAndSend(shira, HEBREW);
  await untilShows(ana, ".message:not(.own) .bubble", HEBREW);
  await say(ana, "See you at eight");
  await untilShows(shira, ".message:not(.own) .bubble", "See you at eight");

  const own = await shira.run(readBubble, ".own .bubble");
  assert.deepEqual(own, { direction: "rtl", startsAt: "right", smallCorner: "bottom-right", side: "right" });
  const others = await ana.run(readBubble, ".message:not(.own) .bubble");
  assert.deepEqual(others, { direction: "rtl", startsAt: "right", smallCorner: "top-left", side: "left" });
  const english = await shira.run(readBubble, ".message:not(.own) .bubble");
  assert.deepEqual(english, { direction: "ltr", startsAt: "left", smallCorner: "top-left", side: "left" });
}

async function testEmoji(t: TestContext, engine: Engine): Promise<void> {
  const { ana, shira } = await startChat(t, engine);
  const cases = [
    [FAMILY, true],
    ["🍿🎬🎉", true],
    ["🍿🎬🎉😀", false],
    ["👍 yes", false],
  ] as const;
  for (const [text, large] of cases) {
    await insertAndSend(ana, text);
    await untilShows(shira, ".message:last-child .bubble", text);
    const emoji = await shira.run(readEmoji);
    assert.deepEqual({ large: emoji.large, bare: emoji.bare }, { large, bare: large }, text);
    // A font without this family would draw its four members side by side, four times as wide.
    if (text === FAMILY) assert.ok(emoji.width > 0.5 * emoji.size && emoji.width < 2 * emoji.size, "one glyph");
  }
}

async function testNarrowScreen(t: TestContext, engine: Engine): Promise<void> {
  const { origin, ana, shira, link } = await startChat(t, engine, "A name of 24 characters!", "שירה־לאה בת־אברהם כהן");
  await ana.resize(320, 600);
  await assertFits(ana, "a new chat");
  await say(ana, "averyveryveryverylongword".repeat(8));
  await say(ana, `Have a look: http://example.org/${"path/".repeat(30)}?x=1`);
  await insertAndSend(ana, "🍿🎬🎉");
  await untilShows(shira, ".message:last-child .bubble", "🍿");
  await assertFits(ana, "a chat");
  await ana.press("#inviteOpen");
  await assertFits(ana, "the invitation");
  await ana.press("#inviteClose");
  await ana.press("#seats");
  await assertFits(ana, "the list of people");

  const guest = await newPerson(t, engine, origin);
  await guest.resize(320, 600);
  await guest.open(link);
  await untilShows(guest, "#joinText", "in this chat");
  await assertFits(guest, "the join screen");
  await guest.open(origin);
  await untilShows(guest, "#joinSubmit", "Start");
  await assertFits(guest, "home");
}

async function startChat(t: TestContext, engine: Engine, first = "Ana", second = "Shira"): Promise<Chat> {
  const { origin } = await startSite(t);
  const ana = await newPerson(t, engine, origin);
  const shira = await newPerson(t, engine, origin);
  await ana.open(origin);
  await submitName(ana, first);
  const link = await until(ana, "there is a link", () => document.querySelector<HTMLInputElement>("#link")?.value);
  await shira.open(link);
  await untilShows(shira, "#joinText", "in this chat");
  assert.equal(await shira.run(() => location.hash), "", "the address bar no longer shows the invitation");
  await submitName(shira, second);
  await until(ana, "the second member appears", () => document.querySelectorAll("#seats [data-hue]").length === 2);
  return { origin, ana, shira, link };
}

async function newPerson(t: TestContext, engine: Engine, origin: string): Promise<Person> {
  const person = await engine.newPerson(origin);
  t.after(async () => {
    await person.close();
    assert.deepEqual(person.consoleMessages(), [], "the console stays empty");
  });
  return person;
}

/** Submits the name on the home or join screen, and waits for the chat. */
async function submitName(person: Person, name: string): Promise<void> {
  await person.run((text) => {
    const field = document.querySelector<HTMLInputElement>("#name");
    if (field) field.value = text;
  }, name);
  await person.press("#joinSubmit");
  await until(person, "the chat is on the screen", () => document.querySelector("#log")?.role === "log");
}

/** Types a message key by key, sends it with Enter, and waits until it is sent. */
async function say(person: Person, text: string): Promise<void> {
  await person.type("#message", `${text}\n`);
  await untilSent(person);
}

/** Inserts a text at once, as an emoji picker or another keyboard does, sends it with the button, and waits. */
async function insertAndSend(person: Person, text: string): Promise<void> {
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
    return own.length > 0 && !document.querySelector(".sending, .unsent, .failed");
  });
}

// These four run in the page, so they can use nothing but their parameters and the page.

/** Returns where the invitation's controls are, and the size of its QR code. */
function readInvitePlaces(): string[] {
  const controls = [...document.querySelectorAll("#inviteTitle, #inviteClose, #qr, #link, #copy, #replaceLink")];
  return controls.map((control) => {
    const { x, y, width, height } = control.getBoundingClientRect();
    return control.id === "qr" ? `${x} ${y} ${width} ${height}` : `${x} ${y}`;
  });
}

function readDraft(): string {
  return document.querySelector<HTMLTextAreaElement>("#message")?.value ?? "";
}

/** Returns a bubble's direction, where its text starts, which corner is smaller, and the bubble's side of the log. */
function readBubble(selector: string) {
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
    startsAt: box.right - letter.right < letter.left - box.left ? "right" : "left",
    smallCorner: corners.filter((corner) => style.getPropertyValue(`border-${corner}-radius`) === "6px").join(),
    side: column.right - box.right < box.left - column.left ? "right" : "left",
  };
}

/** Returns whether the last message is large and without a bubble, with its font size and text width in pixels. */
function readEmoji() {
  const bubble = document.querySelector(".message:last-child .bubble");
  if (!bubble) throw new Error("There is no message.");
  const range = document.createRange();
  range.selectNodeContents(bubble);
  const { fontSize, backgroundColor } = getComputedStyle(bubble);
  const size = parseFloat(fontSize);
  const bare = /^(transparent|rgba\(0, 0, 0, 0\))$/.test(backgroundColor);
  return { large: size > 30, bare, size, width: range.getBoundingClientRect().width };
}

/** Waits, because the page adapts to a new window size one frame later. */
async function assertComposerAtBottom(person: Person, when: string): Promise<void> {
  await until(person, `the composer is at the lower edge ${when}`, () => {
    const composer = document.querySelector("#composer")?.getBoundingClientRect();
    const page = document.scrollingElement;
    return composer && page && Math.abs(innerHeight - composer.bottom) < 1 && page.scrollHeight <= innerHeight;
  });
}

/** Checks that nothing scrolls sideways or lies outside of a screen 320 pixels wide. */
async function assertFits(person: Person, what: string): Promise<void> {
  const layout = await person.run(() => ({
    width: innerWidth,
    scrolls: [...document.querySelectorAll("html, body, main, #log, #inlineInvite, dialog[open]")]
      .filter((element) => element.scrollWidth > element.clientWidth)
      .map((element) => `${element.tagName} ${element.id}`),
    outside: [...document.querySelectorAll("button, input, textarea, .bubble, h1, h2, p")]
      .map((element) => ({ element, box: element.getBoundingClientRect() }))
      .filter(({ box }) => box.width > 1 && (box.right > innerWidth + 0.5 || box.left < -0.5))
      .map(({ element }) => `${element.tagName} ${element.id}`),
  }));
  assert.deepEqual(layout, { width: 320, scrolls: [], outside: [] }, what);
}
