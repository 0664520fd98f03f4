// Runs the shell blocks of one section of a document line by line, as a reader pastes them into a terminal:
//
//   node test/package/blocks.ts SHELL DOCUMENT HEADING PLACE
//
// Its working directory is the reader's folder, and PLACE is the kind of folder. A line that starts the program gets Ctrl+C
// once /healthz has answered, and a line that opens a stream gets it once data has arrived. Every other line must end with
// exit code 0. zsh is interactive, because only then does it not read `#` as a comment.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** The reader's folder: the downloaded files, the unpacked archive, or a clone of the repository. */
export type Place = "downloads" | "archive" | "clone";

export interface Section {
  document: "README.md" | "docs/hosting.md";
  heading: string;
  place: Place;
  /** An earlier section has started the program on port 8080. */
  isServed?: boolean;
}

export const SECTIONS: readonly Section[] = [
  { document: "README.md", heading: "Run it", place: "downloads" },
  { document: "README.md", heading: "Run it", place: "clone" },
  { document: "README.md", heading: "The API in ten lines", place: "archive", isServed: true },
  { document: "docs/hosting.md", heading: "systemd", place: "archive" },
  { document: "docs/hosting.md", heading: "Ports below 1024", place: "archive" },
];

/** The first lines of blocks that do not run here, with the reason. */
export const NOT_RUN: Readonly<Record<string, string>> = {
  "npm ci && npm test": ".ci/run runs both before this test.",
  "systemd-run --user --unit watch-party ./watch-party": "It needs a running systemd of a user.",
  "sudo apt install ./watch-party-*-linux-x64.deb": "test/debian.sh installs the package in a minimal Debian.",
  "podman build -f deploy/Containerfile -t watch-party .": "test/deploy/container.sh runs both lines with buildah.",
};

export interface Block {
  document: string;
  heading: string;
  place: Place;
  lines: string[];
}

/** The ```sh blocks of a document in order. A backslash joins lines. */
export function readBlocks(document: string): Block[] {
  const text = readFileSync(`${ROOT}${document}`, "utf8");
  return text.split(/^##+ /m).flatMap((section) => {
    const heading = section.slice(0, section.indexOf("\n"));
    return Array.from(section.matchAll(/^ *```sh\n([^]*?)^ *```/gm), ([, code = ""]) => {
      const lines = code
        .replaceAll("\\\n", "")
        .split("\n")
        .map((line) => line.trim());
      const place = code.startsWith("npm ") ? "clone" : document === "README.md" ? "downloads" : "archive";
      return { document, heading, place, lines: lines.filter(Boolean) };
    });
  });
}

/** Whether a block belongs to a section. One that needs the running program also needs the archive's folder. */
export function isPartOf(block: Block, section: Section): boolean {
  const place = section.isServed ? "downloads" : section.place;
  const isHere = block.document === section.document && block.heading === section.heading && block.place === place;
  return isHere && !((block.lines[0] ?? "") in NOT_RUN);
}

/** A shell that runs one line at a time. */
class Shell {
  readonly child: ChildProcess;
  output = "";
  #changed = (): void => {};

  constructor(name: string) {
    const flags = name === "zsh" ? ["-f", "-i"] : [];
    this.child = spawn(name, flags, { stdio: ["pipe", "pipe", "pipe"] });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("utf8").on("data", (part: string) => {
        this.output += part;
        this.#changed();
      });
    }
    this.child.once("exit", () => this.#changed());
  }

  /** Waits for the first match in the output after position `from`. */
  async match(pattern: RegExp, from: number): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.output.slice(from));
      if (found) return found;
      assert.equal(this.child.exitCode, null, `The shell has exited: ${this.output.slice(from)}`);
      await new Promise<void>((resolve) => (this.#changed = resolve));
    }
  }

  /** Runs a line and returns its output. */
  async run(line: string): Promise<string> {
    const from = this.output.length;
    this.child.stdin?.write(`${line}\nprintf '\\n@%s@\\n' "$?"\n`);
    const ends = /\n@(\d+)@\n/;
    const isStream = line.includes("curl -sN");
    const begins = isStream ? /^\{.*\n/m : /http:\/\/localhost:(\d+) [^]*curl[^\n]*\n/;
    const first = await this.match(new RegExp(`${begins.source}|${ends.source}`, "m"), from);
    if (first[0].endsWith("@\n") && !ends.test(first[0].slice(0, first[0].lastIndexOf("\n@")))) {
      const code = /@(\d+)@\n$/.exec(first[0])?.[1];
      assert.equal(code, "0", this.output.slice(from));
      assert.ok(!isStream, "The stream ended before Ctrl+C.");
      return this.output.slice(from);
    }
    if (!isStream) await assertHealthy(Number(first[1]));
    for (const pid of findLeaves(this.child.pid ?? 0)) process.kill(pid, "SIGINT");
    const [, code] = await this.match(ends, from);
    if (!isStream) assert.equal(code, "0", `Ctrl+C: ${this.output.slice(from)}`);
    return this.output.slice(from);
  }

  async end(): Promise<void> {
    const ended = once(this.child, "close");
    this.child.stdin?.end();
    await ended;
  }
}

