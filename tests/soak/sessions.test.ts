import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { annex } from "../../lab/settings";
import { sourcesUp, versionSources } from "../../lab/sources";
import { order } from "../../lab/vcenter";
import {
  changedCheckout,
  curl,
  liveWeights,
  on,
  pulumi,
  quantile,
  settled,
  sleep,
  startProbe,
  temporary,
  until,
  type Seen,
  type Status,
} from "../lab/lab";
import { clear, forget, put, served, siteFile, withSites } from "./scripts";

/** What a request may take at the most: its waits for the store, and the lab's own time. */
const [waits, own] = [2, 0.5];

const jars = temporary("fleet-jars");

/** The so-manieth visit of a visitor who keeps cookies; 0 where the page did not say. */
async function visit(host: string, visitor: string): Promise<number> {
  const jar = path.join(jars, `${host}-${visitor}`);
  const { out } = await curl(`http://${host}/`, "-b", jar, "-c", jar);
  try {
    return (JSON.parse(out) as Status).visits;
  } catch {
    return 0;
  }
}

/** Whether a new visitor is remembered. */
async function remembers(host: string): Promise<boolean> {
  fs.rmSync(path.join(jars, `${host}-new`), { force: true });
  return (await visit(host, "new")) === 1 && (await visit(host, "new")) === 2;
}

const rows: string[] = [];
afterAll(() => process.stdout.write(`\nsession store            requests\n${rows.join("\n")}\n`));

function tell(what: string, seen: Seen): void {
  const [median, max] = [quantile(seen.latencies, 0.5), quantile(seen.latencies, 1)];
  rows.push(
    `${what.padEnd(24)} ${seen.failed} of ${seen.sent} failed, median ${median.toFixed(2)} s, max ${max.toFixed(2)} s ${JSON.stringify(seen.errors)}`,
  );
}

/** How long something takes, in seconds. */
async function secondsOf(work: () => Promise<unknown>): Promise<number> {
  const begun = Date.now();
  await work();
  return (Date.now() - begun) / 1000;
}

/** Four visitors a second, on eight children, while a fault lasts. */
async function during(
  what: string,
  begin: () => Promise<unknown>,
  end: () => Promise<unknown>,
  seconds = 8,
): Promise<{ seen: Seen; plain: Seen; after: Seen; known: readonly number[]; remembered: boolean }> {
  await visit("status.lab.test", "known");
  const probe = startProbe(["get=0.25"], 30);
  const beside = startProbe(["get=0.5"], 30, plainPage); // by the same children, without a session
  await begin();
  const ending = Date.now() + seconds * 1000;
  const known: number[] = []; // phpredis asks most often for a visitor whose session was there before
  while (Date.now() < ending) {
    known.push(await secondsOf(() => visit("status.lab.test", "known")));
    await sleep(0.5);
  }
  const [seen, plain] = await Promise.all([probe.stop(), beside.stop()]);
  tell(what, seen);
  tell("  a page without one", plain);
  rows.push(
    `  who has a session      median ${quantile(known, 0.5).toFixed(2)} s, max ${quantile(known, 1).toFixed(2)} s of ${known.length}`,
  );
  const weights = await liveWeights();
  const remembered = await remembers("status.lab.test");
  await end();
  await sleep(1);
  const again = startProbe(["get=0.25"], 30);
  await sleep(4);
  const after = await again.stop();
  expect(
    weights.every((w) => w === 1),
    `${what}: all servers stay in the balancing`,
  ).toBe(true);
  return { seen, plain, after, known, remembered };
}

const plainPage = { host: "status.lab.test", path: "/fleet-test/plain.php" };

const redis = (verb: string): Promise<string> => on("annex", `sudo systemctl ${verb} redis-server`);
const faults: [what: string, begin: () => Promise<unknown>, end: () => Promise<unknown>][] = [
  ["Redis killed", async () => (await redis("kill -s KILL"), redis("stop")), () => redis("start")],
  ["Redis restarted", () => redis("restart"), () => Promise.resolve()],
  ["Redis frozen", () => redis("kill -s STOP"), () => redis("kill -s CONT")],
  ["its machine frozen", () => order("annex", "freeze"), () => order("annex", "thaw")],
];

