#!/usr/bin/python3
"""converge: make this machine what one bundle says, whole or not at all.

    converge.py apply     bundle on stdin; check, switch, reload, prove, report
    converge.py secrets   secret contents on stdin; stored for the next apply
    converge.py diff      hand edits of managed files as a unified diff
    converge.py status    what is live, as JSON

The files of a bundle live in /var/lib/fleet/generations/<sha256 of the bundle>/etc/...; every
managed path in /etc is a symbolic link through /var/lib/fleet/current, so that one rename of
`current` changes all of them together. Nothing in /etc is touched before every check has passed
on a private copy of /etc as it will be. /var/lib/fleet/unsettled names the generations that
running services may have read; it exists from just before a switch until everything is proved,
so that an apply that was killed is finished, or taken back, by the next one.

stdout carries one JSON line, stderr is for people. Exit status: 0 done, 1 failed,
2 refused (bad input, lock held) or, for diff, differences found.
"""

from __future__ import annotations

import difflib
import fcntl
import grp
import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
STATE = f"{ROOT}/var/lib/fleet"
GENERATIONS, SECRETS, FOREIGN = f"{STATE}/generations", f"{STATE}/secrets", f"{STATE}/foreign"
CURRENT, UNSETTLED = f"{STATE}/current", f"{STATE}/unsettled"
RUN = f"{ROOT}/run/fleet"
ORIGIN = "origin"  # the generation before the first: the files the fleet found when it came
KEEP = 5  # generations kept besides the live one and the origin
COMMAND_SECONDS = 120  # limit of one check, action or systemctl call
MAX_LINES = 20  # of a command's output in a message
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DIGITS = re.compile(r"[0-9a-f]{16,128}")
MODE = re.compile(r"0[0-7]{3}")
UNIT = re.compile(r"[\w:.@\\-]+\.(service|socket|timer|mount|automount|path|target|slice)")
NAME = (str, int)
# kind of record -> field -> (type, default); a field without a default must be given.
RECORDS = {
    "bundle": {"format": (int,), "host": (str,)},
    "file": {"path": (str,), "mode": (str,), "owner": (NAME,), "group": (NAME,), "lines": (int,)},
    "secret": {"path": (str,), "mode": (str,), "owner": (NAME,), "group": (NAME,), "digest": (str,)},
    "link": {"path": (str,), "target": (str,)},
    "check": {"name": (str,), "argv": (list,), "user": (NAME, 0), "group": (NAME, 0), "paths": (list, [])},
    "action": {"name": (str,), "argv": (list,), "paths": (list,)},
    "unit": {"name": (str,), "reload": (list, []), "restart": (list, []), "start": (bool, True)},
    "probe": {
        "name": (str,), "kind": (str,), "within": (int, 20), "url": (str, ""), "host": (str, ""),
        "status": (list, [200]), "contains": (str, ""), "address": (str, ""), "port": (int, 0),
        "path": (str, ""), "argv": (list, []),
    },
}  # fmt: skip
SECRET_RECORDS = {"secret": {"digest": (str,), "lines": (int,)}}
PROBE_NEEDS = {
    "http": ["url"],
    "tcp": ["address", "port"],
    "fastcgi": ["address", "port", "path"],
    "exec": ["argv"],
}


class Refused(Exception):
    """The request is wrong: nothing was done."""


class Failed(Exception):
    """A step did not succeed."""


def say(text: str) -> None:
    """One bounded line for people. A reader that has gone away must not stop the work."""
    try:
        print(text[:2000], file=sys.stderr, flush=True)
    except OSError:
        pass


# --- the bundle: text -> values (pure) -------------------------------------------------------


@dataclass
class Bundle:
    id: str = ORIGIN
    host: str = ""
    text: bytes = b""
    entries: dict[str, dict] = field(default_factory=dict)  # by path: files, secrets and links
    checks: list[dict] = field(default_factory=list)
    actions: list[dict] = field(default_factory=list)
    units: list[dict] = field(default_factory=list)
    probes: list[dict] = field(default_factory=list)


