import * as pulumi from "@pulumi/pulumi";
import type { Action, Unit } from "../templates/content";

/** A bundle as far as its consequences go. */
interface Read {
  /** Everything of each file, secret or link that a change of would matter. */
  readonly entries: ReadonlyMap<string, string>;
  readonly units: ReadonlyMap<string, Required<Unit>>;
  readonly actions: readonly Action[];
}

function read(bundle: string): Read {
  const lines = bundle.split("\n");
  const entries = new Map<string, string>();
  const units = new Map<string, Required<Unit>>();
  const actions: Action[] = [];
  for (let at = 0; at < lines.length;) {
    const head = lines[at++] ?? "";
    const [kind, ...words] = head.split(" ");
    if (words.length === 0) continue;
    const fields = JSON.parse(words.join(" ")) as { path: string; name: string; lines?: number };
    const count = kind === "@file" ? (fields.lines ?? 0) : 0;
    if (kind === "@file" || kind === "@secret" || kind === "@link") entries.set(fields.path, lines.slice(at - 1, at + count).join("\n"));
    if (kind === "@unit") units.set(fields.name, fields as unknown as Required<Unit>);
    if (kind === "@action") actions.push(fields as unknown as Action);
    at += count;
  }
  return { entries, units, actions };
}

const touches = (patterns: readonly string[], changed: readonly string[]): boolean =>
  patterns.some((p) => changed.some((path) => (p.endsWith("/") ? path.startsWith(p) : path === p)));

/**
 * What the change from one bundle to another will do on its VM, one line each: files, actions, and
 * units with reload, restart, start or stop. What converge itself plans, but for what only the VM
 * knows: edits by hand and units that died. A sleeping site's service is not restarted.
 */
export function consequences(before: string, after: string): string[] {
  const [old, wanted] = [read(before), read(after)];
  const paths = [...new Set([...old.entries.keys(), ...wanted.entries.keys()])].sort();
  const changed = paths.filter((path) => old.entries.get(path) !== wanted.entries.get(path));
  const word = (path: string): string => (old.entries.has(path) ? (wanted.entries.has(path) ? "changed" : "removed") : "new");
  const units = [...wanted.units].flatMap(([name, unit]) => {
    const before = old.units.get(name);
    if (!before) return unit.start ? [`start ${name}`] : [];
    if (touches(unit.restart, changed)) return [`restart ${name}${before.drain || unit.drain ? ", drained" : ""}`];
    return touches(unit.reload, changed) ? [`reload ${name}`] : [];
  });
  const gone = [...old.units]
    .filter(([name]) => !wanted.units.has(name))
    .map(([name, unit]) => `stop ${name}${unit.drain ? ", drained" : ""}`);
  const actions = wanted.actions.filter((a) => touches(a.paths, changed)).map((a) => `run ${a.name}`);
  // Options of a kernel module count when it is loaded.
  const when = (path: string): string => (path.startsWith("/etc/modprobe.d/") ? " (at its next boot)" : "");
  return [...changed.map((path) => `${word(path)} ${path}${when(path)}`), ...actions, ...units, ...gone];
}

/** Where templates/ put the name of a site, in files and units of each. */
const siteName = /(?<=\/etc\/fleet\/(?:php|php-trial|scripts|vhosts)\/|fleet-(?:site|trial)-|\/sites-)[a-z0-9_-]+/;
/** As many sites are named one by one. */
const namedSites = 5;

/** The same of more sites in one line: a setting of hundreds of sites is one change to its reader. */
export function folded(lines: readonly string[]): string[] {
  const alike = new Map<string, string[]>();
  for (const line of lines) {
    const pattern = line.replace(siteName, "*");
    alike.set(pattern, [...(alike.get(pattern) ?? []), line]);
  }
  return [...alike].flatMap(([pattern, same]) => {
    if (same.length <= namedSites) return same;
    const names = same.map((line) => siteName.exec(line)?.[0]);
    return [`${pattern} (${same.length}: ${names[0]} to ${names.at(-1)})`];
  });
}

/** Tells the consequence of a VM's new bundle in every preview and update, before anything is touched. */
export function tellConsequence(tier: string, host: string): pulumi.ResourceHook {
  const tell = async ({ oldInputs, newInputs }: pulumi.ResourceHookArgs): Promise<void> => {
    const { stdin: before } = oldInputs as { stdin?: unknown };
    const { stdin: after } = newInputs as { stdin?: unknown };
    if (typeof before !== "string" || typeof after !== "string" || before === after) return;
    const lines = folded(consequences(before, after));
    const what = lines.some((line) => /^(start|stop|reload|restart|run) /.test(line)) ? "" : " (no service is touched)";
    await pulumi.log.info(`${host}: ${lines.join("; ") || "nothing of its files"}${what}`);
  };
  return new pulumi.ResourceHook(`${tier}-consequence-${host}`, tell, { onDryRun: true });
}
