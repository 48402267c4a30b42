import type { HostContent } from "./content";

const record = (kind: string, fields: object): string => `@${kind} ${JSON.stringify(fields)}\n`;

function lines(text: string, path: string): number {
  if (!text.endsWith("\n")) throw new Error(`${path} does not end with a newline`);
  return text.split("\n").length - 1;
}

/**
 * The bundle of one VM: line-oriented text, so that a preview shows a change of a file as a diff of
 * its lines. `digests` names the version of each secret; the texts themselves travel apart.
 */
export function bundle(host: string, content: HostContent, digests: Readonly<Record<string, string>>): string {
  const byPath = (a: { path: string }, b: { path: string }): number => (a.path < b.path ? -1 : 1);
  const paths = [...content.files, ...content.secrets, ...content.links].map((f) => f.path);
  const twice = paths.filter((p, i) => paths.indexOf(p) !== i);
  if (twice.length > 0) throw new Error(`${host}: two parts write ${twice.join(", ")}`);
  return [
    record("bundle", { format: 1, host }),
    ...(content.rollout ? [record("rollout", content.rollout)] : []),
    ...[...content.files]
      .sort(byPath)
      .map(
        ({ path, mode = "0644", owner = "root", group = "root", text }) =>
          record("file", { path, mode, owner, group, lines: lines(text, path) }) + text,
      ),
    ...[...content.secrets].sort(byPath).map(({ path, mode = "0600", owner = "root", group = "root", secret }) => {
      const digest = digests[secret];
      if (digest === undefined) throw new Error(`${host}: ${path} needs the secret ${secret}, which was not passed`);
      return record("secret", { path, mode, owner, group, digest });
    }),
    ...[...content.links].sort(byPath).map((link) => record("link", link)),
    ...content.checks.map((c) => record("check", { user: 0, group: 0, ...c })),
    ...content.actions.map((a) => record("action", a)),
    ...content.units.map((u) => record("unit", { reload: [], restart: [], start: true, drain: false, ...u })),
    ...content.services.map((s) => record("service", s)),
    ...content.probes.map((p) => record("probe", p)),
  ].join("");
}
