import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type * as Cache from "../../lab/cache";

let cache: typeof Cache;
const directory = fs.mkdtempSync(path.join(os.tmpdir(), "lab-cache-"));

beforeAll(async () => {
  process.env["FLEET_CACHE"] = directory; // read when the module is loaded
  cache = await import("../../lab/cache");
});
afterAll(() => fs.rmSync(directory, { recursive: true }));

const write = (content: string) => (part: string) => {
  fs.writeFileSync(path.join(part, "file"), content);
  return Promise.resolve();
};
const read = (entry: string) => fs.readFileSync(path.join(entry, "file"), "utf8");

test("an entry is built once and found afterwards", async () => {
  const first = await cache.cached("thing", "k1", write("one"));
  const second = await cache.cached("thing", "k1", write("two"));
  expect(second).toBe(first);
  expect(read(second)).toBe("one");
});

test("two builds of one entry at the same time make one", async () => {
  let builds = 0;
  const build = async (part: string) => {
    builds++;
    await new Promise((resolve) => setTimeout(resolve, 50));
    await write(`build ${builds}`)(part);
  };
  const entries = await Promise.all([cache.cached("slow", "k", build), cache.cached("slow", "k", build)]);
  expect(entries[0]).toBe(entries[1]);
  expect(builds).toBe(1);
});

test("a failed build leaves no entry, and the next one removes its remains", async () => {
  const fail = (part: string) => {
    fs.writeFileSync(path.join(part, "half"), "");
    return Promise.reject(new Error("broken"));
  };
  await expect(cache.cached("bad", "k", fail)).rejects.toThrow("broken");
  expect(fs.existsSync(path.join(directory, "bad-k"))).toBe(false);
  const entry = await cache.cached("bad", "k", write("whole"));
  expect(fs.readdirSync(entry)).toEqual(["file"]);
  expect(fs.readdirSync(directory).filter((name) => name.includes(".part"))).toEqual([]);
});

test("a lock of a process that died does not hold anybody up", async () => {
  const file = path.join(directory, "dead.lock");
  fs.writeFileSync(file, "4194305\n"); // above the largest process id
  const release = await cache.holdLock(file, "test");
  expect(fs.readFileSync(file, "utf8")).toBe(`${process.pid}\n`);
  release();
  expect(fs.existsSync(file)).toBe(false);
});

test("a key depends on every input and on nothing else", () => {
  const files = path.join(directory, "tree");
  fs.mkdirSync(path.join(files, "a"), { recursive: true });
  fs.writeFileSync(path.join(files, "a", "x"), "1");
  const before = cache.contentKey({ tree: cache.treeInputs(files) });
  expect(cache.contentKey({ tree: cache.treeInputs(files) })).toBe(before);
  fs.chmodSync(path.join(files, "a", "x"), 0o755);
  const executable = cache.contentKey({ tree: cache.treeInputs(files) });
  expect(executable).not.toBe(before);
  fs.writeFileSync(path.join(files, "a", "x"), "2");
  expect(cache.contentKey({ tree: cache.treeInputs(files) })).not.toBe(executable);
});
