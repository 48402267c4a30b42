// fleet: what a stack's VMs are, and how they differ from what they should be. It changes secrets, Moodle's code, and what
// a site gets back from a snapshot.
import Table from "cli-table3";
import { spawnSync } from "child_process";
import { Command, InvalidArgumentError } from "commander";
import * as fs from "fs";
import { createInterface } from "readline/promises";
import { Writable } from "stream";
import * as YAML from "yaml";
import { converge } from "../components/programs";
import type { Address } from "../components/ssh";
import { secretsFile } from "../config/load";
import { ConfigError } from "../config/problems";
import { isSecretName, secretNames } from "../config/schema";
import { askAll, type Answer } from "./ask";
import { latest, outcome, type CronRun, type LastRun } from "./cron";
import { moodleCommand } from "./moodle";
import { nasTrouble, quotaText, snapshotCommand, type NasStatus } from "./snapshots";
import { addressesOf, CliError, contentOf, stackFileOf, type FleetMachine } from "./stack";

/** One difference between a VM and its live generation. */
interface Finding {
  readonly kind: string;
  readonly name: string;
  readonly what: string;
  /** Unified diff, where the difference is one of text. */
  readonly diff?: string;
}
interface Drift {
  readonly generation: string | null;
  readonly findings: readonly Finding[];
}

interface Status {
  readonly generation: string | null;
  /** Seconds since 1970; absent before the first change. */
  readonly changed?: number;
  readonly unsettled: readonly string[];
  readonly drained: boolean;
  /** Health checks that fail now, and why; null where nobody answers for them. */
  readonly failing: Readonly<Record<string, string>> | null;
  readonly artefacts: readonly string[];
  /** Absent from a VM that an older program looks after. */
  readonly cron?: readonly CronRun[];
  /** Of a NAS VM; null where it could not tell. */
  readonly nas?: NasStatus | null;
}

/** VMs of a stack and the way to them. */
const vmsOf = (stack: string): Map<FleetMachine, Address> => addressesOf(stack, contentOf(stack).machines);

function driftText(answers: readonly Answer<Drift>[]): string {
  const lines: string[] = [];
  for (const { machine, said, error } of answers) {
    if (error !== undefined) lines.push(`${machine.name}: could not be asked: ${error}`);
    for (const { kind, name, what, diff } of said?.findings ?? []) {
      lines.push(`${machine.name}: ${kind} ${name}: ${what}`);
      if (diff) lines.push(diff.trimEnd());
    }
  }
  const differing = answers.filter((a) => (a.said?.findings.length ?? 0) > 0).length;
  const count = answers.reduce((sum, a) => sum + (a.said?.findings.length ?? 0), 0);
  lines.push(`${answers.length} VMs asked, ${differing} differ, ${count} differences`);
  return lines.join("\n");
}

/** Health of a VM in a word or two; an empty text is good. */
function trouble({ said, error }: Answer<Status>): string {
  if (error !== undefined) return error;
  if (!said) return "";
  const failing = Object.entries(said.failing ?? { "health responder": "does not answer" });
  return [
    ...failing.map(([name, reason]) => `${name}: ${reason}`),
    ...(said.drained ? ["drained"] : []),
    ...(said.unsettled.length > 0 ? ["change not settled"] : []),
    ...(said.nas === undefined ? [] : nasTrouble(said.nas, Date.now() / 1000)),
  ].join("; ");
}

function statusText(answers: readonly Answer<Status>[]): string {
  const table = new Table({
    head: ["VM", "role", "address", "vCPU", "RAM MB", "Debian", "PHP", "generation", "last change (UTC)", "health"],
    style: { head: [], border: [] },
  });
  for (const answer of answers) {
    const { machine: m, said } = answer;
    const php = [...new Set((said?.artefacts ?? []).map((name) => name.split("-")[0]))].join(" ");
    const generation = said?.generation?.slice(0, 12) ?? "";
    table.push([m.name, m.role, m.address, m.vcpu, m.memoryMb, m.debian, php, generation, minute(said?.changed), trouble(answer) || "ok"]);
  }
  const bad = answers.filter((a) => trouble(a)).length;
  const vms = `${answers.length} VMs, ${bad === 0 ? "all well" : `${bad} not well`}`;
  const quotas = answers.flatMap(({ said }) => quotaText(said?.nas?.quotas ?? []));
  return [table.toString(), ...quotas, ...cronText(cronOf(answers)), vms].join("\n");
}

/** The last run of every cron entry, over all VMs. */
const cronOf = (answers: readonly Answer<Status>[]): LastRun[] =>
  latest(answers.flatMap(({ machine, said }) => (said?.cron ?? []).map((run) => ({ vm: machine.name, ...run }))));

/** A table of the cron entries, where there are any, and how many went wrong. */
function cronText(runs: readonly LastRun[]): string[] {
  if (runs.length === 0) return [];
  const table = new Table({ head: ["site", "cron entry", "last run (UTC)", "VM", "outcome"], style: { head: [], border: [] } });
  table.push(...runs.map((run) => [run.site, run.entry, minute(run.ended), run.vm, outcome(run)]));
  const failed = runs.filter((run) => run.failed).length;
  return [table.toString(), `${runs.length} cron entries, ${failed === 0 ? "none failed" : `the last run of ${failed} failed`}`];
}

