import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import { describe, expect, it } from "vitest";
import { rolloutOf } from "../../components/tier";
import { loadFleet } from "../../config/load";
import type { PhpBuild } from "../../config/model";
import { ConfigError, describeProblem } from "../../config/problems";
import { phpModuleNames } from "../../config/php-modules";
import { readFiles, readSites } from "../../stacks/read";
import { exampleFleet, exampleSecrets, withTrial, writtenStack } from "./example";

type Edit = (config: Record<string, any>, sites: Record<string, any>, secrets: Record<string, any>) => void; // eslint-disable-line @typescript-eslint/no-explicit-any -- edits break types on purpose

/** The mistakes reported for the lab's stack after an edit, one line each. */
function mistakes(edit: Edit, stack = "lab"): string[] {
  return mistakesOf(structuredClone(writtenStack(stack)), edit);
}

function mistakesOf(written: ReturnType<typeof writtenStack>, edit: Edit): string[] {
  edit(written.config, written.sites, written.secrets);
  try {
    loadFleet(written);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map(describeProblem);
    throw error;
  }
}

describe("the committed stacks are right", () => {
  it.each(["lab", "staging", "prod"])("%s loads without a mistake", (stack) => {
    expect(mistakes(() => undefined, stack)).toEqual([]);
  });
});

describe("the documented sizes are those of prod and staging", () => {
  const documented = {
    apache: { count: 2, vcpu: 4, memoryMb: 4096 },
    php: { count: 4, vcpu: 8, memoryMb: 6144 },
    dedicated: { count: 4, vcpu: 6, memoryMb: 6144 },
    moodle: { count: 4, vcpu: 8, memoryMb: 8192 },
    director: { count: 2, vcpu: 2, memoryMb: 1024 },
  };
  for (const stack of ["prod", "staging"]) {
    it.each(Object.entries(documented))(`${stack}: %s`, (role, { count, vcpu, memoryMb }) => {
      const machines = exampleFleet(stack).fleet.machines.filter((m) => m.role === role);
      expect(machines.map((m) => [m.vcpu, m.memoryMb])).toEqual(Array.from({ length: count }, () => [vcpu, memoryMb]));
    });
  }

  it("two PHP groups of two VMs each", () => {
    expect(exampleFleet("prod").fleet.phpGroups.map((g) => g.machines.length)).toEqual([2, 2]);
  });

  it("the sizes are the schema's defaults too", () => {
    const written = structuredClone(writtenStack("prod"));
    const withoutSizes = (value: unknown): void => {
      if (typeof value !== "object" || value === null) return;
      for (const key of ["vcpu", "memory"]) Reflect.deleteProperty(value, key);
      Object.values(value).forEach(withoutSizes);
    };
    withoutSizes(written.config);
    const sizes = (f: ReturnType<typeof loadFleet>): unknown => f.fleet.machines.map((m) => [m.name, m.vcpu, m.memoryMb]);
    expect(sizes(loadFleet(written))).toEqual(sizes(exampleFleet("prod")));
  });
});

describe("Moodle scales by one number", () => {
  it.each([4, 5, 6])("%i nodes are accepted", (nodes) => {
    const written = structuredClone(writtenStack("prod"));
    (written.config["moodle"] as { nodes: number }).nodes = nodes;
    const names = loadFleet(written)
      .fleet.machines.filter((m) => m.role === "moodle")
      .map((m) => m.name);
    expect(names).toEqual(Array.from({ length: nodes }, (_, i) => `moodle${i + 1}`));
  });

  it.each([
    [3, "Pulumi.prod.yaml: fleet:moodle.nodes is 3; allowed: at least 4. Raise it."],
    [7, "Pulumi.prod.yaml: fleet:moodle.nodes is 7; allowed: at most 6. Lower it."],
  ])("%i nodes are refused", (nodes, text) => {
    expect(mistakes((c) => (c["moodle"].nodes = nodes), "prod")).toEqual([text]);
  });
});

