import { spawn } from "child_process";
import { expect } from "vitest";
import { machines } from "../../lab/vcenter";
import { changedCheckout, edit, machine, mixed, on, pulumi, sshWords, startProbe, type Seen } from "./lab";

/** A mistake that reaches a machine: what a colleague might commit. */
export interface Mistake {
  readonly what: string;
  /** The first VM that it meets. */
  readonly host: string;
  readonly edits: readonly (readonly [file: string, from: string, to: string])[];
  /** What the message must name: VM, check, difference. */
  readonly message: RegExp;
}

/** Adds a file, and the unit that reads it, to every Apache VM. */
export const inApache = (file: string, unit: string): Mistake["edits"] => [
  ["templates/apache/apache.ts", "    files: [\n", `    files: [\n      ${file},\n`],
  ["templates/apache/apache.ts", "    units: [\n", `    units: [\n      ${unit},\n`],
];

/** A setting of sshd on every Apache VM. */
export const sshd = (line: string): Mistake["edits"] =>
  inApache(
    `{ path: "/etc/ssh/sshd_config.d/90-fleet.conf", text: "${line}\\n" }`,
    '{ name: "ssh.service", reload: ["/etc/ssh/sshd_config.d/"] }',
  );

/** Live generation of a machine, and whether its last change is settled and its requests are taken. */
export const state = async (name: string): Promise<string> =>
  (
    await on(
      name,
      "readlink /var/lib/fleet/current; test -e /var/lib/fleet/unsettled && echo unsettled; test -e /run/fleet/drain && echo drained; true",
    )
  ).trim();

/** Watches over one long connection which generation is live: a mistake may refuse new ones. */
async function watchGeneration(name: string): Promise<{ stop: () => number }> {
  const before = (await on(name, "readlink /var/lib/fleet/current")).trim();
  const loop = "while sleep 0.2; do echo $(cut -d' ' -f1 /proc/uptime) $(readlink /var/lib/fleet/current); done";
  const child = spawn("ssh", [...sshWords((await machine(name)).Address), loop], { stdio: ["ignore", "pipe", "ignore"] });
  let said = "";
  child.stdout.on("data", (data: Buffer) => (said += data.toString()));
  return {
    /** Seconds that another generation than the first was live, at most; 0 where none ever was. */
    stop: () => {
      child.kill();
      const looks = said
        .split("\n")
        .map((line) => line.split(" "))
        .filter((words) => words.length === 2);
      const others = looks.flatMap(([, generation], n) => (generation === before ? [] : [n]));
      if (looks.length < 5 || others[0] === 0) throw new Error(`${name} was looked at ${looks.length} times, first at ${looks[0]?.[1]}`);
      const at = (n: number): number => Number(looks[Math.min(n, looks.length - 1)]?.[0]);
      return others.length === 0 ? 0 : at(Math.max(...others) + 1) - at(Math.min(...others) - 1);
    },
  };
}

const table: string[] = [];
/** One row of the table of mistakes. */
export function note(what: string, seen: Seen, away: string): void {
  table.push(`${what.padEnd(38)} ${String(seen.failed).padStart(4)}/${String(seen.sent).padEnd(6)} ${away}`);
}
export const printTable = (): void =>
  void process.stdout.write(`\nmistake                                failed/sent  new generation was live\n${table.join("\n")}\n`);

/** Rolls a mistake out under load; it must be refused or taken back, named, and cost no request. */
export async function rollOutMistake(mistake: Mistake): Promise<void> {
  // Nor may it reach the next VM of the tier.
  const tier = (await machines()).map((m) => m.Name).filter((name) => name.replace(/\d+$/, "") === mistake.host.replace(/\d+$/, ""));
  const states = (): Promise<string[]> => Promise.all(tier.map(state));
  const before = await states();
  const [[file, from, to] = ["", "", ""], ...others] = mistake.edits;
  const copy = await changedCheckout(file, (text) => text.replace(from, () => to));
  for (const [more, old, now] of others) edit(copy, more, (text) => text.replace(old, () => now));
  const probe = startProbe(mixed, 10);
  const watch = await watchGeneration(mistake.host);
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], copy);
  const seconds = watch.stop();
  const after = await states();
  const seen = await probe.stop();
  note(mistake.what, seen, seconds === 0 ? "never" : `${seconds.toFixed(0)} s`);
  expect(code, out + err).not.toBe(0);
  expect(out + err).toMatch(mistake.message);
  expect(after).toEqual(before);
  expect(seconds).toBeLessThanOrEqual(60);
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
}
