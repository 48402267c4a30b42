import type { HostContent } from "../content";
import { render } from "../render";
import { kernelPart, unitDirectory, unitFile } from "./system";

/** Virtual addresses of a real server behind direct routing, silent on the wire; `sysctls` are the tier's own besides. */
export function vipPart(addresses: readonly string[], sysctls: Readonly<Record<string, string | number>> = {}): Partial<HostContent> {
  const kernel = kernelPart(["dummy"], {
    "net.ipv4.conf.all.arp_ignore": 1,
    "net.ipv4.conf.all.arp_announce": 2,
    "net.ipv4.conf.eth0.arp_ignore": 1,
    "net.ipv4.conf.eth0.arp_announce": 2,
    ...sysctls,
  });
  const unit = "fleet-vip.service";
  return {
    ...kernel,
    files: [...(kernel.files ?? []), unitFile(unit, render(__dirname, unit, { addresses }))],
    health: addresses.map((address) => ({ name: `virtual address ${address}`, kind: "address", address })),
    units: [{ name: unit, restart: [`${unitDirectory}/${unit}`], drain: true }],
  };
}
