"""Looks for secrets where every process of a machine can be seen: arguments and environment.

The first line of stdin is a JSON object of secrets by name. Looks until stdin ends, then prints
{"looks": n, "seen": {"<name> in <file> of <program>": times}}. Its own stdin is the only place it
has them from.
"""

import json
import os
import select
import sys

secrets = {name: text.encode() for name, text in json.loads(sys.stdin.readline()).items()}
seen, looks = {}, 0
while not select.select([sys.stdin], [], [], 0.02)[0]:
    looks += 1
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as source:
                    content = source.read()
                if not any(text in content for text in secrets.values()):
                    continue
                with open(f"/proc/{pid}/comm", encoding="ascii") as source:
                    program = source.read().strip()
            except OSError:
                continue
            for secret in (key for key, text in secrets.items() if text in content):
                place = f"{secret} in {name} of {program}"
                seen[place] = seen.get(place, 0) + 1
print(json.dumps({"looks": looks, "seen": seen}))
