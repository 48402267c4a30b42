// The lab's command line. `lab/lab` checks the computer and starts this.
import { spawnSync } from "child_process";
import * as fs from "fs";
import * as path from "path";
import * as tty from "tty";
import { Command, InvalidArgumentError } from "commander";
import Table from "cli-table3";
import { ConfigError } from "../config/problems";
import * as fleet from "./fleet";
import { machinesDestroyed, machinesDown, machinesUp } from "./machines";
import { committedConfig, labPaths, labRoot } from "./paths";
import { secrets } from "./secrets";
import { LabError, secondsSinceStart, writeAtomic } from "./shell";
import { machines, order, type Machine } from "./vcenter";

const cli = new Command("lab").description(
  "A vCenter whose VMs are real Debian machines, on this computer.\n" + `State: ${labRoot} (FLEET_LAB). Logs: ${labPaths.logs}.`,
);
cli.enablePositionalOptions();
cli.showHelpAfterError("(`npm run lab -- --help` lists the verbs)");

cli
  .command("up", { isDefault: true })
  .description("start what is not running: machines, then the fleet on them")
  .option("--machines-only", "leave out the fleet")
  .option("--config <file>", "another configuration of the stack than the committed one, this once", committedConfig)
  .action(async (options: { machinesOnly?: boolean; config: string }) => {
    await machinesUp(fleet.wantedFleet(options.config).config.vsphere.templates);
    if (!options.machinesOnly) await fleet.up(options.config);
    process.stderr.write(`lab: up after ${secondsSinceStart().toFixed(0)} s\n`);
  });

cli.command("down").description("stop everything; disks and inventory stay").action(machinesDown);
cli.command("destroy").description("stop everything and remove the lab's state; the cache stays").action(machinesDestroyed);

cli
  .command("status")
  .description("machines, and what they cost")
  .option("--json", "for programs")
  .action(async (options: { json?: boolean }) => {
    const all = await machines();
    process.stdout.write(options.json ? JSON.stringify(all, null, 2) + "\n" : statusTable(all) + "\n");
  });

cli
  .command("ssh <vm> [command...]")
  .description("a shell on a machine, or one command")
  .passThroughOptions()
  .action(async (vm: string, command: string[]) => {
    const machine = await find(vm);
    if (!machine.Address) throw new LabError(`${vm} has no known address: it has not been started with a static one`);
    const key = path.join(labPaths.run, "ssh-key");
    writeAtomic(key, (await secrets()).sshPrivateKey, 0o600);
    // Identity is proved elsewhere (by the program, with the key each guest was born with); this is a root shell's comfort.
    const options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5"].flatMap((o) => [
      "-o",
      o,
    ]);
    const { status } = spawnSync("ssh", ["-i", key, ...options, `fleet@${machine.Address}`, ...command], { stdio: "inherit" });
    process.exitCode = status ?? 1;
  });

cli
  .command("console <vm>")
  .description("the machine's own terminal, as root; Ctrl-] leaves")
  .action(async (vm: string) => attach((await order(vm, "console")) as string));

cli
  .command("logs <vm>")
  .description("what the machine wrote on its console since it first started")
  .option("-f, --follow", "go on as it grows")
  .action(async (vm: string, options: { follow?: boolean }) => {
    const file =
      vm === "vcenter" ? path.join(labPaths.logs, "vcenter.log") : path.join(labPaths.logs, `console-${(await find(vm)).Name}.log`);
    spawnSync("tail", options.follow ? ["-n", "100", "-F", file] : ["-n", "+1", file], { stdio: "inherit" });
  });

const tools: [name: string, description: string, run: (words: readonly string[]) => Promise<number>][] = [
  ["pulumi", "pulumi on the lab's stack, with its backend and configuration", fleet.pulumiVerb],
  ["fleet", "a verb of the fleet's own tool on the lab's stack, such as status and drift", fleet.fleetVerb],
  ["phptools", "a verb of phptools on the lab's stack, such as list and verify", fleet.phptoolsVerb],
];
for (const [name, description, run] of tools) {
  cli
    .command(`${name} [arguments...]`)
    .description(description)
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (words: string[]) => {
      process.exitCode = await run(words);
    });
}

