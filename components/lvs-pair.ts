import * as pulumi from "@pulumi/pulumi";
import type { Machine, VirtualService } from "../config/model";
import type { HostContent } from "../templates/content";
import { keepalivedPart } from "../templates/lvs/keepalived";
import { reachPart } from "../templates/lvs/reach";
import type { DirectorSettings } from "../templates/lvs/settings";
import { sorryPart } from "../templates/lvs/sorry";
import { keepApart } from "./anti-affinity";
import { createTier, type Member, type Platform } from "./tier";

export interface LvsPairArgs {
  platform: Platform;
  /** The two directors. */
  machines: readonly Machine[];
  /** VRRP, checks and connection synchronisation; see fleet:balancers for their defaults and where these come from. */
  settings: DirectorSettings;
  /** Everything that is balanced. */
  services: readonly VirtualService[];
}

/**
 * Two directors: keepalived (VRRP) holds the virtual addresses on one of them, IPVS spreads
 * connections over the real servers by direct routing, and the other learns the connections. A web
 * service without a server left gets a sorry page from the director itself.
 *
 * ### Operations
 * - a service or real server: keepalived reloads on one director after the other.
 * - advert interval, checks, connection synchronisation: reload; the VIPs stay where they are.
 * - certificate: the sorry page's service restarts.
 * - vcpu, memory: as {@link Host}.
 */
export class LvsPair extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: LvsPairArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:lvs:LvsPair", name, {}, opts);
    const { platform, machines } = args;
    this.members = createTier(name, { platform, machines, content: (m) => directorParts(m, machines, args.settings, args.services) }, this);
    keepApart(name, platform.placement.clusterId, this.members, this);
    this.registerOutputs({ hosts: machines.map((m) => m.name) });
  }
}

/** What a director of the pair contains. */
export function directorParts(
  machine: Machine,
  pair: readonly Machine[],
  settings: DirectorSettings,
  services: readonly VirtualService[],
): Partial<HostContent>[] {
  const partners = pair.filter((m) => m.name !== machine.name);
  return [sorryPart(), keepalivedPart(machine, pair, settings, services), reachPart(partners, settings)];
}
