import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { relocated } from "../../lab/settings";
import { fleet, on, pulumi } from "./lab";

const vms = ["lb1", "lb2", "nas1", "build1", "web1", "web2", "php1", "php2"];

interface Difference {
  readonly vm: string;
  readonly generation: string;
  readonly findings: readonly { readonly kind: string; readonly name: string; readonly what: string; readonly diff?: string }[];
}

/** Differences of the whole fleet as `vm kind name`, and the exit code. */
async function drift(): Promise<{ code: number; found: string[]; all: Difference[] }> {
  const { code, out, err } = await fleet("drift", "--json");
  expect(code, err + out).not.toBe(1);
  const all = JSON.parse(out) as Difference[];
  return { code, all, found: all.flatMap(({ vm, findings }) => findings.map(({ kind, name }) => `${vm} ${kind} ${name}`)).sort() };
}

const everywhere = (command: string): Promise<string[]> => Promise.all(vms.map((vm) => on(vm, command)));
/** Files and directories of the root file system changed since the mark, but for what sshd, sudo, the journal and the NFS server's list of clients write. */
const writtenSince =
  "sudo find / -xdev \\( -path /var/log -o -path /tmp -o -path /var/tmp -o -path /run -o -path /var/lib/systemd/timers -o -path /var/lib/nfs/nfsdcld \\) -prune -o -newer /run/fleet/mark -print";
// By sshd's own word: the process is in the session's unit before the journal asks where it is.
const sessions = "sudo journalctl --sync; sudo journalctl --quiet --identifier sshd --grep 'Accepted publickey' --output cat | wc -l";
// The look for quiet sites comes every minute, whatever else happens.
const invocations = "systemctl show --property=Id,InvocationID 'fleet-*' srv-sites.mount ssh.service | awk -v RS= '!/fleet-rest.service/'";

/** An edit by hand: how it is made, undone, and what drift must call it. */
interface Edit {
  readonly vm: string;
  readonly found: readonly string[];
  readonly make: string;
  readonly undo: string;
}

const health = "fleet-health.service";
const reload = "systemctl daemon-reload";
const scheduler = "mh -b mh-fallback,mh-port";
const vip = relocated("10.77.0.100");
const web1 = relocated("10.77.0.21");

