import * as pulumi from "@pulumi/pulumi";
import * as random from "@pulumi/random";
import * as vsphere from "@pulumi/vsphere";
import { createPlacement } from "../components/placement";
import { Leaving } from "../components/leaving";
import { applicationKey, trialToken } from "../components/keys";
import { redisAccess } from "../components/redis-users";
import { seedOf } from "../components/seed";
import type { Platform } from "../components/tier";
import { allSites } from "../config/applications";
import { loadFleet } from "../config/load";
import { ConfigError } from "../config/problems";
import { databasePassword } from "../config/schema";
import { trialDefinition, trialSecret, trialUrl } from "../templates/apache/php-trial";
import { sessionSecret, sessionSettings } from "../templates/php/fpm";
import { applicationSecret, secretsText } from "../templates/application/application";
import { createPlatforms } from "./platforms";
import { keptOutputs, readConfig } from "./read";

/** The operator's mistakes end the run as a plain report. */
function plainly(error: unknown): never {
  if (!(error instanceof ConfigError)) throw error;
  const report = new pulumi.RunError(error.message);
  // Pulumi hides the stack, but puts it in colours for its trace, which takes Node.js 20 seconds.
  delete report.stack;
  throw report;
}

/** Reads and checks everything that was written. */
function load(): ReturnType<typeof loadFleet> {
  const config = pulumi.runtime.allConfig();
  // Pulumi's own list of the keys that it decrypted; the SDK has no function for it.
  const encrypted = (JSON.parse(process.env["PULUMI_CONFIG_SECRET_KEYS"] ?? "null") ?? []) as string[];
  return loadFleet(readConfig({ stack: pulumi.getStack(), directory: pulumi.getRootDirectory(), config, encrypted }));
}

/** The program; what it returns are the stack's outputs. */
async function program(): Promise<pulumi.Inputs> {
  const { fleet, secrets } = load();
  const { server, user, allowUnverifiedSsl } = fleet.config.vsphere;
  const password = pulumi.secret(secrets.vspherePassword);
  const vcenter = new vsphere.Provider("vcenter", { vsphereServer: server, user, password, allowUnverifiedSsl });
  // vCenter's own answers come before anything is planned: as failures of resources they would be told once for each.
  const placement = await createPlacement(fleet, vcenter);
  const digestKey = seedOf(new random.RandomPassword("secret-digests", { length: 64, special: false }));
  const redisUsers = redisAccess(fleet, secrets.redisPassword);
  const sessions = allSites(fleet).map((site) => {
    const { redis, memcached } = fleet.config;
    const own = redisUsers?.users.find((u) => u.site === site);
    const login = pulumi.output(own ? own.password : secrets.redisPassword);
    const text = login.apply((p) => sessionSettings(site, { redis: redis && { ...redis, user: own?.name, password: p }, memcached }));
    return [sessionSecret(site), pulumi.secret(text)] as const;
  });
  const tokens = fleet.sites.flatMap((site) => {
    const { trial } = site.php;
    return trial ? [{ site, version: trial.version, token: digestKey.apply((key) => trialToken(key, site.name, trial)) }] : [];
  });
  const applications = fleet.applications.map((application) => {
    const own = redisUsers?.users.find((u) => u.site === application.site);
    const password = secrets[databasePassword(application.name)];
    const text = pulumi.all([digestKey, own?.password]).apply(([key, login]) => {
      const redis = own && login !== undefined ? ([own.name, login] as const) : secrets.redisPassword;
      return secretsText({ databasePassword: password, key: applicationKey(key, application.name), redis });
    });
    return [applicationSecret(application), pulumi.secret(text)] as const;
  });
  const platform: Platform = {
    fleet,
    providers: { vsphere: vcenter },
    placement,
    leaving: new Leaving(),
    secrets: {
      sshPrivateKey: pulumi.secret(secrets.sshPrivateKey),
      tlsCertificate: pulumi.secret(secrets.tlsCertificate),
      tlsPrivateKey: pulumi.secret(secrets.tlsPrivateKey),
      ...Object.fromEntries(sessions),
      ...Object.fromEntries(applications),
      ...Object.fromEntries(tokens.map(({ site, token }) => [trialSecret(site), token.apply((t) => trialDefinition(site, t))])),
    },
    digestKey,
    redis: redisUsers,
  };
  const members = createPlatforms(platform);

  /** What the other tools need to know of each VM, and how to reach it. */
  const machines = members.map(({ host: { machine, hostKey } }) => {
    const { name, role, tier, address, vcpu, memoryMb, debian } = machine;
    return { name, role, tier, address, vcpu, memoryMb, debian, user: fleet.config.ssh.user, hostKey };
  });
  /** Balanced services with their addresses and ports. */
  const services = fleet.services;
  /** DNS names of every site. */
  const sites = allSites(fleet).map((s) => ({ name: s.name, hosts: s.hosts, php: s.php.version, group: s.php.group }));
  /** PHP builds that the stack declares; `phptools retire` leaves them alone. */
  const phpBuilds = fleet.phpBuilds.map((b) => b.artefact);
  /** What each site tries, and the URL that lets a tester in; for `vhost trial`. */
  const trials = pulumi.secret(
    Object.fromEntries(tokens.map(({ site, version, token }) => [site.name, { version, url: token.apply((t) => trialUrl(site, t)) }])),
  );
  const kept = keptOutputs();
  if (kept) return { ...kept, trials: pulumi.secret(kept["trials"] ?? {}) };
  return { machines, services, sites, phpBuilds, trials };
}

export = (): Promise<pulumi.Inputs> => program().catch(plainly);
