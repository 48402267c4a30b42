#!/usr/bin/python3
"""snapshots: read-only snapshots of a NAS VM's data disk, and what a site gets back from one.

    snapshots.py hourly [TIME]   the timer's: a snapshot where this hour has none, then those that nobody keeps go
    snapshots.py finish          before NFS serves: restores that were cut short are gone on with, or cleared away
    snapshots.py status          how the last hourly run went, and what sites with a quota use, as JSON
    (no word)                    an order of `fleet snapshot` as JSON on standard input, its report on standard output:
                                 {"do": "list", "site"?}, {"do": "create", "site"}, {"do": "restore", "site", "at"?, "path"?}

The disk is /srv/fleet, a btrfs: sites/<site> are the trees that NFS exports, snapshots/<time> what they were. A
snapshot is of the whole disk (`fleet`), and of each site that is a volume of its own because it has a quota
(`sites/<site>`). It is made beside and gets its name, its time in UTC, when it is whole; one that goes loses its name
first. Which ones stay /etc/fleet/snapshots.json says: {"keep": {"hourly", "daily", "weekly"}}.

A restore copies beside, in the site's own directory where only root may look, compares the copy with the snapshot,
writes down what it is about to do, and exchanges entry by entry what is inside the site's directory. The directory
itself stays: NFS clients and the boxes of sites hold it. What was live is kept as `.replaced-<time>`.

Exit status: 0 done, 1 failed, 2 refused: nothing was touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from datetime import datetime, timezone

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
DISK = f"{ROOT}/srv/fleet"
SITES, PLACE = f"{DISK}/sites", f"{DISK}/snapshots"
SETTINGS, SEED = f"{ROOT}/etc/fleet/snapshots.json", f"{ROOT}/etc/fleet/seed.json"
RUN, KNOWN = f"{ROOT}/run/fleet-snapshots", f"{ROOT}/var/lib/fleet-snapshots"
FORM = "%Y%m%dT%H%M%SZ"
NAME = re.compile(r"(\d{8}T\d{6}Z)(-hand)?")  # `-hand`: somebody asked for it
SITE = re.compile(r"[a-z][a-z0-9-]{0,30}")
VOLUME_INODE, TOP_VOLUME = 256, "5"  # of the top directory of every btrfs volume; number of the disk's own
SIDE, TREE, PLAN = ".fleet-restore", "tree", "plan.json"
# What a whole tree comes back without: what the fleet keeps there, and the sessions of visitors, of whom some have
# logged out since.
LEFT = re.compile(r"\.fleet.*|\.seed|\.replaced-.*|sessions")
EXCHANGE, NO_REPLACE = 2, 1  # of renameat2
BLOCK, TELL_SECONDS = 1 << 20, 5.0
STOPS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Refused(Exception):
    """What was asked for cannot be."""


class Failed(Exception):
    """A step did not succeed."""


# What may go wrong with one site or snapshot and is no reason to leave the others out: a plan that was half written, a
# program that failed, a tree that is deeper than a walk can go.
TROUBLE = (OSError, Failed, ValueError, RecursionError, subprocess.SubprocessError)


def say(text: str) -> None:
    # Whoever listened may have gone, and an exchange goes on.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """As long as nothing has been exchanged, who goes away calls it off."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        raise Failed("whoever asked for it has gone") from None


