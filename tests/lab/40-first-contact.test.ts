import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { withProgram } from "../../cli/stack";
import { configFile, projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { secretsFile } from "../../config/load";
import { relocated } from "../../lab/settings";
import { machines } from "../../lab/vcenter";
import { changedCheckout, run, type Outcome } from "./lab";

const stack = "first-contact";
const ownSecrets = path.join(projectDirectory, secretsFile(stack));
const noSites = path.join(projectDirectory, "no-sites");
const ownConfig = path.join(projectDirectory, `Pulumi.${stack}.yaml`);
const pulumi = (args: readonly string[], directory = projectDirectory): Promise<Outcome> =>
  run("pulumi", [...withProgram(args), "--stack", stack, "--non-interactive"], pulumiEnvironment(), directory);
const withConfig = (verb: string, directory = projectDirectory): Promise<Outcome> =>
  pulumi([verb, "--yes", "--skip-preview", "--config-file", ownConfig], directory);

/** The lab's stack reduced to one small VM. */
function writeConfig(): void {
  const { encryptionsalt, config } = YAML.parse(fs.readFileSync(configFile, "utf8")) as {
    encryptionsalt: string;
    config: Record<string, object>;
  };
  const small = { vcpu: 1, memory: "256 MB", disk: "10 GB", vip: relocated("10.77.0.120"), hosts: { contact1: relocated("10.77.0.61") } };
  const own = {
    "fleet:network": config["fleet:network"],
    "fleet:vsphere": { ...config["fleet:vsphere"], folder: stack },
    "fleet:sites": noSites,
    "fleet:dedicated": { contact: small },
  };
  fs.mkdirSync(noSites, { recursive: true });
  fs.writeFileSync(ownConfig, YAML.stringify({ encryptionsalt, config: own }), { mode: 0o600 });
  fs.copyFileSync(path.join(projectDirectory, secretsFile("lab")), ownSecrets);
}

describe("the first SSH connection to a new machine", () => {
  /** As the program is, but it gives up on a connection sooner: the outcome is the same, the wait is not. */
  const patience = (text: string): string => text.replace("dialErrorLimit: 70", "dialErrorLimit: 16");

  const remove = async (): Promise<void> => {
    await withConfig("destroy");
    await pulumi(["stack", "rm", "--yes", "--force"]);
  };
  beforeAll(async () => {
    await remove();
    writeConfig();
    const { code, err } = await pulumi(["stack", "init", "--secrets-provider", "passphrase"]);
    expect(code, err).toBe(0);
  });
  afterAll(async () => {
    await remove();
    for (const file of [ownConfig, ownSecrets]) fs.rmSync(file, { force: true });
  });

  it("is refused when the guest presents another host key than the one it was given", async () => {
    const copy = await changedCheckout("components/birth.ts", (text) =>
      text.replace("ssh_genkeytypes: []", 'ssh_genkeytypes: ["ed25519"]').replace(/^\s*ssh_keys: .*\n/m, ""),
    );
    const host = path.join(copy, "components", "host.ts");
    fs.writeFileSync(host, patience(fs.readFileSync(host, "utf8")));
    const { code, out, err } = await withConfig("up", copy);
    expect(code).not.toBe(0);
    expect(out + err).toMatch(/host key mismatch/);
    expect((await machines()).map((m) => m.Name)).toContain("contact1");
    await withConfig("destroy");
  });

  it("passes when the guest presents the key it was given", async () => {
    const copy = await changedCheckout("components/host.ts", patience);
    const { code, out, err } = await withConfig("up", copy);
    expect(code, out + err).toBe(0);
    expect(out).toContain("contact-base-contact1");
  });
});
