import * as pulumi from "@pulumi/pulumi";
import { MockMonitor } from "@pulumi/pulumi/runtime/mocks";
import * as vsphere from "@pulumi/vsphere";
import { hostKeyFromSeed } from "../../components/keys";
import { Leaving } from "../../components/leaving";
import type { Platform } from "../../components/tier";
import { allSites } from "../../config/applications";
import type { Fleet } from "../../config/model";
import { exampleSecrets } from "./example";

/** The SDK's own mock of the engine knows no resource hooks yet; here they are only taken note of. */
interface HookRegistrar {
  registerResourceHook?: (request: unknown, done: (error: null, empty: object) => void) => void;
}

/** Has mocks stand for the engine and the providers; every name that vCenter is asked for is there. */
export function mockEngine(stack: string, newResource: pulumi.runtime.Mocks["newResource"]): Promise<void> {
  (MockMonitor.prototype as HookRegistrar).registerResourceHook = (_, done) => done(null, {});
  const call: pulumi.runtime.Mocks["call"] = ({ inputs }) => ({
    id: `looked-up-${String(inputs["name"])}`,
    resourcePoolId: "pool",
    guestId: "debian12_64Guest",
    scsiType: "pvscsi",
    ...inputs,
  });
  return pulumi.runtime.setMocks({ newResource, call }, "fleet", stack, false);
}

/** What the tiers of a fleet are given in a program under mocks, with a text for the sessions of each site. */
export async function mockedPlatform(fleet: Fleet): Promise<Platform> {
  const { createPlacement } = await import("../../components/placement");
  const vcenter = new vsphere.Provider("vcenter", { vsphereServer: "vcenter", user: "fleet", password: "password" });
  return {
    fleet,
    providers: { vsphere: vcenter },
    placement: await createPlacement(fleet, vcenter),
    leaving: new Leaving(),
    secrets: {
      ...exampleSecrets,
      sshPrivateKey: pulumi.secret(hostKeyFromSeed("1".repeat(64), "operator").privateKey),
      ...Object.fromEntries(allSites(fleet).map(({ name }) => [`sessions-${name}`, pulumi.secret(`${name}'s sessions\n`)])),
      ...Object.fromEntries(fleet.applications.map(({ name }) => [`secrets-${name}`, pulumi.secret(`${name}'s secrets\n`)])),
    },
    digestKey: pulumi.secret("key"),
  };
}
