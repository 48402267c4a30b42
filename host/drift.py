#!/usr/bin/python3
"""drift: how this machine differs from its live generation. Nothing here writes.

    drift.py seal DIRECTORY   note what a directory holds, for later comparison

A sealed directory carries .fleet-seal, the mode and sha256 (or link target) of everything in it.
PHP builds, applications' code and the host's programs are sealed when they arrive.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import ipvs
import kernel
from bundle import ORIGIN

SEAL = ".fleet-seal"
ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
UNIT_DIRECTORY = "/etc/systemd/system/"
OWN_DIRECTORIES = ["/etc/fleet"]  # nobody else has a file there
PART_SECONDS = 600  # an unfinished file that is older was left by somebody who is not at work any more
SEALED = [f"{ROOT}/usr/local/lib/fleet", f"{ROOT}/opt/php", f"{ROOT}/opt/code"]
DISTRIBUTION = ("/usr/lib/", "/lib/", "/run/systemd/generator")  # units that come with Debian, or are made of its files
SCRIPT = re.compile(r"fleet-exec-(.+)-[0-9a-f]{8}\.service")  # a run of phpexec for a site
CRON = re.compile(r"fleet-cron-(.+)-([^-]+)\.service")  # site and entry
WAY_IN = "ssh.service"  # Debian's, and every VM is reached through it
SYSCTL_FILES = ["/etc/sysctl.conf", *(f"{folder}/sysctl.d/*.conf" for folder in ("/etc", "/run", "/usr/local/lib"))]
NOLOGIN = "/usr/sbin/nologin"  # the shell that systemd-sysusers gives where none is asked for
SECONDS = 30  # limit of one command
SETTLE_SECONDS = 3  # in which a balancer notices that a server is ready
# Mount options that the kernel shows as they were asked for; the others it renames, resolves or keeps to itself.
SHOWN = re.compile(r"ro|rw|nosuid|nodev|noexec|noatime|hard|soft|(vers|lookupcache|proto|sec)=.*")


def finding(kind: str, name: str, what: str, diff: str = "") -> dict:
    return {"kind": kind, "name": name, "what": what, **({"diff": diff} if diff else {})}


def strays(kind: str, wanted, have, of: str = "") -> list[dict]:
    """Names that are on one side only."""
    names = sorted(set(wanted) ^ set(have))
    return [finding(kind, of + name, "missing" if name in wanted else "not from the fleet") for name in names]


def command(*argv: str, status=(0,)) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    if done.returncode not in status:
        raise OSError(f"{argv[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


# --- directories that are written once -------------------------------------------------------


def below(directory: str):
    """Every file and link below a directory; os.walk counts a link to a directory among the directories."""
    for folder, folders, files in os.walk(directory):
        yield from (f"{folder}/{name}" for name in files)
        yield from (f"{folder}/{name}" for name in folders if os.path.islink(f"{folder}/{name}"))


def contents(directory: str) -> dict[str, str]:
    """What a directory holds, by path below it."""
    found = {}
    for place in below(directory):
        path = os.path.relpath(place, directory)
        if path in (SEAL, f"{SEAL}.part") or (directory == SEALED[0] and "__pycache__" in path):
            continue
        if os.path.islink(place):
            found[path] = f"-> {os.readlink(place)}"
            continue
        about = os.stat(place)
        with open(place, "rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        found[path] = f"{about.st_mode & 0o7777:04o} {about.st_uid}:{about.st_gid} {digest}"
    return found


def seal(directory: str) -> None:
    aside = f"{directory}/{SEAL}.part"
    with open(aside, "w", encoding="utf-8") as out:
        json.dump(contents(directory), out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, f"{directory}/{SEAL}")


def unsealed(directory: str, kind: str) -> list[dict]:
    try:
        with open(f"{directory}/{SEAL}", encoding="utf-8") as source:
            wanted = json.load(source)
    except OSError:
        return [finding(kind, directory, "has no seal: it is not what the fleet installed")]
    have, found = contents(directory), []
    for path in sorted(wanted.keys() | have.keys()):
        if wanted.get(path) != have.get(path):
            what = "missing" if path not in have else "not from the fleet" if path not in wanted else "changed"
            found.append(finding(kind, f"{directory}/{path}".removeprefix(ROOT), what))
    return found


def installed(parent: str) -> list[str]:
    """PHP builds on this machine."""
    names = os.listdir(parent) if os.path.isdir(parent) else []
    return sorted(name for name in names if not name.startswith("."))


# --- what the bundle says --------------------------------------------------------------------


def text_diff(entry: dict | None, place: str) -> str:
    """Unified diff of a file against what it should be; a secret's text is never shown."""
    if not entry or entry["kind"] != "file" or not os.path.isfile(place):
        return ""
    path = entry["path"]
    with open(place, encoding="utf-8", errors="replace") as source:
        have = source.read().splitlines(keepends=True)
    wanted = entry["content"].decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(difflib.unified_diff(wanted, have, f"{path} (fleet)", f"{path} (here)"))


