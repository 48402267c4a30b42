import type { Member, Platform } from "../components/tier";
import { createBalancers } from "./balancers";
import { createDedicated } from "./dedicated";
import { createFoundation } from "./foundation";
import { createMoodle } from "./moodle";
import { createMutualised } from "./mutualised";

/** Everything that a stack has, in the order of what stands on what. */
export function createPlatforms(platform: Platform): Member[] {
  const foundation = createFoundation(platform);
  const mutualised = createMutualised(platform, foundation);
  const applications = [...createDedicated(platform, foundation), ...createMoodle(platform, foundation)];
  foundation.settle([...mutualised.tiers, ...applications]);
  return [...foundation.members, ...mutualised.members, ...applications.flatMap((a) => a.members), ...createBalancers(platform)];
}
