// The lab's network: one namespace with a bridge, and one pair of links that lets this computer reach the machines.
import { ask, LabError, run } from "./shell";
import { network } from "./settings";

const { namespace, bridge, outside, inside } = network;

/** Makes what is missing; what is there already stays, with the machines on it. */
export async function networkUp(): Promise<void> {
  if (!exists()) {
    // A namespace file without a namespace behind it is what a crash leaves.
    ask("ip", ["netns", "del", namespace]);
    await run("ip", ["netns", "add", namespace]);
  }
  await within("link", "set", "lo", "up");
  if (!linkExists(bridge, namespace)) {
    await within("link", "add", bridge, "type", "bridge", "forward_delay", "0");
    await within("address", "add", `${network.gateway}/${network.prefix}`, "dev", bridge);
  }
  // A bridge without an address of its own takes that of a port, and another when that machine dies: the gateway would be lost.
  await within("link", "set", bridge, "address", network.gatewayMac, "up");
  if (!linkExists(outside.link) || !linkExists(inside.link, namespace)) {
    ask("ip", ["link", "del", outside.link]);
    await run("ip", ["link", "add", outside.link, "type", "veth", "peer", "name", inside.link, "netns", namespace]);
    await run("ip", ["address", "add", `${outside.address}/${network.transferPrefix}`, "dev", outside.link]);
    await within("address", "add", `${inside.address}/${network.transferPrefix}`, "dev", inside.link);
  }
  await run("ip", ["link", "set", outside.link, "up"]);
  await within("link", "set", inside.link, "up");
  await within("route", "replace", "default", "via", outside.address);
  const foreign = ask("ip", ["route", "show", network.subnet])
    ?.split("\n")
    .find((line) => line !== "" && !line.includes(outside.link));
  if (foreign !== undefined) {
    throw new LabError(
      `this computer already routes ${network.subnet} elsewhere (${foreign.trim()}): remove that route, or change lab/settings.ts`,
    );
  }
  await run("ip", ["route", "replace", network.subnet, "via", inside.address]);
  await run("ip", ["netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1"]);
}

/** Removes the namespace and with it every link of the lab, also those of machines that are gone. */
export function networkDown(): void {
  ask("ip", ["route", "del", network.subnet]);
  ask("ip", ["link", "del", outside.link]);
  ask("ip", ["netns", "del", namespace]);
}

export function exists(): boolean {
  return ask("ip", ["netns", "exec", namespace, "true"]) !== undefined;
}

function linkExists(link: string, where?: string): boolean {
  return ask("ip", [...(where === undefined ? [] : ["-n", where]), "link", "show", "dev", link]) !== undefined;
}

async function within(...args: string[]): Promise<void> {
  await run("ip", ["-n", namespace, ...args]);
}
