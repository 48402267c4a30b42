// Running other programs, and telling the operator what takes time.
import { spawn, spawnSync, type SpawnOptions } from "child_process";
import * as fs from "fs";
import * as path from "path";

/** A failure whose message is meant for the operator: what, why, remedy. Printed without a stack. */
export class LabError extends Error {}

export interface RunOptions {
  /** Text given on standard input. Default: nothing. */
  input?: string;
  env?: NodeJS.ProcessEnv;
  /** Append the program's output to this file instead of returning it on failure only. */
  log?: string;
}

/** Runs a program to its end and returns its standard output; a failure carries the last lines it said. */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const spawnOptions: SpawnOptions = { stdio: ["pipe", "pipe", "pipe"] };
  if (options.env) spawnOptions.env = options.env;
  const log = options.log === undefined ? undefined : openLog(options.log);
  try {
    return await new Promise((resolve, reject) => {
      const child = spawn(command, args, spawnOptions);
      let out = "";
      let all = "";
      const take = (isOut: boolean) => (data: Buffer) => {
        if (log !== undefined) fs.writeSync(log, data);
        if (isOut) out += data.toString();
        all = (all + data.toString()).slice(-20_000);
      };
      child.stdout?.on("data", take(true));
      child.stderr?.on("data", take(false));
      child.on("error", (e) => reject(new LabError(`${command} could not be started: ${e.message}`)));
      child.on("close", (code, signal) => {
        if (code === 0) return resolve(out);
        const where = options.log === undefined ? "" : `; whole log: ${options.log}`;
        const tail = all.trimEnd().split("\n").slice(-15).join("\n");
        reject(new LabError(`${command} ${args.slice(0, 4).join(" ")} ended with ${signal ?? code}${where}\n${tail}`));
      });
      child.stdin?.on("error", () => undefined);
      child.stdin?.end(options.input ?? "");
    });
  } finally {
    if (log !== undefined) fs.closeSync(log);
  }
}

/** For quick questions (`ip link show`, ...): output when the program succeeded, otherwise undefined. */
export function ask(command: string, args: readonly string[]): string | undefined {
  const result = spawnSync(command, args, { encoding: "utf8" });
  return result.status === 0 ? result.stdout : undefined;
}

/** Starts a program that outlives this one (own session) and returns its pid. */
export function startDetached(command: string, args: readonly string[], log: string, env?: NodeJS.ProcessEnv): number {
  const fd = openLog(log);
  const options: SpawnOptions = { detached: true, stdio: ["ignore", fd, fd] };
  if (env) options.env = env;
  const child = spawn(command, args, options);
  child.on("error", () => undefined); // a missing program shows as a missing pid below
  child.unref();
  fs.closeSync(fd);
  if (child.pid === undefined) throw new LabError(`${command} could not be started: is it installed and on PATH?`);
  return child.pid;
}

/** The pid in a pid file when it is that of a living process whose command line contains `marker`. */
export function livingPid(pidFile: string, marker: string): number | undefined {
  try {
    const pid = Number(fs.readFileSync(pidFile, "utf8").trim());
    const line = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
    return line.includes(marker) ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** Ends one process by id: TERM, and KILL when it is still there after `patience` seconds. */
export async function endProcess(pid: number, patience = 5): Promise<void> {
  const alive = () => fs.existsSync(`/proc/${pid}`) && !zombie(pid);
  const signal = (name: NodeJS.Signals) => {
    try {
      process.kill(pid, name);
    } catch {
      // gone meanwhile
    }
  };
  signal("SIGTERM");
  for (const end = Date.now() + patience * 1000; alive() && Date.now() < end;) await sleep(0.05);
  if (alive()) signal("SIGKILL");
}

function zombie(pid: number): boolean {
  try {
    return /\) Z /.test(fs.readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return true;
  }
}

export const sleep = (seconds: number) => new Promise<void>((resolve) => setTimeout(resolve, seconds * 1000));

/** Asks `check` until it is true; false when `seconds` passed first. */
export async function until(check: () => boolean | Promise<boolean>, seconds: number, every = 0.1): Promise<boolean> {
  for (const end = Date.now() + seconds * 1000; ; await sleep(every)) {
    if (await check()) return true;
    if (Date.now() > end) return false;
  }
}

/** Writes a whole file or nothing: beside, then renamed. */
export function writeAtomic(file: string, content: string, mode = 0o644): void {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const part = `${file}.part-${process.pid}`;
  fs.writeFileSync(part, content, { mode });
  fs.chmodSync(part, mode);
  fs.renameSync(part, file);
}

const started = Number(process.env["FLEET_LAB_STARTED"] ?? Date.now());

/** Does one step of work and says what it was and how long it took. */
export async function step<T>(what: string, work: () => Promise<T>): Promise<T> {
  const begin = Date.now();
  process.stderr.write(`lab: ${what} ...\n`);
  const result = await work();
  const seconds = (Date.now() - begin) / 1000;
  if (seconds >= 0.5) process.stderr.write(`lab: ${what}: ${seconds.toFixed(1)} s\n`);
  return result;
}

export const secondsSinceStart = () => (Date.now() - started) / 1000;

function openLog(file: string): number {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  return fs.openSync(file, "a");
}
