import { DedicatedPlatform } from "../components/dedicated-platform";
import type { Foundation } from "../components/application";
import type { Platform } from "../components/tier";

/** Platforms of one application each, e.g. the institutional site and the timetable. */
export function createDedicated(platform: Platform, foundation: Foundation): DedicatedPlatform[] {
  const { fleet, providers } = platform;
  return Object.keys(fleet.config.dedicated).map((name) => {
    const machines = fleet.machines.filter((m) => m.role === "dedicated" && m.tier === name);
    const application = fleet.applications.find((a) => a.role === "dedicated" && a.name === name);
    return new DedicatedPlatform(name, { platform, machines, application, foundation }, { providers });
  });
}
