// The documents: docs/api.md is generated from docs/openapi.json, and the shell lines work when pasted into zsh, the
// default on macOS, which has no comments when interactive.

import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { writeApiPage } from "../docs/api.ts";
import { LIMITS } from "../server.ts";
import { startServer } from "./lib/helpers.ts";

const ROOT = new URL("../", import.meta.url);

/** Reads a file of this project. Git on Windows may have changed its line endings. */
function read(name: string): string {
  return readFileSync(new URL(name, ROOT), "utf8").replaceAll("\r\n", "\n");
}

test("docs/api.md is up to date", () => {
  assert.equal(read("docs/api.md"), writeApiPage(read("dist/openapi.json")), "run `npm run docs` to update it");
});

test("the server serves the built OpenAPI document, complete and with the limits filled in", async (t) => {
  const server = await startServer(t);
  const { text } = await server.send("GET", "/openapi.json");
  assert.deepEqual(JSON.parse(text), JSON.parse(read("dist/openapi.json")));
  assert.ok(!text.includes("x-errors"), "the codes have become responses");
  for (const name of Object.keys(LIMITS)) assert.ok(!text.includes(`{${name}}`), name);
});

/** The lines of a document that readers paste: its shell blocks, or the indented lines of a plain text file. */
function shellBlocks(name: string): string[] {
  const text = read(name);
  if (name.endsWith(".txt")) return [text.replaceAll(/^\S.*/gm, "")];
  const fences = /^ *```(?:sh|bash|zsh|shell|console)\n([^]*?)^ *```$/gm;
  return Array.from(text.matchAll(fences), ([, block = ""]) => block);
}

/** Lines with a word that starts with # outside quotes. */
function commentsIn(block: string): string[] {
  // Drop quoted text, but keep its line breaks.
  const bare = block.replaceAll(/'[^']*'|"(?:\\.|[^"\\])*"/g, (quoted) => `"${quoted.replaceAll(/[^\n]/g, "")}"`);
  const lines = block.split("\n");
  return bare.split("\n").flatMap((line, index) => (/(?:^|\s)#/.test(line) ? [lines[index] ?? ""] : []));
}

const documents = ["README.md", "docs/help.txt", ...globSync("docs/*.md", { cwd: fileURLToPath(ROOT) })];
for (const name of documents.map((each) => each.replaceAll("\\", "/"))) {
  test(`the shell lines of ${name} have no comments, which zsh would read as arguments`, () => {
    assert.deepEqual(shellBlocks(name).flatMap(commentsIn), []);
  });
}

test("a # in quotes or inside a word is not a comment", () => {
  assert.deepEqual(
    ["# one", "two # to\nthree", `say 'it # is' "a # \\" # b"  #four`, `five "a#b" \${x##*-} c#d`].flatMap(commentsIn),
    ["# one", "two # to", `say 'it # is' "a # \\" # b"  #four`],
  );
});

test("the check finds the documents with shell lines", () => {
  for (const name of ["README.md", "docs/hosting.md", "docs/api.md", "docs/help.txt"]) {
    assert.ok(documents.includes(name), name);
    assert.ok(shellBlocks(name).join("").trim().length > 0, name);
  }
});

test("every text that says how many people fit into a chat says the same as LIMITS", () => {
  const words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
  const [all, others] = [words[LIMITS.seats], words[LIMITS.seats - 1]];
  let count = 0;
  for (const name of ["README.md", "index.html", "client.ts", "docs/help.txt", "docs/usage.txt", "docs/api.md"]) {
    const text = readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
    for (const [sentence, number = ""] of text.matchAll(
      /(?:up to|all|at most|more than) (\w+) (?:people|others|members|seats)/gi,
    )) {
      if (!words.includes(number)) continue;
      assert.ok(number === all || number === others, `${name}: ${sentence}`);
      count += 1;
    }
  }
  assert.ok(count >= 5, `${count} sentences`);
});
