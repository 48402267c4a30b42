import * as YAML from "yaml";
import { macAddress, prefixLength } from "../config/network";
import type { Fleet, Machine } from "../config/model";
import type { HostKey } from "./keys";

/** cloud-init's metadata: who the machine is and its network, with its card named eth0 everywhere. */
export function metadata(machine: Machine, network: Fleet["config"]["network"]): string {
  return YAML.stringify({
    "instance-id": machine.name,
    "local-hostname": machine.name,
    network: {
      version: 2,
      ethernets: {
        nic0: {
          match: { macaddress: macAddress(machine.address) },
          "set-name": "eth0",
          addresses: [`${machine.address}/${prefixLength(network.cidr)}`],
          gateway4: network.gateway,
          nameservers: { addresses: network.nameservers },
        },
      },
    },
  });
}

/**
 * cloud-init's user data, read once at the machine's birth: its own SSH host key and the
 * administrators' account. Everything later comes over SSH.
 */
export function userData(machine: Machine, config: Fleet["config"], hostKey: HostKey, operatorKey: string): string {
  const { aptProxy } = config.network;
  const content = {
    hostname: machine.name,
    manage_etc_hosts: true,
    locale: "C.UTF-8",
    ssh_deletekeys: true,
    ssh_genkeytypes: [],
    ssh_keys: { ed25519_private: hostKey.privateKey, ed25519_public: `${hostKey.publicKey} ${machine.name}` },
    disable_root: true,
    ssh_pwauth: false,
    users: [
      {
        name: config.ssh.user,
        sudo: "ALL=(ALL) NOPASSWD:ALL",
        shell: "/bin/bash",
        lock_passwd: true,
        ssh_authorized_keys: [operatorKey, ...config.ssh.authorizedKeys],
      },
    ],
    ...(aptProxy ? { apt: { http_proxy: aptProxy } } : {}),
  };
  return `#cloud-config\n${YAML.stringify(content)}`;
}
