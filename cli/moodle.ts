// fleet moodle: Moodle's own command line on the nodes of a stack, and its upgrade in the documented order.
import Table from "cli-table3";
import { Argument, Command } from "commander";
import { stream, type Address } from "../components/ssh";
import { loadFleet } from "../config/load";
import type { Application } from "../config/model";
import { askAll, type Answer } from "./ask";
import { byLines, commandLine, program, vmFor, type About } from "./phpexec";
import { builderTargets, upOf } from "./phptools";
import { addressesOf, CliError, committed, contentOf, onStack, type FleetMachine, type FleetSite, type StackOptions } from "./stack";

const scripts = {
  upgrade: "admin/cli/upgrade.php",
  components: "admin/cli/alternative_component_cache.php",
  maintenance: "admin/cli/maintenance.php",
  purge: "admin/cli/purge_caches.php",
  cron: "admin/cli/cron.php",
} as const;

/** Seconds for which an upgrade waits for the tasks of cron. */
const cronSeconds = 600;

/** Instead of an exit status: how the script ended is not known, and it may have gone on for a moment. */
const lost = -1;

/** Whose scripts are run: the code that serves, or that which shall. */
type Tree = "live" | "new";

/** What an upgrade does to the nodes. */
export interface Moodle {
  /** Whether the fleet runs Moodle's cron. */
  readonly cron: boolean;
  /** Installs the new code on every node, beside what serves. @throws CliError */
  bring(): Promise<void>;
  /** A script on one node; its exit status, or -1 where that is not known. */
  script(tree: Tree, ...words: string[]): Promise<number>;
  /** A script on every node; whether all of them ended with 0. */
  everywhere(tree: Tree, ...words: string[]): Promise<boolean>;
  /** Has the new code serve, node by node; whether it does. */
  switchCode(): Promise<boolean>;
  say(text: string): void;
}

/** What Moodle's answer to `--is-maintenance-required` means. */
const needs: Readonly<Record<number, "nothing" | "outage" | "no outage">> = { 0: "nothing", 2: "outage", 3: "no outage" };

/**
 * The upgrade, in Moodle's documented order; its exit status. The database is upgraded by the new code before any node
 * serves it, so that whatever fails until then leaves the old code serving: docs/decisions/0027.
 */
export async function upgrade(moodle: Moodle): Promise<number> {
  await moodle.bring();
  const answer = await moodle.script("new", scripts.upgrade, "--is-maintenance-required");
  const need = needs[answer];
  if (!need) {
    moodle.say(`Moodle cannot tell whether an outage is needed (exit ${answer}); nothing was changed, the old code serves`);
    return 1;
  }
  const words = { nothing: "the database needs no upgrade", outage: "an outage is needed", "no outage": "no outage is needed" };
  moodle.say(`Moodle says: ${words[need]}`);
  if (!(await moodle.everywhere("new", scripts.components, "--rebuild"))) {
    moodle.say("a node could not rebuild the component cache of the new code; nothing was changed, the old code serves");
    return 1;
  }
  if (need !== "nothing" && !(await upgradeDatabase(moodle, need))) return 1;
  if (!(await moodle.switchCode())) {
    moodle.say(`the new code does not serve on every node; ${await fate(moodle, need)}`);
    return 1;
  }
  const purged = await moodle.script("live", scripts.purge);
  const reopened = await reopen(moodle);
  moodle.say(purged === 0 && reopened ? "upgraded" : "upgraded, but not everything after it went well: see above");
  return purged === 0 && reopened ? 0 : 1;
}

/** How a site stays that is not opened again. Before anything was done to it, a run before this one may have closed it. */
const ends = { outage: "maintenance mode stays on", "no outage": "the site stays open", nothing: "site and cron stay as they are" };

/** Whether the new code's upgrade.php went through. */
async function upgradeDatabase(moodle: Moodle, need: "outage" | "no outage"): Promise<boolean> {
  const outage = need === "outage";
  // Before maintenance mode: visitors need not wait for what cron is doing.
  if (moodle.cron && (await moodle.script("live", scripts.cron, `--disable-wait=${cronSeconds}`)) !== 0) {
    moodle.say(`cron could not be stopped; ${await fate(moodle, "nothing")}`);
    return false;
  }
  if (outage && (await moodle.script("live", scripts.maintenance, "--enable")) !== 0) {
    moodle.say(`maintenance mode could not be entered; ${await fate(moodle, "nothing")}`);
    return false;
  }
  const status = await moodle.script("new", scripts.upgrade, "--non-interactive", ...(outage ? [] : ["--maintenance=0"]));
  if (status === 0) return true;
  if (status === lost) {
    moodle.say(`how upgrade.php of the new code ended is not known; no node was changed, ${stays(moodle, need)}: run this again`);
  } else {
    moodle.say(`upgrade.php of the new code failed (exit ${status}); ${await fate(moodle, need)}`);
  }
  return false;
}

