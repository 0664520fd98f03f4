// Valid messages and names, in many scripts.

import assert from "node:assert/strict";
import test from "node:test";
import { ApiError, cleanText, cleanUsername, foldUsername } from "../server.ts";

const FAMILY = "\u{1F468}\u200D\u{1F469}\u200D\u{1F467}\u200D\u{1F466}";

for (const [what, text] of [
  ["Latin with its accents", "Příliš žluťoučký kůň, façade, naïve, Ærøskøbing"],
  ["Greek", "Ο Οδυσσεύς και η Πηνελόπη"],
  ["Cyrillic", "Съешь ещё этих мягких французских булок"],
  ["Hebrew with its points", "שָׁלוֹם עֲלֵיכֶם".normalize("NFC")],
  ["Arabic with its vowels", "السَّلَامُ عَلَيْكُمْ".normalize("NFC")],
  ["Persian with a ZWNJ", "می\u200Cخواهم"],
  ["Urdu", "خوش آمدید"],
  ["Devanagari with its conjuncts", "क्षत्रिय श्री हिन्दी".normalize("NFC")],
  ["Devanagari with joiners", "क्\u200Dष और क्\u200Cष"],
  ["Bengali", "বাংলা ভাষা".normalize("NFC")],
  ["Tamil", "தமிழ் வாழ்க"],
  ["Thai", "ที่นี่ดีมาก"],
  ["Burmese", "မြန်မာဘာသာ"],
  ["Korean", "안녕하세요"],
  ["Chinese and Japanese", "你好，世界。こんにちは、ガギグゲゴ！"],
  ["characters beyond the first plane", "𝄞 𠮷野家 𓀀"],
  ["a family joined by ZWJ", FAMILY],
  ["skin tones and variation selectors", "👋🏽 ❤️ ☎︎ 1️⃣"],
  ["flags", "🇩🇪🇮🇱🇮🇳🏴󠁧󠁢󠁳󠁣󠁴󠁿🏳️‍🌈"],
  ["directional controls", "\u202Babc\u202C \u2066x\u2069 \u200Fy\u200E \u061Cz"],
  ["many combining marks", `Z${"\u0335\u0321\u0327".repeat(20)}algo`.normalize("NFC")],
  ["invisible characters within", "a\u00ADb\u200Bc\u2060d\uFEFFe\u2028f\u2029g"],
  ["markup", `<script>alert("x")</script> &lt; {{7*7}} %s \${x}`],
  ["inner white space", "a  b\n\n\n\tc\u00A0\u3000d"],
  ["private and unassigned characters", "\uE000 \u{10FFFD} \u0378"],
  ["noncharacters", "a\uFFFEb\u{1FFFF}"],
] as const) {
  test(`a message keeps ${what} exactly`, () => {
    assert.equal(cleanText(text), text);
  });
}

for (const [what, raw, clean] of [
  ["is composed", "e\u0301 \u1100\u1161 \u212B", "\u00E9 \uAC00 \u00C5"],
  ["keeps compatibility forms", "ﬁ ½ Ａ ㌔", "ﬁ ½ Ａ ㌔"],
  ["has its line endings normalised", "a\r\nb\rc\nd\r\r\ne", "a\nb\nc\nd\n\ne"],
  ["loses control characters", "a\u0000b\u0007c\u001B[31md\u007Fe\u0085f\u009Fg", "abc[31mdefg"],
  ["keeps tab and newline", "a\tb\nc", "a\tb\nc"],
  ["loses vertical tab and form feed", "a\u000Bb\u000Cc", "abc"],
  ["is trimmed", " \n\t\u00A0\u2003\u3000text\u2003\r\n ", "text"],
  ["is trimmed after control characters are gone", "\u0000 text \u0000", "text"],
  ["has its lone high surrogates replaced", "a\uD83Db", "a\uFFFDb"],
  ["has its lone low surrogates replaced", "\uDE00x", "\uFFFDx"],
  ["has surrogates in the wrong order replaced", "\uDE00\uD83D", "\uFFFD\uFFFD"],
  ["keeps surrogate pairs", "\uD83D\uDE00", "😀"],
] as const) {
  test(`a message ${what}`, () => {
    assert.equal(cleanText(raw), clean);
  });
}

test("a message can have 2,000 graphemes of several code points each, but not one more", () => {
  const grapheme = "क\u094D\u0937".normalize("NFC");
  assert.ok([...new Intl.Segmenter().segment(grapheme)].length === 1);
  // é has two bytes, so the grapheme limit applies. The other grapheme has nine, so the byte limit applies.
  assert.equal(cleanText("é".repeat(2000)).length, 2000);
  assertRefused(cleanText, "é".repeat(2001), "invalid_text");
  assert.equal(cleanText(grapheme.repeat(910)).length, grapheme.length * 910);
  assertRefused(cleanText, grapheme.repeat(911), "invalid_text");
});

