// phptools: compiles and lists the PHP builds that a stack declares. Thin: the program itself does the work.
import Table from "cli-table3";
import { spawnSync } from "child_process";
import { Command } from "commander";
import * as fs from "fs";
import * as path from "path";
import * as YAML from "yaml";
import { projectRoot } from "../components/programs";
import { loadFleet } from "../config/load";
import type { Fleet } from "../config/model";
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

/** The rows of `phptools list`: one for each build, with the sites that run on it. */
export function buildRows(fleet: Fleet): string[][] {
  return fleet.phpBuilds.map((build) => {
    const groups = fleet.phpGroups.filter((g) => g.builds.includes(build));
    const sites = groups.flatMap((g) => g.sites.filter((s) => s.php.version === build.version).map((s) => s.name));
    return [
      build.version,
      build.artefact,
      build.debian,
      groups.map((g) => g.name).join(" "),
      sites.join(" "),
      String(build.modules.length),
    ];
  });
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
