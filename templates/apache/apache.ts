import type { Machine, Site } from "../../config/model";
import { documentRootOf, writableOf } from "../application/tree";
import type { HostContent } from "../content";
import { programFile } from "../programs";
import { render } from "../render";
import { trialCheck, unitDirectory, unitFile } from "../system/system";
import { trialTokenFile, trialView } from "./php-trial";

/** Modules of httpd that the fleet's configuration uses; a module that nothing names is not loaded. */
const modules = [
  "mpm_event", "alias", "auth_basic", "authn_core", "authn_file", "authz_core", "authz_host", "authz_user",
  "deflate", "dir", "env", "expires", "filter", "headers", "mime", "proxy", "proxy_fcgi", "reqtimeout",
  "rewrite", "setenvif", "socache_shmcb", "ssl",
]; // prettier-ignore

/**
 * What a site's .htaccess may say. A RewriteRule can choose any handler and proxy of the modules above, and variables
 * for PHP: no module has a page of its own to show, and what comes to PHP from another site's vhost ends in its guard.
 */
const overrides = [
  "AuthName", "AuthType", "AuthUserFile", "DirectoryIndex", "ErrorDocument", "ExpiresActive", "ExpiresByType",
  "ExpiresDefault", "Redirect", "RedirectMatch", "Require", "RewriteBase", "RewriteCond", "RewriteEngine", "RewriteRule",
]; // prettier-ignore

/** httpd's own ThreadLimit. */
export const threadsPerChild = 64;

/** Of a process's threads, how many may wait for the PHP of one site. */
const mostOfASite = threadsPerChild / 2;

/** Port of this VM alone on which a candidate is tried. */
const trialPort = 8443;

/** Apache on one VM: the server at its VIP, and one vhost for each site. `phpVips` names each PHP group's address. */
export function apachePart(
  machine: Machine,
  vip: string,
  sites: readonly Site[],
  phpVips: Readonly<Record<string, string>>,
  most = mostOfASite,
): Partial<HostContent> {
  const unit = "fleet-apache.service";
  const listen = "/etc/apache2/listen.conf";
  // An idle event worker thread needs about 1 MB with its TLS buffers; a quarter of the VM is theirs.
  const processes = Math.max(2, Math.floor(machine.memoryMb / 4 / threadsPerChild));
  const main = {
    name: machine.name,
    modules: modules.map((module) => ({ module })),
    processes,
    threads: threadsPerChild,
    workers: processes * threadsPerChild,
    slots: 4 * processes,
    trialPort,
  };
  // As a visitor comes who names no site; a VIP is local to the VM that is asked.
  const doors = ["http", "https"].map((scheme) => ({
    name: `${scheme} at the VIP`,
    kind: "http" as const,
    url: `${scheme}://${vip}/`,
    status: [404],
  }));
  const hosts = Object.fromEntries(sites.map((site) => [site.name, site.hosts[0]]));
  return {
    packages: ["apache2"],
    files: [
      { path: "/etc/apache2/fleet.conf", text: render(__dirname, "fleet.conf", main) },
      { path: listen, text: render(__dirname, "listen.conf", {}) },
      ...sites.map((site) => vhostFile(site, phpVips[site.php.group], most)),
      { path: "/etc/logrotate.d/fleet-apache", text: render(__dirname, "fleet-apache.logrotate", {}) },
      unitFile(unit, render(__dirname, unit, {})),
      { path: "/etc/fleet/sites.json", text: `${JSON.stringify(hosts, null, 2)}\n` },
      programFile("trial.py"),
    ],
    secrets: [
      { path: "/etc/fleet/tls/default.crt", mode: "0644", secret: "tlsCertificate" },
      { path: "/etc/fleet/tls/default.key", mode: "0600", secret: "tlsPrivateKey" },
      ...sites.flatMap(trialTokenFile),
    ],
    checks: [
      { name: "apache2 -t", argv: ["/usr/sbin/apache2", "-t", "-f", "/etc/apache2/fleet.conf"] },
      trialCheck("sites that work now", ["sites", "443", String(trialPort)], ["/etc/apache2/", "/etc/fleet/vhosts/", "/etc/fleet/tls/"]),
    ],
    units: [
      {
        name: unit,
        reload: ["/etc/apache2/", "/etc/fleet/vhosts/", "/etc/fleet/tls/"],
        restart: [`${unitDirectory}/${unit}`, listen],
        drain: true,
      },
    ],
    probes: doors.map((door) => ({ ...door, within: 10 })),
    health: doors,
  };
}

/** The vhost of one site: Apache serves its files, the group's address its PHP. */
export function vhostFile(site: Site, vip: string | undefined, most = mostOfASite): { path: string; text: string } {
  const [host, ...aliases] = site.hosts;
  const view = {
    name: site.name,
    host,
    aliases,
    redirect: site.https === "redirect",
    root: documentRootOf(site),
    fallback: site.code?.fallback ?? false,
    written: writableOf(site).filter(({ url }) => url !== false),
    overrides: overrides.join(" "),
    vip,
    port: site.port,
    phpVersion: site.php.version,
    group: site.php.group,
    timeout: 120,
    most,
    trial: trialView(site),
  };
  return { path: `/etc/fleet/vhosts/${site.name}.conf`, text: render(__dirname, "vhost.conf", view) };
}
