import { afterAll, expect, it } from "vitest";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { curl, mixed, on, pulumi, startProbe, type Seen, type Status } from "../lab/lab";

/** Lines of redis-cli as the server's administrator; the password is on standard input alone. */
const ask = (command: string): Promise<string> =>
  on("annex", `sudo awk '$1 == "requirepass" { print "AUTH", $2; print "${command}" }' /etc/redis/annex.conf | redis-cli`);

/** Passwords of the status site's user, as digests. */
const passwords = async (): Promise<string[]> => {
  const line = (await ask("ACL LIST")).split("\n").find((text) => text.includes("user fleet:lab:status "));
  return line?.match(/#[0-9a-f]{64}/g) ?? [];
};

const jar = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "fleet-jar-")), "cookies");

/** Whether the site remembers a visitor from one request to the next. */
async function remembers(): Promise<boolean> {
  fs.rmSync(jar, { force: true });
  const visits: number[] = [];
  for (let i = 0; i < 2; i++) {
    const { out } = await curl("http://status.lab.test/", "-b", jar, "-c", jar);
    visits.push((JSON.parse(out) as Status).visits);
  }
  return visits[1] === 2;
}

/** An `up` while visitors come who have sessions. */
async function under(...words: string[]): Promise<Seen> {
  const probe = startProbe(mixed, 10);
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview", ...words]);
  const seen = await probe.stop();
  expect(code, out + err).toBe(0);
  return seen;
}

afterAll(async () => {
  expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
});

it("new passwords are in use, the old ones are gone, and no request is lost", async () => {
  const before = await passwords();
  expect(before).toHaveLength(1);
  const seen = await under("--replace", "**redis-passwords");
  process.stdout.write(`\nnew passwords: ${JSON.stringify(seen.kinds)}, ${JSON.stringify(seen.failures)}\n`);
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
  const after = await passwords();
  expect(after).toHaveLength(1);
  expect(after).not.toEqual(before);
  expect(await remembers()).toBe(true);
});

it("Redis comes back from a restart with the sites' users", async () => {
  const before = await passwords();
  await on("annex", "sudo systemctl restart redis-server");
  expect(await passwords()).toEqual(before);
  expect(await remembers()).toBe(true);
});

it("users that the server has lost are made again by a replacement, and by nothing else", async () => {
  const before = await passwords();
  await ask("ACL DELUSER fleet:lab:status");
  await under();
  expect(await remembers()).toBe(false);
  await under("--replace", "**redis-users-made");
  expect(await passwords()).toEqual(before);
  expect(await remembers()).toBe(true);
});
