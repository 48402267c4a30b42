import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { curl, drain, machine, on, pulumi, quantile, sleep, startProbe, undrain, until } from "../lab/lab";
import { forget, withSites } from "./scripts";

/** Sites beside the lab's own, and how many come with one `up`. FLEET_SITES and FLEET_STEP override them. */
const sites = Number(process.env["FLEET_SITES"] ?? 500);
const step = Number(process.env["FLEET_STEP"] ?? 100);
/** Sites at work at once on a VM, and the memory of each, MB. */
const active = 20;
const siteMemory = 256;
const phpVms = ["php1", "php2"];
const hour = 3_600_000;

const nameOf = (n: number): string => `many${String(n).padStart(3, "0")}`;
const hostOf = (n: number): string => `${nameOf(n)}.lab.test`;
const unitOf = (n: number): string => `fleet-site-${nameOf(n)}.service`;

/** Says who answered, after as many milliseconds as it is asked to take. */
const page = `<?php
usleep(1000 * min(2000, (int) ($_GET['ms'] ?? 0)));
header('Content-Type: application/json');
echo json_encode(['site' => basename(dirname(__DIR__)), 'host' => gethostname()]), "\\n";
`;

const site = (n: number): object => ({
  name: nameOf(n),
  hosts: [hostOf(n)],
  https: "both",
  uid: 21000 + n,
  port: 11000 + n,
  php: { version: "8.2", maxChildren: 3, memory: `${siteMemory} MB` },
  sessions: "files",
  seed: { files: { "index.php": page } },
});

/** The lab's stack with PHP VMs of 6 GB, and with so many sites more. */
function grown(count: number, activeSites = active): string {
  const files = Object.fromEntries(Array.from({ length: count }, (_, n) => [nameOf(n), site(n)]));
  return withSites(files, (keys) => {
    const { apache, php } = keys["fleet:mutualised"];
    Object.assign(php["php-a"], { memory: "6 GB", activeSites, idle: "1 minute" });
    // Two vhosts of each site, in the old and in the new Apache while it reloads.
    Object.assign(apache, { memory: "1 GB" });
    // A guest takes a second for what a real VM does in a tenth.
    keys["fleet:rollout"] = { healthyDeadline: "5 minutes", confirmDeadline: "15 minutes", holdDeadline: "120 minutes" };
  });
}

/** `up`, and how many seconds it took. */
async function up(config?: string): Promise<number> {
  const begun = Date.now();
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
  const said = out + err; // the outputs name every site: what went wrong is told before them
  const told = said.slice(said.indexOf("Diagnostics:")).replaceAll(/^ +(changed|run systemctl|will \w+) .*\n/gm, "");
  expect(code, told.slice(0, 8000)).toBe(0);
  return (Date.now() - begun) / 1000;
}

const awake = async (vm: string): Promise<string[]> =>
  (await on(vm, "systemctl list-units --plain --no-legend --state=active 'fleet-site-*.service'")).split("\n").filter(Boolean);

const asleep = (): Promise<void> =>
  until(async () => (await Promise.all(phpVms.map(awake))).flat().length === 0, 900, "every site sleeps on both PHP VMs");

/** Memory of a VM in MB: what is not available, what its kernel keeps, and by cgroup; and how many sites run. */
interface Memory {
  readonly used: number;
  readonly kernel: number;
  readonly systemd: number;
  readonly services: number;
  readonly sites: number;
  readonly running: number;
}

async function memoryOf(vm: string): Promise<Memory> {
  const said = await on(
    vm,
    [
      "sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'",
      `awk -F '[: ]+' '/^(MemTotal|MemAvailable|SUnreclaim):/ { print $1, $2 * 1024 }' /proc/meminfo`,
      "cd /sys/fs/cgroup",
      "echo systemd $(cat init.scope/memory.current)",
      "echo services $(cat system.slice/memory.current)",
      "echo sites $(cat sites.slice/memory.current 2> /dev/null || echo 0)",
    ].join("; "),
  );
  const bytes = Object.fromEntries(said.split("\n").map((line) => line.split(" ") as [string, string]));
  const mb = (name: string): number => Number(bytes[name]) / 2 ** 20;
  return {
    used: mb("MemTotal") - mb("MemAvailable"),
    kernel: mb("SUnreclaim"),
    systemd: mb("systemd"),
    services: mb("services"),
    sites: mb("sites"),
    running: (await awake(vm)).length,
  };
}

const rows: string[] = [];
const tell = (row: string): void => {
  rows.push(row);
  process.stdout.write(`\n${row}\n`);
};
const tellMemory = (what: string, memory: Memory): void =>
  tell(
    `${what.padEnd(34)} ${Object.entries(memory)
      .map(([name, mb]) => `${name} ${(mb as number).toFixed(0)}`)
      .join(", ")}`,
  );

/** A GET of a site's page: seconds to the end of the answer. */
async function seconds(n: number): Promise<number> {
  const { out } = await curl(`http://${hostOf(n)}/`, "-o", "/dev/null", "-w", "%{http_code} %{time_total}");
  const [status, took] = out.split(" ");
  expect(status, `${nameOf(n)}: ${out}`).toBe("200");
  return Number(took);
}

/** Sites from all over the list. */
const some = (count: number): number[] => Array.from({ length: Math.min(count, sites) }, (_, i) => Math.floor((i * sites) / count));

