// vhost: assisted creation of a site, and its way to another PHP. It edits files of sites/; git and pulumi do the rest.
import Table from "cli-table3";
import { Command, Option } from "commander";
import * as fs from "fs";
import * as path from "path";
import { createInterface } from "readline/promises";
import * as YAML from "yaml";
import { projectRoot } from "../components/programs";
import { loadFleet, type Written } from "../config/load";
import type { Fleet, Site } from "../config/model";
import { ConfigError } from "../config/problems";
import { sitePorts, siteSchema, siteUids } from "../config/schema";
import { sitesDirectoryOf } from "../stacks/read";
import { siteHistory } from "./history";
import { lowestFree, numbersIn, siteText, trialPort, withoutTrial, withTrial, withVersion } from "./site-file";
import { CliError, committed, onStack, outputsOf, type StackOptions } from "./stack";

/** What `create` knows of a new site, from its options and from the answers. */
interface Wishes {
  readonly name?: string;
  readonly host?: readonly string[];
  readonly php?: string;
  readonly group?: string;
  readonly modules?: readonly string[];
  readonly sessions?: string;
}

const words = (text: string): string[] => text.split(/[\s,]+/).filter((word) => word !== "");
const stores = siteSchema.shape.sessions.unwrap().options;

/** Asks on the terminal for what was not given. A wrong answer is the loader's to refuse, with all others. */
async function ask(wishes: Wishes, { phpGroups }: Fleet): Promise<Wishes> {
  const having = (php: string): string[] => phpGroups.filter((g) => g.builds.some((b) => b.version === php)).map((g) => g.name);
  const versions = [...new Set(phpGroups.flatMap((g) => g.builds.map((b) => b.version)))];
  versions.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  process.exitCode = 1; // of one who leaves before the last answer
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = async (text: string, standard = ""): Promise<string> =>
    (await terminal.question(`${text}${standard ? ` [${standard}]` : ""}: `)).trim() || standard;
  try {
    const name = wishes.name ?? (await answer("Name of the site"));
    const host = wishes.host ?? words(await answer("DNS names, the canonical one first"));
    const php = wishes.php ?? (await answer(`PHP version, of ${versions.join(", ")}`, versions.at(-1)));
    const groups = having(php);
    const group = wishes.group ?? (groups.length > 1 ? await answer(`PHP group, of ${groups.join(", ")}`, groups[0]) : "");
    const modules = wishes.modules ?? words(await answer("PHP modules that the code needs"));
    const sessions = wishes.sessions ?? (await answer(`Sessions in ${stores.join(", ")}`, "files"));
    process.exitCode = 0;
    return { name, host, php, group, modules, sessions };
  } finally {
    terminal.close();
  }
}

/** The lowest uid and port that no site of the stack has or ever had, as far as git knows. */
function allocate(written: Written): { readonly uid: number; readonly port: number } {
  const past = siteHistory(path.resolve(projectRoot, sitesDirectoryOf(written)));
  if (!past) process.stderr.write("vhost: git has no whole history here: numbers of sites that were removed are not known\n");
  const { uids, ports } = numbersIn([...Object.values(written.sites), ...(past ?? []).map((p) => p.content)]);
  const [uid, port] = [lowestFree(siteUids, uids), lowestFree(sitePorts, ports)];
  if (uid === undefined || port === undefined) throw new CliError("no uid or no port is left: each serves once");
  return { uid, port };
}

/** Path of a site's file, from the project's root. */
const fileOf = (written: Written, name: string): string => path.join(sitesDirectoryOf(written), `${name}.yaml`);

/** The platform as it would be with this text of a site's file. @throws ConfigError with all mistakes of all files. */
const loadedWith = (written: Written, file: string, text: string): Fleet =>
  loadFleet({ ...written, sites: { ...written.sites, [file]: YAML.parse(text) } }).fleet;

const say = (...lines: string[]): void => void process.stdout.write(`${lines.join("\n")}\n`);

/** What an operator does with a changed file. */
const next = (stack: string, file: string): string[] => [
  `  git add ${file}      and commit it on a branch, for a pull request`,
  `  npm run pulumi -- preview -s ${stack} --diff`,
];

/** A stack whose directory of sites may be missing: `create` makes it, as git keeps none that is empty. */
function committedBeforeFirstSite({ stack, configFile }: StackOptions): Written {
  const written = committed(stack, configFile);
  return { ...written, unreadable: (written.unreadable ?? []).filter((problem) => problem.property !== "fleet:sites") };
}

async function create(given: Wishes, options: StackOptions): Promise<void> {
  const written = committedBeforeFirstSite(options);
  const wishes = process.stdin.isTTY ? await ask(given, loadFleet(written).fleet) : given;
  const { name, host, php, group, modules = [], sessions } = wishes;
  if (!name || !host || !php) throw new CliError("a site needs a name, DNS names and a PHP version: NAME, --host and --php");
  const file = fileOf(written, name);
  const target = path.resolve(projectRoot, file);
  if (fs.existsSync(target)) throw new CliError(`${file} exists: change it there`);
  const version = { version: php, ...(group ? { group } : {}), ...(modules.length > 0 ? { modules } : {}) };
  const site = { name, hosts: host, ...allocate(written), php: version, ...(sessions ? { sessions } : {}) };
  const { config } = loadedWith(written, file, siteText(site));
  if (fs.mkdirSync(path.dirname(target), { recursive: true })) say(`${path.dirname(file)} is new`);
  fs.writeFileSync(target, siteText(site), { flag: "wx" });
  const ownTree = `  make ${name} on the NAS, owned by uid ${site.uid} and group 33, mode 0710`;
  say(
    `${file}: uid ${site.uid}, port ${site.port}`,
    "Next:",
    ...(config.nas?.kind === "vm" ? [] : [ownTree]),
    ...next(options.stack, file),
  );
}

