import type { Fleet } from "../../config/model";
import type { HostContent } from "../content";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";

/** Where the sites' trees are on every VM that uses them; the NAS VM exports the same path. */
export const sitesDirectory = "/srv/sites";

/** Its unit. */
export const sitesMount = "srv-sites.mount";

/** Path under which a NAS VM keeps and exports the sites. */
export const nasSitesDirectory = "/srv/fleet/sites";

/**
 * Kernels from 6.19 on ask the server to delegate directories, as whoever looks a name up. For root
 * that is nobody at the server, who may not read a site's directory; the refusal of the delegation
 * then fails the lookup itself, and with it the start of a site's service. Seen with 7.2; older
 * kernels say in their log that they do not know the parameter, and go on.
 */
const moduleOptions = "options nfsv4 directory_delegations=N\n";

/**
 * Mount of the sites' files. Hard, because a soft mount loses writes; nothing on it gains privileges.
 * Only what is there is remembered, never that a name is not: else a file that one PHP VM writes
 * does not exist for the others for up to a minute, and installers fail that write their
 * configuration in one request and read it in the next.
 *
 * With `links: "none"` no symbolic link on it is followed: a wall that no race of a site's gets round. A machine
 * whose wall does not stand is not ready.
 */
export function mountPart(
  nas: NonNullable<Fleet["config"]["nas"]>,
  access: "rw" | "ro",
  links: "followed" | "none" = "followed",
): Partial<HostContent> {
  const extra = nas.kind === "appliance" ? nas.mountOptions : [];
  const linkless = links === "none";
  const flags = ["nosuid", "nodev", "noatime"];
  const view = {
    server: nas.address,
    export: nas.kind === "appliance" ? nas.export : nasSitesDirectory,
    options: ["vers=4.2", "hard", ...flags, "lookupcache=pos", access, ...extra].join(","),
    linkless,
    remount: ["remount", "bind", access, ...flags, "nosymfollow"].join(","),
  };
  const [unit, wall, again] = [sitesMount, "fleet-nosymfollow.service", "fleet-remount.service"];
  const own = `${unitDirectory}/${unit}`;
  return {
    packages: ["nfs-common"],
    files: [
      unitFile(unit, render(__dirname, unit, view)),
      unitFile(again, render(__dirname, again, {})),
      { path: "/etc/modprobe.d/fleet-nfs.conf", text: moduleOptions },
      ...(linkless ? [unitFile(wall, render(__dirname, wall, view))] : []),
    ],
    units: [
      { name: unit, restart: [own], drain: true },
      ...(linkless ? [{ name: wall, restart: [own, `${unitDirectory}/${wall}`] }] : []),
      { name: again, start: false },
    ],
    health: [
      { name: "sites on the NAS", kind: "mount", path: sitesDirectory, server: nas.address },
      ...(linkless ? [{ name: "no links in the sites' files", kind: "unit" as const, unit: wall }] : []),
    ],
  };
}