def read_records(data: bytes, schema: dict, mistakes: list[str]):
    """Yield (line number, kind, fields, content) of each well-formed record; note the others."""
    lines = data.split(b"\n")
    if lines.pop() != b"":
        mistakes.append("the last line has no newline: the bundle is cut short")
    at = 0
    while at < len(lines):
        number, head = at + 1, lines[at].decode("utf-8", "replace")
        at += 1
        kind, _, body = head.partition(" ")
        if not kind.startswith("@") or kind[1:] not in schema:
            mistakes.append(f"line {number}: expected a record of {sorted(schema)}, found {head[:60]!r}")
            return  # what follows may be the content of a file, where every line looks wrong
        try:
            fields = json.loads(body)
        except ValueError as error:
            fields = error
        if not isinstance(fields, dict):
            mistakes.append(f"line {number}: {kind} is not followed by a JSON object")
            return
        wrong = check_fields(schema[kind[1:]], fields)
        mistakes += [f"line {number}: {kind} {text}" for text in wrong]
        count = fields.get("lines", 0)
        if not isinstance(count, int) or not 0 <= count <= len(lines) - at:
            mistakes.append(f"line {number}: {kind} announces {count} lines, {len(lines) - at} follow")
            return
        content = b"".join(line + b"\n" for line in lines[at : at + count])
        at += count
        if not wrong:
            yield number, kind[1:], fields, content


def check_fields(schema: dict, fields: dict) -> list[str]:
    """Mistakes in one record's fields; absent optional fields get their defaults."""
    mistakes = [f"has an unknown field {name!r}" for name in sorted(set(fields) - set(schema))]
    for name, (types, *default) in schema.items():
        kinds = types if isinstance(types, tuple) else (types,)
        if name not in fields and default:
            fields[name] = default[0]
        elif name not in fields:
            mistakes.append(f"lacks the field {name!r}")
        elif type(fields[name]) not in kinds:
            mistakes.append(f"{name}: must be {' or '.join(kind.__name__ for kind in kinds)}")
        elif kinds == (list,) and any(type(item) not in (str, int) for item in fields[name]):
            mistakes.append(f"{name}: must be a list of plain values")
    return mistakes


def check_record(kind: str, fields: dict) -> list[str]:
    """Mistakes in the values of one record whose types are right."""
    wrong = []
    path = "/etc/x" if kind == "probe" else fields.get("path", "/etc/x")
    argv = fields.get("argv", [])
    if os.path.normpath(path) != path or not path.startswith("/etc/") or "\n" in path:
        wrong.append(f"path {path!r} must be a plain path below /etc/")
    if not MODE.fullmatch(fields.get("mode", "0644")):
        wrong.append(f"mode {fields['mode']!r} must be four octal digits such as 0644")
    if not DIGITS.fullmatch(fields.get("digest", "0" * 16)):
        wrong.append("digest must be 16 to 128 hexadecimal digits")
    if not fields.get("target", "/").startswith("/"):
        wrong.append(f"target {fields['target']!r} must be an absolute path")
    if kind in ("check", "action") and not (argv and str(argv[0]).startswith("/")):
        wrong.append(f"{fields['name']!r}: argv must begin with the absolute path of a program")
    if kind == "unit" and not UNIT.fullmatch(fields["name"]):
        wrong.append(f"{fields['name']!r} is not the name of a unit")
    if kind == "probe":
        needs = PROBE_NEEDS.get(fields["kind"])
        if needs is None:
            wrong.append(f"{fields['name']!r}: kind must be one of {', '.join(PROBE_NEEDS)}")
        wrong += [f"{fields['name']!r}: a probe of this kind needs {name}" for name in needs or [] if not fields[name]]
    return wrong


def parse(data: bytes, generation: str | None = None) -> Bundle:
    """The bundle as values, or Refused with every mistake in it."""
    mistakes: list[str] = []
    bundle = Bundle(id=generation or hashlib.sha256(data).hexdigest(), text=data)
    heads = 0
    for number, kind, fields, content in read_records(data, RECORDS, mistakes):
        mistakes += [f"line {number}: @{kind} {text}" for text in check_record(kind, fields)]
        if kind == "bundle":
            heads += 1
            bundle.host = fields["host"]
            if fields["format"] != 1 or number != 1:
                mistakes.append(f"line {number}: @bundle must be the first line and have format 1")
        elif kind in ("file", "secret", "link"):
            if fields["path"] in bundle.entries:
                mistakes.append(f"line {number}: {fields['path']} is given twice")
            bundle.entries[fields["path"]] = {**fields, "kind": kind, "content": content}
        else:
            group = getattr(bundle, f"{kind}s")
            if fields["name"] in (other["name"] for other in group):
                mistakes.append(f"line {number}: @{kind} {fields['name']!r} is given twice")
            group.append(fields)
    for path in bundle.entries:
        parent = os.path.dirname(path)
        while parent != "/":
            if parent in bundle.entries:
                mistakes.append(f"{path}: {parent} is a file of this bundle, not a directory")
            parent = os.path.dirname(parent)
    if not heads and not mistakes:
        mistakes.append("there is no @bundle record")
    if mistakes and generation is None:  # one that is here already was right for the converge of its day
        raise Refused("the bundle is wrong:\n" + "\n".join(f"  {text}" for text in mistakes))
    return bundle


