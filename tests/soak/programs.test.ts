import { expect, it } from "vitest";
import { changedCheckout, on, pulumi, startProbe } from "../lab/lab";

it("new versions of the programs on the machines, the health responder's too, cost no request", async () => {
  const newer = await changedCheckout("host/probes.py", (text) => `${text}\n# newer\n`);
  const probe = startProbe();
  const there = await pulumi(["up", "--yes", "--skip-preview"], newer);
  const back = await pulumi(["up", "--yes", "--skip-preview"]);
  const seen = await probe.stop();
  expect(there.code, there.out + there.err).toBe(0);
  expect(there.out).toMatch(/nas-base-nas1 updated/);
  expect(there.out).toMatch(/nas-config-nas1 updated/);
  expect(back.code, back.out + back.err).toBe(0);
  expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
  expect(await on("nas1", "systemctl is-active nfs-server.service")).toBe("active\n");
});
