#!/usr/bin/python3
"""portless: give a port to the real servers that keepalived's reload enters without one.

    portless.py

keepalived before 2.3 (Debian 12 has 2.2.7; its issue 2253) enters the servers of a port that is new in a group with
port 0 and weight 1. It balances them, and never takes them away: what it says later of the server's health goes to
an entry with the port. So each is entered again as keepalived should have, with the weight that the server has in
the services of before. Run by the service's reload, which keepalived does in its own time: the wanted services are
waited for. Exit status: 0, also where nothing was to be done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import ipvs

ROOT = ipvs.ROOT
SECONDS = float(os.environ.get("FLEET_RELOAD_SECONDS", "5"))  # a reload takes keepalived a fraction of one


def entries() -> list[tuple[str, str, int, int]]:
    """Service, address, port and weight of each real server of each TCP service."""
    found, service = [], ""
    try:
        with open(f"{ROOT}/proc/net/ip_vs", encoding="ascii") as lines:
            for line in lines:
                match line.split():
                    case ["TCP", place, *_]:
                        service = "{}:{}".format(*ipvs.place(place))
                    case ["UDP" | "SCTP" | "FWM", *_]:
                        service = ""
                    case ["->", server, "Route", weight, *_] if service:
                        found.append((service, *ipvs.place(server), int(weight)))
    except FileNotFoundError:
        return []  # before the kernel's module is loaded nothing is balanced
    return found


def ipvsadm(*words: str) -> None:
    done = subprocess.run(["ipvsadm", *words], capture_output=True, text=True, check=False)
    # keepalived may have done the same in between.
    print(f"ipvsadm {' '.join(words)} {done.stderr.strip()}".strip(), file=sys.stderr)


def mend(found: list[tuple[str, str, int, int]]) -> None:
    for service, address, port, _ in found:
        if port:
            continue
        own = f"{address}:{service.rpartition(':')[2]}"
        if not any(s == service and a == address and p for s, a, p, _ in found):
            known = [weight for _, a, p, weight in found if a == address and p]
            ipvsadm("--add-server", "--tcp-service", service, "--real-server", own, "--gatewaying", "--weight", f"{min(known, default=1)}")
        ipvsadm("--delete-server", "--tcp-service", service, "--real-server", f"{address}:0")


def main() -> int:
    with open(f"{ROOT}/etc/fleet/balancing.json", encoding="utf-8") as source:
        services = json.load(source)["services"]
    wanted = {(service, server) for service, servers in services.items() for server in servers}
    limit = time.monotonic() + SECONDS
    while True:
        found = entries()
        mend(found)
        if wanted <= {(service, address) for service, address, port, _ in found if port} or time.monotonic() >= limit:
            return 0
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
