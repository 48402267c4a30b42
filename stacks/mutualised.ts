import { ApacheTier } from "../components/apache-tier";
import { PhpFpmTier } from "../components/php-fpm-tier";
import type { Member, Platform } from "../components/tier";
import type { FpmSurroundings } from "../templates/php/fpm";
import type { SharedFoundation } from "./foundation";

/** What the mutualised platform has: its VMs, and the PHP groups by themselves. */
export interface Mutualised {
  readonly members: readonly Member[];
  readonly tiers: readonly PhpFpmTier[];
}

/** The mutualised platform: PHP groups, and Apache in front of them. */
export function createMutualised(platform: Platform, foundation: SharedFoundation): Mutualised {
  const { fleet, providers } = platform;
  const inPlatform = { providers };
  const { mutualised, nas, balancers } = fleet.config;
  if (!mutualised || !nas || !balancers) return { members: [], tiers: [] };
  const apaches = fleet.machines.filter((m) => m.role === "apache");

  const around: FpmSurroundings = {
    apacheAddresses: apaches.map((m) => m.address),
    network: { denied: [fleet.config.network.cidr], allowed: fleet.reachable },
    ...(fleet.config.mail ? { mail: fleet.config.mail } : {}),
    redisAuthority: fleet.redisAuthority,
  };
  const { artefacts, ready, storage } = foundation;
  const tiers = fleet.phpGroups.map(
    (group) => new PhpFpmTier(group.name, { platform, group, around, artefacts, nas, after: ready }, inPlatform),
  );

  const phpVips = Object.fromEntries(fleet.phpGroups.map((g) => [g.name, g.vip]));
  const {
    vip,
    apache: { symbolicLinks },
  } = mutualised;
  const apache = new ApacheTier(
    "apache",
    { platform, machines: apaches, sites: fleet.sites, vip, phpVips, nas, symbolicLinks, after: storage },
    inPlatform,
  );
  return { members: [...tiers.flatMap((tier) => tier.members), ...apache.members], tiers };
}
