// The TLS certificate: its files, and their renewal while chats go on.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { type ConnectionOptions, connect, type TLSSocket } from "node:tls";
import { type Certificate, certificateReader, readCertificate } from "../lib/certificate.ts";
import { selfSigned } from "./lib/certificate.ts";
import { LOCAL, Program, send, sessionOf, temporaryFolder, testInProcess, until, Wire } from "./lib/helpers.ts";

/** Two certificates, and the paths at which the program finds one. */
function prepare(t: TestContext) {
  const folder = temporaryFolder(t);
  const files = { cert: join(folder, "cert.pem"), key: join(folder, "key.pem") };
  const write = (pair: { cert: string; key: string }): void => {
    writeFileSync(files.cert, pair.cert);
    writeFileSync(files.key, pair.key);
  };
  return { folder, files, write, first: selfSigned(), second: selfSigned() };
}

/** Puts a link at a path, or replaces the one there in a single step, as certbot does. */
function link(path: string, target: string): void {
  symlinkSync(target, `${path}.new`);
  renameSync(`${path}.new`, path);
}

test("a certificate that is replaced is read again, whether by writing, renaming or another symbolic link", (t) => {
  const { folder, files, write, first, second } = prepare(t);
  write(first);
  const used: string[] = [];
  const read = certificateReader(
    files,
    readCertificate(files),
    ({ cert }) => used.push(String(cert)),
    (line) => assert.fail(line),
  );
  read();
  assert.deepEqual(used, [], "nothing has changed");
  write(second);
  for (let count = 0; count < 2; count += 1) read();
  assert.deepEqual(used.splice(0), [second.cert]);

  for (const name of ["cert", "key"] as const) {
    writeFileSync(`${files[name]}.new`, first[name]);
    renameSync(`${files[name]}.new`, files[name]);
  }
  read();
  assert.deepEqual(used.splice(0), [first.cert]);

  for (const name of ["cert", "key"] as const) {
    writeFileSync(join(folder, `${name}2.pem`), second[name]);
    link(files[name], `${name}2.pem`);
  }
  read();
  assert.deepEqual(used, [second.cert]);
});

test("broken files are reported once, the old certificate stays in use, and repaired files are used", (t) => {
  const { files, write, first, second } = prepare(t);
  write(first);
  const [used, lines]: [Certificate[], string[]] = [[], []];
  const read = certificateReader(
    files,
    readCertificate(files),
    (pair) => used.push(pair),
    (line) => lines.push(line),
  );
  const readOften = (): string[] => {
    for (let reading = 0; reading < 4; reading += 1) read();
    return lines.splice(0);
  };
  const assertOneLine = (pattern: RegExp): void => {
    const [line = "", ...more] = readOften();
    assert.match(line, pattern);
    assert.match(line, /cert\.pem with .*key\.pem .*; check --tls-cert and --tls-key; .* stays in use$/);
    assert.deepEqual([more, used], [[], []]);
  };
  writeFileSync(files.cert, second.cert);
  assertOneLine(/mismatch/);
  writeFileSync(files.cert, "");
  assertOneLine(/./);
  rmSync(files.key);
  assertOneLine(/ENOENT/);
  write(first);
  assert.deepEqual([readOften(), used], [[], []], "the certificate in use is back");
  rmSync(files.key);
  assertOneLine(/ENOENT/);
  write(second);
  assert.deepEqual([readOften(), used.map(({ cert }) => String(cert))], [[], [second.cert]]);
});

test("a reading between the two writes of a renewal reports nothing", (t) => {
  const { files, write, first, second } = prepare(t);
  write(first);
  const used: string[] = [];
  const read = certificateReader(
    files,
    readCertificate(files),
    ({ cert }) => used.push(String(cert)),
    (line) => assert.fail(line),
  );
  for (const pair of [second, first]) {
    writeFileSync(files.cert, pair.cert);
    read();
    writeFileSync(files.key, pair.key);
    read();
  }
  assert.deepEqual(used, [second.cert, first.cert]);
});

test("a key that comes through a pipe is read once, as a second reading would wait for a writer", (t) => {
  const { folder, files, write, first, second } = prepare(t);
  const piped = { cert: files.cert, key: join(folder, "pipe") };
  execFileSync("mkfifo", [piped.key]);
  const offer = (pair: { cert: string; key: string }): void => {
    write(pair);
    spawn("sh", ["-c", 'cat "$1" >"$2"', "sh", files.key, piped.key]);
  };
  offer(first);
  const known = readCertificate(piped);
  assert.equal(String(known.key), first.key);
  offer(second);
  assert.equal(readCertificate(piped, known), known);
  assert.equal(readFileSync(piped.key, "utf8"), second.key, "nobody has read the pipe");
});

/** Makes the program's timers of ten seconds fire every 20 ms. */
const HASTE = `data:text/javascript,${encodeURIComponent(`
  const { setInterval } = globalThis;
  globalThis.setInterval = (run, ms) => setInterval(run, ms === 10_000 ? 20 : ms);
`)}`;

async function connectTls(t: TestContext, port: number, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = connect({ port, host: "127.0.0.1", rejectUnauthorized: false, ...options });
  t.after(() => socket.destroy());
  await once(socket, "secureConnect");
  return socket;
}

async function servedCertificate(t: TestContext, port: number): Promise<string> {
  const socket = await connectTls(t, port);
  socket.end();
  return socket.getPeerX509Certificate()?.toString() ?? "";
}

testInProcess("a renewed certificate is served without ending chats, and a broken one is not", async (t) => {
  const { files, write, first, second } = prepare(t);
  write(first);
  const flags = [...LOCAL, "--tls-cert", files.cert, "--tls-key", files.key];
  const program = await Program.start(t, flags, { NODE_OPTIONS: `--import=${HASTE}` });
  const { stdout, port } = program;
  const serves = async ({ cert }: { cert: string }): Promise<boolean> => (await servedCertificate(t, port)) === cert;
  assert.ok(await serves(first));
  const target = { port, tls: true };
  const session = sessionOf(await send(target, "POST", "/create"));
  const token = session.session_token;
  const stream = new Wire(await connectTls(t, port));
  const headers = `Host: localhost\r\nAuthorization: Bearer ${token}\r\nAccept: application/x-ndjson`;
  stream.write(`GET /${session.chat_id}?since=latest HTTP/1.1\r\n${headers}\r\n\r\n`);
  await stream.waitFor(/"members"/);

  write(second);
  await until(() => serves(second), "the second certificate");
  await send(target, "POST", `/${session.chat_id}`, { token, body: { text: "still here" } });
  await stream.waitFor(/still here/);
  // The cipher suites are still those with forward secrecy and authenticated encryption.
  const weak = { maxVersion: "TLSv1.2", ciphers: "ECDHE-ECDSA-AES128-SHA256" } as const;
  await assert.rejects(connectTls(t, port, weak), /handshake failure/);

  writeFileSync(files.key, "nonsense");
  await until(() => program.stderr.includes("\n"), "a line about the broken key");
  assert.ok(await serves(second));
  write(first);
  await until(() => serves(first), "the first certificate again");
  assert.equal(stream.isClosed, false);

  const ended = await program.stop();
  assert.deepEqual([ended.code, ended.stdout], [0, stdout]);
  assert.match(ended.stderr, /^watch-party: cannot use \S+cert\.pem with [^\n]* stays in use\n$/);
});
