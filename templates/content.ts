/** A file of a VM, in plain text. */
export interface HostFile {
  readonly path: string;
  /** Octal permission, default 0644. */
  readonly mode?: string;
  /** Name, or a number where the account may not exist yet; default root. */
  readonly owner?: string | number;
  /** Name, or a number where the account may not exist yet; default root. */
  readonly group?: string | number;
  readonly text: string;
}

/** A file whose text holds a secret: it travels apart and never shows in a preview. */
export interface SecretFile extends Omit<HostFile, "text"> {
  /** Name of the secret text among those that the program passes along. */
  readonly secret: string;
}

/** A checker of the service's own, run on the candidate before it goes live. */
export interface Check {
  readonly name: string;
  readonly argv: readonly string[];
  /** Numeric uid and gid to run it as, default 0. */
  readonly user?: number;
  readonly group?: number;
  /** Run only where one of these changes. A path that ends in / is a prefix. @default for every change */
  readonly paths?: readonly string[];
}

/** A command to run after the switch when one of the paths changed. A path that ends in / is a prefix. */
export interface Action {
  readonly name: string;
  readonly argv: readonly string[];
  readonly paths: readonly string[];
}

/** How this VM goes through a change, and what its services are. */
export interface Rollout {
  readonly address: string;
  /** Its health responder, as `address:port`. */
  readonly responder: string;
  /** Its services on the directors, as `vip:port`. */
  readonly services: readonly string[];
  /** Health responders of the directors, as `address:port`. */
  readonly balancers: readonly string[];
  readonly minimumServers: number;
  readonly drainSeconds: number;
  readonly minHealthySeconds: number;
  readonly healthyDeadlineSeconds: number;
  readonly confirmSeconds: number;
}

/** A systemd unit and which changed paths ask for its reload or its restart. */
export interface Unit {
  readonly name: string;
  readonly reload?: readonly string[];
  readonly restart?: readonly string[];
  /** False for a service that its socket starts. */
  readonly start?: boolean;
  /** True where a stop or restart loses requests, so that the VM must be out of its services first. */
  readonly drain?: boolean;
  /** True where a partner takes over as soon as the unit is stopped: it is, before the VM goes away. */
  readonly leave?: boolean;
}

/** What must answer on the VM after the switch. */
export interface Probe {
  readonly name: string;
  readonly kind: "tcp" | "http" | "exec" | "fastcgi" | "health";
  /** FPM's ping path. */
  readonly path?: string;
  readonly argv?: readonly string[];
  readonly address?: string;
  readonly port?: number;
  readonly url?: string;
  readonly host?: string;
  readonly status?: readonly number[];
  readonly contains?: string;
  /** Asked only after a change of one of these. A path that ends in / is a prefix. @default after every change */
  readonly paths?: readonly string[];
  /** Site that it asks; one that failed before the change is not asked. @default none */
  readonly site?: string;
  /** Service of that site and how many children its pool has: one whose children are all at work is busy, not broken. */
  readonly unit?: string;
  readonly children?: number;
  /** Seconds within which it must succeed. */
  readonly within: number;
}

/** One check of the health responder. */
export interface HealthCheck {
  readonly name: string;
  readonly kind: "http" | "fastcgi" | "tcp" | "unit" | "mount" | "address";
  readonly [field: string]: unknown;
}

/** All that a VM must contain, as plain data. */
export interface HostContent {
  /** Absent where a change is proved by the VM alone. */
  readonly rollout?: Rollout;
  /** Debian packages, installed before anything else. */
  readonly packages: readonly string[];
  readonly files: readonly HostFile[];
  readonly secrets: readonly SecretFile[];
  readonly links: readonly { readonly path: string; readonly target: string }[];
  readonly checks: readonly Check[];
  readonly actions: readonly Action[];
  readonly units: readonly Unit[];
  readonly probes: readonly Probe[];
  readonly health: readonly HealthCheck[];
  /** Virtual addresses that this VM balances: a director's. */
  readonly vips: readonly string[];
  /** What its kernel must balance: each `vip:port`, its scheduler as ipvsadm tells it, and the addresses of its real servers. */
  readonly services: readonly { readonly name: string; readonly scheduler: string; readonly servers: readonly string[] }[];
}

/** Joins the parts of a VM in order; the order of actions and units is the order of their effect. */
export function join(...parts: readonly Partial<HostContent>[]): HostContent {
  type Lists = Required<Omit<HostContent, "rollout">>;
  const all = <K extends keyof Lists>(key: K): Lists[K] =>
    parts.flatMap((p) => (p[key] ?? []) as readonly unknown[]) as unknown as Lists[K];
  const [rollout] = parts.flatMap((p) => p.rollout ?? []);
  return {
    ...(rollout ? { rollout } : {}),
    packages: [...new Set(all("packages"))].sort(),
    files: all("files"),
    secrets: all("secrets"),
    links: all("links"),
    checks: all("checks"),
    actions: all("actions"),
    units: all("units"),
    probes: all("probes"),
    health: all("health"),
    vips: [...new Set(all("vips"))],
    services: all("services"),
  };
}
