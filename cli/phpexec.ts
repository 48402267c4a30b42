// phpexec: runs a PHP script of a site, or of many, on VMs of their groups. Thin: host/phpexec.py does the work there.
import Table from "cli-table3";
import { Command, InvalidArgumentError } from "commander";
import { stream, type Address, type Streams } from "../components/ssh";
import { ConfigError } from "../config/problems";
import { programDirectory } from "../templates/programs";
import { askAll, inParallel, type Answer } from "./ask";
import { addressesOf, CliError, contentOf, type FleetMachine, type FleetSite } from "./stack";

/** What a PHP VM says of itself. */
export interface About {
  /** Its health responder has it take requests. */
  readonly ready: boolean;
  /** PHP release of each of its sites. */
  readonly sites: Readonly<Record<string, string>>;
  /** Name of the code of its application, by the site's. */
  readonly code?: Readonly<Record<string, string>>;
}

/** One run of the script. */
interface Row {
  readonly site: string;
  readonly vm: string;
  readonly php: string;
  /** Exit status, or why there is none. */
  readonly exit: number | string;
  readonly seconds: number;
}

interface Options {
  readonly stack: string;
  readonly allSites?: boolean;
  readonly php?: string;
  readonly jobs: number;
}

/**
 * A command of words that no shell changes. sshd hands a command to the account's shell as one text, and
 * standard input, where the words could travel instead, is the script's.
 */
