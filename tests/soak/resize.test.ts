import { spawn, type ChildProcess } from "child_process";
import { describe, expect, it } from "vitest";
import { projectDirectory, pulumiEnvironment } from "../../lab/fleet";
import { changedConfig, machine, mixed, on, pulumi, root, run, startProbe, until } from "../lab/lab";

const tiers = { apache: ["web1", "web2"], php: ["php1", "php2"] };
/** The committed sizes, and those that the test changes to: memory up for one tier and down for the other, vCPU up. */
const sizes = {
  committed: { apache: 384, php: 768, vcpu: 1 },
  changed: { apache: 448, php: 704, vcpu: 2 },
};

/** The stack with the changed sizes. */
const changed = (): string =>
  changedConfig((text) =>
    text
      .replace(`memory: ${sizes.committed.apache} MB`, `memory: ${sizes.changed.apache} MB`)
      .replace(`vcpu: 1\n        memory: ${sizes.committed.php} MB`, `vcpu: 2\n        memory: ${sizes.changed.php} MB`)
      .replace(`memory: ${sizes.committed.php} MB`, `memory: ${sizes.changed.php} MB`),
  );

/** `pulumi up` to the changed sizes, as a process group of its own. */
function startResize(): ChildProcess {
  const words = ["up", "--yes", "--skip-preview", "--stack", "lab", "--config-file", changed()];
  const env = { ...process.env, ...pulumiEnvironment() };
  return spawn("pulumi", words, { cwd: projectDirectory, env, detached: true, stdio: "ignore" });
}

/** Memory of the guest as its kernel counts it, which keeps some for itself. */
const guestMemory = async (name: string): Promise<number> =>
  Number(/MemTotal:\s+(\d+)/.exec(await on(name, "cat /proc/meminfo"))?.[1]) / 1024;

describe("a change of size rolls through running tiers, one VM at a time", () => {
  it.each([
    ["to other sizes", "changed" as const],
    ["and back", "committed" as const],
  ])("%s, and no request is lost", async (_, which) => {
    const config = which === "changed" ? changed() : undefined;
    const preview = await pulumi(["preview"], undefined, config);
    expect(preview.out).toContain(`web1: drained, powered off for 1 vCPU and ${sizes[which].apache} MB, and started again`);
    const probe = startProbe(mixed, 10);
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], undefined, config);
    const seen = await probe.stop();
    process.stdout.write(`\nresize ${which}: ${JSON.stringify(seen.kinds)}, ${seen.resent} sent again, ${JSON.stringify(seen.failures)}\n`);
    expect(code, out + err).toBe(0);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
    // What vCenter says of vCPU and memory; a guest of the lab has one CPU whatever vCenter gives it.
    const compared = await pulumi(["preview", "--refresh", "--expect-no-changes"], undefined, config);
    expect(compared.code, compared.out + compared.err).toBe(0);
    for (const [tier, names] of Object.entries(tiers)) {
      const wanted = sizes[which][tier as keyof typeof tiers];
      for (const name of names) {
        expect((await machine(name)).MemoryMB, name).toBe(wanted);
        expect(await guestMemory(name), name).toBeGreaterThan(wanted * 0.85);
        expect(await guestMemory(name), name).toBeLessThanOrEqual(wanted);
        expect(
          await on(name, "test -e /run/fleet/drain && echo drained; test -e /var/lib/fleet/unsettled && echo unsettled; true"),
          name,
        ).toBe("");
      }
    }
  });

  it("SIGINT while a VM has left for it: it comes back by itself, and the next `up` goes through", async () => {
    const child = startResize();
    const ended = new Promise((resolve) => child.on("close", resolve));
    const drained = async (): Promise<boolean> => (await on("web1", "test -e /run/fleet/drain && echo drained; true")) !== "";
    await until(drained, 120, "web1 leaves its services");
    process.kill(-(child.pid ?? 0), "SIGINT");
    await ended;
    await until(async () => !(await drained().catch(() => true)), 240, "web1 takes requests again");
    const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
    expect(code, out + err).toBe(0);
  });

  it("one that was killed before its gate, and is taken back in the stack, is gated all the same", async () => {
    const child = startResize();
    const reborn = async (): Promise<boolean> => {
      const { MemoryMB, State } = await machine("web1");
      return MemoryMB === sizes.changed.apache && State === "on";
    };
    await until(reborn, 300, "web1 runs with its other size");
    process.kill(-(child.pid ?? 0), "SIGKILL");
    const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
    expect(code, out + err).toBe(0);
    expect(out + err).toMatch(/fleet: update apache-gate-web1 /);
    expect((await machine("web1")).MemoryMB).toBe(sizes.committed.apache);
  });
});
