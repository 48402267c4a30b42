// What the program's lab stack is configured with. Written for it on every `up`, readable by root only.
import { annexPorts } from "./annex";
import { labPaths } from "./paths";
import { annex, aptProxy, vcenter } from "./settings";
import { sources } from "./sources";
import { writeAtomic } from "./shell";
import type { Secrets } from "./secrets";

export interface Facts {
  /** host:port of the simulated vCenter; its certificate is self-signed. */
  vsphereServer: string;
  vsphereUser: string;
  vspherePassword: string;
  sshPrivateKey: string;
  sshPublicKey: string;
  tlsCertificate: string;
  tlsPrivateKey: string;
  annexAddress: string;
  redisPort: number;
  redisPassword: string;
  memcachedPort: number;
  mariadbPort: number;
  wordpressDbPassword: string;
  /** URL for apt's Acquire::http::Proxy in guests. */
  aptProxy: string;
  /** Where guests fetch tarballs: this, a slash, and a name of `sources`. */
  sourcesUrl: string;
  /** SHA-256 of each tarball, by file name. */
  sources: Record<string, string>;
}

export function facts(known: Secrets): Facts {
  return {
    vsphereServer: vcenter.listen,
    vsphereUser: vcenter.user,
    vspherePassword: known.vspherePassword,
    sshPrivateKey: known.sshPrivateKey,
    sshPublicKey: known.sshPublicKey,
    tlsCertificate: known.tlsCertificate,
    tlsPrivateKey: known.tlsPrivateKey,
    annexAddress: annex.address,
    redisPort: annexPorts.redis,
    redisPassword: known.redisPassword,
    memcachedPort: annexPorts.memcached,
    mariadbPort: annexPorts.mariadb,
    wordpressDbPassword: known.wordpressDbPassword,
    aptProxy: `http://${aptProxy.address}:${aptProxy.port}`,
    sourcesUrl: `http://${annex.address}`,
    sources: Object.fromEntries(sources.map((s) => [s.name, s.sha256])),
  };
}

export function writeFacts(known: Secrets): void {
  writeAtomic(labPaths.facts, JSON.stringify(facts(known), null, 2) + "\n", 0o600);
}
