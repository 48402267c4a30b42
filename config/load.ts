import { z } from "zod";
import { applicationPort, applicationTmpMb, databasePasswordsOf, moodleCode, moodleIni, moodleModules, resolveCode } from "./applications";
import { inNetwork } from "./network";
import type { Application, Code, Fleet, Machine, PhpBuild, PhpGroup, Role, Site } from "./model";
import { absent, checkBuilds, isAlwaysOn, resolveBuild } from "./php-builds";
import { checkIni } from "./php-ini";
import { ConfigError, type Problem } from "./problems";
import {
  isSecretName,
  secretNames,
  secretsSchema,
  siteSchema,
  stackSchema,
  type DebianRelease,
  type Hosts,
  type Secrets,
  type SiteConfig,
  type StackConfig,
  type WrittenConfig,
} from "./schema";
import { servicesOf } from "./services";
import { megabytes, seconds } from "./units";
import { neededModules } from "./used-modules";

/** What the loader reads: everything an operator wrote, already parsed from YAML. */
export interface Written {
  /** Name of the stack, for messages and tags. */
  readonly stack: string;
  /** Values of the `fleet:` keys, without the prefix. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Keys that are encrypted in the stack's configuration, with their prefix: there should be none. */
  readonly encrypted: readonly string[];
  /** Secret texts by name. */
  readonly secrets: Readonly<Record<string, unknown>>;
  /** Parsed content of each site file by its path, e.g. `sites/wiki.yaml`. */
  readonly sites: Readonly<Record<string, unknown>>;
  /** Text of each patch, key, authority and configuration file that exists, by its file as the stack names it. @default none */
  readonly patches?: Readonly<Record<string, string>>;
  /** Files and directories that could not be read at all. @default none */
  readonly unreadable?: readonly Problem[];
}

/** Port of the health responder on every VM. */
export const healthPort = 8100;

/** The validated platform, and the secrets apart from it. */
export interface Loaded {
  readonly fleet: Fleet;
  readonly secrets: Secrets;
}

/** File of a stack's secrets, beside its configuration. */
export const secretsFile = (stack: string): string => `Pulumi.${stack}.secrets.yaml`;

/**
 * Validates everything that was written and resolves it into plain values.
 * @throws ConfigError with all mistakes together.
 */
export function loadFleet(written: Written): Loaded {
  const problems: Problem[] = [...(written.unreadable ?? [])];
  const stackFile = `Pulumi.${written.stack}.yaml`;
  problems.push(...written.encrypted.map((key) => misplacedSecret(key, stackFile)));
  const stack = checkStack(written.config, stackFile, problems);
  const secrets = checkSecrets(written, problems);
  const sites = Object.entries(written.sites).map(([file, content]) => ({ file, site: checkSite(content, file, problems) }));
  const applications = applicationsOf(stack);
  const draft = { ...stack, php: withModules(stack, [...sites, ...applications]) };
  const all = [...sites, ...applications.map(({ at, site }) => ({ file: stackFile, at, site }))];
  problems.push(
    ...checkAddresses(draft, stackFile),
    ...checkReach(draft, stackFile),
    ...checkReferences(draft, stackFile),
    ...checkSites(all),
  );
  problems.push(...checkBuilds(draft.php ?? {}, stackFile, written.patches ?? {}));
  problems.push(...sites.flatMap(({ file, site }) => checkIni(file, site.php?.ini ?? {})));
  const resolved = sites.map(({ file, site }) => resolveSite(draft, stackFile, file, site, problems));
  const accepted = resolved.filter((s) => s !== undefined);
  const own = applications.map((each) => resolveApplication(draft, stackFile, each, written.patches ?? {}, problems));
  problems.push(
    ...checkSessions(written, all),
    ...checkStores(draft, stackFile, written.patches ?? {}),
    ...checkMemory(draft, stackFile, accepted),
  );
  if (problems.length > 0) throw new ConfigError(problems);
  // Without a problem every key was accepted, so the draft is whole.
  return {
    fleet: resolve(written.stack, draft as StackConfig, accepted, own, written.patches ?? {}),
    secrets: secrets as Secrets,
  };
}

/** The keys of a stack that could be understood; all of them where there was no problem. */
type Draft = Partial<StackConfig>;
type WrittenDraft = Partial<WrittenConfig>;

/**
 * Checks each key for itself. One that has mistakes is read once more without the mistaken values,
 * so that what is right in it still takes part in the checks across keys.
 */
function checkStack(config: Written["config"], file: string, problems: Problem[]): WrittenDraft {
  const draft: Record<string, unknown> = {};
  const schemas: Record<string, z.ZodType> = stackSchema.shape;
  for (const key of Object.keys(config).filter((k) => !(k in schemas))) {
    const allowed = Object.keys(schemas).join(", ");
    problems.push({ file, property: `fleet:${key}`, value: "an unknown key", allowed, remedy: "Correct the spelling or remove it." });
  }
  for (const [key, schema] of Object.entries(schemas)) {
    const wrapped = z.object({ [key]: schema });
    const value = config[key] === undefined ? {} : { [key]: config[key] };
    const result = wrapped.safeParse(value, { reportInput: true });
    if (result.success) {
      draft[key] = result.data[key];
      continue;
    }
    const issues = result.error.issues.flatMap(meant);
    problems.push(...issues.flatMap((issue) => explain(issue, file, wrapped, (path) => `fleet:${path}`)));
    const again = wrapped.safeParse(withoutMistakes(value, issues));
    if (again.success) draft[key] = again.data[key];
  }
  return draft as WrittenDraft;
}

/**
 * The versions with their modules by name. What is needed is counted over the sites of every group that has the version,
 * not over those that are on it: so a version is built before a site tries it or moves to it, and is the same one after.
 */
