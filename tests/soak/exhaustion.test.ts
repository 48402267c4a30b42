import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { curl, drain, on, pulumi, quantile, sleep, startProbe, status, undrain, type Seen } from "../lab/lab";
import { clear, place, put, served, siteFile, withSites } from "./scripts";

/*
 * A hostile site takes all it can get, one kind of thing after another, and its neighbour's p99 is compared with the
 * neighbour's p99 without it. The attacker is `wiki`, the neighbour `status` with its JSON page.
 *
 * What makes the comparison one of the fleet, and not of the computer under the lab:
 * - One PHP VM at a time takes all requests and so the attack; the other is drained, and idle. Two VMs that both
 *   burn a CPU would leave none of the computer's two for the VMs in front of them and for the client.
 * - The neighbour is asked at a constant rate, whatever became of the requests before, and at one that leaves
 *   the VMs idle most of the time.
 * - Windows with and without the attack alternate, on both VMs and in both orders, and p99 is that of all windows of a kind
 *   together (rounds x window x rate): what else goes on falls on both kinds.
 * - What an attack burns of the VM's only CPU is burnt in the window without it too, by work that gets what nobody else
 *   wants (CPUWeight=idle). A share of a CPU is no promise of when it comes: a process that wakes may wait for the
 *   kernel's next tick, 10 ms in the lab's, and no wall is stronger than that one. It takes from the VMs in front as well.
 *   p99 with nothing at all beside is in the table, too.
 * - Two sites are at work, and the stack says so: both have the memory that they may take.
 * - A window begins when everything of the one before has ended, the attacker's processes and temporary files too.
 */
const rounds = ["php1", "php2"] as const;
/** Seconds of a window; FLEET_WINDOW overrides it. */
const windowSeconds = Number(process.env["FLEET_WINDOW"] ?? 30);
/** Requests a second to the neighbour: twice as many, and they wait for each other in the lab. */
const rate = 10;
/** Of so few requests p99 is the fourth slowest: where it says no, so many more windows of both kinds decide with the first. */
const passes = 4;
/** Seconds that what has been started has until a window begins. */
const settling = 5;
/** The issue's own figure: p99 with the attack by p99 without. */
const mostRatio = 1.5;

const unit = "fleet-site-wiki";
const slice = "sites-wiki.slice";
const group = `/sys/fs/cgroup/sites.slice/${slice}`;
/** Where this run weakens the attacker's slice and service, the neighbour's service, and the slice of all sites. */
const weakened = [slice, `${unit}.service`, "fleet-site-status.service", "sites.slice"].map((name) => `/run/systemd/system/${name}.d`);
/** What the attacker leaves in its tree. */
const junk = "/srv/sites/wiki/fleet-junk";

/** One attack a request, for 15 seconds; says what it got. What a limit of its own stops, a next request goes on with. */
const page = `<?php
ignore_user_abort(true);
set_time_limit(0);
ini_set('memory_limit', '-1');
if (function_exists('posix_setrlimit')) @posix_setrlimit(POSIX_RLIMIT_NOFILE, 524288, 524288);
$end = microtime(true) + 15;
$left = fn() => microtime(true) < $end;
$rest = function (string $said) use ($left) { while ($left()) sleep(1); return $said; };
$nowhere = array_fill(0, 3, ['file', '/dev/null', 'r+']);
$shell = fn(string $command) => function_exists('proc_open') ? @proc_open(['/bin/bash', '-c', $command], $nowhere, $pipes) : false;
$own = getmypid() . '-' . hrtime(true);
$files = function (string $directory) use ($left, $rest, $own) {
    @mkdir($directory);
    for ($n = 0; $left() && @touch("$directory/$own-$n"); $n++);
    return $rest("$n files" . ($left() ? ', then refused' : ''));
};
$attacks = [
    'children' => fn() => $rest('slept'),
    'CPU' => function () use ($left) { for ($x = ''; $left(); $x = hash('sha256', $x)); return 'burnt'; },
    'memory' => function () use ($left, $rest) {
        $held = [];
        while ($left()) $held[] = str_repeat(chr(count($held) % 256), 1 << 20);
        return count($held) . ' MB';
    },
    'processes' => function () use ($left, $shell) {
        for ($n = 0, $refused = 0; $left(); $n++, usleep(200000)) {
            // Kept: to let go of it would be to wait for its end.
            if (($held[] = $shell('b() { b | b & }; b')) === false) $refused++;
        }
        return ($n - $refused) . " bombs, $refused refused";
    },
    'disk by /tmp' => function () use ($rest, $shell, $own) {
        $fill = 'for size in 1G 100M 10M 1M; do while fallocate -l $size /tmp/' . $own . '.$size.$((n+=1)); do :; done; done';
        $held = $shell($fill);
        return $rest($held ? 'filled' : 'no shell');
    },
    'inodes by /tmp' => fn() => $files('/tmp/many'),
    'open files' => function () use ($left, $rest) {
        for ($n = 0; $left() && ($held[] = @fopen('/dev/null', 'r')); $n++);
        return $rest("$n files");
    },
    'sockets' => function () use ($left, $rest) {
        $block = str_repeat('x', 4096);
        for ($n = 0; $left() && ($pair = @stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0)); $n++) {
            stream_set_blocking($pair[0], false);
            while (@fwrite($pair[0], $block));
            $held[] = $pair;
        }
        return $rest("$n full pairs");
    },
    'ports' => function () use ($left, $rest) {
        $none = stream_context_create();
        for ($n = $asked = 0; $left() && $asked < 30000; $asked++) {
            if (($held[] = @stream_socket_server('tcp://0.0.0.0:0', $code, $said, STREAM_SERVER_BIND | STREAM_SERVER_LISTEN, $none))) $n++;
            else array_pop($held);
        }
        return $rest("$n ports of $asked");
    },
    'disk by its tree' => function () use ($left, $own) {
        @mkdir('${junk}');
        $file = @fopen("${junk}/$own", 'w');
        for ($n = 0; $left() && @fwrite($file, str_repeat('x', 1 << 20)) === 1 << 20; $n++);
        return "$n MB" . ($left() ? ', then refused' : '');
    },
    'inodes by its tree' => fn() => $files('${junk}'),
];
echo $attacks[$_GET['attack']]();
`;

