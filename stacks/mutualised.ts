import type * as pulumi from "@pulumi/pulumi";
import { ApacheTier } from "../components/apache-tier";
import { LvsPair } from "../components/lvs-pair";
import { NasExport } from "../components/nas-export";
import { PhpBuilder } from "../components/php-builder";
import { PhpFpmTier } from "../components/php-fpm-tier";
import { RedisUsers } from "../components/redis-users";
import type { Artefact } from "../components/host-config";
import type { Member, Platform } from "../components/tier";
import type { Role } from "../config/model";
import { buildsOn } from "../config/php-builds";
import { seconds } from "../config/units";
import type { FpmSurroundings } from "../templates/php/fpm";

/** The mutualised platform: NAS, PHP builders, PHP groups, Apache, and the directors in front. */
export function createMutualised(platform: Platform): Member[] {
  const { fleet, providers } = platform;
  const inPlatform = { providers };
  const { mutualised, nas, balancers } = fleet.config;
  if (!mutualised || !nas || !balancers) return [];
  const having = (role: Role) => fleet.machines.filter((m) => m.role === role);
  const apaches = having("apache");
  const phps = having("php");

  const clients = [
    ...apaches.map((m) => ({ address: m.address, access: "ro" as const })),
    ...phps.map((m) => ({ address: m.address, access: "rw" as const })),
  ];
  const storage = new NasExport("nas", { platform, nas, machines: having("nas"), sites: fleet.sites, clients }, inPlatform);

  const builders: Member[] = [];
  const artefacts: Record<string, pulumi.Output<Artefact>> = {};
  for (const machine of having("builder")) {
    const builds = buildsOn(machine, fleet.phpBuilds);
    const builder = new PhpBuilder(`builder-${machine.debian}`, { platform, machine, builds }, inPlatform);
    Object.assign(artefacts, builder.artefacts);
    builders.push(...builder.members);
  }
  const members = [...storage.members, ...builders];

  const [builder] = builders;
  const { redis: access } = platform;
  const users =
    access && builder
      ? new RedisUsers("redis-users", { fleet, access, host: builder.host, after: [builder.config.nodes.gate] }, inPlatform)
      : undefined;

  const around: FpmSurroundings = {
    apacheAddresses: apaches.map((m) => m.address),
    network: { denied: [fleet.config.network.cidr], allowed: fleet.reachable },
    ...(fleet.config.mail ? { mail: fleet.config.mail } : {}),
    redisAuthority: fleet.redisAuthority,
  };
  const after = [...storage.ready, ...(users ? [users.nodes.made] : [])];
  const tiers = fleet.phpGroups.map((group) => new PhpFpmTier(group.name, { platform, group, around, artefacts, nas, after }, inPlatform));
  members.push(...tiers.flatMap((tier) => tier.members));
  users?.settle(tiers);

  const phpVips = Object.fromEntries(fleet.phpGroups.map((g) => [g.name, g.vip]));
  const {
    vip,
    apache: { symbolicLinks },
  } = mutualised;
  const apache = new ApacheTier(
    "apache",
    { platform, machines: apaches, sites: fleet.sites, vip, phpVips, nas, symbolicLinks, after: storage.ready },
    inPlatform,
  );

  const settings = {
    virtualRouterId: balancers.virtualRouterId,
    advertSeconds: seconds(balancers.advertInterval) ?? 1,
    checkSeconds: seconds(balancers.checkInterval) ?? 1,
  };
  const directors = new LvsPair("lvs", { platform, machines: having("director"), settings, services: fleet.services }, inPlatform);
  return [...members, ...apache.members, ...directors.members];
}
