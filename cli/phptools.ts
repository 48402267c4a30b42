// phptools: the life of the PHP builds that a stack declares. Thin: the program itself, and programs of host/, do the work.
import Table from "cli-table3";
import { spawnSync } from "child_process";
import { Command } from "commander";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { converge, projectRoot, runProgram, withProgram } from "../components/programs";
import { loadFleet } from "../config/load";
import type { Fleet, PhpBuild, PhpGroup, Site } from "../config/model";
import { supportedUntil } from "../config/php-builds";
import { ConfigError } from "../config/problems";
import { usedModules } from "../config/used-modules";
import { keptOutputsFile, sitesDirectoryOf } from "../stacks/read";
import { hostProgram } from "../templates/programs";
import { askAll, type Answer } from "./ask";
import { siteHistory, sitesSince } from "./history";
import {
  declaredOn,
  deployRows,
  linkedLibraries,
  retireRows,
  runsPhp,
  stillUsed,
  verifyRows,
  type BuildRow,
  type Held,
  type Libraries,
  type Records,
  type Retired,
} from "./php-hosts";
import { addressesOf, CliError, committed, contentOf, onStack, outputsOf, type FleetMachine, type StackOptions } from "./stack";

/** A stack as its committed files have it. */
const fleetOf = ({ stack, configFile }: StackOptions): Fleet => loadFleet(committed(stack, configFile)).fleet;

/** Resources of the builders and what they stand on; everything else of the stack stays as it is. */
export function builderTargets(stack: string): string[] {
  const urn = `urn:pulumi:${stack}::fleet::`;
  return [
    `${urn}pulumi:providers:**`,
    `${urn}random:index/randomPassword:RandomPassword::secret-digests`,
    `${urn}vsphere:index/**::fleet`,
    `${urn}hosting:php:PhpBuilder::**`,
    `${urn}hosting:php:PhpBuilder$**`,
  ];
}

/** What brings builds to these VMs of PHP groups, beside the builders: their base commands. Nothing of a VM that serves is among them. */
export function baseTargets(stack: string, machines: readonly Pick<FleetMachine, "name" | "tier">[]): string[] {
  const base = `urn:pulumi:${stack}::fleet::hosting:php:PhpFpmTier$hosting:host:HostConfig$command:remote:Command::`;
  return machines.map(({ name, tier }) => `${base}${tier}-base-${name}`);
}

const groupsWith = (fleet: Fleet, build: PhpBuild): PhpGroup[] => fleet.phpGroups.filter((g) => g.builds.includes(build));

/** Sites that run on a build, those of applications too. */
const sitesOn = (fleet: Fleet, build: PhpBuild): Site[] => [
  ...groupsWith(fleet, build).flatMap((g) => g.sites.filter((s) => s.php.version === build.version)),
  ...fleet.applications.filter((a) => a.builds.includes(build)).map((a) => a.site),
];

/** Sites that try it beside their own. */
const trialsOn = (fleet: Fleet, build: PhpBuild): Site[] =>
  groupsWith(fleet, build).flatMap((g) => g.sites.filter((s) => s.php.trial?.version === build.version));

const onTrial = (name: string): string => `${name} (trial)`;

/** The rows of `phptools list`: one for each build, with the sites that run on it. */
export function buildRows(fleet: Fleet): string[][] {
  return fleet.phpBuilds.map((build) => {
    return [
      build.version,
      build.artefact,
      build.debian,
      [...groupsWith(fleet, build), ...fleet.applications.filter((a) => a.builds.includes(build))].map((g) => g.name).join(" "),
      [...sitesOn(fleet, build).map((s) => s.name), ...trialsOn(fleet, build).map((s) => onTrial(s.name))].join(" "),
      String(build.modules.length),
    ];
  });
}

/** What a build means to its operators. */
export interface BuildReport {
  readonly php: string;
  readonly release: string;
  readonly debian: string;
  readonly artefact: string;
  readonly sites: readonly string[];
  /** Day of the commit since which each of them is on this version; without those that git does not know. */
  readonly since: Readonly<Record<string, string>>;
  /** Sites that try it beside their own version. */
  readonly trials: readonly string[];
  /** Last day of PHP's own security support; absent where it is not known here. */
  readonly supportedUntil?: string;
  /** Days until then, negative after it. */
  readonly daysLeft?: number;
  /** Modules that are compiled in and that no site on it declares, nor a module that one does: candidates to leave out. */
  readonly unused: readonly string[];
  /** What it links, by the record of the build; null where it is not built yet, undefined where nobody could say. */
  readonly libraries: Libraries | null | undefined;
}

const day = 86_400_000;

/**
 * Every build, who is on it and since when, how long PHP supports it, what of it nobody asked for, and what it links
 * by the records of the builders, where these could be asked.
 */
