// Holds the answers that the tests get to docs/openapi.json: status, headers, content type and body. What it does
// not describe fails the test that asked, so the document is as true as the tests are thorough.

import { readFileSync } from "node:fs";
import type { IncomingHttpHeaders } from "node:http";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import formats from "ajv-formats";

interface Response {
  headers?: Record<string, object>;
  content?: Record<string, object>;
}
interface OpenApi {
  paths: Record<string, Record<string, { operationId?: string; responses: Record<string, object> }>>;
  components: Record<string, Record<string, object>>;
}

const text = readFileSync(new URL("../dist/openapi.json", import.meta.url), "utf8");
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: openapi.test.ts holds it to OpenAPI's schema
export const openapi = JSON.parse(text) as OpenApi;

// A schema beside an allOf need not repeat its type; a misspelt keyword or format is still refused.
const ajv = new Ajv2020({ strictTypes: false });
formats.default(ajv);
ajv.addVocabulary(Object.keys(openapi)); // The document as a whole is no schema, but holds them.
ajv.addSchema(openapi, "openapi.json");

/** What was looked up and compiled before, by its place in the document: a validator takes milliseconds to make. */
const found = new Map<string, { value: object; pointer: string } | undefined>();
const validators = new Map<string, ValidateFunction>();

/** Paths without a variable first, as "/create" could not be told from a chat's otherwise. */
const PATHS = Object.keys(openapi.paths)
  .toSorted((a, b) => a.split("{").length - b.split("{").length)
  .map((path) => {
    const pattern = path.replace("{chat_id}", "[A-Za-z0-9_-]{16,33}").replace("{member_id}", "[^/]*");
    return { path, pattern: new RegExp(path === "/" ? "^/$" : `^${pattern}/?$`) };
  });

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

/** The answer as it came. @throws Error where the document does not describe it */
export async function described<Reply extends Answer>(method: string, target: string, reply: Reply): Promise<Reply> {
  const problem = findProblem(method, target, reply);
  if (problem === undefined) return reply;
  const { status, headers, text: body } = reply;
  const what = `${method} ${target} → ${status} ${headers["content-type"]} ${body.slice(0, 1_000)}`;
  throw new Error(`${what}\ndocs/openapi.json says otherwise: ${problem}`);
}

/** What of an answer the document does not describe; undefined where it describes all. */
export function findProblem(
  method: string,
  target: string,
  { status, headers, text: body }: Answer,
): string | undefined {
  const path = findPath(target);
  const type = headers["content-type"]?.split(";", 1)[0];
  // The page for whoever takes a wrong turn with a browser is no part of the API.
  if (path === undefined && status === 404 && type === "text/html") return undefined;
  if (path !== undefined && method === "OPTIONS" && status === 204) {
    return type === undefined && body === "" && headers.allow !== undefined ? undefined : "OPTIONS answers with Allow";
  }
  const response = lookUp(findResponse(method, path, status));
  if (!response) return "there is no such status";
  const { headers: named = {}, content = {} }: Response = response.value;
  for (const name of Object.keys(named)) {
    const fault = findHeaderFault(`${response.pointer}/headers/${name}`, headers[name.toLowerCase()]);
    if (fault !== undefined) return `${name}: ${fault}`;
  }
  if (Object.keys(content).length === 0) {
    return type === undefined && body === "" ? undefined : "there is no content";
  }
  if (type === undefined || !(type in content)) return "there is no such content type";
  if (method === "HEAD") return body === "" ? undefined : "HEAD has no body";
  if (type === "application/x-ndjson") return findLineFault(body);
  return findFault(
    `${response.pointer}/content/${type.replace("/", "~1")}/schema`,
    type === "application/json" ? JSON.parse(body) : body,
  );
}

/** What of a stream's lines the document does not describe. */
export function findLineFault(lines: string): string | undefined {
  const faults = lines.split("\n").map((line) => {
    return line === "" ? undefined : findFault("#/components/schemas/StreamLine", JSON.parse(line));
  });
  return faults.find((fault) => fault !== undefined);
}

/** The path template that a request's target fits. */
function findPath(target: string): string | undefined {
  const asked = target.replace(/^https?:\/\/[^/?]*/i, "").split("?", 1)[0] || "/";
  return PATHS.find(({ pattern }) => pattern.test(asked))?.path;
}

/** Where the document has the answer of this status to this method of a path. */
function findResponse(method: string, path: string | undefined, status: number): string {
  const verb = method === "HEAD" ? "get" : method.toLowerCase();
  if (path !== undefined && openapi.paths[path]?.[verb]) return pointerTo("paths", path, verb, "responses", status);
  // An unknown path; or one that is there with --metrics only.
  if (status === 404 && (path === undefined || path === "/metrics")) return "#/components/responses/NotFound";
  // What is said of a request before anybody looks at its path, and to a wrong method, is the same for all paths.
  const isPossible = status !== 200 && !(path === undefined && status === 405);
  return pointerTo("paths", "/healthz", "get", "responses", isPossible ? status : "none");
}

function findHeaderFault(pointer: string, value: string | string[] | undefined): string | undefined {
  const header = lookUp(pointer);
  if (!header) return "it is not in the document";
  if (value === undefined) return "required" in header.value && header.value.required === true ? "missing" : undefined;
  return findFault(`${header.pointer}/schema`, /^\d+$/.test(String(value)) ? Number(value) : value);
}

/** What is wrong with a value by the schema at a pointer; undefined where nothing is. */
export function findFault(pointer: string, value: unknown): string | undefined {
  const path = pointer.slice(2).split("/").map(encodeURIComponent).join("/");
  const validate = validators.get(pointer) ?? ajv.compile({ $ref: `openapi.json#/${path}` });
  validators.set(pointer, validate);
  return validate(value) ? undefined : ajv.errorsText(validate.errors, { dataVar: "it" });
}

export function pointerTo(...keys: (string | number)[]): string {
  return ["#", ...keys.map((key) => String(key).replaceAll("~", "~0").replaceAll("/", "~1"))].join("/");
}

/** What the document has at a JSON pointer (RFC 6901), and where that really is: a reference is followed. */
export function lookUp(pointer: string): { value: object; pointer: string } | undefined {
  if (!found.has(pointer)) found.set(pointer, lookUpAnew(pointer));
  return found.get(pointer);
}

function lookUpAnew(pointer: string): { value: object; pointer: string } | undefined {
  let value: unknown = openapi;
  for (const key of pointer.split("/").slice(1)) {
    const name = key.replaceAll("~1", "/").replaceAll("~0", "~");
    value = typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  return "$ref" in value ? lookUp(String(value.$ref)) : { value, pointer };
}
