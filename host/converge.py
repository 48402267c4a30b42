#!/usr/bin/python3
"""converge: make this machine what one bundle says, whole or not at all.

    converge.py apply     bundle on stdin; check, switch, reload, prove, report
    converge.py secrets   secret contents on stdin; stored for the next apply
    converge.py diff      hand edits of managed files as a unified diff
    converge.py status    what is live, as JSON

The files of a bundle live in /var/lib/fleet/generations/<sha256 of the bundle>/etc/...; every
managed path in /etc is a symbolic link through /var/lib/fleet/current, so that one rename of
`current` changes all of them together. Nothing in /etc is touched before every check has passed
on a private copy of /etc as it will be. /var/lib/fleet/unsettled names the generations that
running services may have read; it exists from just before a switch until everything is proved,
so that an apply that was killed is finished, or taken back, by the next one.

stdout carries one JSON line, stderr is for people. Exit status: 0 done, 1 failed,
2 refused (bad input, lock held) or, for diff, differences found.
"""

from __future__ import annotations

import difflib
import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import probes
import store
from bundle import SECRET_RECORDS, Bundle, Refused, check_record, parse, read_records
from plan import changed_paths, plan_units, service_of, touches, unit_commands
from store import Failed

RUN = f"{store.ROOT}/run/fleet"
COMMAND_SECONDS = 120  # limit of one check, action or systemctl call
PROBE_SECONDS = 5.0  # limit of one try of a probe
MAX_LINES = 20  # of a command's output in a message
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


def make_users(bundle: Bundle) -> None:
    """Users and groups come first: the owners of files may be among them. They are only added."""
    text = b"".join(e["content"] for path, e in bundle.entries.items() if path.startswith("/etc/sysusers.d/"))
    if text:
        run(["systemd-sysusers", "-"], "systemd-sysusers", text)


def check(bundle: Bundle, now: str, changed: set[str]) -> None:
    """Run the checkers where /etc is what it will be and the live generation is the candidate:
    a private mount namespace, so that they read the usual paths and the machine sees nothing."""
    due = [item for item in bundle.checks if not item["paths"] or touches(item["paths"], changed)]
    if not due:
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
        script = 'mount --bind "$1" "$2" && mount --bind "$3" "$4" && shift 4 && exec "$@"'
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        inside += [f"{view}/etc", etc, store.home(bundle.id), store.home(now)]

        def one(item: dict) -> str:
            become = ["setpriv", f"--reuid={item['user']}", f"--regid={item['group']}", "--clear-groups"]
            try:
                user = become if item["user"] or item["group"] else []
                run([*inside, *user, *item["argv"]], f"check {item['name']}")
            except Failed as failure:
                return str(failure)
            return ""

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            failures = [text for text in pool.map(one, due) if text]
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


def problem(probe: dict) -> str:
    """What is wrong right now; empty when the probe passes."""
    place = probe["address"], probe["port"]
    try:
        match probe["kind"]:
            case "http":
                words = probe["url"], probe["host"], probe["status"], probe["contains"]
                return probes.http_problem(*words, PROBE_SECONDS)
            case "fastcgi":
                return probes.fastcgi_problem(*place, probe["path"], probe["contains"], PROBE_SECONDS)
            case "tcp":
                return probes.tcp_problem(*place, PROBE_SECONDS)
        run(probe["argv"], probe["argv"][0])
    except (OSError, http.client.HTTPException, Failed) as error:
        return str(error) or type(error).__name__
    return ""


def prove(bundle: Bundle) -> None:
    """Every probe must pass once within its own time; all of them are tried at the same time."""

    def one(probe: dict) -> str:
        limit = time.monotonic() + probe["within"]
        while reason := problem(probe):
            if time.monotonic() >= limit:
                return f"probe {probe['name']} failed for {probe['within']} s: {reason}"
            time.sleep(0.2)
        return ""

    with ThreadPoolExecutor(16) as pool:
        failures = [text for text in pool.map(one, bundle.probes) if text]
    if failures:
        raise Failed("\n".join(failures))


# --- the verbs -------------------------------------------------------------------------------


