// Flags and environment variables: --help, --version, and the errors for bad values.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { FLAGS } from "../lib/settings.ts";
import { type ProcessResult, record, run, stringOf, occupyPort, temporaryFolder } from "./lib/helpers.ts";

/** Flags of other programs that the documents mention. */
const FOREIGN_FLAGS = new Set(["rm", "read-only", "cap-drop", "build-arg", "ignore-missing", "all", "quick"]);

/** Asserts that the program exited with this code and one line on stderr that contains `text`, without a stack. */
function assertUsageError(ended: ProcessResult, code: 1 | 2, text: string): void {
  assert.equal(ended.code, code, `${ended.stdout}${ended.stderr}`);
  assert.equal(ended.stdout, "");
  assert.match(ended.stderr, /^[^\n]+\n$/, "exactly one line");
  assert.ok(ended.stderr.includes(text), `${text}: ${ended.stderr}`);
  assert.doesNotMatch(ended.stderr, /\s+at .*:\d+/);
  if (code === 2) assert.match(ended.stderr, /--help/);
}

describe("the command line", { concurrency: 4 }, () => {
  test("--version prints the versions of the program and of Node in one line", async () => {
    const manifest = record(JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")));
    const ended = await run(["--version"]);
    assert.deepEqual([ended.code, ended.stderr], [0, ""]);
    const [, version, node = ""] = /^watch-party (\S+) \(Node (\d+\.\d+\.\d+)\)\n$/.exec(ended.stdout) ?? [];
    assert.equal(version, stringOf(manifest, "version"), ended.stdout);
    assert.ok(Number(node.split(".")[0]) >= 24, node);
  });

  test("--help and -h list every flag and its environment variable", async () => {
    const ended = await run(["--help"]);
    assert.deepEqual([ended.code, ended.stderr], [0, ""]);
    assert.deepEqual(await run(["-h"]), ended);
    for (const flag of Object.keys(FLAGS)) {
      assert.ok(ended.stdout.includes(`--${flag}`), flag);
      const variable = `[WATCH_PARTY_${flag.toUpperCase().replaceAll("-", "_")}`;
      assert.equal(ended.stdout.includes(variable), flag !== "help" && flag !== "version", flag);
    }
    assert.match(ended.stdout, /\bPORT\b/);
  });

  test("every flag in usage.txt, README and hosting.md exists", () => {
    for (const name of ["docs/usage.txt", "README.md", "docs/hosting.md"]) {
      const text = readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
      const lines = text
        .split("\n")
        .filter((line) => /watch-party .*--|^ {2}--|`--/.test(line) && !/podman|buildah/.test(line));
      for (const [, flag = ""] of lines.join("\n").matchAll(/[\s`[]--([a-z][a-z-]+)/g)) {
        assert.ok(Object.hasOwn(FLAGS, flag) || FOREIGN_FLAGS.has(flag), `${name}: --${flag}`);
      }
    }
  });

  for (const [args, sentence] of [
    [["--port", "-1"], "--port needs a number from 0 to 65535"],
    [["--port"], "--port needs a number from 0 to 65535"],
    [["--port", "70000"], '--port needs a number from 0 to 65535, not "70000"'],
    [["--url", "chat.example.org"], "--url needs a scheme, as in https://chat.example.org"],
  ] as const) {
    test(`the error for ${args.join(" ")} says what the flag needs`, async () => {
      assertUsageError(await run(args), 2, sentence);
    });
  }

  for (const [named, flags] of [
    ["--nope", ["--nope"]],
    ["--nope", ["--nope=5"]],
    ["-x", ["-x"]],
    ["stray", ["stray"]],
    ["stray", ["--port", "0", "stray"]],
    ["--port", ["--port"]],
    ["--port", ["--port", "http"]],
    ["--port", ["--port", "65536"]],
    ["--port", ["--port", "-1"]],
    ["--port", ["--port", "80.5"]],
    ["--port", ["--port", ""]],
    ["--port", ["--port", "--verbose"]],
    ["--host", ["--host", ""]],
    ["--url", ["--url", "chat.example"]],
    ["--url", ["--url", "ftp://chat.example"]],
    ["--url", ["--url", "https://chat.example/path"]],
    ["--url", ["--url", "https://chat.example?x"]],
    ["--url", ["--url", "https://user@chat.example"]],
    ["--max-chats", ["--max-chats", "0"]],
    ["--max-chats", ["--max-chats", "many"]],
    ["--max-chats", ["--max-chats", "-5"]],
    ["--node", ["--node", "EU1"]],
    ["--node", ["--node", "abcdefghij0123456"]],
    ["--node", ["--node", "eu-1"]],
    ["--tls-key", ["--tls-cert", "cert.pem"]],
    ["--tls-cert", ["--tls-key", "key.pem"]],
    ["--verbose", ["--verbose=yes"]],
  ] as const) {
    test(`${flags.join(" ")} fails with one line and exit code 2`, async () => {
      assertUsageError(await run(flags), 2, named);
    });
  }

  for (const [name, value] of [
    ["WATCH_PARTY_PORT", "http"],
    ["PORT", "65536"],
    ["WATCH_PARTY_URL", "chat.example/x"],
    ["WATCH_PARTY_MAX_CHATS", "many"],
    ["WATCH_PARTY_NODE", "EU"],
    ["WATCH_PARTY_TRUST_PROXY", "yes"],
    ["WATCH_PARTY_NO_RATE_LIMIT", "2"],
    ["WATCH_PARTY_VERBOSE", "on"],
  ] as const) {
    test(`${name}=${value} fails like the flag`, async () => {
      assertUsageError(await run([], { [name]: value }), 2, name);
    });
  }

  test("an unreadable or invalid certificate file is named, with exit code 1", async (t) => {
    const folder = temporaryFolder(t);
    const [missing, empty] = [join(folder, "missing.pem"), join(folder, "empty.pem")];
    writeFileSync(empty, "nonsense");
    assertUsageError(await run(["--tls-cert", missing, "--tls-key", missing]), 1, missing);
    assertUsageError(await run(["--tls-cert", empty, "--tls-key", empty, "--port", "0"]), 1, empty);
    assertUsageError(await run(["--tls-cert", folder, "--tls-key", empty]), 1, folder);
  });

  test("a host address that this machine does not have is named, with exit code 1", async () => {
    assertUsageError(await run(["--port", "0", "--host", "203.0.113.7"]), 1, "203.0.113.7");
    assertUsageError(await run(["--port", "0", "--host", "2001:db8::7"]), 1, "2001:db8::7");
  });

  test("an explicit port that is in use is named, with exit code 1", async (t) => {
    const port = String(await occupyPort(t));
    for (const [flags, env] of [
      [["--port", port], {}],
      [[`--port=${port}`], { PORT: "0" }],
      [[], { WATCH_PARTY_PORT: port }],
      [[], { PORT: port }],
    ] as const) {
      assertUsageError(await run([...flags, "--host", "127.0.0.1"], env), 1, port);
    }
  });
});
