import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { committedConfig } from "../../lab/paths";
import { network, relocated } from "../../lab/settings";
import { machines, order } from "../../lab/vcenter";
import {
  changedConfig,
  fleet,
  liveWeights,
  machine,
  on,
  pulumi,
  revive,
  root,
  run,
  sleep,
  startProbe,
  temporary,
  until,
  type Outcome,
  type Page,
  type Seen,
} from "../lab/lab";
import { Repository } from "./code";
import { phpexec } from "./scripts";

/*
 * A Moodle-shaped application (tests/soak/moodle) on four nodes of a stack of its own, beside the lab's committed one:
 * the same command line, config.php, dataroot, sessions and cron as Moodle's, from a Git repository of a commit for each of the upgrades.
 */

const host = "moodle.lab.test";
const vip = relocated("10.77.0.4");
const page: Page = { host, path: "/index.php", vip, port: 443 };
// At each moment one or two slow POSTs are under way: a node that goes must wait for them.
const load = ["get=0.2", "keep=0.2", "post=0.5"];
const first = ["moodle1", "moodle2", "moodle3", "moodle4"];
const more = ["moodle5", "moodle6"];

const upgraded = (version: number, release: string, schema: number) => (text: string) =>
  text
    .replace(/\$version = \d+/, `$version = ${version}`)
    .replace(/\$release = '\S+/, `$release = '${release}`)
    .replace(/\$schema = \d+/, `$schema = ${schema}`);

const begin = "): void {\n";
const step = "    set_setting('version', '2026010450');\n";
const fault = '    throw new RuntimeException("a step that fails");\n';
const repository = new Repository("moodle", path.join(__dirname, "moodle"));
const commits = {
  one: repository.commit(),
  outage: repository.commit({ "version.php": upgraded(2026010200, "4.5.2", 2) }),
  none: repository.commit({ "version.php": upgraded(2026010300, "4.5.3", 2) }),
  failing: repository.commit({
    "version.php": upgraded(2026010400, "4.5.4", 2),
    "db/upgrade.php": (text) => text.replace(begin, `${begin}${fault}`),
  }),
  halfway: repository.commit({
    "version.php": upgraded(2026010500, "4.5.5", 3),
    "db/upgrade.php": (text) => text.replace(fault, `${step}${fault}`),
  }),
  corrected: repository.commit({
    "version.php": upgraded(2026010600, "4.5.6", 3),
    "db/upgrade.php": (text) => text.replace(step, "").replace(fault, ""),
  }),
};

interface Stack {
  "fleet:moodle": { nodes: number; application: { code: { commit: string } } };
}

/** The lab's committed stack and Moodle. */
function withMoodle(): string {
  const stack = YAML.parse(fs.readFileSync(committedConfig, "utf8"), { merge: true }) as { config: Record<string, unknown> };
  stack.config["fleet:moodle"] = {
    vcpu: 1,
    memory: "512 MB",
    disk: "10 GB",
    vip: "10.77.0.4",
    nodes: 4,
    addresses: [1, 2, 3, 4, 5, 6].map((n) => `10.77.0.6${n}`),
    application: {
      hosts: [host],
      uid: 59001,
      branch: "4.5",
      code: { repository: "http://10.77.0.5/moodle.git", commit: commits.one },
      database: { host: "10.77.0.5" },
      php: {
        version: "8.2",
        maxChildren: 4,
        ini: { memory_limit: "32M", post_max_size: "8M", upload_max_filesize: "8M", "opcache.memory_consumption": 32 },
      },
    },
  };
  const file = path.join(temporary("stack"), "Pulumi.lab.yaml");
  fs.writeFileSync(file, YAML.stringify(stack, { aliasDuplicateObjects: false }));
  return file;
}

/** The stack that is up, with another number of nodes or another commit. */
const changed = (edit: (moodle: Stack["fleet:moodle"]) => void): string =>
  changedConfig((text) => {
    const stack = YAML.parse(text) as { config: Stack };
    edit(stack.config["fleet:moodle"]);
    // Never the very same text, which would be no change: the committed commit is one of those that are asked for.
    return `${YAML.stringify(stack, { aliasDuplicateObjects: false })}# edited\n`;
  });
/** Each edit is made of the stack as `lab up` wrote it, so it says all that differs from that. */
const state = { nodes: 4, commit: commits.one };
const stack = (edit: Partial<typeof state>): string =>
  changed((moodle) => {
    Object.assign(state, edit);
    moodle.nodes = state.nodes;
    moodle.application.code.commit = state.commit;
  });

