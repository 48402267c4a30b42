import { createHash } from "crypto";
import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import * as random from "@pulumi/random";
import { allSites } from "../config/applications";
import type { Fleet, Site } from "../config/model";
import { moodleSessionCommands } from "../templates/moodle/moodle";
import { redisRules, redisUser } from "../templates/php/fpm";
import { hostProgram } from "../templates/programs";
import type { Host } from "./host";
import { redisPassword } from "./keys";
import { runProgram, withProgram } from "./programs";
import { seedOf } from "./seed";

/** A site's own user on the Redis server. */
export interface RedisUser {
  readonly site: Site;
  readonly name: string;
  readonly password: pulumi.Output<string>;
  readonly rules: readonly string[];
}

/** The users of a stack's sites, and what may make them. */
export interface RedisAccess {
  /** Password of the server's default user. */
  readonly password: pulumi.Input<string>;
  readonly users: readonly RedisUser[];
}

/**
 * A user, with a password of its own, for each site whose sessions are in Redis. One seed for all of them: a password
 * that is a resource would be unknown in the preview that adds its site, and hide every line of the PHP VMs' content.
 * @returns nothing where the sites share the default user, or no site has ever needed the server.
 */
export function redisAccess(fleet: Fleet, password: string | undefined): RedisAccess | undefined {
  if (fleet.config.redis?.users !== "each" || password === undefined) return undefined;
  const seed = seedOf(new random.RandomPassword("redis-passwords", { length: 64, special: false }));
  const moodle = fleet.applications.find((a) => a.moodle)?.site;
  const users = allSites(fleet)
    .filter((site) => site.sessions === "redis")
    .map((site) => ({
      site,
      name: redisUser(fleet, site),
      password: seed.apply((s) => redisPassword(s, site.name)),
      rules: redisRules(site, site === moodle ? moodleSessionCommands : []),
    }));
  return { password: pulumi.secret(password), users };
}

export interface RedisUsersArgs {
  fleet: Fleet;
  access: RedisAccess;
  /** VM from which the server is told: one that no site's code runs on. */
  host: Host;
  /** What that VM must be through first. */
  after: readonly pulumi.Resource[];
}

/**
 * The users of the sites on the Redis server, which is not the fleet's own. It is told twice: before
 * the sites' PHP changes, which new users and passwords there are; and when every PHP VM is proved,
 * that these are all. So a login works as long as any VM uses it, also on one that goes back.
 *
 * ### Operations
 * - a site whose sessions are in Redis, or no longer: one user more or less; no other is touched.
 * - a replaced seed: old and new passwords work until every PHP VM has the new ones.
 */
export class RedisUsers extends pulumi.ComponentResource {
  readonly nodes: { readonly made: command.remote.Command };
  private readonly tell: (part: string, settle: boolean, after: readonly pulumi.Resource[]) => command.remote.Command;

  constructor(name: string, { fleet, access, host, after }: RedisUsersArgs, opts: pulumi.ComponentResourceOptions = {}) {
    super("hosting:redis:RedisUsers", name, {}, opts);
    const users = pulumi.output(Object.fromEntries(access.users.map((user) => [user.name, wanted(user)])));
    this.tell = (part, settle, after) =>
      new command.remote.Command(
        `${name}-${part}`,
        {
          connection: host.connection,
          create: runProgram,
          stdin: pulumi.secret(
            pulumi.all([access.password, users]).apply(([password, all]) => {
              const { address, port, tls } = fleet.config.redis ?? {};
              const server = { address, port, ...(tls ? { tls: { authority: fleet.redisAuthority, name: tls.name } } : {}) };
              const order = { stack: fleet.stack, ...server, password, prefix: redisUser(fleet, { name: "" }), users: all, settle };
              return withProgram(hostProgram("redisusers.py"), JSON.stringify(order));
            }),
          ),
          logging: command.remote.Logging.Stderr,
          addPreviousOutputInEnv: false,
        },
        { parent: this, dependsOn: [...after], hideDiffs: ["connection"], additionalSecretOutputs: ["connection"] },
      );
    this.nodes = { made: this.tell("made", false, after) };
    this.registerOutputs({ users: access.users.map((user) => user.name) });
  }

  /** Other passwords and users of this stack go, when the tiers that used them are through. */
  settle(tiers: readonly pulumi.Resource[]): command.remote.Command {
    return this.tell("settled", true, [this.nodes.made, ...tiers]);
  }
}

/** What redisusers.py reads of a user: the server is never told the password itself. */
function wanted({ password, rules }: RedisUser): pulumi.Output<{ passwords: string[]; rules: readonly string[] }> {
  const digest = (text: string): string => createHash("sha256").update(text).digest("hex");
  return password.apply((text) => ({ passwords: [`#${digest(text)}`], rules }));
}
