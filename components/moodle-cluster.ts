import * as pulumi from "@pulumi/pulumi";
import type { Application, Machine } from "../config/model";
import { createApplication, type Foundation } from "./application";
import { bareVms } from "./dedicated-platform";
import type { Member, Platform } from "./tier";

export interface MoodleClusterArgs {
  platform: Platform;
  /** moodle1, moodle2, ...: 4 to 6 VMs. */
  machines: readonly Machine[];
  /** The Moodle that they run. @default none: VMs of the documented size, watched by the health responder */
  application?: Application | undefined;
  foundation: Foundation;
}

/**
 * The VMs of Moodle, Apache and FPM on each: the same read-only code from a Git repository, dataroot on
 * the NAS, sessions in Redis, cron on one node at a time.
 *
 * ### Operations
 * - nodes 4 to 6: two VMs more, the others untouched; back to 4: the directors send the two nothing
 *   more, wait for what is under way, and the VMs are deleted.
 * - code: `fleet moodle upgrade`, which asks Moodle whether an outage is needed. An `up` alone refuses
 *   code for which the database must be upgraded.
 * - config.php, php.ini, a password: FPM restarts under its held port, one node after the other.
 */
export class MoodleCluster extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: MoodleClusterArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:moodle:MoodleCluster", name, {}, opts);
    this.members = args.application ? createApplication(name, { ...args, application: args.application }, this) : bareVms(name, args, this);
    this.registerOutputs({ hosts: args.machines.map((m) => m.name) });
  }
}
