import { MoodleCluster } from "../components/moodle-cluster";
import type { Member, Platform } from "../components/tier";

/** The Moodle platform, where the stack has one. */
export function createMoodle(platform: Platform): Member[] {
  if (!platform.fleet.config.moodle) return [];
  const machines = platform.fleet.machines.filter((m) => m.role === "moodle");
  return [...new MoodleCluster("moodle", { platform, machines }, { providers: platform.providers }).members];
}
