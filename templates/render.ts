import * as fs from "fs";
import * as path from "path";
import Mustache from "mustache";

/** Mustache leaves a missing value empty; in a server's configuration that is a fault, so it is an error here. */
class StrictWriter extends Mustache.Writer {
  constructor(private readonly template: string) {
    super();
  }

  private require(name: string, context: Mustache.Context): void {
    if (context.lookup(name) === undefined) throw new Error(`template ${this.template}: no value for {{${name}}}`);
  }

  override escapedValue(token: string[], context: Mustache.Context): string {
    return this.unescapedValue(token, context);
  }

  override unescapedValue(token: string[], context: Mustache.Context): string {
    this.require(token[1] ?? "", context);
    // Configuration files are not HTML: values go in as they are.
    return String(context.lookup(token[1] ?? ""));
  }

  override renderSection(token: string[], context: Mustache.Context, partials?: Mustache.PartialsOrLookupFn, original?: string): string {
    this.require(token[1] ?? "", context);
    return super.renderSection(token, context, partials, original);
  }

  override renderInverted(token: string[], context: Mustache.Context, partials?: Mustache.PartialsOrLookupFn, original?: string): string {
    this.require(token[1] ?? "", context);
    return super.renderInverted(token, context, partials, original);
  }
}

/**
 * Renders `<directory>/<name>.mustache` with the view.
 * @throws Error naming the template and the variable when the view lacks one.
 */
export function render(directory: string, name: string, view: object): string {
  const template = `${name}.mustache`;
  const text = fs.readFileSync(path.join(directory, template), "utf8");
  return new StrictWriter(template).render(text, view);
}
