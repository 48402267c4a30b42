import { execFileSync } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import fc from "fast-check";
import { expect, it } from "vitest";
import { hostKeyFromSeed, publicKeyOf, secretDigest, trialToken } from "../../components/keys";

const seed = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((b) => Buffer.from(b).toString("base64"));

it("one seed is always the same host key, another seed another one", () => {
  fc.assert(
    fc.property(seed, (s) => hostKeyFromSeed(s, "web1").publicKey === hostKeyFromSeed(s, "web2").publicKey),
    { numRuns: 20 },
  );
  fc.assert(
    fc.property(seed, seed, (a, b) => (a === b) === (hostKeyFromSeed(a, "x").publicKey === hostKeyFromSeed(b, "x").publicKey)),
    { numRuns: 20 },
  );
});

it("OpenSSH itself reads the private key and finds the same public key", () => {
  const key = hostKeyFromSeed("7".repeat(64), "web1");
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "key-"));
  const file = path.join(directory, "key");
  fs.writeFileSync(file, key.privateKey, { mode: 0o600 });
  const found = execFileSync("ssh-keygen", ["-y", "-f", file], { encoding: "utf8" });
  fs.rmSync(directory, { recursive: true });
  expect(found.split(" ").slice(0, 2).join(" ").trim()).toBe(key.publicKey);
  expect(publicKeyOf(key.privateKey)).toBe(key.publicKey);
});

it("a seed that is too short is refused", () => {
  expect(() => hostKeyFromSeed("7".repeat(42), "x")).toThrow("needs a seed of 256 bits, 43 characters or more, not 42");
});

it("a digest changes with the secret and with the key, and is the same for the same two", () => {
  expect(secretDigest("k", "a")).toBe(secretDigest("k", "a"));
  expect(secretDigest("k", "a")).not.toBe(secretDigest("k", "b"));
  expect(secretDigest("k", "a")).not.toBe(secretDigest("l", "a"));
});

it("a trial's token is another one for each key, site, version and port, and tells a regular expression nothing", () => {
  const trials = fc.record({ version: fc.constantFrom("8.2", "8.4"), port: fc.constantFrom(12000, 12001) }, { noNullPrototype: true });
  const parts = fc.tuple(fc.string(), fc.constantFrom("blog", "wiki", "wiki-8"), trials);
  fc.assert(fc.property(parts, parts, (a, b) => (trialToken(...a) === trialToken(...b)) === (JSON.stringify(a) === JSON.stringify(b))));
  expect(trialToken("k", "blog", { version: "8.4", port: 12000 })).toMatch(/^[0-9a-f]{32}$/);
});
