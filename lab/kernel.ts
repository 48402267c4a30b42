// The kernel the guests run: Debian's User-Mode Linux, with the libc it was linked against beside it.
import * as fs from "fs";
import * as path from "path";
import { cached, contentKey } from "./cache";
import { archives, keyring } from "./debian";
import { LabError, run, step } from "./shell";

/** The Debian release the kernel comes from: the first whose UML has seccomp mode, IPVS and nfsd. */
const kernelRelease = "forky";
const recipe = 1;

export interface Kernel {
  /** Identifies this build; images contain its modules and take part of their key from it. */
  key: string;
  /** The kernel, an ordinary program. */
  program: string;
  /** Directory holding `<version>/` with the modules. */
  modules: string;
}

export async function kernel(): Promise<Kernel> {
  const key = contentKey({ recipe, kernelRelease });
  const directory = await cached("kernel", key, (part) =>
    step(`kernel from Debian ${kernelRelease}`, () => build(part, part.replace(/\.part-\d+$/, ""))),
  );
  return { key, program: path.join(directory, "linux"), modules: path.join(directory, "root/usr/lib/uml/modules") };
}

/** `final` is where the files will be at last: the program's interpreter is an absolute path. */
async function build(part: string, final: string): Promise<void> {
  const apt = path.join(part, "apt");
  for (const directory of ["lists/partial", "cache/archives/partial"]) fs.mkdirSync(path.join(apt, directory), { recursive: true });
  const list = path.join(apt, "sources.list");
  fs.writeFileSync(list, `deb [signed-by=${keyring}] ${archives().main} ${kernelRelease} main\n`);
  // A world of its own for apt: the machine's own lists, pins and packages stay untouched.
  const options = [
    `Dir::Etc::sourcelist=${list}`,
    "Dir::Etc::sourceparts=/nonexistent",
    "Dir::Etc::preferencesparts=/nonexistent",
    `Dir::State::lists=${apt}/lists`,
    `Dir::Cache=${apt}/cache`,
    "Dir::State::status=/dev/null",
    "APT::Sandbox::User=root",
    "Acquire::Languages=none",
    "Acquire::Retries=3",
  ].flatMap((option) => ["-o", option]);
  const log = path.join(part, "build.log");
  await run("apt-get", [...options, "update"], { log });
  // Names a path in `part`, so `apt-get download` runs there.
  await run("sh", ["-c", 'cd "$1" && shift && exec apt-get "$@"', "sh", part, ...options, "download", "user-mode-linux", "libc6"], { log });
  const root = path.join(part, "root");
  for (const name of fs.readdirSync(part).filter((n) => n.endsWith(".deb"))) {
    await run("dpkg-deb", ["-x", path.join(part, name), root], { log });
    fs.rmSync(path.join(part, name));
  }
  fs.rmSync(apt, { recursive: true });
  const program = path.join(part, "linux");
  fs.copyFileSync(path.join(root, "usr/bin/linux.uml"), program);
  const at = (name: string) => {
    const found = fs.readdirSync(root, { recursive: true, encoding: "utf8" }).find((n) => path.basename(n) === name);
    if (found === undefined)
      throw new LabError(`package libc6 of Debian ${kernelRelease} holds no ${name}: the recipe in lab/kernel.ts must follow`);
    return path.join(final, "root", found);
  };
  const libraries = [path.dirname(at("libc.so.6")), "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"].join(":");
  await run("patchelf", ["--set-interpreter", at("ld-linux-x86-64.so.2"), "--set-rpath", libraries, program], { log });
}
