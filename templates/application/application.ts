import { applicationPort, configDirectory } from "../../config/applications";
import type { Application, Fleet, Machine } from "../../config/model";
import { inNetwork, isIPv4 } from "../../config/network";
import { buildsOn } from "../../config/php-builds";
import { apachePart, threadsPerChild } from "../apache/apache";
import type { HostContent } from "../content";
import { moodleConfig, pendingCheck } from "../moodle/moodle";
import { mountPart } from "../nas/mount";
import { fpmPart, fpmSysctls, restPart, siteUnit, type FpmSurroundings } from "../php/fpm";
import { render } from "../render";
import { unitDirectory } from "../system/system";
import { vipPart } from "../system/vip";
import { phpText } from "./php-text";
import { localDirectory, treeOf } from "./tree";

/** An application's FPM is on its own VM, and nobody else's to ask. */
const loopback = "127.0.0.1";

/** An application's PHP ends after this time without a request: its OPcache is worth a night. */
const idleSeconds = 86_400;

/** Name under which the program passes the text of an application's secrets. */
export const applicationSecret = ({ name }: Pick<Application, "name">): string => `secrets-${name}`;

/** What an application is told that nobody else may know. */
export interface ApplicationSecrets {
  /** Of its database. @default none */
  readonly databasePassword?: string | undefined;
  /** A key of its own that never changes: Moodle's upgrade key, what another signs its cookies with. */
  readonly key: string;
  /** Login to Redis, for a session handler of its own: user and password, or the password of the default user. @default none */
  readonly redis?: readonly [user: string, password: string] | string | undefined;
}

/** Text of an application's secrets, as its configuration includes it. */
export function secretsText({ databasePassword, key, redis }: ApplicationSecrets): string {
  const login = typeof redis === "string" ? phpText(redis) : redis && `[${redis.map(phpText).join(", ")}]`;
  const values = {
    databasePassword: databasePassword === undefined ? undefined : phpText(databasePassword),
    key: phpText(key),
    redis: login,
  };
  const lines = Object.entries(values).map(([name, value]) => `    '${name}' => ${value ?? "null"},\n`);
  return `<?php\n// Managed by the fleet program.\nreturn [\n${lines.join("")}];\n`;
}

/** Everything of an application on one of its VMs: Apache and FPM as for any site, the code, and its configuration. */
export function applicationParts(machine: Machine, application: Application, fleet: Fleet): Partial<HostContent>[] {
  const { name, vip, machines, builds, site } = application;
  const { nas } = fleet.config;
  if (!nas) throw new Error(`${name} keeps its files on a NAS, which the stack does not have`);
  const group = { name, vip: loopback, machines, builds, sites: [site], idleSeconds };
  return [
    vipPart([vip], fpmSysctls),
    mountPart(nas, "rw"),
    // There is no other site to leave threads to.
    apachePart(machine, vip, [site], { [site.php.group]: loopback }, threadsPerChild),
    fpmPart(machine, group, surroundings(application, fleet)),
    restPart(machine.address, idleSeconds),
    configPart(machine, application, fleet),
  ];
}

/** Of the fleet's own network its code reaches what sites reach, and its own database. */
function surroundings({ databaseHost }: Application, { config, reachable, redisAuthority }: Fleet): FpmSurroundings {
  const { network, mail } = config;
  const inside = databaseHost !== undefined && isIPv4(databaseHost) && inNetwork(databaseHost, network.cidr);
  const allowed = inside ? [...new Set([...reachable, databaseHost])].sort() : reachable;
  return { apacheAddresses: [], network: { denied: [network.cidr], allowed }, redisAuthority, ...(mail ? { mail } : {}) };
}

/** The application's configuration, with the rest of what restarts its FPM. */
function configPart(machine: Machine, application: Application, fleet: Fleet): Partial<HostContent> {
  const { name, site, moodle, configText } = application;
  const directory = configDirectory(name);
  const own = { owner: "root", group: site.uid, mode: "0640" };
  const config = `${directory}/config.php`;
  // It names the code, so FPM begins anew with other code, and what is asked for a change of it is asked.
  const health = `${directory}/health.php`;
  const view = { tree: treeOf(site), directory, local: localDirectory(site), uid: site.uid };
  const [build] = buildsOn(machine, application.builds);
  if (!build) throw new Error(`${name} has no PHP of ${machine.debian}`);
  const unit = `${siteUnit(site)}.service`;
  return {
    files: [
      { path: config, ...own, text: moodle ? moodleConfig(site, moodle, fleet.config.redis) : (configText ?? "<?php\n") },
      { path: health, ...own, text: render(__dirname, "health.php", view) },
      { path: `/etc/tmpfiles.d/fleet-${name}.conf`, text: render(__dirname, "tmpfiles.conf", view) },
    ],
    secrets: [{ path: `${directory}/secrets.php`, ...own, secret: applicationSecret(application) }],
    checks: [
      {
        name: `php -l config.php of ${name}`,
        argv: [`/opt/php/${build.artefact}/bin/php`, "-n", "-l", config],
        user: site.uid,
        group: site.uid,
        paths: [config],
      },
      ...(moodle ? [pendingCheck(site, health)] : []),
    ],
    probes: [
      {
        name: `${name} has its code and its configuration`,
        kind: "fastcgi",
        address: loopback,
        port: applicationPort,
        path: health,
        contains: "ready",
        within: 30,
        paths: [`${directory}/`, `${unitDirectory}/${unit}`],
        site: site.name,
        unit,
        children: site.php.maxChildren,
      },
    ],
  };
}
