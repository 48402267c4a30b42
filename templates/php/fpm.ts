import { healthPort, systemMb } from "../../config/load";
import { atLeast, buildsOn } from "../../config/php-builds";
import type { FleetSetting } from "../../config/php-ini";
import type { Fleet, Machine, PhpBuild, PhpGroup, Site } from "../../config/model";
import { sitePorts, type StackConfig } from "../../config/schema";
import { writableOf } from "../application/tree";
import type { HostContent, SecretFile } from "../content";
import { sitesDirectory, sitesMount } from "../nas/mount";
import { programFile } from "../programs";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";
import { box, environment, siteSlice, slicePart, type NetworkPolicy } from "./box";
import { cronPart } from "./cron";
import { scriptPart } from "./script";

/** Addresses that the fleet's own PHP tier needs to know. */
export interface FpmSurroundings {
  /** The Apache VMs: the only ones whose FastCGI requests are taken. */
  readonly apacheAddresses: readonly string[];
  readonly network: NetworkPolicy;
  /** Who takes the mail of sites. @default nobody: PHP's mail() fails */
  readonly mail?: StackConfig["mail"];
  /** Authority of the Redis server's certificate, PEM. @default those that Debian knows */
  readonly redisAuthority?: string | undefined;
}

/** Where a PHP VM has the authority of the Redis server. */
const authorityFile = "/etc/fleet/redis-ca.pem";

/**
 * Kernel parameters of a PHP VM. FPM waits for its client to take the answer, and a client that died
 * takes a child with it: for 25 s with 6 resends, for 15 minutes with the kernel's own 15.
 * No code of a site can take the port of another one, which systemd opens as root: what it listens on itself, and where
 * its own connections begin, is above them all. The kernel refuses the third line without the second before it.
 */
export const fpmSysctls = {
  "net.ipv4.tcp_retries2": 6,
  "net.ipv4.ip_local_port_range": `${sitePorts.to + 1} 60999`,
  "net.ipv4.ip_unprivileged_port_start": sitePorts.to + 1,
} as const;

/** Name of a site's units, without suffix. */
export const siteUnit = (site: Pick<Site, "name">): string => `fleet-site-${site.name}`;

/** Units and files of a site's trial; `fleet-site-<name>-trial` could be those of another site. */
const trialUnit = (site: Pick<Site, "name">): string => `fleet-trial-${site.name}`;
const trialDirectory = (site: Pick<Site, "name">): string => `/etc/fleet/php-trial/${site.name}`;

/** Name under which the program passes the text of a site's session settings. */
export const sessionSecret = (site: Pick<Site, "name">): string => `sessions-${site.name}`;

/** PHP that refuses a php.ini which it cannot read, or which sets what neither it nor a module of the build knows. */
const iniCheck = [
  "$set = parse_ini_file($argv[1], false, INI_SCANNER_RAW);",
  "if ($set === false) exit(1);",
  "unset($set['extension'], $set['zend_extension']);",
  "$unknown = array_diff(array_keys($set), array_keys(ini_get_all(null, false)));",
  "if ($unknown) { fwrite(STDERR, 'no such setting: ' . implode(', ', $unknown) . PHP_EOL); exit(1); }",
].join(" ");

/**
 * A timer that stops the FPM of sites that nobody asks for anything: their ports stay, and the next
 * request starts them again. Not while a change is unsettled.
 */
export function restPart(address: string, seconds: number): Partial<HostContent> {
  const view = { responder: `${address}:${healthPort}`, seconds };
  return {
    files: [
      programFile("rest.py"),
      unitFile("fleet-rest.service", render(__dirname, "fleet-rest.service", view)),
      unitFile("fleet-rest.timer", render(__dirname, "fleet-rest.timer", {})),
    ],
    units: [
      { name: "fleet-rest.timer", restart: [`${unitDirectory}/fleet-rest.timer`] },
      { name: "fleet-rest.service", start: false },
    ],
  };
}

/**
 * All sites of a group on one of its VMs, each a service of its own; see {@link sitePart} and {@link trialPart}.
 * Beside it, what runs their scripts.
 */
