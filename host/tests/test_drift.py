"""What `drift` finds on a machine: every kind of edit by hand, and nothing where there is none."""

import json
import sys
import unittest

from .machine import HOST, Machine, bundle, file, record

sys.path.insert(0, str(HOST))
import drift

SHOWN = "LoadState=loaded\nFragmentPath=/etc/systemd/system/{0}\nDropInPaths=\nNeedDaemonReload=no\n"
TABLE = {"10.0.0.1:80": {"10.0.0.2": {"weight": 1}, "10.0.0.3": {"weight": 1}}}


class OnAMachine(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        unit = record("unit", name="web.service") + record("unit", name="asleep.service", start=False)
        files = [
            file("/etc/fleet/a.conf", "one\n"), file("/etc/sysctl.d/60-fleet.conf", "net.a.b = 1 2\n"),
            file("/etc/systemd/system/web.service", "[Service]\n"),
            file("/etc/systemd/system/srv.mount", "[Mount]\nWhat=nas:/x\nWhere=/srv\nType=nfs4\nOptions=hard,nosuid,ro,bg\n"),
        ]  # fmt: skip
        self.machine.write("/proc/sys/net/a/b", "1\t2\n")
        self.machine.write("/units/web.service.shown", SHOWN.format("web.service"))
        self.machine.write("/units/asleep.service.shown", SHOWN.format("asleep.service"))
        self.mounted()
        self.machine.report(bundle(*files, unit))

    def mounted(self, **changed):
        seen = {"source": "nas:/x", "fstype": "nfs4", "options": "ro,nosuid,relatime,hard,vers=4.2", "label": None}
        text = json.dumps({"filesystems": [{**seen, **changed}]})
        self.machine.program("findmnt", f"#!/bin/sh\necho '{text}'\n")

    def found(self):
        done = self.machine.run("converge.py", "drift")
        findings = json.loads(done.stdout)["findings"]
        self.assertEqual(2 if findings else 0, done.returncode)
        return [(each["kind"], each["name"], each["what"]) for each in findings]

    def test_a_machine_as_the_fleet_left_it_differs_in_nothing_and_the_look_writes_nothing(self):
        before = self.machine.tree("etc", "var", "units")
        self.assertEqual([], self.found())
        self.assertEqual(before, self.machine.tree("etc", "var", "units"))

    def test_a_file_that_nobody_manages_among_managed_ones_is_found(self):
        self.machine.write("/etc/fleet/b.conf", "by hand\n")
        self.assertEqual([("file", "/etc/fleet/b.conf", "not from the fleet")], self.found())

    def test_a_unit_that_was_stopped_or_failed_is_found_and_one_that_sleeps_is_not(self):
        self.machine.write("/units/web.service", "inactive\n")
        self.assertEqual([("unit", "web.service", "is inactive, should run")], self.found())
        self.machine.write("/units/web.service", "active\n")
        self.machine.write("/units/asleep.service", "failed\n")
        self.assertEqual([("unit", "asleep.service", "is failed, should run")], self.found())

    def test_a_unit_that_was_masked_replaced_changed_by_a_drop_in_or_not_read_again_is_found(self):
        place, text = "/units/web.service.shown", SHOWN.format("web.service")
        drop_in = "/etc/systemd/system/web.service.d/x.conf"
        for old, new, what in (
            ("loaded", "masked", "masked"),
            ("/etc/systemd", "/run/systemd", "is read from /run/systemd/system/web.service instead of /etc/systemd/system/web.service"),
            ("DropInPaths=", f"DropInPaths=/run/systemd/generator/web.service.d/x.conf {drop_in}", f"{drop_in} changes it"),
            ("Reload=no", "Reload=yes", "its file has changed since systemd read it"),
        ):  # fmt: skip
            self.machine.write(place, text.replace(old, new))
            self.assertEqual([("unit", "web.service", what)], self.found())

    def test_a_unit_of_the_fleets_that_the_machine_should_not_run_is_found(self):
        self.machine.write("/units/running", "fleet-old.service loaded active running Old\n")
        self.assertEqual([("unit", "fleet-old.service", "runs, but is not the fleet's")], self.found())

    def test_a_kernel_parameter_set_by_hand_is_found(self):
        self.machine.write("/proc/sys/net/a/b", "1\t3\n")
        self.assertEqual([("sysctl", "net.a.b", "is 1 3, should be 1 2")], self.found())

    def test_a_mount_that_is_gone_or_another_or_has_lost_an_option_is_found(self):
        self.mounted(options="rw,nosuid,hard")
        self.assertEqual([("mount", "/srv", "lacks ro")], self.found())
        self.mounted(source="other:/x")
        self.assertEqual([("mount", "/srv", "is nfs4 other:/x, should be nfs4 nas:/x")], self.found())
        self.machine.program("findmnt", "#!/bin/sh\nexit 1\n")
        self.assertEqual([("mount", "/srv", "is not mounted")], self.found())

    def test_a_change_of_a_php_build_or_of_a_program_is_found(self):
        for directory, kind in (("opt/php/8.2-ab", "artefact"), ("usr/local/lib/fleet", "program")):
            place = self.machine.root / directory
            self.machine.write(f"/{directory}/bin/php", "machine code\n")
            (place / "php").symlink_to("bin/php")
            self.assertIn((kind, str(place), "has no seal: it is not what the fleet installed"), self.found())
            drift.seal(str(place))
            self.assertEqual([], self.found())
            self.machine.write(f"/{directory}/bin/php", "other code\n")
            self.machine.write(f"/{directory}/more", "")
            (place / "php").unlink()
            names = (("bin/php", "changed"), ("more", "not from the fleet"), ("php", "missing"))
            self.assertEqual([(kind, f"/{directory}/{name}", what) for name, what in names], self.found())
            drift.seal(str(place))


class Balancer(unittest.TestCase):
    def found(self, change, ready=lambda _, server: False):
        have = json.loads(json.dumps(TABLE))
        change(have)

        class Bundle:
            services, rollout = ({"name": "10.0.0.1:80", "servers": ["10.0.0.2", "10.0.0.3"]},), {}

        drift.ipvs.table = lambda: have
        return [(each["name"], each["what"]) for each in drift.balanced(Bundle, ready)]

    def setUp(self):
        self.addCleanup(setattr, drift, "SETTLE_SECONDS", drift.SETTLE_SECONDS)
        drift.SETTLE_SECONDS = 0
        self.addCleanup(setattr, drift.ipvs, "table", drift.ipvs.table)

    def test_the_table_that_the_fleet_wants_is_no_difference(self):
        self.assertEqual([], self.found(lambda have: None))

    def test_a_service_or_server_taken_out_or_added_by_hand_is_found(self):
        self.assertEqual([("10.0.0.1:80", "missing")], self.found(lambda have: have.clear()))
        self.assertEqual([("10.0.0.1:81", "not from the fleet")], self.found(lambda have: have.update({"10.0.0.1:81": {}})))
        missing = self.found(lambda have: have["10.0.0.1:80"].pop("10.0.0.3"))
        self.assertEqual([("10.0.0.1:80 10.0.0.3", "missing")], missing)
        added = self.found(lambda have: have["10.0.0.1:80"].update({"10.0.0.4": {"weight": 1}}))
        self.assertEqual([("10.0.0.1:80 10.0.0.4", "not from the fleet")], added)

    def test_a_weight_set_by_hand_is_found_and_one_that_health_set_is_not(self):
        def weigh(weight):
            return lambda have: have["10.0.0.1:80"]["10.0.0.3"].update(weight=weight)

        self.assertEqual([("10.0.0.1:80 10.0.0.3", "weight is 7, should be 1")], self.found(weigh(7)))
        self.assertEqual([], self.found(weigh(0)))
        by_hand = self.found(weigh(0), ready=lambda _, server: True)
        self.assertEqual([("10.0.0.1:80 10.0.0.3", "weight is 0, though the server is ready")], by_hand)


if __name__ == "__main__":
    unittest.main()
