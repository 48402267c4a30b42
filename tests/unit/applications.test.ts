import { describe, expect, it } from "vitest";
import { rolloutOf } from "../../components/tier";
import { codeInput } from "../../components/application";
import { stubText } from "../../config/applications";
import { loadFleet } from "../../config/load";
import type { Application } from "../../config/model";
import { ConfigError, describeProblem } from "../../config/problems";
import { applicationParts } from "../../templates/application/application";
import { join } from "../../templates/content";
import { writtenStack } from "./example";

type Edit = (config: Record<string, any>, secrets: Record<string, any>) => void; // eslint-disable-line @typescript-eslint/no-explicit-any -- edits break types on purpose

function edited(edit: Edit): ReturnType<typeof writtenStack> {
  const written = structuredClone(writtenStack("prod"));
  edit(written.config, written.secrets);
  return written;
}

/** The mistakes reported for prod's stack after an edit, one line each. */
function mistakes(edit: Edit): string[] {
  try {
    loadFleet(edited(edit));
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map(describeProblem);
    throw error;
  }
}

const application = (name: string, edit: Edit = () => undefined): Application => {
  const found = loadFleet(edited(edit)).fleet.applications.find((a) => a.name === name);
  if (!found) throw new Error(`no application ${name}`);
  return found;
};
const at = "Pulumi.prod.yaml: fleet:moodle.application";

describe("mistakes of an application name their key in the stack", () => {
  it.each<[string, Edit, string[]]>([
    [
      "a branch instead of a commit",
      (c) => (c["moodle"].application.code.commit = "MOODLE_405_STABLE"),
      [`${at}.code.commit is "MOODLE_405_STABLE"; allowed: the 40 hexadecimal digits of a commit. Correct the value.`],
    ],
    [
      "a uid that a site has",
      (c) => (c["moodle"].application.uid = 20001),
      [`${at}.uid is 20001; allowed: a uid used once. sites/prod/library.yaml has it already: choose another.`],
    ],
    [
      "a DNS name that a site has",
      (c) => (c["moodle"].application.hosts = ["library.university.example"]),
      [
        `${at}.hosts is "library.university.example"; allowed: a DNS name used once. sites/prod/library.yaml has it already: choose another.`,
      ],
    ],
    [
      "a PHP that is not declared",
      (c) => (c["moodle"].application.php.version = "8.3"),
      [`${at}.php.version is "8.3"; allowed: 8.2. Declare the build under fleet:php.8.3.`],
    ],
    [
      "a module that the build lacks",
      (c) => (c["dedicated"].timetable.application.php.modules = ["soap"]),
      [
        'Pulumi.prod.yaml: fleet:dedicated.timetable.application.php.modules is "soap"; allowed: modules of the build. Add soap to fleet:php.8.2 in Pulumi.prod.yaml.',
      ],
    ],
    [
      "more memory than Apache and the system leave",
      (c) => (c["moodle"].application.php.memory = "8 GB"),
      [
        `${at}.php.memory is "8 GB"; allowed: at most 5888 MB: a VM of moodle has 8192 MB, of which the system keeps 256 MB, and Apache a quarter. Lower it, or give the VMs of moodle more memory in Pulumi.prod.yaml.`,
      ],
    ],
    [
      "a name of php.ini that is the fleet's",
      (c) => (c["moodle"].application.php.ini = { "session.save_path": "/tmp" }),
      [
        `${at}.php.ini.session.save_path is "/tmp"; allowed: names that are the site's own; this one is set by the site's sessions. Remove it, and choose the store by sessions.`,
      ],
    ],
    [
      "no Redis",
      (c) => {
        Reflect.deleteProperty(c, "redis");
        Reflect.deleteProperty(c["dedicated"], "timetable");
      },
      [
        'Pulumi.prod.secrets.yaml: timetableDatabasePassword is "an unknown secret"; allowed: the password of an application that has a database. Correct the spelling or remove it.',
        'sites/prod/library.yaml: sessions is "redis"; allowed: a store that the stack has. Add fleet:redis to Pulumi.prod.yaml.',
        `${at}.sessions is "redis"; allowed: a store that the stack has. Add fleet:redis to Pulumi.prod.yaml.`,
      ],
    ],
    [
      "no NAS",
      (c) => {
        Reflect.deleteProperty(c, "nas");
        Reflect.deleteProperty(c, "mutualised");
        Reflect.deleteProperty(c, "dedicated");
      },
      expect.arrayContaining([
        "Pulumi.prod.yaml: fleet:nas missing; allowed: an appliance or a vm. fleet:moodle.application keeps its files on a NAS: add it.",
      ]) as string[],
    ],
    [
      "VMs of a release without a builder",
      (c) => {
        c["moodle"].debian = "trixie";
        c["vsphere"].templates.trixie = "debian-13";
      },
      [
        "Pulumi.prod.yaml: fleet:builders.trixie missing; allowed: a builder VM. moodle has VMs on trixie: its PHP is compiled, and its code packed, on a builder of that release.",
      ],
    ],
    [
      "a configuration file that is not there",
      (c) => (c["dedicated"].timetable.application.config.file = "sites/prod/nothing.php"),
      [
        'Pulumi.prod.yaml: fleet:dedicated.timetable.application.config.file is "sites/prod/nothing.php"; allowed: a file of the project. Correct the path, or add the file.',
      ],
    ],
    [
      "a password that is missing, and one of nobody",
      (_, secrets) => {
        Reflect.deleteProperty(secrets, "moodleDatabasePassword");
        secrets["libraryDatabasePassword"] = "x";
      },
      [
        "Pulumi.prod.secrets.yaml: moodleDatabasePassword missing; allowed: a secret text. Set it with: npm run fleet -- secret moodleDatabasePassword -s prod < FILE",
        'Pulumi.prod.secrets.yaml: libraryDatabasePassword is "an unknown secret"; allowed: the password of an application that has a database. Correct the spelling or remove it.',
      ],
    ],
  ])("%s", (_, edit, expected) => {
    expect(mistakes(edit)).toEqual(expected);
  });

  it("a name that a site has is refused: both would have one tree", () => {
    const said = mistakes((c) => {
      c["dedicated"].library = { ...c["dedicated"].timetable, vip: "10.20.0.112", hosts: { library1: "10.20.0.61" } };
      c["dedicated"].library.application = {
        ...c["dedicated"].timetable.application,
        hosts: ["x.university.example"],
        uid: 59009,
        config: undefined,
      };
    });
    expect(said).toContain(
      'Pulumi.prod.yaml: fleet:dedicated.library.application is "library"; allowed: a name that no site has: both would have one tree on the NAS. sites/prod/library.yaml has it already: choose another.',
    );
  });

  it("VMs alone are still accepted", () => {
    const { fleet } = loadFleet(
      edited((c, secrets) => {
        Reflect.deleteProperty(c["moodle"], "application");
        Reflect.deleteProperty(secrets, "moodleDatabasePassword");
      }),
    );
    expect(fleet.applications.map((a) => a.name)).toEqual(["institutional", "timetable"]);
    expect(fleet.services.map((s) => s.name)).not.toContain("moodle");
    expect(fleet.machines.filter((m) => m.role === "moodle")).toHaveLength(4);
  });
});

