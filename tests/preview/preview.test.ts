import { execFileSync, spawn, spawnSync, type ChildProcess } from "child_process";
import * as fs from "fs";
import * as net from "net";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { hostKeyFromSeed } from "../../components/keys";
import { secretsFile } from "../../config/load";
import type { Secrets } from "../../config/schema";
import { tlsPair } from "../unit/example";

/*
 * The real engine previews the committed stacks against a simulated vCenter that holds nothing but
 * a template. It proves what would be created; it creates nothing.
 */

const root = path.join(__dirname, "..", "..");
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-preview-"));
const password = "for this preview only";
let vcenter: ChildProcess;
let server: string;

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const probe = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address() as net.AddressInfo;
      probe.close(() => resolve(port));
    });
  });

beforeAll(async () => {
  server = `127.0.0.1:${await freePort()}`;
  const file = (name: string): string => path.join(scratch, name);
  const pair = ["-keyout", file("key.pem"), "-out", file("cert.pem"), "-subj", "/CN=localhost", "-days", "2"];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", ...pair], { stdio: "ignore" });
  const config = {
    state: file("state"),
    listen: server,
    user: "administrator@vsphere.local",
    password,
    certificate: file("cert.pem"),
    privateKey: file("key.pem"),
    control: file("control.sock"),
    kernel: "/nonexistent",
    namespace: "none",
    bridge: "none",
    gateway: "10.20.0.1",
    prefix: 24,
    templates: [{ name: "debian-12", guestId: "debian12_64Guest", image: "/nonexistent" }],
    native: "",
  };
  fs.mkdirSync(file("state"));
  fs.writeFileSync(file("vcenter.json"), JSON.stringify(config));
  vcenter = spawn("fleet-vcenter", [file("vcenter.json")], { stdio: ["ignore", "ignore", fs.openSync(file("vcenter.log"), "w")] });
  const [host = "", port = ""] = server.split(":");
  for (let i = 0; i < 100; i++) {
    const up = await new Promise<boolean>((resolve) => {
      const socket = net.connect(Number(port), host, () => resolve(true)).on("error", () => resolve(false));
      socket.on("connect", () => socket.destroy());
    });
    if (up) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`the simulated vCenter does not listen: ${fs.readFileSync(file("vcenter.log"), "utf8")}`);
});

afterAll(() => {
  vcenter.kill();
  fs.rmSync(scratch, { recursive: true, force: true });
});

interface Step {
  readonly op: string;
  readonly newState: { readonly type: string; readonly inputs: Record<string, unknown> };
}

interface Preview {
  readonly code: number;
  readonly text: string;
  readonly steps: readonly Step[];
  /** What an operator is told. */
  readonly messages: readonly string[];
}

/** A stack with its secrets, in a backend of its own. */
interface Stack {
  readonly directory: string;
  readonly encryptionsalt: string;
  readonly pulumi: (args: string[], input?: string) => ReturnType<typeof spawnSync>;
}
const stacks = new Map<string, Stack>();

function initialised(stack: string): Stack {
  const known = stacks.get(stack);
  if (known) return known;
  const directory = fs.mkdtempSync(path.join(scratch, `${stack}-`));
  const env = {
    ...process.env,
    PULUMI_BACKEND_URL: `file://${directory}`,
    PULUMI_CONFIG_PASSPHRASE_FILE: path.join(directory, "passphrase"),
  };
  fs.writeFileSync(env.PULUMI_CONFIG_PASSPHRASE_FILE, "for this preview only\n", { mode: 0o600 });
  const project = YAML.parse(fs.readFileSync(path.join(root, "Pulumi.yaml"), "utf8")) as { main: string };
  fs.writeFileSync(path.join(directory, "Pulumi.yaml"), YAML.stringify({ ...project, main: path.join(root, project.main) }));
  const pulumi: Stack["pulumi"] = (args, input = "") =>
    spawnSync("pulumi", [...args, "--non-interactive"], { cwd: directory, env, input, encoding: "utf8", maxBuffer: 1 << 28 });
  pulumi(["stack", "init", stack, "--secrets-provider", "passphrase"]);
  const { encryptionsalt } = YAML.parse(fs.readFileSync(path.join(directory, `Pulumi.${stack}.yaml`), "utf8")) as Stack;
  const secrets: Secrets = {
    vspherePassword: password,
    sshPrivateKey: hostKeyFromSeed("3".repeat(64), "operator").privateKey,
    ...tlsPair(),
    redisPassword: "a password",
    moodleDatabasePassword: "a password",
    institutionalDatabasePassword: "a password",
    timetableDatabasePassword: "a password",
  };
  const secretsPath = path.join(directory, secretsFile(stack));
  fs.writeFileSync(secretsPath, YAML.stringify({ encryptionsalt }), { mode: 0o600 });
  for (const [name, value] of Object.entries(secrets)) {
    pulumi(["config", "set", "--stack", stack, "--config-file", secretsPath, "--secret", `fleet:${name}`], value);
  }
  const made = { directory, encryptionsalt, pulumi };
  stacks.set(stack, made);
  return made;
}

