import { spawn } from "child_process";
import { expect } from "vitest";
import { machines } from "../../lab/vcenter";
import { checkoutWith, machine, mixed, on, pulumi, sshWords, startProbe, type Edit, type Seen } from "./lab";

/** A mistake that reaches a machine: what a colleague might commit. */
export interface Mistake {
  readonly what: string;
  /** The first VM that it meets. */
  readonly host: string;
  readonly edits: readonly (readonly [file: string, from: string, to: string])[];
  /** What the message must name: VM, check, difference. */
  readonly message: RegExp;
}

/** Adds a file, and the unit that reads it, to every Apache VM. */
export const inApache = (file: string, unit: string): Mistake["edits"] => [
  ["templates/apache/apache.ts", "    files: [\n", `    files: [\n      ${file},\n`],
  ["templates/apache/apache.ts", "    units: [\n", `    units: [\n      ${unit},\n`],
];

/** A setting of sshd on every Apache VM. */
export const sshd = (line: string): Mistake["edits"] =>
  inApache(
    `{ path: "/etc/ssh/sshd_config.d/90-fleet.conf", text: "${line}\\n" }`,
    '{ name: "ssh.service", reload: ["/etc/ssh/sshd_config.d/"] }',
  );

/** The mistakes that `npm test` rolls out; `npm run soak` has more. */
export const mistakes: readonly Mistake[] = [
  {
    what: "bad Apache configuration",
    host: "web1",
    edits: [["templates/apache/fleet.conf.mustache", "KeepAlive On", "KeepAlive Sometimes"]],
    message: /web1: check apache2 -t failed[^]*KeepAlive/,
  },
  {
    what: "bad vhost",
    host: "web1",
    edits: [["templates/apache/vhost.conf.mustache", "DocumentRoot", "DocumentRot"]],
    message: /web1: check apache2 -t failed[^]*DocumentRot/,
  },
  {
    what: "vhost that asks another port for PHP",
    host: "web1",
    edits: [["templates/apache/vhost.conf.mustache", 'SetHandler "proxy:fcgi://{{vip}}:{{port}}', 'SetHandler "proxy:fcgi://{{vip}}:9']],
    message: /web1: check sites that work now failed: [^]*blog \(blog.lab.test\) answers \d+ now, and would answer 503/,
  },
  {
    what: "check that every server would fail",
    host: "lb1",
    edits: [["templates/lvs/keepalived.conf.mustache", "path /ready", "path /readyx"]],
    message:
      /lb1: check servers that take requests now failed: \S+ takes requests now, and its new check \(\/readyx, port 8100\) fails: status 404/,
  },
  {
    what: "bad pool",
    host: "php1",
    edits: [["templates/php/fpm.conf.mustache", "pm = ondemand", "pm = whenever"]],
    message: /php1: check php-fpm -t of \w+ failed: .*fpm.conf:\d+. unable to parse value for entry 'pm'/,
  },
  {
    what: "bad php.ini",
    host: "php1",
    edits: [["templates/php/php.ini.mustache", "expose_php = Off", "expose_php = (Off"]],
    message: /php1: check php.ini of \w+ failed[^]*syntax error/,
  },
  {
    what: "wall of a site's box that is misspelt",
    host: "php1",
    edits: [["templates/php/box.mustache", "TemporaryFileSystem=", "TemporaryFilesystem="]],
    message: /php1: check systemd-analyze verify failed: [^]*Unknown key 'TemporaryFilesystem'/,
  },
  {
    what: "bad keepalived configuration",
    host: "lb1",
    edits: [["templates/lvs/keepalived.conf.mustache", "state BACKUP", "state BAKCUP\n    unknown_word"]],
    message: /lb1: check keepalived failed[^]*unknown_word/,
  },
  {
    what: "bad sshd_config",
    host: "web1",
    edits: [
      ...sshd("PermitRootLogin perhaps"),
      ["templates/apache/apache.ts", "    checks: [", '    checks: [{ name: "sshd -t", argv: ["/usr/sbin/sshd", "-t"] }, '],
    ],
    message: /web1: check sshd -t failed: .*90-fleet.conf line 1: unsupported option "perhaps"/,
  },
  {
    what: "unit that does not start",
    host: "web1",
    edits: inApache(
      '{ path: "/etc/systemd/system/fleet-extra.service", text: "[Service]\\nType=oneshot\\nExecStart=/bin/false\\n" }',
      '{ name: "fleet-extra.service" }',
    ),
    message: /web1: .*fleet-extra.service failed/,
  },
  {
    what: "probe that fails",
    host: "web1",
    edits: [
      [
        "templates/apache/apache.ts",
        "probes: doors.map((door) => ({ ...door, within: 10 }))",
        'probes: [{ name: "Apache answers", kind: "http", url: "http://127.0.0.1/none", status: [200], within: 3 }]',
      ],
    ],
    message: /web1: probe Apache answers failed for 3 s: status 40[34], expected \[200\]/,
  },
];

