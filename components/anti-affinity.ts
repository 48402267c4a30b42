import * as pulumi from "@pulumi/pulumi";
import * as vsphere from "@pulumi/vsphere";
import type { Member } from "./tier";

/** Keeps the VMs of a tier on different ESXi hosts, so that one dead host takes one of them. */
export function keepApart(tier: string, clusterId: pulumi.Input<string>, members: readonly Member[], parent: pulumi.Resource): void {
  if (members.length < 2) return;
  const vms = members.map((m) => m.host.nodes.vm);
  new vsphere.ComputeClusterVmAntiAffinityRule(
    `${tier}-apart`,
    // Not mandatory: with fewer ESXi hosts than VMs all of them shall still start.
    { name: `php-fleet-${tier}`, computeClusterId: clusterId, virtualMachineIds: vms.map((vm) => vm.id), mandatory: false },
    // A rule's name is unique in its cluster, so a replacement must follow the old one's end. The provider
    // cannot read a rule one of whose VMs is gone, so it goes before a VM that is replaced.
    { parent, deleteBeforeReplace: true, replaceWith: vms },
  );
}