/** A time in seconds since 1970, to the minute; an empty text where there is none. */
const minute = (time: number | undefined): string =>
  time === undefined ? "" : new Date(time * 1000).toISOString().slice(0, 16).replace("T", " ");

const cli = new Command("fleet").description("What the VMs of a stack are, and how they differ from what they should be.");
const stackOption = ["-s, --stack <name>", "the stack"] as const;

cli
  .command("drift")
  .description("how each VM differs from its live generation; exit code 2 where one does, 1 where one could not be asked")
  .requiredOption(...stackOption)
  .option("--json", "for programs")
  .action(async (options: { stack: string; json?: boolean }) => {
    const answers = await askAll<Drift>(vmsOf(options.stack), `${converge} drift`, [0, 2]);
    const plain = answers.map(({ machine, said, error }) => ({ vm: machine.name, ...said, ...(error === undefined ? {} : { error }) }));
    process.stdout.write(`${options.json ? JSON.stringify(plain, null, 2) : driftText(answers)}\n`);
    if (answers.some((a) => a.error !== undefined)) process.exitCode = 1;
    else if (answers.some((a) => (a.said?.findings.length ?? 0) > 0)) process.exitCode = 2;
  });

cli
  .command("status")
  .description("one screen: VMs, generations, health, PHP, cron; exit code 1 where a VM is not well or the last run of a cron entry failed")
  .requiredOption(...stackOption)
  .option("--json", "for programs")
  .option("--watch [seconds]", "again every so many seconds, until interrupted", wholeSeconds)
  .action(async (options: { stack: string; json?: boolean; watch?: number | true }) => {
    const every = options.watch === true ? 2 : options.watch;
    const vms = vmsOf(options.stack);
    for (;;) {
      const answers = await askAll<Status>(vms, `${converge} status`, [0]);
      const plain = answers.map(({ machine, said, error }) => ({ ...machine, ...said, ...(error === undefined ? {} : { error }) }));
      const clear = every !== undefined && process.stdout.isTTY ? "\x1b[H\x1b[2J" : "";
      process.stdout.write(`${clear}${options.json ? JSON.stringify(plain, null, 2) : statusText(answers)}\n`);
      process.exitCode = answers.some((a) => trouble(a)) || cronOf(answers).some((run) => run.failed) ? 1 : 0;
      if (every === undefined) return;
      await new Promise((resolve) => setTimeout(resolve, every * 1000));
    }
  });

cli
  .command("secret <name>")
  .description(`set a secret of a stack from standard input: ${secretNames.join(", ")}`)
  .requiredOption(...stackOption)
  .action(async (name: string, options: { stack: string }) => {
    const file = secretsFile(options.stack);
    const others = `${secretNames.join(", ")}, and <application>DatabasePassword`;
    if (!isSecretName(name)) throw new CliError(`${name} is no secret of a stack; there are: ${others}`);
    const typed = process.stdin.isTTY;
    // Of several pasted lines, the shell would get all but the first.
    if (typed && !name.endsWith("Password"))
      throw new CliError(`${name} has several lines: npm run fleet -- secret ${name} -s ${options.stack} < FILE`);
    const input = typed ? await hiddenLine(`${name}: `) : fs.readFileSync(0, "utf8");
    if (input.trim() === "") throw new CliError(`${typed ? "nothing was typed" : "standard input was empty"}: ${name} was not changed`);
    encryptAsStack(options.stack);
    const words = ["config", "set", "--non-interactive", "--secret", "--stack", options.stack, "--config-file", file];
    const { status } = spawnSync("pulumi", [...words, `fleet:${name}`], { input, stdio: ["pipe", "inherit", "inherit"] });
    process.exitCode = status ?? 1;
    if (status === 0) process.stdout.write(`${name} set in ${file}\n`);
  });

cli.addCommand(moodleCommand());

/** A line from the terminal, which does not show it. */
async function hiddenLine(prompt: string): Promise<string> {
  process.exitCode = 1; // of one who leaves instead
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: nowhere, terminal: true });
  process.stderr.write(prompt); // from here on nothing is shown
  try {
    return await terminal.question("").catch(() => ""); // Ctrl-C, Ctrl-D
  } finally {
    terminal.close();
    process.stderr.write("\n");
  }
}

/** A stack's secrets are encrypted as the stack is: with a salt of its own, a mistyped passphrase would do. */
function encryptAsStack(stack: string): void {
  const [file, secrets] = [`Pulumi.${stack}.yaml`, secretsFile(stack)];
  if (fs.existsSync(secrets) || !fs.existsSync(file)) return;
  const { secretsprovider, encryptedkey, encryptionsalt } = stackFileOf(file);
  if (secretsprovider === undefined && encryptionsalt === undefined) return; // the backend encrypts
  fs.writeFileSync(secrets, YAML.stringify({ secretsprovider, encryptedkey, encryptionsalt }), { mode: 0o600 });
}

cli.addCommand(snapshotCommand());

function wholeSeconds(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("give whole seconds, 1 or more");
  return Number(text);
}

cli.parseAsync().catch((error: unknown) => {
  process.stderr.write(
    `fleet: ${error instanceof CliError || error instanceof ConfigError ? error.message : String((error as Error).stack ?? error)}\n`,
  );
  process.exitCode = 1;
});
