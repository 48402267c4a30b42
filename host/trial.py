#!/usr/bin/python3
"""trial: what a candidate would do that its syntax does not tell, asked before it goes live.

    trial.py sites LIVE TRIAL  on an Apache VM, whose HTTPS port is LIVE: start the candidate on port TRIAL,
                               and ask it for the front page of sites; one that works now must work then
    trial.py servers           on a director: ask the new checks of every server that takes requests now

converge runs it where /etc is the candidate's, with the changed paths on standard input, one a line.
It says what would get worse; exit status 1 then. /etc/fleet/sites.json names the host of each site.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import ipvs
import probes

ETC = os.environ.get("FLEET_ROOT", "").rstrip("/") + "/etc"  # tests: a directory that stands for /
APACHE = ["apache2", "-D", "trial", "-D", "FOREGROUND", "-f", f"{ETC}/apache2/fleet.conf"]
MOST_SITES = 20  # a front page wakes its site, and costs what a visitor costs
START_SECONDS, PAGE_SECONDS = 10, 10.0
TRIES = 3  # a second apart: what fails by chance must not stop a change
REAL_SERVER = re.compile(r"real_server (\S+) .*?path (\S+).*?status_code (\d+).*?connect_port (\d+)", re.DOTALL)


def chosen(hosts: dict[str, str], changed: set[str]) -> list[str]:
    """Sites to ask: those whose vhost changes, otherwise all; evenly chosen where they are many."""
    names = sorted(name for name in hosts if f"/etc/fleet/vhosts/{name}.conf" in changed) or sorted(hosts)
    return names[:: math.ceil(len(names) / MOST_SITES)] if names else []


def front_page(host: str, port: int) -> int | None:
    """Status of a site's front page; None where there is no answer."""
    try:
        return probes.http_answer(f"https://127.0.0.1:{port}/", host, PAGE_SECONDS)[0]
    except (OSError, http.client.HTTPException):
        return None


def site_problem(name: str, host: str, live: int, trial: int) -> str:
    now = front_page(host, live)
    if now is None or now == 404 or now >= 500:
        return ""  # it does not work: it cannot get worse
    for _ in range(TRIES):
        then = front_page(host, trial)
        if then == now or (then is not None and (then < 400 or then == 401)):
            return ""
        time.sleep(1)
    return f"{name} ({host}) answers {now} now, and would answer {then or 'nothing'}"


@contextmanager
def candidate(port: int):
    """The candidate's Apache, as long as it is asked."""
    limit = time.monotonic() + START_SECONDS
    while listens(port):  # the trial of a converge that was killed ends by itself
        if time.monotonic() >= limit:
            sys.exit(f"port {port}, which the trial needs, is taken")
        time.sleep(0.2)
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(APACHE, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            while not listens(port):
                if child.poll() is not None or time.monotonic() >= limit:
                    said.seek(0)
                    sys.exit(f"Apache does not start: {said.read().decode('utf-8', 'replace')[-2000:]}")
                time.sleep(0.05)
            yield
        finally:
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def sites(changed: set[str], live: int, trial: int) -> list[str]:
    with open(f"{ETC}/fleet/sites.json", encoding="utf-8") as source:
        hosts = json.load(source)
    names = chosen(hosts, changed)
    with candidate(trial), ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda name: site_problem(name, hosts[name], live, trial), names))


def server_problem(server: str, path: str, status: str, port: str) -> str:
    for _ in range(TRIES):
        if not any(servers.get(server, {}).get("weight") for servers in ipvs.table().values()):
            return ""
        try:
            problem = probes.http_problem(f"http://{server}:{port}{path}", "", [int(status)], "", 1)
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        if not problem:
            return ""
        time.sleep(1)
    return f"{server} takes requests now, and its new check ({path}, port {port}) fails: {problem}"


def servers() -> list[str]:
    """What the checks of the candidate would do to the servers of the live one."""
    with open(f"{ETC}/keepalived/fleet.conf", encoding="utf-8") as source:
        checks = sorted(set(REAL_SERVER.findall(source.read())))
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda check: server_problem(*check), checks))


def main() -> int:
    changed = set(sys.stdin.read().splitlines())
    match sys.argv[1:]:
        case ["sites", live, trial]:
            problems = sites(changed, int(live), int(trial))
        case ["servers"]:
            problems = servers()
        case _:
            print("usage: trial.py sites LIVE TRIAL | servers", file=sys.stderr)
            return 2
    problems = [text for text in problems if text]
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
