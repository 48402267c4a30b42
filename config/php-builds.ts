import { createHash } from "crypto";
import { basename } from "path";
import { z } from "zod";
import type { PhpBuild, PinnedSource } from "./model";
import { byPeclOrder, compiledWith, peclModuleNames, peclRecipe } from "./pecl-modules";
import { alwaysOn, packageOf, phpModules, type ModuleRecipe, type PhpModule } from "./php-modules";
import type { Problem } from "./problems";
import type { BuildConfig, DebianRelease } from "./schema";

/** Compiler, autoconf for phpize, and what every build links: systemd for readiness. */
const toolPackages = ["autoconf", "ccache", "g++", "gpgv", "libsystemd-dev", "make", "patch", "pkg-config", "zstd"];

/** Options of every build: FPM and the command line, nothing else, and no silent misspelling. */
const commonOptions = [
  "--disable-all",
  "--enable-cli",
  "--enable-fpm",
  "--with-fpm-systemd",
  "--disable-cgi",
  "--disable-phpdbg",
  "--without-pear",
];

/** What host/phpbuild.py changes in every source, as part of the artefact's name: with another change comes another word. */
const changedSource = "no password in complaints about sessions";

/** All builds are for the architecture that the fleet's VMs have. */
const architecture = "amd64";

const sorted = (names: Iterable<string>): string[] => [...new Set(names)].sort();

/**
 * Resolves one declared version for one Debian release. The artefact's name carries a hash of all
 * it is made of and by, so equal inputs are built once and a change of any is another artefact.
 * `texts` holds the patches and keys by their file.
 */
export function resolveBuild(
  version: string,
  wanted: BuildConfig,
  debian: DebianRelease,
  texts: Readonly<Record<string, string>> = {},
): PhpBuild {
  const modules = sorted(wanted.modules) as PhpModule[];
  const recipes: ModuleRecipe[] = modules.map((name) => phpModules[name]);
  const pecl = Object.entries(wanted.pecl)
    .map(([name, { options, ...item }]) => ({ name, ...pinned(item, texts), options }))
    .sort((a, b) => byPeclOrder(a.name, b.name));
  const patches = wanted.patches.map(({ file, sha256 }) => ({ name: basename(file), sha256, text: texts[file] ?? "" }));
  const source = pinned(wanted.source, texts);
  const { cflags, ldflags } = wanted.flags;
  const environment = { CFLAGS: cflags, CXXFLAGS: cflags, LDFLAGS: ldflags };
  // Before 8.0 JSON was a module like others; no PHP here is without it.
  const json = atLeast(version, "8.0") ? [] : ["--enable-json"];
  const options = [...commonOptions, ...json, ...sorted(recipes.flatMap((r) => [...r.options])), ...wanted.options];
  const made = {
    release: wanted.release,
    debian,
    architecture,
    source,
    patches,
    pecl,
    options,
    environment,
    modules: sorted([
      ...coreOf(version),
      ...modules.map((name) => (phpModules[name] as ModuleRecipe).reported ?? name),
      // The archive of libxml is one module more wherever an XML module is.
      ...(modules.some(withLibxml) ? ["libxml"] : []),
      ...pecl.map((p) => p.name),
    ]),
    buildPackages: sorted([...toolPackages, ...recipes.flatMap((r) => [...r.build]), ...peclPackages(wanted, "build")]),
  } as const;
  // Neither where a source comes from nor who signed it: a moved mirror compiles nothing anew.
  const inputs = {
    ...made,
    source: source.sha256,
    patches: patches.map((p) => p.sha256),
    pecl: pecl.map(({ name, sha256, options: own }) => ({ name, sha256, options: own })),
    changedSource,
  };
  const hash = createHash("sha256").update(JSON.stringify(inputs)).digest("hex").slice(0, 12);
  return {
    ...made,
    version,
    artefact: `${wanted.release}-${hash}`,
    runPackages: sorted(
      ["libsystemd0", ...recipes.flatMap((r) => [...r.run]), ...peclPackages(wanted, "run")].map((name) => packageOf(debian, name)),
    ),
    tests: wanted.tests,
    knownFailures: wanted.knownFailures,
  };
}

/** A source with the text of the keys of its signature. */
function pinned({ url, sha256, signature }: BuildConfig["source"], texts: Readonly<Record<string, string>>): PinnedSource {
  return { url, sha256, ...(signature ? { signature: { url: signature.url, key: texts[signature.key] ?? "" } } : {}) };
}

function peclPackages({ pecl }: BuildConfig, kind: "build" | "run"): string[] {
  return Object.entries(pecl).flatMap(([name, item]) => [...(peclRecipe(name)?.[kind] ?? []), ...(item[kind] ?? [])]);
}

const fileEntry = z.looseObject({ file: z.string() });
const signedEntry = z.looseObject({ signature: z.looseObject({ key: z.string() }) });

/** Files of the project that one version of `fleet:php` names, as far as it is written as it should be. */
export function buildFiles(written: unknown): string[] {
  const found = z.looseObject({
    source: z.unknown(),
    patches: z.array(z.unknown()).catch([]),
    pecl: z.record(z.string(), z.unknown()).catch({}),
  });
  const build = found.safeParse(written).data;
  if (!build) return [];
  return [
    ...build.patches.flatMap((patch) => fileEntry.safeParse(patch).data?.file ?? []),
    ...[build.source, ...Object.values(build.pecl)].flatMap((item) => signedEntry.safeParse(item).data?.signature.key ?? []),
  ];
}

