import * as fs from "fs";
import * as path from "path";
import type { HostFile } from "./content";

/** Where the programs of units live on a VM: files of the generation like any other, so a change of one is seen, and goes back with it. */
export const programDirectory = "/etc/fleet/lib";

/** Text of a program of host/. */
export function hostProgram(name: string): string {
  return fs.readFileSync(path.join(__dirname, "..", "host", name), "utf8");
}

/** A program of host/ as a file of a VM. */
export function programFile(name: string): HostFile {
  return { path: `${programDirectory}/${name}`, text: hostProgram(name) };
}
