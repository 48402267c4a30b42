"""Promises of the PHP builder, with a source tarball whose configure and make are a few lines of shell."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import unittest
from unittest import mock

import phpbuild
from tests.machine import Machine

# Its make installs a shell script that answers like php; phpize and php-config are as small.
CONFIGURE = """#!/bin/sh
for word; do case $word in --prefix=*) prefix=${word#*=} ;; --enable-typo) echo "unknown option $word"; exit 1 ;; esac; done
sed "s#@prefix@#$prefix#g" makefile.in > Makefile
"""
MAKEFILE = """
all:
\techo "compiled $(CFLAGS)" > built
install:
\tmkdir -p @prefix@/bin @prefix@/sbin @prefix@/include @prefix@/lib/php/extensions/no-debug
\tcp php @prefix@/bin/php; cp fpm @prefix@/sbin/php-fpm; cp phpize @prefix@/bin/phpize; touch @prefix@/bin/php-config
\tcp built @prefix@/built; cp word @prefix@/word
"""
# As run-tests.php, it gives each test the result that its file holds; ALONE fails beside others.
PHP = """#!/bin/sh
case "$*" in
*run-tests.php*)
    while [ $# -gt 0 ]; do case $1 in -r) asked=$2 ;; -W) told=$2 ;; -j*) workers=${1#-j} ;; esac; shift; done
    while read -r test; do
        result=$(cat "$test")
        [ "$result" = ALONE ] && { [ "$workers" = 1 ] && result=PASSED || result=FAILED; }
        printf '%s\\t%s\\n' "$result" "$PWD/$test"
    done < "$asked" > "$told" ;;
*PHP_VERSION*) echo 8.2.99 ;;
*-m*) printf '[PHP Modules]\\nCore\\nctype\\nredis\\nzlib\\n\\n[Zend Modules]\\nZend OPcache\\n' ;;
esac
"""
FPM = """#!/usr/bin/python3
import re, socket, struct, sys
with open(sys.argv[sys.argv.index("-y") + 1]) as pool:
    place = re.search("listen = (.*)", pool.read())[1]
server = socket.socket(socket.AF_UNIX)
server.bind(place)
server.listen()
connection, _ = server.accept()
assert b"index.php" in connection.recv(4096)
said = b"Content-type: text/html\\r\\n\\r\\n" + "\\n".join("8.2.99 Core ctype redis zlib cgi-fcgi".split()).encode()
said += b"\\nZend OPcache"
for kind, content in ((6, said[:20]), (6, said[20:]), (3, bytes(8))):
    connection.sendall(struct.pack("!BBHHBB", 1, kind, 1, len(content), 3, 0) + content + bytes(3))