test("a message can have 8,192 bytes, but not one more", () => {
  const base = `a${"\u0301".repeat(4000)}`.normalize("NFC");
  const room = 8192 - Buffer.byteLength(base);
  assert.equal(Buffer.byteLength(cleanText(base + "x".repeat(room))), 8192);
  assertRefused(cleanText, base + "x".repeat(room + 1), "invalid_text");
  assert.equal(cleanText("🎉".repeat(2000)).length, 4000);
  assertRefused(cleanText, `${"🎉".repeat(2000)}\u0301\u0301\u0301`.padEnd(4100, "\u0301"), "invalid_text");
});

test("the limits apply to the cleaned text", () => {
  assert.equal(cleanText(`${" ".repeat(5000)}${"x".repeat(2000)}${"\n".repeat(5000)}`).length, 2000);
  assert.equal(cleanText("x\u0000".repeat(2000)).length, 2000);
  assert.equal(cleanText("e\u0301".repeat(2000)).length, 2000);
});

test("a family emoji is one grapheme, so the byte limit applies first", () => {
  // 25 bytes each.
  assert.equal(cleanText(FAMILY.repeat(327)), FAMILY.repeat(327));
  assertRefused(cleanText, FAMILY.repeat(328), "invalid_text");
});

for (const raw of [undefined, null, 5, true, {}, ["x"], "", " ", "\n\t\r", "\u0000", "\u0085", "\u001B\u0007 \u3000"]) {
  test(`${JSON.stringify(raw) ?? "undefined"} is not a valid message`, () => {
    assertRefused(cleanText, raw, "invalid_text");
  });
}

// ---- Names ----------------------------------------------------------------------------------------------

for (const name of [
  "Ana",
  "Zoë",
  "שירה",
  "مریم",
  "می\u200Cخواهم",
  "श्री",
  "क्\u200Dष",
  "ประยุทธ์",
  "김철수",
  "山田 太郎",
  "O’Brien-Smith, Jr.",
  "<b>&",
  "🦊",
  FAMILY,
  "🇩🇪",
  "❤️",
  "__proto__",
  "constructor",
  "ﬁ",
  "1",
  "𠮷",
  FAMILY.repeat(3),
  "x".repeat(24),
]) {
  test(`a member can be called ${name}`, () => {
    assert.equal(cleanUsername(name.normalize("NFC")), name.normalize("NFC"));
  });
}

for (const [what, raw, clean] of [
  ["is trimmed", "  Ana\u00A0\u3000", "Ana"],
  ["has its inner white space collapsed", "Ana \u00A0\u2003 Maria", "Ana Maria"],
  ["treats newline and tab as white space", "Ana\nMaria\tde\r\nla", "Ana Maria de la"],
  ["loses control characters", "A\u0000n\u0007a\u0085\u001B", "Ana"],
  ["loses directional controls", "\u202EanA\u202C\u2066\u2069\u200E\u200F\u061C", "anA"],
  ["loses line and paragraph separators", "A\u2028n\u2029a", "Ana"],
  ["loses soft hyphens and byte order marks", "A\u00ADn\uFEFFa", "Ana"],
  ["is composed", "Zoe\u0308", "Zoë"],
  ["loses joiners at its edges", "\u200D\u200CAna\u200C\u200D", "Ana"],
  ["loses joiners beside white space", "Ana\u200D \u200CMaria", "Ana Maria"],
  ["keeps joiners where they join", "می\u200Cخواهم", "می\u200Cخواهم"],
  ["has a lone surrogate replaced", "A\uD83Da", "A\uFFFDa"],
] as const) {
  test(`a name ${what}`, () => {
    assert.equal(cleanUsername(raw), clean);
  });
}

for (const raw of [
  undefined,
  null,
  5,
  true,
  {},
  ["Ana"],
  "",
  " ",
  "\n\t",
  "\u0000",
  "\u00AD",
  "\u200D",
  "\u200C\u200D",
  "\u202E",
  "\u200B",
  "\u2060\u2063",
  "\uFE0F",
  "\u3164",
  "\u115F\u1160",
  "\u034F",
  "\u{E0041}",
  "x".repeat(25),
  "🇩🇪".repeat(25),
  FAMILY.repeat(4),
  `${"é".repeat(24)}é`,
  "क्ष".repeat(11),
]) {
  test(`${JSON.stringify(raw) ?? "undefined"} is not a valid name`, () => {
    assertRefused(cleanUsername, typeof raw === "string" ? raw.normalize("NFC") : raw, "invalid_username");
  });
}

test("a name can have 24 graphemes and 96 bytes, but not one more of either", () => {
  assert.equal(cleanUsername("🦊".repeat(24)), "🦊".repeat(24));
  assertRefused(cleanUsername, "🦊".repeat(25), "invalid_username");
  assert.equal(Buffer.byteLength("🦊".repeat(24)), 96);
  assertRefused(cleanUsername, `${"🦊".repeat(23)}é🦊`, "invalid_username");
  assertRefused(cleanUsername, `${"🦊".repeat(23)}e\u0335\u0335`, "invalid_username");
  assert.equal(cleanUsername(`  ${"x".repeat(24)}  `), "x".repeat(24));
});

