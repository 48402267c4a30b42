import { execFile, spawn } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll } from "vitest";
import { configFile, projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { labPaths } from "../../lab/paths";
import { network, relocated } from "../../lab/settings";
import { machines, order, type Machine } from "../../lab/vcenter";

export const root = path.join(__dirname, "..", "..");
/** Address of the web service, from Pulumi.lab.yaml. */
export const vip = relocated("10.77.0.100");

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a program to its end, whatever its exit code. */
export function run(command: string, args: readonly string[], env: Record<string, string> = {}, cwd = root): Promise<Outcome> {
  return new Promise((resolve) => {
    const options = { cwd, env: { ...process.env, ...env }, maxBuffer: 1 << 28, encoding: "utf8" as const };
    execFile(command, args, options, (error, out, err) => {
      const code = error ? (typeof error.code === "number" ? error.code : 1) : 0;
      resolve({ code, out, err });
    });
  });
}

/** Words of an ssh command to a machine of the fleet, as its administrator. */
export function sshWords(address: string): string[] {
  const key = path.join(labPaths.run, "test-key");
  if (!fs.existsSync(key)) {
    const { sshPrivateKey } = JSON.parse(fs.readFileSync(labPaths.facts, "utf8")) as { sshPrivateKey: string };
    fs.writeFileSync(key, sshPrivateKey, { mode: 0o600 });
  }
  // Who answers is proved by the program, with the key that each machine was born with.
  const options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=10"];
  return ["-i", key, ...options.flatMap((o) => ["-o", o]), `fleet@${address}`];
}

/** A command on a machine of the fleet as its administrator. */
export async function on(name: string, command: string): Promise<string> {
  const { Address } = await machine(name);
  const result = await run("ssh", [...sshWords(Address), command]);
  if (result.code !== 0) throw new Error(`${name}: ${command} ended with ${result.code}: ${result.err}`);
  return result.out;
}

/** A pulumi command on the lab's stack, with this checkout's program or that of a copy. */
export function pulumi(args: readonly string[], directory = projectDirectory, config = configFile): Promise<Outcome> {
  return run("pulumi", [...args, "--stack", "lab", "--config-file", config, "--non-interactive"], pulumiEnvironment(), directory);
}

/** cli/fleet.ts on the lab's stack. */
export const fleet = (...words: string[]): Promise<Outcome> =>
  run("tsx", [path.join(root, "cli", "fleet.ts"), ...words, "--stack", "lab"], pulumiEnvironment(), projectDirectory);

/** A copy of the lab's stack file in which values are changed, as an operator edits it. */
export function changedConfig(change: (text: string) => string): string {
  const file = path.join(projectDirectory, "Pulumi.changed.yaml");
  const before = fs.readFileSync(configFile, "utf8");
  const after = change(before);
  if (after === before) throw new Error("the change of the stack changed nothing");
  fs.writeFileSync(file, after, { mode: 0o600 });
  return file;
}

/** curl from inside the lab's network, with every name of a site pointing at the VIP. */
export async function curl(url: string, ...options: string[]): Promise<Outcome> {
  const { hostname } = new URL(url);
  const resolve = [80, 443].flatMap((port) => ["--resolve", `${hostname}:${port}:${vip}`]);
  return run("ip", ["netns", "exec", network.namespace, "curl", "-sSk", "--max-time", "60", ...resolve, ...options, url]);
}

/** What the status site says of itself. */
export interface Status {
  readonly host: string;
  readonly apache: string;
  readonly php: string;
  readonly uid: number;
  readonly modules: string[];
  readonly https: boolean;
  readonly visits: number;
}

/** One answer of the status site. */
export async function status(scheme: "http" | "https" = "http"): Promise<Status> {
  const { out } = await curl(`${scheme}://status.lab.test/`);
  return JSON.parse(out) as Status;
}

/** What the open-loop client saw. */
export interface Seen {
  readonly sent: number;
  readonly failed: number;
  /** Seconds of the longest run of failures. */
  readonly outage: number;
  /** Seconds from the first failure to the last. */
  readonly span: number;
  /** Seconds from the last failure to the end. */
  readonly quiet: number;
  /** Seconds from the tick of the schedule to the end of the answer. */
  readonly p99: number;
  readonly kinds: Record<string, { readonly sent: number; readonly failed: number; readonly p99: number }>;
  readonly bodies: Record<string, number>;
  readonly errors: Record<string, number>;
  /** The first 20: time of day, kind, what was seen. */
  readonly failures: string[];
  /** GETs that met the closing of a kept connection and were sent once more. */
  readonly resent: number;
  /** Seconds of each request, in the order of their ticks. */
  readonly latencies: number[];
  /** When each good answer was there, in order: seconds since 1970. */
  readonly answers: number[];
}

/** Ten new connections a second. */
export const onlyGets = ["get=0.1"];
/** New connections, kept ones, and POSTs that take a second to send. */
export const mixed = ["get=0.2", "keep=0.1", "post=0.5"];

/** A client that runs; `stop` ends it and tells what it saw. */
export interface Probe {
  readonly stop: () => Promise<Seen>;
}

/** A page that the client asks for. */
export interface Page {
  readonly host: string;
  readonly path: string;
  /** @default that of the mutualised platform */
  readonly vip?: string;
  /** 443 is HTTPS. @default 80 */
  readonly port?: 80 | 443;
}

/** The status site's JSON page. */
const statusPage: Page = { host: "status.lab.test", path: "/" };

/** Starts the open-loop client on a page. */
export function startProbe(load: readonly string[] = onlyGets, timeout = 2, page: Page = statusPage): Probe {
  const words = [page.vip ?? vip, String(page.port ?? 80), page.host, page.path, "36000", String(timeout), ...load];
  const script = path.join(__dirname, "probe.py");
  const child = spawn("ip", ["netns", "exec", network.namespace, "python3", script, ...words], { stdio: ["pipe", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (data: Buffer) => (out += data.toString()));
  const done = new Promise<Seen>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => resolve(JSON.parse(out) as Seen));
  });
  return {
    stop: () => {
      child.stdin.end();
      return done;
    },
  };
}

