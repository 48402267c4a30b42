import { afterEach, describe, expect, it } from "vitest";
import { curl, ipvs, liveDirector, liveWeights, on, settled, sleep, startProbe, until, type Seen } from "../lab/lab";

const dropIn = (unit: string): string => `/run/systemd/system/${unit}.d`;

/** Changes a unit of a machine until the machine boots or `plain` is called. */
async function change(name: string, unit: string, text: string): Promise<void> {
  await on(
    name,
    `sudo mkdir -p ${dropIn(unit)} && printf '${text}' | sudo tee ${dropIn(unit)}/twin.conf >/dev/null && sudo systemctl daemon-reload`,
  );
}

async function plain(name: string, unit: string): Promise<void> {
  await on(name, `sudo rm -rf ${dropIn(unit)} && sudo systemctl daemon-reload`);
}

const socket = "fleet-site-status.socket";

/** A site's FPM begins anew on both VMs, without the connections that were waiting for it. */
async function restart(): Promise<void> {
  for (const name of ["php1", "php2"]) await on(name, `sudo systemctl stop fleet-site-status && sudo systemctl restart ${socket}`);
}

/** Forty requests a second, a quarter of them slow to send, while the live director stops and starts, twice. */
async function handOverTwice(): Promise<Seen> {
  const probe = startProbe(["get=0.05", "keep=0.1", "post=0.1"], 10);
  for (let i = 0; i < 2; i++) {
    await sleep(3);
    const live = await liveDirector();
    await on(live, "sudo systemctl stop fleet-keepalived");
    await until(async () => (await liveDirector()) !== live, 10, "the other director takes over");
    await sleep(3);
    await on(live, "sudo systemctl start fleet-keepalived");
  }
  return probe.stop();
}

describe("a director that stops in order", () => {
  afterEach(settled);

  it("hands its requests over, and none fails", async () => {
    const seen = await handOverTwice();
    process.stdout.write(`\nhanded over twice: ${JSON.stringify(seen.kinds)}\n`);
    expect(seen.failed, JSON.stringify(seen.failures)).toBe(0);
  });

  it("twin: without that order, and with directors that refuse each other's connections, requests break", async () => {
    const both = (act: (name: string) => Promise<unknown>): Promise<unknown> => Promise.all(["lb1", "lb2"].map(act));
    await both((name) => change(name, "fleet-keepalived.service", "[Service]\\nExecStop=\\n"));
    await both((name) => on(name, "sudo sysctl -qw net.ipv4.vs.sloppy_tcp=0"));
    try {
      expect((await handOverTwice()).failed).toBeGreaterThan(0);
    } finally {
      await both((name) => plain(name, "fleet-keepalived.service"));
      await both((name) => on(name, "sudo sysctl -qw net.ipv4.vs.sloppy_tcp=1"));
      await restart();
    }
  });
});

describe("connections to PHP that were cut on their way", () => {
  /** As many as both VMs have children, and more; each vanishes without a word when its request has begun. */
  const vanish = (address: string): string => `
import socket, time
address, repair = ("${address}", 10001), 19
opened = [socket.create_connection(address) for _ in range(24)]
for each in opened: each.sendall(bytes([1, 1, 0, 1, 0, 8, 0]))
time.sleep(1)
for each in opened:
    each.setsockopt(socket.IPPROTO_TCP, repair, 1)
    each.close()
`;
  const cut = async (): Promise<void> => {
    const vips = Object.keys(await ipvs(await liveDirector()));
    const place = vips.find((name) => name.endsWith(":10001"));
    if (!place) throw new Error(`no service of port 10001 among ${vips.join(", ")}`);
    await on("web1", `sudo python3 -c '${vanish(place.split(":")[0] ?? "")}'`);
  };
  const answers = async (seconds: number): Promise<void> => {
    await until(async () => (await curl("http://status.lab.test/", "--fail", "--max-time", "3")).code === 0, seconds, "the site answers");
  };

  it("do not hold the children of a site's pool for longer than half a minute", async () => {
    await answers(10);
    await cut();
    await answers(30);
    await settled();
  });

  it("twin: where the kernel does not ask whether the other end is there, they do, and the neighbours still answer", async () => {
    for (const name of ["php1", "php2"]) await change(name, socket, "[Socket]\\nKeepAlive=no\\n");
    await restart();
    try {
      await cut();
      await expect(answers(20)).rejects.toThrow(/not within 20 s/);
      expect((await liveWeights()).every((weight) => weight === 1)).toBe(true);
    } finally {
      for (const name of ["php1", "php2"]) await plain(name, socket);
      await restart();
    }
    await settled();
  });
});