function withModules(c: WrittenDraft, sites: readonly { site: SiteDraft; at?: string }[]): StackConfig["php"] {
  const inGroupWith = (version: string): SiteDraft[] =>
    sites
      .filter(({ site, at }) =>
        at === undefined ? groupsFor(c, site).some(([, g]) => g.versions.includes(version)) : site.php?.version === version,
      )
      .map(({ site }) => site);
  return Object.fromEntries(
    Object.entries(c.php ?? {}).map(([version, build]) => {
      const modules = build.modules === "needed" ? neededModules(inGroupWith(version), build.pecl) : build.modules;
      return [version, { ...build, modules }];
    }),
  );
}

/** Where one of several forms has the type of what was written, the mistakes in that form instead of "none fits". */
function meant(issue: z.core.$ZodIssue): z.core.$ZodIssue[] {
  if (issue.code !== "invalid_union") return [issue];
  const forms = issue.errors.filter((each) => !each.some((i) => i.code === "invalid_type" && i.path.length === 0));
  const [form] = forms;
  if (!form || forms.length > 1) return [issue];
  return form.flatMap((inner) => meant({ ...inner, path: [...issue.path, ...inner.path] }));
}

/** A copy without the values that the issues complain of. */
function withoutMistakes(value: object, issues: readonly z.core.$ZodIssue[]): unknown {
  const copy = structuredClone(value);
  for (const issue of issues) {
    const names = issue.code === "unrecognized_keys" ? issue.keys.map((k) => [...issue.path, k]) : [issue.path];
    for (const path of names) {
      let parent: unknown = copy;
      for (const step of path.slice(0, -1)) parent = (parent as Record<PropertyKey, unknown> | undefined)?.[step];
      if (typeof parent === "object" && parent !== null) Reflect.deleteProperty(parent, path.at(-1) ?? "");
    }
  }
  return copy;
}

/** The keys of a site that could be understood. */
type SiteDraft = { readonly [K in keyof SiteConfig]?: SiteConfig[K] | undefined };

/** Checks one site file; what is right in it still takes part in the checks across files. */
function checkSite(content: unknown, file: string, problems: Problem[]): SiteDraft {
  if (typeof content !== "object" || content === null || Array.isArray(content)) {
    problems.push({
      file,
      property: "(whole file)",
      value: content,
      allowed: "the keys of a site",
      remedy: "Write it, or remove the file.",
    });
    return {};
  }
  const result = siteSchema.safeParse(content, { reportInput: true });
  if (result.success) return result.data;
  const issues = result.error.issues.flatMap(meant);
  problems.push(...issues.flatMap((issue) => explain(issue, file, siteSchema, (path) => path)));
  const drafts = siteSchema.partial();
  const rest = withoutMistakes(content, issues) as Record<string, unknown>;
  const again = drafts.safeParse(rest);
  if (again.success) return again.data;
  for (const issue of again.error.issues) Reflect.deleteProperty(rest, issue.path[0] ?? "");
  return drafts.safeParse(rest).data ?? {};
}

/** What an operator calls the types of YAML. */
const kinds: Record<string, string> = {
  string: "a text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  object: "a group of keys",
  record: "a group of keys",
};

/** Checks the secrets; no message shows what one is. */
function checkSecrets({ stack, config, secrets }: Written, problems: Problem[]): Secrets | undefined {
  const needed = databasePasswordsOf(config);
  const passwords = Object.fromEntries(needed.map((name) => [name, secrets[name]]));
  const wrong = needed.filter((name) => typeof passwords[name] !== "string" || passwords[name] === "");
  problems.push(...wrong.map((name) => ({ ...secretProblem(stack, name), ...(passwords[name] === "" ? { value: "empty" } : {}) })));
  const rest = Object.fromEntries(Object.entries(secrets).filter(([name]) => !(name in passwords)));
  const result = secretsSchema.safeParse(rest);
  if (result.success) return { ...result.data, ...(passwords as Record<string, string>) };
  for (const issue of result.error.issues) {
    if (issue.code === "unrecognized_keys") {
      problems.push(...issue.keys.map((name) => unknownSecret(stack, name)));
      continue;
    }
    const empty = issue.code === "too_small" ? { value: "empty" } : {};
    problems.push({ ...secretProblem(stack, String(issue.path[0])), ...empty });
  }
  return undefined;
}

function secretProblem(stack: string, name: string): Problem {
  const remedy = `Set it with: npm run fleet -- secret ${name} -s ${stack} < FILE`;
  return { file: secretsFile(stack), property: name, allowed: "a secret text", remedy };
}

function unknownSecret(stack: string, name: string): Problem {
  const allowed = isSecretName(name) ? "the password of an application that has a database" : secretNames.join(", ");
  return { file: secretsFile(stack), property: name, value: "an unknown secret", allowed, remedy: "Correct the spelling or remove it." };
}

function misplacedSecret(key: string, file: string): Problem {
  const allowed = "no encrypted key: Pulumi passes them to the program in its environment";
  return { file, property: key, value: "encrypted", allowed, remedy: "Remove it here and set it with: npm run fleet -- secret" };
}

/** A site whose sessions are in Redis needs its password. */
function checkSessions({ stack, secrets }: Written, sites: readonly { site: SiteDraft }[]): Problem[] {
  const wanted = secrets["redisPassword"] === undefined && sites.some(({ site }) => site.sessions === "redis");
  return wanted ? [secretProblem(stack, "redisPassword")] : [];
}

/** What the session stores need of each other, and of the project's files. */
function checkStores({ redis, memcached }: Draft, file: string, texts: Readonly<Record<string, string>>): Problem[] {
  const found: Problem[] = [];
  const ca = redis?.tls?.ca;
  if (ca !== undefined && !texts[ca]?.includes("-----BEGIN CERTIFICATE-----")) {
    const allowed = "a file of the project with certificates, PEM";
    found.push({ file, property: "fleet:redis.tls.ca", value: ca, allowed, remedy: "Correct the path, or add the file." });
  }
  const others = (memcached?.servers.length ?? 1) - 1;
  if (memcached?.replicas !== undefined && memcached.replicas > others) {
    const allowed = `at most ${others}, as each other server has a session once`;
    found.push({ file, property: "fleet:memcached.replicas", value: memcached.replicas, allowed, remedy: "Lower it, or add a server." });
  }
  return found;
}