/** Previews a committed stack, with an edit of its configuration. */
function preview(stack: string, edit: (config: Record<string, unknown>) => void = () => undefined): Preview {
  const { directory, encryptionsalt, pulumi } = initialised(stack);
  const committed = YAML.parse(fs.readFileSync(path.join(root, `Pulumi.${stack}.yaml`), "utf8"), { merge: true }) as {
    config: Record<string, unknown>;
  };
  // The inventory's names are the simulator's; everything else is what is committed.
  const names = { datacenter: "DC0", cluster: "DC0_C0", datastore: "LocalDS_0", network: "VM Network" };
  const access = { server, user: "administrator@vsphere.local", allowUnverifiedSsl: true };
  const config: Record<string, unknown> = {
    ...committed.config,
    "fleet:vsphere": { ...(committed.config["fleet:vsphere"] as object), ...names, ...access },
  };
  edit(config);
  const file = path.join(directory, "config.yaml");
  fs.writeFileSync(file, YAML.stringify({ encryptionsalt, config }, { aliasDuplicateObjects: false }));
  const { status, stdout, stderr } = pulumi(["preview", "--json", "--stack", stack, "--config-file", file]);
  const text = `${String(stdout)}${String(stderr)}`;
  const start = String(stdout).indexOf("{");
  const parsed = start < 0 ? {} : (JSON.parse(String(stdout).slice(start)) as { steps?: Step[]; diagnostics?: { message: string }[] });
  return { code: status ?? 1, text, steps: parsed.steps ?? [], messages: (parsed.diagnostics ?? []).map((d) => d.message) };
}

