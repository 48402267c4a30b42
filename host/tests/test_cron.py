"""Promises of a cron entry's condition: one run a period, whoever asks, and no run beside another."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stderr
from io import StringIO
from unittest import mock

from .machine import HOST, PYTHON

sys.path.insert(0, str(HOST))
import cron

NOON = 1_790_078_400  # 2026-09-22T12:00:00Z


class OnTheNas(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="fleet-cron-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.place = f"{self.folder}/.fleet/cron/tidy"

    def ask(self, now, calendar="*:*"):
        with redirect_stderr(StringIO()):
            return cron.decide(self.place, calendar, now)

    def answers(self, *times, calendar="*:*"):
        return [self.ask(now, calendar) for now in times]

    def test_of_all_that_ask_in_one_minute_one_runs(self):
        self.assertEqual([cron.RUN, cron.SKIP, cron.SKIP], self.answers(NOON, NOON + 0.5, NOON + 59))
        self.assertEqual([cron.RUN, cron.SKIP], self.answers(NOON + 60, NOON + 60))

    def test_of_many_that_ask_at_the_same_instant_one_runs(self):
        script = f"import sys; sys.path.insert(0, {str(HOST)!r}); import cron; cron.due = lambda *_: True; "
        script += f"sys.exit(cron.decide({self.place!r}, '*:*', {NOON}))"
        for _ in range(3):
            asking = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) for _ in range(6)]
            self.assertEqual(1, [child.wait(60) for child in asking].count(cron.RUN))
            shutil.rmtree(self.folder + "/.fleet")

    def test_a_machine_that_fires_late_leaves_the_run_of_an_hour_to_the_others(self):
        self.assertEqual([cron.SKIP], self.answers(NOON + 90, calendar="hourly"))
        self.assertEqual([cron.RUN], self.answers(NOON + 50, calendar="hourly"))

    def test_the_times_are_those_of_the_machines_own_zone(self):
        for zone, expected in (("UTC", cron.SKIP), ("Europe/Berlin", cron.RUN)):
            with mock.patch.dict(os.environ, {"TZ": zone}):
                self.assertEqual([expected], self.answers(NOON, calendar="*-*-* 14:00"), zone)

    def test_nobody_runs_while_a_run_goes_on(self):
        self.assertEqual([cron.RUN], self.answers(NOON))
        with open(f"{self.place}.lock", "a", encoding="utf-8") as running:
            fcntl.flock(running, fcntl.LOCK_EX)
            self.assertEqual([cron.SKIP], self.answers(NOON + 60))
        self.assertEqual([cron.RUN], self.answers(NOON + 120))

    def test_who_comes_with_an_older_minute_has_missed_it(self):
        self.assertEqual([cron.RUN, cron.SKIP], self.answers(NOON + 600, NOON))

    def test_the_last_claims_are_kept_and_older_ones_are_not(self):
        self.answers(*(NOON + 60 * minute for minute in range(25)))
        kept = sorted(os.listdir(self.place))
        self.assertEqual((cron.KEEP, "2026-09-22T12:24Z"), (len(kept), kept[-1]))

    def test_other_files_beside_the_claims_are_left_alone(self):
        os.makedirs(self.place)
        for name in ("9999", "notes"):
            open(f"{self.place}/{name}", "w").close()
        self.answers(*(NOON + 60 * minute for minute in range(25)))
        self.assertLessEqual({"9999", "notes"}, set(os.listdir(self.place)))

    def program(self, place, calendar):
        words = [*PYTHON, str(HOST / "cron.py"), place, calendar]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    def test_an_entry_that_cannot_tell_has_failed_and_is_not_skipped(self):
        open(f"{self.folder}/file", "w").close()
        status, said = self.program(f"{self.folder}/file/tidy", "*:*")
        self.assertEqual(cron.FAILED, status)
        self.assertIn("cannot tell whose run it is", said)
        self.assertEqual(cron.FAILED, self.program(self.place, "no calendar")[0])
        self.assertIn(self.program(self.place, "*:*")[0], (cron.RUN, cron.SKIP))


if __name__ == "__main__":
    unittest.main()
