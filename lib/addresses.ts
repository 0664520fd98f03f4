/*
 * Addresses: how they are written, which of them others can reach, and this machine's own, the best to share first.
 * Only `findLanAddresses` looks at the machine; everything else is a pure function of its arguments.
 */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";
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
    // so the default route leads there.
    socket.connect(9, "192.0.2.1");
    await once(socket, "connect");
    return rankAddresses(networkInterfaces(), socket.address().address);
  } catch {
    return rankAddresses(networkInterfaces());
  } finally {
    socket.close();
  }
}

export const PRIVATE = /^(?:10\.|192\.168\.|172\.(?:1[6-9]|2[0-9]|3[01])\.)/;
const LINK_LOCAL = /^169\.254\./;
const VIRTUAL_INTERFACE =
  /vEthernet|WSL|VirtualBox|VMware|^(?:vmnet|vboxnet|virbr|docker|br-|veth|utun|tun|tap|wg|zt|tailscale)/i;

/** The default route's address, then private IPv4 addresses, then those of virtual interfaces. Never link-local ones. */
export function rankAddresses(interfaces: ReturnType<typeof networkInterfaces>, defaultRoute?: string): LanAddress[] {
  const found = Object.entries(interfaces)
    .flatMap(([name, addresses = []]) => addresses.map((each) => ({ ...each, name })))
    .filter(({ family, internal }) => family === "IPv4" && !internal)
    .filter(({ address }) => (address === defaultRoute ? !LINK_LOCAL.test(address) : PRIVATE.test(address)));
  const rank = ({ address, name }: LanAddress): number =>
    address === defaultRoute ? 0 : 1 + Number(VIRTUAL_INTERFACE.test(name));
  return found.toSorted((a, b) => rank(a) - rank(b));
}