connection.close()
"""
SESSION = """\tif (PS(mod)->s_open(&PS(mod_data), PS(save_path), PS(session_name)) == FAILURE) {
\t\tphp_error_docref(NULL, E_WARNING, "Failed to read: %s (path: %s)", PS(mod)->s_name, PS(save_path));
\t\tzend_throw_error(NULL, "Failed to write session data using user "
\t\t\t "defined save handler. (session.save_path: %s, handler: %s)", PS(save_path),
\t\t\t ZSTR_VAL(name));
\tRETVAL_STRING(PS(save_path));
"""
PHPIZE = """#!/bin/sh
printf '#!/bin/sh\\nprintf "all:\\\\ninstall:\\\\n\\\\ttouch %s/../lib/php/extensions/no-debug/redis.so\\\\n" > Makefile\\n' "${0%/*}" > configure
chmod +x configure
"""


class Builder(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.machine.root.chmod(0o755)  # PHP's tests run as another user where this one is root
        self.machine.write("/etc/os-release", "ID=debian\nVERSION_CODENAME=bookworm\n")
        self.machine.program("strip", "#!/bin/sh\n")
        self.machine.program("ldd", "#!/bin/sh\n")
        self.php = self.php_source()
        pecl = {
            "redis-6.2.0/config.m4": "PHP_ARG_ENABLE(redis-igbinary, whether to\n[ --enable-redis-igbinary], no, no)\n",
            "redis-6.2.0/tests/config.m4": "x\n",
            "package.xml": "<version><release>6.2.0</release></version><license uri='x'>PHP</license>",
        }
        self.redis = self.tarball("redis", pecl)

    def php_source(self, **more):
        """A PHP source, with other contents of some files."""
        files = {"configure": CONFIGURE, "makefile.in": MAKEFILE, "php": PHP, "fpm": FPM, "phpize": PHPIZE}
        files["ext/session/session.c"] = SESSION
        tests = {"tests/basic/001.phpt": "PASSED", "ext/ctype/tests/001.phpt": "SKIPPED"}
        files = {**files, "word": "one\n", "run-tests.php": "", **tests, **more}
        return self.tarball("php-8.2.99", {f"php-8.2.99/{name}": text for name, text in files.items()})

    def tarball(self, name, files):
        folder = self.machine.root / "src" / name
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            place.chmod(0o755)
        packed = self.machine.root / f"{name}.tar.xz"
        subprocess.run(["tar", "-cJf", packed, "-C", folder, *sorted(os.listdir(folder))], check=True)
        return {"url": packed.as_uri(), "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}

    def request(self, **more):
        sources = {"php": self.php, "pecl": [{"name": "redis", **self.redis}]}
        modules = ["Core", "ctype", "redis", "zlib", "opcache"]
        return {
            "artefact": "8.2.99-abc",
            "version": "8.2.99",
            "debian": "bookworm",
            "architecture": phpbuild.ARCHITECTURES.get(platform.machine(), platform.machine()),
            "sources": sources,
            "environment": {"CFLAGS": "-O2", "CXXFLAGS": "-O2", "LDFLAGS": "-Wl,-z,now"},
            "options": [],
            "modules": modules,
            **more,
        }

    def build(self, expect=0, **more):
        done = self.machine.run("phpbuild.py", given=json.dumps(self.request(**more)))
        self.assertEqual(expect, done.returncode, done.stderr)
        return json.loads(done.stdout) if expect == 0 else done.stderr

    def record(self, name="8.2.99-abc"):
        return json.loads(self.machine.read(f"/var/lib/fleet/artefacts/{name}.json"))

    def contents(self, name="8.2.99-abc"):
        packed = self.machine.root / f"var/lib/fleet/artefacts/{name}.tar.zst"
        return subprocess.run(
            ["tar", "--zstd", "-tf", packed], check=True, capture_output=True, text=True
        ).stdout.split()


class Building(Builder):
    def test_a_build_makes_one_archive_with_what_running_needs(self):
        report = self.build()
        packed = (self.machine.root / "var/lib/fleet/artefacts/8.2.99-abc.tar.zst").read_bytes()
        self.assertEqual((True, len(packed)), (report["built"], report["bytes"]))
        self.assertEqual(hashlib.sha256(packed).hexdigest(), report["sha256"])
        held = self.contents()
        for path in ("./bin/php", "./sbin/php-fpm", "./lib/php/extensions/no-debug/redis.so"):
            self.assertIn(path, held)
        for path in ("./bin/phpize", "./bin/php-config", "./include/"):
            self.assertNotIn(path, held)
        self.assertFalse(self.machine.exists("/opt/php/8.2.99-abc"))
        self.assertFalse(self.machine.exists("/var/tmp/fleet-build"))

    def test_the_same_request_is_compiled_once_and_gives_the_same_bytes_again(self):
        first = self.build()
        again = self.build(jobs=7)
        self.assertEqual((False, first["sha256"]), (again["built"], again["sha256"]))
        (self.machine.root / "var/lib/fleet/artefacts/8.2.99-abc.json").unlink()
        rebuilt = self.build()
        self.assertEqual((True, first["sha256"]), (rebuilt["built"], rebuilt["sha256"]))

    def test_a_moved_mirror_and_a_renamed_patch_compile_nothing_anew(self):
        self.build()
        sources = self.request()["sources"]
        moved = {**sources, "php": {**self.php, "url": "http://gone.test/php.tar.gz"}}
        self.assertFalse(self.build(sources=moved)["built"])
        patch = "--- a/word\n+++ b/word\n@@ -1 +1 @@\n-one\n+two\n"
        patches = [{"name": "a.patch", "sha256": hashlib.sha256(patch.encode()).hexdigest(), "text": patch}]
        self.assertTrue(self.build(patches=patches)["built"])
        self.assertFalse(self.build(patches=[{**patches[0], "name": "b.patch"}])["built"])
        another = {**sources, "php": {**self.php, "sha256": "0" * 64}}
        self.assertIn("expected 0000", self.build(expect=1, sources=another))

    def test_a_stored_archive_that_is_damaged_or_of_another_recipe_is_built_again(self):
        self.build()
        self.machine.write("/var/lib/fleet/artefacts/8.2.99-abc.tar.zst", "damaged\n")
        self.assertTrue(self.build()["built"])
        self.assertTrue(self.build(options=["--with-other"])["built"])
        self.assertFalse(self.build(options=["--with-other"])["built"])

    def test_a_source_with_another_hash_is_named_and_not_compiled(self):
        wrong = {"php": {**self.php, "sha256": "0" * 64}}
        said = self.build(expect=1, sources=wrong, modules=[])
        self.assertIn(f"{self.php['url']}: sha256 is {self.php['sha256']}, expected {'0' * 64}", said)

    def test_a_request_for_another_debian_or_architecture_is_refused(self):
        said = self.build(expect=2, debian="trixie", architecture="mips")
        self.assertRegex(said, r"this machine is Debian bookworm \w+, the request is for trixie mips")

    def test_flags_reach_the_compiler_and_are_part_of_what_an_artefact_is(self):
        self.build(environment={"CFLAGS": "-O3"})
        packed = self.machine.root / "var/lib/fleet/artefacts/8.2.99-abc.tar.zst"
        built = subprocess.run(["tar", "--zstd", "-xOf", packed, "./built"], check=True, capture_output=True, text=True)
        self.assertEqual("compiled -O3\n", built.stdout)
        self.assertFalse(self.build(environment={"CFLAGS": "-O3"})["built"])
        self.assertTrue(self.build(environment={"CFLAGS": "-O2"})["built"])

    def test_how_long_each_phase_took_and_what_the_cache_gave_is_told_and_kept(self):
        statistics = "direct_cache_hit\\t5\\npreprocessed_cache_hit\\t1\\ncache_miss\\t2\\n"
        self.machine.program("ccache", f"#!/bin/sh\n[ $1 = --print-stats ] && printf '{statistics}'\n")
        report = self.build()
        self.assertEqual({"hits": 6, "misses": 2}, report["ccache"])
        self.assertLessEqual(
            {"fetch", "configure", "make", "pecl redis", "tests", "serve", "pack"}, set(report["phases"])
        )
        self.assertEqual((report["phases"], report["ccache"]), (self.record()["seconds"], self.record()["ccache"]))
        without = self.build(ccache=False, artefact="8.2.99-cold")
        self.assertEqual((True, None), (without["built"], without["ccache"]))
        self.assertFalse(self.build(ccache=False)["built"])

    def test_a_patch_is_applied_and_one_that_does_not_fit_stops_the_build(self):
        for old, status in (("one", 0), ("two", 1)):
            text = f"--- a/word\n+++ b/word\n@@ -1 +1 @@\n-{old}\n+patched\n"
            patch = {"name": "word.patch", "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
            result = self.build(expect=status, artefact=f"8.2.99-{old}", patches=[patch])
            if status == 1:
                self.assertIn("patch word.patch failed", result)
        packed = self.machine.root / "var/lib/fleet/artefacts/8.2.99-one.tar.zst"
        word = subprocess.run(["tar", "--zstd", "-xOf", packed, "./word"], check=True, capture_output=True, text=True)
        self.assertEqual("patched\n", word.stdout)

    def test_complaints_about_a_session_store_show_no_path_with_a_password(self):
        place = self.machine.root / "session.c"
        for path in ("PS(save_path)", "ZSTR_VAL(PS(save_path))"):  # text of C, and a string of PHP's own
            source, shown = SESSION.replace("PS(save_path)", path), phpbuild.SHOWN_PATH.format(path)
            place.write_text(source)
            phpbuild.keep_passwords(str(place))
            changed = place.read_text()
            self.assertEqual(2, changed.count(shown))
            self.assertEqual(source, changed.replace(shown, path))
            for line in source.splitlines():  # what opens the store and what a script asks for
                if "s_open" in line or "RETVAL" in line:
                    self.assertIn(line, changed)

    def test_a_source_whose_complaints_are_not_as_known_is_not_built(self):
        self.php = self.php_source(**{"ext/session/session.c": "php_error_docref(NULL, PS(path));\n"})
        self.assertIn("see whether this release of PHP logs passwords", self.build(expect=1))

    def test_a_phase_that_fails_is_named_with_its_last_words_and_the_log(self):
        said = self.build(expect=1, options=["--enable-typo"])
        self.assertIn("phpbuild: 8.2.99-abc: configure failed: unknown option --enable-typo; the log is", said)
        self.assertFalse(self.machine.exists("/opt/php/8.2.99-abc"))
        self.assertIn("unknown option", self.machine.read("/var/lib/fleet/artefacts/8.2.99-abc.log"))

    def test_a_misspelt_option_of_a_pecl_module_is_refused_before_php_is_configured(self):
        redis = {"name": "redis", **self.redis, "options": ["--enable-redis-igbinary", "--enable-redis-igbinry"]}
        said = self.build(expect=1, sources={"php": self.php, "pecl": [redis]})
        self.assertIn("8.2.99-abc: unpack redis failed: redis: unrecognized options: --enable-redis-igbinry;", said)
        self.assertNotIn("configure ", said)
        redis["options"].pop()
        self.build(sources={"php": self.php, "pecl": [redis]})

    def test_a_test_of_php_that_fails_twice_fails_the_build_unless_it_is_known_to(self):
        failing, alone = {"ext/zlib/tests/bad.phpt": "FAILED"}, {"Zend/tests/timing.phpt": "ALONE"}
        sources = {"php": self.php_source(**failing, **alone), "pecl": [{"name": "redis", **self.redis}]}
        said = self.build(expect=1, sources=sources, jobs=2)
        self.assertIn("1 of 4 tests of PHP's own failed that knownFailures lacks: ext/zlib/tests/bad.phpt;", said)
        self.assertFalse(self.machine.exists("/var/lib/fleet/artefacts/8.2.99-abc.json"))
        report = self.build(sources=sources, jobs=2, knownFailures=["ext/zlib/tests/bad.phpt"])
        tested = {"extent": "sample", "passed": 2, "skipped": 1, "failed": ["ext/zlib/tests/bad.phpt"]}
        self.assertEqual((tested, tested), (report["tests"], self.record()["tests"]))

    def test_how_much_is_tested_makes_no_other_artefact(self):
        many = {f"ext/zlib/tests/{n:03}.phpt": "PASSED" for n in range(100)}
        sources = {"php": self.php_source(**many), "pecl": [{"name": "redis", **self.redis}]}
        sample = self.build(sources=sources)
        self.assertEqual(1 + phpbuild.SAMPLE, sample["tests"]["passed"])
        everything = self.build(sources=sources, tests="all", artefact="8.2.99-all")
        self.assertEqual(101, everything["tests"]["passed"])
        none = self.build(sources=sources, tests="none", artefact="8.2.99-none")
        self.assertEqual({"extent": "none"}, none["tests"])

    def test_more_tests_than_its_record_tells_are_run_on_a_stored_archive_and_leave_its_bytes(self):
        many = {f"ext/zlib/tests/{n:03}.phpt": "PASSED" for n in range(100)}
        sources = {"php": self.php_source(**many), "pecl": [{"name": "redis", **self.redis}]}
        packed = self.machine.root / "var/lib/fleet/artefacts/8.2.99-abc.tar.zst"
        tests_log = self.machine.root / "var/lib/fleet/artefacts/8.2.99-abc.tests.log"
        first = self.build(sources=sources, tests="none")
        built = packed.read_bytes(), packed.stat().st_ino
        self.machine.program("make", "#!/bin/sh\nexit 1\n")  # whatever compiles, fails
        for extent, passed in (("sample", 1 + phpbuild.SAMPLE), ("all", 101)):
            report = self.build(sources=sources, tests=extent)
            self.assertEqual((False, first["sha256"]), (report["built"], report["sha256"]))
            tested = {"extent": extent, "passed": passed, "skipped": 1, "failed": []}
            self.assertEqual((tested, tested), (report["tests"], self.record()["tests"]))
            self.assertTrue(tests_log.exists())
            tests_log.unlink()
        for extent in phpbuild.EXTENTS:  # twin: of what the record tells, nothing is run
            self.assertEqual("all", self.build(sources=sources, tests=extent)["tests"]["extent"])
        self.assertFalse(tests_log.exists())
        self.assertEqual(built, (packed.read_bytes(), packed.stat().st_ino))
        self.assertFalse(self.machine.exists("/opt/php/8.2.99-abc"))
        self.assertFalse(self.machine.exists("/var/tmp/fleet-build"))
        self.build(sources=sources, artefact="8.2.99-cold", expect=1)  # twin: that make compiles nothing

    def test_a_stored_archive_that_fails_more_tests_stays_and_so_does_its_record(self):
        many = {f"ext/zlib/tests/{n:03}.phpt": "FAILED" if n == 1 else "PASSED" for n in range(100)}
        sources = {"php": self.php_source(**many), "pecl": [{"name": "redis", **self.redis}]}
        sample, before = self.build(sources=sources), self.record()
        said = self.build(sources=sources, tests="all", expect=1)
        self.assertIn("8.2.99-abc is stored, tests: sample; running tests: all;", said)
        self.assertIn("failed that knownFailures lacks: ext/zlib/tests/001.phpt; the log is", said)
        self.assertEqual((before, sample["tests"]), (self.record(), self.build(sources=sources)["tests"]))
        known = self.build(sources=sources, tests="all", knownFailures=["ext/zlib/tests/001.phpt"])
        self.assertEqual((False, ["ext/zlib/tests/001.phpt"]), (known["built"], known["tests"]["failed"]))

    def test_a_build_of_which_no_test_passes_fails(self):
        php = PHP.replace("redis\\n", "")
        fpm = FPM.replace("redis ", "")
        sources = {"php": self.php_source(**{"tests/basic/001.phpt": "SKIPPED", "php": php, "fpm": fpm})}
        said = self.build(expect=1, sources=sources, modules=["ctype", "zlib", "opcache"])
        self.assertIn("of 2 of PHP's own tests none passed", said)

    def test_an_fpm_that_does_not_answer_as_this_php_fails_the_build(self):
        for fpm, problem in (
            (FPM.replace("8.2.99", "8.2.98"), "php-fpm answers as PHP '8.2.98', expected 8.2.99"),
            (FPM.replace("zlib", "gd"), "php-fpm lacks zlib; also has gd"),
            ("#!/bin/sh\necho broken >&2\n", "php-fpm does not listen"),
        ):
            sources = {"php": self.php_source(fpm=fpm), "pecl": [{"name": "redis", **self.redis}]}
            self.assertIn(f"serve failed: {problem}", self.build(expect=1, sources=sources))

    def test_the_artefact_carries_its_recipe_and_a_bill_of_materials(self):
        query = """#!/bin/sh
case "$1" in
-S) echo "libz1:amd64: /lib/libz.so.1" ;;
-W) shift 3; for name; do printf '%s\\t1:1.2+b%s\\n' "$name" 1; done ;;
esac
"""
        self.machine.program("dpkg-query", query)
        self.machine.program("ldd", "#!/bin/sh\necho 'libz.so.1 => /lib/libz.so.1 (0x0)'\n")
        text = "--- a/word\n+++ b/word\n@@ -1 +1 @@\n-one\n+patched\n"
        patch = {"name": "word.patch", "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
        asked = self.request(patches=[patch], packages=["make"])
        self.build(patches=[patch], packages=["make"])
        packed = self.machine.root / "var/lib/fleet/artefacts/8.2.99-abc.tar.zst"
        held = {}
        for name in ("recipe.json", "sbom.cdx.json"):
            argv = ["tar", "--zstd", "-xOf", packed, f"./{name}"]
            held[name] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
        self.assertEqual(asked, held["recipe.json"])
        sbom = held["sbom.cdx.json"]
        self.assertEqual(sbom, json.loads(self.machine.read("/var/lib/fleet/artefacts/8.2.99-abc.cdx.json")))
        self.assertEqual(("CycloneDX", "1.6", 1), (sbom["bomFormat"], sbom["specVersion"], sbom["version"]))
        self.assertRegex(
            sbom["serialNumber"], r"^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
        )
        self.assertEqual("2020-01-01T00:00:00Z", sbom["metadata"]["timestamp"])
        php = sbom["metadata"]["component"]
        self.assertEqual(
            ("php", "8.2.99", "PHP-3.01"), (php["name"], php["version"], php["licenses"][0]["license"]["id"])
        )
        self.assertTrue(php["purl"].startswith("pkg:generic/php@8.2.99?checksum=sha256:"), php["purl"])
        self.assertEqual([{"alg": "SHA-256", "content": self.php["sha256"]}], php["hashes"])
        self.assertEqual(text, php["pedigree"]["patches"][0]["diff"]["text"]["content"])
        parts = {part["name"]: part for part in sbom["components"]}
        self.assertEqual(
            ("6.2.0", "PHP"), (parts["redis"]["version"], parts["redis"]["licenses"][0]["license"]["name"])
        )
        self.assertEqual("pkg:deb/debian/libz1@1:1.2%2Bb1?arch=amd64&distro=bookworm", parts["libz1"]["purl"])
        self.assertEqual(["make"], [tool["name"] for tool in sbom["metadata"]["tools"]["components"]])
        refs = [part["bom-ref"] for part in (php, *sbom["components"])]
        self.assertEqual((len(refs), refs[1:]), (len(set(refs)), sbom["dependencies"][0]["dependsOn"]))
        self.assertEqual({"libz1": "1:1.2+b1"}, self.record()["libraries"])

    def test_other_modules_or_another_version_than_declared_fail(self):
        said = self.build(expect=1, modules=["ctype", "redis", "opcache", "gd"])
        self.assertIn("the compiled PHP lacks gd; also has zlib", said)
        self.assertIn("the source is PHP 8.2.99, the request says 8.2.98", self.build(expect=1, version="8.2.98"))

    def test_an_installed_php_is_never_built_over(self):
        self.machine.write("/opt/php/8.2.99-abc/.fleet-artefact", "x\n")
        self.assertIn("is installed on this machine for use", self.build(expect=1))
        self.assertTrue(self.machine.exists("/opt/php/8.2.99-abc/.fleet-artefact"))


@unittest.skipUnless(shutil.which("gpg") and shutil.which("gpgv"), "gpg is not here: signatures are NOT tested")
class Signed(Builder):
    def gpg(self, *words):
        argv = ["gpg", "--homedir", self.home, "--batch", "--yes", "--passphrase", "", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def key(self, name):
        self.gpg("--quick-generate-key", name, "ed25519", "sign", "never")
        return self.gpg("--armor", "--export", name)

    def setUp(self):
        super().setUp()
        self.home = tempfile.mkdtemp(prefix="gpg-")
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.addCleanup(subprocess.run, ["gpgconf", "--homedir", self.home, "--kill", "all"], check=False)

    def signed(self, item, key, signer):
        place = item["url"].removeprefix("file://")
        self.gpg("--local-user", signer, "--armor", "--detach-sign", "--output", f"{place}.asc", place)
        return {**item, "signature": {"url": f"{item['url']}.asc", "key": key}}

    def test_a_source_with_a_good_signature_is_built_and_one_signed_by_somebody_else_is_named(self):
        author, other = self.key("author"), self.key("other")
        redis = {"name": "redis", **self.redis}
        both = author + "\n" + other  # a keyring of several, as php.net publishes it
        good = {"php": self.signed(self.php, both, "author"), "pecl": [self.signed(redis, other, "other")]}
        self.assertTrue(self.build(sources=good)["built"])
        for bad, url in (
            ({**good, "php": self.signed(self.php, other, "author")}, self.php["url"]),
            ({**good, "pecl": [self.signed(redis, author, "other")]}, self.redis["url"]),
        ):
            said = self.build(expect=1, sources=bad, artefact="8.2.99-bad")
            self.assertIn(f"{url}.asc is no good signature of {url} by the configured key", said)
            self.assertNotIn("unpack", said)
        tampered = self.signed(self.php, author, "author")
        elsewhere = {**tampered["signature"], "url": f"{self.redis['url']}.asc"}
        self.build(expect=1, sources={"php": {**tampered, "signature": elsewhere}}, artefact="8.2.99-bad")


class Deciding(unittest.TestCase):
    def test_of_several_versions_in_a_tarball_package_xml_chooses(self):
        machine = Machine()
        self.addCleanup(machine.close)
        for version in ("4.3.0", "5.3.7"):
            machine.write(f"/t/redis-{version}/config.m4", "x\n")
        with self.assertRaises(phpbuild.Failed):
            phpbuild.source_folder(f"{machine.root}/t", "config.m4", "redis")
        xml = "<lead>Gy\u00f6rgy</lead><version><release>5.3.7</release><api>5.3.7</api></version>"
        (machine.root / "t/package.xml").write_bytes(xml.encode("latin-1"))
        self.assertEqual(
            "redis-5.3.7", phpbuild.source_folder(f"{machine.root}/t", "config.m4", "redis").split("/")[-1]
        )

    def test_modules_are_compared_without_regard_to_case_and_to_what_is_always_there(self):
        found = phpbuild.module_names("[PHP Modules]\nCore\nPDO\nSPL\n\n[Zend Modules]\nZend OPcache\n")
        self.assertEqual("", phpbuild.module_problem(found, ["pdo", "opcache"]))
        self.assertEqual("", phpbuild.module_problem(found, ["Core", "PDO", "Zend OPcache"]))
        self.assertEqual("lacks gd; also has pdo", phpbuild.module_problem(found, ["opcache", "gd"]))

    def test_modules_load_in_the_order_given_after_those_of_php(self):
        machine = Machine()
        self.addCleanup(machine.close)
        for name in ("redis", "opcache", "igbinary", "apcu"):
            machine.write(f"/lib/php/extensions/x/{name}.so", "")
        pecl = [{"name": name} for name in ("igbinary", "redis", "apcu")]
        words = phpbuild.load_words(str(machine.root), {"sources": {"pecl": pecl}})
        self.assertEqual(
            ["zend_extension=opcache", "extension=igbinary", "extension=redis", "extension=apcu"], words[2::2]
        )

    def test_a_sample_is_spread_evenly_and_never_more_than_asked(self):
        items = [str(n) for n in range(100)]
        self.assertEqual(["0", "25", "50", "75"], phpbuild.spread(items, 4))
        self.assertEqual(items, phpbuild.spread(items, 100))
        for length in range(60):
            chosen = phpbuild.spread(items[:length], 25)
            self.assertEqual(min(length, 25), len(set(chosen)), length)

    def test_a_make_says_how_far_it_is_and_how_long_it_will_take(self):
        self.assertEqual("make 312 of 1204, about 4 min left", phpbuild.progress("make", 312, 1204, 84))
        self.assertEqual("make 1200 of 1204, about 1 s left", phpbuild.progress("make", 1200, 1204, 300))
        self.assertEqual("make 0 of 1204", phpbuild.progress("make", 0, 1204, 10))
        self.assertEqual(
            2, phpbuild.compilers(b"ccache gcc -c a.c -o a.o\nlibtool --mode=compile cc -I. -c b.c\ngcc a.o\n")
        )
        machine, said = Machine(), []
        self.addCleanup(machine.close)
        log = phpbuild.Log(str(machine.root / "log"), {"PATH": os.environ["PATH"]})
        script = "cat; for n in 1 2 3; do echo gcc -c $n.c; sleep 0.3; done"
        with mock.patch.multiple(phpbuild, PROGRESS_SECONDS=0.1, say=said.append):
            log.run(["sh", "-c", script], str(machine.root), b"given\n", expected=6)
        self.assertRegex(said[0], r"^sh 1 of 6, about \d+ s left$")
        self.assertRegex(said[-1], r"^sh 3 of 6, about \d+ s left$")
        self.assertIn("given\ngcc -c 1.c\n", machine.read("/log"))
        log.file.close()

    def test_every_mistake_in_a_request_is_told(self):
        wrong = phpbuild.mistakes({"artefact": "x", "colour": 1, "jobs": "2"})
        self.assertEqual(9, len(wrong), wrong)
        signature = {"url": "x", "key": "no key"}
        sources = {
            "php": {"url": "x", "sha256": "1", "signature": signature},
            "pecl": [{"name": "../x", "url": "x", "sha256": "0" * 64}],
        }
        patches = [{"name": "p", "sha256": "0" * 64, "text": "x"}]
        asked = {
            "artefact": "a b",
            "version": "8",
            "debian": "bookworm",
            "architecture": "amd64",
            "environment": {"LIBS": "-lx"},
            "tests": "some",
            "sources": sources,
            "options": [],
            "modules": [],
            "patches": patches,
        }
        self.assertEqual(7, len(phpbuild.mistakes(asked)), phpbuild.mistakes(asked))


if __name__ == "__main__":
    unittest.main()
