import { spawnSync } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { describe, expect, it } from "vitest";
import type { Answer } from "../../cli/ask";
import { bringTargets, nodeTrouble, reopen, switchTargets, upgrade, type Moodle } from "../../cli/moodle";
import type { About } from "../../cli/phpexec";
import type { FleetMachine } from "../../cli/stack";
import { pendingCheck } from "../../templates/moodle/moodle";

const cli = "admin/cli";

/** Nodes that note what is asked of them, and answer as told: by the words of a script without its directory. */
class Noted implements Moodle {
  readonly steps: string[] = [];
  readonly said: string[] = [];

  constructor(
    private readonly answers: Readonly<Record<string, number>>,
    readonly cron = true,
    private readonly serves = true,
  ) {}

  private note(step: string): number {
    this.steps.push(step);
    return this.answers[step] ?? 0;
  }
  bring(): Promise<void> {
    this.note("bring");
    return Promise.resolve();
  }
  script(tree: string, ...words: string[]): Promise<number> {
    return Promise.resolve(this.note(`${tree} ${words.join(" ").replace(`${cli}/`, "")}`));
  }
  everywhere(tree: string, ...words: string[]): Promise<boolean> {
    return Promise.resolve(this.note(`every ${tree} ${words.join(" ").replace(`${cli}/`, "")}`) === 0);
  }
  switchCode(): Promise<boolean> {
    this.note("switch");
    return Promise.resolve(this.serves);
  }
  say(text: string): void {
    this.said.push(text);
  }
}

const asked = "new upgrade.php --is-maintenance-required";
const rebuilt = "every new alternative_component_cache.php --rebuild";
const [stopped, started] = ["live cron.php --disable-wait=600", "live cron.php --enable"];
const closed = "live maintenance.php --enable";
/** Once, and then on every node, which may remember the page. */
const opened = ["live maintenance.php --disable", "every live maintenance.php --disable"];
const purged = "live purge_caches.php";
const known = "every live upgrade.php --is-pending";
const upgraded = "new upgrade.php --non-interactive";

async function run(moodle: Noted): Promise<{ status: number; steps: string[]; last: string }> {
  const status = await upgrade(moodle);
  return { status, steps: moodle.steps, last: moodle.said.at(-1) ?? "" };
}

describe("an upgrade goes in the documented order", () => {
  it("with an outage, where Moodle says that one is needed", async () => {
    const { status, steps } = await run(new Noted({ [asked]: 2 }));
    expect(status).toBe(0);
    expect(steps).toEqual(["bring", asked, rebuilt, stopped, closed, upgraded, "switch", purged, started, ...opened]);
  });

  it("without one, where Moodle says that none is: the site is never closed", async () => {
    const { status, steps } = await run(new Noted({ [asked]: 3 }));
    expect(status).toBe(0);
    expect(steps).toEqual(["bring", asked, rebuilt, stopped, `${upgraded} --maintenance=0`, "switch", purged, started, ...opened]);
  });

  it("with the switch alone, where the database is of the new code already", async () => {
    const { status, steps } = await run(new Noted({ [asked]: 0 }));
    expect(status).toBe(0);
    expect(steps).toEqual(["bring", asked, rebuilt, "switch", purged, started, ...opened]);
  });

  it("and leaves a cron alone that is not the fleet's", async () => {
    const { steps } = await run(new Noted({ [asked]: 2 }, false));
    expect(steps.filter((step) => step.includes("cron"))).toEqual([]);
  });
});