const getAt = (address: string, file: string, ...options: string[]): Promise<Outcome> => {
  const words = ["-sSk", "--max-time", "30", "--resolve", `${host}:443:${address}`, ...options, `https://${host}${file}`];
  return run("ip", ["netns", "exec", network.namespace, "curl", ...words]);
};
const get = (file: string, ...options: string[]): Promise<Outcome> => getAt(vip, file, ...options);

interface Said {
  readonly host: string;
  readonly release: string;
  readonly code: string;
  readonly database: number;
  readonly visits: number;
  readonly redis: boolean;
  readonly wwwroot: string;
}
const said = async (...options: string[]): Promise<Said> => JSON.parse((await get("/index.php", ...options)).out) as Said;

/** What each of these nodes answers, past the balancing. */
const atEach = (names: readonly string[], file: string): Promise<string[]> =>
  Promise.all(names.map(async (name) => (await getAt((await machine(name)).Address, file)).out));
/** What every node says of itself. */
const everyNode = async (names: readonly string[]): Promise<Said[]> =>
  (await atEach(names, "/index.php")).map((text) => JSON.parse(text) as Said);

/** What the application's database answers. */
const query = async (sql: string): Promise<string> => (await on("annex", `echo "${sql}" | sudo mariadb -N moodle`)).trim();

/** A visitor who comes back all the time with one cookie; `stop` comes back once more and tells the visits that were counted, -1 where none was. */
function visitor(): { stop: () => Promise<number[]> } {
  const jar = path.join(temporary("visitor"), "cookies");
  const visits: number[] = [];
  const visit = async (): Promise<unknown> => visits.push(await said("-b", jar, "-c", jar).then(({ visits: n }) => n).catch(() => -1)); // prettier-ignore
  let going = true;
  const done = (async () => {
    while (going) {
      await visit();
      await sleep(0.5);
    }
  })();
  return {
    stop: async () => {
      going = false;
      await done;
      await visit();
      return visits;
    },
  };
}

/** Does something under load; what visitors saw of it. */
async function underLoad<T>(what: string, work: () => Promise<T>): Promise<{ seen: Seen; visits: number[]; result: T }> {
  const [probe, coming] = [startProbe(load, 10, page), visitor()];
  const result = await work();
  const [seen, visits] = [await probe.stop(), await coming.stop()];
  const { sent, failed, outage, p99, resent, errors } = seen;
  process.stdout.write(
    `\n${what}: ${failed} of ${sent} failed, longest outage ${outage} s, p99 ${p99} s, ${resent} sent again, ${JSON.stringify(errors)}\n`,
  );
  return { seen, visits, result };
}

/** A session is kept when no visit is counted anew. */
const counted = (visits: readonly number[]): boolean => visits.every((n, i) => n === i + 1);

/** Visitors were shown the application's own maintenance page and no other error; the sessions of before go on after it. */
function expectMaintenanceAlone({ seen, visits }: { seen: Seen; visits: number[] }): void {
  const errors = Object.keys(seen.errors).map((error) => error.replace(/^\w+: /, ""));
  expect([...new Set(errors)], JSON.stringify(seen.errors)).toEqual(["status 503 maintenance"]);
  const served = visits.filter((n) => n > 0); // the maintenance page counts none
  expect(served.length, visits.join(" ")).toBeLessThan(visits.length);
  expect(visits.at(-1), visits.join(" ")).toBeGreaterThan(0);
  expect(counted(served), visits.join(" ")).toBe(true);
}

interface Step {
  readonly op: string;
  readonly urn: string;
}

/** What a preview would do, by operation and name, and its summary line. */
async function preview(config: string): Promise<{ steps: string[]; summary: string }> {
  const plain = await pulumi(["preview"], undefined, config);
  expect(plain.code, plain.out + plain.err).toBe(0);
  const json = await pulumi(["preview", "--json"], undefined, config);
  const { steps } = JSON.parse(json.out.slice(json.out.indexOf("{"))) as { steps: Step[] };
  const summary = plain.out.slice(plain.out.indexOf("Resources:")).split("\n\n")[0] ?? "";
  const named = steps.filter(({ op }) => op !== "same").map(({ op, urn }) => `${op} ${urn.split("::").at(-1) ?? ""}`);
  return { steps: [...new Set(named)].sort(), summary };
}

