"""Promises about kernel parameters: what a change set goes with it."""

import os

from tests.machine import bundle, file, record
from tests.test_converge import OnAMachine

PLACE = "/etc/sysctl.d/60-fleet.conf"


class KernelParameters(OnAMachine):
    def setUp(self):
        super().setUp()
        for key, value in (("a", "1"), ("b", "2 3")):
            self.machine.write(f"/proc/sys/net/{key}", f"{value}\n")
        (self.machine.root / "run/fleet").mkdir(parents=True)

    def text(self, *lines, broken=False):
        """A bundle with kernel parameters, which its action sets as sysctl does."""
        sets = "".join(f"echo {line.split(' = ')[1]} > {self.machine.root}/proc/sys/{line.split(' = ')[0].replace('.', '/')};" for line in lines)
        action = record("action", name="kernel parameters", argv=["/bin/sh", "-c", sets or ":"], paths=["/etc/sysctl.d/"])
        probe = record("probe", name="p", kind="exec", within=0, argv=["/usr/bin/false" if broken else "/usr/bin/true"])
        files = [file(PLACE, "".join(f"{line}\n" for line in lines))] if lines else []
        return bundle(*files, action, probe)

    def kernel(self):
        return [self.machine.read(f"/proc/sys/net/{key}").strip() for key in "ab"]

    def test_a_change_that_goes_back_takes_its_parameters_with_it(self):
        self.machine.report(self.text("net.a = 7"))
        self.failure(self.text("net.a = 8", "net.b = 9", broken=True))
        self.assertEqual(["7", "2 3"], self.kernel())

    def test_a_parameter_that_is_not_wanted_any_more_is_again_what_it_was_found_as(self):
        self.machine.report(self.text("net.a = 7", "net.b = 9"))
        self.machine.report(self.text("net.b = 8"))
        self.assertEqual(["1", "8"], self.kernel())
        self.machine.report(self.text())
        self.assertEqual(["1", "2 3"], self.kernel())

    def test_after_a_boot_nobody_knows_what_a_parameter_was_and_it_stays(self):
        self.machine.report(self.text("net.a = 7"))
        (self.machine.root / "run/fleet/sysctls.json").unlink()
        self.machine.report(self.text())
        self.assertEqual(["7", "2 3"], self.kernel())

    def test_parameters_go_back_in_the_opposite_order_for_the_kernel_refuses_some_without_others(self):
        self.machine.report(self.text("net.b = 7", "net.a = 9"))
        self.machine.report(self.text())
        first, second = (os.stat(f"{self.machine.root}/proc/sys/net/{key}").st_mtime_ns for key in "ab")
        self.assertLess(first, second)
        self.machine.report(self.text("net.a = 7", "net.b = 9"))
        self.machine.report(self.text())
        first, second = (os.stat(f"{self.machine.root}/proc/sys/net/{key}").st_mtime_ns for key in "ba")
        self.assertLess(first, second)
