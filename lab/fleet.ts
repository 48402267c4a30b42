/** Brings the fleet up on the machines that are ready: the Pulumi program's lab stack. */
export async function up(): Promise<void> {
  process.stderr.write("lab: the machines are ready; the fleet's program is not part of the lab yet\n");
}
