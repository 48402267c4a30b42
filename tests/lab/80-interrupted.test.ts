import { spawn, type ChildProcess } from "child_process";
import { fileURLToPath } from "url";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { removeStaleLocks } from "../../cli/locks";
import { configFile, pulumiEnvironment } from "../../lab/fleet";
import { order } from "../../lab/vcenter";
import { changedCheckout, edit, on, pulumi, ready, root, run, sleep, until } from "./lab";
import { state } from "./mistakes";

const servers = ["web1", "web2", "php1", "php2"];

/** A rollout that drains the Apache VMs and restarts sites, as a process group of its own: what a terminal interrupts. */
async function startUp(): Promise<{ copy: string; child: ChildProcess; ended: Promise<number | null> }> {
  const copy = await changedCheckout("templates/apache/fleet-apache.service.mustache", (text) => `${text}# newer ${Date.now()}\n`);
  edit(copy, "templates/php/fpm.conf.mustache", (text) => `${text}; newer ${Date.now()}\n`);
  const words = ["up", "--yes", "--skip-preview", "--stack", "lab", "--config-file", configFile, "--non-interactive"];
  const child = spawn("pulumi", words, { cwd: copy, env: { ...process.env, ...pulumiEnvironment() }, detached: true, stdio: "ignore" });
  return { copy, child, ended: new Promise((resolve) => child.on("close", resolve)) };
}

/** Every file of the live generation is what it was when it was written, every path in /etc leads to it, and its units run, no others. */
async function whole(name: string): Promise<void> {
  const said = await on(name, "sudo /usr/bin/python3 -IB /usr/local/lib/fleet/converge.py drift || true");
  const { findings } = JSON.parse(said) as { findings: { kind: string; what: string; name: string }[] };
  expect(
    findings.filter(({ kind }) => kind === "file" || kind === "unit"),
    name,
  ).toEqual([]);
}

/** Its change is settled, or proved and waits for the others of its tier, and it takes requests. */
async function settled(name: string): Promise<boolean> {
  const open = await on(name, "sudo cat /var/lib/fleet/unsettled 2>/dev/null; test -e /run/fleet/drain && echo drained; true");
  return open === "" || (!open.includes("drained") && open.includes('"held": true'));
}

const generation = async (name: string): Promise<string> => (await state(name)).split("\n")[0] ?? "";

describe("whatever ends a rollout, every VM is old or new as a whole, in service, and the next `up` goes through", () => {
  const before: Record<string, string> = {};
  const remember = async (): Promise<void> => {
    for (const name of servers) before[name] = await generation(name);
  };
  const back = async (): Promise<void> => {
    for (const name of servers) {
      await until(() => settled(name), 100, `${name} is settled, or proved, and takes requests`);
      await whole(name);
    }
  };
  afterEach(async () => {
    const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
    expect(code, out + err).toBe(0);
    for (const name of servers) expect(await generation(name), name).toBe(before[name]);
  });
  afterAll(async () => {
    expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
  });

  it("SIGINT while a VM is drained", async () => {
    await remember();
    const { child, ended } = await startUp();
    await until(async () => (await state("web1")).includes("drained"), 120, "web1 is drained");
    process.kill(-(child.pid ?? 0), "SIGINT");
    expect(await ended).not.toBe(0);
    await back();
  });

  it("SIGKILL of pulumi and all its plugins after a switch", async () => {
    await remember();
    const { child, ended } = await startUp();
    await until(
      async () => (await state("web1")).includes("unsettled") && (await generation("web1")) !== before["web1"],
      120,
      "web1 switched",
    );
    process.kill(-(child.pid ?? 0), "SIGKILL");
    await ended;
    await back();
  });

  it("SIGKILL while a VM is gated: it goes back by itself, and the next `up` of the same change goes through", async () => {
    await remember();
    const { copy, child, ended } = await startUp();
    const gated = async (): Promise<boolean> => (await on("web1", "pgrep -f 'converge.py gat[e]' || true")) !== "";
    await until(gated, 120, "web1 is gated");
    process.kill(-(child.pid ?? 0), "SIGKILL");
    // The gate runs on the VM, and would settle the change without anybody to hear of it.
    await on("web1", "sudo pkill -KILL -f 'converge.py gat[e]' || true");
    await ended;
    await until(async () => (await state("web1")) === before["web1"], 100, "web1 went back by itself");
    removeStaleLocks(fileURLToPath(pulumiEnvironment()["PULUMI_BACKEND_URL"] ?? "")); // as `npm run pulumi` does
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], copy);
    expect(code, out + err).toBe(0);
    expect(await generation("web1")).not.toBe(before["web1"]);
    await back();
  });

  it("a power cut of the VM in mid-change", async () => {
    await remember();
    const { ended } = await startUp();
    await until(async () => (await state("web1")).includes("unsettled"), 120, "web1 is being changed");
    await order("web1", "kill");
    await sleep(2);
    await order("web1", "start");
    await ready("web1");
    await ended;
    await back();
  });
});
