import * as fs from "fs";
import * as path from "path";
import { afterAll, describe, expect, it } from "vitest";
import { cacheRoot } from "../../lab/paths";
import { machines, order } from "../../lab/vcenter";
import { clear } from "../soak/scripts";
import { killLive, putFile, secondsUntilOut, spread, type Kill } from "./directors";
import { ipvs, liveDirector, machine, on, ready, revive, root, run, settled, sleep, startProbe, type Seen } from "./lab";

const table: Record<string, Seen> = {};

/** Kills a machine while the open-loop client runs, and gives the service time to go on without it. */
async function killUnderLoad(what: string, name: string): Promise<number> {
  const probe = startProbe();
  await sleep(3);
  const out = await secondsUntilOut(name, () => order(name, "kill"));
  await sleep(12);
  table[what] = await probe.stop();
  return out;
}

afterAll(() => {
  const rows = Object.entries(table).map(
    ([what, s]) =>
      `${what.padEnd(20)} ${s.outage.toFixed(2).padStart(8)} s ${s.span.toFixed(2).padStart(13)} s ${String(s.failed).padStart(6)} of ${s.sent} ${JSON.stringify(s.errors)}`,
  );
  process.stdout.write(`\nkilled                 outage   first to last   failed requests\n${rows.join("\n")}\n`);
});

/** What is built once, on this computer and on the builder, and when it was. */
async function built(): Promise<string[]> {
  const entries = ["", "entries"].flatMap((sub) =>
    fs.readdirSync(path.join(cacheRoot, sub), { withFileTypes: true }).map((entry) => path.join(cacheRoot, sub, entry.name)),
  );
  const whole = entries.filter((entry) => /\/(kernel|image|debian)-|\/entries\//.test(entry) && !entry.endsWith(".lock"));
  const here = whole.map((entry) => `${fs.statSync(entry).mtimeMs} ${entry}`);
  return [...here, await on("build1", "stat --format '%Y %n' /var/lib/fleet/artefacts/*")];
}

describe("the service goes on when a machine is killed", () => {
  it.each([
    // Of ten real servers: two virtual services of Apache's, three of PHP's.
    ["an Apache VM", "web1", 8],
    ["a PHP VM", "php1", 7],
  ])("%s, which is out of the balancing within 3 s", async (what, name, left) => {
    await settled();
    const out = await killUnderLoad(what, name);
    const { Address, State } = await machine(name);
    const servers = Object.values(await ipvs(await liveDirector())).flatMap((of) => Object.entries(of));
    await revive(name);
    process.stdout.write(`\n${what} is killed: out of the balancing after ${out.toFixed(2)} s\n`);
    expect(State).not.toBe("on");
    expect(out).toBeLessThanOrEqual(3);
    const seen = table[what];
    expect(seen?.sent).toBeGreaterThan(100);
    // How many requests fail until then, is printed; it is over, and what is dead gets none any more.
    expect(seen?.quiet, JSON.stringify(seen?.failures)).toBeGreaterThan(5);
    const taking = servers.filter(([, weight]) => weight > 0).map(([server]) => server);
    expect(taking.filter((server) => server.startsWith(`${Address}:`))).toEqual([]);
    expect(taking).toHaveLength(left);
  });

  it("the live director, three times: the other has the addresses within what VRRP takes, and nothing under way breaks", async () => {
    await putFile();
    const kills: Kill[] = [];
    for (let i = 0; i < 3; i++) kills.push(await killLive());
    await clear("status");
    kills.forEach((kill, i) => (table[`the live director ${i + 1}`] = kill.seen));
    process.stdout.write(`\nthe live director is killed: outage ${spread(kills.map((k) => k.seen.outage))}\n`);
    for (const { seen, broken, longest } of kills) {
      expect(seen.outage, JSON.stringify(seen.failures)).toBeLessThanOrEqual(longest);
      expect(seen.quiet, JSON.stringify(seen.failures)).toBeGreaterThan(5);
      expect(seen.failed).toBeGreaterThan(0); // it was felt
      expect(broken).toEqual([]);
    }
    // Each time the other one, and none has taken the addresses back.
    expect(new Set(kills.map((k) => k.successor)).size).toBe(2);
  });

  it("`npm run lab` brings back what was killed, frozen and cut, and builds nothing again", async () => {
    const before = await built();
    expect(before.length).toBeGreaterThan(4);
    await order("web1", "kill");
    await order("php1", "freeze");
    await order("php2", "cut");
    const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
    expect(code, out + err).toBe(0);
    expect((await machines()).filter((m) => m.State !== "on").map((m) => m.Name)).toEqual([]);
    expect(await built()).toEqual(before);
  });

  it("and everything is ready again afterwards", async () => {
    for (const name of ["lb1", "lb2", "web1", "web2", "php1", "php2", "nas1"]) await ready(name);
    await settled();
  });
});
