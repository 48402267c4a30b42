import { expect } from "vitest";
import { macAddress } from "../../config/network";
import { network } from "../../lab/settings";
import { order } from "../../lab/vcenter";
import { served } from "../soak/scripts";
import { liveDirector, machine, on, onlyGets, quantile, revive, run, settled, sleep, startProbe, vip, type Seen } from "./lab";

export const directors = ["lb1", "lb2"] as const;
const other = (name: string): string => (name === "lb1" ? "lb2" : "lb1");

const inLab = (...words: string[]) => run("ip", ["netns", "exec", network.namespace, ...words]);

/** Directors that are on and hold the VIP, as each of them says. */
export async function holders(): Promise<string[]> {
  const found: string[] = [];
  for (const name of directors) {
    if ((await machine(name)).State === "on" && (await on(name, "ip -4 -o address show dev eth0")).includes(`${vip}/32`)) found.push(name);
  }
  return found;
}

/** The director to whose card a client of the network sends what is for the VIP. */
export async function knownHolder(): Promise<string | undefined> {
  const { out } = await inLab("ip", "neighbour", "show", "to", vip);
  for (const name of directors) if (out.includes(macAddress((await machine(name)).Address))) return name;
  return undefined;
}

/** Seconds that an outage may take beside what VRRP needs. */
const margin = 0.5;

/** Longest that clients may be without the VIP when a director dies: what VRRP needs (RFC 9568), and half a second. */
export async function longestOutage(dead: string): Promise<number> {
  const text = await on(other(dead), "sudo cat /etc/keepalived/fleet.conf");
  const value = (name: string): number => Number(new RegExp(`^ *${name} (\\S+)$`, "m").exec(text)?.[1]);
  const advert = value("advert_int");
  return 3 * advert + ((256 - value("priority")) / 256) * advert + margin;
}

/** Weights of all entries of a machine in a director's table, asked of its responder: an answer takes some milliseconds. */
async function weightsOf(address: string, director: string): Promise<number[]> {
  const { out } = await inLab("curl", "-s", "--max-time", "1", `http://${director}:8100/balancer`);
  const { services } = JSON.parse(out) as { services: Record<string, Record<string, { weight: number }>> };
  return Object.values(services).flatMap((servers) => servers[address]?.weight ?? []);
}

/** Seconds until the live director sends a machine nothing any more, from before something happens to that machine. */
export async function secondsUntilOut(name: string, happens: () => Promise<unknown>): Promise<number> {
  const { Address } = await machine(name);
  const live = (await machine(await liveDirector())).Address;
  const begun = Date.now();
  const happening = happens();
  while (Date.now() - begun < 30_000) {
    const weights = await weightsOf(Address, live).catch(() => [1]);
    if (weights.length > 0 && weights.every((weight) => weight === 0)) {
      const seconds = (Date.now() - begun) / 1000;
      await happening;
      return seconds;
    }
    await sleep(0.02);
  }
  await happening;
  throw new Error(`${name} is still balanced after 30 s`);
}

/** Megabytes of the file that downloads are of. */
const fileMb = 15;

/** Puts the file there that {@link startTransfers} downloads. */
export async function putFile(): Promise<void> {
  const directory = `/srv/fleet/sites/status/${served}`;
  await on(
    "nas1",
    `sudo install -d -m 755 ${directory} && sudo dd if=/dev/urandom of=${directory}/big.bin bs=1M count=${fileMb} status=none`,
  );
}

/** Connections that live for about 30 seconds: downloads, and uploads to PHP. `ended` tells what went wrong with each that broke. */
export function startTransfers(downloads = 8, uploads = 2): { ended: () => Promise<string[]> } {
  const words = ["curl", "-sS", "--max-time", "90", "-H", "Host: status.lab.test", "-o", "/dev/null"];
  const download = async (): Promise<string> => {
    const size = fileMb * 1024 * 1024;
    const rate = ["--limit-rate", "500k", "-w", "%{http_code} %{size_download}"];
    const { out, err } = await inLab(...words, ...rate, `http://${vip}/${served.replace("htdocs/", "")}/big.bin`);
    return out === `200 ${size}` ? "" : `download: ${out} ${err.trim()}`;
  };
  const upload = async (): Promise<string> => {
    const body = `head -c 3000000 /dev/zero | ${[...words, "--limit-rate", "100k", "-w", "%{http_code}", "--data-binary", "@-", `http://${vip}/`].map((w) => `'${w}'`).join(" ")}`;
    const { out, err } = await inLab("sh", "-c", body);
    return out === "200" ? "" : `upload: ${out} ${err.trim()}`;
  };
  const all = [...Array.from({ length: downloads }, download), ...Array.from({ length: uploads }, upload)];
  return { ended: async () => (await Promise.all(all)).filter((text) => text !== "") };
}

/** Seconds before a director dies in which the other has learnt the connections: the kernel tells of them every 2 s at the latest. */
const learning = 5;

export interface Kill {
  readonly seen: Seen;
  /** What went wrong with connections that were under way. */
  readonly broken: readonly string[];
  readonly longest: number;
  readonly successor: string;
}

