/*
 * Addresses: how they are written, which of them others can reach, and this machine's own, the best to share first.
 * Only `findLanAddresses` looks at the machine; everything else is a pure function of its arguments.
 */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { isIPv4, isIPv6 } from "node:net";
import { networkInterfaces } from "node:os";

/** An address as people write it: no IPv6 form of an IPv4 address, no interface name. */
export function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=[0-9]+\.)/i, "").replace(/%.*$/, "");
}

/** Whether a host, with or without a port, leads to this machine alone when opened in a browser. */
export function isLoopback(host: string): boolean {
  return /^(?:localhost\.?|127(?:\.[0-9]+){3}|0\.0\.0\.0|\[?::1?\]?)(?::[0-9]+)?$/i.test(host);
}

/** What --host may be to listen on all addresses, as the server does without it. */
export const UNSPECIFIED_ADDRESS = /^(?:::|0\.0\.0\.0)$/;

/** The scheme, host and port of a URL, without the port if it is the scheme's default. */
export function addressUrl(scheme: string, address: string, port: number): string {
  return new URL(`${scheme}://${isIPv6(address) ? `[${address}]` : address}:${port}`).origin;
}

/** An address of this machine, and the name of its network interface. */
export type LanAddress = { readonly address: string; readonly name: string };

/** This machine's addresses on its networks, the best to share first. */
export async function findLanAddresses(): Promise<LanAddress[]> {
  const socket = createSocket("udp4");
  try {
    // Connecting a UDP socket looks up the route and sends nothing. 192.0.2.1 is reserved for documentation (RFC 5737),
    // so the default route leads there, or the two halves of it that OpenVPN and wg-quick put in front (128.0.0.0/1).
    socket.connect(9, "192.0.2.1");
    await once(socket, "connect");
    return rankAddresses(networkInterfaces(), socket.address().address);
  } catch {
    return rankAddresses(networkInterfaces());
  } finally {
    socket.close();
  }
}

/** Private IPv4 addresses (RFC 1918). */
export const PRIVATE = /^(?:10\.|192\.168\.|172\.(?:1[6-9]|2[0-9]|3[01])\.)/;

/** Addresses that no other device can use: link-local ones (in a link, IPv6 would need the name of the reader's own
 * interface), and those by which a Mac reaches IPv4 from an IPv6 network (RFC 7335). */
const UNUSABLE = /^(?:169\.254\.|192\.0\.0\.|fe[89ab])/i;

/** Unique local addresses (RFC 4193), the private addresses of IPv6. */
const UNIQUE_LOCAL = /^f[cd]/i;

/** Ranges of VPNs: carrier-grade NAT (RFC 6598), which Tailscale uses too, and the benchmark range (RFC 2544), which
 * proxies such as Clash use. */
