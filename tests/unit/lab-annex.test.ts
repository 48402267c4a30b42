import { execFileSync } from "child_process";
import { createHash } from "crypto";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { expect, test } from "vitest";
import * as YAML from "yaml";
import { annexSpec, annexUserData } from "../../lab/annex";
import { facts } from "../../lab/facts";
import type { Secrets } from "../../lab/secrets";
import { sources, versionSources } from "../../lab/sources";

const secrets: Secrets = {
  vspherePassword: "vsphere-1",
  redisPassword: "redis-1",
  wordpressDbPassword: "wordpress-1",
  mariadbRootPassword: "root-1",
  sshPrivateKey: "PRIVATE",
  sshPublicKey: "ssh-ed25519 AAAA lab",
  tlsCertificate: "CERTIFICATE",
  tlsPrivateKey: "TLS KEY",
  vcenterCertificate: "VCENTER CERTIFICATE",
  vcenterPrivateKey: "VCENTER KEY",
};

interface UserData {
  users: { name: string; ssh_authorized_keys: string[] }[];
  write_files: { path: string; permissions: string; content: string }[];
  runcmd: string[];
}

function parsed(): UserData {
  return YAML.parse(annexUserData(secrets)) as UserData;
}

test("the annex's user data is cloud-config that lets the lab's key in", () => {
  expect(annexUserData(secrets).split("\n")[0]).toBe("#cloud-config");
  expect(parsed().users).toMatchObject([{ name: "fleet", ssh_authorized_keys: [secrets.sshPublicKey] }]);
});

test("files with passwords are not readable by everyone", () => {
  const files = parsed().write_files;
  for (const word of [secrets.redisPassword, secrets.wordpressDbPassword]) {
    const holders = files.filter((f) => f.content.includes(word));
    expect(holders).not.toHaveLength(0);
    for (const file of holders) expect(Number.parseInt(file.permissions, 8) & 0o007, file.path).toBe(0);
  }
});

test("Redis lets nobody in without the password, though it ignores requirepass beside an aclfile", () => {
  const file = parsed().write_files.find((f) => f.path.endsWith("default.acl"));
  const digest = createHash("sha256").update(secrets.redisPassword).digest("hex");
  expect(file?.content).toBe(`user default on #${digest} ~* &* +@all\n`);
});

test("Redis' users outlive new settings of the annex, and the first of them has the lab's password then", () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-annex-"));
  const users = path.join(directory, "users.acl");
  const apply = (redisPassword: string): string[] => {
    const { write_files, runcmd } = YAML.parse(annexUserData({ ...secrets, redisPassword })) as UserData;
    fs.writeFileSync(path.join(directory, "default.acl"), write_files.find((f) => f.path.endsWith("default.acl"))?.content ?? "");
    const [command = ""] = runcmd.filter((line) => line.includes("users.acl"));
    const here = command.replaceAll(/\/(etc|var\/lib)\/redis/g, directory).replace("chown redis:redis", "true");
    execFileSync("sh", ["-ec", here]);
    return fs.readFileSync(users, "utf8").trimEnd().split("\n");
  };
  try {
    const [first] = apply("one");
    const made = "user fleet:lab:wiki on #00 ~wiki:* -@all +get";
    fs.writeFileSync(users, `${first}\n${made}\n`);
    const after = apply("two");
    expect(after).toHaveLength(2);
    expect(after).toContain(made);
    expect(after).not.toContain(first);
    expect(apply("one").sort()).toEqual([first, made].sort());
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
});

test("the annex is given no private key", () => {
  const spec = annexSpec(secrets, "/images/a");
  const everything = JSON.stringify(spec) + Buffer.from(spec.guestinfo["guestinfo.userdata"] ?? "", "base64").toString();
  for (const key of [secrets.sshPrivateKey, secrets.tlsPrivateKey, secrets.vcenterPrivateKey]) expect(everything).not.toContain(key);
});

test("a changed secret gives the annex a new identity, an unchanged one does not", () => {
  expect(annexSpec(secrets, "/images/a").uuid).toBe(annexSpec({ ...secrets }, "/images/b").uuid);
  expect(annexSpec({ ...secrets, redisPassword: "other" }, "/images/a").uuid).not.toBe(annexSpec(secrets, "/images/a").uuid);
});

test("the program's facts name every pinned source with its hash", () => {
  expect(facts(secrets).sources).toEqual(Object.fromEntries(sources.map((s) => [s.name, s.sha256])));
  expect(facts(secrets)).toMatchObject({
    vsphereServer: "127.0.0.1:8989",
    annexAddress: "10.77.0.5",
  });
});

test("sources are pinned: a path below the archive's pool, a whole SHA-256, one name each", () => {
  const all = [...sources, ...versionSources];
  for (const source of all) {
    expect(source.path).toMatch(/^pool\/main\/[^ ]+\.orig\.tar\.(xz|gz)$/);
    expect(source.sha256).toMatch(/^[0-9a-f]{64}$/);
  }
  expect(new Set(all.map((s) => s.name)).size).toBe(all.length);
});
