#!/usr/bin/python3
"""rest: stop the FPM of every site that nobody has asked for anything for a while.

    rest.py RESPONDER SECONDS

RESPONDER, the `address:port` of this machine's health responder, knows which sites are quiet: GET /quiet.
Nothing is lost by it: systemd holds the port, requests in flight end in the old children, and the next one
starts the service again. Exit status: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

ANSWER_SECONDS = 5


def quiet_units(responder: str, seconds: float) -> list[str]:
    with urllib.request.urlopen(f"http://{responder}/quiet", timeout=ANSWER_SECONDS) as answer:
        return sorted(unit for unit, quiet in json.load(answer).items() if quiet >= seconds)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: rest.py RESPONDER SECONDS", file=sys.stderr)
        return 2
    try:
        units = quiet_units(sys.argv[1], float(sys.argv[2]))
    except (OSError, ValueError) as error:
        print(f"rest: {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    if units:
        print(f"nobody asks for anything: {' '.join(units)}", flush=True)
        return subprocess.run(["systemctl", "stop", "--no-block", "--", *units], check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
