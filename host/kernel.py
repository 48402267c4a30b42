"""Kernel parameters that a change takes away, or takes back: without this they would stay until a boot."""

from __future__ import annotations

import json
import os

import store
from bundle import Bundle

SYSCTL_DIRECTORY = "/etc/sysctl.d/"
FOUND = f"{store.ROOT}/run/fleet/sysctls.json"  # what was there before the fleet's value; gone after a boot, as they are


def parameters(text: str) -> dict[str, str]:
    """What a file of kernel parameters sets; the last of two lines counts."""
    lines = (line.partition("=") for line in text.splitlines() if "=" in line and line.lstrip()[0] not in "#;")
    return {key.strip().lstrip("-").replace("/", "."): " ".join(value.split()) for key, _, value in lines}


def wanted(bundle: Bundle) -> dict[str, str]:
    """The parameters that a bundle sets."""
    found = {}
    for path, entry in bundle.entries.items():
        if path.startswith(SYSCTL_DIRECTORY) and entry["kind"] == "file":
            found |= parameters(entry["content"].decode())
    return found


def place(key: str) -> str:
    return f"{store.ROOT}/proc/sys/{key.replace('.', '/')}"


def read(key: str) -> str:
    with open(place(key), encoding="ascii") as source:
        return " ".join(source.read().split())


def follow(old: Bundle, bundle: Bundle) -> list[str]:
    """Before the bundle's own values are set: note what those that it adds to the old one's are now, and give the
    ones that it has no more the value that they were found with. What was done, for people."""
    try:
        with open(FOUND, encoding="utf-8") as source:
            before = json.load(source)
    except FileNotFoundError:
        before = {}
    keys, said = wanted(bundle), []
    after = {key: before[key] for key in before.keys() & keys.keys()}
    for key in sorted(keys.keys() - before.keys() - wanted(old).keys()):
        if os.path.exists(place(key)):
            after[key] = read(key)
    if after != before:
        os.makedirs(os.path.dirname(FOUND), exist_ok=True)
    # The last one first: the kernel refuses some values without others, which come before them.
    lines = list(wanted(old))
    for key in sorted(before.keys() - keys.keys(), key=lambda key: -lines.index(key) if key in lines else 1):
        with open(place(key), "w", encoding="ascii") as out:
            out.write(before[key])
        said.append(f"{key} is {before[key]} again")
    if after != before:
        store.write(FOUND, json.dumps(after).encode())
    return said
