import { z } from "zod";
import { calendarForm, isCalendar } from "./calendar";
import { isIPv4, isNetwork } from "./network";
import { phpModuleNames } from "./php-modules";
import { megabytes, seconds } from "./units";

/*
 * What an operator may write in Pulumi.<stack>.yaml, one schema for each `fleet:` key.
 * Every refusal says what is allowed: the text after `allowed` is shown to the operator.
 */

/** Debian releases that a VM of the fleet may run. */
export const debianReleases = ["bookworm", "trixie"] as const;
/** A Debian release by its code name. */
export type DebianRelease = (typeof debianReleases)[number];

const address = z.string().refine(isIPv4, { error: "an IPv4 address such as 10.20.0.11" });
const cidr = z.string().refine(isNetwork, { error: "an IPv4 network such as 10.20.0.0/24" });
const size = z.string().refine((s) => megabytes(s) !== undefined, { error: 'a size such as "4 GB" or "512 MB"' });
const duration = z.string().refine((s) => (seconds(s) ?? 0) > 0, { error: 'a duration such as "1 second" or "5 minutes"' });
/** Whether a duration is from `least` to `most` seconds. */
const within = (text: string, least: number, most: number): boolean => {
  const length = seconds(text) ?? 0;
  return length >= least && length <= most;
};
const isServer = (text: string): boolean => {
  const [host = "", port = "", ...more] = text.split(":");
  return isIPv4(host) && /^[1-9]\d{0,4}$/.test(port) && Number(port) < 65536 && more.length === 0;
};
/** One that may also be "0 seconds". */
const wait = z.string().refine((s) => seconds(s) !== undefined, { error: 'a duration such as "0 seconds" or "5 minutes"' });
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, { error: "64 hexadecimal digits of a SHA-256" });
const url = z.url({ protocol: /^https?$/, error: "an http or https URL" });
const hostName = z.string().regex(/^[a-z][a-z0-9-]{0,30}$/, { error: "a host name of lower-case letters, digits and hyphens" });
const release = z.enum(debianReleases);
const dnsName = z
  .string()
  .regex(/^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/, { error: "a DNS name in lower case" });
const phpVersionForm = 'a PHP version in quotes, such as "8.2"';
const phpVersion = z
  .string({ error: ({ input }) => (input === undefined ? undefined : phpVersionForm) })
  .regex(/^[5-9]\.\d$/, phpVersionForm);

/** Size of each VM of a tier; defaults are the documented ones of each tier. */
const vmSize = (vcpu: number, memory: string, disk = "20 GB") => ({
  vcpu: z.int().min(1).max(64).default(vcpu),
  memory: size.default(memory),
  disk: size.default(disk),
});

const vm = z.strictObject({
  address,
  /** @default the tier's */
  debian: release.optional(),
});
/** VMs of a tier by name; one that has nothing of its own but its address is written as that alone. */
const hosts = z.record(hostName, z.union([address.transform((text): z.output<typeof vm> => ({ address: text })), vm]));
export type Hosts = z.output<typeof hosts>;

export const vsphereSchema = z.strictObject({
  /** Name or address of the vCenter, with its port where that is not 443. */
  server: z.string(),
  /** Account of the program; its password is the secret `vspherePassword`. */
  user: z.string(),
  /** For a vCenter whose authority this computer does not trust. */
  allowUnverifiedSsl: z.boolean().default(false),
  datacenter: z.string(),
  cluster: z.string(),
  datastore: z.string(),
  network: z.string(),
  folder: z.string().default("php-fleet"),
  /** Template VM of each Debian release in use. */
  templates: z.partialRecord(release, z.string()),
  /** Whether vSphere may add vCPU and memory to a running VM; where not, each change of size is a power-off. */
  hotAdd: z.boolean().default(true),
});

export const networkSchema = z.strictObject({
  cidr,
  gateway: address,
  nameservers: z.array(address).default([]),
  /** What sites may reach in `cidr` besides the session stores, the nameservers, the mail relay and the VIPs of web services: databases. */
  openToSites: z.array(address).default([]),
  /** Proxy for Debian packages, where the VMs have no way out of their own. */
  aptProxy: url.optional(),
});

export const sshSchema = z.strictObject({
  user: hostName.default("fleet"),
  /** Public keys of the administrators, beside the program's own. */
  authorizedKeys: z.array(z.string().startsWith("ssh-", { error: "an OpenSSH public key" })).default([]),
});

