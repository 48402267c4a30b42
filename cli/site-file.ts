// Texts of site files: a new one, and edits that leave every other character as it is.
import * as YAML from "yaml";
import { z } from "zod";

/** What a new site's file says; the keys are those of docs/configuration.md. */
export interface NewSite {
  readonly name: string;
  readonly hosts: readonly string[];
  readonly uid: number;
  readonly port: number;
  readonly php: { readonly version: string; readonly group?: string; readonly modules?: readonly string[] };
  readonly sessions?: string;
}

/** Text of a new site's file. */
export function siteText(site: NewSite): string {
  const document = new YAML.Document(site);
  YAML.visit(document, { Seq: (_, list) => void (list.flow = true) });
  return document.toString({ lineWidth: 0, flowCollectionPadding: false });
}

const number = z.number().optional().catch(undefined);
const allocated = z
  .object({
    uid: number,
    port: number,
    php: z
      .object({ trial: z.object({ port: number }).optional().catch(undefined) })
      .optional()
      .catch(undefined),
  })
  .catch({});

/** Uids and ports that site files hold, whatever else is right or wrong in them. */
export function numbersIn(files: readonly unknown[]): { readonly uids: ReadonlySet<number>; readonly ports: ReadonlySet<number> } {
  const sites = files.map((file) => allocated.parse(file));
  const there = (values: readonly (number | undefined)[]): Set<number> => new Set(values.filter((value) => value !== undefined));
  return { uids: there(sites.map((s) => s.uid)), ports: there(sites.flatMap((s) => [s.port, s.php?.trial?.port])) };
}

/** Port of the trial that a site's file has. */
export const trialPort = (text: string): number | undefined => allocated.parse(YAML.parse(text)).php?.trial?.port;

/** The lowest number of a range that is not used; undefined where all are. */
export function lowestFree({ from, to }: { readonly from: number; readonly to: number }, used: ReadonlySet<number>): number | undefined {
  for (let n = from; n <= to; n++) if (!used.has(n)) return n;
  return undefined;
}

/** A key of a mapping and its value, with their places in the text: begin, end, and end of what belongs to it. */
interface Placed {
  readonly key: YAML.Scalar<string> & { readonly range: YAML.Range };
  readonly value: YAML.Node & { readonly range: YAML.Range };
}

/** The pairs below `php`, and how they are written. */
function phpOf(text: string): { readonly pairs: readonly Placed[]; readonly flow: boolean } {
  const php = YAML.parseDocument(text).get("php");
  if (!YAML.isMap(php)) throw new Error("the site's file has no mapping php");
  return { pairs: php.items as unknown as Placed[], flow: php.flow === true };
}

const splice = (text: string, from: number, to: number, by: string): string => text.slice(0, from) + by + text.slice(to);

const lineBegin = (text: string, at: number): number => text.lastIndexOf("\n", at - 1) + 1;

/** Where the line after a place begins; the place itself where it is the begin of a line. */
function nextLine(text: string, at: number): number {
  const end = text.indexOf("\n", at - 1);
  return end < 0 ? text.length : end + 1;
}

function versionOf(pairs: readonly Placed[]): Placed {
  const found = pairs.find(({ key }) => key.value === "version");
  if (!found) throw new Error("the site's file has no php.version");
  return found;
}

/** The file with another `php.version`. */
export function withVersion(text: string, version: string): string {
  const { range } = versionOf(phpOf(text).pairs).value;
  return splice(text, range[0], range[1], JSON.stringify(version));
}

/** The file without `php.trial`, and without the comments of its lines. */
export function withoutTrial(text: string): string {
  const { pairs, flow } = phpOf(text);
  const at = pairs.findIndex(({ key }) => key.value === "trial");
  const [before, trial, after] = [pairs[at - 1], pairs[at], pairs[at + 1]];
  if (!trial) return text;
  const [begin, end, whole] = [trial.key.range[0], trial.value.range[1], trial.value.range[2]];
  if (!flow) return splice(text, lineBegin(text, begin), nextLine(text, whole), "");
  return before ? splice(text, before.value.range[1], end, "") : splice(text, begin, after?.key.range[0] ?? end, "");
}

/** The file with this `php.trial`, behind the version. */
export function withTrial(text: string, trial: { readonly version: string; readonly port: number }): string {
  const rest = withoutTrial(text);
  const { pairs, flow } = phpOf(rest);
  const { key, value } = versionOf(pairs);
  const pair = `trial: { version: ${JSON.stringify(trial.version)}, port: ${trial.port} }`;
  if (flow) return splice(rest, value.range[1], value.range[1], `, ${pair}`);
  const [begin, next] = [lineBegin(rest, key.range[0]), nextLine(rest, value.range[2])];
  const ended = rest[next - 1] === "\n" ? "" : "\n";
  return splice(rest, next, next, `${ended}${rest.slice(begin, key.range[0])}${pair}\n`);
}
