import { spawn } from "child_process";
import { createHash } from "crypto";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { committed } from "../../cli/stack";
import { buildInput } from "../../components/php-builder";
import { runProgram, withProgram } from "../../components/programs";
import { loadFleet } from "../../config/load";
import type { PhpBuild } from "../../config/model";
import { projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { annex, relocated } from "../../lab/settings";
import { sourcesDirectory, sourcesUp, versionSources } from "../../lab/sources";
import { hostProgram } from "../../templates/programs";
import {
  changedCheckout,
  changedConfig,
  curl,
  machine,
  on,
  pulumi,
  root,
  run,
  sshWords,
  until,
  type Outcome,
  type Status,
} from "../lab/lab";
import { anotherBuild, forget, place, put, served, type Build } from "./scripts";

/*
 * Three PHP versions side by side: 8.2 as the lab has it, and 7.4 and 8.4 from the Debian archive, with four PECL modules.
 * Each has a site of its own that says as JSON what runs it.
 */

const releases = { "7.4": "7.4.33", "8.2": "8.2.32", "8.4": "8.4.24" } as const;
type Version = keyof typeof releases;
const versions = Object.keys(releases) as Version[];
const added = versions.filter((v) => v !== "8.2");
const patch = "patches/php-7.4-openssl-3.patch";
/** PHP 7.4's own tests that fail on Debian 12, and why; what a site loses by it is in docs/configuration.md. */
const failuresOf74 = {
  "ext/openssl/tests/openssl_open_basic.phpt":
    "openssl_seal() takes RC4 unless told otherwise, which OpenSSL 3 offers no longer by default",
  "ext/openssl/tests/openssl_pkcs7_decrypt_basic.phpt": "openssl_pkcs7_encrypt() takes 40 bits of RC2 likewise",
  "ext/openssl/tests/openssl_x509_parse_basic.phpt": "expects how OpenSSL 1.1 wrote extensions, with a line's end after some",
  "ext/openssl/tests/sni_server.phpt": "its certificates have expired",
  "ext/openssl/tests/stream_security_level.phpt": "expects the number that the error had in OpenSSL 1.1",
  "ext/openssl/tests/tls_min_v1.0_max_v1.1_wrapper.phpt": "OpenSSL 3 allows TLS 1.0 and 1.1 at security level 0 only, the test asks at 1",
  "ext/session/tests/session_set_save_handler_iface_003.phpt": "reads a session that it wrote in an earlier run, which a fresh /tmp lacks",
} as const;
const vms = ["php1", "php2", "php3"];
const store = "/var/lib/fleet/artefacts";
const siteOf = (version: Version): string => `json${version.replace(".", "")}`;
/** A site beside that of 8.4, on the same build. */
const near = "near84";
const sha256 = (data: string | Buffer): string => createHash("sha256").update(data).digest("hex");
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "php-versions-"));

interface Keys {
  "fleet:php": Record<string, Build>;
  "fleet:mutualised": { php: Record<string, { versions: string[]; hosts: Record<string, string> }> };
  "fleet:sites": string;
}

/** The lab's stack with all versions and their sites, changed further by a test; without 7.4 where it is left. */
function stackWith(change: (keys: Keys) => void = () => undefined, wanted: readonly Version[] = versions): string {
  return changedConfig((text) => {
    const stack = YAML.parse(text) as { config: Record<string, unknown> };
    const keys = stack.config as unknown as Keys;
    const own = keys["fleet:php"]["8.2"];
    const group = keys["fleet:mutualised"].php["php-a"];
    if (!own || !group) throw new Error("the lab's stack has no PHP 8.2 or no group php-a");
    for (const version of added.filter((v) => wanted.includes(v)))
      keys["fleet:php"][version] = anotherBuild(releases[version], own.modules);
    const old = keys["fleet:php"]["7.4"];
    if (old) old.knownFailures = Object.keys(failuresOf74);
    if (old) old.patches = [{ file: patch, sha256: sha256(fs.readFileSync(path.join(root, patch))) }];
    group.versions = [...wanted];
    keys["fleet:sites"] = sitesWith(keys["fleet:sites"], wanted);
    change(keys);
    return YAML.stringify(stack, { aliasDuplicateObjects: false });
  });
}

