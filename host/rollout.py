"""Taking this machine out of its services and back in, judged by the live director's IPVS table."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time

import ipvs
import store
from store import Failed

DRAIN = f"{store.ROOT}/run/fleet/drain"  # gone after a boot: a machine never stays drained by accident
DIRECTOR_SECONDS = float(os.environ.get("FLEET_DIRECTOR_SECONDS", "30"))  # for a director to answer or to notice
ASK_SECONDS = 2.0


def ask(place: str, path: str, statuses=(200,)) -> dict:
    """What a health responder says; {} when there is no good answer."""
    connection = http.client.HTTPConnection(place, timeout=ASK_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status in statuses else {}
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()


def is_ready(settings: dict, server: str) -> bool:
    """Whether another machine's responder would have requests sent there."""
    port = settings["responder"].rpartition(":")[2]
    return bool(ask(f"{server}:{port}", "/ready"))


def failing_checks(place: str) -> tuple[dict[str, str], dict[str, str]] | None:
    """What a health responder finds wrong with its machine, and with sites; None when it does not answer."""
    answer = ask(place, "/ready", (200, 503))
    parts = [answer.get(part, {}) for part in ("checks", "sites")]
    own, sites = ({name: reason for name, reason in part.items() if reason != "ok"} for part in parts)
    if answer and "sites" not in answer:  # a responder of before has them among its checks
        return {}, own
    return (own, sites) if answer else None


def broken_sites(settings: dict) -> list[str]:
    """Sites that fail now, whatever is changed next."""
    return sorted((failing_checks(settings["responder"]) or ({}, {}))[1])


def live_directors(settings: dict) -> list[str]:
    """Directors that hold the VIPs, by their own word."""
    return [place for place in settings["balancers"] if ask(place, "/balancer").get("live")]


def table_now(settings: dict) -> dict | None:
    """Services of the director that holds the VIPs: {service: {server: {weight, active}}}; None when none says so."""
    for place in settings["balancers"]:
        answer = ask(place, "/balancer")
        if answer.get("live"):
            return answer["services"]
    return None


def live_table(settings: dict) -> dict:
    limit = time.monotonic() + DIRECTOR_SECONDS
    while (table := table_now(settings)) is None:
        if time.monotonic() >= limit:
            names = ", ".join(settings["balancers"])
            raise Failed(f"no director says that it is live ({names}): which servers are live is unknown")
        time.sleep(0.5)
    return table


def own_entries(settings: dict, table: dict) -> dict[str, dict]:
    """This machine's entry in each of its services that has one."""
    places = ((name, table.get(name, {}).get(settings["address"])) for name in settings["services"])
    return {name: entry for name, entry in places if entry}


def live_entries(settings: dict) -> dict[str, dict]:
    return own_entries(settings, live_table(settings)) if settings["services"] else {}


def check_budget(settings: dict) -> None:
    """Refuse to touch one of the last servers of a service. A server that is not live is none of them;
    one that is just coming back is waited for."""
    limit = time.monotonic() + settings["healthyDeadlineSeconds"]
    while settings["services"]:
        try:
            return count_servers(settings, live_table(settings))
        except Failed:
            if time.monotonic() >= limit:
                raise
        time.sleep(1)


def check_partners(settings: dict) -> None:
    """Refuse to stop the directors' service on the last of them."""
    others = [place for place in settings["balancers"] if place != settings["responder"]]
    limit = time.monotonic() + settings["healthyDeadlineSeconds"]
    while settings["minimumServers"] and others and not any(ask(place, "/ready") for place in others):
        if time.monotonic() >= limit:
            raise Failed(
                f"budget: no other director is ready to take over ({', '.join(others)}): bring one back first, or set "
                f"fleet:rollout.minimumServers to 0"
            )
        time.sleep(1)


def count_servers(settings: dict, table: dict) -> None:
    least, own = settings["minimumServers"], settings["address"]
    for name in settings["services"]:
        servers = table.get(name, {})
        if not servers.get(own, {}).get("weight"):
            continue
        others = sorted(address for address, entry in servers.items() if address != own and entry["weight"])
        if len(others) < least:
            raise Failed(
                f"budget: {name} has {len(others)} other live servers ({', '.join(others) or 'none'}) and must keep "
                f"{least}: bring one back first, or lower fleet:rollout.minimumServers"
            )


