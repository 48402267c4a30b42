import type { Site } from "../../config/model";
import { render } from "../render";

/** What of the network a site's code meets. */
export interface NetworkPolicy {
  /** Networks and addresses that it may not reach. Few: the lab's kernel takes no more than two at once. */
  readonly denied: readonly string[];
  /** Addresses in them that it may reach all the same. */
  readonly allowed: readonly string[];
}

/**
 * The box of a site, as lines of a unit's [Service] section: its uid, its sandbox, its network policy, its
 * limits. FPM, phpexec and cron run the site's code in this one.
 */
export function box(site: Site, network: NetworkPolicy): string {
  const view = {
    name: site.name,
    uid: site.uid,
    denied: ["localhost", ...network.denied],
    allowed: network.allowed,
    memoryMb: site.memoryMb,
    tmpMb: site.tmpMb,
    cpuWeight: site.php.cpuWeight,
    // Each child, the master, and what a script may start for itself.
    tasks: site.php.maxChildren * 4 + 16,
  };
  return render(__dirname, "box", view).trimEnd();
}

/** Variables that a site's file gives its PHP, in a stable order. */
export function environment(site: Site): { name: string; value: string }[] {
  return Object.entries(site.php.environment)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => ({ name, value }));
}

/** The properties among such lines, for whoever asks systemd without a unit file. */
export function properties(lines: string): string[] {
  return lines.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}