def generation(bundle) -> list[dict]:
    """A generation has its name from its bundle."""
    right = bundle.id in (ORIGIN, hashlib.sha256(bundle.text).hexdigest())
    return [] if right else [finding("generation", bundle.id[:12], "its bundle was edited")]


def forged(bundle, manifest: dict[str, dict]) -> dict[str, str]:
    """Edits that the manifest was made to agree with."""
    found = {}
    for path, entry in bundle.entries.items():
        digest = hashlib.sha256(entry["content"]).hexdigest()
        if entry["kind"] == "file" and manifest.get(path, {}).get("sha256") != digest:
            found[path] = "content, and the manifest was made to agree"
    return found


def at_work(place: str) -> bool:
    """Whether a converge may be writing this file right now."""
    try:
        return place.endswith(".fleet-part") and time.time() - os.lstat(place).st_mtime < PART_SECONDS
    except FileNotFoundError:
        return True  # it has just got its name


def files(bundle, manifest: dict[str, dict], edits: dict[str, str]) -> list[dict]:
    """Edits of managed files, and files that nobody manages where only managed ones belong."""
    edits = forged(bundle, manifest) | edits
    entries = bundle.entries  # an edited bundle may lack what the manifest has
    found = [finding("file", path, what, text_diff(entries.get(path), ROOT + path)) for path, what in edits.items()]
    for directory in OWN_DIRECTORIES:
        paths = (place.removeprefix(ROOT) for place in below(ROOT + directory) if not at_work(place))
        found += [finding("file", path, "not from the fleet") for path in paths if path not in entries]
    return found


def unit_properties(names: list[str]) -> list[dict[str, str]]:
    wanted = "Id,LoadState,ActiveState,FragmentPath,DropInPaths,NeedDaemonReload"
    shown = command("systemctl", "show", f"--property={wanted}", "--", *names)
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]


def unit_problems(name: str, record: dict | None, state: dict[str, str], bundle) -> list[str]:
    """`record` is the bundle's of this unit; one without is not asked whether it runs."""
    active, source = state.get("ActiveState", ""), state.get("FragmentPath", "")
    if state.get("LoadState") == "masked":
        return ["masked"]
    found = []
    if record and (active == "failed" or (record["start"] and active not in ("active", "reloading", "activating"))):
        found.append(f"is {active or 'unknown'}, should run")
    path = UNIT_DIRECTORY + name
    if path in bundle.entries and source not in (path, f"{ROOT}/var/lib/fleet/current{path}"):
        found.append(f"is read from {source or 'nowhere'} instead of {path}")
    if path not in bundle.entries and source and not source.startswith(DISTRIBUTION):
        found.append(f"is read from {source} instead of the distribution's file")
    extra = [place for place in state.get("DropInPaths", "").split() if place not in bundle.entries]
    found += [f"{place} changes it" for place in extra if not place.startswith(DISTRIBUTION)]
    if state.get("NeedDaemonReload") == "yes":
        found.append("its file has changed since systemd read it")
    return found


def units(bundle) -> list[dict]:
    if not bundle.units:
        return []
    records = {unit["name"]: unit for unit in bundle.units}
    known = {os.path.basename(path) for path in bundle.entries if f"{os.path.dirname(path)}/" == UNIT_DIRECTORY}
    names = sorted(known | records.keys() | {WAY_IN})
    found = []
    for name, state in zip(names, unit_properties(names)):
        found += [finding("unit", name, what) for what in unit_problems(name, records.get(name), state, bundle)]
    for line in command("systemctl", "list-units", "--plain", "--no-legend", "--", "fleet-*", "fleet.*").splitlines():
        name, _, active, *_ = line.split()
        script = SCRIPT.fullmatch(name)
        known_script = script and f"/etc/fleet/scripts/{script[1]}.json" in bundle.entries
        if name not in known and not known_script and active in ("active", "activating"):
            found.append(finding("unit", name, "runs, but is not the fleet's"))
    return found