test("a name can have eight combining marks per letter in any encoding, but not nine", () => {
  const mark = "\u0335";
  assert.equal(cleanUsername(`a${mark.repeat(8)}`), `a${mark.repeat(8)}`);
  assertRefused(cleanUsername, `a${mark.repeat(9)}`, "invalid_username");
  // ế is e with two marks in NFD, which leaves room for six.
  assert.equal(cleanUsername(`\u1EBF${mark.repeat(6)}`).normalize("NFD").length, 9);
  assertRefused(cleanUsername, `\u1EBF${mark.repeat(7)}`, "invalid_username");
  assert.equal(cleanUsername(`a${mark.repeat(8)}b${mark.repeat(8)}`).length, 18);
  assertRefused(cleanUsername, `ab${mark.repeat(9)}c`, "invalid_username");
});

// ---- Names that count as equal ----------------------------------------------------------------------------

for (const [one, other] of [
  ["Ana", "ANA"],
  ["Straße", "STRASSE"],
  ["Straße", "strasse"],
  ["Straße", "STRA\u1E9EE"],
  ["\u1E9E", "ss"],
  ["ſophie", "Sophie"],
  ["Ａｎａ", "ana"],
  ["ﬁlip", "FILIP"],
  ["ﬃ", "FFI"],
  ["Ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ"],
  ["ς", "σ"],
  ["ς", "Σ"],
  ["\u0345", "ι"],
  ["µ", "μ"],
  ["Ω", "\u2126"],
  ["K", "\u212A"],
  ["Å", "\u212B"],
  ["²", "2"],
  ["①", "1"],
  ["Ⅷ", "viii"],
  ["㎏", "KG"],
  ["ｶﾞ", "ガ"],
  ["ﷺ", "صلى الله عليه وسلم"],
  ["An\u200Da", "Ana"],
  ["A\u200Bn\u2060a", "ana"],
  ["An\u00ADa", "ana"],
  ["Ana\uFE0F", "ana"],
  ["A\u034Fna", "ana"],
  ["\u3164Ana", "ana"],
  ["Zoe\u0308", "ZOË"],
  ["ŉ", "ʼn"],
  ["ǰ", "J\u030C"],
  ["İ", "i\u0307"],
  ["ᏸ", "Ᏸ"],
  ["ꭰ", "Ꭰ"],
  ["ΐ", "\u1FD3"],
  ["ϴ", "θ"],
  ["ẛ", "ṡ"],
  ["ᾳ", "αι"],
  ["\u{10400}", "\u{10428}"],
  ["\u{1D400}", "a"],
] as const) {
  test(`${one} and ${other} are the same name`, () => {
    assert.equal(foldUsername(one), foldUsername(other));
  });
}

for (const [one, other] of [
  ["Zoe", "Zoë"],
  ["resume", "résumé"],
  ["ı", "i"],
  ["ı", "I"],
  ["İ", "i"],
  ["İ", "I"],
  ["о", "o"],
  ["ß", "s"],
  ["Ana", "Ana Maria"],
  ["Ana Maria", "AnaMaria"],
  ["ø", "o"],
  ["ł", "l"],
  ["שלום", "שָׁלוֹם"],
  ["あ", "ア"],
  ["क", "क्"],
] as const) {
  test(`${one} and ${other} are different names`, () => {
    assert.notEqual(foldUsername(one), foldUsername(other));
  });
}

test("folding a folded name changes nothing", () => {
  for (const name of ["Straße", "İ", "ŉ", "ﬃ", "ﷺ", "\u0345", "A\u0345\u0301", "\u1E9E", "ǰ\u0323", "\uFB13", "㎏²"]) {
    assert.equal(foldUsername(foldUsername(name)), foldUsername(name), name);
  }
});

test("folding is idempotent for every Unicode character", () => {
  for (let point = 0; point <= 0x10ffff; point += 1) {
    if (point >= 0xd800 && point <= 0xdfff) continue;
    const folded = foldUsername(String.fromCodePoint(point));
    if (foldUsername(folded) !== folded) assert.fail(`U+${point.toString(16)}`);
  }
});

function assertRefused(clean: (raw: unknown) => string, raw: unknown, code: string): void {
  assert.throws(
    () => clean(raw),
    (error) => error instanceof ApiError && error.code === code,
  );
}

test("a long run of combining marks, which would be slow to normalise, stays unchanged", () => {
  const long = `a${"\u0301\u0316".repeat(500)}`;
  assert.equal(cleanText(long), long);
  const usual = `a${"\u0301\u0316".repeat(15)}`;
  assert.equal(cleanText(usual), usual.normalize("NFC"));
  assert.notEqual(usual, usual.normalize("NFC"));
});
