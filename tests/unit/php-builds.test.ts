import { createHash } from "crypto";
import * as fs from "fs";
import * as path from "path";
import { describe, expect, it } from "vitest";
import { loadFleet } from "../../config/load";
import type { PhpBuild } from "../../config/model";
import { ConfigError, describeProblem } from "../../config/problems";
import { resolveBuild } from "../../config/php-builds";
import { readFiles } from "../../stacks/read";
import { writtenStack } from "./example";

const file = "patches/php-7.4-openssl-3.patch";
const text = fs.readFileSync(path.join(__dirname, "..", "..", file), "utf8");
const sha256 = createHash("sha256").update(text).digest("hex");

/** The lab's stack with its 8.2 patched; its build, or the mistakes. */
function patched(patches: readonly object[]): PhpBuild | string[] {
  const written = writtenStack("lab");
  const php = structuredClone(written.config["php"]) as Record<string, object>;
  const config = { ...written.config, php: { "8.2": { ...php["8.2"], patches } } };
  try {
    const [build] = loadFleet({ ...written, config, ...readFiles("lab", config) }).fleet.phpBuilds;
    if (!build) throw new Error("the lab has no build");
    return build;
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map(describeProblem);
    throw error;
  }
}

describe("a patch of a PHP build", () => {
  it("travels with the build, and makes it another artefact", () => {
    const [without, withIt] = [patched([]), patched([{ file, sha256 }])] as PhpBuild[];
    expect(withIt?.patches).toEqual([{ name: "php-7.4-openssl-3.patch", sha256, text }]);
    expect(withIt?.artefact).not.toBe(without?.artefact);
  });

  it("is refused before anything is touched when it is not there, or not the one that was meant", () => {
    const wrong = "0".repeat(64);
    const found = patched([
      { file: "patches/none.patch", sha256 },
      { file, sha256: wrong },
    ]) as string[];
    expect(found).toEqual([
      expect.stringContaining('fleet:php.8.2.patches.0.file is "patches/none.patch"; allowed: a file of the project'),
      expect.stringContaining(`fleet:php.8.2.patches.1.sha256 is "${wrong}"`),
    ]);
    expect(found[1]).toContain(`${file} has SHA-256 ${sha256}`);
  });
});

it("no PHP is without JSON, which 7.4 has to be asked for", () => {
  const wanted = { release: "7.4.33", source: { url: "http://a.test/php", sha256 }, patches: [], modules: [], pecl: {}, options: [] };
  expect(resolveBuild("7.4", wanted, "bookworm").options).toContain("--enable-json");
  expect(resolveBuild("8.4", { ...wanted, release: "8.4.27" }, "bookworm").options).not.toContain("--enable-json");
});
