// Exits 0 when node_modules holds what package-lock.json asks for. npm writes
// node_modules/.package-lock.json last, so an installation that was interrupted
// does not have it. Packages beyond the lock file (the vSphere SDK) are welcome.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = process.argv[2];
const packagesOf = (file) => {
  const path = join(root, file);
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")).packages ?? {}) : {};
};

const wanted = packagesOf("package-lock.json");
const present = packagesOf("node_modules/.package-lock.json");
const complete = Object.entries(wanted).every(([path, entry]) => {
  if (path === "") return true;
  const found = present[path];
  // A package for another platform is optional and rightly absent.
  if (found === undefined) return entry.optional === true;
  return found.version === entry.version && found.integrity === entry.integrity && existsSync(join(root, path));
});
process.exit(complete && Object.keys(present).length > 0 ? 0 : 1);
