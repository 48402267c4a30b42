import { createHash } from "crypto";
import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import { bundle } from "../templates/bundle";
import type { HostContent } from "../templates/content";
import { tellConsequence } from "./consequence";
import type { Host } from "./host";
import { secretDigest } from "./keys";
import { known, run } from "./ssh";
import { hostProgram } from "../templates/programs";
import { converge, runProgram, withProgram } from "./programs";

/** A PHP build, or an application's code, as a VM installs it. */
export interface Artefact {
  /** `<release>-<hash>`, unpacked to /opt/php/<name>; `<application>-<hash>`, unpacked to /opt/code/<name>. */
  readonly name: string;
  /** SHA-256 of the archive, checked on arrival. */
  readonly sha256: string;
  /** Where to fetch it, tried in order. */
  readonly urls: readonly string[];
}

export interface HostConfigArgs {
  host: Host;
  /** All that the VM must contain, in plain values. */
  content: HostContent;
  /** Secret texts by the names that `content` uses. */
  secrets?: Readonly<Record<string, pulumi.Input<string>>>;
  /** Key of the digests that stand for secrets in the bundle. */
  digestKey: pulumi.Input<string>;
  /** PHP builds to install. @default none */
  artefacts?: readonly pulumi.Input<Artefact>[];
  /** Code of applications to install. @default none */
  code?: readonly pulumi.Input<Artefact>[];
  /** File systems to make on empty disks. @default none */
  filesystems?: readonly { readonly device: string; readonly type: "btrfs"; readonly label: string }[];
  /** What must be configured before this VM is: the one before it in its tier, a server it mounts from. */
  after?: readonly pulumi.Resource[];
  /** How long a proved change may still be taken back, because later VMs of the tier are not done. @default 0 */
  holdSeconds?: number;
}

/** converge, and what it imports. */
export const convergePrograms = [
  "bundle.py",
  "converge.py",
  "drift.py",
  "ipvs.py",
  "kernel.py",
  "plan.py",
  "probes.py",
  "rollout.py",
  "slumber.py",
  "store.py",
];

/** Debian's units of services that a VM runs by a unit of the fleet's own, or not at all. */
export function unwantedUnits(content: Pick<HostContent, "units">): string[] {
  const wanted = content.units.map((u) => u.name);
  return ["apache2.service", "keepalived.service", "nfs-server.service"].filter((name) => !wanted.includes(name));
}

/**
 * Nothing is begun on a machine that is still being born; a birth that failed is told as such. Newer cloud-inits
 * (Debian 13) end with 2 where all was done and a warning was logged.
 */
const waitForBirth = "sudo -n cloud-init status --wait >/dev/null || [ $? = 2 ] || { cloud-init status --long >&2; exit 1; }";

/**
 * What one VM contains, brought there by four commands: *base* (packages, programs, PHP builds),
 * *secrets*, *config* (the bundle, checked and switched by converge on the VM), and *gate* (a new
 * connection that proves the VM healthy and has it take requests again). A VM that no gate comes
 * back for goes back by itself.
 *
 * ### Operations
 * - a file, unit or probe: config and gate, on this VM alone, after `after`; consequence as
 *   converge reports it (none, reload, restart). A restart that would lose requests is drained.
 * - vcpu or memory: the gate, when the VM has its new size.
 * - a package or a PHP build: the base command too; services are restarted only by the bundle.
 * - a replaced VM: all three run again.
 */
export class HostConfig extends pulumi.ComponentResource {
  readonly nodes: {
    readonly base: command.remote.Command;
    readonly secrets: command.remote.Command | undefined;
    readonly config: command.remote.Command;
    readonly gate: command.remote.Command;
  };
  /** Report of the last converge, one line of JSON. */
  readonly report: pulumi.Output<string>;
  private readonly host: Host;
  private readonly generation: pulumi.Output<string>;
  private readonly again: pulumi.ResourceHook;

