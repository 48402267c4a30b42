import { order } from "../../lab/vcenter";
import { network } from "../../lab/settings";
import { clear, put, served } from "../soak/scripts";
import { ipvs, liveDirector, liveWeights, machine, quantile, run, sleep, startProbe, vip, type Seen } from "./lab";

/** Server of every machine's mount, in its health responder's words when it answers nobody. */
export const silent = "its server answers nobody";

/** What a machine's health responder says. */
export async function ready(name: string): Promise<{ ready: boolean; checks: Record<string, string> }> {
  const { Address } = await machine(name);
  const { out } = await run("ip", ["netns", "exec", network.namespace, "curl", "-s", "--max-time", "2", `http://${Address}:8100/ready`]);
  return JSON.parse(out) as { ready: boolean; checks: Record<string, string> };
}

/** What nobody reads a file for: Apache's own answer to a name that no site has. Seconds of each, and how many were none. */
async function askWithoutFiles(until: () => boolean): Promise<{ seconds: number[]; failed: number }> {
  const seconds: number[] = [];
  let failed = 0;
  while (!until()) {
    const begun = Date.now();
    const words = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "3", "-H", "Host: nobody.lab.test", `http://${vip}/`];
    const { out } = await run("ip", ["netns", "exec", network.namespace, "curl", ...words]);
    seconds.push((Date.now() - begun) / 1000);
    if (out !== "404") failed++;
    await sleep(0.2);
  }
  return { seconds, failed };
}

/** A page that cannot do without the NAS: what only reads may be answered from what a VM remembers. */
const writer = `<?php
$name = __DIR__ . '/at-' . gethostname() . '-' . getmypid();
if (file_put_contents($name, microtime()) === false) { http_response_code(500); }
echo 'written';
`;
const places = { page: "/", file: "/hello.txt", writes: "/fleet-test/write.php" } as const;

/** Has the status site the page that writes; to be called before {@link stallNas}. */
export const putWriter = (): Promise<void> => put("status", "write.php", writer, served);
export const removeWriter = (): Promise<string> => clear("status");

/** What answered while the NAS was away, and after. */
export interface Stall {
  readonly page: Seen;
  readonly file: Seen;
  readonly writes: Seen;
  readonly none: { readonly seconds: number[]; readonly failed: number };
  /** Of web1 and php1, near the end. */
  readonly said: Awaited<ReturnType<typeof ready>>[];
  /** Weights of all real servers then. */
  readonly weights: number[];
  /** Seconds from its return until all of them answered within a second again. */
  readonly back: number;
}

/** How the NAS goes, and how it comes back. What is sent to one that is cut is lost, and waits in one that is frozen. */
const ways = { freeze: "thaw", cut: "heal" } as const;

/** Has the NAS away for so long under load: pages of PHP, a file of Apache's own, and what needs no file. */
export async function stallNas(
  seconds: number,
  load: readonly string[],
  patience: number,
  way: keyof typeof ways = "freeze",
): Promise<Stall> {
  let over = false;
  const start = (path: string) => startProbe(load, patience, { host: "status.lab.test", path });
  const [page, file, writes] = [start(places.page), start(places.file), start(places.writes)];
  const none = askWithoutFiles(() => over);
  await sleep(2);
  await order("nas1", way);
  try {
    await sleep(seconds - 1);
    const weights = Object.values(await ipvs(await liveDirector())).flatMap((servers) => Object.values(servers));
    const said = await Promise.all(["web1", "php1"].map(ready));
    await sleep(1);
    await order("nas1", ways[way]);
    const thawed = Date.now();
    await answers(seconds + 60);
    const back = (Date.now() - thawed) / 1000;
    await sleep(3);
    over = true;
    return { page: await page.stop(), file: await file.stop(), writes: await writes.stop(), none: await none, said, weights, back };
  } finally {
    over = true;
    await order("nas1", ways[way]).catch(() => undefined);
    await Promise.all([page.stop(), file.stop(), writes.stop()]);
  }
}

/** Waits until each of them answers within a second on each Apache VM, and from each PHP VM, and all of these are balanced. */
async function answers(seconds: number): Promise<void> {
  const apaches = await Promise.all(["web1", "web2"].map(machine));
  const ask = async (address: string, path: string): Promise<string | undefined> => {
    const words = ["-sf", "--max-time", "1", "-H", "Host: status.lab.test", `http://${address}${path}`];
    const { code, out } = await run("ip", ["netns", "exec", network.namespace, "curl", ...words]);
    return code === 0 ? out : undefined;
  };
  let awake = new Set<string>();
  for (const end = Date.now() + seconds * 1000; Date.now() < end;) {
    const asked = apaches.flatMap(({ Address }) => Object.values(places).map((path) => ask(Address, path)));
    const answered = await Promise.all(asked);
    if (answered.includes(undefined)) awake = new Set();
    else for (const [host] of answered.join("").matchAll(/php[12]/g)) awake.add(host);
    if (awake.size === 2 && (await liveWeights()).every((weight) => weight === 1)) return;
  }
  throw new Error(
    `not all of ${Object.values(places).join(", ")} answer within a second and are balanced, ${seconds} s after the NAS is back`,
  );
}

/** A table of what answered. */
export function printStall(what: string, stall: Stall): void {
  const row = (what: string, sent: number, failed: number, latencies: readonly number[]): string =>
    `${what.padEnd(32)} ${String(failed).padStart(5)} of ${String(sent).padEnd(5)} median ${quantile(latencies, 0.5).toFixed(2).padStart(6)} s  max ${quantile(latencies, 1).toFixed(2).padStart(6)} s`;
  const seen = (what: string, s: Seen): string => `${row(what, s.sent, s.failed, s.latencies)} ${JSON.stringify(s.errors)}`;
  process.stdout.write(
    [
      `\nNAS ${what}`,
      seen("a page of PHP", stall.page),
      seen("a page that writes", stall.writes),
      seen("a file", stall.file),
      row("an answer without any file", stall.none.seconds.length, stall.none.failed, stall.none.seconds),
      `servers with weight 1: ${stall.weights.filter((w) => w === 1).length} of ${stall.weights.length}; back ${stall.back.toFixed(1)} s after its return\n`,
    ].join("\n"),
  );
}
