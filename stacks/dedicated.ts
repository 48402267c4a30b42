import { DedicatedPlatform } from "../components/dedicated-platform";
import type { Platform } from "../components/tier";

/** Platforms of one application each, e.g. the institutional site and the timetable. */
export function createDedicated(platform: Platform): void {
  for (const name of Object.keys(platform.fleet.config.dedicated)) {
    const machines = platform.fleet.machines.filter((m) => m.role === "dedicated" && m.tier === name);
    new DedicatedPlatform(name, { platform, machines });
  }
}