/** Every kind of edit on every VM where it makes sense. */
async function candidates(): Promise<Edit[]> {
  const [build = ""] = (await on("php1", "sudo grep -hoP '/opt/php/\\K[^/]+' /etc/systemd/system/fleet-site-*.service")).trim().split("\n");
  const edits: Edit[] = [];
  const add = (vm: string, kind: string, name: string, make: string, undo: string, ...also: string[]): void =>
    void edits.push({ vm, make, undo, found: [`${vm} ${kind} ${name}`, ...also.map((a) => `${vm} ${a}`)] });
  const append = (vm: string, kind: string, file: string, line: string, ...also: string[]): void =>
    add(
      vm,
      kind,
      file,
      `cp -p ${file} /tmp/kept && echo "${line}" >> ${file}`,
      `cat /tmp/kept > ${file} && touch -r /tmp/kept ${file}`,
      ...also,
    );
  const own: Record<string, string> = {
    lb1: "/etc/keepalived/fleet.conf",
    lb2: "/etc/keepalived/fleet.conf",
    nas1: "/etc/nfs.conf.d/fleet.conf",
    web1: "/etc/apache2/fleet.conf",
    web2: "/etc/fleet/vhosts/status.conf",
    php1: "/etc/fleet/php/status/php.ini",
    php2: "/etc/fleet/php/wiki/fpm.conf",
  };
  for (const [vm, file] of Object.entries(own)) {
    if ((await on(vm, `test -e ${file} && echo yes || true`)) !== "yes\n") throw new Error(`${vm} has no ${file}`);
    append(vm, "file", file, "# by hand");
  }
  for (const vm of vms) {
    const json = "/etc/fleet/health.json";
    const unit = `/etc/systemd/system/${health}`;
    add(vm, "file", json, `chmod 0666 ${json}`, `chmod 0644 ${json}`);
    add(
      vm,
      "file",
      "/etc/systemd/system/fleet.target",
      `rm /etc/systemd/system/fleet.target && ${reload}`,
      `ln -s /var/lib/fleet/current/etc/systemd/system/fleet.target /etc/systemd/system/ && ${reload}`,
      "unit fleet.target",
    );
    add(
      vm,
      "file",
      "/etc/fleet/lib/probes.py",
      "cp --remove-destination /etc/fleet/lib/health.py /etc/fleet/lib/probes.py",
      "ln -sfn /var/lib/fleet/current/etc/fleet/lib/probes.py /etc/fleet/lib/probes.py",
    );
    add(vm, "file", "/etc/fleet/notes.txt", "touch /etc/fleet/notes.txt", "rm /etc/fleet/notes.txt");
    add(vm, "file", "/etc/fleet/more", "ln -s /tmp /etc/fleet/more", "rm /etc/fleet/more");
    const left = "/etc/fleet/.health.json.fleet-part";
    add(vm, "file", left, `touch -d "1 hour ago" ${left}`, `rm ${left}`);
    // The manifest is made to agree with the edit, so that only the bundle gives it away.
    const [manifest, digest] = ["/var/lib/fleet/current/manifest.json", `$(sha256sum < ${json} | cut -c -64)`];
    add(
      vm,
      "file",
      json,
      `cp -p ${json} /tmp/kept; old=${digest}; echo >> ${json}; sed -i s/$old/${digest}/ ${manifest}`,
      `new=${digest}; cat /tmp/kept > ${json}; touch -r /tmp/kept ${json}; sed -i s/$new/${digest}/ ${manifest}`,
    );
    const generation = path.basename(await on(vm, "readlink /var/lib/fleet/current")).slice(0, 12);
    const its = "/var/lib/fleet/current/bundle";
    add(vm, "generation", generation, `echo >> ${its}`, `truncate -s -1 ${its}`);
    add(vm, "unit", "fleet-old.service", "systemd-run --quiet --unit fleet-old sleep 1000", "systemctl stop fleet-old");
    for (const changed of [health, "fleet-watch.service", "ssh.service"]) {
      const dropIn = `/etc/systemd/system/${changed}.d`;
      add(
        vm,
        "unit",
        changed,
        `mkdir -p ${dropIn} && printf "[Service]\\nNice=1\\n" > ${dropIn}/x.conf && ${reload}`,
        `rm -r ${dropIn} && ${reload}`,
      );
    }
    const set = `/run/systemd/system.control/${health}.d`;
    add(vm, "unit", health, `systemctl set-property --runtime ${health} TasksMax=70`, `rm -r ${set} && ${reload}`);
    // web1 stays in service: its entries in the balancers' tables are edited below.
    if (vm !== "web1") add(vm, "unit", health, `systemctl stop ${health}`, `systemctl start ${health}`);
    append(vm, "file", unit, "# by hand", `unit ${health}`);
    append(vm, "program", "/usr/local/lib/fleet/plan.py", "# by hand");
  }
  for (const vm of ["web1", "web2", "php1", "php2"]) {
    add(
      vm,
      "sysctl",
      "net.ipv4.conf.all.arp_ignore",
      "sysctl -qw net.ipv4.conf.all.arp_ignore=0",
      "sysctl -qw net.ipv4.conf.all.arp_ignore=1",
    );
    const own = "/etc/sysctl.d/90-local.conf";
    add(vm, "sysctl", own, `echo net.ipv4.conf.all.arp_ignore = 0 > ${own}`, `rm ${own}`);
    append(vm, "sysctl", "/etc/sysctl.conf", "net.ipv4.conf.all.arp_announce = 0");
    add(vm, "mount", "/srv/sites", "mount -o remount,suid /srv/sites", "mount -o remount,nosuid /srv/sites");
  }
  for (const vm of ["web1", "web2"]) {
    add(vm, "mount", "/srv/sites/wiki", "mount -t tmpfs none /srv/sites/wiki", "umount /srv/sites/wiki");
  }
  add("web2", "address", `${vip}/32`, `ip address delete ${vip}/32 dev fleet0`, `ip address add ${vip}/32 dev fleet0`);
  for (const vm of ["lb1", "lb2"]) {
    add(
      vm,
      "sysctl",
      "net.ipv4.vs.conn_reuse_mode",
      "sysctl -qw net.ipv4.vs.conn_reuse_mode=1",
      "sysctl -qw net.ipv4.vs.conn_reuse_mode=0",
    );
    add(vm, "ipvs", `${vip}:443 ${web1}`, `ipvsadm -e -t ${vip}:443 -r ${web1} -g -w 7`, `ipvsadm -e -t ${vip}:443 -r ${web1} -g -w 1`);
    add(vm, "ipvs", `${vip}:80 ${web1}`, `ipvsadm -d -t ${vip}:80 -r ${web1}`, `ipvsadm -a -t ${vip}:80 -r ${web1} -g -w 1`);
    add(vm, "ipvs", `${vip}:81`, `ipvsadm -A -t ${vip}:81 -s wlc`, `ipvsadm -D -t ${vip}:81`);
    add(vm, "ipvs", `UDP ${vip}:53`, `ipvsadm -A -u ${vip}:53 -s wlc`, `ipvsadm -D -u ${vip}:53`);
    add(vm, "ipvs", "FWM 7", "ipvsadm -A -f 7 -s wlc", "ipvsadm -D -f 7");
    for (const how of ["wlc", "mh -b mh-port", `${scheduler} -p 300`])
      add(vm, "ipvs", `${vip}:443`, `ipvsadm -E -t ${vip}:443 -s ${how}`, `ipvsadm -E -t ${vip}:443 -s ${scheduler}`);
  }
  for (const vm of ["php1", "php2"]) {
    append(vm, "artefact", `/opt/php/${build}/sbin/php-fpm`, "x");
    add(vm, "artefact", `/opt/php/${build}/backdoor`, `touch /opt/php/${build}/backdoor`, `rm /opt/php/${build}/backdoor`);
    add(vm, "artefact", `/opt/php/${build}`, `mv /opt/php/${build} /opt/php/.kept`, `mv /opt/php/.kept /opt/php/${build}`);
    const user = "fleet-site-wiki";
    add(vm, "account", user, `usermod --shell /bin/sh ${user}`, `usermod --shell /usr/sbin/nologin ${user}`);
    add(vm, "account", user, `usermod --append --groups sudo ${user}`, `gpasswd --delete ${user} sudo`);
  }
  return edits;
}

