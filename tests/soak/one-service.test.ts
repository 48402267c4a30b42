import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { relocated } from "../../lab/settings";
import { changedCheckout, drain, ipvs, machine, mixed, on, pulumi, startProbe, undrain, until, type Outcome, type Seen } from "../lab/lab";
import { state } from "../lab/mistakes";
import { clear, put, served, siteFile, withSites } from "./scripts";

const vms = ["lb1", "lb2", "nas1", "web1", "web2", "php1", "php2"] as const;
type Vm = (typeof vms)[number];
const sites = ["blog", "status", "wiki"];

/** The site that comes and goes. */
const extra = {
  name: "extra",
  hosts: ["extra.lab.test"],
  https: "both",
  uid: 20090,
  port: 10090,
  php: { version: "8.2", memory: "64 MB" },
  seed: { files: { "index.php": "<?php echo gethostname();\n" } },
};

/** A VM's units with what tells that one was touched, and its managed files with their digests. */
interface Look {
  readonly units: Record<string, Record<string, string>>;
  readonly files: Record<string, string>;
}

/** The idle timer runs each minute, snapshots each hour, and the watcher as a part of every change. */
const byThemselves = /^fleet-(rest|snapshot|watch)\./;
const properties = "Id,ActiveState,InvocationID,ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic";

async function look(vm: Vm): Promise<Look> {
  const shown = await on(vm, `systemctl show -p ${properties} 'fleet*' srv-sites.mount nfs-server.service`);
  const blocks = shown
    .trim()
    .split("\n\n")
    .map((block) => Object.fromEntries(block.split("\n").map((line) => line.split("=") as [string, string])));
  const units = blocks.map((unit) => [unit["Id"] ?? "", unit] as const).filter(([name]) => !byThemselves.test(name));
  const sums = "cd /var/lib/fleet/current/ && find etc -type f -print0 | xargs -0 sha256sum";
  const files = (await on(vm, `sudo sh -c '${sums}'`))
    .trim()
    .split("\n")
    .map((line) => [line.slice(66), line.slice(0, 64)] as const);
  return { units: Object.fromEntries(units), files: Object.fromEntries(files) };
}

const lookAtAll = async (): Promise<Record<Vm, Look>> =>
  Object.fromEntries(await Promise.all(vms.map(async (vm) => [vm, await look(vm)] as const))) as Record<Vm, Look>;

/** What became of a unit; empty when nothing did. */
function fate(name: string, before: Record<string, string> = {}, after: Record<string, string> = {}): string {
  const [ran, runs] = [before, after].map((unit) => !["inactive", "failed", undefined].includes(unit["ActiveState"]));
  if (!ran || !runs) return ran ? "stopped" : runs ? "started" : "";
  const differs = (property: string): boolean => before[property] !== after[property];
  if (differs("InvocationID") || differs("ActiveEnterTimestampMonotonic")) return "restarted";
  // A reload leaves the time at which a unit became active as it was. A socket changes its state with its service.
  return differs("StateChangeTimestampMonotonic") && !name.endsWith(".socket") ? "reloaded" : "";
}

/** Touched units and files of a VM, each with what became of it. */
function touched(before: Look, after: Look): Record<string, string> {
  const units = Object.keys({ ...before.units, ...after.units }).map((name) => [name, fate(name, before.units[name], after.units[name])]);
  const files = Object.keys({ ...before.files, ...after.files })
    .filter((path) => before.files[path] !== after.files[path])
    .map((path) => [`/${path}`, before.files[path] ? (after.files[path] ? "changed" : "removed") : "new"]);
  return Object.fromEntries([...units, ...files].filter(([, what]) => what !== "") as [string, string][]);
}

function tell(what: string, found: Record<Vm, Record<string, string>>, seen: Record<string, Seen>): void {
  const rows = vms.flatMap((vm) => Object.entries(found[vm]).map(([name, fared]) => `  ${vm.padEnd(5)} ${fared.padEnd(9)} ${name}`));
  const requests = Object.entries(seen).map(([site, { failed, sent }]) => `${site} ${failed}/${sent}`);
  process.stdout.write(`\n${what}\n${rows.join("\n") || "  nothing is touched"}\n  failed requests: ${requests.join(", ")}\n`);
}