/** The part of a JSON schema that says which keys there are. */
interface Keyed {
  readonly properties?: Readonly<Record<string, Keyed>>;
  readonly additionalProperties?: Keyed | boolean;
  readonly items?: Keyed;
  readonly anyOf?: readonly Keyed[];
  readonly oneOf?: readonly Keyed[];
  readonly const?: unknown;
}

/** Keys that may be at a path; where there are several forms, those of the form that `found` is of, by its `kind`. */
function keysAt(schema: Keyed, [step, ...rest]: readonly PropertyKey[], found: object): string[] {
  const forms = schema.anyOf ?? schema.oneOf ?? [schema];
  if (step === undefined) {
    const same = (form: Keyed): boolean =>
      Object.entries(form.properties ?? {}).every(([key, { const: value }]) => value === undefined || value === Reflect.get(found, key));
    return [...new Set(forms.filter(same).flatMap((form) => Object.keys(form.properties ?? {})))];
  }
  return forms.flatMap((form) => {
    const inner = form.properties?.[String(step)] ?? form.items ?? form.additionalProperties;
    return typeof inner === "object" ? keysAt(inner, rest, found) : [];
  });
}

/** What an issue that `schema` found says to an operator. */
function explain(issue: z.core.$ZodIssue, file: string, schema: z.ZodType, name: (path: string) => string): Problem[] {
  const path = issue.path.map(String).join(".");
  const at = { file, property: name(path), ...(issue.input === undefined ? {} : { value: issue.input }) };
  switch (issue.code) {
    case "unrecognized_keys": {
      const known = z.toJSONSchema(schema, { unrepresentable: "any", io: "input" }) as Keyed;
      const allowed = keysAt(known, issue.path, issue.input ?? {}).join(", ");
      return issue.keys.map((key) => {
        const property = name(path ? `${path}.${key}` : key);
        return { file, property, value: "an unknown key", allowed, remedy: "Correct the spelling or remove it." };
      });
    }
    case "invalid_type": {
      if (issue.input === undefined) return [{ ...at, allowed: kinds[issue.expected] ?? issue.expected, remedy: "Add it." }];
      // A schema's own words are those that do not begin as zod's do.
      const allowed = issue.message.startsWith("Invalid input") ? (kinds[issue.expected] ?? issue.expected) : issue.message;
      const unquoted = issue.expected === "string" && typeof issue.input === "number";
      return [{ ...at, allowed, remedy: unquoted ? "Put it in quotes." : "Correct the type." }];
    }
    case "invalid_value":
      return [{ ...at, allowed: issue.values.map(String).join(", "), remedy: "Use one of these." }];
    case "too_small":
      return [{ ...at, allowed: `at least ${String(issue.minimum)}`, remedy: "Raise it." }];
    case "too_big":
      return [{ ...at, allowed: `at most ${String(issue.maximum)}`, remedy: "Lower it." }];
    case "invalid_key":
      return issue.issues.flatMap((inner) => explain({ ...inner, path: issue.path } as z.core.$ZodIssue, file, schema, name));
    case "invalid_union": {
      const inner = issue.errors.flat().flatMap((each) => explain({ ...each, path: [...issue.path, ...each.path] }, file, schema, name));
      const allowed = [...new Set(inner.map((p) => p.allowed))].join(", or ");
      return [{ ...at, allowed: allowed || issue.message, remedy: "Correct the value." }];
    }
    default:
      return [{ ...at, allowed: issue.message, remedy: "Correct the value." }];
  }
}

interface Placed {
  readonly property: string;
  readonly address: string;
}

/** Every address that the stack gives to something of its own. */
function placedAddresses(c: Draft): Placed[] {
  const hosts = (property: string, map: Hosts | undefined): Placed[] =>
    Object.entries(map ?? {}).map(([host, { address }]) => ({ property: `fleet:${property}.hosts.${host}`, address }));
  const one = (property: string, address: string | undefined): Placed[] =>
    address === undefined ? [] : [{ property: `fleet:${property}`, address }];
  return [
    ...one("network.gateway", c.network?.gateway),
    ...hosts("balancers", c.balancers?.hosts),
    ...(c.nas?.kind === "vm" ? one("nas.address", c.nas.address) : []),
    ...Object.entries(c.builders ?? {}).flatMap(([r, b]) => one(`builders.${r}.address`, b?.address)),
    ...one("mutualised.vip", c.mutualised?.vip),
    ...hosts("mutualised.apache", c.mutualised?.apache.hosts),
    ...Object.entries(c.mutualised?.php ?? {}).flatMap(([group, g]) => [
      ...one(`mutualised.php.${group}.vip`, g.vip),
      ...hosts(`mutualised.php.${group}`, g.hosts),
    ]),
    ...Object.entries(c.dedicated ?? {}).flatMap(([name, d]) => [
      ...one(`dedicated.${name}.vip`, d.vip),
      ...hosts(`dedicated.${name}`, d.hosts),
    ]),
    ...one("moodle.vip", c.moodle?.vip),
    ...(c.moodle?.addresses ?? []).flatMap((a, i) => one(`moodle.addresses.${i}`, a)),
  ];
}

function checkAddresses(c: Draft, file: string): Problem[] {
  const owner = new Map<string, string>();
  return placedAddresses(c).flatMap(({ property, address }) => {
    const found: Problem[] = [];
    if (c.network && !inNetwork(address, c.network.cidr)) {
      const allowed = `a host address of fleet:network.cidr ${c.network.cidr}`;
      found.push({ file, property, value: address, allowed, remedy: "Direct routing needs one segment: choose an address there." });
    }
    const other = owner.get(address);
    if (other === undefined) owner.set(address, property);
    else found.push({ file, property, value: address, allowed: "an address of its own", remedy: `${other} has it already.` });
    return found;
  });
}

