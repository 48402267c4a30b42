import { atLeast } from "../../config/php-builds";
import type { PhpBuild, PhpGroup, Site } from "../../config/model";
import type { HostContent, SecretFile } from "../content";
import { sitesDirectory } from "../nas/mount";
import { programFile } from "../programs";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";
import { box } from "./box";
import { cronPart } from "./cron";
import { scriptPart } from "./script";

/** Addresses that the fleet's own PHP tier needs to know. */
export interface FpmSurroundings {
  /** The Apache VMs: the only ones whose FastCGI requests are taken. */
  readonly apacheAddresses: readonly string[];
  /** Addresses that no site's code may reach: every PHP VM and every PHP group's VIP. */
  readonly phpAddresses: readonly string[];
}

/**
 * Kernel parameters of a PHP VM. FPM waits for its client to take the answer, and a client that died
 * takes a child with it: for 25 s with 6 resends, for 15 minutes with the kernel's own 15.
 */
export const fpmSysctls = { "net.ipv4.tcp_retries2": 6 } as const;

/** Name of a site's units, without suffix. */
export const siteUnit = (site: Pick<Site, "name">): string => `fleet-site-${site.name}`;

/** Name under which the program passes the text of a site's session settings. */
export const sessionSecret = (site: Pick<Site, "name">): string => `sessions-${site.name}`;

/** All sites of a group, each a service of its own; see {@link sitePart}. Beside it, what runs their scripts. */
export function fpmPart(group: PhpGroup, around: FpmSurroundings): Partial<HostContent> {
  const parts = group.sites.flatMap((site) => {
    const build = group.builds.find((b) => b.version === site.php.version);
    if (!build) throw new Error(`group ${group.name} has no PHP ${site.php.version} for ${site.name}`);
    const { phpAddresses } = around;
    return [sitePart(site, build, group.vip, around), scriptPart(site, build, phpAddresses), cronPart(site, build, phpAddresses)];
  });
  const users = group.sites.map((s) => `u ${siteUnit(s)} ${s.uid} "Site ${s.name}" ${sitesDirectory}/${s.name}\n`);
  return {
    packages: group.builds.flatMap((b) => b.runPackages),
    files: [
      { path: "/etc/sysusers.d/fleet-sites.conf", text: `# Managed by the fleet program.\n${users.join("")}` },
      ...["phpexec.py", "cron.py"].map(programFile),
      ...parts.flatMap((p) => p.files ?? []),
    ],
    secrets: parts.flatMap((p) => p.secrets ?? []),
    checks: parts.flatMap((p) => p.checks ?? []),
    units: parts.flatMap((p) => p.units ?? []),
    probes: parts.flatMap((p) => p.probes ?? []),
    health: parts.flatMap((p) => p.health ?? []),
  };
}

/**
 * One site on one PHP VM: a socket that systemd holds, and a hardened service with an FPM master
 * of its own that runs as the site's uid from the start, in a mount namespace with this site's
 * tree alone.
 */