describe("each mistake names file, property, value, what is allowed and the remedy", () => {
  it.each<[string, Edit, string]>([
    [
      "a wrong type",
      (c) => (c["balancers"].vcpu = "two"),
      'Pulumi.lab.yaml: fleet:balancers.vcpu is "two"; allowed: a number. Correct the type.',
    ],
    [
      "an unknown key of the stack",
      (c) => (c["balancer"] = {}),
      'Pulumi.lab.yaml: fleet:balancer is "an unknown key"; allowed: vsphere, network, ssh, balancers, nas, php, builders, mutualised, dedicated, moodle, redis, memcached, mail, sites, rollout. Correct the spelling or remove it.',
    ],
    [
      "an unknown key inside",
      (c) => (c["mutualised"].apache.ram = "4 GB"),
      'Pulumi.lab.yaml: fleet:mutualised.apache.ram is "an unknown key"; allowed: vcpu, memory, disk, debian, hosts, symbolicLinks. Correct the spelling or remove it.',
    ],
    [
      "an unknown key of one kind of NAS",
      (c) => (c["nas"].snapshotDirectory = ".snapshot"),
      'Pulumi.lab.yaml: fleet:nas.snapshotDirectory is "an unknown key"; allowed: kind, vcpu, memory, disk, debian, host, address, dataDisk, dataDevice, snapshots, quota. Correct the spelling or remove it.',
    ],
    [
      "an unknown key in a list",
      (_, s) => (s["sites/lab/wiki.yaml"].cron = [{ name: "tidy", at: "hourly", script: "bin/indexer.php", user: "root" }]),
      'sites/lab/wiki.yaml: cron.0.user is "an unknown key"; allowed: name, at, script, args, timeout. Correct the spelling or remove it.',
    ],
    [
      "a version that YAML reads as a number",
      (_, s) => (s["sites/lab/wiki.yaml"].php.version = 8.2),
      'sites/lab/wiki.yaml: php.version is 8.2; allowed: a PHP version in quotes, such as "8.2". Put it in quotes.',
    ],
    [
      "a version that is missing",
      (_, s) => Reflect.deleteProperty(s["sites/lab/wiki.yaml"].php, "version"),
      "sites/lab/wiki.yaml: php.version missing; allowed: a text. Add it.",
    ],
    [
      "an empty secret",
      (_c, _s, secrets) => (secrets["vspherePassword"] = ""),
      'Pulumi.lab.secrets.yaml: vspherePassword is "empty"; allowed: a secret text. Set it with: npm run fleet -- secret vspherePassword -s lab < FILE',
    ],
    [
      "a bad unit",
      (c) => (c["mutualised"].apache.memory = "4G"),
      'Pulumi.lab.yaml: fleet:mutualised.apache.memory is "4G"; allowed: a size such as "4 GB" or "512 MB". Correct the value.',
    ],
    [
      "an address used twice",
      (c) => (c["mutualised"].apache.hosts.web2 = "10.77.0.21"),
      'Pulumi.lab.yaml: fleet:mutualised.apache.hosts.web2 is "10.77.0.21"; allowed: an address of its own. fleet:mutualised.apache.hosts.web1 has it already.',
    ],
    [
      "a host on a Debian release that there is not",
      (c) => (c["mutualised"].php["php-a"].hosts.php2 = { address: "10.77.0.32", debian: "sid" }),
      'Pulumi.lab.yaml: fleet:mutualised.php.php-a.hosts.php2.debian is "sid"; allowed: bookworm, trixie. Use one of these.',
    ],
    [
      "a host without an address",
      (c) => (c["mutualised"].apache.hosts.web2 = { debian: "trixie" }),
      "Pulumi.lab.yaml: fleet:mutualised.apache.hosts.web2.address missing; allowed: a text. Add it.",
    ],
    [
      "a host whose address is none",
      (c) => (c["balancers"].hosts.lb2 = "10.77.0"),
      'Pulumi.lab.yaml: fleet:balancers.hosts.lb2 is "10.77.0"; allowed: an IPv4 address such as 10.20.0.11. Correct the value.',
    ],
    [
      "an unknown key of a host",
      (c) => (c["mutualised"].apache.hosts.web2 = { address: "10.77.0.22", vcpu: 2 }),
      'Pulumi.lab.yaml: fleet:mutualised.apache.hosts.web2.vcpu is "an unknown key"; allowed: address, debian. Correct the spelling or remove it.',
    ],
    [
      "a host that is neither an address nor a group of keys",
      (c) => (c["mutualised"].apache.hosts.web2 = 22),
      "Pulumi.lab.yaml: fleet:mutualised.apache.hosts.web2 is 22; allowed: a text, or a group of keys. Correct the value.",
    ],
    [
      "an address used twice, of a host with a release of its own",
      (c) => (c["mutualised"].apache.hosts.web2 = { address: "10.77.0.21", debian: "trixie" }),
      'Pulumi.lab.yaml: fleet:mutualised.apache.hosts.web2 is "10.77.0.21"; allowed: an address of its own. fleet:mutualised.apache.hosts.web1 has it already.',
    ],
    [
      "a host on a release without a template",
      (c) => (c["mutualised"].apache.hosts.web2 = { address: "10.77.0.22", debian: "trixie" }),
      "Pulumi.lab.yaml: fleet:vsphere.templates.trixie missing; allowed: the name of a template VM. web2 runs trixie: add its template.",
    ],
    [
      "a PHP VM on a release without a builder",
      (c) => (c["mutualised"].php["php-a"].hosts.php2 = { address: "10.77.0.32", debian: "trixie" }),
      "Pulumi.lab.yaml: fleet:builders.trixie missing; allowed: a builder VM. Group php-a has php2 on trixie: PHP for it is compiled on a builder of that release.",
    ],
    [
      "a VIP outside the network",
      (c) => (c["mutualised"].vip = "10.78.0.100"),
      'Pulumi.lab.yaml: fleet:mutualised.vip is "10.78.0.100"; allowed: a host address of fleet:network.cidr 10.77.0.0/24. Direct routing needs one segment: choose an address there.',
    ],
    [
      "a host name used twice",
      (c) => (c["nas"].host = "web1"),
      'Pulumi.lab.yaml: hosts is "web1"; allowed: a host name used once. Rename one of the VMs.',
    ],
    [
      "a missing secret",
      (_c, _s, secrets) => Reflect.deleteProperty(secrets, "sshPrivateKey"),
      "Pulumi.lab.secrets.yaml: sshPrivateKey missing; allowed: a secret text. Set it with: npm run fleet -- secret sshPrivateKey -s lab < FILE",
    ],
    [
      "no secrets at all",
      (_c, _s, secrets) => Object.keys(secrets).forEach((name) => Reflect.deleteProperty(secrets, name)),
      "Pulumi.lab.secrets.yaml: redisPassword missing; allowed: a secret text. Set it with: npm run fleet -- secret redisPassword -s lab < FILE",
    ],
    [
      "a missing template",
      (c) => (c["vsphere"].templates = {}),
      "Pulumi.lab.yaml: fleet:vsphere.templates.bookworm missing; allowed: the name of a template VM. lb1 runs bookworm: add its template.",
    ],
    [
      "a group with a PHP that is not declared",
      (c) => c["mutualised"].php["php-a"].versions.push("8.4"),
      'Pulumi.lab.yaml: fleet:mutualised.php.php-a.versions.1 is "8.4"; allowed: 8.2. Declare the build under fleet:php.8.4.',
    ],
    [
      "a site naming a PHP that no group has",
      (_, s) => (s["sites/lab/wiki.yaml"].php.version = "7.4"),
      'sites/lab/wiki.yaml: php.version is "7.4"; allowed: a version that a PHP group has: php-a (8.2). Change the site or add the version to a group in Pulumi.lab.yaml.',
    ],
    [
      "a misspelt module of a build",
      (c) => c["php"]["8.2"].modules.push("mbstrnig"),
      `Pulumi.lab.yaml: fleet:php.8.2.modules.22 is "mbstrnig"; allowed: ${phpModuleNames.join(", ")}. Use one of these.`,
    ],
    [
      "a misspelt PECL module",
      (c) => (c["php"]["8.2"].pecl.rediss = c["php"]["8.2"].pecl.redis),
      'Pulumi.lab.yaml: fleet:php.8.2.pecl.rediss is "an unknown module"; allowed: apcu, igbinary, msgpack, memcached, redis, or another with its Debian packages in build and run. Correct the spelling, or add both, if only as [].',
    ],
    [
      "a site that needs a module no build has",
      (_, s) => s["sites/lab/wiki.yaml"].php.modules.push("soap"),
      'sites/lab/wiki.yaml: php.modules is "soap"; allowed: modules of the build. Add soap to fleet:php.8.2 in Pulumi.lab.yaml.',
    ],
    [
      "a cron time of other than whole minutes",
      (_, s) => (s["sites/lab/wiki.yaml"].cron = [{ name: "tidy", at: "*:*:0/10", script: "bin/indexer.php" }]),
      'sites/lab/wiki.yaml: cron.0.at is "*:*:0/10"; allowed: minutely, hourly, daily, weekly, monthly, quarterly, semiannually, yearly, or [weekdays] [*-months-days] hours:minutes such as "*:0/15", "Mon..Fri 3:30", "*-*-1,15 4:00". Correct the value.',
    ],
    [
      "a cron script outside of the site",
      (_, s) => (s["sites/lab/wiki.yaml"].cron = [{ name: "tidy", at: "hourly", script: "../blog/wp-cron.php" }]),
      'sites/lab/wiki.yaml: cron.0.script is "../blog/wp-cron.php"; allowed: a relative path without ... Correct the value.',
    ],
    [
      "a cron name used twice",
      (_, s) => (s["sites/lab/wiki.yaml"].cron = ["daily", "hourly"].map((at) => ({ name: "tidy", at, script: "bin/indexer.php" }))),
      'sites/lab/wiki.yaml: cron.1.name is "tidy"; allowed: a name used once in the site. Give one of the entries another name.',
    ],
    [
      "a cron name with a hyphen, which parts it from the site's in a unit's name",
      (_, s) => (s["sites/lab/wiki.yaml"].cron = [{ name: "tidy-up", at: "hourly", script: "bin/indexer.php" }]),
      'sites/lab/wiki.yaml: cron.0.name is "tidy-up"; allowed: a name of lower-case letters, digits and underscores. Correct the value.',
    ],
    [
      "a uid used twice",
      (_, s) => (s["sites/lab/wiki.yaml"].uid = 20003),
      "sites/lab/wiki.yaml: uid is 20003; allowed: a uid used once. sites/lab/blog.yaml has it already: choose another.",
    ],
    [
      "a port used twice",
      (_, s) => (s["sites/lab/wiki.yaml"].port = 10003),
      "sites/lab/wiki.yaml: port is 10003; allowed: a port used once. sites/lab/blog.yaml has it already: choose another.",
    ],
    [
      "a DNS name used twice",
      (_, s) => (s["sites/lab/wiki.yaml"].hosts = ["blog.lab.test"]),
      'sites/lab/wiki.yaml: hosts is "blog.lab.test"; allowed: a DNS name used once. sites/lab/blog.yaml has it already: choose another.',
    ],
    [
      "a name unlike the file's",
      (_, s) => (s["sites/lab/wiki.yaml"].name = "wikki"),
      'sites/lab/wiki.yaml: name is "wikki"; allowed: the file\'s own name. Rename the file to wikki.yaml or change the name.',
    ],
    [
      "a site that no VM of its group has room for",
      (_, s) => (s["sites/lab/blog.yaml"].php.memory = "513 MB"),
      'sites/lab/blog.yaml: php.memory is "513 MB"; allowed: at most 512 MB: a VM of php-a has 768 MB, of which the system keeps 256 MB. Lower it, or give the VMs of php-a more memory in Pulumi.lab.yaml.',
    ],
    [
      "sites that no VM of their group has room for together",
      (c) => (c["mutualised"].php["php-a"].activeSites = 2),
      "Pulumi.lab.yaml: fleet:mutualised.php.php-a.activeSites is 2; allowed: as many as fit: the 2 largest sites may take 640 MB, and of a VM's 768 MB the system keeps 256 MB, which leaves 512 MB. Lower it, lower php.memory of the largest (blog has 384 MB), or give the VMs more memory.",
    ],
    [
      "sites that a VM has no room for together, where nobody says how many are at work at once",
      (c) => Reflect.deleteProperty(c["mutualised"].php["php-a"], "activeSites"),
      'Pulumi.lab.yaml: fleet:mutualised.php.php-a.activeSites is "all 3"; allowed: as many as fit: the 3 largest sites may take 1408 MB, and of a VM\'s 768 MB the system keeps 256 MB, which leaves 512 MB. Say how many are at work at once at most, lower php.memory of the largest (status has 512 MB), or give the VMs more memory.',
    ],
    [
      "a PHP group without a VM",
      (c) => (c["mutualised"].php["php-a"].hosts = {}),
      "Pulumi.lab.yaml: fleet:mutualised.php.php-a.hosts is {}; allowed: at least one VM. Add one, or remove the group.",
    ],
    [
      "a release of another version",
      (c) => (c["php"]["8.2"].release = "7.4.33"),
      'Pulumi.lab.yaml: fleet:php.8.2.release is "7.4.33"; allowed: a release of PHP 8.2, such as "8.2.1". Correct it, or declare it under fleet:php."7.4".',
    ],
    ...["--prefix=/usr", "--exec=/usr", "--libdir=/usr/lib", "--enable-option-checking=no", "--disable-option-checking"].map(
      (option): [string, Edit, string] => [
        `an option that takes ${option.split("=")[0] ?? ""} from the fleet`,
        (c) => (c["php"]["8.2"].options = [option]),
        `Pulumi.lab.yaml: fleet:php.8.2.options.0 is "${option}"; allowed: an --enable-, --disable-, --with- or --without- of configure other than option-checking and php-config. Correct the value.`,
      ],
    ),
    ...["10.77.0.101", "10.77.0.31"].map((address): [string, Edit, string] => [
      `sites' code let through to ${address}, where FPM is`,
      (c) => (c["network"].openToSites = [address]),
      `Pulumi.lab.yaml: fleet:network.openToSites.0 is "${address}"; allowed: an address that no VM, PHP group or NAS of the fleet has: sites' code may connect to it. fleet:mutualised.php.php-a.${address.endsWith("101") ? "vip" : "hosts.php1"} has it: name another server.`,
    ]),
    [
      "a nameserver at the address of a PHP group",
      (c) => (c["network"].nameservers = ["10.77.0.101"]),
      'Pulumi.lab.yaml: fleet:network.nameservers.0 is "10.77.0.101"; allowed: an address that no VM, PHP group or NAS of the fleet has: sites\' code may connect to it. fleet:mutualised.php.php-a.vip has it: name another server.',
    ],
    [
      "a session store at the address of a PHP group",
      (c) => (c["redis"].address = "10.77.0.101"),
      'Pulumi.lab.yaml: fleet:redis.address is "10.77.0.101"; allowed: an address that no VM, PHP group or NAS of the fleet has: sites\' code may connect to it. fleet:mutualised.php.php-a.vip has it: name another server.',
    ],
    [
      "a share too small for PHP",
      (c) => (c["mutualised"].php["php-a"].activeSites = 9),
      'sites/lab/wiki.yaml: php.memory is "56 MB"; allowed: at least 64 MB; where a site does not say, a VM\'s 768 MB less 256 MB for the system is shared by activeSites. Raise it, or lower fleet:mutualised.php.php-a.activeSites in Pulumi.lab.yaml.',
    ],
    [
      "more children than the site's memory has room for",
      (_, s) => Object.assign(s["sites/lab/blog.yaml"].php, { maxChildren: 22 }),
      "sites/lab/blog.yaml: php.maxChildren is 22; allowed: at most 21: of the site's 384 MB its FPM takes 48 MB, and a child at least 16 MB. Lower it, or raise php.memory.",
    ],
    [
      "a request that may take more than its site",
      (_, s) => Object.assign(s["sites/lab/blog.yaml"].php, { ini: { memory_limit: "4G" } }),
      'sites/lab/blog.yaml: php.ini.memory_limit is "4G"; allowed: at most 384M, which is all that the site has. Lower it, or raise php.memory.',
    ],
    [
      "a session store that is not there",
      (c) => Reflect.deleteProperty(c, "memcached") && (c["redis"] = undefined),
      'sites/lab/status.yaml: sessions is "redis"; allowed: a store that the stack has. Add fleet:redis to Pulumi.lab.yaml.',
    ],
    [
      "a /tmp as large as the site's memory",
      (_, s) => Object.assign(s["sites/lab/blog.yaml"].php, { tmp: "1 GB" }),
      'sites/lab/blog.yaml: php.tmp is "1 GB"; allowed: less than the site\'s memory, of which it is a part: 384 MB. Lower it, or raise php.memory.',
    ],
    [
      "uploads that the site's /tmp cannot take",
      (_, s) => Object.assign(s["sites/lab/blog.yaml"].php, { ini: { upload_max_filesize: "128M", post_max_size: "129M" } }),
      'sites/lab/blog.yaml: php.ini.post_max_size is "129M"; allowed: at most 128M: uploads arrive in the site\'s /tmp, which has 128 MB. Lower it, or raise php.tmp.',
    ],
    [
      "a variable that decides which php.ini is read",
      (_, s) => (s["sites/lab/wiki.yaml"].php.environment = { PHPRC: "/tmp" }),
      'sites/lab/wiki.yaml: php.environment.PHPRC is "PHPRC"; allowed: a name other than PATH, TMPDIR, BASH_*, LD_*, GCONV_PATH, OPENSSL_*, PHP*, FPM_*, FLEET_*. Correct the value.',
    ],
    [
      "an empty variable, which FPM does not take",
      (_, s) => (s["sites/lab/wiki.yaml"].php.environment = { FARM: "" }),
      'sites/lab/wiki.yaml: php.environment.FARM is ""; allowed: one line, not empty, without quotes, backslashes, $ and %. Correct the value.',
    ],
    [
      "a variable that breaks out of its line",
      (_, s) => (s["sites/lab/wiki.yaml"].php.environment = { FARM: 'a"' }),
      'sites/lab/wiki.yaml: php.environment.FARM is "a\\""; allowed: one line, not empty, without quotes, backslashes, $ and %. Correct the value.',
    ],
    [
      "a sender where the stack has no relay",
      (_, s) => (s["sites/lab/wiki.yaml"].mail = { from: "wiki@university.example" }),
      'sites/lab/wiki.yaml: mail.from is "wiki@university.example"; allowed: only where the stack has a mail relay. Add fleet:mail to Pulumi.lab.yaml.',
    ],
    [
      "a way to share Redis that there is not",
      (c) => (c["redis"].users = "all"),
      'Pulumi.lab.yaml: fleet:redis.users is "all"; allowed: each, one. Use one of these.',
    ],
    [
      "an authority of Redis that is not there",
      (c) => (c["redis"].tls = { ca: "keys/none.pem" }),
      'Pulumi.lab.yaml: fleet:redis.tls.ca is "keys/none.pem"; allowed: a file of the project with certificates, PEM. Correct the path, or add the file.',
    ],
    [
      "TLS to Redis by a PHP that has none",
      (c) => {
        c["redis"].tls = {};
        c["php"]["8.2"].modules = c["php"]["8.2"].modules.filter((name: string) => name !== "openssl");
        c["php"]["8.2"].pecl.openssl = { ...c["php"]["8.2"].pecl.redis, build: [], run: [] };
      },
      'sites/lab/status.yaml: sessions is "redis"; allowed: a PHP build with openssl, as the server speaks TLS. Add openssl to the modules of fleet:php.8.2 in Pulumi.lab.yaml, or to php.modules where these are needed ones.',
    ],
    [
      "more copies of a session than servers",
      (c) => (c["memcached"].replicas = 1),
      "Pulumi.lab.yaml: fleet:memcached.replicas is 1; allowed: at most 0, as each other server has a session once. Lower it, or add a server.",
    ],
    [
      "a quota in no size",
      (_, s) => (s["sites/lab/wiki.yaml"].quota = "10G"),
      'sites/lab/wiki.yaml: quota is "10G"; allowed: a size such as "4 GB" or "512 MB". Correct the value.',
    ],
    [
      "no hourly snapshots at all",
      (c) => (c["nas"].snapshots = { hourly: 0 }),
      "Pulumi.lab.yaml: fleet:nas.snapshots.hourly is 0; allowed: at least 1. Raise it.",
    ],
    [
      "a php.ini value that breaks out of its line",
      (_, s) => (s["sites/lab/wiki.yaml"].php.ini = { memory_limit: "1\nextension=x" }),
      'sites/lab/wiki.yaml: php.ini.memory_limit is "1\\nextension=x"; allowed: one line without quotes and ${, and no backslash at its end. Correct the value.',
    ],
    [
      "a php.ini value whose end would hide that of its quotes",
      (_, s) => (s["sites/lab/wiki.yaml"].php.ini = { "date.timezone": "x\\" }),
      'sites/lab/wiki.yaml: php.ini.date.timezone is "x\\\\"; allowed: one line without quotes and ${, and no backslash at its end. Correct the value.',
    ],
    [
      "no time at all",
      (c) => (c["mutualised"].php["php-a"].idle = "0 seconds"),
      'Pulumi.lab.yaml: fleet:mutualised.php.php-a.idle is "0 seconds"; allowed: a duration such as "1 second" or "5 minutes". Correct the value.',
    ],
    [
      "a php.ini name that the fleet sets",
      (_, s) => (s["sites/lab/wiki.yaml"].php.ini = { "session.save_path": "/tmp" }),
      "sites/lab/wiki.yaml: php.ini.session.save_path is \"/tmp\"; allowed: names that are the site's own; this one is set by the site's sessions. Remove it, and choose the store by sessions.",
    ],
    [
      "a php.ini size in a form that PHP reads otherwise",
      (_, s) => (s["sites/lab/wiki.yaml"].php.ini = { memory_limit: "256MB" }),
      'sites/lab/wiki.yaml: php.ini.memory_limit is "256MB"; allowed: a number of bytes, or one with K, M or G after it, such as 64M, or -1 for no limit. Correct the value.',
    ],
    [
      "a php.ini number that is none",
      (_, s) => (s["sites/lab/wiki.yaml"].php.ini = { max_execution_time: "30s" }),
      'sites/lab/wiki.yaml: php.ini.max_execution_time is "30s"; allowed: a whole number. Correct the value.',
    ],
  ])("%s", (_name, edit, text) => {
    expect(mistakes(edit)).toContain(text);
  });
});

