import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fleet, on, pulumi, sleep, until } from "../lab/lab";
import { clear, forget, noteRun, phpexec, place, put, runsOf, served, startPhpexec, withCron, withSites } from "./scripts";

const sites = ["blog", "status", "wiki"];
const vms = ["php1", "php2"];

const facts = `<?php echo json_encode([
  'uid' => posix_getuid(), 'php' => PHP_VERSION, 'cwd' => getcwd(), 'host' => gethostname(), 'arguments' => array_slice($argv, 1),
  'input' => stream_get_contents(STDIN), 'sites' => array_values(array_diff(scandir('/srv/sites'), ['.', '..'])),
  'neighbour' => @file_get_contents('/srv/sites/wiki/${place}/secret'),
]); exit(7);
`;
const slow = `<?php echo "begun\\n"; sleep((int) ($argv[1] ?? 60)); echo "done\\n";\n`;
const ticks = `<?php foreach ([1, 2, 3] as $n) { echo "$n\\n"; sleep(1); }\n`;
const failing = `<?php fwrite(STDERR, "to err\\n"); echo "one\\ntwo\\n"; exit(basename(getcwd()) === 'wiki' ? 3 : 0);\n`;
const broken = `<?php no_such_function();\n`;

/** Scripts that run on the PHP VMs now. */
async function running(): Promise<string[]> {
  const listed = await Promise.all(vms.map((vm) => on(vm, "systemctl list-units --plain --no-legend 'fleet-exec-*'")));
  return listed.flatMap((text) => text.split("\n").filter(Boolean));
}

beforeAll(async () => {
  for (const site of sites) {
    for (const [name, text] of Object.entries({ facts, slow, ticks, failing, broken })) await put(site, `${name}.php`, text);
    await put(site, "secret", `of ${site}\n`);
  }
});
afterAll(async () => {
  for (const site of sites) await clear(site);
});

describe("phpexec", () => {
  const words = ["a b", "$HOME", "it's", "`id`", "100%", "--help", ""];

  it("runs a script as its site: uid, PHP, tree, arguments, standard input, exit code", async () => {
    const { code, out, err } = await phpexec(["status", `${place}/facts.php`, ...words], "one\ntwo\n");
    expect(code, err).toBe(7);
    expect(err).toBe("");
    const said = JSON.parse(out) as Record<string, unknown>;
    expect(said).toMatchObject({ uid: 20001, php: "8.2.32", cwd: "/srv/sites/status", arguments: words, input: "one\ntwo\n" });
  });

  it("shows it no other site's tree, though the other site sees its own", async () => {
    const asked = async (site: string) => JSON.parse((await phpexec([site, `${place}/facts.php`])).out) as Record<string, unknown>;
    expect(await asked("status")).toMatchObject({ sites: ["status"], neighbour: false });
    expect(await asked("wiki")).toMatchObject({ sites: ["wiki"], neighbour: "of wiki\n" });
  });

  it("runs no script of another site, though that site runs it", async () => {
    const script = `/srv/sites/wiki/${place}/ticks.php`;
    for (const path of [script, `../wiki/${place}/ticks.php`]) {
      const { code, out, err } = await phpexec(["status", path]);
      expect([code, out]).toEqual([2, ""]);
      expect(err).toContain("allowed: a path below /srv/sites/status");
    }
    expect(await phpexec(["wiki", script])).toEqual({ code: 0, out: "1\n2\n3\n", err: "" });
  });

  it("passes output on as it comes", async () => {
    const child = startPhpexec("status", `${place}/ticks.php`);
    const seen: number[] = [];
    child.stdout?.on("data", () => seen.push(Date.now()));
    await new Promise((resolve) => child.on("close", resolve));
    expect((seen.at(-1) ?? 0) - (seen[0] ?? 0)).toBeGreaterThan(1500);
  });

  it("shows an error of PHP to who runs the script", async () => {
    const { code, err } = await phpexec(["status", `${place}/broken.php`]);
    expect(code).toBe(255);
    expect(err).toContain("Call to undefined function no_such_function()");
  });

  it("names the sites there are when one is not", async () => {
    const { code, err } = await phpexec(["shop", "x.php"]);
    expect(code).toBe(2);
    expect(err).toContain("there are: blog, status, wiki");
  });

  it("stops the script when the operator's end of the connection dies, and drift sees no foreign unit meanwhile", async () => {
    const child = startPhpexec("status", `${place}/slow.php`);
    await new Promise((resolve) => child.stdout?.once("data", resolve));
    expect(await running()).toHaveLength(1);
    const { code, out } = await fleet("drift");
    expect(code, out).toBe(0);
    expect(await running()).toHaveLength(1);
    process.kill(-(child.pid ?? 0), "SIGKILL");
    await until(async () => (await running()).length === 0, 10, "the script has ended");
  });

  it("runs four scripts at once on a VM; the fifth is told, waits, and runs", async () => {
    // All on the first VM that is in its services.
    const asked = Array.from({ length: 6 }, () => phpexec(["status", `${place}/slow.php`, "60"]));
    let most = 0;
    const ended = Promise.all(asked);
    for (let done = false; !done; done = await Promise.race([ended.then(() => true), sleep(1).then(() => false)]))
      most = Math.max(most, (await running()).length);
    expect(most).toBe(4);
    const outcomes = await ended;
    expect(outcomes.map(({ code, out }) => [code, out])).toEqual(asked.map(() => [0, "begun\ndone\n"]));
    expect(outcomes.filter(({ err }) => err.includes("waiting for one of them to end"))).toHaveLength(2);
  });

  it("of all sites, one of which fails: a table, and exit code 1", async () => {
    const { code, out, err } = await phpexec(["--all-sites", `${place}/failing.php`]);
    expect(code).toBe(1);
    for (const site of sites) {
      expect(out).toContain(`${site}: one\n`);
      expect(err).toContain(`${site}: to err\n`);
      expect(out).toMatch(new RegExp(`│ ${site} +│ php[12] │ 8\\.2\\.32 │ ${site === "wiki" ? 3 : 0} +│`));
    }
    expect(out).toMatch(/3 sites, 1 failed\n$/);
    expect((await phpexec(["--php", "8.2", `${place}/ticks.php`])).code).toBe(0);
    expect((await phpexec(["--php", "7.4", `${place}/ticks.php`])).code).toBe(2);
  });
});

