import { afterAll, expect, it } from "vitest";
import { checkoutWith, pulumi, startProbe, type Seen } from "../lab/lab";
import { changes, kinds, printRows, row, type Kind } from "../lab/rollouts";

/** Rollouts to make and requests to send at least; FLEET_ROLLOUTS overrides the number of rollouts. */
const rollouts = Number(process.env["FLEET_ROLLOUTS"] ?? 100);
const requests = rollouts * 1000;
/** About 42 requests a second. */
const load = ["get=0.05", "keep=0.05", "post=0.5"];

/** One to three kinds of change. */
function some(): Kind[] {
  const shuffled = kinds.map((kind) => [Math.random(), kind] as const).sort(([a], [b]) => a - b);
  return shuffled.slice(0, 1 + Math.floor(Math.random() * 3)).map(([, kind]) => kind);
}

afterAll(async () => {
  printRows();
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  expect(code, out + err).toBe(0);
});

it(`${rollouts} mixed rollouts and ${requests} requests, and none of them fails`, async () => {
  const probe = startProbe(load, 10);
  const begun = Date.now();
  const count: Record<string, number> = {};
  let seen: Seen;
  try {
    for (let n = 1; n <= rollouts || Date.now() - begun < (requests / 42) * 1000; n++) {
      const chosen = some();
      const copy = await checkoutWith(...chosen.map((kind) => [changes(n)[kind].file, changes(n)[kind].edit] as const));
      const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], copy);
      for (const kind of chosen) count[kind] = (count[kind] ?? 0) + 1;
      process.stdout.write(`${n} after ${((Date.now() - begun) / 1000).toFixed(0)} s: ${chosen.join(", ")}: exit ${code}\n`);
      expect(code, out + err).toBe(0);
    }
  } finally {
    // What the requests met is told however the rollouts ended.
    seen = await probe.stop();
    const kindsDone = Object.entries(count).map(([kind, n]) => `${kind} ${n}`);
    row(kindsDone.join(", "), seen);
  }
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
  expect(seen.sent).toBeGreaterThanOrEqual(requests);
});
