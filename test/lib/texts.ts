// The page's texts in the language of a page, for tests and scenes that run in any language.

import type { Locator, Page } from "playwright-core";
import { LOCALES } from "../../dist/texts.ts";

/** The tags of all languages, English first. */
export const LANGUAGES: readonly string[] = Object.keys(LOCALES);

type Key = keyof typeof LOCALES.en;

/**
 * Returns the text for a key in a language. With placeholders, it is the longest piece without any; with plural forms,
 * the one for `count`.
 */
export function textIn(language: string, key: Key, count = 1): string {
  const texts: Readonly<Record<string, string | Readonly<Record<string, string>>>> =
    Object.entries(LOCALES).find(([tag]) => tag === language)?.[1] ?? LOCALES.en;
  const entry = texts[key] ?? "";
  const form = new Intl.PluralRules(language).select(count);
  const text = typeof entry === "string" ? entry : (entry[form] ?? entry["other"] ?? "");
  const [longest = ""] = text.split(/\{\w+\}/).toSorted((a, b) => b.length - a.length);
  return longest.trim();
}

/** Returns the language that the page says it is in. */
export function languageOf(page: Page): Promise<string> {
  return page.evaluate(() => document.documentElement.lang);
}

/** Waits until the page shows a text, in its own language. Of several visible elements with the text, takes the last. */
export async function waitForText(page: Page, key: Key, count?: number): Promise<Locator> {
  const found = page.getByText(textIn(await languageOf(page), key, count));
  const locator = found.filter({ visible: true }).last();
  await locator.waitFor();
  return locator;
}
