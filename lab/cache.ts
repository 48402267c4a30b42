// The cache: every entry is named by a hash of what it was made from, and is either whole or absent.
import { createHash } from "crypto";
import * as fs from "fs";
import * as path from "path";
import { ask, LabError, livingPid, sleep } from "./shell";
import { cacheRoot } from "./paths";

/** First 16 hex digits of the SHA-256 over the inputs: enough to never meet a second time. */
export function contentKey(inputs: unknown): string {
  return createHash("sha256").update(JSON.stringify(inputs)).digest("hex").slice(0, 16);
}

/** Names and contents of all files below a directory, in a stable order, as input for a key. */
export function treeInputs(directory: string): [string, number, string][] {
  const entries = fs.readdirSync(directory, { withFileTypes: true, recursive: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
    .sort()
    .map((file) => [
      path.relative(directory, file),
      fs.statSync(file).mode & 0o111,
      createHash("sha256").update(fs.readFileSync(file)).digest("hex"),
    ]);
}

/**
 * The directory of a cache entry, built when it is absent.
 * `build` fills a directory beside it, which is renamed when complete, so an interruption leaves no half entry.
 * One process builds at a time; others wait for it.
 */
export async function cached(kind: string, key: string, build: (directory: string) => Promise<void>): Promise<string> {
  const entry = path.join(cacheRoot, `${kind}-${key}`);
  if (fs.existsSync(entry)) return entry;
  fs.mkdirSync(cacheRoot, { recursive: true });
  const release = await holdLock(path.join(cacheRoot, `${kind}.lock`), `build of ${kind}`);
  try {
    if (fs.existsSync(entry)) return entry;
    for (const name of fs.readdirSync(cacheRoot)) {
      if (name.startsWith(`${kind}-`) && name.includes(".part-")) removeTree(path.join(cacheRoot, name));
    }
    const part = `${entry}.part-${process.pid}`;
    fs.mkdirSync(part);
    await build(part);
    fs.renameSync(part, entry);
    return entry;
  } finally {
    release();
  }
}

/** Removes a tree that an interrupted build may have left, with mounts inside it (which must not be followed). */
export function removeTree(directory: string): void {
  const real = fs.existsSync(directory) ? fs.realpathSync(directory) : directory;
  const mounts = fs
    .readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4])
    .filter((point): point is string => point !== undefined && (point === real || point.startsWith(`${real}/`)));
  for (const point of mounts.reverse()) {
    if (ask("umount", ["--lazy", point]) === undefined) {
      throw new LabError(`${point} is still mounted and cannot be unmounted: run "umount ${point}" and try again`);
    }
  }
  fs.rmSync(directory, { recursive: true, force: true });
}

/** Waits for and takes a lock file naming its holder; a holder that died does not count. Returns the release. */
export async function holdLock(file: string, what: string): Promise<() => void> {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const mine = `${process.pid}\n`;
  for (let told = false; ; await sleep(0.2)) {
    try {
      fs.writeFileSync(file, mine, { flag: "wx" });
      return () => {
        if (fs.existsSync(file) && fs.readFileSync(file, "utf8") === mine) fs.rmSync(file);
      };
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== "EEXIST") throw e;
    }
    const holder = livingPid(file, "node");
    if (holder === undefined) {
      fs.rmSync(file, { force: true });
    } else if (!told) {
      told = true;
      process.stderr.write(`lab: waiting for process ${holder} (${what}); stop it to go on at once\n`);
    }
  }
}