export function report(
  fleet: Fleet,
  today: Date,
  since: Readonly<Record<string, string>> = {},
  records?: readonly Answer<Records>[],
): BuildReport[] {
  return fleet.phpBuilds.map((build) => {
    const { version, release, debian, artefact } = build;
    const [sites, trials] = [sitesOn(fleet, build), trialsOn(fleet, build)];
    const declared = fleet.config.php[version];
    const used = usedModules([...sites, ...trials], declared?.pecl ?? {});
    const end = supportedUntil[version];
    return {
      php: version,
      release,
      debian,
      artefact,
      sites: sites.map((s) => s.name),
      since: Object.fromEntries(Object.entries(since).filter(([name]) => sites.some((s) => s.name === name))),
      trials: trials.map((s) => s.name),
      ...(end === undefined ? {} : { supportedUntil: end, daysLeft: Math.ceil((Date.parse(end) - today.getTime()) / day) }),
      unused: [...(declared?.modules ?? []), ...Object.keys(declared?.pecl ?? {})].filter((name) => !used.has(name)).sort(),
      libraries: records && linkedLibraries(build, records),
    };
  });
}

/** Who is on a build and since when, and who tries it. */
export const sitesText = ({ sites, since, trials }: BuildReport): string =>
  [...sites.map((name) => (since[name] ? `${name} since ${since[name]}` : name)), ...trials.map(onTrial)].join(", ");

/** How long a build is supported, in words. */
export function supportText({ supportedUntil: end, daysLeft }: BuildReport): string {
  if (end === undefined || daysLeft === undefined) return "not known here";
  return daysLeft < 0 ? `ended ${end}` : `${end}, in ${daysLeft} days`;
}

/** What a build links, in words. */
export function librariesText({ libraries }: BuildReport): string {
  if (!libraries) return libraries === null ? "not built yet" : "not known: its builder was not asked";
  return Object.entries(libraries)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
}

/** What the builders say of their builds. The rest of a report needs neither the stack's state nor its secrets, so it does not fail with this. */
async function recordsOf(stack: string): Promise<Answer<Records>[] | undefined> {
  try {
    const builders = contentOf(stack).machines.filter(({ role }) => role === "builder");
    return await askAll<Records>(addressesOf(stack, builders), runProgram, [0], () => withProgram(hostProgram("records.py"), ""));
  } catch (error) {
    if (!(error instanceof CliError || error instanceof ConfigError)) throw error;
    process.stderr.write(`no builder was asked what is linked: ${error.message}\n`);
    return undefined;
  }
}

const cli = new Command("phptools").description("PHP builds of a stack: declared, compiled, brought to the VMs, compared, removed.");
onStack(cli.command("list"))
  .description("every build that the stack declares, and the sites on it")
  .action((options: StackOptions) => {
    const table = new Table({ head: ["PHP", "artefact", "Debian", "groups", "sites", "modules"], style: { head: [], border: [] } });
    table.push(...buildRows(fleetOf(options)));
    process.stdout.write(`${table.toString()}\n`);
  });

onStack(cli.command("report"))
  .description("every build: sites on it and since when, end of PHP's security support, modules that no site needs, libraries it links")
  .option("--json", "for programs")
  .action(async (options: StackOptions & { readonly json?: boolean }) => {
    const written = committed(options.stack, options.configFile);
    const { fleet } = loadFleet(written);
    const since = sitesSince(fleet.sites, siteHistory(path.resolve(projectRoot, sitesDirectoryOf(written))));
    const records = await recordsOf(options.stack);
    const rows = report(fleet, new Date(), since, records);
    for (const { machine, error } of unasked(records ?? [])) process.stderr.write(`${machine.name}: ${error}\n`);
    if (options.json) return void process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
    const head = ["PHP", "Debian", "artefact", "sites", "security support", "modules that no site needs", "libraries linked"];
    const table = new Table({ head, colWidths: [6, 10, 22, 24, 24, 32, 32], wordWrap: true, style: { head: [], border: [] } });
    table.push(...rows.map((r) => [r.php, r.debian, r.artefact, sitesText(r), supportText(r), r.unused.join(" "), librariesText(r)]));
    process.stdout.write(`${table.toString()}\n`);
  });