# --- decisions (pure) ------------------------------------------------------------------------


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
    active = {name for name, state in states.items() if state in ("active", "reloading")}
    wanted = {unit["name"]: unit for unit in new.units}
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


def unit_commands(plan: dict[str, str], changed: set[str]) -> list[list[str]]:
    """The systemctl calls of a plan, in order, one for each kind of change."""

    def chosen(*actions: str, sockets: bool) -> list[str]:
        return [name for name, action in plan.items() if action in actions and name.endswith(".socket") == sockets]

    make_room = [service_of(name) for name in chosen("restart", "start", sockets=True)]
    stop = [name for name in plan if plan[name] == "stop" or name in make_room]
    groups = [
        ("stop", stop),
        ("daemon-reload", None if touches(["/etc/systemd/system/"], changed) else []),
        ("restart", chosen("restart", "start", sockets=True)),
        ("restart", chosen("restart", sockets=False)),
        ("reload", chosen("reload", sockets=False) + chosen("reload", sockets=True)),
        ("start", chosen("start", sockets=False)),
    ]
    return [["systemctl", verb, *(names or [])] for verb, names in groups if names != []]


def link_text(path: str) -> str:
    """What the symbolic link at a managed path says."""
    return CURRENT + path


def describe(want: dict, have: dict | None) -> str:
    if have is None:
        return "missing"
    wrong = [key for key in want if want[key] != have.get(key)]
    said = [f"{key} {have.get(key)} instead of {want[key]}" for key in wrong if key != "sha256"]
    return ", ".join(["content"] * ("sha256" in wrong) + said)


# --- the edge: files -------------------------------------------------------------------------


