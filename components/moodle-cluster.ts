import * as pulumi from "@pulumi/pulumi";
import type { Machine } from "../config/model";
import { keepApart } from "./anti-affinity";
import { createTier, type Member, type Platform } from "./tier";

export interface MoodleClusterArgs {
  platform: Platform;
  /** moodle1, moodle2, ...: 4 to 6 VMs. */
  machines: readonly Machine[];
}

/**
 * The VMs of Moodle. They are created with the documented size and watched by the health
 * responder; Moodle itself is not deployed by this version.
 *
 * ### Operations
 * - nodes 4 to 6: two VMs more, the others untouched.
 */
export class MoodleCluster extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: MoodleClusterArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:moodle:MoodleCluster", name, {}, opts);
    this.members = createTier(name, { platform: args.platform, machines: args.machines, content: () => [] }, this);
    keepApart(name, args.platform.placement.clusterId, this.members, this);
    this.registerOutputs({ hosts: args.machines.map((m) => m.name) });
  }
}
