import { pulumi, startProbe, type Edit, type Seen } from "./lab";

/** A kind of change: the file that a colleague edits, how, and what the plan must say of it. */
export interface Change {
  readonly file: string;
  readonly edit: (text: string) => string;
  readonly consequence: RegExp;
}

const append =
  (line: string) =>
  (text: string): string =>
    `${text}${line}\n`;

/** Every kind of change but a PHP build, each different from the one before by its number. */
export const changes = (n = 0) =>
  ({
    vhost: {
      file: "templates/apache/vhost.conf.mustache",
      edit: append(`# newer ${n}`),
      consequence: /web1: changed \S*blog.conf.*; reload fleet-apache.service/,
    },
    "php.ini": {
      file: "templates/php/php.ini.mustache",
      edit: append(`; newer ${n}`),
      consequence: /php1: changed .*php.ini.*; restart fleet-site-blog.service/,
    },
    keepalived: {
      file: "templates/lvs/keepalived.conf.mustache",
      edit: append(`# newer ${n}`),
      consequence: /lb1: changed \S+; reload fleet-keepalived.service/,
    },
    pool: {
      file: "templates/php/fpm.conf.mustache",
      edit: append(`; newer ${n}`),
      consequence: /php1: changed .*fpm.conf.*; restart fleet-site-blog.service/,
    },
    "Apache's unit": {
      file: "templates/apache/fleet-apache.service.mustache",
      edit: append(`# newer ${n}`),
      consequence: /web1: changed .*; restart fleet-apache.service, drained/,
    },
    "a site's unit": {
      file: "templates/php/site.service.mustache",
      edit: append(`# newer ${n}`),
      consequence: /php1: changed .*; restart fleet-site-blog.service/,
    },
    "a site's socket": {
      file: "templates/php/site.socket.mustache",
      edit: append(`# newer ${n}`),
      consequence: /php1: changed .*; restart fleet-site-blog.socket, drained/,
    },
    "kernel parameters": {
      file: "templates/system/vip.ts",
      edit: (text: string) =>
        text.replace(/"net\.ipv4\.conf\.all\.arp_ignore": 1,/, (found) => `${found}\n    "net.core.somaxconn": ${4000 + n},`),
      consequence: /web1: changed .*60-fleet.conf.*; run kernel parameters/,
    },
  }) satisfies Record<string, Change>;
export type Kind = keyof ReturnType<typeof changes>;
export const kinds = Object.keys(changes()) as Kind[];

/** converge itself would drain for a unit that was fragile before the change, whatever the new bundle says. */
export const undrained: Edit = [
  "host/plan.py",
  (text) => text.replace("return [name for name, action in plan.items() if action in", "return [name for name, action in () if action in"),
];

/** A change of the site's own files starts its socket anew, not its service alone. */
export const closesSocket: Edit = [
  "templates/php/fpm.ts",
  (text) => text.replace("restart: [`${unitDirectory}/${unit}.socket`]", () => "restart: [`${directory}/`]"),
];

const rows: string[] = [];
export const row = (what: string, seen: Seen): void => {
  const each = Object.entries(seen.kinds).map(([kind, k]) => `${kind} ${k.failed}/${k.sent} p99 ${k.p99.toFixed(2)} s`);
  rows.push(`${what.padEnd(44)} ${each.join("  ")}  ${seen.resent} sent again  ${JSON.stringify(seen.errors)}`);
};
export const printRows = (): void =>
  void process.stdout.write(`\nrollout under load                           failed/sent\n${rows.join("\n")}\n`);

/** One rollout with a client running; what `up` said, and what the client saw. */
export async function rollOut(
  what: string,
  load: readonly string[],
  ...how: [copy?: string | undefined, config?: string]
): Promise<{ seen: Seen; said: string; code: number }> {
  const probe = startProbe(load, 10);
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], ...how);
  const seen = await probe.stop();
  row(what, seen);
  return { seen, code, said: out + err };
}