describe(`${sites} sites on PHP VMs of 6 GB`, () => {
  let before: Memory;
  /** With all sites, asleep. */
  let idle: Memory;

  afterAll(async () => {
    const cleaned = await Promise.allSettled(phpVms.map(undrain));
    try {
      tell(`${"all sites removed, sizes restored".padEnd(34)} up ${(await up()).toFixed(0)} s`);
    } finally {
      process.stdout.write(`\n${sites} sites; memory of php1 in MB, times in seconds\n${rows.join("\n")}\n`);
      await forget("many");
    }
    expect(cleaned.filter(({ status }) => status === "rejected")).toEqual([]);
  }, 2 * hour);

  it("the VMs grow, with the few sites that there are", async () => {
    tell(`${"PHP VMs of 6 GB".padEnd(34)} up ${(await up(grown(0))).toFixed(0)} s`);
    expect((await machine("php1")).MemoryMB).toBe(6144);
    await asleep();
    before = await memoryOf("php1");
    tellMemory("the lab's own sites, asleep", before);
  });

  it(
    `the sites come, ${step} with each change`,
    async () => {
      for (let count = Math.min(step, sites); ; count = Math.min(count + step, sites)) {
        const took = await up(grown(count));
        const sizes = await Promise.all(
          ["nas1", "lb1", "web1", "php1"].map(
            async (vm) => `${vm} ${(Number(await on(vm, "sudo stat -c %s /var/lib/fleet/current/bundle")) / 1024).toFixed(0)} KB`,
          ),
        );
        tell(`${`${count} sites`.padEnd(34)} up ${took.toFixed(0)} s, bundles ${sizes.join(", ")}`);
        tellMemory(`${count} sites, the last ${step} proved`, await memoryOf("php1"));
        await asleep();
        if (count === sites) return;
      }
    },
    3 * hour,
  );

  it("asleep they cost a VM less than 300 MB, all of them", async () => {
    idle = await memoryOf("php1");
    tellMemory(`${sites} sites more, asleep`, idle);
    tell(`${"the sites' own cost".padEnd(34)} ${(idle.used - before.used).toFixed(0)} MB`);
    expect(idle.running).toBe(0);
    expect(idle.used - before.used).toBeLessThan(300);
  });

  it("a preview refuses more sites at work at once than fit, with the arithmetic", async () => {
    const { code, out, err } = await pulumi(["preview"], undefined, grown(Math.max(sites, 40), 40));
    expect(code).not.toBe(0);
    // The largest 40: blog with 384 MB, and 39 of these.
    const wanted = 384 + 39 * siteMemory;
    expect(out + err).toContain("fleet:mutualised.php.php-a.activeSites");
    expect(out + err).toContain(`the 40 largest sites may take ${wanted} MB, and of a VM's 6144 MB the system keeps 256 MB`);
    expect(out + err).toContain("which leaves 5888 MB");
  });

  describe("on one VM, which takes all requests", () => {
    beforeAll(() => drain("php2"));

    it("the first request of a sleeping site is answered, and its second one sooner", async () => {
      await asleep();
      const [first, second]: [number[], number[]] = [[], []];
      for (const n of some(20)) {
        first.push(await seconds(n));
        second.push(await seconds(n));
      }
      const say = (all: number[]): string => `median ${quantile(all, 0.5).toFixed(3)}, longest ${Math.max(...all).toFixed(3)}`;
      tell(`${`first request of ${first.length} sleeping sites`.padEnd(34)} ${say(first)}; second ${say(second)}`);
      expect(quantile(second, 0.5)).toBeLessThan(quantile(first, 0.5));
    });

    it(`${active} at work, and the master of one of them killed: no other site loses a request`, async () => {
      const [busy = 0, ...others] = some(active);
      const processes = async (): Promise<string[]> =>
        (await on("php1", `cat /sys/fs/cgroup/sites.slice/*/${unitOf(busy)}/cgroup.procs`)).split("\n").filter(Boolean);
      const master = (): Promise<string> => on("php1", `systemctl show -P MainPID ${unitOf(busy)}`);
      const probes = others.map((n) => startProbe(["get=2"], 10, { host: hostOf(n), path: "/" }));
      // Requests that take a while, so that some are under way whenever the master dies.
      const asked = startProbe(["get=0.25"], 10, { host: hostOf(busy), path: "/?ms=300" });
      await sleep(60);
      const working = await memoryOf("php1");
      tellMemory(`${active} at work`, working);
      // The measure that finds sleeping sites cheap sees those that run.
      expect(working.used - idle.used).toBeGreaterThan(active);
      const [killed, old] = [await master(), await processes()];
      await on("php1", `sudo systemctl kill --kill-whom=main --signal=KILL ${unitOf(busy)}`);
      await sleep(30);
      const [now, left] = [await master(), (await processes()).filter((pid) => old.includes(pid))];
      const seen = await asked.stop();
      const around = await Promise.all(probes.map((probe) => probe.stop()));
      const [failed, sent] = [around.reduce((sum, s) => sum + s.failed, 0), around.reduce((sum, s) => sum + s.sent, 0)];
      tell(
        `${"SIGKILL of a busy site's master".padEnd(34)} ${seen.failed}/${seen.sent} failed of it ${JSON.stringify(seen.errors)}, ` +
          `${failed}/${sent} of ${others.length} others; ${left.length} of its ${old.length - 1} children live on after 30 s`,
      );
      expect(now).not.toBe(killed);
      expect(Number(now)).toBeGreaterThan(0);
      expect(failed, JSON.stringify(around.flatMap((s) => s.failures))).toBe(0);
    });
  });
});