/** The lab's site files, one for each version, and one more of 8.4. */
function sitesWith(committedSites: string, wanted: readonly Version[]): string {
  const directory = path.join(scratch, wanted.join("-"));
  fs.cpSync(path.resolve(root, committedSites), directory, { recursive: true });
  const status = YAML.parse(fs.readFileSync(path.join(directory, "status.yaml"), "utf8")) as { php: object };
  const named = wanted.map((version) => [siteOf(version), version, Number(version.replace(".", ""))] as const);
  for (const [name, version, number] of [...named, [near, "8.4", 184] as const]) {
    const php = { ...status.php, version };
    const site = { ...status, name, hosts: [`${name}.lab.test`], uid: 20000 + number, port: 10000 + number, php };
    fs.writeFileSync(path.join(directory, `${name}.yaml`), YAML.stringify(site));
  }
  return directory;
}

const phptools = (config: string, ...words: string[]): Promise<Outcome> => {
  const tool = [path.join(root, "cli", "phptools.ts"), ...words, "-s", "lab", "--config-file", config];
  return run("tsx", tool, pulumiEnvironment(), projectDirectory);
};

/** The rows of `phptools verify` that are not ok. */
async function verified(config: string): Promise<{ code: number; differing: string[] }> {
  const { code, out, err } = await phptools(config, "verify", "--json");
  const rows = JSON.parse(out || "[]") as { host: string; artefact?: string; state?: string; error?: string }[];
  expect(rows.length, out + err).toBeGreaterThan(0);
  return { code, differing: rows.filter((r) => r.state !== "ok").map((r) => `${r.host} ${r.artefact} ${r.state ?? r.error}`) };
}

const builds = (config: string): readonly PhpBuild[] => loadFleet(committed("lab", config)).fleet.phpBuilds;
const artefactOf = (config: string, version: Version): string => builds(config).find((b) => b.version === version)?.artefact ?? "";

/**
 * Says how often gcc's own compilers were started while its standard input was open. Events that are alike and not
 * read yet become one, so a count is a lower bound; 0 is 0. ccache starts no compiler for what it knows.
 */
const watcher = `
import ctypes, os, select, subprocess, sys
libc, opened = ctypes.CDLL(None, use_errno=True), 0x20  # IN_OPEN: an exec opens the program
watch = libc.inotify_init1(os.O_NONBLOCK)
for name in ("cc1", "cc1plus"):
    place = subprocess.run(["gcc", "-print-prog-name=" + name], capture_output=True, text=True, check=True).stdout.strip()
    if libc.inotify_add_watch(watch, place.encode(), opened) < 0:
        sys.exit(place + " cannot be watched")
print("watching", flush=True)
count, more = 0, True
while more:
    ready, _, _ = select.select([watch, 0], [], [])
    more = 0 not in ready
    try:
        count += len(os.read(watch, 1 << 16)) // 16
    except BlockingIOError:
        pass
print(count)
`;

/** A program on a machine, with this text on its standard input until `work` is done. */
async function beside<T>(name: string, command: string, input: string, work: (said: () => string) => Promise<T>): Promise<[T, string]> {
  const child = spawn("ssh", [...sshWords((await machine(name)).Address), command], { stdio: ["pipe", "pipe", "pipe"] });
  let [out, err] = ["", ""];
  child.stdout.on("data", (data: Buffer) => (out += data.toString()));
  child.stderr.on("data", (data: Buffer) => (err += data.toString()));
  child.stdin.on("error", () => undefined);
  child.stdin.write(input);
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  const end = async (): Promise<void> => {
    child.stdin.end();
    const code = await ended;
    if (code !== 0) throw new Error(`${name}: ended with ${code}: ${err}`);
  };
  const result = await work(() => out).catch(async (error: unknown) => {
    await end().catch(() => undefined);
    throw error;
  });
  await end();
  return [result, out];
}

/** What came of the work, and how many compilers it started on the builder. */
async function counted<T>(what: string, work: () => Promise<T>): Promise<{ result: T; compilers: number }> {
  const program = Buffer.from(watcher).toString("base64");
  const begun = Date.now();
  const [result, out] = await beside("build1", `python3 -c "$(echo ${program} | base64 -d)"`, "", async (said) => {
    await until(() => Promise.resolve(said().includes("watching")), 20, "the compilers of build1 are watched");
    return work();
  });
  const compilers = Number(out.trim().split("\n").at(-1));
  process.stdout.write(`\n${what}: ${((Date.now() - begun) / 1000).toFixed(1)} s, ${compilers} compiler processes\n`);
  return { result, compilers };
}

