import { spawn, type ChildProcess } from "child_process";
import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { annex } from "../../lab/settings";
import { curl, on, pulumi, sshWords, until } from "../lab/lab";
import { clear, phpexec, place, put, siteFile, withSites } from "./scripts";

const port = 2525;
const page = "/srv/sites/status/htdocs/mail.php";
const script = `<?php
$sent = mail('reader@university.example', 'Subject of ' . PHP_SAPI, 'GREETING is ' . getenv('GREETING'), 'From: Wiki <wiki@university.example>', '-f neighbour@lab.test');
exit($sent ? 0 : 1);
`;

interface Message {
  readonly from: string;
  readonly to: readonly string[];
  readonly text: string;
}
let received: Message[] = [];
let sink: ChildProcess;

beforeAll(async () => {
  // On the annex, which sites may reach anyway: the lab's kernel takes no more addresses than it has.
  const command = `sudo systemd-run --quiet --collect --pipe --unit=mail-sink python3 -u - 0.0.0.0 ${port}`;
  sink = spawn("ssh", [...sshWords(annex.address), command]);
  sink.stdin?.end(fs.readFileSync(path.join(__dirname, "mail-sink.py")));
  sink.stdout?.on("data", (data: Buffer) => {
    for (const line of data.toString().trim().split("\n")) received.push(JSON.parse(line) as Message);
  });
  const status = siteFile("status") as { php: object };
  const site = { ...status, php: { ...status.php, environment: { GREETING: "good day, lab" }, cpuWeight: 50 } };
  const mail = { relay: annex.address, port, domain: "lab.test" };
  const config = withSites({ status: site }, (keys) => Object.assign(keys, { "fleet:mail": mail }));
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
  expect(code, out + err).toBe(0);
});
afterAll(async () => {
  await on("annex", "sudo systemctl stop mail-sink");
  sink.kill();
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  await clear("status");
  await on("php1", `sudo -u fleet-site-status rm -f ${page}`);
  expect(code, out + err).toBe(0);
});

/** The one message that came since `received` was emptied. */
async function message(): Promise<Message> {
  await until(() => Promise.resolve(received.length > 0), 20, "the relay has a message");
  const [first] = received;
  received = [];
  return first as Message;
}

it("mail of a script leaves with the site's own sender, whatever -f it gives, and the site's environment is there", async () => {
  await put("status", "mail.php", script);
  const { code, err } = await phpexec(["status", `${place}/mail.php`]);
  expect(code, err).toBe(0);
  const { from, to, text } = await message();
  expect([from, to]).toEqual(["status@lab.test", ["reader@university.example"]]);
  expect(text).toContain("From: Wiki <wiki@university.example>");
  expect(text).toContain("GREETING is good day, lab");
});

it("mail of a page leaves so too", async () => {
  await on("php1", `echo ${Buffer.from(script).toString("base64")} | base64 -d | sudo -u fleet-site-status tee ${page}`);
  expect((await curl("http://status.lab.test/mail.php", "-o", "/dev/null", "-w", "%{http_code}")).out).toBe("200");
  const { from, text } = await message();
  expect(from).toBe("status@lab.test");
  expect(text).toContain("Subject: Subject of fpm-fcgi");
  expect(text).toContain("GREETING is good day, lab");
});

it("a busy VM's CPUs are shared by the site's weight", async () => {
  expect(await on("php1", "systemctl show -P CPUWeight fleet-site-status.service fleet-site-wiki.service")).toBe("50\n\n100\n");
});
