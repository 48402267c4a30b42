import { spawnSync } from "child_process";
import * as pulumi from "@pulumi/pulumi";
import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { buildRows, report } from "../../cli/phptools";
import type { Artefact } from "../../components/host-config";
import { runProgram } from "../../components/programs";
import { loadFleet } from "../../config/load";
import type { Fleet } from "../../config/model";
import { packageOf, phpModules } from "../../config/php-modules";
import { debianReleases, type DebianRelease } from "../../config/schema";
import { fpmPart } from "../../templates/php/fpm";
import { join, type HostContent } from "../../templates/content";
import { withTrial } from "./example";
import { mockedPlatform, mockEngine } from "./mocks";

const address = (host: number): string => `10.77.0.${host}`;

const committed = withTrial();

/** The lab's stack with two PHP versions, one of them on trial, and VMs of its group on these releases. */
function fleetOn(releases: readonly (DebianRelease | undefined)[], tier: DebianRelease = "bookworm"): Fleet {
  const written = structuredClone(committed);
  const { vsphere: place, builders, mutualised } = written.config as Record<string, Record<string, unknown>>;
  Object.assign(place?.["templates"] as object, { trixie: "debian-13" });
  Object.assign(builders ?? {}, { trixie: { host: "build2", address: address(52) } });
  const hosts = releases.map((debian, i) => [`php${i + 1}`, debian ? { address: address(131 + i), debian } : address(131 + i)] as const);
  Object.assign((mutualised?.["php"] as Record<string, object>)["php-a"] ?? {}, { debian: tier, hosts: Object.fromEntries(hosts) });
  return loadFleet(written).fleet;
}

const around = { apacheAddresses: [], network: { denied: [], allowed: [] } };

/** What a VM of the group has of PHP. */
function phpOf(fleet: Fleet, name: string): HostContent {
  const [group] = fleet.phpGroups;
  const machine = group?.machines.find((m) => m.name === name);
  if (!group || !machine) throw new Error(`no ${name} in the group`);
  return join(fpmPart(machine, group, around));
}

