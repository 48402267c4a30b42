import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { render } from "../../templates/render";

let directory: string;
beforeAll(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), "render-"));
  const write = (name: string, text: string): void => fs.writeFileSync(path.join(directory, `${name}.mustache`), text);
  write("value", "listen {{port}}\n");
  write("raw", "listen {{{port}}}\n");
  write("section", "{{#on}}yes\n{{/on}}");
  write("inverted", "{{^on}}no\n{{/on}}");
  write("list", "{{#names}}{{.}} {{suffix}}\n{{/names}}");
});
afterAll(() => fs.rmSync(directory, { recursive: true }));

it.each(["value", "raw", "section", "inverted"])("a value that the view lacks is an error in %s, never an empty line", (name) => {
  expect(() => render(directory, name, {})).toThrow(/template \w+\.mustache: no value for \{\{(port|on)\}\}/);
});

it("the same templates render when the view is whole", () => {
  expect(render(directory, "value", { port: 80 })).toBe("listen 80\n");
  expect(render(directory, "section", { on: true })).toBe("yes\n");
  expect(render(directory, "section", { on: false })).toBe("");
  expect(render(directory, "inverted", { on: false })).toBe("no\n");
  expect(render(directory, "list", { names: ["a", "b"], suffix: "x" })).toBe("a x\nb x\n");
});

it("a value missing inside a list is an error too", () => {
  expect(() => render(directory, "list", { names: ["a"] })).toThrow("no value for {{suffix}}");
});

it("values go in as they are, for a configuration file is not HTML", () => {
  expect(render(directory, "value", { port: '"a" & <b>' })).toBe('listen "a" & <b>\n');
});
