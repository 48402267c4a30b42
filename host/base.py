#!/usr/bin/python3
"""base: what a machine needs before its configuration can be checked.

One JSON object on stdin; every key but `host` may be absent:

    host         name of this machine, for messages
    packages     Debian packages; only missing ones are installed, and none of them starts a service
    disable      units of the distribution to stop and disable (what runs is the bundle's business)
    filesystems  [{label, type: btrfs|ext4, device?, size?}]: made only on a device that carries
                 nothing. Without `device` it is the one empty whole disk, of `size` GB if given
    programs     {name: text}, written to /usr/local/lib/fleet/<name>
    artefacts    [{name, sha256, urls}]: .tar.zst unpacked to /opt/php/<name>; urls are tried in order
    code         the same of applications' code, unpacked to /opt/code/<name>

Each step looks first and acts only on a difference, so it may be killed and run again at any time.
stdout carries one JSON line, stderr is for people. Exit status: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
PROGRAMS, ARTEFACTS, CODE = f"{ROOT}/usr/local/lib/fleet", f"{ROOT}/opt/php", f"{ROOT}/opt/code"
RUN = f"{ROOT}/run/fleet"
POLICY = f"{ROOT}/usr/sbin/policy-rc.d"
NO_STARTS = "#!/bin/sh\n# Written by fleet while it installs packages.\nexit 101\n"
MARKER = ".fleet-artefact"  # in an unpacked artefact: the sha256 of what it came from
APT_SECONDS, COMMAND_SECONDS, DOWNLOAD_SECONDS = 1800, 300, 60
NAME = re.compile(r"[A-Za-z0-9][\w.+~-]*")
FILESYSTEMS = {"btrfs": ["mkfs.btrfs", "-q", "-L"], "ext4": ["mkfs.ext4", "-q", "-L"]}
KEYS = {
    "host": str, "packages": list, "disable": list, "filesystems": list, "programs": dict, "artefacts": list,
    "code": list,
}  # fmt: skip


class Refused(Exception):
    """The request is wrong: nothing was done."""


class Failed(Exception):
    """A step did not succeed."""


def say(text: str) -> None:
    try:
        print(text[:2000], file=sys.stderr, flush=True)
    except OSError:
        pass


def mistakes(wanted: dict) -> list[str]:
    """Everything that is wrong with the request."""
    found = [f"unknown key {key!r}" for key in sorted(set(wanted) - set(KEYS))]
    found += [f"{k}: must be a {t.__name__}" for k, t in KEYS.items() if k in wanted and type(wanted[k]) is not t]
    if found:
        return found
    for key in ("packages", "programs"):
        names = wanted.get(key, [])
        found += [f"{key}: {name!r} is not a plain name" for name in names if not NAME.fullmatch(str(name))]
    for item in wanted.get("filesystems", []):
        if not item.get("label") or item.get("type") not in FILESYSTEMS:
            found.append(f"filesystems: {item} needs a label and a type of {', '.join(FILESYSTEMS)}")
    for key, item in [(key, item) for key in ("artefacts", "code") for item in wanted.get(key, [])]:
        if not NAME.fullmatch(item.get("name", "")) or not re.fullmatch(r"[0-9a-f]{64}", item.get("sha256", "")):
            found.append(f"{key}: {item.get('name')!r} needs a plain name and a sha256")
        if not item.get("urls"):
            found.append(f"{key}: {item.get('name')!r} needs urls")
    return found


def run(argv: list[str], limit: int = COMMAND_SECONDS, expect=(0,), **more) -> str:
    """Output of a command; Failed with its last lines unless its exit status is expected."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=limit, env=environment, check=False, **more,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{argv[0]} failed: {error}") from None
    if done.returncode not in expect:
        lines = (done.stdout + done.stderr).strip().splitlines()[-20:]
        raise Failed(f"{' '.join(argv)[:200]} failed ({done.returncode}): " + "\n".join(line[:400] for line in lines))
    return done.stdout


