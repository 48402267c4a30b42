import { randomBytes } from "crypto";
import * as pulumi from "@pulumi/pulumi";
import type * as random from "@pulumi/random";

/**
 * The generated text that keys and passwords are made of. In an `up` with targets, one that is no target and not there
 * yet has none. Nothing that hangs on it is made then, so what stands for it here reaches no machine.
 */
export function seedOf(generated: random.RandomPassword): pulumi.Output<string> {
  return generated.result.apply((text) => (text as string | undefined) ?? randomBytes(32).toString("hex"));
}
