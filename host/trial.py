#!/usr/bin/python3
"""trial: what a candidate would do that its syntax does not tell, asked before it goes live.

    trial.py sites LIVE TRIAL  on an Apache VM, whose HTTPS port is LIVE: start the candidate on port TRIAL,
                               and ask it for the front page of sites; one that works now must work then
    trial.py servers           on a director: the candidate must balance every service, and its checks must
                               pass on every server that takes requests now

converge runs it where /etc is the candidate's, with the changed paths on standard input, one a line.
It says what would get worse; exit status 1 then. /etc/fleet/sites.json names the host of each site,
/etc/fleet/balancing.json the virtual addresses, and the servers of each `vip:port`.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import ipvs
import probes

ETC = os.environ.get("FLEET_ROOT", "").rstrip("/") + "/etc"  # tests: a directory that stands for /
# It ends with this program, however that ends.
APACHE = ["setpriv", "--pdeathsig", "TERM", "apache2", "-D", "trial", "-D", "FOREGROUND", "-f", f"{ETC}/apache2/fleet.conf"]
WIDE = ("/etc/apache2/", "/etc/fleet/tls/")  # what every site stands on
MOST_SITES = 20  # a front page wakes its site, and costs what a visitor costs
START_SECONDS, PAGE_SECONDS = 10, 5.0
TRIES = 3  # a second apart: what fails by chance must not stop a change
# A server that has just left is still balanced until keepalived has asked it twice, and each question may take a
# second, as may the pause between them. It is asked for that long, the interval between two checks, and some more.
NOTICE_SECONDS = 6
GROUP = re.compile(r"^virtual_server_group (\S+) \{(.*?)^\}", re.DOTALL | re.MULTILINE)
SERVICE = re.compile(r"^virtual_server group (\S+) \{(.*?)^\}", re.DOTALL | re.MULTILINE)
DELAY = re.compile(r"^    delay_loop (\d+)$", re.MULTILINE)
REAL_SERVER = re.compile(
    r"real_server (\S+) \{\s+weight [1-9].*?path (\S+).*?status_code (\d+).*?connect_port (\d+)", re.DOTALL
)


def chosen(hosts: dict[str, str], changed: set[str]) -> list[str]:
    """Sites to ask: those whose vhost changes, and the others where what all stand on does; some of many."""
    own = {name for name in hosts if f"/etc/fleet/vhosts/{name}.conf" in changed}
    others = sorted(hosts.keys() - own) if any(path.startswith(WIDE) for path in changed) else []
    first = random.sample(sorted(own), min(len(own), MOST_SITES))
    return first + random.sample(others, min(len(others), MOST_SITES - len(first)))


@dataclass(frozen=True)
class Page:
    """What a front page amounts to; status 0 is no answer."""

    status: int = 0
    location: str = ""
    source: bool = False  # PHP's own text, instead of what it does

    def __str__(self) -> str:
        said = f"{self.status or 'nothing'}{f' to {self.location}' if self.location else ''}"
        return f"{said} with PHP source" if self.source else said


def front_page(host: str, port: int) -> Page:
    try:
        status, headers, body = probes.http_answer(f"https://127.0.0.1:{port}/", host, PAGE_SECONDS)
    except (OSError, http.client.HTTPException):
        return Page()
    return Page(status, headers.get("Location", ""), "<?php" in body)


def loops(page: Page, host: str) -> bool:
    try:
        target = urlsplit(page.location)
    except ValueError:  # what a site sends may be anything
        return False
    return (target.scheme, target.hostname) == ("https", host) and target.path in ("", "/") and not target.query


def works(page: Page, host: str) -> bool:
    return page.status not in (0, 403, 404) and page.status < 500 and not loops(page, host) and not page.source


def site_problem(name: str, host: str, live: int, trial: int) -> str:
    """What fails now cannot get worse, be it before or after the candidate was asked."""
    for again in range(TRIES):
        time.sleep(1 if again else 0)
        now, then = front_page(host, live), front_page(host, trial)
        if works(then, host) or not works(now, host):
            return ""
    return f"{name} ({host}) answers {now} now, and would answer {then}"


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
        probes.tcp_problem("127.0.0.1", port, 1)
    except OSError:
        return False
    return True


def sites(changed: set[str], live: int, trial: int) -> list[str]:
    with open(f"{ETC}/fleet/sites.json", encoding="utf-8") as source:
        hosts = json.load(source)
    names = chosen(hosts, changed)
    if not names:
        return []
    with candidate(trial), ThreadPoolExecutor(MOST_SITES) as pool:
        return list(pool.map(lambda name: site_problem(name, hosts[name], live, trial), names))


def server_problem(server: str, path: str, status: str, port: str, seconds: float) -> str:
    limit = time.monotonic() + seconds
    while True:
        if not any(servers.get(server, {}).get("weight") for servers in ipvs.table().values()):
            return ""
        try:
            problem = probes.http_problem(f"http://{server}:{port}{path}", "", [int(status)], "", 1)
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        if not problem:
            return ""
        if time.monotonic() >= limit:
            break
        time.sleep(1)
    return f"{server} takes requests now, and its new check ({path}, port {port}) fails: {problem}"


def lacking(text: str, wanted: dict) -> list[str]:
    """What the candidate's keepalived.conf does not balance and should."""
    groups = {name: re.findall(r"(\S+) (\d+)$", body, re.MULTILINE) for name, body in GROUP.findall(text)}
    balanced: dict[str, set[str]] = {}
    for name, body in SERVICE.findall(text):
        servers = {server for server, *_ in REAL_SERVER.findall(body)} if "lvs_method DR\n" in body else set()
        for vip, port in groups.get(name, []):
            balanced[f"{vip}:{port}"] = servers
    addresses = " ".join(re.findall(r"virtual_ipaddress_excluded \{(.*?)\}", text, re.DOTALL))
    held = {word.partition("/")[0] for word in addresses.split()}
    found = [f"nobody would hold {vip}" for vip in wanted["vips"] if vip not in held]
    for service, servers in wanted["services"].items():
        missing = sorted(set(servers) - balanced.get(service, set()))
        found += [f"{service} would not be balanced to {', '.join(missing)}"] if missing else []
    return found


def servers() -> list[str]:
    """What the candidate would not balance, and what its checks would do to the servers of the live one."""
    with open(f"{ETC}/keepalived/fleet.conf", encoding="utf-8") as source:
        text = source.read()
    with open(f"{ETC}/fleet/balancing.json", encoding="utf-8") as source:
        found = lacking(text, json.load(source))
    checks = sorted(set(REAL_SERVER.findall(text)))
    seconds = NOTICE_SECONDS + max(map(int, DELAY.findall(text)), default=0)
    with ThreadPoolExecutor(16) as pool:
        return found + list(pool.map(lambda check: server_problem(*check, seconds), checks))


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