def write(path: str, content: str, mode: int) -> bool:
    """Replace a file in one step if it differs; whether it did."""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as source:
            if source.read() == content and os.stat(path).st_mode & 0o777 == mode:
                return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.part", "w", encoding="utf-8") as out:
        out.write(content)
        out.flush()
        os.fchmod(out.fileno(), mode)
        os.fsync(out.fileno())
    os.replace(f"{path}.part", path)
    return True


# --- packages --------------------------------------------------------------------------------


def missing_packages(wanted: list[str]) -> list[str]:
    """Unknown packages make dpkg-query exit 1; what it prints is right all the same."""
    if not wanted:
        return []
    listed = run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n", *wanted], expect=(0, 1))
    have = {line[3:] for line in listed.splitlines() if line.startswith("ii")}
    return [name for name in wanted if name not in have]


def install_packages(wanted: list[str]) -> list[str]:
    missing = missing_packages(wanted)
    before = None
    if os.path.exists(POLICY):
        with open(POLICY, encoding="utf-8") as source:
            before = source.read()
    ours = before == NO_STARTS  # left by a run that was killed
    if missing:
        say(f"installing {len(missing)} packages: {' '.join(missing)}")
        options = ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", "-o", "Dpkg::Use-Pty=0"]
        write(POLICY, NO_STARTS, 0o755)
        try:
            run(["apt-get", "-q", *options, "update"], APT_SECONDS)
            install = ["install", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
            run(["apt-get", "-q", *options, *install, *missing], APT_SECONDS)
        finally:
            if before is not None and not ours:
                write(POLICY, before, 0o755)
    if os.path.exists(POLICY) and (ours or before is None):
        os.unlink(POLICY)
    return missing


def disable_units(units: list[str]) -> list[str]:
    if not units:
        return []
    shown = run(["systemctl", "show", "--property=ActiveState,UnitFileState", "--", *units])
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    busy = [
        unit for unit, state in zip(units, blocks, strict=True)
        if state["UnitFileState"].startswith("enabled") or state["ActiveState"] not in ("inactive", "failed")
    ]  # fmt: skip
    if busy:
        say(f"disabling {' '.join(busy)}")
        run(["systemctl", "disable", "--now", *busy])
    return busy


# --- file systems ----------------------------------------------------------------------------


def empty_disks(devices: list[dict], size: int | None) -> list[str]:
    """Of lsblk's devices: whole, writable disks with nothing on them, of a size in GB if given."""
    return [
        f"/dev/{disk['name']}" for disk in devices
        if disk["type"] == "disk" and disk["size"] and not disk["name"].startswith("zram")
        and not disk["ro"] and not disk.get("children")
        and not disk["fstype"] and not disk["pttype"] and not any(disk["mountpoints"])
        and size in (None, round(disk["size"] / (1 << 30)))
    ]  # fmt: skip


def choose_disk(item: dict) -> str:
    columns = "NAME,TYPE,RO,SIZE,FSTYPE,PTTYPE,MOUNTPOINTS"
    found = empty_disks(json.loads(run(["lsblk", "-J", "-b", "-o", columns]))["blockdevices"], item.get("size"))
    if len(found) != 1:
        raise Failed(
            f"file system {item['label']}: {len(found)} empty disks {found}, expected one; name it by `device`"
        )
    return found[0]


def signature(device: str) -> dict:
    """What blkid finds on a device now, not in its cache; exit status 2 is nothing."""
    found = run(["blkid", "-p", "-o", "export", device], expect=(0, 2))
    return dict(line.split("=", 1) for line in found.splitlines() if "=" in line)


def make_filesystem(item: dict) -> str:
    """Make a file system where there is none. Never over anything else."""
    device = item.get("device") or run(["blkid", "-c", "/dev/null", "-L", item["label"]], expect=(0, 2)).strip()
    device = device or choose_disk(item)
    found = signature(device)
    if found.get("TYPE") == item["type"] and found.get("LABEL") == item["label"]:
        return "present"
    if any(key in found for key in ("TYPE", "PTTYPE", "LABEL")):
        shown = ", ".join(f"{key} {found[key]}" for key in ("TYPE", "PTTYPE", "LABEL") if key in found)
        raise Failed(f"file system {item['label']}: {device} carries {shown}; nothing was written to it")
    say(f"making {item['type']} {item['label']} on {device}")
    run([*FILESYSTEMS[item["type"]], item["label"], device])
    return f"made on {device}"


# --- artefacts -------------------------------------------------------------------------------


def download(url: str, place: str) -> str:
    """Fetch to a file; the sha256 of what came."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as source, open(place, "wb") as out:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def fetch(item: dict, place: str) -> None:
    """Try each url in turn; only what has the right sha256 is accepted."""
    reasons = []
    for url in item["urls"]:
        try:
            found = download(url, place)
        except (OSError, ValueError) as error:
            reasons.append(f"{url}: {error}")
            continue
        if found == item["sha256"]:
            return
        reasons.append(f"{url}: sha256 is {found}, expected {item['sha256']}")
    raise Failed(f"artefact {item['name']} cannot be had:\n" + "\n".join(reasons))


def seal(directory: str) -> None:
    """Note what was brought, so that an edit by hand is found."""
    if os.path.exists(f"{PROGRAMS}/drift.py"):
        run(["python3", "-IB", f"{PROGRAMS}/drift.py", "seal", directory])


def install_programs(wanted: dict[str, str]) -> list[str]:
    written = [name for name in wanted if write(f"{PROGRAMS}/{name}", wanted[name], 0o755)]
    if written:
        seal(PROGRAMS)
    return written


def install_artefact(item: dict, directory: str) -> str:
    """Unpack beside, then rename. What is there under the name was checked when it came."""
    target = f"{directory}/{item['name']}"
    aside, packed = f"{directory}/.{item['name']}.part", f"{directory}/.{item['name']}.tar.zst"
    if os.path.exists(f"{target}/{MARKER}"):
        return "present"
    shutil.rmtree(aside, ignore_errors=True)
    os.makedirs(aside)
    say(f"installing artefact {item['name']}")
    try:
        fetch(item, packed)
        run(["tar", "--zstd", "-xf", packed, "-C", aside, "--no-same-owner"])
        write(f"{aside}/{MARKER}", item["sha256"] + "\n", 0o644)
        seal(aside)
        os.sync()
        os.rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if os.path.exists(packed):
            os.unlink(packed)
    return "installed"


def bring(wanted: dict) -> dict:
    report, clock = {"host": wanted.get("host", ""), "seconds": {}}, time.monotonic()

    def step(name: str, result) -> None:
        nonlocal clock
        now = time.monotonic()
        report["seconds"][name], clock = round(now - clock, 2), now
        report[name] = result

    step("packages", install_packages(wanted.get("packages", [])))
    step("disabled", disable_units(wanted.get("disable", [])))
    step("filesystems", {item["label"]: make_filesystem(item) for item in wanted.get("filesystems", [])})
    step("programs", install_programs(wanted.get("programs", {})))
    for key, directory in (("artefacts", ARTEFACTS), ("code", CODE)):
        step(key, {item["name"]: install_artefact(item, directory) for item in wanted.get(key, [])})
    return report


def main() -> int:
    os.umask(0o022)
    wanted = {}
    try:
        try:
            wanted = json.load(sys.stdin)
        except ValueError as error:
            raise Refused(f"the input is not JSON: {error}") from None
        if wrong := mistakes(wanted):
            raise Refused("\n".join(wrong))
        os.makedirs(RUN, exist_ok=True)
        # One at a time, and none while retire.py looks what is used. Each of them ends: all that it runs has a limit.
        with open(os.open(f"{RUN}/base.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            print(json.dumps(bring(wanted)))
        return 0
    except (Refused, Failed, OSError) as failure:
        say(f"{wanted.get('host', 'base')}: base: {failure}")
        return 2 if isinstance(failure, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
