import * as pulumi from "@pulumi/pulumi";
import type { Fleet, Machine, Site } from "../config/model";
import { apachePart } from "../templates/apache/apache";
import { mountPart } from "../templates/nas/mount";
import { vipPart } from "../templates/system/vip";
import { keepApart } from "./anti-affinity";
import { createTier, type Member, type Platform } from "./tier";

export interface ApacheTierArgs {
  platform: Platform;
  /** The VMs; each serves every site. */
  machines: readonly Machine[];
  sites: readonly Site[];
  /** Address that the balancers hold for the tier. */
  vip: string;
  /** Address of each PHP group by its name. */
  phpVips: Readonly<Record<string, string>>;
  /** Where the sites' files are mounted from, read-only. */
  nas: NonNullable<Fleet["config"]["nas"]>;
  /** What Apache does with links in sites' trees; see `fleet:mutualised.apache.symbolicLinks`. */
  symbolicLinks: "none" | "owner";
  /** What must be configured first: a NAS on a VM. @default nothing */
  after?: readonly pulumi.Resource[];
}

/**
 * Apache httpd with the event MPM on each VM: TLS, one vhost for each site, static files from the
 * NAS, PHP by FastCGI through the site's PHP group.
 *
 * ### Operations
 * - a vhost, a certificate: Apache reloads gracefully, one VM after the other.
 * - hosts: adds or removes one VM, one more or less real server on the directors.
 */
export class ApacheTier extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: ApacheTierArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:web:ApacheTier", name, {}, opts);
    const { platform, machines, nas } = args;
    const mount = mountPart(nas, "ro", args.symbolicLinks === "none" ? "none" : "followed");
    this.members = createTier(
      name,
      {
        platform,
        machines,
        content: (m) => [vipPart([args.vip]), mount, apachePart(m, args.vip, args.sites, args.phpVips)],
        ...(args.after ? { after: args.after } : {}),
      },
      this,
    );
    keepApart(name, platform.placement.clusterId, this.members, this);
    this.registerOutputs({ hosts: machines.map((m) => m.name) });
  }
}
