"""What a change of files means for the units that read them. Nothing here touches the machine."""

from __future__ import annotations

import re

from bundle import Bundle


def touches(patterns: list[str], changed: set[str]) -> bool:
    """Whether a changed path is one of the patterns, or lies below one that ends with '/'."""
    return any(path.startswith(p) if p.endswith("/") else path == p for p in patterns for path in changed)


def changed_paths(old: dict, new: dict) -> set[str]:
    """Paths whose content, mode, owner or target differ between two manifests."""
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}


def service_of(unit: str) -> str:
    return unit.removesuffix(".socket") + ".service"


def plan_unit(unit: dict, changed: set[str], active: bool) -> str:
    """none, reload, restart or start. A unit with start false is started by something else
    (a socket, a timer), so it is only ever restarted or reloaded while it runs."""
    if not active:
        return "start" if unit["start"] else "none"
    if touches(unit["restart"], changed):
        return "restart"
    return "reload" if touches(unit["reload"], changed) else "none"


def plan_units(old: Bundle, new: Bundle, changed: set[str], states: dict[str, str], started=()) -> dict[str, str]:
    """What happens to each unit; units to which nothing happens are absent. A unit that is no longer
    wanted is stopped when its file came from us or this run started it; a unit of the
    distribution (sshd, say) only reads its files again."""
    wanted = {unit["name"]: unit for unit in new.units}
    # A service that its socket is just starting has read the old files; one that we start is started again.
    rising = {name for name, state in states.items() if state == "activating" and not wanted.get(name, {}).get("start")}
    active = rising | {name for name, state in states.items() if state in ("active", "reloading")}
    plan = {}
    for unit in old.units:
        name = unit["name"]
        if name in wanted or states.get(name) in ("inactive", "failed"):
            continue
        ours = any(f"/etc/systemd/system/{file}" in old.entries for file in (name, re.sub(r"@.*\.", "@.", name)))
        plan[name] = "stop" if ours or name in started else plan_unit(unit, changed, name in active)
    for name, unit in wanted.items():
        plan[name] = plan_unit(unit, changed, name in active)
    plan = {name: action for name, action in plan.items() if action != "none"}
    for name in [name for name in plan if name.endswith(".socket") and plan[name] != "stop"]:
        # systemd will not open a socket whose service runs: the service must make room.
        service = service_of(name)
        if service in active:
            plan[service] = "restart" if wanted.get(service, {}).get("start") else "stop"
    return plan


def needs_drain(plan: dict[str, str], old: Bundle, new: Bundle) -> list[str]:
    """Units whose stop or restart loses requests: the machine must be out of its services first."""
    fragile = {unit["name"] for unit in old.units + new.units if unit["drain"]}
    return [name for name, action in plan.items() if action in ("stop", "restart") and name in fragile]


def unit_commands(plan: dict[str, str], changed: set[str]) -> list[list[str]]:
    """The systemctl calls of a plan, in order, one for each kind of change."""

    def chosen(*actions: str, sockets: bool) -> list[str]:
        return [name for name, action in plan.items() if action in actions and name.endswith(".socket") == sockets]

    make_room = [service_of(name) for name in chosen("restart", "start", sockets=True)]
    # A socket goes in one call with its service: open for a moment longer, it would wake it for whoever
    # asked last, and a socket whose service runs is not opened again.
    closing = chosen("restart", sockets=True)
    stop = [name for name in plan if plan[name] == "stop" or name in make_room or name in closing]
    stop += [service_of(name) for name in closing if service_of(name) not in stop]
    groups = [
        ("stop", stop),
        ("daemon-reload", None if touches(["/etc/systemd/system/"], changed) else []),
        ("restart", chosen("restart", "start", sockets=True)),
        ("restart", chosen("restart", sockets=False)),
        ("reload", chosen("reload", sockets=False) + chosen("reload", sockets=True)),
        ("start", chosen("start", sockets=False)),
    ]
    return [["systemctl", verb, *(names or [])] for verb, names in groups if names != []]