/** Code of sites reaches what is not the fleet's own, beside the VIPs of web services: an FPM port must never be among it. */
function checkReach(c: Draft, file: string): Problem[] {
  const owners = new Map(placedAddresses(c).map(({ property, address }) => [address, property]));
  // The gateway is no machine of the fleet.
  for (const open of [...webVips(c), c.network?.gateway ?? ""]) owners.delete(open);
  // Who speaks NFS to an appliance without the kernel's help may say that he is any uid.
  if (c.nas?.kind === "appliance") owners.set(c.nas.address, "fleet:nas.address");
  return serversForSites(c).flatMap(({ property, address }) => {
    const owner = owners.get(address);
    if (owner === undefined) return [];
    const allowed = "an address that no VM, PHP group or NAS of the fleet has: sites' code may connect to it";
    return [{ file, property, value: address, allowed, remedy: `${owner} has it: name another server.` }];
  });
}

function checkReferences(c: Draft, file: string): Problem[] {
  const found: Problem[] = [];
  const names = new Map<string, number>();
  for (const m of machinesOf(c)) {
    names.set(m.name, (names.get(m.name) ?? 0) + 1);
    if (c.vsphere && c.vsphere.templates[m.debian] === undefined) {
      found.push({
        file,
        property: `fleet:vsphere.templates.${m.debian}`,
        allowed: "the name of a template VM",
        remedy: `${m.name} runs ${m.debian}: add its template.`,
      });
    }
  }
  for (const [name, count] of names) {
    if (count > 1) found.push({ file, property: "hosts", value: name, allowed: "a host name used once", remedy: "Rename one of the VMs." });
  }
  if (c.mutualised && !c.balancers) {
    found.push({
      file,
      property: "fleet:balancers",
      allowed: "the pair of directors",
      remedy: "fleet:mutualised needs balancers in front: add them.",
    });
  }
  if (c.mutualised && !c.nas) {
    found.push({
      file,
      property: "fleet:nas",
      allowed: "an appliance or a vm",
      remedy: "fleet:mutualised keeps its sites on a NAS: add it.",
    });
  }
  if (c.balancers && Object.keys(c.balancers.hosts).length !== 2) {
    found.push({
      file,
      property: "fleet:balancers.hosts",
      value: Object.keys(c.balancers.hosts),
      allowed: "two hosts",
      remedy: "VRRP runs here as a pair: name two.",
    });
  }
  if (c.moodle && c.moodle.addresses.length < c.moodle.nodes) {
    found.push({
      file,
      property: "fleet:moodle.addresses",
      value: c.moodle.addresses.length,
      allowed: `at least ${c.moodle.nodes} addresses`,
      remedy: "Add one for each node.",
    });
  }
  for (const application of applicationsOf(c)) found.push(...checkSurroundings(c, file, application));
  for (const [group, g] of Object.entries(c.mutualised?.php ?? {})) {
    g.versions.forEach((version, i) => {
      const property = `fleet:mutualised.php.${group}.versions.${i}`;
      const declared = Object.keys(c.php ?? {});
      if (!c.php?.[version])
        found.push({
          file,
          property,
          value: version,
          allowed: declared.join(", ") || "nothing yet",
          remedy: `Declare the build under fleet:php.${version}.`,
        });
    });
    const machines = tierMachines("php", group, g);
    if (machines.length === 0) {
      const property = `fleet:mutualised.php.${group}.hosts`;
      found.push({ file, property, value: {}, allowed: "at least one VM", remedy: "Add one, or remove the group." });
    }
    for (const debian of releasesOf(machines).filter((r) => !c.builders?.[r])) {
      const names = machines.filter((m) => m.debian === debian).map((m) => m.name);
      found.push({
        file,
        property: `fleet:builders.${debian}`,
        allowed: "a builder VM",
        remedy: `Group ${group} has ${names.join(", ")} on ${debian}: PHP for it is compiled on a builder of that release.`,
      });
    }
  }
  return found;
}

/** An application needs what the mutualised platform needs: directors in front, a NAS, its PHP and a builder of it. */
function checkSurroundings(c: Draft, file: string, { name, at, site, machines }: ApplicationDraft): Problem[] {
  const lacks = (property: string, allowed: string, remedy: string): Problem => ({ file, property, allowed, remedy });
  const version = site.php?.version ?? "";
  return [
    ...(c.balancers ? [] : [lacks("fleet:balancers", "the pair of directors", `${at} needs balancers in front: add them.`)]),
    ...(c.nas ? [] : [lacks("fleet:nas", "an appliance or a vm", `${at} keeps its files on a NAS: add it.`)]),
    ...(c.php?.[version]
      ? []
      : [
          {
            ...lacks(
              `${at}.php.version`,
              Object.keys(c.php ?? {}).join(", ") || "nothing yet",
              `Declare the build under fleet:php.${version}.`,
            ),
            value: version,
          },
        ]),
    ...releasesOf(machines)
      .filter((debian) => !c.builders?.[debian])
      .map((debian) =>
        lacks(
          `fleet:builders.${debian}`,
          "a builder VM",
          `${name} has VMs on ${debian}: its PHP is compiled, and its code packed, on a builder of that release.`,
        ),
      ),
  ];
}

/** Memory of a PHP VM that is not the sites': Debian, sshd, the health responder, and room for a change. */
export const systemMb = 256;

/** Most that a site takes which does not say how much: five children of an ordinary application and its OPcache. */
const siteMb = 512;

/** What a site's FPM takes before its children: the master, and an OPcache in use. */
const masterMb = 48;

/** Least that a child works in, and what one of an ordinary application takes. */
const childMb = { least: 16, usual: 64 };

/** Children of a site that does not say how many, where its memory has room for them. */
const usualChildren = 5;

/** Least that a site's FPM with one child works in. */
const leastMb = masterMb + childMb.least;

/** Most that a site has in its /tmp which does not say how much: uploads of an ordinary application. */
const mostTmpMb = 128;

type PhpGroupConfig = NonNullable<StackConfig["mutualised"]>["php"][string];

