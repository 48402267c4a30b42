#!/usr/bin/python3
"""converge: make this machine what one bundle says, whole or not at all.

    converge.py apply     bundle on stdin; check, drain, switch, reload, prove, report
    converge.py again     {generation} on stdin, before its gate: apply it again where this machine went back
    converge.py gate      {generation, holdSeconds} on stdin, over a connection of its own: prove the
                          generation for longer, take requests again, and settle it; with holdSeconds,
                          it stays unsettled for so long, until a last gate without
    converge.py leave     {peers, seconds, patience} on stdin; before a reboot: take this machine out of its services,
                          once no other of its tier is away; one that is not rebooted comes back by itself
    converge.py watch     go back when a change is not settled in time; systemd runs it
    converge.py secrets   secret contents on stdin; stored for the next apply
    converge.py drift     how this machine differs from its live generation; reads only
    converge.py status    what is live, and how it fares

The files of a bundle live in /var/lib/fleet/generations/<sha256 of the bundle>/etc/...; every
managed path in /etc is a symbolic link through /var/lib/fleet/current, so that one rename of
`current` changes all of them together. Nothing in /etc is touched before every check has passed
on a private copy of /etc as it will be. /var/lib/fleet/unsettled names the generations that
running services may have read; it exists from before a change until everything is proved, so that
an apply that was killed is finished, or taken back, by the next one. A bundle with a rollout record
is only proved when a gate has come back for it: a change that cut the way to this machine, or whose
program died, is taken back by the watcher.

stdout carries one JSON line, stderr is for people. Exit status: 0 done, 1 failed,
2 refused (bad input, lock held) or, for drift, differences found.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import drift
import kernel
import probes
import rollout
import slumber
import store
from bundle import ORIGIN, SECRET_RECORDS, Bundle, Refused, check_record, parse, read_records
from plan import changed_paths, needs_drain, plan_units, service_of, touches, unit_commands
from store import Failed

RUN = f"{store.ROOT}/run/fleet"
COMMAND_SECONDS = 120  # limit of one check, action or systemctl call
PROBE_SECONDS = 5.0  # limit of one try of a probe
MAX_LINES = 20  # of a command's output in a message
LOCK_SECONDS = float(os.environ.get("FLEET_LOCK_SECONDS", "180"))  # for another converge to end: the watcher, going back
WATCHER = "fleet-watch.service"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def say(text: str) -> None:
    """One bounded line for people. A reader that has gone away must not stop the work."""
    try:
        print(text[:2000], file=sys.stderr, flush=True)
    except OSError:
        pass


# --- commands -------------------------------------------------------------------------------


def run(argv: list, what: str, text: bytes = b"") -> None:
    """Run a command to its end; Failed with the end of its output unless it exits 0."""
    environment = {"PATH": os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(text)
        given.seek(0)
        try:  # output goes to a file: a daemon that keeps a pipe open could hold us up
            child = subprocess.Popen(
                [str(word) for word in argv], stdin=given, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env=environment, cwd="/",
            )  # fmt: skip
        except OSError as error:
            raise Failed(f"{what} failed: {argv[0]}: {error.strerror}") from None
        try:
            status = child.wait(COMMAND_SECONDS)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"{what} failed: not done after {COMMAND_SECONDS} s") from None
            raise
        output.seek(0)
        said = output.read().decode("utf-8", "replace").strip().splitlines()
    if status:
        tail = "\n".join(line[:400] for line in said[-MAX_LINES:])
        raise Failed(f"{what} failed: {tail or f'exit status {status}'}")


def due(records: list[dict], changed: set[str]) -> list[dict]:
    """Checks or probes that a change asks for: those for any, and those for one of its paths."""
    return [record for record in records if not record["paths"] or touches(record["paths"], changed)]


def make_users(bundle: Bundle) -> None:
    """Users and groups come first: the owners of files may be among them. They are only added."""
    text = b"".join(e["content"] for path, e in bundle.entries.items() if path.startswith("/etc/sysusers.d/"))
    if text:
        run(["systemd-sysusers", "-"], "systemd-sysusers", text)


def check(bundle: Bundle, now: str, changed: set[str]) -> None:
    """Run the checkers where /etc is what it will be and the live generation is the candidate:
    a private mount namespace, so that they read the usual paths and the machine sees nothing.
    Standard input tells them the changed paths, one a line."""
    checks = due(bundle.checks, changed)
    if not checks:
        return
    etc, view = f"{store.ROOT}/etc", f"{RUN}/check"
    shutil.rmtree(view, ignore_errors=True)
    os.makedirs(view, mode=0o700)  # it holds a copy of /etc/shadow
    try:
        run(["cp", "-a", etc, view], "copy of /etc")
        for path in store.stale_links(store.manifest(bundle.id)):
            os.unlink(view + path)
        for path in bundle.entries:
            os.makedirs(os.path.dirname(view + path), exist_ok=True)
            store.point(view + path, store.link_text(path))
        script, told = 'mount --bind "$1" "$2" && mount --bind "$3" "$4" && shift 4 && exec "$@"', "\n".join(changed).encode()
        # A check whose converge was killed ends too: what it started may be in the way of the next one.
        inside = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        inside += [f"{view}/etc", etc, store.home(bundle.id), store.home(now)]

        def one(item: dict) -> str:
            become = ["setpriv", f"--reuid={item['user']}", f"--regid={item['group']}", "--clear-groups"]
            try:
                user = become if item["user"] or item["group"] else []
                run([*inside, *user, *item["argv"]], f"check {item['name']}", told)
            except Failed as failure:
                return str(failure)
            return ""

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            failures = [text for text in pool.map(one, checks) if text]
    finally:
        shutil.rmtree(view, ignore_errors=True)
    if failures:
        raise Failed("\n".join(failures))


def unit_states(names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    call = ["systemctl", "show", "--property=ActiveState", "--", *names]
    shown = subprocess.run(call, check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    blocks = [block.strip().removeprefix("ActiveState=") for block in shown.stdout.strip().split("\n\n")]
    if shown.returncode or len(blocks) != len(names):
        raise Failed(f"systemctl show failed: {shown.stderr.strip()[-400:]}")
    return dict(zip(names, blocks))


def served(old: Bundle, new: Bundle) -> Bundle:
    """The old bundle with the units of every other generation that running services may have read: what an
    abandoned change started runs until somebody stops it."""
    others = [store.load(name) for name in store.unsettled() if name not in (old.id, new.id)]
    units = {unit["name"]: unit for bundle in [*others, old] for unit in bundle.units}
    entries = {path: entry for bundle in [*others, old] for path, entry in bundle.entries.items()}
    return replace(old, units=list(units.values()), entries=entries)


def plan(old: Bundle, new: Bundle, changed: set[str], started=()) -> dict[str, str]:
    names = [unit["name"] for unit in old.units + new.units]
    names += [service_of(name) for name in names if name.endswith(".socket")]
    return plan_units(old, new, changed, unit_states(list(dict.fromkeys(names))), started)


def change_units(wanted: dict[str, str], changed: set[str]) -> None:
    for call in unit_commands(wanted, changed):
        say("run " + " ".join(call))
        try:
            run(call, " ".join(call)[:300])
        except Failed as failure:
            broken = [name for name, state in unit_states(call[2:]).items() if state != "active"]
            journal = [
                "journalctl",
                "--no-pager",
                "-q",
                "-o",
                "cat",
                "-n",
                "10",
                *(f"--unit={name}" for name in broken),
            ]
            said = subprocess.run(journal, check=False, capture_output=True, text=True, errors="replace").stdout
            raise Failed(f"{failure}\n{said[-2000:] if broken else ''}".strip()) from None


# --- probes ----------------------------------------------------------------------------------


def unhealthy(place: str, broken: list[str]) -> str:
    """What the machine's responder finds wrong, but for sites that failed before the change."""
    if (said := rollout.failing_checks(place)) is None:
        return f"{place} does not answer"
    own, sites = said
    found = {**own, **{name: reason for name, reason in sites.items() if name not in broken}}
    return ", ".join(f"{name}: {reason}" for name, reason in found.items())


