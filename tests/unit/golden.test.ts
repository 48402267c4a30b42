import * as fs from "fs";
import * as path from "path";
import { describe, expect, it } from "vitest";
import { convergePrograms } from "../../components/host-config";
import { directorParts } from "../../components/lvs-pair";
import { rolloutOf } from "../../components/tier";
import { loadFleet } from "../../config/load";
import type { Fleet, Machine } from "../../config/model";
import { apachePart, vhostFile } from "../../templates/apache/apache";
import { trialTokenFile } from "../../templates/apache/php-trial";
import { applicationParts, secretsText } from "../../templates/application/application";
import { bundle } from "../../templates/bundle";
import { join, type HostContent } from "../../templates/content";
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
const settings = { virtualRouterId: 51, advertSeconds: 1, checkSeconds: 1, checkTimeoutSeconds: 0.7, connectionSync: true };
const directors = fleet.machines.filter((m) => m.role === "director");

/** Applications are prod's: the lab's stack has none of its own. */
const prod = exampleFleet("prod").fleet;
const applications = Object.fromEntries(
  prod.applications.flatMap((a) => a.machines.slice(0, 1).map((m) => [m.name, { machine: m, application: a }])),
);

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
  lb1: directorParts(machine("lb1"), directors, settings, fleet.services),
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
    nasServerPart(
      fleet.sites.map((site) => (site.name === "wiki" ? { ...site, quotaMb: 1024 } : site)),
      [
        { address: "10.77.0.21", access: "ro" },
        { address: "10.77.0.31", access: "rw" },
      ],
      { hourly: 24, daily: 7, weekly: 4 },
    ),
  ],
  build1: [builderPart(machine("build1"), fleet.phpBuilds)],
};

const contentOf = (on: Machine, of: Fleet, parts: readonly Partial<HostContent>[]): HostContent =>
  join({ rollout: rolloutOf(of, on) }, ...parts, systemPart(on, join(...parts)));

function whole(name: string): HostContent {
  if (name === "trial") return join(...trialContent());
  const own = applications[name];
  if (own) return contentOf(own.machine, prod, applicationParts(own.machine, own.application, prod));
  return contentOf(machine(name), fleet, contents[name] ?? []);
}

