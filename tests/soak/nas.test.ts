import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fleet, on, pulumi, settled, until } from "../lab/lab";
import { stallNas, printStall, putWriter, removeWriter, silent } from "../lab/nas";
import { forget, withSites } from "./scripts";

describe.each([
  [30, ["get=1"]],
  [120, ["get=2"]], // each request holds one of Apache's 256 threads meanwhile
] as const)("the NAS stalls for %i seconds", (seconds, load) => {
  beforeAll(putWriter);
  afterAll(removeWriter);

  it("no server leaves the balancing, and everything is back within 10 s of its end without a hand", async () => {
    await settled();
    const stall = await stallNas(seconds, load, seconds + 30);
    printStall(`frozen for ${seconds} s`, stall);
    expect(stall.none.failed).toBe(0);
    expect(stall.weights).toEqual(Array.from({ length: 10 }, () => 1));
    for (const { ready, checks } of stall.said) expect([ready, checks["sites on the NAS"]]).toEqual([true, silent]);
    expect(stall.back).toBeLessThan(10);
    // Apache waits two minutes for PHP: what came in the shorter stall waited and was answered.
    if (seconds < 60) for (const seen of [stall.page, stall.file, stall.writes]) expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    // What came to PHP after that is told: 504, or 503 where too many came at once.
    const told = [stall.page, stall.writes].flatMap(({ errors }) => Object.keys(errors));
    expect(told.filter((error) => !/^get: status 50[34]$/.test(error))).toEqual([]);
    expect(stall.file.failed, JSON.stringify(stall.file.failures)).toBe(0);
    await settled();
    const left = await on("php1", "ps -eo state,args | awk '$1 == \"D\" && /php-fpm|python3/' | wc -l");
    expect(left.trim()).toBe("0");
  });
});

it("a NAS whose cable is pulled for 30 s takes no server away either, and is back when TCP tries again", async () => {
  await putWriter();
  try {
    await settled();
    const stall = await stallNas(30, ["get=1"], 90, "cut");
    printStall("cut off for 30 s", stall);
    expect(stall.none.failed).toBe(0);
    expect(stall.weights).toEqual(Array.from({ length: 10 }, () => 1));
    expect(stall.back).toBeLessThan(40);
    await settled();
  } finally {
    await removeWriter();
  }
});

/** A disk of its own on the NAS VM, and the program that looks after the real one. */
const top = "/srv/fleet/soak";
const program = `sudo env FLEET_ROOT=${top} python3 -IB /etc/fleet/lib/snapshots.py`;
const trees = `${top}/srv/fleet/sites`;
const hash = async (where: string): Promise<string> =>
  (
    await on(
      "nas1",
      `sudo sh -c 'cd ${where} && tar --sort=name --numeric-owner --format=posix --pax-option=delete=atime,delete=ctime -cf - htdocs | sha256sum'`,
    )
  ).trim();
/** The simulated hours begin on a Monday, in UTC. */
const moment = (hour: number): string => new Date(Date.UTC(2026, 8, 28, hour)).toISOString().slice(0, 19).replaceAll(/[-:]/g, "") + "Z";

describe("72 simulated hours of snapshots", () => {
  const forgetDisk = async (): Promise<void> => {
    // Inner volumes first.
    const volumes = `sudo btrfs subvolume list --sort=-path /srv/fleet | awk '{ print $NF }' | grep '^soak/'`;
    await on("nas1", `for v in $(${volumes}); do sudo btrfs subvolume delete /srv/fleet/$v; done; sudo rm -rf ${top}`);
  };
  beforeAll(async () => {
    await forgetDisk();
    const config = `{"keep": {"hourly": 24, "daily": 7, "weekly": 4}}`;
    await on(
      "nas1",
      `sudo sh -ec 'mkdir -p ${top}/srv ${top}/etc/fleet; btrfs subvolume create ${top}/srv/fleet; mkdir -p ${trees}/one/htdocs ${trees}/two/htdocs; ` +
        `echo two > ${trees}/two/htdocs/page; echo "{\\"sites\\": []}" > ${top}/etc/fleet/seed.json' && ` +
        `echo '${config}' | sudo tee ${top}/etc/fleet/snapshots.json`,
    );
  });
  afterAll(forgetDisk);

  it("leave what is kept; each holds its hour", async () => {
    const hours = Array.from({ length: 72 }, (_, hour) => `${hour} ${moment(hour)}`).join("\n");
    await on(
      "nas1",
      `echo '${hours}' | while read n t; do echo $n | sudo tee ${trees}/one/htdocs/hour >/dev/null; sudo sh -c "tar -C ${trees}/one --sort=name --numeric-owner --format=posix --pax-option=delete=atime,delete=ctime -cf - htdocs | sha256sum > ${top}/hash-$n"; ${program} hourly $t </dev/null >/dev/null || exit 1; done`,
    );
    const found = (await on("nas1", `sudo ls ${top}/srv/fleet/snapshots`)).trim().split("\n");
    const kept = [0, 24, ...Array.from({ length: 24 }, (_, n) => 48 + n)];
    expect(found).toEqual(kept.map(moment));
    const held = await on("nas1", `sudo sh -c 'cd ${top}/srv/fleet/snapshots && cat */fleet/sites/one/htdocs/hour'`);
    expect(held.trim().split("\n").map(Number)).toEqual(kept);
    const writing = await on("nas1", `sudo touch ${top}/srv/fleet/snapshots/${moment(50)}/fleet/x 2>&1; true`);
    expect(writing).toContain("Read-only file system");
  });

  it("one site comes back from each that is left, byte by byte, and the other is untouched", async () => {
    await on("nas1", `echo since the last hour | sudo tee ${trees}/two/htdocs/page`);
    const other = await hash(`${trees}/two`);
    for (const hour of [0, 24, 48, 55, 71]) {
      await on("nas1", `sudo sh -c 'echo damaged > ${trees}/one/htdocs/hour; touch ${trees}/one/htdocs/evil'`);
      const order = JSON.stringify({ do: "restore", site: "one", at: moment(hour) });
      await on("nas1", `echo '${order}' | ${program}`);
      expect(await hash(`${trees}/one`)).toBe((await on("nas1", `cat ${top}/hash-${hour}`)).trim());
      expect(await hash(`${trees}/two`)).toBe(other);
    }
  });

  it("a restore that is killed is undone or gone on with", async () => {
    const order = JSON.stringify({ do: "restore", site: "one", at: moment(24) });
    const right = (await on("nas1", `cat ${top}/hash-24`)).trim();
    for (const wait of [0.2, 0.5, 0.8, 1.2]) {
      await on("nas1", `sudo sh -c 'echo damaged > ${trees}/one/htdocs/hour; touch ${trees}/one/htdocs/evil'`);
      const damaged = await hash(`${trees}/one`);
      await on(
        "nas1",
        `echo '${order}' | sudo timeout --signal=KILL ${wait} env FLEET_ROOT=${top} python3 -IB /etc/fleet/lib/snapshots.py; ${program} finish`,
      );
      const left = await on("nas1", `sudo ls -A ${trees}/one`);
      expect(left).not.toContain(".fleet-restore");
      expect([damaged, right]).toContain(await hash(`${trees}/one`));
    }
    await on("nas1", `echo '${order}' | ${program}`);
    expect(await hash(`${trees}/one`)).toBe(right);
  });
});

