import type { Application, Machine, PhpGroup, Site, VirtualService } from "./model";

/** Ports that visitors ask; each Apache VM answers on both. */
const webPorts = [80, 443] as const;

/** Ports of a site on its group's address: its own, and that of its trial. */
const portsOf = ({ port, php: { trial } }: Site): number[] => [port, ...(trial ? [trial.port] : [])];

/**
 * All that the directors balance: the mutualised web servers, each PHP group on its sites' ports, and each application.
 * What has no site has no service: a group without sites, VMs without an application.
 */
export function servicesOf(
  webVip: string | undefined,
  machines: readonly Machine[],
  groups: readonly PhpGroup[],
  applications: readonly Application[],
): VirtualService[] {
  const web = (name: string, vip: string, of: readonly Machine[]): VirtualService => ({
    name,
    kind: "web",
    vip,
    ports: webPorts,
    realServers: serversOf(of),
  });
  const apache = machines.filter((m) => m.role === "apache");
  return [
    ...(webVip === undefined ? [] : [web("web", webVip, apache)]),
    ...groups
      .filter((g) => g.sites.length > 0)
      .map((g) => ({
        name: g.name,
        kind: "php" as const,
        vip: g.vip,
        ports: g.sites.flatMap(portsOf).sort((a, b) => a - b),
        realServers: serversOf(g.machines),
      })),
    ...applications.map((a) => web(a.name, a.vip, a.machines)),
  ];
}

const serversOf = (machines: readonly Machine[]): VirtualService["realServers"] => machines.map(({ name, address }) => ({ name, address }));