export const balancersSchema = z.strictObject({
  ...vmSize(2, "1 GB", "10 GB"),
  debian: release.default("bookworm"),
  hosts,
  /** VRRP identity of the pair, unique on its network segment. */
  virtualRouterId: z.int().min(1).max(255).default(51),
  /**
   * Time between two VRRP advertisements. A director that dies is replaced after three of them and the skew of
   * RFC 9568, at most one more; one that a vMotion or a snapshot holds for less than three is not. Measured in the lab
   * with 1 second: replaced after 2.8 to 3.1 s, and not in a stun of 2 s; with 0.3 seconds after 1.0 s, but then a stun
   * of a second is a take-over.
   */
  advertInterval: duration
    .refine((s) => within(s, 0.1, 40), { error: 'a duration from "0.1 seconds" to "40 seconds", VRRP\'s longest' })
    .default("1 second"),
  /** Time between two health checks of a real server, at most a minute: so long is a candidate tried too. */
  checkInterval: duration.refine((s) => within(s, 0.1, 60), { error: 'a duration of at most "60 seconds"' }).default("1 second"),
  /**
   * How long a check waits for its server. Two in a row must fail, 0.4 s apart: a dead server is out of the balancing
   * after at most checkInterval + 2 checkTimeout + 0.4 s, by default 2.8 s; one that stands still for less than
   * 2 checkTimeout + 0.4 s may stay. A health responder answers within 0.3 s, whatever hangs behind it. A candidate is
   * tried for 6 s beside checkInterval, so at most 2.5 seconds.
   */
  checkTimeout: duration
    .refine((s) => within(s, 0.4, 2.5), { error: 'a duration from "0.4 seconds" to "2.5 seconds"' })
    .default("0.7 seconds"),
  /**
   * Whether the live director tells the other of its connections, so that those to a server which takes no new ones
   * outlive a fail-over too. The others do without it: see docs/decisions/0008.
   */
  connectionSync: z.boolean().default(true),
});

const snapshotsSchema = z.strictObject({
  hourly: z.int().min(1).max(1000).default(24),
  daily: z.int().min(0).max(1000).default(7),
  weekly: z.int().min(0).max(1000).default(4),
});

export const nasSchema = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("vm"),
    ...vmSize(2, "4 GB", "20 GB"),
    debian: release.default("bookworm"),
    host: hostName,
    address,
    /** Size of the data disk, a second virtual disk. */
    dataDisk: size.default("500 GB"),
    /** Device of the data disk in the guest. */
    dataDevice: z.string().startsWith("/dev/").default("/dev/sdb"),
    /** Hourly snapshots that stay: of so many last hours, days and weeks the first one. */
    snapshots: snapshotsSchema.default(snapshotsSchema.parse({})),
    /** What each site may store that does not say so itself. @default no limit */
    quota: size.optional(),
  }),
  z.strictObject({
    kind: z.literal("appliance"),
    address,
    /** Exported path that holds one directory for each site. */
    export: z.string().startsWith("/"),
    /** Options added to those that every mount has. */
    mountOptions: z.array(z.string()).default([]),
    /** Directory of the appliance's own snapshots, as clients see it. */
    snapshotDirectory: z.string().default(".snapshot"),
  }),
]);

/** A pinned archive, and the detached OpenPGP signature of it where its authors give one. */
const pinned = {
  url,
  sha256,
  /** `url` of the signature, and the file of the project with the armoured public keys of which one must have made it. */
  signature: z.strictObject({ url, key: z.string().min(1) }).optional(),
};
const flags = z.string().regex(/^\P{Cc}*$/u, { error: "one line" });
/** What a build has; where it is installed, and that an unknown option ends it, is not for a stack to say. */
const configureOption = z
  .string()
  .regex(/^--(?!(en|dis)able-option-checking|with-php-config)(enable|disable|with|without)-[a-z0-9-]+(=\P{Cc}*)?$/u, {
    error: "an --enable-, --disable-, --with- or --without- of configure other than option-checking and php-config",
  });
const debianPackages = z.array(z.string().regex(/^[a-z0-9][a-z0-9.+-]+$/, { error: "a Debian package" }));

