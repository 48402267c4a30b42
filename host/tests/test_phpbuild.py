"""Promises of the PHP builder, with a source tarball whose configure and make are a few lines of shell."""

import hashlib
import json
import os
import subprocess
import unittest

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
\tcp php @prefix@/bin/php; cp php @prefix@/sbin/php-fpm; cp phpize @prefix@/bin/phpize; touch @prefix@/bin/php-config
\tcp built @prefix@/built; cp word @prefix@/word
"""
PHP = """#!/bin/sh
case "$*" in
*PHP_VERSION*) echo 8.2.99 ;;
*-m*) printf '[PHP Modules]\\nCore\\nctype\\nredis\\nzlib\\n\\n[Zend Modules]\\nZend OPcache\\n' ;;
esac
"""
PHPIZE = """#!/bin/sh
printf '#!/bin/sh\\nprintf "all:\\\\ninstall:\\\\n\\\\ttouch %s/../lib/php/extensions/no-debug/redis.so\\\\n" > Makefile\\n' "${0%/*}" > configure
chmod +x configure
"""


class Building(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.machine.program("strip", "#!/bin/sh\n")
        self.machine.program("ldd", "#!/bin/sh\n")
        files = {"configure": CONFIGURE, "makefile.in": MAKEFILE, "php": PHP, "phpize": PHPIZE, "word": "one\n"}
        self.php = self.tarball("php-8.2.99", {f"php-8.2.99/{name}": text for name, text in files.items()})
        self.redis = self.tarball("redis", {"redis-6.2.0/config.m4": "x\n", "redis-6.2.0/tests/config.m4": "x\n"})

    def tarball(self, name, files):
        folder = self.machine.root / "src" / name
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
            "sources": sources,
            "options": [],
            "modules": modules,
            **more,
        }

    def build(self, expect=0, **more):
        done = self.machine.run("phpbuild.py", given=json.dumps(self.request(**more)))
        self.assertEqual(expect, done.returncode, done.stderr)
        return json.loads(done.stdout) if expect == 0 else done.stderr

    def contents(self, name="8.2.99-abc"):
        packed = self.machine.root / f"var/lib/fleet/artefacts/{name}.tar.zst"
        return subprocess.run(
            ["tar", "--zstd", "-tf", packed], check=True, capture_output=True, text=True
        ).stdout.split()

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

    def test_a_phase_that_fails_is_named_with_its_last_words_and_the_log(self):
        said = self.build(expect=1, options=["--enable-typo"])
        self.assertIn("configure failed: unknown option --enable-typo; the log is", said)
        self.assertFalse(self.machine.exists("/opt/php/8.2.99-abc"))
        self.assertIn("unknown option", self.machine.read("/var/lib/fleet/artefacts/8.2.99-abc.log"))

    def test_other_modules_or_another_version_than_declared_fail(self):
        said = self.build(expect=1, modules=["ctype", "redis", "opcache", "gd"])
        self.assertIn("the compiled PHP lacks gd; also has zlib", said)
        self.assertIn("the source is PHP 8.2.99, the request says 8.2.98", self.build(expect=1, version="8.2.98"))

    def test_an_installed_php_is_never_built_over(self):
        self.machine.write("/opt/php/8.2.99-abc/.fleet-artefact", "x\n")
        self.assertIn("is installed on this machine for use", self.build(expect=1))
        self.assertTrue(self.machine.exists("/opt/php/8.2.99-abc/.fleet-artefact"))


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

    def test_every_mistake_in_a_request_is_told(self):
        wrong = phpbuild.mistakes({"artefact": "x", "colour": 1, "jobs": "2"})
        self.assertEqual(6, len(wrong), wrong)
        sources = {"php": {"url": "x", "sha256": "1"}, "pecl": [{"name": "../x", "url": "x", "sha256": "0" * 64}]}
        patches = [{"name": "p", "sha256": "0" * 64, "text": "x"}]
        asked = {
            "artefact": "a b",
            "version": "8",
            "sources": sources,
            "options": [],
            "modules": [],
            "patches": patches,
        }
        self.assertEqual(4, len(phpbuild.mistakes(asked)), phpbuild.mistakes(asked))


if __name__ == "__main__":
    unittest.main()
