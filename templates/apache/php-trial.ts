import type { Site } from "../../config/model";
import type { SecretFile } from "../content";

/*
 * The trial of another PHP version on a live site, as Apache sees it: requests with the site's trial cookie go to the
 * trial's port. The cookie's value is a secret token, defined in a file beside the vhost, so that neither the vhost nor
 * a preview shows it.
 */

/** URL path below which a tester gets the cookie (`<token>`) and is rid of it (`off`). */
const way = "/.well-known/fleet-trial";

/** Browsers take a cookie of this prefix over HTTPS alone, and from no other host than the site's own. */
const cookie = "__Host-fleet-trial";

/** Name under which the program passes the text of a site's token file. */
export const trialSecret = (site: Pick<Site, "name">): string => `trial-${site.name}`;

/** Name of the token in Apache's configuration. */
const definition = (site: Pick<Site, "name">): string => `fleet-trial-${site.name}`;

/** Text of a site's token file. */
export const trialDefinition = (site: Pick<Site, "name">, token: string): string =>
  `# Managed by the fleet program.\nDefine ${definition(site)} ${token}\n`;

/** The token file of a site that has a trial. */
export function trialTokenFile(site: Site): SecretFile[] {
  const path = `/etc/fleet/vhosts/${site.name}.trial`;
  return site.php.trial ? [{ path, mode: "0600", secret: trialSecret(site) }] : [];
}

/** What the vhost's template needs of a trial; false where there is none. */
export function trialView(site: Site): object | false {
  const name = definition(site);
  return site.php.trial ? { ...site.php.trial, way, cookie, definition: name, token: `\${${name}}` } : false;
}

/** What a tester opens once, on the host that is tested. */
export const trialUrl = (site: Pick<Site, "hosts">, token: string): string => `https://${site.hosts[0] ?? ""}${way}/${token}`;
