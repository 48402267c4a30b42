import type { Application, Site } from "../../config/model";
import type { StackConfig } from "../../config/schema";
import type { Check } from "../content";
import { localDirectory } from "../application/tree";
import { sitesDirectory } from "../nas/mount";
import { redisContext, redisPrefix } from "../php/fpm";
import { programDirectory } from "../programs";
import { phpText } from "../application/php-text";
import { render } from "../render";

/**
 * What Moodle's own session handler asks Redis for beside PHP's. Not SCAN, which no rule of keys binds: it would tell
 * the names of every site's sessions. So Moodle cannot end all sessions at once.
 */
export const moodleSessionCommands = ["hdel", "hget", "hgetall", "hmget", "hmset", "hset", "info", "setnx", "ttl", "unlink"];

/** Moodle's config.php: everything but the secrets. */
export function moodleConfig(site: Site, { database }: NonNullable<Application["moodle"]>, redis: StackConfig["redis"]): string {
  if (!redis) throw new Error(`${site.name} keeps sessions in Redis, which the stack does not have`);
  const { type, host, port, name, user, prefix } = database;
  return render(__dirname, "config.php", {
    database: { type: phpText(type), host: phpText(host), port, name: phpText(name), user: phpText(user), prefix: phpText(prefix) },
    wwwroot: phpText(`https://${site.hosts[0] ?? ""}`),
    dataroot: `${sitesDirectory}/${site.name}`,
    local: localDirectory(site),
    redis: { address: redis.address, port: redis.port, prefix: redisPrefix(site), tls: redis.tls ? streamOptions(redis.tls) : false },
  });
}

/** PHP's options of a connection by TLS. Never none at all: Moodle would speak without it. */
function streamOptions(tls: NonNullable<NonNullable<StackConfig["redis"]>["tls"]>): string {
  const options = redisContext(tls).map(([option, text]) => `${phpText(option)} => ${phpText(text)}`);
  return `[${["'verify_peer' => true", ...options].join(", ")}]`;
}

/** What the check of a pending upgrade does with Moodle's answer. $0 is the link to the live generation: a new machine's has no files. */
const pendingScript = `"$@"
status=$?
case $status in
0) exit 0 ;;
2) echo "upgrade it first: npm run fleet -- moodle upgrade" ;;
*) [ "$(readlink "$0")" != generations/origin ] || exit 0
   echo "Moodle cannot say whether an upgrade is pending (exit $status): correct that, or install it first" ;;
esac
exit 1
`;

/**
 * Refuses other code while Moodle says that its database must be upgraded for it, and while it cannot say, unless this
 * machine is new: then there may be no database to be asked.
 * @param live the link to the live generation; what it leads to is the candidate's while checks run
 */
export function pendingCheck(site: Pick<Site, "name">, path: string, live = "/var/lib/fleet/current"): Check {
  // In the site's box, by the code that the candidate names.
  const ask = ["/usr/bin/python3", "-IB", `${programDirectory}/phpexec.py`, site.name, "admin/cli/upgrade.php", "--is-pending"];
  return {
    name: `the database of ${site.name} is of this code`,
    argv: ["/bin/sh", "-c", pendingScript, live, ...ask],
    paths: [path],
  };
}
