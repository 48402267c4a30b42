import * as pulumi from "@pulumi/pulumi";
import type { Machine } from "../config/model";
import { keepApart } from "./anti-affinity";
import { createTier, type Member, type Platform } from "./tier";

export interface DedicatedPlatformArgs {
  platform: Platform;
  /** The VMs of the application. */
  machines: readonly Machine[];
}

/**
 * VMs for one application alone. They are created with the documented size and watched by the
 * health responder; the application's own services are not deployed by this version.
 *
 * ### Operations
 * - hosts: adds or removes one VM.
 */
export class DedicatedPlatform extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: DedicatedPlatformArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:dedicated:DedicatedPlatform", name, {}, opts);
    this.members = createTier(name, { platform: args.platform, machines: args.machines, content: () => [] }, this);
    keepApart(name, args.platform.placement.clusterId, this.members, this);
    this.registerOutputs({ hosts: args.machines.map((m) => m.name) });
  }
}
