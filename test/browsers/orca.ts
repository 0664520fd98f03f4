// Prints what a screen reader says during an evening: Orca with Firefox on a virtual screen, with a voice that makes no
// sound. Run it as `dbus-run-session -- node test/browsers/orca.ts` and read the transcript: each event should be
// spoken once, in words that make sense. Orca's wording changes between versions, so nothing is compared here.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { launch } from "puppeteer-core";
import { createApp } from "../../server.ts";
import { openSite } from "../lib/browser.ts";
import { call, createChat, createInvite, joinByApi, postByApi } from "../lib/people.ts";

const DISPLAY = ":77";
const home = mkdtempSync(joinPath(tmpdir(), "orca-"));
const log = joinPath(home, "orca.log");
const programs: ChildProcess[] = [];
process.on("exit", () => programs.forEach((program) => program.kill()));
function run(command: string, ...args: string[]): void {
  programs.push(spawn(command, args, { stdio: "ignore" }));
}

async function waitForFile(file: string, text = ""): Promise<void> {
  for (let tries = 0; tries < 300; tries++) {
    if (existsSync(file) && (text === "" || readFileSync(file, "utf8").includes(text))) return;
    await sleep(100);
  }
  throw new Error(`${file} has not appeared.`);
}

Object.assign(process.env, { DISPLAY, HOME: home, XDG_RUNTIME_DIR: home, GNOME_ACCESSIBILITY: "1" });
const settings = joinPath(home, "speech");
mkdirSync(joinPath(settings, "modules"), { recursive: true });
const voice = 'GenericExecuteSynth "true"\nAddVoice "en" "MALE1" "silent"\nDefaultVoice "silent"\n';
writeFileSync(joinPath(settings, "modules/silent.conf"), voice);
const output = `LogDir "${home}"\nAddModule "silent" "sd_generic" "silent.conf"\nAudioOutputMethod "alsa"\n`;
writeFileSync(joinPath(settings, "speechd.conf"), output);
writeFileSync(joinPath(home, ".asoundrc"), "pcm.!default { type null }\n");
run("Xvfb", DISPLAY, "-screen", "0", "1280x900x24");
await waitForFile("/tmp/.X11-unix/X77");
run("openbox");
run("/usr/libexec/at-spi-bus-launcher", "--launch-immediately");
run("speech-dispatcher", "--run-single", "--timeout", "0", "--config-dir", settings);
await waitForFile(joinPath(home, "speech-dispatcher/speechd.sock"));
run("orca", `--debug-file=${log}`);
await waitForFile(log, "SPEECH OUTPUT");

const browser = await launch({
  browser: "firefox",
  executablePath: "/usr/bin/firefox-esr",
  headless: false,
  extraPrefsFirefox: { "network.dns.localDomains": "party.test", "accessibility.force_disabled": -1 },
});
const app = createApp({ rateLimit: false });
const site = await openSite(app);
const page = await browser.newPage({ type: "window" });

/** Events and spoken lines, each with its time of day. */
const transcript: [string, string][] = [];

async function report(event: string, action: () => Promise<unknown>, seconds = 4): Promise<void> {
  transcript.push([new Date().toTimeString().slice(0, 8) + ".", `\n${event}`]);
  await action();
  await sleep(seconds * 1000);
}

/** Prints what Orca said below the event that caused it. Orca writes its log in blocks, so this is done at the end. */
function printTranscript(): void {
  for (const [, time = "", text = ""] of readFileSync(log, "utf8").matchAll(/^(\S+) - SPEECH OUTPUT: '(.*?)'\{/gm)) {
    if (text.trim()) transcript.push([time, `    ${text}`]);
  }
  for (const [, line] of transcript.toSorted(([a], [b]) => (a < b ? -1 : 1))) console.log(line);
}

try {
  await report("Ana opens the page.", () => page.goto(site.origin), 8);
  await report("She starts a chat without a name.", () => page.keyboard.press("Enter"));
  await page.type("#name", "Ana");
  await report("She starts a chat.", () => page.keyboard.press("Enter"), 5);
  const link = await page.$eval("#link", (field) => (field instanceof HTMLInputElement ? field.value : ""));
  const jonas = await joinByApi(site, link, "Jonas");
  await report("Jonas joins.", () => sleep(0));
  await report("Jonas writes.", () => postByApi(site, jonas, "Hello Ana"));
  await page.type("#message", "Hello Jonas");
  await report("Ana writes.", () => page.keyboard.press("Enter"));
  for (let number = 1; number <= 28; number++) await postByApi(site, jonas, `Number ${number}`);
  await report("Jonas has written 28 messages: the log is full.", () => sleep(0), 5);
  for (const text of ["One more", "And another one"]) {
    await report("Jonas writes in the full log.", () => postByApi(site, jonas, text));
  }
  await page.type("#message", "Enough");
  await report("Ana writes in the full log.", () => page.keyboard.press("Enter"));
  await report("The connection is lost.", async () => app.server.close().closeAllConnections(), 8);
  await report("The connection is back.", async () => app.server.listen(site.port, "127.0.0.1"), 20);
  await report("Ana pastes a message that is 103 characters too long.", () =>
    page.evaluate(() => document.execCommand("insertText", false, "x".repeat(2103))),
  );
  await report("She presses Enter.", () => page.keyboard.press("Enter"));
  await page.evaluate(() => document.querySelector<HTMLTextAreaElement>("#message")?.select());
  await page.keyboard.press("Delete");
  await report("Jonas leaves.", () => call(site, "POST", `/${jonas.chat_id}/leave`, jonas.session_token), 4);
  for (const id of ["#seats", "#leave"]) await page.locator(id).click();
  await report("Ana leaves.", () => page.locator("#confirm").click());
  const [mia] = await createChat(site, "Mia", "Leo");
  const { magic_link } = await createInvite(site, mia);
  await report("She opens Mia's invitation.", () => page.goto(magic_link), 5);
  await page.locator("#name").fill("Leo");
  await report("She wants to join as Leo, whose name is taken.", () => page.keyboard.press("Enter"));
  await page.locator("#name").fill("Ana");
  await report("She joins as Ana.", () => page.keyboard.press("Enter"), 5);
  await report("Mia ends the chat.", () => call(site, "DELETE", `/${mia.chat_id}`, mia.session_token), 4);
} finally {
  await browser.close();
  for (const program of programs.toReversed()) program.kill();
  await sleep(1_000);
  printTranscript();
  await app.stop();
  rmSync(home, { recursive: true, force: true });
}
