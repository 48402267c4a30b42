import { afterAll, beforeAll, expect, it } from "vitest";
import { machines } from "../../lab/vcenter";
import { changedConfig, mixed, pulumi, startProbe } from "../lab/lab";

const renewed = ["lb1", "lb2", "web1", "web2", "php1", "php2"];
const kept = ["nas1", "build1"];

/** Identity of every machine: a renewed VM is another one. */
const identities = async (): Promise<Record<string, string>> => Object.fromEntries((await machines()).map((m) => [m.Name, m.ID]));

let before: Record<string, string> = {};
beforeAll(async () => {
  before = await identities();
});
afterAll(async () => {
  expect((await pulumi(["up", "--yes", "--skip-preview"])).code).toBe(0);
});

it("a new template renews every VM but those that hold data, one of a tier at a time, and no request is lost", async () => {
  const config = changedConfig((text) => text.replace("bookworm: debian-12\n", "bookworm: debian-12-newer\n"));
  const preview = await pulumi(["preview"], undefined, config);
  for (const name of renewed) expect(preview.out).toContain(`${name}: drained, deleted, and born again as bookworm from debian-12-newer`);
  for (const name of kept) expect(preview.out).not.toContain(`${name}: drained`);
  const probe = startProbe(mixed, 10);
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
  const seen = await probe.stop();
  process.stdout.write(`\nrenewal: ${JSON.stringify(seen.kinds)}, ${seen.resent} sent again, ${JSON.stringify(seen.failures)}\n`);
  expect(code, out + err).toBe(0);
  const after = await identities();
  for (const name of renewed) expect(after[name], name).not.toBe(before[name]);
  for (const name of kept) expect(after[name], name).toBe(before[name]);
  expect((await pulumi(["preview", "--expect-no-changes"], undefined, config)).code).toBe(0);
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
});
