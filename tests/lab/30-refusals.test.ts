import { afterAll, describe, expect, it } from "vitest";
import { on, pulumi, status } from "./lab";
import { inApache, printTable, rollOutMistake, sshd, type Mistake } from "./mistakes";

const apache = "templates/apache/apache.ts";

const mistakes: readonly Mistake[] = [
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
      [apache, "    checks: [", '    checks: [{ name: "sshd -t", argv: ["/usr/sbin/sshd", "-t"] }, '],
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
        apache,
        "probes: doors.map((door) => ({ ...door, within: 10 }))",
        'probes: [{ name: "Apache answers", kind: "http", url: "http://127.0.0.1/none", status: [200], within: 3 }]',
      ],
    ],
    message: /web1: probe Apache answers failed for 3 s: status 40[34], expected \[200\]/,
  },
];

const fill =
  "n=0; for size in 1G 100M 10M 1M 64K 4K; do while fallocate -l $size /var/filler.$n 2>/dev/null; do n=$((n+1)); done; n=$((n+1)); done";

describe("a mistake fails `pulumi up`, names VM and check, costs no request, and the old generation serves on", () => {
  afterAll(printTable);

  it.each(mistakes.map((mistake) => [mistake.what, mistake] as const))("%s", async (_, mistake) => {
    await rollOutMistake(mistake);
  });

  it("disk full", async () => {
    await on("web1", `sudo sh -c '${fill}'`);
    try {
      const what = { what: "disk full", host: "web1", message: /web1: .*No space left on device/ };
      await rollOutMistake({ ...what, edits: [["templates/apache/vhost.conf.mustache", "# Managed", "# Still managed"]] });
    } finally {
      await on("web1", "sudo sh -c 'rm -f /var/filler.*'");
    }
  });

  it("the right program still goes through afterwards, without any unlocking", async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
    expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
    expect((await status()).php).toBe("8.2.32");
  });
});
