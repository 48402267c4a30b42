import { healthPort } from "../../config/load";
import type { Machine } from "../../config/model";
import type { HostContent } from "../content";
import { programDirectory, programFile } from "../programs";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";
import { secondsUntilOut, type DirectorSettings } from "./settings";

/** Has 1 while this director shall hold no virtual address; keepalived tracks it. */
export const unreachedFile = "/run/fleet-keepalived/unreached";

/** Leaves the virtual addresses to a director that reaches servers which this one does not. */
export function reachPart(partners: readonly Machine[], settings: DirectorSettings): Partial<HostContent> {
  const unit = "fleet-reach.service";
  // So many seconds the directors may differ about a server that has just died, and two more.
  const looks = Math.ceil(secondsUntilOut(settings)) + 2;
  const view = { file: unreachedFile, looks, partners: partners.map((m) => `${m.address}:${healthPort}`).join(" ") };
  return {
    packages: ["python3"],
    files: [unitFile(unit, render(__dirname, unit, view)), programFile("reach.py")],
    units: [
      {
        name: unit,
        restart: [`${unitDirectory}/${unit}`, ...["reach.py", "ipvs.py", "probes.py"].map((name) => `${programDirectory}/${name}`)],
      },
    ],
    health: [{ name: "reach of the directors", kind: "unit", unit }],
  };
}