/** phpbuild on the builder, with a request that no stack makes; what it reports. */
async function phpbuild(request: object): Promise<{ built: boolean; seconds: number }> {
  const input = withProgram(hostProgram("phpbuild.py"), JSON.stringify(request));
  const [, out] = await beside("build1", runProgram, input, () => Promise.resolve());
  return JSON.parse(out) as { built: boolean; seconds: number };
}

/** What the state of the lab's stack says, as JSON. */
async function stateOf<T>(...words: string[]): Promise<T> {
  const { code, out, err } = await run(
    "pulumi",
    ["stack", ...words, "--show-secrets", "--stack", "lab"],
    pulumiEnvironment(),
    projectDirectory,
  );
  if (code !== 0) throw new Error(`pulumi stack ${words.join(" ")} ended with ${code}: ${err}`);
  return JSON.parse(out) as T;
}

/** What the builder said when it was last asked for each of the added versions. */
async function reported(): Promise<boolean[]> {
  const { deployment } = await stateOf<{ deployment: { resources: { urn: string; outputs?: { stdout?: string } }[] } }>("export");
  return added.map((version) => {
    const { outputs } = deployment.resources.find((r) => r.urn === urnOf(version)) ?? {};
    return (JSON.parse(outputs?.stdout ?? "{}") as { built: boolean }).built;
  });
}
const urnOf = (version: Version): string =>
  `urn:pulumi:lab::fleet::hosting:php:PhpBuilder$command:remote:Command::builder-bookworm-php-${version}`;

const buildIn = (php: Keys["fleet:php"], version: Version): Build => {
  const found = php[version];
  if (!found) throw new Error(`the stack has no PHP ${version}`);
  return found;
};

/** Makes another build of it that differs in nothing that is compiled. */
const newOption = ["--disable-short-tags"];

/** An archive beside those that the annex serves. */
const tampered = path.join(sourcesDirectory, "tampered.tar.xz");

/** Does the work while the stack's file is another one; there is one place for it. */
async function withStack<T>(other: () => string, work: () => Promise<T>): Promise<T> {
  try {
    config = other();
    return await work();
  } finally {
    config = stackWith();
  }
}

/** Builds of the tests that no stack declares have such a hash. */
const measured = (n: number): string => `${releases["8.4"]}-00000000000${n}`;

let config = "";
/** Brings the fleet back to the lab's own stack and removes the builds: the next run shall compile again. */
async function takeBack(): Promise<void> {
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  expect(code, out + err).toBe(0);
  // phptools would keep them as long as an earlier generation names them.
  const names = added.map((version) => `${releases[version]}-*`).join(" ");
  for (const vm of ["php1", "php2"]) await on(vm, `sudo sh -c 'cd /opt/php && rm -rf ${names}'`);
  await on("build1", `sudo sh -c 'cd ${store} && rm -f ${names}'`);
  for (const prefix of ["json", "near"]) await forget(prefix);
}

beforeAll(async () => {
  await sourcesUp(versionSources);
  await takeBack(); // what an interrupted run left
  config = stackWith();
});

afterAll(async () => {
  fs.rmSync(tampered, { force: true });
  await takeBack();
  fs.rmSync(scratch, { recursive: true });
});

describe("what is wrong in the files is refused before any machine is asked", () => {
  const mistakes: [what: string, change: (build: Build) => void, version: Version, told: RegExp][] = [
    [
      "a patch that was changed",
      (b) => b.patches?.forEach((p) => (p.sha256 = sha256("another"))),
      "7.4",
      /php-7\.4-openssl-3\.patch has SHA-256/,
    ],
    [
      "a misspelt module",
      (b) => (b.modules = b.modules.map((m) => m.replace("mbstring", "mbstrnig"))),
      "8.4",
      /fleet:php\.8\.4\.modules.*mbstrnig/,
    ],
  ];

  it.each(mistakes)("%s", async (what, change, version, told) => {
    const wrong = () => stackWith(({ "fleet:php": php }) => change(buildIn(php, version)));
    const { result, compilers } = await withStack(wrong, () => counted(`refused (${what})`, () => phptools(config, "build")));
    expect(result.code).not.toBe(0);
    expect(result.out + result.err).toMatch(told);
    expect(result.out + result.err).toContain("nothing was touched");
    expect(compilers).toBe(0);
  });
});