describe("code is named by what it is made of", () => {
  const artefact = (edit?: Edit, name = "timetable"): string => application(name, edit).site.code.artefact;
  it("another commit, writable directory or stub is another archive", () => {
    const own = (c: Parameters<Edit>[0]): Record<string, any> => c["dedicated"].timetable.application; // eslint-disable-line @typescript-eslint/no-explicit-any -- as above
    expect(artefact()).toMatch(/^timetable-[0-9a-f]{12}$/);
    const names = [
      artefact(),
      artefact((c) => (own(c)["code"].commit = "0".repeat(40))),
      artefact((c) => (own(c)["writable"] = ["data"])),
      artefact((c) => (own(c)["config"].path = "local.php")),
    ];
    expect(new Set(names).size).toBe(4);
  });

  it("where it comes from, what its PHP is and what its configuration says is not", () => {
    expect(artefact((c) => (c["dedicated"].timetable.application.code.repository = "https://mirror.example/x.git"))).toBe(artefact());
    expect(artefact((c) => (c["moodle"].application.database.name = "other"), "moodle")).toBe(artefact(undefined, "moodle"));
  });

  it("a stub finds the top of the code, however deep it is", () => {
    expect(stubText("x", "config.php")).toContain("$fleet = ['code' => __DIR__] + (require '/etc/fleet/php/x/secrets.php');");
    expect(stubText("x", "config/app/local.php")).toContain("['code' => dirname(dirname(__DIR__))]");
    // What the configuration returns, the code that includes the stub gets.
    expect(stubText("x", "config.php")).toContain("\nreturn require '/etc/fleet/php/x/config.php';\n");
  });
});

