#!/usr/bin/python3
"""codefetch: pack one commit of an application's code, once, on a builder.

One JSON object on stdin:

    artefact     its name, <application>-<hash of what decides its bytes>; installed as /opt/code/<artefact>
    application  whose code it is
    repository   URL of a Git repository that can be read without a password
    commit       full hash of the commit
    tag          name that this commit must have there; may be absent
    documentRoot directory of the code that the Web sees; empty for the whole
    writable     directories that become links to the same path below /srv/sites/<application>
    stub         {path, text} of a file that is added, which the code must not have; may be absent
    moodle       {branch, php, modules}: the branch that the code must be of, the PHP release and the
                 modules (as `php -m` lists them) that it will have; absent for any other application

The archive is /var/lib/fleet/artefacts/code/<artefact>.tar.zst with <artefact>.json beside it. When both are there
and match nothing is fetched. The same commit gives the same bytes. stdout carries one JSON line, {artefact, sha256,
tree}, stderr is for people. Exit status: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
STORE, REPOSITORIES = f"{ROOT}/var/lib/fleet/artefacts/code", f"{ROOT}/var/lib/fleet/repositories"
WORK, RUN = f"{ROOT}/var/tmp/fleet-code", f"{ROOT}/run/fleet"
TREES = "/srv/sites"
COMMAND_SECONDS = 1800
NAME = re.compile(r"[a-z][a-z0-9-]*-[0-9a-f]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
KEYS = {
    "artefact": str, "application": str, "repository": str, "commit": str, "documentRoot": str, "writable": list,
}  # fmt: skip
MORE_KEYS = {"tag": str, "stub": dict, "moodle": dict}
SUBMODULE = "160000"  # mode of git's tree


class Refused(Exception):
    """The request is wrong: nothing was done."""


class Failed(Exception):
    """A step did not succeed."""


def say(text: str) -> None:
    try:
        print(text[:2000], file=sys.stderr, flush=True)
    except OSError:
        pass


def mistakes(wanted: dict) -> list[str]:
    """Everything that is wrong with the request."""
    known = {**KEYS, **MORE_KEYS}
    found = [f"unknown key {key!r}" for key in sorted(set(wanted) - set(known))]
    found += [f"missing key {key!r}" for key in KEYS if key not in wanted]
    found += [f"{k}: must be a {t.__name__}" for k, t in known.items() if k in wanted and type(wanted[k]) is not t]
    if found:
        return found
    if not NAME.fullmatch(wanted["artefact"]):
        found.append(f"artefact: {wanted['artefact']!r} is not a plain name")
    if not COMMIT.fullmatch(wanted["commit"]):
        found.append("commit: needs 40 hexadecimal digits")
    if not wanted["repository"].startswith(("http://", "https://")) and not ROOT:
        found.append("repository: must be an http or https URL")
    stub = wanted.get("stub")
    paths = [wanted["documentRoot"], *wanted["writable"], *([stub.get("path", "")] if stub is not None else [])]
    found += [f"{path!r} must be a plain path" for path in paths if path.startswith("/") or ".." in path.split("/")]
    return found


def run(argv: list[str], **more) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "HOME": WORK}
    environment |= more.pop("environment", {})
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS,
            env=environment, check=False, **more,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{argv[0]} failed: {error}") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-10:]
        raise Failed(f"{' '.join(argv[:6])} failed ({done.returncode}): " + "\n".join(line[:400] for line in lines))
    return done.stdout


# --- the repository --------------------------------------------------------------------------


def has(repository: str, commit: str) -> bool:
    call = ["git", "-C", repository, "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(call, capture_output=True, check=False).returncode == 0


def fetch(wanted: dict) -> str:
    """The repository as it is kept here, with the commit in it. A server that gives out no single commit gives all."""
    repository, url, commit = f"{REPOSITORIES}/{wanted['application']}.git", wanted["repository"], wanted["commit"]
    if not os.path.isdir(f"{repository}/objects"):
        shutil.rmtree(repository, ignore_errors=True)
        os.makedirs(REPOSITORIES, exist_ok=True)
        run(["git", "init", "-q", "--bare", repository])
    git = ["git", "-C", repository]
    tag = wanted.get("tag")
    if not has(repository, commit):
        say(f"fetching {commit[:12]} of {url}")
        try:
            run([*git, "fetch", "-q", "--depth=1", "--no-tags", url, commit])
        except Failed:
            everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
            run([*git, "fetch", "-q", "--no-tags", url, *everything])
    if not has(repository, commit):
        raise Failed(f"{url} has no commit {commit}: correct code.commit, or push it there")
    if tag:
        told = [line.split() for line in run(["git", "ls-remote", url, f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"]).splitlines()]
        found = next((digest for digest, name in sorted(told, key=lambda t: t[1], reverse=True)), "")
        if found != commit:
            raise Failed(f"tag {tag} of {url} is {f'commit {found}' if found else 'not there'}, not {commit}")
    return repository


def export(repository: str, commit: str, directory: str) -> str:
    """The commit's files in an empty directory; the hash of its tree. What attributes would leave out is in too."""
    git = ["git", "-C", repository]
    entries = run([*git, "ls-tree", "-r", "-z", commit]).split("\0")
    modules = [entry.split("\t", 1)[1] for entry in entries if entry.startswith(SUBMODULE)]
    if modules:
        raise Failed(f"submodules are not fetched, and {commit[:12]} has {', '.join(modules[:3])}")
    index = {"GIT_INDEX_FILE": f"{WORK}/index"}
    run([*git, "read-tree", commit], environment=index)
    run([*git, f"--work-tree={directory}", "checkout-index", "-a", "-f"], environment=index)
    return run([*git, "rev-parse", f"{commit}^{{tree}}"]).strip()