/** The same order for the same seed (a linear congruential generator, Numerical Recipes' constants). */
function shuffled<T>(items: readonly T[], seed: number): T[] {
  let x = seed;
  const keyed = items.map((item) => [(x = (Math.imul(x, 1664525) + 1013904223) >>> 0), item] as const);
  return keyed.sort(([a], [b]) => a - b).map(([, item]) => item);
}

const seed = Number(process.env["FLEET_SEED"] ?? 20261124);
/** Thirty edits, at least one of each kind, none of which touches what another one does. */
function chosen(all: readonly Edit[]): Edit[] {
  const taken = new Set<string>();
  const kind = ({ found }: Edit): string | undefined => found[0]?.split(" ")[1];
  const order = shuffled(all, seed);
  const firsts = order.filter((edit, i) => order.findIndex((other) => kind(other) === kind(edit)) === i);
  return [...firsts, ...order]
    .filter(({ vm, make, found }) => {
      // Two edits that keep a copy on one VM would share it; and none is made of a build that another one takes away.
      const shared = ["/tmp/kept", "/opt/php/"].filter((place) => make.includes(place));
      const marks = [...found, ...shared.map((place) => `${vm} ${place}`)];
      if (marks.some((mark) => taken.has(mark))) return false;
      marks.forEach((mark) => taken.add(mark));
      return true;
    })
    .slice(0, 30);
}

