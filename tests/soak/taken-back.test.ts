import { spawn } from "child_process";
import { afterAll, describe, expect, it } from "vitest";
import { configFile, pulumiEnvironment } from "../../lab/fleet";
import { changedCheckout, mixed, pulumi, root, run, startProbe, until } from "../lab/lab";
import { inApache, note, printTable, rollOutMistake, sshd, state, type Mistake } from "../lab/mistakes";

const takenBack = /web1: the change was taken back by this machine itself/;

const mistakes: readonly Mistake[] = [
  {
    // Found by apply, or by the gate where the responder still answered with its look of before the switch.
    what: "wrong virtual address",
    host: "web1",
    edits: [["templates/system/fleet-vip.service.mustache", "address replace {{.}}/32", "address replace 192.0.2.9/32"]],
    message:
      /web1: probe health responder says healthy failed(?: for \d+ s)?: virtual address 10\.\d+\.0\.100: \S+ is not an address of this machine/,
  },
  {
    what: "HTTPS that nobody listens for",
    host: "web1",
    edits: [["templates/apache/listen.conf.mustache", "Listen 443", "Listen 127.0.0.1:443"]],
    message: /web1: probe (https at the VIP|health responder says healthy) failed[^]*refused/,
  },
  { what: "sshd that lets nobody in", host: "web1", edits: sshd("AllowUsers nobody"), message: takenBack },
  {
    what: "network policy that cuts SSH",
    host: "web1",
    edits: inApache(
      '{ path: "/etc/systemd/system/ssh.service.d/fleet.conf", text: "[Service]\\nIPAddressDeny=any\\n" }',
      '{ name: "ssh.service", restart: ["/etc/systemd/system/ssh.service.d/"] }',
    ),
    // converge came over SSH, so the policy holds for its own probes too.
    message: /web1: probe .* failed/,
  },
  {
    what: "service that starts and then dies",
    host: "web1",
    edits: [["templates/apache/fleet-apache.service.mustache", "Restart=always\n", "Restart=no\nRuntimeMaxSec=3\n"]],
    message: /web1: probe .* failed/,
  },
  {
    what: "NFS that hangs",
    host: "web1",
    edits: [["components/apache-tier.ts", "mountPart(args.nas,", 'mountPart({ ...args.nas, address: "10.77.0.99" } as typeof args.nas,']],
    message: /web1: .*srv-sites.mount failed/,
  },
];

describe("a mistake that no check can find is taken back by the machine itself, is named, and costs no request", () => {
  afterAll(printTable);

  it.each(mistakes.map((mistake) => [mistake.what, mistake] as const))("%s", async (_, mistake) => {
    await rollOutMistake(mistake);
  });

  it("a controller that dies after the switch", async () => {
    const before = await state("web1");
    const copy = await changedCheckout("templates/apache/vhost.conf.mustache", (text) => `${text}# newer\n`);
    const probe = startProbe(mixed, 10);
    const words = ["up", "--yes", "--skip-preview", "--stack", "lab", "--config-file", configFile];
    const child = spawn("pulumi", words, { cwd: copy, env: { ...process.env, ...pulumiEnvironment() }, detached: true, stdio: "ignore" });
    await until(async () => (await state("web1")).endsWith("unsettled"), 120, "web1 has switched");
    process.kill(-(child.pid ?? 0), "SIGKILL");
    const begun = Date.now();
    await until(async () => (await state("web1")) === before, 90, "web1 went back by itself");
    const seconds = (Date.now() - begun) / 1000;
    const seen = await probe.stop();
    note("controller dies after the switch", seen, `${seconds.toFixed(0)} s`);
    expect(seconds).toBeLessThanOrEqual(60);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
  });

  it("and afterwards the committed program goes through without any unlocking", async () => {
    const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
    expect(code, out + err).toBe(0);
    expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
  });
});