def sync(path: str) -> None:
    """Flush a file or directory to disk, so that a rename after it never outruns it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: str, content: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step."""
    with open(os.open(f"{path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.replace(f"{path}.part", path)
    sync(os.path.dirname(path))


def point(link: str, target: str) -> None:
    """Make a symbolic link, replacing what is there in one step."""
    aside = os.path.join(os.path.dirname(link), f".{os.path.basename(link)}.fleet-part")
    if os.path.lexists(aside):
        os.unlink(aside)
    os.symlink(target, aside)
    os.replace(aside, link)
    sync(os.path.dirname(link))


def copy(source: str, target: str) -> None:
    """Copy a file or link with mode and owner, in one step."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    aside = f"{target}.fleet-part"
    if os.path.lexists(aside):
        os.unlink(aside)
    shutil.copy2(source, aside, follow_symlinks=False)
    about = os.lstat(source)
    os.chown(aside, about.st_uid, about.st_gid, follow_symlinks=False)
    if not os.path.islink(aside):
        sync(aside)
    os.replace(aside, target)
    sync(os.path.dirname(target))


def inspect(place: str) -> dict | None:
    """A file or link as a manifest describes it; None when there is none."""
    try:
        if os.path.islink(place):
            return {"target": os.readlink(place)}
        with open(place, "rb") as source:
            about, content = os.fstat(source.fileno()), source.read()
    except OSError:
        return None
    mode, digest = f"{about.st_mode & 0o7777:04o}", hashlib.sha256(content).hexdigest()
    return {"mode": mode, "uid": about.st_uid, "gid": about.st_gid, "sha256": digest}


def is_ours(path: str) -> bool:
    return os.path.islink(ROOT + path) and os.readlink(ROOT + path) == link_text(path)


# --- the edge: generations -------------------------------------------------------------------


def home(generation: str) -> str:
    return f"{GENERATIONS}/{generation}"


def generations() -> list[str]:
    return [name for name in os.listdir(GENERATIONS) if not name.endswith(".part")]


def manifest(generation: str) -> dict:
    with open(f"{home(generation)}/manifest.json", encoding="utf-8") as source:
        return json.load(source)


def load(generation: str) -> Bundle:
    with open(f"{home(generation)}/bundle", "rb") as source:
        return parse(source.read(), generation)


def live() -> str:
    """The live generation; on a machine that has none, an empty origin becomes it."""
    if not os.path.islink(CURRENT):
        if not os.path.isdir(home(ORIGIN)):
            unpack(Bundle(text=b'@bundle {"format":1,"host":"origin"}\n'))
        point(CURRENT, f"generations/{ORIGIN}")
    return os.path.basename(os.readlink(CURRENT))


def unsettled() -> list[str]:
    try:
        with open(UNSETTLED, encoding="utf-8") as source:
            return json.load(source)
    except FileNotFoundError:
        return []


def unpack(bundle: Bundle) -> None:
    """Write the bundle's generation beside the others, then give it its name in one step."""
    os.makedirs(GENERATIONS, exist_ok=True)
    for name in os.listdir(GENERATIONS):
        if name.endswith(".part"):
            shutil.rmtree(f"{GENERATIONS}/{name}")
    aside = f"{home(bundle.id)}.part"
    os.makedirs(f"{aside}/etc")
    missing, found = [], {}
    same = manifest(live()) if os.path.islink(CURRENT) else {}
    for path, entry in bundle.entries.items():
        try:
            write_entry(aside + path, entry)
            found[path] = inspect(aside + path)
            if found[path] == same.get(path) and entry["kind"] != "link":
                # systemd asks for a reload of every unit whose file looks newer
                about = os.stat(CURRENT + path)
                os.utime(aside + path, ns=(about.st_atime_ns, about.st_mtime_ns))
        except Failed as failure:
            missing.append(str(failure))
    if missing:
        raise Failed("unpack failed: " + "\n".join(missing))
    write(f"{aside}/bundle", bundle.text)
    write(f"{aside}/manifest.json", json.dumps(found, indent=1, sort_keys=True).encode())
    for folder, _, _ in os.walk(aside):
        sync(folder)
    os.rename(aside, home(bundle.id))
    sync(GENERATIONS)


def write_entry(place: str, entry: dict) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if entry["kind"] == "link":
        return os.symlink(entry["target"], place)
    path, content, owner, group = (entry[key] for key in ("path", "content", "owner", "group"))
    try:
        uid = owner if isinstance(owner, int) else pwd.getpwnam(owner).pw_uid
        gid = group if isinstance(group, int) else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise Failed(f"{path}: {error.args[0]}") from None
    if entry["kind"] == "secret":
        stored = f"{SECRETS}/{entry['digest']}"
        if not os.path.exists(stored):
            raise Failed(f"{path}: secret {entry['digest'][:12]} is not here; send it by `converge secrets` first")
        with open(stored, "rb") as source:
            content = source.read()
    write(place, content)
    os.chown(place, uid, gid)
    os.chmod(place, int(entry["mode"], 8))


def spoiled(generation: str) -> dict[str, str]:
    """Files of a generation that are not what they were when it was written, and how."""
    wants = manifest(generation).items()
    seen = ((path, want, inspect(home(generation) + path)) for path, want in wants)
    return {path: describe(want, have) for path, want, have in seen if have != want}


def drift(generation: str) -> dict[str, str]:
    """Hand edits: managed paths that are not our link, or whose file was changed through it."""
    found = spoiled(generation)
    for path in manifest(generation):
        if not is_ours(path):
            found[path] = "replaced by another file" if os.path.lexists(ROOT + path) else "link removed"
    return found


def stale_links(wanted: dict) -> list[str]:
    """Links that earlier generations have left and the wanted manifest has no use for."""
    known = {path for name in generations() for path in manifest(name)}
    return sorted(path for path in known - wanted.keys() if is_ours(path))


def set_links(generation: str) -> None:
    """Make every path of a generation our link. What is found there is kept in foreign/, and put
    into the live generation when that has no such path: until the switch the path reads as before."""
    now = live()
    for path in manifest(generation):
        if is_ours(path):
            continue
        if os.path.lexists(ROOT + path):
            kept = FOREIGN + path
            if os.path.lexists(kept):
                kept += time.strftime(".%Y%m%dT%H%M%SZ", time.gmtime())
            copy(ROOT + path, kept)
            if path not in manifest(now):
                copy(ROOT + path, home(now) + path)
        os.makedirs(os.path.dirname(ROOT + path), exist_ok=True)
        point(ROOT + path, link_text(path))


def drop_links(generation: str) -> None:
    """Remove the links that the live generation does not use. One that replaced a file which
    this generation kept gives way to that file again."""
    for path in stale_links(manifest(generation)):
        if os.path.lexists(home(generation) + path):
            copy(home(generation) + path, ROOT + path)
        else:
            os.unlink(ROOT + path)
            sync(os.path.dirname(ROOT + path))


def prune() -> None:
    """Forget old generations, and secrets that no remaining generation names."""
    spare = [name for name in generations() if name not in (live(), ORIGIN)]
    spare.sort(key=lambda name: os.stat(home(name)).st_mtime, reverse=True)
    for name in spare[KEEP:]:
        os.rename(home(name), f"{home(name)}.part")
        shutil.rmtree(f"{home(name)}.part")
    entries = [entry for name in generations() for entry in load(name).entries.values()]
    used = {entry["digest"] for entry in entries if entry["kind"] == "secret"}
    for digest in set(os.listdir(SECRETS)) - used if os.path.isdir(SECRETS) else ():
        os.unlink(f"{SECRETS}/{digest}")


# --- the edge: commands ----------------------------------------------------------------------


def run(argv: list, what: str, text: bytes = b"") -> None:
    """Run a command to its end; Failed with the end of its output unless it exits 0."""
    environment = {"PATH": os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(text)
        given.seek(0)
        try:  # output goes to a file: a daemon that keeps a pipe open could hold us up
            child = subprocess.Popen(
                [str(word) for word in argv], stdin=given, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env=environment, cwd="/",
            )  # fmt: skip
        except OSError as error:
            raise Failed(f"{what} failed: {argv[0]}: {error.strerror}") from None
        try:
            status = child.wait(COMMAND_SECONDS)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"{what} failed: not done after {COMMAND_SECONDS} s") from None
            raise
        output.seek(0)
        said = output.read().decode("utf-8", "replace").strip().splitlines()
    if status:
        tail = "\n".join(line[:400] for line in said[-MAX_LINES:])
        raise Failed(f"{what} failed: {tail or f'exit status {status}'}")


def make_users(bundle: Bundle) -> None:
    """Users and groups come first: the owners of files may be among them. They are only added."""
    text = b"".join(e["content"] for path, e in bundle.entries.items() if path.startswith("/etc/sysusers.d/"))
    if text:
        run(["systemd-sysusers", "-"], "systemd-sysusers", text)


def check(bundle: Bundle, now: str, changed: set[str]) -> None:
    """Run the checkers where /etc is what it will be and the live generation is the candidate:
    a private mount namespace, so that they read the usual paths and the machine sees nothing."""
    due = [item for item in bundle.checks if not item["paths"] or touches(item["paths"], changed)]
    if not due:
        return
    etc, view = f"{ROOT}/etc", f"{RUN}/check"
    shutil.rmtree(view, ignore_errors=True)
    os.makedirs(view, mode=0o700)  # it holds a copy of /etc/shadow
    try:
        run(["cp", "-a", etc, view], "copy of /etc")
        for path in stale_links(manifest(bundle.id)):
            os.unlink(view + path)
        for path in bundle.entries:
            os.makedirs(os.path.dirname(view + path), exist_ok=True)
            point(view + path, link_text(path))
        script = 'mount --bind "$1" "$2" && mount --bind "$3" "$4" && shift 4 && exec "$@"'
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        inside += [f"{view}/etc", etc, home(bundle.id), home(now)]

        def one(item: dict) -> str:
            become = ["setpriv", f"--reuid={item['user']}", f"--regid={item['group']}", "--clear-groups"]
            try:
                user = become if item["user"] or item["group"] else []
                run([*inside, *user, *item["argv"]], f"check {item['name']}")
            except Failed as failure:
                return str(failure)
            return ""

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            failures = [text for text in pool.map(one, due) if text]
    finally:
        shutil.rmtree(view, ignore_errors=True)
    if failures:
        raise Failed("\n".join(failures))


def unit_states(names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    call = ["systemctl", "show", "--property=ActiveState", "--", *names]
    shown = subprocess.run(call, check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    blocks = [block.strip().removeprefix("ActiveState=") for block in shown.stdout.strip().split("\n\n")]
    if shown.returncode or len(blocks) != len(names):
        raise Failed(f"systemctl show failed: {shown.stderr.strip()[-400:]}")
    return dict(zip(names, blocks))


def plan(old: Bundle, new: Bundle, changed: set[str], started=()) -> dict[str, str]:
    names = [unit["name"] for unit in old.units + new.units]
    names += [service_of(name) for name in names if name.endswith(".socket")]
    return plan_units(old, new, changed, unit_states(list(dict.fromkeys(names))), started)


def change_units(wanted: dict[str, str], changed: set[str]) -> None:
    for call in unit_commands(wanted, changed):
        say("run " + " ".join(call))
        try:
            run(call, " ".join(call)[:300])
        except Failed as failure:
            broken = [name for name, state in unit_states(call[2:]).items() if state != "active"]
            journal = ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "10", *(f"--unit={name}" for name in broken)]
            said = subprocess.run(journal, check=False, capture_output=True, text=True, errors="replace").stdout
            raise Failed(f"{failure}\n{said[-2000:] if broken else ''}".strip()) from None


# --- probes ----------------------------------------------------------------------------------


def http_problem(probe: dict) -> str:
    url = urlsplit(probe["url"])
    secure, name = url.scheme == "https", probe["host"] or url.hostname
    connection = http.client.HTTPConnection(url.hostname, url.port or (443 if secure else 80), timeout=5)
    try:
        connection.connect()
        if secure:  # asked by address on this machine: the certificate's name is not the question
            context = ssl._create_unverified_context()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=name)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", target, headers={"Host": name, "User-Agent": "fleet-probe"})
        answer = connection.getresponse()
        body = answer.read(1 << 20).decode("utf-8", "replace")
    finally:
        connection.close()
    if answer.status not in probe["status"]:
        return f"status {answer.status}, expected {probe['status']}"
    return "" if probe["contains"] in body else f"the answer does not contain {probe['contains']!r}"


def fastcgi_problem(probe: dict) -> str:
    """GET of a path, asked from 127.0.0.1 so that listen.allowed_clients needs no VIP."""

    def part(kind: int, content: bytes) -> bytes:
        return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content

    path, answer, limit = probe["path"], b"", time.monotonic() + 5
    words = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": path, "SCRIPT_FILENAME": path, "REQUEST_URI": path}
    pairs = b"".join(bytes([len(key), len(value)]) + (key + value).encode() for key, value in words.items())
    request = part(1, struct.pack("!HB5x", 1, 0)) + part(4, pairs) + part(4, b"") + part(5, b"")
    with socket.create_connection((probe["address"], probe["port"]), 5, ("127.0.0.1", 0)) as connection:
        connection.sendall(request)
        while (chunk := connection.recv(4096)) and time.monotonic() < limit and len(answer) < 1 << 20:
            answer += chunk
    if probe["contains"].encode() in answer and answer:
        return ""
    return f"the answer does not contain {probe['contains']!r}" if answer else "no answer"


def problem(probe: dict) -> str:
    """What is wrong right now; empty when the probe passes."""
    try:
        if probe["kind"] == "http":
            return http_problem(probe)
        if probe["kind"] == "fastcgi":
            return fastcgi_problem(probe)
        if probe["kind"] == "tcp":
            socket.create_connection((probe["address"], probe["port"]), timeout=5).close()
        else:
            run(probe["argv"], probe["argv"][0])
    except (OSError, http.client.HTTPException, Failed) as error:
        return str(error) or type(error).__name__
    return ""


def prove(bundle: Bundle) -> None:
    """Every probe must pass once within its own time; all of them are tried at the same time."""

    def one(probe: dict) -> str:
        limit = time.monotonic() + probe["within"]
        while reason := problem(probe):
            if time.monotonic() >= limit:
                return f"probe {probe['name']} failed for {probe['within']} s: {reason}"
            time.sleep(0.2)
        return ""

    with ThreadPoolExecutor(16) as pool:
        failures = [text for text in pool.map(one, bundle.probes) if text]
    if failures:
        raise Failed("\n".join(failures))


# --- the verbs -------------------------------------------------------------------------------


@contextmanager
def lock():
    """One converge at a time. The file names its holder for the one that is turned away."""
    os.makedirs(RUN, exist_ok=True)
    with open(os.open(f"{RUN}/converge.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another converge is running: {holder.read().strip()}") from None
        holder.truncate()
        holder.write(f"pid {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        holder.flush()
        yield


class Report(dict):
    """What is printed at the end, and the clock of the steps."""

    def __init__(self, bundle: Bundle):
        super().__init__(host=bundle.host, generation=bundle.id, previous=None, result="", changed=[], units={}, drift=[])
        self["seconds"], self.clock = {}, time.monotonic()

    def step(self, name: str) -> None:
        """Mark a step as done. Tests kill the program at this point."""
        now = time.monotonic()
        self["seconds"][name] = round(self["seconds"].get(name, 0) + now - self.clock, 3)
        self.clock = now
        if os.environ.get("FLEET_KILL_AT") == name:
            os.kill(os.getpid(), signal.SIGKILL)


def activate(old: Bundle, new: Bundle, changed: set[str], report: Report, started=()) -> None:
    """Go from one generation to another: links, switch, then what reads the files."""
    set_links(new.id)
    report.step("linked")
    since = dict.fromkeys([*unsettled(), old.id, new.id])
    write(UNSETTLED, json.dumps(list(since)).encode())
    report.step("marked")
    os.utime(home(new.id))
    point(CURRENT, f"generations/{new.id}")
    report.step("switched")
    drop_links(new.id)
    report.step("unlinked")
    for action in new.actions:
        if touches(action["paths"], changed):
            say(f"run {action['name']}")
            run(action["argv"], f"action {action['name']}")
    report.step("actions")
    report["units"] = plan(old, new, changed, started)
    change_units(report["units"], changed)
    report.step("units")


def settle(report: Report) -> None:
    """Everything is proved: nothing is left to finish or to take back."""
    if os.path.exists(UNSETTLED):
        os.unlink(UNSETTLED)
        sync(STATE)
    prune()
    report.step("settled")


def prepare(bundle: Bundle, report: Report) -> None:
    """The candidate, whole and unspoiled, in its directory."""
    if os.path.isdir(home(bundle.id)):
        spots = spoiled(bundle.id)
        if bundle.id == live():
            for path in spots:  # its directory is in use: put its files right one by one
                aside = f"{home(bundle.id)}{path}.fleet-part"
                if os.path.lexists(aside):
                    os.unlink(aside)
                write_entry(aside, bundle.entries[path])
                os.replace(aside, home(bundle.id) + path)
                sync(os.path.dirname(aside))
        elif spots:
            os.rename(home(bundle.id), f"{home(bundle.id)}.part")
    if not os.path.isdir(home(bundle.id)):
        make_users(bundle)
        unpack(bundle)
    report.step("unpacked")


def apply(bundle: Bundle, report: Report) -> None:
    now = live()
    open_since = unsettled()
    before = load(open_since[0] if open_since else now)  # the last generation that was proved
    report["previous"] = before.id
    edits = drift(now)
    report["drift"] = [f"{path}: {what}" for path, what in edits.items()]
    for line in report["drift"]:
        say(f"hand edit {line}")
    prepare(bundle, report)

    wanted = manifest(bundle.id)
    changed = set(edits) & wanted.keys()
    for generation in {now, *open_since}:
        changed |= changed_paths(manifest(generation), wanted)
    report["changed"] = sorted(changed)
    same = bundle.id == now and not edits and not open_since and not stale_links(wanted)
    if same and not plan(before, bundle, set()):
        report.step("planned")
        prove(bundle)
        report.step("probed")
        report["result"] = "unchanged"
        return
    for path in report["changed"]:
        say(f"changed {path}")
        if path in wanted and os.path.isdir(ROOT + path) and not os.path.islink(ROOT + path):
            raise Failed(f"{path} is a directory on this machine; move it away")
    check(bundle, now, changed)
    report.step("checked")
    for name, action in plan(before, bundle, changed).items():
        say(f"will {action} {name}")
    report.step("planned")
    try:
        activate(before, bundle, changed, report)
        prove(bundle)
        report.step("probed")
    except BaseException:
        if before.id != bundle.id:
            go_back(bundle, before, changed, report)
        raise
    settle(report)
    report["result"] = "applied"


def go_back(candidate: Bundle, before: Bundle, changed: set[str], report: Report) -> None:
    report.step("failed")
    say(f"going back to {before.id[:12]}")
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    attempted = report["units"]
    started = [name for name, action in attempted.items() if action == "start"]
    try:
        activate(candidate, before, changed, report, started)
        prove(before)
        settle(report)
        report["result"] = "reverted"
    except (Failed, OSError) as failure:
        report["result"] = "not reverted"
        say(f"{before.id[:12]} is live again, but: {failure}")
    report["units"] = {**attempted, **report["units"]}


def refuse_other_host(bundle: Bundle) -> None:
    """A bundle that reached the wrong machine must not be applied there."""
    try:
        with open(f"{ROOT}/etc/hostname", encoding="utf-8") as source:
            name = source.read().strip()
    except FileNotFoundError:
        return
    if name.split(".")[0] != bundle.host.split(".")[0]:
        raise Refused(f"the bundle is for {bundle.host}, this machine's /etc/hostname says {name}")


def apply_verb(data: bytes) -> int:
    bundle = parse(data)
    refuse_other_host(bundle)
    report = Report(bundle)
    with lock():
        status = 1
        try:
            apply(bundle, report)
            status = 0
        except (Failed, OSError, SystemExit) as failure:
            reason = str(failure) if not isinstance(failure, SystemExit) else "stopped by a signal"
            now = live()
            fate = f"{bundle.id[:12]} not activated" if now != bundle.id else f"{bundle.id[:12]} not proved"
            report["result"] = report["result"] or "failed"
            report["error"] = f"{reason}; {fate}, {now[:12]} stays live"
            say("\n".join(line for line in f"{bundle.host}: {report['error']}".splitlines()[:60]))
        print(json.dumps(report))
        return status


def secrets_verb(data: bytes) -> int:
    mistakes: list[str] = []
    records = list(read_records(data, SECRET_RECORDS, mistakes))
    mistakes += [f"line {n}: {text}" for n, kind, fields, _ in records for text in check_record(kind, fields)]
    if mistakes:
        raise Refused("the secrets are wrong:\n" + "\n".join(mistakes))
    with lock():
        os.makedirs(SECRETS, exist_ok=True)
        os.chmod(SECRETS, 0o700)
        new = [record for record in records if not os.path.exists(f"{SECRETS}/{record[2]['digest']}")]
        for _, _, fields, content in new:
            write(f"{SECRETS}/{fields['digest']}", content)
    print(json.dumps({"secrets": len(records), "new": len(new)}))
    return 0


def diff_verb(_: bytes) -> int:
    if not os.path.islink(CURRENT):
        return 0
    bundle = load(live())
    edits = drift(bundle.id)
    for path, what in edits.items():
        entry = bundle.entries[path]
        print(f"# {path}: {what}")
        if entry["kind"] == "file" and os.path.isfile(ROOT + path):
            with open(ROOT + path, encoding="utf-8", errors="replace") as source:
                found = source.read().splitlines(keepends=True)
            wanted = entry["content"].decode("utf-8", "replace").splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(wanted, found, f"{path} (fleet)", f"{path} (here)"))
    return 2 if edits else 0


def status_verb(_: bytes) -> int:
    if not os.path.islink(CURRENT):
        print(json.dumps({"generation": None}))
        return 0
    now = live()
    known = sorted(generations())
    print(json.dumps({"generation": now, "unsettled": unsettled(), "generations": known, "drift": drift(now)}))
    return 0


VERBS = {"apply": apply_verb, "secrets": secrets_verb, "diff": diff_verb, "status": status_verb}


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in VERBS:
        say(f"usage: converge.py {'|'.join(VERBS)}")
        return 2
    os.umask(0o022)
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(1))  # an exception: the way back is taken
    verb = sys.argv[1]
    try:
        return VERBS[verb](sys.stdin.buffer.read() if verb in ("apply", "secrets") else b"")
    except (Refused, Failed) as failure:
        say(f"converge {verb}: {failure}")
        return 2 if isinstance(failure, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
