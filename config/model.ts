import type { DebianRelease, MoodleConfig, SiteConfig, StackConfig } from "./schema";

/** What a VM is for. */
export type Role = "director" | "apache" | "php" | "nas" | "builder" | "dedicated" | "moodle";

/** One VM as it must be, in plain values. */
export interface Machine {
  /** Host name; identifies the VM for ever. */
  readonly name: string;
  readonly role: Role;
  /** Tier the VM belongs to; VMs of one tier are changed one after the other. */
  readonly tier: string;
  readonly address: string;
  readonly vcpu: number;
  readonly memoryMb: number;
  readonly diskGb: number;
  /** Size of a second disk; absent where there is none. */
  readonly dataDiskGb?: number;
  readonly debian: DebianRelease;
}

/** An archive of sources. */
export interface PinnedSource {
  readonly url: string;
  readonly sha256: string;
  /** A detached OpenPGP signature of it, and the text of the keys that may have made it. */
  readonly signature?: { readonly url: string; readonly key: string };
}

/** A PHP build: one release with its options, compiled for one Debian release. */
export interface PhpBuild {
  /** Version as sites name it, e.g. 8.2. */
  readonly version: string;
  readonly release: string;
  readonly debian: DebianRelease;
  /** Name of the artefact, `<release>-<hash of all it is made of and by>`; installed as /opt/php/<artefact>. */
  readonly artefact: string;
  /** Debian's name of the processor architecture. */
  readonly architecture: "amd64";
  readonly source: PinnedSource;
  /** Applied to the source in this order. */
  readonly patches: readonly { readonly name: string; readonly sha256: string; readonly text: string }[];
  /** In the order in which they are built and loaded. */
  readonly pecl: readonly (PinnedSource & { readonly name: string; readonly options: readonly string[] })[];
  readonly options: readonly string[];
  /** Flags of the compilers and the linker. */
  readonly environment: Readonly<Record<"CFLAGS" | "CXXFLAGS" | "LDFLAGS", string>>;
  /** How many of PHP's own tests it must pass. */
  readonly tests: "sample" | "all" | "none";
  /** Tests of them that may fail. */
  readonly knownFailures: readonly string[];
  /** What `php -m` must report, no more and no less. */
  readonly modules: readonly string[];
  readonly buildPackages: readonly string[];
  readonly runPackages: readonly string[];
}

/** A script of a site that runs by itself. */
export interface CronEntry extends Omit<SiteConfig["cron"][number], "timeout"> {
  /** Seconds after which a run is ended. */
  readonly timeoutSeconds: number;
}

/** A site with everything resolved that its tiers need. */
export interface Site extends Omit<SiteConfig, "php" | "cron"> {
  readonly php: SiteConfig["php"] & { readonly group: string; readonly maxChildren: number };
  /** Memory of the site's service, in megabytes. */
  readonly memoryMb: number;
  /** Size of its /tmp, which is part of that memory, in megabytes. */
  readonly tmpMb: number;
  /** What it may store on the NAS VM, in megabytes; absent where there is no limit. */
  readonly quotaMb?: number;
  readonly cron: readonly CronEntry[];
  /** Absent where the code is the site's own, in its tree on the NAS. */
  readonly code?: Code;
}

/** Code of an application: a commit of a Git repository as an archive, the same on every VM. */
export interface Code {
  /** Name of the archive, `<application>-<hash of all that it is made of>`; unpacked to /opt/code/<artefact>. */
  readonly artefact: string;
  readonly repository: string;
  readonly commit: string;
  /** Name that the commit must have there. */
  readonly tag?: string;
  /** Below the code; empty where it is the whole of it. */
  readonly documentRoot: string;
  /** URL path that answers where there is no file. */
  readonly fallback?: string;
  /** Directories that the application writes: links to the same path in its tree on the NAS. */
  readonly writable: readonly string[];
  /** A file that is added to the code: it leads to the VM's own configuration. */
  readonly stub?: { readonly path: string; readonly text: string };
}

/** One application on VMs of its own: Apache and PHP on each of them. */
export interface Application {
  /** Name of its tier and of its site. */
  readonly name: string;
  readonly role: "dedicated" | "moodle";
  readonly vip: string;
  readonly machines: readonly Machine[];
  /** Addresses that its VMs may ever have. */
  readonly addresses: readonly string[];
  /** Its PHP for each release that its VMs run. */
  readonly builds: readonly PhpBuild[];
  readonly site: Site & { readonly code: Code };
  /** Text of its configuration file, where that is the operator's own. */
  readonly configText?: string;
  /** What Moodle's configuration is made of. */
  readonly moodle?: Pick<MoodleConfig, "branch" | "database">;
  /** Server of its database. */
  readonly databaseHost?: string;
}

/** A PHP group: VMs that run the same sites. */
export interface PhpGroup {
  readonly name: string;
  readonly vip: string;
  /** All of one Debian release, but while they are renewed one by one. */
  readonly machines: readonly Machine[];
  /** Each version of the group for each release that its VMs run. */
  readonly builds: readonly PhpBuild[];
  readonly sites: readonly Site[];
  /** A site's PHP ends after this many seconds without a request. */
  readonly idleSeconds: number;
}

/** A balanced service: addresses and ports, and who answers for them. */
export interface VirtualService {
  readonly name: string;
  /** `web` is asked by visitors, to whom the directors answer themselves where no server is left; `php` by Apache, which does. */
  readonly kind: "web" | "php";
  readonly vip: string;
  readonly ports: readonly number[];
  readonly realServers: readonly { readonly name: string; readonly address: string }[];
}

/** The whole platform in plain values: everything the components need, nothing secret. */
export interface Fleet {
  readonly stack: string;
  readonly config: StackConfig;
  readonly machines: readonly Machine[];
  /** Those of the mutualised platform. */
  readonly sites: readonly Site[];
  readonly applications: readonly Application[];
  readonly phpGroups: readonly PhpGroup[];
  readonly phpBuilds: readonly PhpBuild[];
  readonly services: readonly VirtualService[];
  /** Addresses of the fleet's own network that sites' code may reach. */
  readonly reachable: readonly string[];
  /** Authority of the Redis server's certificate, PEM; absent where Debian knows it, or there is no TLS. */
  readonly redisAuthority?: string;
}
