import * as pulumi from "@pulumi/pulumi";
import * as vsphere from "@pulumi/vsphere";
import type { Fleet, Machine } from "../config/model";
import type { DebianRelease } from "../config/schema";

/** Where in the vCenter the fleet's VMs go: looked up once, used by every VM. */
export interface Placement {
  readonly resourcePoolId: pulumi.Output<string>;
  readonly clusterId: pulumi.Output<string>;
  readonly datastoreId: pulumi.Output<string>;
  readonly networkId: pulumi.Output<string>;
  readonly folder: pulumi.Output<string>;
  readonly templates: Partial<Record<DebianRelease, pulumi.Output<vsphere.GetVirtualMachineResult>>>;
  /** Tag that marks every VM of this stack. */
  readonly tagId: pulumi.Output<string>;
}

/** Looks up the places that `fleet:vsphere` names and creates the stack's folder and tag. */
export function createPlacement(fleet: Fleet, provider: pulumi.ProviderResource): Placement {
  const at = { provider };
  const where = fleet.config.vsphere;
  const datacenterId = vsphere.getDatacenterOutput({ name: where.datacenter }, at).apply((d) => d.id);
  const cluster = vsphere.getComputeClusterOutput({ name: where.cluster, datacenterId }, at);
  const used = [...new Set(fleet.machines.map((m: Machine) => m.debian))];
  const folder = new vsphere.Folder("fleet", { path: where.folder, type: "vm", datacenterId }, at);
  const category = new vsphere.TagCategory(
    "fleet",
    {
      name: `php-fleet-${fleet.stack}`,
      cardinality: "SINGLE",
      associableTypes: ["VirtualMachine"],
      description: "VMs that the fleet program manages, by stack",
    },
    at,
  );
  const tag = new vsphere.Tag("fleet", { name: fleet.stack, categoryId: category.id }, at);
  return {
    resourcePoolId: cluster.apply((c) => c.resourcePoolId),
    clusterId: cluster.apply((c) => c.id),
    datastoreId: vsphere.getDatastoreOutput({ name: where.datastore, datacenterId }, at).apply((d) => d.id),
    networkId: vsphere.getNetworkOutput({ name: where.network, datacenterId }, at).apply((n) => n.id),
    folder: folder.path,
    templates: Object.fromEntries(
      used.map((debian) => [debian, vsphere.getVirtualMachineOutput({ name: where.templates[debian] ?? "", datacenterId }, at)]),
    ),
    tagId: tag.id,
  };
}
