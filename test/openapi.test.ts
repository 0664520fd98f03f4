// docs/openapi.json is valid and consistent, and the tests detect answers that differ from it. Also docs/errors.json.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Validator } from "@seriousme/openapi-schema-validator";
import { ApiError, type ErrorCode, ERRORS, LIMITS } from "../server.ts";
import { STATUS, startServer } from "./lib/helpers.ts";
import { assertDocumented, findFault, findLineFault, findProblem, lookUp, openapi, pointerTo } from "./lib/openapi.ts";

const VERBS = ["get", "post", "delete"];

/** Every object in the document, with the keys that lead to it. */
function* walk(value: unknown, keys: string[] = []): Generator<[keys: string[], value: object]> {
  if (typeof value !== "object" || value === null) return;
  yield [keys, value];
  for (const [key, inner] of Object.entries(value)) yield* walk(inner, [...keys, key]);
}

test("docs/openapi.json is a valid OpenAPI 3.1 document", async () => {
  const validator = new Validator();
  const result = await validator.validate(structuredClone({ ...openapi }));
  assert.deepEqual(result, { valid: true });
  assert.equal(validator.version, "3.1");
});

test("every reference in the document resolves, and every component is used", () => {
  const references = new Set<string>();
  for (const [keys, value] of walk(openapi)) {
    if (!("$ref" in value)) continue;
    references.add(String(value.$ref));
    assert.deepEqual(Object.keys(value), ["$ref"], `${keys.join(" ")}: generators ignore the keys next to a $ref`);
    assert.ok(lookUp(String(value.$ref)), `${keys.join(" ")}: ${String(value.$ref)}`);
  }
  for (const [kind, components] of Object.entries(openapi.components)) {
    if (kind === "securitySchemes") continue;
    for (const name of Object.keys(components)) {
      assert.ok(references.has(pointerTo("components", kind, name)), `nothing uses ${kind} ${name}`);
    }
  }
});

test("every operation has a unique id, declares its path parameters and uses known security schemes", () => {
  const names = new Set<unknown>();
  const schemes = Object.keys(openapi.components["securitySchemes"] ?? {});
  for (const [path, item] of Object.entries(openapi.paths)) {
    const declared = Object.keys(item["parameters"] ?? {}).map((each) =>
      lookUp(pointerTo("paths", path, "parameters", each)),
    );
    const variables = declared.map((each) => `{${String(Reflect.get(each?.value ?? {}, "name"))}}`);
    assert.deepEqual(variables, path.match(/\{\w+\}/g) ?? [], path);
    for (const verb of VERBS.filter((each) => each in item)) {
      const operation: { operationId?: string; security?: object[] } = { ...item[verb] };
      assert.ok(operation.operationId !== undefined && !names.has(operation.operationId), `${verb} ${path}`);
      names.add(operation.operationId);
      assert.ok(
        operation.security?.every((each) => Object.keys(each).every((name) => schemes.includes(name))),
        path,
      );
    }
  }
});

test("every example matches its schema", () => {
  let count = 0;
  for (const [keys, value] of walk(openapi)) {
    if (!("schema" in value)) continue;
    const at = pointerTo(...keys, "schema");
    const given = "example" in value ? [value.example] : [];
    for (const [, example] of walk("examples" in value ? value.examples : {})) {
      if ("$ref" in example) given.push(Reflect.get(lookUp(String(example.$ref))?.value ?? {}, "value"));
    }
    for (const example of given) assert.equal(findFault(at, example), undefined, at);
    if (keys.at(-1) === "application/x-ndjson") assert.equal(findLineFault(String(given[0])), undefined, at);
    count += given.length;
  }
  assert.ok(count > 40, `${count} examples`);
});

test("the documented errors are the server's, word for word", () => {
  const examples = openapi.components["examples"] ?? {};
  assert.deepEqual(Object.keys(examples).toSorted(), Object.keys(STATUS).toSorted());
  for (const [code, example] of Object.entries(examples)) {
    assert.deepEqual({ ...example }, { value: JSON.parse(String(new ApiError(errorCode(code)).reply.body)) });
  }
});

function errorCode(code: string): ErrorCode {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the test above has compared the names
  return code as ErrorCode;
}

test("every number in an error sentence that has a placeholder is one of LIMITS", () => {
  const placeholders = Object.entries(ERRORS).flatMap(([code, { message }]) =>
    Array.from(message.matchAll(/\{([^}]*)\}/g), ([, name = ""]) => [code, name] as const),
  );
  assert.ok(placeholders.length > 0);
  for (const [code, name] of placeholders) assert.ok(Object.hasOwn(LIMITS, name), `${code}: {${name}}`);
});

