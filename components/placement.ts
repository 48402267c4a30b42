import type * as pulumi from "@pulumi/pulumi";
import * as vsphere from "@pulumi/vsphere";
import type { Fleet } from "../config/model";
import { ConfigError, type Problem } from "../config/problems";
import type { DebianRelease } from "../config/schema";

/** Where in the vCenter the fleet's VMs go: looked up once, used by every VM. */
export interface Placement {
  readonly resourcePoolId: string;
  readonly clusterId: string;
  readonly datastoreId: string;
  readonly networkId: string;
  readonly folder: pulumi.Output<string>;
  readonly templates: Partial<Record<DebianRelease, vsphere.GetVirtualMachineResult>>;
  /** Tag that marks every VM of this stack. */
  readonly tagId: pulumi.Output<string>;
}

/** A name that the stack gives, and what vCenter must have by it. */
interface Named {
  /** Key of `fleet:vsphere`. */
  readonly key: string;
  readonly name: string;
  /** What it names and where, e.g. `a cluster in datacenter main`. */
  readonly what: string;
  /** @default the account's privileges are the only other cause */
  readonly remedy?: string;
}

/**
 * Looks up the places that `fleet:vsphere` names and creates the stack's folder and tag.
 * @throws ConfigError with all names that vCenter lacks, or with why it cannot be asked; no resource exists then.
 */
export async function createPlacement(fleet: Fleet, provider: pulumi.ProviderResource): Promise<Placement> {
  const at = { provider };
  const where = fleet.config.vsphere;
  const find = async <T>(named: Named, found: Promise<T>): Promise<T> => {
    try {
      return await found;
    } catch (error) {
      throw new ConfigError([lookupProblem(fleet, named, (error as Error).message)]);
    }
  };
  const datacenter = { key: "datacenter", name: where.datacenter, what: `a datacenter of ${where.server}` };
  const { id: datacenterId } = await find(datacenter, vsphere.getDatacenter({ name: where.datacenter }, at));
  const inside = (name: string): { name: string; datacenterId: string } => ({ name, datacenterId });
  const named = (key: "cluster" | "datastore" | "network"): Named => {
    return { key, name: where[key], what: `a ${key} in datacenter ${where.datacenter}` };
  };
  const cluster = find(named("cluster"), vsphere.getComputeCluster(inside(where.cluster), at));
  const datastore = find(named("datastore"), vsphere.getDatastore(inside(where.datastore), at));
  const network = find(named("network"), vsphere.getNetwork(inside(where.network), at));
  const templates = [...new Set(fleet.machines.map((m) => m.debian))].map(async (debian) => {
    const name = where.templates[debian] ?? "";
    const what = `a template VM in datacenter ${where.datacenter}`;
    const remedy = "Correct the name, or make the template (docs/operations.md).";
    const template = { key: `templates.${debian}`, name, what, remedy };
    return [debian, await find(template, vsphere.getVirtualMachine(inside(name), at))] as const;
  });
  await allTogether([cluster, datastore, network, ...templates]);

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
  const { id: clusterId, resourcePoolId } = await cluster;
  return {
    resourcePoolId,
    clusterId,
    datastoreId: (await datastore).id,
    networkId: (await network).id,
    folder: folder.path,
    templates: Object.fromEntries(await Promise.all(templates)),
    tagId: tag.id,
  };
}

/** Waits for every lookup. @throws ConfigError with the problems of all that failed. */
async function allTogether(lookups: readonly Promise<unknown>[]): Promise<void> {
  const settled = await Promise.allSettled(lookups);
  const failed = settled.flatMap((result) => (result.status === "rejected" ? [result.reason as ConfigError] : []));
  if (failed.length > 0) throw new ConfigError(failed.flatMap((error) => error.problems));
}

/** What the operator can do about a lookup that failed with `message`: the provider has no codes, only words. */
export function lookupProblem({ stack, config }: Pick<Fleet, "stack" | "config">, named: Named, message: string): Problem {
  const { server, user } = config.vsphere;
  const problem = (key: string, value: string, allowed: string, remedy: string): Problem => {
    return { file: `Pulumi.${stack}.yaml`, property: `fleet:vsphere.${key}`, value, allowed, remedy };
  };
  const said = message.replace(/^.* invoking \S+: /s, "").trim();
  const [, refusal] = /error setting up new vSphere \w+ client: (.*)$/s.exec(said) ?? [];
  if (refusal === undefined) {
    const allowed = `${named.what} that ${user} may see`;
    const remedy = named.remedy ?? "Correct the name, or the account's privileges (docs/operations.md).";
    return problem(named.key, named.name, allowed, said.endsWith("not found") ? remedy : `vCenter says: ${said}. ${remedy}`);
  }
  if (/x509|certificate/.test(refusal)) {
    const remedy = "Install its authority on this computer, or set fleet:vsphere.allowUnverifiedSsl: true.";
    return problem("server", server, `a vCenter whose certificate this computer can verify (${refusal})`, remedy);
  }
  if (/^ServerFaultCode/.test(refusal)) {
    const remedy = `Correct it, or set the password: npm run fleet -- secret vspherePassword -s ${stack} < FILE`;
    return problem("user", user, `an account that vCenter ${server} lets in with its password (${refusal})`, remedy);
  }
  return problem("server", server, `a vCenter that this computer reaches by HTTPS (${refusal})`, "Correct it, or open the way to it.");
}