def problem(probe: dict, broken: list[str]) -> str:
    """What is wrong right now; empty when the probe passes."""
    place = probe["address"], probe["port"]
    try:
        match probe["kind"]:
            case "http":
                words = probe["url"], probe["host"], probe["status"], probe["contains"]
                return probes.http_problem(*words, PROBE_SECONDS)
            case "fastcgi":
                return probes.fastcgi_problem(*place, probe["path"], probe["contains"], PROBE_SECONDS, probe["site"])
            case "tcp":
                return probes.tcp_problem(*place, PROBE_SECONDS)
            case "health":
                return unhealthy("{}:{}".format(*place), broken)
        run(probe["argv"], probe["argv"][0])
    except (OSError, http.client.HTTPException, Failed) as error:
        return str(error) or type(error).__name__
    return ""


def stay_healthy(bundle: Bundle, settings: dict, broken: list[str]) -> None:
    """Every probe must pass at every look for minHealthySeconds, and begin to within healthyDeadlineSeconds."""
    limit, since = time.monotonic() + settings["healthyDeadlineSeconds"], None
    always = due(bundle.probes, set())
    while True:
        with ThreadPoolExecutor(16) as pool:
            looks = zip(always, pool.map(lambda probe: problem(probe, broken), always))
            failures = [f"probe {probe['name']} failed: {reason}" for probe, reason in looks if reason]
        now = time.monotonic()
        if failures and now >= limit:
            raise Failed("\n".join(failures))
        since = None if failures else since or now
        if since and now - since >= settings["minHealthySeconds"]:
            return
        time.sleep(0.5)


