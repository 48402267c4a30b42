#!/usr/bin/env python3
"""Open-loop client: a new connection at every tick of a fixed schedule, whatever became of the last.

    probe.py ADDRESS PORT HOST PATH SECONDS STEP TIMEOUT

Prints one JSON line: {sent, failed, outage, bodies, errors}. `outage` is the time in seconds from the
first failed request of the longest run of failures to the next good one; stalls count, because the
schedule does not wait for answers. Ends early, after the tick, when its standard input is closed.
"""

import collections
import json
import socket
import sys
import threading
import time

address, port, host, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
seconds, step, timeout = (float(word) for word in sys.argv[5:8])
results = []
guard = threading.Lock()
stop = threading.Event()


def request(at):
    try:
        with socket.create_connection((address, port), timeout) as connection:
            connection.settimeout(timeout)
            text = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            connection.sendall(text.encode())
            answer = b""
            while block := connection.recv(65536):
                answer += block
        head, _, body = answer.partition(b"\r\n\r\n")
        good = b" 200 " in head.split(b"\r\n")[0]
        note = body.decode(errors="replace")[:400] if good else head.split(b"\r\n")[0].decode(errors="replace")
    except OSError as error:
        good, note = False, type(error).__name__
    with guard:
        results.append((at, good, note))


def watch_stdin():
    sys.stdin.read()
    stop.set()


threading.Thread(target=watch_stdin, daemon=True).start()
begun = time.monotonic()
threads = []
tick = 0
while not stop.is_set() and time.monotonic() - begun < seconds:
    at = begun + tick * step
    time.sleep(max(0.0, at - time.monotonic()))
    thread = threading.Thread(target=request, args=(at - begun,))
    thread.start()
    threads.append(thread)
    tick += 1
for thread in threads:
    thread.join()

results.sort()
outage, since = 0.0, None
for at, good, _ in results:
    if not good and since is None:
        since = at
    if good and since is not None:
        outage, since = max(outage, at - since), None
if since is not None:
    outage = max(outage, results[-1][0] + step - since)
errors = collections.Counter(note for _, good, note in results if not good)
bodies = collections.Counter(note for _, good, note in results if good)
failed = sum(errors.values())
print(json.dumps({"sent": len(results), "failed": failed, "outage": round(outage, 2), "bodies": bodies, "errors": errors}))