/** `up` under requests to every site that stays. */
async function change(
  what: string,
  ...how: [copy?: string | undefined, config?: string]
): Promise<Outcome & { found: Record<Vm, Record<string, string>> }> {
  // Awake on both VMs, so that a request wakes none of them and looks like a touch.
  for (const vm of ["php1", "php2"]) await on(vm, `sudo systemctl start ${sites.map((site) => `fleet-site-${site}.service`).join(" ")}`);
  const before = await lookAtAll();
  const probes = sites.map((site) => {
    const path = site === "status" ? "/" : "/fleet-test/hello.php";
    return [site, startProbe(site === "status" ? mixed : ["get=0.5"], 10, { host: `${site}.lab.test`, path })] as const;
  });
  const outcome = await pulumi(["up", "--yes", "--skip-preview"], ...how);
  const seen = Object.fromEntries(await Promise.all(probes.map(async ([site, probe]) => [site, await probe.stop()] as const)));
  const after = await lookAtAll();
  const found = Object.fromEntries(vms.map((vm) => [vm, touched(before[vm], after[vm])])) as Record<Vm, Record<string, string>>;
  tell(what, found, seen);
  for (const [site, { failed, failures }] of Object.entries(seen)) expect(failed, `${site}: ${failures.join("; ")}`).toBe(0);
  return { ...outcome, found };
}

/** What a site that comes or goes touches on each VM: its own units and files, and the lists that name every site. */
function expected(came: boolean): Record<Vm, Record<string, string>> {
  const [file, started] = came ? ["new", "started"] : ["removed", "stopped"];
  const unit = "/etc/systemd/system/fleet-site-extra";
  const own = ["fpm.conf", "guard.php", "php.ini", "sessions.conf"].map((name) => [`/etc/fleet/php/extra/${name}`, file]);
  const php = {
    // One that comes is proved, and sleeps until somebody asks for it, if only the trial of its vhost: see "when it comes".
    ...(came ? {} : { "fleet-site-extra.service": "stopped" }),
    "fleet-site-extra.socket": started,
    ...(Object.fromEntries(own) as Record<string, string>),
    [`${unit}.service`]: file,
    [`${unit}.socket`]: file,
    "/etc/systemd/system/sites-extra.slice": file,
    "/etc/fleet/scripts/extra.json": file,
    "fleet-health.service": "reloaded",
    "/etc/fleet/health.json": "changed",
    "/etc/systemd/system/fleet.target": "changed",
    "/etc/sysusers.d/fleet-sites.conf": "changed",
  };
  const web = { "/etc/fleet/vhosts/extra.conf": file, "fleet-apache.service": "reloaded", "/etc/fleet/sites.json": "changed" };
  const lb = { "fleet-keepalived.service": "reloaded", "/etc/keepalived/fleet.conf": "changed", "/etc/fleet/balancing.json": "changed" };
  const nas1 = { "fleet-seed.service": "restarted", "/etc/fleet/seed.json": "changed" };
  return { lb1: lb, lb2: lb, nas1, web1: web, web2: web, php1: php, php2: php };
}

const nothing = Object.fromEntries(vms.map((vm) => [vm, {}])) as Record<Vm, Record<string, string>>;

beforeAll(async () => {
  for (const site of sites) await put(site, "hello.php", "<?php echo gethostname();\n", served);
});
afterAll(async () => {
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  for (const site of sites) await clear(site);
  await on("nas1", "sudo rm -rf /srv/fleet/sites/extra");
  for (const vm of ["php1", "php2"]) await on(vm, "sudo sed -i '/^fleet-site-extra:/d' /etc/passwd /etc/shadow /etc/group /etc/gshadow");
  expect(code, out + err).toBe(0);
});