# --- what is made of it ----------------------------------------------------------------------


def leads_out(directory: str, place: str) -> bool:
    """Whether links of the repository lead a path out of the code. Root writes there, for every machine."""
    top = os.path.realpath(directory)
    return os.path.commonpath([top, os.path.realpath(place)]) != top


def within(directory: str, path: str) -> str:
    place = f"{directory}/{path}"
    if leads_out(directory, os.path.dirname(place)):
        raise Failed(f"the code has a link on the way to {path}, which leads out of it: remove the link")
    return place


def furnish(wanted: dict, directory: str) -> None:
    """Add the stub, and the links to what the application writes."""
    root = f"{directory}/{wanted['documentRoot']}".rstrip("/")
    if not os.path.isdir(root) or leads_out(directory, root):
        raise Failed(f"the code has no directory {wanted['documentRoot']}: correct documentRoot")
    if stub := wanted.get("stub"):
        place = within(directory, stub["path"])
        if os.path.lexists(place):
            raise Failed(f"the code has a {stub['path']} of its own: a configuration does not belong into the repository")
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w", encoding="utf-8") as out:
            out.write(stub["text"])
    for path in wanted["writable"]:
        place = within(directory, path)
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        elif os.path.lexists(place):
            os.unlink(place)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(f"{TREES}/{wanted['application']}/{path}", place)


