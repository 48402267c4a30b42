import * as path from "path";
import { hostProgram } from "../templates/programs";

/** Root of the project, from which the program reads what it carries to the VMs. */
export const projectRoot = path.join(__dirname, "..");

/**
 * Standard input for the loader: the length of the program, the program, and what it shall read.
 * So a program needs no file on the VM before its first run, and never shows in a process list.
 */
export function withProgram(program: string, input: string): string {
  return `${Buffer.byteLength(program)}\n${program}${input}`;
}

/** Command that runs the program which arrives on standard input: no file, no argument, nothing in a process list. */
export const runProgram = `sudo -n /usr/bin/python3 -IB -c '${hostProgram("loader.py.txt").trim()}'`;

/** The program that changes a VM; its verb and nothing secret follows. */
export const converge = "sudo -n /usr/bin/python3 -IB /usr/local/lib/fleet/converge.py";
