import { healthPort } from "../../config/load";
import type { Machine } from "../../config/model";
import type { Check, HostContent, HostFile } from "../content";
import { programDirectory, programFile } from "../programs";
import { render } from "../render";

/** Directory of systemd units. */
export const unitDirectory = "/etc/systemd/system";

/** The health responder, and what it imports. */
const responderPrograms = ["health.py", "ipvs.py", "probes.py", "slumber.py"];

/** A unit file of the fleet's own. */
export function unitFile(name: string, text: string): { path: string; text: string } {
  return { path: `${unitDirectory}/${name}`, text };
}

/** Asks before the switch what a candidate would do to what works now; see host/trial.py. */
export function trialCheck(name: string, words: readonly string[], paths: readonly string[]): Check {
  return { name, argv: ["/usr/bin/python3", "-IB", `${programDirectory}/trial.py`, ...words], paths };
}

/** What systemd does at every boot anyway, done again when the fleet changes the files. */
export function kernelPart(modules: readonly string[], sysctls: Readonly<Record<string, string | number>>): Partial<HostContent> {
  const settings = Object.entries(sysctls).map(([key, value]) => `${key} = ${value}\n`);
  return {
    files: [
      ...(modules.length > 0 ? [{ path: "/etc/modules-load.d/fleet.conf", text: `${modules.join("\n")}\n` }] : []),
      ...(settings.length > 0 ? [{ path: "/etc/sysctl.d/60-fleet.conf", text: settings.join("") }] : []),
    ],
    actions: [
      ...(modules.length > 0
        ? [{ name: "kernel modules", argv: ["/usr/sbin/modprobe", "-a", ...modules], paths: ["/etc/modules-load.d/"] }]
        : []),
      ...(settings.length > 0
        ? [{ name: "kernel parameters", argv: ["/usr/sbin/sysctl", "-q", "-p", "/etc/sysctl.d/60-fleet.conf"], paths: ["/etc/sysctl.d/"] }]
        : []),
    ],
  };
}

/**
 * What every VM has around its parts: the health responder that answers for their checks, the watcher
 * of unsettled changes, and one target that starts everything at boot.
 */
export function systemPart(
  machine: Machine,
  own: Pick<HostContent, "files" | "units" | "health" | "vips" | "services">,
): Partial<HostContent> {
  const health = "fleet-health.service";
  const watcher = "fleet-watch.service";
  const started = [...own.units.filter((u) => u.start !== false).map((u) => u.name), health, watcher];
  const doors = own.services.map((s) => s.name).filter((name) => /:(80|443)$/.test(name));
  const responder = { listen: machine.address, port: healthPort, vips: own.vips, doors, checks: own.health };
  const files: HostFile[] = [
    unitFile("fleet.target", render(__dirname, "fleet.target", { units: started })),
    unitFile(health, render(__dirname, health, {})),
    unitFile(watcher, render(__dirname, watcher, {})),
    ...responderPrograms.map(programFile),
    { path: "/etc/fleet/health.json", text: `${JSON.stringify(responder, null, 2)}\n` },
  ];
  // A drop-in is read with its unit, which systemd finds by its name.
  const units = [...own.files, ...files]
    .filter(({ path }) => path.startsWith(`${unitDirectory}/`))
    .map(({ path }) => /([^/]+)\.d\//.exec(path)?.[1] ?? path);
  return {
    packages: ["python3"],
    files,
    links: [{ path: `${unitDirectory}/multi-user.target.wants/fleet.target`, target: `${unitDirectory}/fleet.target` }],
    checks: [
      {
        name: "health responder",
        argv: ["/usr/bin/python3", "-IB", `${programDirectory}/health.py`, "--check", "/etc/fleet/health.json"],
      },
      {
        // systemd itself ignores what it does not know: a wall of a site's box that is misspelt would just not be there.
        name: "systemd-analyze verify",
        argv: ["/usr/bin/systemd-analyze", "--man=no", "--recursive-errors=no", "verify", ...units],
        paths: [`${unitDirectory}/`],
      },
    ],
    units: [
      {
        name: health,
        reload: ["/etc/fleet/health.json"],
        restart: [`${unitDirectory}/${health}`, ...responderPrograms.map((name) => `${programDirectory}/${name}`)],
      },
      { name: "fleet.target" },
    ],
    probes: [
      {
        name: "health responder says healthy",
        kind: "health",
        address: machine.address,
        port: healthPort,
        within: 30,
      },
    ],
  };
}
