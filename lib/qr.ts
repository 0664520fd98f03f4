/*
 * QR codes as text, for terminals and for the page. Drawing them here keeps the encoder, a tenth of the page, out of it.
 */
import { generate } from "lean-qr/nano";

/** The quiet zone around a code, in modules (ISO/IEC 18004, section 5.3.8). */
const MARGIN = 4;

/** A QR code with its quiet zone, in half blocks: one character is two modules, one above the other. Light modules are
 * drawn and dark ones left out, so a camera reads the code in light text on a dark background. */
export function drawQr(text: string): string {
  const code = generate(text);
  const lines: string[] = [];
  for (let y = -MARGIN; y < code.size + MARGIN; y += 2) {
    let line = "";
    for (let x = -MARGIN; x < code.size + MARGIN; x += 1) {
      line += " ▀▄█"[(code.get(x, y) ? 0 : 1) + (code.get(x, y + 1) ? 0 : 2)];
    }
    lines.push(line);
  }
  return lines.join("\n");
}