def btrfs(*words: str) -> str:
    done = subprocess.run(["btrfs", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"btrfs {' '.join(words)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def is_volume(path: str) -> bool:
    """Whether a directory is a btrfs volume of its own, which no snapshot of the disk holds."""
    return os.lstat(path).st_ino == VOLUME_INODE


def read(path: str) -> dict:
    with open(path, encoding="utf-8") as source:
        return json.load(source)


# --- which snapshots there are, and which stay ------------------------------------------------


def moment(name: str) -> datetime:
    return datetime.strptime(name[:16], FORM).replace(tzinfo=timezone.utc)


def shown(name: str) -> str:
    """The time of a snapshot as a person writes it."""
    return moment(name).strftime("%Y-%m-%dT%H:%M:%SZ")


def names() -> list[str]:
    """Whole snapshots, oldest first."""
    return sorted(entry for entry in os.listdir(PLACE) if NAME.fullmatch(entry)) if os.path.isdir(PLACE) else []


def kept(all_names: list[str], keep: dict[str, int]) -> set[str]:
    """Those that stay: the first snapshot of each of the last so many hours, days and ISO weeks that have one, as many
    as of hours of those that somebody asked for, and the newest of all. The times of the snapshots alone decide, so a
    clock that is wrong cannot make any of them old; and the first of a day stays the one, whatever comes later."""
    ordered = sorted(all_names)
    stay = set(ordered[-1:])
    by_timer = [name for name in ordered if not name.endswith("-hand")]
    for form, count in (("%Y%m%d%H", keep["hourly"]), ("%Y%m%d", keep["daily"]), ("%G%V", keep["weekly"])):
        firsts: dict[str, str] = {}
        for name in by_timer:
            firsts.setdefault(moment(name).strftime(form), name)
        stay.update(sorted(firsts.values(), reverse=True)[:count])
    asked_for = [name for name in ordered if name.endswith("-hand")]
    stay.update(sorted(asked_for, reverse=True)[: keep["hourly"]])
    return stay


@contextlib.contextmanager
def place_lock():
    """One at a time makes and removes snapshots."""
    if not os.path.isdir(PLACE):
        btrfs("subvolume", "create", PLACE)  # of its own: else each snapshot would list those before it
    os.chmod(PLACE, 0o700)
    handle = os.open(PLACE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def live_sites() -> list[str]:
    found = (entry for entry in os.scandir(SITES) if SITE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False))
    return sorted(entry.name for entry in found)


def make(now: float, suffix: str = "") -> str:
    """A snapshot of the disk; the sites that are volumes of their own follow within the same second or two."""
    name = time.strftime(FORM, time.gmtime(now)) + suffix
    if os.path.exists(f"{PLACE}/{name}"):
        raise Refused(f"there is a snapshot {name} already: ask again in a second")
    part = f"{PLACE}/.{name}.part"
    try:
        os.makedirs(f"{part}/sites")
        btrfs("subvolume", "snapshot", "-r", DISK, f"{part}/fleet")
        for site in live_sites():
            if is_volume(f"{SITES}/{site}"):
                btrfs("subvolume", "snapshot", "-r", f"{SITES}/{site}", f"{part}/sites/{site}")
        os.rename(part, f"{PLACE}/{name}")
    except (OSError, Failed):
        with contextlib.suppress(OSError, Failed):  # what cannot go now goes with the next run
            remove_parts(part)
        raise
    return name


def remove_parts(path: str) -> None:
    for volume in (f"{path}/fleet", *(f"{path}/sites/{each}" for each in sorted(os.listdir(f"{path}/sites")))):
        if os.path.isdir(volume):
            btrfs("subvolume", "delete", volume)
    os.rmdir(f"{path}/sites")
    os.rmdir(path)


def remove(name: str) -> bool:
    """Whether it is gone; one that a restore reads stays for now."""
    with open_directory(f"{PLACE}/{name}") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.rename(f"{PLACE}/{name}", f"{PLACE}/.{name}.gone")
    remove_parts(f"{PLACE}/.{name}.gone")
    return True


def sweep() -> None:
    """Removes halves of snapshots, which a run that was killed left."""
    for entry in sorted(os.listdir(PLACE)):
        if entry.endswith((".part", ".gone")):
            os.makedirs(f"{PLACE}/{entry}/sites", exist_ok=True)
            remove_parts(f"{PLACE}/{entry}")


def tree_of(name: str, site: str) -> str | None:
    """Where a snapshot has a site's tree."""
    for path in (f"{PLACE}/{name}/sites/{site}", f"{PLACE}/{name}/fleet/sites/{site}"):
        if os.path.isdir(path) and not os.path.islink(path):
            return path
    return None


def hourly(now: float) -> dict:
    """What the timer does. A snapshot that fails is told, and takes none of the others with it."""
    problems, made, gone = finish_all(), None, []
    with place_lock():
        try:
            sweep()
            hour = time.strftime(FORM, time.gmtime(now))[:11]
            if not any(name.startswith(hour) and not name.endswith("-hand") for name in names()):
                made = make(now)
        except TROUBLE as error:
            problems.append(str(error))
        stay = kept(names(), read(SETTINGS)["keep"])
        for name in names():
            try:
                if name not in stay and name != made and remove(name):
                    gone.append(name)
            except TROUBLE as error:
                problems.append(f"{name} could not be removed: {error}")
        try:
            tidy_counts()
        except TROUBLE as error:
            problems.append(str(error))
    report = {
        "ended": int(time.time()),
        "made": made,
        "removed": gone,
        "newest": (names() or [None])[-1],
        "problems": problems,
    }
    os.makedirs(KNOWN, exist_ok=True)
    with open(f"{KNOWN}/last.json.part", "w", encoding="utf-8") as out:
        json.dump(report, out)
    os.replace(f"{KNOWN}/last.json.part", f"{KNOWN}/last.json")
    return report


def finish_all() -> list[str]:
    """Goes on with every restore that was cut short; what went wrong, which keeps no other site from its own."""
    problems = []
    for site in live_sites():
        try:
            finish(site)
        except TROUBLE as error:
            problems.append(f"{site}: {error or type(error).__name__}")
    return problems


# --- quotas -----------------------------------------------------------------------------------


def counted() -> dict[str, int]:
    """Bytes that each volume refers to, by its number; none where nothing is counted."""
    try:
        lines = btrfs("qgroup", "show", "--raw", DISK).splitlines()
    except Failed:
        return {}
    return {words[0][2:]: int(words[1]) for words in map(str.split, lines) if words and words[0].startswith("0/")}


def volumes() -> dict[str, str]:
    """Number of each volume by its path on the disk."""
    return {words[-1]: words[1] for words in map(str.split, btrfs("subvolume", "list", DISK).splitlines())}


def tidy_counts() -> None:
    """Older kernels go on counting volumes that are gone. Newer ones do not count what goes with a large one, and
    limits rest until everything was counted again."""
    if counts := counted():
        for number in sorted({*counts} - {*volumes().values()} - {TOP_VOLUME}):
            with contextlib.suppress(Failed):  # one that is still being removed has its turn in an hour
                btrfs("qgroup", "destroy", f"0/{number}", DISK)
    for flag in glob.glob(f"{ROOT}/sys/fs/btrfs/*/qgroups/inconsistent"):
        with contextlib.suppress(OSError, Failed), open(flag, encoding="ascii") as state:
            if state.read().strip() == "1":
                btrfs("quota", "rescan", DISK)


def quotas() -> dict[str, int]:
    """Bytes that each site with a quota may use."""
    return {site["name"]: site["quota"] for site in read(SEED)["sites"] if site.get("quota")}


def used() -> list[dict]:
    """Of each site with a quota: bytes that it uses and may use; `used` is null where its quota is not in force."""
    wanted = quotas()
    if not wanted:
        return []
    counts, paths = counted(), volumes()
    return [{"site": s, "used": counts.get(paths.get(f"sites/{s}", "")), "quota": q} for s, q in sorted(wanted.items())]


def status() -> dict:
    try:
        last = read(f"{KNOWN}/last.json")
    except (OSError, ValueError):
        last = None  # there was none yet
    about = os.statvfs(DISK)
    sizes = {"free": about.f_bavail * about.f_frsize, "size": about.f_blocks * about.f_frsize}
    return {"last": last, "quotas": used(), **sizes}


# --- a restore --------------------------------------------------------------------------------


@contextlib.contextmanager
def open_directory(path: str, within: int | None = None):
    """A directory that is none but itself: no link is followed to it."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=within)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def open_side(base: int):
    """The place of a copy in a site's directory. The directory is the site's, which can put another one there: only
    what is root's alone is copied to, and only what root wrote there is an order."""
    with open_directory(SIDE, base) as handle:
        about = os.fstat(handle)
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) != 0o700:
            raise Failed(f"{SIDE} is none of ours: look at it, and remove it")
        yield handle


@contextlib.contextmanager
def walk(start: int, parts: list[str]):
    """The directory below an open one, by its names. A link on the way would lead root where the site pleases."""
    with contextlib.ExitStack() as stack:
        for part in parts:
            start = stack.enter_context(open_directory(part, start))
        yield start


@contextlib.contextmanager
def site_lock(site: str):
    """Whether it is ours: one at a time restores a site."""
    os.makedirs(RUN, exist_ok=True)
    with open(f"{RUN}/{site}.lock", "w", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def inode(name: str, within: int) -> int | None:
    try:
        return os.lstat(name, dir_fd=within).st_ino
    except FileNotFoundError:
        return None


def rename(name: str, source: int, target: int, flag: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(source, name.encode(), target, name.encode(), flag) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)


def choose(at: str | None) -> str:
    """The snapshot that a time names: the newest without one, else the one whose time begins so."""
    there = names()
    if not there:
        raise Refused("there is no snapshot yet")
    if at is None:
        return there[-1]
    digits = re.sub(r"[-: TZ]", "", at)
    if not re.fullmatch(r"\d{4,14}", digits):
        raise Refused(
            f"--at is {at!r}; allowed: the time of a snapshot in UTC, or its beginning, such as {shown(there[-1])}"
        )
    found = [name for name in there if re.sub(r"[TZ]", "", name[:16]).startswith(digits)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"--at {at} names {len(found)} snapshots: {', '.join(map(shown, found))}. Give more of the time.")
    wanted = digits.ljust(14, "0")
    before = [name for name in there if re.sub(r"[TZ]", "", name[:16]) < wanted]
    after = [name for name in there if name not in before]
    nearest = " and ".join(shown(name) for name in (*before[-1:], *after[:1]))
    raise Refused(f"there is no snapshot of {at}; the nearest: {nearest}")


def path_parts(path: str | None) -> list[str]:
    """Names of the way below the site's directory; none for all of it."""
    if path is None:
        return []
    parts = path.rstrip("/").split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise Refused(f"--path is {path!r}; allowed: a path below the site's directory, such as htdocs/index.php")
    if parts[0].startswith(".fleet"):
        raise Refused(f"--path is {path!r}, which is the fleet's own and not the site's")
    return parts


def checked_site(site: str) -> str:
    if not SITE.fullmatch(site) or site not in live_sites():
        raise Refused(f"there is no site {site!r} on the NAS; there are: {', '.join(live_sites()) or 'none'}")
    return site


class Comparison:
    """Compares a copy with what it is a copy of, and counts it."""

    def __init__(self) -> None:
        self.files, self.bytes, self.told = 0, 0, time.monotonic()
        self.links: dict[int, int] = {}  # files that several names have: inode there, inode here

    def same(self, theirs: str, ours: str) -> None:
        have, want = os.lstat(ours), os.lstat(theirs)
        kind = stat.S_IFMT(want.st_mode)
        wrong = [
            what
            for what in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", *(() if stat.S_ISDIR(kind) else ("st_size",)))
            if getattr(have, what) != getattr(want, what)
        ]
        if attributes(theirs) != attributes(ours):
            wrong.append("attributes")
        if stat.S_ISREG(kind) and self.links.setdefault(want.st_ino, have.st_ino) != have.st_ino:
            wrong.append("links")
        if stat.S_ISLNK(kind) and os.readlink(theirs) != os.readlink(ours):
            wrong.append("target")
        if stat.S_ISREG(kind) and not wrong and not same_bytes(theirs, ours):
            wrong.append("content")
        if wrong:
            raise Failed(f"the copy of {theirs} differs from it ({', '.join(wrong)})")
        if stat.S_ISDIR(kind):
            inside = sorted(os.listdir(theirs))
            if inside != sorted(os.listdir(ours)):
                raise Failed(f"the copy of {theirs} has other names in it")
            for name in inside:
                self.same(f"{theirs}/{name}", f"{ours}/{name}")
            return
        self.files, self.bytes = self.files + 1, self.bytes + want.st_size
        if time.monotonic() - self.told > TELL_SECONDS:
            self.told = time.monotonic()
            tell(f"compared {self.files} files, {self.bytes >> 20} MB")


def attributes(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def same_bytes(one: str, other: str) -> bool:
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            left, right = a.read(BLOCK), b.read(BLOCK)
            if left != right:
                return False
            if not left:
                return True


def copy(source: int, target: int, wanted: list[str]) -> Comparison:
    """Copies entries of one directory into another one, and compares them. On btrfs the copy shares the blocks."""
    compared = Comparison()
    for name in wanted:
        theirs, ours = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
        call = ["cp", "--archive", "--reflink=auto", "--no-target-directory", "--", theirs, ours]
        done = subprocess.run(call, capture_output=True, text=True, check=False, pass_fds=(source, target))
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            raise Failed(f"{name} could not be copied: {lines[-1] if lines else f'exit status {done.returncode}'}")
    for name in wanted:
        compared.same(f"/proc/{os.getpid()}/fd/{source}/{name}", f"/proc/{os.getpid()}/fd/{target}/{name}")
    return compared


def write_plan(side: int, plan: dict) -> None:
    """From the moment that it is there, the restore is gone on with and not undone."""
    with open(
        os.open(f"{PLAN}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=side), "w", encoding="utf-8"
    ) as out:
        json.dump(plan, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(f"{PLAN}.part", PLAN, src_dir_fd=side, dst_dir_fd=side)
    os.fsync(side)


def carry_out(base: int, side: int, plan: dict) -> None:
    """Exchanges what the plan says and has not been exchanged yet, and clears up. It may have been cut short anywhere."""
    if inode(TREE, side) is not None:
        with walk(base, plan["parts"]) as parent, open_directory(TREE, side) as tree:
            for name, new in plan["come"].items():
                if inode(name, tree) != new:
                    continue  # it is live already
                live = inode(name, parent)
                rename(name, tree, parent, NO_REPLACE if live is None else EXCHANGE)
            for name in plan["go"]:
                if inode(name, parent) is not None and inode(name, tree) is None:
                    rename(name, parent, tree, NO_REPLACE)
            # Opened anew: btrfs shows nothing through an open directory that has come into it since (Linux 6.5).
            if os.listdir(f"/proc/self/fd/{tree}"):
                os.fchmod(tree, 0o700)
                os.fchown(tree, plan["uid"], plan["uid"])
                os.rename(TREE, plan["kept"], src_dir_fd=side, dst_dir_fd=base)
            else:
                os.rmdir(TREE, dir_fd=side)
    os.fsync(base)
    os.unlink(PLAN, dir_fd=side)
    os.rmdir(SIDE, dir_fd=base)


def finish(site: str) -> str | None:
    """Goes on with a restore of the site that was cut short, or clears its copy away; None where there is none."""
    with site_lock(site) as ours:
        if not ours:
            return None
        done = finish_locked(site)
        limit(site)  # which a restore that was killed has left off
        return done


def finish_locked(site: str) -> str | None:
    with open_directory(f"{SITES}/{site}") as base:
        if inode(SIDE, base) is None:
            return None
        with open_side(base) as side:
            if inode(PLAN, side) is not None:
                with open(os.open(PLAN, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=side), encoding="utf-8") as source:
                    plan = json.load(source)
                with place_lock(), unstopped():
                    carry_out(base, side, plan)
                said = f"{site}: went on with the restore from {shown(plan['name'])} that was cut short; what was live is in {plan['kept']}"
            else:
                clear(SIDE, base)
                said = f"{site}: cleared away what a restore left that was cut short before anything was exchanged"
        say(said)
        return said


def clear(name: str, base: int) -> None:
    """Removes a directory of root's, however deep it is."""
    subprocess.run(["rm", "-rf", "--", f"/proc/self/fd/{base}/{name}"], pass_fds=(base,), check=True)


def limit(site: str, counts: bool = True) -> bool:
    """Has the site's quota count or not; whether it has one that can."""
    path = f"{SITES}/{site}"
    if not is_volume(path) or (quota := quotas().get(site)) is None:
        return False
    btrfs("qgroup", "limit", str(quota) if counts else "none", path)
    return True


@contextlib.contextmanager
def unlimited(site: str):
    """A site that is full comes back too: its quota does not count for the copy that takes the place of what it has."""
    limited = limit(site, counts=False)
    try:
        yield
    finally:
        if limited:
            limit(site)


@contextlib.contextmanager
def unstopped():
    """An exchange takes some milliseconds, and a closed terminal is no reason to leave it half done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def restore(site: str, at: str | None, path: str | None, now: float) -> dict:
    begun = time.monotonic()
    checked_site(site)
    parts, name = path_parts(path), choose(at)
    source = tree_of(name, site)
    if source is None:
        raise Refused(f"the snapshot of {shown(name)} has no site {site}")
    with site_lock(site) as ours, contextlib.ExitStack() as stack:
        if not ours:
            raise Refused(f"{site} is being restored by somebody else")
        finish_locked(site)
        # No snapshot goes while it is read.
        fcntl.flock(stack.enter_context(open_directory(f"{PLACE}/{name}")), fcntl.LOCK_SH)
        base = stack.enter_context(open_directory(f"{SITES}/{site}"))
        top = stack.enter_context(open_directory(source))
        try:
            there = stack.enter_context(walk(top, parts[:-1]))
        except OSError as error:
            raise Refused(
                f"{site} had no directory {'/'.join(parts[:-1])} at {shown(name)} ({error.strerror})"
            ) from None
        try:
            parent = stack.enter_context(walk(base, parts[:-1]))
        except OSError as error:
            allowed = f"below a directory that is there now ({'/'.join(parts[:-1])}: {error.strerror})"
            raise Refused(f"--path is {path!r}; allowed: {allowed}. Restore that one.") from None
        if parts:
            if inode(parts[-1], there) is None:
                raise Refused(f"{site} had no {path} at {shown(name)}")
            wanted, leaving = [parts[-1]], []
        else:
            wanted = sorted(entry for entry in os.listdir(there) if not LEFT.fullmatch(entry))
            leaving = sorted(entry for entry in os.listdir(parent) if not LEFT.fullmatch(entry) and entry not in wanted)
        tell(f"{site}: copying {path or 'everything'} as it was at {shown(name)}")
        stack.enter_context(unlimited(site))
        os.mkdir(SIDE, 0o700, dir_fd=base)
        try:
            side = stack.enter_context(open_side(base))
            os.mkdir(TREE, 0o700, dir_fd=side)
            tree = stack.enter_context(open_directory(TREE, side))
            compared = copy(there, tree, wanted)
            subprocess.run(["sync", "--file-system", DISK], check=True)  # the copy is there before the word that it is
            stamp = time.strftime(FORM, time.gmtime(now))
            keeping = next(
                n for i in range(100) if inode(n := f".replaced-{stamp}{f'-{i}' if i else ''}", base) is None
            )
            come = {entry: inode(entry, tree) for entry in wanted}
            plan = {
                "name": name,
                "parts": parts[:-1],
                "come": come,
                "go": leaving,
                "uid": os.fstat(base).st_uid,
                "kept": keeping,
            }
            tell(f"{site}: compared {compared.files} files, exchanging")
            replaced = bool(leaving) or any(inode(entry, parent) is not None for entry in wanted)
            with place_lock(), unstopped():  # and no snapshot sees half of it
                write_plan(side, plan)
                carry_out(base, side, plan)
        except BaseException:
            with contextlib.suppress(*TROUBLE):
                finish_locked(site)
            raise
    where = f"/srv/fleet/sites/{site}/{keeping}" if replaced else None
    seconds = round(time.monotonic() - begun, 1)
    counted = {"files": compared.files, "bytes": compared.bytes, "seconds": seconds}
    return {"site": site, "from": shown(name), "path": path, "kept": where, **counted}


# --- orders -----------------------------------------------------------------------------------


def listing(site: str | None) -> list[dict]:
    if site is not None and (not SITE.fullmatch(site) or not any(tree_of(name, site) for name in names())):
        checked_site(site)
    having = [name for name in names() if site is None or tree_of(name, site)]
    return [{"time": shown(name), "by": "hand" if name.endswith("-hand") else "timer"} for name in having]


def obey(order: dict) -> object:
    now = time.time()
    if order["do"] == "list":
        return listing(order.get("site"))
    if order["do"] == "create":
        checked_site(order["site"])
        with place_lock():
            return {"time": shown(make(now, "-hand"))}
    if order["do"] == "restore":
        return restore(order["site"], order.get("at"), order.get("path"), now)
    raise Refused(f"no such order: {order['do']!r}")


def main() -> int:
    words = sys.argv[1:]
    os.umask(0o022)
    sys.setrecursionlimit(5000)  # more directories than a path can name
    for number in STOPS:
        signal.signal(number, lambda *_: sys.exit(1))  # an exception: what was begun is cleared away
    try:
        if words[:1] == ["hourly"] and len(words) <= 2:
            report = hourly(moment(words[1]).timestamp() if words[1:] else time.time())
            for problem in report["problems"]:
                say(problem)
            print(json.dumps(report))
            return 1 if report["problems"] else 0
        if words == ["finish"]:
            problems = finish_all() if os.path.isdir(SITES) else []
            for problem in problems:
                say(problem)
            return 1 if problems else 0
        if words == ["status"]:
            print(json.dumps(status()))
            return 0
        if words:
            say("usage: snapshots.py [hourly [TIME]|finish|status]")
            return 2
        print(json.dumps(obey(json.load(sys.stdin))))
        return 0
    except Refused as refused:
        say(str(refused))
        return 2
    except TROUBLE as error:
        say(str(error) or type(error).__name__)
        return 1


if __name__ == "__main__":
    sys.exit(main())
