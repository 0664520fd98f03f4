// dist/openapi.json -> docs/api.md, the API for people. `npm run docs` runs this after the build. test/docs.test.ts fails
// if docs/api.md is out of date.

import { readFileSync, writeFileSync } from "node:fs";

interface Schema {
  $ref?: string;
  type?: string | string[];
  const?: unknown;
  description?: string;
  default?: unknown;
  required?: string[];
  properties?: Record<string, Schema>;
  items?: Schema;
  oneOf?: Schema[];
}
interface Media {
  schema: Schema;
  example?: unknown;
  examples?: Record<string, unknown>;
}
interface Parameter {
  name: string;
  in: "path" | "query" | "header";
  description: string;
  schema: Schema;
  example?: unknown;
}
interface Response {
  description: string;
  content?: Record<string, Media>;
}
interface Operation {
  tags: string[];
  summary: string;
  description?: string;
  security: Record<string, unknown>[];
  parameters?: Parameter[];
  requestBody?: { content: Record<string, Media> };
  responses: Record<string, Response>;
}
interface OpenApi {
  info: { title: string; summary: string; description: string };
  tags: { name: string; description: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: Record<string, Record<string, { value: { message: string } }>>;
}

/** An operation with its method and path. */
type Endpoint = Operation & { method: string; path: string };

const METHODS = new Set(["GET", "POST", "DELETE"]);

const SHELL_NAMES = `The shell lines below use these variables:

\`\`\`sh
url=http://localhost:8080
answer=$(curl -s "$url/create" -d '{"username": "Ana"}')
chat=$url/$(echo "$answer" | jq -r .chat_id)
token=$(echo "$answer" | jq -r .session_token)
invite=$(curl -s -X POST "$chat/invite" -H "Authorization: Bearer $token" | jq -r .invite_token)
\`\`\``;

const WINDOWS_LINES = `In PowerShell, \`Invoke-RestMethod\` does the work of curl and jq (not tested on Windows):

\`\`\`powershell
$url = "http://localhost:8080"
$session = Invoke-RestMethod "$url/create" -Method Post -Body '{"username": "Ana"}'
$chat = "$url/$($session.chat_id)"
$headers = @{ Authorization = "Bearer $($session.session_token)" }
$invite = (Invoke-RestMethod "$chat/invite" -Method Post -Headers $headers).invite_token
Invoke-RestMethod $chat -Method Post -Headers $headers -ContentType "text/plain; charset=utf-8" -Body "Hello"
$news = Invoke-RestMethod "\${chat}?since=latest&wait=25" -Headers $headers
\`\`\`

In the Windows command prompt (cmd), curl understands only double quotes. Inside JSON, each needs a backslash. Copy
\`chat_id\` and \`session_token\` from the first reply into the lines that follow it:

\`\`\`bat
set url=http://localhost:8080
curl -s "%url%/create" -d "{\\"username\\": \\"Ana\\"}"
set chat=%url%/CHAT_ID
set token=SESSION_TOKEN
curl -s "%chat%" -H "Authorization: Bearer %token%" -d "{\\"text\\": \\"Hello\\"}"
curl -s "%chat%?since=latest&wait=25" -H "Authorization: Bearer %token%"
\`\`\``;

/** Generates the text of docs/api.md. `json`: the text of dist/openapi.json. */
export function writeApiPage(json: string): string {
  const whole: unknown = JSON.parse(json);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- test/openapi.test.ts validates it against OpenAPI's schema
  const openapi = resolve(whole, whole) as OpenApi;
  const endpoints = Object.entries(openapi.paths).flatMap(([path, item]) =>
    Object.entries(item)
      .map(([method, operation]) => Object.assign(operation, { method: method.toUpperCase(), path }))
      .filter(({ method }) => METHODS.has(method)),
  );
  const general = sharedCodes(endpoints);
  const groups = openapi.tags.map((tag) => ({ ...tag, members: endpoints.filter(({ tags }) => tags[0] === tag.name) }));
  const parts = [
    "<!-- Generated from openapi.json by `npm run docs`. -->",
    `# ${openapi.info.title}: the API`,
    openapi.info.description,
    "## Endpoints",
    table(
      ["endpoint", "what it does", "token"],
      groups.flatMap(({ members }) => members.map((each) => [linkTo(each), each.summary, tokenFor(each)])),
    ),
    SHELL_NAMES,
    WINDOWS_LINES,
    ...groups.flatMap((group) =>
      [`## ${group.name}`, group.description].concat(group.members.flatMap((each) => describe(each, general))),
    ),
    "## Errors",
    "Any request can return these errors:",
    errorTable(openapi, endpoints, (code) => general.has(code)),
    "Each endpoint above lists which of these it can return:",
    errorTable(openapi, endpoints, (code) => !general.has(code)),
  ];
  return `${parts.join("\n\n")}\n`;
}

/** The error codes that every endpoint can return. */
function sharedCodes(endpoints: Endpoint[]): Set<string> {
  const [first = [], ...others] = endpoints.map(({ responses }) => Object.values(responses).flatMap(codesOf));
  return new Set(first.filter((code) => others.every((codes) => codes.includes(code))));
}

function describe(endpoint: Endpoint, general: Set<string>): string[] {
  const { method, path, summary, description = "", parameters = [], requestBody, responses } = endpoint;
  const body = Object.values(requestBody?.content ?? {})[0]?.schema ?? {};
  const input = parameters
    .map(({ name, in: place, schema, description: what }) => [`\`${name}\``, `${place}, ${typeOf(schema)}`, what])
    .concat(fieldRows(body, "").map(([name = "", type = "", what = ""]) => [name, `body, ${type}`, what]));
  const replies = Object.entries(responses).filter(([status]) => status < "400");
  // Beside a 201, a 200 is the reply to a repeated request and looks the same.
  const isRepeat = (status: string): boolean => status === "200" && "201" in responses;
  return [
    `### \`${method} ${path}\``,
    `**${summary}.** ${description}`.trim(),
    `\`\`\`sh\n${shellLines(endpoint).join("\n")}\n\`\`\``,
    table(["parameter", "type", "description"], input),
    ...replies.map(([status, reply]) => describeReply(status, isRepeat(status) ? { ...reply, content: {} } : reply)),
    errorsOf(endpoint, general),
  ].filter((part) => part !== "");
}

/** A successful reply: what it means, then an example and the fields for each content type. */
function describeReply(status: string, { description, content = {} }: Response): string {
  const forms = Object.entries(content).filter(([, { example }]) => example !== undefined);
  return [`**${status}** ${description}`]
    .concat(...forms.map(([type, { schema, example }]) => [fence(type, example), fieldTable(schema)]))
    .filter((part) => part !== "")
    .join("\n\n");
}

function fieldTable(schema: Schema): string {
  return table(["field", "type", "description"], fieldRows(schema, ""));
}

function fence(type: string, example: unknown): string {
  const text = typeof example === "string" ? example.trimEnd() : JSON.stringify(example, undefined, 2);
  const title = type === "application/json" ? "" : `As \`${type}\`:\n\n`;
  return `${title}\`\`\`json\n${text}\n\`\`\``;
}

/** A row for each field of an object. The fields of objects in a list follow the list's row. */
function fieldRows(schema: Schema, prefix: string): string[][] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const optional = schema.required?.includes(name) === false ? ", optional" : "";
    const row = [`\`${prefix}${name}\``, typeOf(field) + optional, field.description ?? ""];
    return [row].concat(fieldRows(field.items ?? {}, `${prefix}${name}[].`));
  });
}