/** How the compilers are called. A PHP faces the web: hardened, as Debian's own is. */
const flagsSchema = z.strictObject({
  /** For C and C++. */
  cflags: flags.default("-O2 -fstack-protector-strong -fstack-clash-protection -D_FORTIFY_SOURCE=2"),
  /** For the linker. */
  ldflags: flags.default("-Wl,-z,relro -Wl,-z,now"),
});

export const phpBuildSchema = z.strictObject({
  /** Full upstream release, e.g. 8.2.32. */
  release: z.string().regex(/^\d+\.\d+\.\d+$/, { error: 'a full release such as "8.2.32"' }),
  source: z.strictObject(pinned),
  /** Files of the project, applied to the source in this order with `patch -p1`. */
  patches: z.array(z.strictObject({ file: z.string().min(1), sha256 })).default([]),
  /** Those of PHP beside its core; `needed`: those that the sites of the groups with this version use. */
  modules: z.union([
    z
      .string()
      .regex(/^needed$/, { error: "a list of modules, or needed" })
      .transform(() => "needed" as const),
    z.array(z.enum(phpModuleNames as [string, ...string[]])),
  ]),
  pecl: z
    .record(
      z.string().regex(/^[a-z][a-z0-9_]*$/, { error: "the name of a PECL module in lower case" }),
      z.strictObject({
        ...pinned,
        /** Of the module's own configure. */
        options: z.array(configureOption).default([]),
        /** Debian packages needed to compile it, beside those that are known for it. */
        build: debianPackages.optional(),
        /** Debian packages needed to run it, likewise. */
        run: debianPackages.optional(),
      }),
    )
    .default({}),
  /** Further options of PHP's configure. */
  options: z.array(configureOption).default([]),
  flags: flagsSchema.default(flagsSchema.parse({})),
  /** How many of PHP's own tests a build must pass: 25 of each module, all of them, or none. */
  tests: z.enum(["sample", "all", "none"]).default("sample"),
  /** Tests that may fail, by their path in PHP's source. */
  knownFailures: z.array(z.string().endsWith(".phpt", { error: "the path of a .phpt file in PHP's source" })).default([]),
});

export const builderSchema = z.strictObject({
  ...vmSize(8, "8 GB", "40 GB"),
  host: hostName,
  address,
});

export const mutualisedSchema = z.strictObject({
  vip: address,
  apache: z.strictObject({
    ...vmSize(4, "4 GB"),
    debian: release.default("bookworm"),
    hosts,
    /**
     * Symbolic links in sites' trees, to Apache; PHP follows them whatever this says. `none`: there are none.
     * `owner`: it follows a link to what has the link's own owner. Between the look and the opening a site that is
     * quick can put another link, to a file of a neighbour.
     */
    symbolicLinks: z.enum(["none", "owner"]).default("none"),
  }),
  php: z.record(
    hostName,
    z.strictObject({
      ...vmSize(8, "6 GB"),
      debian: release.default("bookworm"),
      vip: address,
      versions: z.array(phpVersion).min(1),
      hosts,
      /** Most sites at work at once on one VM: as much memory as the largest of them may take must be there. @default all of them */
      activeSites: z.int().min(1).optional(),
      /** A site's PHP ends after this time without a request; the next one starts it again. */
      idle: duration.default("10 minutes"),
    }),
  ),
});

export const redisSchema = z.strictObject({
  address,
  port: z.int().min(1).max(65535).default(6379),
  /**
   * `each`: every site has a user of its own, which reaches its own sessions alone; the server is Redis 6 or later.
   * `one`: all sites share the default user, and each can read and write the sessions of all.
   */
  users: z.enum(["each", "one"]).default("each"),
  /** Where the server speaks TLS. @default it does not */
  tls: z
    .strictObject({
      /** File of the project with the authority of its certificate, PEM. @default those that Debian knows */
      ca: z.string().min(1).optional(),
      /** Name in its certificate. @default its address */
      name: dnsName.optional(),
    })
    .optional(),
});
/** Memcached has no users: a site can read and write every session whose key it knows, and empty the server. What must be kept apart is kept in Redis. */
export const memcachedSchema = z.strictObject({
  servers: z.array(z.string().refine(isServer, { error: 'an IPv4 address and a port such as "10.20.0.8:11211"' })).min(1),
  /** How many other servers have each session too. @default 1, where there are several servers */
  replicas: z.int().min(0).optional(),
});

