import { expect, test } from "vitest";
import { packageOf, phpModules } from "../../config/php-modules";
import { debianReleases } from "../../config/schema";
import { parseArchives, sourcesList } from "../../lab/debian";
import { disabledUnits, maskedUnits, packages, releases } from "../../lab/packages";
import { committedConfig } from "../../lab/paths";
import { wantedFleet } from "../../lab/fleet";
import { templatesOf } from "../../lab/stack-file";

test("Debian's archives are found among apt's others, by their label", () => {
  const lines = [
    "|https://deb.example.org/node_20.x/",
    "Artifacts|https://packages.example.org/apt/",
    "Debian|http://mirror.example.org/debian/",
    "Debian|http://mirror.example.org/debian/",
    "Debian-Security|http://mirror.example.org/debian-security/",
  ].join("\n");
  expect(parseArchives(lines)).toEqual({ main: "http://mirror.example.org/debian", security: "http://mirror.example.org/debian-security" });
});

test("without a Debian archive there is none, and without a security archive none is made up", () => {
  expect(parseArchives("Ubuntu|http://mirror.example.org/ubuntu/\n")).toBeUndefined();
  expect(parseArchives("Debian|http://mirror.example.org/debian\n")).toEqual({ main: "http://mirror.example.org/debian" });
});

test("guests' package sources are the release, its updates and its security updates", () => {
  const lines = sourcesList("bookworm", { main: "http://a/debian", security: "http://a/debian-security" }).trimEnd().split("\n");
  expect(lines.map((line) => line.split(" ").slice(2).join(" "))).toEqual([
    "http://a/debian bookworm main",
    "http://a/debian bookworm-updates main",
    "http://a/debian-security bookworm-security main",
  ]);
  for (const line of lines) expect(line).toContain("[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]");
});

test("every release has its own package list, and an unknown one is refused with the known ones", () => {
  expect(packages("bookworm")).toContain("libicu72");
  expect(packages("trixie")).toContain("libicu76");
  for (const release of releases) expect(new Set(packages(release)).size).toBe(packages(release).length);
  expect(() => packages("sid")).toThrow('no package list for Debian "sid": use one of bookworm, trixie');
});

test("the lab offers the templates of the releases that a configuration names, and bookworm's alone as committed", () => {
  const named = (templates: Record<string, string>): string[] => templatesOf(templates).map((t) => t.name);
  expect(named(wantedFleet(committedConfig).config.vsphere.templates)).toEqual(["debian-12", "debian-12-newer"]);
  expect(named({ bookworm: "debian-12", trixie: "debian-13" })).toEqual(["debian-12", "debian-12-newer", "debian-13"]);
  expect(named({ trixie: "debian-13" })).toEqual(["debian-13"]);
  expect(named({})).toEqual([]);
});

test("every release that a VM may run has an image, and the libraries of PHP in it have the release's names", () => {
  expect([...releases].sort()).toEqual([...debianReleases].sort());
  const libraries = Object.values(phpModules).flatMap((recipe) => [...recipe.run]);
  for (const release of debianReleases) {
    expect(packages(release)).toEqual(expect.arrayContaining(libraries.map((name) => packageOf(release, name))));
  }
});

test("no service of a tier or of the annex starts by itself, and none of them is masked", () => {
  for (const name of ["apache2", "keepalived", "nfs-server", "mariadb", "redis-server", "memcached", "rpcbind"]) {
    expect(disabledUnits).toContain(`${name}.service`);
    expect(maskedUnits).not.toContain(`${name}.service`);
  }
});
