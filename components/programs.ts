import * as fs from "fs";
import * as path from "path";

/** Root of the project, from which the program reads what it carries to the VMs. */
export const projectRoot = path.join(__dirname, "..");

/** Text of a program of host/. */
export function hostProgram(name: string): string {
  return fs.readFileSync(path.join(projectRoot, "host", name), "utf8");
}

/**
 * Standard input for the loader: the length of the program, the program, and what it shall read.
 * So a program needs no file on the VM before its first run, and never shows in a process list.
 */
export function withProgram(program: string, input: string): string {
  return `${Buffer.byteLength(program)}\n${program}${input}`;
}

/** Command that runs the program which arrives on standard input: no file, no argument, nothing in a process list. */
export const runProgram = `sudo -n /usr/bin/python3 -I -c '${hostProgram("loader.py.txt").trim()}'`;
