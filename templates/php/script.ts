import type { PhpBuild, Site } from "../../config/model";
import { treeOf } from "../application/tree";
import type { HostContent } from "../content";
import { render } from "../render";
import { box, environment, properties, type NetworkPolicy } from "./box";

/** Scripts that phpexec runs on one VM at the same time: more than a few are slower together than one after the other. */
const scriptsAtOnce = 4;

/** Seconds that a script which is asked to end is given. */
const stopSeconds = 10;

/** A script of a site outside of FPM: the words before it, and its unit's [Service] lines. */
export interface ScriptRun {
  readonly command: readonly string[];
  readonly lines: string;
}

/** How phpexec and cron run a script: the site's PHP and php.ini, in its tree, in its box. */
export function scriptRun(site: Site, build: PhpBuild, network: NetworkPolicy): ScriptRun {
  return {
    // The site's php.ini logs to syslog; an empty error_log is standard error, where who runs a script looks.
    command: [`/opt/php/${build.artefact}/bin/php`, "-c", `/etc/fleet/php/${site.name}/php.ini`, "-d", "error_log="],
    lines: render(__dirname, "script", { name: site.name, environment: environment(site), box: box(site, network) }).trimEnd(),
  };
}

/** What host/phpexec.py must know to run the scripts of a site. */
export function scriptPart(site: Site, build: PhpBuild, network: NetworkPolicy): Partial<HostContent> {
  const { command, lines } = scriptRun(site, build, network);
  const order = {
    php: build.release,
    command,
    properties: [...properties(lines), `TimeoutStopSec=${stopSeconds}`],
    atOnce: scriptsAtOnce,
    // Where the site's scripts are: an application's code.
    ...(site.code ? { tree: treeOf(site) } : {}),
  };
  // Beside the directory of the site's FPM, whose every change restarts it.
  return { files: [{ path: `/etc/fleet/scripts/${site.name}.json`, mode: "0600", text: `${JSON.stringify(order, null, 2)}\n` }] };
}
