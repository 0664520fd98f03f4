// Compares every answer that a test receives with docs/openapi.json: status, headers, content type and body. An answer
// that the document does not describe fails the test, so the document is as accurate as the tests are thorough.

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

const text = readFileSync(new URL("../../dist/openapi.json", import.meta.url), "utf8");
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the edge: openapi.test.ts validates the document
export const openapi = JSON.parse(text) as OpenApi;

// A schema with an allOf does not have to repeat its type. Misspelt keywords and formats are still errors.
const ajv = new Ajv2020({ strictTypes: false });
formats.default(ajv);
ajv.addVocabulary(Object.keys(openapi)); // The document is not a schema, but contains them.
ajv.addSchema(openapi, "openapi.json");

/** Caches by JSON pointer, because compiling a validator takes milliseconds. */
const found = new Map<string, { value: object; pointer: string } | undefined>();
const validators = new Map<string, ValidateFunction>();

/** Paths without variables first, so that "/create" does not match as a chat id. */
const PATHS = Object.keys(openapi.paths)
  .toSorted((a, b) => a.split("{").length - b.split("{").length)
  .map((path) => {
    const ids = { "{chat_id}": "[A-Za-z0-9_-]{16,33}", "{member_id}": "[^/]*", "{node}": "[a-z0-9]{1,16}" };
    const pattern = Object.entries(ids).reduce((made, [name, id]) => made.replace(name, id), path);
    return { path, pattern: new RegExp(path === "/" ? "^/$" : `^${pattern}/?$`) };
  });

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

/** Returns the answer unchanged. @throws Error if the document does not describe the answer */
export async function assertDocumented<Reply extends Answer>(
  method: string,
  target: string,
  reply: Reply,
): Promise<Reply> {
  const problem = findProblem(method, target, reply);
  if (problem === undefined) return reply;
  const { status, headers, text: body } = reply;
  const what = `${method} ${target} → ${status} ${headers["content-type"]} ${body.slice(0, 1_000)}`;
  throw new Error(`${what}\ndocs/openapi.json does not describe this answer: ${problem}`);
}

/** The part of an answer that the document does not describe, or undefined. */
export function findProblem(
  method: string,
  target: string,
  { status, headers, text: body }: Answer,
): string | undefined {
  const path = findPath(target);
  const type = headers["content-type"]?.split(";", 1)[0];
  // The page that browsers get at an unknown path is not part of the API.
  if (path === undefined && status === 404 && type === "text/html") return undefined;
  if (path !== undefined && method === "OPTIONS" && status === 204) {
    return type === undefined && body === "" && headers.allow !== undefined
      ? undefined
      : "OPTIONS needs an Allow header and no body";
  }
  const response = lookUp(findResponse(method, path, status));
  if (!response) return "undocumented status";
  const { headers: named = {}, content = {} }: Response = response.value;
  for (const name of Object.keys(named)) {
    const fault = findHeaderFault(`${response.pointer}/headers/${name}`, headers[name.toLowerCase()]);
    if (fault !== undefined) return `${name}: ${fault}`;
  }
  if (Object.keys(content).length === 0) {
    return type === undefined && body === "" ? undefined : "undocumented body";
  }
  if (type === undefined || !(type in content)) return "undocumented content type";
  if (method === "HEAD") return body === "" ? undefined : "HEAD has no body";
  if (type === "application/x-ndjson") return findLineFault(body);
  return findFault(
    `${response.pointer}/content/${type.replace("/", "~1")}/schema`,
    type === "application/json" ? JSON.parse(body) : body,
  );
}

/** The first fault in the lines of a stream, or undefined. */
export function findLineFault(lines: string): string | undefined {
  const faults = lines.split("\n").map((line) => {
    return line === "" ? undefined : findFault("#/components/schemas/StreamLine", JSON.parse(line));
  });
  return faults.find((fault) => fault !== undefined);
}

/** The path template that matches a request target. */
function findPath(target: string): string | undefined {
  const asked = target.replace(/^https?:\/\/[^/?]*/i, "").split("?", 1)[0] || "/";
  return PATHS.find(({ pattern }) => pattern.test(asked))?.path;
}

/** The JSON pointer of the response with this status to this method of a path. */
function findResponse(method: string, path: string | undefined, status: number): string {
  const verb = method === "HEAD" ? "get" : method.toLowerCase();
  if (path !== undefined && openapi.paths[path]?.[verb]) return pointerTo("paths", path, verb, "responses", status);
  // An unknown path, or /metrics without --metrics.
  if (status === 404 && (path === undefined || path === "/metrics")) return "#/components/responses/NotFound";
  // Errors that precede routing, and those for a wrong method, are the same for all paths.
  const isPossible = status !== 200 && !(path === undefined && status === 405);
  return pointerTo("paths", "/healthz", "get", "responses", isPossible ? status : "none");
}

function findHeaderFault(pointer: string, value: string | string[] | undefined): string | undefined {
  const header = lookUp(pointer);
  if (!header) return "undocumented header";
  if (value === undefined) return "required" in header.value && header.value.required === true ? "missing" : undefined;
  return findFault(`${header.pointer}/schema`, /^\d+$/.test(String(value)) ? Number(value) : value);
}

/** Why a value does not match the schema at a JSON pointer, or undefined. */
export function findFault(pointer: string, value: unknown): string | undefined {
  const path = pointer.slice(2).split("/").map(encodeURIComponent).join("/");
  const validate = validators.get(pointer) ?? ajv.compile({ $ref: `openapi.json#/${path}` });
  validators.set(pointer, validate);
  return validate(value) ? undefined : ajv.errorsText(validate.errors, { dataVar: "it" });
}

export function pointerTo(...keys: (string | number)[]): string {
  return ["#", ...keys.map((key) => String(key).replaceAll("~", "~0").replaceAll("/", "~1"))].join("/");
}

/** The value at a JSON pointer (RFC 6901), with the pointer that remains after following references. */
export function lookUp(pointer: string): { value: object; pointer: string } | undefined {
  if (!found.has(pointer)) found.set(pointer, resolvePointer(pointer));
  return found.get(pointer);
}

function resolvePointer(pointer: string): { value: object; pointer: string } | undefined {
  let value: unknown = openapi;
  for (const key of pointer.split("/").slice(1)) {
    const name = key.replaceAll("~1", "/").replaceAll("~0", "~");
    value = typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  return "$ref" in value ? lookUp(String(value.$ref)) : { value, pointer };
}
