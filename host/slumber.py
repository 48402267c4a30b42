"""Putting sites to sleep: their FPM ends, systemd keeps the port.

Whoever connects while a service stops starts it again, and the health responder asks each running site every
second. So the one that stops a site marks it, and the responder leaves what is marked alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

MARKS = os.environ.get("FLEET_ROOT", "").rstrip("/") + "/run/fleet-rest/stopping"  # tests: a directory that stands for /
STOP_SECONDS = 60  # a site's TimeoutStopSec is 40; a mark that is older was left by somebody who died


def stop(units: list[str]) -> int:
    """systemctl's exit status, when they have stopped."""
    os.makedirs(MARKS, exist_ok=True)
    for unit in units:
        with open(f"{MARKS}/{unit}", "w", encoding="ascii"):
            pass
    try:
        return subprocess.run(["systemctl", "stop", "--", *units], check=False, timeout=STOP_SECONDS).returncode
    except subprocess.TimeoutExpired:
        return 1  # systemd goes on with it
    finally:
        for unit in units:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{MARKS}/{unit}")


def stopping(unit: str) -> bool:
    try:
        return time.time() - os.stat(f"{MARKS}/{unit}").st_mtime < STOP_SECONDS
    except OSError:
        return False
