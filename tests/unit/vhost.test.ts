import { execFile, execFileSync } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import fc from "fast-check";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { siteHistory, sitesSince } from "../../cli/history";
import { lowestFree, numbersIn, siteText, trialPort, withoutTrial, withTrial, withVersion } from "../../cli/site-file";
import { withTrial as stackWithTrial } from "./example";

const root = path.join(__dirname, "..", "..");
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "vhost-"));
afterAll(() => fs.rmSync(scratch, { recursive: true }));

describe("uids and ports are allocated once", () => {
  it("the lowest number that was never used, whatever was", () => {
    const range = { from: 100, to: 120 };
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 95, max: 125 })), (numbers) => {
        const used = new Set(numbers);
        const found = lowestFree(range, used);
        const all = Array.from({ length: 21 }, (_, i) => range.from + i);
        expect(found).toBe(all.filter((n) => !used.has(n))[0]);
      }),
    );
  });

  it("those of files that are mistaken or empty count as far as they can be read", () => {
    const files = [{ uid: 20001, port: "ten", php: { trial: { version: "8.4", port: 10009 } } }, { port: 10002, php: "8.2" }, null, "text"];
    expect(numbersIn(files)).toEqual({ uids: new Set([20001]), ports: new Set([10009, 10002]) });
  });
});