describe("phptools build", () => {
  it("compiles what is declared and not yet built, and nothing else", async () => {
    const before = artefactOf(config, "8.2");
    const outputs = (): Promise<object> => stateOf("output", "--json");
    const left = await outputs();
    const { result, compilers } = await counted("phptools build of 7.4 and 8.4", () => phptools(config, "build"));
    expect(result.code, result.out + result.err).toBe(0);
    expect(await reported()).toEqual([true, true]);
    // The twin of every 0 below.
    expect(compilers).toBeGreaterThan(50);
    const stored = await on("build1", `ls ${store}`);
    for (const { artefact } of builds(config)) expect(stored).toContain(`${artefact}.tar.zst`);
    // The outputs are those of the last whole run, whose builds and VMs the other tools go by.
    expect(await outputs()).toEqual(left);
    expect(await on("php1", `sudo cat /etc/systemd/system/fleet-site-status.service`)).toContain(before);
  });

  it("a second run starts no compiler", async () => {
    const { result, compilers } = await counted("phptools build, the second time", () => phptools(config, "build"));
    expect(result.code, result.out + result.err).toBe(0);
    expect(compilers).toBe(0);
  });

  it("another checkout that asks the builder anew starts no compiler", async () => {
    const copy = await changedCheckout("package.json", (text) => `${text}\n`);
    const targets = added.flatMap((version) => ["--target-replace", urnOf(version)]);
    const { result, compilers } = await counted("the same from another checkout", () =>
      pulumi(["up", "--yes", "--skip-preview", ...targets], copy, config),
    );
    expect(result.code, result.out + result.err).toBe(0);
    expect(await reported()).toEqual([false, false]);
    expect(compilers).toBe(0);
  });

  it("refuses a source with another byte, by its address, and compiles nothing of it", async () => {
    const { name, sha256: pinned } = versionSources.find((s) => s.name.startsWith(`php-${releases["8.4"]}`)) ?? { name: "", sha256: "" };
    const bytes = fs.readFileSync(path.join(sourcesDirectory, name));
    bytes[1000] = (bytes[1000] ?? 0) ^ 1;
    fs.writeFileSync(tampered, bytes);
    // The builder keeps sources by their hash: without its copy it has to fetch this one.
    await on("build1", `sudo rm -f /var/lib/fleet/sources/${pinned}`);
    const url = `http://${annex.address}/${path.basename(tampered)}`;
    const wrong = () =>
      stackWith(({ "fleet:php": php }) => Object.assign(buildIn(php, "8.4"), { source: { url, sha256: pinned }, options: newOption }));
    const { result, compilers } = await withStack(wrong, () => counted("refused (a tampered source)", () => phptools(config, "build")));
    expect(result.code).not.toBe(0);
    expect(result.out + result.err).toContain(`${url}: sha256 is ${sha256(bytes)}, expected ${pinned}`);
    expect(compilers).toBe(0);
  });

  it("refuses an option that this PHP does not know, by its name, before compiling", async () => {
    const wrong = () => stackWith(({ "fleet:php": php }) => (buildIn(php, "8.4").options = ["--enable-mbstrnig"]));
    const { result, compilers } = await withStack(wrong, () => counted("refused (a misspelt option)", () => phptools(config, "build")));
    expect(result.code).not.toBe(0);
    expect(result.out + result.err).toContain("--enable-mbstrnig");
    expect(compilers).toBe(0);
  });
});

const buildFor = (version: Version): PhpBuild => {
  const found = builds(config).find((b) => b.version === version);
  if (!found) throw new Error(`the stack has no build of ${version}`);
  return found;
};

describe("phptools deploy", () => {
  it("brings no archive with another byte to a VM, and names it; verify tells it too", async () => {
    const artefact = artefactOf(config, "7.4");
    const flip = `sudo python3 -c 'f = open("${store}/${artefact}.tar.zst", "r+b"); f.seek(5000); b = f.read(1)[0]; f.seek(5000); f.write(bytes([b ^ 1]))'`;
    await on("build1", flip);
    try {
      const { code, out, err } = await phptools(config, "deploy");
      expect(code).not.toBe(0);
      expect(out + err).toMatch(new RegExp(`artefact ${artefact} cannot be had:[^]*sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}`));
      for (const vm of ["php1", "php2"]) expect(await on(vm, "ls -A /opt/php")).not.toContain(artefact);
      const { code: told, differing } = await verified(config);
      expect(told).toBe(2);
      expect(differing).toContainEqual(expect.stringMatching(new RegExp(`^build1 ${artefact} corrupt archive: `)));
    } finally {
      await on("build1", flip);
    }
  });

  it("brings every build to every VM, and neither a site nor a compiler starts", async () => {
    const sites = (): Promise<string> =>
      on("php1", "systemctl show -p Id,InvocationID 'fleet-site-*.socket'; readlink /var/lib/fleet/current");
    const before = await sites();
    const { result, compilers } = await counted("phptools deploy", () => phptools(config, "deploy", "php-a"));
    expect(result.code, result.out + result.err).toBe(0);
    for (const version of added) {
      for (const vm of ["php1", "php2"]) {
        expect(result.out).toMatch(new RegExp(`│ ${vm} +│ ${artefactOf(config, version)} +│ (installed now|was there) +│`));
      }
    }
    expect(await sites()).toBe(before);
    expect(compilers).toBe(0);
    expect(await verified(config)).toEqual({ code: 0, differing: [] });
  });

  it("verify names a file of an installed build that was changed", async () => {
    const artefact = artefactOf(config, "8.4");
    const file = `/opt/php/${artefact}/bin/php`;
    await on("php2", `sudo cp -a ${file} ${file}.kept && echo x | sudo tee -a ${file} >/dev/null`);
    try {
      expect(await verified(config)).toEqual({
        code: 2,
        differing: [`php2 ${artefact} differs: bin/php changed, bin/php.kept not from the archive`],
      });
    } finally {
      await on("php2", `sudo mv ${file}.kept ${file}`);
    }
    expect((await verified(config)).code).toBe(0);
  });
});

