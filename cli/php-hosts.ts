// PHP builds as the machines have them: compared with their archives, brought to them, removed from them.
import type { Fleet, PhpBuild } from "../config/model";
import { buildsOn } from "../config/php-builds";
import type { Answer } from "./ask";
import type { FleetMachine } from "./stack";

/** What is to be said of one build on one machine. */
export interface BuildRow {
  readonly host: string;
  readonly artefact: string;
  readonly state: string;
}

/** What host/verify.py says of a machine. */
export interface Held {
  readonly archives: Readonly<
    Record<string, { readonly sha256: string | null; readonly recorded: string | null; readonly files?: Readonly<Record<string, string>> }>
  >;
  readonly builds: Readonly<Record<string, { readonly from: string | null; readonly files: Readonly<Record<string, string>> }>>;
}

/** What host/retire.py says of a machine: the builds and archives that are not declared, and what keeps them. */
export interface Retired {
  readonly builds: readonly RetiredBuild[];
  readonly archives: readonly RetiredBuild[];
}
interface RetiredBuild {
  readonly name: string;
  readonly uses: readonly string[];
  readonly removed: boolean;
}

/** Debian packages of the libraries that a build links, with the versions that were there when it was built. */
export type Libraries = Readonly<Record<string, string>>;

/** What host/records.py says of a builder: the libraries of each build that it has. */
export type Records = Readonly<Record<string, Libraries>>;

/** What a build links by its builder's record: null where it is not built yet, undefined where the builder could not be asked. */
export function linkedLibraries({ artefact, debian }: PhpBuild, answers: readonly Answer<Records>[]): Libraries | null | undefined {
  const answer = answers.find(({ machine }) => machine.debian === debian);
  return answer?.error === undefined ? (answer?.said?.[artefact] ?? null) : undefined;
}

/** Whether a VM runs PHP: of sites, or of an application. */
export const runsPhp = ({ role }: Pick<FleetMachine, "role">): boolean => ["php", "dedicated", "moodle"].includes(role);

/** Builds that the stack declares for a machine: a builder makes those of its Debian release, a VM has those of its group or application. */
export function declaredOn({ phpBuilds, phpGroups, applications }: Fleet, machine: FleetMachine): string[] {
  const own = [...phpGroups, ...applications].find((g) => g.name === machine.tier)?.builds ?? [];
  const builds = machine.role === "builder" ? phpBuilds : own;
  return buildsOn(machine, builds).map((b) => b.artefact);
}

/** How many differing paths are named. */
const shownPaths = 3;

/** How a build differs from its archive, in words; an empty text when it does not. */
function difference(archive: Readonly<Record<string, string>>, build: Readonly<Record<string, string>>): string {
  const paths = [...new Set([...Object.keys(archive), ...Object.keys(build)])].filter((path) => archive[path] !== build[path]).sort();
  if (paths.length === 0) return "";
  const told = paths.slice(0, shownPaths).map((path) => {
    return `${path} ${build[path] === undefined ? "missing" : archive[path] === undefined ? "not from the archive" : "changed"}`;
  });
  const more = paths.length - told.length;
  return `differs: ${told.join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

const archiveState = (archive: Held["archives"][string] | undefined): string => {
  if (!archive || (archive.sha256 === null && archive.recorded === null)) return "missing";
  const { sha256, recorded } = archive;
  if (sha256 === null) return "missing, though its record is there";
  if (recorded === null) return "has no record";
  return sha256 === recorded ? "ok" : `corrupt archive: sha256 is ${sha256}, its record says ${recorded}`;
};

/** Each archive of the builders against its record, and each installed build, file by file, against its archive. */
export function verifyRows(fleet: Fleet, answers: readonly Answer<Held>[]): BuildRow[] {
  const archives = new Map(answers.flatMap(({ said }) => Object.entries(said?.archives ?? {}).filter(([, a]) => a.files)));
  const buildState = (name: string, build: Held["builds"][string] | undefined): string => {
    if (!build) return "missing";
    const archive = archives.get(name);
    if (build.from === null) return "differs: it was not installed as a whole";
    if (!archive?.files) return "no whole archive to compare it with";
    if (build.from !== archive.sha256)
      return `differs: it came as an archive with sha256 ${build.from}, the builder's has ${archive.sha256}`;
    return difference(archive.files, build.files) || "ok";
  };
  return answers.flatMap(({ machine, said }) => {
    if (!said) return [];
    const builder = machine.role === "builder";
    const names = new Set([...declaredOn(fleet, machine), ...Object.keys(builder ? said.archives : said.builds)]);
    return [...names].sort().map((artefact) => {
      const state = builder ? archiveState(said.archives[artefact]) : buildState(artefact, said.builds[artefact]);
      return { host: machine.name, artefact, state };
    });
  });
}

/** What bringing builds to the machines has come to; `before` and `after` tell the builds installed on each. */
export function deployRows(
  fleet: Fleet,
  before: readonly Answer<{ readonly artefacts: readonly string[] }>[],
  after: typeof before,
): BuildRow[] {
  return after.flatMap(({ machine, said }) => {
    const there = before.find((b) => b.machine.name === machine.name)?.said?.artefacts ?? [];
    return declaredOn(fleet, machine).map((artefact) => {
      const installed = said?.artefacts.includes(artefact);
      return { host: machine.name, artefact, state: !installed ? "missing" : there.includes(artefact) ? "was there" : "installed now" };
    });
  });
}

/** What became of each build that the stack does not declare. `applied`: it was meant to be removed. */
export function retireRows(answers: readonly Answer<Retired>[]): BuildRow[] {
  return answers.flatMap(({ machine, said }) =>
    [...(said?.builds ?? []), ...(said?.archives ?? [])].map(({ name, uses, removed }) => {
      const kept = uses.length > 0 ? `kept: ${uses.join(", ")} ${uses.length === 1 ? "refers" : "refer"} to it` : "";
      return { host: machine.name, artefact: name, state: removed ? "removed" : kept || "not used: --apply removes it" };
    }),
  );
}

/** Builds that some machine still has a use for, though the stack does not declare them. */
export const stillUsed = (answers: readonly Answer<Retired>[]): string[] =>
  answers.flatMap(({ said }) => (said?.builds ?? []).filter((b) => b.uses.length > 0).map((b) => b.name));
