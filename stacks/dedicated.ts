import { DedicatedPlatform } from "../components/dedicated-platform";
import type { Member, Platform } from "../components/tier";

/** Platforms of one application each, e.g. the institutional site and the timetable. */
export function createDedicated(platform: Platform): Member[] {
  return Object.keys(platform.fleet.config.dedicated).flatMap((name) => {
    const machines = platform.fleet.machines.filter((m) => m.role === "dedicated" && m.tier === name);
    return new DedicatedPlatform(name, { platform, machines }, { providers: platform.providers }).members;
  });
}
