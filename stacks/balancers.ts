import { LvsPair } from "../components/lvs-pair";
import type { Member, Platform } from "../components/tier";
import { seconds } from "../config/units";

/** The directors in front of every platform. */
export function createBalancers(platform: Platform): Member[] {
  const { fleet, providers } = platform;
  const { balancers } = fleet.config;
  if (!balancers || fleet.services.length === 0) return [];
  const machines = fleet.machines.filter((m) => m.role === "director");
  const settings = {
    virtualRouterId: balancers.virtualRouterId,
    advertSeconds: seconds(balancers.advertInterval) ?? 1,
    checkSeconds: seconds(balancers.checkInterval) ?? 1,
    checkTimeoutSeconds: seconds(balancers.checkTimeout) ?? 0.7,
    connectionSync: balancers.connectionSync,
  };
  return [...new LvsPair("lvs", { platform, machines, settings, services: fleet.services }, { providers }).members];
}