describe("an edit of a site's file changes what it is to change and no other character", () => {
  const among = (keys: readonly string[], at: number, key: string): string[] => [...keys.slice(0, at), key, ...keys.slice(at)];
  const comment = fc.constantFrom("", " # kept", "  # and this");
  const others = fc.subarray(["group: php-a", "modules: [a, b]", "memory: 384 MB", "ini: { upload_max_filesize: 32M }"]);
  const block = fc
    .record({ others, at: fc.nat(4), comments: fc.array(comment, { minLength: 5, maxLength: 5 }), indent: fc.constantFrom("  ", "    ") })
    .map((p) => {
      const keys = among(p.others, p.at, 'version: "8.2"').map((key, i) => `${p.indent}${key}${p.comments[i]}\n`);
      return `# first\nname: a\nphp:\n${keys.join("")}# last\nsessions: files\n`;
    });
  const flow = fc.record({ others, at: fc.nat(4) }).map((p) => {
    return `name: a\nphp: { ${among(p.others, p.at, "version: '8.2'").join(", ")} } # kept\nsessions: files\n`;
  });
  const file = fc.oneof(block, flow, fc.constant('php:\n  version: "8.2"'));
  const trial = { version: "8.4", port: 10009 };
  const php = (text: string): Record<string, unknown> => (YAML.parse(text) as { php: Record<string, unknown> }).php;

  it("a trial begins, and ends without a trace", () => {
    fc.assert(
      fc.property(file, (text) => {
        const begun = withTrial(text, trial);
        expect(YAML.parse(begun)).toEqual({ ...(YAML.parse(text) as object), php: { ...php(text), trial } });
        expect(trialPort(begun)).toBe(10009);
        expect(withoutTrial(begun).trimEnd()).toBe(text.trimEnd());
        expect(withoutTrial(text)).toBe(text);
      }),
    );
  });

  it("another trial takes the place of the one there is", () => {
    fc.assert(fc.property(file, (text) => withTrial(withTrial(text, { ...trial, version: "8.3" }), trial) === withTrial(text, trial)));
  });

  it("a version is another one", () => {
    fc.assert(
      fc.property(file, (text) => {
        const [was, is] = [text.split(/['"]8\.2['"]/), withVersion(text, "8.4").split('"8.4"')];
        expect(is).toEqual(was);
        expect(is).toHaveLength(2);
      }),
    );
  });

  it("a trial that somebody wrote in lines of its own goes with them", () => {
    const text = 'php:\n  trial: # new\n    version: "8.4"\n    port: 10009\n\n  # the code is old\n  version: "7.4"\n';
    expect(withoutTrial(text)).toBe('php:\n\n  # the code is old\n  version: "7.4"\n');
    expect(withoutTrial('php: { trial: { version: "8.4", port: 1 }, version: "7.4" }\n')).toBe('php: { version: "7.4" }\n');
  });
});

it("a new site's file says what was wanted", () => {
  const site = { name: "a", hosts: ["a.test", "b.test"], uid: 20000, port: 10000, php: { version: "8.2", modules: ["curl"] } };
  expect(YAML.parse(siteText(site))).toEqual(site);
  expect(siteText(site)).toContain('hosts: [a.test, b.test]\nuid: 20000\nport: 10000\nphp:\n  version: "8.2"\n');
});

describe("git knows what was", () => {
  const clock = { day: 0 };
  const git = (directory: string, ...words: string[]): void => {
    const GIT_COMMITTER_DATE = `2026-03-${String(clock.day).padStart(2, "0")}T12:00:00Z`;
    const who = ["-c", "user.name=tester", "-c", "user.email=tester@example.test"];
    execFileSync("git", [...who, ...words], { cwd: directory, env: { ...process.env, GIT_COMMITTER_DATE }, stdio: "ignore" });
  };
  const site = (uid: number, port: number, php: object): string => YAML.stringify({ uid, port, php });
  const repository = fs.mkdtempSync(path.join(scratch, "git-"));
  const directory = path.join(repository, "sites");
  const commit = (files: Record<string, string | undefined>): void => {
    clock.day++;
    for (const [name, text] of Object.entries(files)) {
      if (text === undefined) fs.rmSync(path.join(directory, name));
      else fs.writeFileSync(path.join(directory, name), text);
    }
    git(repository, "add", "-A");
    git(repository, "commit", "-m", "a change");
  };
  const wiki = { name: "wiki", php: { version: "8.4" } };
  const blog = { name: "blog", php: { version: "8.2" } };
  fs.mkdirSync(directory);
  git(repository, "init", "-b", "main");
  commit({ "wiki.yaml": site(20001, 10001, { version: "7.4" }), "blog.yaml": site(20002, 10002, { version: "8.2" }) });
  commit({ "gone.yaml": site(20003, 10003, { version: "7.4" }), "broken.yaml": "a: [" });
  commit({ "wiki.yaml": site(20001, 10001, { version: "7.4", trial: { version: "8.4", port: 10004 } }) });
  git(repository, "switch", "-c", "move");
  commit({ "wiki.yaml": site(20001, 10001, { version: "8.4" }), "gone.yaml": undefined });
  git(repository, "switch", "main");
  clock.day = 9;
  git(repository, "merge", "--no-ff", "-m", "wiki moves", "move");
  commit({ "wiki.yaml": `# a comment\n${site(20001, 10001, { version: "8.4" })}` });

  it("the numbers of sites and trials that are no more, where the files of today have forgotten them", () => {
    const past = siteHistory(directory) ?? [];
    const there = fs.readdirSync(directory).map((name) => YAML.parseDocument(fs.readFileSync(path.join(directory, name), "utf8")).toJS());
    expect(numbersIn(there)).toEqual({ uids: new Set([20001, 20002]), ports: new Set([10001, 10002]) });
    const { uids, ports } = numbersIn(past.map((p) => p.content));
    expect([[...uids].sort(), [...ports].sort()]).toEqual([
      [20001, 20002, 20003],
      [10001, 10002, 10003, 10004],
    ]);
  });

  it("the same of a directory that went with its last file", () => {
    const gone = path.join(scratch, "gone");
    git(scratch, "clone", `file://${repository}`, gone);
    const sites = path.join(gone, "sites");
    const whole = siteHistory(sites);
    fs.rmSync(sites, { recursive: true });
    expect(siteHistory(sites)).toEqual(whole);
    expect(whole?.map((p) => p.file)).toContain("wiki.yaml");
  });

  it("since when a site is on its PHP: when the change came to the branch, whatever was edited after", () => {
    expect(sitesSince([wiki, blog], siteHistory(directory))).toEqual({ wiki: "2026-03-09", blog: "2026-03-01" });
  });

  it("nothing of a change that is not committed, of a shallow clone, or of no repository", () => {
    expect(sitesSince([{ ...wiki, php: { version: "8.5" } }], siteHistory(directory))).toEqual({});
    const clone = path.join(scratch, "clone");
    git(scratch, "clone", "--depth", "1", `file://${repository}`, clone);
    expect(siteHistory(path.join(clone, "sites"))).toBeUndefined();
    expect(siteHistory(fs.mkdtempSync(path.join(scratch, "none-")))).toBeUndefined();
  });
});

describe("the vhost tool", () => {
  const directory = path.join(scratch, "sites");
  const stack = path.join(scratch, "stack.yaml");
  const vhost = (...words: string[]): Promise<{ code: number; said: string }> =>
    new Promise((resolve) => {
      const tsx = path.join(root, "node_modules", ".bin", "tsx");
      const child = execFile(tsx, ["cli/vhost.ts", ...words, "-s", "lab", "--config-file", stack], { cwd: root }, (error, out, err) => {
        resolve({ code: error ? Number(error.code) : 0, said: `${out}${err}` });
      });
      child.stdin?.end();
    });
  const text = (name: string): string => fs.readFileSync(path.join(directory, `${name}.yaml`), "utf8");

  beforeEach(() => {
    const { config } = stackWithTrial();
    const keys = Object.entries({ ...config, sites: directory }).map(([key, value]) => [`fleet:${key}`, value]);
    fs.writeFileSync(stack, YAML.stringify({ config: Object.fromEntries(keys) as object }));
    fs.rmSync(directory, { recursive: true, force: true });
    fs.cpSync(path.join(root, "sites", "lab"), directory, { recursive: true });
  });

  it("creates a site with numbers of its own, and overwrites none", { timeout: 60_000 }, async () => {
    const words = ["create", "shop", "--host", "shop.lab.test", "--php", "8.4", "--modules", "curl,mbstring", "--sessions", "redis"];
    const { code, said } = await vhost(...words);
    expect(code, said).toBe(0);
    expect(said).toContain("uid 20000, port 10000");
    expect(YAML.parse(text("shop"))).toEqual({
      name: "shop",
      hosts: ["shop.lab.test"],
      uid: 20000,
      port: 10000,
      php: { version: "8.4", modules: ["curl", "mbstring"] },
      sessions: "redis",
    });
    expect(await vhost(...words)).toMatchObject({ code: 1, said: expect.stringContaining("shop.yaml exists") as string });
    expect((await vhost("check")).said).toContain("lab: 4 sites, no mistake");
  });

  it(
    "makes the directory with the first site, and no other command takes a missing one for an empty one",
    { timeout: 60_000 },
    async () => {
      fs.rmSync(directory, { recursive: true });
      const words = ["create", "shop", "--host", "shop.lab.test", "--php", "8.4"];
      expect(await vhost("check")).toMatchObject({ code: 2, said: expect.stringContaining("mkdir -p") as string });
      expect((await vhost(...words, "--modules", "nonsense")).code).toBe(2);
      expect(fs.existsSync(directory)).toBe(false);
      expect(await vhost(...words)).toMatchObject({
        code: 0,
        said: expect.stringMatching(/sites is new\n.*shop.yaml: uid 20000/) as string,
      });
      expect(await vhost("check")).toMatchObject({ code: 0, said: "lab: 1 site, no mistake\n" });
    },
  );

  it("tells a stack's file that is no YAML by its line", { timeout: 60_000 }, async () => {
    fs.writeFileSync(stack, "config:\n  fleet:sites: sites\n fleet:ssh: {}\n");
    const { code, said } = await vhost("check");
    expect([code, said]).toEqual([2, expect.stringContaining('stack.yaml: line 3 is "fleet:ssh: {}"; allowed: YAML (')]);
  });

  it("tells all mistakes of a new site together and writes nothing", { timeout: 60_000 }, async () => {
    const { code, said } = await vhost("create", "shop", "--host", "blog.lab.test", "--php", "8.4", "--modules", "soap,gd,nonsense");
    expect(code, said).toBe(2);
    for (const part of ["3 mistakes", "blog.lab.test", "Add soap to fleet:php.8.4", "nonsense"]) expect(said).toContain(part);
    expect(fs.existsSync(path.join(directory, "shop.yaml"))).toBe(false);
  });

  it("takes a site from its PHP to another by a trial", { timeout: 60_000 }, async () => {
    const before = text("wiki");
    expect((await vhost("trial", "wiki", "--start", "8.4")).code).toBe(0);
    expect(text("wiki")).toBe(before.replace('"8.2"\n', '"8.2"\n  trial: { version: "8.4", port: 10000 }\n'));
    const listed = JSON.parse((await vhost("list", "--json")).said) as { name: string; trial: unknown }[];
    expect(listed.find((s) => s.name === "wiki")?.trial).toEqual({ version: "8.4", port: 10000 });
    expect((await vhost("move-php", "wiki", "8.4")).code).toBe(0);
    expect(text("wiki")).toBe(before.replace('"8.2"', '"8.4"'));
  });

  it("refuses a move to a PHP that the group lacks, and of a site that is not there", { timeout: 60_000 }, async () => {
    const before = text("wiki");
    expect(await vhost("move-php", "wiki", "8.3")).toMatchObject({ code: 2, said: expect.stringContaining("php-a (8.2, 8.4)") as string });
    expect(text("wiki")).toBe(before);
    const { code, said } = await vhost("move-php", "wikki", "8.4");
    expect([code, said]).toEqual([1, expect.stringContaining("there are: blog, status, wiki")]);
  });
});
