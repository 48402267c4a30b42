"""Promises of an application's code: one commit, the same bytes, and Moodle's own list of what it needs."""

import json
import os
import subprocess
import tarfile
import unittest

from tests.machine import Machine

STUB = {"path": "config.php", "text": "<?php\n"}
MATRIX = """<?xml version="1.0" encoding="UTF-8" ?>
<COMPATIBILITY_MATRIX>
  <MOODLE version="4.5" requires="4.1">
    <PHP version="8.1.0" level="required"></PHP>
    <PHP_EXTENSIONS>
      <PHP_EXTENSION name="sodium" level="required"></PHP_EXTENSION>
      <PHP_EXTENSION name="spl" level="required"></PHP_EXTENSION>
      <PHP_EXTENSION name="soap" level="optional"></PHP_EXTENSION>
    </PHP_EXTENSIONS>
  </MOODLE>
  <MOODLE version="5.0"><PHP version="8.2.0" level="required"></PHP></MOODLE>
</COMPATIBILITY_MATRIX>
"""
MOODLE = {"branch": "4.5", "php": "8.2.32", "modules": ["SPL", "sodium"]}


class OnABuilder(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.repository = f"{self.machine.root}/upstream"
        self.git("init", "-q", "-b", "main", self.repository, at=str(self.machine.root))
        self.first = self.commit({"index.php": "<?php echo 1;\n", "bin/run": "#!/bin/sh\n", "uploads/README": "x\n"})

    def git(self, *words, at=None):
        names = ["-c", "user.name=T", "-c", "user.email=t@x", "-c", "commit.gpgsign=false"]
        call = ["git", *names, "-C", at or self.repository, *words]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, files):
        for path, text in files.items():
            place = f"{self.repository}/{path}"
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "w", encoding="utf-8") as out:
                out.write(text)
            os.chmod(place, 0o755 if path.startswith("bin/") else 0o644)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "more")
        return self.git("rev-parse", "HEAD")

    def ask(self, expect=0, **more):
        wanted = {
            "artefact": "shop-0123456789ab", "application": "shop", "repository": self.repository, "commit": self.first,
            "documentRoot": "", "writable": [], **more,
        }  # fmt: skip
        done = self.machine.run("codefetch.py", given=json.dumps({k: v for k, v in wanted.items() if v is not None}))
        self.assertEqual(expect, done.returncode, done.stderr)
        return json.loads(done.stdout) if expect == 0 else done.stderr

    def packed(self, artefact="shop-0123456789ab"):
        archive = f"{self.machine.root}/var/lib/fleet/artefacts/code/{artefact}.tar.zst"
        plain = subprocess.run(["zstd", "-dcq", archive], check=True, capture_output=True).stdout
        place = self.machine.root / "plain.tar"
        place.write_bytes(plain)
        with tarfile.open(place) as members:
            return {os.path.normpath(m.name): m for m in members if not m.isdir()}

    def test_the_archive_is_the_commits_tree_whatever_came_after(self):
        self.commit({"index.php": "<?php echo 2;\n", "later.php": "<?php\n"})
        said = self.ask()
        self.assertEqual(self.git("rev-parse", f"{self.first}^{{tree}}"), said["tree"])
        found = self.packed()
        self.assertEqual({"index.php", "bin/run", "uploads/README"}, set(found))
        self.assertEqual({0}, {m.uid for m in found.values()})
        self.assertEqual([0o644, 0o755], [found[name].mode for name in ("index.php", "bin/run")])

    def test_the_same_commit_gives_the_same_bytes_and_is_packed_once(self):
        one = self.ask()
        self.assertEqual(one, self.ask(repository="/nowhere"))  # nothing is fetched
        other = self.ask(artefact="shop-ba9876543210")
        self.assertEqual(one["sha256"], other["sha256"])
        archive = self.machine.root / "var/lib/fleet/artefacts/code/shop-0123456789ab.tar.zst"
        archive.write_bytes(b"cut short")
        self.assertEqual(one, self.ask())

    def test_the_stub_and_the_links_to_what_is_written_are_added(self):
        self.ask(stub=STUB, writable=["uploads", "wp/cache"])
        found = self.packed()
        self.assertEqual("/srv/sites/shop/uploads", found["uploads"].linkname)
        self.assertEqual("/srv/sites/shop/wp/cache", found["wp/cache"].linkname)
        self.assertIn("config.php", found)
        self.assertNotIn("uploads/README", found)

    def test_a_configuration_in_the_repository_is_refused(self):
        commit = self.commit({"config.php": "<?php // password\n"})
        self.assertIn("the code has a config.php of its own", self.ask(1, commit=commit, stub=STUB))

    def test_a_commit_that_is_not_there_and_a_tag_of_another_one_are_told(self):
        self.assertIn("has no commit 00000000", self.ask(1, commit="0" * 40))
        self.git("tag", "-a", "-m", "v1", "v1", self.first)
        second = self.commit({"index.php": "<?php echo 2;\n"})
        self.ask(tag="v1")
        self.assertIn(f"tag v1 of {self.repository} is commit {self.first}", self.ask(1, artefact="shop-ff", commit=second, tag="v1"))
        self.assertIn("is not there", self.ask(1, artefact="shop-ff", commit=second, tag="v9"))

    def test_a_link_of_the_repository_leads_nobody_out_of_the_code(self):
        outside = self.machine.root / "outside"
        outside.mkdir()
        os.symlink(outside, f"{self.repository}/content")
        os.symlink("inside", f"{self.repository}/near")
        commit = self.commit({"inside/readme": "x\n"})
        for what in ({"writable": ["content/uploads"]}, {"stub": {**STUB, "path": "content/config.php"}}):
            said = self.ask(1, commit=commit, **what)
            self.assertIn("a link on the way to content/", said)
        self.assertIn("no directory content", self.ask(1, commit=commit, documentRoot="content"))
        self.assertEqual([], os.listdir(outside))
        self.ask(commit=commit, writable=["near/uploads"], documentRoot="near")

    def test_submodules_and_a_document_root_that_is_not_there_are_refused(self):
        self.assertIn("the code has no directory public", self.ask(1, documentRoot="public"))
        self.git("update-index", "--add", "--cacheinfo", f"160000,{self.first},theme")
        self.git("commit", "-q", "-m", "submodule")
        self.assertIn("has theme", self.ask(1, commit=self.git("rev-parse", "HEAD")))

    def test_a_wrong_request_is_refused_before_anything_is_fetched(self):
        said = self.ask(2, commit="main", writable=["../x"], colour="red")
        self.assertIn("unknown key 'colour'", said)
        said = self.ask(2, commit="main", writable=["../x"])
        self.assertIn("commit: needs 40", said)
        self.assertIn("'../x' must be a plain path", said)

    def moodle(self, release="4.5.7 (Build: 20251006)", under="", **order):
        files = {"version.php": f"<?php\n$version  = 2024100707.00;\n$release  = '{release}';\n", "admin/environment.xml": MATRIX}
        commit = self.commit({f"{under}{path}": text for path, text in files.items()})
        return {"commit": commit, "documentRoot": under.rstrip("/"), "moodle": {**MOODLE, **order}}

    def test_moodle_with_all_that_its_branch_requires_is_packed(self):
        self.ask(**self.moodle())
        # What is not listed yet, the newest list before it says; from 5.1 on it is below public/.
        self.ask(artefact="shop-51", **self.moodle("5.1+ (Build: 20251205)", "public/", branch="5.1"))

    def test_a_required_module_that_the_build_lacks_is_named_with_the_remedy(self):
        said = self.ask(1, **self.moodle(modules=["SPL"]))
        self.assertIn("Moodle 4.5 needs the PHP module sodium: add it to fleet:php.8.2", said)
        self.assertNotIn("soap", said)
        self.assertFalse(self.machine.exists("/var/lib/fleet/artefacts/code/shop-0123456789ab.tar.zst"))

    def test_another_branch_and_an_old_php_are_named(self):
        said = self.ask(1, **self.moodle("5.0.2 (Build: 20251006)", php="8.0.30"))
        self.assertIn("the code is Moodle 5.0.2 (Build: 20251006): set fleet:moodle.application.branch", said)
        self.assertIn("Moodle 4.5 needs PHP 8.1.0 or newer, not 8.0.30", said)
        self.assertIn("the code is no Moodle 4.5", self.ask(1, moodle=MOODLE))

    def test_a_php_that_changes_is_asked_for_again_and_the_bytes_stay(self):
        request = self.moodle()
        one = self.ask(**request)
        self.assertIn("sodium", self.ask(1, **{**request, "moodle": {**MOODLE, "modules": ["SPL"]}}))
        self.assertEqual(one, self.ask(**{**request, "moodle": {**MOODLE, "modules": ["SPL", "sodium", "zip"]}}))


if __name__ == "__main__":
    unittest.main()
