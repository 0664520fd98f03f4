// Writes and reads archives whose bytes depend only on their files: the same source gives the same archives.

import { promisify } from "node:util";
import { zip } from "fflate";
import { gzip } from "libdeflate";

/** The date of every file: the first one that a zip can hold. */
const DATE = new Date(1980, 0, 1);

/**
 * Compresses with libdeflate, 6 % better than zlib, at the level from which on it hardly gets smaller. The output of
 * node:zlib would depend on its version and on the processor.
 * @returns {Uint8Array}
 */
export function makeGzip(bytes) {
  return gzip(bytes, 10);
}

/** A zip of [bytes, mode] by name. 3 is Unix, with the mode in the upper bits. */
export function makeZip(files) {
  const entries = Object.entries(files).map(([name, [bytes, mode]]) => {
    const attrs = ((0o100000 | mode) << 16) >>> 0;
    return [name, [bytes, { level: 9, mtime: DATE, os: 3, attrs }]];
  });
  return promisify(zip)(Object.fromEntries(entries));
}

/** A tar archive (POSIX.1-1988, ustar) of [bytes, mode] by name. A name that ends in a slash is a folder. */
export function makeTar(files) {
  const blocks = Object.entries(files).flatMap(([name, [bytes, mode]]) => {
    const header = Buffer.alloc(512);
    const octal = (value, at, length) => header.write(value.toString(8).padStart(length - 1, "0"), at);
    if (name.length > 100) throw new Error(`The name ${name} is too long for a tar archive.`);
    header.write(name, 0);
    octal(mode, 100, 8);
    octal(0, 108, 8);
    octal(0, 116, 8);
    octal(bytes.length, 124, 12);
    octal(Date.UTC(1980, 0, 1) / 1000, 136, 12);
    header.write(name.endsWith("/") ? "5" : "0", 156);
    header.write("ustar\x0000", 257, "latin1");
    header.write("root", 265);
    header.write("root", 297);
    // The sum of the header's bytes, with the sum's own bytes counted as spaces.
    header.fill(" ", 148, 156);
    const sum = header.reduce((total, byte) => total + byte);
    header.write(`${sum.toString(8).padStart(6, "0")}\0`, 148);
    return [header, bytes, Buffer.alloc(-bytes.length & 511)];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

/** The bytes of one file in a tar archive. */
export function extractFile(tar, wanted) {
  for (let at = 0; at < tar.length;) {
    const [name] = tar.toString("latin1", at, at + 100).split("\0");
    const size = Number.parseInt(tar.toString("latin1", at + 124, at + 136), 8) || 0;
    if (name === wanted) return tar.subarray(at + 512, at + 512 + size);
    at += 512 + Math.ceil(size / 512) * 512;
  }
  throw new Error(`The archive has no ${wanted}.`);
}

/** An ar archive of bytes by name, the outer form of a Debian package (deb(5)). */
export function makeAr(members) {
  const parts = Object.entries(members).flatMap(([name, bytes]) => {
    const fields = [name.padEnd(16), "0".padEnd(12), "0".padEnd(6), "0".padEnd(6), "100644".padEnd(8)];
    const header = `${fields.join("")}${String(bytes.length).padEnd(10)}\`\n`;
    return [Buffer.from(header), bytes, Buffer.alloc(bytes.length & 1, "\n")];
  });
  return Buffer.concat([Buffer.from("!<arch>\n"), ...parts]);
}
