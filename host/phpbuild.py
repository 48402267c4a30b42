#!/usr/bin/python3
"""phpbuild: compile one PHP, once, on the fleet's builder.

One JSON object on stdin:

    artefact     its name, <version>-<hash of what decides its bytes>; installed as /opt/php/<artefact>
    version      PHP version, compared with what the compiled binary says
    debian       code name of the Debian release it is for, which must be this machine's
    architecture Debian's name of the machine's architecture, likewise
    sources      {php: {url, sha256, signature?}, pecl: [{name, url, sha256, signature?, options?}]};
                 a signature {url, key} is a detached one, by an armoured OpenPGP public key.
                 PECL modules are built, and loaded for the tests, in the order given
    patches      [{name, sha256, text}], applied to the PHP source with patch -p1; beside them every PHP is kept
                 from showing the password of a session store in its complaints
    environment  {CFLAGS, CXXFLAGS, LDFLAGS} of the compilers
    options      for configure; --prefix and --enable-option-checking=fatal are added
    modules      what `php -m` must list besides the modules no PHP is without
    packages     Debian packages it was built with (installed by base); their versions are recorded

and what decides how this run goes, not what it makes:

    tests          PHP's own: `sample` of the modules' (default), `all` of them, or `none`; more than the
                   record of a stored artefact tells are run on its archive
    knownFailures  paths of those that may fail, e.g. ext/openssl/tests/x.phpt
    jobs           parallel compilers; absent: one a CPU
    ccache         false: compile without the cache of objects, to measure what it saves

The artefact is /var/lib/fleet/artefacts/<artefact>.tar.zst, with <artefact>.json that says what it
was made of and how it went, and its bill of materials <artefact>.cdx.json, a copy of sbom.cdx.json
in its root, where recipe.json is too. When archive and record are there and match the request
nothing is compiled, and nothing tested that the record tells. The same request on the same Debian
gives the same bytes. Builds of one machine wait for each other. stdout carries one JSON line, stderr
one line a phase, and how far make has come. Exit status: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import base64
import fcntl
import glob
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from contextlib import contextmanager

ROOT = os.environ.get("FLEET_ROOT", "").rstrip("/")  # tests: a directory that stands for /
STORE, SOURCES = f"{ROOT}/var/lib/fleet/artefacts", f"{ROOT}/var/lib/fleet/sources"
WORK, RUN = f"{ROOT}/var/tmp/fleet-build", f"{ROOT}/run/fleet"
OBJECTS = f"{ROOT}/var/lib/fleet/ccache"  # a build that differs in an option compiles only what it changes
PREFIX = f"{ROOT}/opt/php"
INSTALLED = ".fleet-artefact"  # base's marker: this directory is in use on this machine
EPOCH = "1577836800"  # the time that goes into files and binaries: any fixed one will do
PHASE_SECONDS, DOWNLOAD_SECONDS, PROGRESS_SECONDS, FPM_SECONDS = 3600, 60, 10, 30
SAMPLE = 25  # tests of each module: about a minute for all on two CPUs
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ALWAYS = {"core", "date", "hash", "json", "pcre", "random", "reflection", "spl", "standard"}
ZEND_EXTENSIONS = {"opcache": "zend opcache", "xdebug": "xdebug"}  # file name -> name in php -m
NAME = re.compile(r"[A-Za-z0-9][\w.+~-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
KEYS = {
    "artefact": str, "version": str, "debian": str, "architecture": str, "sources": dict, "environment": dict,
    "options": list, "modules": list,
}  # fmt: skip
PER_RUN = {"tests": str, "knownFailures": list, "jobs": int, "ccache": bool}  # not part of what the artefact is
MORE_KEYS = {"patches": list, "packages": list, **PER_RUN}
FLAGS = {"CFLAGS", "CXXFLAGS", "LDFLAGS"}
EXTENTS = ("none", "sample", "all")  # of PHP's own tests, each more than the one before
# What PHP says when a session cannot be read or stored. session.save_path is in it, and in that the password of the
# site's Redis user: in journals, and on the pages of a site that shows its errors.
COMPLAINTS = re.compile(r"\b(?:php_error_docref|zend_throw_error)\([^;]*;")
SAVE_PATH = re.compile(r"ZSTR_VAL\(PS\(save_path\)\)|PS\(save_path\)")  # a string of PHP's own from 8.5 or 8.6 on
SHOWN_PATH = '(strstr({0}, "auth") ? "not shown, for its password" : {0})'


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
        signature = item.get("signature")
        if signature is not None and not (signature.get("url") and public_keys(signature.get("key", ""))):
            found.append(f"sources: the signature of {item.get('name', 'php')} needs url and an armoured public key")
    other = sorted(set(wanted["environment"]) - FLAGS)
    found += [f"environment: {name!r} is none of {', '.join(sorted(FLAGS))}" for name in other]
    if wanted.get("tests", "sample") not in EXTENTS:
        found.append(f"tests: {wanted['tests']!r} is none of {', '.join(EXTENTS)}")
    for patch in wanted.get("patches", []):
        if hashlib.sha256(patch.get("text", "").encode()).hexdigest() != patch.get("sha256"):
            found.append(f"patches: {patch.get('name')!r} does not have the sha256 it is given with")
    return found


def named(item: dict) -> bool:
    return bool(NAME.fullmatch(item.get("name", "")))


def recipe(wanted: dict) -> dict:
    """What makes the artefact what it is."""
    return {key: value for key, value in wanted.items() if key not in PER_RUN}


def identity(made_of: dict) -> dict:
    """A recipe without where its sources come from, who signed them and what patches are called: as its name is made."""

    def bare(item: dict) -> dict:
        return {key: value for key, value in item.items() if key not in ("url", "signature")}

    sources, patches = made_of["sources"], [patch["sha256"] for patch in made_of.get("patches", [])]
    return {
        **made_of,
        "patches": patches,
        "sources": {"php": bare(sources["php"]), "pecl": [bare(item) for item in sources.get("pecl", [])]},
    }


def public_keys(armoured: str) -> bytes:
    """The OpenPGP keys of an armoured text, as gpgv wants them in a keyring; empty where it holds none."""
    header, body, checksum = r"(?:[^\r\n]+\r?\n)*\r?\n", r"([A-Za-z0-9+/=\s]+?)", r"(?:\n=[A-Za-z0-9+/]{4}\s*)?"
    block = f"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n{header}{body}{checksum}-----END PGP"
    try:
        return b"".join(base64.b64decode(re.sub(r"\s", "", text)) for text in re.findall(block, armoured))
    except ValueError:
        return b""


def unknown_options(options: list[str], config: str) -> list[str]:
    """Of a PECL module's options those that its config.m4 does not declare. PHP is compiled before
    the module's own configure could say so."""
    declared = set(re.findall(r"PHP_ARG_(?:ENABLE|WITH)\(\s*\[?([\w-]+)", config)) | {"libdir"}
    form = re.compile(r"--(?:enable|disable|with|without)-([\w-]+)(?:=.*)?")
    return [option for option in options if not (name := form.fullmatch(option)) or name[1] not in declared]


