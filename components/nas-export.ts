import * as pulumi from "@pulumi/pulumi";
import type { Fleet, Machine, Site } from "../config/model";
import { nasServerPart, type NfsClient } from "../templates/nas/server";
import { createTier, type Member, type Platform } from "./tier";

export interface NasExportArgs {
  platform: Platform;
  /** What `fleet:nas` says. */
  nas: NonNullable<Fleet["config"]["nas"]>;
  /** The NAS VM; none for an appliance. */
  machines: readonly Machine[];
  sites: readonly Site[];
  /** VMs that may mount the sites. */
  clients: readonly NfsClient[];
}

/**
 * Where the sites' files are. Kind `appliance`: a NAS that exists; the program takes its address
 * and never changes it. Kind `vm`: a Linux VM with btrfs that exports by NFS 4.2.
 *
 * ### Operations
 * - clients: exports are read again, nothing restarts.
 * - snapshots: counts from the next hour on.
 * - a site's quota: at once where its directory was made with one; else see docs/operations.md.
 * - dataDisk: the virtual disk grows; the file system is grown by hand.
 * - appliance address or export: every client's mount restarts.
 */
export class NasExport extends pulumi.ComponentResource {
  readonly members: readonly Member[];
  /** What a client of the export must wait for; empty for an appliance. */
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: NasExportArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:nas:NasExport", name, {}, opts);
    const { nas } = args;
    this.members =
      nas.kind === "appliance"
        ? []
        : createTier(
            name,
            {
              platform: args.platform,
              machines: args.machines,
              content: () => [nasServerPart(args.sites, args.clients, nas.snapshots)],
              extras: () => ({
                filesystems: [{ device: nas.dataDevice, type: "btrfs", label: "fleet-data" }],
              }),
            },
            this,
          );
    this.ready = this.members.map((m) => m.config.nodes.gate);
    this.registerOutputs({ address: nas.address });
  }
}