describe("Redis", () => {
  beforeAll(async () => {
    await put("status", "plain.php", "<?php echo 'plain';\n", served);
    await settled();
  });
  afterAll(() => clear("status"));

  it.each(faults)(
    "%s: every request ends within two seconds, no pool is used up, and it is over with the fault",
    async (what, begin, end) => {
      const { seen, plain, after, known, remembered } = await during(what, begin, end);
      expect(remembered, "the fault lasts, but for a restart").toBe(what === "Redis restarted");
      expect(seen.sent).toBeGreaterThan(25);
      expect(Math.max(...known)).toBeLessThan(waits + own);
      for (const each of [seen, plain]) expect(Math.max(...each.latencies), JSON.stringify(each.failures)).toBeLessThan(waits + own);
      expect(plain.failed, JSON.stringify(plain.failures)).toBe(0);
      expect(Math.max(...plain.latencies), "children are free").toBeLessThan(1);
      expect(after.failed, JSON.stringify(after.failures)).toBe(0);
      expect(Math.max(...after.latencies)).toBeLessThan(1);
      await until(() => remembers("status.lab.test"), 10, "a visitor is remembered");
    },
  );

  it("who waits for the lock of a visitor's own request gives up after a second", async () => {
    await put("status", "lock.php", "<?php session_start(); sleep((int) ($_GET['s'] ?? 0)); $_SESSION['n'] = 1; echo 'done';\n", served);
    const page = "http://status.lab.test/fleet-test/lock.php";
    const jar = path.join(jars, "lock");
    await curl(page, "-b", jar, "-c", jar);
    const holder = curl(`${page}?s=4`, "-b", jar);
    await sleep(1);
    const waited = await secondsOf(() => curl(page, "-b", jar));
    rows.push(`lock of a visitor's own  given up after ${waited.toFixed(2)} s`);
    expect(waited).toBeGreaterThan(0.8);
    expect(waited).toBeLessThan(waits + own);
    expect((await holder).out).toBe("done");
  });

  it("twin: with waits of ten seconds, requests take longer than two and children are used up", async () => {
    const copy = await changedCheckout("templates/php/fpm.ts", (text) =>
      text.replace("const waits = { seconds: 0.5,", "const waits = { seconds: 10,"),
    );
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], copy);
    expect(code, out + err).toBe(0);
    try {
      const { seen, plain } = await during(
        "Redis frozen, twin",
        () => redis("kill -s STOP"),
        () => redis("kill -s CONT"),
      );
      for (const each of [seen, plain]) expect(Math.max(...each.latencies)).toBeGreaterThan(waits + own);
    } finally {
      expect((await pulumi(["up", "--yes", "--skip-preview"])).code).toBe(0);
    }
  });
});

describe("Memcached", () => {
  const second = "fleet-memcached2";
  const visitors = Array.from({ length: 20 }, (_, n) => String(n));
  const host = "mem1.lab.test";

  /** The lab's stack with a site whose sessions are in two Memcached servers, each also on so many others. */
  function stackWith(replicas: number): string {
    const status = siteFile("status") as { php: object };
    const php = { ...status.php, modules: ["memcached", "posix", "session"] };
    const site = { ...status, name: "mem1", hosts: [host], uid: 20092, port: 10092, php, sessions: "memcached" };
    return withSites({ mem1: site }, (keys) => {
      const all = keys as unknown as { "fleet:php": Record<string, { pecl: Record<string, object> }>; "fleet:memcached": object };
      const source = versionSources.find((s) => s.name.startsWith("php-memcached"));
      const build = all["fleet:php"]["8.2"];
      if (!source || !build) throw new Error("the lab has no php-memcached or no PHP 8.2");
      build.pecl["memcached"] = {
        url: `http://${annex.address}/${source.name}`,
        sha256: source.sha256,
        options: ["--disable-memcached-sasl"],
      };
      all["fleet:memcached"] = { servers: [`${annex.address}:11211`, `${annex.address}:11212`], replicas };
    });
  }

  async function up(config?: string): Promise<void> {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
    expect(code, out + err).toBe(0);
  }

  const startSecond = (): Promise<string> =>
    on(
      "annex",
      `sudo systemctl is-active --quiet ${second} || sudo systemd-run --quiet --collect --unit=${second} memcached -u memcache -p 11212 -l 0.0.0.0 -m 16`,
    );
  const kill: Record<string, () => Promise<string>> = {
    first: async () => (await on("annex", "sudo systemctl kill -s KILL memcached"), on("annex", "sudo systemctl stop memcached")),
    second: () => on("annex", `sudo systemctl kill -s KILL ${second}; sudo systemctl reset-failed ${second}; true`),
  };
  const bringBack = async (): Promise<void> => {
    await on("annex", "sudo systemctl start memcached");
    await startSecond();
  };

  /** Visits of everybody before and after one of the servers is killed. */
  async function rememberedWithout(which: string): Promise<{ before: number[]; after: number[]; seconds: number[] }> {
    for (const visitor of visitors) fs.rmSync(path.join(jars, `${host}-${visitor}`), { force: true });
    const seconds: number[] = [];
    const all = async (): Promise<number[]> => {
      const visits: number[] = [];
      for (const visitor of visitors) {
        seconds.push(await secondsOf(async () => visits.push(await visit(host, visitor))));
      }
      return visits;
    };
    for (let i = 0; i < 6; i++) await visit(host, "who wakes it on both VMs");
    const before = await all();
    await kill[which]?.();
    const after = await all();
    await bringBack();
    return { before, after, seconds };
  }

  beforeAll(async () => {
    await sourcesUp(versionSources);
    await startSecond();
    await up(stackWith(1));
  });
  afterAll(async () => {
    await up();
    await on("annex", `sudo systemctl stop ${second}; true`);
    await forget("mem");
  });

  it.each(Object.keys(kill))("the %s of two killed: every session is kept", async (which) => {
    const { before, after, seconds } = await rememberedWithout(which);
    rows.push(
      `Memcached, ${which} killed    visits ${after.join(" ")}, median ${quantile(seconds, 0.5).toFixed(2)} s, max ${quantile(seconds, 1).toFixed(2)} s`,
    );
    expect(before).toEqual(visitors.map(() => 1));
    expect(after).toEqual(visitors.map(() => 2));
    expect(Math.max(...seconds)).toBeLessThan(waits + own);
  });

  it("twin: without replicas, sessions of the one that is killed are lost", async () => {
    await up(stackWith(0));
    const { before, after } = await rememberedWithout("first");
    expect(before).toEqual(visitors.map(() => 1));
    expect(after.filter((visits) => visits !== 2).length).toBeGreaterThan(0);
  });
});
