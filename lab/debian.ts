// The Debian archive this machine itself uses: the lab never names a mirror of its own.
import * as fs from "fs";
import { ask, LabError } from "./shell";

export interface Archives {
  /** The main archive, e.g. as apt's own sources name it; no slash at the end. */
  main: string;
  /** The security archive, when apt has one. */
  security?: string;
}

export const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Picks Debian's archives out of `apt-get indextargets` lines of the form `label|uri`. */
export function parseArchives(lines: string): Archives | undefined {
  const byLabel = new Map<string, string>();
  for (const line of lines.split("\n")) {
    const [label, uri] = line.split("|");
    if (label && uri && !byLabel.has(label)) byLabel.set(label, uri.replace(/\/+$/, ""));
  }
  const main = byLabel.get("Debian");
  if (main === undefined) return undefined;
  const security = byLabel.get("Debian-Security");
  return security === undefined ? { main } : { main, security };
}

/** The archives of this machine's apt. */
export function archives(): Archives {
  if (!fs.existsSync(keyring)) {
    throw new LabError(`${keyring} is missing, so Debian's packages cannot be verified: apt-get install debian-archive-keyring`);
  }
  const lines = ask("apt-get", ["indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages"]);
  const found = parseArchives(lines ?? "");
  if (found) return found;
  throw new LabError("apt on this machine knows no Debian archive: add one to /etc/apt/sources.list.d, run apt-get update, and try again");
}

/** The text of an apt sources.list for a release. */
export function sourcesList(release: string, from: Archives): string {
  const line = (uri: string, suite: string) => `deb [signed-by=${keyring}] ${uri} ${suite} main\n`;
  const updates = line(from.main, release) + line(from.main, `${release}-updates`);
  return from.security === undefined ? updates : updates + line(from.security, `${release}-security`);
}