describe("three versions at the same time", () => {
  it("a VM more gets them without a compiler", async () => {
    config = stackWith((keys) => {
      const group = keys["fleet:mutualised"].php["php-a"];
      if (group) group.hosts["php3"] = relocated("10.77.0.33");
    });
    const { result, compilers } = await counted("up with three sites and php3", () =>
      pulumi(["up", "--yes", "--skip-preview"], undefined, config),
    );
    expect(result.code, result.out + result.err).toBe(0);
    expect(compilers).toBe(0);
    const there = await on("php3", "ls /opt/php");
    for (const { artefact } of builds(config)) expect(there.split("\n")).toContain(artefact);
    expect(await verified(config)).toEqual({ code: 0, differing: [] });
  });

  it("each serves its site through the VIP, from every VM, with its own PHP, uid and modules", async () => {
    const seen: Record<string, Set<string>> = {};
    const ask = async (version: Version): Promise<void> => {
      const { out } = await curl(`http://${siteOf(version)}.lab.test/`);
      const answer = JSON.parse(out) as Status;
      expect([answer.php, answer.uid]).toEqual([releases[version], 20000 + Number(version.replace(".", ""))]);
      if (version !== "8.2") for (const name of ["apcu", "igbinary", "memcached", "redis"]) expect(answer.modules).toContain(name);
      (seen[version] ??= new Set()).add(answer.host);
    };
    const whole = (): boolean => versions.every((version) => seen[version]?.size === vms.length);
    for (let n = 0; n < 20 || (n < 300 && !whole()); n++) await Promise.all(versions.map(ask));
    expect(Object.fromEntries(versions.map((v) => [v, [...(seen[v] ?? [])].sort()]))).toEqual(
      Object.fromEntries(versions.map((v) => [v, vms])),
    );
    process.stdout.write(`\neach of ${versions.join(", ")} answered from ${vms.join(", ")}\n`);
  });
});

/** What a script finds in the APCu and OPcache of its site. */
const caches = `<?php
if (isset($_GET['store']) || getenv('STORE')) apcu_store('secret', 'canary');
echo json_encode([
  'host' => gethostname(),
  'secret' => apcu_fetch('secret'),
  'keys' => array_column(iterator_to_array(new APCUIterator(), false), 'key'),
  'others' => array_values(preg_grep('~/srv/sites/(?!' . basename(dirname(__DIR__, 2)) . '/)~', array_keys(opcache_get_status()['scripts']))),
]);
`;

