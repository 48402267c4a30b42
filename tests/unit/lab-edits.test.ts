import { expect, it } from "vitest";
import { edited, root, type Edit } from "../lab/lab";
import { editsOf, mistakes } from "../lab/mistakes";
import { changes, closesSocket, undrained } from "../lab/rollouts";

// The lab finds such a line after an hour, and only then.
const edits: readonly Edit[] = [
  ...Object.values(changes()).map(({ file, edit }): Edit => [file, edit]),
  undrained,
  closesSocket,
  ...mistakes.flatMap(editsOf),
];

it.each(edits)("what the lab's tests change in %s is still there to be changed", (...edit) => void edited(root, ...edit));

it("a line that has gone is told with its file", () => {
  const gone = (text: string): string => text.replace("no such line", "another");
  expect(() => edited(root, "package.json", gone)).toThrow("the change of package.json changed nothing");
});
