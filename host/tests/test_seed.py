"""Promises of seed: an empty site is filled once, and no tree that a site has changed takes root anywhere else."""

import io
import json
import os
import tarfile
import tempfile
import unittest
from hashlib import sha256
from pathlib import Path

from tests.machine import Machine

SITES = "/srv/sites"
UID = 20001 if os.getuid() == 0 else os.getuid()


# Answers `qgroup show` while <root>/counts exists, and makes a directory of a volume; every call is in <root>/calls.
BTRFS = """#!/bin/sh
here=${0%/*}/..
[ "$1" = --quiet ] && shift
case "$1 $2" in
"qgroup show") test -e "$here/counts"; exit ;;
"quota enable") touch "$here/counts" ;;
"quota disable") rm "$here/counts" ;;
"subvolume create") mkdir "$3" ;;
esac
echo "$*" >> "$here/calls"
"""


class Seed(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.machine.program("btrfs", BTRFS)
        self.sites = self.machine.root / "sites"
        self.beside = self.machine.root / "beside"
        self.beside.mkdir()

    def seed(self, **site):
        wanted = {"name": "wiki", "uid": UID, "gid": os.getgid(), "mode": "0710", "documentRoot": "htdocs", **site}
        self.machine.write("/seed.json", json.dumps({"directory": str(self.sites), "sites": [wanted]}))
        return self.machine.run("seed.py", str(self.machine.root / "seed.json"))

    def seeded(self, **site):
        done = self.seed(seed={"files": {"index.php": "hello", "lib/a.php": "a"}}, **site)
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stderr

    def tree(self, path):
        return self.sites / "wiki" / path

    def test_an_empty_site_is_filled_once_and_all_of_it_is_the_sites(self):
        self.assertEqual("seed: wiki filled\n", self.seeded())
        for path in ("htdocs", "htdocs/index.php", "htdocs/lib/a.php", "sessions"):
            self.assertEqual(UID, self.tree(path).stat().st_uid, path)
        self.assertEqual(0o700, self.tree("sessions").stat().st_mode & 0o777)
        self.tree("htdocs/index.php").write_text("its own")
        self.assertEqual("", self.seeded())
        self.assertEqual("its own", self.tree("htdocs/index.php").read_text())
        self.assertEqual(["wiki"], os.listdir(self.sites))

    def test_a_document_root_below_others_has_parents_that_are_the_sites(self):
        self.seeded(documentRoot="app/public/www")
        self.assertEqual("hello", self.tree("app/public/www/index.php").read_text())
        self.assertEqual(UID, self.tree("app/public").stat().st_uid)

    def test_a_site_whose_code_is_elsewhere_has_a_directory_and_no_document_root(self):
        self.machine.write("/seed.json", json.dumps({"directory": str(self.sites), "sites": [
            {"name": "moodle", "uid": UID, "gid": os.getgid(), "mode": "0710"},
        ]}))
        done = self.machine.run("seed.py", str(self.machine.root / "seed.json"))
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        self.assertEqual(["sessions"], os.listdir(self.sites / "moodle"))

    def test_an_archive_is_filled_in_and_one_with_another_hash_fails(self):
        archive = self.machine.root / "a.tar"
        with tarfile.open(archive, "w") as out:
            entry = tarfile.TarInfo("top/index.php")
            entry.size = 2
            out.addfile(entry, io.BytesIO(b"hi"))
        url = f"file://{archive}"
        wrong = self.seed(seed={"url": url, "sha256": "0" * 64})
        self.assertEqual(1, wrong.returncode)
        self.assertIn("nothing was unpacked", wrong.stderr)
        self.assertFalse(self.tree("htdocs").exists())
        done = self.seed(seed={"url": url, "sha256": sha256(archive.read_bytes()).hexdigest()})
        self.assertEqual("seed: wiki filled\n", done.stderr)
        self.assertEqual("hi", self.tree("htdocs/index.php").read_text())

    def test_what_a_killed_run_left_is_swept_away(self):
        self.seeded()
        self.tree("htdocs").rename(self.tree("old"))
        self.tree(".seed/half/content").mkdir(parents=True)
        self.seeded()
        self.assertEqual(["htdocs", "old", "sessions"], sorted(os.listdir(self.sites / "wiki")))

    def test_a_link_in_place_of_the_sessions_gives_nothing_away(self):
        self.seeded()
        self.tree("sessions").rmdir()
        self.tree("sessions").symlink_to(self.beside)
        os.chmod(self.beside, 0o755)
        before = os.stat(self.beside)
        self.seeded()
        self.assertEqual((before.st_uid, before.st_mode), (os.stat(self.beside).st_uid, os.stat(self.beside).st_mode))

    def test_nothing_is_filled_in_through_a_link(self):
        self.seeded(documentRoot="app/htdocs")
        os.rename(self.tree("app"), self.tree("own"))
        self.tree("app").symlink_to(self.beside)
        self.assertIn("seed: wiki was not filled", self.seeded(documentRoot="app/htdocs"))
        self.assertEqual([], os.listdir(self.beside))
        # A document root that is a link itself is the site's own affair.
        os.unlink(self.tree("app"))
        self.tree("app").mkdir()
        self.tree("app/htdocs").symlink_to("/nowhere")
        self.assertEqual("", self.seeded(documentRoot="app/htdocs"))

    def test_no_file_of_a_sites_own_fails_the_run(self):
        self.seeded()
        self.tree("sessions").rmdir()
        for name in ("sessions", ".seed-x", ".seed"):
            self.tree(name).write_text("mine")
        self.assertEqual("", self.seeded())



class Quotas(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.machine.program("btrfs", BTRFS)
        self.sites = self.machine.root / "srv/fleet/sites"
        self.sites.parent.mkdir(parents=True)

    def seed(self, **quotas):
        ids = {"uid": os.getuid(), "gid": os.getgid()}
        sites = [
            {"name": name, **ids, "mode": "0710", "documentRoot": "htdocs", **({"quota": quota} if quota else {})}
            for name, quota in quotas.items()
        ]
        order = {"directory": str(self.sites), "sites": sites}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as out:
            json.dump(order, out)
            out.flush()
            done = self.machine.run("seed.py", out.name)
        self.assertEqual(0, done.returncode, done.stderr)
        self.said = done.stderr
        return [call.replace(str(self.sites.parent), "") for call in self.machine.calls()]

    def test_without_quotas_nothing_is_asked_of_btrfs(self):
        self.assertEqual([], self.seed(blog=None, wiki=None))
        self.assertTrue((self.sites / "wiki/htdocs").is_dir())

    def test_a_site_with_a_quota_is_a_volume_and_counting_goes_with_the_last_of_them(self):
        self.assertEqual(["subvolume create /sites/wiki", "quota enable "], self.seed(blog=None, wiki=1 << 30))
        # No directory here has the inode of a volume.
        self.assertIn("wiki: its directory was there before its quota", self.said)
        self.assertNotIn("blog: its directory", self.said)
        self.assertEqual([], self.seed(blog=None, wiki=1 << 30))
        self.assertEqual(["quota disable "], self.seed(blog=None, wiki=None))

    def test_a_volume_is_limited_and_set_free(self):
        program = (Path(__file__).parent.parent / "seed.py").read_text()
        self.seed(blog=1, wiki=None)
        own = program.replace("VOLUME_INODE = 256", f"VOLUME_INODE = {(self.sites / 'blog').stat().st_ino}")
        place = self.machine.root / "seed.py"
        place.write_text(own)
        run = self.machine.run
        self.machine.run = lambda _, *words: run(str(place), *words)
        self.assertEqual(["qgroup limit 5 /sites/blog"], self.seed(blog=5, wiki=None))
        self.assertEqual(["qgroup limit none /sites/blog"], self.seed(blog=None, wiki=7)[:1])


if __name__ == "__main__":
    unittest.main()