  constructor(tier: string, args: HostConfigArgs, opts: pulumi.ComponentResourceOptions = {}) {
    const { host, content } = args;
    super("hosting:host:HostConfig", `${tier}-content-${host.name}`, {}, opts);
    this.host = host;
    const texts = secretTexts(host.name, content, args.secrets ?? {});
    const digests = pulumi
      .all([args.digestKey, texts])
      .apply(([key, all]) => Object.fromEntries(Object.entries(all).map(([name, text]) => [name, secretDigest(key, text)])));

    const installed = pulumi.all([pulumi.all([...(args.artefacts ?? [])]), pulumi.all([...(args.code ?? [])])]);
    const baseInput = installed.apply(([artefacts, code]) => ({
      host: host.name,
      packages: content.packages,
      programs: Object.fromEntries(convergePrograms.map((name) => [name, hostProgram(name)])),
      filesystems: args.filesystems ?? [],
      artefacts,
      ...(code.length > 0 ? { code } : {}),
      disable: unwantedUnits(content),
    }));
    const base = this.remote(
      `${tier}-base`,
      `${waitForBirth}; ${runProgram}`,
      baseInput.apply((input) => withProgram(hostProgram("base.py"), JSON.stringify(input, null, 1))),
      [],
    );
    const names = [...new Set(content.secrets.map((s) => s.secret))];
    const secrets =
      names.length > 0
        ? this.remote(
            `${tier}-secrets`,
            `${converge} secrets`,
            pulumi.secret(pulumi.all([texts, digests]).apply(([t, d]) => secretBundle(t, d))),
            [base],
          )
        : undefined;
    // The digests tell nothing of the secrets, and a secret stdin would hide every diff.
    const text = pulumi.unsecret(digests).apply((d) => bundle(host.name, content, d));
    const before = [base, ...(secrets ? [secrets] : []), ...(args.after ?? [])];
    const config = this.remote(`${tier}-config`, `${converge} apply`, text, before, { beforeUpdate: [tellConsequence(tier, host.name)] });
    this.again = applyAgain(tier, host);
    this.generation = text.apply((t) => createHash("sha256").update(t).digest("hex"));
    const gate = this.gate(`${tier}-gate`, args.holdSeconds ?? 0, [config]);
    this.nodes = { base, secrets, config, gate };
    this.report = config.stdout;
    this.registerOutputs({ report: this.report });
  }

  /**
   * A connection of its own that proves the VM and, without `holdSeconds`, settles its change for good.
   * It runs again when a trigger changes.
   */
  gate(
    name: string,
    holdSeconds: number,
    after: readonly pulumi.Resource[],
    triggers: pulumi.Input<string>[] = [],
  ): command.remote.Command {
    const parts = { generation: this.generation, size: this.host.nodes.size.hex };
    const order = pulumi.output(parts).apply((all) => JSON.stringify({ ...all, holdSeconds }));
    const hooks = { beforeCreate: [this.again], beforeUpdate: [this.again] };
    return this.remote(name, `${converge} gate`, order, after, hooks, triggers);
  }

  private remote(
    part: string,
    create: string,
    stdin: pulumi.Input<string>,
    after: readonly pulumi.Resource[],
    hooks: pulumi.ResourceHookBinding = {},
    triggers: pulumi.Input<string>[] = [],
  ): command.remote.Command {
    const { host } = this;
    return new command.remote.Command(
      `${part}-${host.name}`,
      {
        connection: host.connection,
        create,
        stdin,
        // A new machine under the same address must get everything again.
        triggers: [host.nodes.vm.id, ...triggers],
        logging: command.remote.Logging.Stderr,
        addPreviousOutputInEnv: false,
      },
      { parent: this, dependsOn: [...after], hooks, hideDiffs: ["connection"], additionalSecretOutputs: ["connection"] },
    );
  }
}

/** How often a VM is asked that is booting, a second apart: less than it takes to go back by itself. */
const bootTries = 30;

/**
 * Before a gate, on a connection that is not the gate's: a VM that took its change back, because an `up`
 * was killed or a later VM failed, applies it again. What goes wrong here the gate finds, and tells.
 */
function applyAgain(tier: string, host: Host): pulumi.ResourceHook {
  const apply = async ({ newInputs }: pulumi.ResourceHookArgs): Promise<void> => {
    const { stdin } = newInputs as { stdin: string };
    const to = await known(host.address);
    const ask = (): Promise<{ status: number; stderr: string }> =>
      run(to, `${converge} again`, stdin).catch((error: Error) => ({ status: 1, stderr: error.message }));
    let said = await ask();
    // One that is still booting refuses, or is not there; one that is cut off does not answer, and is not waited for.
    for (let tries = bootTries; tries > 0 && /ECONNREFUSED|EHOSTUNREACH/.test(said.stderr); tries--) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      said = await ask();
    }
    if (said.status !== 0) await pulumi.log.warn(`${host.name}: ${said.stderr.trimEnd()}`);
  };
  return new pulumi.ResourceHook(`${tier}-again-${host.name}`, apply);
}

/** The texts that the content names; one that is not passed is a mistake of the program. */
function secretTexts(
  host: string,
  content: HostContent,
  passed: Readonly<Record<string, pulumi.Input<string>>>,
): pulumi.Output<Record<string, string>> {
  const wanted = [...new Set(content.secrets.map((s) => s.secret))];
  const missing = wanted.filter((name) => passed[name] === undefined);
  if (missing.length > 0) throw new Error(`${host}: no secret named ${missing.join(", ")} was passed`);
  return pulumi.output(Object.fromEntries(wanted.map((name) => [name, passed[name] ?? ""])));
}

function secretBundle(texts: Readonly<Record<string, string>>, digests: Readonly<Record<string, string>>): string {
  return Object.entries(texts)
    .map(([name, text]) => {
      const ended = text.endsWith("\n") ? text : `${text}\n`;
      return `@secret ${JSON.stringify({ digest: digests[name], lines: ended.split("\n").length - 1 })}\n${ended}`;
    })
    .join("");
}
