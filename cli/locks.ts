// Locks that a killed pulumi left in a file backend.
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { fileURLToPath } from "url";

/** What pulumi writes into a lock. */
interface Lock {
  readonly pid: number;
  readonly hostname: string;
}

/** URL of the backend that pulumi would use now; undefined where nobody has logged in. */
export function backendUrl(): string | undefined {
  const home = process.env["PULUMI_CREDENTIALS_PATH"] ?? process.env["PULUMI_HOME"] ?? path.join(os.homedir(), ".pulumi");
  const credentials = path.join(home, "credentials.json");
  const current = fs.existsSync(credentials)
    ? (JSON.parse(fs.readFileSync(credentials, "utf8")) as { current?: string }).current
    : undefined;
  return process.env["PULUMI_BACKEND_URL"] ?? (current || undefined);
}

/** Directory of the file backend that pulumi would use now; undefined for any other backend. */
export function fileBackend(): string | undefined {
  const url = backendUrl();
  if (!url?.startsWith("file://")) return undefined;
  const place = url.replace(/^file:\/\/~/, `file://${os.homedir()}`);
  return place.startsWith("file:///") ? fileURLToPath(place) : path.resolve(place.slice("file://".length));
}

/** Removes locks whose process, of this very computer, is gone; tells which. Those of others stay. */
export function removeStaleLocks(backend: string): string[] {
  const locks = path.join(backend, ".pulumi", "locks");
  if (!fs.existsSync(locks)) return [];
  const files = fs
    .readdirSync(locks, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".json"))
    .map((name) => path.join(locks, name));
  const stale = files.filter((file) => {
    const { pid, hostname } = JSON.parse(fs.readFileSync(file, "utf8")) as Lock;
    return hostname === os.hostname() && !fs.existsSync(`/proc/${pid}`);
  });
  stale.forEach((file) => fs.rmSync(file, { force: true }));
  return stale;
}
