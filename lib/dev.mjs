// `npm run dev` runs this file under `node --watch`: it builds, starts the server, and builds again when a source
// changes. A new dist/server.cjs then makes Node start this file again.

import { spawnSync } from "node:child_process";
import { watch } from "node:fs";
import { fileURLToPath } from "node:url";

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const build = () => spawnSync(process.execPath, [path("build.mjs")], { stdio: "inherit" });

build();
let timer;
for (const folder of ["", "docs"]) {
  // Saving a file is several events in a row, so build when they are over.
  watch(path(folder), () => {
    clearTimeout(timer);
    timer = setTimeout(build, 50);
  });
}
await import("../dist/server.cjs");
