import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { configFile, pulumiEnvironment } from "../../lab/fleet";
import { labRoot } from "../../lab/paths";
import { machines } from "../../lab/vcenter";
import { mistakenCheckout, run, type Outcome } from "../lab/lab";

const stack = "first-contact";
const ownConfig = path.join(labRoot, `Pulumi.${stack}.yaml`);
const pulumi = (args: readonly string[], directory: string): Promise<Outcome> =>
  run("pulumi", [...args, "--stack", stack, "--non-interactive"], pulumiEnvironment(), directory);
const withConfig = (verb: string, directory: string, ...more: string[]): Promise<Outcome> =>
  pulumi([verb, "--yes", "--skip-preview", "--config-file", ownConfig, ...more], directory);

/** The lab's stack reduced to one small VM. */
function writeConfig(): void {
  const { encryptionsalt, config } = YAML.parse(fs.readFileSync(configFile, "utf8")) as {
    encryptionsalt: string;
    config: Record<string, object>;
  };
  const kept = Object.entries(config).filter(([key]) => key.startsWith("vsphere:") || ["fleet:network", "fleet:secrets"].includes(key));
  const small = { vcpu: 1, memory: "256 MB", disk: "10 GB", vip: "10.77.0.120", hosts: { contact1: "10.77.0.61" } };
  const own = {
    ...Object.fromEntries(kept),
    "fleet:vsphere": { ...config["fleet:vsphere"], folder: stack },
    "fleet:sites": "sites/none",
    "fleet:dedicated": { contact: small },
  };
  fs.writeFileSync(ownConfig, YAML.stringify({ encryptionsalt, config: own }), { mode: 0o600 });
}

describe("the first SSH connection to a new machine", () => {
  const project = path.join(labRoot, "project");
  /** As the program is, but it gives up on a connection sooner: the outcome is the same, the wait is not. */
  const patience = (text: string): string => text.replace("dialErrorLimit: 70", "dialErrorLimit: 16");

  const remove = async (): Promise<void> => {
    await withConfig("destroy", project);
    await pulumi(["stack", "rm", "--yes", "--force"], project);
  };
  beforeAll(async () => {
    await remove();
    writeConfig();
    const { code, err } = await pulumi(["stack", "init", "--secrets-provider", "passphrase"], project);
    expect(code, err).toBe(0);
  });
  afterAll(async () => {
    await remove();
    fs.rmSync(ownConfig, { force: true });
  });

  it("is refused when the guest presents another host key than the one it was given", async () => {
    const copy = await mistakenCheckout("components/birth.ts", (text) =>
      text.replace("ssh_genkeytypes: []", 'ssh_genkeytypes: ["ed25519"]').replace(/^\s*ssh_keys: .*\n/m, ""),
    );
    const host = path.join(copy, "components", "host.ts");
    fs.writeFileSync(host, patience(fs.readFileSync(host, "utf8")));
    const { code, out, err } = await withConfig("up", copy);
    expect(code).not.toBe(0);
    expect(out + err).toMatch(/host key mismatch/);
    expect((await machines()).map((m) => m.Name)).toContain("contact1");
    await withConfig("destroy", project);
  });

  it("passes when the guest presents the key it was given", async () => {
    const copy = await mistakenCheckout("components/host.ts", patience);
    const { code, out, err } = await withConfig("up", copy);
    expect(code, out + err).toBe(0);
    expect(out).toContain("contact-base-contact1");
  });
});
