import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files by their names: the tests of machines stand on each other in that order. */
class ByName extends BaseSequencer {
  override sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return Promise.resolve([...files].sort((a, b) => (a.moduleId < b.moduleId ? -1 : 1)));
  }
}

/** `unit` needs nothing but node_modules and the vSphere SDK; `lab` boots machines and runs as root. */
export default defineConfig({
  test: {
    sequence: { sequencer: ByName },
    projects: [
      // What is committed is for lab number 0, whichever lab this computer runs.
      { test: { name: "unit", include: ["tests/unit/**/*.test.ts"], pool: "threads", env: { FLEET_LAB_NUMBER: "0" } } },
      {
        test: {
          name: "preview",
          include: ["tests/preview/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          name: "lab",
          globalSetup: ["tests/lab/setup.ts"],
          include: ["tests/lab/**/*.test.ts"],
          testTimeout: 600_000,
          hookTimeout: 1_800_000,
          fileParallelism: false,
          sequence: { concurrent: false },
        },
      },
      {
        test: {
          name: "soak",
          globalSetup: ["tests/lab/setup.ts"],
          include: ["tests/soak/**/*.test.ts"],
          testTimeout: 3 * 3_600_000,
          hookTimeout: 1_800_000,
          fileParallelism: false,
          sequence: { concurrent: false },
        },
      },
    ],
  },
});
