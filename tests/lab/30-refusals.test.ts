import { afterAll, describe, expect, it } from "vitest";
import { on, pulumi, status } from "./lab";
import { mistakes, printTable, rollOutMistake } from "./mistakes";

const fill =
  "n=0; for size in 1G 100M 10M 1M 64K 4K; do while fallocate -l $size /var/filler.$n 2>/dev/null; do n=$((n+1)); done; n=$((n+1)); done";

describe("a mistake fails `pulumi up`, names VM and check, costs no request, and the old generation serves on", () => {
  afterAll(printTable);

  it.each(mistakes.map((mistake) => [mistake.what, mistake] as const))("%s", async (_, mistake) => {
    await rollOutMistake(mistake);
  });

  it("disk full", async () => {
    await on("web1", `sudo sh -c '${fill}'`);
    try {
      const what = { what: "disk full", host: "web1", message: /web1: .*No space left on device/ };
      await rollOutMistake({ ...what, edits: [["templates/apache/vhost.conf.mustache", "# Managed", "# Still managed"]] });
    } finally {
      await on("web1", "sudo sh -c 'rm -f /var/filler.*'");
    }
  });

  it("the right program still goes through afterwards, without any unlocking", async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
    expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
    expect((await status()).php).toBe("8.2.32");
  });
});
