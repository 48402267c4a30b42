import * as pulumi from "@pulumi/pulumi";
import { healthPort } from "../config/load";
import type { Fleet, Machine } from "../config/model";
import { seconds } from "../config/units";
import { join, type HostContent, type Rollout } from "../templates/content";
import { systemPart } from "../templates/system/system";
import { Host, type HostArgs } from "./host";
import type { Leaving } from "./leaving";
import { HostConfig, type HostConfigArgs } from "./host-config";
import type { Placement } from "./placement";
import type { RedisAccess } from "./redis-users";

/** What every tier is given: the platform in plain values, its place, its secrets. */
export interface Platform {
  readonly fleet: Fleet;
  /** The vCenter that every VM is in, by explicit provider: its password is none of the stack's configuration. */
  readonly providers: { readonly vsphere: pulumi.ProviderResource };
  readonly placement: Placement;
  /** Has VMs leave their services before they go away. */
  readonly leaving: Leaving;
  /** Secret texts by name; `sshPrivateKey` is the program's own way in. */
  readonly secrets: Readonly<Record<string, pulumi.Input<string>>> & { readonly sshPrivateKey: pulumi.Input<string> };
  /** Key of the digests that stand for secrets in bundles. */
  readonly digestKey: pulumi.Input<string>;
  /** Users of the sites on the Redis server. @default none: there is no server, or they share one */
  readonly redis?: RedisAccess | undefined;
}

export interface TierArgs {
  readonly platform: Platform;
  readonly machines: readonly Machine[];
  /** Content of one VM. */
  readonly content: (machine: Machine) => readonly Partial<HostContent>[];
  /** Beside the content: PHP builds, code, file systems. @default none */
  readonly extras?: (machine: Machine) => Pick<HostConfigArgs, "artefacts" | "code" | "filesystems">;
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
 * Creates the VMs of one tier, one after the other: each is born, changed or replaced when the gate
 * of the one before it has proved that one. Where the stack says `rollout.order: parallel`, they are
 * born and get their packages all at once, and take their content one after the other all the same.
 */
export function createTier(tier: string, args: TierArgs, parent: pulumi.Resource): Member[] {
  const { platform } = args;
  const { rollout } = platform.fleet.config;
  const serial = rollout.order === "serial";
  // Until the last VM is proved, those before it may still go back.
  const held = rollout.onFailure === "revert" && args.machines.length > 1;
  const members: Member[] = [];
  for (const machine of args.machines) {
    const previous = members.at(-1);
    const before = previous ? [previous.config.nodes.gate] : [];
    const host = new Host(
      tier,
      {
        machine,
        peers: args.machines.filter((m) => m.name !== machine.name),
        config: platform.fleet.config,
        placement: platform.placement,
        leaving: platform.leaving,
        sshPrivateKey: platform.secrets.sshPrivateKey,
        after: serial ? before : [],
        ...(args.transform ? { transform: args.transform } : {}),
      },
      { parent },
    );
    const parts = args.content(machine);
    const own = join(...parts);
    const content = join({ rollout: rolloutOf(platform.fleet, machine) }, ...parts, systemPart(machine, own));
    const config = new HostConfig(
      tier,
      {
        host,
        content,
        secrets: platform.secrets,
        digestKey: platform.digestKey,
        ...args.extras?.(machine),
        after: [...(args.after ?? []), ...before],
        holdSeconds: held ? (seconds(rollout.holdDeadline) ?? 0) : 0,
      },
      { parent },
    );
    members.push({ host, config });
  }
  if (held) confirm(tier, members);
  return members;
}

/** Every VM of the tier is proved: their changes are settled, one after the other, as one that went back is applied again. */
function confirm(tier: string, members: readonly Member[]): void {
  let before: readonly pulumi.Resource[] = members.map((m) => m.config.nodes.gate);
  for (const { config } of members) {
    // Whenever the gate has run it holds the change anew, also for a program that was confirmed before.
    before = [...before, config.gate(`${tier}-confirm`, 0, before, [config.nodes.gate.stdout])];
  }
}

/**
 * How a VM goes through a change, from the stack's configuration. Nothing of it may depend on the
 * other VMs of its tier: one VM more would be a change of all.
 */
export function rolloutOf(fleet: Fleet, machine: Machine): Rollout {
  const { rollout } = fleet.config;
  const whole = (text: string): number => Math.ceil(seconds(text) ?? 0);
  const services = fleet.services.filter((s) => s.realServers.some((r) => r.name === machine.name));
  const directors = fleet.machines.filter((m) => m.role === "director");
  return {
    address: machine.address,
    responder: `${machine.address}:${healthPort}`,
    services: directors.length > 0 ? services.flatMap((s) => s.ports.map((port) => `${s.vip}:${port}`)) : [],
    balancers: directors.map((m) => `${m.address}:${healthPort}`),
    minimumServers: rollout.minimumServers,
    drainSeconds: whole(rollout.drain),
    minHealthySeconds: whole(rollout.minHealthyTime),
    healthyDeadlineSeconds: whole(rollout.healthyDeadline),
    confirmSeconds: whole(rollout.confirmDeadline),
  };
}