export const sleep = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Waits until the question is answered with yes. */
export async function until(question: () => Promise<boolean>, seconds: number, what: string): Promise<void> {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(0.5)) {
    if (await question().catch(() => false)) return;
  }
  throw new Error(`not within ${seconds} s: ${what}`);
}

export async function machine(name: string): Promise<Machine> {
  const found = (await machines()).find((m) => m.Name === name);
  if (!found) throw new Error(`the lab has no ${name}`);
  return found;
}

/** Powers a machine on again and waits until its health responder says ready. */
export async function revive(name: string): Promise<void> {
  await order(name, "start");
  await ready(name);
}

/** Waits until a machine's health responder says ready. */
export async function ready(name: string): Promise<void> {
  const { Address } = await machine(name);
  const ask = (): Promise<Outcome> =>
    run("ip", ["netns", "exec", network.namespace, "curl", "-sf", "--max-time", "3", `http://${Address}:8100/ready`]);
  await until(async () => (await ask()).code === 0, 120, `${name} says ready`);
}

/** Real servers of each virtual service, as the director's kernel has them: service -> server -> weight. */
export async function ipvs(director: string): Promise<Record<string, Record<string, number>>> {
  const services: Record<string, Record<string, number>> = {};
  let current = "";
  for (const line of (await on(director, "sudo ipvsadm -Ln")).split("\n")) {
    const service = /^TCP\s+(\S+)/.exec(line);
    const server = /^\s+->\s+(\S+)\s+Route\s+(\d+)/.exec(line);
    if (service?.[1]) services[(current = service[1])] = {};
    else if (server?.[1]) (services[current] ??= {})[server[1]] = Number(server[2]);
  }
  return services;
}

