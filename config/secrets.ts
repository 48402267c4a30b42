import { createPrivateKey, X509Certificate, type KeyObject } from "crypto";
import * as sshpk from "sshpk";
import { secretsFile } from "./load";
import type { Problem } from "./problems";

/**
 * What is wrong with secrets that are there: a key or certificate that is none would be found out
 * only when VMs exist already. Tells nothing of their texts.
 */
export function secretMistakes(stack: string, secrets: Readonly<Record<string, unknown>>): Problem[] {
  const found: Problem[] = [];
  const mistake = (name: string, value: string, allowed: string): void => {
    const remedy = `Set it again: npm run fleet -- secret ${name} -s ${stack} < FILE`;
    found.push({ file: secretsFile(stack), property: name, value, allowed, remedy });
  };
  // An empty one is the loader's to refuse.
  const [sshPrivateKey, tlsCertificate, tlsPrivateKey] = ["sshPrivateKey", "tlsCertificate", "tlsPrivateKey"].map(
    (n) => secrets[n] || undefined,
  );
  if (typeof sshPrivateKey === "string" && !parsed(() => sshpk.parsePrivateKey(sshPrivateKey, "auto"))) {
    mistake("sshPrivateKey", "no key that can be read", "an OpenSSH private key without passphrase");
  }
  const certificate = typeof tlsCertificate === "string" ? parsed(() => new X509Certificate(tlsCertificate)) : undefined;
  if (typeof tlsCertificate === "string" && !certificate)
    mistake("tlsCertificate", "no certificate", "a certificate in PEM, its chain after it");
  const key: KeyObject | undefined = typeof tlsPrivateKey === "string" ? parsed(() => createPrivateKey(tlsPrivateKey)) : undefined;
  if (typeof tlsPrivateKey === "string" && !key)
    mistake("tlsPrivateKey", "no key that can be read", "a private key in PEM without passphrase");
  if (certificate && key && !certificate.checkPrivateKey(key))
    mistake("tlsPrivateKey", "another certificate's key", "the key of tlsCertificate");
  return found;
}

function parsed<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch {
    return undefined;
  }
}
