// `npm run dev` runs this file under `node --watch`. It builds, starts the server, and builds again when a source file
// changes. When dist/server.cjs changes, Node restarts this file.

import { spawnSync } from "node:child_process";
import { watch } from "node:fs";
import { fileURLToPath } from "node:url";

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const build = () => spawnSync(process.execPath, [path("build.mjs"), "--quick"], { stdio: "inherit" });

build();
let timer;
for (const folder of ["", "docs", "lib", "locales"]) {
  // Saving a file causes several events in a row, so wait until they are over.
  watch(path(folder), () => {
    clearTimeout(timer);
    timer = setTimeout(build, 50);
  });
}
await import("../dist/server.cjs");
