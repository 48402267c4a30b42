import * as sshpk from "sshpk";
import { expect, it } from "vitest";
import { describeProblem } from "../../config/problems";
import { secretMistakes } from "../../config/secrets";
import { tlsPair } from "./example";

const sshPrivateKey = sshpk.generatePrivateKey("ed25519").toString("ssh-private");

it("keys and certificates that are right are no mistake, nor are those that are missing", () => {
  expect(secretMistakes("lab", { sshPrivateKey, ...tlsPair() })).toEqual([]);
  expect(secretMistakes("lab", {})).toEqual([]);
});

it.each([
  ["text instead of a key", { sshPrivateKey: "canary" }, "sshPrivateKey is"],
  ["a key with a passphrase", { sshPrivateKey: sshPrivateKey.replace("bm9uZQ", "YWVzMj") }, "sshPrivateKey is"],
  ["text instead of a certificate", { ...tlsPair(), tlsCertificate: "canary" }, "tlsCertificate is"],
  ["text instead of its key", { ...tlsPair(), tlsPrivateKey: "canary" }, "tlsPrivateKey is"],
  ["the key of another certificate", { ...tlsPair(), tlsPrivateKey: tlsPair().tlsPrivateKey }, 'tlsPrivateKey is "another'],
])("%s is told before anything is touched, and nothing of the text", (_, wrong, part) => {
  const found = secretMistakes("lab", { sshPrivateKey, ...wrong }).map(describeProblem);
  expect(found).toEqual([expect.stringContaining(`Pulumi.lab.secrets.yaml: ${part}`)]);
  expect(found.join()).not.toContain("canary");
});
