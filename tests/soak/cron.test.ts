import { afterAll, beforeAll, expect, it } from "vitest";
import { order } from "../../lab/vcenter";
import { on, pulumi, revive, sleep, until } from "../lab/lab";
import { clear, noteRun, place, put, read, runsOf, withCron } from "./scripts";

/** Periods that are looked at, a minute each; FLEET_PERIODS overrides it. */
const periods = Number(process.env["FLEET_PERIODS"] ?? 10);

beforeAll(async () => {
  // A run goes on for most of its minute, so that the VM dies with the lock of one: shortly after its begin, as half of the
  // runs are counted then, and the lease of the lab's NAS ends before the next one.
  await put("status", "runs.php", `${noteRun}sleep(40);\nfile_put_contents(__DIR__ . '/ended', "one\\n", FILE_APPEND | LOCK_EX);\n`);
  const config = withCron({ name: "runs", at: "minutely", script: `${place}/runs.php` });
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
  expect(code, out + err).toBe(0);
});
afterAll(async () => {
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  await clear("status");
  expect(code, out + err).toBe(0);
});

it(`a cron entry runs once in each of ${periods} periods, though the VM that runs it is killed in the middle of a run`, async () => {
  const half = Math.ceil(periods / 2);
  await until(async () => (await runsOf("status")).length >= half, half * 60 + 90, `${half} runs`);
  const killed = (await runsOf("status")).at(-1)?.vm ?? "";
  await order(killed, "kill");
  await until(async () => (await runsOf("status")).length >= periods, (periods - half) * 60 + 90, `${periods} runs`);
  const runs = await runsOf("status");
  process.stdout.write(`\n${killed} killed after run ${half}; runs by ${runs.map(({ vm }) => vm).join(" ")}\n`);
  expect(runs.slice(half).map(({ vm }) => vm)).not.toContain(killed);
  expect(runs.map(({ minute }) => minute)).toEqual(runs.map((_, i) => (runs[0]?.minute ?? 0) + i));
  // What died is not done again: a script that may not be left half done says so to its own next run.
  await sleep(45);
  const ended = (await read("status", "ended")).trim().split("\n").length;
  process.stdout.write(`${(await runsOf("status")).length} runs begun, ${ended} ended\n`);
  expect(ended).toBeGreaterThanOrEqual(periods - 1);
  await revive(killed);
  // Back again, it takes its part, and no period is run twice.
  await sleep(150);
  const all = (await runsOf("status")).map(({ minute }) => minute);
  expect(all).toEqual(all.map((_, i) => (all[0] ?? 0) + i));
  expect(await on(killed, "systemctl is-active fleet-cron-status-runs.timer")).toBe("active\n");
});
