// Where the lab keeps things. Two roots: what can be made again (cache), and what cannot (state).
import * as os from "os";
import * as path from "path";
import { labNumber } from "./settings";

/** Everything rebuilt from pinned inputs: kernel, images, sources. Default `~/.cache/php-fleet`. */
export const cacheRoot =
  process.env["FLEET_CACHE"] ?? path.join(process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "php-fleet");

/** Inventory, guests' disks, secrets, logs. Default `/var/lib/php-fleet-lab`, with the lab's number when it has one. */
export const labRoot = process.env["FLEET_LAB"] ?? `/var/lib/php-fleet-lab${labNumber === 0 ? "" : `-${labNumber}`}`;

/** The checkout this program was started from. */
export const repoRoot = path.resolve(__dirname, "..");

/** The stack's configuration as it is committed. */
export const committedConfig = path.join(repoRoot, "Pulumi.lab.yaml");

export const labPaths = {
  run: path.join(labRoot, "run"),
  logs: path.join(labRoot, "logs"),
  images: path.join(labRoot, "images"),
  secrets: path.join(labRoot, "secrets.json"),
  facts: path.join(labRoot, "facts.json"),
  lock: path.join(labRoot, "run", "lab.lock"),
  /** fleet-vcenter's control API, a unix socket. */
  control: path.join(labRoot, "run", "vcenter.sock"),
} as const;
