import { spawn } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { root, run, sleep, type Outcome } from "../lab/lab";

/** With FLEET_COLD=1 what is built once is built in this test too: tools, kernel, image. */
const cache = process.env["FLEET_COLD"] ? fs.mkdtempSync(path.join(os.tmpdir(), "fleet-cold-")) : undefined;
/** A lab of its own, beside the one of the other tests; it begins with nothing. */
const env: Record<string, string> = { FLEET_LAB_NUMBER: "9", ...(cache && { FLEET_CACHE: cache }) };
const lab = (...words: string[]): Promise<Outcome> => run("bash", ["lab/lab", ...words], env);

/** Seconds that each run is given; a run takes up where the one before was ended. FLEET_MOMENTS overrides them. */
const moments =
  process.env["FLEET_MOMENTS"]?.split(",").map(Number) ?? Array.from({ length: 12 }, (_, i) => (i + 1) * (cache ? 20 : 6) * Math.random());

/** Starts the lab and sends a signal to all that was started with it, unless it is up before. */
async function interrupted(after: number, signal: NodeJS.Signals): Promise<void> {
  const child = spawn("bash", ["lab/lab", "up"], {
    cwd: root,
    env: { ...process.env, ...env },
    detached: true,
    stdio: ["ignore", "inherit", "inherit"],
  });
  const ended = new Promise((resolve) => child.on("close", resolve));
  const pid = child.pid ?? 0;
  await Promise.race([ended, sleep(after)]);
  if (child.exitCode === null) process.kill(-pid, signal);
  await ended;
}

beforeAll(async () => void (await lab("destroy")));
afterAll(async () => {
  await lab("destroy");
  if (cache) fs.rmSync(cache, { recursive: true, force: true });
});

it("a lab that was interrupted again and again gets there, and is whole", async () => {
  for (const [number, after] of moments.entries()) {
    const signal = number % 3 === 2 ? "SIGINT" : "SIGKILL";
    process.stdout.write(`\n--- run ${number + 1}: ${signal} after ${after.toFixed(1)} s\n`);
    await interrupted(after, signal);
  }
  process.stdout.write("\n--- and now to the end\n");
  const { code, out, err } = await lab("up");
  expect(code, out + err).toBe(0);
  const preview = await lab("pulumi", "preview", "--expect-no-changes");
  expect(preview.code, preview.out + preview.err).toBe(0);
  const page = await run("ip", ["netns", "exec", "fleet-lab9", "curl", "-s", "-H", "Host: status.lab.test", "http://10.86.0.100/"]);
  expect(page.out).toContain('"php":"8.2.32"');
});
