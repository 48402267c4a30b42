import { spawnSync } from "child_process";
import * as fs from "fs";
import * as path from "path";
import * as YAML from "yaml";
import { z } from "zod";
import { applicationFiles } from "../config/applications";
import { secretsFile, type Written } from "../config/load";
import { buildFiles } from "../config/php-builds";
import { ConfigError, type Problem } from "../config/problems";
import { secretMistakes } from "../config/secrets";
import { projectRoot } from "../components/programs";

/** What the program reads of a stack whose files are in `directory`. */
export interface StackFiles {
  readonly stack: string;
  readonly directory: string;
  /** All keys as Pulumi hands them over: text, JSON where they were structured. */
  readonly config: Readonly<Record<string, string>>;
  /** Keys that are encrypted there. */
  readonly encrypted: readonly string[];
}

/** Everything that was written for a stack. */
export function readConfig({ stack, directory, config: all, encrypted }: StackFiles): Written {
  const config = Object.fromEntries(
    Object.entries(all)
      .filter(([key]) => key.startsWith("fleet:"))
      .map(([key, text]) => [key.slice("fleet:".length), structured(text)]),
  );
  const [secrets, files] = [readSecrets(stack, directory), readFiles(stack, config)];
  return { stack, config, encrypted, secrets, ...files, unreadable: [...files.unreadable, ...secretMistakes(stack, secrets)] };
}

/** Directory of a stack's site files, from the project's root. */
export const sitesDirectoryOf = ({ config }: Pick<Written, "config">): string =>
  typeof config["sites"] === "string" ? config["sites"] : "sites";

/** The files of the project that the keys of a stack name. */
export function readFiles(stack: string, config: Written["config"]): Required<Pick<Written, "sites" | "unreadable" | "patches">> {
  return { ...readSites(stack, sitesDirectoryOf({ config })), patches: readTexts(config) };
}

/** What names the authority of the Redis server. */
const authoritySchema = z.object({ tls: z.object({ ca: z.string() }) }).transform(({ tls }) => [tls.ca]);

/**
 * Texts of the files that `fleet:php`, `fleet:redis` and applications name, as far as they exist. What is wrong with them
 * is the loader's to say.
 */
function readTexts(config: Written["config"]): Record<string, string> {
  const builds = z.record(z.string(), z.unknown()).catch({}).parse(config["php"]);
  const authority = authoritySchema.catch([]).parse(config["redis"]);
  const files = [...Object.values(builds).flatMap(buildFiles), ...authority, ...applicationFiles(config)];
  const places = files.map((file) => [file, path.resolve(projectRoot, file)] as const).filter(([, place]) => fs.existsSync(place));
  return Object.fromEntries(places.map(([file, place]) => [file, fs.readFileSync(place, "utf8")]));
}

/**
 * The secrets of a stack, as `pulumi config` decrypts them from a file of their own, over a pipe.
 * Were they in the stack's configuration, Pulumi would hand them to the program in its environment,
 * where every process of the same account, every crash report and every child of it finds them.
 * @throws ConfigError where they cannot be decrypted.
 */
export function readSecrets(stack: string, directory: string): Record<string, unknown> {
  const file = path.join(directory, secretsFile(stack));
  if (!fs.existsSync(file)) return {};
  const words = ["config", "--show-secrets", "--json", "--non-interactive", "--stack", stack, "--config-file", file];
  const { status, stdout, stderr, error } = spawnSync("pulumi", words, { cwd: directory, encoding: "utf8" });
  if (status !== 0) {
    const value = error?.message ?? stderr.trim().split("\n").join(" ");
    const allowed = "a file that pulumi can decrypt";
    const remedy =
      "Export PULUMI_CONFIG_PASSPHRASE_FILE with the stack's own passphrase: a prompt of pulumi's own does not reach the program.";
    throw new ConfigError([{ file: secretsFile(stack), property: "(whole file)", value, allowed, remedy }]);
  }
  const values = JSON.parse(stdout) as Record<string, { readonly value?: string }>;
  const prefix = "fleet:";
  return Object.fromEntries(
    Object.entries(values).map(([key, { value }]) => [key.startsWith(prefix) ? key.slice(prefix.length) : key, value]),
  );
}

/** Names the file of the outputs that a run of some resources alone leaves as they are. Not their text: some are secret. */
export const keptOutputsFile = "FLEET_KEPT_OUTPUTS";

/** What such a run returns: the outputs of the last whole one, for a run of a few resources brings none of the others about. */
export function keptOutputs(): Record<string, unknown> | undefined {
  const file = process.env[keptOutputsFile];
  return file === undefined ? undefined : (JSON.parse(fs.readFileSync(file, "utf8")) as Record<string, unknown>);
}

function structured(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/**
 * Parses every site file of a directory of the project. A directory that is not there, a file that is no YAML
 * and one with another ending are mistakes: a site that is silently not read would be taken away.
 */
export function readSites(stack: string, directory: string): Required<Pick<Written, "sites" | "unreadable">> {
  const full = path.resolve(projectRoot, directory);
  if (!fs.existsSync(full)) {
    const allowed = "a directory of site files; an empty one where there are none";
    const remedy = `Correct the path, or make it so that git keeps it: mkdir -p ${directory} && touch ${directory}/.gitkeep`;
    return { sites: {}, unreadable: [{ file: `Pulumi.${stack}.yaml`, property: "fleet:sites", value: directory, allowed, remedy }] };
  }
  const unreadable: Problem[] = [];
  const sites: Record<string, unknown> = {};
  for (const name of fs.readdirSync(full).sort()) {
    const file = path.join(directory, name);
    if (name.endsWith(".yml")) {
      unreadable.push({ file, property: "(whole file)", value: name, allowed: "a name that ends in .yaml", remedy: "Rename the file." });
    }
    if (!name.endsWith(".yaml")) continue;
    const { content, mistakes } = parseYaml(file, fs.readFileSync(path.join(full, name), "utf8"));
    unreadable.push(...mistakes);
    if (mistakes.length === 0) sites[file] = content;
  }
  return { sites, unreadable };
}

/** Content of a YAML file, or what is wrong with its lines; `file` is its name in messages. */
export function parseYaml(
  file: string,
  text: string,
  options: YAML.ParseOptions & YAML.DocumentOptions & YAML.SchemaOptions = {},
): { readonly content?: unknown; readonly mistakes: readonly Problem[] } {
  const document = YAML.parseDocument(text, { ...options, prettyErrors: false });
  if (document.errors.length === 0) return { content: document.toJS(), mistakes: [] };
  const lines = text.split("\n");
  const mistakes = document.errors.map((error): Problem => {
    const line = text.slice(0, error.pos[0]).split("\n").length;
    return {
      file,
      property: `line ${line}`,
      value: lines[line - 1]?.trim() ?? "",
      allowed: `YAML (${error.message})`,
      remedy: "Correct it, or a line before it.",
    };
  });
  return { mistakes };
}