def spread(items: list[str], most: int) -> list[str]:
    """At most so many of them, evenly spaced: the same ones every time."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def test_folders(modules: list[str]) -> list[str]:
    """Where PHP's source has the tests of modules."""
    files = {reported: file for file, reported in ZEND_EXTENSIONS.items()}
    names = sorted({files.get(name.lower(), name.lower()) for name in modules} - {"core"})
    return ["tests/basic", "Zend/tests", *(f"ext/{name}/tests" for name in names)]


def results(written: str, source: str) -> dict[str, str]:
    """Result of each test, by its path in the source, from what run-tests.php writes with -W."""
    lines = [line.split("\t", 1) for line in written.splitlines() if "\t" in line]
    return {path.removeprefix(f"{source}/"): result for result, path in lines}


def untested(wanted: dict, known: dict) -> bool:
    """Whether more of PHP's own tests are asked for than the record of an artefact tells."""
    return EXTENTS.index(wanted.get("tests", "sample")) > EXTENTS.index(known["tests"]["extent"])


def progress(name: str, done: int, total: int, seconds: float) -> str:
    """How far a phase has come, and for how long it goes on if it goes on so."""
    left = seconds * (total - done) / done if done else 0
    about = f"{round(left / 60)} min" if left >= 90 else f"{round(left)} s"
    return f"{name} {min(done, total)} of {total}" + (f", about {about} left" if done else "")


def compilers(text: bytes) -> int:
    """How many compilers the lines of make start, or have started."""
    return len(re.findall(rb"^.*\s-c\s.*$", text, re.MULTILINE))