const stays = (moodle: Moodle, done: keyof typeof ends): string =>
  moodle.cron && done !== "nothing" ? `${ends[done]}, cron stays stopped` : ends[done];

/**
 * What becomes of the site after a failure: cron and visitors may go on where the old code knows the database on
 * every node. Where it does not, as after an upgrade that ended half-way, be it one of an earlier run, nothing is opened.
 */
async function fate(moodle: Moodle, done: keyof typeof ends): Promise<string> {
  if (!(await moodle.everywhere("live", scripts.upgrade, "--is-pending"))) {
    const ways = "correct what failed and run this again, or restore the database and then: npm run fleet -- moodle maintenance off";
    return `the old code does not know the database, ${stays(moodle, done)}: ${ways}`;
  }
  if (await reopen(moodle)) return "the old code knows the database and serves on";
  return "the old code knows the database, but cron or maintenance mode is not as it was: npm run fleet -- moodle maintenance off";
}

/** Cron goes on and maintenance mode ends, whoever stopped and began them; whether both went well. */
export async function reopen(moodle: Moodle): Promise<boolean> {
  const cron = moodle.cron ? await moodle.script("live", scripts.cron, "--enable") : 0;
  return (await leaveMaintenance(moodle)) === 0 && cron === 0;
}

/**
 * Maintenance mode ends; the exit status of that. A node that has shown the page would show it for up to a minute more,
 * as long as it remembers what is on the NAS. So each of them is asked to remove the file, and learns that it is gone.
 */
async function leaveMaintenance(moodle: Moodle): Promise<number> {
  const status = await moodle.script("live", scripts.maintenance, "--disable");
  if (status === 0) await moodle.everywhere("live", scripts.maintenance, "--disable");
  return status;
}

/** Resources of the tier by their type below the component, and name. */
const tierUrn = (stack: string, rest: string): string => `urn:pulumi:${stack}::fleet::hosting:moodle:MoodleCluster${rest}`;

/** What brings the new code to these nodes, beside the builder: nothing of a node that serves is among them. */
export const bringTargets = (stack: string, nodes: readonly Pick<FleetMachine, "name">[]): string[] => [
  tierUrn(stack, "$command:remote:Command::moodle-code"),
  ...nodes.map(({ name }) => tierUrn(stack, `$hosting:host:HostConfig$command:remote:Command::moodle-base-${name}`)),
];

/** The whole tier, and what it is made with. */
export const switchTargets = (stack: string): string[] => [
  `urn:pulumi:${stack}::fleet::pulumi:providers:**`,
  `urn:pulumi:${stack}::fleet::random:index/randomPassword:RandomPassword::*`,
  tierUrn(stack, "::**"),
  tierUrn(stack, "$**"),
];

/** The nodes of a stack, as its files and its last `up` have them. */
class Cluster implements Moodle {
  readonly cron: boolean;
  readonly nodes: readonly FleetMachine[];
  private readonly vms: Map<FleetMachine, Address>;
  private readonly site: FleetSite;

  constructor(private readonly options: StackOptions) {
    const application = moodleOf(options);
    const { machines, sites } = contentOf(options.stack);
    const site = sites.find((s) => s.name === application.name);
    this.nodes = machines.filter((m) => m.tier === application.name);
    if (!site || this.nodes.length === 0) throw new CliError(`${options.stack} has no Moodle that runs: run pulumi up first`);
    this.site = site;
    this.wanted = application.site.code.artefact;
    this.cron = application.site.cron.length > 0;
    this.vms = addressesOf(options.stack, this.nodes);
  }

  /** Name of the code that the stack's files ask for. */
  readonly wanted: string;

  ask(): Promise<Answer<About>[]> {
    return askAll<About>(this.vms, commandLine([...program, "--sites"]), [0]);
  }

  bring(): Promise<void> {
    const { stack } = this.options;
    const status = upOf(this.options, [...builderTargets(stack), ...bringTargets(stack, this.nodes)]);
    if (status !== 0) throw new CliError("the new code could not be brought to the nodes; nothing was changed, the old code serves");
    return Promise.resolve();
  }

