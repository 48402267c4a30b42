// A stack as the tools see it: its outputs, and the key to its VMs. Both come from pulumi, in the current directory.
import { spawnSync } from "child_process";
import type { Address } from "../components/ssh";
import { readSecrets } from "../stacks/read";

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

/** A site as the stack's outputs describe it. */
export interface FleetSite {
  readonly name: string;
  /** PHP version, e.g. 8.2. */
  readonly php: string;
  /** PHP group that runs it. */
  readonly group: string;
}

/** The VMs and sites of a stack as its last `pulumi up` left them. */
export function outputsOf(stack: string): { machines: FleetMachine[]; sites: FleetSite[] } {
  const words = ["stack", "output", "--json", "--non-interactive", "--stack", stack];
  const { status, stdout, stderr, error } = spawnSync("pulumi", words, { encoding: "utf8", maxBuffer: 1 << 28 });
  if (status !== 0) throw new CliError(`the outputs of ${stack} cannot be read: ${error?.message ?? stderr.trim()}`);
  const { machines = [], sites = [] } = JSON.parse(stdout) as { machines?: FleetMachine[]; sites?: FleetSite[] };
  if (machines.length === 0) throw new CliError(`${stack} has no VMs yet: run pulumi up first`);
  return { machines, sites };
}

/** How to reach each VM of a stack: with its own host key and no other. */
export function addressesOf(stack: string, machines: readonly FleetMachine[]): Map<FleetMachine, Address> {
  const { sshPrivateKey } = readSecrets(stack, process.cwd());
  if (typeof sshPrivateKey !== "string") throw new CliError(`${stack} has no secret sshPrivateKey here`);
  return new Map(machines.map((m) => [m, { host: m.address, user: m.user, privateKey: sshPrivateKey, hostKey: m.hostKey }]));
}

/** Words of a pulumi command; a destroy runs the program too, which has the hooks by which VMs leave their services. */
export const withProgram = (words: readonly string[]): string[] => (words[0] === "destroy" ? [...words, "--run-program"] : [...words]);