describe("two sites on one build", () => {
  it("have caches of their own: what one keeps in APCu and OPcache, it finds again on each VM, and its neighbour does not", async () => {
    const sites = [siteOf("8.4"), near];
    for (const site of sites) await put(site, "caches.php", caches, served);
    const found = async (site: string, query = ""): Promise<object> => {
      const seen: Record<string, object> = {};
      for (let n = 0; n < 200 && Object.keys(seen).length < vms.length; n++) {
        const { host, ...rest } = JSON.parse((await curl(`http://${site}.lab.test/${place}/caches.php${query}`)).out) as { host: string };
        seen[host] = rest;
      }
      return seen;
    };
    const everywhere = (what: object): object => Object.fromEntries(vms.map((vm) => [vm, what]));
    await found(siteOf("8.4"), "?store");
    expect(await found(siteOf("8.4"))).toEqual(everywhere({ secret: "canary", keys: ["secret"], others: [] }));
    expect(await found(near)).toEqual(everywhere({ secret: false, keys: [], others: [] }));
  });

  it("the same looks find both where one master serves two pools", async () => {
    const build = `/opt/php/${artefactOf(config, "8.4")}`;
    const pools = [
      [siteOf("8.4"), "env[STORE] = yes"],
      [near, ""],
    ].map(([site, more]) =>
      [`[${site}]`, "user = www-data", "group = www-data", `listen = /run/twin-${site}`, "pm = static", "pm.max_children = 1", more].join(
        "\n",
      ),
    );
    const text = Buffer.from(["[global]", "error_log = /run/twin.log", "pid = /run/twin.pid", ...pools, ""].join("\n")).toString("base64");
    const ask = (site: string): string => `
c = socket.socket(socket.AF_UNIX); c.connect("/run/twin-${site}"); c.sendall(probes.fastcgi_request("/srv/sites/${site}/${served}/caches.php"))
said = b""
while chunk := c.recv(65536): said += chunk
print(said[said.index(b"{"):said.rindex(b"}") + 1].decode())`;
    const program = `import socket, sys; sys.path.insert(0, "/etc/fleet/lib"); import probes${ask(siteOf("8.4"))}${ask(near)}`;
    const master = `echo ${text} | base64 -d > /run/twin.conf && ${build}/sbin/php-fpm -y /run/twin.conf -c /etc/fleet/php/${near}/php.ini`;
    await on("php1", `sudo sh -c '${master}'`);
    try {
      const said = await on("php1", `sudo python3 -IBc "$(echo ${Buffer.from(program).toString("base64")} | base64 -d)"`);
      const [, neighbour] = said.trim().split("\n");
      expect(JSON.parse(neighbour ?? "{}")).toMatchObject({
        secret: "canary",
        keys: ["secret"],
        others: [`/srv/sites/${siteOf("8.4")}/${served}/caches.php`],
      });
    } finally {
      await on("php1", "sudo sh -c 'kill $(cat /run/twin.pid); rm -f /run/twin*'");
    }
  });
});

describe("times", () => {
  it("of one build without ccache, and with what the build of the same source left in it", async () => {
    const request = { ...buildInput(buildFor("8.4"), 2), tests: "none" };
    const none = await counted("8.4 without ccache", () => phpbuild({ ...request, artefact: measured(1), ccache: false }));
    const warm = await counted("8.4 with a warm ccache", () => phpbuild({ ...request, artefact: measured(2) }));
    expect([none.result.built, warm.result.built]).toEqual([true, true]);
    expect(warm.result.seconds).toBeLessThan(none.result.seconds);
    expect(warm.compilers).toBeLessThan(none.compilers);
  });
});

describe("phptools retire", () => {
  it("removes what nothing has a use for, and keeps a version that was just left, saying why", async () => {
    const left = artefactOf(config, "7.4");
    const unused = measured(8);
    await on("php1", `sudo cp -a /opt/php/${artefactOf(config, "8.4")} /opt/php/${unused}`);
    config = stackWith(undefined, ["8.2", "8.4"]);
    const early = await phptools(config, "retire", "--apply");
    expect(early.err).toContain(`left alone until pulumi up has run without them: ${left}`);
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
    expect(code, out + err).toBe(0);
    const told = await phptools(config, "retire");
    const applied = await phptools(config, "retire", "--apply");
    process.stdout.write(`\n${early.out}${told.out}${applied.out}`);
    for (const { code: status, err: said } of [early, told, applied]) expect(status, said).toBe(0);
    // The first of them had removed what is not of this stack already.
    expect(early.out).toMatch(new RegExp(`│ php1 +│ ${unused} +│ removed +│`));
    for (const n of [1, 2]) expect(early.out).toMatch(new RegExp(`│ build1 +│ ${measured(n)} +│ removed +│`));
    for (const { out: table } of [told, applied]) {
      expect(table).toMatch(new RegExp(`│ php1 +│ ${left} +│ kept: .*earlier generation [0-9a-f]{12} of .*refers? to it +│`));
      expect(table).not.toMatch(new RegExp(`${left} +│ removed`));
    }
    expect(await on("php1", "ls /opt/php")).toContain(left);
    expect(await on("build1", `ls ${store}`)).toContain(`${left}.tar.zst`);
    expect(await on("php1", "ls -A /opt/php")).not.toContain(unused);
  });
});
