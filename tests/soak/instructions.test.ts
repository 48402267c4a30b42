import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import Table from "cli-table3";
import { afterAll, beforeAll, expect, test } from "vitest";
import { wantedFleet } from "../../lab/fleet";
import { committedConfig } from "../../lab/paths";
import { removeTree } from "../../lab/cache";
import { archives, sourcesList } from "../../lab/debian";
import { run } from "../../lab/shell";
import { sources, sourcesDirectory } from "../../lab/sources";
import { machine, on, root, sshWords } from "../lab/lab";

/*
 * What our compiler flags and options cost: instructions of one request in the PHP that the builder
 * made, against Debian's own package of the same release with the same modules, in one run. Both
 * run in a Debian of their own beside the lab, so nothing of it depends on how busy the lab is.
 */

/** Modules of Debian's package that are not in its binary, in the order in which they load. */
const shared =
  "mysqlnd ctype curl dom exif fileinfo gd iconv igbinary mbstring mysqli posix redis simplexml tokenizer xml xmlreader xmlwriter zip".split(
    " ",
  );
const debianPackages = ["curl", "fpm", "gd", "igbinary", "mbstring", "mysql", "opcache", "redis", "xml", "zip"].map((m) => `php8.2-${m}`);
const most = 1.02;

const tree = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-instructions-"));
const at = (...parts: string[]): string => path.join(tree, ...parts);

interface Counted {
  readonly modules: Readonly<Record<string, string[]>>;
  readonly [workload: string]: Readonly<Record<string, number>> | Readonly<Record<string, string[]>>;
}

beforeAll(async () => {
  const list = path.join(os.tmpdir(), `${path.basename(tree)}.list`);
  fs.writeFileSync(list, sourcesList("bookworm", archives()));
  const wanted = [...debianPackages, "python3", "valgrind", "zstd", "xz-utils", ...(await librariesOfOurs())];
  const quick = ["--dpkgopt=force-unsafe-io", "--aptopt=Acquire::Languages none"];
  await run("mmdebstrap", ["--mode=root", "--variant=minbase", ...quick, `--include=${wanted.join(",")}`, "bookworm", tree, list]);
  fs.rmSync(list);

  const build1 = await machine("build1");
  const prefix = at("opt/php", ours);
  fs.mkdirSync(prefix, { recursive: true });
  const fetched = `ssh ${sshWords(build1.Address).join(" ")} sudo cat /var/lib/fleet/artefacts/${ours}.tar.zst | tar --zstd -x -C ${prefix}`;
  await run("bash", ["-c", `set -o pipefail; ${fetched}`]);

  for (const [name, folder] of [
    ["php-8.2", "php"],
    ["dokuwiki", "wiki"],
  ] as const) {
    const source = sources.find((s) => s.name.startsWith(name));
    if (!source) throw new Error(`lab/sources.json has no ${name}`);
    fs.mkdirSync(at("srv", folder), { recursive: true });
    await run("tar", ["-xf", path.join(sourcesDirectory, source.name), "--strip-components=1", "-C", at("srv", folder)]);
  }
  await run("chroot", [tree, "chown", "-R", "www-data:", "/srv/wiki"]);
  fs.writeFileSync(at("srv/modules.php"), "<?php echo json_encode(array_map('strtolower', get_loaded_extensions()));");
  for (const file of [path.join(root, "host/probes.py"), path.join(__dirname, "instructions.py")]) {
    fs.copyFileSync(file, at("srv", path.basename(file)));
  }
  await run("mount", ["-t", "proc", "proc", at("proc")]);
  await run("mount", ["--bind", "/dev", at("dev")]);
});

afterAll(() => removeTree(tree));

/** Name of the build that the stack declares. */
const ours = wantedFleet(committedConfig).phpBuilds.find(({ version }) => version === "8.2")?.artefact ?? "";

/** Debian packages that our build links. */
async function librariesOfOurs(): Promise<string[]> {
  const record = await on("build1", `sudo cat /var/lib/fleet/artefacts/${ours}.json`);
  const { libraries } = JSON.parse(record) as { libraries: Record<string, string> };
  return Object.keys(libraries);
}

test(`a request takes at most ${most} times the instructions of Debian's own PHP of the same release`, async () => {
  const prefix = `/opt/php/${ours}`;
  const ourShared = fs.readdirSync(at(prefix, "lib/php/extensions"), { recursive: true }).map(String);
  const loads = (files: readonly string[]): string[] =>
    // Of two of them the one that the other needs first, as the alphabet happens to have it.
    files.map((f) => `${f.includes("opcache") ? "zend_extension" : "extension"}=${f}`);
  const builds = {
    ours: {
      fpm: `${prefix}/sbin/php-fpm`,
      load: loads(
        ourShared
          .filter((f) => f.endsWith(".so"))
          .map((f) => path.basename(f, ".so"))
          .sort(),
      ),
    },
    debian: { fpm: "/usr/sbin/php-fpm8.2", load: loads(["opcache", ...shared]) },
  };
  const workloads = {
    "PHP's own bench.php": { script: "/srv/php/Zend/bench.php", query: "" },
    "DokuWiki page": { script: "/srv/wiki/doku.php", query: "id=wiki:syntax" },
    "DokuWiki page, rendered anew": { script: "/srv/wiki/doku.php", query: "id=wiki:syntax&purge=true" },
  };
  const input = JSON.stringify({ builds, workloads });
  const counted = JSON.parse(await run("chroot", [tree, "python3", "/srv/instructions.py", "2", "5"], { input })) as Counted;

  const [own = [], debian = []] = [counted.modules["ours"], counted.modules["debian"]];
  const differ = [
    ...own.filter((m) => !debian.includes(m)).map((m) => `+${m}`),
    ...debian.filter((m) => !own.includes(m)).map((m) => `-${m}`),
  ];
  const table = new Table({ head: ["workload", "ours", "Debian's", "ratio"], style: { head: [], border: [] } });
  const ratios = Object.keys(workloads).map((name) => {
    const { ours: a = 0, debian: b = 0 } = counted[name] as Record<string, number>;
    table.push([name, Math.round(a).toLocaleString("en"), Math.round(b).toLocaleString("en"), (a / b).toFixed(3)]);
    return a / b;
  });
  process.stdout.write(`${table.toString()}\nmodules of ours against Debian's: ${differ.join(" ") || "the same"}\n`);
  // All that a page of these workloads needs is in both.
  expect(differ.sort()).toEqual(["-igbinary", "-sodium"]);
  expect(Math.max(...ratios)).toBeLessThanOrEqual(most);
});