function typeOf({ type, const: only, oneOf, items, default: fallback }: Schema): string {
  const without = fallback === undefined ? "" : `; ${JSON.stringify(fallback)} by default`;
  if (oneOf) return oneOf.map(typeOf).join(" or ") + without;
  if (only !== undefined) return `\`${JSON.stringify(only)}\``;
  if (items) return items.properties ? "list of objects" : `list of ${typeOf(items)}s`;
  return (Array.isArray(type) ? type.join(" or ") : (type ?? "")) + without;
}

/** One curl line for each content type of the request, and one for a stream. */
function shellLines(endpoint: Endpoint): string[] {
  const { method, path, parameters = [], requestBody, responses } = endpoint;
  const queries = parameters.filter((each) => each.in === "query" && each.example !== undefined);
  const target = (some: Parameter[]): string => {
    const address = path
      .replace(/^\/\{chat_id\}/, "$chat")
      .replace(/^\//, "$url/")
      .replace("{member_id}", "2")
      .replace("{node}", "a");
    const query = some.map(({ name, example }) => `${name}=${String(example)}`).join("&");
    return query === "" ? `"${address}"` : `"${address}?${query}"`;
  };
  const [kind] = Object.keys(endpoint.security[0] ?? {});
  const token = kind === undefined ? "" : ` -H "Authorization: Bearer $${kind === "invite" ? "invite" : "token"}"`;
  const bodies = Object.entries(requestBody?.content ?? {}).map(([type, { example }]) =>
    type === "application/json"
      ? ` -d '${JSON.stringify(example).replaceAll('":', '": ')}'`
      : ` -H "Content-Type: ${type}" -d "${String(example)}"`,
  );
  const verb = method === "GET" || bodies.length > 0 ? "" : ` -X ${method}`;
  const lines = (bodies.length > 0 ? bodies : [""]).map((body) => `curl -s${verb} ${target(queries)}${token}${body}`);
  const isStream = "application/x-ndjson" in (responses["200"]?.content ?? {});
  const stream = `curl -sN ${target(queries.slice(0, 1))}${token} -H "Accept: application/x-ndjson"`;
  return isStream ? [...lines, stream] : lines;
}

/** Which token an endpoint needs. */
function tokenFor({ security, responses }: Endpoint): string {
  const kinds = [...new Set(security.flatMap((each) => Object.keys(each)))];
  const isForCreator = codesOf(responses["403"] ?? { description: "" }).includes("not_creator");
  return isForCreator ? "session (creator)" : kinds.join(" or ");
}

function errorsOf({ responses }: Endpoint, general: Set<string>): string {
  const own = Object.entries(responses).flatMap(([status, each]) => {
    const codes = codesOf(each).filter((code) => !general.has(code));
    return codes.length > 0 ? [`${status} ${codes.map((code) => `\`${code}\``).join(", ")}`] : [];
  });
  return own.length > 0 ? `[Errors](#errors): ${own.join("; ")}.` : "";
}

function codesOf({ content }: Response): string[] {
  return Object.keys(content?.["application/json"]?.examples ?? {});
}

function errorTable(openapi: OpenApi, endpoints: Endpoint[], isWanted: (code: string) => boolean): string {
  const statuses = new Map(
    endpoints
      .flatMap(({ responses }) => Object.entries(responses))
      .flatMap(([status, each]) => codesOf(each).map((code) => [code, status] as const)),
  );
  const rows = Object.entries(openapi.components["examples"] ?? {})
    .filter(([code]) => isWanted(code))
    .map(([code, { value }]) => [statuses.get(code) ?? "", `\`${code}\``, value.message]);
  return table(
    ["status", "error", "message"],
    rows.toSorted(([a = ""], [b = ""]) => a.localeCompare(b)),
  );
}

/** A link to an endpoint's heading, by the anchor that GitHub generates. */
function linkTo({ method, path }: Endpoint): string {
  const anchor = `${method} ${path}`
    .toLowerCase()
    .replaceAll(/[^a-z_ -]/g, "")
    .replaceAll(" ", "-");
  return `[\`${method} ${path}\`](#${anchor})`;
}

/** A table, or "" if it has no rows. */
function table(head: string[], rows: string[][]): string {
  if (rows.length === 0) return "";
  return [tableRow(head), `|${"---|".repeat(head.length)}`, ...rows.map(tableRow)].join("\n");
}

function tableRow(cells: string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll("|", "\\|").replaceAll("<", "&lt;")).join(" | ")} |`;
}

/** Replaces each reference, alone or in `allOf`, by its target. Keys next to `allOf` take precedence. */
function resolve(value: unknown, whole: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((each) => resolve(each, whole));
  const { $ref, allOf, ...others }: { $ref?: unknown; allOf?: unknown } = value;
  const own = Object.fromEntries(Object.entries(others).map(([key, each]) => [key, resolve(each, whole)]));
  if (Array.isArray(allOf)) return Object.assign({}, ...allOf.map((each) => resolve(each, whole)), own);
  if (typeof $ref !== "string") return own;
  let target: unknown = whole;
  for (const key of $ref.split("/").slice(1)) {
    target = typeof target === "object" && target !== null ? Reflect.get(target, key) : undefined;
  }
  return resolve(target, whole);
}

if (import.meta.main) {
  const json = readFileSync(new URL("../dist/openapi.json", import.meta.url), "utf8");
  writeFileSync(new URL("api.md", import.meta.url), writeApiPage(json));
}
