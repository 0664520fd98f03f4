// The page in the reader's language: which one the server picks, and that each is complete and small.

import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { LOCALES } from "../dist/texts.ts";
import { startServer } from "./lib/helpers.ts";

const BROWSER = { Accept: "text/html", "Accept-Encoding": "gzip" };
const LANGUAGES = Object.keys(LOCALES);
const RIGHT_TO_LEFT = new Set(["ar", "he"]);

/** Headers of browsers, and the languages of the page that suit each, the best first. English always suits. */
const HEADERS: [browser: string, header: string | undefined, ...languages: string[]][] = [
  ["Chrome in English (United States)", "en-US,en;q=0.9"],
  ["Safari in English (United Kingdom)", "en-GB,en;q=0.9"],
  ["Firefox in German", "de,en-US;q=0.7,en;q=0.3", "de"],
  ["Chrome in German", "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7", "de"],
  ["Chrome in Swiss German settings", "de-CH,de;q=0.9,fr-CH;q=0.8,fr;q=0.7", "de", "fr"],
  ["Safari on an iPhone in French (Canada)", "fr-CA,fr;q=0.9", "fr"],
  ["Chrome in Spanish (Latin America)", "es-419,es;q=0.9", "es"],
  ["Chrome in Portuguese (Brazil)", "pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", "pt"],
  ["Safari in Portuguese (Portugal)", "pt-PT,pt;q=0.9", "pt"],
  ["Firefox in Italian", "it-IT,it;q=0.8,en-US;q=0.5,en;q=0.3", "it"],
  ["Firefox in Dutch", "nl,en-US;q=0.7,en;q=0.3", "nl"],
  ["Chrome in Polish", "pl-PL,pl;q=0.9,en-US;q=0.8,en;q=0.7", "pl"],
  ["Firefox in Ukrainian", "uk,ru;q=0.8,en-US;q=0.5,en;q=0.3", "uk"],
  ["Chrome in Turkish", "tr-TR,tr;q=0.9,en-US;q=0.8,en;q=0.7", "tr"],
  ["Chrome in Arabic (Egypt)", "ar-EG,ar;q=0.9,en-US;q=0.8,en;q=0.7", "ar"],
  ["Chrome in Hebrew", "he-IL,he;q=0.9,en-US;q=0.8,en;q=0.7", "he"],
  ["an old Android in Hebrew", "iw-IL, en-US", "he"],
  ["Chrome in Hindi", "hi-IN,hi;q=0.9,en-US;q=0.8,en;q=0.7", "hi"],
  ["Chrome in Hindi in Latin letters, which the page has not", "hi-Latn,en-IN;q=0.9,en;q=0.8"],
  ["Chrome in Japanese", "ja,en-US;q=0.9,en;q=0.8", "ja"],
  ["Safari on an iPhone in Japanese", "ja-JP", "ja"],
  ["Chrome in Korean", "ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", "ko"],
  ["Chrome in Chinese (China)", "zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"],
  ["Safari in Chinese (Singapore)", "zh-SG,zh-Hans;q=0.9", "zh-Hans"],
  ["Chrome in Chinese (Taiwan)", "zh-TW,zh;q=0.9,en-US;q=0.8,en;q=0.7", "zh-Hant", "zh-Hans"],
  ["Firefox in Chinese (Hong Kong)", "zh-HK,zh-TW;q=0.8,zh;q=0.7,en-US;q=0.5,en;q=0.3", "zh-Hant", "zh-Hans"],
  ["Safari in traditional Chinese", "zh-Hant-TW,zh-Hant;q=0.9", "zh-Hant"],
  ["Chrome in Vietnamese", "vi-VN,vi;q=0.9,fr-FR;q=0.8,fr;q=0.7,en-US;q=0.6,en;q=0.5", "vi", "fr"],
  ["Chrome in Indonesian", "id-ID,id;q=0.9,en-US;q=0.8,en;q=0.7", "id"],
  ["an old Android in Indonesian", "in-ID, en-US", "id"],
  ["Firefox in Danish, then German", "da,de;q=0.8,en;q=0.5", "de"],
  ["Chrome in Welsh", "cy"],
  ["a browser with weights in another order", "en;q=0.3, de;q=0.9", "de"],
  ["a browser that refuses German", "de;q=0, ja;q=0.5", "ja"],
  ["a browser that refuses English but has nothing else", "en;q=0"],
  ["a browser that takes anything", "*"],
  ["a browser that takes German, then anything", "de-AT, *;q=0.5", "de"],
  ["a browser with odd spaces and letters", " DE-at ;Q=0.8 ,\ten;q=0.7", "de"],
  ["a browser with nonsense before German", "?, a_b, 123, de;q=1.000", "de"],
  ["a browser with an unreadable weight", "de;q=x, ja", "ja"],
  ["an empty header", ""],
  ["no header", undefined],
];

