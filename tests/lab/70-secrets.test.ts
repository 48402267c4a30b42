import { spawn } from "child_process";
import * as fs from "fs";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { configFile, projectDirectory } from "../../lab/fleet";
import { labPaths, labRoot } from "../../lab/paths";
import { changedCheckout, curl, edit, machine, on, pulumi, run, sleep, sshWords } from "./lab";

const vms = ["lb1", "nas1", "web1", "web2", "php1", "php2", "build1"];

/** A line of each secret that stands nowhere else. */
function canaries(): Record<string, string> {
  const facts = JSON.parse(fs.readFileSync(labPaths.facts, "utf8")) as Record<string, string>;
  const named = ["vspherePassword", "redisPassword", "sshPrivateKey", "tlsPrivateKey"].map((name) => {
    const [longest = ""] = (facts[name] ?? "").split("\n").sort((a, b) => b.length - a.length);
    if (longest.length < 20) throw new Error(`the lab has no ${name}`);
    return [name, longest] as const;
  });
  return { ...Object.fromEntries(named), passphrase: fs.readFileSync(path.join(labRoot, "passphrase"), "utf8").trim() };
}

interface Sampled {
  readonly looks: number;
  readonly seen: Readonly<Record<string, number>>;
}

/** Starts to sample the processes of this computer, or of a VM. */
function sample(words: readonly string[]): { stop: () => Promise<Sampled> } {
  const [command = "", ...rest] = words;
  const child = spawn(command, rest, { stdio: ["pipe", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (data: Buffer) => (out += data.toString()));
  const done = new Promise<Sampled>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => resolve(JSON.parse(out) as Sampled));
  });
  child.stdin.write(`${JSON.stringify(canaries())}\n`);
  return {
    stop: () => {
      child.stdin.end();
      return done;
    },
  };
}
const script = path.join(__dirname, "sampler.py");

/** Samples this computer and every VM while something happens; what was seen, by machine. */
async function during(work: () => Promise<void>): Promise<Record<string, Sampled>> {
  const here = sample(["python3", "-IB", script]);
  const there = [];
  for (const vm of vms) {
    const copy = await run("scp", [
      "-q",
      ...sshWords((await machine(vm)).Address).slice(0, -1),
      script,
      `fleet@${(await machine(vm)).Address}:/tmp/`,
    ]);
    expect(copy.code, copy.err).toBe(0);
    there.push([vm, sample(["ssh", ...sshWords((await machine(vm)).Address), "sudo python3 -IB /tmp/sampler.py"])] as const);
  }
  await work();
  const sampled = await Promise.all(there.map(async ([vm, s]) => [vm, await s.stop()] as const));
  return { "this computer": await here.stop(), ...Object.fromEntries(sampled) };
}

/** Files below a directory that hold a secret, as `<secret> in <file>`. */
function holding(directory: string): string[] {
  const found: string[] = [];
  for (const name of fs.readdirSync(directory, { recursive: true, encoding: "utf8" })) {
    const file = path.join(directory, name);
    if (!fs.statSync(file).isFile()) continue;
    const text = fs.readFileSync(file);
    for (const [secret, canary] of Object.entries(canaries())) if (text.includes(canary)) found.push(`${secret} in ${file}`);
  }
  return found;
}
const inText = (text: string): string[] => Object.entries(canaries()).flatMap(([name, canary]) => (text.includes(canary) ? [name] : []));

/** Every remote command is called a little differently: all of them run again. */
const again =
  (times: number) =>
  (text: string): string =>
    text.replaceAll("sudo -n /usr/bin/python3", `sudo -n${" ".repeat(times)}/usr/bin/python3`);