describe("Moodle", () => {
  const root = (branch: string): string => {
    const moodle = application("moodle", (c) => (c["moodle"].application.branch = branch));
    const { machines } = moodle;
    const [machine] = machines;
    if (!machine) throw new Error("no node");
    const vhost = join(...applicationParts(machine, moodle, loadFleet(edited(() => undefined)).fleet)).files.find((f) =>
      f.path.endsWith("/vhosts/moodle.conf"),
    );
    return vhost?.text ?? "";
  };
  it("serves public/ with its router from 5.1 on, and the whole before", () => {
    expect(root("5.1")).toMatch(/DocumentRoot "\/opt\/code\/moodle-[0-9a-f]{12}\/public"/);
    expect(root("5.1")).toContain("    FallbackResource /r.php\n");
    expect(root("5.10")).toContain("/public");
    expect(root("4.5")).toMatch(/DocumentRoot "\/opt\/code\/moodle-[0-9a-f]{12}"/);
    expect(root("4.5")).not.toContain("FallbackResource");
  });

  it("is checked, when it is packed, against its own list with the PHP that runs it", () => {
    const { moodle } = codeInput(application("moodle")) as { moodle: { branch: string; php: string; modules: string[] } };
    expect(moodle).toMatchObject({ branch: "4.5", php: "8.2.32" });
    expect(moodle.modules).toContain("sodium");
    expect(codeInput(application("timetable"))).not.toHaveProperty("moodle");
  });

  it("has a cron entry of its own, unless that is off", () => {
    expect(application("moodle").site.cron.map((e) => [e.at, e.script])).toEqual([["minutely", "admin/cli/cron.php"]]);
    expect(application("moodle", (c) => (c["moodle"].application.cron = false)).site.cron).toEqual([]);
  });

  it("speaks TLS to a Redis that does, as a platform does by PHP's own sessions", () => {
    const pem = "-----BEGIN CERTIFICATE-----\n";
    const texts = (tls: object | undefined): Record<"moodle" | "timetable", Record<string, string>> => {
      const written = edited((c) => (c["redis"].tls = tls));
      const { fleet } = loadFleet({ ...written, patches: { ...written.patches, "keys/ca.pem": pem } });
      const of = (name: string): Record<string, string> => {
        const own = fleet.applications.find((a) => a.name === name);
        if (!own?.machines[0]) throw new Error(`no ${name}`);
        return Object.fromEntries(join(...applicationParts(own.machines[0], own, fleet)).files.map((f) => [f.path, f.text]));
      };
      return { moodle: of("moodle"), timetable: of("timetable") };
    };
    const config = "/etc/fleet/php/moodle/config.php";
    const { moodle, timetable } = texts({ ca: "keys/ca.pem", name: "redis.university.example" });
    expect(moodle[config]).toContain(
      "$CFG->session_redis_encrypt = ['verify_peer' => true, 'cafile' => '/etc/fleet/redis-ca.pem', 'peer_name' => 'redis.university.example'];\n",
    );
    for (const files of [moodle, timetable]) expect(files["/etc/fleet/redis-ca.pem"]).toBe(pem);
    expect(texts({}).moodle[config]).toContain("$CFG->session_redis_encrypt = ['verify_peer' => true];\n");
    expect(texts(undefined).moodle[config]).not.toContain("encrypt");
  });

  it("reaches its database, and nothing else of the network that sites do not", () => {
    const { fleet } = loadFleet(edited(() => undefined));
    const text = (name: string): string => {
      const own = fleet.applications.find((a) => a.name === name);
      const [machine] = own?.machines ?? [];
      if (!own || !machine) throw new Error(`no ${name}`);
      return join(...applicationParts(machine, own, fleet))
        .files.map((f) => f.text)
        .join("");
    };
    expect(fleet.reachable).toContain("10.20.0.6");
    expect(fleet.reachable).not.toContain("10.20.0.7");
    expect(text("moodle")).toContain("IPAddressAllow=10.20.0.6/31\n");
    expect(text("moodle")).not.toContain("IPAddressAllow=10.20.0.31");
  });
});

describe("Moodle from 4 nodes to 6", () => {
  const scaled = (nodes: number) => loadFleet(edited((c) => (c["moodle"].nodes = nodes))).fleet;
  it("two more are balanced, and nothing of the others' content says so", () => {
    const [four, six] = [scaled(4), scaled(6)];
    const balanced = (fleet: typeof four): string[] =>
      fleet.services.find((s) => s.name === "moodle")?.realServers.map((r) => r.name) ?? [];
    expect(balanced(four)).toHaveLength(4);
    expect(balanced(six)).toEqual([...balanced(four), "moodle5", "moodle6"]);
    for (const machine of four.machines.filter((m) => m.role !== "director"))
      expect(rolloutOf(six, machine)).toEqual(rolloutOf(four, machine));
    const [before, after] = [four, six].map((fleet) => {
      const moodle = fleet.applications.find((a) => a.name === "moodle");
      const machine = moodle?.machines[0];
      if (!moodle || !machine) throw new Error("no Moodle");
      return join(...applicationParts(machine, moodle, fleet));
    });
    expect(after).toEqual(before);
  });

  it("the NAS exports to all addresses that there may be", () => {
    expect(scaled(4).applications.find((a) => a.name === "moodle")?.addresses).toHaveLength(6);
  });
});
