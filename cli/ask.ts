// One question to many VMs, each over one SSH session.
import { run, type Address } from "../components/ssh";
import type { FleetMachine } from "./stack";

/** VMs asked at the same time. */
const parallel = 16;

/** What a program on one VM said, or why it could not be asked. */
export interface Answer<T> {
  readonly machine: FleetMachine;
  readonly said?: T;
  readonly error?: string;
}

/** Runs a command that says one JSON value on every VM, `input` on its standard input; any exit status but `exits` is an error. */
export async function askAll<T>(
  vms: ReadonlyMap<FleetMachine, Address>,
  command: string,
  exits: readonly number[],
  input: (machine: FleetMachine) => string = () => "",
): Promise<Answer<T>[]> {
  const ask = async ([machine, address]: [FleetMachine, Address]): Promise<Answer<T>> => {
    try {
      const { status, stdout, stderr } = await run(address, command, input(machine));
      if (!exits.includes(status)) return { machine, error: stderr.trim() || `exit status ${status}` };
      return { machine, said: JSON.parse(stdout) as T };
    } catch (error) {
      return { machine, error: (error as Error).message };
    }
  };
  return inParallel([...vms], parallel, ask);
}

/** Does the work for every item, at most `most` at the same time; the results in the order of the items. */
export async function inParallel<T, R>(items: readonly T[], most: number, work: (item: T, index: number) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const waiting = [...items.entries()];
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next; next = waiting.shift()) results[next[0]] = await work(next[1], next[0]);
  };
  await Promise.all(Array.from({ length: most }, worker));
  return results;
}
