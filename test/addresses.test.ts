// The ranking of a machine's addresses, without a machine.

import assert from "node:assert/strict";
import test from "node:test";
import { rankAddresses } from "../lib/addresses.ts";

function interfaces(named: Record<string, string[]>): Parameters<typeof rankAddresses>[0] {
  return Object.fromEntries(
    Object.entries(named).map(([name, addresses]) => [
      name,
      addresses.map((address) => ({
        address,
        netmask: "255.255.255.0",
        mac: "02:00:00:00:00:01",
        internal: address.startsWith("127.") || address === "::1",
        cidr: null,
        ...(address.includes(":") ? { family: "IPv6" as const, scopeid: 0 } : { family: "IPv4" as const }),
      })),
    ]),
  );
}

for (const [what, named, defaultRoute, expected] of [
  [
    "the default route comes first",
    { eth0: ["10.0.0.1"], wlan0: ["192.168.1.2"] },
    "192.168.1.2",
    ["192.168.1.2", "10.0.0.1"],
  ],
  ["the default route can be a public address", { eth0: ["203.0.113.9"] }, "203.0.113.9", ["203.0.113.9"]],
  [
    "without a default route, private addresses are used",
    { lo: ["127.0.0.1"], eth0: ["203.0.113.9", "172.16.0.1", "172.31.0.1"] },
    undefined,
    ["172.16.0.1", "172.31.0.1"],
  ],
  [
    "addresses just outside the private ranges are not used",
    { eth0: ["172.15.0.1", "172.32.0.1", "192.169.0.1", "11.0.0.1", "100.64.0.1"] },
    undefined,
    [],
  ],
  ["link-local addresses are never used", { eth0: ["169.254.1.1"] }, "169.254.1.1", []],
  ["IPv6 and loopback are not used", { lo: ["127.0.0.1", "::1"], eth0: ["fd00::2", "fe80::1"] }, undefined, []],
  ["no interfaces give no addresses", {}, undefined, []],
  [
    "virtual interfaces come last",
    {
      docker0: ["172.17.0.1"],
      "br-12ab": ["172.18.0.1"],
      veth1: ["10.9.0.1"],
      "vEthernet (WSL)": ["172.20.0.1"],
      "VirtualBox Host-Only Network": ["192.168.56.1"],
      "VMware Network Adapter VMnet8": ["192.168.80.1"],
      utun3: ["10.8.0.2"],
      tun0: ["10.7.0.2"],
      tailscale0: ["10.6.0.2"],
      "Wi-Fi": ["192.168.1.2"],
    },
    undefined,
    [
      "192.168.1.2",
      "172.17.0.1",
      "172.18.0.1",
      "10.9.0.1",
      "172.20.0.1",
      "192.168.56.1",
      "192.168.80.1",
      "10.8.0.2",
      "10.7.0.2",
      "10.6.0.2",
    ],
  ],
  [
    "interfaces whose names only contain such a word count as real",
    { docker0: ["172.17.0.1"], thunder0: ["10.0.0.1"] },
    undefined,
    ["10.0.0.1", "172.17.0.1"],
  ],
] as const) {
  test(`in the ranking, ${what}`, () => {
    const ranked = rankAddresses(
      interfaces(Object.fromEntries(Object.entries(named).map(([name, list]) => [name, [...list]]))),
      defaultRoute,
    );
    assert.deepEqual(
      ranked.map(({ address }) => address),
      expected,
    );
    for (const { address, name } of ranked) {
      const own: Record<string, readonly string[]> = named;
      assert.ok(own[name]?.includes(address), "an address has the name of its interface");
    }
  });
}
