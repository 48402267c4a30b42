import { createHash, createHmac, createPrivateKey, createPublicKey } from "crypto";
import * as sshpk from "sshpk";

/** DER header of an ed25519 private key in PKCS #8 (RFC 8410); the 32 bytes of the seed follow it. */
const pkcs8Ed25519 = Buffer.from("302e020100300506032b657004220420", "hex");

/** An SSH host key pair as sshd and its clients write it. */
export interface HostKey {
  /** `openssh-key-v1` text for cloud-init. */
  readonly privateKey: string;
  /** `ssh-ed25519 AAAA...`, what a client must be shown. */
  readonly publicKey: string;
}

/**
 * The ed25519 key pair of a seed, always the same one: so the key is known before the machine
 * exists, and the first connection is already checked against it.
 * @param seed a random text of at least 256 bits.
 */
export function hostKeyFromSeed(seed: string, comment: string): HostKey {
  if (seed.length < 43) throw new Error(`a host key needs a seed of 256 bits, 43 characters or more, not ${seed.length}`);
  const bytes = createHash("sha256").update(seed).digest();
  const key = createPrivateKey({ key: Buffer.concat([pkcs8Ed25519, bytes]), format: "der", type: "pkcs8" });
  const publicPem = createPublicKey(key).export({ format: "pem", type: "spki" }).toString();
  const privatePem = key.export({ format: "pem", type: "pkcs8" }).toString();
  const parsed = sshpk.parsePrivateKey(privatePem, "pem");
  parsed.comment = comment;
  const publicKey = sshpk.parseKey(publicPem, "pem").toString("ssh").split(" ").slice(0, 2).join(" ");
  return { privateKey: parsed.toString("ssh-private"), publicKey };
}

/** Public half of an OpenSSH private key, as a line of authorized_keys. */
export function publicKeyOf(privateKey: string): string {
  return sshpk.parsePrivateKey(privateKey, "auto").toPublic().toString("ssh").split(" ").slice(0, 2).join(" ");
}

/**
 * What a tester's cookie must hold to be served by a trial: 32 hexadecimal digits, others for each trial. Another version
 * may take the place and the port of one; the next trial of the same version has a port that none had before it.
 */
export function trialToken(key: string, site: string, trial: { version: string; port: number }): string {
  return createHmac("sha256", key).update(`trial\0${site}\0${trial.version}\0${trial.port}`).digest("hex").slice(0, 32);
}

/** A key of an application's own, 64 hexadecimal digits, others for each: it never changes by itself. */
export function applicationKey(key: string, name: string): string {
  return createHmac("sha256", key).update(`application\0${name}`).digest("hex");
}

/** Password of a site's user on the Redis server: 64 hexadecimal digits, others for each site. */
export function redisPassword(seed: string, site: string): string {
  return createHmac("sha256", seed).update(`redis\0${site}`).digest("hex");
}

/**
 * Version of a secret: changes when the secret does and tells nothing of it to whoever lacks the
 * key, so that it may stand in a bundle that reviewers read.
 */
export function secretDigest(key: string, secret: string): string {
  return createHmac("sha256", key).update(secret).digest("hex").slice(0, 32);
}
