import { describe, expect, it } from "vitest";
import { mistakenCheckout, on, pulumi, startProbe, status } from "./lab";

/** Live generation of a machine, as converge names it. */
const generation = async (name: string): Promise<string> => (await on(name, "readlink /var/lib/fleet/current")).trim();

describe("a broken template value fails `pulumi up`, names host and checker, and the old generation serves on", () => {
  it.each([
    ["Apache", "web1", "templates/apache/fleet.conf.mustache", "KeepAlive On", "KeepAlive Sometimes", /web[12]: check apache2 -t failed/],
    ["FPM", "php1", "templates/php/fpm.conf.mustache", "pm = ondemand", "pm = whenever", /php[12]: check php-fpm -t of \w+ failed/],
    [
      "keepalived",
      "lb1",
      "templates/lvs/keepalived.conf.mustache",
      "state BACKUP",
      "state BAKCUP\n    unknown_word",
      /lb[12]: check keepalived failed/,
    ],
  ])("%s", async (_service, host, file, right, wrong, message) => {
    const before = await generation(host);
    const copy = await mistakenCheckout(file, (text) => text.replace(right, wrong));
    const probe = startProbe();
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], copy);
    const seen = await probe.stop();
    expect(code).not.toBe(0);
    expect(out + err).toMatch(message);
    expect(await generation(host)).toBe(before);
    expect(seen.failed).toBe(0);
    expect((await status()).php).toBe("8.2.32");
  });

  it("the right templates still go through afterwards, and change nothing", async () => {
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
    expect(code, out + err).toBe(0);
    expect((await pulumi(["preview", "--expect-no-changes"])).code).toBe(0);
  });
});
