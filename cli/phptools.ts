// phptools: compiles and lists the PHP builds that a stack declares. Thin: the program itself does the work.
import Table from "cli-table3";
import { spawnSync } from "child_process";
import { Command } from "commander";
import * as fs from "fs";
import * as path from "path";
import * as YAML from "yaml";
import { projectRoot } from "../components/programs";
import { loadFleet } from "../config/load";
import type { Fleet, PhpBuild, PhpGroup, Site } from "../config/model";
import { supportedUntil } from "../config/php-builds";
import { ConfigError } from "../config/problems";
import { secretNames } from "../config/schema";
import { readFiles } from "../stacks/read";

/** A stack as its committed files have it. Secrets are not needed to know what is to be built, so stand-ins serve. */
function fleetOf(stack: string, configFile: string): Fleet {
  const { config } = YAML.parse(fs.readFileSync(configFile, "utf8"), { merge: true }) as { config: Record<string, unknown> };
  const own = Object.entries(config).flatMap(([key, value]) => (key.startsWith("fleet:") ? [[key.slice(6), value] as const] : []));
  const written = Object.fromEntries(own);
  const secrets = Object.fromEntries(secretNames.map((name) => [name, "-"]));
  return loadFleet({ stack, config: written, encrypted: [], secrets, ...readFiles(stack, written) }).fleet;
}

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
      sitesOn(fleet, build)
        .map((s) => s.name)
        .join(" "),
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

/** Every build, who is on it, how long PHP supports it, and what of it nobody asked for. */
export function report(fleet: Fleet, today: Date): BuildReport[] {
  return fleet.phpBuilds.map((build) => {
    const { version, release, debian, artefact } = build;
    const sites = sitesOn(fleet, build);
    const declared = fleet.config.php[version];
    // OPcache is everybody's; the module of a session store comes with the choice of it.
    const asked = new Set(["opcache", ...sites.flatMap((s) => [...s.php.modules, s.sessions])]);
    const end = supportedUntil[version];
    return {
      php: version,
      release,
      debian,
      artefact,
      sites: sites.map((s) => s.name),
      ...(end === undefined ? {} : { supportedUntil: end, daysLeft: Math.ceil((Date.parse(end) - today.getTime()) / day) }),
      undeclared: [...(declared?.modules ?? []), ...Object.keys(declared?.pecl ?? {})].filter((name) => !asked.has(name)).sort(),
      libraries: build.runPackages,
    };
  });
}

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
  .description("every build: sites on it, end of PHP's security support, modules that no site declares, libraries")
  .requiredOption(...stackOption)
  .option(...configOption)
  .option("--json", "for programs")
  .action((options: Options & { readonly json?: boolean }) => {
    const rows = report(fleetOf(options.stack, configOf(options)), new Date());
    if (options.json) return void process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
    const head = ["PHP", "artefact", "sites", "security support", "modules that no site declares", "libraries"];
    const table = new Table({ head, colWidths: [6, 22, 24, 24, 32, 32], wordWrap: true, style: { head: [], border: [] } });
    table.push(...rows.map((r) => [r.php, r.artefact, r.sites.join(" "), supportText(r), r.undeclared.join(" "), r.libraries.join(" ")]));
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
