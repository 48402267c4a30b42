import * as pulumi from "@pulumi/pulumi";
import type { Machine, VirtualService } from "../config/model";
import { keepalivedPart, type DirectorSettings } from "../templates/lvs/keepalived";
import { keepApart } from "./anti-affinity";
import { createTier, type Member, type Platform } from "./tier";

export interface LvsPairArgs {
  platform: Platform;
  /** The two directors. */
  machines: readonly Machine[];
  /** VRRP and check timing. @default 1 second each, router id 51 */
  settings: DirectorSettings;
  /** Everything that is balanced. */
  services: readonly VirtualService[];
}

/**
 * Two directors: keepalived (VRRP) holds the virtual addresses on one of them, IPVS spreads
 * connections over the real servers by direct routing, and the other learns the connections.
 *
 * ### Operations
 * - a service or real server: keepalived reloads on one director after the other.
 * - advert or check interval: reload; the VIPs stay where they are.
 * - vcpu, memory: as {@link Host}.
 */
export class LvsPair extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: LvsPairArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:lvs:LvsPair", name, {}, opts);
    const { platform, machines } = args;
    this.members = createTier(
      name,
      { platform, machines, content: (m) => [keepalivedPart(m, machines, args.settings, args.services)] },
      this,
    );
    keepApart(name, platform.placement.clusterId, this.members, this);
    this.registerOutputs({ hosts: machines.map((m) => m.name) });
  }
}
