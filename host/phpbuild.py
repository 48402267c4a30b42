#!/usr/bin/python3
"""phpbuild: compile one PHP, once, on the fleet's builder.

One JSON object on stdin:

    artefact     its name, <version>-<hash of all that follows>; installed as /opt/php/<artefact>
    version      PHP version, compared with what the compiled binary says
    sources      {php: {url, sha256}, pecl: [{name, url, sha256, options?}]}
    patches      [{name, sha256, text}], applied to the PHP source with patch -p1
    options      for configure; --prefix and --enable-option-checking=fatal are added
    modules      what `php -m` must list besides the modules no PHP is without
    packages     Debian packages it was built with (installed by base); recorded
    jobs         parallel compilers; absent: one a CPU

The artefact is /var/lib/fleet/artefacts/<artefact>.tar.zst, with <artefact>.json that says what it
was made of. When both are there and match the request nothing is compiled. The same request on
the same Debian gives the same bytes. stdout carries one JSON line, stderr one line a phase.
Exit status: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
STORE, SOURCES = f"{ROOT}/var/lib/fleet/artefacts", f"{ROOT}/var/lib/fleet/sources"
WORK, RUN = f"{ROOT}/var/tmp/fleet-build", f"{ROOT}/run/fleet"
OBJECTS = f"{ROOT}/var/lib/fleet/ccache"  # a build that differs in an option compiles only what it changes
PREFIX = f"{ROOT}/opt/php"
INSTALLED = ".fleet-artefact"  # base's marker: this directory is in use on this machine
EPOCH = "1577836800"  # the time that goes into files and binaries: any fixed one will do
PHASE_SECONDS, DOWNLOAD_SECONDS = 3600, 60
HARDENING = {  # a PHP faces the web
    "CFLAGS": "-O2 -fstack-protector-strong -fstack-clash-protection -D_FORTIFY_SOURCE=2",
    "LDFLAGS": "-Wl,-z,relro -Wl,-z,now",
}
ALWAYS = {"core", "date", "hash", "json", "pcre", "random", "reflection", "spl", "standard"}
ZEND_EXTENSIONS = {"opcache": "zend opcache", "xdebug": "xdebug"}  # file name -> name in php -m
NAME = re.compile(r"[A-Za-z0-9][\w.+~-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
KEYS = {"artefact": str, "version": str, "sources": dict, "options": list, "modules": list}
MORE_KEYS = {"patches": list, "packages": list, "jobs": int}
PER_RUN = {"jobs"}  # not part of what the artefact is


class Refused(Exception):
    """The request is wrong: nothing was done."""


class Failed(Exception):
    """A phase did not succeed."""


def say(text: str) -> None:
    try:
        print(text[:2000], file=sys.stderr, flush=True)
    except OSError:
        pass


# --- decisions (pure) ------------------------------------------------------------------------


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
    pecl = wanted["sources"].get("pecl", [])
    found += [f"sources.pecl: {item.get('name')!r} is not a plain name" for item in pecl if not named(item)]
    for item in [wanted["sources"].get("php", {}), *pecl]:
        if not item.get("url") or not SHA256.fullmatch(item.get("sha256", "")):
            found.append(f"sources: {item.get('name', 'php')} needs url and sha256")
    for patch in wanted.get("patches", []):
        if hashlib.sha256(patch.get("text", "").encode()).hexdigest() != patch.get("sha256"):
            found.append(f"patches: {patch.get('name')!r} does not have the sha256 it is given with")
    return found


def named(item: dict) -> bool:
    return bool(NAME.fullmatch(item.get("name", "")))


def recipe(wanted: dict) -> dict:
    """What makes the artefact what it is."""
    return {**{key: value for key, value in wanted.items() if key not in PER_RUN}, "environment": HARDENING}


def module_names(listing: str) -> set[str]:
    """Lower-case names in the output of php -m."""
    return {line.strip().lower() for line in listing.splitlines() if line.strip() and not line.startswith("[")}


def module_problem(found: set[str], declared: list[str]) -> str:
    """How the modules of a PHP differ from the declared ones; empty when they do not."""
    wanted = {ZEND_EXTENSIONS.get(name.lower(), name.lower()) for name in declared}
    missing, extra = sorted(wanted - found), sorted(found - wanted - ALWAYS)
    parts = [f"{word} {', '.join(names)}" for word, names in (("lacks", missing), ("also has", extra)) if names]
    return "; ".join(parts)


def load_line(module_file: str) -> str:
    """The line of php.ini that loads a module."""
    name = os.path.basename(module_file).removesuffix(".so")
    return f"{'zend_extension' if name in ZEND_EXTENSIONS else 'extension'}={name}"


def shared_modules(prefix: str) -> list[str]:
    return sorted(glob.glob(f"{prefix}/lib/php/extensions/*/*.so"))


# --- the edge --------------------------------------------------------------------------------


class Log:
    """A file for all output, and one line a phase for people."""

    def __init__(self, place: str, environment: dict):
        self.place, self.environment = place, environment
        self.file = open(place, "wb")  # noqa: SIM115
        self.seconds: dict[str, float] = {}

    def phase(self, name: str, action, *words):
        started = time.monotonic()
        try:
            return action(*words)
        except Failed as failure:
            raise Failed(f"{name} failed: {failure}; the log is {self.place}") from None
        finally:
            self.seconds[name] = round(time.monotonic() - started, 1)
            say(f"{name} {self.seconds[name]} s")

    def run(self, argv: list[str], folder: str, stdin: bytes = b"") -> None:
        """Run a command with its output in the log; Failed with the end of it unless it exits 0."""
        self.file.write(f"\n$ {' '.join(argv)}\n".encode())
        self.file.flush()
        begin = self.file.tell()
        try:
            done = subprocess.run(
                argv, cwd=folder, input=stdin, stdout=self.file, stderr=subprocess.STDOUT,
                timeout=PHASE_SECONDS, env=self.environment, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(str(error)) from None
        if done.returncode:
            with open(self.place, "rb") as source:
                source.seek(begin)
                lines = source.read().decode("utf-8", "replace").strip().splitlines()[-20:]
            raise Failed("\n".join(line[:400] for line in lines) or f"exit status {done.returncode}")
        self.file.seek(0, os.SEEK_END)


def digest_of(place: str) -> str:
    with open(place, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def fetch(item: dict) -> str:
    """A source tarball, kept by its sha256; where it is."""
    place = f"{SOURCES}/{item['sha256']}"
    if os.path.exists(place) and digest_of(place) == item["sha256"]:
        return place
    os.makedirs(SOURCES, exist_ok=True)
    try:
        with (
            urllib.request.urlopen(item["url"], timeout=DOWNLOAD_SECONDS) as source,
            open(f"{place}.part", "wb") as out,
        ):
            shutil.copyfileobj(source, out)
    except (OSError, ValueError) as error:
        raise Failed(f"{item['url']}: {error}") from None
    found = digest_of(f"{place}.part")
    if found != item["sha256"]:
        os.unlink(f"{place}.part")
        raise Failed(f"{item['url']}: sha256 is {found}, expected {item['sha256']}")
    os.replace(f"{place}.part", place)
    return place


def unpack(log: Log, tarball: str, folder: str) -> None:
    os.makedirs(folder)
    log.run(["tar", "-xf", tarball, "-C", folder, "--no-same-owner"], folder)


def source_folder(folder: str, wanted: str, name: str) -> str:
    """The directory of a tarball that holds the file `wanted`. Of a PECL tarball with several
    versions in it, the one that its package.xml is about."""
    found = sorted(os.path.dirname(path) for path in glob.glob(f"{folder}/*/{wanted}"))
    if len(found) > 1 and os.path.exists(f"{folder}/package.xml"):
        with open(f"{folder}/package.xml", encoding="utf-8", errors="replace") as source:  # names of people
            release = re.search(r"<release>([^<]+)</release>", source.read())
        found = [path for path in found if release and os.path.basename(path) == f"{name}-{release[1]}"]
    if len(found) != 1:
        raise Failed(f"{name}: {len(found)} directories of the tarball hold {wanted}, expected one")
    return found[0]


def build_pecl(log: Log, item: dict, prefix: str, jobs: int, folder: str) -> None:
    unpack(log, fetch(item), folder)
    source = source_folder(folder, "config.m4", item["name"])
    log.run([f"{prefix}/bin/phpize"], source)
    options = ["--enable-option-checking=fatal", *item.get("options", [])]
    log.run(["./configure", f"--with-php-config={prefix}/bin/php-config", *options], source)
    log.run(["make", f"-j{jobs}"], source)
    log.run(["make", "install"], source)


def tidy(log: Log, prefix: str) -> None:
    """Drop what only compiling needs."""
    for name in ("include", "lib/php/build", "php/man", "bin/phpize", "bin/php-config"):
        if os.path.isdir(f"{prefix}/{name}"):
            shutil.rmtree(f"{prefix}/{name}")
        elif os.path.exists(f"{prefix}/{name}"):
            os.unlink(f"{prefix}/{name}")
    binaries = [path for path in (f"{prefix}/bin/php", f"{prefix}/sbin/php-fpm") if os.path.exists(path)]
    log.run(["strip", "--strip-unneeded", *binaries, *shared_modules(prefix)], prefix)


def prove(prefix: str, wanted: dict) -> None:
    """The installed PHP says the version and, with all shared modules loaded, lists what was asked for."""

    def ask(*words: str) -> str:
        done = subprocess.run([*words], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode or done.stderr.strip():
            raise Failed(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[:1000]}")
        return done.stdout

    php = f"{prefix}/bin/php"
    version = ask(php, "-r", "echo PHP_VERSION;").strip()
    if version != wanted["version"]:
        raise Failed(f"the source is PHP {version}, the request says {wanted['version']}")
    loaded = [word for module in shared_modules(prefix) for word in ("-d", load_line(module))]
    if problem := module_problem(module_names(ask(php, "-n", *loaded, "-m")), wanted["modules"]):
        raise Failed(f"the compiled PHP {problem}")
    ask(f"{prefix}/sbin/php-fpm", "-v")


def libraries(prefix: str) -> list[str]:
    """Debian packages of the shared libraries that the binaries need at run time."""
    binaries = [f"{prefix}/bin/php", f"{prefix}/sbin/php-fpm", *shared_modules(prefix)]
    shown = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    paths = sorted({os.path.realpath(path) for path in re.findall(r"=> (/\S+)", shown)})
    names = [name for path in paths for name in (path, path.removeprefix("/usr"))]  # dpkg knows one of them
    owners = subprocess.run(["dpkg-query", "-S", *names], capture_output=True, text=True, check=False).stdout
    return sorted({line.split(":")[0] for line in owners.splitlines() if ": " in line})


def pack(log: Log, prefix: str, packed: str) -> None:
    """The same files give the same bytes: fixed order, owner and time."""
    same = ["--sort=name", f"--mtime=@{EPOCH}", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
    log.run(["tar", *same, "-I", "zstd -q -10 -T0", "-cf", packed, "-C", prefix, "."], prefix)


def compiler_cache(work: str) -> dict[str, str]:
    """Environment in which gcc is asked through ccache; objects are the same wherever the source lies."""
    if not shutil.which("ccache"):
        return {}
    place = {"CCACHE_DIR": OBJECTS, "CCACHE_BASEDIR": work, "CCACHE_NOHASHDIR": "1", "CCACHE_MAXSIZE": "2G"}
    return {"CC": "ccache gcc", "CXX": "ccache g++", **place}


def build(wanted: dict, packed: str) -> dict:
    """Compile, install to the real prefix, prove it, pack it. The prefix is removed at the end."""
    artefact, jobs = wanted["artefact"], wanted.get("jobs") or os.cpu_count() or 1
    prefix, work = f"{PREFIX}/{artefact}", f"{WORK}/{artefact}"
    if os.path.exists(f"{prefix}/{INSTALLED}"):
        raise Failed(f"{prefix} is installed on this machine for use; build on the builder")
    for folder in (WORK, prefix):
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(work)
    words = {key: os.environ[key] for key in ("http_proxy", "https_proxy", "no_proxy") if key in os.environ}
    path = os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"
    fixed = {"PATH": path, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": EPOCH, "HOME": work}
    log = Log(f"{STORE}/{artefact}.log", {**words, **fixed, **HARDENING, **compiler_cache(work)})
    say(f"compiling PHP {wanted['version']} as {artefact}, {jobs} jobs; log {log.place}")
    try:
        tarball = log.phase("fetch", fetch, wanted["sources"]["php"])
        log.phase("unpack", unpack, log, tarball, f"{work}/php")
        source = source_folder(f"{work}/php", "configure", "php")
        for patch in wanted.get("patches", []):
            argv = ["patch", "-p1", "--forward", "--batch"]
            log.phase(f"patch {patch['name']}", log.run, argv, source, patch["text"].encode())
        configure = ["./configure", f"--prefix={prefix}", "--enable-option-checking=fatal"]
        log.phase("configure", log.run, [*configure, *wanted["options"]], source)
        log.phase("make", log.run, ["make", f"-j{jobs}"], source)
        log.phase("install", log.run, ["make", "install"], source)
        for item in wanted["sources"].get("pecl", []):
            log.phase(f"pecl {item['name']}", build_pecl, log, item, prefix, jobs, f"{work}/{item['name']}")
        log.phase("tidy", tidy, log, prefix)
        log.phase("prove", prove, prefix, wanted)
        needs = libraries(prefix)
        log.phase("pack", pack, log, prefix, packed)
    finally:
        for folder in (WORK, prefix):
            shutil.rmtree(folder, ignore_errors=True)
    return {"seconds": log.seconds, "libraries": needs}


def stored(wanted: dict) -> dict | None:
    """The record of a stored artefact that is whole and was made by the same recipe."""
    place = f"{STORE}/{wanted['artefact']}"
    try:
        with open(f"{place}.json", encoding="utf-8") as source:
            known = json.load(source)
        if known["recipe"] == recipe(wanted) and digest_of(f"{place}.tar.zst") == known["sha256"]:
            return known
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return None


def sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def keep(wanted: dict, packed: str, made: dict) -> dict:
    """Put the packed artefact into the store, its record last: without a record it does not exist."""
    place = f"{STORE}/{wanted['artefact']}"
    known = {"sha256": digest_of(packed), "bytes": os.path.getsize(packed), **made, "recipe": recipe(wanted)}
    with open(f"{place}.json.part", "w", encoding="utf-8") as out:
        json.dump(known, out, indent=1, sort_keys=True)
    for path in (packed, f"{place}.json.part"):
        sync(path)
    os.replace(packed, f"{place}.tar.zst")
    os.replace(f"{place}.json.part", f"{place}.json")
    sync(STORE)
    return known


def bring(wanted: dict) -> dict:
    started = time.monotonic()
    os.makedirs(STORE, exist_ok=True)
    os.makedirs(RUN, exist_ok=True)
    with open(f"{RUN}/phpbuild.lock", "w", encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # whoever comes second finds the artefact ready
        known = stored(wanted)
        built = known is None
        if known is None:
            packed = f"{STORE}/{wanted['artefact']}.tar.zst.part"
            known = keep(wanted, packed, build(wanted, packed))
    report = {"artefact": wanted["artefact"], "sha256": known["sha256"], "bytes": known["bytes"], "built": built}
    return {**report, "seconds": round(time.monotonic() - started, 1), "libraries": known["libraries"]}


def main() -> int:
    os.umask(0o022)
    try:
        try:
            wanted = json.load(sys.stdin)
        except ValueError as error:
            raise Refused(f"the input is not JSON: {error}") from None
        if wrong := mistakes(wanted):
            raise Refused("\n".join(wrong))
        print(json.dumps(bring(wanted)))
        return 0
    except (Refused, Failed, OSError) as failure:
        say(f"phpbuild: {failure}")
        return 2 if isinstance(failure, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