def cron_runs(bundle) -> list[dict]:
    """Each cron entry and, where the last time that came was this machine's, its run: `ended` (seconds since 1970),
    systemd's `result` and the `exit` status. One whose last run was another machine's has no `ended`."""
    entries = [found for path in bundle.entries if (found := CRON.fullmatch(os.path.basename(path)))]
    if not entries:
        return []
    wanted = "ActiveState,Result,ExecMainStatus,InactiveEnterTimestamp"
    names = [found[0] for found in entries]
    shown = command("systemctl", "show", "--timestamp=unix", f"--property={wanted}", "--", *names)
    runs = []
    for (site, entry), block in zip((found.groups() for found in entries), shown.strip().split("\n\n")):
        state = dict(line.split("=", 1) for line in block.splitlines())
        ended = state.get("InactiveEnterTimestamp", "").removeprefix("@")
        run = {"site": site, "entry": entry, "running": state["ActiveState"] == "activating"}
        if ended and state["Result"] != "exec-condition":  # systemd's word for a run that its condition skipped
            run |= {"ended": int(ended), "result": state["Result"], "exit": int(state["ExecMainStatus"])}
        runs.append(run)
    return runs


def sysctls(bundle) -> list[dict]:
    """Kernel parameters that are not what they should be, and other files that would fight over them at a boot."""
    found, wanted = [], kernel.wanted(bundle)
    for key, value in wanted.items():
        try:
            have = kernel.read(key)
        except OSError as error:
            have = error.strerror
        if have != value:
            found.append(finding("sysctl", key, f"is {have}, should be {value}"))
    places = [place for pattern in SYSCTL_FILES for place in glob.glob(ROOT + pattern) if os.path.isfile(place)]
    # By their real names: Debian's 99-sysctl.conf is a link to /etc/sysctl.conf.
    for place in sorted({os.path.realpath(p) for p in places if p.removeprefix(ROOT) not in bundle.entries}):
        with open(place, encoding="utf-8", errors="replace") as source:
            other = kernel.parameters(source.read())
        for key in sorted(wanted.keys() & other.keys()):
            if other[key] != wanted[key]:
                what = f"sets {key} to {other[key]}, the fleet to {wanted[key]}"
                found.append(finding("sysctl", place.removeprefix(ROOT), what))
    return found


def mount_problem(wanted: dict[str, str], seen: list[dict]) -> str:
    """`seen` are the file systems mounted at the place, the visible one last."""
    if not seen:
        return "is not mounted"
    if len(seen) > 1:
        return f"is hidden by {seen[-1]['source']}"
    [have] = seen
    source = f"LABEL={have['label']}" if wanted["What"].startswith("LABEL=") else have["source"]
    if source != wanted["What"] or have["fstype"] != wanted["Type"]:
        return f"is {have['fstype']} {source}, should be {wanted['Type']} {wanted['What']}"
    asked = [word for word in wanted.get("Options", "").split(",") if SHOWN.fullmatch(word)]
    missing = [word for word in asked if word not in have["options"].split(",")]
    return f"lacks {', '.join(missing)}" if missing else ""


def mounts(bundle) -> list[dict]:
    found, wanted = [], {}
    for path, entry in bundle.entries.items():
        if path.startswith(UNIT_DIRECTORY) and path.endswith(".mount"):
            lines = (line.partition("=") for line in entry["content"].decode().splitlines() if "=" in line)
            unit = {key.strip(): value.strip() for key, _, value in lines}
            wanted[unit["Where"]] = unit
    if not wanted:
        return []
    columns = "TARGET,SOURCE,FSTYPE,OPTIONS,LABEL"
    mounted: dict[str, list[dict]] = {}
    for each in json.loads(command("findmnt", "--json", "--list", "--output", columns))["filesystems"]:
        mounted.setdefault(each["target"], []).append(each)
    for where, unit in wanted.items():
        if problem := mount_problem(unit, mounted.get(where, [])):
            found.append(finding("mount", where, problem))
        for target in (target for target in mounted if target.startswith(f"{where}/") and target not in wanted):
            sources = [each["source"] for each in mounted[target]]
            # Where an NFS server has a file system inside the one that it exports, the kernel mounts it by itself.
            if sources != [unit["What"].rstrip("/") + target.removeprefix(where)]:
                found.append(finding("mount", target, f"{sources[-1]} hides a part of {where}"))
    return found


def addresses(bundle) -> list[dict]:
    """The virtual addresses of a server behind the balancers. A device that is down has none."""
    if not (unit := bundle.entries.get(f"{UNIT_DIRECTORY}fleet-vip.service")):
        return []
    wanted = re.findall(r" address replace (\S+) dev fleet0$", unit["content"].decode(), re.MULTILINE)
    shown = command("ip", "-4", "-json", "address", "show", "up", "dev", "fleet0", status=(0, 1)) or "[]"
    have = [item for link in json.loads(shown) for item in link.get("addr_info", [])]
    return strays("address", wanted, [f"{item['local']}/{item['prefixlen']}" for item in have])