def counts(statistics: str) -> dict[str, int]:
    """Hits and misses in what `ccache --print-stats` says."""
    said = dict(line.split("\t", 1) for line in statistics.splitlines() if "\t" in line)
    number = {name: int(said.get(name, "0")) for name in ("direct_cache_hit", "preprocessed_cache_hit", "cache_miss")}
    return {"hits": number["direct_cache_hit"] + number["preprocessed_cache_hit"], "misses": number["cache_miss"]}


def purl(kind: str, name: str, version: str, **qualifiers: str) -> str:
    """A package URL: one name for a package in every tool that reads bills of materials."""
    words = "&".join(f"{key}={urllib.parse.quote(value, safe=':/')}" for key, value in sorted(qualifiers.items()))
    return f"pkg:{kind}/{name}@{urllib.parse.quote(version, safe=':')}?{words}"


def bill_of_materials(wanted: dict, pecl: list[dict], libraries: dict[str, str], tools: dict[str, str]) -> dict:
    """CycloneDX 1.6: what the artefact is made of. Of a PECL module name, version and licence are its own
    package.xml's; libraries and tools are Debian packages with their versions."""

    def part(kind: str, name: str, version: str, address: str) -> dict:
        return {"type": kind, "name": name, "version": version, "bom-ref": address, "purl": address}

    def source(kind: str, name: str, version: str, item: dict, licence: dict) -> dict:
        address = purl("generic", name, version, download_url=item["url"], checksum=f"sha256:{item['sha256']}")
        return {
            **part(kind, name, version, address),
            "hashes": [{"alg": "SHA-256", "content": item["sha256"]}],
            "licenses": [{"license": licence}] if licence else [],
            "externalReferences": [{"type": "source-distribution", "url": item["url"]}],
        }

    def package(kind: str, name: str, version: str) -> dict:
        address = purl("deb/debian", name, version, arch=wanted["architecture"], distro=wanted["debian"])
        return part(kind, name, version, address)

    def diff(patch: dict) -> dict:
        text = {"contentType": "text/x-diff", "content": patch["text"]}
        return {"type": "unofficial", "diff": {"url": patch["name"], "text": text}}

    php = source("application", "php", wanted["version"], wanted["sources"]["php"], {"id": "PHP-3.01"})
    if patches := wanted.get("patches", []):
        notes = "\n".join(f"{patch['name']} sha256:{patch['sha256']}" for patch in patches)
        php["pedigree"] = {"patches": [diff(patch) for patch in patches], "notes": notes}
    flags = {name.lower(): value for name, value in wanted["environment"].items()}
    changed = "ext/session/session.c: complaints show no save_path with a password"
    facts = {"artefact": wanted["artefact"], "changed": changed, "configure": " ".join(wanted["options"]), **flags}
    php["properties"] = [{"name": f"fleet:{name}", "value": value} for name, value in sorted(facts.items())]
    modules = [
        source("library", item["name"], item["version"], item, {"name": item["licence"]} if item["licence"] else {})
        for item in pecl
    ]
    linked = [package("library", *known) for known in sorted(libraries.items())]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, wanted['artefact'])}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(EPOCH))),
            "tools": {"components": [package("application", *tool) for tool in sorted(tools.items())]},
            "component": php,
        },
        "components": [*modules, *linked],
        "dependencies": [{"ref": php["bom-ref"], "dependsOn": [item["bom-ref"] for item in (*modules, *linked)]}],
    }


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


def shared_modules(prefix: str, order: tuple[str, ...] = ()) -> list[str]:
    """Files of modules to load; those of PECL last and in their order: one may need another's symbols."""

    def place(path: str) -> tuple[int, str]:
        name = os.path.basename(path).removesuffix(".so")
        return order.index(name) if name in order else -1, name

    return sorted(glob.glob(f"{prefix}/lib/php/extensions/*/*.so"), key=place)


