import { expect, it } from "vitest";
import sources from "../../lab/sources.json";
import { annex } from "../../lab/settings";
import { exampleFleet } from "./example";

it("every archive that the lab's stack names is one that the annex serves, with the same hash", () => {
  const { fleet } = exampleFleet("lab");
  const seeds = fleet.sites.flatMap((s) => (s.seed && "url" in s.seed ? [s.seed] : []));
  const wanted = [...fleet.phpBuilds.flatMap((b) => [b.source, ...b.pecl]), ...seeds].map(({ url, sha256 }) => ({ url, sha256 }));
  const served = sources.files.map(({ name, sha256 }) => ({ url: `http://${annex.address}/${name}`, sha256 }));
  expect(wanted.length).toBe(4);
  for (const archive of wanted) expect(served).toContainEqual(archive);
});
