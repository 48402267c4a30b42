import { spawn, spawnSync } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";

const root = path.join(__dirname, "..", "..");
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "secret-"));
const tsx = path.join(root, "node_modules", "tsx", "dist", "loader.mjs");
const stored = path.join(scratch, "stored");
afterAll(() => fs.rmSync(scratch, { recursive: true }));

/** Runs a tool of the project in an empty directory, with a pulumi that only keeps what it reads. */
function run(tool: string, words: readonly string[], input: string, env: NodeJS.ProcessEnv = {}): { code: number | null; said: string } {
  const node = ["--import", tsx, path.join(root, "cli", tool)];
  const PATH = `${scratch}:${process.env["PATH"] ?? ""}`;
  const { status, stdout, stderr } = spawnSync(process.execPath, [...node, ...words], {
    cwd: scratch,
    input,
    env: { ...process.env, PATH, ...env },
    encoding: "utf8",
  });
  return { code: status, said: `${stdout}${stderr}` };
}

beforeEach(() => {
  fs.rmSync(stored, { force: true });
  fs.writeFileSync(path.join(scratch, "pulumi"), `#!/bin/sh\ncat >${stored}\n`, { mode: 0o755 });
});

describe("fleet secret", () => {
  const secret = (input: string): ReturnType<typeof run> => run("fleet.ts", ["secret", "redisPassword", "-s", "lab"], input);

  it("stores what it reads, and says where", { timeout: 60_000 }, () => {
    expect(secret("canary\n")).toEqual({ code: 0, said: "redisPassword set in Pulumi.lab.secrets.yaml\n" });
    expect(fs.readFileSync(stored, "utf8")).toBe("canary\n");
  });

  it.each([
    ["canary\r", 0, "redisPassword set in Pulumi.lab.secrets.yaml"],
    ["cana\x03", 1, "fleet: nothing was typed: redisPassword was not changed"],
  ])("does not show what is typed on a terminal: %j", { timeout: 60_000 }, async (keys, code, last) => {
    const command = `node --import ${tsx} ${path.join(root, "cli", "fleet.ts")} secret redisPassword -s lab`;
    const PATH = `${scratch}:${process.env["PATH"] ?? ""}`;
    const terminal = spawn("script", ["-qec", command, "/dev/null"], { cwd: scratch, env: { ...process.env, PATH } });
    let said = "";
    terminal.stdout.on("data", (text: Buffer) => {
      said += text.toString();
      if (said === "redisPassword: ") terminal.stdin.write(keys);
    });
    const ended = await new Promise((resolve) => terminal.on("close", resolve));
    expect([ended, said]).toEqual([code, `redisPassword: \r\n${last}\r\n`]);
    expect(fs.existsSync(stored) && fs.readFileSync(stored, "utf8")).toBe(code === 0 && "canary");
  });

  it.each(["", "\n"])("refuses %j, and leaves what was there", { timeout: 60_000 }, (input) => {
    expect(secret(input)).toEqual({ code: 1, said: "fleet: standard input was empty: redisPassword was not changed\n" });
    expect(fs.existsSync(stored)).toBe(false);
  });
});

describe("pulumi without a backend", () => {
  const home = { PULUMI_CREDENTIALS_PATH: scratch, PULUMI_ACCESS_TOKEN: "", PULUMI_BACKEND_URL: undefined };

  it("is told how to log in, where a command needs the state", { timeout: 60_000 }, () => {
    const { code, said } = run("pulumi.ts", ["preview", "-s", "lab"], "", home);
    expect([code, said]).toEqual([1, expect.stringContaining("no backend: npm run pulumi -- login file://")]);
    expect(fs.existsSync(stored)).toBe(false);
  });

  it("runs where there is one, or none is needed", { timeout: 60_000 }, () => {
    expect(run("pulumi.ts", ["login", "--local"], "", home).code).toBe(0);
    expect(run("pulumi.ts", ["preview"], "", { ...home, PULUMI_BACKEND_URL: `file://${scratch}` }).code).toBe(0);
    expect(fs.existsSync(stored)).toBe(true);
  });
});
