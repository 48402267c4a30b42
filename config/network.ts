import ipaddr from "ipaddr.js";

/** Whether the text is an IPv4 address in dotted form with four numbers. */
export function isIPv4(text: string): boolean {
  return ipaddr.IPv4.isValidFourPartDecimal(text);
}

/** Whether the text is an IPv4 network such as `10.20.0.0/24`, with no host bits set. */
export function isNetwork(text: string): boolean {
  if (!/\/\d+$/.test(text) || !ipaddr.IPv4.isValidCIDRFourPartDecimal(text)) return false;
  return ipaddr.IPv4.networkAddressFromCIDR(text).toString() === text.split("/")[0];
}

/** Whether the address is a usable host address of the network. */
export function inNetwork(address: string, cidr: string): boolean {
  const [network, bits] = ipaddr.IPv4.parseCIDR(cidr);
  const parsed = ipaddr.IPv4.parse(address);
  if (!parsed.match(network, bits)) return false;
  const broadcast = ipaddr.IPv4.broadcastAddressFromCIDR(cidr).toString();
  return bits > 30 || (address !== network.toString() && address !== broadcast);
}

/** The prefix length of a network: 24 for `10.20.0.0/24`. */
export function prefixLength(cidr: string): number {
  return ipaddr.IPv4.parseCIDR(cidr)[1];
}

/** The same addresses in the fewest prefixes that cover them and no other: two halves of a network are that network. */
export function fewestPrefixes(addresses: readonly string[]): string[] {
  const numbers = addresses.map((a) =>
    ipaddr.IPv4.parse(a)
      .toByteArray()
      .reduce((n, byte) => n * 256 + byte, 0),
  );
  return merged(new Set(numbers), 1).sort();
}

/** Networks of `size` addresses each, by their first one, and what of them makes larger ones. */
function merged(networks: ReadonlySet<number>, size: number): string[] {
  if (networks.size === 0) return [];
  const whole = [...networks].filter((n) => n % (2 * size) === 0 && networks.has(n + size));
  const halves = new Set(whole.flatMap((n) => [n, n + size]));
  const alone = [...networks].filter((n) => !halves.has(n));
  return [...alone.map((n) => prefix(n, size)), ...merged(new Set(whole), 2 * size)];
}

function prefix(first: number, size: number): string {
  const address = [24, 16, 8, 0].map((shift) => (first >>> shift) & 255).join(".");
  return size === 1 ? address : `${address}/${32 - Math.log2(size)}`;
}

/**
 * The MAC address of a VM, derived from its address so that cloud-init can name the card before
 * anything else is known of it. 00:50:56:00:00:00 to 00:50:56:3f:ff:ff is the range that VMware
 * leaves to administrators (vSphere documentation, "Static MAC Address Assignment").
 */
export function macAddress(address: string): string {
  const bytes = ipaddr.IPv4.parse(address).toByteArray().slice(1);
  const [high = 0, middle = 0, low = 0] = bytes;
  const hex = [high & 0x3f, middle, low].map((b) => b.toString(16).padStart(2, "0"));
  return `00:50:56:${hex.join(":")}`;
}