export function fpmPart(machine: Pick<Machine, "debian" | "memoryMb">, group: PhpGroup, around: FpmSurroundings): Partial<HostContent> {
  const builds = buildsOn(machine, group.builds);
  const buildOf = (site: Site, version: string): PhpBuild => {
    const build = builds.find((b) => b.version === version);
    if (!build) throw new Error(`group ${group.name} has no PHP ${version} of ${machine.debian} for ${site.name}`);
    return build;
  };
  const parts = group.sites.flatMap((site) => {
    const { version, trial } = site.php;
    const { network } = around;
    const build = buildOf(site, version);
    const own = [
      slicePart(site),
      sitePart(site, build, group.vip, around),
      scriptPart(site, build, network),
      cronPart(site, build, network),
    ];
    return trial ? [...own, trialPart(site, trial.port, buildOf(site, trial.version), group.vip, around)] : own;
  });
  const users = group.sites.map((s) => `u ${siteUnit(s)} ${s.uid} "Site ${s.name}" ${sitesDirectory}/${s.name}\n`);
  return {
    packages: [...builds.flatMap((b) => b.runPackages), ...(around.mail ? ["ca-certificates", "msmtp"] : [])],
    files: [
      ...(around.redisAuthority === undefined ? [] : [{ path: authorityFile, text: `${around.redisAuthority.trimEnd()}\n` }]),
      { path: "/etc/sysusers.d/fleet-sites.conf", text: `# Managed by the fleet program.\n${users.join("")}` },
      unitFile("sites.slice", render(__dirname, "sites.slice", { memoryMb: machine.memoryMb - systemMb })),
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
  const [unit, directory] = [siteUnit(site), `/etc/fleet/php/${site.name}`];
  const service = { name: site.name, unit, directory, port: site.port, build, trial: false };
  const place = { kind: "fastcgi", address: vip, port: site.port } as const;
  const pool = { unit: `${unit}.service`, children: site.php.maxChildren };
  return {
    ...servicePart(site, service, vip, around),
    probes: [
      {
        name: `${site.name} answers FastCGI`,
        ...place,
        path: "/fleet-fpm-ping",
        contains: "pong",
        within: 30,
        paths: [`${unitDirectory}/${unit}.socket`, `${unitDirectory}/${unit}.service`, `${directory}/`],
        site: site.name,
        ...pool,
      },
    ],
    health: [{ name: site.name, ...place, path: "/fleet-fpm-status", ...pool }],
  };
}

/**
 * The same site by another PHP build, for requests with the trial's cookie: the same tree, uid, box and settings
 * under a port of its own. Only testers meet it, so nothing is drained for it, and neither a probe nor the health
 * responder asks it: one that is broken fails no change and takes no VM away.
 */
export function trialPart(site: Site, port: number, build: PhpBuild, vip: string, around: FpmSurroundings): Partial<HostContent> {
  const service = { name: `the trial of ${site.name}`, unit: trialUnit(site), directory: trialDirectory(site), port, build, trial: true };
  return servicePart(site, service, vip, around);
}

/** One FPM service of a site. */
interface FpmService {
  /** As descriptions and checks call it. */
  readonly name: string;
  readonly unit: string;
  /** Of its pool, php.ini and session settings. */
  readonly directory: string;
  readonly port: number;
  readonly build: PhpBuild;
  /** Its port closes without a drain, and it goes first where memory is short. */
  readonly trial: boolean;
}

/** Socket, service, pool and php.ini, and what checks them. */
function servicePart(
  site: Site,
  { name, unit, directory, port, build, trial }: FpmService,
  vip: string,
  around: FpmSurroundings,
): Partial<HostContent> {
  const extensions = [...build.pecl.map((p) => p.name)];
  const own = { owner: "root", group: site.uid, mode: "0640" };
  const { artefact, release: version } = build;
  const common = { name: site.name, title: name, unit, directory, vip, port, uid: site.uid, artefact, version };
  const service = { ...common, slice: siteSlice(site), trial, box: box(site, around.network), written: writableOf(site) };
  const fpm = {
    ...common,
    clients: [...around.apacheAddresses, "127.0.0.1"].join(","),
    maxChildren: site.php.maxChildren,
    environment: environment(site),
  };
  const mail = mailFile(site, around);
  const ini = {
    directory,
    mail: mail.length > 0,
    // From 8.5 on OPcache is part of PHP itself and no longer a file to load.
    opcache: build.modules.includes("Zend OPcache") && !atLeast(build.version, "8.5"),
    extensions,
    settings: Object.entries(site.php.ini)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, value]) => ({ name, value: typeof value === "string" ? `"${value}"` : Number(value) })),
  };
  // Of hundreds of sites on a VM, those are checked that a change touches.
  const files = [`${unitDirectory}/${unit}.service`, `${directory}/`];
  const sessions: SecretFile = { path: `${directory}/sessions.conf`, ...own, secret: sessionSecret(site) };
  return {
    files: [
      unitFile(`${unit}.socket`, render(__dirname, "site.socket", common)),
      unitFile(`${unit}.service`, render(__dirname, "site.service", service)),
      { path: `${directory}/fpm.conf`, ...own, text: render(__dirname, "fpm.conf", fpm) },
      { path: `${directory}/php.ini`, ...own, text: render(__dirname, "php.ini", ini) },
      { path: `${directory}/guard.php`, ...own, text: render(__dirname, "guard.php", common) },
      ...mail.map((text) => ({ path: `${directory}/msmtprc`, ...own, text })),
    ],
    secrets: [sessions],
    checks: [
      {
        // FPM itself starts with defaults where it cannot read the file, and knows no name to be wrong.
        name: `php.ini of ${name}`,
        argv: [`/opt/php/${artefact}/bin/php`, "-c", `${directory}/php.ini`, "-r", iniCheck, `${directory}/php.ini`],
        user: site.uid,
        group: site.uid,
        paths: files,
      },
      {
        name: `php-fpm -t of ${name}`,
        argv: [`/opt/php/${artefact}/sbin/php-fpm`, "-t", "--fpm-config", `${directory}/fpm.conf`, "-c", `${directory}/php.ini`],
        user: site.uid,
        group: site.uid,
        paths: files,
      },
    ],
    units: [
      { name: `${unit}.socket`, restart: [`${unitDirectory}/${unit}.socket`], drain: !trial },
      {
        name: `${unit}.service`,
        // Its namespace keeps the file system that it was started with.
        restart: [`${unitDirectory}/${unit}.service`, `${unitDirectory}/${sitesMount}`, `${directory}/`],
        start: false,
      },
    ],
  };
}

