import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { relocated } from "../../lab/settings";
import { curl, fleet, machine, on, run, settled, sshWords, until } from "./lab";
import { stallNas, printStall, putWriter, removeWriter, silent } from "./nas";

const sites = "/srv/fleet/sites";

/** Hash of all that a restore brings back: names, content, modes, owners, times, links, attributes. */
async function hash(site: string): Promise<string> {
  const words = "--sort=name --numeric-owner --format=posix --pax-option=delete=atime,delete=ctime --xattrs";
  return (await on("nas1", `sudo sh -c 'cd ${sites}/${site} && tar ${words} -cf - htdocs | sha256sum'`)).trim();
}

/** `fleet snapshot` and its report. */
async function snapshot<T>(...words: string[]): Promise<T> {
  const { code, out, err } = await fleet("snapshot", ...words, "--json");
  expect(code, out + err).toBe(0);
  return JSON.parse(out) as T;
}

/** The end of a command that shall fail, as its machine tells it. */
async function refusedOn(name: string, command: string): Promise<string> {
  const { Address } = await machine(name);
  const { code, out, err } = await run("ssh", [...sshWords(Address), command]);
  expect(code, `${name}: ${command}: ${out}`).not.toBe(0);
  return out + err;
}

describe("the NAS stalls for five seconds", () => {
  beforeAll(putWriter);
  afterAll(removeWriter);

  it("requests wait and none is lost, no server leaves the balancing, what needs no file answers meanwhile", async () => {
    await settled();
    const stall = await stallNas(5, ["get=0.2"], 30);
    printStall("frozen for 5 s", stall);
    for (const seen of [stall.page, stall.file, stall.writes]) expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    expect(stall.none.failed).toBe(0);
    expect(Math.max(...stall.none.seconds)).toBeLessThan(2);
    expect(stall.weights).toEqual(Array.from({ length: 10 }, () => 1));
    for (const { ready, checks } of stall.said) expect([ready, checks["sites on the NAS"]]).toEqual([true, silent]);
    // The load did meet the stall.
    expect(Math.max(...stall.writes.latencies)).toBeGreaterThan(3);
    expect(stall.back).toBeLessThan(10);
    await settled();
  });
});

