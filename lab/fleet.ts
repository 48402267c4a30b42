// The fleet on the lab's machines: the very program of production, with a stack configuration of its own.
import { LocalWorkspace, Stack, type EngineEvent } from "@pulumi/pulumi/automation";
import Table from "cli-table3";
import { spawnSync } from "child_process";
import { createHash, randomBytes } from "crypto";
import * as fs from "fs";
import * as path from "path";
import * as YAML from "yaml";
import { removeStaleLocks } from "../cli/locks";
import { committed, withProgram, type FleetMachine } from "../cli/stack";
import { databasePasswordsOf } from "../config/applications";
import { loadFleet, secretsFile } from "../config/load";
import type { Fleet } from "../config/model";
import type { Secrets } from "../config/schema";
import type { Facts } from "./facts";
import { committedConfig, labPaths, labRoot, repoRoot } from "./paths";
import { labNumber, relocated } from "./settings";
import { LabError, run, step, until, writeAtomic } from "./shell";
import { readStackFile } from "./stack-file";
import { machines, order, removeVm, type Machine } from "./vcenter";

const stackName = "lab";
/** A Pulumi project of the lab's own whose program is this checkout's: no command writes into the checkout. */
export const projectDirectory = path.join(labRoot, "project");
const backend = path.join(labRoot, "pulumi");
const passphraseFile = path.join(labRoot, "passphrase");
/** The stack's configuration: the committed one, for this lab. */
export const configFile = path.join(projectDirectory, `Pulumi.${stackName}.yaml`);
/** The lab's secrets, encrypted. */
const secretsPath = path.join(projectDirectory, secretsFile(stackName));
/** Site files of a lab that is not number 0, with its own addresses. */
const sitesDirectory = path.join(projectDirectory, "sites");
const upLog = path.join(labPaths.logs, "pulumi-up.log");

/** What a configuration of the stack asks for. @throws ConfigError with all its mistakes, before anything is started. */
export const wantedFleet = (config: string): Fleet => loadFleet(committed(stackName, config)).fleet;

/** Environment of every pulumi command on the lab's stack: file backend and passphrase in the lab. */
export function pulumiEnvironment(): Record<string, string> {
  fs.mkdirSync(backend, { recursive: true, mode: 0o700 });
  if (!fs.existsSync(passphraseFile)) writeAtomic(passphraseFile, `${randomBytes(24).toString("base64")}\n`, 0o600);
  return {
    PULUMI_BACKEND_URL: `file://${backend}`,
    PULUMI_CONFIG_PASSPHRASE_FILE: passphraseFile,
    PULUMI_SKIP_UPDATE_CHECK: "true",
  };
}

/** A pulumi command on the lab's stack; `input` is for secrets, which never go into arguments. */
async function pulumi(args: readonly string[], input = ""): Promise<string> {
  const env = { ...process.env, ...pulumiEnvironment() };
  return run("pulumi", ["-C", projectDirectory, "--non-interactive", ...args], { env, input });
}

/** Writes the lab's project file; another checkout may have brought the lab up last. */
function writeProject(): void {
  const project = YAML.parse(fs.readFileSync(path.join(repoRoot, "Pulumi.yaml"), "utf8")) as { main: string };
  fs.mkdirSync(projectDirectory, { recursive: true, mode: 0o700 });
  writeAtomic(path.join(projectDirectory, "Pulumi.yaml"), YAML.stringify({ ...project, main: path.join(repoRoot, project.main) }));
  if (labNumber === 0) return;
  const committed = path.join(repoRoot, "sites", stackName);
  fs.rmSync(sitesDirectory, { recursive: true, force: true });
  for (const name of fs.readdirSync(committed)) {
    writeAtomic(path.join(sitesDirectory, name), relocated(fs.readFileSync(path.join(committed, name), "utf8")));
  }
}

/** Writes the stack's configuration when the one it is made of or a fact has changed since. */
async function writeStackConfig(file: string): Promise<void> {
  const facts = JSON.parse(fs.readFileSync(labPaths.facts, "utf8")) as Facts;
  const { text, config } = readStackFile(file);
  const stamp = `# inputs ${createHash("sha256").update(text).update(JSON.stringify(facts)).digest("hex")}`;
  if (fs.existsSync(secretsPath) && fs.existsSync(configFile) && fs.readFileSync(configFile, "utf8").includes(stamp)) return;
  await initialise();
  const { encryptionsalt } = YAML.parse(fs.readFileSync(configFile, "utf8")) as { encryptionsalt: string };
  const content = {
    encryptionsalt,
    config: {
      ...config,
      ...(labNumber === 0 ? {} : { "fleet:sites": sitesDirectory }),
      "fleet:vsphere": { ...config["fleet:vsphere"], server: facts.vsphereServer, user: facts.vsphereUser, allowUnverifiedSsl: true },
    },
  };
  const draft = `${secretsPath}.draft.yaml`;
  writeAtomic(draft, YAML.stringify({ encryptionsalt }), 0o600);
  const secrets: Secrets = {
    vspherePassword: facts.vspherePassword,
    sshPrivateKey: facts.sshPrivateKey,
    tlsCertificate: facts.tlsCertificate,
    tlsPrivateKey: facts.tlsPrivateKey,
    redisPassword: facts.redisPassword,
    ...Object.fromEntries(databasePasswords(config).map((name) => [name, facts.wordpressDbPassword])),
  };
  for (const [name, value] of Object.entries(secrets)) {
    await pulumi(["config", "set", "--stack", stackName, "--config-file", draft, "--secret", `fleet:${name}`], value);
  }
  fs.renameSync(draft, secretsPath);
  writeAtomic(configFile, `${YAML.stringify(content, { aliasDuplicateObjects: false })}${stamp}\n`, 0o600);
}

