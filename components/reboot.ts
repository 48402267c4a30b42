import * as pulumi from "@pulumi/pulumi";
import { healthPort } from "../config/load";
import type { Machine } from "../config/model";
import { converge } from "./programs";
import { run, type Address } from "./ssh";

/** A VM that left comes back by itself after this time, in seconds, whatever became of its change. */
const awaySeconds = 600;

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

/** By tier: the last VM that asked to leave. vSphere changes VMs side by side; they leave one after the other. */
const turns = new Map<string, Promise<unknown>>();

/**
 * Before a change that powers a VM off: it leaves its services, and waits until every other VM of its
 * tier is ready. A VM that cannot leave fails the update before anything is touched.
 */
export function leaveBeforePowerOff(
  tier: string,
  name: string,
  peers: readonly Machine[],
  address: pulumi.Output<Address>,
): pulumi.ResourceHook {
  const responders = peers.map((m) => `${m.address}:${healthPort}`);
  const order = { peers: responders, seconds: awaySeconds, patience: awaySeconds };
  return new pulumi.ResourceHook(`${tier}-leave-${name}`, async ({ oldInputs, newInputs }) => {
    if (!powersOff(oldInputs as Size, newInputs as Size)) return;
    const leave = async (): Promise<void> => {
      const to = await new Promise<Address>((resolve) => void address.apply(resolve));
      const { status, stderr } = await run(to, `${converge} leave`, JSON.stringify(order));
      if (status !== 0) throw new Error(`${name} cannot be taken out of service for its power-off:\n${stderr.trimEnd()}`);
    };
    const turn = (turns.get(tier) ?? Promise.resolve()).catch(() => undefined).then(leave);
    turns.set(tier, turn);
    await turn;
  });
}
