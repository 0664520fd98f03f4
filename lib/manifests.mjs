// The manifests with which package managers install a release: a Homebrew formula, a Scoop manifest, and the three
// files of a winget manifest. Versions and texts come from package.json, checksums from the release's SHA256SUMS.
//
//   node lib/manifests.mjs RELEASE FOLDER    reads RELEASE/SHA256SUMS and writes the manifests into FOLDER

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

/** Stands for the repository while nothing names it. The manifests are then complete except for this address. */
const PLACEHOLDER = "https://github.com/OWNER/watch-party";

/** The version of winget's manifest format. It knows portable programs inside a zip. */
const WINGET_FORMAT = "1.6.0";

/** Publisher and program, as winget identifies them. */
const WINGET_ID = "WatchPartyAuthors.WatchParty";

/**
 * The address of the repository on GitHub: `repository` in package.json, else the variable WATCH_PARTY_REPOSITORY,
 * which the release workflow sets, else a placeholder.
 */
export function findRepository({ repository }, env = process.env) {
  const named = repository?.url ?? repository ?? env.WATCH_PARTY_REPOSITORY;
  if (!named) return { url: PLACEHOLDER, isPlaceholder: true };
  const url = named
    .replace(/^git\+/, "")
    .replace(/^(?:ssh:\/\/git@|git:\/\/)/, "https://")
    .replace(/^(?:github:)?(?=[\w-]+\/[\w.-]+$)/, "https://github.com/")
    .replace(/\.git$/, "");
  if (!/^https:\/\/[^/]+\/[^/]+\/[^/]+$/.test(url)) throw new Error(`${named} is not the address of a repository.`);
  return { url, isPlaceholder: false };
}

/** The text of each manifest by its file name. `sums` is the text of SHA256SUMS. */
export function makeManifests(packageJson, sums, repository) {
  const { version, homepage = repository } = packageJson;
  const release = (name) => {
    const sum = new RegExp(`^([0-9a-f]{64})  ${name.replaceAll(".", "\\.")}$`, "m").exec(sums)?.[1];
    if (!sum) throw new Error(`SHA256SUMS does not list ${name}.`);
    return { url: `${repository}/releases/download/v${version}/${name}`, sum };
  };
  const facts = { ...packageJson, homepage, repository, release };
  return {
    "watch-party.rb": makeFormula(facts),
    "watch-party.json": makeScoopManifest(facts),
    ...makeWingetManifests(facts),
  };
}

/**
 * Homebrew runs the script with its own Node. So one formula serves every Mac and Linux, nothing needs to be signed,
 * and a new Node arrives with `brew upgrade`.
 */
function makeFormula({ version, description, homepage, license, release }) {
  const script = release(`watch-party-${version}.cjs`);
  return `class WatchParty < Formula
  desc "${description.replace(/^An? (.)/, (_match, first) => first.toUpperCase()).replace(/\.$/, "")}"
  homepage "${homepage}"
  url "${script.url}"
  version "${version}"
  sha256 "${script.sum}"
  license "${license}"

  depends_on "node"

  def install
    libexec.install "watch-party-#{version}.cjs" => "watch-party.cjs"
    # Homebrew's Node, because the first one in PATH may be older.
    (bin/"watch-party").write <<~SH
      #!/bin/sh
      exec "#{Formula["node"].opt_bin}/node" "#{libexec}/watch-party.cjs" "$@"
    SH
  end

  service do
    run opt_bin/"watch-party"
    environment_variables WATCH_PARTY_PORT: "8080"
    keep_alive crashed: true
  end

  test do
    assert_match "watch-party #{version} ", shell_output("#{bin}/watch-party --version")
  end
end
`;
}

function makeScoopManifest({ version, description, homepage, license, repository, release }) {
  const archive = release(`watch-party-${version}-windows-x64.zip`);
  const manifest = {
    version,
    description,
    homepage,
    license,
    architecture: { "64bit": { url: archive.url, hash: archive.sum } },
    extract_dir: `watch-party-${version}`,
    bin: "watch-party.exe",
    checkver: { github: repository },
    autoupdate: {
      architecture: { "64bit": { url: archive.url.replaceAll(version, "$version") } },
      extract_dir: "watch-party-$version",
      hash: { url: "$baseurl/SHA256SUMS" },
    },
  };
  return `${JSON.stringify(manifest, undefined, 4)}\n`;
}

/** The program inside the zip as a portable program, which winget links into its own folder in PATH. */
function makeWingetManifests({ version, description, keywords, homepage, license, author, repository, release }) {
  const archive = release(`watch-party-${version}-windows-x64.zip`);
  const make = (type, fields) => {
    const common = { PackageIdentifier: WINGET_ID, PackageVersion: version };
    const manifest = { ...common, ...fields, ManifestType: type, ManifestVersion: WINGET_FORMAT };
    const schema = `https://aka.ms/winget-manifest.${type}.${WINGET_FORMAT}.schema.json`;
    return `# yaml-language-server: $schema=${schema}\n\n${toYaml(manifest)}`;
  };
  return {
    [`${WINGET_ID}.yaml`]: make("version", { DefaultLocale: "en-US" }),
    [`${WINGET_ID}.installer.yaml`]: make("installer", {
      InstallerType: "zip",
      NestedInstallerType: "portable",
      NestedInstallerFiles: [
        { RelativeFilePath: `watch-party-${version}\\watch-party.exe`, PortableCommandAlias: "watch-party" },
      ],
      Installers: [{ Architecture: "x64", InstallerUrl: archive.url, InstallerSha256: archive.sum.toUpperCase() }],
    }),
    [`${WINGET_ID}.locale.en-US.yaml`]: make("defaultLocale", {
      PackageLocale: "en-US",
      Publisher: author.replace(/ *<.*/, ""),
      PublisherUrl: repository,
      PackageName: "Watch Party",
      PackageUrl: homepage,
      License: license,
      LicenseUrl: `${repository}/blob/v${version}/LICENSE`,
      ShortDescription: description,
      Moniker: "watch-party",
      Tags: keywords,
      ReleaseNotesUrl: `${repository}/releases/tag/v${version}`,
    }),
  };
}

/** An object of strings, and of lists of strings or of such objects, as YAML. A string in JSON is one in YAML too. */
function toYaml(fields, indent = "") {
  const lines = Object.entries(fields).map(([name, value]) => {
    if (!Array.isArray(value)) return `${indent}${name}: ${JSON.stringify(value)}\n`;
    const items = value.map((item) => {
      if (typeof item === "string") return `${indent}  - ${JSON.stringify(item)}\n`;
      return toYaml(item, `${indent}    `).replace(/^ {4}/, "  - ");
    });
    return `${indent}${name}:\n${items.join("")}`;
  });
  return lines.join("");
}

/** Writes the manifests of the release in one folder into another, and reports if they contain the placeholder. */
export function writeManifests(release, folder) {
  const packageJson = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  const { url, isPlaceholder } = findRepository(packageJson);
  if (isPlaceholder) {
    console.log(
      `The manifests contain the placeholder ${url}. Set "repository" in package.json or WATCH_PARTY_REPOSITORY.`,
    );
  }
  mkdirSync(folder, { recursive: true });
  const manifests = makeManifests(packageJson, readFileSync(`${release}/SHA256SUMS`, "utf8"), url);
  for (const [name, text] of Object.entries(manifests)) writeFileSync(`${folder}/${name}`, text);
}

if (import.meta.main) writeManifests(process.argv[2], process.argv[3]);
