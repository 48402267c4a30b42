// What `fleet` tells of the NAS VM, and has it do: host/snapshots.py does the work.
import Table from "cli-table3";
import { Command } from "commander";
import * as fs from "fs";
import { runProgram, withProgram } from "../components/programs";
import { stream } from "../components/ssh";
import { hostProgram } from "../templates/programs";
import { addressesOf, CliError, contentOf, stackFileOf } from "./stack";

/** What a NAS VM says of itself; sizes are bytes. */
export interface NasStatus {
  /** The last hourly run; null where there was none yet. */
  readonly last: { readonly ended: number; readonly newest: string | null; readonly problems: readonly string[] } | null;
  /** Sites with a quota; `used` is null where the quota is not in force. */
  readonly quotas: readonly { readonly site: string; readonly used: number | null; readonly quota: number }[];
  readonly free: number;
  readonly size: number;
}

/** Seconds without a snapshot after which something is wrong: one of each hour, and time to make it. */
const lateSeconds = 2 * 3600;

/** Share of the disk that should be free, as btrfs wants room to make room. */
const freeShare = 0.05;

/** What is wrong with a NAS VM, at a time in seconds since 1970. */
export function nasTrouble(status: NasStatus | null, now: number): string[] {
  if (status === null) return ["snapshots: their program fails"];
  const { last, quotas, free, size } = status;
  const late = last !== null && now - last.ended > lateSeconds;
  return [
    ...(last?.problems ?? []).map((problem) => `snapshot: ${problem}`),
    ...(late ? [`snapshot: the last one was tried ${Math.floor((now - last.ended) / 3600)} hours ago`] : []),
    ...(free < freeShare * size ? [`disk: ${megabytes(free)} of ${megabytes(size)} free`] : []),
    ...quotas.filter((q) => q.used === null).map((q) => `quota of ${q.site} is not in force: its directory was there before`),
  ];
}

const megabytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MB`;

/** A table of the sites with a quota, where there are any. */
export function quotaText(quotas: NasStatus["quotas"]): string[] {
  if (quotas.length === 0) return [];
  const table = new Table({ head: ["site", "stored", "quota", "used"], style: { head: [], border: [] } });
  for (const { site, used, quota } of quotas) {
    const share = used === null ? "" : `${Math.floor((100 * used) / quota)} %`;
    table.push([site, used === null ? "not counted" : megabytes(used), megabytes(quota), share]);
  }
  return [table.toString()];
}

/** A snapshot as the VM tells of it. */
export interface Snapshot {
  readonly time: string;
  readonly by: "timer" | "hand";
}

/** What a restore did. */
export interface Restored {
  readonly site: string;
  /** Time of the snapshot. */
  readonly from: string;
  readonly path: string | null;
  /** Where the tree is that was live; null where there was none. */
  readonly kept: string | null;
  readonly files: number;
  readonly bytes: number;
  readonly seconds: number;
}

export function snapshotText(rows: readonly Snapshot[]): string {
  const table = new Table({ head: ["time (UTC)", "made by"], style: { head: [], border: [] } });
  table.push(...rows.map(({ time, by }) => [time, by]));
  return `${table.toString()}\n${rows.length} snapshots`;
}

export function restoredText({ site, from, path, kept, files, bytes, seconds }: Restored): string {
  const table = new Table({ style: { head: [], border: [] } });
  table.push(
    { site },
    { restored: path ?? "everything but sessions" },
    { "as of (UTC)": from },
    { files: `${files}, ${megabytes(bytes)}, each compared` },
    { "what was live": kept ?? "nothing" },
    { took: `${seconds} s` },
  );
  return `${table.toString()}\nApache and PHP see it within a minute, as NFS clients remember what was where.`;
}

/** Where an appliance has its snapshots: the program neither makes nor reads them. */
export function applianceText(stack: string, nas: unknown): string | undefined {
  const { kind, address, export: exported, snapshotDirectory = ".snapshot" } = (nas ?? {}) as Record<string, string>;
  if (kind !== "appliance") return undefined;
  return (
    `${stack} keeps its sites on an appliance (${address}), whose snapshots are its own: this program changes nothing there. ` +
    `They are in ${exported}/${snapshotDirectory}; restore with the appliance's own tools.`
  );
}

interface Options {
  readonly stack: string;
  readonly json?: boolean;
}

/** One order to the NAS VM; what it says on the way is shown as it comes. */
async function ask<T>({ stack }: Options, order: object): Promise<T | undefined> {
  const file = `Pulumi.${stack}.yaml`;
  if (!fs.existsSync(file)) throw new CliError(`${file} does not exist: is ${stack} the name of a stack?`);
  const { config } = stackFileOf(file) as { config?: Record<string, unknown> };
  const refusal = applianceText(stack, config?.["fleet:nas"]);
  if (refusal !== undefined) {
    process.stderr.write(`fleet: ${refusal}\n`);
    process.exitCode = 2;
    return undefined;
  }
  const machine = contentOf(stack).machines.find(({ role }) => role === "nas");
  if (!machine) throw new CliError(`${stack} has no NAS VM`);
  const [address] = addressesOf(stack, [machine]).values();
  if (!address) throw new CliError(`${machine.name} cannot be reached`);
  let said = "";
  const status = await stream(address, runProgram, {
    stdin: withProgram(hostProgram("snapshots.py"), JSON.stringify(order)),
    stdout: (data) => (said += data.toString()),
    stderr: (data) => process.stderr.write(data),
  });
  process.exitCode = status;
  return status === 0 ? (JSON.parse(said) as T) : undefined;
}

/** `fleet snapshot`. */
export function snapshotCommand(): Command {
  const snapshot = new Command("snapshot").description(
    "snapshots of the NAS VM, and what a site gets back from one; exit code 2 where that cannot be",
  );
  const show = <T>(options: Options, answer: T | undefined, text: (answer: T) => string): void => {
    if (answer !== undefined) process.stdout.write(`${options.json ? JSON.stringify(answer, null, 2) : text(answer)}\n`);
  };
  const verb = (words: string): Command =>
    snapshot.command(words).requiredOption("-s, --stack <name>", "the stack").option("--json", "for programs");
  verb("list [site]")
    .description("snapshots that there are, or those that have the site")
    .action(async (site: string | undefined, options: Options) => {
      show(options, await ask<Snapshot[]>(options, { do: "list", site }), snapshotText);
    });
  verb("create <site>")
    .description("one more, beside those of each hour; it is of all sites")
    .action(async (site: string, options: Options) => {
      show(options, await ask<Pick<Snapshot, "time">>(options, { do: "create", site }), ({ time }) => `snapshot of ${time}`);
    });
  verb("restore <site>")
    .description("the site's tree, or a path of it, as it was; what is live is kept beside")
    .option("--at <time>", "UTC time of the snapshot or its beginning, such as 2026-11-26T14; default: the newest")
    .option("--path <path>", "below the site's directory, such as htdocs/index.php; default: everything but sessions")
    .action(async (site: string, options: Options & { readonly at?: string; readonly path?: string }) => {
      const { at, path } = options;
      show(options, await ask<Restored>(options, { do: "restore", site, at, path }), restoredText);
    });
  return snapshot;
}
