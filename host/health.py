#!/usr/bin/python3
"""health: one small HTTP service that answers for everything this machine serves.

    health.py FILE          serve; SIGHUP reads FILE again
    health.py --check FILE  only say whether FILE is right

GET /ready answers 200 where the balancers shall send requests, and 503 when the machine is drained
(/run/fleet/drain), or one of its own checks fails, or every site's, or every site that runs is wedged: one site's FPM
that is broken does not take its neighbours away. Nor does a mount whose server answers nobody: every machine has it from there, and one
that left the balancing for that would leave with all the others. A JSON object says how each check went: {ready, drained, checks, sites},
`sites` being those of kind fastcgi. GET /balancer, on a director, answers what the kernel's IPVS table holds: {live, services: {"vip:port": {address: {weight, active}}}},
`live` telling whether this director holds the VIPs. GET /through, on a director, asks each door as a
visitor would: {live, doors: {"vip:port": what is wrong, or nothing}}. One that is live asks none: its
connections would come from the VIP itself, be answered to nobody, and count as open for a minute. GET /quiet
tells for how many seconds nobody but the responder has asked a site for anything: {unit: seconds}, of the sites
whose service runs; GET /wedged which of them are wedged: [unit]; see rest.py. FILE is JSON:

    listen, port   where to answer
    vips           on a director: its virtual addresses
    doors          on a director: the `vip:port` of its web services
    checks         [{name, kind, ...}]; kind is one of
      http         url, host?, status? ([200])
      tcp          address, port
      fastcgi      address, port, path (FPM's pm.status_path), asked from 127.0.0.1; unit, children:
                   while this unit does not run the site sleeps, and systemd must hold its port; a site
                   that does not answer while all its children are at work is busy, and that is no fault; one
                   that has answered, and whose processes now do nothing at all while they are asked, is wedged:
                   with all its children at work, one whose master does nothing
      address      address: must be one of this machine's
      unit         unit: must run
      mount        path: must be a mount point whose server answers; server, where it is NFS: its address, by which
                   a hang of this machine's own is told from one of the server

Checks run together, each at most CHECK_SECONDS (a site's FPM: PATIENCE), and a result serves for CACHE_SECONDS, so two
balancers that ask every second cost little more than one. An answer takes at most ANSWER_SECONDS
where a balancer asks often.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import ipvs
import probes
import slumber

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
DRAIN = f"{ROOT}/run/fleet/drain"
UNITS = f"{ROOT}/run/systemd/units"
# keepalived asks again 0.4 s after a failure, and that answer must be of another look.
CHECK_SECONDS, CACHE_SECONDS, ANSWER_SECONDS, STALE_SECONDS = 1.0, 0.35, 0.3, 3.0
SITE_SECONDS = 4.0  # for a site's FPM: a child must become free, or be born
SERVER_SECONDS = 0.5  # for an NFS server that a mount of ours hangs on: is it there at all?
PATIENCE = {"fastcgi": SITE_SECONDS + CHECK_SECONDS, "mount": 2 * CHECK_SECONDS + 2 * SERVER_SECONDS}
# What is wrong with everybody's mount: it is told, and no reason to send requests elsewhere. When the server is back,
# the connections of all machines sleep on: TCP tries again after up to as long as the silence was, two minutes at most.
SILENT, WAKING = "its server answers nobody", "its server is back, and the connection to it not yet"
WAKING_SECONDS = 125.0
WEDGED = "it takes connections, and its processes do nothing"
CONNECTIONS = re.compile(r"accepted conn:\s+(\d+)")
MASTER_LOOKS = 13  # STEP_SECONDS apart: FPM's master wakes each second
WORKERS = 32
NEEDS = {
    "http": {"url": str}, "tcp": {"address": str, "port": int}, "unit": {"unit": str}, "mount": {"path": str},
    "fastcgi": {"address": str, "port": int, "path": str, "unit": str, "children": int}, "address": {"address": str},
}  # fmt: skip
# Reads a path a line, asks its file system, answers a line. statfs is never answered from the
# cache of an NFS client. It is a process of its own because only a process can be killed.
PROBER = """
import os, sys
for line in sys.stdin:
    path = line.rstrip("\\n")
    try:
        os.statvfs(path)
        print("" if os.path.ismount(path) else "is not a mount point", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


class Refused(Exception):
    """The configuration is wrong."""


def holds(address: str) -> bool:
    """Whether an address is one of this machine's: only then can it be bound."""
    with socket.socket() as attempt:
        try:
            attempt.bind((address, 0))
        except OSError:
            return False
    return True


def is_live(vips: list[str]) -> bool:
    """Whether this director holds the virtual addresses, all of them."""
    return all(holds(vip) for vip in vips)


def door_problem(door: str) -> str:
    """Whether anything answers like a web server; a site's own fault is not the door's."""
    secure = door.endswith(":443")
    answers = list(range(200, 500))
    try:
        return probes.http_problem(f"http{'s' if secure else ''}://{door}/", "", answers, "", CHECK_SECONDS)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def mistakes(config: object) -> list[str]:
    """Everything that is wrong with a configuration."""
    if not isinstance(config, dict):
        return ["it is not a JSON object"]
    found = []
    if type(config.get("listen")) is not str or type(config.get("port")) is not int:
        found.append("listen must be an address and port a number")
    for check in config.get("checks", []):
        needs = NEEDS.get(check.get("kind"))
        if needs is None or type(check.get("name")) is not str:
            found.append(f"check {check.get('name')!r}: needs a name and a kind of {', '.join(NEEDS)}")
            continue
        for key, kind in needs.items():
            if type(check.get(key)) is not kind:
                found.append(f"check {check['name']!r}: {key} must be a {kind.__name__}")
    names = [check.get("name") for check in config.get("checks", [])]
    found += [f"check {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})]
    return found


def read_config(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as source:
            config = json.load(source)
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: {error}") from None
    if wrong := mistakes(config):
        raise Refused("\n".join(f"{path}: {text}" for text in wrong))
    return config


# --- checks: each returns what is wrong, or nothing ------------------------------------------


def runs(unit: str) -> bool:
    """systemd keeps this link for each unit that is not inactive or failed; looking costs no process."""
    return os.path.islink(f"{UNITS}/invocation:{unit}")


def awake(unit: str) -> bool:
    """Whether a site may be asked without waking it."""
    return runs(unit) and not slumber.stopping(unit)


def listening() -> set[tuple[str, int]]:
    """Addresses and ports that somebody listens on: the first part of the kernel's table. Connecting
    would wake the site."""
    found = set()
    with open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        for line in table:
            _, local, _, state, *_ = line.split()
            if state != "0A":
                break
            address, port = local.split(":")
            found.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    return found


def check_unit(check: dict, _: Health) -> str:
    return "" if runs(check["unit"]) else f"{check['unit']} does not run"


def check_http(check: dict, _: Health) -> str:
    return probes.http_problem(check["url"], check.get("host", ""), check.get("status", [200]), "", CHECK_SECONDS)


def check_tcp(check: dict, _: Health) -> str:
    return probes.tcp_problem(check["address"], check["port"], CHECK_SECONDS)


class Quiet:
    """Since when each site has been asked by nobody but this responder. FPM counts the connections that it
    accepts, so where the count has grown by one since the last look, that one was ours."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, float]] = {}  # unit: connections, since when nobody else made one

    def heard(self, unit: str, connections: int) -> None:
        before, since = self.seen.get(unit, (None, 0.0))
        own = before is not None and connections == before + 1
        self.seen[unit] = connections, since if own else time.monotonic()

    def has_heard(self, unit: str) -> bool:
        """Whether it has answered since it was started: until then it may be waiting for its files."""
        return unit in self.seen

    def gone(self, unit: str) -> None:
        """Its next master counts from nothing."""
        self.seen.pop(unit, None)

    def seconds(self) -> dict[str, float]:
        return {unit: round(time.monotonic() - since, 1) for unit, (_, since) in self.seen.copy().items()}


def still(counts: list[int | None], looks: int) -> bool:
    """Whether so many looks on end, the last one among them, saw the same count."""
    return len(counts) >= looks and counts[-1] is not None and counts[-looks:].count(counts[-1]) == looks


def check_fastcgi(check: dict, health: Health) -> str:
    if not awake(check["unit"]):
        return ""  # it has gone to sleep while this check waited for its turn: the next look finds it so
    unit, used, waits = check["unit"], [probes.cpu_used(check["unit"])], []

    def wedged() -> bool:
        """Its processes do nothing. Where all its children are at work, they may all be waiting for something, and
        FPM's master tells. Once may be a pause of the whole machine's, in which time went by."""
        if probes.busy(unit, check["children"]):
            waits.append(probes.master_waits(unit))
            idle = still(waits, MASTER_LOOKS)
        else:
            used.append(probes.cpu_used(unit))
            idle = still(used, 3)
        return idle and health.quiet.has_heard(unit)

    try:
        answer = probes.fastcgi_answer(check["address"], check["port"], check["path"], SITE_SECONDS, wedged)
    except TimeoutError:
        if wedged():
            return WEDGED
        if probes.busy(unit, check["children"]):
            return ""
        raise
    if not (counted := CONNECTIONS.search(answer)):
        return "its answer is not FPM's status" if answer else "no answer"
    health.quiet.heard(unit, int(counted[1]))
    return ""


def sleeping(checks: list[dict]) -> dict[str, str]:
    """Sites whose service does not run, or is being stopped, and what is wrong with each: many of them cost one look."""
    asleep = [check for check in checks if check["kind"] == "fastcgi" and not awake(check["unit"])]
    held = listening() if asleep else set()
    places = {check["name"]: (check["address"], check["port"]) for check in asleep}
    return {name: "" if place in held else "nobody listens on {}:{}".format(*place) for name, place in places.items()}


def check_address(check: dict, _: Health) -> str:
    return "" if holds(check["address"]) else f"{check['address']} is not an address of this machine"


def check_mount(check: dict, health: Health) -> str:
    try:
        return health.probers[check["path"]].ask(check["path"])
    except TimeoutError as hang:
        if "server" in check and not probes.nfs_answers(check["server"], SERVER_SECONDS):
            health.silent[check["path"]] = time.monotonic()
            return SILENT
        waking = time.monotonic() - health.silent.get(check["path"], -math.inf) < WAKING_SECONDS
        return WAKING if waking else str(hang)


CHECKS = {
    "http": check_http, "tcp": check_tcp, "unit": check_unit, "fastcgi": check_fastcgi,
    "address": check_address, "mount": check_mount,
}  # fmt: skip


class MountProber:
    """Asks file systems from a process that is killed and replaced when one does not answer."""

    def __init__(self) -> None:
        self.child: subprocess.Popen | None = None
        self.killed: subprocess.Popen | None = None
        self.turn = threading.Lock()

    def ask(self, path: str) -> str:
        with self.turn:
            if self.killed and self.killed.poll() is None:
                raise TimeoutError("the last look still hangs")  # not even killable: do not pile up more
            if self.child is None or self.child.poll() is not None:
                self.child = subprocess.Popen(
                    [sys.executable, "-I", "-c", PROBER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            self.child.stdin.write(f"{path}\n".encode())
            self.child.stdin.flush()
            ready, _, _ = select.select([self.child.stdout], [], [], 0.9 * CHECK_SECONDS)
            if ready:
                return self.child.stdout.readline().decode().strip()
            self.killed, self.child = self.child, None
            self.killed.kill()
            self.killed.stdin.close()
            self.killed.stdout.close()
            raise TimeoutError(f"no answer for {CHECK_SECONDS:g} s")

    def close(self) -> None:
        if self.child:
            with self.child:
                self.child.stdin.close()


class Health:
    """The results of all checks: CACHE_SECONDS old, and STALE_SECONDS while one of them hangs."""

    def __init__(self, config: dict):
        self.turn, self.results = threading.Lock(), {}
        self.asked: dict[str, tuple[Future, list[float]]] = {}  # the list: when it was begun, once it is
        # Sites have workers of their own: many busy ones must not keep the machine's checks waiting.
        self.pool, self.site_pool, self.lookers = (ThreadPoolExecutor(n) for n in (WORKERS, WORKERS, 2))
        self.probers: dict[str, MountProber] = {}
        self.asleep: set[str] = set()
        self.silent: dict[str, float] = {}  # when the server of a mount was last found silent
        self.use(config)

    def use(self, config: dict) -> None:
        with self.turn:
            self.checks, self.vips = config.get("checks", []), config.get("vips", [])
            self.looking, self.seen, self.asked = None, -math.inf, {}
            self.doors, self.quiet = config.get("doors", []), Quiet()
            self.sites = {check["name"] for check in self.checks if check["kind"] == "fastcgi"}
            for check in self.checks:
                if check["kind"] == "mount":
                    self.probers.setdefault(check["path"], MountProber())

    def run(self, check: dict, begun: list[float]) -> str:
        begun.append(time.monotonic())
        try:
            return CHECKS[check["kind"]](check, self)
        except Exception as error:  # noqa: BLE001  a check that breaks is a check that fails
            return str(error) or type(error).__name__

    def look(self) -> dict[str, str]:
        """What is wrong with each check; empty texts are good. A check that hangs holds no answer up, or the
        balancers would take this machine for a dead one: they get what was seen a moment ago."""
        with self.turn:
            age = time.monotonic() - self.seen
            if (self.looking is None or self.looking.done()) and age > CACHE_SECONDS:
                self.looking = self.lookers.submit(self.look_now, self.checks, self.asked)
            looking = self.looking
        if looking:
            wait([looking], ANSWER_SECONDS if age < STALE_SECONDS else None)
        return self.results

    def look_now(self, checks: list[dict], asked: dict) -> None:
        results = sleeping(checks)
        asleep = set(results)
        for check in checks:
            if check["name"] in asleep:
                self.quiet.gone(check["unit"])
        awake = [check for check in checks if check["name"] not in asleep]
        for check in awake:
            if check["name"] not in asked:
                pool, begun = self.site_pool if check["name"] in self.sites else self.pool, []
                asked[check["name"]] = pool.submit(self.run, check, begun), begun
        wait([look for look, _ in asked.values()], CHECK_SECONDS)
        results |= {check["name"]: self.result(check, asked) for check in awake}
        with self.turn:
            if checks is self.checks:  # no other configuration came in between
                self.results, self.asleep, self.seen = results, asleep, time.monotonic()

    def result(self, check: dict, asked: dict) -> str:
        """What a check found; while a site has not answered and may still, what it found before: nothing wrong,
        where it has not been asked before. One that waits for its turn has not been asked yet."""
        name, patience = check["name"], PATIENCE.get(check["kind"], CHECK_SECONDS)
        look, begun = asked[name]
        if look.done():
            del asked[name]
            return look.result()
        waits = patience > CHECK_SECONDS and (not begun or time.monotonic() - begun[0] < patience)
        return self.results.get(name, "") if waits else f"no answer for {patience:g} s"

    def wedged(self) -> list[str]:
        results = self.look()
        return [check["unit"] for check in self.checks if results.get(check["name"]) == WEDGED]

    def answer(self) -> tuple[int, dict]:
        results, drained = self.look(), os.path.exists(DRAIN)
        sites = {name: reason or "ok" for name, reason in results.items() if name in self.sites}
        own = {name: reason or "ok" for name, reason in results.items() if name not in self.sites}
        awake = {said for name, said in sites.items() if name not in self.asleep}
        lost = bool(sites) and ("ok" not in sites.values() or awake == {WEDGED})
        ready = not drained and not lost and all(said in ("ok", SILENT, WAKING) for said in own.values())
        return 200 if ready else 503, {"ready": ready, "drained": drained, "checks": own, "sites": sites}


def handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds for a client to ask

        def do_GET(self) -> None:
            if self.path == "/ready":
                status, answer = health.answer()
            elif self.path == "/quiet":
                health.look()  # where no balancer asks, the last one may be long ago
                status, answer = 200, health.quiet.seconds()
            elif self.path == "/wedged":
                status, answer = 200, health.wedged()
            elif self.path == "/balancer" and health.vips:
                status, answer = 200, {"live": is_live(health.vips), "services": ipvs.table()}
            elif self.path == "/through" and health.vips:
                live = is_live(health.vips)
                asked = [] if live else health.doors
                status, answer = 200, {"live": live, "doors": dict(zip(asked, health.pool.map(door_problem, asked)))}
            else:
                status, answer = 404, {"error": "ask for /ready"}
            body = json.dumps(answer).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Two balancers ask every second: nothing of it is news."""

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that went away is not an event."""


def main() -> int:
    check_only = sys.argv[1:2] == ["--check"]
    words = sys.argv[2:] if check_only else sys.argv[1:]
    if len(words) != 1:
        print("usage: health.py [--check] FILE", file=sys.stderr)
        return 2
    try:
        config = read_config(words[0])
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 2
    if check_only:
        return 0
    health = Health(config)

    def read_again(*_: object) -> None:
        try:
            fresh = read_config(words[0])
        except Refused as refusal:
            print(f"kept the old configuration: {refusal}", file=sys.stderr, flush=True)
            return
        threading.Thread(target=health.use, args=[fresh]).start()  # it waits for a running look

    signal.signal(signal.SIGHUP, read_again)
    Server((config["listen"], config["port"]), handler(health)).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
