// Source tarballs the lab's sites and PHP are made of: pinned by path in the Debian archive and by SHA-256.
import { createHash } from "crypto";
import * as fs from "fs";
import * as path from "path";
import { archives } from "./debian";
import { cacheRoot } from "./paths";
import { LabError, run } from "./shell";
import pinned from "./sources.json";

export interface Source {
  /** File name as the annex serves it. */
  name: string;
  /** Path below the Debian archive. */
  path: string;
  sha256: string;
}

/** What the lab's own stack is made of. */
export const sources: Source[] = pinned.files;

/** Further PHP versions, their PECL modules and applications, which only some tests use: fetched when one asks for them. */
export const versionSources: Source[] = pinned.versions;

/** Directory of the verified tarballs; the annex serves it. */
export const sourcesDirectory = path.join(cacheRoot, "sources");

/** Fetches what is missing or does not match, and verifies all that is wanted. */
export async function sourcesUp(wanted: readonly Source[] = sources): Promise<void> {
  fs.mkdirSync(sourcesDirectory, { recursive: true });
  for (const source of wanted) {
    const file = path.join(sourcesDirectory, source.name);
    if (sha256(file) === source.sha256) continue;
    const url = `${archives().main}/${source.path}`;
    const part = `${file}.part`;
    await run("curl", ["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--output", part, url]).catch((e: Error) => {
      throw new LabError(
        `${source.name}: ${url} cannot be fetched (${lastLine(e.message)}): if the archive no longer has it, pin its present version in lab/sources.json`,
      );
    });
    const got = sha256(part);
    if (got !== source.sha256) {
      fs.rmSync(part, { force: true });
      throw new LabError(
        `${source.name}: ${url} has SHA-256 ${got}, lab/sources.json pins ${source.sha256}: find out why before you change the pin`,
      );
    }
    fs.renameSync(part, file);
  }
}

function sha256(file: string): string | undefined {
  return fs.existsSync(file) ? createHash("sha256").update(fs.readFileSync(file)).digest("hex") : undefined;
}

function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1) ?? "";
}
