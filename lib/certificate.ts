/*
 * The files of --tls-cert and --tls-key: read at the start, and again when a renewed certificate has replaced them.
 * Nothing here knows about servers.
 */
import { readFileSync, statSync } from "node:fs";
import { createSecureContext } from "node:tls";
import { messageOf } from "./settings.ts";

type Files = { readonly cert: string; readonly key: string };
export type Certificate = { readonly cert: Buffer; readonly key: Buffer };

/** The content of both files; `known` itself if that has not changed. @throws Error if the files cannot be read or do
 * not fit each other */
export function readCertificate({ cert, key }: Files, known?: Certificate): Certificate {
  try {
    // A pipe gives its content once. Reading it again would wait for a writer and stop the whole server.
    if (known && [cert, key].some((path) => statSync(path).isFIFO())) return known;
    const pair = { cert: readFileSync(cert), key: readFileSync(key) };
    if (known && pair.cert.equals(known.cert) && pair.key.equals(known.key)) return known;
    createSecureContext(pair);
    return pair;
  } catch (error) {
    const reason = messageOf(error);
    throw new Error(`cannot use ${cert} with ${key} (${reason}); check --tls-cert and --tls-key`, { cause: error });
  }
}

/** Returns a function to call regularly. It reads the files and passes a new certificate to `use`. If they are broken
 * twice in a row, it reports one line, and no other until they are right again; once is what a renewal looks like
 * between its two writes. Reading sees every way of replacing a file: a write, a rename, a
 * symbolic link that now leads elsewhere (as certbot does it), a network drive. Watching sees only some. */
export function certificateReader(
  files: Files,
  first: Certificate,
  use: (certificate: Certificate) => void,
  report: (line: string) => void,
): () => void {
  let [current, problem, reported] = [first, "", ""];
  return () => {
    try {
      const found = readCertificate(files, current);
      problem = reported = "";
      if (found !== current) use((current = found));
    } catch (error) {
      const message = messageOf(error);
      const isNews = message === problem && message !== reported;
      problem = message;
      if (!isNews) return;
      reported = message;
      report(`${message}; the certificate read before stays in use`);
    }
  };
}
