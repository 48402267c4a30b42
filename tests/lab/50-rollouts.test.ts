import { afterAll, afterEach, describe, expect, it } from "vitest";
import { buildOf, changedConfig, checkoutWith, mixed, on, pulumi } from "./lab";
import { changes, closesSocket, kinds, printRows, rollOut, undrained, type Kind } from "./rollouts";

afterAll(printRows);

describe("a rollout under load loses no request", () => {
  afterEach(async () => {
    for (const name of ["web1", "web2", "php1", "php2"]) {
      expect(
        await on(name, "test -e /run/fleet/drain && echo drained; test -e /var/lib/fleet/unsettled && echo unsettled; true"),
        name,
      ).toBe("");
    }
  });

  const together: readonly (readonly Kind[])[] = [
    ["vhost", "php.ini", "keepalived"],
    ["Apache's unit", "pool"],
    ["kernel parameters", "a site's unit", "a site's socket"],
  ];
  it("of each kind of change", () => expect(together.flat().sort()).toEqual([...kinds].sort()));

  it.each(together.map((of) => [of.join(", "), of] as const))("%s", async (what, of) => {
    const chosen = of.map((kind) => changes()[kind]);
    const { seen, code, said } = await rollOut(what, mixed, await checkoutWith(...chosen.map((c) => [c.file, c.edit] as const)));
    expect(code, said).toBe(0);
    for (const { consequence } of chosen) expect(said).toMatch(consequence);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
  });

  it("a PHP build", async () => {
    const before = await buildOf("php1");
    const backlog = (): Promise<string> => on("web1", "cat /proc/sys/net/core/somaxconn");
    expect(await backlog()).toBe("4000\n");
    // An option that changes nothing but the build, and no header that all of PHP includes: the cache of objects knows the rest.
    const option = "--with-config-file-scan-dir=/nonexistent";
    const config = changedConfig((text) => text.replace(/(\n +)release: 8\.2\.32/, `$1options: [${option}]$1tests: none$&`));
    const { seen, code, said } = await rollOut("a PHP build", mixed, undefined, config);
    expect(code, said).toBe(0);
    expect(said).toMatch(/php1: changed .*; restart fleet-site-blog.service/);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    expect(await buildOf("php1")).not.toBe(before);
    // A kernel parameter that the change before set has gone with it.
    expect(await backlog()).toBe("4096\n");
  });

  it("and the way back to the committed templates", async () => {
    const { seen, code, said } = await rollOut("back", mixed);
    expect(code, said).toBe(0);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
  });
});

describe("the same client sees requests fail", () => {
  afterAll(async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
  });

  it("when Apache is restarted without being drained", async () => {
    const { file, edit: newer } = changes(1)["Apache's unit"];
    const { seen } = await rollOut("drain turned off", mixed, await checkoutWith([file, newer], undrained));
    expect(seen.failed).toBeGreaterThan(0);
  });

  it("when a PHP change closes the site's socket", async () => {
    const { file, edit: newer } = changes(1)["php.ini"];
    const { seen } = await rollOut("held socket turned off", mixed, await checkoutWith([file, newer], undrained, closesSocket));
    expect(seen.failed).toBeGreaterThan(0);
  });
});
