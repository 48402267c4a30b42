"""Promises of resting: a site that nobody asks costs nothing."""

import http.server
import json
import os
import unittest
from pathlib import Path

from tests.machine import Machine
from tests.stand_ins import Handler, free_port, serve


class Quiet(Handler):
    wedged = [[]]  # what it says of it from time to time

    def do_GET(self):
        seconds = {"fleet-site-a.service": 600.0, "fleet-site-b.service": 599.9, "fleet-site-c.service": 3000}
        wedged = type(self).wedged
        said = {"/quiet": seconds, "/wedged": wedged.pop(0) if self.path == "/wedged" and len(wedged) > 1 else wedged[0]}
        self.say(200 if self.path in said else 404, json.dumps(said.get(self.path)))


class Resting(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def left(self, unit, processes, state):
        """A service with so many processes, to systemd in that state; its cgroup.kill."""
        place = f"{self.machine.root}/sys/fs/cgroup/sites.slice/sites-a.slice/{unit}"
        os.makedirs(place, exist_ok=True)
        for name, text in (("pids.current", f"{processes}\n"), ("cgroup.kill", "")):
            with open(f"{place}/{name}", "w", encoding="ascii") as out:
                out.write(text)
        self.machine.write(f"units/{unit}", state)
        return f"{place}/cgroup.kill"

    def looks(self, seconds_ago):
        """A look at what is left, when the last one was so long ago."""
        seen = self.machine.root / "run/fleet-rest/left.json"
        seen.parent.mkdir(parents=True, exist_ok=True)
        if seen.exists():
            before = {unit: since - seconds_ago for unit, since in json.loads(seen.read_text()).items()}
            seen.write_text(json.dumps(before))
        return self.rest(free_port()).stdout

    def test_what_a_stopped_site_left_behind_ends_when_no_request_takes_so_long(self):
        gone = self.left("fleet-site-gone.service", 3, "inactive")
        others = [
            self.left("fleet-site-busy.service", 3, "active"),
            self.left("fleet-site-ending.service", 3, "deactivating"),
            self.left("fleet-trial-asleep.service", 0, "inactive"),
        ]
        self.assertEqual("", self.looks(0))
        self.assertEqual("", self.looks(290))
        self.assertEqual("ended what fleet-site-gone.service left behind\n", self.looks(20))
        self.assertEqual("1", Path(gone).read_text())
        self.assertEqual(["", "", ""], [Path(each).read_text() for each in others])

    def test_a_service_that_was_started_in_between_is_counted_anew(self):
        place = self.left("fleet-site-a.service", 1, "inactive")
        self.looks(0)
        self.left("fleet-site-a.service", 5, "active")
        self.looks(290)
        self.left("fleet-site-a.service", 1, "failed")
        self.looks(290)
        self.looks(290)
        self.assertEqual("", Path(place).read_text())
        self.looks(20)
        self.assertEqual("1", Path(place).read_text())

    def rest(self, port, seconds="600"):
        return self.machine.run("rest.py", f"127.0.0.1:{port}", seconds)

    def test_the_sites_that_are_quiet_long_enough_are_stopped_and_no_other(self):
        port = serve(self, http.server.HTTPServer(("127.0.0.1", 0), Quiet))
        self.assertEqual(0, self.rest(port).returncode)
        self.assertEqual(["stop -- fleet-site-a.service fleet-site-c.service"], self.machine.calls())
        self.assertEqual(0, self.rest(port, "5000").returncode)
        self.assertEqual([], self.machine.calls())

    def test_a_site_that_stays_wedged_is_ended_and_one_that_was_for_a_moment_is_not(self):
        stays, moment = "fleet-site-a.service", "fleet-site-b.service"
        orders = [self.left(unit, 2, "active") for unit in (stays, moment)]

        class Wedged(Quiet):
            wedged = [[stays, moment], [stays], [stays, moment]]

        done = self.rest(serve(self, http.server.HTTPServer(("127.0.0.1", 0), Wedged)), "5000")
        self.assertEqual((0, f"ended {stays}, which was wedged\n"), (done.returncode, done.stdout))
        self.assertEqual(["1", ""], [Path(order).read_text() for order in orders])

    def test_a_site_is_marked_for_the_responder_as_long_as_its_stop_takes(self):
        port = serve(self, http.server.HTTPServer(("127.0.0.1", 0), Quiet))
        marks = self.machine.root / "run/fleet-rest/stopping"
        self.machine.program("systemctl", f"#!/bin/sh\nls {marks} > {self.machine.root}/marked\nexit 5\n")
        self.assertEqual(5, self.rest(port).returncode)
        self.assertEqual("fleet-site-a.service\nfleet-site-c.service\n", self.machine.read("/marked"))
        self.assertEqual([], os.listdir(marks))

    def test_without_a_responder_nothing_is_stopped_and_it_says_so(self):
        done = self.rest(free_port())
        self.assertEqual((1, []), (done.returncode, self.machine.calls()))
        self.assertIn("refused", done.stderr)