/**
 * What a VM of a group has for sites, and what each may take by default: it does not depend on how many there are, or a
 * site that comes would touch all others.
 */
function room(group: PhpGroupConfig): { vmMb: number; availableMb: number; shareMb: number } {
  const vmMb = megabytes(group.memory) ?? 0;
  const availableMb = vmMb - systemMb;
  return { vmMb, availableMb, shareMb: Math.min(siteMb, Math.floor(availableMb / (group.activeSites ?? 1))) };
}

/** The sites at work at once must fit, be they the largest. None of them alone is too large: that was checked. */
function checkMemory(c: Draft, file: string, sites: readonly Site[]): Problem[] {
  return Object.entries(c.mutualised?.php ?? {}).flatMap(([name, group]) => {
    const { vmMb, availableMb } = room(group);
    const largest = sites
      .filter((s) => s.php.group === name)
      .sort((a, b) => b.memoryMb - a.memoryMb)
      .slice(0, group.activeSites);
    const wanted = largest.reduce((sum, s) => sum + s.memoryMb, 0);
    if (wanted <= availableMb || largest.some((s) => s.memoryMb > availableMb)) return [];
    const [first] = largest;
    return [
      {
        file,
        property: `fleet:mutualised.php.${name}.activeSites`,
        value: group.activeSites ?? `all ${largest.length}`,
        allowed: `as many as fit: the ${largest.length} largest sites may take ${wanted} MB, and of a VM's ${vmMb} MB the system keeps ${systemMb} MB, which leaves ${availableMb} MB`,
        remedy: `${group.activeSites === undefined ? "Say how many are at work at once at most" : "Lower it"}, lower php.memory of the largest (${first?.name} has ${first?.memoryMb} MB), or give the VMs more memory.`,
      },
    ];
  });
}

/** Groups that may run the site. */
const groupsFor = (c: Pick<WrittenDraft, "mutualised">, { php }: SiteDraft): [string, PhpGroupConfig][] =>
  Object.entries(c.mutualised?.php ?? {}).filter(
    ([name, g]) => php && g.versions.includes(php.version) && (php.group === undefined || php.group === name),
  );

/** Finds the site's group; where there is none says which versions and groups there are. */
function resolveSite(c: Draft, stackFile: string, file: string, site: SiteDraft, problems: Problem[]): Site | undefined {
  if (!site.php) return undefined;
  const groups = Object.entries(c.mutualised?.php ?? {});
  const { version, group } = site.php;
  const having = groupsFor(c, site);
  const [first] = having;
  if (!first) {
    const offered = groups.map(([name, g]) => `${name} (${g.versions.join(", ")})`).join("; ") || "none";
    const value = group === undefined ? version : `${version} in ${group}`;
    problems.push({
      file,
      property: "php.version",
      value,
      allowed: `a version that a PHP group has: ${offered}`,
      remedy: `Change the site or add the version to a group in ${stackFile}.`,
    });
    return undefined;
  }
  if (having.length > 1) {
    problems.push({
      file,
      property: "php.group",
      allowed: having.map(([name]) => name).join(", "),
      remedy: `Several groups have PHP ${version}: name one.`,
    });
    return undefined;
  }
  problems.push(...checkTrial(c, stackFile, file, site, { name: first[0], versions: first[1].versions }));
  const place: Place = {
    group: first[0],
    ...room(first[1]),
    keeps: `the system keeps ${systemMb} MB`,
    least: {
      allowed: `where a site does not say, a VM's ${megabytes(first[1].memory) ?? 0} MB less ${systemMb} MB for the system is shared by activeSites`,
      remedy: `lower fleet:mutualised.php.${first[0]}.activeSites in ${stackFile}`,
    },
    children: usualChildren,
    tmpMb: mostTmpMb,
  };
  return settleSite(c, stackFile, file, site, place, problems);
}

/** What the VMs that run a site have for it. */
interface Place {
  readonly group: string;
  readonly vmMb: number;
  /** Of that, what sites may take, and who takes the rest. */
  readonly availableMb: number;
  readonly keeps: string;
  /** What a site takes that does not say, and what an operator is told where that is too little. */
  readonly shareMb: number;
  readonly least: { readonly allowed: string; readonly remedy: string };
  /** Most children, and most MB of /tmp, of a site that does not say. */
  readonly children: number;
  readonly tmpMb: number;
}

