import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import type { Application } from "../config/model";
import { buildsOn } from "../config/php-builds";
import { applicationParts } from "../templates/application/application";
import { artefactPort } from "../templates/php/builder";
import { hostProgram } from "../templates/programs";
import { keepApart } from "./anti-affinity";
import type { Artefact } from "./host-config";
import { archiveOf } from "./php-fpm-tier";
import { runProgram, withProgram } from "./programs";
import { createTier, type Member, type Platform } from "./tier";

/** What applications stand on: what the stack has before any of them. */
export interface Foundation {
  /** The builder VMs, which pack their code. */
  readonly builders: readonly Member[];
  /** Archive of each PHP build by its artefact name. */
  readonly artefacts: Readonly<Record<string, pulumi.Input<Artefact>>>;
  /** What must be configured before a VM that mounts the NAS, or logs in to Redis. */
  readonly ready: readonly pulumi.Resource[];
}

export interface ApplicationTierArgs {
  platform: Platform;
  application: Application;
  foundation: Foundation;
}

/**
 * The VMs of one application, each with Apache, FPM and the same code: what MoodleCluster and
 * DedicatedPlatform have in common. The code is fetched and packed once, on a builder.
 */
export function createApplication(name: string, args: ApplicationTierArgs, parent: pulumi.Resource): Member[] {
  const { platform, application, foundation } = args;
  const { machines, builds } = application;
  const code = packCode(name, args, parent);
  const members = createTier(
    name,
    {
      platform,
      machines,
      content: (machine) => applicationParts(machine, application, platform.fleet),
      extras: (machine) => ({
        artefacts: buildsOn(machine, builds).map((build) => archiveOf(build, foundation.artefacts)),
        code: [code],
      }),
      after: foundation.ready,
    },
    parent,
  );
  keepApart(name, platform.placement.clusterId, members, parent);
  return members;
}

/** Has a builder fetch and pack the code; where the VMs get the archive. */
function packCode(name: string, { application, foundation }: ApplicationTierArgs, parent: pulumi.Resource): pulumi.Output<Artefact> {
  const releases = application.machines.map((m) => m.debian);
  const builder = foundation.builders.find((b) => releases.includes(b.host.machine.debian));
  if (!builder) throw new Error(`no builder packs the code of ${name}`);
  const packed = new command.remote.Command(
    `${name}-code`,
    {
      connection: builder.host.connection,
      create: runProgram,
      stdin: withProgram(hostProgram("codefetch.py"), JSON.stringify(codeInput(application), null, 1)),
      triggers: [builder.host.nodes.vm.id],
      logging: command.remote.Logging.Stderr,
      addPreviousOutputInEnv: false,
    },
    { parent, dependsOn: [builder.config.nodes.gate], hideDiffs: ["connection"], customTimeouts: { create: "60m", update: "60m" } },
  );
  const { artefact } = application.site.code;
  const url = `http://${builder.host.machine.address}:${artefactPort}/code/${artefact}.tar.zst`;
  return packed.stdout.apply((line) => ({ name: artefact, sha256: (JSON.parse(line) as { sha256: string }).sha256, urls: [url] }));
}

/** What codefetch.py reads. */
export function codeInput({ name, site, builds, moodle }: Application): object {
  const { artefact, repository, commit, tag, documentRoot, writable, stub } = site.code;
  const [build] = builds;
  return {
    artefact,
    application: name,
    repository,
    commit,
    ...(tag === undefined ? {} : { tag }),
    documentRoot,
    writable,
    ...(stub ? { stub } : {}),
    ...(moodle && build ? { moodle: { branch: moodle.branch, php: build.release, modules: build.modules } } : {}),
  };
}
