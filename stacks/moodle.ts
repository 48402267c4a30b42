import type { Foundation } from "../components/application";
import { MoodleCluster } from "../components/moodle-cluster";
import type { Platform } from "../components/tier";

/** The Moodle platform, where the stack has one. */
export function createMoodle(platform: Platform, foundation: Foundation): MoodleCluster[] {
  const { fleet, providers } = platform;
  if (!fleet.config.moodle) return [];
  const machines = fleet.machines.filter((m) => m.role === "moodle");
  const application = fleet.applications.find((a) => a.role === "moodle");
  return [new MoodleCluster("moodle", { platform, machines, application, foundation }, { providers })];
}