/** What is done to anything that is no part of the two nodes. */
const beside = (steps: readonly string[]): string[] => {
  const others = steps.filter((step) => !more.some((node) => step.endsWith(`-${node}`)));
  return [...new Set(others.map((step) => step.replace(/^(create-replacement|delete-replaced) /, "replace ")))].sort();
};
/** The anti-affinity rule, the content of the directors, and the last look at them, which is taken anew. */
const elsewhere = [
  "replace lvs-confirm-lb1",
  "replace lvs-confirm-lb2",
  "update lvs-config-lb1",
  "update lvs-config-lb2",
  "update lvs-gate-lb1",
  "update lvs-gate-lb2",
  "update moodle-apart",
];

const moodle = (verb: string, config: string, ...words: string[]): Promise<Outcome> =>
  fleet("moodle", verb, ...words, "--config-file", config);

/** What the application has outside of its VMs, be it of a run that was cut short. */
const forgetData = async (): Promise<void> => {
  await on("nas1", "sudo rm -rf /srv/fleet/sites/moodle");
  await on("annex", 'for table in config visit cron; do echo "DROP TABLE IF EXISTS mdl_$table;"; done | sudo mariadb moodle');
};

beforeAll(async () => {
  await forgetData();
  repository.publish();
  const up = await run("bash", ["lab/lab", "up", "--config", withMoodle()], {}, root);
  expect(up.code, up.out + up.err).toBe(0);
  const installed = await phpexec(["moodle", "admin/cli/install_database.php", "--agree-license"]);
  expect([0, 2], installed.err).toContain(installed.code);
});
afterAll(async () => {
  const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
  await forgetData();
  repository.remove();
  expect(code, out + err).toBe(0);
});

describe("four nodes", () => {
  it("serve the same code, with sessions, database, dataroot and Redis", async () => {
    const nodes = await everyNode(first);
    expect(nodes.map((n) => n.host)).toEqual(first);
    expect(new Set(nodes.map((n) => n.code)).size).toBe(1);
    expect(nodes.every((n) => n.release.startsWith("4.5.1") && n.redis && n.wwwroot === `https://${host}`)).toBe(true);
    const markers = await Promise.all(first.map((name) => on(name, "cat /opt/code/moodle-*/.fleet-artefact")));
    expect(new Set(markers).size).toBe(1);
    const hosts = new Set<string>();
    for (let i = 0; i < 200 && hosts.size < 4; i++) hosts.add((await said()).host);
    expect([...hosts].sort()).toEqual(first);
  });

  it("have code that its own user cannot write, and drift finds who could", async () => {
    const write = "sudo setpriv --reuid=59001 --regid=59001 --clear-groups sh -c 'touch /opt/code/moodle-*/index.php'";
    await expect(on("moodle1", write)).rejects.toThrow(/denied/i);
    const { code } = (await everyNode(["moodle1"]))[0] ?? { code: "" };
    const file = `/opt/code/${code}/health.php`;
    await on("moodle1", `sudo sh -c 'cp -p ${file} /root/kept && echo "// edited" >> ${file}'`);
    const drift = await fleet("drift");
    await on("moodle1", `sudo cp -p /root/kept ${file}`);
    expect(drift.code).toBe(2);
    expect(drift.out).toContain(`moodle1: code ${file}: changed`);
  });

  it("a database that is away takes no node out: the light page answers, and pages say what is wrong", async () => {
    await on("annex", "sudo systemctl stop mariadb");
    try {
      await sleep(10);
      expect((await liveWeights()).every((weight) => weight === 1)).toBe(true);
      expect((await get("/health.php")).out).toMatch(/^OK 4\.5\.1/);
      expect((await get("/index.php", "-o", "/dev/null", "-w", "%{http_code}")).out).toBe("500");
    } finally {
      await on("annex", "sudo systemctl start mariadb");
    }
    await until(async () => (await said()).database > 0, 30, "pages answer again");
  });

  it("run cron once a minute, on one node each, also when that one is killed", async () => {
    const runs = async (): Promise<{ host: string; minute: string }[]> => {
      const rows = await query("SELECT host, minute FROM mdl_cron ORDER BY id");
      return rows
        .split("\n")
        .filter(Boolean)
        .map((row) => row.split("\t"))
        .map(([name = "", minute = ""]) => ({ host: name, minute }));
    };
    await until(async () => (await runs()).length >= 2, 240, "two runs of cron");
    const before = await runs();
    const killed = before.at(-1)?.host ?? "";
    await order(killed, "kill");
    try {
      await until(async () => (await runs()).length >= before.length + 2, 240, "two runs of the others");
      const all = await runs();
      expect(new Set(all.map((r) => r.minute)).size).toBe(all.length);
      expect(all.slice(before.length).map((r) => r.host)).not.toContain(killed);
    } finally {
      await revive(killed);
    }
  });
});