export function sitePart(site: Site, build: PhpBuild, vip: string, around: FpmSurroundings): Partial<HostContent> {
  const unit = siteUnit(site);
  const directory = `/etc/fleet/php/${site.name}`;
  const extensions = [...build.pecl.map((p) => p.name)];
  const own = { owner: "root", group: site.uid, mode: "0640" };
  const common = { name: site.name, unit, vip, port: site.port, uid: site.uid, artefact: build.artefact, version: build.release };
  const service = { ...common, box: box(site, around.phpAddresses) };
  const fpm = { ...common, clients: [...around.apacheAddresses, "127.0.0.1"].join(","), maxChildren: site.php.maxChildren };
  const ini = {
    // From 8.5 on OPcache is part of PHP itself and no longer a file to load.
    opcache: build.modules.includes("Zend OPcache") && !atLeast(build.version, "8.5"),
    extensions,
    settings: Object.entries(site.php.ini)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, value]) => ({ name, value: typeof value === "string" ? `"${value}"` : Number(value) })),
  };
  const sessions: SecretFile = { path: `${directory}/sessions.conf`, ...own, secret: sessionSecret(site) };
  return {
    files: [
      unitFile(`${unit}.socket`, render(__dirname, "site.socket", common)),
      unitFile(`${unit}.service`, render(__dirname, "site.service", service)),
      { path: `${directory}/fpm.conf`, ...own, text: render(__dirname, "fpm.conf", fpm) },
      { path: `${directory}/php.ini`, ...own, text: render(__dirname, "php.ini", ini) },
    ],
    secrets: [sessions],
    checks: [
      {
        // FPM itself starts with defaults where it cannot read the file.
        name: `php.ini of ${site.name}`,
        argv: [
          `/opt/php/${build.artefact}/bin/php`,
          "-n",
          "-r",
          "exit(parse_ini_file($argv[1]) === false ? 1 : 0);",
          `${directory}/php.ini`,
        ],
        user: site.uid,
        group: site.uid,
      },
      {
        name: `php-fpm -t of ${site.name}`,
        argv: [`/opt/php/${build.artefact}/sbin/php-fpm`, "-t", "--fpm-config", `${directory}/fpm.conf`, "-c", `${directory}/php.ini`],
        user: site.uid,
        group: site.uid,
      },
    ],
    units: [
      { name: `${unit}.socket`, restart: [`${unitDirectory}/${unit}.socket`], drain: true },
      { name: `${unit}.service`, restart: [`${unitDirectory}/${unit}.service`, `${directory}/`], start: false },
    ],
    probes: [
      {
        name: `${site.name} answers FastCGI`,
        kind: "fastcgi",
        address: vip,
        port: site.port,
        path: "/fleet-fpm-ping",
        contains: "pong",
        within: 30,
        paths: [`${unitDirectory}/${unit}.socket`, `${unitDirectory}/${unit}.service`, `${directory}/`],
        site: site.name,
        unit: `${unit}.service`,
        children: site.php.maxChildren,
      },
    ],
    health: [
      {
        name: site.name,
        kind: "fastcgi",
        address: vip,
        port: site.port,
        path: "/fleet-fpm-ping",
        unit: `${unit}.service`,
        children: site.php.maxChildren,
      },
    ],
  };
}

/** Where sessions go, as FPM settings of the site's pool. Holds a password, so it travels as a secret. */
export function sessionSettings(site: Site, store: SessionStores): string {
  const value = (name: string, text: string): string => `php_admin_value[${name}] = ${text}\n`;
  const lines = {
    files: () => value("session.save_handler", "files") + value("session.save_path", `${sitesDirectory}/${site.name}/sessions`),
    redis: () => {
      const { address, port, password } = required(store.redis, site, "Redis");
      const auth = password === undefined ? "" : `&auth=${encodeURIComponent(password)}`;
      // Short timeouts: a dead Redis must fail a request, not hang the pool.
      const path = `tcp://${address}:${port}?timeout=2&read_timeout=2&prefix=${site.name}:${auth}`;
      return value("session.save_handler", "redis") + value("session.save_path", `"${path}"`) + value("redis.session.locking_enabled", "1");
    },
    memcached: () => {
      const { servers } = required(store.memcached, site, "Memcached");
      return (
        value("session.save_handler", "memcached") +
        value("session.save_path", servers.join(",")) +
        value("memcached.sess_prefix", `${site.name}.`)
      );
    },
  };
  return `; Managed by the fleet program.\n[${site.name}]\n${lines[site.sessions]()}`;
}

/** Session stores of the stack. */
export interface SessionStores {
  readonly redis?: { readonly address: string; readonly port: number; readonly password?: string | undefined } | undefined;
  readonly memcached?: { readonly servers: readonly string[] } | undefined;
}

function required<T>(store: T | undefined, site: Site, name: string): T {
  if (store === undefined) throw new Error(`${site.name} keeps sessions in ${name}, which the stack does not have`);
  return store;
}