def prove(bundle: Bundle, changed: set[str], broken: list[str]) -> None:
    """Every probe that the change asks for must pass once within its own time, all of them together. A site
    that failed before it is nobody's mistake now, and one that slept sleeps again: hundreds that a change of them all
    has woken would need the memory of hundreds. Whatever fails its whole time ends it for those that were not asked yet:
    where all of hundreds fail, nobody waits for each."""
    failed = threading.Event()
    unasked: list[str] = []

    def one(probe: dict) -> str:
        if failed.is_set():
            unasked.append(probe["name"])
            return ""
        limit = time.monotonic() + probe["within"]
        while reason := problem(probe, broken):
            if time.monotonic() >= limit:
                busy = probe["unit"] and probes.busy(probe["unit"], probe["children"])
                if busy:
                    return ""
                failed.set()
                return f"probe {probe['name']} failed for {probe['within']} s: {reason}"
            time.sleep(0.2)
        if probe["unit"] in asleep:
            slumber.stop([probe["unit"]])
        return ""

    wanted = [probe for probe in due(bundle.probes, changed) if probe["site"] not in broken]
    states = unit_states(sorted({probe["unit"] for probe in wanted} - {""}))
    asleep = {unit for unit, state in states.items() if state == "inactive"}
    # The start of an FPM is work for a CPU: more of them at once only make each one late.
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        failures = [text for text in pool.map(one, wanted) if text]
    if failures:
        raise Failed("\n".join([*failures, *([f"{len(unasked)} probes more were not made"] if unasked else [])]))


def prove_balancing(bundle: Bundle) -> None:
    """A director's table must be what its bundle says, with every server in it that is ready; and one
    director of them all must hold the virtual addresses."""
    limit = time.monotonic() + rollout.DIRECTOR_SECONDS
    while found := drift.balanced(bundle, rollout.is_ready, rollout.live_directors):
        if time.monotonic() >= limit:
            raise Failed("\n".join(f"{each['kind']} {each['name']}: {each['what']}" for each in found))
        time.sleep(1)


# --- the verbs -------------------------------------------------------------------------------


