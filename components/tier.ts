import * as pulumi from "@pulumi/pulumi";
import type { Fleet, Machine } from "../config/model";
import { join, type HostContent } from "../templates/content";
import { systemPart } from "../templates/system/system";
import { Host, type HostArgs } from "./host";
import { HostConfig, type HostConfigArgs } from "./host-config";
import type { Placement } from "./placement";

/** What every tier is given: the platform in plain values, its place, its secrets. */
export interface Platform {
  readonly fleet: Fleet;
  readonly placement: Placement;
  /** Secret texts by name; `sshPrivateKey` is the program's own way in. */
  readonly secrets: Readonly<Record<string, pulumi.Input<string>>> & { readonly sshPrivateKey: pulumi.Input<string> };
  /** Key of the digests that stand for secrets in bundles. */
  readonly digestKey: pulumi.Input<string>;
}

export interface TierArgs {
  readonly platform: Platform;
  readonly machines: readonly Machine[];
  /** Content of one VM. */
  readonly content: (machine: Machine) => readonly Partial<HostContent>[];
  /** Beside the content: PHP builds, file systems, programs. @default none */
  readonly extras?: (machine: Machine) => Pick<HostConfigArgs, "artefacts" | "filesystems" | "programs">;
  /** What must be configured before any VM of the tier. @default nothing */
  readonly after?: readonly pulumi.Resource[];
  readonly transform?: HostArgs["transform"];
}

/** A VM of a tier and what it contains. */
export interface Member {
  readonly host: Host;
  readonly config: HostConfig;
}

/**
 * Creates the VMs of one tier. All are born and given their base side by side; their contents are
 * changed one VM after the other, unless the stack says `rollout: parallel`.
 */
export function createTier(tier: string, args: TierArgs, parent: pulumi.Resource): Member[] {
  const { platform } = args;
  const serial = platform.fleet.config.rollout === "serial";
  const members: Member[] = [];
  for (const machine of args.machines) {
    const host = new Host(
      tier,
      {
        machine,
        config: platform.fleet.config,
        placement: platform.placement,
        sshPrivateKey: platform.secrets.sshPrivateKey,
        ...(args.transform ? { transform: args.transform } : {}),
      },
      { parent },
    );
    const parts = args.content(machine);
    const own = join(...parts);
    const content = join(...parts, systemPart(machine, own.units, own.health));
    const previous = members.at(-1);
    const config = new HostConfig(
      tier,
      {
        host,
        content,
        secrets: platform.secrets,
        digestKey: platform.digestKey,
        ...args.extras?.(machine),
        after: [...(args.after ?? []), ...(serial && previous ? [previous.config.nodes.config] : [])],
      },
      { parent },
    );
    members.push({ host, config });
  }
  return members;
}
