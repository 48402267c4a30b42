import type { Site } from "../../config/model";
import { sitesDirectory } from "../nas/mount";

/** Where the code of applications is on their VMs: root's, and one directory for each archive. */
export const codeDirectory = "/opt/code";

/** Where a site's code is: an application's is on the VM, any other's in its tree on the NAS. */
export const treeOf = ({ name, code }: Pick<Site, "name" | "code">): string =>
  code ? `${codeDirectory}/${code.artefact}` : `${sitesDirectory}/${name}`;

/** Its document root. */
export function documentRootOf(site: Pick<Site, "name" | "code" | "documentRoot">): string {
  const below = site.code ? site.code.documentRoot : site.documentRoot;
  return below === "" ? treeOf(site) : `${treeOf(site)}/${below}`;
}

/** Directories of the code that are the application's to write, each with its place on the NAS, and its URL path where the Web sees it. */
export function writableOf({ name, code }: Pick<Site, "name" | "code">): { path: string; directory: string; url: string | false }[] {
  const root = code?.documentRoot ? `${code.documentRoot}/` : "";
  return (code?.writable ?? []).map((path) => ({
    path,
    directory: `${sitesDirectory}/${name}/${path}`,
    url: path.startsWith(root) && `/${path.slice(root.length)}`,
  }));
}

/** What an application keeps for one VM alone: `CacheDirectory=` in its box. */
export const localDirectory = ({ name }: Pick<Site, "name">): string => `/var/cache/fleet/${name}`;