/** The university's mail relay, which takes what PHP's mail() sends. */
export const mailSchema = z.strictObject({
  relay: address,
  port: z.int().min(1).max(65535).default(25),
  /** Whether the relay is spoken to by STARTTLS, with a certificate that Debian's authorities know. */
  startTls: z.boolean().default(false),
  /** A site's sender is `<site>@<domain>`, unless its file says otherwise. */
  domain: dnsName,
});

const secret = z.string().min(1);
/** The secrets of a stack; each is set with `npm run fleet -- secret <name>`, see stacks/read.ts. */
export const secretsSchema = z.strictObject({
  vspherePassword: secret,
  /** OpenSSH key with which the program and the tools connect to every VM. */
  sshPrivateKey: secret,
  tlsCertificate: secret,
  tlsPrivateKey: secret,
  redisPassword: secret.optional(),
});
/** Password of an application's database, by the application's name: `moodleDatabasePassword`. */
export type DatabasePassword = `${string}DatabasePassword`;
export const databasePassword = (application: string): DatabasePassword =>
  `${application.replace(/-+(.)/g, (_, letter: string) => letter.toUpperCase())}DatabasePassword`;
export type Secrets = z.output<typeof secretsSchema> & { readonly [name: DatabasePassword]: string };
/** Names of the secrets that every stack may have. */
export const secretNames: readonly string[] = secretsSchema.keyof().options;
/** Whether a stack may have a secret of this name. */
export const isSecretName = (name: string): boolean => secretNames.includes(name) || /^[a-z][A-Za-z0-9]*DatabasePassword$/.test(name);

/** How a change goes through a tier. The words of health and deadline are Nomad's. */
export const rolloutSchema = z.strictObject({
  /** `parallel` has the VMs of a tier born all at once, so that a new fleet is there sooner; `serial` one after the other. */
  order: z.enum(["serial", "parallel"]).default("serial"),
  /** What becomes of the VMs of a tier that are done when a later one fails. */
  onFailure: z.enum(["revert", "stop"]).default("revert"),
  /** Longest wait for requests in flight before a step that would lose them. */
  drain: wait.default("30 seconds"),
  /** How long a changed VM must be healthy without a break. */
  minHealthyTime: wait.default("3 seconds"),
  /** Within which it must become so. */
  healthyDeadline: duration.default("30 seconds"),
  /** A changed VM that the program does not come back to within this time goes back by itself. */
  confirmDeadline: duration.default("45 seconds"),
  /** How long a proved VM waits for the rest of its tier before it goes back too; see `onFailure`. */
  holdDeadline: duration.default("30 minutes"),
  /** Other servers of a service that must be live before one is changed. */
  minimumServers: z.int().min(0).default(1),
});

const fileName = z.string().regex(/^(?!\/)(?!.*\.\.)[\w./-]+$/, { error: "a relative path without .." });

/** Ports that FPM services of sites may have. */
export const sitePorts = { from: 10000, to: 39999 } as const;
/** Uids that sites may have. */
export const siteUids = { from: 20000, to: 59999 } as const;
const port = z.int().min(sitePorts.from).max(sitePorts.to);

/** What a site may not set for itself: it decides which programs and which php.ini run. */
const ownVariables = /^(PATH|TMPDIR|BASH_.*|LD_.*|GCONV_PATH|OPENSSL_.*|PHP.*|FPM_.*|FLEET_.*)$/;
const variableName = z
  .string()
  .regex(/^[A-Z][A-Z0-9_]*$/, { error: "a name of upper-case letters, digits and underscores" })
  .refine((name) => !ownVariables.test(name), {
    error: "a name other than PATH, TMPDIR, BASH_*, LD_*, GCONV_PATH, OPENSSL_*, PHP*, FPM_*, FLEET_*",
  });

/** A script of a site that runs at its times, on one VM of the group each time. */
const cronSchema = z.strictObject({
  /** Name among the site's entries; a hyphen parts it from the site's in the names of units. */
  name: z.string().regex(/^[a-z][a-z0-9_]{0,30}$/, { error: "a name of lower-case letters, digits and underscores" }),
  /** When it runs, in the VMs' time zone. */
  at: z.string().refine(isCalendar, { error: calendarForm }),
  /** Path under the site's tree. */
  script: fileName,
  args: z.array(z.string().regex(/^\P{Cc}*$/u, { error: "one line" })).default([]),
  /** A run that takes longer is ended, and has failed. */
  timeout: duration.default("60 minutes"),
});

