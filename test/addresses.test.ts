// Which of a machine's addresses comes first. Names, MAC addresses and netmasks are those that Windows, macOS and Linux
// report; public addresses are replaced.

import assert from "node:assert/strict";
import type { NetworkInterfaceInfo } from "node:os";
import test from "node:test";
import { listeningAddresses, rankAddresses } from "../lib/addresses.ts";

/** An interface's MAC address, and its addresses with prefix lengths. */
type Interface = [mac: string, ...cidrs: string[]];

/** What `networkInterfaces()` would report. */
function report(machine: Record<string, Interface>): Record<string, NetworkInterfaceInfo[]> {
  return Object.fromEntries(
    Object.entries(machine).map(([name, [mac, ...cidrs]]) => [name, cidrs.map((cidr) => describe(mac, cidr))]),
  );
}

function describe(mac: string, cidr: string): NetworkInterfaceInfo {
  const [address = "", bits = ""] = cidr.split("/");
  const internal = address.startsWith("127.") || address === "::1";
  if (address.includes(":")) {
    return { address, netmask: "ffff:ffff:ffff:ffff::", family: "IPv6", mac, internal, cidr, scopeid: 0 };
  }
  const mask = [0, 8, 16, 24].map((start) => 256 - 2 ** (8 - Math.min(Math.max(Number(bits) - start, 0), 8)));
  return { address, netmask: mask.join("."), family: "IPv4", mac, internal, cidr };
}

const NONE = "00:00:00:00:00:00";
const LO: Interface = [NONE, "127.0.0.1/8", "::1/128"];

// ---- Machines ------------------------------------------------------------------------------------------------------

const WINDOWS: Record<string, Interface> = {
  "vEthernet (WSL (Hyper-V firewall))": ["00:15:5d:0b:8d:21", "fe80::5c1b:9f4a:6a1e:3c41/64", "172.28.160.1/20"],
  "vEthernet (Default Switch)": ["00:15:5d:9a:12:06", "fe80::e0a7:35d3:ab54:90d2/64", "172.20.112.1/20"],
  "VirtualBox Host-Only Network": ["0a:00:27:00:00:11", "fe80::b5d9:2a66:778f:d75a/64", "192.168.56.1/24"],
  "VMware Network Adapter VMnet1": ["00:50:56:c0:00:01", "fe80::2da0:e0b4:3d42:93c1/64", "192.168.253.1/24"],
  "VMware Network Adapter VMnet8": ["00:50:56:c0:00:08", "fe80::8d52:1a11:bb45:7d0a/64", "192.168.80.1/24"],
  "Local Area Connection* 10": ["b2:96:1a:73:37:06", "169.254.83.107/16", "fe80::71cd:5b1f:44a:1d2e/64"],
  "Wi-Fi": ["b0:96:1a:73:37:05", "fe80::4c5e:1cf5:93bd:bb3e/64", "192.168.178.21/24"],
  "Loopback Pseudo-Interface 1": [NONE, "::1/128", "127.0.0.1/8"],
};

const MAC: Record<string, Interface> = {
  lo0: [NONE, "127.0.0.1/8", "::1/128", "fe80::1/64"],
  en0: ["3c:22:fb:bb:9b:70", "fe80::c81:46dd:5023:1d69/64", "192.168.1.37/24", "2001:db8:12:34:1c3c:7d04:2b9a:654/64"],
  awdl0: ["ae:d3:8f:66:99:01", "fe80::acd3:8fff:fe66:9901/64"],
  llw0: ["ae:d3:8f:66:99:01", "fe80::acd3:8fff:fe66:9901/64"],
  utun0: [NONE, "fe80::b20d:7f81:b8ac:55e3/64"],
  utun1: [NONE, "fe80::9dc8:e77b:3812:2d12/64"],
  bridge100: ["b2:be:83:c6:be:64", "192.168.64.1/24", "fd73:11c2:f285:ac2:413:97c1:e31e:a242/64"],
  vnic0: ["00:1c:42:00:00:08", "10.211.55.2/24"],
};

