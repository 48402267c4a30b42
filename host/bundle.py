"""The bundle: the text that says what one machine must contain, read into plain values.

A record is one line, `@<kind> <JSON object>`; a `file` is followed by as many lines of content as
it announces. Nothing here touches the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field

ORIGIN = "origin"  # the generation before the first: the files the fleet found when it came
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
    "rollout": {
        "address": (str,), "responder": (str,), "services": (list,), "balancers": (list,), "minimumServers": (int,), "drainSeconds": (int,),
        "minHealthySeconds": (int,), "healthyDeadlineSeconds": (int,), "confirmSeconds": (int,),
    },
    "unit": {
        "name": (str,), "reload": (list, []), "restart": (list, []), "start": (bool, True), "drain": (bool, False),
        "leave": (bool, False),
    },
    "service": {"name": (str,), "scheduler": (str, ""), "servers": (list,)},
    "probe": {
        "name": (str,), "kind": (str,), "within": (int, 20), "url": (str, ""), "host": (str, ""),
        "status": (list, [200]), "contains": (str, ""), "address": (str, ""), "port": (int, 0),
        "path": (str, ""), "argv": (list, []), "paths": (list, []), "site": (str, ""), "unit": (str, ""), "children": (int, 0),
    },
}  # fmt: skip
SECRET_RECORDS = {"secret": {"digest": (str,), "lines": (int,)}}
PROBE_NEEDS = {
    "http": ["url"],
    "tcp": ["address", "port"],
    "fastcgi": ["address", "port", "path"],
    "exec": ["argv"],
    "health": ["address", "port"],
}


class Refused(Exception):
    """The request is wrong: nothing was done."""


@dataclass
class Bundle:
    id: str = ORIGIN
    host: str = ""
    text: bytes = b""
    entries: dict[str, dict] = field(default_factory=dict)  # by path: files, secrets and links
    rollout: dict | None = None
    checks: list[dict] = field(default_factory=list)
    actions: list[dict] = field(default_factory=list)
    units: list[dict] = field(default_factory=list)
    services: list[dict] = field(default_factory=list)  # that this machine balances
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
        elif kind == "rollout":
            if bundle.rollout:
                mistakes.append(f"line {number}: @rollout is given twice")
            bundle.rollout = fields
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