describe("fleet drift", () => {
  const clean = 20;

  it(`${clean} looks at a fleet that nobody edited find nothing`, async () => {
    for (let i = 0; i < clean; i++) {
      const { code, found } = await drift();
      expect(found).toEqual([]);
      expect(code).toBe(0);
    }
  });

  it("a look writes nothing on any VM, and takes one SSH session each", async () => {
    await everywhere("sudo touch /run/fleet/mark; sleep 1");
    const before = await everywhere(sessions);
    expect((await drift()).code).toBe(0);
    const after = await everywhere(sessions);
    // One session is that of the first count.
    expect(after.map((count, i) => Number(count) - Number(before[i]) - 1)).toEqual(vms.map(() => 1));
    expect(await everywhere(writtenSince)).toEqual(vms.map(() => ""));
  });

  describe(`thirty edits by hand of all kinds (seed ${seed})`, () => {
    let edits: Edit[] = [];
    // Only what was made is undone: after an edit that failed the fleet is left as it was found.
    const made: Edit[] = [];
    beforeAll(async () => {
      edits = chosen(await candidates());
      for (const edit of edits) {
        await on(edit.vm, `sudo sh -c '${edit.make}'`);
        made.push(edit);
      }
    });
    afterAll(async () => {
      for (const { vm, undo } of made) await on(vm, `sudo sh -c '${undo}'`);
      await everywhere("sudo systemctl daemon-reload");
    });

    it("are found, each under its kind and name, and nothing else is", async () => {
      expect(edits).toHaveLength(30);
      const { code, found, all } = await drift();
      expect(code).toBe(2);
      expect(found).toEqual(edits.flatMap((e) => e.found).sort());
      const diffs = all.flatMap(({ findings }) => findings.flatMap(({ diff }) => (diff ? [diff] : [])));
      expect(diffs.some((diff) => diff.includes("+# by hand"))).toBe(true);
      const kinds = new Set(all.flatMap(({ findings }) => findings.map(({ kind }) => kind)));
      process.stdout.write(`${found.length} differences of ${edits.length} edits; kinds: ${[...kinds].join(", ")}\n`);
      expect((await fleet("drift")).out).toMatch(/^8 VMs asked, \d differ, \d+ differences$/m);
    });
  });

  it("and none is left when they are undone", async () => {
    expect((await drift()).found).toEqual([]);
  });
});

describe("fleet status", () => {
  it("shows every VM with its generation, health and PHP on one screen", async () => {
    const { code, out, err } = await fleet("status");
    expect(code, out + err).toBe(0);
    for (const vm of vms) expect(out).toContain(`│ ${vm} `);
    expect(out).toMatch(/8 VMs, all well/);
    expect(out).toMatch(/php1 .*8\.2\.32/);
  });

  it("tells what is wrong with a VM, and ends with 1", async () => {
    await on("web2", "sudo mkdir -p /run/fleet; sudo touch /run/fleet/drain");
    try {
      const { code, out } = await fleet("status", "--json");
      expect(code).toBe(1);
      const drained = (JSON.parse(out) as { name: string; drained: boolean }[]).filter((vm) => vm.drained);
      expect(drained.map((vm) => vm.name)).toEqual(["web2"]);
    } finally {
      await on("web2", "sudo rm /run/fleet/drain");
    }
  });
});

describe("an `up` without a change", () => {
  it("writes nothing on any VM, touches no service, and opens no SSH session", async () => {
    await everywhere("sudo touch /run/fleet/mark; sleep 1");
    const units = await everywhere(invocations);
    const before = await everywhere(sessions);
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
    expect(out).toMatch(/\d+ unchanged/);
    const after = await everywhere(sessions);
    expect(after.map((count, i) => Number(count) - Number(before[i]) - 1)).toEqual(vms.map(() => 0));
    expect(await everywhere(invocations)).toEqual(units);
    expect(await everywhere(writtenSince)).toEqual(vms.map(() => ""));
  });

  it("and converge, given the same bundle again or asked for drift, writes no byte, touches no service", async () => {
    await everywhere("sudo touch /run/fleet/mark; sleep 1");
    const units = await everywhere(invocations);
    const converge = "/usr/bin/python3 -IB /usr/local/lib/fleet/converge.py";
    // The kernel counts what a process and its children have written to disks.
    const said = await everywhere(
      `sudo sh -c '${converge} apply < /var/lib/fleet/current/bundle; ${converge} drift; grep ^write_bytes /proc/$$/io'`,
    );
    for (const [i, text] of said.entries()) {
      const [applied = "", looked = "", written] = text.trim().split("\n");
      expect((JSON.parse(applied) as { result: string }).result, vms[i]).toBe("unchanged");
      expect((JSON.parse(looked) as { findings: unknown[] }).findings, vms[i]).toEqual([]);
      expect(written, vms[i]).toBe("write_bytes: 0");
    }
    expect(await everywhere(invocations)).toEqual(units);
    expect(await everywhere(writtenSince)).toEqual(vms.map(() => ""));
  });

  it("though the kernel's count does see a byte that is written", async () => {
    const written = await on("web1", "sudo sh -c 'echo x > /var/lib/fleet/probe; rm /var/lib/fleet/probe; grep ^write_bytes /proc/$$/io'");
    expect(written).not.toBe("write_bytes: 0\n");
  });
});
