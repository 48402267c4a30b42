import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import * as random from "@pulumi/random";
import * as vsphere from "@pulumi/vsphere";
import { macAddress } from "../config/network";
import type { Fleet, Machine } from "../config/model";
import { metadata, userData } from "./birth";
import { birthOf, type Leaving } from "./leaving";
import { hostKeyFromSeed, publicKeyOf } from "./keys";
import type { Placement } from "./placement";
import { seedOf } from "./seed";
import type { Address } from "./ssh";

/** Changes the arguments of a child before it is created. */
export type Transform<T> = (args: T) => T;

export interface HostArgs {
  /** The VM in plain values. A change of vcpu, memoryMb or a disk's size changes the VM in place. */
  machine: Machine;
  /** The other VMs of its tier, which must be ready before this one is powered off or replaced. */
  peers: readonly Machine[];
  /** Has the VM leave its services before that. */
  leaving: Leaving;
  /** What must be done before the VM is created or changed: the one before it in its tier. @default nothing */
  after?: readonly pulumi.Resource[];
  /** The platform's configuration. */
  config: Fleet["config"];
  /** Where in the vCenter. */
  placement: Placement;
  /** Private key with which the program connects. */
  sshPrivateKey: pulumi.Input<string>;
  transform?: {
    /** The VM's arguments. @example (args) => ({ ...args, cpuReservation: 2000 }) */
    vm?: Transform<vsphere.VirtualMachineArgs>;
  };
}

/**
 * A Debian VM on vSphere that can be reached over SSH and is known by its host key before the
 * first connection.
 *
 * ### Operations
 * - vcpu or memoryMb up: hot-added, no reboot, unless the stack says `hotAdd: false`.
 * - vcpu or memoryMb down: the VM leaves its services, vSphere shuts the guest down and starts it
 *   again; one VM of a tier at a time.
 * - Debian release, name of its template: the VM leaves its services and is replaced, one VM of a
 *   tier at a time. A NAS or a builder, which holds what no other VM has, stays what it was born as.
 * - address, name: the VM is replaced.
 * - user data, and another template under the old name: for VMs yet to be born.
 */
export class Host extends pulumi.ComponentResource {
  /** Host name, the VM's identity. */
  readonly name: string;
  readonly machine: Machine;
  /** The way to it, for what is no resource. */
  readonly address: pulumi.Output<Address>;
  /** How to connect; every remote command on this VM uses it. */
  readonly connection: pulumi.Output<command.types.input.remote.ConnectionArgs>;
  /** Public host key that the VM must present. */
  readonly hostKey: pulumi.Output<string>;
  readonly nodes: { readonly vm: vsphere.VirtualMachine; readonly seed: random.RandomPassword; readonly size: random.RandomId };

  constructor(tier: string, args: HostArgs, opts: pulumi.ComponentResourceOptions = {}) {
    const { machine, config, placement } = args;
    super("hosting:host:Host", `${tier}-host-${machine.name}`, {}, opts);
    const child = { parent: this };
    const template = placement.templates[machine.debian];
    if (!template) throw new Error(`no template of ${machine.debian} was looked up for ${machine.name}`);

    // Not RandomBytes: its value is its ID too, and IDs are never encrypted in the state.
    const seed = new random.RandomPassword(`${tier}-key-${machine.name}`, { length: 64, special: false }, child);
    const key = seedOf(seed).apply((s) => hostKeyFromSeed(s, machine.name));
    const encode = (text: pulumi.Input<string>): pulumi.Output<string> =>
      pulumi.output(text).apply((t) => Buffer.from(t).toString("base64"));
    const cloudInit = pulumi
      .all([key, args.sshPrivateKey])
      .apply(([hostKey, operator]) => userData(machine, config, hostKey, publicKeyOf(operator)));

    const birth = birthOf(machine, config.vsphere.templates);
    // Another name for every size that is begun, also where an `up` was cut short and the size is taken back:
    // the gate of a VM that was powered off for nothing runs all the same.
    const size = new random.RandomId(
      `${tier}-size-${machine.name}`,
      { byteLength: 8, keepers: { vcpu: `${machine.vcpu}`, memoryMb: `${machine.memoryMb}`, hotAdd: `${config.vsphere.hotAdd}` } },
      child,
    );
    const vmArgs: vsphere.VirtualMachineArgs = {
      // An explicit name: vCenter shows what operators call the machine.
      name: machine.name,
      resourcePoolId: placement.resourcePoolId,
      datastoreId: placement.datastoreId,
      folder: placement.folder,
      tags: [placement.tagId],
      annotation: `${machine.role} of ${machine.tier}, ${birth}; managed by the fleet program, stack ${config.vsphere.folder}`,
      numCpus: machine.vcpu,
      memory: machine.memoryMb,
      cpuHotAddEnabled: config.vsphere.hotAdd,
      memoryHotAddEnabled: config.vsphere.hotAdd,
      guestId: template.guestId,
      scsiType: template.scsiType,
      networkInterfaces: [
        {
          networkId: placement.networkId,
          adapterType: "vmxnet3",
          useStaticMac: true,
          macAddress: macAddress(machine.address),
        },
      ],
      disks: [
        { label: "disk0", unitNumber: 0, size: machine.diskGb, thinProvisioned: true },
        ...(machine.dataDiskGb ? [{ label: "data", unitNumber: 1, size: machine.dataDiskGb, thinProvisioned: true }] : []),
      ],
      clone: { templateUuid: template.id },
      extraConfig: {
        "guestinfo.metadata": encode(metadata(machine, config.network)),
        "guestinfo.metadata.encoding": "base64",
        "guestinfo.userdata": pulumi.secret(encode(cloudInit)),
        "guestinfo.userdata.encoding": "base64",
      },
      // The address is ours to know; waiting for a lease or for tools would only fail later.
      waitForGuestNetTimeout: 0,
      waitForGuestIpTimeout: 0,
      shutdownWaitTimeout: 5,
    };
    this.hostKey = pulumi.unsecret(key.apply((k) => k.publicKey));
    const way = { host: machine.address, user: config.ssh.user };
    this.address = pulumi.all([args.sshPrivateKey, this.hostKey]).apply(([privateKey, hostKey]) => ({ ...way, privateKey, hostKey }));
    args.leaving.add(machine.name, { tier: machine.tier, peers: args.peers, address: this.address, birth });
    // The sites' files, and the archives of compiled PHP: no other machine has them.
    const keepsData = machine.role === "nas" || machine.role === "builder";
    const vm = new vsphere.VirtualMachine(`${tier}-vm-${machine.name}`, args.transform?.vm ? args.transform.vm(vmArgs) : vmArgs, {
      ...child,
      dependsOn: [size, ...(args.after ?? [])],
      // A rebuilt template or new user data is for VMs yet to be born; the annotation tells of the birth.
      ignoreChanges: ["clone.templateUuid", "extraConfig", "annotation", "guestId", "scsiType"],
      protect: machine.role === "nas",
      ...(keepsData ? {} : { replacementTrigger: birth }),
      // Name and address are those of the VM before it.
      deleteBeforeReplace: true,
      customTimeouts: { create: "30m" },
      hooks: args.leaving.hooks,
    });

    this.name = machine.name;
    this.machine = machine;
    this.connection = pulumi.secret({
      ...way,
      privateKey: args.sshPrivateKey,
      hostKey: this.hostKey,
      // 100 ms growing to 5 s a try: about five minutes for a slow first boot.
      dialErrorLimit: 70,
      perDialTimeout: 15,
    });
    this.nodes = { vm, seed, size };
    this.registerOutputs({ name: this.name, hostKey: this.hostKey });
  }
}
