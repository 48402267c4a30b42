// Debian packages for guests: a caching proxy on the lab's side of this computer, with a configuration of its own.
import * as fs from "fs";
import * as path from "path";
import { cacheRoot, labPaths } from "./paths";
import { aptProxy } from "./settings";
import { ask, endProcess, LabError, livingPid, startDetached, until, writeAtomic } from "./shell";

const program = "/usr/sbin/apt-cacher-ng";
const directory = path.join(labPaths.run, "apt-cacher-ng");
const pidFile = path.join(labPaths.run, "apt-cacher-ng.pid");
const log = path.join(labPaths.logs, "apt-cacher-ng.log");

/** The packaged configuration remaps mirrors and answers 503 where they are not reached by name; this one does not. */
function configuration(): string {
  const cache = path.join(cacheRoot, "apt");
  return [
    `CacheDir: ${cache}`,
    `LogDir: ${labPaths.logs}`,
    `SocketPath: ${path.join(directory, "socket")}`,
    "SupportDir: /usr/lib/apt-cacher-ng",
    `BindAddress: ${aptProxy.address}`,
    `Port: ${aptProxy.port}`,
    "ForeGround: 1",
    "ConnectProto: v4 v6",
    "ExThreshold: 4",
    "PassThroughPattern: :443$",
    "VerboseLog: 0",
    "",
  ].join("\n");
}

export async function proxyUp(): Promise<void> {
  const text = configuration();
  const file = path.join(directory, "acng.conf");
  const pid = livingPid(pidFile, directory);
  if (pid !== undefined && fs.existsSync(file) && fs.readFileSync(file, "utf8") === text && (await answers())) return;
  if (pid !== undefined) await endProcess(pid);
  fs.mkdirSync(path.join(cacheRoot, "apt"), { recursive: true });
  writeAtomic(file, text);
  const started = startDetached(program, ["-c", directory], log);
  writeAtomic(pidFile, `${started}\n`);
  if (!(await until(answers, 10))) {
    throw new LabError(
      `the package proxy does not answer on ${aptProxy.address}:${aptProxy.port}; its log is ${log}, and its configuration ${file}`,
    );
  }
}

export async function proxyDown(): Promise<void> {
  const pid = livingPid(pidFile, directory);
  if (pid !== undefined) await endProcess(pid);
  fs.rmSync(pidFile, { force: true });
}

async function answers(): Promise<boolean> {
  // It answers its own page with 406 and an explanation: any HTTP answer will do.
  return ask("curl", ["-s", "-o", "/dev/null", "--noproxy", "*", "-m", "2", `http://${aptProxy.address}:${aptProxy.port}/`]) !== undefined;
}