/** A mistake as changes of files. */
export const editsOf = ({ edits }: Pick<Mistake, "edits">): Edit[] =>
  edits.map(([file, from, to]) => [file, (text) => text.replace(from, () => to)]);

/** Live generation of a machine, and whether its last change is settled and its requests are taken. */
export const state = async (name: string): Promise<string> =>
  (
    await on(
      name,
      "readlink /var/lib/fleet/current; test -e /var/lib/fleet/unsettled && echo unsettled; test -e /run/fleet/drain && echo drained; true",
    )
  ).trim();

/** Watches over one long connection which generation is live: a mistake may refuse new ones. */
async function watchGeneration(name: string): Promise<{ stop: () => number }> {
  const before = (await on(name, "readlink /var/lib/fleet/current")).trim();
  const loop = "while sleep 0.2; do echo $(cut -d' ' -f1 /proc/uptime) $(readlink /var/lib/fleet/current); done";
  const child = spawn("ssh", [...sshWords((await machine(name)).Address), loop], { stdio: ["ignore", "pipe", "ignore"] });
  let said = "";
  child.stdout.on("data", (data: Buffer) => (said += data.toString()));
  return {
    /** Seconds that another generation than the first was live, at most; 0 where none ever was. */
    stop: () => {
      child.kill();
      const looks = said
        .split("\n")
        .map((line) => line.split(" "))
        .filter((words) => words.length === 2);
      const others = looks.flatMap(([, generation], n) => (generation === before ? [] : [n]));
      if (looks.length < 5 || others[0] === 0) throw new Error(`${name} was looked at ${looks.length} times, first at ${looks[0]?.[1]}`);
      const at = (n: number): number => Number(looks[Math.min(n, looks.length - 1)]?.[0]);
      return others.length === 0 ? 0 : at(Math.max(...others) + 1) - at(Math.min(...others) - 1);
    },
  };
}

const table: string[] = [];
/** One row of the table of mistakes. */
export function note(what: string, seen: Seen, away: string): void {
  table.push(`${what.padEnd(38)} ${String(seen.failed).padStart(4)}/${String(seen.sent).padEnd(6)} ${away}`);
}
export const printTable = (): void =>
  void process.stdout.write(`\nmistake                                failed/sent  new generation was live\n${table.join("\n")}\n`);

/** Rolls a mistake out under load; it must be refused or taken back, named, and cost no request. */
export async function rollOutMistake(mistake: Mistake): Promise<void> {
  // Nor may it reach the next VM of the tier.
  const tier = (await machines()).map((m) => m.Name).filter((name) => name.replace(/\d+$/, "") === mistake.host.replace(/\d+$/, ""));
  const states = (): Promise<string[]> => Promise.all(tier.map(state));
  const before = await states();
  const copy = await checkoutWith(...editsOf(mistake));
  const probe = startProbe(mixed, 10);
  const watch = await watchGeneration(mistake.host);
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], copy);
  const seconds = watch.stop();
  const after = await states();
  const seen = await probe.stop();
  note(mistake.what, seen, seconds === 0 ? "never" : `${seconds.toFixed(0)} s`);
  expect(code, out + err).not.toBe(0);
  expect(out + err).toMatch(mistake.message);
  expect(after).toEqual(before);
  expect(seconds).toBeLessThanOrEqual(60);
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
}