const LINUX: Record<string, Interface> = {
  lo: LO,
  wlp1s0: [
    "a0:29:42:8e:7e:20",
    "192.168.1.20/24",
    "2001:db8:1:2:a229:42ff:fe8e:7e20/64",
    "fe80::a229:42ff:fe8e:7e20/64",
  ],
  docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16", "fe80::42:e4ff:fe32:dfd/64"],
  "br-7f2d1c90ab3e": ["02:42:7d:cc:ae:74", "172.18.0.1/16"],
  veth3f1c2aa: ["be:27:d1:55:10:02", "fe80::bc27:d1ff:fe55:1002/64"],
  virbr0: ["52:54:00:8b:66:10", "192.168.122.1/24"],
};

/** The machine, the address of its default route, and the address that must come first. */
type Case = [what: string, machine: Record<string, Interface>, defaultRoute: string | undefined, first: string];

const CASES: Case[] = [
  // Windows
  ["Windows without a VPN", WINDOWS, "192.168.178.21", "192.168.178.21"],
  ["Windows without internet", WINDOWS, undefined, "192.168.178.21"],
  ["Windows with NordVPN", { NordLynx: [NONE, "10.5.0.2/16"], ...WINDOWS }, "10.5.0.2", "192.168.178.21"],
  [
    "Windows with OpenVPN's TAP adapter under its old name",
    { "Local Area Connection": ["00:ff:fd:61:9f:3d", "10.8.0.6/30"], ...WINDOWS },
    "10.8.0.6",
    "192.168.178.21",
  ],
  [
    "Windows with OpenVPN's newer adapters",
    {
      "OpenVPN Data Channel Offload": [NONE, "10.8.0.7/24"],
      "OpenVPN TAP-Windows6": ["00:ff:27:78:ac:cc", "10.9.0.7/24"],
      "OpenVPN Wintun": [NONE, "10.10.0.7/24"],
      ...WINDOWS,
    },
    "10.8.0.7",
    "192.168.178.21",
  ],
  [
    "Windows with Cisco AnyConnect, which is called Ethernet 2",
    { "Ethernet 2": ["00:05:9a:3c:7a:00", "10.209.190.65/18"], ...WINDOWS },
    "10.209.190.65",
    "192.168.178.21",
  ],
  [
    "Windows with GlobalProtect, which is called Ethernet 3",
    { "Ethernet 3": ["02:50:41:00:00:01", "10.249.12.144/24", "fd53:5043:5000:f90c::90/128"], ...WINDOWS },
    "10.249.12.144",
    "192.168.178.21",
  ],
  [
    "Windows with a WireGuard tunnel, which is named after its file",
    { office: [NONE, "10.44.0.3/24"], ...WINDOWS },
    "10.44.0.3",
    "192.168.178.21",
  ],
  [
    "Windows with its built-in VPN, which is named by its user",
    { Work: [NONE, "172.16.9.14/32"], ...WINDOWS },
    "172.16.9.14",
    "192.168.178.21",
  ],
  [
    "Windows with Tailscale and ZeroTier beside a network cable",
    {
      Tailscale: [NONE, "100.101.102.103/32", "fd7a:115c:a1e0::6601:6667/128"],
      "ZeroTier One [8056c2e21c000001]": ["66:65:74:68:22:8e", "10.147.20.93/24"],
      Ethernet: ["8c:16:45:4f:f5:b6", "10.0.0.7/24"],
    },
    "10.0.0.7",
    "10.0.0.7",
  ],
  [
    "Windows where VirtualBox's network is called Ethernet 2",
    { "Ethernet 2": ["0a:00:27:00:00:12", "192.168.56.1/24"], WLAN: ["b0:96:1a:73:37:05", "192.168.178.21/24"] },
    undefined,
    "192.168.178.21",
  ],
  [
    "Windows whose network card belongs to an external switch of Hyper-V, with a VPN",
    {
      "vEthernet (Default Switch)": ["00:15:5d:9a:12:06", "172.20.112.1/20"],
      "vEthernet (External)": ["9c:eb:e8:62:55:e8", "192.168.1.150/24"],
      ProtonVPN: [NONE, "10.2.0.2/32"],
    },
    "10.2.0.2",
    "192.168.1.150",
  ],
  [
    "Windows with a modem for mobile data",
    { Cellular: ["02:1e:10:1f:00:00", "10.64.12.9/29"], WLAN: ["b0:96:1a:73:37:05", "192.168.178.21/24"] },
    "10.64.12.9",
    "192.168.178.21",
  ],
  // macOS
  ["macOS without a VPN", MAC, "192.168.1.37", "192.168.1.37"],
  ["macOS without internet", MAC, undefined, "192.168.1.37"],
  ["macOS with OpenVPN", { ...MAC, utun4: [NONE, "10.33.127.240/16"] }, "10.33.127.240", "192.168.1.37"],
  ["macOS with AnyConnect", { utun2: [NONE, "10.85.40.243/32"], ...MAC }, "10.85.40.243", "192.168.1.37"],
  [
    "macOS with an old GlobalProtect",
    { gpd0: ["02:50:41:00:01:01", "10.101.100.107/32"], ...MAC },
    "10.101.100.107",
    "192.168.1.37",
  ],
  ["macOS with L2TP", { ppp0: [NONE, "192.168.200.11/24"], ...MAC }, "192.168.200.11", "192.168.1.37"],
  ["macOS with IKEv2", { ipsec0: [NONE, "10.10.10.5/24"], ...MAC }, "10.10.10.5", "192.168.1.37"],
  [
    "macOS with ZeroTier",
    { feth3846: ["b6:a3:48:18:44:6b", "10.147.20.93/24"], ...MAC },
    "192.168.1.37",
    "192.168.1.37",
  ],
  ["macOS with Tailscale", { utun5: [NONE, "100.101.102.103/8"], ...MAC }, "192.168.1.37", "192.168.1.37"],
  [
    "macOS on a network of IPv6 only, where it makes an IPv4 address for itself",
    {
      ...MAC,
      en0: ["3c:22:fb:bb:9b:70", "fe80::bc:ce30:76fd:c382/64", "192.0.0.2/32", "2001:db8:1c:a7b2:1c3c::654/64"],
    },
    "192.0.0.2",
    "2001:db8:1c:a7b2:1c3c::654",
  ],
  // Linux
  ["Linux without a VPN", LINUX, "192.168.1.20", "192.168.1.20"],
  ["Linux without internet", LINUX, undefined, "192.168.1.20"],
  [
    "Linux with OpenVPN's two halves of the default route",
    { tun0: [NONE, "10.8.0.2/24"], ...LINUX },
    "10.8.0.2",
    "192.168.1.20",
  ],
  [
    "Linux with wg-quick, which is named after its file",
    { office: [NONE, "10.44.0.3/24"], ...LINUX },
    "10.44.0.3",
    "192.168.1.20",
  ],
  [
    "Linux with a WireGuard address that has no network",
    { "wg-home": [NONE, "10.0.0.2/32"], ...LINUX },
    "10.0.0.2",
    "192.168.1.20",
  ],
  ["Linux with NordVPN", { nordlynx: [NONE, "10.5.0.2/16"], ...LINUX }, "10.5.0.2", "192.168.1.20"],
  [
    "Linux with Proton VPN and its kill switch",
    {
      pvpnksintrf0: ["1e:7a:6e:0c:52:01", "10.201.0.1/24"],
      proton0: [NONE, "10.2.0.2/32"],
      ...LINUX,
    },
    "10.2.0.2",
    "192.168.1.20",
  ],
  ["Linux with PPTP", { ppp0: [NONE, "10.30.0.5/32"], ...LINUX }, "10.30.0.5", "192.168.1.20"],
  ["Linux with AnyConnect", { cscotun0: [NONE, "10.209.1.5/20"], ...LINUX }, "10.209.1.5", "192.168.1.20"],
  ["Linux with Cloudflare WARP", { CloudflareWARP: [NONE, "172.16.0.2/32"], ...LINUX }, "172.16.0.2", "192.168.1.20"],
  [
    "Linux with Tailscale",
    { tailscale0: [NONE, "100.101.102.103/32", "fd7a:115c:a1e0::1/128"], ...LINUX },
    "192.168.1.20",
    "192.168.1.20",
  ],
  ["Linux with mobile data", { wwan0: ["02:1e:10:1f:00:00", "10.64.12.9/30"], ...LINUX }, "10.64.12.9", "192.168.1.20"],
  [
    "Linux with a tunnel in the benchmark range",
    { Meta: ["aa:00:11:22:33:44", "198.18.0.1/30"], ...LINUX },
    "198.18.0.1",
    "192.168.1.20",
  ],
  [
    "Linux without internet, beside containers of LXD and Podman",
    {
      lo: LO,
      lxdbr0: ["00:16:3e:5a:01:22", "10.158.29.1/24", "fd42:8a3f:19d8:9d21::1/64"],
      podman0: ["fe:9c:1d:00:31:07", "10.88.0.1/16"],
      eth0: ["d8:9e:f3:11:22:33", "192.168.50.5/24"],
    },
    undefined,
    "192.168.50.5",
  ],
  [
    "Linux without internet, beside containers of nerdctl and Waydroid",
    {
      lo: LO,
      nerdctl0: ["fe:9c:1d:00:31:08", "10.4.0.1/24"],
      waydroid0: ["00:16:3e:00:00:01", "192.168.240.1/24"],
      wlp1s0: ["a0:29:42:8e:7e:20", "192.168.50.5/24"],
    },
    undefined,
    "192.168.50.5",
  ],
  [
    "a campus, where laptops have public addresses, with a VPN",
    { lo: LO, tun0: [NONE, "10.8.0.2/24"], eth0: ["d8:9e:f3:11:22:33", "198.51.100.77/22"] },
    "10.8.0.2",
    "198.51.100.77",
  ],
  [
    "a campus with addresses of Tailscale's range, with Tailscale",
    { lo: LO, tailscale0: [NONE, "100.101.102.103/32"], wlp1s0: ["a0:29:42:8e:7e:20", "100.72.1.5/20"] },
    "100.101.102.103",
    "100.72.1.5",
  ],
  [
    "such a campus without internet, beside Docker",
    {
      lo: LO,
      docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16"],
      wlp1s0: ["a0:29:42:8e:7e:20", "100.72.1.5/20"],
    },
    undefined,
    "100.72.1.5",
  ],
  [
    "a server with a public address",
    { lo: LO, eth0: ["96:00:02:11:22:33", "203.0.113.9/32"], docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16"] },
    "203.0.113.9",
    "203.0.113.9",
  ],
  [
    "a bridge that has the network card's address",
    { lo: LO, br0: ["d8:9e:f3:11:22:33", "192.168.1.9/24"], tun0: [NONE, "10.8.0.2/24"] },
    "10.8.0.2",
    "192.168.1.9",
  ],
  [
    "an interface whose name only contains such a word",
    { docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16"], thunder0: ["d8:9e:f3:11:22:33", "10.0.0.1/24"] },
    undefined,
    "10.0.0.1",
  ],
  [
    "a container, whose only interface is virtual",
    { lo: LO, eth0: ["02:42:ac:11:00:02", "172.17.0.2/16"] },
    "172.17.0.2",
    "172.17.0.2",
  ],
  [
    "WSL, beside Docker",
    { lo: LO, docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16"], eth0: ["00:15:5d:7f:f7:07", "172.28.166.9/20"] },
    "172.28.166.9",
    "172.28.166.9",
  ],
  [
    "nothing but a VPN and containers",
    { lo: LO, docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16"], wg0: [NONE, "10.44.0.3/24"] },
    "10.44.0.3",
    "10.44.0.3",
  ],
  [
    "Android, which hides all MAC addresses",
    { lo: LO, tun0: [NONE, "10.1.10.1/32"], wlan0: [NONE, "192.168.1.88/24"] },
    "10.1.10.1",
    "192.168.1.88",
  ],
  [
    "Android with a hotspot, through which it shares its mobile data",
    { lo: LO, rmnet_data0: [NONE, "10.141.20.7/28"], wlan1: [NONE, "192.168.43.1/24"] },
    "10.141.20.7",
    "192.168.43.1",
  ],
  // IPv6
  [
    "IPv6 only, with a global and a unique local address",
    {
      lo: LO,
      eth0: ["d8:9e:f3:11:22:33", "2001:db8:1:2::20/64", "fd12:3456:789a:1::20/64", "fe80::da9e:f3ff:fe11:2233/64"],
    },
    undefined,
    "fd12:3456:789a:1::20",
  ],
  [
    "IPv6 beside a container bridge with IPv4",
    {
      lo: LO,
      docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16"],
      eth0: ["d8:9e:f3:11:22:33", "fe80::da9e:f3ff:fe11:2233/64", "2001:db8:1:2::20/64"],
    },
    undefined,
    "2001:db8:1:2::20",
  ],
  [
    "a link-local IPv4 address beside a unique local IPv6 address",
    { lo: LO, eth0: ["d8:9e:f3:11:22:33", "169.254.10.20/16", "fd12:3456:789a:1::20/64"] },
    undefined,
    "fd12:3456:789a:1::20",
  ],
];

for (const [what, machine, defaultRoute, first] of CASES) {
  test(`the first address is the one that others reach: ${what}`, () => {
    const ranked = rankAddresses(report(machine), defaultRoute);
    assert.equal(ranked[0]?.address, first, JSON.stringify(ranked));
    for (const { address, name } of ranked) {
      assert.ok(
        machine[name]?.some((cidr) => cidr.startsWith(`${address}/`)),
        `${address} belongs to ${name}`,
      );
    }
  });
}

test("the default route's interface comes first if it is real, then other real ones, then virtual ones", () => {
  const machine: Record<string, Interface> = {
    docker0: ["02:42:e4:32:0d:fd", "172.17.0.1/16"],
    tun0: [NONE, "10.8.0.2/24"],
    eth1: ["d8:9e:f3:11:22:35", "fd00:1::5/64"],
    eth0: ["d8:9e:f3:11:22:33", "203.0.113.9/24", "10.0.0.1/24"],
    wlan0: ["d8:9e:f3:11:22:34", "192.168.1.2/24", "2001:db8::2/64"],
  };
  const order = (defaultRoute?: string) => rankAddresses(report(machine), defaultRoute).map(({ address }) => address);
  const virtual = ["172.17.0.1", "10.8.0.2"];
  assert.deepEqual(order("192.168.1.2"), ["192.168.1.2", "10.0.0.1", "203.0.113.9", "fd00:1::5", ...virtual]);
  assert.deepEqual(order("203.0.113.9"), ["203.0.113.9", "10.0.0.1", "192.168.1.2", "fd00:1::5", ...virtual]);
  assert.deepEqual(order(), ["10.0.0.1", "192.168.1.2", "203.0.113.9", "fd00:1::5", ...virtual]);
  const vpnFirst = ["10.8.0.2", "172.17.0.1"];
  assert.deepEqual(order("10.8.0.2"), ["10.0.0.1", "192.168.1.2", "203.0.113.9", "fd00:1::5", ...vpnFirst]);
});

test("link-local and loopback addresses are never used", () => {
  const machine: Record<string, Interface> = {
    lo: LO,
    eth0: ["d8:9e:f3:11:22:33", "169.254.1.1/16", "fe80::da9e:f3ff:fe11:2233/64"],
    awdl0: ["ae:d3:8f:66:99:01", "fe80::acd3:8fff:fe66:9901/64"],
  };
  assert.deepEqual(rankAddresses(report(machine), "169.254.1.1"), []);
  assert.deepEqual(rankAddresses({}), []);
});

test("a server that listens on one address, or on IPv4 alone, is reached at no other", () => {
  const [v4, v6] = [
    { address: "192.168.1.2", name: "eth0" },
    { address: "fd00::2", name: "eth1" },
  ];
  assert.deepEqual(listeningAddresses([v4, v6]), [v4, v6]);
  assert.deepEqual(listeningAddresses([v4, v6], "::"), [v4, v6]);
  assert.deepEqual(listeningAddresses([v4, v6], "0.0.0.0"), [v4]);
  assert.deepEqual(listeningAddresses([v4, v6], "fd00::2"), [v6]);
  assert.deepEqual(listeningAddresses([v4, v6], "127.0.0.1"), []);
});
