"""Promises of resting: a site that nobody asks costs nothing."""

import http.server
import json
import unittest

from tests.machine import Machine
from tests.stand_ins import Handler, free_port, serve


class Quiet(Handler):
    def do_GET(self):
        seconds = {"fleet-site-a.service": 600.0, "fleet-site-b.service": 599.9, "fleet-site-c.service": 3000}
        self.say(200 if self.path == "/quiet" else 404, json.dumps(seconds))


class Resting(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def rest(self, port, seconds="600"):
        return self.machine.run("rest.py", f"127.0.0.1:{port}", seconds)

    def test_the_sites_that_are_quiet_long_enough_are_stopped_and_no_other(self):
        port = serve(self, http.server.HTTPServer(("127.0.0.1", 0), Quiet))
        self.assertEqual(0, self.rest(port).returncode)
        self.assertEqual(["stop --no-block -- fleet-site-a.service fleet-site-c.service"], self.machine.calls())
        self.assertEqual(0, self.rest(port, "5000").returncode)
        self.assertEqual([], self.machine.calls())

    def test_without_a_responder_nothing_is_stopped_and_it_says_so(self):
        done = self.rest(free_port())
        self.assertEqual((1, []), (done.returncode, self.machine.calls()))
        self.assertIn("refused", done.stderr)
