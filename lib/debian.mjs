// Makes a Debian package (deb(5)) with the executable, the systemd units, a man page and the documents.

import { createHash } from "node:crypto";
import { makeAr, makeGzip, makeTar } from "./archives.mjs";

/** Debian's names of the processors. */
const ARCHITECTURES = { "linux-x64": "amd64", "linux-arm64": "arm64" };

/** The remarks of lintian that stay, with the reason for each group. */
const OVERRIDES = `# The executable is Node as the Node project builds it, with the program inside.
watch-party: embedded-library *
watch-party: hardening-no-pie [usr/bin/watch-party]
watch-party: hardening-no-fortify-functions [usr/bin/watch-party]
watch-party: spelling-error-in-binary * [usr/bin/watch-party]
# The copyright file contains the licences of Node's libraries word for word.
watch-party: copyright-file-contains-full-apache-2-license
watch-party: copyright-not-using-common-license-for-gpl
watch-party: old-fsf-address-in-copyright-file
# The package is published with the release, not in Debian.
watch-party: initial-upload-closes-no-bugs *
# The restrictions in the unit need systemd. Without systemd, the program runs from a terminal.
watch-party: package-supports-alternative-init-but-no-init.d-script *
`;

/**
 * @param facts.platform linux-x64 or linux-arm64
 * @param facts.packageJson the contents of package.json
 * @param facts.executable the bytes of the program
 * @param facts.files other files: [bytes, mode] by path, for example "README.md" or "deploy/watch-party.service"
 * @param facts.licences the licences of the libraries in the executable
 * @param facts.usage the text of --help
 * @param facts.date the date of the release, YYYY-MM-DD
 */
export function makeDeb({ platform, packageJson, executable, files, licences, usage, date }) {
  const { LICENSE: license, "CHANGELOG.md": changes, ...documents } = files;
  // The second number counts the packages made from one version of the program.
  const version = `${packageJson.version.replace("-", "~")}-1`;
  // Debian requires an address. This one stands for it until `author` in package.json has one.
  const { author } = packageJson;
  const maintainer = author.includes("<") ? author : `${author} <watch-party@example.org>`;
  const doc = "usr/share/doc/watch-party";

  const content = {
    "usr/bin/watch-party": [executable, 0o755],
    "usr/lib/systemd/system/watch-party.service": toFile(toPackagedUnit(files["deploy/watch-party.service"])),
    "usr/lib/systemd/system/watch-party@.service": toFile(toPackagedUnit(files["deploy/watch-party@.service"])),
    "usr/share/man/man1/watch-party.1.gz": toZippedFile(makeManPage(packageJson, usage)),
    "usr/share/lintian/overrides/watch-party": toFile(OVERRIDES),
    [`${doc}/copyright`]: toFile(license[0], licences),
    [`${doc}/changelog.gz`]: toZippedFile(changes[0]),
    [`${doc}/changelog.Debian.gz`]: toZippedFile(makeChangelog(version, maintainer, date)),
  };
  for (const [name, file] of Object.entries(documents)) content[`${doc}/${name}`] = file;

  const size = Object.values(content).reduce((sum, [bytes]) => sum + Math.ceil(bytes.length / 1024), 0);
  const control = {
    control: toFile(makeControl({ packageJson, platform, version, maintainer, size })),
    md5sums: toFile(
      ...Object.entries(content).map(([name, [bytes]]) => `${createHash("md5").update(bytes).digest("hex")}  ${name}`),
      "",
    ),
    ...MAINTAINER_SCRIPTS,
  };
  return makeAr({
    "debian-binary": Buffer.from("2.0\n"),
    "control.tar.gz": makeGzip(makeTar(withFolders(control))),
    "data.tar.gz": makeGzip(makeTar(withFolders(content))),
  });
}

/** A file with these texts, one below the other. */
function toFile(...texts) {
  return [Buffer.from(texts.join("\n")), 0o644];
}

function toZippedFile(text) {
  return [makeGzip(Buffer.from(text)), 0o644];
}