def load_words(prefix: str, wanted: dict) -> list[str]:
    """Arguments with which php and php-fpm load every module that is a file, and no php.ini."""
    order = tuple(item["name"] for item in wanted["sources"].get("pecl", []))
    return ["-n", *(word for module in shared_modules(prefix, order) for word in ("-d", load_line(module)))]


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

    def run(self, argv: list[str], folder: str, stdin: bytes = b"", expected: int = 0, **more) -> None:
        """Run a command with its output in the log; Failed with the end of it unless it exits 0.
        Of a make that starts so many compilers as are `expected`, say how far it is."""
        self.file.write(f"\n$ {' '.join(argv)}\n".encode())
        self.file.flush()
        begin, started = self.file.tell(), time.monotonic()
        given: bytes | None = stdin
        more.setdefault("env", self.environment)
        try:
            with subprocess.Popen(
                argv, cwd=folder, stdin=subprocess.PIPE, stdout=self.file, stderr=subprocess.STDOUT, **more
            ) as process:
                while process.returncode is None:
                    try:
                        process.communicate(given, PROGRESS_SECONDS)
                    except subprocess.TimeoutExpired:
                        given, passed = None, time.monotonic() - started
                        if expected:
                            say(progress(argv[0], compilers(self.since(begin)), expected, passed))
                        if passed > PHASE_SECONDS:
                            process.kill()
                            raise Failed(f"{argv[0]} was not done after {PHASE_SECONDS} s") from None
        except OSError as error:
            raise Failed(str(error)) from None
        if process.returncode:
            lines = self.since(begin).decode("utf-8", "replace").strip().splitlines()[-20:]
            raise Failed("\n".join(line[:400] for line in lines) or f"exit status {process.returncode}")
        self.file.seek(0, os.SEEK_END)

    def since(self, begin: int) -> bytes:
        with open(self.place, "rb") as source:
            source.seek(begin)
            return source.read()


