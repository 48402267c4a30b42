// The fleet on the lab's machines: the very program of production, with a stack configuration of its own.
import { LocalWorkspace, Stack, type EngineEvent } from "@pulumi/pulumi/automation";
import Table from "cli-table3";
import { spawnSync } from "child_process";
import { createHash, randomBytes } from "crypto";
import * as fs from "fs";
import * as path from "path";
import * as YAML from "yaml";
import type { Facts } from "./facts";
import { labPaths, labRoot, repoRoot } from "./paths";
import { LabError, run, step, writeAtomic } from "./shell";
import { machines, removeVm, type Machine } from "./vcenter";

const stackName = "lab";
/** A project directory of the lab's own, so that no command writes into the checkout. */
const projectDirectory = path.join(labRoot, "project");
const backend = path.join(labRoot, "pulumi");
const passphraseFile = path.join(labRoot, "passphrase");
/** The stack's configuration: the committed one and the lab's secrets, encrypted. */
export const configFile = path.join(labRoot, "Pulumi.lab.yaml");
const upLog = path.join(labPaths.logs, "pulumi-up.log");

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

/** Writes the stack's configuration when the committed one or a fact has changed since. */
async function writeStackConfig(): Promise<void> {
  const facts = JSON.parse(fs.readFileSync(labPaths.facts, "utf8")) as Facts;
  const committed = fs.readFileSync(path.join(repoRoot, "Pulumi.lab.yaml"), "utf8");
  const stamp = `# inputs ${createHash("sha256").update(committed).update(JSON.stringify(facts)).digest("hex")}`;
  if (fs.existsSync(configFile) && fs.readFileSync(configFile, "utf8").includes(stamp)) return;
  const draft = `${configFile}.draft.yaml`;
  const content = {
    encryptionsalt: await initialise(),
    config: {
      ...(YAML.parse(committed, { merge: true }) as { config: object }).config,
      "vsphere:vsphereServer": facts.vsphereServer,
      "vsphere:user": facts.vsphereUser,
      "vsphere:allowUnverifiedSsl": true,
    },
  };
  fs.writeFileSync(draft, YAML.stringify(content, { aliasDuplicateObjects: false }), { mode: 0o600 });
  const secrets = {
    "vsphere:password": facts.vspherePassword,
    "fleet:secrets.sshPrivateKey": facts.sshPrivateKey,
    "fleet:secrets.tlsCertificate": facts.tlsCertificate,
    "fleet:secrets.tlsPrivateKey": facts.tlsPrivateKey,
    "fleet:secrets.redisPassword": facts.redisPassword,
  };
  for (const [key, value] of Object.entries(secrets)) {
    await pulumi(["config", "set", "--stack", stackName, "--config-file", draft, "--secret", "--path", key], value);
  }
  fs.appendFileSync(draft, `${stamp}\n`);
  fs.renameSync(draft, configFile);
}

/** Creates the stack where there is none yet; returns the salt of its encryption. */
async function initialise(): Promise<string> {
  fs.mkdirSync(projectDirectory, { recursive: true });
  fs.copyFileSync(path.join(repoRoot, "Pulumi.yaml"), path.join(projectDirectory, "Pulumi.yaml"));
  const file = path.join(projectDirectory, `Pulumi.${stackName}.yaml`);
  const known = JSON.parse(await pulumi(["stack", "ls", "--json"])) as { name: string }[];
  if (!known.some((s) => s.name.split("/").at(-1) === stackName)) {
    fs.rmSync(file, { force: true });
    await pulumi(["stack", "init", stackName, "--secrets-provider", "passphrase"]);
  }
  return (YAML.parse(fs.readFileSync(file, "utf8")) as { encryptionsalt: string }).encryptionsalt;
}

/** Removes locks of the stack whose process is gone: a killed run must not stand in the way of the next. */
function removeStaleLocks(): void {
  const locks = path.join(backend, ".pulumi", "locks");
  if (!fs.existsSync(locks)) return;
  const names = fs.readdirSync(locks, { recursive: true, encoding: "utf8" });
  for (const file of names.filter((n) => n.endsWith(".json")).map((n) => path.join(locks, n))) {
    const { pid } = JSON.parse(fs.readFileSync(file, "utf8")) as { pid: number };
    if (!fs.existsSync(`/proc/${pid}`)) fs.rmSync(file);
  }
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
    await stack.refresh({ configFile, clearPendingCreates: true });
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
async function labStack(): Promise<Stack> {
  await writeStackConfig();
  removeStaleLocks();
  const workspace = await LocalWorkspace.create({ workDir: repoRoot, envVars: pulumiEnvironment() });
  return Stack.select(stackName, workspace);
}

/** What the stack says of each of its machines. */
interface FleetMachine {
  readonly name: string;
  readonly role: string;
  readonly tier: string;
  readonly address: string;
  readonly vcpu: number;
  readonly memoryMb: number;
  readonly debian: string;
}

/** `pulumi up` of the lab's stack, with progress, and the summary table at the end. */
export async function up(): Promise<void> {
  // Whatever reads the stack's outputs or state has pulumi write its salt into the committed file: that is put back.
  const committedFile = path.join(repoRoot, "Pulumi.lab.yaml");
  const committed = fs.readFileSync(committedFile);
  try {
    await bringUp();
  } finally {
    if (!fs.readFileSync(committedFile).equals(committed)) fs.writeFileSync(committedFile, committed);
  }
}

async function bringUp(): Promise<void> {
  const stack = await labStack();
  const progress = new Progress(hostNames(YAML.parse(fs.readFileSync(configFile, "utf8"))));
  fs.rmSync(upLog, { force: true });
  await settleInterrupted(stack);
  await step("pulumi up", async () => {
    try {
      await stack.up({
        configFile,
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

/** Host names in a stack's configuration: keys of `hosts` and values of `host`. */
function hostNames(config: unknown): string[] {
  if (typeof config !== "object" || config === null) return [];
  return Object.entries(config).flatMap(([key, inner]: [string, unknown]) => {
    if (key === "hosts" && typeof inner === "object" && inner !== null && !Array.isArray(inner)) return Object.keys(inner);
    if (key === "host" && typeof inner === "string") return [inner];
    return hostNames(inner);
  });
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
    ...names.map((name) => `  http://${name}/   curl --resolve ${name}:80:${vip} http://${name}/`),
    "Look inside:",
    "  npm run lab -- status                      machines and what they cost",
    "  npm run lab -- ssh lb1 sudo ipvsadm -Ln    who balances what",
    "  npm run lab -- pulumi preview --diff       what an edit of the program or of sites/lab would change",
    "  npm run lab -- down                        stop everything; the next start goes on from there",
    "",
    "",
  ].join("\n");
}

/** Any pulumi command on the lab's stack, from this checkout. */
export async function pulumiVerb(args: readonly string[]): Promise<number> {
  await labStack();
  const known = ["up", "preview", "refresh", "destroy", "config"].includes(args[0] ?? "") ? ["--config-file", configFile] : [];
  const { status } = spawnSync("pulumi", [...args, "--stack", stackName, ...known], {
    cwd: repoRoot,
    env: { ...process.env, ...pulumiEnvironment() },
    stdio: "inherit",
  });
  return status ?? 1;
}

function lastWords(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.trimEnd().split("\n").slice(-25).join("\n");
}