/** A page of the neighbour that needs some of what all share: its temporary directory, and a process. */
const needs = `<?php
$file = tempnam(sys_get_temp_dir(), 'fleet');
$room = $file !== false && @file_put_contents($file, str_repeat('x', 1 << 20)) === 1 << 20;
@unlink($file);
echo !$room ? 'has no room for a temporary file' : (@exec('echo started') === 'started' ? 'works' : 'cannot start a process');
`;

/** What its page, or its end, says when an attack has taken place. */
const worked = /^(slept|burnt|filled|[1-9]\d* (MB|bombs|files|full pairs)|\d+ ports of \d)/;

interface Attack {
  readonly name: string;
  /** Of the attacker's page. @default the name */
  readonly attack?: string;
  /** Seconds between two of its requests. @default 0.5: more than the children of its pool can take */
  readonly step?: number;
  /** Whether the neighbour must be left alone. @default true */
  readonly holds?: boolean;
  /** What of it is left elsewhere when the PHP VM has ended its own part. @default nothing */
  readonly cleanUp?: () => Promise<unknown>;
}
const onApaches = (command: string): Promise<unknown> => Promise.all(["web1", "web2"].map((vm) => on(vm, `sudo sh -c '${command}'`)));
const removeJunk = (): Promise<unknown> => on("nas1", `sudo rm -rf ${junk.replace("/srv/sites", "/srv/fleet/sites")}`);
/** More requests than all Apache VMs have threads for, before the first of them is done. */
const threads: Attack = {
  name: "Apache's threads",
  attack: "children",
  step: 0.05,
  // Requests whose client has gone wait in its queue, and would be asked of PHP one after the other.
  cleanUp: () => onApaches("systemctl restart fleet-apache"),
};
const attacks: readonly Attack[] = [
  { name: "children" },
  threads,
  { name: "CPU" },
  { name: "memory" },
  { name: "processes" },
  { name: "disk by /tmp" },
  { name: "inodes by /tmp" },
  { name: "open files" },
  { name: "sockets" },
  { name: "ports" },
  // All trees are on one server without quotas: figures only.
  { name: "disk by its tree", holds: false, cleanUp: removeJunk },
  { name: "inodes by its tree", holds: false, cleanUp: removeJunk },
];

type Page = Parameters<typeof startProbe>[2];

/** The neighbour, asked for one window. */
async function neighbour(page: Page): Promise<Seen> {
  const probe = startProbe([`get=${1 / rate}`], 10, page);
  await sleep(windowSeconds);
  return probe.stop();
}

/** Seconds of CPU that the attacker has had on a VM. */
const cpuOf = async (vm: string): Promise<number> => {
  // A slice whose site sleeps may not be there yet.
  const shown = await on(vm, `cat ${group}/cpu.stat 2> /dev/null || true`);
  return Number(/^usage_usec (\d+)$/m.exec(shown)?.[1] ?? 0) / 1e6;
};

