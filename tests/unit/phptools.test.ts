import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterEach, describe, expect, it } from "vitest";
import type { Answer } from "../../cli/ask";
import type { Records } from "../../cli/php-hosts";
import { builderTargets, buildRows, librariesText, report, sitesText, supportText, type BuildReport } from "../../cli/phptools";
import { loadFleet } from "../../config/load";
import { keptOutputs, keptOutputsFile } from "../../stacks/read";
import { exampleFleet, withTrial, writtenStack } from "./example";

it("phptools list names each build once, with the groups, applications and sites on it", () => {
  const rows = buildRows(exampleFleet("prod").fleet);
  expect(rows.map(([version, , debian, groups, sites]) => [version, debian, groups, sites])).toEqual([
    ["8.2", "bookworm", "php-a php-b institutional timetable moodle", "library welcome institutional timetable moodle"],
  ]);
});

it("phptools build names the builders and what they stand on, and no tier that serves", () => {
  const targets = builderTargets("prod").join("\n");
  expect(targets).toContain("hosting:php:PhpBuilder");
  expect(targets).not.toMatch(/ApacheTier|PhpFpmTier|LvsPair|NasExport|MoodleCluster/);
});

describe("the outputs of a run of a few resources", () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-kept-"));
  afterEach(() => {
    delete process.env[keptOutputsFile];
    fs.rmSync(directory, { recursive: true, force: true });
  });

  it("are those of the last whole run", () => {
    const file = path.join(directory, "outputs.json");
    fs.writeFileSync(file, JSON.stringify({ phpBuilds: ["8.2.32-0123456789ab"] }));
    process.env[keptOutputsFile] = file;
    expect(keptOutputs()).toEqual({ phpBuilds: ["8.2.32-0123456789ab"] });
  });

  it("twin: a whole run has its own", () => {
    expect(keptOutputs()).toBeUndefined();
  });
});

describe("phptools report", () => {
  const { fleet } = exampleFleet("lab");
  const on = (date: string): BuildReport => {
    const [row] = report(fleet, new Date(date));
    if (!row) throw new Error("the lab's stack has no build");
    return row;
  };

  it("says who is on a build, and which of its modules no site needs", () => {
    const row = on("2026-11-24");
    expect(row.sites).toEqual(["blog", "status", "wiki"]);
    expect(row.unused).toEqual(["ctype", "filter", "iconv", "simplexml", "tokenizer", "xmlreader", "xmlwriter", "zlib"]);
  });

  it("says what the record of a build says it links, and where there is none, why", () => {
    const artefact = fleet.phpBuilds[0]?.artefact ?? "";
    const [found] = fleet.machines.filter((m) => m.role === "builder");
    if (!found) throw new Error("the lab's stack has no builder");
    const machine = { ...found, user: "fleet", hostKey: "" };
    const said = (answers?: Answer<Records>[]): string[] => report(fleet, new Date(), {}, answers).map(librariesText);
    const linked = { libssl3: "3.0.15-1~deb12u1", zlib1g: "1:1.2.13.dfsg-1" };
    expect(said([{ machine, said: { [artefact]: linked } }])).toEqual(["libssl3 3.0.15-1~deb12u1, zlib1g 1:1.2.13.dfsg-1"]);
    // Neither another build's record nor that of another Debian release is its own.
    expect(said([{ machine, said: { "8.2.32-0123456789ab": linked } }])).toEqual(["not built yet"]);
    expect(said([{ machine: { ...machine, debian: "trixie" }, said: { [artefact]: linked } }])).toEqual(["not built yet"]);
    for (const answers of [undefined, [{ machine, error: "no route" }]])
      expect(said(answers)).toEqual(["not known: its builder was not asked"]);
  });

  it("counts as needed what a module that is used needs, and session, which every site may use; twin: else it is not", () => {
    const unused = (modules: string[], options: string[] = []): string[] => {
      const written = structuredClone(writtenStack("lab")) as ReturnType<typeof withTrial>;
      const build = (written.config["php"] as Record<string, { modules: string[]; pecl: Record<string, object> }>)["8.2"];
      build?.modules.push("pdo", "pdo_mysql");
      const { redis } = build?.pecl ?? {};
      Object.assign(build?.pecl ?? {}, { igbinary: redis, redis: { ...redis, options } });
      for (const site of Object.values(written.sites)) Object.assign(site["php"] as object, { modules });
      return report(loadFleet(written).fleet, new Date()).flatMap((r) => r.unused);
    };
    const names = ["igbinary", "mysqli", "mysqlnd", "opcache", "pdo", "pdo_mysql", "redis", "session"];
    const of = (...more: Parameters<typeof unused>): string[] => unused(...more).filter((name) => names.includes(name));
    expect(of([])).toEqual(["igbinary", "mysqli", "mysqlnd", "pdo", "pdo_mysql"]);
    expect(of(["mysqli"])).toEqual(["igbinary", "pdo", "pdo_mysql"]);
    expect(of(["pdo_mysql"])).toEqual(["igbinary", "mysqli"]);
    expect(of([], ["--enable-redis-igbinary"])).not.toContain("igbinary");
  });

  it("says since when a site is on it, and who tries it", () => {
    const since = { wiki: "2026-03-09", gone: "2026-01-01" };
    const rows = report(loadFleet(withTrial()).fleet, new Date(), since);
    expect(rows.map(sitesText)).toEqual(["blog, status, wiki since 2026-03-09", "wiki (trial)"]);
    // What only a trial needs is needed.
    expect(rows[1]?.unused).not.toContain("mbstring");
    expect(rows[1]?.unused).toContain("curl");
  });

  it("says how long PHP supports it, and since when it does not", () => {
    for (const hour of ["00:00", "23:59"]) expect(supportText(on(`2026-11-24T${hour}Z`))).toBe("2026-12-31, in 37 days");
    expect(supportText(on("2026-12-31T12:00Z"))).toBe("2026-12-31, in 0 days");
    expect(supportText(on("2027-01-02"))).toBe("ended 2026-12-31");
    expect(supportText({ ...on("2026-11-24"), daysLeft: undefined } as unknown as BuildReport)).toBe("not known here");
  });
});