export function commandLine(words: readonly string[]): string {
  if (words.some((word) => word.includes("\0"))) throw new CliError("an argument holds a NUL, which no command can be given");
  return words.map((word) => `'${word.replace(/'/g, `'\\''`)}'`).join(" ");
}

/** The program on a VM; what it shall run follows. */
export const program = ["sudo", "-n", "/usr/bin/python3", "-IB", `${programDirectory}/phpexec.py`];

/** The sites that were asked for. @throws CliError naming those there are */
export function chosenSites(sites: readonly FleetSite[], name: string | undefined, php: string | undefined): FleetSite[] {
  const there = (values: readonly string[]): string => [...new Set(values)].sort().join(", ") || "none";
  const chosen = sites.filter((site) => (name === undefined || site.name === name) && (php === undefined || site.php === php));
  if (chosen.length > 0) return chosen;
  if (name !== undefined) throw new CliError(`the stack has no site ${name}; there are: ${there(sites.map((s) => s.name))}`);
  if (php === undefined) throw new CliError("the stack has no site");
  throw new CliError(`no site runs PHP ${php}; there are: ${there(sites.map((s) => s.php))}`);
}

/** A VM of the site's group that is in its services and has the site; `turn` spreads many over the group. */
export function vmFor(site: FleetSite, answers: readonly Answer<About>[], turn: number): Answer<About> {
  const group = answers.filter(({ machine }) => machine.tier === site.group);
  const fit = group.filter(({ said }) => said?.ready && site.name in said.sites);
  const found = fit[turn % fit.length];
  if (found) return found;
  const why = group.map(({ machine, said, error }) => {
    return `${machine.name}: ${error ?? (said?.ready ? "does not have it yet" : "not in its services")}`;
  });
  throw new CliError(`no VM of ${site.group} can run a script of ${site.name}: ${why.join("; ") || "there is none"}`);
}

/** Passes output on by whole lines, each under the name of its site. */
export function byLines(site: string, write: (text: string) => void): { take: (data: Buffer) => void; end: () => void } {
  const decoder = new TextDecoder();
  let rest = "";
  const flush = (text: string): void => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    if (lines.length > 0) write(lines.map((line) => `${site}: ${line}\n`).join(""));
  };
  return {
    take: (data) => flush(decoder.decode(data, { stream: true })),
    end: () => rest !== "" && flush("\n"),
  };
}

/** What one call of phpexec knows: the way to the VMs, what they say of themselves, the script and its arguments. */
interface Known {
  readonly vms: ReadonlyMap<FleetMachine, Address>;
  readonly answers: readonly Answer<About>[];
  readonly script: readonly string[];
}

/** Exit status of the script on this VM. */
function runOn(machine: FleetMachine, site: FleetSite, { vms, script }: Known, streams: Streams): Promise<number> {
  const address = vms.get(machine);
  if (!address) throw new CliError(`no way to ${machine.name} is known`);
  return stream(address, commandLine([...program, site.name, ...script]), streams);
}

async function runOne(site: FleetSite, known: Known): Promise<number> {
  const { machine } = vmFor(site, known.answers, 0);
  try {
    return await runOn(machine, site, known, {
      stdin: process.stdin,
      stdout: (data) => void process.stdout.write(data),
      stderr: (data) => void process.stderr.write(data),
    });
  } catch (error) {
    process.stderr.write(`phpexec: ${machine.name}: ${(error as Error).message}\n`);
    return 255;
  } finally {
    process.stdin.destroy();
  }
}

/** The row of one site among many. */
async function runRow(site: FleetSite, turn: number, known: Known): Promise<Row> {
  const begun = Date.now();
  const row = (vm: string, php: string, exit: Row["exit"]): Row => ({
    site: site.name,
    vm,
    php,
    exit,
    seconds: (Date.now() - begun) / 1000,
  });
  const out = byLines(site.name, (text) => void process.stdout.write(text));
  const err = byLines(site.name, (text) => void process.stderr.write(text));
  let vm = "";
  try {
    const { machine, said } = vmFor(site, known.answers, turn);
    vm = machine.name;
    // One standard input cannot be that of many.
    const exit = await runOn(machine, site, known, { stdin: "", stdout: out.take, stderr: err.take });
    return row(vm, said?.sites[site.name] ?? site.php, exit);
  } catch (error) {
    return row(vm, site.php, (error as Error).message);
  } finally {
    out.end();
    err.end();
  }
}

function tableOf(rows: readonly Row[]): string {
  const table = new Table({ head: ["site", "VM", "PHP", "exit", "seconds"], style: { head: [], border: [] } });
  table.push(...rows.map((r) => [r.site, r.vm, r.php, r.exit, r.seconds.toFixed(1)]));
  const failed = rows.filter((r) => r.exit !== 0).length;
  return `${table.toString()}\n${rows.length} sites, ${failed === 0 ? "all well" : `${failed} failed`}`;
}

async function phpexec(words: readonly string[], options: Options): Promise<number> {
  const many = options.allSites === true || options.php !== undefined;
  const [name, script] = many ? [undefined, words] : [words[0], words.slice(1)];
  if (script.length === 0) throw new CliError("say which script: a path below the site's tree");
  const { machines, sites } = contentOf(options.stack);
  const chosen = chosenSites(sites, name, options.php);
  const groups = new Set(chosen.map((s) => s.group));
  const vms = addressesOf(
    options.stack,
    machines.filter((m) => groups.has(m.tier)),
  );
  const answers = await askAll<About>(vms, commandLine([...program, "--sites"]), [0]);
  const known = { vms, answers, script };
  const [site] = chosen;
  if (!many && site) return runOne(site, known);
  const rows = await inParallel(chosen, options.jobs, (each, turn) => runRow(each, turn, known));
  process.stdout.write(`${tableOf(rows)}\n`);
  return rows.some((r) => r.exit !== 0) ? 1 : 0;
}

function wholeNumber(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("give a whole number, 1 or more");
  return Number(text);
}

const cli = new Command("phpexec")
  .description("Runs a PHP script of a site with the site's PHP, uid, sandbox and limits. Its exit code is the script's.")
  .argument("<words...>", "SITE SCRIPT [ARGUMENT...]; of many sites, SCRIPT [ARGUMENT...]. SCRIPT is a path below the site's tree")
  .requiredOption("-s, --stack <name>", "the stack")
  .option("--all-sites", "the same script of every site; a table at the end, exit code 1 where one failed")
  .option("--php <version>", "of every site on this PHP version, e.g. 7.4")
  .option("--jobs <number>", "sites at the same time", wholeNumber, 4)
  // What follows the site or the script is the script's.
  .passThroughOptions()
  .action(async (words: string[], options: Options) => {
    process.exitCode = await phpexec(words, options);
  });

if (require.main === module) {
  cli.parseAsync().catch((error: unknown) => {
    const mistake = error instanceof CliError || error instanceof ConfigError;
    process.stderr.write(`phpexec: ${mistake ? error.message : String((error as Error).stack ?? error)}\n`);
    process.exitCode = mistake ? 2 : 255;
  });
}