/** Kills the live director under load, and brings it back. */
export async function killLive(before: () => Promise<unknown> = () => Promise.resolve(), uploads?: number): Promise<Kill> {
  await settled();
  const name = await liveDirector();
  const longest = await longestOutage(name);
  const transfers = startTransfers(8, uploads);
  await sleep(learning);
  await before();
  const probe = startProbe();
  await sleep(2);
  await order(name, "kill");
  await sleep(12);
  const seen = await probe.stop();
  const broken = await transfers.ended();
  const successor = await liveDirector();
  await revive(name);
  return { seen, broken, longest, successor };
}

export interface Stun {
  readonly seen: Seen;
  /** Longest time without an answer from the freeze on, in seconds: ten are asked for in each. */
  readonly silence: number;
  /**
   * Seconds from the thaw to the answer that ended it, or to the first one after the last failure where that came later;
   * negative where the other director gave it before the thaw.
   */
  readonly answersAgain: number;
  /** Longest time without an answer after the thaw, in seconds. */
  readonly paused: number;
  /** Who held the VIP in the ten seconds after: each answer that there was, from 3 s on. */
  readonly holders: readonly string[];
  /** Where the client sends its packets, some seconds later. */
  readonly known: string | undefined;
  readonly longest: number;
}

/** Freezes the live director for so long, under load, as a stun of its VM does. */
export async function stunLive(seconds: number): Promise<Stun> {
  await settled();
  const name = await liveDirector();
  const longest = await longestOutage(name);
  const probe = startProbe(onlyGets);
  await sleep(2);
  const frozen = Date.now() / 1000;
  await order(name, "freeze");
  try {
    await sleep(seconds);
  } finally {
    await order(name, "thaw");
  }
  const thawed = Date.now() / 1000;
  const looks = new Set<string>();
  for (let i = 0; i < 3; i++) {
    await sleep(3);
    looks.add((await holders()).join(" and "));
  }
  const ended = Date.now() / 1000;
  const seen = await probe.stop();
  const after = [frozen, ...seen.answers.filter((at) => at > frozen)];
  const silences = after.slice(1).map((at, i) => ({ silence: at - (after[i] ?? at), broken: at }));
  const { silence, broken } = silences.reduce((all, each) => (each.silence > all.silence ? each : all));
  const paused = Math.max(...silences.map((each) => Math.min(each.silence, each.broken - thawed)));
  const again = seen.failed > 0 ? Math.max(broken, ended - seen.quiet) : broken;
  return {
    seen,
    silence,
    answersAgain: again - thawed,
    paused,
    holders: [...looks],
    known: await knownHolder(),
    longest,
  };
}

/** Clients saw the stun, and were without the VIP for at most 2 s more than it, or than the other director needs to take over. */
export function expectNoLonger({ seen, silence, answersAgain, paused, longest }: Stun, length: number): void {
  const takeOver = longest - margin;
  expect(silence).toBeGreaterThan(0.8 * Math.min(length, 2));
  for (const time of [silence, seen.outage])
    expect(time, JSON.stringify(seen.failures)).toBeLessThanOrEqual(Math.min(length, takeOver) + 2);
  for (const time of [answersAgain, paused]) expect(time, JSON.stringify(seen.failures)).toBeLessThanOrEqual(2);
}

/** Median and maximum, in seconds. */
export const spread = (values: readonly number[]): string =>
  `median ${quantile(values, 0.5).toFixed(2)} s, max ${quantile(values, 1).toFixed(2)} s of ${values.length}`;

/**
 * Lets a director reach none of these machines, or all of them again: what it sends goes to a card that nobody has. Not by
 * a route that leads nowhere, whose error at once keepalived 2.2.7 takes for a fault of its own, and asks again for ever.
 */
export async function blind(director: string, names: readonly string[], lost = true): Promise<void> {
  for (const name of names) {
    const entry = `${(await machine(name)).Address} dev eth0`;
    await on(director, `sudo ip neighbour ${lost ? `replace ${entry} lladdr 02:00:00:00:00:01 nud permanent` : `del ${entry}`}`);
  }
}

/** One answer of the VIP: status, Retry-After and body. */
export async function answer(scheme: "http" | "https", path = "/"): Promise<{ status: number; retryAfter: string; body: string }> {
  const host = ["--resolve", `status.lab.test:80:${vip}`, "--resolve", `status.lab.test:443:${vip}`];
  const { out } = await inLab("curl", "-sk", "-i", "--http1.1", "--max-time", "5", ...host, `${scheme}://status.lab.test${path}`);
  const [head = "", ...body] = out.split("\r\n\r\n");
  const retryAfter = /^Retry-After: (.*)$/im.exec(head)?.[1]?.trim() ?? "";
  return { status: Number(/^HTTP\/\S+ (\d+)/.exec(head)?.[1] ?? 0), retryAfter, body: body.join("\r\n\r\n") };
}

/** Stops the processes of every site's PHP that runs on a machine where they stand, or lets them go on. */
export const signalSites = (name: string, signal: "STOP" | "CONT"): Promise<string> =>
  on(name, `sudo sh -c 'cat /sys/fs/cgroup/sites.slice/*/fleet-site-*.service/cgroup.procs | xargs -r kill -${signal}'`);
