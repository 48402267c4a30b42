import type * as pulumi from "@pulumi/pulumi";
import { Client } from "ssh2";

/** What an SSH connection needs; the host key is known before the first contact. */
export interface Address {
  readonly host: string;
  readonly user: string;
  /** An OpenSSH private key. */
  readonly privateKey: string;
  /** The only public key that the host may present, as `ssh-ed25519 AAAA...`. */
  readonly hostKey: string;
}

/** An address for a hook, which runs when it is known. */
export const known = (address: pulumi.Output<Address>): Promise<Address> => new Promise((resolve) => void address.apply(resolve));

/** What a remote command left behind. */
export interface Finished {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Seconds to wait for a connection. */
const connectSeconds = 15;
/** A command may cut its own way: seconds between two questions whether the host is there, and how many go unanswered. */
const [aliveSeconds, aliveTries] = [10, 3];

/**
 * Runs one command over one connection, with `input` on its standard input; secrets go nowhere else.
 * @throws when there is no connection, or when the host presents another key.
 */
export function run(to: Address, command: string, input = ""): Promise<Finished> {
  const [, expected = ""] = to.hostKey.split(" ");
  return new Promise((resolve, reject) => {
    const client = new Client();
    client.on("error", (error) => reject(new Error(`${to.host}: ${error.message}`)));
    // After the answer this changes nothing; before it, nobody else would ever tell.
    client.on("close", () => reject(new Error(`${to.host}: the connection ended before the command did`)));
    client.on("ready", () => {
      client.exec(command, (failure, channel) => {
        if (failure) return reject(failure);
        const said = { stdout: "", stderr: "" };
        channel.on("data", (data: Buffer) => (said.stdout += data.toString()));
        channel.stderr.on("data", (data: Buffer) => (said.stderr += data.toString()));
        channel.on("close", (status: number | null) => {
          client.end();
          resolve({ status: status ?? 255, ...said });
        });
        channel.end(input);
      });
    });
    client.connect({
      host: to.host,
      username: to.user,
      privateKey: to.privateKey,
      readyTimeout: connectSeconds * 1000,
      keepaliveInterval: aliveSeconds * 1000,
      keepaliveCountMax: aliveTries,
      algorithms: { serverHostKey: ["ssh-ed25519"] },
      hostVerifier: (key: Buffer) => key.toString("base64") === expected,
    });
  });
}
