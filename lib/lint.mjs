// `npm run lint`: types, lint and format. Stops at the first check that fails.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

const TOOLS = [
  ["node_modules/typescript/bin/tsc"],
  ["node_modules/oxlint/bin/oxlint", "--type-aware"],
  ["node_modules/oxfmt/bin/oxfmt", "--check"],
];

// On an older Node, npm silently skips oxlint's binary, which is an optional package.
const folder = `${root}node_modules/@oxlint/`;
if (!existsSync(folder) || !readdirSync(folder).some((name) => name.startsWith("binding-"))) {
  console.error("npm has left out a part of oxlint: run `npm ci` with Node.js 20.19 or newer, or 22.12 or newer.");
  process.exit(1);
}

for (const tool of TOOLS) {
  const { status } = spawnSync(process.execPath, tool, { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