suite("the server picks the page's language from the header of", () => {
  for (const [browser, header, ...wanted] of HEADERS) {
    test(browser, async (t) => {
      const server = await startServer(t);
      const headers = { ...BROWSER, ...(header !== undefined && { "Accept-Language": header }) };
      const reply = await server.send("GET", "/", { headers });
      const best = wanted.find((language) => LANGUAGES.includes(language)) ?? "en";
      assert.equal(reply.headers["content-language"], best);
      assert.match(gunzipSync(reply.bytes).toString(), new RegExp(`^<!doctype html><html lang=${best} dir=`));
    });
  }
});

test("the server reads only the first 20 languages of a long header", async (t) => {
  const server = await startServer(t);
  for (const [count, language] of [
    [19, LANGUAGES.at(-1)],
    [20, "en"],
    [4000, "en"],
  ] as const) {
    const header = `${"xx,".repeat(count)}${LANGUAGES.at(-1)}`;
    const reply = await server.send("GET", "/", { headers: { ...BROWSER, "Accept-Language": header } });
    assert.equal(reply.headers["content-language"], language);
  }
});

suite("the page fits into 24 KB, states its language and direction, and differs in its tag, in", () => {
  const tags = new Set<string>();
  for (const language of LANGUAGES) {
    test(language, async (t) => {
      const server = await startServer(t);
      const headers = { ...BROWSER, "Accept-Language": language };
      const reply = await server.send("GET", "/", { headers });
      assert.ok(reply.bytes.length <= 24_576, `${reply.bytes.length} bytes`);
      assert.equal(reply.headers["content-language"], language);
      assert.ok(String(reply.headers["vary"]).split(", ").includes("Accept-Language"));
      const direction = RIGHT_TO_LEFT.has(language) ? "rtl" : "ltr";
      const html = gunzipSync(reply.bytes).toString();
      assert.ok(html.startsWith(`<!doctype html><html lang=${language} dir=${direction}>`));
      // Browsers accept such names, but the W3C's checker does not.
      assert.doesNotMatch(html, /--\d/, "variables of the style begin with a letter");
      const tag = String(reply.headers["etag"]);
      assert.ok(!tags.has(tag));
      tags.add(tag);
      const again = await server.send("GET", "/", { headers: { ...headers, "If-None-Match": tag } });
      assert.equal(again.status, 304);
    });
  }
});

test("the tag of one language does not match the page in another", async (t) => {
  const server = await startServer(t);
  const ask = (language: string, tag = "") =>
    server.send("GET", "/", { headers: { ...BROWSER, "Accept-Language": language, "If-None-Match": tag } });
  for (const language of LANGUAGES.slice(1)) {
    const tag = String((await ask("en")).headers["etag"]);
    assert.equal((await ask(language, tag)).status, 200);
  }
});

suite("the texts have the keys of English in the same order, without text direction marks, in", () => {
  for (const [language, texts] of Object.entries(LOCALES)) {
    test(language, () => {
      assert.deepEqual(Object.keys(texts), Object.keys(LOCALES.en));
      assert.doesNotMatch(JSON.stringify(texts), /[\u200e\u200f\u202a-\u202e\u2066-\u2069]/);
      // Without such marks, a right-to-left page shows "⌘C" as "C⌘".
      if (RIGHT_TO_LEFT.has(language)) assert.doesNotMatch(JSON.stringify(texts), /⌘/);
    });
  }
});