/** Names of the artefacts that files and checks of a VM lead to. */
const artefactsIn = (content: HostContent): string[] => [
  ...new Set([...JSON.stringify([content.files, content.checks]).matchAll(/\/opt\/php\/([^/"]+)\//g)].map((m) => m[1] ?? "")),
];

describe("a VM of a PHP group runs the builds of its own Debian release", () => {
  it("one of the two is on another release than its tier: sites, trial, scripts, checks and packages of each follow", () => {
    const fleet = fleetOn([undefined, "trixie"]);
    expect(fleet.machines.filter((m) => m.role === "php").map((m) => [m.name, m.debian])).toEqual([
      ["php1", "bookworm"],
      ["php2", "trixie"],
    ]);
    const [group] = fleet.phpGroups;
    const builds = (debian: DebianRelease): string[] => (group?.builds ?? []).filter((b) => b.debian === debian).map((b) => b.artefact);
    for (const [name, debian, other] of [
      ["php1", "bookworm", "trixie"],
      ["php2", "trixie", "bookworm"],
    ] as const) {
      const content = phpOf(fleet, name);
      expect(artefactsIn(content).sort()).toEqual(builds(debian).sort());
      expect(content.packages).toContain(packageOf(debian, "libzip4"));
      expect(content.packages).not.toContain(packageOf(other, "libzip4"));
    }
    // All else of the two is the same: one tier, one set of sites.
    const plain = (name: string): string => JSON.stringify(phpOf(fleet, name)).replace(/8\.\d\.\d+-[0-9a-f]{12}/g, "(build)");
    const packages = /"packages":\[[^\]]*\]/;
    expect(plain("php1").replace(packages, "")).toBe(plain("php2").replace(packages, ""));
  });

  it("whatever the releases of its tier and of each VM are, and nothing is compiled that no VM runs", { timeout: 60_000 }, () => {
    const release = fc.constantFrom(...debianReleases);
    fc.assert(
      fc.property(fc.array(fc.option(release, { nil: undefined }), { minLength: 1, maxLength: 4 }), release, (releases, tier) => {
        const fleet = fleetOn(releases, tier);
        const used = new Set(releases.map((own) => own ?? tier));
        expect(fleet.phpBuilds).toHaveLength(used.size * 2);
        expect(new Set(fleet.phpBuilds.map((b) => b.artefact)).size).toBe(used.size * 2);
        releases.forEach((own, i) => {
          const artefacts = artefactsIn(phpOf(fleet, `php${i + 1}`));
          expect(artefacts.map((name) => fleet.phpBuilds.find((b) => b.artefact === name)?.debian)).toEqual([own ?? tier, own ?? tier]);
        });
      }),
      { numRuns: 12 },
    );
  });

  it("a renewal that is done may be written as the tier's release, and that is no change", () => {
    expect(fleetOn([undefined, undefined], "trixie").machines).toEqual(fleetOn(["trixie", "trixie"]).machines);
    expect(fleetOn([undefined, undefined], "trixie").phpGroups).toEqual(fleetOn(["trixie", "trixie"]).phpGroups);
  });

  it("a site without a build of its VM's release is an error of the program, never one of another release", () => {
    const fleet = fleetOn([undefined, undefined]);
    const [group] = fleet.phpGroups;
    if (!group) throw new Error("the lab lost its PHP group");
    expect(() => fpmPart({ debian: "trixie", memoryMb: 512 }, group, around)).toThrow("group php-a has no PHP 8.2 of trixie for");
    expect(() => fpmPart({ debian: "bookworm", memoryMb: 512 }, group, around)).not.toThrow();
  });

  it("phptools list and report show the builds of both releases, each with the sites on it", () => {
    const fleet = fleetOn([undefined, "trixie"]);
    expect(buildRows(fleet).map(([version, , debian, groups, sites]) => [version, debian, groups, sites])).toEqual([
      ["8.2", "bookworm", "php-a", "blog status wiki"],
      ["8.4", "bookworm", "php-a", "wiki (trial)"],
      ["8.2", "trixie", "php-a", "blog status wiki"],
      ["8.4", "trixie", "php-a", "wiki (trial)"],
    ]);
    expect(report(fleet, new Date()).map((r) => [r.php, r.debian])).toEqual([
      ["8.2", "bookworm"],
      ["8.4", "bookworm"],
      ["8.2", "trixie"],
      ["8.4", "trixie"],
    ]);
    const packages = fleet.phpBuilds.map((b) => [b.runPackages.includes("libssl3"), b.runPackages.includes("libssl3t64")]);
    expect(packages).toEqual([...[1, 2].map(() => [true, false]), ...[3, 4].map(() => [false, true])]);
  });
});

it("libraries have the names of the release, looked up in its own package index in November 2026", () => {
  const run = [...new Set(Object.values(phpModules).flatMap((recipe) => [...recipe.run]))];
  expect(run.map((name) => packageOf("bookworm", name))).toEqual(run);
  expect(run.map((name) => packageOf("trixie", name)).sort()).toEqual([
    "libcurl4t64", "libfreetype6", "libicu76", "libjpeg62-turbo", "libonig5", "libpng16-16t64", "libsodium23", "libssl3t64",
    "libwebp7", "libxml2", "libzip5", "zlib1g",
  ]); // prettier-ignore
});

/** What a program is given that travels in front of it, its length first. */
function inputOf(stdin: string): string {
  const [length = ""] = stdin.split("\n");
  return Buffer.from(stdin.slice(length.length + 1))
    .subarray(Number(length))
    .toString();
}

/* Mocks prove what is asked for; that a VM can install and run it is tests/soak/debian.test.ts. */
describe("the base of a VM", () => {
  const bases: Record<string, { readonly packages: string[]; readonly artefacts: Artefact[] }> = {};
  let command = "";
  const fleet = fleetOn([undefined, "trixie"]);

  beforeAll(async () => {
    await mockEngine("lab", ({ name, inputs }) => {
      const [, host] = /^php-a-base-(.+)$/.exec(name) ?? [];
      const { stdin, create } = inputs as { stdin?: string; create?: string };
      if (host && create) command = create;
      if (host && stdin) bases[host] = JSON.parse(inputOf(stdin)) as (typeof bases)[string];
      return { id: `id-${name}`, state: { ...inputs, result: "-".repeat(64), hex: "00", stdout: "{}" } };
    });
    const { PhpFpmTier } = await import("../../components/php-fpm-tier");
    const { nas } = fleet.config;
    const [group] = fleet.phpGroups;
    if (!nas || !group) throw new Error("the lab's stack lost a part");
    const platform = await mockedPlatform(fleet);
    const artefacts = Object.fromEntries(fleet.phpBuilds.map((b) => [b.artefact, { name: b.artefact, sha256: "ab", urls: ["http://b/"] }]));
    new PhpFpmTier("php-a", { platform, group, around, artefacts, nas });
    await pulumi.runtime.disconnect();
  }, 60_000);

  it.each([
    ["php1", "bookworm", "libcurl4"],
    ["php2", "trixie", "libcurl4t64"],
  ] as const)("%s gets the artefacts of %s, and %s", (name, debian, library) => {
    const own = fleet.phpBuilds.filter((b) => b.debian === debian).map((b) => b.artefact);
    expect(bases[name]?.artefacts.map((a) => a.name)).toEqual(own);
    expect(bases[name]?.packages).toContain(library);
  });

  it.each([
    [0, "is begun"],
    [2, "is begun: of Debian 13 that is a birth with warnings"],
    [1, "is not begun"],
  ])("where cloud-init ends with %i it %s", (status, what) => {
    const script = `sudo() { return ${status}; }; ${command.replace(runProgram, "echo begun")}`;
    const done = spawnSync("sh", ["-c", script], { encoding: "utf8" });
    expect([done.stdout, done.status]).toEqual(what.startsWith("is begun") ? ["begun\n", 0] : ["", 1]);
  });
});
