import { execFileSync } from "child_process";
import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { committedConfig } from "../../lab/paths";
import { network, relocated } from "../../lab/settings";
import { sourcesDirectory } from "../../lab/sources";
import { changedConfig, machine, on, pulumi, root, run, startProbe, temporary, type Outcome, type Page } from "../lab/lab";
import { Repository } from "./code";

/* WordPress, from Debian's source archive as a Git repository, on two VMs of its own. */

const host = "press.lab.test";
const vip = relocated("10.77.0.4");
const page: Page = { host, path: "/", vip, port: 443 };
const vms = ["press1", "press2"];

const unpacked = temporary("wordpress");
const archive = fs.readdirSync(sourcesDirectory).find((name) => /^wordpress-.*\.tar/.test(name)) ?? "";
execFileSync("tar", ["-xf", path.join(sourcesDirectory, archive), "-C", unpacked, "--strip-components=1"]);
const repository = new Repository("press", unpacked);
const commits = { one: repository.commit(), two: repository.commit({ "fleet-two.txt": () => "two\n" }) };

/** The operator's wp-config.php: the database is the lab's, with tables of its own. */
const config = `<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'wordpress');
define('DB_PASSWORD', $fleet['databasePassword']);
define('DB_HOST', '${relocated("10.77.0.5")}');
define('AUTH_KEY', hash_hmac('sha256', 'auth', $fleet['key']));
define('DISALLOW_FILE_MODS', true);
$table_prefix = 'press_';
defined('ABSPATH') || define('ABSPATH', $fleet['code'] . '/');
require_once ABSPATH . 'wp-settings.php';
`;

function withPress(): string {
  const folder = temporary("stack");
  const text = path.join(folder, "wp-config.php");
  fs.writeFileSync(text, config);
  const stack = YAML.parse(fs.readFileSync(committedConfig, "utf8"), { merge: true }) as { config: Record<string, unknown> };
  stack.config["fleet:dedicated"] = {
    press: {
      vcpu: 1,
      memory: "1 GB",
      disk: "10 GB",
      vip: "10.77.0.4",
      hosts: { press1: "10.77.0.67", press2: "10.77.0.68" },
      application: {
        hosts: [host],
        uid: 59002,
        code: { repository: "http://10.77.0.5/press.git", commit: commits.one },
        fallback: "/index.php",
        writable: ["wp-content/uploads"],
        config: { path: "wp-config.php", file: text },
        database: { host: "10.77.0.5" },
        php: {
          version: "8.2",
          modules: ["curl", "dom", "exif", "fileinfo", "gd", "mbstring", "mysqli", "openssl", "xml", "zip"],
          maxChildren: 3,
          ini: { memory_limit: "64M", post_max_size: "8M", upload_max_filesize: "8M", "opcache.memory_consumption": 96 },
        },
      },
    },
  };
  const file = path.join(folder, "Pulumi.lab.yaml");
  fs.writeFileSync(file, YAML.stringify(stack, { aliasDuplicateObjects: false }));
  return file;
}

const getAt = (address: string, file: string, ...options: string[]): Promise<Outcome> => {
  const words = ["-sSk", "--max-time", "60", "--resolve", `${host}:443:${address}`, ...options, `https://${host}${file}`];
  return run("ip", ["netns", "exec", network.namespace, "curl", ...words]);
};

beforeAll(async () => {
  repository.publish();
  const up = await run("bash", ["lab/lab", "up", "--config", withPress()], {}, root);
  expect(up.code, up.out + up.err).toBe(0);
});
afterAll(async () => {
  const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
  await on("nas1", "sudo rm -rf /srv/fleet/sites/press");
  repository.remove();
  expect(code, out + err).toBe(0);
});

describe("WordPress on VMs of its own", () => {
  it("is installed by its own form and shows its front page through the VIP, from both VMs", async () => {
    const form = path.join(temporary("form"), "form");
    const fields = {
      weblog_title: "Fleet press",
      user_name: "admin",
      admin_password: "a long phrase for the lab only",
      admin_password2: "a long phrase for the lab only",
      pw_weak: "on",
      admin_email: "admin@lab.test",
      language: "",
    };
    fs.writeFileSync(form, new URLSearchParams(fields).toString(), { mode: 0o600 });
    if (!(await getAt(vip, "/", "-L")).out.includes("Fleet press")) {
      expect((await getAt(vip, "/wp-admin/install.php?step=2", "--data", `@${form}`)).out).toContain("WordPress has been installed");
    }
    for (const name of vms) expect((await getAt((await machine(name)).Address, "/")).out).toContain("<title>Fleet press");
    // A name of no file goes to the fallback, which shows the front page: permanent links are off here, as WordPress does
    // not reach itself by its name when it is installed.
    expect((await getAt(vip, "/no/such/page/", "-o", "/dev/null", "-w", "%{http_code}")).out).toBe("200");
    expect((await getAt(vip, "/no/such/page/")).out).toContain("Fleet press");
  });

  it("keeps its uploads on the NAS, serves them from every VM, and runs none of them", async () => {
    const uploads = "/srv/fleet/sites/press/wp-content/uploads";
    await on(
      "nas1",
      `for f in a.txt a.php; do echo '<?php echo 6 * 7;' | sudo install -o 59002 -g 59002 -m 644 /dev/stdin ${uploads}/$f; done`,
    );
    for (const name of vms) {
      const { Address } = await machine(name);
      for (const file of ["a.txt", "a.php"]) expect((await getAt(Address, `/wp-content/uploads/${file}`)).out).toBe("<?php echo 6 * 7;\n");
      expect(await on(name, "readlink /opt/code/press-*/wp-content/uploads")).toBe("/srv/sites/press/wp-content/uploads\n");
    }
  });

  it("other code is a switch of generations that loses no request", async () => {
    const changed = changedConfig((text) => text.replace(commits.one, commits.two));
    const probe = startProbe(["get=1", "keep=1"], 60, page);
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, changed);
    const seen = await probe.stop();
    process.stdout.write(`\nother code: ${seen.failed} of ${seen.sent} failed, p99 ${seen.p99} s, ${seen.resent} sent again\n`);
    expect(code, out + err).toBe(0);
    expect(seen.failed, seen.failures.join("; ")).toBe(0);
    for (const name of vms) expect((await getAt((await machine(name)).Address, "/fleet-two.txt")).out).toBe("two\n");
  });
});