describe("scaling is an edit of the stack's configuration", () => {
  it("4 to 6: two VMs are created, the rule and the directors change and nothing else; no request fails, sessions stay", async () => {
    const config = stack({ nodes: 6 });
    const { steps, summary } = await preview(config);
    process.stdout.write(`\n4 to 6, preview: ${summary.replace(/\s+/g, " ")}\n`);
    expect(steps.filter((step) => step.includes("-vm-"))).toEqual(more.map((name) => `create moodle-vm-${name}`));
    expect(steps.filter((step) => more.some((name) => step.endsWith(name))).every((step) => step.startsWith("create "))).toBe(true);
    expect(beside(steps)).toEqual(elsewhere);
    const { seen, visits, result } = await underLoad("4 to 6", () => pulumi(["up", "--yes", "--skip-preview"], undefined, config));
    expect(result.code, result.out + result.err).toBe(0);
    expect(seen.failed, seen.failures.join("; ")).toBe(0);
    expect(counted(visits), visits.join(" ")).toBe(true);
    expect((await everyNode([...first, ...more])).map((n) => n.host)).toEqual([...first, ...more]);
    expect((await pulumi(["preview", "--expect-no-changes"], undefined, config)).code).toBe(0);
  });

  it("and back to 4: the two are drained, then removed; no request fails, sessions stay", async () => {
    const config = stack({ nodes: 4 });
    const { steps, summary } = await preview(config);
    process.stdout.write(`\n6 to 4, preview: ${summary.replace(/\s+/g, " ")}\n`);
    expect(steps.filter((step) => step.includes("-vm-"))).toEqual(more.map((name) => `delete moodle-vm-${name}`));
    expect(steps.filter((step) => more.some((name) => step.endsWith(name))).every((step) => step.startsWith("delete "))).toBe(true);
    expect(beside(steps)).toEqual(elsewhere);
    const { seen, visits, result } = await underLoad("6 to 4", () => pulumi(["up", "--yes", "--skip-preview"], undefined, config));
    expect(result.code, result.out + result.err).toBe(0);
    for (const address of ["10.77.0.65", "10.77.0.66"].map(relocated)) {
      expect(result.out + result.err).toMatch(
        new RegExp(`draining [^\\n]*${address.replaceAll(".", "\\.")}\\b[^\\n]*, which will be balanced no more`),
      );
    }
    expect(seen.failed, seen.failures.join("; ")).toBe(0);
    expect(counted(visits), visits.join(" ")).toBe(true);
    expect((await machines()).map((m) => m.Name)).not.toEqual(expect.arrayContaining([more[0]]));
    await expect(machine("moodle6")).rejects.toThrow("no moodle6");
    expect((await pulumi(["preview", "--expect-no-changes"], undefined, config)).code).toBe(0);
  });
});

