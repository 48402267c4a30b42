#!/usr/bin/python3
"""retire: removes PHP builds that are not declared and that nothing on this machine refers to.

One JSON object on stdin:

    declared   builds that stay, whatever is found
    apply      false: only tell

A build below /opt/php is in use when a generation on this machine names it, the live one or one that it may go back
to; when a unit does; when a process runs from it. An archive of a builder's store goes with its record and its log.
stdout carries one JSON line, {builds, archives}, each a list of {name, uses, removed} of what is not declared; `uses`
says why it stays. Exit status: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
import time
from contextlib import ExitStack

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
PREFIX = "/opt/php"
BUILDS, STATE, RUN = f"{ROOT}{PREFIX}", f"{ROOT}/var/lib/fleet", f"{ROOT}/run/fleet"
STORE = f"{STATE}/artefacts"
UNITS = [f"{ROOT}{place}/systemd/{kind}" for place, kind in (
    ("/etc", "system"), ("/run", "system"), ("/run", "transient"), ("/run", "generator"), ("/usr/local/lib", "system"),
)]  # fmt: skip
LOCKS = {
    "base.lock": "an installation", "converge.lock": "a change of this machine", "phpbuild.lock": "a build",
}  # fmt: skip
MARKER = ".fleet-artefact"  # base's: this directory is a whole build
RETIRED = ".retired"  # a build on its way out is .<name>.retired
STORED = re.compile(r"(.+-[0-9a-f]+)\..+")


class Refused(Exception):
    """Nothing was done."""


def names(directory: str) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def files(directory: str):
    for folder, _, found in os.walk(directory):
        yield from (f"{folder}/{name}" for name in found)


def text_of(place: str) -> bytes:
    """A file's text, a link's target; nothing where it has just gone away."""
    try:
        if os.path.islink(place):
            return os.fsencode(os.readlink(place))
        with open(place, "rb") as source:
            return source.read()
    except OSError:
        return b""


# --- what refers to a build --------------------------------------------------------------------


def generations():
    """What each generation says, and how people know it. None is left out: a machine may go back to any that it has."""
    parent, live = f"{STATE}/generations", os.path.basename(os.path.realpath(f"{STATE}/current"))
    for name in names(parent):
        home = f"{parent}/{name}"
        day = time.strftime("%Y-%m-%d", time.gmtime(os.stat(home).st_mtime))
        title = f"live generation {name[:12]}" if name == live else f"earlier generation {name[:12]} of {day}"
        yield title, b"\n".join(text_of(place) for place in files(home))


def units():
    """Unit files but those of the live generation, which are links into it."""
    for directory in UNITS:
        for place in files(directory):
            if not (os.path.islink(place) and os.readlink(place).startswith(f"{STATE}/")):
                yield f"unit {os.path.relpath(place, directory)}", text_of(place)


def processes():
    """The files that each process runs from: its program and its libraries."""
    for number in filter(str.isdigit, os.listdir("/proc")):
        program = text_of(f"/proc/{number}/exe")
        used = program + b"\n" + text_of(f"/proc/{number}/maps")
        yield f"process {number} {os.path.basename(os.fsdecode(program))}", used


def uses(wanted: list[str]) -> dict[str, list[str]]:
    """For each build, what refers to it; of its processes one. What names a build whose name begins so counts too."""
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for of in (generations, units, processes):
        said = list(of())
        for name, reasons in found.items():
            naming = [where for where, text in said if f"{PREFIX}/{name}".encode() in text]
            reasons += naming[:1] if of is processes else naming
    return found


# --- removing ----------------------------------------------------------------------------------


def sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(aside: str) -> None:
    """Remove a directory, its marker first: no part of a build may look like a whole one."""
    if os.path.exists(f"{aside}/{MARKER}"):
        os.unlink(f"{aside}/{MARKER}")
    shutil.rmtree(aside)


def remove_build(name: str) -> None:
    """First it loses its name, for good: killed at any moment, this leaves a whole build or none."""
    aside = f"{BUILDS}/.{name}{RETIRED}"
    os.rename(f"{BUILDS}/{name}", aside)
    sync(BUILDS)
    sweep(aside)


def remove_archive(name: str) -> None:
    """The record first: an archive without one does not exist."""
    if os.path.exists(f"{STORE}/{name}.json"):
        os.unlink(f"{STORE}/{name}.json")
        sync(STORE)
    for other in names(STORE):
        if other.startswith(f"{name}."):
            os.unlink(f"{STORE}/{other}")


def hold(stack: ExitStack) -> None:
    """Nobody may begin to use a build between the look and the removal."""
    os.makedirs(RUN, exist_ok=True)
    for lock, what in LOCKS.items():
        handle = stack.enter_context(open(os.open(f"{RUN}/{lock}", os.O_RDWR | os.O_CREAT, 0o600), "r+b"))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{what} is going on here; run it again when that is done") from None


def retire(declared: list[str], apply: bool) -> dict:
    with ExitStack() as stack:
        if apply:
            hold(stack)
            for name in names(BUILDS):
                if name.startswith(".") and name.endswith(RETIRED):
                    sweep(f"{BUILDS}/{name}")  # left by a run that was killed
        undeclared = [name for name in names(BUILDS) if not name.startswith(".") and name not in declared]
        builds = [{"name": name, "uses": why, "removed": apply and not why} for name, why in uses(undeclared).items()]
        stored = sorted({found[1] for name in names(STORE) if (found := STORED.fullmatch(name))} - set(declared))
        archives = [{"name": name, "uses": [], "removed": apply} for name in stored]
        for of, remove in ((builds, remove_build), (archives, remove_archive)):
            for item in of:
                if item["removed"]:
                    remove(item["name"])
    return {"builds": builds, "archives": archives}


def main() -> int:
    try:
        wanted = json.load(sys.stdin)
        kinds = {key: type(value) for key, value in wanted.items()} if isinstance(wanted, dict) else {}
        if kinds != {"declared": list, "apply": bool}:
            raise Refused("the input must be declared, a list, and apply, true or false")
        print(json.dumps(retire(wanted["declared"], wanted["apply"])))
        return 0
    except (Refused, ValueError, OSError) as failure:
        print(f"retire: {failure}", file=sys.stderr)
        return 1 if isinstance(failure, OSError) else 2


if __name__ == "__main__":
    sys.exit(main())
