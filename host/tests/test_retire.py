"""Promises of retire: a build that anything refers to stays, one that nothing refers to goes, and never half of it."""

import fcntl
import json
import shutil
import subprocess
import unittest

from tests.machine import Machine

OLD, NEW = "7.4.33-aaa", "8.4.24-bbb"
LIVE, EARLIER = "f" * 64, "e" * 64


class Retiring(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        for name in (OLD, NEW):
            self.machine.write(f"/opt/php/{name}/.fleet-artefact", "0\n")
            self.machine.write(f"/opt/php/{name}/sbin/php-fpm", "a binary\n")
        self.generation(LIVE, NEW)
        (self.machine.root / "var/lib/fleet/current").symlink_to(f"generations/{LIVE}")

    def generation(self, name, build):
        text = f"ExecStart=/opt/php/{build}/sbin/php-fpm\n"
        self.machine.write(f"/var/lib/fleet/generations/{name}/etc/systemd/system/fleet-site-wiki.service", text)

    def retire(self, *declared, apply=True, expect=0):
        done = self.machine.run("retire.py", given=json.dumps({"declared": declared, "apply": apply}))
        self.assertEqual(expect, done.returncode, done.stderr)
        return json.loads(done.stdout) if expect == 0 else done.stderr

    def uses(self, *declared):
        return {item["name"]: item["uses"] for item in self.retire(*declared, apply=False)["builds"]}

    def test_a_build_that_nothing_refers_to_goes(self):
        self.assertEqual([{"name": OLD, "uses": [], "removed": True}], self.retire(NEW)["builds"])
        self.assertFalse(self.machine.exists(f"/opt/php/{OLD}"))
        self.assertTrue(self.machine.exists(f"/opt/php/{NEW}/sbin/php-fpm"))
        self.assertEqual([], self.retire(NEW)["builds"])

    def test_one_that_is_declared_stays_though_nothing_refers_to_it(self):
        self.assertEqual([], self.retire(NEW, OLD)["builds"])
        self.assertTrue(self.machine.exists(f"/opt/php/{OLD}/.fleet-artefact"))

    def test_one_that_a_generation_names_stays_be_it_live_or_earlier(self):
        self.generation(EARLIER, OLD)
        said = {item["name"]: item for item in self.retire()["builds"]}
        self.assertEqual([f"live generation {LIVE[:12]}"], said[NEW]["uses"])
        self.assertRegex(said[OLD]["uses"][0], f"^earlier generation {EARLIER[:12]} of 20..-..-..$")
        for name in (OLD, NEW):
            self.assertTrue(self.machine.exists(f"/opt/php/{name}/.fleet-artefact"))
        shutil.rmtree(self.machine.root / "var/lib/fleet/generations" / EARLIER)  # the twin: the way back is gone
        self.assertTrue(self.retire(NEW)["builds"][0]["removed"])

    def test_one_that_a_unit_names_stays(self):
        for place in ("/etc/systemd/system/own.service", "/run/systemd/transient/fleet-exec-wiki-1.service"):
            self.machine.write(place, f"ExecStart=/opt/php/{OLD}/bin/php\n")
            self.assertEqual({OLD: [f"unit {place.split('/')[-1]}"]}, self.uses(NEW))
            (self.machine.root / place[1:]).unlink()
            self.assertEqual({OLD: []}, self.uses(NEW))

    def test_one_that_a_process_runs_from_stays(self):
        program = self.machine.root / f"opt/php/{OLD}/sbin/php-fpm"
        shutil.copy(shutil.which("sleep"), program)
        child = subprocess.Popen([program, "60"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        [item] = self.retire(NEW)["builds"]
        self.assertEqual(([f"process {child.pid} php-fpm"], False), (item["uses"], item["removed"]))
        self.assertTrue(self.machine.exists(f"/opt/php/{OLD}/.fleet-artefact"))
        child.kill()
        child.wait()
        self.assertTrue(self.retire(NEW)["builds"][0]["removed"])

    def test_without_apply_it_only_tells(self):
        before = self.machine.tree("opt", "var", "etc", "run")
        self.assertEqual({OLD: []}, self.uses(NEW))
        self.assertEqual(before, self.machine.tree("opt", "var", "etc", "run"))

    def test_what_a_run_that_was_killed_left_goes_with_the_next_and_is_no_build_meanwhile(self):
        (self.machine.root / f"opt/php/{OLD}").rename(self.machine.root / f"opt/php/.{OLD}.retired")
        self.assertEqual({}, self.uses(NEW))
        self.retire(NEW)
        self.assertFalse(self.machine.exists(f"/opt/php/.{OLD}.retired"))

    def test_while_an_installation_a_change_or_a_build_goes_on_nothing_is_removed(self):
        for lock in ("base.lock", "converge.lock", "phpbuild.lock"):
            self.machine.write(f"/run/fleet/{lock}", "")
            with open(self.machine.root / "run/fleet" / lock, encoding="utf-8") as holder:
                fcntl.flock(holder, fcntl.LOCK_EX)
                self.assertIn("is going on here", self.retire(NEW, expect=2))
            self.assertTrue(self.machine.exists(f"/opt/php/{OLD}"))
        self.assertTrue(self.retire(NEW)["builds"][0]["removed"])

    def test_an_archive_goes_with_its_record_and_its_log_and_a_declared_one_stays(self):
        store = self.machine.root / "var/lib/fleet/artefacts"
        for name in (OLD, NEW):
            for end in ("tar.zst", "json", "log", "cdx.json"):
                self.machine.write(f"/var/lib/fleet/artefacts/{name}.{end}", "x\n")
        self.assertEqual([{"name": OLD, "uses": [], "removed": True}], self.retire(NEW, OLD[:-1])["archives"])
        self.assertEqual({NEW}, {path.name[: len(NEW)] for path in store.iterdir()})
        self.assertEqual(4, len(list(store.iterdir())))

    def test_a_wrong_request_is_refused_and_nothing_is_removed(self):
        for given in ("", "[]", "{}", '{"declared": "x", "apply": true}', '{"declared": [], "apply": 1}'):
            self.assertEqual(2, self.machine.run("retire.py", given=given).returncode, given)
        self.assertTrue(self.machine.exists(f"/opt/php/{OLD}"))


if __name__ == "__main__":
    unittest.main()
