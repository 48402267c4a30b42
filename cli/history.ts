// What git knows of a directory of site files: every file that was ever there, and since when.
import { spawnSync } from "child_process";
import * as fs from "fs";
import * as path from "path";
import * as YAML from "yaml";
import { z } from "zod";

/** A site file as one commit left it. */
export interface PastSite {
  /** Its name in the directory. */
  readonly file: string;
  /** Day of the commit, e.g. 2026-03-01; of the merge, where a branch brought it. */
  readonly date: string;
  /** What it said; undefined where the commit removed it, or it was no YAML. */
  readonly content: unknown;
}
/** All that was ever committed to a directory, the newest first. */
export type SiteHistory = readonly PastSite[];

function git(directory: string, words: readonly string[], input = ""): Buffer | undefined {
  const { status, stdout } = spawnSync("git", words, { cwd: directory, input, maxBuffer: 1 << 30 });
  return status === 0 ? stdout : undefined;
}

/**
 * The history of a directory on its branch, from two runs of git however many sites there are. Undefined where it cannot
 * be had whole: no git, no repository, a shallow clone.
 */
export function siteHistory(directory: string): SiteHistory | undefined {
  // git keeps no empty directory: one whose last file was removed may be gone, and has its history all the same.
  let at = directory;
  while (!fs.existsSync(at)) at = path.dirname(at);
  const within = path.relative(at, directory) || ".";
  const shallow = git(at, ["rev-parse", "--is-shallow-repository"])?.toString().trim();
  if (shallow !== "false") return undefined;
  const shown = ["--raw", "--no-abbrev", "--no-renames", "--relative", "--format=@%cs"];
  // A merge is seen as what it brought to the branch: then the site came to be so.
  const log = git(at, ["-c", "core.quotePath=false", "log", "--first-parent", "-m", ...shown, "--", within])?.toString();
  if (log === undefined) return undefined;
  const past: { file: string; date: string; blob: string }[] = [];
  let date = "";
  for (const line of log.split("\n")) {
    const [, blob = "", file = ""] = /^:\S+ \S+ \S+ (\S+) \w\t(.+)$/.exec(line) ?? [];
    if (line.startsWith("@")) date = line.slice(1);
    else if (file.endsWith(".yaml")) past.push({ file: path.relative(within, file), date, blob });
  }
  const texts = blobs(at, [...new Set(past.map((p) => p.blob))]);
  return past.map(({ file, date, blob }) => ({ file, date, content: parsed(texts.get(blob)) }));
}

/** Texts of git's objects by their names; one that does not exist, as the zeros of a removed file, is left out. */
function blobs(directory: string, names: readonly string[]): Map<string, string> {
  const out = git(directory, ["cat-file", "--batch"], names.map((name) => `${name}\n`).join("")) ?? Buffer.alloc(0);
  const texts = new Map<string, string>();
  for (let at = 0; at < out.length;) {
    const end = out.indexOf("\n", at);
    const [name = "", type, size] = out.subarray(at, end).toString().split(" ");
    const length = type === "blob" ? Number(size) + 1 : 0;
    if (length > 0) texts.set(name, out.subarray(end + 1, end + length).toString());
    at = end + 1 + length;
  }
  return texts;
}

function parsed(text: string | undefined): unknown {
  const document = YAML.parseDocument(text ?? "");
  return document.errors.length > 0 ? undefined : document.toJS();
}

const versioned = z.object({ php: z.object({ version: z.string() }) });

/** Day since which each site is on its PHP version, by the site's name; without those whose change is not committed yet. */
export function sitesSince(
  sites: readonly { readonly name: string; readonly php: { readonly version: string } }[],
  history: SiteHistory = [],
): Record<string, string> {
  const days = sites.map(({ name, php }) => [name, phpSince(history, `${name}.yaml`, php.version)] as const);
  return Object.fromEntries(days.filter((pair): pair is [string, string] => pair[1] !== undefined));
}

function phpSince(history: SiteHistory, file: string, version: string): string | undefined {
  let since: string | undefined;
  for (const past of history.filter((p) => p.file === file)) {
    if (versioned.safeParse(past.content).data?.php.version !== version) break;
    since = past.date;
  }
  return since;
}
