"""The generations on disk, and the links in /etc that lead to the live one.

Every write is whole or absent: made beside, flushed, then renamed.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import shutil
import time

from bundle import ORIGIN, Bundle, parse

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
STATE = f"{ROOT}/var/lib/fleet"
GENERATIONS, SECRETS, FOREIGN = f"{STATE}/generations", f"{STATE}/secrets", f"{STATE}/foreign"
CURRENT, UNSETTLED = f"{STATE}/current", f"{STATE}/unsettled"
SECRET_SECONDS = 86400  # a secret that nothing names yet is kept for
KEEP = 5  # generations kept besides the live one and the origin


class Failed(Exception):
    """A step did not succeed."""


def link_text(path: str) -> str:
    """What the symbolic link at a managed path says."""
    return CURRENT + path


def describe(want: dict, have: dict | None) -> str:
    if have is None:
        return "missing"
    wrong = [key for key in want if want[key] != have.get(key)]
    said = [f"{key} {have.get(key)} instead of {want[key]}" for key in wrong if key != "sha256"]
    return ", ".join(["content"] * ("sha256" in wrong) + said)


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


def home(generation: str) -> str:
    return f"{GENERATIONS}/{generation}"


def names() -> list[str]:
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


def open_change() -> dict:
    """The change that is not settled yet: `generations` that running services may have read, the last
    proved one first; when the machine goes back by itself (`deadline`, in the clock of `boot`); and the sites that
    failed before it (`broken`). `whole`: nothing of it is still to be done. {} when there is none."""
    try:
        with open(UNSETTLED, encoding="utf-8") as source:
            return json.load(source)
    except FileNotFoundError:
        return {}


def unsettled() -> list[str]:
    return open_change().get("generations", [])


def boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
        return source.read().strip()


def keep_open(generations: list[str], seconds: float | None, broken: list[str], held: bool = False, whole: bool = True) -> None:
    """Note a change as not settled; with `seconds`, the machine goes back after them unless it is settled.
    `broken`: the sites that failed before it. `held`: it is proved, and waits for others."""
    deadline = None if seconds is None else clock() + seconds
    change = {"generations": generations, "boot": boot(), "deadline": deadline, "broken": broken, "held": held, "whole": whole}
    write(UNSETTLED, json.dumps(change).encode())


def cut_short() -> bool:
    """Whether an apply ended before its end: services may have read another generation than the live one."""
    return not open_change().get("whole", True)


def clock() -> float:
    """Seconds since this boot, sleeps included: nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def unpack(bundle: Bundle) -> None:
    """Write the bundle's generation beside the others, then give it its name in one step."""
    os.makedirs(GENERATIONS, exist_ok=True)
    for name in os.listdir(GENERATIONS):
        if name.endswith(".part"):
            shutil.rmtree(f"{GENERATIONS}/{name}")
    aside = f"{home(bundle.id)}.part"
    # Units tell the environment and arguments of what they run; only systemd reads them, and no site those of another.
    os.makedirs(f"{aside}/etc/systemd/system", mode=0o700)
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
    known = {path for name in names() for path in manifest(name)}
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
    spare = [name for name in names() if name not in (live(), ORIGIN)]
    spare.sort(key=lambda name: os.stat(home(name)).st_mtime, reverse=True)
    for name in spare[KEEP:]:
        os.rename(home(name), f"{home(name)}.part")
        shutil.rmtree(f"{home(name)}.part")
    entries = [entry for name in names() for entry in load(name).entries.values()]
    used = {entry["digest"] for entry in entries if entry["kind"] == "secret"}
    for digest in set(os.listdir(SECRETS)) - used if os.path.isdir(SECRETS) else ():
        place = f"{SECRETS}/{digest}"
        # One that was just sent is for an apply that is still to come.
        if time.time() - os.stat(place).st_mtime > SECRET_SECONDS:
            os.unlink(place)
