import * as fs from "fs";
import * as path from "path";
import * as YAML from "yaml";
import type { Written } from "../config/load";
import { ConfigError, type Problem } from "../config/problems";
import { projectRoot } from "../components/programs";

/** Values of the `fleet:` keys as Pulumi hands them over: text, JSON where they were structured. */
export function readConfig(stack: string, all: Readonly<Record<string, string>>): Written {
  const config = Object.fromEntries(
    Object.entries(all)
      .filter(([key]) => key.startsWith("fleet:"))
      .map(([key, text]) => [key.slice("fleet:".length), structured(text)]),
  );
  const directory = typeof config["sites"] === "string" ? config["sites"] : "sites";
  return { stack, config, sites: readSites(directory) };
}

function structured(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** Parses every site file of a directory of the project; broken YAML is told with its line. */
export function readSites(directory: string): Record<string, unknown> {
  const full = path.resolve(projectRoot, directory);
  if (!fs.existsSync(full)) return {};
  const problems: Problem[] = [];
  const sites: Record<string, unknown> = {};
  for (const name of fs
    .readdirSync(full)
    .filter((n) => n.endsWith(".yaml"))
    .sort()) {
    const file = path.join(directory, name);
    const document = YAML.parseDocument(fs.readFileSync(path.join(full, name), "utf8"));
    for (const error of document.errors) {
      const [message = ""] = error.message.split("\n");
      problems.push({ file, property: "(whole file)", value: message, allowed: "YAML", remedy: "Correct the line." });
    }
    if (document.errors.length === 0) sites[file] = document.toJS();
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return sites;
}
