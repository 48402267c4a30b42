import type { CronEntry, PhpBuild, Site } from "../../config/model";
import { treeOf } from "../application/tree";
import type { HostContent } from "../content";
import { sitesDirectory } from "../nas/mount";
import { programDirectory } from "../programs";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";
import type { NetworkPolicy } from "./box";
import { scriptRun, type ScriptRun } from "./script";

/** Name of a cron entry's units, without suffix; no hyphen in the entry's own name, so the last one parts it from the site. */
export const cronUnit = (site: Pick<Site, "name">, entry: Pick<CronEntry, "name">): string => `fleet-cron-${site.name}-${entry.name}`;

/** A word of a unit's command line as it is: no specifier, no variable, no space parts it (systemd.service(5), "COMMAND LINES"). */
const word = (text: string): string => `"${text.replace(/[\\"]/g, "\\$&").replace(/%/g, "%%").replace(/\$/g, "$$$$")}"`;

/** The cron entries of a site: a timer each on every VM of its group, and the service that it starts. */
export function cronPart(site: Site, build: PhpBuild, network: NetworkPolicy): Partial<HostContent> {
  const run = scriptRun(site, build, network);
  const parts = site.cron.map((entry) => entryPart(site, entry, run));
  return {
    files: parts.flatMap((p) => p.files ?? []),
    checks: parts.flatMap((p) => p.checks ?? []),
    units: parts.flatMap((p) => p.units ?? []),
  };
}

function entryPart(site: Site, entry: CronEntry, { command, lines }: ScriptRun): Partial<HostContent> {
  const unit = cronUnit(site, entry);
  const timer = `${unitDirectory}/${unit}.timer`;
  const common = { name: site.name, entry: entry.name, unit };
  const service = {
    ...common,
    at: word(entry.at),
    program: `${programDirectory}/cron.py`,
    place: `${sitesDirectory}/${site.name}/.fleet/cron/${entry.name}`,
    command: [...command, `${treeOf(site)}/${entry.script}`, ...entry.args].map(word).join(" "),
    timeout: entry.timeoutSeconds,
    lines,
  };
  return {
    files: [
      unitFile(`${unit}.timer`, render(__dirname, "cron.timer", { ...common, at: entry.at })),
      unitFile(`${unit}.service`, render(__dirname, "cron.service", service)),
    ],
    checks: [{ name: `times of ${unit}`, argv: ["/usr/bin/systemd-analyze", "calendar", entry.at], paths: [timer] }],
    // The service is nobody's to start or to restart but the timer's: a run that goes on ends as it began.
    units: [{ name: `${unit}.timer`, restart: [timer] }],
  };
}
