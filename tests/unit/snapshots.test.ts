import { describe, expect, it } from "vitest";
import { applianceText, nasTrouble, quotaText, restoredText, snapshotText, type NasStatus } from "../../cli/snapshots";
import { writtenStack } from "./example";

describe("fleet status tells of the NAS", () => {
  const now = 1_790_553_600;
  const well: NasStatus = { last: { ended: now - 60, newest: "20260928T000000Z", problems: [] }, quotas: [], free: 50, size: 100 };

  it("nothing where all is well, and nothing before the first run after a boot", () => {
    expect(nasTrouble(well, now)).toEqual([]);
    expect(nasTrouble({ ...well, last: null }, now)).toEqual([]);
    expect(nasTrouble(null, now)).toEqual(["snapshots: their program fails"]);
  });

  it("a snapshot that failed, and one that never came", () => {
    const problems = ["No space left on device"];
    expect(nasTrouble({ ...well, last: { ended: now, newest: null, problems } }, now)).toEqual(["snapshot: No space left on device"]);
    const old = { ended: now - 3 * 3600, newest: null, problems: [] };
    expect(nasTrouble({ ...well, last: old }, now)).toEqual(["snapshot: the last one was tried 3 hours ago"]);
  });

  it("a disk that fills up", () => {
    const sizes = { free: 3 * 2 ** 20, size: 100 * 2 ** 20 };
    expect(nasTrouble({ ...well, ...sizes }, now)).toEqual(["disk: 3 MB of 100 MB free"]);
  });

  it("what sites use of their quotas, and which quota is not in force", () => {
    const quotas = [
      { site: "wiki", used: 300 * 2 ** 20, quota: 2 ** 30 },
      { site: "old", used: null, quota: 2 ** 30 },
    ];
    expect(nasTrouble({ ...well, quotas }, now)).toEqual(["quota of old is not in force: its directory was there before"]);
    const [table = ""] = quotaText(quotas);
    expect(table).toMatch(/wiki +│ 300 MB +│ 1024 MB +│ 29 %/);
    expect(table).toMatch(/old +│ not counted +│ 1024 MB/);
    expect(quotaText([])).toEqual([]);
  });
});

describe("fleet snapshot", () => {
  it("lists", () => {
    expect(snapshotText([{ time: "2026-09-28T00:00:00Z", by: "hand" }])).toMatch(/2026-09-28T00:00:00Z +│ hand[^]*1 snapshots/);
  });

  it("ends a restore with a table of what was done", () => {
    const done = {
      site: "wiki",
      from: "2026-09-28T00:00:00Z",
      path: null,
      kept: "/srv/fleet/sites/wiki/.replaced-X",
      files: 5,
      bytes: 2 ** 21,
      seconds: 3.2,
    };
    const text = restoredText(done);
    for (const part of ["wiki", "everything but sessions", "2026-09-28T00:00:00Z", "5, 2 MB, each compared", ".replaced-X", "3.2 s"]) {
      expect(text).toContain(part);
    }
    expect(restoredText({ ...done, path: "htdocs/a", kept: null })).toMatch(/htdocs\/a[^]*nothing/);
  });

  it("refuses an appliance, and says where its own are", () => {
    expect(applianceText("prod", writtenStack("prod").config["nas"])).toBe(
      "prod keeps its sites on an appliance (10.20.0.5), whose snapshots are its own: this program changes nothing there. " +
        "They are in /ifs/hosting/prod/sites/.snapshot; restore with the appliance's own tools.",
    );
    expect(applianceText("lab", writtenStack("lab").config["nas"])).toBeUndefined();
  });
});
