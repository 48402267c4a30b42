import { compiledWith, peclRecipe } from "./pecl-modules";
import { phpModuleNames, phpModules, type ModuleRecipe, type PhpModule } from "./php-modules";

/** OPcache serves every request; sessions in files, which a site has that says nothing, are the module session's. */
const everybodys = ["opcache", "session"];

/** As much of a site as says what it uses. */
interface Using {
  readonly php?: { readonly modules: readonly string[] } | undefined;
  readonly sessions?: string | undefined;
}

/** PECL modules of a version, with the options that each is compiled with. */
type Pecl = Readonly<Record<string, { readonly options: readonly string[] }>>;

/**
 * Modules of PHP and of PECL that sites use: those that they declare, that of their session store, which has its
 * name, and whatever all of these need in turn.
 */
export function usedModules(sites: readonly Using[], pecl: Pecl): Set<string> {
  const used = new Set([...everybodys, ...sites.flatMap(({ php, sessions = "files" }) => [...(php?.modules ?? []), sessions])]);
  // The walk comes to what is added on the way.
  for (const name of used) for (const need of needsOf(name, pecl)) used.add(need);
  return used;
}

/** Modules of PHP without which these sites, or the version's own PECL modules, could not do; sorted. */
export function neededModules(sites: readonly Using[], pecl: Pecl): PhpModule[] {
  const used = usedModules([...sites, { php: { modules: Object.keys(pecl) } }], pecl);
  return phpModuleNames.filter((name) => used.has(name));
}

function needsOf(name: string, pecl: Pecl): readonly string[] {
  const own = (phpModules as Readonly<Record<string, ModuleRecipe>>)[name]?.needs ?? [];
  return [...own, ...(peclRecipe(name)?.needs ?? []), ...compiledWith(name, pecl[name]?.options ?? [])];
}