def release_of(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def assignment(text: str, name: str) -> str:
    found = re.search(rf"^\s*\${name}\s*=\s*['\"]?([^'\";]+)['\"]?\s*;", text, re.MULTILINE)
    return found[1].strip() if found else ""


def requirements(matrix: str, branch: str) -> ElementTree.Element | None:
    """Moodle's own list for a branch: of that version, or of the newest one that is not newer."""
    versions = ElementTree.fromstring(matrix).findall("MOODLE")
    known = [v for v in versions if release_of(v.get("version", ""))[:2] <= release_of(branch)[:2]]
    return max(known, key=lambda v: release_of(v.get("version", "")), default=None)


def moodle_problems(wanted: dict, directory: str) -> list[str]:
    """Why this code cannot run as the Moodle that is meant: with its branch, its PHP and its modules."""
    order, root = wanted["moodle"], f"{directory}/{wanted['documentRoot']}".rstrip("/")
    try:
        with open(f"{root}/version.php", encoding="utf-8") as source:
            release = assignment(source.read(), "release")
        with open(f"{root}/admin/environment.xml", encoding="utf-8") as source:
            needs = requirements(source.read(), order["branch"])
    except (OSError, ElementTree.ParseError) as error:
        where = wanted["documentRoot"] or "its top directory"
        return [f"the code is no Moodle {order['branch']}, whose document root is {where}: {error}"]
    found = []
    if release_of(release)[:2] != release_of(order["branch"])[:2]:
        found.append(f"the code is Moodle {release}: set fleet:moodle.application.branch, or choose another commit")
    if needs is None:
        return [*found, f"admin/environment.xml says nothing of Moodle {order['branch']}"]
    title, version = f"Moodle {needs.get('version')}", ".".join(order["php"].split(".")[:2])
    php = needs.find("PHP")
    if php is not None and php.get("level") == "required" and release_of(order["php"]) < release_of(php.get("version", "")):
        found.append(f"{title} needs PHP {php.get('version')} or newer, not {order['php']}: set fleet:moodle.application.php.version")
    have = {name.lower().removeprefix("zend ") for name in order["modules"]}
    for module in needs.iterfind("PHP_EXTENSIONS/PHP_EXTENSION"):
        if module.get("level") == "required" and module.get("name", "").lower() not in have:
            found.append(f"{title} needs the PHP module {module.get('name')}: add it to fleet:php.{version}")
    return found


def pack(directory: str, packed: str, seconds: str) -> None:
    """The same files give the same bytes: fixed order, owner, modes and time."""
    same = ["--sort=name", f"--mtime=@{seconds}", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
    same += ["--mode=u=rwX,go=rX"]
    run(["tar", *same, "-I", "zstd -q -10 -T0", "-cf", packed, "-C", directory, "."])


def digest_of(place: str) -> str:
    with open(place, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def stored(wanted: dict) -> dict | None:
    """What the store has of this request; None where that is not whole."""
    try:
        with open(f"{STORE}/{wanted['artefact']}.json", encoding="utf-8") as source:
            record = json.load(source)
        return record if digest_of(f"{STORE}/{wanted['artefact']}.tar.zst") == record["sha256"] else None
    except (OSError, ValueError, KeyError):
        return None


def bring(wanted: dict) -> dict:
    said, tree = stored(wanted), f"{WORK}/tree"
    # Which PHP will run it may have changed since it was packed.
    if said and said.get("moodle") == wanted.get("moodle"):
        return said
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(tree)
    try:
        repository = fetch(wanted)
        digest = export(repository, wanted["commit"], tree)
        if "moodle" in wanted and (problems := moodle_problems(wanted, tree)):
            raise Failed("\n".join(problems))
        furnish(wanted, tree)
        seconds = run(["git", "-C", repository, "log", "-1", "--format=%ct", wanted["commit"]]).strip()
        os.makedirs(STORE, exist_ok=True)
        packed = f"{STORE}/{wanted['artefact']}.tar.zst"
        pack(tree, f"{packed}.part", seconds)
        os.replace(f"{packed}.part", packed)
        record = {"artefact": wanted["artefact"], "sha256": digest_of(packed), "tree": digest, "commit": wanted["commit"]}
        record |= {"moodle": wanted["moodle"]} if "moodle" in wanted else {}
        with open(f"{STORE}/{wanted['artefact']}.json.part", "w", encoding="utf-8") as out:
            json.dump(record, out)
        os.sync()
        os.replace(f"{STORE}/{wanted['artefact']}.json.part", f"{STORE}/{wanted['artefact']}.json")
        say(f"packed {wanted['artefact']}, tree {digest}")
        return record
    finally:
        shutil.rmtree(WORK, ignore_errors=True)


def main() -> int:
    os.umask(0o022)
    wanted = {}
    try:
        try:
            wanted = json.load(sys.stdin)
        except ValueError as error:
            raise Refused(f"the input is not JSON: {error}") from None
        if wrong := mistakes(wanted):
            raise Refused("\n".join(wrong))
        os.makedirs(RUN, exist_ok=True)
        with open(os.open(f"{RUN}/codefetch.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            record = bring(wanted)
        print(json.dumps({key: record[key] for key in ("artefact", "sha256", "tree")}))
        return 0
    except (Refused, Failed, OSError) as failure:
        say(f"{wanted.get('application', 'codefetch')}: codefetch: {failure}")
        return 2 if isinstance(failure, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