describe("secrets are seen nowhere", () => {
  let said = "";
  afterAll(async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
  });

  describe("in arguments and environments of this computer's and the VMs' processes", () => {
    beforeAll(() => expect(Object.keys(canaries())).toHaveLength(5));

    it("while every command of a whole `up` runs", async () => {
      const copy = await changedCheckout("components/programs.ts", again(2));
      const seen = await during(async () => {
        const { code, out, err } = await pulumi(["up", "--yes", "--diff"], copy);
        said += out + err;
        expect(code, out + err).toBe(0);
        expect(out.includes("apache-secrets-web1")).toBe(true);
      });
      for (const [where, { looks, seen: places }] of Object.entries(seen)) {
        expect(looks, where).toBeGreaterThan(10);
        expect(places, where).toEqual({});
      }
    });

    it("while an `up` fails on a VM", async () => {
      const copy = await changedCheckout("components/programs.ts", again(3));
      edit(copy, "templates/apache/vhost.conf.mustache", (text) => text.replace("DocumentRoot", "DocumentRot"));
      const seen = await during(async () => {
        const { code, out, err } = await pulumi(["up", "--yes", "--diff"], copy);
        said += out + err;
        expect(code).not.toBe(0);
      });
      for (const [where, { seen: places }] of Object.entries(seen)) expect(places, where).toEqual({});
    });

    it("though the sampler does see one that is there", async () => {
      const { passphrase = "" } = canaries();
      const seen = await during(async () => {
        const planted = spawn("sleep", ["5"], { env: { ...process.env, PLANTED: passphrase } });
        await sleep(2);
        planted.kill();
      });
      expect(Object.keys(seen["this computer"]?.seen ?? {})).toEqual(["passphrase in environ of sleep"]);
    });
  });

  it("in what `pulumi up`, `preview` and `preview --json` say", async () => {
    const copy = await changedCheckout("components/programs.ts", again(4));
    for (const words of [
      ["preview", "--diff"],
      ["preview", "--json"],
    ]) {
      const { out, err } = await pulumi(words, copy);
      said += out + err;
    }
    expect(said.includes("apache-secrets-web1")).toBe(true);
    expect(inText(said)).toEqual([]);
  });

  it("in the state, its history and its backups, nor in the stack's files", () => {
    expect(holding(path.join(labRoot, "pulumi"))).toEqual([]);
    expect(holding(projectDirectory)).toEqual([]);
    expect(fs.existsSync(configFile)).toBe(true);
  });

  it("in the lab's logs", () => {
    expect(holding(labPaths.logs)).toEqual([]);
  });

  it("in what PHP says of a site's session store that is dead, in the journal and on the page", async () => {
    let pages = "";
    await on("annex", "sudo systemctl stop redis-server");
    try {
      for (let i = 0; i < 8; i++) pages += (await curl("http://status.lab.test/")).out;
    } finally {
      await on("annex", "sudo systemctl start redis-server");
    }
    let complaints = 0;
    for (const vm of ["php1", "php2"]) {
      const said = pages + (await on(vm, "sudo journalctl --quiet --output cat --since -60s"));
      complaints += said.split("not shown, for its password").length - 1;
      const pool = "/var/lib/fleet/current/etc/fleet/php/status/sessions.conf";
      const [, password = ""] = /auth\[pass\]=([^&"]+)/.exec(await on(vm, `sudo cat ${pool}`)) ?? [];
      expect(password.length).toBeGreaterThan(20);
      expect(said).not.toContain(password);
    }
    expect(complaints).toBeGreaterThan(0);
  });

  it("in journals, logs, temporary files and shell histories of the VMs", async () => {
    const patterns = Object.values(canaries()).join("\n");
    for (const vm of vms) {
      const command = `cat > /run/user/1000/patterns 2>/dev/null || cat > /dev/shm/patterns; p=$(ls /run/user/1000/patterns /dev/shm/patterns 2>/dev/null | head -1); \
sudo journalctl --quiet --output cat | grep -cFf $p; sudo grep -rlFf $p /var/log /tmp /var/tmp /root /home --exclude=patterns; rm -f $p; true`;
      const words = [...sshWords((await machine(vm)).Address), command];
      const child = spawn("ssh", words, { stdio: ["pipe", "pipe", "inherit"] });
      child.stdin.end(`${patterns}\n`);
      let out = "";
      child.stdout.on("data", (data: Buffer) => (out += data.toString()));
      await new Promise((resolve) => child.on("close", resolve));
      expect(out, vm).toBe("0\n");
    }
  });
});