describe("an upgrade that fails leaves the old code serving, and says so", () => {
  it.each([
    ["Moodle cannot say what is needed", { [asked]: 1 }, [asked]],
    ["a node cannot rebuild its component cache", { [asked]: 2, [rebuilt]: 1 }, [asked, rebuilt]],
    ["cron goes on", { [asked]: 2, [stopped]: 1 }, [asked, rebuilt, stopped, known, started, ...opened]],
    ["maintenance mode is refused", { [asked]: 2, [closed]: 1 }, [asked, rebuilt, stopped, closed, known, started, ...opened]],
  ])("%s", async (_, answers, expected) => {
    const { status, steps, last } = await run(new Noted(answers));
    expect(status).toBe(1);
    expect(steps).toEqual(["bring", ...expected]);
    expect(last).toMatch(/(nothing was changed, the old code serves|knows the database and serves on)$/);
  });

  it.each([
    ["cron cannot be stopped", { [asked]: 2, [stopped]: 1, [known]: 1 }, true, [stopped, known]],
    ["maintenance mode cannot be entered", { [asked]: 2, [closed]: 1, [known]: 1 }, true, [closed, known]],
    ["the database is upgraded and the switch fails again", { [asked]: 0, [known]: 1 }, false, ["switch", known]],
  ])("a run that follows one that ended half-way opens nothing: %s", async (_, answers, serves, expected) => {
    const { status, steps, last } = await run(new Noted(answers, true, serves));
    expect([status, steps.slice(-2)]).toEqual([1, expected]);
    expect(last).toContain("does not know the database, site and cron stay as they are: correct what failed");
  });

  it("a site that cannot be opened again is told, with the way", async () => {
    const { status, last } = await run(new Noted({ [asked]: 2, [upgraded]: 1, [started]: 1 }));
    expect([status, last.split("; ")[1]]).toEqual([
      1,
      "the old code knows the database, but cron or maintenance mode is not as it was: npm run fleet -- moodle maintenance off",
    ]);
  });

  it("upgrade.php fails and the old code knows the database: it is opened again", async () => {
    const { status, steps, last } = await run(new Noted({ [asked]: 2, [upgraded]: 1 }));
    expect(status).toBe(1);
    expect(steps.slice(5)).toEqual([upgraded, known, started, ...opened]);
    expect(last).toBe("upgrade.php of the new code failed (exit 1); the old code knows the database and serves on");
  });

  it("upgrade.php fails in the middle: the site stays closed, and the ways out are told", async () => {
    const { status, steps, last } = await run(new Noted({ [asked]: 2, [upgraded]: 1, [known]: 1 }));
    expect(status).toBe(1);
    expect(steps.slice(5)).toEqual([upgraded, known]);
    expect(last).toContain(
      "the old code does not know the database, maintenance mode stays on, cron stays stopped: correct what failed and run this again, or restore the database",
    );
  });

  it("the connection is lost under upgrade.php: nobody asks in the middle of it, and the site stays closed", async () => {
    const { status, steps, last } = await run(new Noted({ [asked]: 2, [upgraded]: -1 }));
    expect([status, steps.slice(5)]).toEqual([1, [upgraded]]);
    expect(last).toBe(
      "how upgrade.php of the new code ended is not known; no node was changed, maintenance mode stays on, cron stays stopped: run this again",
    );
  });

  it("the switch fails: closed stays closed, open stays open, and another run goes on from there", async () => {
    const outage = await run(new Noted({ [asked]: 2, [known]: 1 }, true, false));
    expect([outage.status, outage.steps.slice(-3)]).toEqual([1, [upgraded, "switch", known]]);
    expect(outage.last).toContain("maintenance mode stays on, cron stays stopped: correct what failed and run this again");
    const none = await run(new Noted({ [asked]: 3, [known]: 1 }, true, false));
    expect([none.status, none.steps.slice(-2)]).toEqual([1, ["switch", known]]);
    expect(none.last).toContain("the site stays open, cron stays stopped");
    const code = await run(new Noted({ [asked]: 0 }, true, false)); // other code of the same database
    expect([code.status, code.steps.slice(-5)]).toEqual([1, ["switch", known, started, ...opened]]);
    const again = await run(new Noted({ [asked]: 0 }));
    expect([again.status, again.steps.slice(-4)]).toEqual([0, [purged, started, ...opened]]);
  });
});

it("maintenance that ends by hand lets cron go on, which an upgrade that was cut short has stopped", async () => {
  const moodle = new Noted({});
  expect(await reopen(moodle)).toBe(true);
  expect(moodle.steps).toEqual([started, ...opened]);
});

describe("other code is refused", () => {
  it.each([
    ["while Moodle says that an upgrade is pending", 2, true, 1, "upgrade it first"],
    ["never, where none is", 0, true, 0, ""],
    ["where Moodle has served and cannot say", 255, true, 1, "Moodle cannot say whether an upgrade is pending (exit 255)"],
    ["never at the first installation", 1, false, 0, ""],
  ])("%s", (_, answer, served, expected, said) => {
    const live = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "pending-")), "current");
    fs.symlinkSync(`generations/${served ? "70e951c73b5d" : "origin"}`, live);
    const { argv } = pendingCheck({ name: "moodle" }, "/health.php", live);
    const ask = argv.indexOf("/usr/bin/python3");
    const [shell = "", ...words] = [...argv.slice(0, ask), "/bin/sh", "-c", `exit ${answer}`];
    const { status, stdout } = spawnSync(shell, words, { encoding: "utf8" });
    fs.rmSync(path.dirname(live), { recursive: true });
    expect(status).toBe(expected);
    expect(stdout).toContain(said);
  });
});

describe("what is brought, and what is switched", () => {
  it("is the code and the base commands of the nodes at first: nothing that serves is among it", () => {
    const targets = bringTargets("prod", [{ name: "moodle1" }, { name: "moodle2" }]);
    expect(targets.map((urn) => urn.split("::").at(-1))).toEqual(["moodle-code", "moodle-base-moodle1", "moodle-base-moodle2"]);
  });

  it("is the tier of Moodle and no other then", () => {
    expect(switchTargets("prod").filter((urn) => urn.includes("hosting:"))).toEqual([
      "urn:pulumi:prod::fleet::hosting:moodle:MoodleCluster::**",
      "urn:pulumi:prod::fleet::hosting:moodle:MoodleCluster$**",
    ]);
  });
});

it("a node that is away, out of its services or on other code is told", () => {
  const machine = { name: "moodle1" } as FleetMachine;
  const node = (said: About): Answer<About> => ({ machine, said });
  const sites = { moodle: "8.2.32" };
  expect(nodeTrouble(node({ ready: true, sites, code: { moodle: "moodle-1" } }), "moodle-1")).toBe("");
  expect(nodeTrouble(node({ ready: false, sites, code: { moodle: "moodle-0" } }), "moodle-1")).toBe("not in its services; serves moodle-0");
  expect(nodeTrouble(node({ ready: true, sites: {} }), "moodle-1")).toBe("serves nothing");
  expect(nodeTrouble({ machine, error: "no way" }, "moodle-1")).toBe("no way");
});