/** Rewrites a site's file, when the platform is right with it. */
function rewrite(name: string, options: StackOptions, change: (text: string, written: Written) => string): void {
  const written = committed(options.stack, options.configFile);
  const file = fileOf(written, name);
  const sites = Object.keys(written.sites);
  if (!sites.includes(file)) {
    loadFleet(written); // a file that is no YAML is there, and told
    const names = sites.map((other) => path.basename(other, ".yaml")).join(", ");
    throw new CliError(`${options.stack} has no site ${name} in ${file}; there are: ${names}`);
  }
  const target = path.resolve(projectRoot, file);
  const before = fs.readFileSync(target, "utf8");
  const after = change(before, written);
  if (after === before) throw new CliError(`${file} says so already`);
  loadedWith(written, file, after);
  fs.writeFileSync(target, after);
  say(`${file} is changed. Next:`, ...next(options.stack, file));
}

/** The URL by which a tester gets the trial's cookie. Only this command shows it. */
function tellTrial(name: string, { stack }: StackOptions): void {
  const { trials = {} } = outputsOf(stack, "--show-secrets") as { trials?: Record<string, { version: string; url: string }> };
  const trial = trials[name];
  if (!trial) {
    throw new CliError(
      `the last up of ${stack} left no trial of ${name}: npm run vhost -- trial ${name} -s ${stack} --start VERSION, commit, and up`,
    );
  }
  const off = trial.url.replace(/[^/]+$/, "off");
  say(`${name} by PHP ${trial.version}, in the browser that opens`, `  ${trial.url}`, "and by its own version again, after", `  ${off}`);
}

/** One row of `vhost list`. */
function row({ name, hosts, php: { version, group, trial }, uid, port, sessions }: Site): (string | number)[] {
  const tried = trial ? [`, trial ${trial.version}`, `, ${trial.port}`] : ["", ""];
  return [name, hosts.join(" "), `${version}${tried[0]}`, group, uid, `${port}${tried[1]}`, sessions];
}

const cli = new Command("vhost").description("Sites of a stack: creation, and the way to another PHP. It edits their files alone.");

onStack(cli.command("create [name]"))
  .description("write the file of a new site; what is not given is asked for on a terminal")
  .option("--host <names...>", "DNS names; the first is canonical")
  .option("--php <version>", "PHP version")
  .option("--group <name>", "PHP group, where several have the version")
  .option("--modules <list>", "PHP modules that the code needs, with commas between", words)
  .addOption(new Option("--sessions <store>", "where sessions are kept").choices([...stores]))
  .action((name: string | undefined, options: StackOptions & Wishes) => create({ ...options, ...(name ? { name } : {}) }, options));

onStack(cli.command("list"))
  .description("every site: names, PHP, group, uid, port, sessions")
  .option("--json", "for programs")
  .action((options: StackOptions & { readonly json?: boolean }) => {
    const { sites } = loadFleet(committed(options.stack, options.configFile)).fleet;
    const plain = sites.map(({ name, hosts, php, uid, port, sessions }) => {
      return { name, hosts, php: php.version, trial: php.trial ?? null, group: php.group, uid, port, sessions };
    });
    if (options.json) return say(JSON.stringify(plain, null, 2));
    const table = new Table({ head: ["site", "hosts", "PHP", "group", "uid", "port", "sessions"], style: { head: [], border: [] } });
    table.push(...sites.map(row));
    say(table.toString());
  });

onStack(cli.command("check"))
  .description("check every file of the stack and of its sites; exit code 2 where there are mistakes")
  .action((options: StackOptions) => {
    const { sites } = loadFleet(committed(options.stack, options.configFile)).fleet;
    say(`${options.stack}: ${sites.length} ${sites.length === 1 ? "site" : "sites"}, no mistake`);
  });

onStack(cli.command("trial <site>"))
  .description("the URL by which a tester has the site by another PHP version")
  .addOption(new Option("--start <version>", "have the site's file try this version").conflicts("stop"))
  .option("--stop", "end the trial in the site's file; its port is not used again")
  .action((name: string, options: StackOptions & { readonly start?: string; readonly stop?: boolean }) => {
    const { start, stop } = options;
    if (stop) return void rewrite(name, options, (text) => withoutTrial(text));
    if (start === undefined) return tellTrial(name, options);
    // Another version takes the place of the one that is tried.
    rewrite(name, options, (text, written) => withTrial(text, { version: start, port: trialPort(text) ?? allocate(written).port }));
    say(`  after npm run pulumi -- up, npm run vhost -- trial ${name} -s ${options.stack} tells the tester's URL`);
  });

onStack(cli.command("move-php <site> <version>"))
  .description("make a PHP version the site's own; a trial ends with it, and its port is not used again")
  .action((name: string, version: string, options: StackOptions) => {
    rewrite(name, options, (text) => withVersion(withoutTrial(text), version));
  });

if (require.main === module) {
  cli.parseAsync().catch((error: unknown) => {
    const told = error instanceof CliError || error instanceof ConfigError;
    process.stderr.write(`vhost: ${told ? error.message : String((error as Error).stack ?? error)}\n`);
    process.exitCode = error instanceof ConfigError ? 2 : 1;
  });
}
