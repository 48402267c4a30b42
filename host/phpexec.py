#!/usr/bin/python3
"""phpexec: runs a PHP script of a site as that site: its PHP, its uid, its sandbox, its limits.

    phpexec.py [--tree NAME] SITE SCRIPT [ARGUMENT...]
                                           SCRIPT is a path below the site's tree; root starts it. An
                                           application's tree is its code, by NAME another one of its
                                           own below /opt/code that is installed here
    phpexec.py --sites                     this machine's sites with their PHP, the code of its
                                           application, and whether it is in its services; one JSON line

Standard input, output and error are the script's, and so is the exit status: 2 with a message of
phpexec is a refusal, before anything ran. The script is a transient unit, fleet-exec-<site>-<random>.service.
It ends when whoever started it goes away: by a signal, or because nobody reads its output any more,
which is how the end of an SSH session looks from here.
"""

from __future__ import annotations

import fcntl
import functools
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
SCRIPTS, RUN, HEALTH = f"{ROOT}/etc/fleet/scripts", f"{ROOT}/run/fleet/scripts", f"{ROOT}/etc/fleet/health.json"
TREES, CODE = "/srv/sites", "/opt/code"
MARKER = ".fleet-artefact"  # base's: this directory is whole
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REFUSED = 2
OUTPUT = 1  # the descriptor whose reader tells that somebody is there
WAIT_MS = 200  # between two looks for a free place
SYSTEMD = range(200, 244)  # exit statuses of systemd's own, when it cannot start a process: systemd.exec(5)


class Refused(Exception):
    """The request is wrong: nothing was run."""


def say(text: str) -> None:
    try:
        print(f"phpexec: {text}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads it


def sites() -> dict[str, dict]:
    """How the scripts of each site of this machine are run."""
    names = sorted(os.listdir(SCRIPTS)) if os.path.isdir(SCRIPTS) else []
    found = {}
    for name in names:
        with open(f"{SCRIPTS}/{name}", encoding="utf-8") as source:
            found[name.removesuffix(".json")] = json.load(source)
    return found


def in_service() -> bool:
    """Whether this machine's health responder has it take requests."""
    try:
        with open(HEALTH, encoding="utf-8") as source:
            responder = json.load(source)
        connection = http.client.HTTPConnection(responder["listen"], responder["port"], timeout=5)
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def tree_of(site: str, order: dict, name: str) -> str:
    """Where the scripts of a site are; `name`: another code of the same application."""
    if not name:
        return order.get("tree", f"{TREES}/{site}")
    known = "tree" in order and re.fullmatch(re.escape(site) + "-[0-9a-f]+", name)
    if not known or not os.path.exists(f"{ROOT}{CODE}/{name}/{MARKER}"):
        raise Refused(f"{name!r} is no code of {site} that is installed on {os.uname().nodename}. Nothing was run.")
    return f"{CODE}/{name}"


def inside(site: str, tree: str, script: str) -> str:
    """The script's own path, or Refused: it must be one of the site's. What a link in the tree leads to, the
    sandbox decides, in which no other site's tree exists."""
    path = os.path.join(tree, script)
    if ".." in path.split("/") or not os.path.normpath(path).startswith(f"{tree}/"):
        raise Refused(f"script {script!r} of {site}; allowed: a path below {tree}, without .. . Nothing was run.")
    return os.path.normpath(path)


def gone(milliseconds: int | None, *ends: int) -> bool:
    """Waits for one of the descriptors to be ready; whether the reader of our output went away before."""
    poll = select.poll()
    poll.register(OUTPUT, 0)  # errors and hang-ups are told unasked
    for end in ends:
        poll.register(end, select.POLLIN)
    return any(handle == OUTPUT for handle, _ in poll.poll(milliseconds))


def place(most: int) -> int | None:
    """A place among the scripts that may run at once, held until this process ends; None: nobody waits for it any more."""
    os.makedirs(RUN, exist_ok=True)
    held = [os.open(f"{RUN}/{number}", os.O_RDWR | os.O_CREAT, 0o600) for number in range(most)]
    told = False
    while True:
        for handle in held:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                pass
        if not told:
            say(f"{most} scripts run on {os.uname().nodename}, as many as may at once; waiting for one of them to end")
            told = True
        if gone(WAIT_MS):
            return None


def ending(note: str) -> str:
    """What ended a script that did not end by itself, as systemd noted it: "signal TERM", "oom-kill KILL"."""
    try:
        with open(note, encoding="ascii") as source:
            result, how, status = source.read().split()
        os.unlink(note)
    except (OSError, ValueError):
        return ""  # it was never started, which systemd-run has told
    return "" if how == "exited" else f"{result.replace('success', 'signal')} {status}"


def run(site: str, order: dict, script: str, words: list[str]) -> int:
    """Exit status of the script."""
    unit = f"fleet-exec-{site}-{os.urandom(4).hex()}.service"
    note = f"{RUN}/{unit}"
    # systemd puts its own environment's values for $NAME into the words of a command; $$ is a dollar.
    command = [*order["command"], *(word.replace("$", "$$") for word in (script, *words))]
    # To systemd-run a script that a SIGTERM ended has done well, and one that ran out of memory is like any other.
    ended = f"ExecStopPost=+/bin/sh -c 'echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS > {note}'"
    call = [
        "systemd-run", "--pipe", "--wait", "--collect", "--quiet", "--service-type=exec", f"--unit={unit}",
        f"--description=Script of {site}", *(f"--property={each}" for each in (*order["properties"], ended)), "--", *command,
    ]  # fmt: skip
    # A Ctrl-C is for us, who end it in order; and no signal is taken while nobody knows the child yet.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    take = functools.partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS)
    child = subprocess.Popen(call, start_new_session=True, preexec_fn=take)
    try:
        take()
        if gone(None, os.pidfd_open(child.pid)):
            say("nobody reads the output any more; the script is stopped")
            return 1
        status = child.wait()
        if how := ending(note):
            say(f"the script was ended: {how}; journalctl -u {unit} says more")
            return status or 255
        if status in SYSTEMD:
            say(
                f"exit status {status}: if it is not the script's own, systemd could not start it; journalctl -u {unit} says why"
            )
        return status
    finally:
        if child.poll() is None:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            # First who asks for the unit, so that it is not asked for after it was stopped.
            child.terminate()
            child.wait()
            subprocess.run(["systemctl", "stop", "--", unit], check=False, capture_output=True)
            ending(note)


def main() -> int:
    for number in SIGNALS:
        signal.signal(number, lambda which, _: sys.exit(128 + which))
    words = sys.argv[1:]
    try:
        known = sites()
        if words == ["--sites"]:
            code = {name: os.path.basename(order["tree"]) for name, order in known.items() if "tree" in order}
            php = {name: order["php"] for name, order in known.items()}
            print(json.dumps({"ready": in_service(), "sites": php, "code": code}))
            return 0
        other, words = (words[1], words[2:]) if words[:1] == ["--tree"] and len(words) > 1 else ("", words)
        if len(words) < 2:
            raise Refused("usage: phpexec.py [--tree NAME] SITE SCRIPT [ARGUMENT...]")
        site, script, *rest = words
        if site not in known:
            raise Refused(f"no site {site!r} on {os.uname().nodename}; there are: {', '.join(known) or 'none'}")
        path = inside(site, tree_of(site, known[site], other), script)
        if place(known[site]["atOnce"]) is None:
            return 1
        return run(site, known[site], path, rest)
    except Refused as refusal:
        say(str(refusal))
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
