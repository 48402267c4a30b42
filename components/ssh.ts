import type * as pulumi from "@pulumi/pulumi";
import type { Readable } from "stream";
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

/** Where a command's input comes from and its output goes, as it comes. */
export interface Streams {
  readonly stdin: string | Readable;
  readonly stdout: (data: Buffer) => void;
  readonly stderr: (data: Buffer) => void;
}

/** Seconds to wait for a connection. */
const connectSeconds = 15;
/** A command may cut its own way: seconds between two questions whether the host is there, and how many go unanswered. */
const [aliveSeconds, aliveTries] = [10, 3];

/**
 * Runs one command over one connection, with `input` on its standard input; secrets go nowhere else.
 * @throws when there is no connection, or when the host presents another key.
 */
export async function run(to: Address, command: string, input = ""): Promise<Finished> {
  const said = { stdout: "", stderr: "" };
  const keep = (name: keyof typeof said) => (data: Buffer) => void (said[name] += data.toString());
  const status = await stream(to, command, { stdin: input, stdout: keep("stdout"), stderr: keep("stderr") });
  return { status, ...said };
}

/**
 * Runs one command over one connection and passes its streams on; its exit status, 255 where a signal ended it.
 * @throws when there is no connection, or when the host presents another key.
 */
export function stream(to: Address, command: string, streams: Streams): Promise<number> {
  const [, expected = ""] = to.hostKey.split(" ");
  return new Promise((resolve, reject) => {
    const client = new Client();
    client.on("error", (error) => reject(new Error(`${to.host}: ${error.message}`)));
    // After the answer this changes nothing; before it, nobody else would ever tell.
    client.on("close", () => reject(new Error(`${to.host}: the connection ended before the command did`)));
    client.on("ready", () => {
      client.exec(command, (failure, channel) => {
        if (failure) return reject(failure);
        channel.on("data", streams.stdout);
        channel.stderr.on("data", streams.stderr);
        channel.on("close", (status: number | null) => {
          client.end();
          resolve(status ?? 255);
        });
        if (typeof streams.stdin === "string") channel.end(streams.stdin);
        else streams.stdin.pipe(channel);
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
