import { spawn } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { root, run, sleep, type Outcome } from "../lab/lab";

/** With FLEET_COLD=1 what is built once is built in this test too: tools, kernel, image. */
const cache = process.env["FLEET_COLD"] ? fs.mkdtempSync(path.join(os.tmpdir(), "fleet-cold-")) : undefined;
/** A lab of its own, beside the one of the other tests; it begins with nothing. */
const own = { FLEET_LAB_NUMBER: "9" };
const env: Record<string, string> = { ...own, ...(cache && { FLEET_CACHE: cache, GOCACHE: path.join(cache, "go-build") }) };
const lab = (...words: string[]): Promise<Outcome> => run("bash", ["lab/lab", ...words], env);
/** With the tools of the other lab: an empty cache would be filled first. */
const destroyed = (): Promise<Outcome> => run("bash", ["lab/lab", "destroy"], own);

/** Seconds that each run is given; a run takes up where the one before was ended. FLEET_MOMENTS overrides them. */
const moments =
  process.env["FLEET_MOMENTS"]?.split(",").map(Number) ?? Array.from({ length: 12 }, (_, i) => (i + 1) * (cache ? 20 : 6) * Math.random());

/** Starts the lab and sends a signal to all that was started with it, unless it has ended before; whether it was sent. */
async function interrupted(after: number, signal: NodeJS.Signals): Promise<boolean> {
  const child = spawn("bash", ["lab/lab", "up"], {
    cwd: root,
    env: { ...process.env, ...env },
    detached: true,
    stdio: ["ignore", "inherit", "inherit"],
  });
  const ended = new Promise((resolve) => child.on("close", resolve));
  const pid = child.pid ?? 0;
  await Promise.race([ended, sleep(after)]);
  const cut = child.exitCode === null;
  if (cut) process.kill(-pid, signal);
  await ended;
  return cut;
}

beforeAll(async () => void (await destroyed()));
afterAll(async () => {
  await destroyed();
  if (cache) fs.rmSync(cache, { recursive: true, force: true });
});

it("a lab that was interrupted again and again gets there, and is whole", async () => {
  let cuts = 0;
  for (const [number, after] of moments.entries()) {
    const signal = number % 3 === 2 ? "SIGINT" : "SIGKILL";
    process.stdout.write(`\n--- run ${number + 1}: ${signal} after ${after.toFixed(1)} s\n`);
    if (await interrupted(after, signal)) cuts++;
  }
  expect(cuts).toBeGreaterThan(moments.length / 2);
  process.stdout.write("\n--- and now to the end\n");
  const { code, out, err } = await lab("up");
  expect(code, out + err).toBe(0);
  const preview = await lab("pulumi", "preview", "--expect-no-changes");
  expect(preview.code, preview.out + preview.err).toBe(0);
  const page = await run("ip", ["netns", "exec", "fleet-lab9", "curl", "-s", "-H", "Host: status.lab.test", "http://10.86.0.100/"]);
  expect(page.out).toContain('"php":"8.2.32"');
});
