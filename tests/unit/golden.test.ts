import * as fs from "fs";
import * as path from "path";
import { describe, expect, it } from "vitest";
import { convergePrograms } from "../../components/host-config";
import { rolloutOf } from "../../components/tier";
import { loadFleet } from "../../config/load";
import { apachePart, vhostFile } from "../../templates/apache/apache";
import { trialTokenFile } from "../../templates/apache/php-trial";
import { bundle } from "../../templates/bundle";
import { join, type HostContent } from "../../templates/content";
import { keepalivedPart } from "../../templates/lvs/keepalived";
import { mountPart } from "../../templates/nas/mount";
import { nasServerPart } from "../../templates/nas/server";
import { builderPart } from "../../templates/php/builder";
import { fpmPart, fpmSysctls, redisRules, restPart, sessionSettings, trialPart } from "../../templates/php/fpm";
import { hostProgram, programDirectory } from "../../templates/programs";
import { systemPart } from "../../templates/system/system";
import { vipPart } from "../../templates/system/vip";
import { exampleFleet, withTrial } from "./example";

const { fleet } = exampleFleet("lab");
const machine = (name: string) => {
  const found = fleet.machines.find((m) => m.name === name);
  if (!found) throw new Error(`no ${name} in the lab's stack`);
  return found;
};
const { nas, mutualised } = fleet.config;
const [written] = fleet.phpGroups;
if (!nas || !mutualised || !written) throw new Error("the lab's stack lost a part");
// The lab's stack has no cron entry, no environment and no mail relay of its own.
const entry = { name: "tidy", at: "Mon..Fri 3:30", script: "bin/indexer.php", args: ["-q", 'a "b" $HOME 5%'], timeoutSeconds: 600 };
const environment = { WIKI_FARM: "no farm", SMTP_HOST: "10.77.0.25" };
const mail = { relay: "10.77.0.25", port: 25, startTls: false, domain: "web.university.example" };
const group = {
  ...written,
  sites: written.sites.map((site) => (site.name === "wiki" ? { ...site, cron: [entry], php: { ...site.php, environment } } : site)),
};
const around = { apacheAddresses: ["10.77.0.21", "10.77.0.22"], network: { denied: ["10.77.0.0/24"], allowed: fleet.reachable } };
const settings = { virtualRouterId: 51, advertSeconds: 1, checkSeconds: 1 };
const directors = fleet.machines.filter((m) => m.role === "director");

/** What a trial adds to an Apache VM and to a PHP VM, where the wiki tries PHP 8.4. */
function trialContent(): Partial<HostContent>[] {
  const { sites, phpGroups } = loadFleet(withTrial()).fleet;
  const wiki = sites.find((s) => s.name === "wiki");
  const build = phpGroups[0]?.builds.find((b) => b.version === "8.4");
  if (!wiki?.php.trial || !build) throw new Error("the example has no trial");
  const vip = "10.77.0.101";
  return [
    { files: [vhostFile(wiki, vip)], secrets: trialTokenFile(wiki) },
    trialPart(wiki, wiki.php.trial.port, build, vip, { ...around, mail }),
  ];
}

/** What each role's VM contains in the lab's stack. */
const contents: Record<string, readonly Partial<HostContent>[]> = {
  lb1: [keepalivedPart(machine("lb1"), directors, settings, fleet.services)],
  web1: [
    vipPart([mutualised.vip]),
    mountPart(nas, "ro", "none"),
    apachePart(machine("web1"), mutualised.vip, fleet.sites, { "php-a": group.vip }),
  ],
  php1: [
    vipPart([group.vip], fpmSysctls),
    mountPart(nas, "rw"),
    fpmPart(machine("php1"), group, around),
    restPart("10.77.0.31", group.idleSeconds),
  ],
  nas1: [
    nasServerPart(fleet.sites, [
      { address: "10.77.0.21", access: "ro" },
      { address: "10.77.0.31", access: "rw" },
    ]),
  ],
  build1: [builderPart(machine("build1"), fleet.phpBuilds)],
};

function whole(name: string): HostContent {
  if (name === "trial") return join(...trialContent());
  const parts = contents[name] ?? [];
  const own = join(...parts);
  return join({ rollout: rolloutOf(fleet, machine(name)) }, ...parts, systemPart(machine(name), own));
}

