import * as pulumi from "@pulumi/pulumi";
import type { Fleet, PhpBuild, PhpGroup } from "../config/model";
import { buildsOn } from "../config/php-builds";
import { mountPart } from "../templates/nas/mount";
import { fpmPart, fpmSysctls, restPart, type FpmSurroundings } from "../templates/php/fpm";
import { vipPart } from "../templates/system/vip";
import { keepApart } from "./anti-affinity";
import type { Artefact } from "./host-config";
import { createTier, type Member, type Platform } from "./tier";

export interface PhpFpmTierArgs {
  platform: Platform;
  /** The group: its VMs, its PHP builds, its sites. */
  group: PhpGroup;
  /** Addresses of the Apache VMs and of the PHP tier itself. */
  around: FpmSurroundings;
  /** Archive of each PHP build by its artefact name. */
  artefacts: Readonly<Record<string, pulumi.Input<Artefact>>>;
  /** Where the sites' files are mounted from. */
  nas: NonNullable<Fleet["config"]["nas"]>;
  /** What must be configured first: a NAS on a VM. @default nothing */
  after?: readonly pulumi.Resource[];
}

/**
 * One group of PHP VMs: every site is a hardened systemd service of its own, with its own uid, FPM
 * master and mount namespace, behind a port that systemd holds.
 *
 * ### Operations
 * - a site's pool, php.ini or PHP build: that site's service restarts under its held port; requests
 *   wait, none is lost.
 * - a new site: one socket and one service more on each VM.
 * - hosts: adds or removes one VM.
 * - debian of one of the hosts: that VM is drained and replaced; it gets the PHP builds of its own release.
 */
export class PhpFpmTier extends pulumi.ComponentResource {
  readonly members: readonly Member[];

  constructor(name: string, args: PhpFpmTierArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:php:PhpFpmTier", name, {}, opts);
    const { platform, group } = args;
    this.members = createTier(
      name,
      {
        platform,
        machines: group.machines,
        content: (machine) => [
          vipPart([group.vip], fpmSysctls),
          mountPart(args.nas, "rw"),
          fpmPart(machine, group, args.around),
          restPart(machine.address, group.idleSeconds),
        ],
        extras: (machine) => ({ artefacts: buildsOn(machine, group.builds).map((build) => archiveOf(build, args.artefacts)) }),
        ...(args.after ? { after: args.after } : {}),
      },
      this,
    );
    keepApart(name, platform.placement.clusterId, this.members, this);
    this.registerOutputs({ hosts: group.machines.map((m) => m.name) });
  }
}

/** Archive of a build. */
export function archiveOf({ artefact }: PhpBuild, archives: PhpFpmTierArgs["artefacts"]): pulumi.Input<Artefact> {
  const found = archives[artefact];
  if (!found) throw new Error(`no builder compiles ${artefact}`);
  return found;
}
