"""Counts the instructions of one request, for each workload, of two builds of PHP-FPM. Runs in a Debian of its own.

    instructions.py FEW MANY < JSON    {"builds": {name: {fpm, load: [ini lines]}}, "workloads": {name: {script, query}}}

The child of a pool of one is run under callgrind twice, for FEW and for MANY requests after the same
start; what the second took more, divided by the requests it served more, is one request: start-up,
compilation and warm caches are in both. Instructions, not seconds: the same whatever else the
computer does. One JSON object on stdout: {workload: {build: instructions}, "modules": {build: names}}.
"""

from __future__ import annotations

import glob
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from probes import fastcgi_record

POOL = """[global]
error_log = {folder}/log
[www]
user = www-data
group = www-data
listen = {folder}/socket
pm = static
pm.max_children = 1
pm.max_requests = {requests}
catch_workers_output = yes
"""
INI = """opcache.enable=1
opcache.validate_timestamps=0
opcache.jit=off
memory_limit=256M
date.timezone=UTC
display_errors=1
session.save_path={folder}
"""
START_SECONDS, REQUEST_SECONDS = 120, 600


def pairs(words: dict[str, str]) -> bytes:
    out = b""
    for key, value in words.items():
        for text in (key, value):
            size = len(text.encode())
            out += bytes([size]) if size < 128 else (size | 1 << 31).to_bytes(4, "big")
        out += (key + value).encode()
    return out


def ask(place: str, script: str, query: str) -> str:
    """One GET over FastCGI; the answer's text."""
    words = {
        "REQUEST_METHOD": "GET", "SCRIPT_FILENAME": script, "SCRIPT_NAME": "/" + os.path.basename(script),
        "DOCUMENT_ROOT": os.path.dirname(script), "REQUEST_URI": f"/{os.path.basename(script)}?{query}",
        "QUERY_STRING": query, "SERVER_NAME": "bench.test", "HTTP_HOST": "bench.test", "SERVER_PORT": "80",
        "REMOTE_ADDR": "192.0.2.1", "SERVER_PROTOCOL": "HTTP/1.1", "GATEWAY_INTERFACE": "CGI/1.1", "HTTP_USER_AGENT": "bench",
    }  # fmt: skip
    begin = fastcgi_record(1, b"\0\1\0\0\0\0\0\0")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(REQUEST_SECONDS)
        connection.connect(place)
        connection.sendall(begin + fastcgi_record(4, pairs(words)) + fastcgi_record(4, b"") + fastcgi_record(5, b""))
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    text, errors = b"", b""
    while len(answer) >= 8:
        size, padding = int.from_bytes(answer[4:6], "big"), answer[6]
        body = answer[8 : 8 + size]
        text, errors = (text + body, errors) if answer[1] == 6 else (text, errors + body) if answer[1] == 7 else (text, errors)
        answer = answer[8 + size + padding :]
    head, _, page = text.decode("utf-8", "replace").partition("\r\n\r\n")
    if errors or not page or re.search(r"^Status: (?!200)|^(Fatal|Parse) error", head + "\n" + page, re.MULTILINE):
        raise SystemExit(f"{script}?{query} failed: {head[:300]} {page[:500]} {errors.decode('utf-8', 'replace')[:500]}")
    return page


def served(build: dict, requests: list[tuple[str, str]], under: list[str]) -> list[str]:
    """Starts the build for exactly these requests, one after the other, and returns the pages."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        for name, text in (("pool", POOL.format(folder=folder, requests=len(requests))), ("php.ini", INI.format(folder=folder))):
            with open(f"{folder}/{name}", "w", encoding="ascii") as out:
                out.write(text + ("\n".join(build["load"]) + "\n" if name == "php.ini" else ""))
        argv = [*under, build["fpm"], "--nodaemonize", "-y", f"{folder}/pool", "-c", f"{folder}/php.ini"]
        # Nothing of the Debian package's own configuration directory.
        master = subprocess.Popen(argv, env={"PATH": os.environ["PATH"], "PHP_INI_SCAN_DIR": ""}, stdout=sys.stderr)
        try:
            end = time.monotonic() + START_SECONDS
            while not os.path.exists(f"{folder}/socket"):
                if master.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{build['fpm']} did not start")
                time.sleep(0.1)
            pages = [ask(f"{folder}/socket", *request) for request in requests]
            time.sleep(2)  # the child has served its last request, and ends
        finally:
            master.send_signal(signal.SIGQUIT)
            try:
                master.wait(60)
            except subprocess.TimeoutExpired:
                master.kill()
                master.wait()
        return pages


def counted(build: dict, requests: list[tuple[str, str]]) -> int:
    """Instructions of the process that served them: of all processes the one that did most."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        served(build, requests, ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={folder}/%p"])
        totals = []
        for place in glob.glob(f"{folder}/*"):
            with open(place, encoding="utf-8", errors="replace") as source:
                totals += [int(n) for n in re.findall(r"^(?:summary|totals): (\d+)", source.read(), re.MULTILINE)]
        if not totals:
            raise SystemExit("callgrind counted nothing")
        return max(totals)


def main() -> None:
    few, many = int(sys.argv[1]), int(sys.argv[2])
    wanted = json.load(sys.stdin)
    found: dict[str, dict] = {"modules": {}}
    for name, build in wanted["builds"].items():
        found["modules"][name] = json.loads(served(build, [("/srv/modules.php", "")], [])[0])
    for workload, at in wanted["workloads"].items():
        request = (at["script"], at["query"])
        found[workload] = {}
        for name, build in wanted["builds"].items():
            served(build, [request] * 3, [])  # what a page writes once, it has written
            less, more = (counted(build, [request] * n) for n in (few, many))
            found[workload][name] = (more - less) / (many - few)
            print(f"{workload} {name} {found[workload][name]:.0f} instructions a request", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