describe("phpexec over twenty sites", () => {
  const names = [...sites, ...Array.from({ length: 17 }, (_, n) => `unit${String(n).padStart(2, "0")}`)];
  const script = `${place}/failing.php`;
  const site = (name: string, n: number): object => ({
    name,
    hosts: [`${name}.lab.test`],
    https: "both",
    uid: 21000 + n,
    port: 11000 + n,
    php: { version: "8.2" },
    sessions: "files",
    seed: { files: { [script]: failing } },
  });

  beforeAll(async () => {
    for (const name of sites) await put(name, "failing.php", failing, served);
    const files = Object.fromEntries(names.slice(sites.length).map((name, n) => [name, site(name, n)]));
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, withSites(files));
    expect(code, out + err).toBe(0);
  });
  afterAll(async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
    await forget("unit");
  });

  it("one of which fails: a table with a row of each, and exit code 1", async () => {
    const { code, out, err } = await phpexec(["--all-sites", `htdocs/${script}`]);
    process.stdout.write(`\n${out.slice(out.indexOf("┌"))}`);
    expect(code, err).toBe(1);
    for (const name of names) {
      expect(out).toContain(`${name}: one\n${name}: two\n`);
      expect(out).toMatch(new RegExp(`│ ${name} +│ php[12] │ 8\\.2\\.32 │ ${name === "wiki" ? 3 : 0} +│`));
    }
    expect(out).toMatch(/20 sites, 1 failed\n$/);
  });
});

describe("cron", () => {
  const runs = { name: "runs", at: "minutely", script: `${place}/runs.php` };
  const fails = { name: "fails", at: "*:*", script: `${place}/failing.php`, args: ["100% $HOME"] };

  beforeAll(async () => {
    await put("status", "runs.php", noteRun);
    await put("status", "failing.php", "<?php exit($argv[1] === '100% $HOME' ? 5 : 6);\n");
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, withCron(runs, fails));
    expect(code, out + err).toBe(0);
  });
  afterAll(async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
    for (const vm of vms) expect(await on(vm, "systemctl list-units --all --plain --no-legend 'fleet-cron-*.timer'")).toBe("");
  });

  it("runs an entry once a minute, on one of the two VMs", async () => {
    await until(async () => (await runsOf("status")).length >= 2, 150, "two runs");
    const minutes = (await runsOf("status")).map(({ minute }) => minute);
    expect(minutes).toEqual(minutes.map((_, i) => (minutes[0] ?? 0) + i));
  });

  it("and fleet status shows the last run of each entry, and ends with 1 when one failed", async () => {
    const { code, out, err } = await fleet("status");
    expect(code, out + err).toBe(1);
    expect(out).toMatch(/│ status │ fails +│ \S+ \S+ │ php[12] │ exit 5 +│/);
    expect(out).toMatch(/│ status │ runs +│ \S+ \S+ │ php[12] │ ok +│/);
    expect(out).toContain("2 cron entries, the last run of 1 failed\n8 VMs, ");
  });

  it("a failed run is no difference for fleet drift", async () => {
    const { code, out } = await fleet("drift");
    expect(code, out).toBe(0);
  });
});
