import { execFileSync } from "child_process";
import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { committedConfig } from "../../lab/paths";
import { network, relocated } from "../../lab/settings";
import { sourcesDirectory, sourcesUp, versionSources } from "../../lab/sources";
import { changedConfig, machine, on, pulumi, root, run, startProbe, temporary, until, type Outcome, type Page } from "../lab/lab";
import { Repository } from "./code";
import { phpexec } from "./scripts";

/* Two platforms of the lab's stack, on two VMs each: WordPress and MediaWiki, from Debian's source archives as Git repositories. */

const hosts = { press: "press.lab.test", pedia: "pedia.lab.test" } as const;
type Platform = keyof typeof hosts;
const vips = { press: relocated("10.77.0.4"), pedia: relocated("10.77.0.6") };
const page: Page = { host: hosts.press, path: "/", vip: vips.press, port: 443 };
const uids = { press: 59002, pedia: 59003 };
const vms = { press: ["press1", "press2"], pedia: ["pedia1", "pedia2"] } as const;

/** A tree with what an archive of the lab holds, below a directory of it, without what these patterns of tar's name. */
function unpacked(archive: RegExp, below: string, without: readonly string[] = []): string {
  const tree = temporary("code");
  const name = fs.readdirSync(sourcesDirectory).find((file) => archive.test(file)) ?? "";
  fs.mkdirSync(path.join(tree, below), { recursive: true });
  const excluded = ["--anchored", "--no-wildcards-match-slash", ...without.map((pattern) => `--exclude=*/${pattern}`)];
  execFileSync("tar", [...excluded, "-xf", path.join(sourcesDirectory, name), "-C", path.join(tree, below), "--strip-components=1"]);
  return tree;
}

/** The operator's wp-config.php: the database is the lab's, with tables of its own. */
const wordpress = `<?php
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

/** The operator's LocalSettings.php; what MediaWiki compiles of its messages is kept on each VM. */
const mediawiki = `<?php
$wgSitename = 'Fleet pedia';
$wgServer = 'https://${hosts.pedia}';
$wgScriptPath = '';
$wgArticlePath = '/wiki/$1';
$wgDBserver = '${relocated("10.77.0.5")}';
$wgDBname = 'wordpress';
$wgDBuser = 'wordpress';
$wgDBpassword = $fleet['databasePassword'];
$wgDBprefix = 'pedia_';
$wgSecretKey = hash_hmac('sha256', 'secret', $fleet['key']);
$wgMainCacheType = CACHE_NONE;
$wgCacheDirectory = '/var/cache/fleet/pedia';
wfLoadSkin('Vector');
$wgDefaultSkin = 'vector';
`;

const visits = "<?php session_start(); echo gethostname(), ' ', $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;\n";

type Commits = Readonly<Record<Platform, string>>;

const php = { version: "8.2", maxChildren: 3 };
const ini = { memory_limit: "64M", post_max_size: "8M", upload_max_filesize: "8M", "opcache.memory_consumption": 96 };
const database = { host: "10.77.0.5" };

function applications(folder: string, commits: Commits): Record<Platform, object> {
  const file = (name: string, text: string): string => {
    fs.writeFileSync(path.join(folder, name), text);
    return path.join(folder, name);
  };
  const code = (name: Platform): object => ({ repository: `http://10.77.0.5/${name}.git`, commit: commits[name] });
  return {
    press: {
      hosts: [hosts.press],
      uid: uids.press,
      code: code("press"),
      fallback: "/index.php",
      writable: ["wp-content/uploads"],
      config: { path: "wp-config.php", file: file("wp-config.php", wordpress) },
      database,
      php: { ...php, modules: ["curl", "dom", "exif", "fileinfo", "gd", "mbstring", "mysqli", "openssl", "xml", "zip"], ini },
    },
    pedia: {
      hosts: [hosts.pedia],
      uid: uids.pedia,
      code: code("pedia"),
      documentRoot: "wiki",
      fallback: "/index.php",
      config: { path: "wiki/LocalSettings.php", file: file("LocalSettings.php", mediawiki) },
      database,
      php: {
        ...php,
        modules: ["ctype", "dom", "fileinfo", "iconv", "intl", "mbstring", "mysqli", "redis", "session", "xml", "xmlreader"],
        ini: { ...ini, memory_limit: "128M" },
      },
      sessions: "redis",
    },
  };
}

