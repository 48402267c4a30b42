import type { PhpModule } from "./php-modules";

/** What a PECL module needs, of Debian and of the PHP it is built for. */
export interface PeclRecipe {
  /** Modules of PHP that its code needs. */
  readonly needs: readonly PhpModule[];
  /** Debian packages needed to compile it. */
  readonly build: readonly string[];
  /** Debian packages needed to run it. */
  readonly run: readonly string[];
}

/**
 * The PECL modules that are known here, in the order in which they are built and loaded: one that is
 * compiled with a serializer needs the serializer's header to compile, and its symbols to load.
 */
export const peclModules = {
  apcu: { needs: [], build: [], run: [] },
  igbinary: { needs: [], build: [], run: [] },
  msgpack: { needs: [], build: [], run: [] },
  memcached: { needs: ["session"], build: ["libmemcached-dev", "zlib1g-dev"], run: ["libmemcached11", "libsasl2-2", "zlib1g"] },
  redis: { needs: ["session"], build: [], run: [] },
} as const satisfies Record<string, PeclRecipe>;

/** Their names, in that order. */
export const peclModuleNames = Object.keys(peclModules) as (keyof typeof peclModules)[];

/** What is known of a module; nothing of one that is not in the table. */
export function peclRecipe(name: string): PeclRecipe | undefined {
  return (peclModules as Readonly<Record<string, PeclRecipe>>)[name];
}

/** Place of a module in the order of building and loading: those that are not known here come last, by name. */
export function byPeclOrder(a: string, b: string): number {
  const place = (name: string): number => {
    const at = (peclModuleNames as string[]).indexOf(name);
    return at < 0 ? peclModuleNames.length : at;
  };
  return place(a) - place(b) || a.localeCompare(b);
}

/** PECL modules with which the options have a module compiled, as `--enable-redis-igbinary` does. */
export function compiledWith(name: string, options: readonly string[]): string[] {
  return peclModuleNames.filter((other) => options.includes(`--enable-${name}-${other}`));
}
