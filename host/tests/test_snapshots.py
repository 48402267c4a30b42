"""Promises of snapshots and restores on the NAS VM."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest import mock

from .machine import HOST, PYTHON

sys.path.insert(0, str(HOST))
import snapshots

MONDAY = 1_790_553_600  # 2026-09-28T00:00:00Z
HOUR = 3600
KEEP = {"hourly": 24, "daily": 7, "weekly": 4}


def name(seconds, suffix=""):
    return time.strftime(snapshots.FORM, time.gmtime(seconds)) + suffix


def pruned(times, keep=None, have=()):
    """What is left when a snapshot is made at each of these times and the others go at once."""
    there = set(have)
    for each in times:
        there = snapshots.kept([*there, name(each)], keep or KEEP) | {name(each)}
    return there


class Keeping(unittest.TestCase):
    """Which snapshots stay."""

    def test_a_table(self):
        three_days = [MONDAY + HOUR * n for n in range(72)]
        last_day = {name(t) for t in three_days[-24:]}
        cases = [
            ("nothing is there", [], KEEP, set()),
            ("one", [MONDAY], KEEP, {name(MONDAY)}),
            ("three days", three_days, KEEP, last_day | {name(MONDAY), name(MONDAY + 24 * HOUR)}),
            ("no days, no weeks", three_days, {"hourly": 24, "daily": 0, "weekly": 0}, last_day),
            (
                "nothing is kept but the newest",
                three_days,
                {"hourly": 0, "daily": 0, "weekly": 0},
                {name(three_days[-1])},
            ),
            (
                "of one hour the first, and the newest",
                [MONDAY + n for n in (1, 2, 3)],
                KEEP,
                {name(MONDAY + 1), name(MONDAY + 3)},
            ),
        ]
        for what, times, keep, expected in cases:
            self.assertEqual(expected, snapshots.kept([name(t) for t in times], keep), what)

    def test_ten_weeks_leave_a_day_of_hours_a_week_of_days_and_a_month_of_weeks(self):
        times = [MONDAY + HOUR * n for n in range(24 * 7 * 10)]
        stay = pruned(times)
        days = {name(MONDAY + 24 * HOUR * (69 - n)) for n in range(7)}
        weeks = {name(MONDAY + 7 * 24 * HOUR * (9 - n)) for n in range(4)}
        self.assertEqual({name(t) for t in times[-24:]} | days | weeks, stay)

    def test_removing_as_time_goes_leaves_what_removing_at_the_end_would(self):
        chance = random.Random(20)
        for _ in range(60):
            times, now = [], MONDAY
            for _ in range(200):
                now += chance.choice([HOUR, HOUR, HOUR, 600, 5 * HOUR, 40 * HOUR, 300 * HOUR])
                times.append(now)
            keep = {kind: chance.randrange(0, 9) for kind in KEEP}
            self.assertEqual(snapshots.kept([name(t) for t in times], keep), pruned(times, keep), keep)

    def test_whatever_the_clock_does_the_newest_stays_and_no_more_than_are_kept_do(self):
        chance = random.Random(21)
        for _ in range(60):
            there, now = set(), MONDAY
            for _ in range(150):
                now = chance.choice(
                    [
                        now + HOUR,
                        now + HOUR,
                        now + HOUR,
                        now - chance.randrange(400 * HOUR),
                        now + chance.randrange(9000 * HOUR),
                    ]
                )
                stay = snapshots.kept([*there, name(now)], KEEP)
                self.assertLessEqual(len(stay), sum(KEEP.values()) + 1)
                self.assertIn(max([*there, name(now)]), stay)
                self.assertEqual(stay, snapshots.kept(list(stay), KEEP), "a second look removes nothing more")
                there = stay | {name(now)}

    def test_a_clock_that_jumps_ahead_and_back_costs_one_place_of_each_kind_and_no_snapshot_of_before(self):
        before = pruned([MONDAY + HOUR * n for n in range(24 * 40)])
        after = pruned([MONDAY + HOUR * (24 * 40 - 1) + 900_000 * HOUR], have=before)
        self.assertLessEqual(len(before - after), 3)
        back = pruned([MONDAY + HOUR * 24 * 40], have=after)
        self.assertIn(name(MONDAY + HOUR * 24 * 40), back)

    def test_those_that_somebody_asked_for_push_no_other_out(self):
        times = [MONDAY + HOUR * n for n in range(72)]
        hand = [name(t + 60, "-hand") for t in times]
        both = snapshots.kept([name(t) for t in times] + hand, KEEP)
        self.assertEqual(snapshots.kept([name(t) for t in times], KEEP) | set(hand[-24:]), both)


class Disk(unittest.TestCase):
    """A directory that stands for the disk, and a btrfs that copies."""

    def setUp(self):
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.root = tempfile.mkdtemp(prefix="fleet-nas-", dir=memory)
        self.addCleanup(shutil.rmtree, self.root)
        self.disk = f"{self.root}/srv/fleet"
        self.volumes, self.asked, self.broken = set(), [], ""
        places = {
            "DISK": self.disk,
            "SITES": f"{self.disk}/sites",
            "PLACE": f"{self.disk}/snapshots",
            "SETTINGS": f"{self.root}/settings.json",
            "SEED": f"{self.root}/seed.json",
            "RUN": f"{self.root}/run",
            "KNOWN": f"{self.root}/known",
            "ROOT": self.root,
        }
        own = {"btrfs": self.btrfs, "is_volume": lambda path: path in self.volumes}
        patch = mock.patch.multiple(snapshots, **places, **own)
        patch.start()
        self.addCleanup(patch.stop)
        Path(f"{self.root}/settings.json").write_text(json.dumps({"keep": KEEP}))
        Path(f"{self.root}/seed.json").write_text(json.dumps({"sites": []}))
        for site in ("blog", "wiki"):
            self.fill(site)

    def fill(self, site):
        tree = Path(f"{self.disk}/sites/{site}")
        (tree / "htdocs/data").mkdir(parents=True)
        (tree / "sessions").mkdir(mode=0o700)
        (tree / ".fleet/cron").mkdir(parents=True)
        (tree / "htdocs/index.php").write_text(f"<?php // {site}\n")
        (tree / "htdocs/data/page.txt").write_text("first\n")
        (tree / "sessions/sess_a").write_text("a")
        os.link(tree / "htdocs/index.php", tree / "htdocs/same.php")
        os.symlink("data/page.txt", tree / "htdocs/link")
        with open(tree / "htdocs/data/sparse", "wb") as out:
            out.truncate(1 << 16)
            out.seek(1 << 15)
            out.write(b"x")
        os.chmod(tree / "htdocs/data", 0o750)
        os.utime(tree / "htdocs/index.php", ns=(5, 1_600_000_000_123_456_789))
        with contextlib.suppress(OSError):
            os.setxattr(tree / "htdocs/index.php", "user.note", b"kept")
        (tree / "README").write_text("read me\n")

    def btrfs(self, *words):
        self.asked.append(" ".join(words).replace(self.disk, ""))
        if self.broken and self.broken in self.asked[-1]:
            raise snapshots.Failed("No space left on device")
        verb, path = " ".join(words[:2]), words[-1]
        if verb == "subvolume create":
            os.mkdir(path)
        if verb == "subvolume snapshot":
            os.mkdir(path)
            inside = [entry.path for entry in os.scandir(words[-2]) if entry.name != "snapshots"]
            subprocess.run(["cp", "--archive", "--target-directory", path, *inside], check=True)
            for volume in self.volumes:  # of which a snapshot of another one has an empty directory
                if volume.startswith(f"{words[-2]}/"):
                    shutil.rmtree(path + volume.removeprefix(words[-2]))
        if verb == "subvolume delete":
            shutil.rmtree(path)
        return ""

    def look(self, site, path=None):
        """Everything of a tree but what is left alone: content, modes, owners, times, links, attributes."""
        top, found, links = path or f"{self.disk}/sites/{site}", {}, {}
        for folder, folders, files in os.walk(top):
            if folder == top:
                folders[:] = [f for f in folders if not snapshots.LEFT.fullmatch(f)]
            folders.sort()
            for entry in sorted([*folders, *files]):
                place = f"{folder}/{entry}"
                about = os.lstat(place)
                kind = stat.S_IFMT(about.st_mode)
                content = os.readlink(place) if stat.S_ISLNK(kind) else ""
                if stat.S_ISREG(kind):
                    content = hashlib.sha256(Path(place).read_bytes()).hexdigest()
                first = links.setdefault(about.st_ino, place.removeprefix(top))
                times = about.st_mtime_ns
                found[place.removeprefix(top)] = (
                    about.st_mode,
                    about.st_uid,
                    about.st_gid,
                    times,
                    content,
                    first,
                    snapshots.attributes(place),
                )
        return found

    def hourly(self, now):
        with redirect_stderr(StringIO()):
            return snapshots.hourly(now)

    def damage(self, site):
        tree = Path(f"{self.disk}/sites/{site}")
        (tree / "htdocs/index.php").write_text("defaced\n")
        shutil.rmtree(tree / "htdocs/data")
        (tree / "README").unlink()
        (tree / "shell.php").write_text("<?php evil();\n")
        (tree / "sessions/sess_b").write_text("b")

    def restore(self, site="wiki", at=None, path=None, now=MONDAY + 90_000):
        with redirect_stderr(StringIO()) as said:
            report = snapshots.restore(site, at, path, now)
        self.said = said.getvalue()
        return report

    def refused(self, *words, **more):
        with self.assertRaises(snapshots.Refused) as caught:
            self.restore(*words, **more)
        return str(caught.exception)

    def killed_at(self, step, work, keep=KEEP):
        """Does the work in a child that dies before its so-manieth change of the disk; whether it came to that."""
        child = os.fork()
        if child == 0:
            left = step

            def dying(real):
                def call(*words, **more):
                    nonlocal left
                    if left == 0:
                        os._exit(9)
                    left -= 1
                    return real(*words, **more)

                return call

            patches = [
                mock.patch.object(os, each, dying(getattr(os, each)))
                for each in ("rename", "replace", "rmdir", "mkdir", "unlink", "fchown")
            ]
            patches += [
                mock.patch.object(snapshots, each, dying(getattr(snapshots, each)))
                for each in ("btrfs", "rename", "copy")
            ]
            patches.append(mock.patch.dict(KEEP, keep))
            try:
                Path(snapshots.SETTINGS).write_text(json.dumps({"keep": keep}))
                with contextlib.ExitStack() as stack:
                    for patch in patches:
                        stack.enter_context(patch)
                    work()
            except BaseException as error:  # noqa: BLE001  the child ends here in any case
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        self.assertIn(code, (0, 9))
        return code == 9


class Making(Disk):
    def test_seventy_two_hours_leave_what_is_kept_and_nothing_else(self):
        for hour in range(72):
            report = self.hourly(MONDAY + HOUR * hour)
            self.assertEqual([], report["problems"])
        self.assertEqual(sorted(snapshots.kept([name(MONDAY + HOUR * n) for n in range(72)], KEEP)), snapshots.names())
        self.assertEqual(26, len(snapshots.names()))
        self.assertEqual([], [entry for entry in os.listdir(snapshots.PLACE) if entry.startswith(".")])
        self.assertEqual(0o700, stat.S_IMODE(os.lstat(snapshots.PLACE).st_mode))

    def test_an_hour_that_has_one_gets_no_second_and_one_that_was_missed_is_caught_up(self):
        self.assertEqual(name(MONDAY + 5), self.hourly(MONDAY + 5)["made"])
        self.assertIsNone(self.hourly(MONDAY + 50)["made"])
        self.assertEqual(name(MONDAY + 3 * HOUR + 1700), self.hourly(MONDAY + 3 * HOUR + 1700)["made"])

    def test_a_site_that_is_a_volume_of_its_own_is_in_it_and_its_tree_is_found_there(self):
        self.volumes.add(f"{self.disk}/sites/wiki")
        made = self.hourly(MONDAY)["made"]
        self.assertEqual(f"{snapshots.PLACE}/{made}/sites/wiki", snapshots.tree_of(made, "wiki"))
        self.assertEqual(f"{snapshots.PLACE}/{made}/fleet/sites/blog", snapshots.tree_of(made, "blog"))
        before = self.look("wiki")
        self.damage("wiki")
        self.restore()
        self.assertEqual(before, self.look("wiki"))
        self.hourly(MONDAY + HOUR)
        with mock.patch.object(snapshots, "read", lambda _: {"sites": [], "keep": {"hourly": 1, "daily": 0, "weekly": 0}}):
            self.assertEqual([made], self.hourly(MONDAY + 2 * HOUR)["removed"][:1])

    def test_a_full_disk_is_told_and_takes_no_snapshot_away(self):
        for hour in range(30):
            self.hourly(MONDAY + HOUR * hour)
        before = snapshots.names()
        self.broken = "subvolume snapshot"
        report = self.hourly(MONDAY + HOUR * 30)
        self.assertEqual(
            (["No space left on device"], None, []), (report["problems"], report["made"], report["removed"])
        )
        self.assertEqual(before, snapshots.names())
        self.assertEqual(["No space left on device"], snapshots.read(f"{snapshots.KNOWN}/last.json")["problems"])
        self.broken = ""
        self.assertEqual([], self.hourly(MONDAY + HOUR * 30)["problems"])

    def test_a_site_that_cannot_be_finished_is_told_and_stops_no_snapshot(self):
        def finish(site):
            if site == "blog":
                raise RecursionError("too deep")

        with mock.patch.object(snapshots, "finish", finish):
            report = self.hourly(MONDAY)
        self.assertEqual((["blog: too deep"], name(MONDAY)), (report["problems"], report["made"]))

    def test_a_run_that_was_killed_leaves_no_half_snapshot(self):
        """At every step of making one and removing another, as a power cut would."""
        steps = 0
        while True:
            for entry in snapshots.names() if os.path.isdir(snapshots.PLACE) else []:
                shutil.rmtree(f"{snapshots.PLACE}/{entry}")
            self.volumes.add(f"{self.disk}/sites/wiki")
            self.hourly(MONDAY)
            ended = self.killed_at(steps, lambda: self.hourly(MONDAY + HOUR), {"hourly": 1, "daily": 0, "weekly": 0})
            for entry in snapshots.names():
                self.assertEqual(
                    {"/htdocs", "/README"},
                    {p for p in self.look("blog", f"{snapshots.PLACE}/{entry}/fleet/sites/blog") if p.count("/") == 1},
                )
                self.assertTrue(os.path.isdir(f"{snapshots.PLACE}/{entry}/sites/wiki/htdocs"))
            self.assertNotEqual([], snapshots.names())
            self.assertEqual([], self.hourly(MONDAY + HOUR)["problems"])
            self.assertEqual([], [e for e in os.listdir(snapshots.PLACE) if e.startswith(".")])
            if not ended:
                break
            steps += 1
        self.assertGreater(steps, 8)


class Restoring(Disk):
    def setUp(self):
        super().setUp()
        self.hourly(MONDAY)
        self.first = self.look("wiki")
        Path(f"{self.disk}/sites/wiki/htdocs/data/page.txt").write_text("second\n")
        self.hourly(MONDAY + HOUR)
        self.second = self.look("wiki")

    def test_a_damaged_tree_comes_back_from_the_hour_that_was_asked_for_and_others_are_untouched(self):
        Path(f"{self.disk}/sites/blog/htdocs/since").write_text("the snapshot\n")
        others = self.look("blog")
        directory = os.lstat(f"{self.disk}/sites/wiki").st_ino
        self.damage("wiki")
        damaged = self.look("wiki")
        report = self.restore(at="2026-09-28T00:00")
        self.assertEqual(self.first, self.look("wiki"))
        self.assertEqual(
            ("2026-09-28T00:00:00Z", "/srv/fleet/sites/wiki/.replaced-20260929T010000Z", 6),
            (report["from"], report["kept"], report["files"]),
        )
        self.assertEqual(others, self.look("blog"))
        self.assertEqual(
            directory, os.lstat(f"{self.disk}/sites/wiki").st_ino, "what clients hold is the same directory"
        )
        self.assertEqual(damaged, self.look("wiki", f"{self.disk}/sites/wiki/.replaced-20260929T010000Z"))
        self.assertEqual(
            {"sess_a", "sess_b"}, set(os.listdir(f"{self.disk}/sites/wiki/sessions")), "sessions are of now"
        )
        self.restore()
        self.assertEqual(self.second, self.look("wiki"))

    def test_one_file_comes_back_and_nothing_else_changes(self):
        before = self.look("wiki")
        os.unlink(f"{self.disk}/sites/wiki/htdocs/data/page.txt")
        report = self.restore(path="htdocs/data/page.txt", at="20260928T00")
        self.assertEqual("first\n", Path(f"{self.disk}/sites/wiki/htdocs/data/page.txt").read_text())
        self.assertIsNone(report["kept"], "there was nothing to keep")
        differs = {path for path, value in self.look("wiki").items() if value != before.get(path)}
        self.assertEqual({"/htdocs/data", "/htdocs/data/page.txt"}, differs)
        kept = self.restore(path="htdocs/data/page.txt")["kept"]
        self.assertEqual("first\n", Path(f"{self.root}{kept}/page.txt").read_text())

    def test_a_link_comes_back_as_a_link(self):
        os.unlink(f"{self.disk}/sites/wiki/htdocs/link")
        self.restore(path="htdocs/link")
        self.assertEqual("data/page.txt", os.readlink(f"{self.disk}/sites/wiki/htdocs/link"))

    def test_what_cannot_be_is_refused_and_nothing_is_touched(self):
        before = self.look("wiki")
        for path in ("../blog/htdocs", "/etc/passwd", "htdocs/../../blog", "", "htdocs//index.php", ".fleet/cron", "."):
            self.assertIn(
                "allowed: a path below the site's directory" if ".fleet" not in path else "the fleet's own",
                self.refused(path=path),
            )
        self.assertIn("there is no site 'nobody' on the NAS; there are: blog, wiki", self.refused("nobody"))
        self.assertIn("there is no site '../blog'", self.refused("../blog"))
        self.assertEqual(
            "there is no snapshot of 2026-09-28T00:30; the nearest: 2026-09-28T00:00:00Z and 2026-09-28T01:00:00Z",
            self.refused(at="2026-09-28T00:30"),
        )
        self.assertEqual(
            "there is no snapshot of 2027-01; the nearest: 2026-09-28T01:00:00Z", self.refused(at="2027-01")
        )
        self.assertIn("names 2 snapshots", self.refused(at="2026-09-28"))
        self.assertIn("allowed: the time of a snapshot", self.refused(at="yesterday"))
        self.assertIn("wiki had no htdocs/nothing at", self.refused(path="htdocs/nothing"))
        self.assertEqual(before, self.look("wiki"))

    def test_a_link_of_the_site_does_not_lead_the_restore_out_of_its_tree(self):
        before = self.look("blog")
        tree = f"{self.disk}/sites/wiki/htdocs"
        shutil.rmtree(f"{tree}/data")
        os.symlink(f"{self.disk}/sites/blog/htdocs/data", f"{tree}/data")
        self.assertIn("that is there now", self.refused(path="htdocs/data/page.txt"))
        self.assertEqual(before, self.look("blog"))
        self.restore(path="htdocs/data")
        self.assertEqual("second\n", Path(f"{tree}/data/page.txt").read_text())

    def test_a_plan_that_the_site_has_written_is_no_order(self):
        side = Path(f"{self.disk}/sites/wiki/{snapshots.SIDE}")
        side.mkdir(mode=0o700)
        (side / "plan.json").write_text("{}")
        with mock.patch.object(os, "geteuid", lambda: os.lstat(side).st_uid + 1), redirect_stderr(StringIO()) as said:
            with self.assertRaisesRegex(snapshots.Failed, "none of ours"):
                snapshots.finish("wiki")
        self.assertEqual("", said.getvalue())
        self.assertTrue((side / "plan.json").exists())

    def test_a_copy_that_differs_is_not_put_in_place(self):
        before = self.look("wiki")
        real = subprocess.run

        def spoiling(call, **more):
            done = real(call, **more)
            if call[0] == "cp" and call[-1].endswith("/htdocs"):
                place = f"/proc/self/fd/{call[-1].split('/')[4]}/htdocs/index.php"
                about = os.lstat(place)
                Path(place).write_bytes(b"x" * about.st_size)
                os.utime(place, ns=(about.st_atime_ns, about.st_mtime_ns))
            return done

        with (
            mock.patch.object(subprocess, "run", spoiling),
            self.assertRaisesRegex(snapshots.Failed, r"differs from it \(content\)"),
        ):
            self.restore()
        self.assertEqual(before, self.look("wiki"))
        self.assertFalse(os.path.lexists(f"{self.disk}/sites/wiki/{snapshots.SIDE}"))

    def test_cut_short_at_any_moment_the_old_tree_is_live_or_the_new_one_comes_with_the_next_run(self):
        self.damage("wiki")
        old, steps, seen = self.look("wiki"), 0, set()
        while True:
            shutil.rmtree(f"{self.disk}/sites/wiki")
            self.fill("wiki")
            self.damage("wiki")
            old = self.look("wiki")
            ended = self.killed_at(steps, lambda: self.restore(at="2026-09-28T01"))
            side = f"{self.disk}/sites/wiki/{snapshots.SIDE}"
            if os.path.lexists(f"{side}/{snapshots.PLAN}"):
                seen.add("gone on with")
            elif ended and self.look("wiki") == old:
                seen.add("undone")
            with redirect_stderr(StringIO()):
                snapshots.finish("wiki")
            self.assertFalse(os.path.lexists(side), steps)
            self.assertIn(self.look("wiki"), (old, self.second), steps)
            self.restore(at="2026-09-28T01")
            self.assertEqual(self.second, self.look("wiki"), steps)
            if not ended:
                break
            steps += 1
        self.assertEqual({"undone", "gone on with"}, seen)
        self.assertGreater(steps, 10)

    def test_who_goes_away_before_anything_was_exchanged_calls_it_off(self):
        self.damage("wiki")
        before = self.look("wiki")

        class Gone(StringIO):
            def write(self, text):
                if "exchanging" in text:
                    raise BrokenPipeError

        with redirect_stderr(Gone()), self.assertRaisesRegex(snapshots.Failed, "has gone"):
            snapshots.restore("wiki", None, None, MONDAY)
        self.assertEqual(before, self.look("wiki"))
        self.assertFalse(os.path.lexists(f"{self.disk}/sites/wiki/{snapshots.SIDE}"))

    def test_a_site_that_is_full_comes_back_and_its_quota_counts_again_whatever_happens(self):
        Path(snapshots.SEED).write_text(json.dumps({"sites": [{"name": "wiki", "quota": 4096}]}))
        self.volumes.add(f"{self.disk}/sites/wiki")
        off, counts = "qgroup limit none /sites/wiki", "qgroup limit 4096 /sites/wiki"
        self.damage("wiki")
        for copy in (snapshots.copy, mock.Mock(side_effect=OSError("no space"))):
            self.asked.clear()
            with mock.patch.object(snapshots, "copy", copy), contextlib.suppress(OSError):
                self.restore()
            self.assertEqual([off, counts], self.asked)
        self.asked.clear()  # one that is killed is gone on with, and has its quota back then
        snapshots.finish("wiki")
        self.assertEqual([counts], self.asked)

    def test_a_snapshot_that_is_read_stays_until_it_has_been(self):
        handle = os.open(f"{snapshots.PLACE}/{name(MONDAY)}", os.O_RDONLY)
        self.addCleanup(os.close, handle)
        snapshots.fcntl.flock(handle, snapshots.fcntl.LOCK_SH)
        self.assertFalse(snapshots.remove(name(MONDAY)))
        self.assertTrue(snapshots.remove(name(MONDAY + HOUR)))

    def test_two_restores_of_one_site_do_not_meet(self):
        with snapshots.site_lock("wiki"):
            self.assertIn("restored by somebody else", self.refused())
            self.assertIsNone(snapshots.finish("wiki"))

    def test_listing(self):
        with redirect_stderr(StringIO()):
            made = snapshots.obey({"do": "create", "site": "wiki"})["time"]
        rows = snapshots.obey({"do": "list", "site": "wiki"})
        self.assertEqual(
            [("2026-09-28T00:00:00Z", "timer"), ("2026-09-28T01:00:00Z", "timer")],
            [(r["time"], r["by"]) for r in rows if r["time"] != made],
        )
        self.assertIn({"time": made, "by": "hand"}, rows)
        with self.assertRaises(snapshots.Refused):
            snapshots.obey({"do": "list", "site": "nobody"})


class Quotas(Disk):
    def test_what_sites_use_and_may_use(self):
        Path(snapshots.SEED).write_text(
            json.dumps({"sites": [{"name": "wiki", "quota": 1 << 30}, {"name": "blog"}, {"name": "old", "quota": 5}]})
        )
        answers = {
            "qgroup": "Qgroupid    Referenced    Exclusive   Path\n--------  ----  ---- ---\n0/5  16384 16384 <toplevel>\n0/260  4096000  4096 sites/wiki\n",
            "subvolume": "ID 259 gen 12 top level 5 path snapshots\nID 260 gen 14 top level 5 path sites/wiki\n",
        }
        with mock.patch.object(snapshots, "btrfs", lambda *words: answers[words[0]]):
            self.assertEqual(
                [("old", None), ("wiki", 4096000)], [(row["site"], row["used"]) for row in snapshots.used()]
            )

    def test_what_is_gone_is_counted_no_more_and_a_count_that_has_gone_wrong_begins_anew(self):
        flag = Path(f"{self.root}/sys/fs/btrfs/uuid/qgroups/inconsistent")
        flag.parent.mkdir(parents=True)
        flag.write_text("1\n")
        answers = {
            "qgroup show": "Qgroupid Referenced Exclusive\n0/5 1 1\n0/260 1 1\n0/300 1 1\n1/0 1 1\n",
            "subvolume list": "ID 260 gen 14 top level 5 path sites/wiki\n",
        }
        asked = []

        def answer(*words):
            asked.append(" ".join(words).replace(self.disk, "DISK"))
            return answers.get(" ".join(words[:2]), "")

        with mock.patch.object(snapshots, "btrfs", answer):
            snapshots.tidy_counts()
        changes = [call for call in asked if not call.startswith(("qgroup show", "subvolume list"))]
        self.assertEqual(["qgroup destroy 0/300 DISK", "quota rescan DISK"], changes)


class Program(unittest.TestCase):
    def test_it_arrives_on_standard_input_and_says_what_it_refuses(self):
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(f"{root}/srv/fleet/sites")
            text = (HOST / "snapshots.py").read_text()
            loader = (HOST / "loader.py.txt").read_text()
            given = f"{len(text.encode())}\n{text}" + json.dumps({"do": "restore", "site": "wiki"})
            environment = {**os.environ, "FLEET_ROOT": root}
            done = subprocess.run(
                [*PYTHON, "-c", loader], input=given, capture_output=True, text=True, env=environment, check=False
            )
            self.assertEqual(
                (2, "there is no site 'wiki' on the NAS; there are: none\n"), (done.returncode, done.stderr)
            )


if __name__ == "__main__":
    unittest.main()