/** The lab's committed stack with both, and a PHP build that has what MediaWiki asks for. */
function withPlatforms(commits: Commits): string {
  const folder = temporary("stack");
  const stack = YAML.parse(fs.readFileSync(committedConfig, "utf8"), { merge: true }) as {
    config: { "fleet:php": { "8.2": { modules: string[] } }; "fleet:network": object; "fleet:dedicated"?: object };
  };
  const application = applications(folder, commits);
  const size = { vcpu: 1, memory: "1 GB", disk: "10 GB" };
  stack.config["fleet:php"]["8.2"].modules.push("intl");
  // The lab's kernel takes two prefixes in a unit's list: with this one the VIPs and the annex are one.
  Object.assign(stack.config["fleet:network"], { openToSites: ["10.77.0.7"] });
  stack.config["fleet:dedicated"] = {
    press: { ...size, vip: "10.77.0.4", hosts: { press1: "10.77.0.67", press2: "10.77.0.68" }, application: application.press },
    pedia: { ...size, vip: "10.77.0.6", hosts: { pedia1: "10.77.0.69", pedia2: "10.77.0.70" }, application: application.pedia },
  };
  const file = path.join(folder, "Pulumi.lab.yaml");
  fs.writeFileSync(file, YAML.stringify(stack, { aliasDuplicateObjects: false }));
  return file;
}

const getAt = (platform: Platform, address: string, file: string, ...options: string[]): Promise<Outcome> => {
  const host = hosts[platform];
  const words = ["-sSk", "--max-time", "60", "--resolve", `${host}:443:${address}`, ...options, `https://${host}${file}`];
  return run("ip", ["netns", "exec", network.namespace, "curl", ...words]);
};
const get = (platform: Platform, file: string, ...options: string[]): Promise<Outcome> => getAt(platform, vips[platform], file, ...options);

/** What each VM of a platform answers, past the balancing. */
const everyVm = (platform: Platform, file: string, ...options: string[]): Promise<string[]> =>
  Promise.all(vms[platform].map(async (name) => (await getAt(platform, (await machine(name)).Address, file, ...options)).out));

const forgetData = async (): Promise<void> => {
  await on("nas1", "sudo rm -rf /srv/fleet/sites/press /srv/fleet/sites/pedia");
  const tables = `SELECT CONCAT('DROP TABLE ', table_name, ';') FROM information_schema.tables WHERE table_schema = 'wordpress' AND (table_name LIKE 'press\\_%' OR table_name LIKE 'pedia\\_%')`;
  await on("annex", `echo "${tables}" | sudo mariadb -N | sudo mariadb wordpress`);
};

const repositories: Repository[] = [];
/** Commits of WordPress: as it is, and another one. */
const press = { one: "", two: "" };

beforeAll(async () => {
  await sourcesUp(versionSources.filter(({ name }) => name.startsWith("mediawiki-")));
  await forgetData();
  const wordpressCode = new Repository("press", unpacked(/^wordpress-/, "."));
  // As an operator would have it: no extensions, one skin, few languages.
  const rest = ["extensions/*", "tests", "docs", "skins/[!V]*", "languages/i18n/[!e]*"];
  const mediawikiCode = new Repository("pedia", unpacked(/^mediawiki-/, "wiki", rest));
  repositories.push(wordpressCode, mediawikiCode);
  press.one = wordpressCode.commit();
  press.two = wordpressCode.commit({ "fleet-two.txt": () => "two\n" });
  const pedia = mediawikiCode.commit({ "wiki/visits.php": () => visits, "private.txt": () => "private\n" });
  for (const repository of repositories) repository.publish();
  const up = await run("bash", ["lab/lab", "up", "--config", withPlatforms({ press: press.one, pedia })], {}, root);
  expect(up.code, up.out + up.err).toBe(0);
});
afterAll(async () => {
  const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
  await forgetData();
  for (const repository of repositories) repository.remove();
  expect(code, out + err).toBe(0);
});