/** Secrets of applications' databases, which all have the password of the lab's. */
const databasePasswords = (config: Readonly<Record<string, object>>): string[] =>
  databasePasswordsOf(Object.fromEntries(Object.entries(config).map(([key, value]) => [key.replace(/^fleet:/, ""), value])));

/** Creates the stack where there is none yet; its file then holds the salt of its encryption. */
async function initialise(): Promise<void> {
  const known = JSON.parse(await pulumi(["stack", "ls", "--json"])) as { name: string }[];
  if (known.some((s) => s.name.split("/").at(-1) === stackName)) return;
  fs.rmSync(configFile, { force: true });
  await pulumi(["stack", "init", stackName, "--secrets-provider", "passphrase"]);
}

/** State of the stack, as far as the lab looks into it. */
interface Deployment {
  readonly pending_operations?: readonly {
    readonly type: string;
    readonly resource: { readonly type: string; readonly inputs?: { readonly name?: string } };
  }[];
}

/**
 * Makes good what an interrupted run left: a VM that was being cloned is in the inventory but not in
 * the state, so it is removed and will be cloned again; the state forgets the operation.
 */
async function settleInterrupted(stack: Stack): Promise<void> {
  const { deployment } = (await stack.exportStack()) as { deployment: Deployment | null };
  const pending = deployment?.pending_operations ?? [];
  if (pending.length === 0) return;
  await step(`settling ${pending.length} interrupted operations`, async () => {
    for (const { type, resource } of pending) {
      const name = resource.inputs?.name;
      if (type === "creating" && resource.type === "vsphere:index/virtualMachine:VirtualMachine" && name) await removeVm(name);
    }
    await stack.refresh({ clearPendingCreates: true });
  });
}

/** Starts what was killed, thaws what was frozen, plugs in what was cut: a machine that is away would stop every change. */
async function bringBack(names: readonly string[]): Promise<void> {
  const own = async (): Promise<Machine[]> => (await machines()).filter(({ Name }) => names.includes(Name));
  const verbs: Record<string, string> = { off: "start", frozen: "thaw", booting: "heal", on: "heal" };
  for (const { Name, State } of await own()) if (verbs[State]) await order(Name, verbs[State]);
  const away = async (): Promise<string[]> => (await own()).filter(({ State }) => State !== "on").map(({ Name }) => Name);
  const waiting = await away();
  if (waiting.length === 0) return;
  await step(`waiting for ${waiting.join(", ")}`, async () => {
    if (await until(async () => (await away()).length === 0, 180)) return;
    throw new LabError(`${(await away()).join(", ")} did not come up: look with \`npm run lab -- logs VM\``);
  });
}

const urnName = (urn: string): string => urn.slice(urn.lastIndexOf("::") + 2);
const urnType = (urn: string): string => (urn.split("::")[2] ?? "").split("$").at(-1) ?? "";

/** Tells operations as they end, and how many seconds each machine took from its first to its last. */
class Progress {
  private readonly begun = new Map<string, number>();
  private readonly machine = new Map<string, { first: number; last: number }>();

  constructor(private readonly names: readonly string[]) {}

  take(event: EngineEvent): void {
    const { resourcePreEvent: before, resOutputsEvent: after, diagnosticEvent: said } = event;
    if (before && before.metadata.op !== "same") this.begun.set(before.metadata.urn, Date.now());
    if (after && after.metadata.op !== "same") this.ended(after.metadata.urn, after.metadata.op);
    if (said && (said.severity === "error" || said.severity === "warning")) process.stderr.write(`fleet: ${said.message.trimEnd()}\n`);
  }

  seconds(name: string): number | undefined {
    const span = this.machine.get(name);
    return span && (span.last - span.first) / 1000;
  }

  private ended(urn: string, op: string): void {
    const begun = this.begun.get(urn) ?? Date.now();
    const owner = this.names.find((name) => urnName(urn).endsWith(`-${name}`));
    if (owner) this.machine.set(owner, { first: Math.min(begun, this.machine.get(owner)?.first ?? begun), last: Date.now() });
    if (["VirtualMachine", "Command"].some((type) => urnType(urn).endsWith(`:${type}`))) {
      process.stderr.write(`fleet: ${op} ${urnName(urn)} ${((Date.now() - begun) / 1000).toFixed(1)} s\n`);
    }
  }
}

