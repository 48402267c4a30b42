import { afterAll, afterEach, describe, expect, it } from "vitest";
import { answer, blind, directors, expectNoLonger, holders, secondsUntilOut, signalSites, stunLive, type Stun } from "./directors";
import { drain, liveDirector, liveWeights, on, ready, settled, sleep, startProbe, status, undrain, until } from "./lab";

const both = (names: readonly string[], act: (name: string) => Promise<unknown>): Promise<unknown> => Promise.all(names.map(act));
const apaches = ["web1", "web2"];
const seconds = (since: number): string => ((Date.now() - since) / 1000).toFixed(1);

describe("the live director is stunned", () => {
  const stuns: Record<number, Stun> = {};
  afterAll(() => {
    for (const [length, { seen, silence, answersAgain, holders: by, known }] of Object.entries(stuns)) {
      process.stdout.write(
        `\nstunned for ${length} s: no answer for ${silence.toFixed(2)} s, until ${answersAgain.toFixed(2)} s after the thaw; failed ${seen.failed} of ${seen.sent}; held by ${by.join(", then ")}, known at ${known}\n`,
      );
    }
  });

  it.each([1, 5])(
    "for %d s: the VIP answers within 2 s of its end or of the take-over; one holds it, and clients know which",
    async (length) => {
      const stun = await stunLive(length);
      stuns[length] = stun;
      expectNoLonger(stun, length);
      expect(stun.holders).toHaveLength(1);
      expect(stun.known).toBe(stun.holders[0]);
    },
  );
});

describe("a PHP VM whose FPM takes connections and does nothing", () => {
  afterEach(() => signalSites("php1", "CONT"));

  it("is out of the balancing within 6 s, and back when FPM goes on", async () => {
    await settled();
    const awake = new Set<string>();
    await until(async () => awake.add((await status()).host).size === 2, 60, "the status site runs on both PHP VMs");
    await sleep(3); // its health responder has heard it
    const probe = startProbe();
    await sleep(2);
    const out = await secondsUntilOut("php1", () => signalSites("php1", "STOP"));
    await sleep(5);
    const seen = await probe.stop();
    await signalSites("php1", "CONT");
    await ready("php1");
    process.stdout.write(
      `\nwedged FPM: out of the balancing after ${out.toFixed(2)} s, failed ${seen.failed} of ${seen.sent} ${JSON.stringify(seen.errors)}\n`,
    );
    // A look (1 s), 13 looks at the master (1.6 s), the directors' check and its second try (2 s), and the lab's own time.
    expect(out).toBeLessThanOrEqual(6);
    expect(seen.quiet, JSON.stringify(seen.failures)).toBeGreaterThan(3); // once it is out, though it stands still, no request fails
    await settled();
  });
});

describe("no server is left", () => {
  afterEach(async () => {
    await both(apaches, (name) => on(name, "sudo systemctl start fleet-apache"));
    await both(["php1", "php2"], (name) => on(name, "sudo rm -f /run/fleet/drain"));
    await settled();
  });

  it("of Apache's: the director itself answers 503 with Retry-After, by HTTP and HTTPS, and the site is back by itself", async () => {
    await settled();
    const live = await liveDirector();
    let since = Date.now();
    await both(apaches, (name) => on(name, "sudo systemctl stop fleet-apache"));
    await until(async () => (await answer("http")).status === 503, 10, "the sorry page answers");
    process.stdout.write(`\nthe last Apache is stopped: sorry page after ${seconds(since)} s`);
    for (const scheme of ["http", "https"] as const) {
      const { status: code, retryAfter, body } = await answer(scheme, "/any/page?of=it");
      expect([code, retryAfter], scheme).toEqual([503, "30"]);
      expect(body, scheme).toContain("Please try again");
    }
    expect(await holders()).toEqual([live]);
    since = Date.now();
    await both(apaches, (name) => on(name, "sudo systemctl start fleet-apache"));
    await until(async () => (await answer("https")).status === 200, 20, "the site answers again");
    process.stdout.write(`, back ${seconds(since)} s after its start\n`);
    await settled();
    for (let i = 0; i < 20; i++) expect((await answer("http")).status).toBe(200);
  });

  it("of a PHP group's: Apache answers 503 with Retry-After at once, however many ask, and files all the same", async () => {
    await drain("php1");
    await drain("php2");
    const since = Date.now();
    const answers = await Promise.all(Array.from({ length: 30 }, () => answer("http")));
    expect(Number(seconds(since))).toBeLessThan(4); // one of them that is not refused by the director waits for 5 s
    expect(new Set(answers.map(({ status: code, retryAfter }) => `${code} ${retryAfter}`))).toEqual(new Set(["503 30"]));
    expect((await answer("http", "/hello.txt")).status).toBe(200);
    await undrain("php1");
    expect((await answer("http")).status).toBe(200);
  });
});

describe("a director that does not reach the servers", () => {
  afterEach(() => both(directors, (name) => blind(name, apaches, false).catch(() => undefined)));

  it("leaves the addresses to the other one, and does not take them back", async () => {
    await settled();
    const [live] = await holders();
    if (!live) throw new Error("no director holds the VIP");
    const since = Date.now();
    await blind(live, apaches);
    await until(async () => !(await holders()).includes(live), 20, "the other director takes over");
    process.stdout.write(`\na director that reaches no Apache: gave the addresses away after ${seconds(since)} s\n`);
    await until(async () => (await holders()).length === 1, 5, "one director holds the VIP");
    expect((await answer("http")).status).toBe(200);
    await blind(live, apaches, false);
    await sleep(10);
    expect(await holders()).toEqual(directors.filter((name) => name !== live));
    expect((await liveWeights()).every((weight) => weight === 1)).toBe(true);
  });
});
