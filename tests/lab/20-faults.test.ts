import { afterAll, describe, expect, it } from "vitest";
import { machines, order } from "../../lab/vcenter";
import { liveDirector, ready, revive, root, run, settled, sleep, startProbe, status, type Seen } from "./lab";

const table: Record<string, Seen> = {};

/** Kills a machine while the open-loop client runs, and gives the service time to go on without it. */
async function killUnderLoad(what: string, name: string): Promise<Seen> {
  const probe = startProbe();
  await sleep(3);
  await order(name, "kill");
  await sleep(15);
  const seen = await probe.stop();
  table[what] = seen;
  return seen;
}

afterAll(() => {
  const rows = Object.entries(table).map(
    ([what, s]) =>
      `${what.padEnd(20)} ${s.outage.toFixed(2).padStart(8)} s ${String(s.failed).padStart(6)} of ${s.sent} ${JSON.stringify(s.errors)}`,
  );
  process.stdout.write(`\nkilled                 outage    failed requests\n${rows.join("\n")}\n`);
});

describe("the service goes on when a machine is killed", () => {
  it.each([
    ["an Apache VM", () => Promise.resolve("web1")],
    ["a PHP VM", () => Promise.resolve("php1")],
    ["the live director", liveDirector],
  ])("%s", async (what, choose) => {
    await settled();
    const name = await choose();
    const seen = await killUnderLoad(what, name);
    expect(seen.sent).toBeGreaterThan(100);
    // The last five seconds and more are good again; how short the gap is, is printed and improved later.
    expect(seen.outage).toBeLessThan(12);
    await status();
    await revive(name);
  });

  it("`npm run lab` brings back what was killed, frozen and cut", async () => {
    await order("web1", "kill");
    await order("php1", "freeze");
    await order("php2", "cut");
    const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
    expect(code, out + err).toBe(0);
    expect((await machines()).filter((m) => m.State !== "on").map((m) => m.Name)).toEqual([]);
  });

  it("and everything is ready again afterwards", async () => {
    for (const name of ["lb1", "lb2", "web1", "web2", "php1", "php2", "nas1"]) await ready(name);
    await settled();
  });
});
