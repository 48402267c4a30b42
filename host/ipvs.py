"""The kernel's table of balanced services, as every user may read it."""

from __future__ import annotations

import contextlib
import os
import socket

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /

SORRY = "127.0.0.80"  # keepalived adds it where a web service has no server left: this machine itself, see sorry.py


def place(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    plain = address.startswith("[")  # IPv6 is printed as people write it
    return address if plain else socket.inet_ntoa(bytes.fromhex(address)), int(port, 16)


def table() -> dict[str, dict[str, dict[str, int]]]:
    """Weight and active connections of each real server of each service: {"vip:port": {address: {...}}}.
    The fleet's services are all TCP; any other kind has its protocol in the name. The sorry page is no real server."""
    services: dict[str, dict] = {}
    # Before the kernel's module is loaded nothing is balanced.
    with contextlib.suppress(FileNotFoundError), open(f"{ROOT}/proc/net/ip_vs", encoding="ascii") as lines:
        for line in lines:
            match line.split():
                case ["TCP", service, *_]:
                    servers = services.setdefault("{}:{}".format(*place(service)), {})
                case ["UDP" | "SCTP" as protocol, service, *_]:
                    servers = services.setdefault("{} {}:{}".format(protocol, *place(service)), {})
                case ["FWM", mark, *_]:
                    servers = services.setdefault(f"FWM {int(mark, 16)}", {})
                case ["->", server, "Route", weight, active, _] if place(server)[0] != SORRY:
                    servers[place(server)[0]] = {"weight": int(weight), "active": int(active)}
    return services
