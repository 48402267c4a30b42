import { createHash } from "crypto";
import { z } from "zod";
import type { Code, Fleet, Site } from "./model";
import { atLeast } from "./php-builds";
import { databasePassword, type DatabasePassword, type DedicatedConfig, type MoodleConfig } from "./schema";

/** Port of an application's FPM, which listens on 127.0.0.1 alone: each VM has one application. */
export const applicationPort = 10000;

/** Most that an application has in its /tmp which does not say how much: a course's backup passes through it. */
export const applicationTmpMb = 1024;

/** Where an application's PHP finds what is its own on a VM. */
export const configDirectory = (name: string): string => `/etc/fleet/php/${name}`;

/**
 * What stands in the code for the application's configuration file. `$fleet` is all that the configuration needs to
 * know: the code's directory, and the secrets.
 */
export function stubText(name: string, path: string): string {
  const directory = configDirectory(name);
  const code = path
    .split("/")
    .slice(1)
    .reduce((inner) => `dirname(${inner})`, "__DIR__");
  return [
    "<?php",
    "// Added by the fleet program. The code is the same on every machine; its configuration is the machine's.",
    `$fleet = ['code' => ${code}] + (require '${directory}/secrets.php');`,
    `return require '${directory}/config.php';`,
    "",
  ].join("\n");
}

/** php.ini of Moodle: what its installation and its performance pages ask for. The operator's values come after. */
export const moodleIni = {
  max_input_vars: 5000,
  memory_limit: "256M",
  post_max_size: "201M",
  upload_max_filesize: "200M",
  "opcache.interned_strings_buffer": 16,
  "opcache.max_accelerated_files": 20000,
  "opcache.memory_consumption": 256,
  // Code never changes under its path; the few files of PHP that Moodle writes itself do.
  "opcache.revalidate_freq": 60,
} as const;

/** Modules without which Moodle has no database and no sessions; what its branch needs besides, its code says. */
export const moodleModules = ["mysqli"] as const;

type Made = Pick<DedicatedConfig, "code"> &
  Partial<Pick<DedicatedConfig, "documentRoot" | "fallback" | "writable">> & { readonly config?: { readonly path: string } | undefined };

/** The code of an application, named by all that decides the bytes of its archive. */
export function resolveCode(name: string, { code, documentRoot = "", fallback, writable = [], config }: Made): Code {
  const stub = config ? { path: config.path, text: stubText(name, config.path) } : undefined;
  const made = { commit: code.commit, writable: [...writable].sort(), stub: stub ?? null };
  const hash = createHash("sha256").update(JSON.stringify(made)).digest("hex").slice(0, 12);
  return {
    artefact: `${name}-${hash}`,
    repository: code.repository,
    commit: code.commit,
    ...(code.tag === undefined ? {} : { tag: code.tag }),
    documentRoot,
    ...(fallback === undefined ? {} : { fallback }),
    writable: made.writable,
    ...(stub ? { stub } : {}),
  };
}

/** The same of Moodle: from 5.1 on only what is below public/ is of the Web, and a router answers the rest. */
export function moodleCode(name: string, { code, branch }: Pick<MoodleConfig, "code" | "branch">): Code {
  const router = atLeast(branch, "5.1") ? { documentRoot: "public", fallback: "/r.php" } : {};
  return resolveCode(name, { code, config: { path: "config.php" }, ...router });
}

/** Every site of a fleet, those of applications too: what has a tree on the NAS, a uid and session settings. */
export const allSites = ({ sites, applications }: Pick<Fleet, "sites" | "applications">): Site[] => [
  ...sites,
  ...applications.map((a) => a.site),
];

const part = z.looseObject({
  database: z.unknown(),
  config: z.looseObject({ file: z.string() }).optional().catch(undefined),
});
const platform = z.looseObject({ application: part.optional().catch(undefined) });

/** The applications of a stack by name, as far as they are written as they should be. */
function writtenApplications(config: Readonly<Record<string, unknown>>): [string, z.output<typeof part>][] {
  const dedicated = z.record(z.string(), z.unknown()).catch({}).parse(config["dedicated"]);
  const platforms: [string, unknown][] = [...Object.entries(dedicated), ["moodle", config["moodle"]]];
  return platforms.flatMap(([name, written]) => {
    const application = platform.safeParse(written).data?.application;
    return application ? [[name, application] as [string, z.output<typeof part>]] : [];
  });
}

/** Names of the secrets that the applications of a stack need. */
export const databasePasswordsOf = (config: Readonly<Record<string, unknown>>): DatabasePassword[] =>
  writtenApplications(config).flatMap(([name, { database }]) => (database === undefined ? [] : [databasePassword(name)]));

/** Files of the project that are the configuration of an application. */
export const applicationFiles = (config: Readonly<Record<string, unknown>>): string[] =>
  writtenApplications(config).flatMap(([, { config: own }]) => own?.file ?? []);
