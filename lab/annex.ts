// The annex: one machine for the services a university already has, which the program only gets addresses of.
// MariaDB, Redis, Memcached from Debian's packages, and an HTTP server for source tarballs.
import { createHash } from "crypto";
import * as net from "net";
import { sourcesDirectory } from "./sources";
import { annex, network } from "./settings";
import { LabError, until } from "./shell";
import type { Secrets } from "./secrets";
import { machines, order, startMachine, type MachineSpec } from "./vcenter";

/** What the annex answers on. Memcached and Redis sessions of PHP, databases, sources. */
export const annexPorts = { http: 80, mariadb: 3306, redis: 6379, memcached: 11211 } as const;

/** Databases of the lab's sites: name and user are the same. */
export const databases = ["wordpress", "moodle"] as const;

/** Redis' users, which the server writes; and the first of them, whose password is the lab's. */
const [redisUsers, redisDefault] = ["/var/lib/redis/users.acl", "/etc/redis/default.acl"];

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** cloud-init user data: a pure function of the secrets, so that the same annex is never built twice. */
export function annexUserData(known: Secrets): string {
  const mariadb = [
    "[mariadbd]",
    "bind-address = 0.0.0.0",
    "innodb_buffer_pool_size = 48M",
    "performance_schema = OFF",
    "skip-name-resolve",
    "",
  ].join("\n");
  const redis = [
    "bind 0.0.0.0",
    "protected-mode no",
    // With an aclfile the server ignores it; it is for whoever looks for the password here.
    `requirepass ${known.redisPassword}`,
    `aclfile ${redisUsers}`,
    "maxmemory 64mb",
    "maxmemory-policy volatile-lru",
    "",
  ].join("\n");
  const apache = [
    "<VirtualHost *:80>",
    "  DocumentRoot /srv/sources",
    "  <Directory /srv/sources>",
    "    Require all granted",
    "    Options Indexes",
    "  </Directory>",
    "</VirtualHost>",
    "",
  ].join("\n");
  const grants = databases.map((name) => databaseGrants(name, known.wordpressDbPassword)).join("");
  const mount = [
    "[Unit]",
    "Before=apache2.service",
    "[Mount]",
    "What=none",
    "Where=/srv/sources",
    "Type=hostfs",
    "Options=ro",
    "[Install]",
    "WantedBy=multi-user.target",
    "",
  ].join("\n");
  const files = [
    { path: "/etc/mysql/mariadb.conf.d/90-annex.cnf", content: mariadb, permissions: "0644" },
    { path: "/etc/redis/annex.conf", content: redis, permissions: "0640", owner: "redis:redis" },
    { path: redisDefault, content: `user default on #${sha256(known.redisPassword)} ~* &* +@all\n`, permissions: "0600" },
    { path: "/etc/apache2/sites-available/000-default.conf", content: apache, permissions: "0644" },
    { path: "/etc/systemd/system/srv-sources.mount", content: mount, permissions: "0644" },
    { path: "/root/grants.sql", content: grants, permissions: "0600" },
  ];
  const config = {
    hostname: annex.name,
    manage_etc_hosts: true,
    locale: "C.UTF-8",
    users: [{ name: "fleet", sudo: "ALL=(ALL) NOPASSWD:ALL", shell: "/bin/bash", ssh_authorized_keys: [known.sshPublicKey] }],
    write_files: files,
    runcmd: [
      "grep -q annex.conf /etc/redis/redis.conf || echo 'include /etc/redis/annex.conf' >> /etc/redis/redis.conf",
      // The server starts with users in one place only; those that the fleet made there stay.
      "sed -i '/^user /d' /etc/redis/redis.conf",
      `touch ${redisUsers} && sed -i '/^user default /d' ${redisUsers} && cat ${redisDefault} >> ${redisUsers} && chown redis:redis ${redisUsers} && chmod 0640 ${redisUsers}`,
      "sed -i 's/^-l .*/-l 0.0.0.0/' /etc/memcached.conf",
      "systemctl daemon-reload",
      // One that came up before its settings were changed has the old ones, or gave up without a list of users.
      "systemctl stop redis-server",
      "systemctl reset-failed redis-server",
      "systemctl enable --now srv-sources.mount apache2 mariadb redis-server memcached",
      "mariadb < /root/grants.sql",
    ],
  };
  // JSON is YAML, and needs no second writer.
  return `#cloud-config\n${JSON.stringify(config, null, 1)}\n`;
}

function databaseGrants(name: string, password: string): string {
  const hosts = `${network.gateway.split(".").slice(0, 3).join(".")}.%`;
  return [
    `CREATE DATABASE IF NOT EXISTS \`${name}\` CHARACTER SET utf8mb4;`,
    `CREATE USER IF NOT EXISTS '${name}'@'${hosts}' IDENTIFIED BY '${password}';`,
    `ALTER USER '${name}'@'${hosts}' IDENTIFIED BY '${password}';`,
    `GRANT ALL ON \`${name}\`.* TO '${name}'@'${hosts}';`,
    "",
  ].join("\n");
}

export function annexSpec(known: Secrets, image: string): MachineSpec {
  const userData = annexUserData(known);
  const identity = sha256(userData).slice(0, 12);
  const metadata = {
    // A new identity makes cloud-init apply changed settings to a machine that exists.
    "instance-id": `annex-${identity}`,
    "local-hostname": annex.name,
    network: {
      version: 2,
      ethernets: {
        nic0: {
          match: { macaddress: annex.mac },
          "set-name": "eth0",
          addresses: [`${annex.address}/${network.prefix}`],
          gateway4: network.gateway,
        },
      },
    },
  };
  const encode = (text: string) => Buffer.from(text).toString("base64");
  return {
    name: annex.name,
    uuid: `00000000-0000-4000-8000-${identity}`,
    memoryMb: annex.memoryMb,
    mac: annex.mac,
    image,
    address: annex.address,
    share: sourcesDirectory,
    guestinfo: {
      "guestinfo.metadata": encode(JSON.stringify(metadata)),
      "guestinfo.metadata.encoding": "base64",
      "guestinfo.userdata": encode(userData),
      "guestinfo.userdata.encoding": "base64",
    },
  };
}

/** Starts the annex, or restarts it when its settings have changed. Does not wait for its services. */
export async function annexUp(known: Secrets, image: string): Promise<void> {
  const spec = annexSpec(known, image);
  const running = (await machines()).find((m) => m.ID === annex.name);
  if (running !== undefined && running.State !== "off" && running.UUID !== spec.uuid) await order(annex.name, "stop");
  await startMachine(annex.name, spec);
}

/** Waits until every service of the annex takes connections. */
export async function annexReady(): Promise<void> {
  for (const [service, port] of Object.entries(annexPorts)) {
    if (await until(() => accepts(annex.address, port), 120, 0.3)) continue;
    throw new LabError(
      `the annex's ${service} does not answer on ${annex.address}:${port}: look with \`npm run lab -- logs annex\`, or \`ssh annex sudo cloud-init status --long\``,
    );
  }
}

function accepts(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect({ host, port, timeout: 1000 });
    const end = (result: boolean) => () => {
      socket.destroy();
      resolve(result);
    };
    socket.once("connect", end(true)).once("timeout", end(false)).once("error", end(false));
  });
}