/** A site whose VMs are known: its limits, and what of them does not fit. */
function settleSite(c: Draft, stackFile: string, file: string, site: SiteDraft, place: Place, problems: Problem[]): Site | undefined {
  if (!site.php) return undefined;
  const { group, vmMb, availableMb, shareMb } = place;
  problems.push(...checkBuild(c, stackFile, file, site, site.php.version));
  const memoryMb = megabytes(site.php.memory ?? "") ?? shareMb;
  if (memoryMb > availableMb) {
    problems.push({
      file,
      property: "php.memory",
      value: site.php.memory,
      allowed: `at most ${availableMb} MB: a VM of ${group} has ${vmMb} MB, of which ${place.keeps}`,
      remedy: `Lower it, or give the VMs of ${group} more memory in ${stackFile}.`,
    });
  }
  const least = leastMb * (site.php.trial ? 2 : 1);
  if (memoryMb < least) {
    problems.push({
      file,
      property: "php.memory",
      value: `${memoryMb} MB`,
      allowed: `at least ${least} MB${site.php.trial ? ", for the site and its trial" : ""}; ${place.least.allowed}`,
      remedy: `Raise it, or ${place.least.remedy}.`,
    });
  }
  const most = Math.max(1, Math.floor((memoryMb - masterMb) / childMb.least));
  const maxChildren = site.php.maxChildren ?? Math.min(place.children, Math.max(1, Math.floor((memoryMb - masterMb) / childMb.usual)));
  if (maxChildren > most) {
    problems.push({
      file,
      property: "php.maxChildren",
      value: maxChildren,
      allowed: `at most ${most}: of the site's ${memoryMb} MB its FPM takes ${masterMb} MB, and a child at least ${childMb.least} MB`,
      remedy: "Lower it, or raise php.memory.",
    });
  }
  problems.push(...checkMemoryLimit(file, site, memoryMb));
  const tmpMb = megabytes(site.php.tmp ?? "") ?? Math.min(place.tmpMb, Math.floor(memoryMb / 2));
  if (tmpMb >= memoryMb) {
    const allowed = `less than the site's memory, of which it is a part: ${memoryMb} MB`;
    problems.push({ file, property: "php.tmp", value: site.php.tmp, allowed, remedy: "Lower it, or raise php.memory." });
  }
  problems.push(...checkUploads(file, site, tmpMb));
  if (site.sessions === "redis" && !c.redis) {
    problems.push({
      file,
      property: "sessions",
      value: "redis",
      allowed: "a store that the stack has",
      remedy: `Add fleet:redis to ${stackFile}.`,
    });
  }
  if (site.sessions === "memcached" && !c.memcached) {
    problems.push({
      file,
      property: "sessions",
      value: "memcached",
      allowed: "a store that the stack has",
      remedy: `Add fleet:memcached to ${stackFile}.`,
    });
  }
  if (site.mail && !c.mail) {
    const allowed = "only where the stack has a mail relay";
    problems.push({ file, property: "mail.from", value: site.mail.from, allowed, remedy: `Add fleet:mail to ${stackFile}.` });
  }
  if (site.seed && c.nas?.kind !== "vm") {
    problems.push({
      file,
      property: "seed",
      value: "present",
      allowed: "only where fleet:nas.kind is vm",
      remedy: "Fill the site on the appliance by hand and remove the seed.",
    });
  }
  if (site.quota !== undefined && c.nas?.kind !== "vm") {
    problems.push({
      file,
      property: "quota",
      value: site.quota,
      allowed: "only where fleet:nas.kind is vm: an appliance has quotas of its own",
      remedy: "Set it on the appliance and remove it here.",
    });
  }
  const quotaMb = megabytes(site.quota ?? (c.nas?.kind === "vm" ? c.nas.quota : undefined) ?? "");
  // Without a problem the site was accepted whole.
  const cron = (site.cron ?? []).map(({ timeout, ...entry }) => ({ ...entry, timeoutSeconds: Math.ceil(seconds(timeout) ?? 0) }));
  const php = { ...site.php, group, maxChildren };
  return { ...(site as SiteConfig), php, memoryMb, tmpMb, ...(quotaMb === undefined ? {} : { quotaMb }), cron };
}

/** An application as it is written, as a site. */
interface ApplicationDraft {
  readonly name: string;
  readonly role: Application["role"];
  /** Its key in the stack. */
  readonly at: string;
  readonly vip: string;
  readonly machines: readonly Machine[];
  readonly addresses: readonly string[];
  readonly site: SiteDraft;
  readonly code: Code;
  readonly config?: { readonly path: string; readonly file: string } | undefined;
  readonly moodle?: Application["moodle"];
  readonly databaseHost?: string | undefined;
}

/** Moodle's own cron entry: what it does each time, and how long a run may take, Moodle decides. */
const moodleCron: SiteConfig["cron"] = [{ name: "moodle", at: "minutely", script: "admin/cli/cron.php", args: [], timeout: "120 minutes" }];

/** Every application that the stack has. */
function applicationsOf(c: Omit<WrittenDraft, "php">): ApplicationDraft[] {
  const machines = (role: Role, tier: string): Machine[] => machinesOf(c).filter((m) => m.role === role && m.tier === tier);
  const alone = { port: applicationPort, documentRoot: "" } as const;
  const dedicated = Object.entries(c.dedicated ?? {}).flatMap(([name, { vip, hosts, application: own }]): ApplicationDraft[] => {
    if (!own) return [];
    const { https, sessions, mail, cron, uid } = own;
    return [
      {
        name,
        role: "dedicated",
        at: `fleet:dedicated.${name}.application`,
        vip,
        machines: machines("dedicated", name),
        addresses: Object.values(hosts).map((h) => h.address),
        site: { name, hosts: own.hosts, https, uid, ...alone, php: { ...own.php, cpuWeight: 100 }, sessions, mail, cron },
        code: resolveCode(name, own),
        config: own.config,
        databaseHost: own.database?.host,
      },
    ];
  });
  const { vip = "", addresses = [], application: own } = c.moodle ?? {};
  if (!own) return dedicated;
  const { php, branch, database } = own;
  const modules = [...new Set([...moodleModules, ...php.modules])];
  return [
    ...dedicated,
    {
      name: "moodle",
      role: "moodle",
      at: "fleet:moodle.application",
      vip,
      machines: machines("moodle", "moodle"),
      addresses,
      site: {
        name: "moodle",
        hosts: own.hosts,
        https: "redirect",
        uid: own.uid,
        ...alone,
        php: { ...php, modules, ini: { ...moodleIni, ...php.ini }, cpuWeight: 100 },
        sessions: "redis",
        mail: own.mail,
        cron: own.cron ? moodleCron : [],
      },
      code: moodleCode("moodle", own),
      moodle: { branch, database },
      databaseHost: database.host,
    },
  ];
}