it("the code of an application is nothing that its own user can write", async () => {
  const files = { press: "press-*/index.php", pedia: "pedia-*/wiki/index.php" };
  for (const platform of ["press", "pedia"] as const) {
    const uid = uids[platform];
    const write = `sudo setpriv --reuid=${uid} --regid=${uid} --clear-groups sh -c 'touch /opt/code/${files[platform]}'`;
    await expect(on(vms[platform][0], write)).rejects.toThrow(/denied/i);
  }
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
    expect((await get("press", "/wp-admin/install.php?step=2", "--data", `@${form}`)).out).toContain("WordPress has been installed");
    for (const front of await everyVm("press", "/")) expect(front).toContain("<title>Fleet press");
    // A name of no file goes to the fallback, which shows the front page: permanent links are off here, as WordPress does
    // not reach itself by its name when it is installed.
    expect((await get("press", "/no/such/page/", "-o", "/dev/null", "-w", "%{http_code}")).out).toBe("200");
    expect((await get("press", "/no/such/page/")).out).toContain("Fleet press");
  });

  it("keeps its uploads on the NAS, serves them from every VM, and runs none of them", async () => {
    const uploads = "/srv/fleet/sites/press/wp-content/uploads";
    await on(
      "nas1",
      `for f in a.txt a.php; do echo '<?php echo 6 * 7;' | sudo install -o ${uids.press} -g ${uids.press} -m 644 /dev/stdin ${uploads}/$f; done`,
    );
    for (const file of ["a.txt", "a.php"]) {
      expect(new Set(await everyVm("press", `/wp-content/uploads/${file}`))).toEqual(new Set(["<?php echo 6 * 7;\n"]));
    }
    for (const name of vms.press) {
      expect(await on(name, "readlink /opt/code/press-*/wp-content/uploads")).toBe("/srv/sites/press/wp-content/uploads\n");
    }
  });

  it("other code is a switch of generations that loses no request", async () => {
    const changed = changedConfig((text) => text.replace(press.one, press.two));
    const probe = startProbe(["get=1", "keep=1", "post=1"], 10, page);
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, changed);
    const seen = await probe.stop();
    process.stdout.write(`\nother code: ${seen.failed} of ${seen.sent} failed, p99 ${seen.p99} s, ${seen.resent} sent again\n`);
    expect(code, out + err).toBe(0);
    expect(seen.failed, seen.failures.join("; ")).toBe(0);
    expect(await everyVm("press", "/fleet-two.txt")).toEqual(["two\n", "two\n"]);
  });
});

describe("MediaWiki on VMs of its own, beside them", () => {
  const edit = (text: string): Promise<Outcome> => phpexec(["pedia", "wiki/maintenance/edit.php", "--summary=A test", "Main_Page"], text);

  it("has its tables made by its own script, and shows a page by its path from both VMs", async () => {
    const code = (await on("pedia1", "ls -d /opt/code/pedia-*")).trim();
    for (const file of ["tables.sql", "tables-generated.sql"]) {
      const { code: status, out, err } = await phpexec(["pedia", "wiki/maintenance/sql.php", `${code}/wiki/maintenance/${file}`]);
      expect(status, out + err).toBe(0);
    }
    const edited = await edit("The first text of the ''fleet''.");
    expect(edited.code, edited.out + edited.err).toBe(0);
    for (const shown of await everyVm("pedia", "/wiki/Main_Page")) expect(shown).toContain("The first text of the <i>fleet</i>.");
    expect((await edit("Another text.")).code).toBe(0);
    for (const shown of await everyVm("pedia", "/wiki/Main_Page")) expect(shown).toContain("Another text.");
  });

  it("keeps its compiled messages on each VM, and nothing beside its document root is served", async () => {
    for (const name of vms.pedia) {
      expect(await on(name, "sudo ls /var/cache/fleet/pedia")).toMatch(/l10n/);
      expect(await on(name, "cat /opt/code/pedia-*/private.txt")).toBe("private\n");
    }
    for (const answered of await everyVm("pedia", "/private.txt", "-L")) expect(answered).toContain("Fleet pedia"); // which the fallback leads to
    for (const answered of await everyVm("pedia", "/RELEASE-NOTES-1.39")) expect(answered).toContain("MediaWiki 1.39");
  });

  it("has its sessions in Redis: a visitor is known on both VMs", async () => {
    const jar = path.join(temporary("jar"), "cookies");
    const seen: [vm: string, visits: number][] = [];
    await until(
      async () => {
        const [vm = "", count = "0"] = (await get("pedia", "/visits.php", "-b", jar, "-c", jar)).out.trim().split(" ");
        seen.push([vm, Number(count)]);
        return new Set(seen.map(([name]) => name)).size === 2;
      },
      60,
      "both VMs have answered",
    );
    expect(seen.map(([, count]) => count)).toEqual(seen.map((_, i) => i + 1));
    expect(await on("nas1", "sudo find /srv/fleet/sites/pedia -name 'sess_*'")).toBe(""); // which both would share as well
  });
});