describe("a site with a quota", () => {
  const site = {
    name: "quota1",
    hosts: ["quota1.lab.test"],
    https: "both",
    uid: 20091,
    port: 10091,
    php: { version: "8.2", memory: "64 MB" },
    quota: "64 MB",
  };
  const own = "sudo setpriv --reuid 20091 --regid 20091 --clear-groups";
  const fill = (mb: number): Promise<string> =>
    on("php1", `${own} dd if=/dev/urandom of=/srv/sites/quota1/htdocs/big bs=1M count=${mb} conv=fsync 2>&1; echo ended with $?`);

  const order = (words: object): Promise<string> =>
    on("nas1", `echo '${JSON.stringify(words)}' | sudo python3 -IB /etc/fleet/lib/snapshots.py`);

  beforeAll(async () => {
    const config = withSites({ quota1: { ...site, seed: { files: { "index.php": "<?php echo 1;\n" } } } });
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
    expect(code, out + err).toBe(0);
  });
  afterAll(async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    await forget("quota");
    expect(code, out + err).toBe(0);
    expect(await on("nas1", "sudo btrfs qgroup show /srv/fleet >/dev/null 2>&1 && echo on || echo off")).toBe("off\n");
  });

  it("stores that much and no more, is told so, and its snapshots cost it nothing", async () => {
    expect(await fill(40)).toContain("ended with 0");
    for (let i = 0; i < 3; i++) {
      await order({ do: "create", site: "quota1" });
      expect(await fill(40)).toContain("ended with 0");
    }
    expect(await fill(100)).toMatch(/Disk quota exceeded[^]*ended with 1/);
    await on("nas1", "sudo btrfs filesystem sync /srv/fleet");
    const { out } = await fleet("status", "--json");
    const quotas = (JSON.parse(out) as { nas?: { quotas: { site: string; used: number; quota: number }[] } }[]).flatMap(
      (m) => m.nas?.quotas ?? [],
    );
    expect(quotas).toMatchObject([{ site: "quota1", quota: 64 * 2 ** 20 }]);
    expect(quotas[0]?.used).toBeGreaterThan(32 * 2 ** 20);
    // A file that NFS still writes back is renamed before it is removed, and a full volume refuses that: it goes a moment later.
    await until(
      async () => (await on("php1", `${own} rm /srv/sites/quota1/htdocs/big 2>&1 && echo gone; true`)) === "gone\n",
      10,
      "it is removed",
    );
    // What it deletes it may store again when btrfs has written that, whatever snapshots hold.
    const since = Date.now();
    await until(async () => (await fill(40)).includes("ended with 0"), 60, "there is room again");
    process.stdout.write(`\na full site: room again ${((Date.now() - since) / 1000).toFixed(1)} s after it has deleted\n`);
  });

  it("comes back from a snapshot as others do", async () => {
    await on("nas1", "sudo rm -f /srv/fleet/sites/quota1/htdocs/big");
    const { time } = JSON.parse(await order({ do: "create", site: "quota1" })) as { time: string };
    await on("nas1", "sudo rm -rf /srv/fleet/sites/quota1/htdocs");
    await order({ do: "restore", site: "quota1", at: time });
    expect(await on("nas1", "sudo cat /srv/fleet/sites/quota1/htdocs/index.php")).toContain("echo 1");
  });
});