describe("every file of every VM is what its golden file says", () => {
  it.each([...Object.keys(contents), "trial"])("%s", async (name) => {
    const content = whole(name);
    const digests = Object.fromEntries(content.secrets.map((s) => [s.secret, "0".repeat(32)]));
    // Programs have their own tests; here only that they are carried.
    const files = content.files.map((f) => (f.path.startsWith(programDirectory) ? { ...f, text: "(program)\n" } : f));
    await expect(bundle(name, { ...content, files }, digests)).toMatchFileSnapshot(path.join(__dirname, "..", "golden", `${name}.bundle`));
  });
});

describe("every program that a VM gets finds there what it imports", () => {
  const own = fs.readdirSync(path.join(__dirname, "..", "..", "host")).filter((name) => name.endsWith(".py"));
  const missing = (programs: readonly string[]): string[] =>
    programs
      .flatMap((name) => [...hostProgram(name).matchAll(/^(?:import|from) (\w+)/gm)].map(([, module]) => `${module}.py`))
      .filter((name) => own.includes(name) && !programs.includes(name));

  it.each(Object.keys(contents))("%s", (name) => {
    const paths = whole(name).files.map((f) => f.path);
    const programs = paths.filter((p) => p.startsWith(`${programDirectory}/`)).map((p) => path.basename(p));
    expect(programs).toContain("health.py");
    expect(missing(programs)).toEqual([]);
  });

  it("converge", () => {
    expect(missing(convergePrograms)).toEqual([]);
    expect(missing(convergePrograms.filter((name) => name !== "store.py"))).toContain("store.py");
  });
});

it("every template is in one of the golden files", () => {
  const all = [...Object.keys(contents), "trial"]
    .flatMap((name) => whole(name).files)
    .map((f) => f.text)
    .join("");
  const root = path.join(__dirname, "..", "..", "templates");
  const templates = fs.readdirSync(root, { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".mustache"));
  expect(templates.length).toBeGreaterThan(10);
  for (const file of templates) {
    // A line without a tag must appear as it stands.
    const plain = fs
      .readFileSync(path.join(root, file), "utf8")
      .split("\n")
      .filter((l) => l.length > 20 && !l.includes("{{"));
    expect(
      plain.filter((line) => !all.includes(line)),
      file,
    ).toEqual([]);
  }
});

describe("sessions go where the site says", () => {
  const [site] = fleet.sites;
  if (!site) throw new Error("no site");
  const redis = { address: "10.0.0.6", port: 6379, password: "p&w" };
  const stores = { redis, memcached: { servers: ["10.0.0.7:11211"] } };
  it.each([
    ["redis", 'php_admin_value[session.save_path] = "tcp://10.0.0.6:6379?timeout=2&read_timeout=2&prefix=blog:&auth=p%26w"'],
    ["memcached", "php_admin_value[session.save_path] = 10.0.0.7:11211"],
    ["files", "php_admin_value[session.save_path] = /srv/sites/blog/sessions"],
  ] as const)("%s", (sessions, line) => {
    expect(sessionSettings({ ...site, sessions }, stores).split("\n")).toContain(line);
  });

  it("Redis by the site's own user, where it has one, and under the keys that this user may touch", () => {
    const text = sessionSettings({ ...site, sessions: "redis" }, { redis: { ...redis, user: "fleet:lab:blog" } });
    expect(text).toContain('&prefix=blog:&auth[user]=fleet%3Alab%3Ablog&auth[pass]=p%26w"');
    expect(redisRules(site)).toEqual(["~blog:*", "-@all", "+get", "+set", "+setex", "+del", "+exists", "+expire", "+eval", "+evalsha"]);
  });

  it("a store that the stack lacks is an error, not an empty path", () => {
    expect(() => sessionSettings({ ...site, sessions: "redis" }, {})).toThrow("blog keeps sessions in Redis");
  });
});

describe("a bundle is whole", () => {
  const empty = join();
  it("a file without a last newline is refused", () => {
    const content = { ...empty, files: [{ path: "/etc/a", text: "x" }] };
    expect(() => bundle("h", content, {})).toThrow("/etc/a does not end with a newline");
    expect(bundle("h", { ...empty, files: [{ path: "/etc/a", text: "x\n" }] }, {})).toContain('"lines":1}\nx\n');
  });

  it("two parts that write one path are refused", () => {
    const file = { path: "/etc/a", text: "x\n" };
    expect(() => bundle("h", { ...empty, files: [file, file] }, {})).toThrow("h: two parts write /etc/a");
  });

  it("a secret without a digest is refused", () => {
    const content = { ...empty, secrets: [{ path: "/etc/k", secret: "key" }] };
    expect(() => bundle("h", content, {})).toThrow("h: /etc/k needs the secret key");
  });
});
