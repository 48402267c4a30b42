import { spawnSync } from "child_process";
import { describe, expect, it } from "vitest";
import { latest, outcome } from "../../cli/cron";
import { isCalendar } from "../../config/calendar";
import { loadFleet } from "../../config/load";
import { join, type HostContent } from "../../templates/content";
import { fpmPart } from "../../templates/php/fpm";
import { systemPart } from "../../templates/system/system";
import { writtenStack } from "./example";

const right = [
  "minutely", "hourly", "daily", "yearly", "*:*", "*:0/15", "3:30", "03:05", "0,12:00", "8..18:0/20", "8..18/2:5,35",
  "Mon..Fri 3:30", "mon,Thu 8:00", "Sat,Sun 0:00", "*-*-1 4:00", "*-1,7-1..7 4:05", "Mon *-*-1..7 4:05", "*:5..5", "Mon..Mon 1:00",
]; // prettier-ignore
const wrong = [
  "", " ", "now", "Hourly", "*", "3", "3:30:00", "*:*:0/10", "24:00", "3:60", "3:5..2", "*:*/5", "*:*,5", "*:0/0", "*:0/60",
  "*:59/30", "Fri..Mon 1:00", "Day 1:00", "Mon..Wed..Fri 1:00", "2027-1-1 0:00", "*-13-1 0:00", "*-*-32 0:00", "*-*-0 0:00",
  "1-1 0:00", "3:30 UTC", "Mon  3:30", " 3:30", "3:30 ", "3:30\n", "-1:00", "Mon 3", "*-*-* ", "*:0/15; reboot",
]; // prettier-ignore

describe("a cron entry's time is one of whole minutes", () => {
  it.each(right)("%j is", (text) => expect(isCalendar(text)).toBe(true));
  it.each(wrong)("%j is not", (text) => expect(isCalendar(text)).toBe(false));

  const systemd = spawnSync("systemd-analyze", ["--version"]).status === 0;
  it.skipIf(!systemd)("and systemd reads each of them, as times of whole minutes", () => {
    const { status, stdout, stderr } = spawnSync("systemd-analyze", ["calendar", ...right], { encoding: "utf8" });
    expect(status, stderr).toBe(0);
    const normal = [...stdout.matchAll(/Normalized form: .*/g)].map(([line]) => line);
    expect(normal).toHaveLength(right.length);
    for (const line of normal) expect(line).toMatch(/:00$/);
  });
});

/** A PHP VM of the lab whose wiki has these cron entries. */
function phpVm(cron: object[]): HostContent {
  const written = structuredClone(writtenStack("lab"));
  Object.assign(written.sites["sites/lab/wiki.yaml"] as object, { cron });
  const [group] = loadFleet(written).fleet.phpGroups;
  const machine = group?.machines[0];
  if (!group || !machine) throw new Error("the lab lost its PHP group");
  const own = fpmPart(machine, group, { apacheAddresses: [], network: { denied: ["10.77.0.0/24"], allowed: [] } });
  return join(own, systemPart(machine, join(own)));
}

describe("a cron entry on a PHP VM", () => {
  const entry = { name: "tidy", at: "hourly", script: "bin/indexer.php" };
  const text = (path: string, cron: object[] = [entry]): string => phpVm(cron).files.find((f) => f.path.endsWith(path))?.text ?? "";
  const box = (unit: string): string => text(unit).slice(text(unit).indexOf("\nUser="));

  it("has its timer started by converge and at boot, and its service by nobody but the timer", () => {
    const path = "/etc/systemd/system/fleet-cron-wiki-tidy.timer";
    const units = phpVm([entry]).units.filter((u) => u.name.includes("cron"));
    expect(units).toEqual([{ name: "fleet-cron-wiki-tidy.timer", restart: [path] }]);
    expect(text("fleet.target")).toContain("Wants=fleet-cron-wiki-tidy.timer\n");
    expect(text("fleet.target")).not.toContain("tidy.service");
  });

  it("runs in the very box of the site's FPM, as phpexec's scripts do", () => {
    expect(box("fleet-site-wiki.service")).toContain("Slice=sites-wiki.slice");
    expect(box("fleet-cron-wiki-tidy.service")).toBe(box("fleet-site-wiki.service"));
    const lines = box("fleet-site-wiki.service").split("\n");
    const { properties } = JSON.parse(text("scripts/wiki.json")) as { properties: string[] };
    const own = properties.filter((p) => !/^(WorkingDirectory|Environment|TimeoutStopSec)=/.test(p));
    expect(own).toEqual(lines.filter((line) => line !== "" && !line.startsWith("#")));
  });

  it("is ended after an hour, or after its own time", () => {
    expect(text("tidy.service")).toContain("TimeoutStartSec=3600\n");
    expect(text("tidy.service", [{ ...entry, timeout: "5 minutes" }])).toContain("TimeoutStartSec=300\n");
  });

  it("of a site that has none there is nothing", () => {
    const { files, units, checks } = phpVm([]);
    for (const all of [files.map((f) => f.path), units.map((u) => u.name), checks.map((c) => c.name)])
      expect(all.filter((name) => name.includes("fleet-cron"))).toEqual([]);
  });
});

describe("fleet status tells of each entry the last run, wherever it was", () => {
  const php1 = { vm: "php1", site: "wiki", entry: "tidy", running: false };
  const php2 = { ...php1, vm: "php2" };

  it("the newer of two", () => {
    const runs = [
      { ...php1, ended: 200, result: "success", exit: 0 },
      { ...php2, ended: 100, result: "exit-code", exit: 4 },
    ];
    expect(latest(runs)).toEqual([{ ...runs[0], failed: false }]);
    expect(latest([...runs, { ...php2, ended: 300, result: "exit-code", exit: 4 }])).toMatchObject([{ vm: "php2", failed: true }]);
  });

  it("one that goes on is neither well nor failed", () => {
    const runs = [
      { ...php1, ended: 200, result: "timeout", exit: 15 },
      { ...php2, running: true },
    ];
    expect(latest(runs)).toMatchObject([{ vm: "php2", failed: false }]);
  });

  it("one that no VM has run yet is no failure", () => {
    expect(latest([php1, php2])).toMatchObject([{ vm: "", failed: false }]);
  });

  it.each([
    [{ ...php1, running: true }, "running"],
    [php1, "no run yet"],
    [{ ...php1, ended: 1, result: "success", exit: 0 }, "ok"],
    [{ ...php1, ended: 1, result: "exit-code", exit: 4 }, "exit 4"],
    [{ ...php1, ended: 1, result: "exit-code", exit: 0 }, "exit-code"],
    [{ ...php1, ended: 1, result: "timeout", exit: 15 }, "timeout"],
  ])("%o is told as %s", (run, text) => expect(outcome(run)).toBe(text));
});
