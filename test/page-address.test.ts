// The address that the host's own browser shows on the home screen, for the others in the room.

import assert from "node:assert/strict";
import { after as afterAll, before as beforeAll, test } from "node:test";
import { generate } from "lean-qr/nano";
import type { Browser } from "playwright-core";
import { launchBrowser, newPerson, startSite } from "./lib/browser.ts";
import { readCode } from "./lib/people.ts";

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser.close());

const lanAddresses = () => [
  { address: "192.168.1.42", name: "wlan0" },
  { address: "172.17.0.1", name: "docker0" },
];

test("the host's own browser shows the address for others and its QR code, and no other browser does", async (t) => {
  const site = await startSite(t, { lanAddresses });
  const host = await newPerson(t, browser);
  await host.page.goto(`http://localhost:${site.port}`);
  await host.page.getByText(`Others on this Wi-Fi can open 192.168.1.42:${site.port}`).waitFor();
  const code = generate(`http://192.168.1.42:${site.port}`);
  const { dark } = await readCode(host.page, "addressQr", code.size + 8);
  for (let y = -4; y < code.size + 4; y++)
    for (let x = -4; x < code.size + 4; x++) {
      assert.equal(dark[(y + 4) * (code.size + 8) + x + 4], code.get(x, y), `module ${x}, ${y}`);
    }

  // To the server, party.test is a name like any other that leads here.
  const visitor = await newPerson(t, browser);
  const asked = visitor.page.waitForResponse(/\/addresses$/);
  await visitor.page.goto(site.origin);
  assert.deepEqual(await (await asked).json(), { addresses: [], qr: "" });
  await visitor.page.getByRole("button", { name: "Start a chat" }).waitFor();
  assert.equal(await visitor.page.locator("#address").isVisible(), false);
});

test("without a network, the host's own browser shows no address, and a chat can start all the same", async (t) => {
  const site = await startSite(t, { lanAddresses: () => [] });
  const { page } = await newPerson(t, browser);
  const asked = page.waitForResponse(/\/addresses$/);
  await page.goto(`http://localhost:${site.port}`);
  assert.equal((await asked).status(), 200);
  assert.equal(await page.locator("#address").isVisible(), false);
  await page.getByLabel("Your name").fill("Ana");
  await page.getByRole("button", { name: "Start a chat" }).click();
  await page.getByText("1 of 6 in the chat").waitFor();
});
