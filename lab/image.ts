// The disk image all guests start from, and the same tree as a directory for machines booted natively.
import * as fs from "fs";
import * as path from "path";
import { cached, contentKey, treeInputs } from "./cache";
import { archives, sourcesList } from "./debian";
import type { Kernel } from "./kernel";
import { disabledUnits, maskedUnits, packages } from "./packages";
import { run, step } from "./shell";

/** Size of the root file system as guests see it; the file is sparse and costs what is written. */
const rootSizeGb = 16;
const recipe = 2;
const overlay = path.join(__dirname, "image", "overlay");
/** Files of one release alone, where there are any. */
const ownOverlay = (release: string): string[] => [path.join(__dirname, "image", release)].filter((d) => fs.existsSync(d));

export interface Image {
  key: string;
  /** Directory with `root.img` (ext4) and `tree/` (the same files). */
  directory: string;
}

export async function image(release: string, kernel: Kernel): Promise<Image> {
  const debian = contentKey({ recipe, release, packages: packages(release) });
  const own = ownOverlay(release).map(treeInputs);
  const key = contentKey({
    ...{ recipe, debian, rootSizeGb, disabledUnits, maskedUnits, kernel: kernel.key, overlay: treeInputs(overlay) },
    // Left out where there is none: images of before keep their names.
    ...(own.length > 0 ? { own } : {}),
  });
  const directory = await cached("image", key, async (part) => {
    // The packages take most of the time and change seldom, so they are an entry of their own.
    const base = await cached("debian", debian, (basePart) => step(`packages of Debian ${release}`, () => install(basePart, release)));
    await step(`image of Debian ${release}`, () => build(part, path.join(base, "tree"), release, kernel));
  });
  return { key, directory };
}

async function install(part: string, release: string): Promise<void> {
  const list = path.join(part, "sources.list");
  fs.writeFileSync(list, sourcesList(release, archives()));
  await run(
    "mmdebstrap",
    [
      ...["--mode=root", "--variant=minbase", "--format=directory", "--skip=cleanup/apt/lists"],
      `--include=${packages(release).join(",")}`,
      ...["man", "locale", "doc"].map((what) => `--dpkgopt=path-exclude=/usr/share/${what}/*`),
      "--dpkgopt=force-unsafe-io",
      ...["--aptopt=Acquire::Retries 3", "--aptopt=Acquire::Languages none"],
      ...[release, path.join(part, "tree"), list],
    ],
    { log: path.join(part, "build.log") },
  );
}

async function build(part: string, base: string, release: string, kernel: Kernel): Promise<void> {
  const tree = path.join(part, "tree");
  const log = path.join(part, "build.log");
  await run("cp", ["-a", "--reflink=auto", base, tree], { log });
  await settle(tree, release, kernel, log);
  const disk = path.join(part, "root.img");
  await run("truncate", ["-s", `${rootSizeGb}G`, disk]);
  await run("mke2fs", ["-q", "-t", "ext4", "-L", "root", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", tree, disk], { log });
}

/** From a fresh Debian to a template: nothing in it that two guests must not share. */
async function settle(tree: string, release: string, kernel: Kernel, log: string): Promise<void> {
  const at = (...parts: string[]) => path.join(tree, ...parts);
  for (const from of [overlay, ...ownOverlay(release)]) await run("cp", ["-a", "--no-preserve=ownership", `${from}/.`, tree], { log });
  fs.mkdirSync(at("usr/lib/modules"), { recursive: true });
  await run("cp", ["-a", `${kernel.modules}/.`, at("usr/lib/modules")], { log });
  for (const version of fs.readdirSync(kernel.modules)) await run("chroot", [tree, "depmod", version], { log });

  fs.writeFileSync(at("etc/fstab"), "/dev/ubda / ext4 noatime,errors=remount-ro 0 0\n");
  fs.writeFileSync(at("etc/hostname"), "localhost\n");
  fs.writeFileSync(at("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n");
  // Empty, not absent: an absent one makes systemd enable every unit again at first boot.
  fs.writeFileSync(at("etc/machine-id"), "");
  fs.rmSync(at("var/lib/dbus/machine-id"), { force: true });
  for (const name of fs.readdirSync(at("etc/ssh"))) if (name.startsWith("ssh_host_")) fs.rmSync(at("etc/ssh", name));
  for (const name of ["etc/resolv.conf", "etc/network/interfaces.d/setup"]) fs.rmSync(at(name), { force: true });
  fs.writeFileSync(at("etc/resolv.conf"), "");
  fs.mkdirSync(at("var/log/journal"), { recursive: true });

  const known = disabledUnits.filter((unit) => fs.existsSync(at("lib/systemd/system", unit)));
  await run("systemctl", [`--root=${tree}`, "disable", ...known], { log });
  await run("systemctl", [`--root=${tree}`, "enable", "networking.service", "ssh.service"], { log });
  await run("systemctl", [`--root=${tree}`, "mask", ...maskedUnits], { log });
  // The only orderly way to ask a User-Mode guest to stop is its Ctrl-Alt-Del.
  fs.symlinkSync("/lib/systemd/system/poweroff.target", at("etc/systemd/system/ctrl-alt-del.target"));
}
