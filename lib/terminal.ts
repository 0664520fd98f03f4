/*
 * The terminal: what the program prints at its start, and the key it waits for after a failed one. Nothing here knows
 * about chats or requests.
 */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import assets from "../dist/assets.json" with { type: "json" };
import {
  addressUrl,
  isLoopback,
  type LanAddress,
  listeningAddresses,
  PRIVATE,
  UNSPECIFIED_ADDRESS,
} from "./addresses.ts";
import { DEFAULT_PORT } from "./listen.ts";
import { drawQr } from "./qr.ts";
import type { Settings } from "./settings.ts";

/** The values of docs/banner.txt, the text printed at start for people, phones and scripts. */
export function bannerValues(settings: Settings, port: number, lan: LanAddress[]): Record<string, string> {
  const places = listPlaces(settings, port, lan);
  const first = places[0]?.url ?? "";
  const { hostname } = new URL(first);
  const width = Math.max(...places.map(({ url }) => url.length));
  const { isTTY, columns } = process.stdout;
  const bold = (text: string): string => (isTTY && !process.env["NO_COLOR"] ? `\x1b[1m${text}\x1b[0m` : text);
  // Wi-Fi is no concern of a server on loopback alone, nor of a public one.
  const isForPhones = !isLoopback(hostname) && (settings.url === undefined || PRIVATE.test(hostname));
  const isMoved = settings.port === undefined && port !== DEFAULT_PORT;
  return {
    version: assets.version,
    addresses: places.map(({ url, label }) => `  ${bold(url.padEnd(width))}  ${label}\n`).join(""),
    moved: isMoved ? `Port ${DEFAULT_PORT} is in use, so this is port ${port}.\n` : "",
    qr: isTTY && !isLoopback(hostname) ? terminalQr(first, columns) : "",
    hint: isForPhones ? assets.bannerHint : "",
    first,
  };
}

/** Every URL that opens the server, the best to share first. */
function listPlaces(settings: Settings, port: number, lan: LanAddress[]): { url: string; label: string }[] {
  const { url, files, host = "::" } = settings;
  const found = UNSPECIFIED_ADDRESS.test(host)
    ? [...listeningAddresses(lan, host), { address: "localhost", name: "" }]
    : [{ address: host, name: "as given by --host" }];
  const places = found.map(({ address, name }) => ({
    url: addressUrl(files ? "https" : "http", address, port),
    label: isLoopback(address) ? "this computer only" : name,
  }));
  return url === undefined ? places : [{ url, label: "as given by --url" }, ...places];
}

/** A QR code with a caption; "" if the terminal is too narrow. */
function terminalQr(url: string, columns: number): string {
  const rows = drawQr(url).split("\n");
  if (columns < (rows[0]?.length ?? 0)) return "";
  // Light on dark in any terminal's colours. Without colours, assume that the terminal is dark.
  const shown = rows.map((row) => (process.env["NO_COLOR"] ? row : `\x1b[97;40m${row}\x1b[0m`));
  return `${shown.join("\n")}\nScan this to open ${url} on a phone.\n\n`;
}

/** A double click on Windows opens a console that closes with the program and takes the error with it. So a failed
 * start waits for a key, a minute at most. `main` skips this if there are flags or a prompt (cmd), because that console
 * stays. */
export async function waitForKey(): Promise<void> {
  const { platform, stdin, stderr } = process;
  if (platform !== "win32" || !stdin.isTTY || !stderr.isTTY) return;
  stderr.write("Press any key to close this window.\n");
  stdin.setRawMode(true);
  await Promise.race([once(stdin, "data"), sleep(60_000)]);
  process.exit();
}
