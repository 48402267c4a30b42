import type { Site } from "../../config/model";
import type { HostContent } from "../content";
import { programDirectory, programFile } from "../programs";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";
import { nasSitesDirectory } from "./mount";

/** Debian's fixed gid of www-data, the same on every VM and on the NAS. */
const wwwData = 33;

/** A VM that may mount the sites, and how. */
export interface NfsClient {
  readonly address: string;
  readonly access: "rw" | "ro";
}

/** How many hourly snapshots stay. */
export interface KeptSnapshots {
  readonly hourly: number;
  readonly daily: number;
  readonly weekly: number;
}

/**
 * A NAS on an ordinary VM: btrfs on its data disk, NFS 4.2, one directory for each site, which is a
 * volume of its own where the site has a quota. A site's directory can be entered by the site's uid
 * and by Apache's group and by nobody else, so what is inside may have ordinary permissions.
 * Snapshots are outside of what is exported: see host/snapshots.py.
 */
export function nasServerPart(sites: readonly Site[], clients: readonly NfsClient[], keep: KeptSnapshots): Partial<HostContent> {
  const trees = sites.map((s) => ({
    name: s.name,
    uid: s.uid,
    gid: wwwData,
    mode: "0710",
    // An application's code is on its VMs, and its directory here is for what it writes.
    ...(s.code ? {} : { documentRoot: s.documentRoot }),
    ...(s.quotaMb === undefined ? {} : { quota: s.quotaMb * 2 ** 20 }),
    ...(s.seed ? { seed: s.seed } : {}),
  }));
  return {
    packages: ["btrfs-progs", "nfs-kernel-server"],
    files: [
      unitFile("srv-fleet.mount", render(__dirname, "srv-fleet.mount", {})),
      unitFile("fleet-seed.service", render(__dirname, "fleet-seed.service", {})),
      ...["fleet-restore.service", "fleet-snapshot.service", "fleet-snapshot.timer"].map((name) =>
        unitFile(name, render(__dirname, name, {})),
      ),
      ...["seed.py", "snapshots.py"].map(programFile),
      { path: "/etc/fleet/snapshots.json", text: `${JSON.stringify({ keep }, null, 2)}\n` },
      { path: "/etc/exports.d/fleet.exports", text: render(__dirname, "fleet.exports", { directory: nasSitesDirectory, clients }) },
      { path: "/etc/nfs.conf.d/fleet.conf", text: render(__dirname, "nfs.conf", {}) },
      // The site texts are the operator's own; pretty-printed so that a preview shows what changed in them.
      { path: "/etc/fleet/seed.json", text: `${JSON.stringify({ directory: nasSitesDirectory, sites: trees }, null, 2)}\n` },
    ],
    units: [
      { name: "srv-fleet.mount", restart: [`${unitDirectory}/srv-fleet.mount`] },
      { name: "fleet-restore.service", restart: [`${unitDirectory}/fleet-restore.service`] },
      {
        name: "fleet-seed.service",
        restart: [`${unitDirectory}/fleet-seed.service`, "/etc/fleet/seed.json", `${programDirectory}/seed.py`],
      },
      { name: "nfs-server.service", reload: ["/etc/exports.d/"], restart: ["/etc/nfs.conf.d/"] },
      { name: "fleet-snapshot.timer", restart: [`${unitDirectory}/fleet-snapshot.timer`] },
      { name: "fleet-snapshot.service", start: false },
    ],
    probes: [{ name: "NFS listens", kind: "tcp", address: "127.0.0.1", port: 2049, within: 30 }],
    health: [{ name: "NFS", kind: "tcp", address: "127.0.0.1", port: 2049 }],
  };
}