test("every error code is documented only under its own status", () => {
  for (const [path, item] of Object.entries(openapi.paths)) {
    for (const verb of VERBS.filter((each) => each in item)) {
      for (const status of Object.keys(item[verb]?.responses ?? {}).filter((each) => each >= "400")) {
        const response = lookUp(pointerTo("paths", path, verb, "responses", status));
        const schema = lookUp(`${response?.pointer}/content/application~1json/schema/properties/error`);
        const codes: unknown = Reflect.get(schema?.value ?? {}, "enum");
        assert.ok(Array.isArray(codes) && codes.length > 0, `${verb} ${path} ${status}`);
        for (const code of codes) assert.equal(STATUS[String(code)], Number(status), `${verb} ${path} ${String(code)}`);
      }
    }
  }
});

const SESSION = {
  chat_id: "kX3vQ9_bT7mZ-a2L",
  session_token: "AAABAZF970P_W0-5mWvYtgGasvD1ug.u2Jk8Wc0yYt1oYx3nQm5fJrB7dHs9vLwE4aZpGi6KTM",
  member_id: "1",
  username: "Ana",
  expires_at: "2026-11-22T23:10:00.000Z",
  url: "http://192.168.1.42:8080/kX3vQ9_bT7mZ-a2L",
};
const JSON_TYPE = "application/json; charset=utf-8";
const MADE = { "content-type": JSON_TYPE, location: "/kX3vQ9_bT7mZ-a2L" };
const CHAT = "/kX3vQ9_bT7mZ-a2L";
const refused = (error: string): object => ({ error, message: "No." });

test("a correct answer passes the check", () => {
  const good = { status: 201, headers: MADE, text: JSON.stringify(SESSION) };
  assert.equal(findProblem("POST", "/create", good), undefined);
  assert.equal(findProblem("POST", "http://x/create?y=z", good), undefined);
});

for (const [what, method, target, status, headers, body, problem] of [
  ["with an undocumented status", "POST", "/create", 202, MADE, SESSION, /undocumented status/],
  ["with the error of another status", "POST", "/create", 400, MADE, refused("too_large"), /allowed values/],
  ["with the error of another endpoint", "POST", "/create", 422, MADE, refused("invalid_text"), /allowed values/],
  ["with an extra field", "POST", "/create", 201, MADE, { ...SESSION, more: 1 }, /additional properties/],
  ["with a missing field", "POST", "/create", 201, MADE, { ...SESSION, url: undefined }, /required property 'url'/],
  [
    "with a field of another type",
    "POST",
    "/create",
    201,
    MADE,
    { ...SESSION, member_id: 1 },
    /member_id must be string/,
  ],
  ["with a malformed time", "POST", "/create", 201, MADE, { ...SESSION, expires_at: "today" }, /expires_at/],
  ["with a missing header", "POST", "/create", 201, { "content-type": JSON_TYPE }, SESSION, /Location: missing/],
  [
    "with a malformed header",
    "POST",
    "/create",
    201,
    { ...MADE, location: CHAT.slice(1) },
    SESSION,
    /Location: .*pattern/,
  ],
  [
    "with another content type",
    "POST",
    "/create",
    201,
    { ...MADE, "content-type": "text/plain" },
    SESSION,
    /undocumented content type/,
  ],
  ["with a body where none is documented", "DELETE", CHAT, 204, { "content-type": JSON_TYPE }, {}, /undocumented body/],
  ["to HEAD with a body", "HEAD", "/healthz", 200, MADE, { status: "ok" }, /no body/],
  ["of 200 to an unknown path", "GET", "/nothing", 200, MADE, { status: "ok" }, /undocumented status/],
  ["of 405 to an unknown path", "PUT", "/nothing", 405, MADE, refused("method_not_allowed"), /undocumented status/],
  ["of chat_not_found to an unknown path", "GET", "/nothing", 404, MADE, refused("chat_not_found"), /allowed values/],
  ["of not_found to a known path", "GET", CHAT, 404, MADE, refused("not_found"), /allowed values/],
  ["of 200 to an unknown method", "PUT", CHAT, 200, MADE, { status: "ok" }, /undocumented status/],
] as const) {
  test(`the check detects an answer ${what}`, async () => {
    const answer = { status, headers, text: JSON.stringify(body) };
    assert.match(findProblem(method, target, answer) ?? "", problem);
    await assert.rejects(assertDocumented(method, target, answer), /docs\/openapi\.json does not describe this answer/);
  });
}

test("the check detects an undocumented line of a stream", () => {
  assert.equal(findLineFault('\n{"missed":true}\n\n{"error":"stopping","message":"Bye."}\n'), undefined);
  assert.match(findLineFault('{"missed":false}') ?? "", /missed must be equal to constant/);
  assert.match(findLineFault('\n\n{"members":[],"cursor":1}') ?? "", /members must NOT have fewer than 1 items/);
});

test("every answer that a test receives over HTTP is checked", async (t) => {
  const server = await startServer(t);
  server.app.server.removeAllListeners("request");
  server.app.server.on("request", (_req, res) => res.writeHead(200, { "Content-Type": "application/json" }).end("{}"));
  await assert.rejects(server.send("GET", "/healthz"), /docs\/openapi\.json does not describe this answer: .*'status'/);
});