describe("an upgrade", () => {
  const releases = async (): Promise<string[]> => [...new Set((await everyNode(first)).map((n) => n.release.split(" ")[0] ?? ""))];

  const cronEnabled = (): Promise<string> => query("SELECT value FROM mdl_config WHERE name = 'cron_enabled'");

  it("that `up` alone would skip is refused, by name, and the old code serves", async () => {
    const config = stack({ commit: commits.outage });
    const { seen, result } = await underLoad("up without the upgrade", () => pulumi(["up", "--yes", "--skip-preview"], undefined, config));
    expect(result.code).not.toBe(0);
    expect(result.out + result.err).toMatch(
      /moodle1: check the database of moodle is of this code failed[^]*npm run fleet -- moodle upgrade/,
    );
    expect(await releases()).toEqual(["4.5.1"]);
    expect(seen.failed, seen.failures.join("; ")).toBe(0);
  });

  it("that needs an outage shows maintenance and nothing worse; sessions stay", async () => {
    const config = stack({ commit: commits.outage });
    const outcome = await underLoad("upgrade with an outage", () => moodle("upgrade", config));
    const { result } = outcome;
    expect(result.code, result.out + result.err).toBe(0);
    expect(result.err).toContain("an outage is needed");
    expect(await releases()).toEqual(["4.5.2"]);
    expect((await said()).database).toBe(2026010200);
    expectMaintenanceAlone(outcome); // the twin of the next one: this load sees an outage
    const status = await moodle("status", config);
    expect(status.code, status.out + status.err).toBe(0);
  });

  it("that needs none fails no request", async () => {
    const config = stack({ commit: commits.none });
    const { seen, visits, result } = await underLoad("upgrade without an outage", () => moodle("upgrade", config));
    expect(result.code, result.out + result.err).toBe(0);
    expect(result.err).toContain("no outage is needed");
    expect(await releases()).toEqual(["4.5.3"]);
    expect(seen.failed, seen.failures.join("; ")).toBe(0);
    expect(counted(visits), visits.join(" ")).toBe(true);
  });

  it("whose upgrade.php fails leaves the old code serving, and says so; no request fails", async () => {
    const config = stack({ commit: commits.failing });
    const { seen, result } = await underLoad("upgrade that fails", () => moodle("upgrade", config));
    expect(result.code).toBe(1);
    expect(result.err).toMatch(
      /a step that fails[^]*upgrade\.php of the new code failed \(exit \d+\); the old code knows the database and serves on/,
    );
    expect(await releases()).toEqual(["4.5.3"]);
    expect((await said()).database).toBe(2026010300);
    expect(seen.failed, seen.failures.join("; ")).toBe(0);
    const back = stack({ commit: commits.none });
    const taken = await underLoad("the commit is taken back", () => pulumi(["up", "--yes", "--skip-preview"], undefined, back));
    expect(taken.result.code, taken.result.out + taken.result.err).toBe(0);
    expect(taken.seen.failed, taken.seen.failures.join("; ")).toBe(0);
    expect((await moodle("status", back)).code).toBe(0);
    expect((await pulumi(["preview", "--expect-no-changes"], undefined, back)).code).toBe(0);
  });

  it("with an outage whose upgrade.php fails half-way changes no node and leaves maintenance on; corrected code goes on from there", async () => {
    const outcome = await underLoad("upgrade that fails half-way, and its correction", async () => {
      const failed = await moodle("upgrade", stack({ commit: commits.halfway }));
      const [light, pages] = [await atEach(first, "/health.php"), await atEach(first, "/index.php")];
      return { failed, light, pages, cron: await cronEnabled(), mended: await moodle("upgrade", stack({ commit: commits.corrected })) };
    });
    const { failed, light, pages, cron, mended } = outcome.result;
    expect(failed.code).toBe(1);
    expect(failed.err).toMatch(
      /failed \(exit \d+\); the old code does not know the database, maintenance mode stays on, cron stays stopped: correct what failed/,
    );
    expect(light.map((text) => text.slice(0, 8))).toEqual(first.map(() => "OK 4.5.3"));
    expect(pages).toEqual(first.map(() => "maintenance"));
    expect([cron, await cronEnabled()]).toEqual(["0", "1"]);
    expect(mended.code, mended.out + mended.err).toBe(0);
    expect(await releases()).toEqual(["4.5.6"]);
    expect((await said()).database).toBe(2026010600);
    expectMaintenanceAlone(outcome);
    expect((await moodle("status", stack({}))).code).toBe(0);
  });

  it("maintenance mode is on and off by hand, and caches are purged", async () => {
    const config = stack({ commit: commits.corrected });
    expect((await moodle("maintenance", config, "on")).code).toBe(0);
    expect((await get("/index.php", "-o", "/dev/null", "-w", "%{http_code}")).out).toBe("503");
    expect((await liveWeights()).every((weight) => weight === 1)).toBe(true);
    expect((await moodle("maintenance", config, "off")).code).toBe(0);
    expect((await said()).database).toBe(2026010600);
    expect((await moodle("purge", config)).code).toBe(0);
  });
});

it("a commit that is not Moodle's branch is refused by the builder, before any node has it", async () => {
  const wrong = repository.commit({ "version.php": upgraded(2027010100, "5.0.1", 3) });
  repository.publish();
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, stack({ commit: wrong }));
  expect(code).not.toBe(0);
  expect(out + err).toMatch(/the code is Moodle 5\.0\.1 \(Build: 20260101\): set fleet:moodle\.application\.branch/);
  stack({ commit: commits.corrected });
});
