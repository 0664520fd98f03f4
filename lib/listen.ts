/*
 * Listening on a port, and what to do if that fails.
 */
import { once } from "node:events";
import type { Server } from "node:http";
import type { Settings } from "./settings.ts";

/** The port without --port, or the next free one if it is in use. */
export const DEFAULT_PORT = 8_080;

/** Listens on the port given, else on the first free one from 8080 on. Returns the port. */
export async function listen(server: Server, { port, host }: Settings): Promise<number> {
  for (let candidate = port ?? DEFAULT_PORT; ; candidate += 1) {
    try {
      await once(server.listen({ port: candidate, host }), "listening");
      break;
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "";
      if (port === undefined && code === "EADDRINUSE") continue;
      const reason = LISTEN_FAILURES[code] ?? `${code}; leave --host out to listen on all of this machine's addresses`;
      throw new Error(`cannot listen on ${host ?? "any address"}, port ${candidate}: ${reason}`, { cause: error });
    }
  }
  // Too many open files: current connections stay, and later ones may find room again.
  server.on("error", () => {});
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

const LISTEN_FAILURES: Record<string, string> = {
  EADDRINUSE: "the port is in use; choose another, or leave --port out to use the next free one",
  EACCES: "ordinary users may not use this port; choose one above 1023",
};
