// Runs every suite, counts what each says of itself, and closes with one line `N passed, N failed`.
// With arguments only those: a suite by its name, or some files of one: `npm test -- unit lab/10 lab/20`.
import { spawn } from "child_process";
import * as fs from "fs";
import * as os from "os";
import * as path from "path";

interface Count {
  readonly passed: number;
  readonly failed: number;
  /** Not run: something that they need is not on this computer. */
  readonly skipped?: number;
}

interface Suite {
  readonly name: string;
  readonly command: readonly string[];
  /** Reads the counts from the output or a report file; a suite without one counts as one test. */
  readonly count?: (output: string, report: string) => Count | undefined;
  /** Whether words after the command choose among its files. */
  readonly byFile?: boolean;
  /** Whether it runs beside the suites after it, as it mostly waits; what it says comes when it ends. */
  readonly beside?: boolean;
  /** Whether it waits for those: outages of the lab's machines are measured. */
  readonly alone?: boolean;
}

const root = path.join(__dirname, "..");
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-tests-"));

const vitest = (project: string): Suite => ({
  name: project,
  byFile: true,
  command: [
    "vitest",
    "run",
    "--project",
    project,
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${path.join(scratch, `${project}.json`)}`,
  ],
  count: (_output, report) => {
    if (!fs.existsSync(report)) return undefined;
    const { numPassedTests, numFailedTests, numPendingTests, success } = JSON.parse(fs.readFileSync(report, "utf8")) as {
      numPassedTests: number;
      numFailedTests: number;
      numPendingTests: number;
      success: boolean;
    };
    // A file that could not even be loaded has no test to fail.
    return { passed: numPassedTests, failed: Math.max(numFailedTests, success ? 0 : 1), skipped: numPendingTests };
  },
});

const unittest = (output: string): Count => {
  const sum = (pattern: RegExp): number => [...output.matchAll(pattern)].reduce((all, m) => all + Number(m[1]), 0);
  const bad = sum(/(?:failures|errors)=(\d+)/g);
  const skipped = sum(/skipped=(\d+)/g);
  return { passed: sum(/^Ran (\d+) tests? in/gm) - bad - skipped, failed: bad, skipped };
};

const goTest = (output: string): Count => ({
  passed: (output.match(/^\s*--- PASS: /gm) ?? []).length,
  failed: (output.match(/^\s*--- FAIL: /gm) ?? []).length,
  skipped: (output.match(/^\s*--- SKIP: /gm) ?? []).length,
});

const suites: readonly Suite[] = [
  { name: "lint", command: ["bash", "tests/lint"] },
  vitest("unit"),
  { name: "host", command: ["bash", "tests/host"], count: unittest, beside: true },
  { name: "toolchain", command: ["bash", "toolchain/test", "-v"], count: goTest },
  { name: "vcenter", command: ["go", "test", "-C", "lab/vcenter", "-v", "./..."], count: goTest },
  vitest("preview"),
  { ...vitest("lab"), alone: true },
];

/** Runs one suite, with its output shown meanwhile or, of one beside others, at its end; a non-zero end is never a pass, whatever was counted. */
async function runSuite(suite: Suite): Promise<Count> {
  const [command = "", ...args] = suite.command;
  const begun = Date.now();
  process.stdout.write(`\n=== ${suite.name}${suite.beside ? ", beside the next ones" : ""}\n`);
  let output = "";
  const status = await new Promise<number>((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    const take = (stream: NodeJS.WriteStream) => (data: Buffer) => {
      output += data.toString();
      if (!suite.beside) stream.write(data);
    };
    child.stdout.on("data", take(process.stdout));
    child.stderr.on("data", take(process.stderr));
    child.on("error", () => resolve(127));
    child.on("close", (code) => resolve(code ?? 1));
  });
  if (suite.beside) process.stdout.write(`\n=== what ${suite.name} said\n${output}`);
  const counted = suite.count?.(output, path.join(scratch, `${suite.name}.json`)) ?? { passed: status === 0 ? 1 : 0, failed: 0 };
  const result = status === 0 ? counted : { ...counted, failed: Math.max(counted.failed, 1) };
  const { passed, failed, skipped = 0 } = result;
  const seconds = Math.round((Date.now() - begun) / 1000);
  process.stdout.write(`=== ${suite.name}: ${passed} passed, ${failed} failed, ${skipped > 0 ? `${skipped} skipped, ` : ""}${seconds} s\n`);
  return result;
}

/** The suites that the words name, each with the files it is to run; all of them without words. */
function chosen(words: readonly string[]): Suite[] {
  if (words.length === 0) return [...suites];
  const wanted = words.map((word) => word.split("/", 2));
  const unknown = words.filter((_word, i) => !suites.some((s) => s.name === wanted[i]?.[0] && (wanted[i]?.length === 1 || s.byFile)));
  if (unknown.length > 0) throw new Error(`no suite ${unknown.join(", ")}; there are ${suites.map((s) => s.name).join(", ")}`);
  return suites
    .filter((s) => wanted.some(([name]) => name === s.name))
    .map((s) => {
      const mine = wanted.filter(([name]) => name === s.name);
      // The whole suite, where it is named without a file too.
      const files = mine.every(([, file]) => file) ? mine.map(([name, file]) => `tests/${name}/${file}`) : [];
      return { ...s, command: [...s.command, ...files] };
    });
}

async function main(): Promise<void> {
  const counts: Promise<Count>[] = [];
  const begun = Date.now();
  for (const suite of chosen(process.argv.slice(2))) {
    if (suite.alone) await Promise.all(counts);
    const count = runSuite(suite);
    counts.push(count);
    if (!suite.beside) await count;
  }
  const total = (await Promise.all(counts)).reduce((sum, { passed, failed }) => ({
    passed: sum.passed + passed,
    failed: sum.failed + failed,
  }));
  fs.rmSync(scratch, { recursive: true });
  process.stdout.write(`\nall suites: ${Math.round((Date.now() - begun) / 1000)} s\n${total.passed} passed, ${total.failed} failed\n`);
  process.exitCode = total.failed === 0 ? 0 : 1;
}

void main();
