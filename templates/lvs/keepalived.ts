import { healthPort } from "../../config/load";
import type { Machine, VirtualService } from "../../config/model";
import type { HostContent } from "../content";
import { programFile } from "../programs";
import { render } from "../render";
import { kernelPart, trialCheck, unitDirectory, unitFile } from "../system/system";
import { unreachedFile } from "./reach";
import { checkPause, type DirectorSettings } from "./settings";

/** How connections are spread, in the words of ipvsadm and in its order: so the kernel's answer can be compared. */
const scheduler = { name: "mh", flags: ["mh-fallback", "mh-port"] } as const;

/** keepalived on one director: the first host of the pair has the higher priority at a fresh start. */
export function keepalivedPart(
  machine: Machine,
  pair: readonly Machine[],
  settings: DirectorSettings,
  services: readonly VirtualService[],
): Partial<HostContent> {
  const config = "/etc/keepalived/fleet.conf";
  const unit = "fleet-keepalived.service";
  const vips = [...new Set(services.map((s) => s.vip))];
  const view = {
    leaving: "/run/fleet-keepalived/leaving",
    unreached: unreachedFile,
    name: machine.name,
    address: machine.address,
    interface: "eth0",
    routerId: settings.virtualRouterId,
    priority: 150 - 50 * pair.findIndex((m) => m.name === machine.name),
    advertInterval: settings.advertSeconds,
    checkInterval: settings.checkSeconds,
    checkTimeout: settings.checkTimeoutSeconds,
    checkPause,
    connectionSync: settings.connectionSync,
    healthPort,
    scheduler,
    peers: pair.filter((m) => m.name !== machine.name).map((m) => m.address),
    announced: `169.254.77.${settings.virtualRouterId}`,
    vips,
    services: services.map((s) => ({
      name: s.name,
      sorry: s.kind === "web",
      ports: s.ports.map((port) => ({ vip: s.vip, port })),
      realServers: s.realServers,
    })),
  };
  const kernel = kernelPart(["ip_vs", "ip_vs_mh"], {
    // A connection to a server that is gone is reset at once instead of vanishing for minutes.
    "net.ipv4.vs.expire_nodest_conn": 1,
    // A reused client port gets its old server; the other settings delay or drop such a connection.
    "net.ipv4.vs.conn_reuse_mode": 0,
    // A connection that began at the other director goes on here; without it, a take-over resets every one
    // that is younger than the kernel's synchronisation (up to 2 s and its third packet).
    "net.ipv4.vs.sloppy_tcp": 1,
    // The kernel's default (6168) without "destination unreachable": that is how a connection to a service without a
    // server is refused, and at the default's one a second Apache would wait up to 5 s for the others.
    "net.ipv4.icmp_ratemask": 6160,
  });
  const balanced = services.flatMap((s) =>
    s.ports.map((port) => ({
      name: `${s.vip}:${port}`,
      scheduler: `${scheduler.name} -b ${scheduler.flags.join(",")}`,
      servers: s.realServers.map((r) => r.address),
    })),
  );
  // What a candidate must balance, beside the template that says how.
  const wanted = { vips, services: Object.fromEntries(balanced.map(({ name, servers }) => [name, servers])) };
  return {
    ...kernel,
    packages: ["keepalived", "ipvsadm"],
    files: [
      ...(kernel.files ?? []),
      { path: config, text: render(__dirname, "keepalived.conf", view) },
      unitFile(unit, render(__dirname, unit, view)),
      { path: "/etc/fleet/balancing.json", text: `${JSON.stringify(wanted, null, 2)}\n` },
      programFile("trial.py"),
      programFile("reloaded.py"),
    ],
    checks: [
      { name: "keepalived", argv: ["/usr/sbin/keepalived", "--config-test", "--use-file", config] },
      trialCheck("servers that take requests now", ["servers"], [config]),
    ],
    units: [{ name: unit, reload: [config], restart: [`${unitDirectory}/${unit}`], leave: true }],
    health: [{ name: "keepalived", kind: "unit", unit }],
    vips,
    services: balanced,
  };
}
