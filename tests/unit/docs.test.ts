import * as fs from "fs";
import * as path from "path";
import { describe, expect, it } from "vitest";
import * as YAML from "yaml";
import { z } from "zod";
import { loadFleet } from "../../config/load";
import { peclModuleNames } from "../../config/pecl-modules";
import { phpModuleNames } from "../../config/php-modules";
import { siteSchema, stackSchema } from "../../config/schema";
import { readFiles } from "../../stacks/read";
import { exampleSecrets, writtenStack } from "./example";

const docs = path.join(__dirname, "..", "..", "docs");
const text = fs.readFileSync(path.join(docs, "configuration.md"), "utf8");

/** Every property name anywhere in a schema. */
function propertyNames(schema: unknown): string[] {
  if (typeof schema !== "object" || schema === null) return [];
  return Object.entries(schema).flatMap(([key, inner]: [string, unknown]) =>
    key === "properties"
      ? [...Object.keys(inner as object), ...Object.values(inner as object).flatMap(propertyNames)]
      : propertyNames(inner),
  );
}

/** Fenced YAML blocks whose info string begins so. */
const examples = (kind: string): string[] =>
  [...text.matchAll(new RegExp("^```yaml " + kind + "[^\\n]*\\n([\\s\\S]*?)^```", "gm"))].map((m) => m[1] ?? "");

describe("docs/configuration.md is true", () => {
  const keys = [stackSchema, siteSchema].flatMap((s) => propertyNames(z.toJSONSchema(s, { unrepresentable: "any", io: "input" })));
  it.each([...new Set(keys)])("the key %s is in it", (key) => {
    expect(text).toMatch(new RegExp("`(fleet:)?" + key + "\\b"));
  });

  it("it lists the PHP modules that a build may ask for", () => {
    expect(text).toContain(`${phpModuleNames.join(", ")}. Others`);
  });

  it("its stack examples load", () => {
    expect(examples("stack").length).toBeGreaterThan(0);
    for (const example of examples("stack")) {
      const config = Object.fromEntries(Object.entries(YAML.parse(example) as object).map(([k, v]: [string, unknown]) => [k.slice(6), v]));
      expect(() => loadFleet({ stack: "example", config, encrypted: [], secrets: exampleSecrets, sites: {} })).not.toThrow();
    }
  });

  it("its PHP examples load in the lab", () => {
    const found = [...text.matchAll(/^```yaml php (\S+)\n([\s\S]*?)^```/gm)];
    expect(found.length).toBeGreaterThan(0);
    for (const [, version = "", example = ""] of found) {
      const written = writtenStack("lab");
      const config = { ...written.config, php: { ...(written.config["php"] as object), [version]: YAML.parse(example) as unknown } };
      expect(() => loadFleet({ ...written, config, ...readFiles("lab", config) })).not.toThrow();
    }
  });

  it("it lists the PECL modules that are known", () => {
    expect(text).toContain(`known: ${peclModuleNames.join(", ")};`);
  });

  it("its site examples load in prod", () => {
    expect(examples("site").length).toBeGreaterThan(0);
    for (const example of examples("site")) {
      const site = YAML.parse(example) as { name: string };
      expect(() => loadFleet({ ...writtenStack("prod"), sites: { [`sites/prod/${site.name}.yaml`]: site } })).not.toThrow();
    }
  });
});

it("every file that the README and the docs point to is there", () => {
  const root = path.join(docs, "..");
  for (const file of [
    "README.md",
    ...fs
      .readdirSync(docs)
      .filter((f) => f.endsWith(".md"))
      .map((f) => `docs/${f}`),
  ]) {
    const links = [...fs.readFileSync(path.join(root, file), "utf8").matchAll(/\]\((?!https?:)([^)#]+)/g)].map((m) => m[1] ?? "");
    for (const link of links) expect(fs.existsSync(path.resolve(root, path.dirname(file), link)), `${file}: ${link}`).toBe(true);
  }
});
