"""Promises of the sites' directories on the NAS VM."""

import json
import os
import tempfile
import unittest
from pathlib import Path

from .machine import Machine

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