it("a VM of any tier may be on another Debian release than its tier, and one that says nothing is on the tier's", () => {
  const written = structuredClone(writtenStack("prod"));
  const c = written.config as Parameters<Edit>[0];
  c["vsphere"].templates.trixie = "debian-13";
  c["builders"].trixie = { host: "build13", address: "10.20.0.16" };
  const tiers = [c["balancers"], c["mutualised"].apache, c["mutualised"].php["php-b"], c["dedicated"].timetable];
  const [changed, kept] = [[] as string[], [] as string[]];
  for (const { hosts } of tiers as { hosts: Record<string, unknown> }[]) {
    const [first = "", second = ""] = Object.keys(hosts);
    hosts[first] = { address: hosts[first] };
    hosts[second] = { address: hosts[second], debian: "trixie" };
    kept.push(first);
    changed.push(second);
  }
  const { machines } = loadFleet(written).fleet;
  const on = (debian: string): string[] => machines.filter((m) => m.debian === debian).map((m) => m.name);
  expect(on("trixie").sort()).toEqual([...changed, "build13"].sort());
  expect(on("bookworm")).toEqual(expect.arrayContaining(kept));
  const before = exampleFleet("prod").fleet.machines.map((m) => [m.name, m.address]);
  expect(machines.filter((m) => m.name !== "build13").map((m) => [m.name, m.address])).toEqual(before);
});

