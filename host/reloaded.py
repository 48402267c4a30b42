#!/usr/bin/python3
"""reloaded: finish in the kernel's table what keepalived's reload leaves undone.

    reloaded.py

keepalived before 2.3 (Debian 12 has 2.2.7; its issue 2253) enters the servers of a port that is new in a group with
port 0 and weight 1. It balances them, and never takes them away: what it says later of the server's health goes to
an entry with the port. So each is entered again as keepalived should have, with the weight that the server has in
the services of before. Its own books have port 0 for them still, and where such a port or server goes by a later
reload, it asks the kernel for an entry that is not there, and gives up on the rest: so what the bundle does not
want is removed here. Run by the service's reload, which keepalived does in its own time: it is waited for.
Exit status: 0, also where nothing was to be done.
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
SECONDS = float(os.environ.get("FLEET_RELOAD_SECONDS", "5"))  # without a change of the table: a reload takes a fraction of one
OWN_SECONDS = SECONDS / 5  # likewise, for what keepalived removes by itself

Entry = tuple[str, str, int, int]


def entries() -> tuple[set[str], list[Entry]]:
    """The TCP services, and service, address, port and weight of each of their real servers."""
    services: set[str] = set()
    found: list[Entry] = []
    service = ""
    try:
        with open(f"{ROOT}/proc/net/ip_vs", encoding="ascii") as lines:
            for line in lines:
                match line.split():
                    case ["TCP", place, *_]:
                        service = "{}:{}".format(*ipvs.place(place))
                        services.add(service)
                    case ["UDP" | "SCTP" | "FWM", *_]:
                        service = ""
                    case ["->", server, "Route", weight, *_] if service and ipvs.place(server)[0] != ipvs.SORRY:
                        found.append((service, *ipvs.place(server), int(weight)))
    except FileNotFoundError:
        pass  # before the kernel's module is loaded nothing is balanced
    return services, found


def ipvsadm(*words: str) -> None:
    done = subprocess.run(["ipvsadm", *words], capture_output=True, text=True, check=False)
    # keepalived may have done the same in between.
    print(f"ipvsadm {' '.join(words)} {done.stderr.strip()}".strip(), file=sys.stderr)


def give_ports(found: list[Entry]) -> None:
    for service, address, port, _ in found:
        if port:
            continue
        own = f"{address}:{service.rpartition(':')[2]}"
        if not any(s == service and a == address and p for s, a, p, _ in found):
            known = [weight for _, a, p, weight in found if a == address and p]
            ipvsadm("--add-server", "--tcp-service", service, "--real-server", own, "--gatewaying", "--weight", f"{min(known, default=1)}")
        ipvsadm("--delete-server", "--tcp-service", service, "--real-server", f"{address}:0")


def remove(services: set[str], servers: set[tuple[str, str, int]]) -> None:
    for service in sorted(services):
        ipvsadm("--delete-service", "--tcp-service", service)
    for service, address, port in sorted(servers):
        ipvsadm("--delete-server", "--tcp-service", service, "--real-server", f"{address}:{port}")


def main() -> int:
    with open(f"{ROOT}/etc/fleet/balancing.json", encoding="utf-8") as source:
        wanted = json.load(source)["services"]
    seen: object = None
    since = 0.0
    while True:
        services, found = entries()
        if seen != (now := (services, {entry[:3] for entry in found})):
            seen, since = now, time.monotonic()  # hundreds of ports take a while: what counts is that it goes on
        give_ports([entry for entry in found if entry[1] in wanted.get(entry[0], [])])
        missing = {(s, a) for s in wanted for a in wanted[s]} - {(s, a) for s, a, port, _ in found if port}
        surplus = services - wanted.keys()
        servers = {(s, a, port) for s, a, port, _ in found if s in wanted and a not in wanted[s]}
        still = time.monotonic() - since
        if not (missing or surplus or servers) or still >= SECONDS:
            return 0
        if still >= OWN_SECONDS:
            remove(surplus, servers)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
