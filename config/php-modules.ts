import type { DebianRelease } from "./schema";

/** How one PHP module is asked for at build time, and what it needs of Debian. */
export interface ModuleRecipe {
  /** Options of PHP's configure; none for what is always in. */
  readonly options: readonly string[];
  /** Debian packages needed to compile it. */
  readonly build: readonly string[];
  /** Debian packages needed to run it. */
  readonly run: readonly string[];
  /** How `php -m` names it, where that is not the module's own name. */
  readonly reported?: string;
  /** Modules that its code needs: PHP's own PHP_ADD_EXTENSION_DEP, without what is in every build. */
  readonly needs?: readonly string[];
}

const flag = (...options: string[]): ModuleRecipe => ({ options, build: [], run: [] });
const library = (option: string, build: string[], run: string[]): ModuleRecipe => ({
  options: [option],
  build,
  run,
});

/** Every XML module needs the library asked for beside itself. */
const xmlLibrary = (option: string): ModuleRecipe => ({ options: ["--with-libxml", option], build: ["libxml2-dev"], run: ["libxml2"] });

/**
 * The modules a build may ask for. `--disable-all` comes first, so a build holds these and PHP's
 * own core and nothing else. Packages are named as in Debian 12; see {@link packageOf}.
 */
export const phpModules = {
  bcmath: flag("--enable-bcmath"),
  calendar: flag("--enable-calendar"),
  ctype: flag("--enable-ctype"),
  curl: library("--with-curl", ["libcurl4-openssl-dev"], ["libcurl4"]),
  dom: xmlLibrary("--enable-dom"),
  exif: flag("--enable-exif"),
  fileinfo: flag("--enable-fileinfo"),
  filter: flag("--enable-filter"),
  gd: {
    options: ["--enable-gd", "--with-jpeg", "--with-webp", "--with-freetype"],
    build: ["libpng-dev", "libjpeg62-turbo-dev", "libwebp-dev", "libfreetype-dev"],
    run: ["libpng16-16", "libjpeg62-turbo", "libwebp7", "libfreetype6"],
  },
  iconv: flag("--with-iconv"),
  intl: library("--enable-intl", ["libicu-dev"], ["libicu72"]),
  mbstring: library("--enable-mbstring", ["libonig-dev"], ["libonig5"]),
  mysqli: { ...flag("--with-mysqli=mysqlnd"), needs: ["mysqlnd"] },
  // Of the compressed protocol, which it has whether asked for or not.
  mysqlnd: library("--enable-mysqlnd", ["zlib1g-dev"], ["zlib1g"]),
  opcache: { ...flag("--enable-opcache"), reported: "Zend OPcache" },
  openssl: library("--with-openssl", ["libssl-dev"], ["libssl3"]),
  pdo: { ...flag("--enable-pdo"), reported: "PDO" },
  pdo_mysql: { ...flag("--with-pdo-mysql=mysqlnd"), needs: ["mysqlnd", "pdo"] },
  phar: { ...flag("--enable-phar"), reported: "Phar" },
  posix: flag("--enable-posix"),
  session: flag("--enable-session"),
  simplexml: { ...xmlLibrary("--enable-simplexml"), reported: "SimpleXML" },
  soap: xmlLibrary("--enable-soap"),
  sodium: library("--with-sodium", ["libsodium-dev"], ["libsodium23"]),
  tokenizer: flag("--enable-tokenizer"),
  xml: xmlLibrary("--enable-xml"),
  xmlreader: xmlLibrary("--enable-xmlreader"),
  xmlwriter: xmlLibrary("--enable-xmlwriter"),
  zip: library("--with-zip", ["libzip-dev"], ["libzip4"]),
  zlib: library("--with-zlib", ["zlib1g-dev"], ["zlib1g"]),
} as const satisfies Record<string, ModuleRecipe>;

/** Libraries that another release has under another name: a new ABI, or 64-bit time. Development packages keep theirs. */
const renamed: Readonly<Record<DebianRelease, Readonly<Record<string, string>>>> = {
  bookworm: {},
  trixie: {
    libcurl4: "libcurl4t64",
    libicu72: "libicu76",
    libmemcached11: "libmemcached11t64",
    "libpng16-16": "libpng16-16t64",
    libssl3: "libssl3t64",
    libzip4: "libzip5",
  },
};

/**
 * Name of a package of Debian 12 in a release. Of a name that a release only provides, dpkg says for ever that it
 * is not installed.
 */
export const packageOf = (debian: DebianRelease, name: string): string => renamed[debian][name] ?? name;

/** Name of a module that comes with PHP. */
export type PhpModule = keyof typeof phpModules;

/** All names, sorted. */
export const phpModuleNames = Object.keys(phpModules).sort() as PhpModule[];

/** In every build whether asked for or not. */
export const alwaysOn = ["Core", "date", "hash", "json", "pcre", "random", "Reflection", "SPL", "standard"] as const;