it("what sites' code may reach is told by where it is: no NAS appliance, but a gateway that relays mail", () => {
  const reach = (edit: (c: Parameters<Edit>[0]) => void): string[] => mistakes((c) => edit(c));
  const nas = reach((c) => {
    c["nas"] = { kind: "appliance", address: "10.77.0.9", export: "/sites" };
    c["network"].openToSites = ["10.77.0.9"];
  });
  expect(nas.filter((told) => told.includes("fleet:nas.address has it"))).toHaveLength(1);
  expect(reach((c) => (c["mail"] = { relay: c["network"].gateway, domain: "lab.test" }))).toEqual([]);
});

it("a group without a VM is one mistake, and none of its sites'", () => {
  expect(mistakes((c) => (c["mutualised"].php["php-a"].hosts = {}))).toHaveLength(1);
});

it("a module that every PHP has may be named", () => {
  const named = (modules: string[]): string[] => mistakes((_, s) => (s["sites/lab/wiki.yaml"].php.modules = modules));
  expect(named(["json", "hash", "pcre", "spl", "libxml"])).toEqual([]);
  expect(named(["jsonp"])).toHaveLength(1);
});

it("a site takes an equal share of its VM where it does not say, and at most 512 MB", () => {
  const memory = (edit: Edit): unknown => {
    const written = structuredClone(writtenStack("lab"));
    edit(written.config, written.sites, written.secrets);
    return Object.fromEntries(loadFleet(written).fleet.sites.map((s) => [s.name, s.memoryMb]));
  };
  expect(memory(() => undefined)).toEqual({ blog: 384, status: 512, wiki: 512 });
  const shared: Edit = (c, s) => {
    c["mutualised"].php["php-a"].activeSites = 4;
    s["sites/lab/blog.yaml"].php.memory = "128 MB";
  };
  expect(memory(shared)).toEqual({ blog: 128, status: 128, wiki: 128 });
});

