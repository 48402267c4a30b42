// What the lab generates once: passwords, keys, certificates. And the facts file the program's lab stack is made from.
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { randomBytes } from "crypto";
import { labPaths } from "./paths";
import { run, writeAtomic } from "./shell";

export interface Secrets {
  vspherePassword: string;
  redisPassword: string;
  wordpressDbPassword: string;
  mariadbRootPassword: string;
  /** ed25519, OpenSSH PEM; its public half is given to every guest. */
  sshPrivateKey: string;
  sshPublicKey: string;
  /** Self-signed for *.lab.test: what visitors of the lab's sites see. */
  tlsCertificate: string;
  tlsPrivateKey: string;
  /** Self-signed for the simulated vCenter. */
  vcenterCertificate: string;
  vcenterPrivateKey: string;
}

/** Letters and digits only: a password that needs no quoting in any file it is written to. */
function password(): string {
  return randomBytes(32)
    .toString("base64")
    .replace(/[^A-Za-z0-9]/g, "")
    .slice(0, 28);
}

/** The lab's secrets; those that are missing are made, those that exist stay. */
export async function secrets(): Promise<Secrets> {
  const known: Partial<Secrets> = fs.existsSync(labPaths.secrets) ? JSON.parse(fs.readFileSync(labPaths.secrets, "utf8")) : {};
  const before = JSON.stringify(known);
  known.vspherePassword ??= password();
  known.redisPassword ??= password();
  known.wordpressDbPassword ??= password();
  known.mariadbRootPassword ??= password();
  if (!known.sshPrivateKey || !known.sshPublicKey) {
    const [key, publicKey] = await generated(
      ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet-lab", "-f", "key"],
      ["key", "key.pub"],
    );
    Object.assign(known, { sshPrivateKey: key, sshPublicKey: publicKey.trim() });
  }
  if (!known.tlsCertificate || !known.tlsPrivateKey) {
    const [key, certificate] = await selfSigned("*.lab.test", "DNS:*.lab.test,DNS:lab.test");
    Object.assign(known, { tlsPrivateKey: key, tlsCertificate: certificate });
  }
  if (!known.vcenterCertificate || !known.vcenterPrivateKey) {
    const [key, certificate] = await selfSigned("vcenter.lab.test", "DNS:vcenter.lab.test,IP:127.0.0.1");
    Object.assign(known, { vcenterPrivateKey: key, vcenterCertificate: certificate });
  }
  if (JSON.stringify(known) !== before) writeAtomic(labPaths.secrets, JSON.stringify(known, null, 2) + "\n", 0o600);
  return known as Secrets;
}

function selfSigned(name: string, alternatives: string): Promise<[string, string]> {
  return generated(
    [
      "openssl",
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-days",
      "3650",
      "-subj",
      `/CN=${name}`,
      "-addext",
      `subjectAltName=${alternatives}`,
      "-keyout",
      "key",
      "-out",
      "certificate",
    ],
    ["key", "certificate"],
  );
}

/** Runs a program that writes two files into a private directory, and returns their texts. */
async function generated(command: string[], files: [string, string]): Promise<[string, string]> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-lab-"));
  try {
    await run("sh", ["-c", 'cd "$1" && shift && umask 077 && exec "$@"', "sh", directory, ...command]);
    return [fs.readFileSync(path.join(directory, files[0]), "utf8"), fs.readFileSync(path.join(directory, files[1]), "utf8")];
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}
