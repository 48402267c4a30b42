import * as fs from "fs";
import * as path from "path";
import * as sshpk from "sshpk";
import * as YAML from "yaml";
import { databasePasswordsOf } from "../../config/applications";
import { loadFleet, type Loaded, type Written } from "../../config/load";
import { readFiles } from "../../stacks/read";

const root = path.join(__dirname, "..", "..");

/** Stand-ins for the secrets of a stack. */
export const exampleSecrets = {
  vspherePassword: "a vSphere password",
  sshPrivateKey: "an SSH key",
  tlsCertificate: "a certificate",
  tlsPrivateKey: "a TLS key",
  redisPassword: "a Redis password",
};

/** The same with what the applications of a stack need besides. */
export const secretsFor = (config: Readonly<Record<string, unknown>>): Record<string, string> => ({
  ...exampleSecrets,
  ...Object.fromEntries(databasePasswordsOf(config).map((name) => [name, `the text of ${name}`])),
});

/** A certificate and its key. */
export function tlsPair(): { tlsCertificate: string; tlsPrivateKey: string } {
  const key = sshpk.generatePrivateKey("ecdsa");
  const certificate = sshpk.createSelfSignedCertificate(sshpk.identityForHost("site.test"), key);
  return { tlsCertificate: certificate.toBuffer("pem").toString(), tlsPrivateKey: key.toString("pkcs8") };
}

/** What the committed files of a stack say, with stand-ins for its secrets. */
export function writtenStack(stack: string): Written & { config: Record<string, unknown>; secrets: Written["secrets"] } {
  const file = YAML.parse(fs.readFileSync(path.join(root, `Pulumi.${stack}.yaml`), "utf8"), { merge: true }) as {
    config: Record<string, unknown>;
  };
  const config = Object.fromEntries(Object.entries(file.config).map(([key, value]) => [key.replace(/^fleet:/, ""), value]));
  return { stack, config, encrypted: [], secrets: secretsFor(config), ...readFiles(stack, config) };
}

/** The validated platform of a committed stack. */
export function exampleFleet(stack: string): Loaded {
  return loadFleet(writtenStack(stack));
}

/** The lab's stack, in which PHP 8.4 is built too and the wiki tries it. */
export function withTrial(): Written & { config: Record<string, unknown>; sites: Record<string, Record<string, unknown>> } {
  const written = structuredClone(writtenStack("lab")) as ReturnType<typeof withTrial>;
  const php = written.config["php"] as Record<string, object>;
  php["8.4"] = { ...php["8.2"], release: "8.4.27" };
  (written.config["mutualised"] as { php: Record<string, { versions: string[] }> }).php["php-a"]?.versions.push("8.4");
  Object.assign(written.sites["sites/lab/wiki.yaml"]?.["php"] as object, { trial: { version: "8.4", port: 10004 } });
  return written;
}