/** `pulumi up` of these resources alone; its exit status. The stack's outputs stay those of the last whole one. */
export function upOf({ stack, configFile }: StackOptions, targets: readonly string[]): number {
  const config = configFile ? ["--config-file", configFile] : [];
  const words = ["up", "--yes", "--skip-preview", "--stack", stack, ...config, ...targets.flatMap((t) => ["--target", t])];
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-outputs-"));
  try {
    const kept = path.join(directory, "outputs.json");
    fs.writeFileSync(kept, JSON.stringify(outputsOf(stack, "--show-secrets")), { mode: 0o600 });
    return spawnSync("pulumi", words, { stdio: "inherit", env: { ...process.env, [keptOutputsFile]: kept } }).status ?? 1;
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}

const unasked = (answers: readonly Answer<unknown>[]): Answer<unknown>[] => answers.filter((a) => a.error !== undefined);

/** Prints a table, or that there is nothing for one; and which machines could not be asked. */
function print(rows: readonly BuildRow[], answers: readonly Answer<unknown>[], nothing: string): void {
  const table = new Table({ head: ["host", "artefact", "state"], style: { head: [], border: [] } });
  table.push(...rows.map(({ host, artefact, state }) => [host, artefact, state]));
  process.stdout.write(`${rows.length > 0 ? table.toString() : nothing}\n`);
  for (const { machine, error } of unasked(answers)) process.stderr.write(`${machine.name}: ${error}\n`);
}

onStack(cli.command("build"))
  .description("compile on the builder VMs what is declared and not yet built; nothing else of the stack changes")
  .action((options: StackOptions) => {
    process.exitCode = upOf(options, builderTargets(options.stack));
  });

onStack(cli.command("deploy [group]"))
  .description("bring the declared builds, and what they need of Debian, to the PHP VMs of a group or of all; no site changes")
  .action(async (group: string | undefined, options: StackOptions) => {
    const fleet = fleetOf(options);
    const groups = fleet.phpGroups.map((g) => g.name);
    if (group !== undefined && !groups.includes(group)) {
      throw new CliError(`${options.stack} has no PHP group ${group}; there are: ${groups.join(", ") || "none"}`);
    }
    const { machines } = contentOf(options.stack);
    const wanted = fleet.machines.filter((m) => m.role === "php" && (group === undefined || m.tier === group));
    const there = machines.filter((m) => wanted.some((w) => w.name === m.name && w.debian === m.debian));
    // What is to be another machine soon, of another Debian release, takes nothing of that one's.
    const unborn = wanted.filter((w) => !there.some((m) => m.name === w.name)).map((w) => w.name);
    if (unborn.length > 0)
      process.stderr.write(
        `not there yet, or not of their Debian release; pulumi up makes them, with their builds: ${unborn.join(", ")}\n`,
      );
    const vms = addressesOf(options.stack, there);
    const installed = () => askAll<{ artefacts: string[] }>(vms, `${converge} status`, [0]);
    const before = await installed();
    const status = upOf(options, [...builderTargets(options.stack), ...baseTargets(options.stack, there)]);
    const after = await installed();
    print(deployRows(fleet, before, after), after, "no PHP VM is there");
    process.exitCode = status === 0 && unasked(after).length > 0 ? 1 : status;
  });

onStack(cli.command("verify"))
  .description(
    "compare archives with their records, and installed builds with their archives, file by file; " +
      "exit code 2 where one differs, 1 where a host could not be asked",
  )
  .option("--json", "for programs")
  .action(async (options: StackOptions & { readonly json?: boolean }) => {
    const fleet = fleetOf(options);
    const vms = addressesOf(
      options.stack,
      contentOf(options.stack).machines.filter((m) => m.role === "builder" || runsPhp(m)),
    );
    const answers = await askAll<Held>(vms, runProgram, [0], () => withProgram(hostProgram("verify.py"), ""));
    const rows = verifyRows(fleet, answers);
    const errors = unasked(answers).map(({ machine, error }) => ({ host: machine.name, error }));
    if (options.json) process.stdout.write(`${JSON.stringify([...rows, ...errors], null, 2)}\n`);
    else print(rows, answers, "there is no PHP build");
    process.exitCode = errors.length > 0 ? 1 : rows.some((r) => r.state !== "ok") ? 2 : 0;
  });

onStack(cli.command("retire"))
  .description("tell which builds and archives are not declared, and what keeps them; with --apply, remove those that nothing keeps")
  .option("--apply", "remove them")
  .action(async (options: StackOptions & { readonly apply?: boolean }) => {
    const fleet = fleetOf(options);
    const { machines, phpBuilds } = contentOf(options.stack);
    // Were they gone, a change that is undone before it was brought anywhere would bring nothing back.
    const pending = phpBuilds.filter((name) => !fleet.phpBuilds.some((b) => b.artefact === name));
    if (pending.length > 0) process.stderr.write(`left alone until pulumi up has run without them: ${pending.join(", ")}\n`);
    const ask = (whom: (m: FleetMachine) => boolean, more: readonly string[], apply: boolean): Promise<Answer<Retired>[]> => {
      const vms = addressesOf(options.stack, machines.filter(whom));
      const order = (machine: FleetMachine): string =>
        JSON.stringify({ declared: [...declaredOn(fleet, machine), ...pending, ...more], apply });
      return askAll<Retired>(vms, runProgram, [0], (machine) => withProgram(hostProgram("retire.py"), order(machine)));
    };
    const apply = options.apply === true;
    const vms = await ask(runsPhp, [], apply);
    // A VM that did not answer may use any of them.
    const whole = unasked(vms).length === 0;
    const builders = await ask((m) => m.role === "builder", stillUsed(vms), apply && whole);
    const answers = [...vms, ...builders];
    print(retireRows(answers), answers, "nothing to retire: every build is declared");
    if (apply && !whole) process.stderr.write("no archive was removed: a VM that could not be asked may use it\n");
    process.exitCode = unasked(answers).length > 0 ? 1 : 0;
  });

if (require.main === module) {
  cli.parseAsync().catch((error: unknown) => {
    const told = error instanceof ConfigError || error instanceof CliError;
    process.stderr.write(`phptools: ${told ? error.message : String((error as Error).stack ?? error)}\n`);
    process.exitCode = 1;
  });
}