describe("every file of every VM is what its golden file says", () => {
  it.each([...Object.keys(contents), ...Object.keys(applications), "trial"])("%s", async (name) => {
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
  const all = [...Object.keys(contents), ...Object.keys(applications), "trial"]
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
  const stores = { redis, memcached: { servers: ["10.0.0.7:11211", "10.0.0.8:11211"] } };
  const written = (sessions: typeof site.sessions, given: Parameters<typeof sessionSettings>[1] = stores): string =>
    sessionSettings({ ...site, sessions }, given);
  const setting = (text: string, name: string): number => Number(new RegExp(`\\[${name}\\] = (.+)`).exec(text)?.[1]);
  it.each([
    ["redis", 'php_admin_value[session.save_path] = "tcp://10.0.0.6:6379?timeout=0.5&read_timeout=0.5&prefix=blog:&auth=p%26w"'],
    ["memcached", "php_admin_value[session.save_path] = 10.0.0.7:11211,10.0.0.8:11211"],
    ["files", "php_admin_value[session.save_path] = /srv/sites/blog/sessions"],
  ] as const)("%s", (sessions, line) => {
    expect(sessionSettings({ ...site, sessions }, stores).split("\n")).toContain(line);
  });

  it("a request waits for its store no longer than two seconds, and for a lock at most one", () => {
    const redis = written("redis");
    const [connect, read] = [/[?]timeout=([\d.]+)/, /read_timeout=([\d.]+)/].map((form) => Number(form.exec(redis)?.[1]));
    expect(3 * Math.max(connect ?? 9, read ?? 9)).toBeLessThanOrEqual(2);
    expect(setting(redis, "redis.session.locking_enabled")).toBe(1);
    const lock = (setting(redis, "redis.session.lock_retries") * setting(redis, "redis.session.lock_wait_time")) / 1e6;
    expect(lock).toBe(1);
    expect(setting(redis, "redis.session.lock_retries")).toBeLessThanOrEqual(20); // each costs a round trip besides
    expect(lock + (read ?? 9)).toBeLessThanOrEqual(2);
    expect(setting(redis, "redis.session.lock_expire")).toBe(60);
    const memcached = written("memcached");
    const once = setting(memcached, "memcached.sess_connect_timeout") / 1e3;
    expect(once).toBe(1.2); // a lost packet is sent again after one second
    const locked = (setting(memcached, "memcached.sess_lock_retries") * setting(memcached, "memcached.sess_lock_wait_max")) / 1e3;
    expect(locked).toBe(0.75);
    expect(setting(memcached, "memcached.sess_lock_retries")).toBeLessThanOrEqual(15);
    expect(once + locked).toBeLessThanOrEqual(2);
  });

  it("Memcached: each session on two servers, where there are two; as many as the stack says", () => {
    const replicas = (given: { servers: string[]; replicas?: number }): number =>
      setting(written("memcached", { memcached: given }), "memcached.sess_number_of_replicas");
    expect(replicas({ servers: ["10.0.0.7:11211"] })).toBe(0);
    expect(replicas({ servers: ["10.0.0.7:11211", "10.0.0.8:11211", "10.0.0.9:11211"] })).toBe(1);
    expect(replicas({ servers: ["10.0.0.7:11211", "10.0.0.8:11211"], replicas: 0 })).toBe(0);
    for (const name of ["binary_protocol", "remove_failed_servers", "consistent_hash", "locking", "server_failure_limit"]) {
      expect(setting(written("memcached"), `memcached.sess_${name}`), name).toBe(1);
    }
    // A session that the first server does not answer for is asked of the second one, which strict mode forestalls.
    expect(setting(written("memcached"), "session.use_strict_mode")).toBe(0);
    expect(written("memcached", { memcached: { servers: ["10.0.0.7:11211"] } })).not.toContain("use_strict_mode");
  });

  it("Redis by TLS where the server speaks it, checked by the authority and the name that the stack says", () => {
    const tls = { ca: "keys/redis-ca.pem", name: "redis.university.example" };
    const path = (given: typeof stores.redis & { tls?: object }): string =>
      /save_path\] = "(.*)"/.exec(written("redis", { redis: given }))?.[1] ?? "";
    expect(path({ ...redis, tls })).toBe(
      "tls://10.0.0.6:6379?timeout=0.5&read_timeout=0.5&prefix=blog:&auth=p%26w&stream[cafile]=%2Fetc%2Ffleet%2Fredis-ca.pem&stream[peer_name]=redis.university.example",
    );
    expect(path({ ...redis, tls: {} })).toMatch(/^tls:[^[]*$/);
    expect(path(redis)).toMatch(/^tcp:[^[]*$/);
    const file = (more: object) =>
      fpmPart(machine("php1"), group, { ...around, ...more }).files?.find((f) => f.path === "/etc/fleet/redis-ca.pem");
    expect(file({ redisAuthority: "PEM\n" })?.text).toBe("PEM\n");
    expect(file({})).toBeUndefined();
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

describe("secrets of an application", () => {
  it("are PHP, whatever is in them", () => {
    const text = secretsText({ databasePassword: "a'b\\c", key: "k", redis: ["fleet:lab:moodle", "p"] });
    expect(text.split("\n").slice(2, -1)).toEqual([
      "return [",
      "    'databasePassword' => 'a\\'b\\\\c',",
      "    'key' => 'k',",
      "    'redis' => ['fleet:lab:moodle', 'p'],",
      "];",
    ]);
  });

  it("that there are none of are null", () => {
    expect(secretsText({ key: "k" })).toContain("'databasePassword' => null,\n    'key' => 'k',\n    'redis' => null,");
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
