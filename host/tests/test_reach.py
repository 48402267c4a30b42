"""Promises of the directors' reach: the better one has the addresses, and never nobody."""

import itertools
import json
import os
import subprocess
import time
import unittest
from unittest import mock

import ipvs
import reach
from tests.machine import HOST, PYTHON, Machine
from tests.stand_ins import free_port

WEB, PHP = "10.77.0.100:443", "10.77.0.101:10001"


def table(**weights):
    """Weights of the servers of both services."""
    return {
        name: {f"10.77.0.{n}": {"weight": weight, "active": 0} for n, weight in enumerate(given)}
        for name, given in ((WEB, weights.get("web", ())), (PHP, weights.get("php", ())))
    }


class Deciding(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.machine.write("/etc/fleet/balancing.json", json.dumps({"services": {WEB: [], PHP: []}}))

    def look(self, own, other, ready=True):
        def told(_, path):
            if other is None:
                return {}
            return {"/balancer": {"live": False, "services": other}, "/ready": {"ready": True} if ready else {}}[path]

        with (
            mock.patch.object(reach, "ROOT", str(self.machine.root)),
            mock.patch.object(ipvs, "table", lambda: own),
            mock.patch.object(reach, "told", told),
        ):
            return reach.look(["partner"])

    def test_a_director_without_servers_leaves_the_addresses_to_one_that_has_some(self):
        self.assertTrue(self.look(table(web=[0, 0], php=[0]), table(web=[1, 0], php=[1])))
        self.assertTrue(self.look(table(web=[1, 1], php=[0]), table(web=[1, 0], php=[1])))
        self.assertTrue(self.look({}, table(web=[1])))

    def test_a_director_that_serves_all_asks_nobody(self):
        asked = []
        with (
            mock.patch.object(reach, "ROOT", str(self.machine.root)),
            mock.patch.object(ipvs, "table", lambda: table(web=[0, 1], php=[1])),
            mock.patch.object(reach, "told", lambda *words: asked.append(words)),
        ):
            self.assertFalse(reach.look(["partner"]))
        self.assertEqual([], asked)

    def test_where_both_have_none_or_the_other_is_away_or_not_well_the_addresses_stay(self):
        none = table(web=[0], php=[0])
        self.assertFalse(self.look(none, none))
        self.assertFalse(self.look(none, None))
        self.assertFalse(self.look(none, table(web=[1], php=[1]), ready=False))

    def test_of_two_directors_never_both_leave(self):
        states = [table(web=[a], php=[b]) for a, b in itertools.product((0, 1), repeat=2)]
        for one, other in itertools.product(states, repeat=2):
            self.assertFalse(self.look(one, other) and self.look(other, one), (one, other))


class Telling(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.file = self.machine.root / "unreached"
        self.machine.write("/unreached", "0\n")

    def run_for(self, looks):
        """What the file has after each look."""
        seen = []
        with (
            mock.patch.object(reach, "look", mock.Mock(side_effect=[*looks, KeyboardInterrupt])),
            mock.patch.object(reach.time, "sleep", lambda _: seen.append(int(self.file.read_text()))),
            mock.patch.object(reach.sys, "argv", ["reach.py", str(self.file), "5", "partner"]),
            mock.patch("builtins.print"),
        ):
            self.assertRaises(KeyboardInterrupt, reach.main)
        return seen

    def test_it_takes_all_looks_on_end_and_one_to_the_contrary(self):
        self.assertEqual([0, 0, 0, 0, 1, 1, 0, 0], self.run_for([True] * 6 + [False, True]))
        self.assertEqual([0] * 12, self.run_for([True, True, True, True, False, False] * 2))

    def test_it_outlives_that_keepalived_and_its_directory_are_not_there(self):
        file = self.machine.root / "gone" / "unreached"
        reach.tell(str(file), 1)
        self.assertFalse(file.exists())

    def test_a_partner_that_does_not_answer_is_none(self):
        port = free_port()
        self.assertEqual({}, reach.told(f"127.0.0.1:{port}", "/balancer"))

    def test_it_runs_with_what_a_machine_has(self):
        self.machine.write("/etc/fleet/balancing.json", json.dumps({"services": {WEB: []}}))
        words = [*PYTHON, str(HOST / "reach.py"), str(self.file), "5", f"127.0.0.1:{free_port()}"]
        child = subprocess.Popen(words, env={**os.environ, "FLEET_ROOT": str(self.machine.root), "FLEET_LOOK_SECONDS": "0.05"})
        time.sleep(1)
        running = child.poll() is None
        child.terminate()
        child.wait()
        self.assertEqual((True, "0\n"), (running, self.file.read_text()))


if __name__ == "__main__":
    unittest.main()