/** One file of sites/: a vhost and its PHP. */
export const siteSchema = z.strictObject({
  /** Name of the site, the same as its file's. */
  name: hostName,
  /** DNS names; the first is canonical. */
  hosts: z.array(dnsName).min(1),
  /** `redirect` sends plain HTTP to HTTPS; `both` answers on both. */
  https: z.enum(["redirect", "both"]).default("redirect"),
  /** Document root under the site's tree. */
  documentRoot: fileName.default("htdocs"),
  /** Unix uid and gid of the site, allocated once and never used again. */
  uid: z.int().min(siteUids.from).max(siteUids.to),
  /** TCP port of the site's FPM on its group's address, allocated once. */
  port,
  php: z.strictObject({
    version: phpVersion,
    /** PHP group that runs the site; needed where several have the version. */
    group: hostName.optional(),
    /** Another version of the same group, for requests that carry the trial's cookie; its port is allocated once as well. */
    trial: z.strictObject({ version: phpVersion, port }).optional(),
    /** Modules the code needs; a build without one of them is refused. */
    modules: z.array(z.string()).default([]),
    /** Most requests of this site at once on each VM. @default one for each 64 MB of `memory`, at most 5 */
    maxChildren: z.int().min(1).max(500).optional(),
    /** Memory of all that the site runs on each VM, its scripts too. @default 512 MB, or the VM's share for each of `activeSites` */
    memory: size.optional(),
    /** Size of its /tmp, where uploads arrive: a file system in memory, which counts in `memory`. @default half of it, at most 128 MB */
    tmp: size.optional(),
    /** Share of a busy VM's CPUs: one of 200 gets twice what one of 100 gets. */
    cpuWeight: z.int().min(1).max(10000).default(100),
    /** Environment of its PHP, from the Web and in scripts. Not for secrets: it is in Git and in units that anyone on the VM reads. */
    environment: z
      .record(variableName, z.string().regex(/^[^"\\$%\p{Cc}]+$/u, { error: "one line, not empty, without quotes, backslashes, $ and %" }))
      .default({}),
    /** php.ini values of this site. */
    ini: z
      .record(
        z.string().regex(/^[a-z_]+(\.[a-z0-9_]+)*$/, { error: "a php.ini name" }),
        z.union([
          z.string().regex(/^(?!.*\$\{)(?!.*\\$)[^\r\n"]*$/s, { error: "one line without quotes and ${, and no backslash at its end" }),
          z.number(),
          z.boolean(),
        ]),
      )
      .default({}),
  }),
  /** What it may store on a NAS VM. @default that of `fleet:nas` */
  quota: size.optional(),
  /** Where PHP keeps sessions. */
  sessions: z.enum(["redis", "memcached", "files"]).default("files"),
  mail: z
    .strictObject({
      /** Envelope sender of what PHP's mail() sends. */
      from: z.email({ error: "a mail address" }),
    })
    .optional(),
  /** Scripts that run by themselves. */
  cron: z.array(cronSchema).default([]),
  /** What an empty site is filled with once; never touched again. */
  seed: z.union([z.strictObject({ url, sha256 }), z.strictObject({ files: z.record(fileName, z.string()) })]).optional(),
});
/** A site's file with its defaults filled in. */
export type SiteConfig = z.output<typeof siteSchema>;

/** What the VMs of an application run: a commit of a Git repository, and everything that a site has beside its code. */
const applicationKeys = {
  /** DNS names; the first is canonical. */
  hosts: z.array(dnsName).min(1),
  /** Unix uid and gid, of those of sites: allocated once and never used again. */
  uid: siteSchema.shape.uid,
  code: z.strictObject({
    /** Where the builder fetches it from, without a password. */
    repository: url,
    commit: z.string().regex(/^[0-9a-f]{40}$/, { error: "the 40 hexadecimal digits of a commit" }),
    /** Name of that commit, for people; checked when it is fetched. */
    tag: z
      .string()
      .regex(/^[\w][\w./+-]*$/, { error: "the name of a tag" })
      .optional(),
  }),
  php: siteSchema.shape.php.omit({ group: true, trial: true, cpuWeight: true }),
  mail: siteSchema.shape.mail,
};

const tableName = z.string().regex(/^[A-Za-z0-9_]+$/, { error: "letters, digits and underscores" });
const databaseHost = z.union([address, dnsName]);

/** An application alone on its VMs, e.g. WordPress. */
const dedicatedApplicationSchema = z.strictObject({
  ...applicationKeys,
  https: siteSchema.shape.https,
  /** Document root in the code. @default the whole of it */
  documentRoot: fileName.optional(),
  /** URL path that answers where the code has no file, e.g. /index.php. */
  fallback: z
    .string()
    .regex(/^\/[\w./-]*$/, { error: "a path such as /index.php" })
    .optional(),
  /** Directories of the code that the application writes: they are on the NAS. */
  writable: z.array(fileName).default([]),
  /** The application's configuration file: `path` in the code, and the `file` of the project that is its text. */
  config: z.strictObject({ path: fileName, file: z.string().min(1) }).optional(),
  /** Its database server, which its code may reach; the password is the secret `<name>DatabasePassword`. */
  database: z.strictObject({ host: databaseHost }).optional(),
  sessions: siteSchema.shape.sessions,
  cron: siteSchema.shape.cron,
});

export const dedicatedSchema = z.record(
  hostName,
  z.strictObject({
    ...vmSize(6, "6 GB"),
    debian: release.default("bookworm"),
    vip: address,
    hosts,
    /** What runs there. @default nothing: the VMs alone */
    application: dedicatedApplicationSchema.optional(),
  }),
);

const moodleApplicationSchema = z.strictObject({
  ...applicationKeys,
  /** Moodle's branch, e.g. 4.5: it decides the document root, and is compared with what the code says. */
  branch: z.string().regex(/^\d\.\d{1,2}$/, { error: 'a branch of Moodle in quotes, such as "4.5"' }),
  database: z.strictObject({
    /** Moodle's own word for the kind of server. */
    type: z.enum(["mariadb", "mysqli"]).default("mariadb"),
    host: databaseHost,
    port: z.int().min(1).max(65535).default(3306),
    name: tableName.default("moodle"),
    user: z.string().min(1).default("moodle"),
    /** With which the names of its tables begin. */
    prefix: tableName.default("mdl_"),
  }),
  /** Whether Moodle's cron runs, each minute on one node. */
  cron: z.boolean().default(true),
});

export const moodleSchema = z.strictObject({
  ...vmSize(8, "8 GB", "40 GB"),
  debian: release.default("bookworm"),
  vip: address,
  nodes: z.int().min(4).max(6).default(4),
  /** Addresses of moodle1, moodle2, ...: as many as `nodes` may ever need. */
  addresses: z.array(address).min(4).max(6),
  /** The Moodle that they run. @default nothing: the VMs alone */
  application: moodleApplicationSchema.optional(),
});
/** What `application` says of Moodle. */
export type MoodleConfig = z.output<typeof moodleApplicationSchema>;
/** What `application` says of a dedicated platform. */
export type DedicatedConfig = z.output<typeof dedicatedApplicationSchema>;

/** All `fleet:` keys of a stack. */
export const stackSchema = z.strictObject({
  vsphere: vsphereSchema,
  network: networkSchema,
  ssh: sshSchema.default({ user: "fleet", authorizedKeys: [] }),
  balancers: balancersSchema.optional(),
  nas: nasSchema.optional(),
  php: z.record(phpVersion, phpBuildSchema).default({}),
  builders: z.partialRecord(release, builderSchema).default({}),
  mutualised: mutualisedSchema.optional(),
  dedicated: dedicatedSchema.default({}),
  moodle: moodleSchema.optional(),
  redis: redisSchema.optional(),
  memcached: memcachedSchema.optional(),
  mail: mailSchema.optional(),
  /** Directory of site files, from the project's root. */
  sites: z.string().default("sites"),
  rollout: rolloutSchema.default(rolloutSchema.parse({})),
});
/** A stack's configuration as it is written, with its defaults filled in. */
export type WrittenConfig = z.output<typeof stackSchema>;
/** One version as `fleet:php` has it, its modules by name. */
export type BuildConfig = Omit<z.output<typeof phpBuildSchema>, "modules"> & { readonly modules: readonly string[] };
/** A stack's configuration with its defaults filled in, and the modules that are needed found. */
export type StackConfig = Omit<WrittenConfig, "php"> & { readonly php: Readonly<Record<string, BuildConfig>> };
