import { describe, expect, it } from "vitest";
import { lookupProblem } from "../../components/placement";
import { describeProblem } from "../../config/problems";
import { exampleFleet } from "./example";

const { fleet } = exampleFleet("prod");
const template = { key: "templates.bookworm", name: "debian-12", what: "a template VM in datacenter university" };
/** What an operator reads where the provider says so of a lookup. */
const told = (message: string, named: Parameters<typeof lookupProblem>[1] = template): string =>
  describeProblem(lookupProblem(fleet, named, message));
const invoked = (token: string, error: string): string =>
  `invocation of vsphere:index/${token}:${token} returned an error: invoking vsphere:index/${token}:${token}: ${error}`;
/** The same without the second part: the provider could not even begin. */
const client = (error: string): string =>
  `invocation of vsphere:index/getDatacenter:getDatacenter returned an error: error setting up new vSphere SOAP client: ${error}`;

describe("what vCenter answers to a lookup is told by the key that is wrong, with its remedy", () => {
  it("a name that it lacks", () => {
    const message = invoked("getVirtualMachine", "error fetching virtual machine: vm 'debian-12' not found");
    expect(told(message, { ...template, remedy: "Correct the name, or make the template (docs/operations.md)." })).toBe(
      'Pulumi.prod.yaml: fleet:vsphere.templates.bookworm is "debian-12"; allowed: a template VM in datacenter university that fleet-prod@vsphere.local may see. Correct the name, or make the template (docs/operations.md).',
    );
    expect(told(message)).toContain("may see. Correct the name, or the account's privileges (docs/operations.md).");
  });

  it("an answer that nobody foresaw is told as it is", () => {
    const message = invoked("getVirtualMachine", "error fetching virtual machine: path 'debian-12' resolves to multiple VMs");
    expect(told(message)).toContain(
      "vCenter says: error fetching virtual machine: path 'debian-12' resolves to multiple VMs. Correct the name",
    );
  });

  it.each([
    ["of vCenter", "ServerFaultCode: Cannot complete login due to an incorrect user name or password."],
    ["of the simulator", "ServerFaultCode: Login failure"],
  ])("an account that is refused, in the words %s", (_, words) => {
    expect(told(client(words))).toBe(
      `Pulumi.prod.yaml: fleet:vsphere.user is "fleet-prod@vsphere.local"; allowed: an account that vCenter vcenter.university.example lets in with its password (${words}). Correct it, or set the password: npm run fleet -- secret vspherePassword -s prod < FILE`,
    );
  });

  it("a certificate that cannot be verified", () => {
    const said = told(client('Post "https://vc/sdk": tls: failed to verify certificate: x509: certificate signed by unknown authority'));
    expect(said).toContain('fleet:vsphere.server is "vcenter.university.example"; allowed: a vCenter whose certificate');
    expect(said).toContain("Install its authority on this computer, or set fleet:vsphere.allowUnverifiedSsl: true.");
  });

  it.each(["dial tcp 10.20.0.9:443: connect: connection refused", "dial tcp: lookup vc: no such host"])(
    "a server out of reach: %s",
    (error) => {
      const said = told(client(`Post "https://login.vc/sdk": ${error}`));
      expect(said).toContain(
        'fleet:vsphere.server is "vcenter.university.example"; allowed: a vCenter that this computer reaches by HTTPS',
      );
      expect(said).toContain(error);
    },
  );
});