/** The director that holds the VIP now. */
export async function liveDirector(): Promise<string> {
  for (const name of ["lb1", "lb2"]) {
    if ((await machine(name)).State !== "on") continue;
    if ((await on(name, "ip -4 -o address show dev eth0")).includes(`${vip}/32`)) return name;
  }
  throw new Error("no director holds the VIP");
}

/** Weight of every real server of every service, as the live director has them. */
export async function liveWeights(): Promise<number[]> {
  return Object.values(await ipvs(await liveDirector())).flatMap((servers) => Object.values(servers));
}

/** Waits until every service of a machine has this weight in the live director's table. */
async function weighs(name: string, weight: number): Promise<void> {
  const { Address } = await machine(name);
  const all = async (): Promise<boolean> => {
    const servers = Object.values(await ipvs(await liveDirector())).flatMap((of) => Object.entries(of));
    const own = servers.filter(([server]) => server.startsWith(`${Address}:`));
    return own.length > 0 && own.every(([, found]) => found === weight);
  };
  await until(all, 60, `${name} has weight ${weight}`);
}

/** Has the balancers send a machine no new requests, until {@link undrain}. */
export async function drain(name: string): Promise<void> {
  await on(name, "sudo mkdir -p /run/fleet; sudo touch /run/fleet/drain");
  await weighs(name, 0);
}

export async function undrain(name: string): Promise<void> {
  await on(name, "sudo rm -f /run/fleet/drain");
  await weighs(name, 1);
}

/** The value that this share of all values does not exceed; 0 of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0;
}

/** Waits until the live director has every real server in its table and the site answers 30 times in a row. */
export async function settled(): Promise<void> {
  const whole = async (): Promise<boolean> => {
    const weights = await liveWeights();
    for (let i = 0; i < 30; i++) await status();
    return weights.length === 10 && weights.every((w) => w === 1);
  };
  await until(whole, 120, "all real servers are back and the site answers");
}

const folders: string[] = [];
afterAll(() => folders.splice(0).forEach((folder) => fs.rmSync(folder, { recursive: true, force: true })));

/** A directory that is gone when the tests of the file have ended. */
export function temporary(what: string): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), `${what}-`));
  folders.push(folder);
  return folder;
}

/** The PHP build that a unit of a machine starts; units are root's to read. */
export const buildOf = async (name: string, unit = "fleet-site-status"): Promise<string> =>
  (await on(name, `sudo grep -oPm1 '/opt/php/\\K[^/]+' /etc/systemd/system/${unit}.service`)).trim();

/** A change of one file of the program. */
export type Edit = readonly [file: string, change: (text: string) => string];

/** A copy of the checkout in which one file is changed: what a commit of a colleague would be. */
export const changedCheckout = (...only: Edit): Promise<string> => checkoutWith(only);

/** The same with several changes at once. */
export async function checkoutWith(...edits: readonly Edit[]): Promise<string> {
  const copy = temporary("fleet-checkout");
  for (const name of [
    "Pulumi.yaml",
    "package.json",
    "tsconfig.json",
    "config",
    "components",
    "stacks",
    "templates",
    "host",
    "sites",
    "patches",
  ]) {
    fs.cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
  }
  fs.symlinkSync(path.join(root, "node_modules"), path.join(copy, "node_modules"));
  for (const name of fs.readdirSync(projectDirectory).filter((n) => n.endsWith(".secrets.yaml"))) {
    fs.symlinkSync(path.join(projectDirectory, name), path.join(copy, name));
  }
  for (const one of edits) edit(copy, ...one);
  return copy;
}

/** A file as it would be after the change, which must find something to change. */
export function edited(directory: string, file: string, change: (text: string) => string): string {
  const before = fs.readFileSync(path.join(directory, file), "utf8");
  const after = change(before);
  if (after === before) throw new Error(`the change of ${file} changed nothing`);
  return after;
}

/** Changes one more file of a changed checkout. */
export function edit(copy: string, file: string, change: (text: string) => string): void {
  fs.writeFileSync(path.join(copy, file), edited(copy, file, change));
}
