"""Looking at a service from outside: each function returns what is wrong, or an empty text.

They raise OSError or http.client.HTTPException when there is no answer at all.
"""

from __future__ import annotations

import glob
import http.client
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from urllib.parse import urlsplit


ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
SITES, PROC = f"{ROOT}/sys/fs/cgroup/sites.slice", f"{ROOT}/proc"
MOST_BYTES = 1 << 20  # of a body
STEP_SECONDS = 0.12  # between two looks at who is asked


def http_answer(url: str, host: str, seconds: float, most: int = MOST_BYTES) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and body of a GET of a url as the vhost `host` (empty: the url's own name). Of a body that
    comes in drops, what came within the seconds, and no more than `most` bytes."""
    parts = urlsplit(url)
    secure, name = parts.scheme == "https", host or parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port or (443 if secure else 80), timeout=seconds)
    try:
        connection.connect()
        if secure:  # asked by address on this machine: the certificate's name is not the question
            context = ssl._create_unverified_context()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=name)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Host": name, "User-Agent": "fleet-probe"})
        answer = connection.getresponse()
        body, limit = b"", time.monotonic() + seconds
        while len(body) < most and time.monotonic() < limit and (chunk := answer.read1(1 << 16)):
            body += chunk
        return answer.status, answer.headers, body.decode("utf-8", "replace")
    finally:
        connection.close()


def http_problem(url: str, host: str, status: list[int], contains: str, seconds: float) -> str:
    have, _, body = http_answer(url, host, seconds, MOST_BYTES if contains else 0)
    if have not in status:
        return f"status {have}, expected {status}"
    return "" if contains in body else f"the answer does not contain {contains!r}"


def tcp_problem(address: str, port: int, seconds: float) -> str:
    socket.create_connection((address, port), seconds).close()
    return ""


def nfs_answers(server: str, seconds: float, port: int = 2049) -> bool:
    """Whether anything serves NFS 4 there: a call that asks for nothing (RFC 5531), over a connection of its own."""
    call = struct.pack("!10I", 1, 0, 2, 100003, 4, 0, 0, 0, 0, 0)
    try:
        with socket.create_connection((server, port), seconds) as connection:
            connection.sendall(struct.pack("!I", 0x80000000 | len(call)) + call)
            return bool(connection.recv(4))
    except OSError:
        return False


def fastcgi_record(kind: int, content: bytes) -> bytes:
    return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def fastcgi_request(path: str, site: str = "") -> bytes:
    """GET of a path: begin (responder, close after), parameters, no body. A script needs its site, see guard.php."""
    words = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": path, "SCRIPT_FILENAME": path, "REQUEST_URI": path, "FLEET_SITE": site}
    pairs = b"".join(bytes([len(key), len(value)]) + (key + value).encode() for key, value in words.items())
    begin = fastcgi_record(1, struct.pack("!HB5x", 1, 0))
    return begin + fastcgi_record(4, pairs) + fastcgi_record(4, b"") + fastcgi_record(5, b"")


def fastcgi_answer(
    address: str, port: int, path: str, seconds: float, hopeless: Callable[[], bool] = lambda: False, site: str = ""
) -> str:
    """What a GET of a path gives, headers and all. Asked from 127.0.0.1 even to a VIP of this machine, so that
    listen.allowed_clients needs no VIP. `hopeless` is asked every STEP_SECONDS until the answer begins."""
    answer, limit = b"", time.monotonic() + seconds
    with socket.create_connection((address, port), seconds, ("127.0.0.1", 0)) as connection:
        connection.sendall(fastcgi_request(path, site))
        while not select.select([connection], [], [], STEP_SECONDS)[0]:
            if time.monotonic() >= limit or hopeless():
                raise TimeoutError("timed out")
        while (chunk := connection.recv(4096)) and time.monotonic() < limit and len(answer) < MOST_BYTES:
            answer += chunk
    return answer.decode("utf-8", "replace")


def fastcgi_problem(address: str, port: int, path: str, contains: str, seconds: float, site: str) -> str:
    answer = fastcgi_answer(address, port, path, seconds, site=site)
    if not answer:
        return "no answer"
    return "" if contains in answer else f"the answer does not contain {contains!r}"


def counted(unit: str, file: str) -> int | None:
    """The first number in a file of a site's control group; None while it does not run."""
    try:
        (place,) = glob.glob(f"{SITES}/*/{glob.escape(unit)}/{file}")
        with open(place, encoding="ascii") as source:
            return int(source.readline().split()[-1])
    except (OSError, ValueError, IndexError):
        return None


def busy(unit: str, children: int) -> bool:
    """Whether all children of a site's pool are at work, beside their master. Their number is the kernel's."""
    return (counted(unit, "pids.current") or 0) > children


def cpu_used(unit: str) -> int | None:
    """Microseconds that all processes of a site have had until now."""
    return counted(unit, "cpu.stat")


def master_waits(unit: str) -> int | None:
    """How often FPM's master, the oldest process of a site, has waited for something: each second, as it looks after its
    children, whatever they do. None while there is none."""
    try:
        (place,) = glob.glob(f"{SITES}/*/{glob.escape(unit)}/cgroup.procs")
        with open(place, encoding="ascii") as source:
            master = min(source.read().split(), key=born)
        with open(f"{PROC}/{master}/status", encoding="utf-8", errors="replace") as source:
            return next(int(line.split()[1]) for line in source if line.startswith("voluntary_ctxt_switches:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def born(process: str) -> int:
    """When a process began, in ticks since the boot."""
    with open(f"{PROC}/{process}/stat", encoding="utf-8", errors="replace") as source:
        return int(source.read().rpartition(")")[2].split()[19])
