// The lab's fixed facts: addresses and names. One place, so that nothing else spells them.
/**
 * A second lab beside the first on one computer: FLEET_LAB_NUMBER 1 to 9 gives it networks, names and a port of its own.
 */
export const labNumber = Number(process.env["FLEET_LAB_NUMBER"] ?? 0);
if (!Number.isInteger(labNumber) || labNumber < 0 || labNumber > 9) {
  throw new Error(`FLEET_LAB_NUMBER is "${process.env["FLEET_LAB_NUMBER"]}": give a number from 0 to 9, or leave it unset`);
}
const suffix = labNumber === 0 ? "" : String(labNumber);
const net = `10.${77 + labNumber}`;

/** What is committed is written for number 0; this is the same text with the addresses of this lab. */
export const relocated = (text: string): string => text.replaceAll("10.77.", `${net}.`);

export const network = {
  /** Everything of the lab's network is inside this namespace, so removing it removes all of it. Also the cgroups' name. */
  namespace: `fleet-lab${suffix}`,
  bridge: "br0",
  /** The machines' network. The host side is their gateway. */
  gateway: `${net}.0.1`,
  gatewayMac: "00:50:56:4d:00:01",
  prefix: 24,
  subnet: `${net}.0.0/24`,
  /** The way between the namespace and this computer: a pair of linked interfaces. */
  outside: { link: `fleet-lab${suffix}o`, address: `${net}.1.1` },
  inside: { link: `fleet-lab${suffix}i`, address: `${net}.1.2` },
  transferPrefix: 30,
} as const;

export const vcenter = { listen: `127.0.0.1:${8989 + labNumber}`, user: "administrator@vsphere.local" } as const;

/** Caching proxy for Debian packages, for guests. */
export const aptProxy = { address: network.outside.address, port: 3142 } as const;

/** The machine that stands for the university's existing services; the program does not manage it. */
export const annex = { name: "annex", address: `${net}.0.5`, mac: "00:50:56:4d:00:05", memoryMb: 640 } as const;

/**
 * Debian releases guests can be cloned of: vSphere's names beside Debian's. The lab makes those of the releases that
 * the stack's configuration names.
 */
export const templates = [
  { name: "debian-12", guestId: "debian12_64Guest", release: "bookworm" },
  // The same under another name: what an operator who has built a newer template goes over to.
  { name: "debian-12-newer", guestId: "debian12_64Guest", release: "bookworm" },
  { name: "debian-13", guestId: "debian13_64Guest", release: "trixie" },
] as const;

/** VMs whose names match run natively: compiling in a User-Mode guest takes 3 to 12 times as long. */
export const nativePattern = "*build*";