/** Name, vCPU and RAM in MB of every VM that a preview would create. */
function createdVms(seen: Preview): [string, number, number][] {
  return seen.steps
    .filter((s) => s.op === "create" && s.newState.type === "vsphere:index/virtualMachine:VirtualMachine")
    .map(({ newState: { inputs } }): [string, number, number] => [
      String(inputs["name"]),
      Number(inputs["numCpus"]),
      Number(inputs["memory"]),
    ])
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

const documented: [string, number, number][] = [
  ["build12", 8, 8192],
  ["institutional1", 6, 6144],
  ["institutional2", 6, 6144],
  ["lb1", 2, 1024],
  ["lb2", 2, 1024],
  ["moodle1", 8, 8192],
  ["moodle2", 8, 8192],
  ["moodle3", 8, 8192],
  ["moodle4", 8, 8192],
  ["php-a1", 8, 6144],
  ["php-a2", 8, 6144],
  ["php-b1", 8, 6144],
  ["php-b2", 8, 6144],
  ["timetable1", 6, 6144],
  ["timetable2", 6, 6144],
  ["web1", 4, 4096],
  ["web2", 4, 4096],
];

describe.each(["prod", "staging"])("a preview of %s against an empty inventory", (stack) => {
  it("creates every VM with its documented vCPU and RAM", () => {
    const seen = preview(stack);
    expect(seen.code, seen.text).toBe(0);
    process.stdout.write(
      `${stack}\n${createdVms(seen)
        .map(([n, c, m]) => `  ${n.padEnd(16)} ${c} vCPU ${m} MB`)
        .join("\n")}\n`,
    );
    expect(createdVms(seen)).toEqual(documented);
  });
});

it("Moodle with 6 nodes is two VMs more and no other VM", () => {
  const seen = preview("prod", (config) => Object.assign(config["fleet:moodle"] as object, { nodes: 6 }));
  expect(seen.code, seen.text).toBe(0);
  const more: [string, number, number][] = [
    ["moodle5", 8, 8192],
    ["moodle6", 8, 8192],
  ];
  expect(createdVms(seen)).toEqual([...documented, ...more].sort(([a], [b]) => (a < b ? -1 : 1)));
});

describe("mistakes end the preview before anything is planned", () => {
  it("all in one report, exit code not 0, and no VM in the plan", () => {
    const sites = fs.mkdtempSync(path.join(scratch, "sites-"));
    const site = fs.readFileSync(path.join(root, "sites/prod/library.yaml"), "utf8");
    fs.writeFileSync(path.join(sites, "library.yaml"), site.replace(/version: .*/, 'version: "5.6"'));
    const secrets = path.join(initialised("prod").directory, secretsFile("prod"));
    const whole = fs.readFileSync(secrets, "utf8");
    const { config: all, ...rest } = YAML.parse(whole) as { config: Record<string, unknown> };
    delete all["fleet:tlsPrivateKey"];
    fs.writeFileSync(secrets, YAML.stringify({ ...rest, config: all }));
    const seen = preview("prod", (config) => {
      config["fleet:sites"] = sites;
      const mutualised = config["fleet:mutualised"] as { vip: string; apache: { hosts: Record<string, string>; vcpu: unknown } };
      mutualised.vip = "10.99.0.1";
      mutualised.apache.hosts["web2"] = mutualised.apache.hosts["web1"] ?? "";
      mutualised.apache.vcpu = "four";
      config["fleet:speling"] = true;
    });
    fs.writeFileSync(secrets, whole);
    expect(seen.code).not.toBe(0);
    const properties = ["fleet:mutualised.vip", "web2", "apache.vcpu", "fleet:speling", "library.yaml: php.version", "tlsPrivateKey"];
    for (const part of [...properties, "6 mistakes; nothing was touched"]) {
      expect(seen.text).toContain(part);
    }
    expect(createdVms(seen)).toEqual([]);
  });
});

describe("what vCenter answers ends the preview in one report, once and without a stack trace", () => {
  const vsphere = (edit: Record<string, unknown>): Preview =>
    preview("prod", (config) => Object.assign(config["fleet:vsphere"] as object, edit));
  const expectOnly = (seen: Preview, ...lines: string[]): void => {
    expect(seen.code, seen.text).not.toBe(0);
    expect(seen.messages, seen.text).toHaveLength(1);
    const [head, ...rest] = (seen.messages[0] ?? "").trimEnd().split("\n");
    expect(head).toBe(
      `error: The configuration has ${lines.length === 1 ? "1 mistake" : `${lines.length} mistakes`}; nothing was touched.`,
    );
    expect(rest).toEqual(lines.map((line): unknown => expect.stringContaining(`  - Pulumi.prod.yaml: fleet:vsphere.${line}`)));
    expect(createdVms(seen)).toEqual([]);
  };

  it("names that vCenter lacks are told, all of them", () => {
    expectOnly(
      vsphere({ cluster: "no-cluster", datastore: "no-datastore", network: "no-network", templates: { bookworm: "no-template" } }),
      'cluster is "no-cluster"; allowed: a cluster in datacenter DC0 that administrator@vsphere.local may see. Correct the name',
      'datastore is "no-datastore"; allowed: a datastore in datacenter DC0',
      'network is "no-network"; allowed: a network in datacenter DC0',
      'templates.bookworm is "no-template"; allowed: a template VM in datacenter DC0',
    );
  });

  it("so are an account that it refuses, and a certificate that cannot be verified", () => {
    expectOnly(vsphere({ user: "nobody@vsphere.local" }), 'user is "nobody@vsphere.local"; allowed: an account');
    expectOnly(vsphere({ allowUnverifiedSsl: false }), `server is "${server}"; allowed: a vCenter whose certificate`);
  });
});