describe("a trial of another PHP", () => {
  const wiki = "sites/lab/wiki.yaml";
  it("loads where the site's group has both versions, and its port is balanced like a site's", () => {
    const { fleet } = loadFleet(withTrial());
    const site = fleet.sites.find((s) => s.name === "wiki");
    expect(site?.php).toMatchObject({ version: "8.2", trial: { version: "8.4", port: 10004 }, group: "php-a" });
    expect(fleet.services.find((s) => s.name === "php-a")?.ports).toEqual([10001, 10002, 10003, 10004]);
    expect(exampleFleet("lab").fleet.services.find((s) => s.name === "php-a")?.ports).toEqual([10001, 10002, 10003]);
  });

  it.each<[string, Edit, string]>([
    [
      "of a version that the site's group lacks",
      (_, s) => (s[wiki].php.trial.version = "8.3"),
      `${wiki}: php.trial.version is "8.3"; allowed: a version of the site's group php-a other than php.version: 8.4. Add "8.3" to fleet:mutualised.php.php-a.versions in Pulumi.lab.yaml, or remove php.trial.`,
    ],
    [
      "of the version that the site has",
      (_, s) => (s[wiki].php.trial.version = "8.2"),
      `${wiki}: php.trial.version is "8.2"; allowed: a version of the site's group php-a other than php.version: 8.4. Name the version to try, or remove php.trial.`,
    ],
    [
      "on a port that a site has",
      (_, s) => (s[wiki].php.trial.port = 10001),
      `${wiki}: php.trial.port is 10001; allowed: a port used once. sites/lab/status.yaml has it already: choose another.`,
    ],
    [
      "on the site's own port",
      (_, s) => (s[wiki].php.trial.port = 10002),
      `${wiki}: php.trial.port is 10002; allowed: a port used once. ${wiki} has it already: choose another.`,
    ],
    [
      "without a port",
      (_, s) => Reflect.deleteProperty(s[wiki].php.trial, "port"),
      `${wiki}: php.trial.port missing; allowed: a number. Add it.`,
    ],
    [
      "by a build without a module that the site needs",
      (c) => (c["php"]["8.4"].modules = c["php"]["8.4"].modules.filter((name: string) => name !== "mbstring")),
      `${wiki}: php.modules is "mbstring"; allowed: modules of the build. Add mbstring to fleet:php.8.4 in Pulumi.lab.yaml.`,
    ],
    [
      "by a build that cannot reach the site's sessions",
      (c) => (c["php"]["8.4"].pecl = {}),
      `${wiki}: sessions is "redis"; allowed: a store that the PHP build can reach. Add the PECL module redis to fleet:php.8.4 in Pulumi.lab.yaml.`,
    ],
  ])("%s is refused", (_, edit, text) => {
    expect(mistakesOf(withTrial(), edit)).toContain(text);
  });
});

