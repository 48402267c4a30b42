import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { relocated } from "../../lab/settings";
import { order } from "../../lab/vcenter";
import {
  answer,
  blind,
  directors,
  expectNoLonger,
  holders,
  killLive,
  knownHolder,
  longestOutage,
  putFile,
  secondsUntilOut,
  spread,
  startTransfers,
  stunLive,
  type Kill,
  type Stun,
} from "../lab/directors";
import {
  changedConfig,
  drain,
  liveDirector,
  machine,
  mixed,
  on,
  pulumi,
  quantile,
  revive,
  settled,
  sleep,
  startProbe,
  undrain,
  until,
} from "../lab/lab";
import { clear } from "./scripts";

const both = <T>(act: (name: string) => Promise<T>): Promise<T[]> => Promise.all(directors.map(act));

/** Of directors that hear each other again: seconds until one holds the VIP; which one does 5 s later, and where clients send. */
async function oneAgain(): Promise<{ alone: number; holder: string | undefined; known: string | undefined }> {
  const since = Date.now();
  await until(async () => (await holders()).length === 1, 10, "one holds the VIP");
  const alone = (Date.now() - since) / 1000;
  await sleep(5);
  const [holder] = await holders();
  return { alone, holder, known: await knownHolder() };
}

beforeAll(putFile);
afterAll(() => clear("status"));
afterEach(settled);

describe("the live director dies", () => {
  it("twenty times: each outage is within what VRRP takes, and downloads and slow uploads go on", async () => {
    const kills: Kill[] = [];
    for (let i = 0; i < 20; i++) kills.push(await killLive());
    const failed = kills.map((k) => k.seen.failed);
    process.stdout.write(
      `\nkilled: outage ${spread(kills.map((k) => k.seen.outage))}; failed requests median ${quantile(failed, 0.5)}, max ${quantile(failed, 1)}; connections broken ${kills.flatMap((k) => k.broken).length}\n`,
    );
    for (const { seen, longest } of kills) expect(seen.outage, JSON.stringify(seen.failures)).toBeLessThanOrEqual(longest);
    expect(kills.flatMap((k) => k.broken)).toEqual([]);
    expect(Math.min(...failed)).toBeGreaterThan(0); // each kill was felt
  });
});

describe("connections to a server that takes no new ones", () => {
  const uploads = 8; // so many that some are at the one that is drained, as the twin shows
  /** What broke of the connections under way to both Apache VMs, when the live director dies while one is drained. */
  const killWhileDraining = async (): Promise<readonly string[]> => {
    const drainOne = async (): Promise<void> => {
      await drain("web1");
      await sleep(3); // the other director's checks notice too
    };
    try {
      return (await killLive(drainOne, uploads)).broken;
    } finally {
      await undrain("web1");
    }
  };

  it("outlive the director, whichever it is: the other has learnt them", async () => {
    const roles = async (): Promise<Record<string, string>> =>
      Object.fromEntries(await both(async (name) => [name, (await on(name, "sudo ipvsadm --list --daemon")).split(" ")[0] ?? ""] as const));
    for (let i = 0; i < 2; i++) {
      const live = await liveDirector();
      expect(await roles()).toEqual(Object.fromEntries(directors.map((name) => [name, name === live ? "master" : "backup"])));
      expect(await killWhileDraining()).toEqual([]);
    }
  });

  it("twin: with connectionSync off they break", async () => {
    const off = changedConfig((text) => text.replace("fleet:balancers:\n", "fleet:balancers:\n    connectionSync: false\n"));
    const changed = await pulumi(["up", "--yes", "--skip-preview"], undefined, off);
    expect(changed.code, changed.out + changed.err).toBe(0);
    try {
      expect((await both((name) => on(name, "sudo ipvsadm --list --daemon"))).join("").trim()).toBe("");
      const broken = await killWhileDraining();
      process.stdout.write(`\nwithout connection sync: ${broken.length} of 16 connections broke\n`);
      for (const kind of ["download", "upload"]) expect(broken.some((text) => text.startsWith(kind))).toBe(true);
    } finally {
      const back = await pulumi(["up", "--yes", "--skip-preview"]);
      expect(back.code, back.out + back.err).toBe(0);
    }
  });
});

describe("the live director is stunned", () => {
  it.each([0.5, 1, 2, 5, 10])("for %d s, three times: the VIP answers within 2 s, one holds it, and clients know which", async (length) => {
    const stuns: Stun[] = [];
    for (let i = 0; i < 3; i++) stuns.push(await stunLive(length));
    process.stdout.write(
      `\nstunned for ${length} s: no answer for ${spread(stuns.map((s) => s.silence))}; answers again after the thaw ${spread(stuns.map((s) => s.answersAgain))}, longest without one after it ${spread(stuns.map((s) => s.paused))}; failed ${stuns.map((s) => s.seen.failed).join(", ")}\n`,
    );
    for (const stun of stuns) {
      expectNoLonger(stun, length);
      expect([stun.holders.length, stun.known]).toEqual([1, stun.holders[0]]);
    }
  });
});

