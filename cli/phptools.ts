// phptools: compiles and lists the PHP builds that a stack declares. Thin: the program itself does the work.
import Table from "cli-table3";
import { spawnSync } from "child_process";
import { Command } from "commander";
import * as path from "path";
import { projectRoot } from "../components/programs";
import { loadFleet } from "../config/load";
import type { Fleet, PhpBuild, PhpGroup, Site } from "../config/model";
import { supportedUntil } from "../config/php-builds";
import { ConfigError } from "../config/problems";
import { siteHistory, sitesSince } from "./history";
import { committed, sitesDirectoryOf } from "./stack";

/** A stack as its committed files have it. */
const fleetOf = (stack: string, configFile: string): Fleet => loadFleet(committed(stack, configFile)).fleet;

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

const groupsWith = (fleet: Fleet, build: PhpBuild): PhpGroup[] => fleet.phpGroups.filter((g) => g.builds.includes(build));

/** Sites that run on a build. */
const sitesOn = (fleet: Fleet, build: PhpBuild): Site[] =>
  groupsWith(fleet, build).flatMap((g) => g.sites.filter((s) => s.php.version === build.version));

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
      groupsWith(fleet, build)
        .map((g) => g.name)
        .join(" "),
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
  /** Modules that are compiled in and that no site on it declares: candidates to leave out. */
  readonly undeclared: readonly string[];
  /** Debian packages of the libraries that it links. */
  readonly libraries: readonly string[];
}

const day = 86_400_000;

/** Every build, who is on it and since when, how long PHP supports it, and what of it nobody asked for. */
export function report(fleet: Fleet, today: Date, since: Readonly<Record<string, string>> = {}): BuildReport[] {
  return fleet.phpBuilds.map((build) => {
    const { version, release, debian, artefact } = build;
    const [sites, trials] = [sitesOn(fleet, build), trialsOn(fleet, build)];
    const declared = fleet.config.php[version];
    // OPcache is everybody's; the module of a session store comes with the choice of it.
    const asked = new Set(["opcache", ...[...sites, ...trials].flatMap((s) => [...s.php.modules, s.sessions])]);
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
      undeclared: [...(declared?.modules ?? []), ...Object.keys(declared?.pecl ?? {})].filter((name) => !asked.has(name)).sort(),
      libraries: build.runPackages,
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

const cli = new Command("phptools").description("PHP builds of a stack: what is declared, and compiling it on the fleet's builders.");
const stackOption = ["-s, --stack <name>", "the stack"] as const;
const configOption = ["--config-file <file>", "its configuration; default Pulumi.<stack>.yaml"] as const;

interface Options {
  readonly stack: string;
  readonly configFile?: string;
}
const configOf = ({ stack, configFile }: Options): string => configFile ?? path.join(projectRoot, `Pulumi.${stack}.yaml`);

cli
  .command("list")
  .description("every build that the stack declares, and the sites on it")
  .requiredOption(...stackOption)
  .option(...configOption)
  .action((options: Options) => {
    const table = new Table({ head: ["PHP", "artefact", "Debian", "groups", "sites", "modules"], style: { head: [], border: [] } });
    table.push(...buildRows(fleetOf(options.stack, configOf(options))));
    process.stdout.write(`${table.toString()}\n`);
  });

cli
  .command("report")
  .description("every build: sites on it and since when, end of PHP's security support, modules that no site declares, libraries")
  .requiredOption(...stackOption)
  .option(...configOption)
  .option("--json", "for programs")
  .action((options: Options & { readonly json?: boolean }) => {
    const written = committed(options.stack, configOf(options));
    const { fleet } = loadFleet(written);
    const rows = report(fleet, new Date(), sitesSince(fleet.sites, siteHistory(path.resolve(projectRoot, sitesDirectoryOf(written)))));
    if (options.json) return void process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
    const head = ["PHP", "artefact", "sites", "security support", "modules that no site declares", "libraries"];
    const table = new Table({ head, colWidths: [6, 22, 24, 24, 32, 32], wordWrap: true, style: { head: [], border: [] } });
    table.push(...rows.map((r) => [r.php, r.artefact, sitesText(r), supportText(r), r.undeclared.join(" "), r.libraries.join(" ")]));
    process.stdout.write(`${table.toString()}\n`);
  });

cli
  .command("build")
  .description("compile on the builder VMs what is declared and not yet built; nothing else of the stack changes")
  .requiredOption(...stackOption)
  .option(...configOption)
  .action((options: Options) => {
    const targets = builderTargets(options.stack).flatMap((t) => ["--target", t]);
    const config = options.configFile ? ["--config-file", options.configFile] : [];
    const { status } = spawnSync("pulumi", ["up", "--yes", "--skip-preview", "--stack", options.stack, ...config, ...targets], {
      cwd: projectRoot,
      stdio: "inherit",
    });
    process.exitCode = status ?? 1;
  });

if (require.main === module) {
  cli.parseAsync().catch((error: unknown) => {
    process.stderr.write(`${error instanceof ConfigError ? error.message : String(error)}\n`);
    process.exitCode = 1;
  });
}
