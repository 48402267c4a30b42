import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import { bundle } from "../templates/bundle";
import type { HostContent } from "../templates/content";
import type { Host } from "./host";
import { secretDigest } from "./keys";
import { hostProgram, runProgram, withProgram } from "./programs";

/** A PHP build as a VM installs it. */
export interface Artefact {
  /** `<release>-<hash>`; unpacked to /opt/php/<name>. */
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
  /** File systems to make on empty disks. @default none */
  filesystems?: readonly { readonly device: string; readonly type: "btrfs"; readonly label: string }[];
  /** Host programs beside converge and the health responder. @default none */
  programs?: readonly string[];
  /** What must be configured before this VM is: the one before it in its tier, a server it mounts from. */
  after?: readonly pulumi.Resource[];
}

/** Debian's own units of what the fleet runs by units of its own. */
const distributionUnits = ["apache2.service", "keepalived.service", "nfs-server.service"];

/** Nothing is begun on a machine that is still being born; a birth that failed is told as such. */
const waitForBirth = "sudo -n cloud-init status --wait >/dev/null || { cloud-init status --long >&2; exit 1; }";
const converge = "sudo -n /usr/bin/python3 -I /usr/local/lib/fleet/converge.py";

/**
 * What one VM contains, brought there by three commands: *base* (packages, programs, PHP builds),
 * *secrets*, and *config* (the bundle, checked and switched by converge on the VM).
 *
 * ### Operations
 * - a file, unit or probe: one config command, on this VM alone, after `after`; consequence as
 *   converge reports it (none, reload, restart).
 * - a package or a PHP build: the base command too; services are restarted only by the bundle.
 * - a replaced VM: all three run again.
 */
export class HostConfig extends pulumi.ComponentResource {
  readonly nodes: {
    readonly base: command.remote.Command;
    readonly secrets: command.remote.Command | undefined;
    readonly config: command.remote.Command;
  };
  /** Report of the last converge, one line of JSON. */
  readonly report: pulumi.Output<string>;

  constructor(tier: string, args: HostConfigArgs, opts: pulumi.ComponentResourceOptions = {}) {
    const { host, content } = args;
    super("hosting:host:HostConfig", `${tier}-content-${host.name}`, {}, opts);
    const texts = secretTexts(host.name, content, args.secrets ?? {});
    const digests = pulumi
      .all([args.digestKey, texts])
      .apply(([key, all]) => Object.fromEntries(Object.entries(all).map(([name, text]) => [name, secretDigest(key, text)])));

    const remote = (part: string, create: string, stdin: pulumi.Input<string>, after: readonly pulumi.Resource[]): command.remote.Command =>
      new command.remote.Command(
        `${tier}-${part}-${host.name}`,
        {
          connection: host.connection,
          create,
          stdin,
          // A new machine under the same address must get everything again.
          triggers: [host.nodes.vm.id],
          logging: command.remote.Logging.Stderr,
          addPreviousOutputInEnv: false,
        },
        { parent: this, dependsOn: [...after], hideDiffs: ["connection"], additionalSecretOutputs: ["connection"] },
      );

    const programs = ["bundle.py", "converge.py", "health.py", "plan.py", "probes.py", "store.py", ...(args.programs ?? [])];
    const baseInput = pulumi.all([...(args.artefacts ?? [])]).apply((artefacts) => ({
      host: host.name,
      packages: content.packages,
      programs: Object.fromEntries(programs.map((name) => [name, hostProgram(name)])),
      filesystems: args.filesystems ?? [],
      artefacts,
      disable: distributionUnits,
    }));
    const base = remote(
      "base",
      `${waitForBirth}; ${runProgram}`,
      baseInput.apply((input) => withProgram(hostProgram("base.py"), JSON.stringify(input, null, 1))),
      [],
    );
    const names = [...new Set(content.secrets.map((s) => s.secret))];
    const secrets =
      names.length > 0
        ? remote("secrets", `${converge} secrets`, pulumi.secret(pulumi.all([texts, digests]).apply(([t, d]) => secretBundle(t, d))), [
            base,
          ])
        : undefined;
    const config = remote(
      "config",
      `${converge} apply`,
      // The digests tell nothing of the secrets, and a secret stdin would hide every diff.
      pulumi.unsecret(digests).apply((d) => bundle(host.name, content, d)),
      [base, ...(secrets ? [secrets] : []), ...(args.after ?? [])],
    );
    this.nodes = { base, secrets, config };
    this.report = config.stdout;
    this.registerOutputs({ report: this.report });
  }
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