/** How the site's mail leaves, where the stack has a relay for it. */
function mailFile(site: Site, { mail }: FpmSurroundings): string[] {
  if (!mail) return [];
  const from = site.mail?.from ?? `${site.name}@${mail.domain}`;
  return [render(__dirname, "msmtprc", { ...mail, tls: mail.startTls ? "on" : "off", from })];
}

/**
 * Waits of a request for its session store. phpredis asks a server that does not answer three times in a request at the
 * most (is this session there, a new one, what is in it), and does not ask again on a connection that has timed out: so
 * such a server costs a request 1.5 s. Who waits for the lock that a request of the same visitor holds gives up after a
 * second of sleeps and a round trip for each: few tries, so that slow ones stay within two seconds. A lock whose holder
 * died goes after a minute.
 */
const waits = { seconds: 0.5, lockRetries: 20, lockMilliseconds: 50, lockExpire: 60 } as const;

/**
 * Waits for Memcached. A server that does not take a connection in time is left out for the rest of the request, so it is
 * waited for once, and what is written meanwhile is on the others alone: a first packet that is lost, which is sent
 * again after a second (RFC 6298), must not come to that. With the lock's 0.75 s it is still within two seconds.
 */
const memcachedWaits = { connectMilliseconds: 1200, lockRetries: 15 } as const;

