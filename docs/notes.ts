// CHANGELOG.md -> the text of one release: `node docs/notes.ts VERSION` prints it. The release workflow publishes that.

import { readFileSync } from "node:fs";

/** Returns the section of a version without its heading. @throws Error if the section is missing, empty or without a date */
export function releaseNotes(changelog: string, version: string): string {
  const sections = changelog.split(/^## /m).slice(1);
  const section = sections.find((each) => each.startsWith(`[${version}]`));
  if (section === undefined) throw new Error(`CHANGELOG.md has no section [${version}].`);
  const [heading = "", ...lines] = section.split("\n");
  if (!/^\[[^\]]+\] - \d{4}-\d{2}-\d{2}$/.test(heading)) {
    throw new Error(`CHANGELOG.md must have a date: "## [${version}] - YYYY-MM-DD".`);
  }
  const text = lines.join("\n").trim();
  if (text === "") throw new Error(`CHANGELOG.md has nothing under [${version}].`);
  return `${text}\n`;
}

if (import.meta.main) {
  const changelog = readFileSync(new URL("../CHANGELOG.md", import.meta.url), "utf8");
  process.stdout.write(releaseNotes(changelog, process.argv[2] ?? ""));
}
