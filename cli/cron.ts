// Cron entries as the VMs of a group tell of them: each VM knows the runs that it made itself.

/** What one VM says of a cron entry. */
export interface CronRun {
  readonly site: string;
  readonly entry: string;
  /** It runs there now. */
  readonly running: boolean;
  /** Seconds since 1970; absent where the last run was another VM's. */
  readonly ended?: number;
  /** systemd's result of the run, such as `success`, `exit-code` or `timeout`. */
  readonly result?: string;
  /** Exit status of the script. */
  readonly exit?: number;
}

/** The last run of an entry, wherever it was. */
export interface LastRun extends CronRun {
  /** The VM that made it; empty where none has. */
  readonly vm: string;
  readonly failed: boolean;
}

/** Of what all VMs say, the last run of each entry, in the order of sites and entries. */
export function latest(all: readonly (CronRun & { readonly vm: string })[]): LastRun[] {
  const found = new Map<string, CronRun & { readonly vm: string }>();
  for (const run of all) {
    const key = `${run.site} ${run.entry}`;
    const before = found.get(key);
    if (!before || newness(run) > newness(before)) found.set(key, run);
  }
  return [...found]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, run]) => {
      const ran = run.running || run.ended !== undefined;
      return { ...run, vm: ran ? run.vm : "", failed: !run.running && run.ended !== undefined && run.result !== "success" };
    });
}

const newness = (run: CronRun): number => (run.running ? Infinity : (run.ended ?? -1));

/** How a run went, in a word or two. */
export function outcome({ running, ended, result, exit }: CronRun): string {
  if (running) return "running";
  if (ended === undefined || result === undefined) return "no run yet";
  if (result === "success") return "ok";
  return result === "exit-code" && exit ? `exit ${exit}` : result;
}
