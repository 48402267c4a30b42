// pulumi itself, after the locks of killed runs have been cleared away: nobody unlocks by hand.
import { spawnSync } from "child_process";
import { fileBackend, removeStaleLocks } from "./locks";
import { withProgram } from "./stack";

const backend = fileBackend();
for (const lock of backend ? removeStaleLocks(backend) : []) process.stderr.write(`removed ${lock}: its process is gone\n`);
// An interrupt reaches pulumi too, which ends in good order; this process waits for it.
process.on("SIGINT", () => undefined);
const { status } = spawnSync("pulumi", withProgram(process.argv.slice(2)), { stdio: "inherit" });
process.exitCode = status ?? 1;