/** An application whose site has its limits; its mistakes are told by its key in the stack. */
function resolveApplication(
  c: Draft,
  stackFile: string,
  draft: ApplicationDraft,
  texts: Readonly<Record<string, string>>,
  problems: Problem[],
): Omit<Application, "builds"> | undefined {
  const { name, role, at, vip, machines, addresses, config, moodle, databaseHost } = draft;
  const vmMb = machines[0]?.memoryMb ?? 0;
  // Apache has a quarter of a VM for its threads: see templates/apache.
  const availableMb = vmMb - systemMb - Math.floor(vmMb / 4);
  const place: Place = {
    group: name,
    vmMb,
    availableMb,
    keeps: `the system keeps ${systemMb} MB, and Apache a quarter`,
    shareMb: availableMb,
    least: { allowed: "where it does not say, all that the system and Apache leave", remedy: "give the VMs more memory" },
    children: Infinity,
    tmpMb: applicationTmpMb,
  };
  const found: Problem[] = checkIni(stackFile, draft.site.php?.ini ?? {});
  const site = settleSite(c, stackFile, stackFile, draft.site, place, found);
  const configText = config && texts[config.file];
  if (config) {
    const problem = { file: stackFile, property: "config.file", value: config.file };
    if (configText === undefined) found.push({ ...problem, ...absent });
    else if (!/^<\?php\s[^]*\n$/.test(configText))
      found.push({ ...problem, allowed: "a file of PHP that ends with a newline", remedy: "Let it begin with <?php." });
  }
  problems.push(...found.map((p) => ({ ...p, property: p.property.startsWith("fleet:") ? p.property : `${at}.${p.property}` })));
  if (!site) return undefined;
  return {
    name,
    role,
    vip,
    machines,
    addresses,
    site: { ...site, code: draft.code },
    ...(configText === undefined ? {} : { configText }),
    ...(moodle ? { moodle } : {}),
    ...(databaseHost === undefined ? {} : { databaseHost }),
  };
}

/** A size of php.ini; 0 where it is none, or has no end. */
function iniMegabytes(value: unknown): number {
  const megabyte = { "": 1 / 2 ** 20, K: 1 / 1024, M: 1, G: 1024 };
  const [, amount, unit = ""] = /^(\d+)([KMG]?)$/i.exec(String(value)) ?? [];
  return Number(amount ?? 0) * megabyte[unit.toUpperCase() as keyof typeof megabyte];
}

/** What one request may take is no more than what the site has. */
function checkMemoryLimit(file: string, site: SiteDraft, memoryMb: number): Problem[] {
  const value = site.php?.ini["memory_limit"];
  if (iniMegabytes(value) <= memoryMb) return [];
  const allowed = `at most ${memoryMb}M, which is all that the site has`;
  return [{ file, property: "php.ini.memory_limit", value, allowed, remedy: "Lower it, or raise php.memory." }];
}

/** What a visitor may send arrives in the site's /tmp. */
function checkUploads(file: string, site: SiteDraft, tmpMb: number): Problem[] {
  return ["upload_max_filesize", "post_max_size"].flatMap((name) => {
    const value = site.php?.ini[name];
    if (iniMegabytes(value) <= tmpMb) return [];
    const allowed = `at most ${tmpMb}M: uploads arrive in the site's /tmp, which has ${tmpMb} MB`;
    return [{ file, property: `php.ini.${name}`, value, allowed, remedy: "Lower it, or raise php.tmp." }];
  });
}

/** A build that a site runs on has the modules that its code and its sessions need. */
function checkBuild(c: Draft, stackFile: string, file: string, site: SiteDraft, version: string): Problem[] {
  const build = c.php?.[version];
  if (!build) return [];
  const found = (site.php?.modules ?? [])
    .filter((name) => !build.modules.includes(name) && !build.pecl[name] && !isAlwaysOn(name, version, build.modules))
    .map((name) => ({
      file,
      property: "php.modules",
      value: name,
      allowed: "modules of the build",
      remedy: `Add ${name} to fleet:php.${version} in ${stackFile}.`,
    }));
  if (site.sessions === "redis" && c.redis?.tls && !build.modules.includes("openssl")) {
    const remedy = `Add openssl to the modules of fleet:php.${version} in ${stackFile}, or to php.modules where these are needed ones.`;
    found.push({ file, property: "sessions", value: "redis", allowed: "a PHP build with openssl, as the server speaks TLS", remedy });
  }
  if (!site.sessions || site.sessions === "files" || build.pecl[site.sessions]) return found;
  const remedy = `Add the PECL module ${site.sessions} to fleet:php.${version} in ${stackFile}.`;
  return [...found, { file, property: "sessions", value: site.sessions, allowed: "a store that the PHP build can reach", remedy }];
}

/** A trial is of another version, which the site's own group must have too: its tree and its address are there. */
function checkTrial(c: Draft, stackFile: string, file: string, site: SiteDraft, group: { name: string; versions: string[] }): Problem[] {
  const version = site.php?.trial?.version;
  if (version === undefined) return [];
  const others = group.versions.filter((v) => v !== site.php?.version);
  if (others.includes(version)) return checkBuild(c, stackFile, file, site, version);
  const allowed = `a version of the site's group ${group.name} other than php.version: ${others.join(", ") || "none yet"}`;
  const remedy =
    version === site.php?.version
      ? "Name the version to try, or remove php.trial."
      : `Add "${version}" to fleet:mutualised.php.${group.name}.versions in ${stackFile}, or remove php.trial.`;
  return [{ file, property: "php.trial.version", value: version, allowed, remedy }];
}

/** `at`: the key of an application, whose site is no file of its own. */
function checkSites(sites: readonly { file: string; at?: string; site: SiteDraft }[]): Problem[] {
  const found: Problem[] = [];
  const seen = new Map<string, string>();
  const once = (file: string, property: string, value: string | number | undefined, kind: string): void => {
    if (value === undefined) return;
    const key = `${kind} ${value}`;
    const other = seen.get(key);
    if (other === undefined) seen.set(key, file);
    else found.push({ file, property, value, allowed: `a ${kind} used once`, remedy: `${other} has it already: choose another.` });
  };
  for (const { file, at, site } of sites) {
    const named = (property: string): string => (at === undefined ? property : `${at}.${property}`);
    const same = at !== undefined && sites.find((other) => other.at === undefined && other.site.name === site.name);
    if (same) {
      const allowed = "a name that no site has: both would have one tree on the NAS";
      found.push({ file, property: at, value: site.name, allowed, remedy: `${same.file} has it already: choose another.` });
    }
    if (at === undefined && site.name !== undefined && !file.endsWith(`/${site.name}.yaml`)) {
      found.push({
        file,
        property: "name",
        value: site.name,
        allowed: "the file's own name",
        remedy: `Rename the file to ${site.name}.yaml or change the name.`,
      });
    }
    once(file, named("uid"), site.uid, "uid");
    // An application's is on its VMs' own loopback.
    if (at === undefined) once(file, "port", site.port, "port");
    once(file, "php.trial.port", site.php?.trial?.port, "port");
    for (const host of site.hosts ?? []) once(file, named("hosts"), host, "DNS name");
    (site.cron ?? []).forEach(({ name }, i, all) => {
      if (all.findIndex((other) => other.name === name) === i) return;
      const allowed = "a name used once in the site";
      found.push({ file, property: named(`cron.${i}.name`), value: name, allowed, remedy: "Give one of the entries another name." });
    });
  }
  return found;
}

