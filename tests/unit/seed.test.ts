import * as pulumi from "@pulumi/pulumi";
import type * as random from "@pulumi/random";
import { expect, it } from "vitest";
import { hostKeyFromSeed } from "../../components/keys";
import { seedOf } from "../../components/seed";

const valueOf = <T>(output: pulumi.Output<T>): Promise<T> => new Promise((resolve) => output.apply(resolve));
const generated = (text: string | undefined): random.RandomPassword => ({ result: pulumi.output(text) }) as random.RandomPassword;

it("a generated text is the seed", async () => {
  expect(await valueOf(seedOf(generated("a generated text")))).toBe("a generated text");
});

it("one that a targeted up leaves out ends nothing, and nobody can know what stands for it", async () => {
  const [one, other] = await Promise.all([1, 2].map(() => valueOf(seedOf(generated(undefined)))));
  expect(one).not.toBe(other);
  expect(hostKeyFromSeed(one ?? "", "web1").publicKey).toMatch(/^ssh-ed25519 /);
});