describe("the directors do not hear each other, and all else is well", () => {
  // keepalived writes its packets' headers itself, for which the kernel looks up a route of protocol 255.
  const rules = (act: "add" | "del", peer: string): string =>
    [112, 255].map((protocol) => `sudo ip rule ${act} to ${peer} ipproto ${protocol} lookup 99`).join(" && ");
  const nobody = relocated("10.77.0.254");
  const deaf = async (name: string, act: "add" | "del"): Promise<string> => {
    const peer = (await machine(directors.find((d) => d !== name) ?? "")).Address;
    // To a card that nobody has: its socket is bound to the device, and for that one no route is as good as a route.
    if (act === "add") {
      await on(name, `sudo ip neighbour replace ${nobody} lladdr 02:00:00:00:00:01 nud permanent dev eth0`);
      await on(name, `sudo ip route replace default via ${nobody} dev eth0 table 99`);
    }
    return on(name, rules(act, peer));
  };
  afterEach(() => both((name) => deaf(name, "del").catch(() => "")));

  it("both hold the VIP and send each connection to the same server; when they hear each other, one holds it within 3 s", async () => {
    await settled();
    const transfers = startTransfers();
    const probe = startProbe(mixed, 10);
    await sleep(3);
    await both((name) => deaf(name, "add"));
    await until(async () => (await holders()).length === 2, 20, "both hold the VIP");
    await sleep(10);
    await both((name) => deaf(name, "del"));
    const { alone, holder, known } = await oneAgain();
    const seen = await probe.stop();
    const broken = await transfers.ended();
    process.stdout.write(
      `\nVRRP cut: failed ${seen.failed} of ${seen.sent}, broken ${broken.length} of 10; one holder ${alone.toFixed(1)} s after, known at ${known}\n`,
    );
    expect(alone).toBeLessThanOrEqual(3);
    expect(known).toBe(holder);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    expect(broken).toEqual([]);
  });
});

describe.each(["web1", "php1"])("%s is cut off", (name) => {
  afterEach(() => order(name, "heal"));

  it("it is out of the balancing within 3 s, five times, and back when it is plugged in", async () => {
    const outs: number[] = [];
    for (let i = 0; i < 5; i++) {
      await settled();
      const probe = startProbe();
      await sleep(2);
      outs.push(await secondsUntilOut(name, () => order(name, "cut")));
      await sleep(5);
      const seen = await probe.stop();
      await order(name, "heal");
      process.stdout.write(
        `\n${name} is cut off: out after ${outs.at(-1)?.toFixed(2)} s, failed ${seen.failed} of ${seen.sent}, none in the last ${seen.quiet} s`,
      );
      expect(seen.quiet, JSON.stringify(seen.failures)).toBeGreaterThan(4); // of five after that
    }
    process.stdout.write(`\n${name}: out of the balancing ${spread(outs)}\n`);
    expect(Math.max(...outs)).toBeLessThanOrEqual(3);
  });
});

describe("the live director is cut off", () => {
  afterEach(() => both((name) => order(name, "heal")));

  it("the other has the addresses within what VRRP takes; plugged in again, one holds them within 3 s and clients send to that one", async () => {
    await settled();
    const name = await liveDirector();
    const longest = await longestOutage(name);
    const cut = startProbe();
    await sleep(2);
    await order(name, "cut");
    await sleep(12);
    const seen = await cut.stop();
    const healed = startProbe();
    await sleep(1);
    await order(name, "heal");
    const { alone, holder, known } = await oneAgain();
    const after = await healed.stop();
    process.stdout.write(
      `\nthe live director is cut off: outage ${seen.outage} s of ${longest.toFixed(1)}; plugged in: one holder after ${alone.toFixed(1)} s, outage ${after.outage} s\n`,
    );
    expect(seen.failed).toBeGreaterThan(0);
    for (const time of [seen.outage, after.outage])
      expect(time, JSON.stringify([...seen.failures, ...after.failures])).toBeLessThanOrEqual(longest);
    expect(seen.quiet).toBeGreaterThan(5);
    expect(alone).toBeLessThanOrEqual(3);
    expect(known).toBe(holder);
  });
});

describe("both directors boot at once", () => {
  it("one of them holds the VIP, and the fleet serves as soon as it does", async () => {
    await settled();
    const since = Date.now();
    await both((name) => order(name, "kill"));
    await until(async () => (await both(machine)).every((m) => m.State === "off"), 10, "both are off");
    await sleep(1); // the inventory hears it after
    await both((name) => order(name, "start"));
    await until(async () => (await answer("http")).status === 200, 60, "the site answers");
    process.stdout.write(`\nboth directors are booted: the site answers after ${((Date.now() - since) / 1000).toFixed(1)} s\n`);
    await both(revive);
    await sleep(5);
    const first = await holders();
    expect(first).toHaveLength(1);
    await sleep(20);
    expect(await holders()).toEqual(first);
  });
});

describe("neither director reaches a server", () => {
  afterEach(async () => {
    await both((name) => blind(name, ["web1", "web2"], false).catch(() => undefined));
  });

  it("the addresses stay where they are and the sorry page is served, until one reaches them", async () => {
    await settled();
    const live = await liveDirector();
    await both((name) => blind(name, ["web1", "web2"]));
    await until(async () => (await answer("https")).status === 503, 20, "the sorry page answers");
    for (let i = 0; i < 10; i++, await sleep(2)) {
      expect(await holders()).toEqual([live]);
      expect((await answer("http")).status).toBe(503);
    }
    const standby = directors.find((name) => name !== live) ?? "";
    await blind(standby, ["web1", "web2"], false);
    await until(async () => (await answer("http")).status === 200, 20, "the director that reaches servers has the addresses");
    expect(await holders()).toEqual([standby]);
  });
});
