import * as sshpk from "sshpk";
import { expect, it } from "vitest";
import { describeProblem } from "../../config/problems";
import { secretMistakes } from "../../config/secrets";

function pair(): { tlsCertificate: string; tlsPrivateKey: string } {
  const key = sshpk.generatePrivateKey("ecdsa");
  const certificate = sshpk.createSelfSignedCertificate(sshpk.identityForHost("site.test"), key);
  return { tlsCertificate: certificate.toBuffer("pem").toString(), tlsPrivateKey: key.toString("pkcs8") };
}
const sshPrivateKey = sshpk.generatePrivateKey("ed25519").toString("ssh-private");

it("keys and certificates that are right are no mistake, nor are those that are missing", () => {
  expect(secretMistakes("lab", { sshPrivateKey, ...pair() })).toEqual([]);
  expect(secretMistakes("lab", {})).toEqual([]);
});

it.each([
  ["text instead of a key", { sshPrivateKey: "canary" }, "sshPrivateKey is"],
  ["a key with a passphrase", { sshPrivateKey: sshPrivateKey.replace("bm9uZQ", "YWVzMj") }, "sshPrivateKey is"],
  ["text instead of a certificate", { ...pair(), tlsCertificate: "canary" }, "tlsCertificate is"],
  ["text instead of its key", { ...pair(), tlsPrivateKey: "canary" }, "tlsPrivateKey is"],
  ["the key of another certificate", { ...pair(), tlsPrivateKey: pair().tlsPrivateKey }, 'tlsPrivateKey is "another'],
])("%s is told before anything is touched, and nothing of the text", (_, wrong, part) => {
  const found = secretMistakes("lab", { sshPrivateKey, ...wrong }).map(describeProblem);
  expect(found).toEqual([expect.stringContaining(`Pulumi.lab.secrets.yaml: ${part}`)]);
  expect(found.join()).not.toContain("canary");
});
