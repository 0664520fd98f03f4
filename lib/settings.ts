/*
 * The settings, from flags and environment variables. Every value is checked here, once. Nothing here
 * knows what the values are for.
 */
import { parseArgs } from "node:util";

export const NODE_NAME_LENGTH = 16;

const SWITCH = { type: "boolean", pattern: /^(?:1|0|true|false)$/, needs: "1, true, 0 or false" } as const;

/** The valid values of each flag. docs/usage.txt, the text of --help, explains the flags. */
export const FLAGS = {
  port: { type: "string", pattern: /^[0-9]{1,5}$/, needs: "a number from 0 to 65535" },
  host: { type: "string", pattern: /^[^\s/]+$/, needs: "an address of this machine, such as 127.0.0.1" },
  url: { type: "string", pattern: /^https?:\/\/[^\s/?#@]+\/?$/i, needs: "a scheme, as in https://chat.example.org" },
  "tls-cert": { type: "string", pattern: /./, needs: "the path of a file" },
  "tls-key": { type: "string", pattern: /./, needs: "the path of a file" },
  "trust-proxy": SWITCH,
  "max-chats": { type: "string", pattern: /^[1-9][0-9]{0,8}$/, needs: "a number from 1 to 999999999" },
  "no-rate-limit": SWITCH,
  node: { type: "string", pattern: /^[a-z0-9]{1,16}$/, needs: `1 to ${NODE_NAME_LENGTH} lowercase letters or digits` },
  metrics: SWITCH,
  verbose: SWITCH,
  version: SWITCH,
  help: { ...SWITCH, short: "h" },
} as const;

type FlagName = keyof typeof FLAGS;
export type Settings = ReturnType<typeof readSettings>;

/** @throws Error for an unknown flag, a missing value or a stray argument */
export function readFlags(args: string[]): Partial<Record<FlagName, string | boolean>> {
  try {
    return parseArgs({ args, options: FLAGS }).values;
  } catch (error) {
    // Node's first sentence names the flag; the rest is about features that this program does not use.
    const sentence = messageOf(error).split(/\. |\.?\n/, 1)[0] ?? "";
    const [, name = ""] = /'(?:-\w, )?--([\w-]+)[^']*' argument/.exec(sentence) ?? [];
    const flag = Object.entries(FLAGS).find(([each]) => each === name)?.[1];
    throw new Error(flag ? `--${name} needs ${flag.needs}` : sentence, { cause: error });
  }
}

/** Settings from flags and environment. A flag beats a variable; an empty variable is not set. @throws Error for a bad value */
export function readSettings(flags: ReturnType<typeof readFlags>, env: NodeJS.ProcessEnv) {
  const read = (name: FlagName): string | undefined => readSetting(name, flags[name]?.toString(), env);
  const isOn = (name: FlagName): boolean => /^(?:1|true)$/.test(read(name) ?? "");
  const toNumber = (name: FlagName) => (read(name) === undefined ? undefined : Number(read(name)));
  const [cert, key] = [read("tls-cert"), read("tls-key")];
  if ((cert === undefined) !== (key === undefined)) throw new Error("--tls-cert and --tls-key need each other");
  return {
    port: toNumber("port"),
    host: read("host"),
    url: URL.parse(read("url") ?? "")?.origin,
    files: cert === undefined || key === undefined ? undefined : { cert, key },
    trustProxy: isOn("trust-proxy"),
    maxChats: toNumber("max-chats"),
    rateLimit: !isOn("no-rate-limit"),
    node: read("node"),
    metrics: isOn("metrics"),
    verbose: isOn("verbose"),
  };
}

/** The value of a flag or else of its variable: WATCH_PARTY_ and its name; for the port also PORT, as hosts set it. */
function readSetting(name: FlagName, given: string | undefined, env: NodeJS.ProcessEnv): string | undefined {
  const own = `WATCH_PARTY_${name.toUpperCase().replaceAll("-", "_")}`;
  const variable = [own, name === "port" ? "PORT" : own].find((each) => env[each]) ?? "";
  const value = given ?? env[variable];
  if (value === undefined) return undefined;
  const isInvalid = (name === "port" && Number(value) > 65_535) || (name === "url" && !URL.canParse(value));
  const { pattern, needs } = FLAGS[name];
  if (pattern.test(value) && !isInvalid) return value;
  throw new Error(`${given === undefined ? variable : `--${name}`} needs ${needs}, not "${value}"`);
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