def digest_of(place: str) -> str:
    with open(place, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def fetch(item: dict, work: str) -> str:
    """A source tarball, kept by its sha256 and proved by its signature where it has one; where it is."""
    place = f"{SOURCES}/{item['sha256']}"
    if not os.path.exists(place) or digest_of(place) != item["sha256"]:
        os.makedirs(SOURCES, exist_ok=True)
        download(item["url"], f"{place}.part")
        found = digest_of(f"{place}.part")
        if found != item["sha256"]:
            os.unlink(f"{place}.part")
            raise Failed(f"{item['url']}: sha256 is {found}, expected {item['sha256']}")
        os.replace(f"{place}.part", place)
    if "signature" in item:
        verify(item, place, work)
    return place


def download(url: str, place: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as source, open(place, "wb") as out:
            shutil.copyfileobj(source, out)
    except (OSError, ValueError) as error:
        raise Failed(f"{url}: {error}") from None


def verify(item: dict, place: str, work: str) -> None:
    """The detached signature is one of this file by one of the keys. Expired keys count: old releases stay old."""
    signature, keyring = f"{work}/signature", f"{work}/keyring"
    download(item["signature"]["url"], signature)
    with open(keyring, "wb") as out:
        out.write(public_keys(item["signature"]["key"]))
    try:
        argv = ["gpgv", "--keyring", keyring, signature, place]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{item['signature']['url']} could not be checked: {error}") from None
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise Failed(
            f"{item['signature']['url']} is no good signature of {item['url']} by the configured key: {reason}"
        )


def unpack(log: Log, tarball: str, folder: str) -> None:
    os.makedirs(folder)
    log.run(["tar", "-xf", tarball, "-C", folder, "--no-same-owner"], folder)


def source_folder(folder: str, wanted: str, name: str) -> str:
    """The directory of a tarball that holds the file `wanted`. Of a PECL tarball with several
    versions in it, the one that its package.xml is about."""
    found = sorted(os.path.dirname(path) for path in glob.glob(f"{folder}/*/{wanted}"))
    if len(found) > 1 and os.path.exists(f"{folder}/package.xml"):
        release = re.search(r"<release>([^<]+)</release>", text_of(f"{folder}/package.xml"))
        found = [path for path in found if release and os.path.basename(path) == f"{name}-{release[1]}"]
    if len(found) != 1:
        raise Failed(f"{name}: {len(found)} directories of the tarball hold {wanted}, expected one")
    return found[0]


def open_pecl(log: Log, item: dict, tarball: str, folder: str) -> dict:
    """A PECL module with its `source`, and the `version` and `licence` that its package.xml gives it."""
    unpack(log, tarball, folder)
    source = source_folder(folder, "config.m4", item["name"])
    if unknown := unknown_options(item.get("options", []), text_of(f"{source}/config.m4")):
        raise Failed(f"{item['name']}: unrecognized options: {', '.join(unknown)}")
    places = (f"{source}/package.xml", f"{folder}/package.xml")
    about = "".join(text_of(path) for path in places if os.path.exists(path))
    version = re.search(r"<release>([^<]+)</release>", about) or re.search(r"-(\d[\w.]*)$", source)
    licence = re.search(r"<license[^>]*>([^<]+)</license>", about)
    known = {"version": version[1] if version else "0", "licence": licence[1] if licence else ""}
    return {**item, "source": source, **known}


def text_of(place: str) -> str:
    with open(place, encoding="utf-8", errors="replace") as source:  # names of people are in any encoding
        return source.read()


def build_pecl(log: Log, item: dict, prefix: str, jobs: int) -> None:
    log.run([f"{prefix}/bin/phpize"], item["source"])
    options = [*item.get("options", []), "--enable-option-checking=fatal"]
    log.run(["./configure", *options, f"--with-php-config={prefix}/bin/php-config"], item["source"])
    log.run(["make", f"-j{jobs}"], item["source"])
    log.run(["make", "install"], item["source"])


def make(log: Log, jobs: int, source: str) -> None:
    planned = subprocess.run(["make", "-n"], cwd=source, env=log.environment, capture_output=True, check=False).stdout
    log.run(["make", f"-j{jobs}"], source, expected=compilers(planned))


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
    if problem := module_problem(module_names(ask(php, *load_words(prefix, wanted), "-m")), wanted["modules"]):
        raise Failed(f"the compiled PHP {problem}")


def nobody(*folders: str) -> dict:
    """An ordinary user, for subprocess; the folders become its own. PHP's tests assume one: to root, files that
    must not be readable are, and OPcache does not preload."""
    if os.geteuid() != 0:
        return {}
    who = pwd.getpwnam("nobody")
    for folder in folders:
        for place, names, files in os.walk(folder):
            for name in ("", *names, *files):
                os.chown(os.path.join(place, name), who.pw_uid, who.pw_gid, follow_symlinks=False)
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def answer(place: str, script: str) -> str:
    """What a FastCGI server on a Unix socket answers to a GET of a script, without the headers."""

    def record(kind: int, content: bytes) -> bytes:
        return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content

    words = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/", "SCRIPT_FILENAME": script, "REQUEST_URI": "/"}
    pairs = b"".join(bytes([len(key), len(value)]) + (key + value).encode() for key, value in words.items())
    request = record(1, struct.pack("!HB5x", 1, 0)) + record(4, pairs) + record(4, b"") + record(5, b"")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(FPM_SECONDS)
        connection.connect(place)
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            said = b""
            while len(head := stream.read(8)) == 8:
                _, kind, _, length, padding, _ = struct.unpack("!BBHHBB", head)
                content = stream.read(length + padding)[:length]
                said += content if kind == 6 else b""  # standard output
    return said.decode("utf-8", "replace").partition("\r\n\r\n")[2]


def serve(log: Log, prefix: str, wanted: dict, folder: str) -> None:
    """The installed PHP-FPM, with all shared modules loaded, answers a real request."""
    os.makedirs(folder)
    script, place = f"{folder}/index.php", f"{folder}/socket"
    with open(script, "w", encoding="utf-8") as out:
        out.write(
            "<?php echo implode(PHP_EOL, [PHP_VERSION, ...get_loaded_extensions(), ...get_loaded_extensions(true)]);"
        )
    with open(f"{folder}/fpm.conf", "w", encoding="utf-8") as out:
        user = "user = nobody\n" if os.geteuid() == 0 else ""  # which FPM needs to be told then
        pool = f"{user}listen = {place}\npm = static\npm.max_children = 1\n"
        out.write(f"[global]\nerror_log = /proc/self/fd/2\n[www]\n{pool}")
    argv = [f"{prefix}/sbin/php-fpm", *load_words(prefix, wanted), "-F", "-y", f"{folder}/fpm.conf"]
    limit = time.monotonic() + FPM_SECONDS
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log.file, stderr=subprocess.STDOUT, env=log.environment
    ) as fpm:
        try:
            while True:
                try:
                    version, *names = answer(place, script).splitlines() or [""]
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    if fpm.poll() is not None or time.monotonic() > limit:
                        raise Failed(f"php-fpm does not listen; its words are in {log.place}") from None
                    time.sleep(0.05)
                except (OSError, struct.error) as error:
                    raise Failed(f"php-fpm does not answer: {error}") from None
        finally:
            fpm.terminate()
    if version != wanted["version"]:
        raise Failed(f"php-fpm answers as PHP {version!r}, expected {wanted['version']}")
    if problem := module_problem(module_names("\n".join(names)) - {"cgi-fcgi"}, wanted["modules"]):
        raise Failed(f"php-fpm {problem}")


def own_tests(log: Log, prefix: str, wanted: dict, source: str, jobs: int, work: str) -> dict:
    """PHP's own tests of what was built, with the installed binary: how many passed and were skipped,
    and which failed. One that fails is run again alone: some measure time, or share a port."""
    extent = wanted.get("tests", "sample")
    if extent == "none":
        return {"extent": extent}
    chosen = []
    for folder in test_folders(wanted["modules"]):
        found = sorted(glob.glob(f"{folder}/**/*.phpt", root_dir=source, recursive=True))
        whole = extent == "all" or folder == "tests/basic"
        chosen += spread(found, len(found) if whole else SAMPLE)
    os.makedirs(f"{work}/tests")
    who = nobody(source, f"{work}/tests")
    quiet = {"NO_INTERACTION": "1", "SKIP_ONLINE_TESTS": "1", "SKIP_SLOW_TESTS": "1", "REPORT_EXIT_STATUS": "0"}
    place = {"HOME": f"{work}/tests", "TMPDIR": f"{work}/tests", "TEST_PHP_EXECUTABLE": f"{prefix}/bin/php"}
    clean = {key: value for key, value in log.environment.items() if key in ("PATH", "LC_ALL", "TZ")}

    # Tests of before 8.1 do not say that they need OPcache; those of today load what is not there yet.
    opcache = ["-d", "zend_extension=opcache"] if glob.glob(f"{prefix}/lib/php/extensions/*/opcache.so") else []

    def run(tests: list[str], workers: int) -> dict[str, str]:
        asked, told = f"{work}/tests/asked", f"{work}/tests/told"
        with open(asked, "w", encoding="utf-8") as out:
            out.write("\n".join(tests) + "\n")
        argv = [f"{prefix}/bin/php", "-n", "run-tests.php", "-q", "-g", "FAIL,BORK,LEAK", "--show-diff", f"-j{workers}"]
        log.run([*argv, *opcache, "-r", asked, "-W", told], source, env={**clean, **quiet, **place}, **who)
        return results(text_of(told), source)

    def bad(told: dict[str, str]) -> list[str]:
        return sorted(test for test, result in told.items() if result in ("FAILED", "BORKED", "LEAKED"))

    told = run(chosen, jobs)
    if again := bad(told):
        told.update(run(again, 1))
    ended = {name: sum(result == name.upper() for result in told.values()) for name in ("passed", "skipped")}
    failed = bad(told)
    new = [test for test in failed if test not in wanted.get("knownFailures", [])]
    if new:
        raise Failed(f"{len(new)} of {len(told)} tests of PHP's own failed that knownFailures lacks: {', '.join(new)}")
    if not ended["passed"]:
        raise Failed(f"of {len(chosen)} of PHP's own tests none passed")
    return {"extent": extent, **ended, "failed": failed}


def libraries(prefix: str) -> dict[str, str]:
    """Debian packages of the shared libraries that the binaries need at run time, with their versions."""
    binaries = [f"{prefix}/bin/php", f"{prefix}/sbin/php-fpm", *shared_modules(prefix)]
    shown = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    paths = sorted({os.path.realpath(path) for path in re.findall(r"=> (/\S+)", shown)})
    names = [name for path in paths for name in (path, path.removeprefix("/usr"))]  # dpkg knows one of them
    owners = subprocess.run(["dpkg-query", "-S", *names], capture_output=True, text=True, check=False).stdout
    return versions(sorted({line.split(":")[0] for line in owners.splitlines() if ": " in line}))


def versions(packages: list[str]) -> dict[str, str]:
    if not packages:
        return {}
    argv = ["dpkg-query", "-W", "-f", "${Package}\t${Version}\n", *packages]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return dict(line.split("\t", 1) for line in shown.splitlines() if not line.endswith("\t"))


def write_json(place: str, content: dict) -> None:
    with open(place, "w", encoding="utf-8") as out:
        json.dump(content, out, indent=1, sort_keys=True)
        out.write("\n")


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


def ccache(log: Log, verb: str) -> str:
    argv = ["ccache", verb]
    return subprocess.run(argv, env=log.environment, capture_output=True, text=True, check=False).stdout


@contextmanager
def workplace(artefact: str):
    """The real prefix of an artefact and a place to work, both empty at first and gone at the end."""
    prefix, work = f"{PREFIX}/{artefact}", f"{WORK}/{artefact}"
    if os.path.exists(f"{prefix}/{INSTALLED}"):
        raise Failed(f"{prefix} is installed on this machine for use; build on the builder")

    def clear() -> None:
        for folder in (WORK, prefix):
            shutil.rmtree(folder, ignore_errors=True)

    clear()
    try:
        os.makedirs(work)
        yield prefix, work
    finally:
        clear()


def surroundings(wanted: dict, work: str) -> dict[str, str]:
    """Environment of all that is run: the same whoever asks for the build."""
    words = {key: os.environ[key] for key in ("http_proxy", "https_proxy", "no_proxy") if key in os.environ}
    path = os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"
    fixed = {"PATH": path, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": EPOCH, "HOME": work}
    return {**words, **fixed, **wanted["environment"]}


def processors(wanted: dict) -> int:
    return wanted.get("jobs") or os.cpu_count() or 1


def open_php(log: Log, wanted: dict, tarball: str, folder: str) -> str:
    """PHP's source with the patches; where it is."""
    log.phase("unpack", unpack, log, tarball, folder)
    source = source_folder(folder, "configure", "php")
    for patch in wanted.get("patches", []):
        argv = ["patch", "-p1", "--forward", "--batch"]
        log.phase(f"patch {patch['name']}", log.run, argv, source, patch["text"].encode())
    keep_passwords(f"{source}/ext/session/session.c")
    return source


def keep_passwords(place: str) -> None:
    """Lets PHP's complaints about a session store leave a password out. Not by a patch: the lines are in all releases,
    and in each between others."""
    with open(place, encoding="latin-1") as source:
        text = source.read()

    def shown(path: re.Match) -> str:
        return SHOWN_PATH.format(path.group())

    changed = COMPLAINTS.sub(lambda complaint: SAVE_PATH.sub(shown, complaint.group()), text)
    if changed == text:
        raise Failed(f"{place} has no complaint with PS(save_path): see whether this release of PHP logs passwords")
    with open(place, "w", encoding="latin-1") as out:
        out.write(changed)


def build(wanted: dict, packed: str) -> dict:
    """Compile, install to the real prefix, prove it, pack it."""
    artefact, jobs, sources = wanted["artefact"], processors(wanted), wanted["sources"]
    with workplace(artefact) as (prefix, work):
        cache = compiler_cache(work) if wanted.get("ccache", True) else {}
        log = Log(f"{STORE}/{artefact}.log", {**surroundings(wanted, work), **cache})
        how = f"{jobs} jobs{'' if cache else ', no ccache'}"
        say(f"compiling PHP {wanted['version']} as {artefact}, {how}; log {log.place}")
        if cache:
            ccache(log, "--zero-stats")
        items = [sources["php"], *sources.get("pecl", [])]
        tarball, *tarballs = log.phase("fetch", lambda: [fetch(item, work) for item in items])
        source = open_php(log, wanted, tarball, f"{work}/php")
        pecl = [
            log.phase(f"unpack {item['name']}", open_pecl, log, item, place, f"{work}/{item['name']}")
            for item, place in zip(sources.get("pecl", []), tarballs, strict=True)
        ]
        # The last word counts.
        configure = ["./configure", *wanted["options"], f"--prefix={prefix}", "--enable-option-checking=fatal"]
        log.phase("configure", log.run, configure, source)
        log.phase("make", make, log, jobs, source)
        log.phase("install", log.run, ["make", "install"], source)
        for item in pecl:
            log.phase(f"pecl {item['name']}", build_pecl, log, item, prefix, jobs)
        compiled = counts(ccache(log, "--print-stats")) if cache else None
        log.phase("tidy", tidy, log, prefix)
        log.phase("prove", prove, prefix, wanted)
        log.phase("serve", serve, log, prefix, wanted, f"{work}/fpm")
        tested = log.phase("tests", own_tests, log, prefix, wanted, source, jobs, work)
        needs = libraries(prefix)
        write_json(f"{prefix}/recipe.json", recipe(wanted))
        tools = versions(wanted.get("packages", []))
        write_json(f"{prefix}/sbom.cdx.json", bill_of_materials(wanted, pecl, needs, tools))
        shutil.copyfile(f"{prefix}/sbom.cdx.json", f"{STORE}/{artefact}.cdx.json")
        log.phase("pack", pack, log, prefix, packed)
    return {"seconds": log.seconds, "ccache": compiled, "tests": tested, "libraries": needs}


def test_stored(wanted: dict, known: dict) -> dict:
    """The record of a stored artefact after more tests of it. They are run on its own archive, unpacked: VMs may run
    it, so its bytes must stay, and a build anew may have others, by a compiler and libraries of today. A test that
    fails leaves archive and record as they are."""
    artefact = wanted["artefact"]
    with workplace(artefact) as (prefix, work):
        log = Log(f"{STORE}/{artefact}.tests.log", surroundings(wanted, work))
        extent = known["tests"]["extent"]
        say(f"{artefact} is stored, tests: {extent}; running tests: {wanted.get('tests', 'sample')}; log {log.place}")
        tarball = log.phase("fetch", fetch, wanted["sources"]["php"], work)
        source = open_php(log, wanted, tarball, f"{work}/php")
        log.phase("unpack archive", unpack, log, f"{STORE}/{artefact}.tar.zst", prefix)
        tested = log.phase("tests", own_tests, log, prefix, wanted, source, processors(wanted), work)
    return {**known, "tests": tested, "seconds": {**known["seconds"], "tests": log.seconds["tests"]}}


def stored(wanted: dict) -> dict | None:
    """The record of a stored artefact that is whole and was made by the same recipe."""
    place = f"{STORE}/{wanted['artefact']}"
    try:
        with open(f"{place}.json", encoding="utf-8") as source:
            known = json.load(source)
        if identity(known["recipe"]) == identity(recipe(wanted)) and digest_of(f"{place}.tar.zst") == known["sha256"]:
            return known
        say(f"{place}.tar.zst is not what its record tells: it is built anew")
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
    known = {"sha256": digest_of(packed), "bytes": os.path.getsize(packed), **made, "recipe": recipe(wanted)}
    sync(packed)
    os.replace(packed, f"{STORE}/{wanted['artefact']}.tar.zst")
    return note(wanted, known)


def note(wanted: dict, known: dict) -> dict:
    """Make this the record of the artefact, as a whole or not at all."""
    place = f"{STORE}/{wanted['artefact']}.json"
    write_json(f"{place}.part", known)
    sync(f"{place}.part")
    os.replace(f"{place}.part", place)
    sync(STORE)
    return known


def other_machine(wanted: dict) -> str:
    """How this machine is not the one that the artefact is for; empty when it is."""
    release = re.search(r"^VERSION_CODENAME=(\S+)", text_of(f"{ROOT}/etc/os-release"), re.MULTILINE)
    have = (release[1] if release else "unknown", ARCHITECTURES.get(platform.machine(), platform.machine()))
    want = (wanted["debian"], wanted["architecture"])
    return "" if have == want else f"this machine is Debian {' '.join(have)}, the request is for {' '.join(want)}"


def bring(wanted: dict) -> dict:
    started = time.monotonic()
    os.makedirs(STORE, exist_ok=True)
    os.makedirs(RUN, exist_ok=True)
    with open(f"{RUN}/phpbuild.lock", "w", encoding="utf-8") as turn:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{wanted['artefact']} waits for another build")
            fcntl.flock(turn, fcntl.LOCK_EX)  # whoever comes second finds the artefact ready
        known = stored(wanted)
        built = known is None
        if known is None:
            packed = f"{STORE}/{wanted['artefact']}.tar.zst.part"
            known = keep(wanted, packed, build(wanted, packed))
        elif untested(wanted, known):
            known = note(wanted, test_stored(wanted, known))
    report = {"artefact": wanted["artefact"], "sha256": known["sha256"], "bytes": known["bytes"], "built": built}
    report["seconds"] = round(time.monotonic() - started, 1)
    return {**report, "phases": known["seconds"], **{key: known[key] for key in ("ccache", "tests", "libraries")}}


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
        if wrong := other_machine(wanted):
            raise Refused(wrong)
        print(json.dumps(bring(wanted)))
        return 0
    except (Refused, Failed, OSError) as failure:
        say(f"phpbuild: {wanted.get('artefact', 'the request')}: {failure}")
        return 2 if isinstance(failure, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