def check_vip(settings: dict) -> None:
    """This machine's web services as visitors meet them: through the VIP, from a director that does not hold
    it. Where no director is live yet, or only one is there, nobody can be asked."""
    limit = time.monotonic() + DIRECTOR_SECONDS
    while settings["services"]:
        answers = [answer for place in settings["balancers"] if (answer := ask(place, "/through"))]
        outside = [answer["doors"] for answer in answers if not answer["live"]]
        wrong = {door: doors[door] for doors in outside for door in settings["services"] if doors.get(door)}
        if not wrong or len(outside) == len(answers):
            return
        if time.monotonic() >= limit:
            said = ", ".join(f"{door}: {reason}" for door, reason in wrong.items())
            raise Failed(f"the service does not answer through the VIP within {DIRECTOR_SECONDS:g} s: {said}")
        time.sleep(0.5)


def wait_for_peers(peers: list[str], patience: float) -> None:
    """Until every other machine of the tier is ready: two never reboot together."""
    limit = time.monotonic() + patience
    while away := [place for place in peers if not ask(place, "/ready")]:
        if time.monotonic() >= limit:
            raise Failed(f"{', '.join(away)} of the same tier is not ready: this machine stays until it is")
        time.sleep(1)


def drained() -> bool:
    return os.path.exists(DRAIN)


def drain(settings: dict, say) -> None:
    """Ask for no new requests, and wait until those in flight have ended: at most drainSeconds."""
    os.makedirs(os.path.dirname(DRAIN), exist_ok=True)
    with open(DRAIN, "w", encoding="utf-8") as flag:
        flag.write("converge\n")
    limit = time.monotonic() + DIRECTOR_SECONDS
    while any(entry["weight"] for entry in live_entries(settings).values()):
        if time.monotonic() >= limit:
            raise Failed(f"drain: the live director still sends requests here after {DIRECTOR_SECONDS:g} s")
        time.sleep(0.2)
    limit = time.monotonic() + settings["drainSeconds"]
    while active := sum(entry["active"] for entry in live_entries(settings).values()):
        if time.monotonic() >= limit:
            say(f"{active} connections are still open after {settings['drainSeconds']} s of draining; going on")
            return
        time.sleep(0.2)


def take_requests() -> bool:
    """End a drain; whether there was one."""
    was_drained = drained()
    if was_drained:
        os.unlink(DRAIN)
    return was_drained


def undrain(settings: dict, broken: list[str]) -> None:
    """Take requests again, and wait until the live director sends them. Where no director is live yet, as in
    the first hour of a fleet, a machine that was not drained has nobody to wait for; nor has one all of
    whose sites failed before the change."""
    was_drained = take_requests()
    limit = time.monotonic() + DIRECTOR_SECONDS
    while True:
        table = live_table(settings) if was_drained and settings["services"] else table_now(settings)
        if table is None or all(entry["weight"] for entry in own_entries(settings, table).values()):
            return
        own, sites = failing_checks(settings["responder"]) or ({}, {})
        if sites and not own and set(sites) <= set(broken) and not ask(settings["responder"], "/ready"):
            return
        if time.monotonic() >= limit:
            raise Failed(f"the live director does not send requests here again within {DIRECTOR_SECONDS:g} s")
        time.sleep(0.2)


# --- on a director: servers that it will balance no more ---------------------------------------


def leaving_servers(old: list[dict], new: list[dict]) -> list[tuple[str, str]]:
    """Service and server of each entry that takes requests now and goes with a change of the services."""
    wanted, table = {entry["name"]: entry["servers"] for entry in new}, ipvs.table()
    going = [(entry["name"], server) for entry in old for server in entry["servers"] if server not in wanted.get(entry["name"], ())]
    return [(service, server) for service, server in going if table.get(service, {}).get(server, {}).get("weight")]


def weigh(servers: list[tuple[str, str]], weight: int) -> None:
    for service, server in servers:
        own = ["--tcp-service", service, "--real-server", f"{server}:{service.rpartition(':')[2]}"]
        # One that is not there any more needs no weight.
        subprocess.run(["ipvsadm", "--edit-server", *own, "--gatewaying", "--weight", f"{weight}"], capture_output=True, check=False)


def release(settings: dict, servers: list[tuple[str, str]], say) -> None:
    """Send these servers no new requests, and wait until those under way have ended, at most drainSeconds: keepalived
    itself takes a server away with its connections. A director that is not live forwards none."""
    if not servers:
        return
    say(f"draining {' '.join(sorted({server for _, server in servers}))}, which will be balanced no more")
    weigh(servers, 0)
    limit = time.monotonic() + settings["drainSeconds"]
    while ask(settings["responder"], "/balancer").get("live"):
        table = ipvs.table()
        active = sum(table.get(service, {}).get(server, {}).get("active", 0) for service, server in servers)
        if not active:
            return
        if time.monotonic() >= limit:
            say(f"{active} connections to them are still open after {settings['drainSeconds']} s; going on")
            return
        time.sleep(0.2)