const VPN_RANGE = /^(?:100\.(?:6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.|198\.1[89]\.)/;

/** Names that begin like this belong to containers, virtual machines, VPNs and mobile data on Linux and macOS. A Linux
 * bridge br0 and a Mac's bridge0 are real; br-<hex> is Docker's, and bridge100 and up are for virtual machines. */
const VIRTUAL_PREFIX = new RegExp(
  `^(?:${[
    "docker|podman|nerdctl|cni|veth|br-|lxcbr|lxdbr|incusbr|virbr|vnet|flannel|cali|cilium|kube|mpqemubr|waydroid|dummy|ifb", // Linux
    "vmnet|vboxnet|vnic|vmenet|bridge1\\d\\d|feth|gif|stf", // macOS, and hypervisors on both
    "u?tun|tap|wg|nordlynx|nordtun|zt|tailscale|ppp|ipsec|xfrm|cscotun|gpd|proton|pvpn|ipv6leak|mullvad|ham\\d|snx|fctvpn",
    "ww|rmnet|ccmni", // mobile data: wwan0, wwp0s20f0u6, and Android's rmnet_data0 and ccmni0
  ].join("|")})`,
);

/** Words in the names that Windows shows, and in those of a few products elsewhere. */
const VIRTUAL_WORD =
  /VirtualBox|VMware|Parallels|Hyper-V|\bWSL\b|Default Switch|Docker|VPN|\bTAP\b|\bTUN\b|Wintun|WireGuard|NordLynx|Tailscale|ZeroTier|Hamachi|Mullvad|WARP|Tunnel|Teredo|isatap|Cellular/i;

/** Adapters that Windows calls "Ethernet 2" or "Local Area Connection", by the MAC addresses their drivers set:
 * OpenVPN's TAP, Cisco AnyConnect, Palo Alto's GlobalProtect, and VirtualBox's host-only network. */
const VIRTUAL_MAC = /^(?:00:ff:|00:05:9a:3c:7a:|02:50:41:|0a:00:27:)/i;

/** A tunnel has no MAC address: WireGuard's, which is named after its file, and those built into Windows. */
const NO_MAC = "00:00:00:00:00:00";

/** Hyper-V's own switches. An adapter on an external switch has the address and the MAC of the network card instead. */
const HYPER_V = { name: /^vEthernet/i, mac: /^00:15:5d:/i };

type Interfaces = ReturnType<typeof networkInterfaces>;
type Found = LanAddress & { readonly family: string; readonly netmask: string; readonly mac: string };

/** This machine's addresses that others may reach, the best to share first: the default route's, if its interface is
 * real; then the private and the other addresses of real interfaces; then those of virtual interfaces and VPNs. IPv6
 * only for an interface without IPv4, and one address of it, unique-local rather than global. `defaultRoute`: the local
 * address from which the internet is reached. */
export function rankAddresses(interfaces: Interfaces, defaultRoute?: string): LanAddress[] {
  const found = Object.entries(interfaces)
    .flatMap(([name, addresses = []]) => addresses.map((each) => ({ ...each, name })))
    .filter(({ address, internal }) => !internal && !UNUSABLE.test(address));
  // Android hides all MAC addresses.
  const hasMacs = found.some(({ mac }) => mac !== NO_MAC);
  const rank = (each: Found): number => {
    const isDefault = each.address === defaultRoute;
    if (isVirtual(each) || (hasMacs && each.mac === NO_MAC)) return isDefault ? 5 : 6;
    if (isOnVpn(each)) return 4;
    if (each.family === "IPv6") return 3;
    return isDefault ? 0 : 1 + Number(!PRIVATE.test(each.address));
  };
  const usable = found.filter((each) => each.family === "IPv4" || each === chooseIpv6(found, each.name));
  return usable.toSorted((a, b) => rank(a) - rank(b)).map(({ address, name }) => ({ address, name }));
}

function isVirtual({ name, mac }: Found): boolean {
  if (VIRTUAL_PREFIX.test(name) || VIRTUAL_WORD.test(name) || VIRTUAL_MAC.test(mac)) return true;
  return HYPER_V.name.test(name) && HYPER_V.mac.test(mac);
}

/** Whether an address looks like that of a VPN. Some campuses use the same range, and some rented servers have a network
 * of one address, so an interface that only looks like this still ranks above the ones that are certainly virtual. */
function isOnVpn({ address, netmask }: Found): boolean {
  return VPN_RANGE.test(address) || netmask === "255.255.255.255";
}

/** The IPv6 address of an interface that has no IPv4 address. */
function chooseIpv6(found: Found[], name: string): Found | undefined {
  const own = found.filter((each) => each.name === name);
  if (own.some(({ family }) => family === "IPv4")) return undefined;
  return own.find(({ address }) => UNIQUE_LOCAL.test(address)) ?? own[0];
}

/** Those of this machine's addresses at which a server listens that was started with `--host`. */
export function listeningAddresses(found: LanAddress[], host = "::"): LanAddress[] {
  if (host === "::") return found;
  return found.filter(({ address }) => (host === "0.0.0.0" ? isIPv4(address) : address === host));
}
