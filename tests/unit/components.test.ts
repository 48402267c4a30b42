import * as pulumi from "@pulumi/pulumi";
import { createHash } from "crypto";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { powersOff } from "../../components/leaving";
import { unwantedUnits } from "../../components/host-config";
import { redisPassword } from "../../components/keys";
import { loadFleet } from "../../config/load";
import { redisRules, redisUser } from "../../templates/php/fpm";
import { exampleSecrets, writtenStack } from "./example";
import { mockedPlatform, mockEngine } from "./mocks";

/*
 * Mocks stand for the engine and the providers: they prove which resources are asked for, with
 * which inputs and in which order. They cannot prove that vCenter or a machine accepts them, nor
 * parentage beyond what a URN shows.
 */

interface Recorded {
  readonly type: string;
  readonly name: string;
  readonly inputs: Record<string, unknown>;
  readonly begun: number;
  readonly ended: number;
}

const recorded: Recorded[] = [];
const isSecret = (value: unknown): boolean => typeof value === "object" && value !== null && "4dabf18193072939515e22adb298388d" in value;

function recordResources(): void {
  let clock = 0;
  void mockEngine("prod", async (args) => {
    const begun = clock++;
    await new Promise((resolve) => setTimeout(resolve, 5));
    recorded.push({ type: args.type, name: args.name, inputs: args.inputs as Record<string, unknown>, begun, ended: clock++ });
    return {
      id: `id-${args.name}`,
      state: {
        ...args.inputs,
        result: `seed of ${args.name}`.padEnd(64, "-"),
        hex: `hex of ${args.name}`,
        stdout: JSON.stringify({ sha256: "ab" }),
      },
    };
  });
}

const ofType = (type: string): Recorded[] => recorded.filter((r) => r.type === type);
const named = (name: string): Recorded => {
  const found = recorded.find((r) => r.name === name);
  if (!found) throw new Error(`no resource ${name}; there are ${recorded.map((r) => r.name).join(", ")}`);
  return found;
};

beforeAll(async () => {
  recordResources();
  const { createPlatforms } = await import("../../stacks/platforms");
  const { redisAccess } = await import("../../components/redis-users");
  const { fleet } = loadFleet(writtenStack("prod"));
  const platform = { ...(await mockedPlatform(fleet)), redis: redisAccess(fleet, exampleSecrets.redisPassword) };
  createPlatforms(platform);
  await pulumi.runtime.disconnect();
});

describe("every VM of prod is asked for with the documented size", () => {
  const vms = (): unknown[] =>
    ofType("vsphere:index/virtualMachine:VirtualMachine")
      .map((r) => [r.inputs["name"], r.inputs["numCpus"], r.inputs["memory"]])
      .sort();
  it("seventeen VMs, no more and no fewer", () => {
    expect(vms()).toEqual(
      [
        ["lb1", 2, 1024], ["lb2", 2, 1024], ["build12", 8, 8192],
        ["web1", 4, 4096], ["web2", 4, 4096],
        ["php-a1", 8, 6144], ["php-a2", 8, 6144], ["php-b1", 8, 6144], ["php-b2", 8, 6144],
        ["institutional1", 6, 6144], ["institutional2", 6, 6144], ["timetable1", 6, 6144], ["timetable2", 6, 6144],
        ["moodle1", 8, 8192], ["moodle2", 8, 8192], ["moodle3", 8, 8192], ["moodle4", 8, 8192],
      ].sort(),
    ); // prettier-ignore
  });

  it("no NAS VM where the NAS is an appliance", () => {
    expect(recorded.filter((r) => r.name.startsWith("nas-"))).toEqual([]);
  });
});

it("every child is named after its tier and its host, never after a position", () => {
  const tiers = "nas|lvs|apache|php-a|php-b|builder-bookworm|institutional|timetable|moodle";
  const pattern = new RegExp(
    `^(fleet|vcenter|redis-passwords|redis-users|redis-users-(made|settled)|(${tiers})|(${tiers})-apart|(${tiers})-code|(${tiers})-(host|vm|key|size|content|base|secrets|config|gate|confirm)-[a-z][a-z0-9-]*|builder-bookworm-php-8\\.2)$`,
  );
  expect(recorded.map((r) => r.name).filter((name) => !pattern.test(name))).toEqual([]);
});

it("each tier of several VMs has one anti-affinity rule over all of them", () => {
  const rules = ofType("vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule");
  expect(rules.map((r) => [r.name, (r.inputs["virtualMachineIds"] as string[]).length]).sort()).toEqual(
    [["apache-apart", 2], ["institutional-apart", 2], ["lvs-apart", 2], ["moodle-apart", 4], ["php-a-apart", 2], ["php-b-apart", 2], ["timetable-apart", 2]],
  ); // prettier-ignore
});

