// The stack's configuration as it is written, for this lab, and what of it the lab itself needs.
import * as fs from "fs";
import * as YAML from "yaml";
import { relocated, templates } from "./settings";
import { LabError } from "./shell";

export interface StackFile {
  /** With the addresses of this lab. */
  text: string;
  /** Values of its keys. */
  config: Record<string, object>;
}

export function readStackFile(file: string): StackFile {
  const text = relocated(fs.readFileSync(file, "utf8"));
  const document = YAML.parseDocument(text, { merge: true });
  if (document.errors.length > 0) {
    throw new LabError(document.errors.map((e) => `${file} is no YAML: ${e.message}: correct the line`).join("\n"));
  }
  return { text, ...(document.toJS() as Pick<StackFile, "config">) };
}

/** The lab's templates of the Debian releases that a stack names. */
export function templatesOf(named: Readonly<Record<string, string>>): (typeof templates)[number][] {
  return templates.filter((template) => template.release in named);
}
