import { expect, it } from "vitest";
import { builderTargets, buildRows } from "../../cli/phptools";
import { exampleFleet } from "./example";

it("phptools list names each build once, with the groups and the sites on it", () => {
  const rows = buildRows(exampleFleet("prod").fleet);
  expect(rows.map(([version, , debian, groups, sites]) => [version, debian, groups, sites])).toEqual([
    ["8.2", "bookworm", "php-a php-b", "library welcome"],
  ]);
});

it("phptools build names the builders and what they stand on, and no tier that serves", () => {
  const targets = builderTargets("prod").join("\n");
  expect(targets).toContain("hosting:php:PhpBuilder");
  expect(targets).not.toMatch(/ApacheTier|PhpFpmTier|LvsPair|NasExport|MoodleCluster/);
});