@contextmanager
def lock():
    """One converge at a time. The file names its holder for the one that is turned away."""
    os.makedirs(RUN, exist_ok=True)
    with open(os.open(f"{RUN}/converge.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another converge is running: {holder.read().strip()}") from None
        holder.truncate()
        holder.write(f"pid {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        holder.flush()
        yield


class Report(dict):
    """What is printed at the end, and the clock of the steps."""

    def __init__(self, bundle: Bundle):
        super().__init__(
            host=bundle.host, generation=bundle.id, previous=None, result="", changed=[], units={}, drift=[]
        )
        self["seconds"], self.clock = {}, time.monotonic()

    def step(self, name: str) -> None:
        """Mark a step as done. Tests kill the program at this point."""
        now = time.monotonic()
        self["seconds"][name] = round(self["seconds"].get(name, 0) + now - self.clock, 3)
        self.clock = now
        if os.environ.get("FLEET_KILL_AT") == name:
            os.kill(os.getpid(), signal.SIGKILL)


def activate(old: Bundle, new: Bundle, changed: set[str], report: Report, started=()) -> None:
    """Go from one generation to another: links, switch, then what reads the files."""
    store.set_links(new.id)
    report.step("linked")
    since = dict.fromkeys([*store.unsettled(), old.id, new.id])
    store.write(store.UNSETTLED, json.dumps(list(since)).encode())
    report.step("marked")
    os.utime(store.home(new.id))
    store.point(store.CURRENT, f"generations/{new.id}")
    report.step("switched")
    store.drop_links(new.id)
    report.step("unlinked")
    for action in new.actions:
        if touches(action["paths"], changed):
            say(f"run {action['name']}")
            run(action["argv"], f"action {action['name']}")
    report.step("actions")
    report["units"] = plan(old, new, changed, started)
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
    if not os.path.isdir(store.home(bundle.id)):
        make_users(bundle)
        store.unpack(bundle)
    report.step("unpacked")


def apply(bundle: Bundle, report: Report) -> None:
    now = store.live()
    open_since = store.unsettled()
    before = store.load(open_since[0] if open_since else now)  # the last generation that was proved
    report["previous"] = before.id
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
        prove(bundle)
        report.step("probed")
        report["result"] = "unchanged"
        return
    for path in report["changed"]:
        say(f"changed {path}")
        if path in wanted and os.path.isdir(store.ROOT + path) and not os.path.islink(store.ROOT + path):
            raise Failed(f"{path} is a directory on this machine; move it away")
    check(bundle, now, changed)
    report.step("checked")
    for name, action in plan(before, bundle, changed).items():
        say(f"will {action} {name}")
    report.step("planned")
    try:
        activate(before, bundle, changed, report)
        prove(bundle)
        report.step("probed")
    except BaseException:
        if before.id != bundle.id:
            go_back(bundle, before, changed, report)
        raise
    settle(report)
    report["result"] = "applied"


def go_back(candidate: Bundle, before: Bundle, changed: set[str], report: Report) -> None:
    report.step("failed")
    say(f"going back to {before.id[:12]}")
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    attempted = report["units"]
    started = [name for name, action in attempted.items() if action == "start"]
    try:
        activate(candidate, before, changed, report, started)
        prove(before)
        settle(report)
        report["result"] = "reverted"
    except (Failed, OSError) as failure:
        report["result"] = "not reverted"
        say(f"{before.id[:12]} is live again, but: {failure}")
    report["units"] = {**attempted, **report["units"]}


def refuse_other_host(bundle: Bundle) -> None:
    """A bundle that reached the wrong machine must not be applied there."""
    try:
        with open(f"{store.ROOT}/etc/hostname", encoding="utf-8") as source:
            name = source.read().strip()
    except FileNotFoundError:
        return
    if name.split(".")[0] != bundle.host.split(".")[0]:
        raise Refused(f"the bundle is for {bundle.host}, this machine's /etc/hostname says {name}")


def apply_verb(data: bytes) -> int:
    bundle = parse(data)
    refuse_other_host(bundle)
    report = Report(bundle)
    with lock():
        status = 1
        try:
            apply(bundle, report)
            status = 0
        except (Failed, OSError, SystemExit) as failure:
            reason = str(failure) if not isinstance(failure, SystemExit) else "stopped by a signal"
            now = store.live()
            fate = f"{bundle.id[:12]} not activated" if now != bundle.id else f"{bundle.id[:12]} not proved"
            report["result"] = report["result"] or "failed"
            report["error"] = f"{reason}; {fate}, {now[:12]} stays live"
            say("\n".join(line for line in f"{bundle.host}: {report['error']}".splitlines()[:60]))
        print(json.dumps(report))
        return status


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


def diff_verb(_: bytes) -> int:
    if not os.path.islink(store.CURRENT):
        return 0
    bundle = store.load(store.live())
    edits = store.drift(bundle.id)
    for path, what in edits.items():
        entry = bundle.entries[path]
        print(f"# {path}: {what}")
        if entry["kind"] == "file" and os.path.isfile(store.ROOT + path):
            with open(store.ROOT + path, encoding="utf-8", errors="replace") as source:
                found = source.read().splitlines(keepends=True)
            wanted = entry["content"].decode("utf-8", "replace").splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(wanted, found, f"{path} (fleet)", f"{path} (here)"))
    return 2 if edits else 0


def status_verb(_: bytes) -> int:
    if not os.path.islink(store.CURRENT):
        print(json.dumps({"generation": None}))
        return 0
    now = store.live()
    known = sorted(store.names())
    print(
        json.dumps({"generation": now, "unsettled": store.unsettled(), "generations": known, "drift": store.drift(now)})
    )
    return 0


VERBS = {"apply": apply_verb, "secrets": secrets_verb, "diff": diff_verb, "status": status_verb}


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in VERBS:
        say(f"usage: converge.py {'|'.join(VERBS)}")
        return 2
    os.umask(0o022)
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(1))  # an exception: the way back is taken
    verb = sys.argv[1]
    try:
        return VERBS[verb](sys.stdin.buffer.read() if verb in ("apply", "secrets") else b"")
    except (Refused, Failed) as failure:
        say(f"converge {verb}: {failure}")
        return 2 if isinstance(failure, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
