// A stack as the tools see it: its committed files; and its outputs and the key to its VMs, which come from pulumi in
// the current directory.
import { spawnSync } from "child_process";
import type { Command } from "commander";
import * as fs from "fs";
import * as path from "path";
import { projectRoot } from "../components/programs";
import type { Address } from "../components/ssh";
import { databasePasswordsOf } from "../config/applications";
import type { Written } from "../config/load";
import { ConfigError } from "../config/problems";
import { secretNames } from "../config/schema";
import { parseYaml, readFiles, readSecrets } from "../stacks/read";

/** A VM as the stack's outputs describe it. */
export interface FleetMachine {
  readonly name: string;
  readonly role: string;
  readonly tier: string;
  readonly address: string;
  readonly vcpu: number;
  readonly memoryMb: number;
  readonly debian: string;
  readonly user: string;
  readonly hostKey: string;
}

/** A mistake of the operator, told without a stack trace. */
export class CliError extends Error {}

/**
 * A stack as its committed files have it, `configFile` being Pulumi.<stack>.yaml of the project by default. Its secrets
 * are needed by no tool that reads these alone, so stand-ins serve.
 */
export function committed(stack: string, configFile = path.join(projectRoot, `Pulumi.${stack}.yaml`)): Written {
  if (!fs.existsSync(configFile)) throw new CliError(`${configFile} does not exist: is ${stack} the name of a stack?`);
  const { config = {} } = stackFileOf(configFile) as { config?: Record<string, unknown> };
  const own = Object.entries(config).flatMap(([key, value]) => (key.startsWith("fleet:") ? [[key.slice(6), value] as const] : []));
  const written = Object.fromEntries(own);
  const secrets = Object.fromEntries([...secretNames, ...databasePasswordsOf(written)].map((name) => [name, "-"]));
  return { stack, config: written, encrypted: [], secrets, ...readFiles(stack, written) };
}

/** Content of a stack's file. @throws ConfigError where it is no YAML. */
export function stackFileOf(file: string): Record<string, unknown> {
  const { content, mistakes } = parseYaml(path.basename(file), fs.readFileSync(file, "utf8"), { merge: true });
  if (mistakes.length > 0) throw new ConfigError(mistakes);
  return (content ?? {}) as Record<string, unknown>;
}

/** Outputs of a stack as its last `pulumi up` left them; secret ones only where that is asked for. */
export function outputsOf(stack: string, ...more: "--show-secrets"[]): Record<string, unknown> {
  const words = ["stack", "output", "--json", "--non-interactive", "--stack", stack, ...more];
  const { status, stdout, stderr, error } = spawnSync("pulumi", words, { encoding: "utf8", maxBuffer: 1 << 28 });
  if (status !== 0) throw new CliError(`the outputs of ${stack} cannot be read: ${error?.message ?? stderr.trim()}`);
  return JSON.parse(stdout) as Record<string, unknown>;
}

/** A site as the stack's outputs describe it. */
export interface FleetSite {
  readonly name: string;
  /** PHP version, e.g. 8.2. */
  readonly php: string;
  /** PHP group that runs it. */
  readonly group: string;
}

/** A stack as an operator names it to a tool that reads its files. */
export interface StackOptions {
  readonly stack: string;
  readonly configFile?: string;
}

/** Gives a command the options that name a stack. */
export const onStack = (command: Command): Command =>
  command
    .requiredOption("-s, --stack <name>", "the stack")
    .option("--config-file <file>", "its configuration; default Pulumi.<stack>.yaml");

/** What a stack's last `pulumi up` left. */
export interface Content {
  readonly machines: readonly FleetMachine[];
  readonly sites: readonly FleetSite[];
  /** Names of the PHP builds that it declared. */
  readonly phpBuilds: readonly string[];
}

/** The VMs, sites and PHP builds of a stack as its last `pulumi up` left them. */
export function contentOf(stack: string): Content {
  const { machines = [], sites = [], phpBuilds = [] } = outputsOf(stack) as Partial<Content>;
  if (machines.length === 0) throw new CliError(`${stack} has no VMs yet: run pulumi up first`);
  return { machines, sites, phpBuilds };
}

/** How to reach each VM of a stack: with its own host key and no other. */
export function addressesOf(stack: string, machines: readonly FleetMachine[]): Map<FleetMachine, Address> {
  const { sshPrivateKey } = readSecrets(stack, process.cwd());
  if (typeof sshPrivateKey !== "string") throw new CliError(`${stack} has no secret sshPrivateKey here`);
  return new Map(machines.map((m) => [m, { host: m.address, user: m.user, privateKey: sshPrivateKey, hostKey: m.hostKey }]));
}

/** Words of a pulumi command; a destroy runs the program too, which has the hooks by which VMs leave their services. */
export const withProgram = (words: readonly string[]): string[] => (words[0] === "destroy" ? [...words, "--run-program"] : [...words]);
