import type * as pulumi from "@pulumi/pulumi";
import type { Foundation } from "../components/application";
import type { Artefact } from "../components/host-config";
import { NasExport } from "../components/nas-export";
import { PhpBuilder } from "../components/php-builder";
import { RedisUsers } from "../components/redis-users";
import type { Member, Platform } from "../components/tier";
import { allSites } from "../config/applications";
import type { Role } from "../config/model";
import { buildsOn } from "../config/php-builds";

/** What every platform of a stack stands on. */
export interface SharedFoundation extends Foundation {
  /** The VMs of it. */
  readonly members: readonly Member[];
  /** What must be configured before a VM that only mounts the NAS. */
  readonly storage: readonly pulumi.Resource[];
  /** Called with all that logs in to Redis, when the program knows it. */
  readonly settle: (tiers: readonly pulumi.Resource[]) => void;
}

/** NAS, PHP builders and the sites' users on Redis. */
export function createFoundation(platform: Platform): SharedFoundation {
  const { fleet, providers } = platform;
  const inPlatform = { providers };
  const { nas } = fleet.config;
  if (!nas) return { members: [], builders: [], artefacts: {}, storage: [], ready: [], settle: () => undefined };
  const having = (role: Role) => fleet.machines.filter((m) => m.role === role);
  const clients = [
    ...having("apache").map((m) => ({ address: m.address, access: "ro" as const })),
    ...having("php").map((m) => ({ address: m.address, access: "rw" as const })),
    // All that there may ever be: one node more is no change of the NAS.
    ...fleet.applications.flatMap((a) => a.addresses.map((address) => ({ address, access: "rw" as const }))),
  ];
  const storage = new NasExport("nas", { platform, nas, machines: having("nas"), sites: allSites(fleet), clients }, inPlatform);

  const builders: Member[] = [];
  const artefacts: Record<string, pulumi.Output<Artefact>> = {};
  for (const machine of having("builder")) {
    const builds = buildsOn(machine, fleet.phpBuilds);
    const builder = new PhpBuilder(`builder-${machine.debian}`, { platform, machine, builds }, inPlatform);
    Object.assign(artefacts, builder.artefacts);
    builders.push(...builder.members);
  }

  const [builder] = builders;
  const { redis: access } = platform;
  const users =
    access && builder
      ? new RedisUsers("redis-users", { fleet, access, host: builder.host, after: [builder.config.nodes.gate] }, inPlatform)
      : undefined;
  return {
    members: [...storage.members, ...builders],
    builders,
    artefacts,
    storage: storage.ready,
    ready: [...storage.ready, ...(users ? [users.nodes.made] : [])],
    settle: (tiers) => void users?.settle(tiers),
  };
}
