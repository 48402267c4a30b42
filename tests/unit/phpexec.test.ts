import { spawnSync } from "child_process";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { byLines, chosenSites, commandLine, vmFor } from "../../cli/phpexec";
import { inParallel, type Answer } from "../../cli/ask";
import type { FleetMachine } from "../../cli/stack";

describe("the words of a command reach the other side as they are", () => {
  const told = (words: readonly string[]): string[] => {
    const line = commandLine(["printf", "%s\\0", ...words]);
    return spawnSync("sh", ["-c", line], { encoding: "utf8" }).stdout.split("\0").slice(0, -1);
  };

  it.each([["a b"], ["$HOME"], ["`id`"], ["it's"], ["'"], ['"'], ["\\"], [""], ["-n"], ["*"], ["a\nb"], ["; reboot"], ["!x"], ["é"]])(
    "%j",
    (word) => {
      expect(told([word])).toEqual([word]);
    },
  );

  it("whatever they are", () => {
    const word = fc.string({ unit: "grapheme" }).filter((text) => !text.includes("\0"));
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 4 }), (words) => {
        expect(told(words)).toEqual(words);
      }),
      { numRuns: 40 },
    );
  });

  it("but for a NUL, which is refused", () => {
    expect(() => commandLine(["a\0b"])).toThrow("holds a NUL");
  });
});

describe("which sites", () => {
  const sites = [
    { name: "wiki", php: "8.2", group: "php-a" },
    { name: "blog", php: "7.4", group: "php-b" },
  ];
  it("the one that is named, all, or those on a PHP", () => {
    const names = (...how: [string | undefined, string | undefined]): string[] => chosenSites(sites, ...how).map((s) => s.name);
    expect(names("wiki", undefined)).toEqual(["wiki"]);
    expect(names(undefined, undefined)).toEqual(["wiki", "blog"]);
    expect(names(undefined, "7.4")).toEqual(["blog"]);
  });

  it("what is not there is refused with what is", () => {
    expect(() => chosenSites(sites, "shop", undefined)).toThrow("the stack has no site shop; there are: blog, wiki");
    expect(() => chosenSites(sites, undefined, "8.4")).toThrow("no site runs PHP 8.4; there are: 7.4, 8.2");
  });
});

describe("which VM", () => {
  const site = { name: "wiki", php: "8.2", group: "php-a" };
  const vm = (name: string, said: object, tier = "php-a"): Answer<{ ready: boolean; sites: Record<string, string> }> =>
    ({ machine: { name, tier } as FleetMachine, ...said }) as never;
  const wiki = { wiki: "8.2.32" };
  const fit = (name: string, tier?: string) => vm(name, { said: { ready: true, sites: wiki } }, tier);

  it("one of the site's group that is in its services and has the site", () => {
    const out = vm("php1", { said: { ready: false, sites: wiki } });
    const without = vm("php2", { said: { ready: true, sites: {} } });
    const dead = vm("php3", { error: "no route" });
    expect(vmFor(site, [fit("other", "php-b"), out, without, dead, fit("php4")], 0).machine.name).toBe("php4");
    expect(() => vmFor(site, [out, without, dead], 0)).toThrow(
      "no VM of php-a can run a script of wiki: php1: not in its services; php2: does not have it yet; php3: no route",
    );
  });

  it("many are spread over the group", () => {
    const names = [0, 1, 2].map((turn) => vmFor(site, [fit("php1"), fit("php2")], turn).machine.name);
    expect(names).toEqual(["php1", "php2", "php1"]);
  });
});

it("the output of many goes out by whole lines, each with its site", () => {
  const out: string[] = [];
  const { take, end } = byLines("wiki", (text) => out.push(text));
  const bytes = Buffer.from("one\ntwø\nthree");
  for (const byte of bytes) take(Buffer.from([byte]));
  expect(out).toEqual(["wiki: one\n", "wiki: twø\n"]);
  end();
  expect(out.at(-1)).toBe("wiki: three\n");
});

it("no more is done at once than may be, and results keep the order of the items", async () => {
  let [now, most] = [0, 0];
  const done = await inParallel([30, 10, 20, 0], 2, async (ms, i) => {
    most = Math.max(most, ++now);
    await new Promise((resolve) => setTimeout(resolve, ms));
    now--;
    return `${i}:${ms}`;
  });
  expect(done).toEqual(["0:30", "1:10", "2:20", "3:0"]);
  expect(most).toBe(2);
});
