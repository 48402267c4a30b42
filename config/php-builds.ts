import { createHash } from "crypto";
import { basename } from "path";
import { z } from "zod";
import type { PhpBuild } from "./model";
import { alwaysOn, packageOf, phpModules, type ModuleRecipe, type PhpModule } from "./php-modules";
import type { DebianRelease, phpBuildSchema } from "./schema";

/** Compiler, autoconf for phpize, and what every build links: systemd for readiness. */
const toolPackages = ["autoconf", "ccache", "g++", "libsystemd-dev", "make", "pkg-config", "zstd"];

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

const sorted = (names: Iterable<string>): string[] => [...new Set(names)].sort();

/**
 * Resolves one declared version for one Debian release. The artefact's name carries a hash of all
 * that decides its bytes, so equal inputs are built once and a change of any is another artefact.
 * `patchTexts` holds the patches by their file.
 */
export function resolveBuild(
  version: string,
  wanted: z.output<typeof phpBuildSchema>,
  debian: DebianRelease,
  patchTexts: Readonly<Record<string, string>> = {},
): PhpBuild {
  const modules = sorted(wanted.modules) as PhpModule[];
  const recipes: ModuleRecipe[] = modules.map((name) => phpModules[name]);
  const pecl = Object.entries(wanted.pecl)
    .map(([name, p]) => ({ name, ...p }))
    .sort((a, b) => a.name.localeCompare(b.name));
  const patches = wanted.patches.map(({ file, sha256 }) => ({ name: basename(file), sha256, text: patchTexts[file] ?? "" }));
  // Before 8.0 JSON was a module like others; no PHP here is without it.
  const json = atLeast(version, "8.0") ? [] : ["--enable-json"];
  const options = [...commonOptions, ...json, ...sorted(recipes.flatMap((r) => [...r.options])), ...wanted.options];
  const inputs = {
    release: wanted.release,
    source: wanted.source.sha256,
    // Left out where there are none: artefacts of before keep their names.
    ...(patches.length > 0 ? { patches: patches.map((p) => p.sha256) } : {}),
    pecl: pecl.map(({ name, sha256, options: o }) => ({ name, sha256, options: o })),
    options,
    debian,
    architecture: "amd64",
  };
  const hash = createHash("sha256").update(JSON.stringify(inputs)).digest("hex").slice(0, 12);
  const core = alwaysOn.filter((m) => m !== "random" || atLeast(version, "8.2"));
  return {
    version,
    release: wanted.release,
    debian,
    artefact: `${wanted.release}-${hash}`,
    source: wanted.source,
    patches,
    pecl,
    options,
    modules: sorted([
      ...core,
      ...modules.map((name) => (phpModules[name] as ModuleRecipe).reported ?? name),
      // The archive of libxml is one module more wherever an XML module is.
      ...(modules.some((m) => m === "dom" || m.includes("xml") || m === "soap") ? ["libxml"] : []),
      ...pecl.map((p) => p.name),
    ]),
    buildPackages: sorted([...toolPackages, ...recipes.flatMap((r) => [...r.build])]),
    runPackages: sorted(["libsystemd0", ...recipes.flatMap((r) => [...r.run])].map((name) => packageOf(debian, name))),
  };
}

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
