import * as fs from "fs";
import * as path from "path";
import { describe, expect, it } from "vitest";
import { directorParts } from "../../components/lvs-pair";
import { loadFleet } from "../../config/load";
import type { Fleet } from "../../config/model";
import { seconds } from "../../config/units";
import { join } from "../../templates/content";
import { secondsUntilOut } from "../../templates/lvs/settings";
import { exampleFleet, writtenStack } from "./example";

const root = path.join(__dirname, "..", "..");
const settings = { virtualRouterId: 51, advertSeconds: 1, checkSeconds: 1, checkTimeoutSeconds: 0.7, connectionSync: true };

/** keepalived's configuration of each director. */
function written(fleet: Fleet, changed: Partial<typeof settings> = {}): string[] {
  const pair = fleet.machines.filter((m) => m.role === "director");
  return pair.map((machine) => {
    const content = join(...directorParts(machine, pair, { ...settings, ...changed }, fleet.services));
    return content.files.find((f) => f.path === "/etc/keepalived/fleet.conf")?.text ?? "";
  });
}

const value = (text: string, name: string): number => Number(new RegExp(`^ *${name} (\\S+)$`, "m").exec(text)?.[1]);

describe("everything that is balanced is in one list", () => {
  const { fleet } = exampleFleet("prod");
  const row = (name: string) => fleet.services.find((s) => s.name === name);

  it("the web servers, each PHP group with sites, each dedicated platform and Moodle", () => {
    const php = fleet.phpGroups.filter((g) => g.sites.length > 0).map((g) => g.name);
    expect(fleet.services.map((s) => s.name)).toEqual(["web", ...php, "institutional", "timetable", "moodle"]);
    expect(row("timetable")).toEqual({
      name: "timetable",
      kind: "web",
      vip: "10.20.0.111",
      ports: [80, 443],
      realServers: [
        { name: "timetable1", address: "10.20.0.43" },
        { name: "timetable2", address: "10.20.0.44" },
      ],
    });
    expect(row("moodle")?.realServers).toHaveLength(4);
  });

  it("VMs without an application have no service", () => {
    const stack = writtenStack("prod");
    const dedicated = structuredClone(stack.config["dedicated"]) as Record<string, { application?: object }>;
    delete dedicated["timetable"]?.application;
    const secrets = Object.fromEntries(Object.entries(stack.secrets).filter(([name]) => name !== "timetableDatabasePassword"));
    const without = loadFleet({ ...stack, config: { ...stack.config, dedicated }, secrets }).fleet;
    expect(without.services.map((s) => s.name)).not.toContain("timetable");
  });

  it("a service of visitors has the sorry page, one that Apache asks has not", () => {
    const [text = ""] = written(fleet);
    const sections = text.split(/^virtual_server group /m).slice(1);
    expect(sections.map((s) => [s.split(" ")[0], s.includes("sorry_server 127.0.0.80\n")])).toEqual(
      fleet.services.map((s) => [s.name, s.kind === "web"]),
    );
  });
});

describe("what the directors are told", () => {
  const { fleet } = exampleFleet("lab");
  const { balancers } = fleet.config;

  it("by default a dead server is out within 3 s: the wait for the next check, and two that fail with the pause between", () => {
    const [text = ""] = written(fleet);
    expect([balancers?.checkInterval, balancers?.checkTimeout].map((s) => seconds(s ?? ""))).toEqual([1, 0.7]);
    expect(value(text, "retry")).toBe(1);
    const worst = value(text, "delay_loop") + 2 * value(text, "connect_timeout") + value(text, "delay_before_retry");
    expect(worst).toBeCloseTo(2.8);
    expect(secondsUntilOut(settings)).toBeCloseTo(worst);
  });

  it("the check that decides is of another look than the one before, and each waits twice as long as a responder takes", () => {
    const [text = ""] = written(fleet);
    const responder = fs.readFileSync(path.join(root, "host", "health.py"), "utf8");
    const [, cache, answer] = /CHECK_SECONDS, CACHE_SECONDS, ANSWER_SECONDS, .* = [\d.]+, ([\d.]+), ([\d.]+)/.exec(responder) ?? [];
    expect(value(text, "delay_before_retry")).toBeGreaterThan(Number(cache));
    expect(value(text, "connect_timeout")).toBeGreaterThan(2 * Number(answer));
  });

  it("neither takes the addresses back, and the one that yields has the other tell the network", () => {
    const texts = written(fleet);
    expect(texts.map((text) => value(text, "priority"))).toEqual([150, 100]);
    for (const text of texts) {
      expect(text).toMatch(/^ {4}state BACKUP\n {4}nopreempt$/m);
      expect(text).toContain("vrrp_higher_prio_send_advert true\n");
      expect(value(text, "vrrp_garp_master_refresh")).toBeLessThanOrEqual(2);
    }
  });

  it("connections are told the other director, or not", () => {
    expect(balancers?.connectionSync).toBe(true);
    for (const text of written(fleet)) expect(text).toContain("lvs_sync_daemon eth0 fleet id 51\n");
    for (const text of written(fleet, { connectionSync: false })) expect(text).not.toContain("lvs_sync_daemon");
  });

  it.each([
    ["advertInterval", "0.05 seconds", 'a duration from "0.1 seconds" to "40 seconds"'],
    ["advertInterval", "1 minute", 'a duration from "0.1 seconds" to "40 seconds"'],
    ["checkInterval", "2 minutes", 'a duration of at most "60 seconds"'],
    ["checkTimeout", "0.2 seconds", 'a duration from "0.4 seconds" to "2.5 seconds"'],
  ])("%s of %s is refused with what is allowed", (key, given, allowed) => {
    const stack = writtenStack("lab");
    const changed = { ...stack.config, balancers: { ...(stack.config["balancers"] as object), [key]: given } };
    expect(() => loadFleet({ ...stack, config: changed })).toThrow(allowed);
  });
});