describe("the order of a rollout is data", () => {
  it("contents of one tier change one VM after the other", () => {
    expect(named("apache-config-web2").begun).toBeGreaterThan(named("apache-gate-web1").ended);
    expect(named("lvs-config-lb2").begun).toBeGreaterThan(named("lvs-gate-lb1").ended);
    expect(named("moodle-config-moodle4").begun).toBeGreaterThan(named("moodle-gate-moodle3").ended);
  });

  it("a VM is gated after its content, and settled for good after every gate of its tier", () => {
    expect(named("apache-gate-web1").begun).toBeGreaterThan(named("apache-config-web1").ended);
    expect(named("apache-confirm-web1").begun).toBeGreaterThan(named("apache-gate-web2").ended);
    expect(named("apache-confirm-web2").begun).toBeGreaterThan(named("apache-confirm-web1").ended);
    const hold = (name: string): number => (JSON.parse(String(named(name).inputs["stdin"])) as { holdSeconds: number }).holdSeconds;
    expect([hold("apache-gate-web1"), hold("apache-confirm-web1")]).toEqual([1800, 0]);
  });

  it("a VM of a tier is born, resized or replaced when the one before it is proved; other tiers do not wait", () => {
    expect(named("apache-vm-web2").begun).toBeGreaterThan(named("apache-gate-web1").ended);
    expect(named("php-b-vm-php-b2").begun).toBeGreaterThan(named("php-b-gate-php-b1").ended);
    expect(named("php-b-vm-php-b1").begun).toBeLessThan(named("apache-gate-web1").begun);
  });

  it("a size that is begun has a name of its own, from before the VM is changed, and its gate runs for that name", () => {
    expect(named("apache-size-web1").inputs["keepers"]).toEqual({ vcpu: "4", memoryMb: "4096", hotAdd: "true" });
    expect(named("apache-vm-web1").begun).toBeGreaterThan(named("apache-size-web1").ended);
    expect(named("apache-gate-web1").inputs["stdin"]).toContain('"size":"hex of apache-size-web1"');
  });

  it("a VM's base is before its secrets, and its secrets before its content", () => {
    expect(named("apache-secrets-web1").begun).toBeGreaterThan(named("apache-base-web1").ended);
    expect(named("apache-config-web1").begun).toBeGreaterThan(named("apache-secrets-web1").ended);
  });

  it("PHP is compiled before a PHP VM installs it", () => {
    expect(named("php-a-base-php-a1").begun).toBeGreaterThan(named("builder-bookworm-php-8.2").ended);
  });
});

describe("every remote command", () => {
  const commands = (): Recorded[] => ofType("command:remote:Command");
  it("knows the host key, has no delete, passes no output on", () => {
    expect(commands().length).toBeGreaterThan(40);
    for (const { name, inputs } of commands()) {
      expect(isSecret(inputs["connection"]), name).toBe(true);
      expect(inputs["delete"], name).toBeUndefined();
      expect(inputs["addPreviousOutputInEnv"], name).toBe(false);
      expect(inputs["environment"], name).toBeUndefined();
      // A confirmation runs again when its gate did; users of Redis are on no VM that could be replaced.
      if (name.startsWith("redis-users-")) expect(inputs["triggers"], name).toBeUndefined();
      else expect(inputs["triggers"], name).toHaveLength(name.includes("-confirm-") ? 2 : 1);
    }
  });

  it("has a command text that is the same on every VM, so nothing secret or special can be in it", () => {
    const texts = new Set(commands().map((c) => c.inputs["create"]));
    expect(texts.size).toBe(5);
  });

  it("shows the bundle to a reviewer and hides the secrets", () => {
    expect(isSecret(named("apache-config-web1").inputs["stdin"])).toBe(false);
    expect(isSecret(named("apache-secrets-web1").inputs["stdin"])).toBe(true);
    const bundles = commands()
      .filter((c) => c.name.includes("-config-"))
      .map((c) => String(c.inputs["stdin"]));
    for (const secret of Object.values(exampleSecrets)) expect(bundles.join("")).not.toContain(secret);
    expect(bundles.join("")).not.toContain("library's sessions");
  });
});

