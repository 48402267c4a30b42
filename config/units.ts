/** A memory or disk size as operators write it: `512 MB`, `4 GB`. Binary units, as vSphere counts them. */
export type Size = `${number} MB` | `${number} GB`;

/** A length of time as operators write it: `0.5 seconds`, `30 seconds`, `5 minutes`. */
export type Duration = `${number} seconds` | `${number} second` | `${number} minutes` | `${number} minute`;

const SIZE = /^(\d+) (MB|GB)$/;
const DURATION = /^(\d+(?:\.\d+)?) (second|minute)s?$/;

/** Megabytes of a size, or undefined when it is not one. */
export function megabytes(text: string): number | undefined {
  const match = SIZE.exec(text);
  if (!match) return undefined;
  const amount = Number(match[1]);
  return match[2] === "GB" ? amount * 1024 : amount;
}

/** Seconds of a duration, or undefined when it is not one. */
export function seconds(text: string): number | undefined {
  const match = DURATION.exec(text);
  if (!match) return undefined;
  const amount = Number(match[1]);
  return match[2] === "minute" ? amount * 60 : amount;
}

/** A size written the shortest way: `4 GB`, `512 MB`. */
export function formatMegabytes(mb: number): string {
  return mb % 1024 === 0 ? `${mb / 1024} GB` : `${mb} MB`;
}