/** Has a VM burn a share of its CPU, as far as nobody wants it, until `end`. */
async function burn(vm: string, share: number): Promise<{ end: () => Promise<unknown> }> {
  const steps = [
    "import time",
    "def busy(end):",
    "    while time.monotonic() < end: pass",
    `while True: busy(time.monotonic() + 0.1 * ${share.toFixed(3)}); time.sleep(0.1 * ${(1 - share).toFixed(3)})`,
  ];
  const program = Buffer.from(steps.join("\n")).toString("base64");
  const run = `systemd-run -q --unit=fleet-burn --slice=burn.slice python3 -Ic "$(echo ${program} | base64 -d)"`;
  await on(vm, `sudo sh -c 'systemctl set-property --runtime burn.slice CPUWeight=idle; ${run}'`);
  return { end: () => on(vm, "sudo systemctl stop fleet-burn.service burn.slice") };
}

/** How often a limit of the attacker's slice, or the VM's memory, has met it on a VM. */
const refusals = async (vm: string): Promise<number> => {
  const shown = await on(
    vm,
    `cd ${group} && awk '$1 == "max" || $1 == "oom_kill" { n += $2 } END { print n }' memory.events pids.events 2> /dev/null || true`,
  );
  return Number(shown);
};

/** What has become of the attacker on a VM, and how much room its disk has, in a few words. */
async function outcome(vm: string): Promise<string> {
  const shown = await on(
    vm,
    `systemctl show -p NRestarts ${unit}.service; systemctl show -p TasksCurrent,MemoryCurrent ${slice}; df --output=avail,iavail / | awk 'END { print "Room=" $1 " " $2 }'`,
  );
  const is = Object.fromEntries(shown.split("\n").map((line) => line.split("=") as [string, string]));
  const [blocks, inodes] = (is["Room"] ?? "").split(" ").map(Number);
  const memory = Number(is["MemoryCurrent"]) / 2 ** 20;
  return [
    `${is["NRestarts"]} restarts`,
    `${Number.isFinite(Number(is["TasksCurrent"])) ? is["TasksCurrent"] : 0} tasks`,
    `${Number.isFinite(memory) && memory < 1e6 ? memory.toFixed(0) : 0} MB`,
    `/ has ${((blocks ?? 0) / 2 ** 20).toFixed(1)} GB and ${((inodes ?? 0) / 1000).toFixed(0)}k inodes left`,
  ].join(", ");
}

/**
 * Ends all that the attacker has running on a VM, and its temporary files with it. FPM leaves its children to end by
 * themselves, so a stop of the service alone would leave the attack; what waits in the socket ends with it.
 */
async function calm(vm: string): Promise<void> {
  const end = `test ! -e ${group}/cgroup.kill || echo 1 > ${group}/cgroup.kill`;
  const all = [
    end,
    `systemctl stop ${unit}.socket ${unit}.service`,
    end,
    `systemctl reset-failed ${unit}.service`,
    // Not while a process of the service still waits for the NAS.
    `for n in $(seq 30); do systemctl start ${unit}.socket 2> /dev/null && exit; sleep 1; done; systemctl start ${unit}.socket`,
  ];
  await on(vm, `sudo sh -c '${all.join("; ")}'`);
}

interface Measured {
  readonly without: number;
  readonly during: number;
  readonly ratio: number;
  readonly failed: number;
  /** What the neighbour lacked. */
  readonly lacked: string[];
}

const rows: string[] = [];

/** One window under the attack; the share of the CPU that it took, and its outcome. */
async function attacked(vm: string, { name, attack = name, step = 0.5, cleanUp }: Attack, page?: Page): Promise<Attacked> {
  const refused = await refusals(vm);
  const path = `/${place}/attack.php?attack=${encodeURIComponent(attack)}`;
  const had = await cpuOf(vm);
  const hostile = startProbe([`get=${step}`], 60, { host: "wiki.lab.test", path });
  await sleep(settling);
  const seen = await neighbour(page);
  const share = Math.min(0.98, ((await cpuOf(vm)) - had) / (settling + windowSeconds));
  const said = (await curl(`http://status.lab.test/${place}/needs.php`)).out;
  const lacked = said === "works" ? [] : [said.slice(0, 80) || "no answer"];
  const fate = await outcome(vm);
  const limited = (await refusals(vm)) > refused;
  const [{ bodies, errors, sent }] = await Promise.all([hostile.stop(), calm(vm)]);
  const got = Object.keys(bodies).slice(0, 2).join(" / ") || "nothing";
  // An attack that failed would leave its neighbour alone as well.
  expect(limited || Object.keys(bodies).some((body) => worked.test(body)), `${name} on ${vm}: ${got}`).toBe(true);
  if (cleanUp) {
    await cleanUp();
    // Until then more of it may have come.
    await calm(vm);
  }
  const told = `  ${vm}: ${(share * 100).toFixed(0)} % of a CPU, ${fate}; of ${sent} requests ${JSON.stringify(errors)}; got ${got}`;
  return { seen, share, lacked, told };
}
interface Attacked {
  readonly seen: Seen;
  readonly share: number;
  readonly lacked: readonly string[];
  readonly told: string;
}

