// A contributor's tools: the build, `npm run dev`, the launcher of the npm scripts, and the browser check. Each test
// works in a copy of the source.

import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { missingLibraries, packagesOf } from "./lib/browser.ts";
import { type ProcessResult, LOCAL, plainEnvironment, SECOND, temporaryFolder, until } from "./lib/helpers.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SOURCE = ["server.ts", "client.ts", "index.html", "build.mjs", "package.json", "lib", "docs", "locales"];

/** Copies the files that `npm run build` reads. */
function copySource(t: TestContext): string {
  const folder = temporaryFolder(t);
  for (const name of SOURCE) cpSync(join(ROOT, name), join(folder, name), { recursive: true });
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"), "junction");
  return folder;
}

/** Node running with these arguments in a folder. It is killed after the test. */
class Script {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  stdout = "";
  stderr = "";
  readonly ended: Promise<ProcessResult>;

  constructor(t: TestContext, folder: string, ...parameters: string[]) {
    this.child = spawn(process.execPath, parameters, {
      cwd: folder,
      env: plainEnvironment(),
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.child.stdout.setEncoding("utf8").on("data", (part: string) => (this.stdout += part));
    this.child.stderr.setEncoding("utf8").on("data", (part: string) => (this.stderr += part));
    this.ended = new Promise((resolve) => {
      this.child.on("close", (code, signal) => {
        resolve({ code, signal, stdout: this.stdout, stderr: this.stderr });
      });
    });
    t.after(async () => {
      this.child.kill();
      await this.ended;
    });
  }

  async waitForOutput(text: RegExp): Promise<void> {
    await until(() => text.test(this.stdout) || this.child.exitCode !== null, `${text} in ${this.stdout}`);
    assert.match(this.stdout, text, this.stderr);
  }
}

// ---- The build -------------------------------------------------------------------------------------------

test("a second build of the same source writes nothing", async (t) => {
  const folder = copySource(t);
  const times = () => ["assets.json", "server.cjs"].map((name) => statSync(join(folder, "dist", name)).mtimeMs);
  assert.equal((await new Script(t, folder, "build.mjs", "--quick").ended).code, 0);
  const before = times();
  assert.equal((await new Script(t, folder, "build.mjs", "--quick").ended).code, 0);
  assert.deepEqual(times(), before);
});

test("a build that cannot write its output fails with one line", async (t) => {
  const folder = copySource(t);
  // A file in place of the folder stops even root.
  writeFileSync(join(folder, "dist"), "");
  const { code, stdout, stderr } = await new Script(t, folder, "build.mjs").ended;
  assert.deepEqual([code, stdout], [1, ""]);
  assert.match(stderr, /^dist\/texts\.ts is missing or older than the source, and cannot be written \(\w+\)\.\n$/);
});

const noSignals = process.platform === "win32" && "Windows has no signals to send";
test("npm run dev starts the server, and restarts it when the page changes", { skip: noSignals }, async (t) => {
  const folder = copySource(t);
  const page = join(folder, "index.html");
  const { dev = "" } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).scripts;
  const [, ...parameters] = dev.split(" ");
  const script = new Script(t, folder, ...parameters, ...LOCAL);
  await script.waitForOutput(/curl[^\n]*\n/);
  const readTitle = async () => {
    const [url = ""] = script.stdout.match(/http:\/\/127\S+/g)?.slice(-1) ?? [];
    const reply = await fetch(new URL("/", url), { headers: { Accept: "text/html" } });
    return /<title>.*<\/title>/.exec(await reply.text())?.[0];
  };
  assert.equal(await readTitle(), "<title>Watch Party</title>");

  for (const [count, title] of [
    [2, "Two"],
    [3, "Three"],
  ] as const) {
    // Editors save this way: a new file replaces the old one.
    writeFileSync(`${page}.new`, readFileSync(page, "utf8").replace(/<title>.*<\/title>/, `<title>${title}</title>`));
    renameSync(`${page}.new`, page);
    await script.waitForOutput(new RegExp(`(curl[^\\n]*\\n[^]*){${count}}`));
    assert.equal(await readTitle(), `<title>${title}</title>`);
  }
});

// ---- The launcher ----------------------------------------------------------------------------------------

/** Makes Node report an old version. */
const OLD = `data:text/javascript,Object.defineProperty(process.versions,"node",{value:"20.9.0"})`;

/** A folder with only the launcher, and this Node in the place of the one that npm installs. */
function copyLauncher(t: TestContext): string {
  const folder = temporaryFolder(t);
  const system = process.platform === "win32" ? "win" : process.platform;
  const bin = join(folder, "node_modules", `node-${system}-${process.arch}`, "bin");
  mkdirSync(bin, { recursive: true });
  symlinkSync(process.execPath, join(bin, process.platform === "win32" ? "node.exe" : "node"));
  cpSync(join(ROOT, "lib"), join(folder, "lib"), { recursive: true });
  return folder;
}

/** Runs the launcher with these arguments on a Node that reports an old version. */
function launch(t: TestContext, folder: string, ...parameters: string[]): Script {
  return new Script(t, folder, "--import", OLD, "lib/node24.mjs", ...parameters);
}

test("on an old Node, the launcher runs a script with the Node from npm and puts that first on the PATH", async (t) => {
  const folder = copyLauncher(t);
  const script = `console.log(process.versions.node, process.argv.slice(1), process.env.PATH.split(path.delimiter)[0])`;
  const { code, stdout, stderr } = await launch(t, folder, "--eval", script, "one", "t w o").ended;
  assert.deepEqual([code, stderr], [0, ""]);
  assert.equal(stdout.split(" ")[0], process.versions.node);
  assert.match(stdout, /\[ 'one', 't w o' \] \S*[\\/]node_modules[\\/]node-\w+-\w+[\\/]bin\n$/);
});

test("on an old Node without another one, the launcher fails with one line that says what to do", async (t) => {
  const folder = copyLauncher(t);
  rmSync(join(folder, "node_modules"), { recursive: true });
  const { code, stdout, stderr } = await launch(t, folder, "--version").ended;
  assert.deepEqual([code, stdout], [1, ""]);
  assert.match(stderr, /^Watch Party needs Node\.js 24 or newer, and this is 20\.9\.0: [^\n]*install[^\n]*\.\n$/);
});

test("the launcher exits with its script's exit code", async (t) => {
  assert.equal((await launch(t, copyLauncher(t), "--eval", "process.exit(7)").ended).code, 7);
});

test("the launcher forwards signals, and ends by the signal that ended its script", { skip: noSignals }, async (t) => {
  const folder = copyLauncher(t);
  const patient =
    "process.on(process.argv[1], () => process.exit(7)); setInterval(() => {}, 1000); console.log('ready', process.pid)";
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    const script = launch(t, folder, "--eval", patient, signal);
    await script.waitForOutput(/ready/);
    script.child.kill(signal);
    assert.equal((await script.ended).code, 7, signal);
  }

  // npm's shell forwards no signals, so the launcher stops its script when that shell ends.
  const shell = `"$@"; exit`;
  const ready = [process.execPath, "lib/node24.mjs", "--eval", patient, "SIGTERM"];
  const npm = spawn("sh", ["-c", shell, "sh", ...ready], {
    cwd: folder,
    env: { ...plainEnvironment(), npm_lifecycle_event: "start" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [output] = await once(npm.stdout.setEncoding("utf8"), "data");
  npm.kill("SIGTERM");
  // The output ends when the last process that could write to it has exited.
  await once(npm.stdout.resume(), "end", { signal: AbortSignal.timeout(5 * SECOND) }).finally(() => {
    if (npm.stdout.readable) process.kill(Number(/\d+/.exec(output)?.[0]), "SIGKILL");
  });

  const script = launch(t, folder, "--eval", "process.kill(process.pid, 'SIGKILL')");
  assert.equal((await script.ended).signal, "SIGKILL");
});

// ---- The browser check ------------------------------------------------------------------------------------

test("missing browser libraries are reported as Debian packages", () => {
  const ldd = `
\tlinux-vdso.so.1 (0x00007ffd8b5e5000)
\tlibnss3.so => not found
\tlibnssutil3.so => not found
\tlibX11.so.6 => not found
\tlibgcc_s.so.1 => not found
\tlibexpat.so.1 => not found
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1c8d000000)
\tlibnspr4.so => not found
`;
  const packages = ["libx11-6", "libexpat1", "libgcc-s1", "libnspr4", "libnss3"];
  assert.deepEqual(packagesOf(missingLibraries(ldd)), packages);
});
