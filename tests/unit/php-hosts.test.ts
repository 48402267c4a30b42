import { describe, expect, it } from "vitest";
import type { Answer } from "../../cli/ask";
import { declaredOn, deployRows, retireRows, stillUsed, verifyRows, type Held, type Retired } from "../../cli/php-hosts";
import { baseTargets } from "../../cli/phptools";
import type { FleetMachine } from "../../cli/stack";
import { loadFleet } from "../../config/load";
import { exampleFleet, withTrial } from "./example";

const { fleet } = exampleFleet("lab");
const artefact = fleet.phpBuilds[0]?.artefact ?? "";
const machine = (name: string): FleetMachine => {
  const found = fleet.machines.find((m) => m.name === name);
  if (!found) throw new Error(`the lab's stack has no ${name}`);
  return { ...found, user: "fleet", hostKey: "" };
};
const answer = <T>(name: string, said: T): Answer<T> => ({ machine: machine(name), said });

describe("phptools verify", () => {
  const files = { ".": "0755 directory", "bin/php": "0755 aa", "bin/phar": "-> phar.phar", "lib/x.so": "0755 bb" };
  const archive = { sha256: "11", recorded: "11", files };
  const builder = (archives: Held["archives"]): Answer<Held> => answer("build1", { archives, builds: {} });
  const vm = (builds: Held["builds"], name = "php1"): Answer<Held> => answer(name, { archives: {}, builds });
  const states = (...answers: Answer<Held>[]): string[] => verifyRows(fleet, answers).map((r) => `${r.host} ${r.artefact} ${r.state}`);
  const whole = builder({ [artefact]: archive });

  it("finds nothing where archives are what their records say and builds what their archives hold", () => {
    const build = { [artefact]: { from: "11", files } };
    expect(states(whole, vm(build), vm(build, "php2"))).toEqual(["build1", "php1", "php2"].map((host) => `${host} ${artefact} ok`));
  });

  it("names the first paths by which a build differs from its archive", () => {
    const changed = { ".": files["."], "bin/php": "0755 cc", "lib/x.so": files["lib/x.so"], "lib/y.so": "0755 dd", "lib/z.so": "0755 ee" };
    expect(states(whole, vm({ [artefact]: { from: "11", files: changed } }))[1]).toBe(
      `php1 ${artefact} differs: bin/phar missing, bin/php changed, lib/y.so not from the archive and 1 more`,
    );
    expect(states(whole, vm({ [artefact]: { from: "11", files: { ...files, ".": "0700 directory" } } }))[1]).toBe(
      `php1 ${artefact} differs: . changed`,
    );
  });

  it("tells a corrupt archive, and does not compare a build with it", () => {
    const corrupt = builder({ [artefact]: { sha256: "22", recorded: "11" } });
    expect(states(corrupt, vm({ [artefact]: { from: "11", files } }))).toEqual([
      `build1 ${artefact} corrupt archive: sha256 is 22, its record says 11`,
      `php1 ${artefact} no whole archive to compare it with`,
    ]);
  });

  it("tells what is declared and missing, an archive without a record and a record without an archive", () => {
    expect(states(builder({}), vm({}))).toEqual([`build1 ${artefact} missing`, `php1 ${artefact} missing`]);
    expect(states(builder({ [artefact]: { sha256: "11", recorded: null } }))).toEqual([`build1 ${artefact} has no record`]);
    const lost = builder({ [artefact]: { sha256: null, recorded: "11" } });
    expect(states(lost)).toEqual([`build1 ${artefact} missing, though its record is there`]);
  });

  it("looks at a build that is not declared too, and at where each came from", () => {
    const old = builder({ [artefact]: archive, "7.4.33-aa": { ...archive, sha256: "33", recorded: "33" } });
    expect(states(old, vm({ [artefact]: { from: null, files }, "7.4.33-aa": { from: "44", files } })).slice(-2)).toEqual([
      "php1 7.4.33-aa differs: it came as an archive with sha256 44, the builder's has 33",
      `php1 ${artefact} differs: it was not installed as a whole`,
    ]);
  });
});

describe("phptools deploy", () => {
  it("names the base commands of the PHP VMs, and nothing that serves", () => {
    expect(baseTargets("lab", [{ name: "php1", tier: "php-a" }])).toEqual([
      "urn:pulumi:lab::fleet::hosting:php:PhpFpmTier$hosting:host:HostConfig$command:remote:Command::php-a-base-php1",
    ]);
  });

  it("says of each build whether it is new on a VM", () => {
    const two = loadFleet(withTrial()).fleet;
    const [first = "", second = ""] = two.phpBuilds.map((b) => b.artefact);
    const before = [answer("php1", { artefacts: [first] }), answer("php2", { artefacts: [first, second] })];
    const after = [answer("php1", { artefacts: [first, second] }), answer("php2", { artefacts: [first] })];
    expect(deployRows(two, before, after).map((r) => [r.host, r.artefact, r.state])).toEqual([
      ["php1", first, "was there"],
      ["php1", second, "installed now"],
      ["php2", first, "was there"],
      ["php2", second, "missing"],
    ]);
  });
});

describe("phptools retire", () => {
  const said = (uses: string[], removed = false): Retired => ({ builds: [{ name: "7.4.33-aa", uses, removed }], archives: [] });

  it("has every machine keep what is declared for it: a VM what its group has, a builder what it makes", () => {
    expect(declaredOn(fleet, machine("php1"))).toEqual([artefact]);
    expect(declaredOn(fleet, machine("build1"))).toEqual([artefact]);
    expect(declaredOn(fleet, { ...machine("php1"), debian: "trixie" })).toEqual([]);
    expect(declaredOn(fleet, { ...machine("php1"), tier: "php-b" })).toEqual([]);
  });

  it("says why a build stays, and what became of the others", () => {
    const rows = retireRows([
      answer("php1", said(["live generation 0123", "process 7 php-fpm"])),
      answer("php2", said([])),
      answer("build1", { builds: [], archives: [{ name: "7.4.33-aa", uses: [], removed: true }] }),
    ]);
    expect(rows.map((r) => `${r.host} ${r.state}`)).toEqual([
      "php1 kept: live generation 0123, process 7 php-fpm refer to it",
      "php2 not used: --apply removes it",
      "build1 removed",
    ]);
  });

  it("has the builders keep what any VM still uses", () => {
    expect(stillUsed([answer("php1", said(["a unit"])), answer("php2", said([]))])).toEqual(["7.4.33-aa"]);
    expect(stillUsed([answer("php1", said([], true)), answer("php2", said([]))])).toEqual([]);
  });
});
