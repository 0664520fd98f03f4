// The packages of a release for npm and Debian, and the manifests for Homebrew, Scoop and winget.

import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import packageJson from "../../package.json" with { type: "json" };
import { at, record, send, temporaryFolder } from "../lib/helpers.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const DIST = `${ROOT}dist/`;
const { version, author } = packageJson;
const NAME = `watch-party-${version}`;
const TARBALL = `${DIST}${NAME}.tgz`;

function read(file: string): string {
  return readFileSync(file, "utf8");
}

function runIn(folder: string, command: string, ...parameters: string[]): string {
  return execFileSync(command, parameters, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** The checksum of a file of the release. */
function sumOf(name: string): string {
  const line = read(`${DIST}SHA256SUMS`)
    .split("\n")
    .find((each) => each.endsWith(`  ${name}`));
  assert.ok(line !== undefined, name);
  return line.slice(0, 64);
}

// ---- npm -------------------------------------------------------------------------------------------------

const PACKED = ["LICENSE", "README.md", "THIRD-PARTY-LICENSES.txt", "package.json", "watch-party.cjs"];

test("the package for npm contains the script, its licences and the README, whether npm or the build packs it", () => {
  const listed = runIn(ROOT, "tar", "-tzf", TARBALL).trimEnd().split("\n");
  assert.deepEqual(listed.map((name) => name.replace(/^package\//, "")).toSorted(), PACKED);
  const packed: unknown = JSON.parse(runIn(ROOT, "npm", "pack", "./dist/npm", "--dry-run", "--json", "--offline"));
  assert.ok(Array.isArray(packed));
  const files: unknown = record(packed[0])["files"];
  assert.ok(Array.isArray(files));
  assert.deepEqual(files.map((file) => String(record(file)["path"])).toSorted(), PACKED);
});

test("the package for npm has no dependencies and no scripts, and can be published", () => {
  const manifest = record(JSON.parse(runIn(ROOT, "tar", "-xzOf", TARBALL, "package/package.json")));
  assert.deepEqual(
    Object.keys(manifest).filter((key) => /dependencies|scripts|private/i.test(key)),
    [],
  );
  assert.deepEqual([manifest["name"], manifest["version"]], ["watch-party", version]);
  assert.deepEqual(manifest["bin"], { "watch-party": "watch-party.cjs" });
  assert.deepEqual(manifest["engines"], { node: ">=24" });
});

test("the package for npm installs into an empty folder without a network, and its command serves a chat", async (t) => {
  const folder = temporaryFolder(t);
  runIn(folder, "npm", "install", "--offline", "--no-audit", "--no-fund", TARBALL);
  assert.deepEqual(
    readdirSync(`${folder}/node_modules`).filter((name) => !name.startsWith(".")),
    ["watch-party"],
  );
  const expected = `watch-party ${version} (Node ${process.versions.node})\n`;
  assert.equal(runIn(folder, "node_modules/.bin/watch-party", "--version"), expected);
  assert.equal(runIn(folder, "npx", "--offline", "watch-party", "--version"), expected);

  const program = spawn("node_modules/.bin/watch-party", ["--host", "127.0.0.1", "--port", "0"], {
    cwd: folder,
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => program.kill());
  const target = { port: await portOf(program) };
  assert.equal((await send(target, "POST", "/create", { body: { username: "Ana" } })).status, 201);
});

/** The port in the first address that the program prints. */
async function portOf(program: ChildProcess): Promise<number> {
  assert.ok(program.stdout);
  let printed = "";
  program.stdout.setEncoding("utf8").on("data", (part: string) => (printed += part));
  while (!/curl[^\n]*\n/.test(printed)) await once(program.stdout, "data");
  return Number(/127\.0\.0\.1:(\d+)/.exec(printed)?.[1]);
}

test("npm pack in the source says where the package is", () => {
  const { status, stdout, stderr } = spawnSync("npm", ["pack", "--dry-run", "--offline"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.notEqual(status, 0);
  assert.match(stdout + stderr, /The package for npm is the folder dist\/npm/);
});

// ---- Debian ----------------------------------------------------------------------------------------------

for (const [platform, architecture] of [
  ["linux-x64", "amd64"],
  ["linux-arm64", "arm64"],
]) {
  test(`the Debian package for ${architecture} contains the executable, the units, a man page and the documents`, (t) => {
    const deb = `${DIST}${NAME}-${platform}.deb`;
    const folder = temporaryFolder(t);
    runIn(folder, "dpkg-deb", "--raw-extract", deb, "files");
    runIn(`${folder}/files`, "md5sum", "--check", "--strict", "--quiet", "DEBIAN/md5sums");
    const listed = runIn(`${folder}/files`, "find", "usr", "-type", "f").trimEnd().split("\n");
    const summed = read(`${folder}/files/DEBIAN/md5sums`).trimEnd().split("\n");
    assert.deepEqual(summed.map((line) => line.slice(34)).toSorted(), listed.toSorted());

    const control = runIn(folder, "dpkg-deb", "--field", deb, "Architecture", "Version");
    assert.equal(control, `Architecture: ${architecture}\nVersion: ${version}-1\n`);
    const executable = readFileSync(`${folder}/files/usr/bin/watch-party`);
    assert.ok(executable.equals(readFileSync(`${DIST}${NAME}-${platform}`)));
    assert.ok(listed.includes("usr/share/man/man1/watch-party.1.gz"));
    for (const name of ["README.md", "docs/hosting.md", "examples/bot.sh", "deploy/nginx.conf"]) {
      assert.equal(read(`${folder}/files/usr/share/doc/watch-party/${name}`), read(`${ROOT}${name}`));
    }
    for (const name of ["watch-party.service", "watch-party@.service"]) {
      const unit = read(`${folder}/files/usr/lib/systemd/system/${name}`);
      assert.match(unit, /^\[Unit\]\nDescription=.*\nDocumentation=man:watch-party\(1\)\n/);
      assert.match(unit, /^ExecStart=\/usr\/bin\/watch-party( --node %i)?$/m);
      assert.ok(!unit.includes("/usr/local"), name);
      const others = unit.split("\n").filter((line) => !/^(ExecStart|Documentation)=/.test(line));
      const original = read(`${ROOT}deploy/${name}`).split("\n");
      assert.deepEqual(
        others.filter((line) => !original.includes(line)),
        [],
      );
    }
  });
}

test("lintian has no remark about the Debian package besides those that its overrides explain", () => {
  const flags = ["--display-info", "--pedantic", "--show-overrides", "--allow-root", "--fail-on=none"];
  const { status, stdout, stderr } = spawnSync("lintian", [...flags, `${DIST}${NAME}-linux-x64.deb`], {
    encoding: "utf8",
  });
  assert.equal(status, 0, stdout + stderr);
  const lines = stdout.split("\n").filter((line) => line !== "" && !line.startsWith("N:"));
  assert.ok(lines.length > 0, "lintian has not reported the remarks that are overridden");
  assert.deepEqual(
    lines.filter((line) => !line.startsWith("O: ")),
    [],
  );
});

// ---- Manifests -------------------------------------------------------------------------------------------

const ZIP = `${NAME}-windows-x64.zip`;

test("Ruby can parse the Homebrew formula, which installs the script with its checksum", () => {
  const file = `${DIST}manifests/watch-party.rb`;
  assert.equal(runIn(DIST, "ruby", "-c", file), "Syntax OK\n");
  const formula = read(file);
  assert.match(formula, /^class WatchParty < Formula$/m);
  assert.ok(formula.includes(`/releases/download/v${version}/${NAME}.cjs"\n`));
  assert.ok(formula.includes(`  sha256 "${sumOf(`${NAME}.cjs`)}"\n`));
  // Homebrew's rules: at most 80 characters, without an article, the program's name and a full stop.
  const [, summary = ""] = /^ {2}desc "(.*)"$/m.exec(formula) ?? [];
  assert.match(summary, /^(?!An? |The |Watch)[A-Z].{10,78}[^.]$/);
});

test("the formula installs a command that passes its arguments on to Homebrew's Node", (t) => {
  // Runs the formula's install and test with stand-ins for the parts of Homebrew that it uses.
  const stub = `
    require "pathname"; require "fileutils"
    class Pathname
      def install(files) = files.each { |from, to| FileUtils.mkpath(self); FileUtils.cp(from, self + to) }
      def write(text) = (FileUtils.mkpath(dirname); File.write(to_s, text); chmod(0755))
    end
    class Formula
      def self.method_missing(name, *values) = define_method(name) { values.first }
      def self.[](name) = Struct.new(:opt_bin).new(File.dirname(ARGV[1]))
      def self.service = nil
      def self.test(&block) = define_method(:check, &block)
      def bin = Pathname.new(ARGV[2]) + "bin"
      def libexec = Pathname.new(ARGV[2]) + "libexec"
      def shell_output(command) = \`#{command}\`
      def assert_match(text, output) = (output.include?(text) or abort(output))
    end
    load ARGV[0]
    formula = WatchParty.new
    Dir.chdir(ARGV[3]) { formula.install }
    formula.check
    print formula.shell_output("#{formula.bin}/watch-party --port nowhere 2>&1")`;
  const folder = temporaryFolder(t);
  const parameters = ["-e", stub, `${DIST}manifests/watch-party.rb`, process.execPath, folder, DIST];
  assert.match(runIn(folder, "ruby", ...parameters), /^watch-party: --port needs [^\n]*"nowhere"[^\n]*\n$/);
});

test("the Scoop manifest names the zip, its checksum, and the program inside", () => {
  const manifest = record(JSON.parse(read(`${DIST}manifests/watch-party.json`)));
  // What Scoop requires, and no field that it does not know.
  const known = ["version", "description", "homepage", "license", "architecture", "extract_dir", "bin", "checkver"];
  assert.deepEqual(Object.keys(manifest), [...known, "autoupdate"]);
  const { url, hash } = record(record(manifest["architecture"])["64bit"]);
  assert.ok(String(url).endsWith(`/releases/download/v${version}/${ZIP}`));
  assert.equal(hash, sumOf(ZIP));
  assert.ok(listZip().includes(`${String(manifest["extract_dir"])}/${String(manifest["bin"])}`));
  const next = record(record(record(manifest["autoupdate"])["architecture"])["64bit"])["url"];
  assert.equal(String(next).replaceAll("$version", version), url);
});

test("the three files of the winget manifest have the fields that winget requires, and name the zip", () => {
  const names = ["", ".installer", ".locale.en-US"].map((part) => `WatchPartyAuthors.WatchParty${part}.yaml`);
  const script = "puts JSON.generate(ARGV.map { |name| YAML.safe_load(File.read(name)) })";
  const parsed: unknown = JSON.parse(runIn(`${DIST}manifests`, "ruby", "-ryaml", "-rjson", "-e", script, ...names));
  assert.ok(Array.isArray(parsed));
  const files = parsed.map(record);
  for (const [index, type] of ["version", "installer", "defaultLocale"].entries()) {
    const { PackageIdentifier, PackageVersion, ManifestType, ManifestVersion } = at(files, index);
    // At most 32 characters on each side of the dot.
    assert.match(String(PackageIdentifier), /^[A-Za-z]{1,32}\.[A-Za-z]{1,32}$/);
    assert.deepEqual([PackageVersion, ManifestType, ManifestVersion], [version, type, "1.6.0"]);
  }
  assert.equal(at(files, 0)["DefaultLocale"], "en-US");

  const { InstallerType, NestedInstallerType, NestedInstallerFiles, Installers } = at(files, 1);
  assert.deepEqual([InstallerType, NestedInstallerType], ["zip", "portable"]);
  assert.ok(Array.isArray(NestedInstallerFiles) && Array.isArray(Installers));
  const { RelativeFilePath, PortableCommandAlias } = record(NestedInstallerFiles[0]);
  assert.equal(PortableCommandAlias, "watch-party");
  assert.ok(listZip().includes(String(RelativeFilePath).replaceAll("\\", "/")));
  const { Architecture, InstallerUrl, InstallerSha256 } = record(Installers[0]);
  assert.equal(Architecture, "x64");
  assert.ok(String(InstallerUrl).endsWith(`/releases/download/v${version}/${ZIP}`));
  assert.equal(InstallerSha256, sumOf(ZIP).toUpperCase());

  const locale = at(files, 2);
  for (const [field, longest] of Object.entries({ Publisher: 256, PackageName: 256, License: 512, Moniker: 40 })) {
    assert.match(String(locale[field]), new RegExp(`^.{2,${longest}}$`), field);
  }
  assert.match(String(locale["ShortDescription"]), /^.{3,256}$/);
  assert.equal(locale["PackageLocale"], "en-US");
  assert.ok(author.startsWith(String(locale["Publisher"])));
  const tags: unknown = locale["Tags"];
  assert.ok(Array.isArray(tags) && tags.length <= 16 && new Set(tags).size === tags.length);
  for (const field of ["PublisherUrl", "PackageUrl", "LicenseUrl", "ReleaseNotesUrl"]) {
    assert.match(String(locale[field]), /^https:\/\/\S+$/, field);
  }
});

function listZip(): string[] {
  return runIn(DIST, "unzip", "-Z1", ZIP).trimEnd().split("\n");
}
