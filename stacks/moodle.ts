import { MoodleCluster } from "../components/moodle-cluster";
import type { Platform } from "../components/tier";

/** The Moodle platform, where the stack has one. */
export function createMoodle(platform: Platform): void {
  if (!platform.fleet.config.moodle) return;
  new MoodleCluster("moodle", { platform, machines: platform.fleet.machines.filter((m) => m.role === "moodle") });
}
