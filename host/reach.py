#!/usr/bin/python3
"""reach: has this director give the virtual addresses away while the other one reaches servers that it does not.

    reach.py FILE LOOKS PARTNER...

PARTNER is the `address:port` of the other director's health responder. Every second this looks whether each service of
/etc/fleet/balancing.json has a server with a weight in the kernel's table. Where one has none, it asks the partner for
its table: a partner that is ready, serves all that this one serves and more, is the better one. Where that is so for
LOOKS looks on end, FILE gets 1, and keepalived gives the addresses away and takes none; otherwise 0. Of two directors
one at most is the better one, so where neither has a server the addresses stay where they are, and the sorry page with
them. A director that may take the addresses again does not take them back: the partner keeps them (nopreempt).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import ipvs
import probes

ROOT = ipvs.ROOT
LOOK_SECONDS = float(os.environ.get("FLEET_LOOK_SECONDS", "1"))
ASK_SECONDS = 1.0


def served(table: dict, services: set[str]) -> set[str]:
    """Those of the services that have a server which takes requests."""
    return {name for name in services if any(server["weight"] for server in table.get(name, {}).values())}


def told(partner: str, path: str) -> dict:
    """What the partner's responder says; {} where it is not there or not well."""
    try:
        status, _, body = probes.http_answer(f"http://{partner}{path}", "", ASK_SECONDS)
        return json.loads(body) if status == 200 else {}
    except (OSError, http.client.HTTPException, ValueError):
        return {}


def is_better(partner: str, own: set[str], services: set[str]) -> bool:
    return own < served(told(partner, "/balancer").get("services", {}), services) and bool(told(partner, "/ready"))


def look(partners: list[str]) -> bool:
    """Whether a partner would serve more than this director does."""
    with open(f"{ROOT}/etc/fleet/balancing.json", encoding="utf-8") as source:
        services = set(json.load(source)["services"])
    own = served(ipvs.table(), services)
    return own != services and any(is_better(partner, own, services) for partner in partners)


def tell(file: str, value: int) -> None:
    """keepalived has the directory only while it runs, and begins with 0 itself."""
    with contextlib.suppress(FileNotFoundError):
        with open(file, encoding="ascii") as source:
            if source.read().strip() == str(value):
                return
        with open(file, "w", encoding="ascii") as out:
            out.write(f"{value}\n")
        print("the other director reaches servers that this one does not" if value else "may hold the addresses", flush=True)


def main() -> int:
    if len(sys.argv) < 4:
        print("usage: reach.py FILE LOOKS PARTNER...", file=sys.stderr)
        return 2
    file, looks, partners = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    worse = 0
    while True:
        worse = worse + 1 if look(partners) else 0
        tell(file, int(worse >= looks))
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
