import fc from "fast-check";
import { expect, it } from "vitest";
import { fewestPrefixes, inNetwork, isIPv4, isNetwork, macAddress, prefixLength } from "../../config/network";
import { formatMegabytes, megabytes, seconds } from "../../config/units";

const address = fc.ipV4();

it("a network with host bits set is refused, its network address is taken", () => {
  expect(isNetwork("10.77.0.1/24")).toBe(false);
  expect(isNetwork("10.77.0.0/24")).toBe(true);
  expect(isNetwork("10.77.0.0")).toBe(false);
});

it("the network and broadcast addresses are no host addresses", () => {
  expect(inNetwork("10.77.0.0", "10.77.0.0/24")).toBe(false);
  expect(inNetwork("10.77.0.255", "10.77.0.0/24")).toBe(false);
  expect(inNetwork("10.77.0.1", "10.77.0.0/24")).toBe(true);
  expect(inNetwork("10.77.1.1", "10.77.0.0/24")).toBe(false);
  expect(prefixLength("10.77.0.0/22")).toBe(22);
});

it("every IPv4 address is taken and nothing with a fifth part or a letter", () => {
  fc.assert(fc.property(address, (a) => isIPv4(a)));
  fc.assert(fc.property(address, fc.nat(255), (a, n) => !isIPv4(`${a}.${n}`)));
  fc.assert(fc.property(address, (a) => !isIPv4(`${a}x`)));
});

it("prefixes cover the very addresses that were given, and no two of them are halves of a third", () => {
  expect(fewestPrefixes(["10.77.0.5", "10.77.0.4", "10.77.0.100"])).toEqual(["10.77.0.100", "10.77.0.4/31"]);
  expect(fewestPrefixes(["10.77.0.5", "10.77.0.6"])).toEqual(["10.77.0.5", "10.77.0.6"]);
  const numbers = fc.uniqueArray(fc.integer({ min: 200, max: 280 }));
  const text = (n: number): string => `255.20.${n >> 8}.${n & 255}`;
  const lowest = 255 * 2 ** 24 + 20 * 2 ** 16; // 255.20.0.0, where numbers of 32 bits with a sign are negative
  const number = (of: string): number => of.split(".").reduce((n, byte) => n * 256 + Number(byte), 0) - lowest;
  fc.assert(
    fc.property(numbers, (given) => {
      const networks = fewestPrefixes(given.map(text)).map((prefix) => {
        const [first = "", bits = "32"] = prefix.split("/");
        return { first: number(first), size: 2 ** (32 - Number(bits)) };
      });
      const covered = networks.flatMap(({ first, size }) => Array.from({ length: size }, (_, i) => first + i));
      expect(covered.sort()).toEqual([...given].sort());
      const halves = networks.filter(({ first, size }) => networks.some((n) => n.size === size && n.first === (first ^ size)));
      expect(halves).toEqual([]);
    }),
  );
});

it("two addresses of one segment never share a MAC, and each is in VMware's range for administrators", () => {
  const host = fc.nat(0xffff);
  const text = (n: number): string => `10.20.${n >> 8}.${n & 255}`;
  fc.assert(fc.property(host, host, (a, b) => (a === b) === (macAddress(text(a)) === macAddress(text(b)))));
  fc.assert(fc.property(address, (a) => /^00:50:56:[0-3][0-9a-f](:[0-9a-f]{2}){2}$/.test(macAddress(a))));
});

it("sizes read back as they were written", () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 1 << 20 }), (mb) => megabytes(formatMegabytes(mb)) === mb));
});

it.each(["4G", "4 gb", "GB", "-1 GB", "4  GB", ""])("the size %j is refused", (text) => {
  expect(megabytes(text)).toBeUndefined();
});

it.each([
  ["1 second", 1],
  ["0.5 seconds", 0.5],
  ["2 minutes", 120],
] as const)("%s is %d s", (text, value) => {
  expect(seconds(text)).toBe(value);
});

it.each(["1s", "1", "second", "1 hour"])("the duration %j is refused", (text) => {
  expect(seconds(text)).toBeUndefined();
});