/** Where sessions go, as FPM settings of the site's pool. Holds a password, so it travels as a secret. */
export function sessionSettings(site: Site, store: SessionStores): string {
  const value = (name: FleetSetting | "session.use_strict_mode", text: string): string => `php_admin_value[${name}] = ${text}\n`;
  const lines = {
    files: () => value("session.save_handler", "files") + value("session.save_path", `${sitesDirectory}/${site.name}/sessions`),
    redis: () => {
      const { address, port, user, password, tls } = required(store.redis, site, "Redis");
      const login = user === undefined ? { auth: password } : { "auth[user]": user, "auth[pass]": password };
      const auth = Object.entries(login).map(([key, text]) => (text === undefined ? "" : `&${key}=${encodeURIComponent(text)}`));
      const stream = redisContext(tls).map(([key, text]) => `&stream[${key}]=${encodeURIComponent(text)}`);
      const timeouts = `timeout=${waits.seconds}&read_timeout=${waits.seconds}`;
      const server = `${tls ? "tls" : "tcp"}://${address}:${port}`;
      const path = `${server}?${timeouts}&prefix=${redisPrefix(site)}${auth.join("")}${stream.join("")}`;
      return (
        value("session.save_handler", "redis") +
        value("session.save_path", `"${path}"`) +
        value("redis.session.locking_enabled", "1") +
        value("redis.session.lock_wait_time", String(waits.lockMilliseconds * 1000)) +
        value("redis.session.lock_retries", String(waits.lockRetries)) +
        value("redis.session.lock_expire", String(waits.lockExpire))
      );
    },
    memcached: () => {
      const { servers, replicas } = required(store.memcached, site, "Memcached");
      const copies = replicas ?? Math.min(1, servers.length - 1);
      return (
        value("session.save_handler", "memcached") +
        value("session.save_path", servers.join(",")) +
        value("memcached.sess_prefix", `${site.name}.`) +
        value("memcached.sess_locking", "1") +
        value("memcached.sess_lock_wait_min", String(waits.lockMilliseconds)) +
        value("memcached.sess_lock_wait_max", String(waits.lockMilliseconds)) +
        value("memcached.sess_lock_retries", String(memcachedWaits.lockRetries)) +
        value("memcached.sess_lock_expire", String(waits.lockExpire)) +
        value("memcached.sess_connect_timeout", String(memcachedWaits.connectMilliseconds)) +
        value("memcached.sess_consistent_hash", "1") +
        // Only the binary protocol has replicas; a server that fails once is left out, and the next one asked.
        value("memcached.sess_binary_protocol", "1") +
        value("memcached.sess_number_of_replicas", String(copies)) +
        value("memcached.sess_remove_failed_servers", "1") +
        value("memcached.sess_server_failure_limit", "1") +
        // PHP's question whether there is such a session goes to the first server alone: with that one dead, it would
        // give each of its visitors another session.
        (copies > 0 ? value("session.use_strict_mode", "0") : "")
      );
    },
  };
  return `; Managed by the fleet program.\n[${site.name}]\n${lines[site.sessions]()}`;
}

/** With what the keys of a site's sessions in Redis begin. */
export const redisPrefix = (site: Pick<Site, "name">): string => `${site.name}:`;

/** What phpredis' session handler asks for, with locks: EVAL and EVALSHA give a lock back. */
const sessionCommands = ["get", "set", "setex", "del", "exists", "expire", "eval", "evalsha"];

/**
 * Rules of a site's own user on the Redis server; `more`: commands of a session handler of its own. A script that it
 * sends there is held to them as well.
 */
export const redisRules = (site: Pick<Site, "name">, more: readonly string[] = []): string[] => [
  `~${redisPrefix(site)}*`,
  "-@all",
  ...[...sessionCommands, ...more].map((name) => `+${name}`),
];

/**
 * Name of a site's own user on the Redis server; with an empty site, what those of a stack begin with.
 * Neither a stack's name nor a site's has a colon, so no stack meets the users of another.
 */
export const redisUser = ({ stack }: Pick<Fleet, "stack">, site: Pick<Site, "name">): string => `fleet:${stack}:${site.name}`;

/** How a site reaches the Redis server: by a user of its own, or by the default user's password. */
export interface RedisStore {
  readonly address: string;
  readonly port: number;
  readonly user?: string | undefined;
  readonly password?: string | undefined;
  /** Whether it speaks TLS: with an authority of its own, another name than its address. */
  readonly tls?: { readonly ca?: string | undefined; readonly name?: string | undefined } | undefined;
}

/** PHP's context options of a connection to the server by TLS, beside what PHP does by itself. */
export function redisContext(tls: RedisStore["tls"]): [option: string, text: string][] {
  const context = { cafile: tls?.ca && authorityFile, peer_name: tls?.name };
  return Object.entries(context).flatMap(([option, text]) => (text === undefined ? [] : [[option, text]]));
}

/** Session stores of the stack. */
export interface SessionStores {
  readonly redis?: RedisStore | undefined;
  readonly memcached?: { readonly servers: readonly string[]; readonly replicas?: number | undefined } | undefined;
}

function required<T>(store: T | undefined, site: Site, name: string): T {
  if (store === undefined) throw new Error(`${site.name} keeps sessions in ${name}, which the stack does not have`);
  return store;
}
