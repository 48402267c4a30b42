import type { Site } from "../../config/model";
import { render } from "../render";

/**
 * The box of a site, as lines of a unit's [Service] section: its uid, its sandbox, its network policy, its
 * limits. FPM, phpexec and cron run the site's code in this one.
 * @param phpAddresses every PHP VM and every PHP group's VIP: no site's code may reach them.
 */
export function box(site: Site, phpAddresses: readonly string[]): string {
  const view = {
    name: site.name,
    uid: site.uid,
    denied: ["localhost", ...phpAddresses],
    memoryMb: site.memoryMb,
    // Each child, the master, and what a script may start for itself.
    tasks: site.php.maxChildren * 4 + 16,
  };
  return render(__dirname, "box", view).trimEnd();
}

/** The properties among such lines, for whoever asks systemd without a unit file. */
export function properties(lines: string): string[] {
  return lines.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}
