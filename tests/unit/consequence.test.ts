import { describe, expect, it } from "vitest";
import { consequences, folded } from "../../components/consequence";
import { bundle } from "../../templates/bundle";
import { join, type HostContent } from "../../templates/content";

const whole = (...parts: Partial<HostContent>[]): string => bundle("web1", join(...parts), { key: "0".repeat(32) });
const site = (text: string): Partial<HostContent> => ({ files: [{ path: "/etc/v/site.conf", text }] });
const unit = (fields: object): Partial<HostContent> => ({ units: [{ name: "web.service", ...fields }] });

describe("a preview tells what a change does on the VM", () => {
  it.each([
    ["a reload", unit({ reload: ["/etc/v/"] }), ["changed /etc/v/site.conf", "reload web.service"]],
    ["a restart", unit({ restart: ["/etc/v/site.conf"] }), ["changed /etc/v/site.conf", "restart web.service"]],
    ["a drain", unit({ restart: ["/etc/v/"], drain: true }), ["changed /etc/v/site.conf", "restart web.service, drained"]],
    ["nothing but the file", unit({ reload: ["/etc/v"] }), ["changed /etc/v/site.conf"]],
  ])("%s", (_, service, lines) => {
    expect(consequences(whole(site("a\n"), service), whole(site("b\n"), service))).toEqual(lines);
    expect(consequences(whole(site("a\n"), service), whole(site("a\n"), service))).toEqual([]);
  });

  it("an option of a kernel module counts at the next boot", () => {
    const option = (text: string): string => whole({ files: [{ path: "/etc/modprobe.d/nfs.conf", text }] });
    expect(consequences(option("a\n"), option("b\n"))).toEqual(["changed /etc/modprobe.d/nfs.conf (at its next boot)"]);
  });

  it("a unit that was fragile before the change is drained for it, whatever the new bundle says of it", () => {
    const fragile = { restart: ["/etc/v/"], drain: true };
    const after = whole(site("b\n"), unit({ ...fragile, drain: false }));
    expect(consequences(whole(site("a\n"), unit(fragile)), after)).toContain("restart web.service, drained");
  });

  it("what is new and what goes, of files and of units", () => {
    const action: Partial<HostContent> = { actions: [{ name: "kernel parameters", argv: ["/x"], paths: ["/etc/v/"] }] };
    expect(consequences(whole(), whole(site("a\n"), unit({}), action))).toEqual([
      "new /etc/v/site.conf",
      "run kernel parameters",
      "start web.service",
    ]);
    expect(consequences(whole(site("a\n"), unit({ drain: true })), whole())).toEqual([
      "removed /etc/v/site.conf",
      "stop web.service, drained",
    ]);
  });

  it("a line of a file that looks like a record is a line of a file", () => {
    const tricky = site('@unit {"name":"evil.service"}\n');
    expect(consequences(whole(), whole(tricky))).toEqual(["new /etc/v/site.conf"]);
  });

  it("what is the same of many sites is one line, what is of a few or not of a site keeps its own", () => {
    const names = ["a", "b-2", "c", "d", "e", "f"];
    const each = (of: string[]): string[] =>
      of.flatMap((n) => [`new /etc/fleet/vhosts/${n}.conf`, `new /etc/fleet/php/${n}/fpm.conf`, `start fleet-site-${n}.socket, drained`]);
    expect(folded([...each(names), "changed /etc/hosts"])).toEqual([
      "new /etc/fleet/vhosts/*.conf (6: a to f)",
      "new /etc/fleet/php/*/fpm.conf (6: a to f)",
      "start fleet-site-*.socket, drained (6: a to f)",
      "changed /etc/hosts",
    ]);
    expect(folded(each(names.slice(1))).sort()).toEqual(each(names.slice(1)).sort());
    const files = names.map((n) => `changed /etc/modprobe.d/${n}.conf`);
    expect(folded(files)).toEqual(files);
  });
});
