import { spawn, spawnSync } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

/*
 * What a computer is told before the lab's first start, and how its packages are installed. apt-get and dpkg are
 * stand-ins here: what Debian's own do with a policy is not shown.
 */

const root = path.resolve(__dirname, "../..");
let scratch = "";
beforeEach(() => (scratch = fs.mkdtempSync(path.join(os.tmpdir(), "first-start-"))));
afterEach(() => fs.rmSync(scratch, { recursive: true }));

describe("a computer without enough of something is told at once", () => {
  /** lab/lab on a computer that lacks memory and disk, with what an earlier start left in its directories. */
  function said(left: readonly string[]): string {
    fs.mkdirSync(path.join(scratch, "lab"));
    fs.symlinkSync(path.join(root, "toolchain"), path.join(scratch, "toolchain"));
    const text = fs.readFileSync(path.join(root, "lab/lab"), "utf8");
    const poor = text.replace("need_memory_gb=8", "need_memory_gb=80000").replace(/need_(disk|cache)_gb=\d+/g, "need_$1_gb=500000");
    expect(poor).not.toBe(text);
    fs.writeFileSync(path.join(scratch, "lab/lab"), poor);
    for (const file of left) {
      fs.mkdirSync(path.dirname(path.join(scratch, file)), { recursive: true });
      fs.writeFileSync(path.join(scratch, file), String(process.pid));
    }
    const env = { ...process.env, FLEET_LAB: path.join(scratch, "state"), FLEET_CACHE: path.join(scratch, "cache") };
    const { status, stderr } = spawnSync("bash", [path.join(scratch, "lab/lab"), "up"], { env, encoding: "utf8" });
    expect(status).toBe(1);
    return stderr;
  }

  it("all of it, with the remedy, and the disk for both where it is one", () => {
    const text = said([]);
    expect(text).toMatch(/\d+ GB of memory are available, 80000 are needed: end other programs/);
    expect(text).toMatch(/GB are free for what is built once in .*cache, 500000 are needed: .*FLEET_CACHE/);
    expect(text).toMatch(/GB are free for .*state, 1000000 are needed: .*FLEET_LAB/);
  });

  it("also after a start that was killed", () => {
    const text = said(["state/run/vcenter.sock", "state/run/vcenter.pid", "state/images/abc.part-1/tree"]);
    expect(text).toContain("GB of memory are available");
    expect(text).toContain("GB are free for");
  });

  it("and no more where it was given already", () => {
    const text = said(["state/images/abc/root.img", "cache/ready/abc"]);
    expect(text).toContain("GB of memory are available");
    expect(text).not.toContain("GB are free for");
  });
});

describe("the Debian packages of the lab", () => {
  const policy = (): string => path.join(scratch, "policy-rc.d");

  /** install_packages with an apt-get of this text. */
  function installer(aptGet: string): readonly [string, { env: NodeJS.ProcessEnv }] {
    const bin = path.join(scratch, "bin");
    fs.mkdirSync(bin, { recursive: true });
    const tools = { "apt-get": aptGet, dpkg: 'echo "dpkg $*" >> $LOG', "dpkg-query": "exit 1" };
    for (const [name, text] of Object.entries(tools)) fs.writeFileSync(path.join(bin, name), `#!/bin/bash\n${text}\n`, { mode: 0o755 });
    const env = { ...process.env, PATH: `${bin}:${process.env["PATH"] ?? ""}`, LOG: path.join(scratch, "log"), POLICY_RC_D: policy() };
    return [`source ${root}/toolchain/lib/debian.sh; install_packages test one two`, { env }];
  }
  const install = (aptGet: string): number | null => {
    const [script, options] = installer(aptGet);
    return spawnSync("bash", ["-euo", "pipefail", "-c", script], options).status;
  };
  const log = (): string => fs.readFileSync(path.join(scratch, "log"), "utf8");

  it("are installed after what an interruption left half done, and no service starts meanwhile", () => {
    expect(install('echo "apt-get $*" >> $LOG; $POLICY_RC_D; echo "policy $?" >> $LOG')).toBe(0);
    const lines = [
      "dpkg --configure -a",
      "apt-get -qq update",
      "policy 101",
      "apt-get -qq install --no-install-recommends one two",
      "policy 101",
    ];
    expect(log().trim().split("\n").slice(0, 5)).toEqual(lines);
    expect(fs.existsSync(policy())).toBe(false);
  });

  it("leave no policy behind, whether they fail or are interrupted", async () => {
    expect(install("exit 3")).toBe(1);
    expect(fs.existsSync(policy())).toBe(false);
    const [script, options] = installer("touch $LOG.begun; exec sleep 60");
    const child = spawn("bash", ["-euo", "pipefail", "-c", script], { ...options, detached: true });
    const ended = new Promise((resolve) => child.on("close", resolve));
    while (!fs.existsSync(path.join(scratch, "log.begun"))) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(fs.existsSync(policy())).toBe(true);
    process.kill(-(child.pid ?? 0), "SIGINT");
    await ended;
    expect(fs.existsSync(policy())).toBe(false);
  });

  it("remove the policy that one of them left when it was killed, and nobody else's", () => {
    const ours = path.join(scratch, "ours");
    expect(install(`cp $POLICY_RC_D ${ours}`)).toBe(0);
    fs.copyFileSync(ours, policy());
    expect(install("exit 0")).toBe(0);
    expect(fs.existsSync(policy())).toBe(false);
    fs.writeFileSync(policy(), "#!/bin/sh\nexit 101\n");
    expect(install("exit 0")).toBe(0);
    expect(fs.existsSync(policy())).toBe(true);
  });
});