const verbs: [verb: string, description: string][] = [
  ["start", "power a machine on"],
  ["stop", "ask a machine to shut down, and wait"],
  ["kill", "end a machine's processes at once, as a failing host would"],
  ["freeze", "stop a machine's time (a long VM stun)"],
  ["thaw", "let its time go on"],
  ["cut", "unplug its network, silently"],
  ["heal", "plug it in again and end any slowness"],
];
for (const [verb, description] of verbs) {
  cli
    .command(`${verb} <vm>`)
    .description(description)
    .action(async (vm: string) => {
      await order(vm, verb);
      process.stderr.write(`lab: ${verb} ${vm}: done\n`);
    });
}

cli
  .command("slow <vm>")
  .description("delay and lose a machine's network packets, both ways; heal ends it")
  .option("--latency <ms>", "added to every packet each way, e.g. 50ms", milliseconds, "0")
  .option("--loss <percent>", "packets lost each way, e.g. 1%", percent, "0")
  .action(async (vm: string, options: { latency: string; loss: string }) => {
    await order(vm, "slow", options);
    process.stderr.write(`lab: ${vm} has ${options.latency} ms latency and ${options.loss} % loss each way\n`);
  });

function milliseconds(text: string): string {
  const match = /^(\d+(?:\.\d+)?)(ms)?$/.exec(text);
  if (!match?.[1]) throw new InvalidArgumentError("give milliseconds, such as 50ms");
  return match[1];
}

function percent(text: string): string {
  const match = /^(\d+(?:\.\d+)?)%?$/.exec(text);
  if (!match?.[1] || Number(match[1]) > 100) throw new InvalidArgumentError("give a percentage from 0% to 100%");
  return match[1];
}

async function find(name: string): Promise<Machine> {
  const all = await machines();
  const found = all.find((m) => m.Name === name || m.ID === name);
  if (found) return found;
  throw new LabError(`no machine is called ${name}; there are: ${all.map((m) => m.Name).join(", ") || "none"}`);
}

function statusTable(all: Machine[]): string {
  const table = new Table({
    head: ["machine", "address", "state", "boot s", "RAM MB", "costs MB", "CPU s", "note"],
    style: { head: [], border: [] },
  });
  for (const m of all) {
    const note = [m.Native ? "native" : "", m.Failure].filter(Boolean).join("; ");
    table.push([
      m.Name,
      m.Address,
      m.State,
      m.Boot.toFixed(1),
      m.MemoryMB,
      (m.MemoryBytes / 2 ** 20).toFixed(0),
      m.CPUSeconds.toFixed(0),
      note,
    ]);
  }
  const total = all.reduce((sum, m) => sum + m.MemoryBytes, 0) / 2 ** 20;
  return `${table.toString()}\n${all.length} machines, ${total.toFixed(0)} MB`;
}

/** Connects this terminal with the guest's, byte by byte. */
async function attach(device: string): Promise<void> {
  if (!process.stdin.isTTY) throw new LabError("console needs a terminal: use `lab logs`, or `lab ssh VM command` in scripts");
  const terminal = fs.openSync(device, "r+");
  process.stderr.write(`lab: on ${device}; Ctrl-] leaves, Enter shows a prompt\n`);
  process.stdin.setRawMode(true);
  // Not a file stream: its blocking read would keep this process from ending.
  const output = new tty.ReadStream(terminal);
  output.pipe(process.stdout);
  await new Promise<void>((resolve) => {
    process.stdin.on("data", (data: Buffer) => (data.includes(0x1d) ? resolve() : fs.writeSync(terminal, data)));
  });
  process.stdin.setRawMode(false);
  output.destroy();
  process.stdin.destroy();
}

/** `up` is what is meant without a verb, so commander would take an unknown one for its argument. */
function refuseUnknownVerb(): void {
  const [, , word = "-"] = process.argv;
  const known = cli.commands.map((c) => c.name());
  if (word.startsWith("-") || word === "help" || known.includes(word)) return;
  throw new LabError(`there is no verb ${word}; there are: ${known.join(", ")}`);
}

async function main(): Promise<void> {
  refuseUnknownVerb();
  await cli.parseAsync();
}

main().catch((error: unknown) => {
  process.stderr.write(
    `lab: ${error instanceof LabError || error instanceof ConfigError ? error.message : String((error as Error).stack ?? error)}\n`,
  );
  process.exitCode = 1;
});
