// docs/api.md is what docs/api.ts makes of docs/openapi.json.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { writeApiPage } from "../docs/api.ts";

/** Git on Windows may have given the lines its own ends. */
const read = (name: string): string =>
  readFileSync(new URL(`../docs/${name}`, import.meta.url), "utf8").replaceAll("\r\n", "\n");

test("docs/api.md is up to date", () => {
  assert.equal(read("api.md"), writeApiPage(read("openapi.json")), "`npm run docs` makes it anew");
});
