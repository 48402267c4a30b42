// The vCenter process: starting it, ending it, and asking it for things over its control socket.
import * as fs from "fs";
import * as http from "http";
import * as path from "path";
import { labPaths, labRoot } from "./paths";
import { endProcess, LabError, livingPid, startDetached, until, writeAtomic } from "./shell";
import { nativePattern, network, vcenter } from "./settings";
import type { Secrets } from "./secrets";

const program = "fleet-vcenter";
const configFile = path.join(labPaths.run, "vcenter.json");
const pidFile = path.join(labPaths.run, "vcenter.pid");
const log = path.join(labPaths.logs, "vcenter.log");

/** One machine as the vCenter process sees it. */
export interface Machine {
  ID: string;
  Name: string;
  UUID: string;
  Address: string;
  /** off, starting, booting, on, frozen */
  State: string;
  /** Why the last order failed; empty when it did not. */
  Failure: string;
  Native: boolean;
  MemoryMB: number;
  /** Seconds from start to the first answer on its SSH port. */
  Boot: number;
  /** Seconds since the state changed. */
  Up: number;
  /** What it costs this computer now. */
  MemoryBytes: number;
  CPUSeconds: number;
}

export interface TemplateImage {
  name: string;
  guestId: string;
  image: string;
}

/** Starts the process, or replaces it when program or configuration have changed. Machines do not notice. */
export async function vcenterUp(secrets: Secrets, kernel: string, templates: TemplateImage[]): Promise<void> {
  const certificate = path.join(labPaths.run, "vcenter-certificate.pem");
  const privateKey = path.join(labPaths.run, "vcenter-key.pem");
  writeAtomic(certificate, secrets.vcenterCertificate, 0o600);
  writeAtomic(privateKey, secrets.vcenterPrivateKey, 0o600);
  const binary = findProgram();
  const config = JSON.stringify(
    {
      state: labRoot,
      listen: vcenter.listen,
      user: vcenter.user,
      password: secrets.vspherePassword,
      certificate,
      privateKey,
      control: labPaths.control,
      kernel,
      namespace: network.namespace,
      bridge: network.bridge,
      gateway: network.gateway,
      prefix: network.prefix,
      templates,
      native: nativePattern,
      // Not read by the program; a new build means a new configuration, and so a restart.
      build: `${binary} ${fs.statSync(binary).mtimeMs}`,
    },
    null,
    2,
  );
  const pid = livingPid(pidFile, configFile);
  if (pid !== undefined && fs.existsSync(configFile) && fs.readFileSync(configFile, "utf8") === config && (await answers())) return;
  if (pid !== undefined) await endProcess(pid, 30);
  writeAtomic(configFile, config, 0o600);
  const started = startDetached(binary, [configFile], log);
  writeAtomic(pidFile, `${started}\n`);
  if (!(await until(async () => (await answers()) || !fs.existsSync(`/proc/${started}`), 30)) || !(await answers())) {
    const tail = fs.existsSync(log) ? fs.readFileSync(log, "utf8").trimEnd().split("\n").slice(-8).join("\n") : "";
    throw new LabError(`the vCenter does not answer; end of ${log}:\n${tail}`);
  }
}

/** Ends the process; with `stopMachines`, every machine first (orderly, and remembered as on). */
export async function vcenterDown(stopMachines: boolean): Promise<void> {
  const pid = livingPid(pidFile, configFile);
  if (pid !== undefined) {
    await ask("POST", `/quit?machines=${stopMachines ? "stop" : "keep"}`).catch(() => undefined);
    if (!(await until(() => livingPid(pidFile, configFile) === undefined, stopMachines ? 60 : 10))) await endProcess(pid);
  }
  fs.rmSync(pidFile, { force: true });
  fs.rmSync(labPaths.control, { force: true });
}

export async function machines(): Promise<Machine[]> {
  return ((await ask("GET", "/machines")) as Machine[] | null) ?? [];
}

/** One order to a machine: start, stop, kill, freeze, thaw, cut, heal, console, slow. */
export async function order(name: string, verb: string, query: Record<string, string> = {}): Promise<unknown> {
  const text = new URLSearchParams(query).toString();
  return ask("POST", `/machines/${encodeURIComponent(name)}/${verb}${text ? `?${text}` : ""}`);
}

/** Removes machines of VMs that are not in the inventory: a run that was killed left them. */
export async function clearMachines(): Promise<void> {
  await ask("POST", "/clear");
}

/** Takes a VM out of the inventory; one that is not there is no error. */
export async function removeVm(name: string): Promise<void> {
  await ask("DELETE", `/inventory/${encodeURIComponent(name)}`);
}

export interface MachineSpec {
  name: string;
  uuid: string;
  memoryMb: number;
  mac: string;
  image: string;
  guestinfo: Record<string, string>;
  address: string;
  /** Directory of this computer the guest may mount (type hostfs). */
  share?: string;
}

/** Starts a machine that is not in the inventory. */
export async function startMachine(name: string, spec: MachineSpec): Promise<void> {
  await ask("PUT", `/machines/${encodeURIComponent(name)}`, spec);
}

async function answers(): Promise<boolean> {
  return machines().then(
    () => true,
    () => false,
  );
}

function ask(method: string, target: string, body?: unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath: labPaths.control, path: target, method, timeout: 120_000 }, (response) => {
      let text = "";
      response.on("data", (data: Buffer) => (text += data.toString()));
      response.on("end", () => {
        const answer = text.trim() === "" ? null : JSON.parse(text);
        if (response.statusCode === 200) return resolve(answer);
        reject(new LabError((answer as { error?: string } | null)?.error ?? `the vCenter said ${response.statusCode}: ${text}`));
      });
    });
    request.on("error", (e: NodeJS.ErrnoException) => {
      const down = e.code === "ENOENT" || e.code === "ECONNREFUSED";
      reject(
        new LabError(down ? "the lab is not running: start it with `npm run lab -- up`" : `the vCenter's control socket: ${e.message}`),
      );
    });
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

function findProgram(): string {
  for (const directory of (process.env["PATH"] ?? "").split(":")) {
    const file = path.join(directory, program);
    if (fs.existsSync(file)) return file;
  }
  throw new LabError(`${program} is not on PATH: start the lab with \`npm run lab\`, which builds it`);
}