/** Adds an entry for each folder before its files, and "./" to each name, as dpkg-deb does. */
function withFolders(files) {
  const entries = { "./": [Buffer.alloc(0), 0o755] };
  for (const [name, file] of Object.entries(files).toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const parts = name.split("/");
    for (let depth = 1; depth < parts.length; depth += 1) {
      entries[`./${parts.slice(0, depth).join("/")}/`] = [Buffer.alloc(0), 0o755];
    }
    entries[`./${name}`] = file;
  }
  return entries;
}

function makeControl({ packageJson, platform, version, maintainer, size }) {
  const { description, homepage } = packageJson;
  return `Package: watch-party
Version: ${version}
Architecture: ${ARCHITECTURES[platform]}
Maintainer: ${maintainer}
Installed-Size: ${size}
Depends: libc6 (>= 2.28), libgcc-s1 | libgcc1, libstdc++6 (>= 5)
Section: net
Priority: optional
${homepage ? `Homepage: ${homepage}\n` : ""}Description: ${description.replace(/^An? /, "").replace(/:.*/, "")}
 Watch Party is one program: start it on a laptop, open the address that it
 prints, and share a link or a QR code. It has no accounts, stores nothing,
 works without the internet, and can be scripted with curl.
 .
 The package also has systemd units. They are not enabled.
`;
}

/** A unit of deploy/ with the program's place in a package and its man page, and without the comment about copying it. */
function toPackagedUnit([bytes]) {
  const [, unit] = /^(?:#.*\n)+([^]*)$/.exec(bytes.toString());
  return unit
    .replace("/usr/local/bin/watch-party", "/usr/bin/watch-party")
    .replace(/^Description=.*\n/m, "$&Documentation=man:watch-party(1)\n");
}

/** Debian's own changelog. Its date is that of the release, or for other builds that of the files in the archives. */
function makeChangelog(version, maintainer, date = "1980-01-01") {
  const stamp = new Date(`${date}T12:00:00Z`).toUTCString().replace("GMT", "+0000");
  return `watch-party (${version}) unstable; urgency=medium

  * The changes are in changelog.gz.

 -- ${maintainer}  ${stamp}
`;
}

/** The text of --help as a man page (man(7)). Its lines keep their shape. */
function makeManPage({ version, description }, usage) {
  return `.TH WATCH\\-PARTY 1 "" "Watch Party ${version}" "User Commands"
.SH NAME
watch\\-party \\- ${escapeLine(description.replace(/^An? /, "").replace(/\.$/, ""))}
.SH SYNOPSIS
.B watch\\-party
.RI [ flags ]
.SH DESCRIPTION
.nf
${usage.split("\n").slice(2).map(escapeLine).join("\n").trimEnd()}
.fi
.SH SEE ALSO
The documents in /usr/share/doc/watch\\-party.
`;
}

function escapeLine(line) {
  return line.replaceAll("\\", "\\e").replaceAll("-", "\\-").replace(/^[.']/, "\\&$&");
}

/** The scripts that dpkg runs. They follow what dh_installsystemd writes for units that it neither enables nor starts. */
const MAINTAINER_SCRIPTS = Object.fromEntries(
  Object.entries({
    postinst: `if [ "$1" = configure ]; then
  # Notes which links "systemctl enable" makes, so that purging the package removes them.
  deb-systemd-helper update-state watch-party.service >/dev/null || true
  if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    # After an upgrade, a running service needs the new program. Its chats end.
    [ -z "$2" ] || deb-systemd-invoke try-restart watch-party.service >/dev/null || true
  fi
fi`,
    prerm: `if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  deb-systemd-invoke stop watch-party.service >/dev/null || true
fi`,
    postrm: `if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = purge ] && command -v deb-systemd-helper >/dev/null; then
  deb-systemd-helper purge watch-party.service >/dev/null || true
fi`,
  }).map(([name, body]) => [name, [Buffer.from(`#!/bin/sh\nset -e\n${body}\n`), 0o755]]),
);
