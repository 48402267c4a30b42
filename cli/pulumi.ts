// pulumi itself, after the locks of killed runs have been cleared away: nobody unlocks by hand.
import { spawnSync } from "child_process";
import { backendUrl, fileBackend, removeStaleLocks } from "./locks";
import { withProgram } from "./stack";

/** Commands that begin with the state; where nobody has logged in, pulumi would ask for an account of its makers' service. */
const ofState = ["cancel", "config", "destroy", "import", "preview", "refresh", "stack", "state", "up"];

function main(words: readonly string[]): number {
  if (ofState.includes(words[0] ?? "") && backendUrl() === undefined && !process.env["PULUMI_ACCESS_TOKEN"]) {
    process.stderr.write("no backend: npm run pulumi -- login file://DIRECTORY, or another one that keeps the stack's state\n");
    return 1;
  }
  const backend = fileBackend();
  for (const lock of backend ? removeStaleLocks(backend) : []) process.stderr.write(`removed ${lock}: its process is gone\n`);
  // An interrupt reaches pulumi too, which ends in good order; this process waits for it.
  process.on("SIGINT", () => undefined);
  return spawnSync("pulumi", withProgram(words), { stdio: "inherit" }).status ?? 1;
}

process.exitCode = main(process.argv.slice(2));
