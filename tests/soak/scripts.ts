import { spawn, type ChildProcess } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import * as YAML from "yaml";
import { configFile, projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { annex } from "../../lab/settings";
import { versionSources } from "../../lab/sources";
import { changedConfig, on, root, type Outcome } from "../lab/lab";

/** Directory of the tests' own scripts in a site's tree. */
export const place = "fleet-test";

/** The same where Apache serves it. */
export const served = `htdocs/${place}`;

/** Puts a script of the tests into a directory of the tree of a site of the lab. */
export async function put(site: string, name: string, text: string, directory = place): Promise<void> {
  const tree = `/srv/fleet/sites/${site}`;
  const uid = (await on("nas1", `sudo stat -c %u ${tree}/htdocs`)).trim();
  const owner = `-o ${uid} -g ${uid}`;
  const content = Buffer.from(text).toString("base64");
  await on("nas1", `sudo install -d ${owner} -m 755 ${tree}/${directory}`);
  await on("nas1", `echo ${content} | base64 -d | sudo install ${owner} -m 644 /dev/stdin ${tree}/${directory}/${name}`);
}

/** Text of a file that a script of the tests wrote; empty where there is none. */
export const read = (site: string, name: string): Promise<string> =>
  on("nas1", `sudo cat /srv/fleet/sites/${site}/${place}/${name} 2>/dev/null || true`);

/** Removes all of it. */
export const clear = (site: string): Promise<string> =>
  on("nas1", `cd /srv/fleet/sites && sudo rm -rf ${[place, served, ".fleet"].map((directory) => `${site}/${directory}`).join(" ")}`);

/** Removes the trees and accounts of sites that only a test had, known by how their names begin. */
export async function forget(prefix: string): Promise<void> {
  await on("nas1", `sudo sh -c 'rm -rf /srv/fleet/sites/${prefix}[0-9]*'`);
  const accounts = "/etc/passwd /etc/shadow /etc/group /etc/gshadow";
  for (const vm of ["php1", "php2"]) await on(vm, `sudo sed -i '/^fleet-site-${prefix}[0-9]/d' ${accounts}`);
}

/** Starts phpexec as an operator does, in a process group of its own. */
export function startPhpexec(...words: string[]): ChildProcess {
  return spawn("tsx", [path.join(root, "cli", "phpexec.ts"), "-s", "lab", ...words], {
    cwd: projectDirectory,
    env: { ...process.env, ...pulumiEnvironment() },
    detached: true,
  });
}

/** phpexec to its end, with this text on its standard input. */
export function phpexec(words: readonly string[], input = ""): Promise<Outcome> {
  const child = startPhpexec(...words);
  const said = { out: "", err: "" };
  child.stdout?.on("data", (data: Buffer) => (said.out += data.toString()));
  child.stderr?.on("data", (data: Buffer) => (said.err += data.toString()));
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(input);
  return new Promise((resolve) => child.on("close", (code) => resolve({ code: code ?? 255, ...said })));
}

/** An archive that the annex serves, as a build names it. */
function source(name: RegExp): { url: string; sha256: string } {
  const found = versionSources.find((s) => name.test(s.name));
  if (!found) throw new Error(`lab/sources.json has no ${String(name)}`);
  return { url: `http://${annex.address}/${found.name}`, sha256: found.sha256 };
}

/** What the tests declare of a build. */
export interface Build {
  release: string;
  source: { url: string; sha256: string };
  patches?: { file: string; sha256: string }[];
  modules: string[];
  pecl: Record<string, { url: string; sha256: string; options?: string[] }>;
  options?: string[];
  knownFailures?: string[];
}

/** A build of another release than the lab's, with four PECL modules: the same one for all tests, so that it is compiled once. */
export function anotherBuild(release: string, modules: readonly string[]): Build {
  const pecl = {
    apcu: source(/^php-apcu/),
    igbinary: source(/^php-igbinary/),
    memcached: { ...source(/^php-memcached/), options: ["--disable-memcached-sasl"] },
    redis: source(/^php-redis/),
  };
  return { release, source: source(new RegExp(`^php-${release}`)), modules: [...modules], pecl };
}

/** Keys of the lab's stack, as far as the tests change them. */
export interface StackKeys {
  "fleet:sites": string;
  "fleet:mutualised": { apache: object; php: { "php-a": object } };
  "fleet:rollout"?: object;
}

/** The lab's stack with other site files, each by its name, and with other keys. */
export function withSites(files: Readonly<Record<string, object>>, change: (keys: StackKeys) => void = () => undefined): string {
  return changedConfig((text) => {
    const stack = YAML.parse(text) as { config: StackKeys };
    const sites = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-sites-"));
    fs.cpSync(path.resolve(root, stack.config["fleet:sites"]), sites, { recursive: true });
    for (const [name, site] of Object.entries(files)) fs.writeFileSync(path.join(sites, `${name}.yaml`), YAML.stringify(site));
    stack.config["fleet:sites"] = sites;
    change(stack.config);
    return YAML.stringify(stack, { aliasDuplicateObjects: false });
  });
}

/** The file of a site of the lab. */
export function siteFile(name: string): object {
  const { config } = YAML.parse(fs.readFileSync(configFile, "utf8")) as { config: StackKeys };
  return YAML.parse(fs.readFileSync(path.resolve(root, config["fleet:sites"], `${name}.yaml`), "utf8")) as object;
}

/** The lab's stack with cron entries for its status site. */
export const withCron = (...cron: object[]): string => withSites({ status: { ...siteFile("status"), cron } });

/** A script that notes its VM and the minute, one line a run. */
export const noteRun = `<?php file_put_contents(__DIR__ . '/runs', gethostname() . ' ' . gmdate('Y-m-d\\TH:i') . "\\n", FILE_APPEND | LOCK_EX);\n`;

/** What such a script noted, in the order of the runs. */
export async function runsOf(site: string): Promise<{ vm: string; minute: number }[]> {
  const lines = (await read(site, "runs")).trim().split("\n").filter(Boolean);
  return lines.map((line) => {
    const [vm = "", minute = ""] = line.split(" ");
    return { vm, minute: Date.parse(`${minute}:00Z`) / 60_000 };
  });
}
