import { createHash } from "crypto";
import fc from "fast-check";
import * as fs from "fs";
import * as path from "path";
import { describe, expect, it } from "vitest";
import { loadFleet } from "../../config/load";
import type { PhpBuild } from "../../config/model";
import { ConfigError, describeProblem } from "../../config/problems";
import { peclModuleNames } from "../../config/pecl-modules";
import { buildFiles, checkBuilds, resolveBuild } from "../../config/php-builds";
import { phpBuildSchema, type BuildConfig } from "../../config/schema";
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

const archive = { url: "http://a.test/x.tar.xz", sha256 };
/** One version of `fleet:php` with its defaults. */
const wanted = (more: { modules?: string[]; [key: string]: unknown } = {}): BuildConfig => {
  const { modules = ["session"] } = more;
  return { ...phpBuildSchema.parse({ release: "8.2.32", source: archive, ...more, modules }), modules };
};
const resolved = (more: Parameters<typeof wanted>[0] = {}): PhpBuild =>
  resolveBuild("8.2", wanted(more), "bookworm", { [file]: text, "keys/php.asc": key });
/** What is wrong with it. */
const mistakes = (more: Parameters<typeof wanted>[0]): string[] =>
  checkBuilds({ "8.2": wanted(more) }, "Pulumi.lab.yaml", {
    "keys/php.asc": key,
    "keys/odd.asc": "a key?",
    "keys/cut.asc": key.slice(0, 60),
  }).map(describeProblem);
const key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----\n";
const signedBy = (file: string) => ({ ...archive, signature: { url: `${archive.url}.asc`, key: file } });

it("no PHP is without JSON, which 7.4 has to be asked for", () => {
  expect(resolveBuild("7.4", wanted({ release: "7.4.33" }), "bookworm").options).toContain("--enable-json");
  expect(resolveBuild("8.4", wanted({ release: "8.4.27" }), "bookworm").options).not.toContain("--enable-json");
});

describe("what an artefact is", () => {
  it("changes with sources, patches, options, flags, modules and the Debian release", () => {
    const all = [
      resolved(),
      resolved({ source: { ...archive, sha256: "0".repeat(64) } }),
      resolved({ patches: [{ file, sha256 }] }),
      resolved({ options: ["--with-gettext"] }),
      resolved({ flags: { cflags: "-O3" } }),
      resolved({ flags: { ldflags: "" } }),
      resolved({ modules: ["session", "zip"] }),
      resolved({ pecl: { apcu: archive } }),
      resolved({ pecl: { apcu: { ...archive, options: ["--disable-apcu-rwlocks"] } } }),
      resolveBuild("8.2", wanted(), "trixie"),
    ];
    expect(new Set(all.map((build) => build.artefact)).size).toBe(all.length);
  });

  it("does not change with where its sources are, or with who signed them", () => {
    const moved = { ...archive, url: "https://another.test/x.tar.xz" };
    const here = resolved({ source: archive, pecl: { redis: archive } }).artefact;
    expect(resolved({ source: moved, pecl: { redis: moved } }).artefact).toBe(here);
    expect(resolved({ source: signedBy("keys/php.asc"), pecl: { redis: archive } }).artefact).toBe(here);
  });

  it("does not change with how much is tested, or with the order in which things are declared", () => {
    const { artefact } = resolved({ modules: ["session", "zip"], pecl: { redis: archive, igbinary: archive } });
    const again = { modules: ["zip", "session"], pecl: { igbinary: archive, redis: archive }, tests: "all", knownFailures: ["a.phpt"] };
    expect(resolved(again).artefact).toBe(artefact);
  });

  it("is hardened unless it says otherwise, C++ like C", () => {
    const { CFLAGS, CXXFLAGS, LDFLAGS } = resolved().environment;
    expect(CFLAGS).toContain("-fstack-protector-strong");
    expect(CXXFLAGS).toBe(CFLAGS);
    expect(LDFLAGS).toContain("-z,now");
    expect(resolved({ flags: { cflags: "-Os" } }).environment).toEqual({ CFLAGS: "-Os", CXXFLAGS: "-Os", LDFLAGS });
  });
});