@contextmanager
def lock(seconds: float = LOCK_SECONDS):
    """One converge at a time. The file names its holder for the one that waits, or is turned away."""
    os.makedirs(RUN, exist_ok=True)
    limit, told = time.monotonic() + seconds, False
    with open(os.open(f"{RUN}/converge.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as holder:
        while True:
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder.seek(0)
                name = holder.read().strip()
                if time.monotonic() >= limit:
                    raise Refused(f"another converge is running: {name}") from None
                if not told:
                    say(f"waiting for another converge: {name}")
                told = True
                time.sleep(0.2)
        holder.seek(0)
        holder.truncate()
        holder.write(f"converge {sys.argv[1]}, pid {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        holder.flush()
        yield


class Report(dict):
    """What is printed at the end, and the clock of the steps."""

    def __init__(self, bundle: Bundle):
        super().__init__(
            host=bundle.host, generation=bundle.id, previous=None, result="", changed=[], units={}, drift=[]
        )
        # Of a change that is open, the sites that failed before it.
        self["broken"] = store.open_change().get("broken", [])
        self["seconds"], self.clock = {}, time.monotonic()

    def step(self, name: str) -> None:
        """Mark a step as done. Tests kill the program at this point."""
        now = time.monotonic()
        self["seconds"][name] = round(self["seconds"].get(name, 0) + now - self.clock, 3)
        self.clock = now
        if os.environ.get("FLEET_KILL_AT") == name:
            os.kill(os.getpid(), signal.SIGKILL)


def mark(old: Bundle, new: Bundle, report: Report) -> None:
    """From here on running services may read either generation."""
    settings = new.rollout or old.rollout
    since = dict.fromkeys([*store.unsettled(), old.id, new.id])
    store.keep_open(list(since), settings and settings["confirmSeconds"], report["broken"], whole=False)


def partners_needed(planned: dict[str, str], bundle: Bundle) -> bool:
    """Whether a partner has to take over while a unit is away."""
    partnered = {unit["name"] for unit in bundle.units if unit["leave"]}
    return any(action in ("stop", "restart") and name in partnered for name, action in planned.items())


def start_watcher() -> None:
    if os.path.lexists(f"{store.ROOT}/etc/systemd/system/{WATCHER}"):
        run(["systemctl", "start", "--no-block", WATCHER], f"start of {WATCHER}")


def activate(old: Bundle, new: Bundle, changed: set[str], report: Report, started=()) -> None:
    """Go from one generation to another: links, switch, then what reads the files."""
    store.set_links(new.id)
    report.step("linked")
    mark(old, new, report)
    report.step("marked")
    os.utime(store.home(new.id))
    store.point(store.CURRENT, f"generations/{new.id}")
    report.step("switched")
    store.drop_links(new.id)
    report.step("unlinked")
    running = served(old, new)
    for line in kernel.follow(running, new):
        say(line)
    for action in new.actions:
        if touches(action["paths"], changed):
            say(f"run {action['name']}")
            run(action["argv"], f"action {action['name']}")
    report.step("actions")
    report["units"] = plan(running, new, changed, started)
    change_units(report["units"], changed)
    report.step("units")


def settle(report: Report) -> None:
    """Everything is proved: nothing is left to finish or to take back."""
    if os.path.exists(store.UNSETTLED):
        os.unlink(store.UNSETTLED)
        store.sync(store.STATE)
    store.prune()
    report.step("settled")


def prepare(bundle: Bundle, report: Report) -> None:
    """The candidate, whole and unspoiled, in its directory."""
    if os.path.isdir(store.home(bundle.id)):
        spots = store.spoiled(bundle.id)
        if bundle.id == store.live():
            for path in spots:  # its directory is in use: put its files right one by one
                aside = f"{store.home(bundle.id)}{path}.fleet-part"
                if os.path.lexists(aside):
                    os.unlink(aside)
                store.write_entry(aside, bundle.entries[path])
                os.replace(aside, store.home(bundle.id) + path)
                store.sync(os.path.dirname(aside))
        elif spots:
            os.rename(store.home(bundle.id), f"{store.home(bundle.id)}.part")
    if bundle.id != store.live():
        make_users(bundle)  # also of one that is here from an earlier try: they may be gone
    if not os.path.isdir(store.home(bundle.id)):
        store.unpack(bundle)
    report.step("unpacked")


def apply(bundle: Bundle, report: Report) -> None:
    now = store.live()
    open_since = store.unsettled()
    before = store.load(open_since[0] if open_since else now)  # the last generation that was proved
    report["previous"] = before.id
    if bundle.rollout and not open_since:
        report["broken"] = rollout.broken_sites(bundle.rollout)
    if report["broken"]:
        say(f"failing before this change, and no part of its proof: {' '.join(report['broken'])}")
    edits = store.drift(now)
    report["drift"] = [f"{path}: {what}" for path, what in edits.items()]
    for line in report["drift"]:
        say(f"hand edit {line}")
    prepare(bundle, report)

    wanted = store.manifest(bundle.id)
    changed = set(edits) & wanted.keys()
    for generation in {now, *open_since}:
        changed |= changed_paths(store.manifest(generation), wanted)
    report["changed"] = sorted(changed)
    same = bundle.id == now and not edits and not open_since and not store.stale_links(wanted)
    if same and not plan(before, bundle, set()):
        report.step("planned")
        prove(bundle, set(), report["broken"])
        report.step("probed")
        report["result"] = "unchanged"
        return
    for path in report["changed"]:
        say(f"changed {path}")
        if path in wanted and os.path.isdir(store.ROOT + path) and not os.path.islink(store.ROOT + path):
            raise Failed(f"{path} is a directory on this machine; move it away")
    check(bundle, now, changed)
    report.step("checked")
    running = served(before, bundle)
    planned = plan(running, bundle, changed)
    for name, action in planned.items():
        say(f"will {action} {name}")
    report.step("planned")
    settings = bundle.rollout
    serves = before.id != ORIGIN  # a machine that was never proved is nobody's server yet
    if settings and serves:
        rollout.check_budget(settings)
        if partners_needed(planned, bundle):
            rollout.check_partners(settings)
    report.step("budgeted")
    leaving = rollout.leaving_servers(running.services, bundle.services)
    try:
        if settings and now != ORIGIN:
            mark(before, bundle, report)
            start_watcher()
            if serves and (fragile := needs_drain(planned, running, bundle)):
                say(f"draining for {' '.join(fragile)}")
                rollout.drain(settings, say)
            rollout.release(settings, leaving, say)
        report.step("drained")
        activate(before, bundle, changed, report)
        prove(bundle, changed, report["broken"])
        report.step("probed")
    except BaseException:
        rollout.weigh(leaving, 1)
        if before.id != bundle.id:
            go_back(bundle, before, changed, report)
        elif settings:
            rollout.take_requests()
        raise
    if settings:
        store.keep_open(store.unsettled(), settings["confirmSeconds"], report["broken"])
        start_watcher()
    else:
        settle(report)
    report["result"] = "applied"


def go_back(candidate: Bundle, before: Bundle, changed: set[str], report: Report) -> None:
    report.step("failed")
    settings = before.rollout or candidate.rollout
    say(f"going back to {before.id[:12]}")
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    attempted = report["units"]
    started = [name for name, action in attempted.items() if action == "start"]
    try:
        running = served(candidate, before)
        if settings and not rollout.drained() and needs_drain(plan(running, before, changed, started), running, before):
            drain_if_possible(settings)
        activate(candidate, before, changed, report, started)
        prove(before, changed, report["broken"])
        settle(report)
        report["result"] = "reverted"
    except (Failed, OSError) as failure:
        report["result"] = "not reverted"
        say(f"{before.id[:12]} is live again, but: {failure}")
    if settings:
        rollout.take_requests()
    report["units"] = {**attempted, **report["units"]}


def drain_if_possible(settings: dict) -> None:
    """On the way back the old state comes first: what cannot be drained is not waited for."""
    try:
        rollout.check_budget(settings)
        rollout.drain(settings, say)
    except Failed as failure:
        say(f"going back without draining: {failure}")


def take_back(report: Report) -> None:
    """Leave an open change for the generation that was proved last."""
    generations = store.unsettled()
    back = store.manifest(generations[0])
    changed = set().union(*(changed_paths(store.manifest(name), back) for name in generations))
    go_back(store.load(store.live()), store.load(generations[0]), changed, report)


def again(wanted: str, report: Report) -> None:
    """A generation that this machine left is applied again. Its gate comes over a connection of its own, so
    that a change which cuts the way to the machine fails as often as it is tried."""
    if store.live() == wanted and not store.cut_short():
        return
    if not os.path.isdir(store.home(wanted)):
        raise Failed(f"generation {wanted[:12]} is not on this machine any more: have its config command replaced (--replace URN)")
    say(f"{wanted[:12]} was taken back, or cut short; applying it again")
    apply(store.load(wanted), report)


def gate(wanted: str, hold: float, report: Report) -> None:
    """Prove a generation over the connection that this runs on."""
    if store.live() != wanted:
        raise Failed("the change was taken back by this machine itself: nobody reached it in time, or it failed when it was applied again")
    if store.cut_short():
        raise Failed("the change was cut short before its end: the next up goes on with it")
    bundle = store.load(wanted)
    if not (settings := bundle.rollout):
        raise Failed("a bundle without a rollout record needs no gate")
    if not store.unsettled():
        report["broken"] = rollout.broken_sites(settings)
    # One that is held was proved for its time already, and waits for others since.
    once = {**settings, "minHealthySeconds": 0} if store.open_change().get("held") else settings
    try:
        stay_healthy(bundle, once, report["broken"])
        report.step("healthy")
        rollout.undrain(settings, report["broken"])
        report.step("undrained")
        rollout.check_vip(settings)
        prove_balancing(bundle)
        report.step("reached")
    except BaseException:
        if store.unsettled()[:1] not in ([], [wanted]):
            take_back(report)
        raise
    if hold and store.unsettled():
        store.keep_open(store.unsettled(), hold, report["broken"], held=True)
        start_watcher()
    else:
        settle(report)
    report["result"] = "held" if hold else "settled"


def host_name() -> str:
    with open(f"{store.ROOT}/etc/hostname", encoding="utf-8") as source:
        return source.read().strip().split(".")[0]


def refuse_other_host(bundle: Bundle) -> None:
    """A bundle that reached the wrong machine must not be applied there."""
    if host_name() != bundle.host.split(".")[0]:
        raise Refused(f"the bundle is for {bundle.host}, this machine's /etc/hostname says {host_name()}")


def reported(report: Report, work) -> int:
    """Do the work and print the report, whatever became of it."""
    status = 1
    try:
        work()
        status = 0
    except (Failed, OSError, SystemExit) as failure:
        reason = str(failure) if not isinstance(failure, SystemExit) else "stopped by a signal"
        wanted, now = report["generation"], store.live()
        fate = f"{wanted[:12]} not activated" if now != wanted else f"{wanted[:12]} not proved"
        report["result"] = report["result"] if report["result"] in ("reverted", "not reverted") else "failed"
        report["error"] = f"{reason}; {fate}, {now[:12]} stays live"
        say("\n".join(line for line in f"{report['host']}: {report['error']}".splitlines()[:60]))
    print(json.dumps(report))
    return status


def apply_verb(data: bytes) -> int:
    bundle = parse(data)
    refuse_other_host(bundle)
    with lock():
        report = Report(bundle)
        return reported(report, lambda: apply(bundle, report))


def gate_verb(data: bytes, work=gate) -> int:
    try:
        order = json.loads(data)
        wanted, hold = order["generation"], order["holdSeconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"a gate needs generation and holdSeconds: {error}") from None
    with lock():
        report = Report(Bundle(id=wanted, host=host_name()))
        return reported(report, lambda: work(wanted, hold, report))


def again_verb(data: bytes) -> int:
    return gate_verb(data, lambda wanted, _, report: again(wanted, report))


def leave(bundle: Bundle, order: dict, report: Report) -> None:
    settings, partnered = bundle.rollout, [unit["name"] for unit in bundle.units if unit["leave"]]
    rollout.wait_for_peers(order["peers"], order["patience"])
    if order["peers"]:  # one that is deleted with all the others leaves nobody behind
        rollout.check_budget(settings)
    if not store.unsettled():
        report["broken"] = rollout.broken_sites(settings)
    # Leaving takes its time too; what stays away for longer than that and the seconds was called off.
    longest = rollout.DIRECTOR_SECONDS + settings["drainSeconds"] + order["seconds"]
    store.keep_open(store.unsettled() or [store.live()], longest, report["broken"], whole=not store.cut_short())
    start_watcher()
    try:
        rollout.drain(settings, say)
        if partnered:
            run(["systemctl", "stop", *partnered], "handing over")
    except BaseException:
        if partnered:
            run(["systemctl", "start", *partnered], "taking over again")
        rollout.take_requests()
        settle(report)
        raise
    report["result"] = "drained"


def leave_verb(data: bytes) -> int:
    try:
        order = {name: json.loads(data)[name] for name in ("peers", "seconds", "patience")}
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"leave needs peers, seconds and patience: {error}") from None
    with lock():
        bundle = store.load(store.live())
        report = Report(bundle)
        if not bundle.rollout:  # nothing was ever configured here: nobody misses it
            print(json.dumps(report))
            return 0
        return reported(report, lambda: leave(bundle, order, report))


def mend(now: Bundle) -> int:
    """A change was cut short before its switch: only its traces are left."""
    report = Report(now)
    go_back(now, now, set(), report)
    print(json.dumps(report))
    return 0 if report["result"] == "reverted" else 1


def watch_verb(_: bytes) -> int:
    while change := store.open_change():
        if change["deadline"] is None:
            return 0
        if change["boot"] != store.boot():  # the machine went down in between
            with lock():
                now = store.load(store.live())
                if now.id == change["generations"][0]:  # and nothing that runs has read another one
                    return mend(now)
                seconds = now.rollout and now.rollout["confirmSeconds"]  # the wait begins again
                store.keep_open(change["generations"], seconds, change.get("broken", []), whole=change.get("whole", True))
            continue
        left = change["deadline"] - store.clock()
        if left > 0:
            time.sleep(min(left, 1))
            continue
        with lock(3600):  # a converge that is at work may take its time
            change = store.open_change()
            if not change or change["deadline"] > store.clock():
                continue
            report = Report(store.load(store.live()))
            say("the change was not settled in time")
            take_back(report)
            print(json.dumps(report))
            return 0 if report["result"] == "reverted" else 1
    return 0


def secrets_verb(data: bytes) -> int:
    mistakes: list[str] = []
    records = list(read_records(data, SECRET_RECORDS, mistakes))
    mistakes += [f"line {n}: {text}" for n, kind, fields, _ in records for text in check_record(kind, fields)]
    if mistakes:
        raise Refused("the secrets are wrong:\n" + "\n".join(mistakes))
    with lock():
        os.makedirs(store.SECRETS, exist_ok=True)
        os.chmod(store.SECRETS, 0o700)
        new = [record for record in records if not os.path.exists(f"{store.SECRETS}/{record[2]['digest']}")]
        for _, _, fields, content in new:
            store.write(f"{store.SECRETS}/{fields['digest']}", content)
    print(json.dumps({"secrets": len(records), "new": len(new)}))
    return 0


def drift_verb(_: bytes) -> int:
    report = {"host": host_name(), "generation": None, "findings": []}
    if os.path.islink(store.CURRENT):
        bundle = store.load(store.live())
        report["generation"] = bundle.id
        # A change that is not settled yet is no hand edit: its own report tells of it.
        report["findings"] = [
            *drift.generation(bundle), *drift.files(bundle, store.manifest(bundle.id), store.drift(bundle.id)),
            *drift.units(bundle), *drift.sysctls(bundle), *drift.mounts(bundle), *drift.addresses(bundle),
            *drift.accounts(bundle), *drift.balanced(bundle, rollout.is_ready, rollout.live_directors), *drift.sealed(bundle),
        ]  # fmt: skip
    print(json.dumps(report))
    return 2 if report["findings"] else 0


NAS_PROGRAM = "/etc/fleet/lib/snapshots.py"


def nas_status() -> dict | None:
    """Of a NAS VM: its last snapshot, its room and quotas; None where that could not be told."""
    try:
        done = subprocess.run(
            [sys.executable, "-IB", f"{store.ROOT}{NAS_PROGRAM}", "status"], capture_output=True, text=True, check=True, timeout=30
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def status_verb(_: bytes) -> int:
    report = {"host": host_name(), "generation": None, "unsettled": store.unsettled(), "drained": rollout.drained()}
    report["artefacts"], report["code"] = (drift.installed(directory) for directory in drift.SEALED[1:])
    report["failing"], report["cron"] = {}, []
    if os.path.islink(store.CURRENT):
        bundle = store.load(store.live())
        report["generation"], report["changed"] = bundle.id, int(os.lstat(store.CURRENT).st_mtime)
        report["cron"] = drift.cron_runs(bundle)
        if bundle.rollout:
            said = rollout.failing_checks(bundle.rollout["responder"])
            report["failing"] = said and {**said[0], **said[1]}
        if NAS_PROGRAM in bundle.entries:
            report["nas"] = nas_status()
    print(json.dumps(report))
    return 0


VERBS = {
    "apply": apply_verb, "again": again_verb, "gate": gate_verb, "leave": leave_verb, "watch": watch_verb,
    "secrets": secrets_verb, "drift": drift_verb, "status": status_verb,
}  # fmt: skip
READING = ("apply", "again", "gate", "leave", "secrets")


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in VERBS:
        say(f"usage: converge.py {'|'.join(VERBS)}")
        return 2
    os.umask(0o022)
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(1))  # an exception: the way back is taken
    verb = sys.argv[1]
    try:
        return VERBS[verb](sys.stdin.buffer.read() if verb in READING else b"")
    except (Refused, Failed) as failure:
        say(f"converge {verb}: {failure}")
        return 2 if isinstance(failure, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