/**
 * What is wrong with the declared versions beyond their form: files that are not there or not the ones that
 * were meant, PECL modules of which nothing is known, or without what they need.
 */
export function checkBuilds(php: Readonly<Record<string, BuildConfig>>, file: string, texts: Readonly<Record<string, string>>): Problem[] {
  return Object.entries(php).flatMap(([version, build]) => {
    const property = `fleet:php.${version}`;
    const sources = [["source", build.source] as const, ...Object.entries(build.pecl).map(([name, p]) => [`pecl.${name}`, p] as const)];
    return [
      ...checkRelease(version, build.release, property, file),
      ...build.patches.flatMap((patch, i) => checkPatch(patch, `${property}.patches.${i}`, file, texts)),
      ...sources.flatMap(([key, { signature }]) =>
        signature ? checkKey(signature.key, `${property}.${key}.signature.key`, file, texts) : [],
      ),
      ...Object.keys(build.pecl).flatMap((name) => checkPecl(name, build, property, file)),
    ];
  });
}

/** Sites, reports and the end of support go by the version. */
function checkRelease(version: string, value: string, property: string, file: string): Problem[] {
  if (value.startsWith(`${version}.`)) return [];
  const remedy = `Correct it, or declare it under fleet:php."${value.split(".").slice(0, 2).join(".")}".`;
  return [{ file, property: `${property}.release`, value, allowed: `a release of PHP ${version}, such as "${version}.1"`, remedy }];
}

/** Whether a module is in every build of a version, under the name that composer or phpinfo() gives it. */
export function isAlwaysOn(name: string, version: string, modules: readonly string[]): boolean {
  if (name === "libxml") return modules.some(withLibxml);
  return coreOf(version).some((core) => core.toLowerCase() === name.toLowerCase());
}

const coreOf = (version: string): string[] => alwaysOn.filter((m) => m !== "random" || atLeast(version, "8.2"));
const withLibxml = (module: string): boolean => module === "dom" || module.includes("xml") || module === "soap";

/** What is said of a file that the stack names and the project lacks. */
export const absent = { allowed: "a file of the project", remedy: "Correct the path, or add the file." };

/** A patch is there and is the one that was meant. */
function checkPatch(
  { file: value, sha256 }: BuildConfig["patches"][number],
  property: string,
  file: string,
  texts: Readonly<Record<string, string>>,
): Problem[] {
  const text = texts[value];
  if (text === undefined) return [{ file, property: `${property}.file`, value, ...absent }];
  const found = createHash("sha256").update(text).digest("hex");
  if (found === sha256) return [];
  const remedy = `${value} has SHA-256 ${found}: find out who changed it before you change the pin.`;
  return [{ file, property: `${property}.sha256`, value: sha256, allowed: "the patch's own", remedy }];
}

function checkKey(value: string, property: string, file: string, texts: Readonly<Record<string, string>>): Problem[] {
  const text = texts[value];
  if (text === undefined) return [{ file, property, value, ...absent }];
  const count = (edge: string): number => text.split(`-----${edge} PGP PUBLIC KEY BLOCK-----`).length - 1;
  // A copy that was cut off has lost the end of its last key.
  if (count("BEGIN") > 0 && count("BEGIN") === count("END")) return [];
  return [{ file, property, value, allowed: "whole armoured OpenPGP public keys", remedy: "Export it with: gpg --armor --export" }];
}

function checkPecl(name: string, build: BuildConfig, version: string, file: string): Problem[] {
  const property = `${version}.pecl.${name}`;
  const item = build.pecl[name];
  const recipe = peclRecipe(name);
  if (!recipe && !(item?.build && item.run)) {
    const allowed = `${peclModuleNames.join(", ")}, or another with its Debian packages in build and run`;
    return [{ file, property, value: "an unknown module", allowed, remedy: "Correct the spelling, or add both, if only as []." }];
  }
  return [
    ...(recipe?.needs ?? [])
      .filter((module) => !build.modules.includes(module))
      .map((module) => ({
        file,
        property: `${version}.modules`,
        value: `without ${module}`,
        allowed: `with ${module}, which the PECL module ${name} needs`,
        remedy: `Add ${module}, or remove the PECL module.`,
      })),
    ...compiledWith(name, item?.options ?? [])
      .filter((other) => !build.pecl[other])
      .map((other) => ({
        file,
        property: `${property}.options`,
        value: `--enable-${name}-${other}`,
        allowed: `with the PECL module ${other}`,
        remedy: `Add ${other} to ${version}.pecl, or remove the option.`,
      })),
  ];
}

/** Of these builds, those that a VM makes or runs: the ones for its own Debian release. */
export const buildsOn = (machine: { readonly debian: string }, builds: readonly PhpBuild[]): PhpBuild[] =>
  builds.filter((b) => b.debian === machine.debian);

/** Last day of the PHP project's own security support, from php.net/supported-versions and php.net/eol. */
export const supportedUntil: Readonly<Record<string, string>> = {
  "7.4": "2022-11-28",
  "8.0": "2023-11-26",
  "8.1": "2025-12-31",
  "8.2": "2026-12-31",
  "8.3": "2027-12-31",
  "8.4": "2028-12-31",
  "8.5": "2029-12-31",
};

/** Whether a version such as 8.2 is the other or newer. */
export function atLeast(version: string, other: string): boolean {
  return version.localeCompare(other, "en", { numeric: true }) >= 0;
}
