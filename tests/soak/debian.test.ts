import * as path from "path";
import { afterAll, beforeAll, expect, it } from "vitest";
import * as YAML from "yaml";
import { builderTargets } from "../../cli/phptools";
import { relocated } from "../../lab/settings";
import { buildOf, changedConfig, curl, fleet, mixed, on, pulumi, root, run, status, type Outcome } from "../lab/lab";
import { printRows, rollOut } from "../lab/rollouts";
import { clear, place, put, served } from "./scripts";

/** The lab's stack on the way to trixie: its template, its builder, and one of the two PHP VMs on it. */
function withTrixie(text: string): string {
  const stack = YAML.parse(text) as { config: Record<string, unknown> };
  const keys = stack.config as {
    "fleet:vsphere": { templates: Record<string, string> };
    "fleet:builders": Record<string, object>;
    "fleet:mutualised": { php: Record<string, { hosts: Record<string, unknown> }> };
  };
  keys["fleet:vsphere"].templates["trixie"] = "debian-13";
  keys["fleet:builders"]["trixie"] = { ...keys["fleet:builders"]["bookworm"], host: "build2", address: relocated("10.77.0.52") };
  Object.assign(keys["fleet:mutualised"].php["php-a"]?.hosts ?? {}, { php2: { address: relocated("10.77.0.32"), debian: "trixie" } });
  return YAML.stringify(stack, { aliasDuplicateObjects: false });
}

/** `npm run lab`, which also brings the stack back to what is committed. */
const labUp = (...words: string[]): Promise<Outcome> => run("bash", ["lab/lab", "up", ...words]);

const release = async (vm: string): Promise<string> =>
  /^VERSION_CODENAME=(.*)$/m.exec(await on(vm, "cat /etc/os-release"))?.[1] ?? "unknown";

/** PHP version that each PHP VM names in its answers of the status site, and its build. */
async function answering(): Promise<Record<string, string>> {
  const seen: Record<string, string> = {};
  for (let i = 0; i < 60 && Object.keys(seen).length < 2; i++) {
    const { host, php } = await status();
    seen[host] = php;
  }
  return seen;
}

/** Says where it runs, and what it has of its neighbour; `tests/soak/hostile.test.ts` has these attacks' twins. */
const attack = `<?php
$got = array_filter([
  'file' => @file_get_contents('/srv/sites/wiki/htdocs/index.php'),
  'unit' => @file_get_contents('/etc/systemd/system/fleet-site-wiki.service'),
  'processes' => array_filter(glob('/proc/[0-9]*'), fn($p) => @fileowner($p) !== posix_geteuid()),
  'port of its own' => is_resource(@stream_socket_server('tcp://0.0.0.0:0')),
  'FastCGI' => is_resource(@fsockopen('${relocated("10.77.0.101")}', 10002, $e, $s, 2)),
]);
echo gethostname(), is_readable(__FILE__) ? ' has ' : ' cannot read ', implode(', ', ['its own page', ...array_keys($got)]);
`;

let config = "";
beforeAll(async () => {
  config = changedConfig(withTrixie);
  // The image, the builder and the compiler take the whole computer: that is no part of what is measured.
  const machines = await labUp("--machines-only", "--config", config);
  expect(machines.code, machines.out + machines.err).toBe(0);
  const targets = builderTargets("lab").flatMap((t) => ["--target", t]);
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview", ...targets], undefined, config);
  expect(code, out + err).toBe(0);
});
afterAll(async () => {
  printRows();
  const { code, out, err } = await labUp();
  expect(code, out + err).toBe(0);
});

it("a PHP VM is replaced by one of the next Debian release under load, and no request is lost", async () => {
  const preview = await pulumi(["preview"], undefined, config);
  expect(preview.out).toContain("php2: drained, deleted, and born again as trixie from debian-13");
  expect(preview.out).not.toMatch(/(php1|web[12]|lb[12]): drained/);
  const { seen, code, said } = await rollOut("php2 to trixie", mixed, undefined, config);
  expect(code, said).toBe(0);
  expect(await release("php2")).toBe("trixie");
  expect(await release("php1")).toBe("bookworm");
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
});

it("both serve every site with the same PHP version, each by the build of its own release", async () => {
  const versions = await answering();
  expect(Object.keys(versions).sort()).toEqual(["php1", "php2"]);
  expect(versions["php2"]).toBe(versions["php1"]);
  const builds = { php1: await buildOf("php1"), php2: await buildOf("php2") };
  expect(builds.php2).not.toBe(builds.php1);
  // php1 may have builds of before; php2 was born for this.
  expect((await on("php2", "ls /opt/php")).trim()).toBe(builds.php2);
  expect(await on("php1", "ls /opt/php")).not.toContain(builds.php2);
  const listed = await run("tsx", [path.join(root, "cli", "phptools.ts"), "list", "-s", "lab", "--config-file", config]);
  for (const build of Object.values(builds)) expect(listed.out, listed.err).toContain(build);
});

it("and a site gets nothing of its neighbour on either", async () => {
  await put("status", "attack.php", attack, served);
  const said = new Set<string>();
  for (let i = 0; i < 60 && said.size < 2; i++) said.add((await curl(`http://status.lab.test/${place}/attack.php`)).out);
  await clear("status");
  expect([...said].sort()).toEqual(["php1 has its own page", "php2 has its own page"]);
});

it("the mixed group is what the stack says: nothing to change, nothing edited, all well", async () => {
  const preview = await pulumi(["preview", "--expect-no-changes"], undefined, config);
  expect(preview.code, preview.out + preview.err).toBe(0);
  for (const verb of ["drift", "status"]) {
    const { code, out, err } = await fleet(verb);
    expect(code, out + err).toBe(0);
  }
});

it("and goes back the same way", async () => {
  const { seen, code, said } = await rollOut("php2 back to bookworm", mixed);
  expect(code, said).toBe(0);
  expect(await release("php2")).toBe("bookworm");
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
  expect(await buildOf("php2")).toBe(await buildOf("php1"));
  expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
});
