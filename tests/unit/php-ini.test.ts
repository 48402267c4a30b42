import { describe, expect, it } from "vitest";
import { checkIni, fleetSettings } from "../../config/php-ini";
import { fpmPart, sessionSettings } from "../../templates/php/fpm";
import { exampleFleet } from "./example";

const names = Object.keys(fleetSettings).sort();
const refused = (ini: Parameters<typeof checkIni>[1]): string[] => checkIni("sites/lab/wiki.yaml", ini).map((p) => p.property.slice(8));

/** Pools of the lab's sites, with each session store, and their php.ini, with a mail relay. */
function rendered(): { pools: string; ini: string } {
  const { phpGroups, config } = exampleFleet("lab").fleet;
  const [group] = phpGroups;
  const [machine] = group?.machines ?? [];
  const [site] = group?.sites ?? [];
  if (!group || !machine || !site) throw new Error("the lab's stack has no PHP VM with a site");
  const mail = { relay: "10.77.0.5", port: 25, startTls: false, domain: "lab.test" };
  const part = fpmPart(machine, group, { apacheAddresses: [], network: { denied: [], allowed: [] }, mail });
  const stores = { redis: { address: "10.77.0.5", port: 6379 }, memcached: config.memcached };
  const sessions = (["files", "redis", "memcached"] as const).map((kind) => sessionSettings({ ...site, sessions: kind }, stores));
  const files = (name: string): string[] => (part.files ?? []).filter((f) => f.path.endsWith(`/${name}`)).map((f) => f.text);
  return { pools: [...files("fpm.conf"), ...sessions].join("\n"), ini: files("php.ini").join("\n") };
}

describe("names of php.ini that the fleet sets", () => {
  const { pools, ini } = rendered();
  const admin = [...pools.matchAll(/^php_admin_(?:value|flag)\[([^\]]+)\]/gm)].map(([, name]) => name ?? "");

  it("are all that a pool sets so that no site can, and each is really set", () => {
    expect(admin.length).toBeGreaterThan(0);
    expect(names).toEqual(expect.arrayContaining(admin));
    const written = new Set([...admin, ...[...ini.matchAll(/^([a-z_.]+) = /gm)].map(([, name]) => name ?? "")]);
    expect(names.filter((name) => !written.has(name))).toEqual([]);
  });

  it("are refused in a site's file, each with who sets it; twin: those with a mere default of the fleet's are not", () => {
    expect(refused(Object.fromEntries(names.map((name) => [name, "x"])))).toEqual(names);
    expect(refused({ display_errors: true, "date.timezone": "Europe/Vienna", "opcache.memory_consumption": 128 })).toEqual([]);
  });
});

describe("quantities in php.ini", () => {
  it.each(["post_max_size", "upload_max_filesize", "memory_limit"])("%s is digits with an optional K, M or G", (name) => {
    for (const right of ["64M", "64m", "1G", "512K", "1048576", 1048576]) expect(refused({ [name]: right }), String(right)).toEqual([]);
    for (const wrong of ["64MB", "64 M", "M", "", "1.5G", 1.5, "0x10", true])
      expect(refused({ [name]: wrong }), String(wrong)).toEqual([name]);
    expect(refused({ [name]: -1 })).toEqual(name === "memory_limit" ? [] : [name]);
  });

  it.each(["max_execution_time", "max_input_time", "max_input_vars"])("%s is a whole number", (name) => {
    for (const right of [0, 30, "30"]) expect(refused({ [name]: right }), String(right)).toEqual([]);
    for (const wrong of ["30s", "1K", "", 0.5, -2, false]) expect(refused({ [name]: wrong }), String(wrong)).toEqual([name]);
    expect(refused({ [name]: -1 })).toEqual(name === "max_input_time" ? [] : [name]);
  });

  it("of other names are PHP's own to judge", () => {
    expect(refused({ precision: "seventeen" })).toEqual([]);
  });
});
