import * as pulumi from "@pulumi/pulumi";
import * as random from "@pulumi/random";
import { createPlacement } from "../components/placement";
import type { Platform } from "../components/tier";
import { loadFleet } from "../config/load";
import { ConfigError } from "../config/problems";
import { sessionSecret, sessionSettings } from "../templates/php/fpm";
import { createDedicated } from "./dedicated";
import { createMoodle } from "./moodle";
import { createMutualised } from "./mutualised";
import { readConfig } from "./read";

/** Reads and checks everything that was written; the operator's mistakes end the run as a plain report. */
function load(): ReturnType<typeof loadFleet> {
  try {
    return loadFleet(readConfig(pulumi.getStack(), pulumi.runtime.allConfig()));
  } catch (error) {
    if (error instanceof ConfigError) throw new pulumi.RunError(error.message);
    throw error;
  }
}

const { fleet, secrets } = load();
const digestSeed = new random.RandomPassword("secret-digests", { length: 64, special: false });
const sessions = fleet.sites.map((site) => {
  const { redis, memcached } = fleet.config;
  const store = { redis: redis && { ...redis, password: secrets.redisPassword }, memcached };
  return [sessionSecret(site), pulumi.secret(sessionSettings(site, store))] as const;
});
const platform: Platform = {
  fleet,
  placement: createPlacement(fleet),
  secrets: {
    sshPrivateKey: pulumi.secret(secrets.sshPrivateKey),
    tlsCertificate: pulumi.secret(secrets.tlsCertificate),
    tlsPrivateKey: pulumi.secret(secrets.tlsPrivateKey),
    ...Object.fromEntries(sessions),
  },
  digestKey: digestSeed.result,
};
createMutualised(platform);
createDedicated(platform);
createMoodle(platform);

/** What the other tools need to know of the stack. */
export const machines = fleet.machines.map(({ name, role, tier, address, vcpu, memoryMb, debian }) => ({
  name,
  role,
  tier,
  address,
  vcpu,
  memoryMb,
  debian,
}));
/** Balanced services with their addresses and ports. */
export const services = fleet.services;
/** DNS names of every site. */
export const sites = fleet.sites.map((s) => ({ name: s.name, hosts: s.hosts, php: s.php.version, group: s.php.group }));
