// The shell lines of the documentation: an interactive zsh, the default on macOS, has no comments.

import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { LIMITS } from "../server.ts";

const ROOT = new URL("../", import.meta.url);

/** The lines that a document shows for pasting: its shell blocks, or the indented lines of a plain text. */
function shellBlocks(name: string): string[] {
  const text = readFileSync(new URL(name, ROOT), "utf8").replaceAll("\r\n", "\n");
  if (name.endsWith(".txt")) return [text.replaceAll(/^\S.*/gm, "")];
  const fences = /^ *```(?:sh|bash|zsh|shell|console)\n([^]*?)^ *```$/gm;
  return Array.from(text.matchAll(fences), ([, block = ""]) => block);
}

/** The lines with a word that begins with # outside of quotes. */
function commentsIn(block: string): string[] {
  // Drop quoted text, but keep its line ends.
  const bare = block.replaceAll(/'[^']*'|"(?:\\.|[^"\\])*"/g, (quoted) => `"${quoted.replaceAll(/[^\n]/g, "")}"`);
  const lines = block.split("\n");
  return bare.split("\n").flatMap((line, index) => (/(?:^|\s)#/.test(line) ? [lines[index] ?? ""] : []));
}

const documents = ["README.md", "docs/help.txt", ...globSync("docs/*.md", { cwd: fileURLToPath(ROOT) })];
for (const name of documents.map((each) => each.replaceAll("\\", "/"))) {
  test(`${name} has no comments among its shell lines, which zsh would take for arguments`, () => {
    assert.deepEqual(shellBlocks(name).flatMap(commentsIn), []);
  });
}

test("a # in quotes or inside a word is no comment", () => {
  assert.deepEqual(
    ["# one", "two # to\nthree", `say 'it # is' "a # \\" # b"  #four`, `five "a#b" \${x##*-} c#d`].flatMap(commentsIn),
    ["# one", "two # to", `say 'it # is' "a # \\" # b"  #four`],
  );
});

test("the documents with shell lines are found", () => {
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
