#!/usr/bin/python3
"""cron: whether a run of a cron entry is this machine's. The condition of its service asks.

    cron.py PLACE CALENDAR   PLACE is <site's tree>/.fleet/cron/<entry>, on the NAS; CALENDAR an
                             OnCalendar time of whole minutes

The timer fires on every machine of the group. Whoever makes the file of this minute first, which the
NAS lets one of them do, has the run; the others skip it, and so does everybody while the lock of the
run before is held. A machine that is dead makes no file, and the next run is another one's.

Exit status, as ExecCondition wants it: 0 run, 1 skip, 255 the entry has failed.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time

KEEP = 10  # claims that are kept, for whoever asks who ran what; any older one is past
RUN, SKIP, FAILED = 0, 1, 255
CLAIM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ")
ELAPSE = re.compile(r"(?:Next elapse|\(in UTC\)): \w+ (\d{4}-\d\d-\d\d) (\d\d:\d\d):00 UTC$", re.MULTILINE)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def due(calendar: str, minute: int) -> bool:
    """Whether a minute, in seconds since 1970, is one of the calendar's: by systemd, whose calendar it is."""
    call = ["systemd-analyze", "calendar", f"--base-time=@{minute - 1}", calendar]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    shown = subprocess.run(call, check=True, capture_output=True, text=True, timeout=30, env=environment).stdout
    return any(f"{day}T{hour}Z" == name(minute) for day, hour in ELAPSE.findall(shown))


def name(minute: int) -> str:
    """Of a claim; names sort as their times do."""
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(minute))


def claims(place: str) -> list[str]:
    return sorted(entry for entry in os.listdir(place) if CLAIM.fullmatch(entry))


def claim(place: str, minute: int) -> bool:
    """Whether the run of this minute is ours. Two machines that ask at once get one yes."""
    mine, made = name(minute), claims(place)
    if made and made[-1] >= mine:
        return False
    try:
        with open(f"{place}/{mine}", "x", encoding="utf-8") as out:
            out.write(f"{os.uname().nodename}\n")
    except FileExistsError:
        return False
    for old in made[: 1 - KEEP]:
        try:
            os.unlink(f"{place}/{old}")
        except FileNotFoundError:
            pass  # another machine was faster
    return True


def decide(place: str, calendar: str, now: float) -> int:
    # The clock's, not the trigger's: systemd hands over TRIGGER_TIMER_REALTIME_USEC, but some versions that of
    # the time before. A machine that slept through its time (a stun, a snapshot) fires late, and in no minute
    # of the calendar: the run was another one's.
    minute = int(now) // 60 * 60
    if not due(calendar, minute):
        say(f"skipped: it is {name(minute)}, which is none of its times")
        return SKIP
    os.makedirs(place, exist_ok=True)
    with open(
        f"{place}.lock", "a+", encoding="utf-8"
    ) as held:  # an exclusive lock over NFS needs a file open for writing
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("skipped: the run before goes on, or another machine is taking this one")
            return SKIP
        if not claim(place, minute):
            say("skipped: another machine has it")
            return SKIP
    say(f"runs here: {name(minute)}")
    return RUN


def main() -> int:
    if len(sys.argv) != 3:
        say("usage: cron.py PLACE CALENDAR")
        return FAILED
    try:
        return decide(sys.argv[1], sys.argv[2], time.time())
    except (OSError, subprocess.SubprocessError) as error:
        # Any other status would be a skip, and nobody would hear of it.
        say(f"cannot tell whose run it is: {error}")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