/** The stack of the lab, ready for `up`, `preview` and the like. */
async function labStack(config = committedConfig): Promise<Stack> {
  writeProject();
  await writeStackConfig(config);
  removeStaleLocks(backend);
  const workspace = await LocalWorkspace.create({ workDir: projectDirectory, envVars: pulumiEnvironment() });
  return Stack.select(stackName, workspace);
}

/** `pulumi up` of the lab's stack, with progress, and the summary table at the end. */
export async function up(config: string): Promise<void> {
  const stack = await labStack(config);
  const names = wantedFleet(config).machines.map(({ name }) => name);
  const progress = new Progress(names);
  fs.rmSync(upLog, { force: true });
  await settleInterrupted(stack);
  await bringBack(names);
  await step("pulumi up", async () => {
    try {
      await stack.up({
        onOutput: (text) => fs.appendFileSync(upLog, text),
        onEvent: (event) => progress.take(event),
        parallel: 16,
        suppressOutputs: true,
      });
    } catch (error) {
      throw new LabError(`pulumi up failed; its whole output is in ${upLog}\n${lastWords(error)}`);
    }
  });
  const outputs = await stack.outputs();
  process.stdout.write(
    summary(
      (outputs["machines"]?.value ?? []) as FleetMachine[],
      (outputs["sites"]?.value ?? []) as FleetSite[],
      (outputs["services"]?.value ?? []) as FleetService[],
      await machines(),
      progress,
    ),
  );
}

interface FleetSite {
  readonly name: string;
  readonly hosts: readonly string[];
  readonly php: string;
  readonly group: string;
}

interface FleetService {
  readonly name: string;
  readonly vip: string;
}

function summary(
  fleet: readonly FleetMachine[],
  sites: readonly FleetSite[],
  services: readonly FleetService[],
  all: readonly Machine[],
  progress: Progress,
): string {
  const table = new Table({
    head: ["VM", "role", "address", "vCPU", "RAM MB", "Debian", "PHP", "state", "seconds"],
    style: { head: [], border: [] },
  });
  for (const m of fleet) {
    const versions = new Set(sites.filter((s) => m.role === "php" && s.group === m.tier).map((s) => s.php));
    const took = progress.seconds(m.name);
    const state = all.find((a) => a.Name === m.name)?.State ?? "unknown";
    table.push([m.name, m.role, m.address, m.vcpu, m.memoryMb, m.debian, [...versions].join(" "), state, took?.toFixed(0) ?? "unchanged"]);
  }
  const vip = services.find((s) => s.name === "web")?.vip ?? "";
  const names = sites.map((s) => s.hosts[0] ?? "");
  const memory = all.reduce((sum, m) => sum + m.MemoryBytes, 0) / 2 ** 30;
  return [
    "",
    table.toString(),
    `The lab's machines take ${memory.toFixed(1)} GB of memory.`,
    "",
    `Open (all on ${vip}; in a browser, put this line into /etc/hosts first: ${vip} ${names.join(" ")}):`,
    ...names.map((name) => `  http://${name}/ and https://${name}/   curl --resolve ${name}:80:${vip} http://${name}/`),
    "Look inside:",
    "  npm run lab -- status                      machines and what they cost",
    "  npm run lab -- ssh lb1 sudo ipvsadm -Ln    who balances what",
    "  npm run lab -- pulumi preview --diff       what an edit of the program or of sites/lab would change",
    "  npm run lab -- down                        stop everything; the next start goes on from there",
    "",
    "",
  ].join("\n");
}

/** Any pulumi command on the lab's stack, with this checkout's program. */
export async function pulumiVerb(args: readonly string[]): Promise<number> {
  await labStack();
  const env = { ...process.env, ...pulumiEnvironment() };
  const { status } = spawnSync("pulumi", ["-C", projectDirectory, ...withProgram(args), "--stack", stackName], { env, stdio: "inherit" });
  return status ?? 1;
}

/** A verb of a tool of cli/ on the lab's stack. */
async function toolVerb(tool: string, args: readonly string[]): Promise<number> {
  await labStack();
  const options = { cwd: projectDirectory, env: { ...process.env, ...pulumiEnvironment() }, stdio: "inherit" } as const;
  const { status } = spawnSync("tsx", [path.join(repoRoot, "cli", `${tool}.ts`), ...args, "--stack", stackName], options);
  return status ?? 1;
}

export const fleetVerb = (args: readonly string[]): Promise<number> => toolVerb("fleet", args);
export const phptoolsVerb = (args: readonly string[]): Promise<number> => toolVerb("phptools", [...args, "--config-file", configFile]);

function lastWords(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.trimEnd().split("\n").slice(-25).join("\n");
}