describe("modules: needed", () => {
  const build = (more: Edit = () => undefined, version = "8.2"): PhpBuild | undefined => {
    const written = structuredClone(writtenStack("prod"));
    // Applications need modules of their own: tests/unit/applications.test.ts.
    for (const key of ["moodle", "dedicated"]) Reflect.deleteProperty(written.config, key);
    written.secrets = exampleSecrets;
    (written.config["php"] as Record<string, { modules: unknown }>)["8.2"]!.modules = "needed";
    more(written.config, written.sites, written.secrets);
    return loadFleet(written).fleet.phpBuilds.find((b) => b.version === version);
  };
  const core = [
    "Core",
    "PDO",
    "Reflection",
    "SPL",
    "Zend OPcache",
    "date",
    "hash",
    "json",
    "pcre",
    "random",
    "redis",
    "session",
    "standard",
  ];
  const without = (...names: string[]): string[] => core.filter((name) => !names.includes(name));

  it("are what the sites of the version's groups declare, and what that needs; the artefact is that of the same list", () => {
    expect(build()?.modules).toEqual([...without("PDO"), "mbstring", "mysqli", "mysqlnd"].sort());
    const names = ["mbstring", "mysqli", "mysqlnd", "opcache", "session"];
    expect(build()?.artefact).toBe(build((c) => (c["php"]["8.2"].modules = names))?.artefact);
    expect(build()?.artefact).not.toBe(build((c) => (c["php"]["8.2"].modules = [...names, "zip"]))?.artefact);
  });

  it("follow the sites: one module more is another artefact, and a site that goes takes its own along", () => {
    const more = build((_, s) => (s["sites/prod/welcome.yaml"].php.modules = ["pdo_mysql"]));
    expect(more?.modules).toEqual([...core, "mbstring", "mysqli", "mysqlnd", "pdo_mysql"].sort());
    expect(more?.artefact).not.toBe(build()?.artefact);
    expect(build((_, s) => Reflect.deleteProperty(s, "sites/prod/library.yaml"))?.modules).toEqual(without("PDO"));
  });

  it("count the sites of the groups with the version, whichever they are on, and of no other group", () => {
    const newer = (group: string) => (c: Parameters<Edit>[0]) => {
      c["php"]["8.4"] = { ...c["php"]["8.2"], release: "8.4.27", pecl: {} };
      c["mutualised"].php[group].versions.push("8.4");
    };
    expect(build(newer("php-a"), "8.4")?.modules).toEqual([...without("PDO", "redis"), "mbstring", "mysqli", "mysqlnd"].sort());
    expect(build(newer("php-b"), "8.4")?.modules).toEqual(without("PDO", "redis"));
  });

  it("leave a module that PHP does not have to be refused, and so is another word", () => {
    const lab = (edit: Edit): string[] => mistakes((c, s, x) => ((c["php"]["8.2"].modules = "needed"), edit(c, s, x)));
    expect(lab((_, s) => s["sites/lab/wiki.yaml"].php.modules.push("soap"))).toEqual([]);
    expect(lab((_, s) => s["sites/lab/wiki.yaml"].php.modules.push("mbstrnig"))).toEqual([
      'sites/lab/wiki.yaml: php.modules is "mbstrnig"; allowed: modules of the build. Add mbstrnig to fleet:php.8.2 in Pulumi.lab.yaml.',
    ]);
    expect(lab((c) => (c["php"]["8.2"].modules = "all"))).toContain(
      'Pulumi.lab.yaml: fleet:php.8.2.modules is "all"; allowed: a list of modules, or needed. Correct the value.',
    );
  });
});