/** One window without it, in which as much of the CPU is burnt. */
async function unattacked(vm: string, share: number, page?: Page): Promise<Seen> {
  const burning = await burn(vm, share);
  await sleep(settling);
  return neighbour(page).finally(burning.end);
}

/** Has one PHP VM take all requests. */
async function alone(vm: string): Promise<void> {
  await undrain(vm);
  await drain(vm === "php1" ? "php2" : "php1");
  for (let n = 0; n < 10; n++) expect((await status()).host).toBe(vm);
}

/** One attack on these VMs, and what the neighbour had of it; with the attack first and last in turn. */
async function measure(attack: Attack, vms: readonly string[] = rounds, page?: Page): Promise<Measured> {
  const quiet: Seen[] = [];
  const under: Attacked[] = [];
  const most = vms.length > 1 ? passes : 1;
  for (let pass = 1; ; pass++) {
    for (const [n, vm] of vms.entries()) {
      await alone(vm);
      // What the attack takes of the CPU is known from the VM before.
      if (n % 2 === 1) quiet.push(await unattacked(vm, under[0]?.share ?? 0, page));
      const found = await attacked(vm, attack, page);
      under.push(found);
      if (n % 2 === 0) quiet.push(await unattacked(vm, found.share, page));
    }
    const { measured, row } = compared(attack, quiet, under);
    process.stdout.write(`\n${row}\n`);
    if (pass < most && measured.failed === 0 && measured.ratio > mostRatio) continue;
    rows.push(row);
    return measured;
  }
}

/** A share of all latencies of some windows is at most this, in seconds. */
const slowest = (windows: readonly Seen[], share: number): number =>
  quantile(
    windows.flatMap(({ latencies }) => latencies),
    share,
  );

/** What the windows of both kinds say, and the row of the table that tells it. */
function compared({ name }: Attack, quiet: readonly Seen[], under: readonly Attacked[]): { measured: Measured; row: string } {
  const loud = under.map(({ seen }) => seen);
  const at = (share: number): [number, number] => [slowest(quiet, share), slowest(loud, share)];
  const [without, during] = at(0.99);
  const count = (key: "failed" | "sent"): number => loud.reduce((sum, seen) => sum + seen[key], 0);
  const lacked = [...new Set(under.flatMap((one) => one.lacked))];
  const measured = { without, during, ratio: during / without, failed: count("failed"), lacked };
  const numbers =
    `${measured.failed}/${count("sent")}`.padEnd(9) + [without, during].map((p99) => `${p99.toFixed(3)} s`.padEnd(10)).join("");
  const [slow, middle] = [at(0.9), at(0.5)].map((two) => two.map((s) => s.toFixed(3)).join(" and "));
  const row = [
    `${name.padEnd(30)} ${numbers} ${measured.ratio.toFixed(2)}  ${lacked.join(", ")}`,
    ...under.map(({ told }) => told),
    `  p90 ${slow} s, median ${middle} s`,
  ].join("\n");
  return { measured, row };
}

/** Walls of the two services that a twin takes away: `fleet-site-wiki` alone, or both where what they guard is shared. */
const noWalls = "[Service]\nSystemCallFilter=\nLimitNOFILE=524288\n";
const oneTmp = "[Service]\nTemporaryFileSystem=\nTemporaryFileSystem=/srv/sites:ro\nReadWritePaths=/tmp\n";

/**
 * Takes the limits of the attacker away, and gives the two of them one /tmp no larger than that of a site and one limit
 * of processes: without any, there would be none left for the test itself.
 */
async function weaken(vm: string, attacker = ""): Promise<void> {
  const texts = [
    `[Slice]\nMemoryMax=infinity\nTasksMax=infinity\n${attacker}`,
    `${noWalls}${oneTmp.slice(10)}`,
    oneTmp,
    "[Slice]\nMemoryMax=infinity\nTasksMax=300\n",
  ];
  const write = weakened.map(
    (directory, n) => `mkdir -p ${directory} && printf '${texts[n]?.replaceAll("\n", "\\n")}' > ${directory}/weak.conf`,
  );
  const tmp = "mount -t tmpfs -o size=64M,nr_inodes=16k,mode=1777,nosuid,nodev fleet-twin /tmp";
  await on(vm, `sudo sh -c "${[...write, tmp].join("; ")}; systemctl daemon-reload; systemctl stop fleet-site-status.service"`);
  await calm(vm);
}