interface Sized {
  readonly vcpu: number;
  readonly memory: string;
  readonly disk: string;
}

const gigabytes = (size: string): number => Math.ceil((megabytes(size) ?? 0) / 1024);

function machine(role: Role, tier: string, debian: DebianRelease, size: Sized, name: string, address: string): Machine {
  return { name, role, tier, address, vcpu: size.vcpu, memoryMb: megabytes(size.memory) ?? 0, diskGb: gigabytes(size.disk), debian };
}

function tierMachines(role: Role, tier: string, size: Sized & { debian: DebianRelease; hosts: Hosts }): Machine[] {
  return Object.entries(size.hosts).map(([name, vm]) => machine(role, tier, vm.debian ?? size.debian, size, name, vm.address));
}

const releasesOf = (machines: readonly Machine[]): DebianRelease[] => [...new Set(machines.map((m) => m.debian))].sort();

/** Every VM that the stack asks for. */
function machinesOf(c: Omit<WrittenDraft, "php">): Machine[] {
  const { balancers, nas, mutualised, moodle } = c;
  return [
    ...(balancers ? tierMachines("director", "lvs", balancers) : []),
    ...(nas?.kind === "vm"
      ? [{ ...machine("nas", "nas", nas.debian, nas, nas.host, nas.address), dataDiskGb: gigabytes(nas.dataDisk) }]
      : []),
    ...Object.entries(c.builders ?? {}).flatMap(([release, b]) =>
      b ? [machine("builder", "builder", release as DebianRelease, b, b.host, b.address)] : [],
    ),
    ...(mutualised ? tierMachines("apache", "apache", mutualised.apache) : []),
    ...Object.entries(mutualised?.php ?? {}).flatMap(([group, g]) => tierMachines("php", group, g)),
    ...Object.entries(c.dedicated ?? {}).flatMap(([name, d]) => tierMachines("dedicated", name, d)),
    ...(moodle?.addresses ?? [])
      .slice(0, moodle?.nodes)
      .flatMap((address, i) => (moodle ? [machine("moodle", "moodle", moodle.debian, moodle, `moodle${i + 1}`, address)] : [])),
  ];
}

function resolve(
  stack: string,
  config: Fleet["config"],
  sites: readonly Site[],
  own: readonly (Omit<Application, "builds"> | undefined)[],
  patches: Readonly<Record<string, string>>,
): Fleet {
  const machines = machinesOf(config);
  const builds = new Map<string, PhpBuild>();
  const buildOf = (version: string, debian: DebianRelease): PhpBuild[] => {
    const wanted = config.php[version];
    if (!wanted) return [];
    const build = resolveBuild(version, wanted, debian, patches);
    const known = builds.get(build.artefact) ?? build;
    builds.set(build.artefact, known);
    return [known];
  };
  const phpGroups: PhpGroup[] = Object.entries(config.mutualised?.php ?? {}).map(([name, g]) => {
    const own = machines.filter((m) => m.role === "php" && m.tier === name);
    return {
      name,
      vip: g.vip,
      machines: own,
      builds: releasesOf(own).flatMap((debian) => g.versions.flatMap((version) => buildOf(version, debian))),
      sites: sites.filter((s) => s.php.group === name),
      idleSeconds: seconds(g.idle) ?? 0,
    };
  });
  const authority = config.redis?.tls?.ca === undefined ? undefined : patches[config.redis.tls.ca];
  const applications = own
    .filter((a) => a !== undefined)
    .map((a) => ({ ...a, builds: releasesOf(a.machines).flatMap((debian) => buildOf(a.site.php.version, debian)) }));
  return {
    stack,
    config,
    machines,
    sites,
    applications,
    phpGroups,
    phpBuilds: [...builds.values()],
    services: servicesOf(config.mutualised?.vip, machines, phpGroups, applications),
    reachable: reachableBySites(config),
    ...(authority === undefined ? {} : { redisAuthority: authority }),
  };
}

/** Addresses on which the fleet's web services answer. */
function webVips({ mutualised, moodle, dedicated }: Draft): string[] {
  return [mutualised?.vip, moodle?.vip, ...Object.values(dedicated ?? {}).map((d) => d.vip)].filter((a) => a !== undefined);
}

/** Servers that are not the fleet's own, to which sites' code may connect. */
function serversForSites({ network, redis, memcached, mail }: Draft): Placed[] {
  const named = [
    ...(network?.nameservers ?? []).map((address, i) => [`network.nameservers.${i}`, address] as const),
    ...(network?.openToSites ?? []).map((address, i) => [`network.openToSites.${i}`, address] as const),
    ["redis.address", redis?.address] as const,
    ...(memcached?.servers ?? []).map((server, i) => [`memcached.servers.${i}`, server.split(":")[0]] as const),
    ["mail.relay", mail?.relay] as const,
  ];
  return named.flatMap(([name, address]) => (address === undefined ? [] : [{ property: `fleet:${name}`, address }]));
}

/** Of the fleet's own network, which is closed to sites' code, what they need: see `fleet:network.openToSites`. */
function reachableBySites(config: StackConfig): string[] {
  const all = [...webVips(config), ...serversForSites(config).map(({ address }) => address)];
  return [...new Set(all)].filter((a) => inNetwork(a, config.network.cidr)).sort();
}
