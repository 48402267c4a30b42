"""A directory that stands for a machine, with stand-ins for systemctl and its friends."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HOST = Path(__file__).resolve().parent.parent
# As on a machine (-IB), and with the standard library alone (-S): what else this Python was given is left out.
PYTHON = (sys.executable, "-ISB")

# Keeps each unit's state in <root>/units and each call in <root>/calls. A unit named in
# <root>/broken will not start or restart. <root>/units/<unit>.shown holds more properties of it,
# <root>/units/running what list-units prints.
SYSTEMCTL = """#!/bin/sh
here=${0%/*}; units=$here/../units; verb=$1; shift
if [ "$verb" = show ]; then
    both=no
    for word; do
        case $word in *UnitFileState*) both=yes ;; esac
        case $word in --*) continue ;; esac
        [ $both = yes ] && echo "UnitFileState=$(cat "$units/$word.enabled" 2>/dev/null)"
        echo "ActiveState=$(cat "$units/$word" 2>/dev/null || echo inactive)"
        cat "$units/$word.shown" 2>/dev/null; echo
    done
    exit 0
fi
if [ "$verb" = list-units ]; then cat "$units/running" 2>/dev/null; exit 0; fi
echo "$verb $*" >> "$here/../calls"
for unit; do
    if [ "$verb" != stop ] && grep -qsx "$unit" "$here/../broken"; then
        echo "Job for $unit failed."; exit 1
    fi
    case $verb in
    stop|disable) echo inactive > "$units/$unit" ;;
    start|restart) echo active > "$units/$unit" ;;
    esac
done
"""
SYSUSERS = """#!/bin/sh
echo "sysusers $(cat)" >> "${0%/*}/../calls"
"""
JOURNALCTL = """#!/bin/sh
echo "a line of the journal"
"""


class Machine:
    def __init__(self):
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # every step flushes: a disk would be slow
        self.root = Path(tempfile.mkdtemp(prefix="fleet-host-", dir=memory))
        for name in ("etc", "bin", "units"):
            (self.root / name).mkdir()
        (self.root / "etc/hostname").write_text("web1\n")
        for name, text in (("systemctl", SYSTEMCTL), ("systemd-sysusers", SYSUSERS), ("journalctl", JOURNALCTL)):
            self.program(name, text)

    def program(self, name, text):
        place = self.root / "bin" / name
        place.write_text(text)
        place.chmod(0o755)

    def close(self):
        shutil.rmtree(self.root)

    def run(self, program, *words, given="", **environment):
        environment = {
            **os.environ,
            "FLEET_ROOT": str(self.root),
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            **environment,
        }
        return subprocess.run(
            [*PYTHON, str(HOST / program), *words],
            input=given, capture_output=True, text=True, env=environment, timeout=60, check=False,
        )  # fmt: skip

    def apply(self, text, **environment):
        return self.run("converge.py", "apply", given=text, **environment)

    def report(self, text, expect=0, **environment):
        done = self.apply(text, **environment)
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def read(self, path):
        return (self.root / path.lstrip("/")).read_text()

    def write(self, path, text):
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def exists(self, path):
        return os.path.lexists(self.root / path.lstrip("/"))

    def calls(self):
        """What was asked of systemctl since the last look."""
        log = self.root / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def tree(self, *under):
        """Every file below the given directories with content and times: to prove nothing was written."""
        found = {}
        for top in under:
            for folder, _, names in os.walk(self.root / top):
                for name in [*names, ""]:
                    place = Path(folder) / name
                    about = place.lstat()
                    found[str(place)] = (about.st_mtime_ns, about.st_ino, about.st_mode)
        return found


def file(path, text, mode="0644"):
    head = {"path": path, "mode": mode, "owner": "root", "group": "root", "lines": text.count("\n")}
    return f"@file {json.dumps(head)}\n{text}"


def record(kind, /, **fields):
    return f"@{kind} {json.dumps(fields)}\n"


def bundle(*records, host="web1"):
    return record("bundle", format=1, host=host) + "".join(records)
