import { afterAll, beforeAll, expect, it } from "vitest";
import { projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { relocated } from "../../lab/settings";
import { curl, on, pulumi, run, settled, type Outcome } from "../lab/lab";
import { siteFile, withSites } from "./scripts";

/*
 * The annex exports a directory as an appliance would: by address, with root squashed, and with nobody's SSH for the
 * program. The lab's own NAS VM goes for it, and comes back with its seeds at the end.
 */

const exported = "/srv/appliance/sites";
/** The appliance's own address, on the annex: what sites reach there, the stores, is no business of the NAS. */
const address = relocated("10.77.0.6");
const clients = { "10.77.0.21": "ro", "10.77.0.22": "ro", "10.77.0.31": "rw", "10.77.0.32": "rw" };
const names = ["blog", "status", "wiki"] as const;

interface SiteKeys {
  readonly uid: number;
  readonly seed?: { readonly files?: Record<string, string> };
}
const site = (name: string): SiteKeys => siteFile(name) as SiteKeys;

/** Everything on the appliance, by path, mode, owner and time. */
const content = (): Promise<string> => on("annex", `sudo find /srv/appliance -printf '%P %m %U %G %T@ %s\\n' | sort`);

async function up(config?: string): Promise<Outcome> {
  const outcome = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
  expect(outcome.code, outcome.out + outcome.err).toBe(0);
  return outcome;
}

/** A pulumi command that reads no configuration. */
const ofState = (...words: string[]): Promise<Outcome> =>
  run("pulumi", [...words, "--stack", "lab", "--non-interactive"], pulumiEnvironment(), projectDirectory);

beforeAll(async () => {
  for (const name of names) {
    const { uid, seed } = site(name);
    const tree = `${exported}/${name}`;
    await on(
      "annex",
      `sudo install -d -m 755 ${exported} && sudo install -d -o ${uid} -g 33 -m 710 ${tree} && sudo install -d -o ${uid} -g ${uid} -m 755 ${tree}/htdocs`,
    );
    const files = seed?.files ?? { "index.php": `<?php echo "${name} from the appliance";\n` };
    for (const [file, text] of Object.entries(files)) {
      const encoded = Buffer.from(text).toString("base64");
      await on("annex", `echo ${encoded} | base64 -d | sudo install -o ${uid} -g ${uid} -m 644 /dev/stdin ${tree}/htdocs/${file}`);
    }
  }
  const line = Object.entries(clients).map(([address, access]) => `${relocated(address)}(${access},sync,no_subtree_check,root_squash)`);
  await on(
    "annex",
    `sudo ip address replace ${address}/24 dev eth0 && sudo mkdir -p /etc/exports.d && echo '${exported} ${line.join(" ")}' | sudo tee /etc/exports.d/appliance.exports && sudo systemctl start nfs-server && sudo exportfs -ra`,
  );
  // What holds data is protected; here it is the test's to give away.
  const state = JSON.parse((await ofState("stack", "export")).out) as { deployment: { resources: { urn: string; protect?: boolean }[] } };
  for (const { urn } of state.deployment.resources.filter((r) => r.protect)) await ofState("state", "unprotect", urn, "--yes");
});

afterAll(async () => {
  await up();
  await on("annex", "sudo sh -c 'rm -f /etc/exports.d/appliance.exports; systemctl stop nfs-server; rm -rf /srv/appliance'");
  await on("annex", `sudo ip address del ${address}/24 dev eth0`);
  // The blog's configuration went with the NAS VM: it is to be installed anew, as in a new lab.
  await on("annex", "echo 'DROP DATABASE wordpress; CREATE DATABASE wordpress CHARACTER SET utf8mb4' | sudo mariadb");
  await settled();
});

it("sites are served from it, and the program touches nothing there", async () => {
  const before = await content();
  const sites = Object.fromEntries(names.map((name) => [name, { ...site(name), seed: undefined }]));
  const nas = { kind: "appliance", address, export: exported, mountOptions: ["nconnect=2"] };
  const config = withSites(sites, (keys) => Object.assign(keys, { "fleet:nas": nas }));
  await up(config);
  expect((await curl("http://status.lab.test/")).out).toContain('"apache"');
  expect((await curl("http://status.lab.test/hello.txt")).out).toBe("hello from the NAS\n");
  expect((await curl("http://wiki.lab.test/")).out).toBe("wiki from the appliance");
  expect(await content()).toBe(before);
  for (const name of ["web1", "php1"]) {
    const [mount = ""] = (await on(name, "grep ' /srv/sites ' /proc/mounts")).split("\n");
    expect(mount).toContain(`${address}:${exported} /srv/sites nfs4`);
    for (const option of ["vers=4.2", "hard", "nosuid", "nodev", "noatime", "nconnect=2", name === "web1" ? "ro" : "rw"]) {
      expect(mount.split(/[ ,]/), mount).toContain(option);
    }
  }
  // A site writes there as itself.
  await on("php1", `sudo setpriv --reuid ${site("wiki").uid} --regid ${site("wiki").uid} --clear-groups touch /srv/sites/wiki/htdocs/own`);
  expect((await on("annex", `sudo stat -c %u ${exported}/wiki/htdocs/own`)).trim()).toBe(String(site("wiki").uid));
  expect((await pulumi(["preview", "--expect-no-changes"], undefined, config)).code).toBe(0);
});