describe("a site touches one service on each PHP VM and one vhost on each Apache VM, and no request of another", () => {
  it("when it comes", async () => {
    const { code, out, err, found } = await change("a site comes", undefined, withSites({ extra }));
    expect(code, out + err).toBe(0);
    // An Apache that is about to have the vhost asks for the site's front page, by the VIP and so on either VM.
    for (const vm of ["php1", "php2"] as const) {
      const { "fleet-site-extra.service": woken = "started", ...others } = found[vm];
      expect(woken).toBe("started");
      found[vm] = others;
    }
    expect(found).toEqual(expected(true));
  });

  it("its port is in the balancing as every other, and goes out of it with its VM", async () => {
    const { Address } = await machine("php1");
    const own = async (director: string): Promise<[string, number][]> =>
      Object.entries(await ipvs(director)).flatMap(([service, servers]) =>
        Object.entries(servers)
          .filter(([server]) => server.startsWith(`${Address}:`))
          .map(([server, weight]): [string, number] => [`${service} ${server.split(":")[1]}`, weight]),
      );
    const ports = [10001, 10002, 10003, extra.port].map((port) => `${relocated("10.77.0.101")}:${port} ${port}`).sort();
    await drain("php1");
    try {
      for (const director of ["lb1", "lb2"]) {
        await until(async () => (await own(director)).every(([, weight]) => weight === 0), 10, `${director} sends php1 nothing`);
        expect((await own(director)).map(([name]) => name).sort()).toEqual(ports);
      }
    } finally {
      await undrain("php1");
    }
    for (const director of ["lb1", "lb2"]) {
      await until(async () => (await own(director)).every(([, weight]) => weight === 1), 10, `${director} sends php1 requests`);
    }
  });

  it("and when it goes", async () => {
    for (const vm of ["php1", "php2"]) await on(vm, "sudo systemctl start fleet-site-extra.service");
    const { code, out, err, found } = await change("a site goes");
    expect(code, out + err).toBe(0);
    expect(found).toEqual(expected(false));
  });
});

describe("a broken setting of one site fails `up`, names it, and costs neither the site itself nor another a request", () => {
  /** The checkout in which one line of the pool of wiki, and of no other site, is another. */
  const pool = (from: string, to: string): Promise<string> =>
    changedCheckout("templates/php/fpm.ts", (text) =>
      text.replace(
        `render(__dirname, "fpm.conf", fpm)`,
        (found) => `${found}.replace("${from}", site.name === "wiki" ? "${to}" : "${from}")`,
      ),
    );

  async function refused(what: string, message: RegExp, ...how: [copy?: string | undefined, config?: string]): Promise<typeof nothing> {
    const before = await state("php1");
    const { code, out, err, found } = await change(what, ...how);
    expect(code, out + err).not.toBe(0);
    expect(out + err).toMatch(message);
    expect(out + err).not.toMatch(/(check|probe)[^\n]* (blog|status)\b[^\n]* failed/);
    expect(await state("php1")).toBe(before);
    return found;
  }

  it("an unknown php.ini value in its file", async () => {
    const wiki = siteFile("wiki") as { php: object };
    const config = withSites({ wiki: { ...wiki, php: { ...wiki.php, ini: { "no.such": 1 } } } });
    expect(
      await refused("unknown php.ini value", /php1: check php.ini of wiki failed: no such setting: no.such/, undefined, config),
    ).toEqual(nothing);
  });

  it("a pool that FPM refuses", async () => {
    const message = /php1: check php-fpm -t of wiki failed: [^]*unable to parse value for entry 'pm'/;
    expect(await refused("pool that FPM refuses", message, await pool("pm = ondemand", "pm = whenever"))).toEqual(nothing);
  });

  it("a pool that starts and does not answer as it should: that site alone is restarted, and goes back", async () => {
    const copy = await pool("ping.path = /fleet-fpm-ping", "ping.path = /elsewhere");
    const found = await refused("pool that does not answer", /php1: probe wiki answers FastCGI failed/, copy);
    expect(found).toEqual({ ...nothing, php1: { "fleet-site-wiki.service": "restarted" } });
  });
});
