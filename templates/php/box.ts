import type { Site } from "../../config/model";
import { fewestPrefixes } from "../../config/network";
import type { HostContent } from "../content";
import { render } from "../render";
import { unitFile } from "../system/system";

/**
 * What of the network a site's code meets. Few of each: the lab's kernel has room for two prefixes in a list that is made
 * at once (four nodes, and one more for each fork; its allocator gets new ones at the next tick of the clock).
 */
export interface NetworkPolicy {
  /** Networks and addresses that it may not reach. */
  readonly denied: readonly string[];
  /** Addresses in them that it may reach all the same. */
  readonly allowed: readonly string[];
}

/** Slice of a site, below `sites.slice`. A hyphen would put it below another site's, and no site's name has an underscore. */
export const siteSlice = (site: Pick<Site, "name">): string => `sites-${site.name.replaceAll("-", "_")}.slice`;

/** What limits all that a site runs together: FPM, trial, scripts and cron entries. */
export function slicePart(site: Site): Partial<HostContent> {
  const view = {
    name: site.name,
    cpuWeight: site.php.cpuWeight,
    memoryMb: site.memoryMb,
    // Each child, the masters, and what scripts may start for themselves.
    tasks: site.php.maxChildren * 4 + 32,
  };
  return { files: [unitFile(siteSlice(site), render(__dirname, "site.slice", view))] };
}

/**
 * The box of a site, as lines of a unit's [Service] section: its uid, its sandbox, its network policy, its
 * slice. FPM, phpexec and cron run the site's code in this one.
 */
export function box(site: Site, network: NetworkPolicy): string {
  const view = {
    name: site.name,
    uid: site.uid,
    denied: ["localhost", ...network.denied],
    allowed: fewestPrefixes(network.allowed),
    slice: siteSlice(site),
    tmpMb: site.tmpMb,
    local: site.code !== undefined,
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
