import * as pulumi from "@pulumi/pulumi";
import type { Application, Machine } from "../config/model";
import { keepApart } from "./anti-affinity";
import { createApplication, type Foundation } from "./application";
import { createTier, type Member, type Platform } from "./tier";

export interface DedicatedPlatformArgs {
  platform: Platform;
  /** The VMs of the application. */
  machines: readonly Machine[];
  /** What runs on them. @default nothing: VMs of the documented size, watched by the health responder */
  application?: Application | undefined;
  foundation: Foundation;
}

/**
 * VMs for one application alone, Apache and FPM on each: the institutional site, the timetable.
 * Code comes from a Git repository and is the same, and read-only, on every VM; what the application
 * writes is on the NAS.
 *
 * ### Operations
 * - code: packed and brought first; then, one VM after the other, Apache reloads and FPM restarts
 *   under its held port. No request is lost.
 * - config file, php.ini, a password: FPM restarts under its held port.
 * - hosts: adds or removes one VM.
 */
export class DedicatedPlatform extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: DedicatedPlatformArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:dedicated:DedicatedPlatform", name, {}, opts);
    this.members = args.application ? createApplication(name, { ...args, application: args.application }, this) : bareVms(name, args, this);
    this.registerOutputs({ hosts: args.machines.map((m) => m.name) });
  }
}

/** VMs that nothing is known of but their size. */
export function bareVms(name: string, args: Pick<DedicatedPlatformArgs, "platform" | "machines">, parent: pulumi.Resource): Member[] {
  const members = createTier(name, { ...args, content: () => [] }, parent);
  keepApart(name, args.platform.placement.clusterId, members, parent);
  return members;
}