it("all mistakes come in one report, across files and across checks", () => {
  const found = mistakes((c, s, secrets) => {
    c["balancers"].vcpu = "two";
    c["unknown"] = 1;
    c["mutualised"].apache.hosts.web2 = "10.77.0.21";
    c["mutualised"].vip = "10.78.0.100";
    Reflect.deleteProperty(secrets, "tlsPrivateKey");
    s["sites/lab/wiki.yaml"].php.version = "7.4";
    s["sites/lab/blog.yaml"].colour = "blue";
  });
  for (const part of ["vcpu", "fleet:unknown", "web2", "fleet:mutualised.vip", "tlsPrivateKey", "php.version", "colour"]) {
    expect(
      found.filter((line) => line.includes(part)),
      part,
    ).toHaveLength(1);
  }
  expect(found).toHaveLength(7);
});

it("a mistake in a site file hides no other one of it", () => {
  const found = mistakes((_, s) => {
    s["sites/lab/wiki.yaml"].port = "ten";
    s["sites/lab/wiki.yaml"].uid = 20003;
    s["sites/lab/wiki.yaml"].php.version = "8.4";
    s["sites/lab/status.yaml"] = null;
  });
  for (const part of ["wiki.yaml: port", "wiki.yaml: uid", "wiki.yaml: php.version", "status.yaml: (whole file)"]) {
    expect(found.join("\n")).toContain(part);
  }
  expect(found).toHaveLength(4);
});

