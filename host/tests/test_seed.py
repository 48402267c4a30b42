"""Promises of seed: an empty site is filled once, and no tree that a site has changed takes root anywhere else."""

import io
import json
import os
import tarfile
import unittest
from hashlib import sha256

from tests.machine import Machine

SITES = "/srv/sites"
UID = 20001 if os.getuid() == 0 else os.getuid()


class Seed(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
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
        (self.sites / ".seed/half/content").mkdir(parents=True)
        self.seeded()
        self.assertEqual(["wiki"], os.listdir(self.sites))

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


if __name__ == "__main__":
    unittest.main()
