import * as pulumi from "@pulumi/pulumi";
import { healthPort } from "../config/load";
import type { Machine } from "../config/model";
import { converge } from "./programs";
import { known, run, type Address } from "./ssh";

/** A VM that left and was not shut down within this time, in seconds, because the run was ended, comes back by itself. */
const awaySeconds = 90;

/** How long a VM waits for the others of its tier, in seconds. */
const patienceSeconds = 600;

/** A VM that was born and never reached by the program has no service to leave. */
const leave = `test ! -e /usr/local/lib/fleet/converge.py || ${converge} leave`;

/** What a VM is born from: its Debian release and the name of its template. Its annotation keeps it for life. */
export const birthOf = (machine: Machine, templates: Partial<Record<Machine["debian"], string>>): string =>
  `${machine.debian} from ${templates[machine.debian] ?? ""}`;

/** Inputs of a VM that decide whether a change powers it off. */
interface Size {
  readonly numCpus: number;
  readonly memory: number;
  readonly cpuHotAddEnabled: boolean;
  readonly memoryHotAddEnabled: boolean;
}

/** Whether vSphere must power the VM off for a change of size: always to shrink, and to grow without hot-add. */
export function powersOff(before: Size, after: Size): boolean {
  const settings = (size: Size): string => `${size.cpuHotAddEnabled} ${size.memoryHotAddEnabled}`;
  if (settings(before) !== settings(after)) return true;
  const grows = (old: number, wanted: number, hotAdd: boolean): boolean => wanted === old || (hotAdd && wanted > old);
  return !(grows(before.numCpus, after.numCpus, before.cpuHotAddEnabled) && grows(before.memory, after.memory, before.memoryHotAddEnabled));
}

/** A VM that the program wants, and the way to it. */
export interface Leaver {
  /** Its tier: the VMs of one leave one after the other. */
  readonly tier: string;
  /** The other VMs of its tier, which must be ready before this one goes away. */
  readonly peers: readonly Machine[];
  readonly address: pulumi.Output<Address>;
  /** See {@link birthOf}. */
  readonly birth: string;
}

/**
 * Has VMs leave their services before vSphere powers them off or deletes them.
 *
 * One hook of one name for all VMs: the state names the hook of a VM that the program no longer
 * wants, too, and the engine refuses to delete a resource whose hook nobody registered.
 */
export class Leaving {
  readonly hooks: pulumi.ResourceHookBinding;
  private readonly wanted = new Map<string, Leaver>();
  private readonly turns = new Map<string, Promise<void>>();

  constructor() {
    const hook = new pulumi.ResourceHook("leave-services", (args) => this.before(args), { onDryRun: true });
    this.hooks = { beforeUpdate: [hook], beforeDelete: [hook] };
  }

  /** Makes a VM known. */
  add(name: string, leaver: Leaver): void {
    this.wanted.set(name, leaver);
  }

  private async before({ oldInputs, newInputs }: pulumi.ResourceHookArgs): Promise<void> {
    const old = oldInputs as Size & { readonly name: string; readonly annotation: string };
    const leaver = this.wanted.get(old.name);
    // One that nobody wants any more has no place in the directors' tables by now.
    if (!leaver) return;
    const renewed = !old.annotation.includes(leaver.birth);
    const off = newInputs !== undefined && powersOff(old, newInputs as Size);
    if (newInputs !== undefined && !off) return;
    if (pulumi.runtime.isDryRun())
      return pulumi.log.info(foretold(old.name, newInputs as Size | undefined, renewed ? leaver.birth : undefined));
    return this.inTurn(leaver.tier, () => (off ? away(old.name, leaver, leaver.peers) : replaced(old.name, leaver, renewed)));
  }

  /** Two that ask at once whether the other is ready would both go: with `rollout.order: parallel` nothing else is between them. */
  private inTurn(tier: string, leave: () => Promise<void>): Promise<void> {
    const turn = (this.turns.get(tier) ?? Promise.resolve()).then(leave);
    this.turns.set(
      tier,
      turn.catch(() => undefined),
    );
    return turn;
  }
}

/** What a preview says of a VM that goes away for a while, or for good. */
export function foretold(name: string, size: Size | undefined, birth: string | undefined): string {
  if (size) return `${name}: drained, powered off for ${size.numCpus} vCPU and ${size.memory} MB, and started again`;
  return birth === undefined ? `${name}: leaves its services, and is deleted` : `${name}: drained, deleted, and born again as ${birth}`;
}

/**
 * Before a VM is deleted. Where the program replaces it, it leaves as for a power-off; where the
 * operator deletes it with all the others, it leaves as well as it can. A dead one serves nobody.
 */
async function replaced(name: string, leaver: Leaver, renewed: boolean): Promise<void> {
  try {
    await away(name, leaver, renewed ? leaver.peers : []);
  } catch (error) {
    const { message } = error as Error;
    if (renewed && !(error instanceof Unreachable)) throw error;
    await pulumi.log.warn(`${message}: deleting it as it is`);
  }
}

/** Nobody could ask the VM. */
class Unreachable extends Error {}

async function away(name: string, { address }: Leaver, peers: readonly Machine[]): Promise<void> {
  const to = await known(address);
  const order = { peers: peers.map((m) => `${m.address}:${healthPort}`), seconds: awaySeconds, patience: patienceSeconds };
  const { status, stderr } = await run(to, leave, JSON.stringify(order)).catch((error: Error) => {
    throw new Unreachable(`${name} cannot be asked to leave its services: ${error.message}`);
  });
  if (status !== 0) throw new Error(`${name} cannot be taken out of service:\n${stderr.trimEnd()}`);
}
