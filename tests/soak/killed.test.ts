import { spawn } from "child_process";
import { createHash } from "crypto";
import { expect, it } from "vitest";
import { on, machine, pulumi, run, root, sleep, sshWords } from "../lab/lab";

/** Times that converge is killed; FLEET_KILLS overrides it. */
const kills = Number(process.env["FLEET_KILLS"] ?? 50);
/** Seconds that one change takes with its gate. */
const change = 10;
const converge = "sudo /usr/bin/python3 -IB /usr/local/lib/fleet/converge.py";

/** Runs a verb of converge on web1 with a text on standard input. */
async function send(verb: string, text: string): Promise<{ code: number | null; said: string }> {
  const child = spawn("ssh", [...sshWords((await machine("web1")).Address), `${converge} ${verb}`], { stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data: Buffer) => (said += data.toString()));
  child.stdin.on("error", () => undefined);
  child.stdin.end(text);
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, said })));
}

it(`converge, killed at ${kills} random instants, leaves web1 old or new as a whole, and the next run goes through`, async () => {
  const old = await on("web1", "sudo cat /var/lib/fleet/current/bundle");
  const lines = old.split("\n");
  const at = lines.findIndex((line) => line.startsWith("@file ") && line.includes("/etc/fleet/vhosts/"));
  const head = JSON.parse((lines[at] ?? "").slice(6)) as { lines: number };
  const wanted = [...lines];
  wanted.splice(at, 1, `@file ${JSON.stringify({ ...head, lines: head.lines + 1 })}`, "# newer");
  const generations = [old, wanted.join("\n")].map((text) => ({ text, hash: createHash("sha256").update(text).digest("hex") }));
  const seen: Record<string, number> = {};
  for (let n = 0; n < kills; n++) {
    const target = generations[(n + 1) % 2];
    if (!target) continue;
    const order = JSON.stringify({ generation: target.hash, holdSeconds: 0 });
    const sent = send("apply", target.text).then(() => send("gate", order));
    await sleep(Math.random() * change);
    await on("web1", "sudo pkill -KILL -f 'converge.py (appl[y]|gat[e])' || true");
    await sent;
    const live = (await on("web1", "basename $(readlink /var/lib/fleet/current)")).trim();
    expect(generations.map((g) => g.hash)).toContain(live);
    const { findings } = JSON.parse(await on("web1", `${converge} drift || true`)) as {
      findings: { kind: string; name: string; what: string }[];
    };
    expect(
      findings.filter((f) => f.kind === "file" || (f.kind === "unit" && f.what.includes("not the fleet's"))),
      `after kill ${n}`,
    ).toEqual([]);
    const where = live === target.hash ? "new" : "old";
    seen[where] = (seen[where] ?? 0) + 1;
    const next = await send("apply", target.text);
    expect(next.code, next.said).toBe(0);
    const proved = await send("gate", order);
    expect(proved.code, proved.said).toBe(0);
  }
  process.stdout.write(`${kills} kills: ${JSON.stringify(seen)} right after the kill; every next run went through\n`);
  const { code, out, err } = await run("bash", ["lab/lab", "up"], {}, root);
  expect(code, out + err).toBe(0);
  expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
});
