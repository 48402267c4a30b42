import * as fs from "fs";
import * as path from "path";
import { expect, it } from "vitest";
import { root } from "../lab/lab";
import { mistakes } from "../lab/mistakes";
import { changes, closesSocket, undrained, type Edit } from "../lab/rollouts";

// The lab finds such a line after an hour, and only then.
const edits: readonly Edit[] = [
  ...Object.values(changes()).map(({ file, edit }): Edit => [file, edit]),
  undrained,
  closesSocket,
  ...mistakes.flatMap(({ edits }) => edits.map(([file, from, to]): Edit => [file, (text) => text.replace(from, () => to)])),
];

const unfound = (of: readonly Edit[]): string[] =>
  of
    .filter(([file, change]) => {
      const text = fs.readFileSync(path.join(root, file), "utf8");
      return change(text) === text;
    })
    .map(String);

it("what the lab's tests change in the program is still there to be changed", () => expect(unfound(edits)).toEqual([]));

it("a line that has gone is told with its file", () => {
  expect(unfound([["package.json", (text) => text.replace("no such line", "another")]])).toEqual([expect.stringMatching(/^package.json,/)]);
});