describe("a site file that is not read as it is written is a mistake, and hides no other", () => {
  const written = (change: (directory: string) => void): string => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), "sites-"));
    fs.cpSync(path.join(__dirname, "..", "..", "sites", "lab"), directory, { recursive: true });
    change(directory);
    const stack = writtenStack("lab");
    try {
      loadFleet({ ...stack, config: { ...stack.config, unknown: 1 }, ...readSites("lab", directory) });
    } catch (error) {
      return (error as Error).message.replaceAll(directory, "sites");
    }
    throw new Error("no mistake was found");
  };
  it.each([
    [
      "no directory",
      (d: string) => fs.rmSync(d, { recursive: true }),
      'Pulumi.lab.yaml: fleet:sites is "sites"; allowed: a directory of site files; an empty one where there are none. Correct the path, or make it so that git keeps it: mkdir -p sites && touch sites/.gitkeep',
    ],
    [
      "another ending",
      (d: string) => fs.renameSync(`${d}/wiki.yaml`, `${d}/wiki.yml`),
      'sites/wiki.yml: (whole file) is "wiki.yml"; allowed: a name that ends in .yaml',
    ],
    [
      "no YAML",
      (d: string) => fs.writeFileSync(`${d}/wiki.yaml`, "name: wiki\nhosts: [wiki.lab.test\nuid: 20001\n"),
      'sites/wiki.yaml: line 3 is "uid: 20001"; allowed: YAML (',
    ],
  ])("%s", (_, change, text) => {
    const said = written(change);
    expect(said).toContain("2 mistakes");
    expect(said).toContain(text);
    expect(said).toContain("fleet:unknown");
  });
});

it("a directory that git keeps without a site has none, and that is no mistake", () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "sites-"));
  fs.writeFileSync(path.join(directory, ".gitkeep"), "");
  expect(readSites("lab", directory)).toEqual({ sites: {}, unreadable: [] });
});

it("no report shows a secret, whatever is wrong with it", () => {
  const text = mistakes((_c, _s, secrets) => Object.assign(secrets, { redisPassword: 12345678, tlsPrivateKey: ["hunter2"] })).join("\n");
  expect(text).toContain("redisPassword");
  expect(text).not.toMatch(/12345678|hunter2/);
});

it("a secret in the stack's own configuration is a mistake: Pulumi would put it into the program's environment", () => {
  const written = { ...writtenStack("lab"), encrypted: ["fleet:secrets", "vsphere:password"] };
  expect(() => loadFleet(written)).toThrow(
    'Pulumi.lab.yaml: vsphere:password is "encrypted"; allowed: no encrypted key: Pulumi passes them to the program in its environment. Remove it here and set it with: npm run fleet -- secret',
  );
  expect(() => loadFleet({ ...written, encrypted: [] })).not.toThrow();
});

it("a VM more in a tier changes nothing of how the others go through a change", () => {
  const written = structuredClone(writtenStack("prod"));
  const four = loadFleet(written).fleet;
  (written.config as Record<string, { nodes?: number }>)["moodle"] = { ...(written.config["moodle"] as object), nodes: 6 };
  const six = loadFleet(written).fleet;
  const [first] = four.machines.filter((m) => m.role === "moodle");
  expect(six.machines.length).toBe(four.machines.length + 2);
  if (!first) throw new Error("prod has no Moodle");
  expect(rolloutOf(six, first)).toEqual(rolloutOf(four, first));
});

describe("what a site may store", () => {
  const quotas = (edit: Edit): Record<string, number | undefined> => {
    const written = structuredClone(writtenStack("lab"));
    edit(written.config, written.sites as Parameters<Edit>[1], {});
    return Object.fromEntries(loadFleet(written).fleet.sites.map((s) => [s.name, s.quotaMb]));
  };

  it("is what its file says, else what the NAS says, else anything", () => {
    expect(quotas(() => undefined)).toEqual({ blog: undefined, status: undefined, wiki: undefined });
    const edit: Edit = (c, s) => {
      c["nas"].quota = "10 GB";
      s["sites/lab/wiki.yaml"].quota = "512 MB";
    };
    expect(quotas(edit)).toEqual({ blog: 10240, status: 10240, wiki: 512 });
  });

  it("is an appliance's own to say", () => {
    expect(mistakes((_, s) => (s["sites/prod/library.yaml"].quota = "10 GB"), "prod")).toEqual([
      'sites/prod/library.yaml: quota is "10 GB"; allowed: only where fleet:nas.kind is vm: an appliance has quotas of its own. Set it on the appliance and remove it here.',
    ]);
  });
});

it("the authority of Redis' certificate travels with the fleet", () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-ca-"));
  const file = path.join(directory, "ca.pem");
  const pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
  fs.writeFileSync(file, pem);
  const written = structuredClone(writtenStack("lab"));
  written.config["redis"] = { ...(written.config["redis"] as object), tls: { ca: file, name: "redis.university.example" } };
  try {
    expect(loadFleet({ ...written, ...readFiles("lab", written.config) }).fleet.redisAuthority).toBe(pem);
    expect(loadFleet(structuredClone(writtenStack("lab"))).fleet.redisAuthority).toBeUndefined();
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
});
