import type { Machine, PhpBuild } from "../../config/model";
import type { HostContent } from "../content";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";

/** Port on which a builder gives out its archives. */
export const artefactPort = 8080;

/** A builder: the compiler and libraries of its builds, git where it packs code, and an HTTP server for the archives. */
export function builderPart(machine: Machine, builds: readonly PhpBuild[], packsCode = false): Partial<HostContent> {
  const unit = "fleet-artefacts.service";
  return {
    packages: [...builds.flatMap((b) => [...b.buildPackages, ...b.runPackages]), ...(packsCode ? ["git", "zstd"] : [])],
    files: [unitFile(unit, render(__dirname, unit, { address: machine.address, port: artefactPort }))],
    units: [{ name: unit, restart: [`${unitDirectory}/${unit}`] }],
    health: [{ name: "artefacts", kind: "tcp", address: machine.address, port: artefactPort }],
  };
}