describe("each site whose sessions are in Redis has a user of its own there", () => {
  const order = (part: string): { users: object; prefix: string; settle: boolean } => {
    const { stdin } = named(`redis-users-${part}`).inputs;
    expect(isSecret(stdin)).toBe(true);
    const text = (stdin as { value: string }).value;
    return JSON.parse(text.slice(text.lastIndexOf('{"stack":'))) as { users: object; prefix: string; settle: boolean };
  };

  it("made before any PHP VM logs in as it, and settled when every one of them is through", () => {
    const begun = (part: string): number[] =>
      recorded.filter((r) => /^(php-|moodle-|timetable-)/.test(r.name) && r.name.includes(part)).map((r) => r.begun);
    expect(Math.min(...begun("-config-"))).toBeGreaterThan(named("redis-users-made").ended);
    expect(named("redis-users-settled").begun).toBeGreaterThan(Math.max(...begun("-confirm-")));
    expect([order("made").settle, order("settled").settle]).toEqual([false, true]);
  });

  it("with its own keys and the digest of a password, which the server is not told", () => {
    const seed = "seed of redis-passwords".padEnd(64, "-");
    const password = redisPassword(seed, "library");
    expect(redisPassword(seed, "welcome")).not.toBe(password);
    const digest = createHash("sha256").update(password).digest("hex");
    const { users, prefix } = order("made");
    expect(users).toMatchObject({ [`${prefix}library`]: { passwords: [`#${digest}`], rules: redisRules({ name: "library" }) } });
    expect(Object.keys(users).sort()).toEqual(["library", "moodle", "timetable"].map((name) => prefix + name));
    expect(JSON.stringify(recorded.map((r) => r.inputs))).not.toContain(password);
  });

  it("which no stack has in common with another, whatever their names and those of their sites", () => {
    expect(order("made").prefix).toBe("fleet:prod:");
    fc.assert(
      fc.property(
        fc.stringMatching(/^[\w.-]+$/),
        fc.stringMatching(/^[\w.-]+$/),
        fc.stringMatching(/^[a-z][a-z0-9-]*$/),
        (one, other, site) => {
          expect(redisUser({ stack: one }, { name: site }).startsWith(redisUser({ stack: other }, { name: "" }))).toBe(one === other);
        },
      ),
    );
  });
});

describe("an application", () => {
  it("is packed once, by a builder that is proved, before any of its VMs installs it", () => {
    const packed = named("moodle-code");
    expect(packed.begun).toBeGreaterThan(named("builder-bookworm-gate-build12").ended);
    for (const node of [1, 2, 3, 4]) {
      const base = named(`moodle-base-moodle${node}`);
      expect(base.begun).toBeGreaterThan(packed.ended);
      const input = String(base.inputs["stdin"]);
      expect(input.slice(input.indexOf('"code": ['))).toMatch(/"url": |http:\/\/10\.20\.0\.15:8080\/code\/moodle-[0-9a-f]{12}\.tar\.zst/);
    }
  });

  it("has its configuration where reviewers read it, and no secret there", () => {
    const bundles = [1, 2, 3, 4].map((node) => String(named(`moodle-config-moodle${node}`).inputs["stdin"]));
    for (const text of bundles) {
      expect(text).toContain("$CFG->wwwroot = 'https://moodle.university.example';");
      expect(text).not.toContain("moodle's secrets");
    }
    expect(isSecret(named("moodle-secrets-moodle1").inputs["stdin"])).toBe(true);
  });

  it("has VMs with the same content but for what names the VM", () => {
    const content = (node: number): string =>
      String(named(`moodle-config-moodle${node}`).inputs["stdin"])
        .replaceAll(`moodle${node}`, "NODE")
        .replaceAll(`10.20.0.5${node}`, "ADDRESS");
    expect(content(2)).toBe(content(1));
    expect(content(4)).toBe(content(1));
  });
});

it("a VM is powered off for a change of size to shrink, and to grow only where nothing can be hot-added", () => {
  const hot = { numCpus: 4, memory: 4096, cpuHotAddEnabled: true, memoryHotAddEnabled: true };
  const cold = { ...hot, memoryHotAddEnabled: false };
  const changes = [{ memory: 4096 }, { memory: 8192 }, { memory: 2048 }, { numCpus: 8 }, { numCpus: 2 }];
  expect(changes.map((change) => powersOff(hot, { ...hot, ...change }))).toEqual([false, false, true, false, true]);
  expect(changes.map((change) => powersOff(cold, { ...cold, ...change }))).toEqual([false, true, true, false, true]);
  expect(powersOff(hot, cold)).toBe(true);
});

it("every VM keeps in its annotation what it was born from, so that its renewal can be told from its end", () => {
  const annotations = ofType("vsphere:index/virtualMachine:VirtualMachine").map((r) => r.inputs["annotation"]);
  expect(annotations.filter((text) => !String(text).includes(", bookworm from debian-12;"))).toEqual([]);
});

it("base stops no service that the bundle runs", () => {
  expect(unwantedUnits({ units: [] })).toContain("nfs-server.service");
  expect(unwantedUnits({ units: [{ name: "nfs-server.service" }] })).toEqual(["apache2.service", "keepalived.service"]);
});

it("user data, which holds the host's private key, is a secret", () => {
  const extra = named("apache-vm-web1").inputs["extraConfig"] as Record<string, unknown>;
  expect(isSecret(extra) || isSecret(extra["guestinfo.userdata"])).toBe(true);
});