async function assertHealthy(port: number): Promise<void> {
  const reply = await fetch(`http://localhost:${port}/healthz`);
  assert.deepEqual(await reply.json(), { status: "ok" });
}

/** The descendants of a process that have no children: the foreground processes. */
function findLeaves(root: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc").filter((each) => /^\d+$/.test(each))) {
    try {
      // The name in brackets can contain anything. The state and the parent follow it.
      const stat = readFileSync(`/proc/${name}/stat`, "latin1");
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")")).split(" ")[2]));
    } catch {
      // The process has exited in the meantime.
    }
  }
  const below = (pid: number): number[] => {
    const children = [...parents].filter(([, parent]) => parent === pid).map(([child]) => child);
    return children.length > 0 ? children.flatMap(below) : [pid];
  };
  return below(root).filter((pid) => pid !== root);
}

/** Sends a request to the program on port 8080. Returns its JSON. */
async function call(path: string, method: string, token?: string): Promise<Record<string, unknown>> {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  const reply = await fetch(`http://localhost:8080${path}`, { method, headers });
  const body: unknown = await reply.json();
  return { ...Object(body) };
}

/** Creates a chat with an invitation. */
async function openChat(): Promise<{ link: string; texts: () => Promise<string> }> {
  const chat = await call("/create", "POST");
  const [path, token] = [`/${String(chat["chat_id"])}`, String(chat["session_token"])];
  const invitation = await call(`${path}/invite`, "POST", token);
  return {
    link: String(invitation["magic_link"]),
    texts: async () => JSON.stringify((await call(path, "GET", token))["messages"]),
  };
}

async function runSection(shellName: string, section: Section): Promise<void> {
  const { document, isServed = false } = section;
  const program = isServed ? spawn("./watch-party", { stdio: ["ignore", "pipe", "inherit"] }) : undefined;
  const closed = program && once(program, "close");
  if (program) {
    let printed = "";
    for await (const part of program.stdout) if (/curl[^\n]*\n/.test((printed += String(part)))) break;
    program.stdout.resume();
  }
  const chat = isServed ? await openChat() : undefined;
  const shell = new Shell(shellName);
  let invitation = "";
  const blocks = readBlocks(document).filter((block) => isPartOf(block, section));
  assert.ok(blocks.length > 0, "The section has no blocks.");
  for (const line of blocks.flatMap(({ lines }) => lines)) {
    const filled = line
      .replaceAll("linux-x64", `linux-${process.arch}`)
      .replace(/'http[^']*…[^']*'/, `'${chat?.link}'`)
      .replace('"invite_token": "…"', `"invite_token": "${invitation}"`);
    console.log(`$ ${filled}`);
    const printed = await shell.run(filled);
    invitation = /"invite_token":"([^"]+)"/.exec(printed)?.[1] ?? invitation;
  }
  await shell.end();
  if (chat) assert.match(await chat.texts(), /make -j4 on \S+: done/, "notify.sh posted no message");
  program?.kill();
  await closed;
}

if (import.meta.main) {
  const [shellName = "", document, heading, place] = process.argv.slice(2);
  const section = SECTIONS.find((s) => s.document === document && s.heading === heading && s.place === place);
  assert.ok(section, `There is no section ${document} ${heading} ${place}.`);
  try {
    await runSection(shellName, section);
    process.exit(0);
  } catch (error) {
    console.error(error);
    for (const pid of findLeaves(process.pid)) process.kill(pid, "SIGKILL");
    process.exit(1);
  }
}
