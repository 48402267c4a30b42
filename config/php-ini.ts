import type { Problem } from "./problems";
import type { SiteConfig } from "./schema";

/** Who sets a name for every site, and what a site does instead. */
interface Setting {
  readonly by: string;
  readonly remedy: string;
}

const modules: Setting = {
  by: "the PHP build, which has all of its modules loaded",
  remedy: "Remove it, and name the module in php.modules.",
};
const sessions: Setting = { by: "the site's sessions", remedy: "Remove it, and choose the store by sessions." };
const tmp: Setting = { by: "the site's box, where /tmp is its own", remedy: "Remove it, and choose the size of /tmp by php.tmp." };

/** Names of php.ini that the fleet sets itself: in a site's file they would go round its walls, or do nothing. */
export const fleetSettings = {
  extension: modules,
  zend_extension: modules,
  auto_prepend_file: { by: "the guard that ends requests of other sites", remedy: "Remove it, and have the code include the file." },
  "session.save_handler": sessions,
  "session.save_path": sessions,
  "redis.session.locking_enabled": sessions,
  "redis.session.lock_wait_time": sessions,
  "redis.session.lock_retries": sessions,
  "redis.session.lock_expire": sessions,
  "memcached.sess_prefix": sessions,
  "memcached.sess_locking": sessions,
  "memcached.sess_lock_wait_min": sessions,
  "memcached.sess_lock_wait_max": sessions,
  "memcached.sess_lock_retries": sessions,
  "memcached.sess_lock_expire": sessions,
  "memcached.sess_connect_timeout": sessions,
  "memcached.sess_consistent_hash": sessions,
  "memcached.sess_binary_protocol": sessions,
  "memcached.sess_number_of_replicas": sessions,
  "memcached.sess_remove_failed_servers": sessions,
  "memcached.sess_server_failure_limit": sessions,
  sendmail_path: { by: "fleet:mail", remedy: "Remove it, and choose the sender by mail.from." },
  error_log: { by: "the VM, which has errors in its journal", remedy: "Remove it, and read the journal of the site's unit." },
  sys_temp_dir: tmp,
  upload_tmp_dir: tmp,
} as const satisfies Record<string, Setting>;
export type FleetSetting = keyof typeof fleetSettings;

const size = { form: /^\d+[KMG]?$/i, allowed: "a number of bytes, or one with K, M or G after it, such as 64M" };
const whole = { form: /^\d+$/, allowed: "a whole number" };

/** Quantities in the form that PHP reads as it was meant: `64MB` is 64 bytes to it. */
const quantities: Readonly<Record<string, { readonly form: RegExp; readonly allowed: string }>> = {
  memory_limit: { form: /^(-1|\d+[KMG]?)$/i, allowed: `${size.allowed}, or -1 for no limit` },
  post_max_size: size,
  upload_max_filesize: size,
  max_execution_time: whole,
  max_input_time: { form: /^(-1|\d+)$/, allowed: "a whole number, or -1 for that of max_execution_time" },
  max_input_vars: whole,
};

/** What is wrong with a site's php.ini values beyond their form: names of the fleet's own, and quantities that are none. */
export function checkIni(file: string, ini: SiteConfig["php"]["ini"]): Problem[] {
  return Object.entries(ini).flatMap(([name, value]) => {
    const at = { file, property: `php.ini.${name}`, value };
    const owner = (fleetSettings as Readonly<Record<string, Setting>>)[name];
    if (owner) return [{ ...at, allowed: `names that are the site's own; this one is set by ${owner.by}`, remedy: owner.remedy }];
    const quantity = quantities[name];
    if (!quantity || quantity.form.test(String(value))) return [];
    return [{ ...at, allowed: quantity.allowed, remedy: "Correct the value." }];
  });
}
