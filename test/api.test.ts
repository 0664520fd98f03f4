// docs/api.md is generated from the OpenAPI document by docs/api.ts.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { writeApiPage } from "../docs/api.ts";
import { LIMITS } from "../server.ts";
import { startServer } from "./helpers.ts";

const read = (name: string): string => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");

test("docs/api.md is up to date", () => {
  // Git on Windows may have changed the line endings.
  const page = read("docs/api.md").replaceAll("\r\n", "\n");
  assert.equal(page, writeApiPage(read("dist/openapi.json")), "run `npm run docs`");
});

test("the server serves the built OpenAPI document, complete and with the limits filled in", async (t) => {
  const server = await startServer(t);
  const { text } = await server.send("GET", "/openapi.json");
  assert.deepEqual(JSON.parse(text), JSON.parse(read("dist/openapi.json")));
  assert.ok(!text.includes("x-errors"), "the codes have become responses");
  for (const name of Object.keys(LIMITS)) assert.ok(!text.includes(`{${name}}`), name);
});