/** Puts all back. */
async function restore(vm: string): Promise<void> {
  await on(vm, `sudo sh -c 'rm -rf ${weakened.join(" ")}; systemctl daemon-reload; systemctl stop fleet-site-status.service'`);
  await calm(vm);
  await on(vm, "sudo sh -c 'while findmnt -n -S fleet-twin /tmp > /dev/null; do umount -l /tmp; done'");
}

beforeAll(async () => {
  const blog = siteFile("blog") as { php: object };
  const config = withSites({ blog: { ...blog, php: { ...blog.php, memory: "256 MB" } } }, (keys) =>
    Object.assign(keys["fleet:mutualised"].php["php-a"], { activeSites: 2 }),
  );
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
  expect(code, out + err).toBe(0);
  await put("wiki", "attack.php", page, served);
  for (const site of ["status", "wiki"]) await put(site, "needs.php", needs, served);
});
afterAll(async () => {
  process.stdout.write(`\nattack                         failed   p99 without during   ratio\n${rows.join("\n")}\n`);
  const cleaned = await Promise.allSettled([
    ...["php1", "php2"].map(async (vm) => {
      await restore(vm);
      await undrain(vm);
    }),
    removeJunk(),
    clear("wiki"),
    clear("status"),
  ]);
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  expect(cleaned.filter(({ status }) => status === "rejected")).toEqual([]);
  expect(code, out + err).toBe(0);
});

describe("a site that takes all it can get leaves its neighbour's p99 at most half as much again, and fails none of its requests", () => {
  it("what it is with nothing at all beside", async () => {
    const seen: Seen[] = [];
    for (const vm of rounds) {
      await alone(vm);
      await sleep(settling);
      seen.push(await neighbour(undefined));
    }
    const sent = seen.reduce((sum, one) => sum + one.sent, 0);
    const [p99, p90, median] = [0.99, 0.9, 0.5].map((share) => slowest(seen, share).toFixed(3));
    rows.push(`${"nothing at all".padEnd(30)} ${`0/${sent}`.padEnd(9)}${p99} s\n  p90 ${p90} s, median ${median} s`);
    expect(seen.map(({ failed }) => failed)).toEqual([0, 0]);
  });

  it.each(attacks.map((attack) => [attack.name, attack] as const))("%s", async (_, attack) => {
    const held = attack.holds !== false;
    const { ratio, failed, lacked } = await measure(attack, held ? rounds : rounds.slice(0, 1));
    if (!held) return;
    expect({ failed, lacked }).toEqual({ failed: 0, lacked: [] });
    expect(ratio).toBeLessThanOrEqual(mostRatio);
  });
});

describe("the same measure fails without the walls", () => {
  const weakly = async (attack: string, attacker?: string): Promise<Measured> => {
    await weaken("php1", attacker);
    return measure({ name: `${attack}, without limits`, attack }, ["php1"]).finally(() => restore("php1"));
  };
  it.each(["memory", "processes", "disk by /tmp", "inodes by /tmp", "ports"])("%s, without limits", async (attack) => {
    const { ratio, failed, lacked } = await weakly(attack);
    expect(failed > 0 || lacked.length > 0 || ratio > mostRatio).toBe(true);
  });

  it("CPU, that of ten neighbours", async () => {
    const { ratio, failed, lacked } = await weakly("CPU", "CPUWeight=1000\n");
    expect(failed > 0 || lacked.length > 0 || ratio > mostRatio).toBe(true);
  });

  it("Apache's threads, of which one site may have all", async () => {
    const vhost = "/etc/fleet/vhosts/wiki.conf";
    await onApaches(`sed -i.fleet "s/ max=[0-9]* acquire=[0-9]*//" ${vhost}; systemctl restart fleet-apache`);
    const found = await measure({ ...threads, name: "Apache's threads, without limits" }, ["php1"]).finally(() =>
      onApaches(`mv ${vhost}.fleet ${vhost}; systemctl restart fleet-apache`),
    );
    expect(found.failed > 0 || found.ratio > mostRatio).toBe(true);
  });

  it("children, in the attacker's own pool", async () => {
    const page = { host: "wiki.lab.test", path: `/${place}/needs.php` };
    const { ratio, failed } = await measure({ name: "children, in one pool", attack: "children" }, ["php1"], page);
    expect(failed > 0 || ratio > mostRatio).toBe(true);
  });
});