  async script(tree: Tree, ...words: string[]): Promise<number> {
    const answers = await this.ask();
    try {
      return await this.on(vmFor(this.site, answers, 0).machine, tree, words);
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      this.say(`${words.join(" ")}: ${error.message}`); // what was begun before is ended, or told
      return lost;
    }
  }

  async everywhere(tree: Tree, ...words: string[]): Promise<boolean> {
    const statuses = await Promise.all(this.nodes.map((node) => this.on(node, tree, words)));
    return statuses.every((status) => status === 0);
  }

  switchCode(): Promise<boolean> {
    return Promise.resolve(upOf(this.options, switchTargets(this.options.stack)) === 0);
  }

  say(text: string): void {
    process.stderr.write(`moodle: ${text}\n`);
  }

  private async on(machine: FleetMachine, tree: Tree, words: readonly string[]): Promise<number> {
    const address = this.vms.get(machine);
    if (!address) throw new CliError(`no way to ${machine.name} is known`);
    const which = tree === "new" ? ["--tree", this.wanted] : [];
    this.say(`${machine.name}: ${words.join(" ")}`);
    const [out, err] = [process.stdout, process.stderr].map((to) => byLines(machine.name, (text) => void to.write(text)));
    try {
      return await stream(address, commandLine([...program, ...which, this.site.name, ...words]), {
        stdin: "",
        stdout: (data) => out?.take(data),
        stderr: (data) => err?.take(data),
      });
    } catch (error) {
      this.say(`${machine.name}: ${(error as Error).message}`);
      return lost;
    } finally {
      out?.end();
      err?.end();
    }
  }
}

function moodleOf({ stack, configFile }: StackOptions): Application {
  const application = loadFleet(committed(stack, configFile)).fleet.applications.find((a) => a.moodle);
  if (!application) throw new CliError(`${stack} has no fleet:moodle.application`);
  return application;
}

/** What a node is to be told of: an empty text is good. */
export function nodeTrouble({ said, error }: Answer<About>, wanted: string): string {
  if (error !== undefined) return error;
  const code = said?.code?.["moodle"];
  return [said?.ready ? "" : "not in its services", code === wanted ? "" : `serves ${code ?? "nothing"}`].filter(Boolean).join("; ");
}

async function status(options: StackOptions): Promise<number> {
  const cluster = new Cluster(options);
  const answers = await cluster.ask();
  const table = new Table({ head: ["node", "code", "state"], style: { head: [], border: [] } });
  const troubles = answers.map((answer) => nodeTrouble(answer, cluster.wanted));
  table.push(...answers.map(({ machine, said }, i) => [machine.name, said?.code?.["moodle"] ?? "", troubles[i] || "ok"]));
  process.stdout.write(`${table.toString()}\nThe stack's files ask for ${cluster.wanted}.\n`);
  const maintenance = await cluster.script("live", scripts.maintenance);
  const pending = await cluster.script("live", scripts.upgrade, "--is-pending");
  return troubles.some(Boolean) || maintenance !== 0 || pending !== 0 ? 1 : 0;
}

/** `fleet moodle`. */
export function moodleCommand(): Command {
  const moodle = new Command("moodle").description("Moodle's own commands on the nodes of a stack, and its upgrade");
  const verb = (name: string, description: string): Command => onStack(moodle.command(name)).description(description);
  const exit = async (result: Promise<number>): Promise<void> => void (process.exitCode = await result);
  verb(
    "upgrade",
    "bring the stack's code to the nodes, upgrade the database, switch; an outage only where Moodle says that one is needed",
  ).action((options: StackOptions) => exit(upgrade(new Cluster(options))));
  verb("maintenance", "show Moodle's maintenance page, or end that")
    .addArgument(new Argument("<state>").choices(["on", "off"]))
    .action((state: string, options: StackOptions) => {
      const cluster = new Cluster(options);
      // An upgrade that was cut short has stopped cron too, and nothing else would tell of that.
      return exit(
        state === "on" ? cluster.script("live", scripts.maintenance, "--enable") : reopen(cluster).then((well) => (well ? 0 : 1)),
      );
    });
  verb("purge", "empty Moodle's caches").action((options: StackOptions) => exit(new Cluster(options).script("live", scripts.purge)));
  verb(
    "status",
    "code of each node, maintenance mode, a pending upgrade; exit code 1 where a node differs or an upgrade is pending",
  ).action((options: StackOptions) => exit(status(options)));
  return moodle;
}
