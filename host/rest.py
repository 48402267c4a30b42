#!/usr/bin/python3
"""rest: stop the FPM of every site that nobody has asked for anything for a while, and what a stopped one left behind;
and end one that is wedged, which systemd then starts again.

    rest.py RESPONDER SECONDS

RESPONDER, the `address:port` of this machine's health responder, knows which sites are quiet and which are wedged.
Nothing is lost by it: systemd holds the port, requests in flight end in the old children, and the next one
starts the service again. Requests in flight have some minutes for that; what a script started for itself would
go on for ever, also that of a site which is gone. What waits for a wedged FPM waits on in systemd's socket. Exit status: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import slumber

ANSWER_SECONDS = 5
WEDGED_LOOKS = 3  # a second apart: a pause of the machine must not end a site that is well
LEFT_SECONDS = 300  # longest that FPM lets a request take: request_terminate_timeout in fpm.conf
ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
SITES, SEEN = f"{ROOT}/sys/fs/cgroup/sites.slice", f"{ROOT}/run/fleet-rest/left.json"


def told(responder: str, path: str) -> list | dict:
    with urllib.request.urlopen(f"http://{responder}{path}", timeout=ANSWER_SECONDS) as answer:
        return json.load(answer)


def quiet_units(responder: str, seconds: float) -> list[str]:
    return sorted(unit for unit, quiet in told(responder, "/quiet").items() if quiet >= seconds)


def wedged_units(responder: str) -> list[str]:
    wedged = set(told(responder, "/wedged"))
    for _ in range(WEDGED_LOOKS - 1):
        if wedged:
            time.sleep(1)
            wedged &= set(told(responder, "/wedged"))
    return sorted(wedged)


def peopled() -> dict[str, str]:
    """The sites' services, FPM's and trials', that have a process, and the control group of each."""
    found = {}
    for place in glob.glob(f"{SITES}/*/fleet-site-*.service") + glob.glob(f"{SITES}/*/fleet-trial-*.service"):
        try:
            with open(f"{place}/pids.current", encoding="ascii") as count:
                if int(count.read()):
                    found[os.path.basename(place)] = place
        except OSError:
            pass  # it has just gone
    return found


def stopped(units: set[str]) -> set[str]:
    """Those of them that are not running, to systemd."""
    order = sorted(units)
    if not order:
        return set()
    call = ["systemctl", "show", "--property=ActiveState", "--", *order]  # of one that is gone too, which is inactive
    said = subprocess.run(call, capture_output=True, text=True, check=False).stdout.split()
    if len(said) != len(order):
        return set()  # no answer is no leave to end anything
    return {unit for unit, state in zip(order, said, strict=True) if state in ("ActiveState=inactive", "ActiveState=failed")}


def end(unit: str, place: str) -> None:
    """Ends every process of a service, also one that takes no other signal."""
    try:
        with open(f"{place}/cgroup.kill", "w", encoding="ascii") as order:
            order.write("1")
    except OSError as error:
        print(f"rest: {unit}: {error}", file=sys.stderr)


def end_left_over(now: float) -> None:
    """Ends what has been left by a stopped service for so long that it is no request any more."""
    try:
        with open(SEEN, encoding="utf-8") as source:
            seen = json.load(source)
    except (OSError, ValueError):
        seen = {}
    places = peopled()
    seen = {unit: seen.get(unit, now) for unit in stopped(set(places))}
    for unit in sorted(unit for unit, since in seen.items() if now - since >= LEFT_SECONDS):
        if not stopped({unit}):
            continue  # a request has just started it
        print(f"ended what {unit} left behind", flush=True)
        end(unit, places[unit])
    os.makedirs(os.path.dirname(SEEN), exist_ok=True)
    with open(SEEN, "w", encoding="utf-8") as out:
        json.dump(seen, out)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: rest.py RESPONDER SECONDS", file=sys.stderr)
        return 2
    end_left_over(time.monotonic())
    try:
        places = peopled()
        for unit in wedged_units(sys.argv[1]):
            if unit in places:
                print(f"ended {unit}, which was wedged", flush=True)
                end(unit, places[unit])
        units = quiet_units(sys.argv[1], float(sys.argv[2]))
    except (OSError, ValueError) as error:
        print(f"rest: {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    if units:
        print(f"nobody asks for anything: {' '.join(units)}", flush=True)
        return slumber.stop(units)
    return 0


if __name__ == "__main__":
    sys.exit(main())
