import type { HostContent } from "../content";
import { programFile } from "../programs";
import { render } from "../render";
import { unitDirectory, unitFile } from "../system/system";

/**
 * The page that a director shows for a web service which has no server left, by HTTP and by HTTPS: browsers come by
 * HTTPS to most sites, so it has the sites' certificate.
 */
export function sorryPart(): Partial<HostContent> {
  const unit = "fleet-sorry.service";
  const page = "/etc/fleet/sorry.html";
  const program = programFile("sorry.py");
  return {
    packages: ["python3"],
    files: [{ path: page, text: render(__dirname, "sorry.html", {}) }, unitFile(unit, render(__dirname, unit, {})), program],
    secrets: [
      { path: "/etc/fleet/tls/default.crt", mode: "0644", secret: "tlsCertificate" },
      { path: "/etc/fleet/tls/default.key", mode: "0600", secret: "tlsPrivateKey" },
    ],
    // It has nothing that a restart could lose.
    units: [{ name: unit, restart: [`${unitDirectory}/${unit}`, program.path, page, "/etc/fleet/tls/"] }],
    health: [{ name: "sorry page", kind: "http", url: "http://127.0.0.1/", status: [503] }],
  };
}
