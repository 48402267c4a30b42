#!/usr/bin/python3
"""records: which libraries the builds of a builder's store link, by the record of each. Nothing here writes.

It takes no input. stdout carries one JSON line, {artefact: {package: version}}: the Debian packages of the shared
libraries that ldd found when it was built. What has no record, or half of one, is not built. Exit status: 0 done.
"""

from __future__ import annotations

import glob
import json
import os
import sys

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
STORE = f"{ROOT}/var/lib/fleet/artefacts"


def libraries(place: str) -> dict[str, str] | None:
    """Those that a record tells; None where it is none, as a bill of materials beside it is not."""
    try:
        with open(place, encoding="utf-8") as source:
            return json.load(source)["libraries"]
    except (FileNotFoundError, ValueError, KeyError):
        return None


def main() -> int:
    found = {os.path.basename(place).removesuffix(".json"): libraries(place) for place in glob.glob(f"{STORE}/*.json")}
    print(json.dumps({name: linked for name, linked in sorted(found.items()) if linked is not None}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
