import { spawn, type ChildProcess } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import * as YAML from "yaml";
import { configFile, projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { changedConfig, on, root, type Outcome } from "../lab/lab";

/** Directory of the tests' own scripts in a site's tree. */
export const place = "fleet-test";

/** Puts a script of the tests into the tree of a site of the lab. */
export async function put(site: string, name: string, text: string): Promise<void> {
  const tree = `/srv/fleet/sites/${site}`;
  const uid = (await on("nas1", `sudo stat -c %u ${tree}/htdocs`)).trim();
  const owner = `-o ${uid} -g ${uid}`;
  const content = Buffer.from(text).toString("base64");
  await on("nas1", `sudo install -d ${owner} -m 755 ${tree}/${place}`);
  await on("nas1", `echo ${content} | base64 -d | sudo install ${owner} -m 644 /dev/stdin ${tree}/${place}/${name}`);
}

/** Text of a file that a script of the tests wrote; empty where there is none. */
export const read = (site: string, name: string): Promise<string> =>
  on("nas1", `sudo cat /srv/fleet/sites/${site}/${place}/${name} 2>/dev/null || true`);

/** Removes all of it. */
export const clear = (site: string): Promise<string> =>
  on("nas1", `sudo rm -rf /srv/fleet/sites/${site}/${place} /srv/fleet/sites/${site}/.fleet`);

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

/** The lab's stack with cron entries for its status site. */
export const withCron = (...cron: object[]): string => withStatus({ cron });

/** The lab's stack with keys of its status site changed, and keys of its own. */
export function withStatus(keys: object, stack: object = {}): string {
  const { config } = YAML.parse(fs.readFileSync(configFile, "utf8")) as { config: { "fleet:sites": string } };
  const sites = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-sites-"));
  fs.cpSync(path.resolve(root, config["fleet:sites"]), sites, { recursive: true });
  const file = path.join(sites, "status.yaml");
  fs.writeFileSync(file, YAML.stringify({ ...(YAML.parse(fs.readFileSync(file, "utf8")) as object), ...keys }));
  return changedConfig((text) => {
    const { config: before } = YAML.parse(text) as { config: object };
    return YAML.stringify({ config: { ...before, ...stack, "fleet:sites": sites } }, { aliasDuplicateObjects: false });
  });
}

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
