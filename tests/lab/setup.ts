import { spawnSync } from "child_process";
import * as path from "path";

/** The lab, booted and with the fleet on it, before the first test of machines. */
export default function setup(): void {
  const { status } = spawnSync("bash", ["lab/lab", "up"], { cwd: path.join(__dirname, "..", ".."), stdio: "inherit" });
  if (status !== 0) throw new Error("the lab did not come up; its own messages are above");
}
