#!/usr/bin/env python3
"""Open-loop client: requests at the ticks of fixed schedules, whatever became of the ones before.

    probe.py ADDRESS PORT HOST PATH SECONDS TIMEOUT KIND=STEP...    over TLS where PORT is 443

KIND is get (a connection of its own for each GET), keep (GETs over connections that are kept alive; one
that the server closed is replaced, and a GET that met the closing is sent once more, as RFC 9112 9.3.1
has it and every browser does) or post (a POST whose body takes POST_SECONDS to send). STEP is the time between two ticks in seconds.

Prints one JSON line: {sent, failed, outage, span, quiet, p99, kinds, bodies, errors, failures, resent, latencies, answers}.
`outage` is the time from the first failed request of the longest run of failures to the first answer to one that came
after them, `span` from the first failed request of all to the last, `quiet` from the first answer to one that came after
the last of them (or the begin) to the end; `latencies`, one for each request in the order of their ticks, count from the
tick, so a stall of the client counts too; `answers` are the times of day at which good answers were there, in order.
`errors` are counted by status, and by the body where that is one word. Ends after the tick when its standard input is closed.
"""

import collections
import http.client
import json
import math
import queue
import select
import ssl
import sys
import threading
import time

address, port, host, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
seconds, timeout = float(sys.argv[5]), float(sys.argv[6])
steps = {kind: float(step) for kind, step in (word.split("=") for word in sys.argv[7:])}
POST_SECONDS, POST_PARTS = 1.0, 5
results = []
guard = threading.Lock()
stop = threading.Event()
begun = time.monotonic()
epoch = time.time() - begun


def connect():
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    connection.connect()
    if port == 443:  # the lab's certificate is its own
        connection.sock = ssl._create_unverified_context().wrap_socket(connection.sock, server_hostname=host)
    return connection


def answer(connection):
    return read(connection.getresponse())


def read(response):
    body = response.read().decode(errors="replace")
    if response.status != 200:
        return False, f"status {response.status}" + (f" {body}" if body.isalpha() else "")
    return True, body[:400]


def get(_):
    connection = connect()
    try:
        connection.request("GET", path, headers={"Host": host, "Connection": "close"})
        return answer(connection)
    finally:
        connection.close()


def slow_body():
    for _ in range(POST_PARTS):
        time.sleep(POST_SECONDS / POST_PARTS)
        yield b"x" * 1000


def post(_):
    connection = connect()
    try:
        headers = {"Host": host, "Connection": "close", "Content-Length": str(1000 * POST_PARTS)}
        connection.request("POST", path, body=slow_body(), headers=headers)
        return answer(connection)
    finally:
        connection.close()


idle = queue.SimpleQueue()
resent = []


def kept_or_new():
    """A connection, and whether it was used before."""
    try:
        connection = idle.get_nowait()
    except queue.Empty:
        return connect(), False
    if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
        return connection, True
    connection.close()  # closed by the server while nothing was asked
    return connect(), False


def keep(at):
    connection, used = kept_or_new()
    try:
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
    except (http.client.RemoteDisconnected, ConnectionError):
        connection.close()
        if not used:
            raise
        resent.append(at)
        return get(at)
    outcome = read(response)  # once it has begun, an answer that is cut off is one that failed
    idle.put(connection)
    return outcome


def request(kind, at):
    try:
        good, note = {"get": get, "keep": keep, "post": post}[kind](at)
    except (OSError, http.client.HTTPException) as error:
        good, note = False, type(error).__name__
    with guard:
        results.append((at, good, note, kind, time.monotonic() - begun - at))


def schedule(kind, step):
    threads, tick = [], 0
    while not stop.is_set() and tick * step < seconds:
        at = tick * step
        stop.wait(max(0.0, begun + at - time.monotonic()))
        thread = threading.Thread(target=request, args=(kind, at))
        thread.start()
        threads = [t for t in threads if t.is_alive()] + [thread]
        tick += 1
    for thread in threads:
        thread.join()


def watch_stdin():
    sys.stdin.read()
    stop.set()


def summary(rows):
    slowest = sorted(row[4] for row in rows)
    p99 = slowest[max(0, -(-len(slowest) * 99 // 100) - 1)] if slowest else 0.0
    return {"sent": len(rows), "failed": sum(not row[1] for row in rows), "p99": round(p99, 3)}


def clock(at):
    """Time of day of a tick, to be laid beside the logs of the machines."""
    return time.strftime("%H:%M:%S", time.gmtime(epoch + begun + at))


threading.Thread(target=watch_stdin, daemon=True).start()
schedules = [threading.Thread(target=schedule, args=item) for item in steps.items()]
for thread in schedules:
    thread.start()
for thread in schedules:
    thread.join()

results.sort()
end = results[-1][0] if results else 0.0
answered = [math.inf]  # of each request, when the first answer came to it or to one after it; backwards
for at, good, _, _, latency in reversed(results):
    answered.append(min(answered[-1], at + latency if good else math.inf))
answered = answered[:0:-1]
outage, since = 0.0, None
for (at, good, *_), first in zip(results, answered, strict=True):
    if not good and since is None:
        since = at
    if good and since is not None:
        outage, since = max(outage, first - since), None
if since is not None:
    outage = max(outage, results[-1][0] + min(steps.values()) - since)
bad = [row[0] for row in results if not row[1]]
span = bad[-1] - bad[0] if bad else 0.0
last = max((n for n, row in enumerate(results) if not row[1]), default=-1)
again = answered[last + 1] if last + 1 < len(results) else end
quiet = max(0.0, end - (again if bad else 0.0))
kinds = {kind: summary([row for row in results if row[3] == kind]) for kind in steps}
errors = collections.Counter(f"{kind}: {note}" for _, good, note, kind, _ in results if not good)
bodies = collections.Counter(note for _, good, note, *_ in results if good)
failures = [f"{clock(at)} {kind}: {note}" for at, good, note, kind, _ in results if not good][:20]
said = {"kinds": kinds, "bodies": bodies, "errors": errors, "failures": failures, "resent": len(resent)}
said["latencies"] = [round(row[4], 3) for row in results]
said["answers"] = sorted(round(epoch + begun + at + latency, 3) for at, good, _, _, latency in results if good)
times = {"outage": round(outage, 2), "span": round(span, 2), "quiet": round(quiet, 2)}
print(json.dumps({**summary(results), **times, **said}))
