/** One mistake in what the operator wrote: where it is, what is there, what may be there, what to do. */
export interface Problem {
  /** File the operator edits, as they would name it, e.g. `Pulumi.prod.yaml`. */
  readonly file: string;
  /** Property path inside the file, e.g. `fleet:network.cidr`. */
  readonly property: string;
  /** What was found; omitted where it could be a secret or where nothing was found. */
  readonly value?: unknown;
  /** What is allowed there. */
  readonly allowed: string;
  /** What to do about it. */
  readonly remedy: string;
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** One line for a person: file, property, value, what is allowed, remedy. */
export function describeProblem(p: Problem): string {
  const found = p.value === undefined ? "missing" : `is ${show(p.value)}`;
  return `${p.file}: ${p.property} ${found}; allowed: ${p.allowed}. ${p.remedy}`;
}

/** All mistakes of a configuration in one report, thrown before any resource exists. */
export class ConfigError extends Error {
  constructor(readonly problems: readonly Problem[]) {
    const lines = problems.map((p) => `  - ${describeProblem(p)}`);
    const count = problems.length === 1 ? "1 mistake" : `${problems.length} mistakes`;
    super(`The configuration has ${count}; nothing was touched.\n${lines.join("\n")}`);
    this.name = "ConfigError";
    // The operator's own mistake: a stack trace of ours would only hide it.
    delete this.stack;
  }
}