describe("a signature", () => {
  it("travels with its keys", () => {
    const build = resolved({ source: signedBy("keys/php.asc") });
    expect(build.source).toEqual({ ...archive, signature: { url: `${archive.url}.asc`, key } });
  });

  it("without a file of keys is refused before anything is touched", () => {
    expect(mistakes({ source: signedBy("keys/php.asc"), pecl: { apcu: signedBy("keys/php.asc") } })).toEqual([]);
    expect(mistakes({ source: signedBy("keys/none.asc"), pecl: { apcu: signedBy("keys/odd.asc") } })).toEqual([
      'Pulumi.lab.yaml: fleet:php.8.2.source.signature.key is "keys/none.asc"; allowed: a file of the project. Correct the path, or add the file.',
      'Pulumi.lab.yaml: fleet:php.8.2.pecl.apcu.signature.key is "keys/odd.asc"; allowed: whole armoured OpenPGP public keys. Export it with: gpg --armor --export',
    ]);
  });

  it("with a file of keys that was cut off is refused before anything is touched", () => {
    expect(mistakes({ source: signedBy("keys/cut.asc") })).toEqual([
      'Pulumi.lab.yaml: fleet:php.8.2.source.signature.key is "keys/cut.asc"; allowed: whole armoured OpenPGP public keys. Export it with: gpg --armor --export',
    ]);
  });

  it("has its file read whatever else is wrong with the version", () => {
    const pecl = { apcu: { signature: { key: "b" } }, redis: 7 };
    expect(buildFiles({ source: { signature: { key: "a" } }, patches: [{ file: "c" }, 8], pecl })).toEqual(["c", "a", "b"]);
    for (const odd of [undefined, 5, [], { patches: 3, pecl: "x", source: null }]) expect(buildFiles(odd)).toEqual([]);
  });
});

describe("PECL modules", () => {
  it("are built and loaded after those they are compiled with, in whatever order they are declared", () => {
    fc.assert(
      fc.property(fc.shuffledSubarray([...peclModuleNames, "yaml", "imagick"]), (names) => {
        const pecl = Object.fromEntries(names.map((name) => [name, { ...archive, build: [], run: [] }]));
        const order = resolved({ pecl }).pecl.map((p) => p.name);
        expect([...order].sort()).toEqual([...names].sort());
        for (const late of ["memcached", "redis"].filter((name) => names.includes(name))) {
          expect(order.indexOf("igbinary")).toBeLessThan(order.indexOf(late));
          expect(order.indexOf("msgpack")).toBeLessThan(order.indexOf(late));
        }
      }),
    );
  });

  it("bring the Debian packages that are known for them, and those that they name", () => {
    const build = resolved({ pecl: { memcached: archive, yaml: { ...archive, build: ["libyaml-dev"], run: ["libyaml-0-2"] } } });
    expect(build.buildPackages).toEqual(expect.arrayContaining(["libmemcached-dev", "zlib1g-dev", "libyaml-dev"]));
    expect(build.runPackages).toEqual(expect.arrayContaining(["libmemcached11", "zlib1g", "libyaml-0-2"]));
  });

  it("that are unknown, or lack what they need, are refused before anything is touched", () => {
    const right = {
      igbinary: archive,
      redis: { ...archive, options: ["--enable-redis-igbinary"] },
      yaml: { ...archive, build: [], run: [] },
    };
    expect(mistakes({ pecl: right })).toEqual([]);
    const { redis } = right;
    expect(mistakes({ modules: ["zip"], pecl: { redis, rediss: archive } })).toEqual([
      'Pulumi.lab.yaml: fleet:php.8.2.modules is "without session"; allowed: with session, which the PECL module redis needs. Add session, or remove the PECL module.',
      'Pulumi.lab.yaml: fleet:php.8.2.pecl.redis.options is "--enable-redis-igbinary"; allowed: with the PECL module igbinary. Add igbinary to fleet:php.8.2.pecl, or remove the option.',
      'Pulumi.lab.yaml: fleet:php.8.2.pecl.rediss is "an unknown module"; allowed: apcu, igbinary, msgpack, memcached, redis, or another with its Debian packages in build and run. Correct the spelling, or add both, if only as [].',
    ]);
  });
});
