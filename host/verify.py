#!/usr/bin/python3
"""verify: what PHP builds hold, in a builder's store and where they are installed. Nothing here writes.

It takes no input. stdout carries one JSON line:

    archives   {artefact: {sha256, recorded, files}} of the store. Both digests are null where there is no archive or
               no record; `files` are told of an archive that is what its record says
    builds     {artefact: {from, files}} below /opt/php; `from` is the sha256 of the archive it came as, null where
               it was not installed as a whole. None on a builder, where they come and go as it compiles

`files` holds, by path, the mode and the sha256 of a file, the mode of a directory, the target of a link: the same for
an archive and for what was unpacked from it. Exit status: 0 done, 1 failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tarfile

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
STORE, BUILDS = f"{ROOT}/var/lib/fleet/artefacts", f"{ROOT}/opt/php"
STORED = re.compile(r"(.+-[0-9a-f]+)\.(tar\.zst|json)")
MARKER, SEAL = ".fleet-artefact", ".fleet-seal"  # base's own, in what it has unpacked


class Failed(Exception):
    """An archive could not be read."""


def names(directory: str) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def digest_of(place: str) -> str | None:
    try:
        with open(place, "rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def recorded(place: str) -> str | None:
    """The sha256 that a record gives its archive."""
    try:
        with open(place, encoding="utf-8") as source:
            return json.load(source)["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def packed(archive: str) -> dict[str, str]:
    """What an archive holds, read as a stream."""
    found = {}
    unpacking = subprocess.Popen(["zstd", "-dcq", archive], stdout=subprocess.PIPE)
    with unpacking.stdout as stream, tarfile.open(fileobj=stream, mode="r|") as members:
        for member in members:
            path = os.path.normpath(member.name)
            if member.issym():
                found[path] = f"-> {member.linkname}"
            elif member.islnk():
                found[path] = found[os.path.normpath(member.linkname)]
            elif member.isdir():
                found[path] = f"{member.mode & 0o7777:04o} directory"
            elif member.isfile():
                digest = hashlib.file_digest(members.extractfile(member), "sha256").hexdigest()
                found[path] = f"{member.mode & 0o7777:04o} {digest}"
            else:
                found[path] = "neither file, directory nor link"
        while stream.read(1 << 20):  # the padding behind the last member: zstd would not end without a reader
            pass
    if status := unpacking.wait():
        raise Failed(f"{archive}: zstd ended with {status}")
    return found


def one(place: str) -> str:
    """A file, directory or link as it is on this machine. What was unpacked belongs to whoever unpacked it."""
    about = os.lstat(place)
    owner = "" if about.st_uid == os.geteuid() else f" of uid {about.st_uid}"
    if stat.S_ISLNK(about.st_mode):
        return f"-> {os.readlink(place)}"
    if stat.S_ISDIR(about.st_mode):
        return f"{about.st_mode & 0o7777:04o} directory{owner}"
    if stat.S_ISREG(about.st_mode):
        return f"{about.st_mode & 0o7777:04o} {digest_of(place)}{owner}"
    return "neither file, directory nor link"


def unpacked(directory: str) -> dict[str, str]:
    """What an installed build holds."""
    found = {".": one(directory)}
    for folder, folders, files in os.walk(directory):
        for name in folders + files:
            path = os.path.relpath(f"{folder}/{name}", directory)
            if path not in (MARKER, SEAL):
                found[path] = one(f"{folder}/{name}")
    return found


def archive_report(name: str) -> dict:
    said = {"sha256": digest_of(f"{STORE}/{name}.tar.zst"), "recorded": recorded(f"{STORE}/{name}.json")}
    whole = said["sha256"] is not None and said["sha256"] == said["recorded"]
    return {**said, **({"files": packed(f"{STORE}/{name}.tar.zst")} if whole else {})}


def build_report(name: str) -> dict:
    try:
        with open(f"{BUILDS}/{name}/{MARKER}", encoding="ascii") as source:
            came = source.read().strip()
    except FileNotFoundError:
        came = None
    return {"from": came, "files": unpacked(f"{BUILDS}/{name}")}


def main() -> int:
    stored = {found[1] for name in names(STORE) if (found := STORED.fullmatch(name))}
    installed = [] if os.path.isdir(STORE) else [name for name in names(BUILDS) if not name.startswith(".")]
    try:
        archives = {name: archive_report(name) for name in sorted(stored)}
        builds = {name: build_report(name) for name in installed}
    except (Failed, OSError, tarfile.TarError) as failure:
        print(f"verify: {failure}", file=sys.stderr)
        return 1
    print(json.dumps({"archives": archives, "builds": builds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
