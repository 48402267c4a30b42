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

/**
 * A NAS on an ordinary VM: btrfs on its data disk, NFS 4.2, one directory for each site. A site's
 * directory can be entered by the site's uid and by Apache's group and by nobody else, so what
 * is inside may have ordinary permissions.
 */
export function nasServerPart(sites: readonly Site[], clients: readonly NfsClient[]): Partial<HostContent> {
  const trees = sites.map((s) => ({
    name: s.name,
    uid: s.uid,
    gid: wwwData,
    mode: "0710",
    documentRoot: s.documentRoot,
    ...(s.seed ? { seed: s.seed } : {}),
  }));
  return {
    packages: ["btrfs-progs", "nfs-kernel-server"],
    files: [
      unitFile("srv-fleet.mount", render(__dirname, "srv-fleet.mount", {})),
      unitFile("fleet-seed.service", render(__dirname, "fleet-seed.service", {})),
      programFile("seed.py"),
      { path: "/etc/exports.d/fleet.exports", text: render(__dirname, "fleet.exports", { directory: nasSitesDirectory, clients }) },
      { path: "/etc/nfs.conf.d/fleet.conf", text: render(__dirname, "nfs.conf", {}) },
      // The site texts are the operator's own; pretty-printed so that a preview shows what changed in them.
      { path: "/etc/fleet/seed.json", text: `${JSON.stringify({ directory: nasSitesDirectory, sites: trees }, null, 2)}\n` },
    ],
    units: [
      { name: "srv-fleet.mount", restart: [`${unitDirectory}/srv-fleet.mount`] },
      {
        name: "fleet-seed.service",
        restart: [`${unitDirectory}/fleet-seed.service`, "/etc/fleet/seed.json", `${programDirectory}/seed.py`],
      },
      { name: "nfs-server.service", reload: ["/etc/exports.d/"], restart: ["/etc/nfs.conf.d/"] },
    ],
    probes: [{ name: "NFS listens", kind: "tcp", address: "127.0.0.1", port: 2049, within: 30 }],
    health: [{ name: "NFS", kind: "tcp", address: "127.0.0.1", port: 2049 }],
  };
}