describe("one site's damaged tree comes back from the right hour", () => {
  const page = "http://wiki.lab.test/fleet-test.txt";
  const write = (text: string): Promise<string> =>
    on("nas1", `sudo sh -c 'cd ${sites}/wiki/htdocs && echo ${text} > fleet-test.txt && chown 20002:20002 fleet-test.txt'`);

  afterAll(async () => {
    await on("nas1", `sudo sh -c 'rm -rf ${sites}/wiki/.replaced-* ${sites}/*/htdocs/fleet-test.txt'`);
  });

  it("byte by byte, with modes, owners and times; the live tree is kept, other sites are untouched", async () => {
    await write("first");
    const first = await hash("wiki");
    const { time } = await snapshot<{ time: string }>("create", "wiki");
    await write("second");
    const second = await hash("wiki");
    expect(second).not.toBe(first);
    const newest = await snapshot<{ time: string }>("create", "wiki");
    await on("nas1", `sudo sh -c 'for site in blog status; do echo since > ${sites}/$site/htdocs/fleet-test.txt; done'`);
    const others = await Promise.all(["blog", "status"].map(hash));
    const listed = await snapshot<{ time: string; by: string }[]>("list", "wiki");
    expect(listed.filter((s) => s.by === "hand").map((s) => s.time)).toEqual(expect.arrayContaining([time, newest.time]));

    await on("nas1", `sudo sh -c 'cd ${sites}/wiki/htdocs && rm -rf inc && echo defaced > doku.php && mkdir evil && chmod 777 lib'`);
    expect(await hash("wiki")).not.toBe(second);
    const restored = await snapshot<{ from: string; kept: string }>("restore", "wiki", "--at", time);
    expect(restored.from).toBe(time);
    expect(await hash("wiki")).toBe(first);
    expect(await on("nas1", `sudo cat ${restored.kept}/htdocs/doku.php`)).toBe("defaced\n");
    expect(await Promise.all(["blog", "status"].map(hash))).toEqual(others);
    await until(async () => (await curl(page)).out === "first\n", 90, "Apache serves the restored file");
    await until(async () => (await curl("https://wiki.lab.test/doku.php")).out.includes("DokuWiki"), 90, "PHP runs the restored code");

    await snapshot("restore", "wiki", "--path", "htdocs/fleet-test.txt");
    expect(await on("nas1", `sudo cat ${sites}/wiki/htdocs/fleet-test.txt`)).toBe("second\n");
  });

  it.each([
    ["a path outside of the site's tree", ["status", "--path", "../blog/htdocs"], /allowed: a path below the site's directory/],
    ["a site that is not there", ["nobody"], /there is no site 'nobody' on the NAS; there are: blog, status, wiki/],
    ["a time without a snapshot", ["status", "--at", "2001-01-01"], /there is no snapshot of 2001-01-01; the nearest: \d{4}-/],
  ])("%s is refused, and nothing is touched", async (_, words, told) => {
    const before = await hash("status"); // whose code writes nothing while it is asked, as DokuWiki's does
    const { code, err } = await fleet("snapshot", "restore", ...words);
    expect(code).toBe(2);
    expect(err).toMatch(told);
    expect(await hash("status")).toBe(before);
  });
});

describe("who may what on the NAS", () => {
  it("root of a client is nobody there; twin: the site's own uid is itself", async () => {
    for (const command of [
      "ls /srv/sites/wiki",
      "touch /srv/sites/root",
      "chown 0 /srv/sites/wiki",
      "cat /srv/sites/wiki/htdocs/doku.php",
    ]) {
      expect(await refusedOn("php1", `sudo ${command}`), command).toMatch(/Permission denied|not permitted/);
    }
    const own = "sudo setpriv --reuid 20002 --regid 20002 --clear-groups";
    expect(await on("php1", `${own} ls /srv/sites/wiki`)).toContain("htdocs");
    await on("php1", `${own} touch /srv/sites/wiki/htdocs/fleet-own && ${own} rm /srv/sites/wiki/htdocs/fleet-own`);
    expect(await refusedOn("php1", `${own} ls /srv/sites/blog`)).toMatch(/Permission denied/);
  });

  it("another address is refused, and snapshots are nobody's to mount; twin: a client mounts the sites", async () => {
    const server = relocated("10.77.0.41");
    const mount = (path: string): string =>
      `sudo sh -c 'mkdir -p /tmp/nas && timeout 30 mount -t nfs4 -o ro,vers=4.2,soft,timeo=50,retrans=1,retry=0 ${server}:${path} /tmp/nas && ls /tmp/nas/wiki'`;
    const away = "sudo umount /tmp/nas 2>/dev/null; true";
    const told = /denied|not permitted|No such file|access/i;
    expect(await refusedOn("lb1", mount(sites))).toMatch(told);
    expect(await refusedOn("php1", mount("/srv/fleet/snapshots"))).toMatch(told);
    await on("php1", mount(sites).replace("ls /tmp/nas/wiki", "ls -d /tmp/nas/wiki"));
    for (const name of ["lb1", "php1"]) await on(name, away);
  });

  it("the timer is armed, and fleet status tells that all is well", async () => {
    expect(await on("nas1", "systemctl is-active fleet-snapshot.timer")).toBe("active\n");
    await on("nas1", "sudo systemctl start fleet-snapshot.service");
    const { code, out } = await fleet("status", "--json");
    const nas = (JSON.parse(out) as { name: string; nas?: { last: { problems: string[]; newest: string } } }[]).find(
      (m) => m.name === "nas1",
    );
    expect(nas?.nas?.last.problems).toEqual([]);
    expect(nas?.nas?.last.newest).toMatch(/^\d{8}T\d{6}Z/);
    expect(code, out).toBe(0);
  });
});
