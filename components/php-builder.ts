import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import type { Machine, PhpBuild } from "../config/model";
import { artefactPort, builderPart } from "../templates/php/builder";
import type { Artefact } from "./host-config";
import { hostProgram } from "../templates/programs";
import { runProgram, withProgram } from "./programs";
import { createTier, type Member, type Platform } from "./tier";

export interface PhpBuilderArgs {
  platform: Platform;
  /** The builder VM of one Debian release. */
  machine: Machine;
  /** What to compile there. */
  builds: readonly PhpBuild[];
}

/**
 * The VM that compiles PHP for one Debian release. Each build is one command: pinned sources in, one
 * archive out, named by everything that decides its bytes; equal inputs are never compiled twice. Builds
 * of one VM go one after the other, each with all its CPUs; builders of other releases work beside it.
 *
 * ### Operations
 * - a version, module, option, flag or signature: one more build; what is installed elsewhere stays.
 * - more tests: of the stored archives, whose bytes stay. Fewer: nothing.
 */
export class PhpBuilder extends pulumi.ComponentResource {
  readonly members: readonly Member[];
  /** Archive of each build by its artefact name. */
  readonly artefacts: Readonly<Record<string, pulumi.Output<Artefact>>>;

  constructor(name: string, args: PhpBuilderArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:php:PhpBuilder", name, {}, opts);
    const { platform, machine, builds } = args;
    this.members = createTier(
      name,
      { platform, machines: [machine], content: () => [builderPart(machine, builds, platform.fleet.applications.length > 0)] },
      this,
    );
    const [builder] = this.members;
    if (!builder) throw new Error(`${name} has no VM`);
    const artefacts: Record<string, pulumi.Output<Artefact>> = {};
    for (const build of builds) {
      const compiled = new command.remote.Command(
        `${name}-php-${build.version}`,
        {
          connection: builder.host.connection,
          create: runProgram,
          stdin: withProgram(hostProgram("phpbuild.py"), JSON.stringify(buildInput(build, machine.vcpu), null, 1)),
          triggers: [builder.host.nodes.vm.id],
          logging: command.remote.Logging.Stderr,
          addPreviousOutputInEnv: false,
        },
        {
          parent: this,
          dependsOn: [builder.config.nodes.gate],
          hideDiffs: ["connection"],
          // The builds of a VM wait for each other.
          customTimeouts: { create: `${60 * builds.length}m`, update: `${60 * builds.length}m` },
        },
      );
      artefacts[build.artefact] = compiled.stdout.apply((line) => {
        const { sha256 } = JSON.parse(line) as { sha256: string };
        return { name: build.artefact, sha256, urls: [`http://${machine.address}:${artefactPort}/${build.artefact}.tar.zst`] };
      });
    }
    this.artefacts = artefacts;
    this.registerOutputs({ builds: builds.map((b) => b.artefact) });
  }
}

/** What phpbuild.py reads. */
export function buildInput(build: PhpBuild, jobs: number): object {
  return {
    artefact: build.artefact,
    version: build.release,
    debian: build.debian,
    architecture: build.architecture,
    sources: { php: build.source, pecl: build.pecl },
    patches: build.patches,
    environment: build.environment,
    options: build.options,
    modules: build.modules,
    packages: build.buildPackages,
    tests: build.tests,
    knownFailures: build.knownFailures,
    jobs,
  };
}
