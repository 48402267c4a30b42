// Bringing the machine room up and down: network, package proxy, images, vCenter, annex.
import * as fs from "fs";
import * as path from "path";
import { annexReady, annexUp } from "./annex";
import { holdLock, removeTree } from "./cache";
import { writeFacts } from "./facts";
import { image } from "./image";
import { kernel } from "./kernel";
import { networkDown, networkUp } from "./network";
import { labPaths, labRoot } from "./paths";
import { proxyDown, proxyUp } from "./proxy";
import { secrets } from "./secrets";
import { network } from "./settings";
import { sourcesUp } from "./sources";
import { ask, LabError, run, step } from "./shell";
import { templatesOf } from "./stack-file";
import { clearMachines, vcenterDown, vcenterUp, type TemplateImage } from "./vcenter";

/**
 * Makes everything the program needs exist: run again, it repairs what is missing and leaves what works.
 * `named` are the stack's templates by Debian release; each of them gets an image.
 */
export async function machinesUp(named: Readonly<Record<string, string>>): Promise<void> {
  const wanted = templatesOf(named);
  await exclusively(async () => {
    for (const directory of [labRoot, labPaths.run, labPaths.logs, labPaths.images])
      fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
    sweep();
    const known = await secrets();
    await step("network and package proxy", async () => {
      await networkUp();
      await proxyUp();
    });
    const uml = await kernel();
    const images: TemplateImage[] = [];
    for (const template of wanted) {
      const built = await image(template.release, uml);
      images.push({ name: template.name, guestId: template.guestId, image: await keep(built.key, built.directory) });
    }
    dropUnusedImages(images.map((i) => i.image));
    await step("vCenter", async () => {
      await vcenterUp(known, uml.program, images);
      await clearMachines();
    });
    const [first] = images;
    if (first === undefined) throw new LabError(`fleet:vsphere.templates names no Debian release that the lab has an image of`);
    await annexUp(known, first.image);
    await step("sources", sourcesUp); // while the annex boots
    await step("annex", annexReady);
    writeFacts(known);
  });
}

/** Stops every machine and process of the lab; disks, inventory and secrets stay. */
export async function machinesDown(): Promise<void> {
  await exclusively(async () => {
    await step("stopping the machines", () => vcenterDown(true));
    await proxyDown();
    endStrays();
    networkDown();
  });
}

/** `down`, and then removes the lab's state. The cache stays. */
export async function machinesDestroyed(): Promise<void> {
  await exclusively(async () => {
    await vcenterDown(false);
    await proxyDown();
    endStrays();
    networkDown();
  });
  removeTree(labRoot);
}

/** One verb at a time may change the lab. */
async function exclusively(work: () => Promise<void>): Promise<void> {
  const release = await holdLock(labPaths.lock, "another verb of the lab");
  try {
    await work();
  } finally {
    release();
  }
}

/**
 * An image the lab's disks are layered over must live as long as they do, so the lab keeps its own: hard links to the
 * cache's files, or a copy where the two are on different file systems.
 */
async function keep(key: string, cachedImage: string): Promise<string> {
  const mine = path.join(labPaths.images, key);
  if (fs.existsSync(mine)) return mine;
  const part = `${mine}.part`;
  removeTree(part);
  if (ask("cp", ["-al", cachedImage, part]) === undefined) {
    removeTree(part);
    await step("copying the image", () => run("cp", ["-a", "--sparse=always", cachedImage, part]));
  }
  fs.renameSync(part, mine);
  return mine;
}

/** Images that no template and no machine's disk rests on any more. */
function dropUnusedImages(inUse: string[]): void {
  const machinesDirectory = path.join(labRoot, "machines");
  const used = new Set(inUse);
  for (const id of fs.existsSync(machinesDirectory) ? fs.readdirSync(machinesDirectory) : []) {
    const file = path.join(machinesDirectory, id, "machine.json");
    // A directory without a description may be one that is just made: nothing is dropped then.
    if (!fs.existsSync(file)) return;
    used.add((JSON.parse(fs.readFileSync(file, "utf8")) as { image: string }).image);
  }
  for (const name of fs.readdirSync(labPaths.images)) {
    const directory = path.join(labPaths.images, name);
    if (!used.has(directory)) removeTree(directory);
  }
}

/** Removes what killed processes left half-written. */
function sweep(): void {
  for (const directory of [labPaths.images, labPaths.run, labRoot]) {
    for (const name of fs.readdirSync(directory)) {
      if (/\.part(-\d+)?$/.test(name)) removeTree(path.join(directory, name));
    }
  }
}

/** Machines whose vCenter process is gone, for example killed: they are known by their cgroups. */
function endStrays(): void {
  for (const root of ["memory/", "freezer/", "cpuacct/", "unified/", ""].map((tree) => `/sys/fs/cgroup/${tree}${network.namespace}`)) {
    if (!fs.existsSync(root)) continue;
    for (let round = 0; round < 50; round++) {
      const groups = fs.readdirSync(root, { withFileTypes: true, recursive: true }).filter((entry) => entry.isDirectory());
      const pids = groups.flatMap((group) =>
        fs
          .readFileSync(path.join(group.parentPath, group.name, "cgroup.procs"), "utf8")
          .split("\n")
          .filter(Boolean),
      );
      for (const group of groups) thaw(path.join(group.parentPath, group.name));
      for (const pid of pids) {
        try {
          process.kill(Number(pid), "SIGKILL");
        } catch {
          // gone meanwhile
        }
      }
      if (pids.length === 0) {
        for (const group of groups.reverse()) ask("rmdir", [path.join(group.parentPath, group.name)]);
        ask("rmdir", [root]);
        break;
      }
      ask("sleep", ["0.1"]);
    }
  }
}

/** A frozen process cannot die. */
function thaw(group: string): void {
  for (const [file, value] of [
    ["freezer.state", "THAWED"],
    ["cgroup.freeze", "0"],
  ] as const) {
    const full = path.join(group, file);
    if (fs.existsSync(full)) fs.writeFileSync(full, value);
  }
}