def accounts(bundle) -> list[dict]:
    """Users that the bundle declares: a site's code runs as one, and has no more rights than it was given."""
    declared = [e["content"].decode() for path, e in bundle.entries.items() if path.startswith("/etc/sysusers.d/")]
    wanted = [shlex.split(line) for text in declared for line in text.splitlines() if line.startswith("u ")]
    if not wanted:
        return []

    def rows(path: str) -> list[list[str]]:
        with open(ROOT + path, encoding="utf-8") as source:
            return [line.rstrip("\n").split(":") for line in source]

    found, users, groups = [], {row[0]: row for row in rows("/etc/passwd")}, rows("/etc/group")
    for _, name, uid, _, home, *shell in wanted:
        if name not in users:
            found.append(finding("account", name, "missing"))
            continue
        should = {"uid": uid, "gid": uid, "home": home, "shell": shell[0] if shell else NOLOGIN}
        have = dict(zip(("uid", "gid", "comment", "home", "shell"), users[name][2:]))
        found += [
            finding("account", name, f"{what} is {have[what]}, should be {value}")
            for what, value in should.items() if have[what] != value
        ]  # fmt: skip
        found += [finding("account", name, f"is in group {row[0]}") for row in groups if name in row[3].split(",")]
    return found


def schedulers() -> dict[str, str]:
    """How each TCP service spreads its connections, in ipvsadm's words; /proc does not tell a scheduler's flags."""
    rules = (line.split(maxsplit=3) for line in command("ipvsadm", "--save", "--numeric").splitlines())
    return {rule[2]: rule[3].strip().removeprefix("-s ") for rule in rules if rule[:2] == ["-A", "-t"]}


def balanced(bundle, ready, live) -> list[dict]:
    """`ready` tells whether a server's responder would have requests sent there, `live` which directors hold
    the virtual addresses."""
    wanted = {entry["name"]: entry for entry in bundle.services}
    if not wanted:
        return []
    idle, have, spread = [], ipvs.table(), schedulers()
    found = strays("ipvs", wanted, have)
    if len(holders := live(bundle.rollout)) != 1:
        found.append(finding("address", "virtual addresses", f"held by {' and '.join(holders) or 'no director'}, should be by one"))
    for service in sorted(wanted.keys() & have.keys()):
        # A generation from before the scheduler was in the bundle says none.
        scheduler, servers = wanted[service]["scheduler"], wanted[service]["servers"]
        if scheduler and spread.get(service) != scheduler:
            found.append(finding("ipvs", service, f"is spread by {spread.get(service)}, should be {scheduler}"))
        found += strays("ipvs", servers, have[service], f"{service} ")
        for server in sorted(set(servers) & have[service].keys()):
            weight = have[service][server]["weight"]
            if weight > 1:
                found.append(finding("ipvs", f"{service} {server}", f"weight is {weight}, should be 1"))
            elif not weight:
                idle.append((service, server))
    # Weight 0 is the balancer's answer to a server that is not ready, unless that server is.
    asleep = sorted({server for _, server in idle})
    with ThreadPoolExecutor(16) as pool:
        awake = dict(zip(asleep, pool.map(lambda server: ready(bundle.rollout, server), asleep)))
    suspects = [(service, server) for service, server in idle if awake[server]]
    if suspects:
        time.sleep(SETTLE_SECONDS)
        have = ipvs.table()
        still = [(a, b) for a, b in suspects if not have.get(a, {}).get(b, {"weight": 1})["weight"]]
        found += [finding("ipvs", f"{a} {b}", "weight is 0, though the server is ready") for a, b in still]
    return found


def sealed(bundle) -> list[dict]:
    """The programs, the PHP builds and applications' code: what is here, and what the bundle's files name."""
    programs, *directories = SEALED
    found = unsealed(programs, "program") if os.path.isdir(programs) else []
    text = b"".join(entry["content"] for entry in bundle.entries.values())
    for directory, kind in zip(directories, ("artefact", "code"), strict=True):
        here, path = installed(directory), directory.removeprefix(ROOT)
        for name in here:
            found += unsealed(f"{directory}/{name}", kind)
        named = {match.decode() for match in re.findall(re.escape(path).encode() + rb"/([\w.+~-]+)", text)}
        found += [finding(kind, f"{path}/{name}", "missing") for name in sorted(named.difference(here))]
    return found


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "seal":
        sys.exit("usage: drift.py seal DIRECTORY")
    seal(sys.argv[2])
