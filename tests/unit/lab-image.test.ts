import { expect, test } from "vitest";
import { parseArchives, sourcesList } from "../../lab/debian";
import { disabledUnits, maskedUnits, packages, releases } from "../../lab/packages";

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

test("no service of a tier or of the annex starts by itself, and none of them is masked", () => {
  for (const name of ["apache2", "keepalived", "nfs-server", "mariadb", "redis-server", "memcached", "rpcbind"]) {
    expect(disabledUnits).toContain(`${name}.service`);
    expect(maskedUnits).not.toContain(`${name}.service`);
  }
});
