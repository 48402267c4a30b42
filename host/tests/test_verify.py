"""Promises of verify: a build compares with the archive that it came as, and nothing is written."""

import hashlib
import json
import os
import subprocess
import unittest

from tests.machine import Machine

NAME = "8.2.99-abc"


class Verifying(unittest.TestCase):
    def setUp(self):
        self.builder, self.vm = Machine(), Machine()
        for machine in (self.builder, self.vm):
            self.addCleanup(machine.close)
        source = self.builder.root / "source"
        (source / "bin").mkdir(parents=True)
        (source / "bin/php").write_text("a binary\n")
        (source / "bin/php").chmod(0o755)
        (source / "bin/phar").symlink_to("phar.phar")
        os.link(source / "bin/php", source / "bin/same")
        source.chmod(0o755)
        self.store = self.builder.root / "var/lib/fleet/artefacts"
        self.store.mkdir(parents=True)
        self.packed = self.store / f"{NAME}.tar.zst"
        owned = ["--owner=0", "--group=0", "--numeric-owner"]
        subprocess.run(["tar", "--zstd", *owned, "-cf", self.packed, "-C", source, "."], check=True)
        self.sha256 = hashlib.sha256(self.packed.read_bytes()).hexdigest()
        (self.store / f"{NAME}.json").write_text(json.dumps({"sha256": self.sha256}))
        item = {"name": NAME, "sha256": self.sha256, "urls": [self.packed.as_uri()]}
        done = self.vm.run("base.py", given=json.dumps({"artefacts": [item]}))
        self.assertEqual(0, done.returncode, done.stderr)

    def said(self, machine):
        done = machine.run("verify.py")
        self.assertEqual(0, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def compared(self):
        """The archive's files, and those of the build."""
        return self.said(self.builder)["archives"][NAME]["files"], self.said(self.vm)["builds"][NAME]["files"]

    def test_what_was_unpacked_is_what_the_archive_holds(self):
        archive, build = self.compared()
        self.assertEqual(archive, build)
        self.assertEqual({".", "bin", "bin/php", "bin/phar", "bin/same"}, set(build))
        self.assertEqual(self.sha256, self.said(self.vm)["builds"][NAME]["from"])

    def test_each_kind_of_edit_of_a_build_shows(self):
        place = self.vm.root / "opt/php" / NAME
        edits = {
            "bin/php": lambda: (place / "bin/php").write_text("another binary\n"),
            "bin": lambda: (place / "bin").chmod(0o700),
            "bin/same": lambda: (place / "bin/same").unlink(),
            "bin/phar": lambda: ((place / "bin/phar").unlink(), (place / "bin/phar").symlink_to("elsewhere")),
            "bin/more": lambda: (place / "bin/more").mkdir(),
        }
        os.unlink(place / "bin/same")  # tar made it a link to bin/php: each edit is to be one of one path
        (place / "bin/same").write_text("a binary\n")
        (place / "bin/same").chmod(0o755)
        for number, edit in enumerate(edits.values()):
            edit()
            archive, build = self.compared()
            differing = {path for path in archive.keys() | build.keys() if archive.get(path) != build.get(path)}
            self.assertEqual(set(list(edits)[: number + 1]), differing)

    def test_an_archive_that_is_not_what_its_record_says_has_no_files_to_compare_with(self):
        self.packed.write_bytes(self.packed.read_bytes()[:-1] + b"x")
        told = self.said(self.builder)["archives"][NAME]
        self.assertEqual((self.sha256, None), (told["recorded"], told.get("files")))
        self.assertNotEqual(self.sha256, told["sha256"])

    def test_an_archive_without_a_record_and_a_record_without_an_archive_are_told(self):
        (self.store / f"{NAME}.json").rename(self.store / "8.2.99-def.json")
        (self.store / f"{NAME}.cdx.json").write_text("{}")
        told = self.said(self.builder)["archives"]
        self.assertEqual({NAME: (self.sha256, None), "8.2.99-def": (None, self.sha256)}, {
            name: (item["sha256"], item["recorded"]) for name, item in told.items()
        })  # fmt: skip

    def test_a_build_without_its_marker_was_not_installed_as_a_whole(self):
        (self.vm.root / "opt/php" / NAME / ".fleet-artefact").unlink()
        self.assertIsNone(self.said(self.vm)["builds"][NAME]["from"])

    def test_a_builder_tells_its_archives_alone_and_nothing_is_written(self):
        (self.builder.root / "opt/php/8.4.1-abc/bin").mkdir(parents=True)  # being compiled
        before = self.builder.tree("opt", "var"), self.vm.tree("opt")
        self.assertEqual({}, self.said(self.builder)["builds"])
        self.assertEqual({}, self.said(self.vm)["archives"])
        self.assertEqual(before, (self.builder.tree("opt", "var"), self.vm.tree("opt")))


if __name__ == "__main__":
    unittest.main()
