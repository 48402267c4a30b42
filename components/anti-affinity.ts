import * as pulumi from "@pulumi/pulumi";
import * as vsphere from "@pulumi/vsphere";
import type { Member } from "./tier";

/** Keeps the VMs of a tier on different ESXi hosts, so that one dead host takes one of them. */
export function keepApart(tier: string, clusterId: pulumi.Input<string>, members: readonly Member[], parent: pulumi.Resource): void {
  if (members.length < 2) return;
  const ids = members.map((m) => m.host.nodes.vm.id);
  new vsphere.ComputeClusterVmAntiAffinityRule(
    `${tier}-apart`,
    // Not mandatory: with fewer ESXi hosts than VMs all of them shall still start.
    { name: `php-fleet-${tier}`, computeClusterId: clusterId, virtualMachineIds: ids, mandatory: false },
    // A rule's name is unique in its cluster, so a replacement must follow the old one's end.
    { parent, deleteBeforeReplace: true },
  );
}
