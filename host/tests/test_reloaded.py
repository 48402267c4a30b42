"""Promises of a reload: a real server of a new port is taken out of the balancing as one of an old port is, and what
is wanted no longer goes, though keepalived stumbles over it."""

import json
import threading
import unittest

from tests.machine import Machine

# Keeps the kernel's table as the real one does, as far as this program asks for it.
IPVSADM = """#!/usr/bin/env python3
import pathlib, sys
table = pathlib.Path(__file__).parent.parent / "proc/net/ip_vs"
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
def code(place):
    address, _, port = place.rpartition(":")
    return "".join(f"{int(part):02X}" for part in address.split(".")) + f":{int(port):04X}"
service = f"TCP  {code(value('--tcp-service'))} mh"
lines = table.read_text().splitlines()
at = lines.index(service)
end = next((n for n in range(at + 1, len(lines)) if not lines[n].startswith("  ->")), len(lines))
if words[0] == "--delete-service":
    del lines[at:end]
else:
    server = f"  -> {code(value('--real-server'))} "
    own = [n for n in range(at + 1, end) if lines[n].startswith(server)]
    if words[0] == "--delete-server":
        del lines[own[0]]
    elif own:
        sys.exit("Destination already exists")
    else:
        lines.insert(end, f"{server} Route {value('--weight')} 0 0")
table.write_text("".join(line + "\\n" for line in lines))
"""
OLD, NEW = "TCP  0A4D0065:2711 mh", "TCP  0A4D0065:276A mh"  # 10.77.0.101, ports 10001 and 10090


class Reloading(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.machine.program("ipvsadm", IPVSADM)
        services = {f"10.77.0.101:{port}": ["10.77.0.31", "10.77.0.32"] for port in (10001, 10090)}
        self.machine.write("/etc/fleet/balancing.json", json.dumps({"vips": ["10.77.0.101"], "services": services}))

    def table(self, *new):
        old = [OLD, "  -> 0A4D001F:2711  Route 0 0 0", "  -> 0A4D0020:2711  Route 1 0 0"]
        self.machine.write("/proc/net/ip_vs", "\n".join([*old, *new]) + "\n")

    def servers(self):
        """Port and weight of each real server of the new port."""
        own = self.machine.read("/proc/net/ip_vs").partition(NEW)[2].splitlines()
        return sorted(tuple(line.split()[n] for n in (1, 3)) for line in own if line)

    def reload(self):
        done = self.machine.run("reloaded.py", FLEET_RELOAD_SECONDS="3")
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stderr

    RIGHT = [("0A4D001F:276A", "0"), ("0A4D0020:276A", "1")]

    def test_a_server_without_a_port_gets_it_and_the_weight_that_it_has_elsewhere(self):
        self.table(NEW, "  -> 0A4D001F:0000  Route 1 0 0", "  -> 0A4D0020:0000  Route 1 0 0")
        self.reload()
        self.assertEqual(self.RIGHT, self.servers())

    def test_what_keepalived_has_said_of_it_meanwhile_stays(self):
        self.table(NEW, "  -> 0A4D001F:0000  Route 1 0 0", "  -> 0A4D001F:276A  Route 0 0 0", "  -> 0A4D0020:276A  Route 1 0 0")
        self.assertNotIn("--add-server", self.reload())
        self.assertEqual(self.RIGHT, self.servers())

    def test_a_table_that_is_right_is_left_alone(self):
        self.table(NEW, *(f"  -> {server}  Route {weight} 0 0" for server, weight in self.RIGHT))
        self.assertEqual("", self.reload())
        self.assertEqual(self.RIGHT, self.servers())

    def test_a_port_that_comes_late_is_waited_for(self):
        self.table()
        late = threading.Timer(1, self.table, [NEW, "  -> 0A4D001F:0000  Route 1 0 0", "  -> 0A4D0020:0000  Route 1 0 0"])
        late.start()
        self.addCleanup(late.join)
        self.reload()
        self.assertEqual(self.RIGHT, self.servers())

    GONE = ("TCP  0A4D0065:2774 mh", "  -> 0A4D001F:2774  Route 1 0 0")

    def test_a_service_and_a_server_that_keepalived_could_not_remove_go(self):
        right = [f"  -> {server}  Route {weight} 0 0" for server, weight in self.RIGHT]
        self.table(*self.GONE, NEW, *right, "  -> 0A4D0021:276A  Route 1 0 0", "  -> 0A4D0021:0000  Route 1 0 0")
        said = self.reload()
        self.assertEqual(self.RIGHT, self.servers())
        self.assertNotIn(self.GONE[0], self.machine.read("/proc/net/ip_vs"))
        self.assertNotIn("--add-server", said)

    def test_a_long_reload_is_waited_for_as_long_as_it_goes_on(self):
        self.table(*self.GONE)  # goes after 0.6 s, and what comes later than the 3 s comes less than 3 s after that
        late = threading.Timer(3.3, self.table, [NEW, "  -> 0A4D001F:0000  Route 1 0 0", "  -> 0A4D0020:0000  Route 1 0 0"])
        late.start()
        self.addCleanup(late.join)
        self.reload()
        self.assertEqual(self.RIGHT, self.servers())

    def test_keepalived_removes_them_itself_where_it_can(self):
        right = [NEW, *(f"  -> {server}  Route {weight} 0 0" for server, weight in self.RIGHT)]
        self.table(*right, *self.GONE)
        own = threading.Timer(0.2, self.table, right)
        own.start()
        self.addCleanup(own.join)
        self.assertEqual("", self.reload())

    def test_the_sorry_page_stays(self):
        page = "  -> 7F000050:276A  Route 1 0 0"
        self.table(NEW, *(f"  -> {server}  Route {weight} 0 0" for server, weight in self.RIGHT), page)
        self.assertEqual("", self.reload())
        self.assertIn(page, self.machine.read("/proc/net/ip_vs"))

    def test_what_is_not_tcp_is_left_to_the_report_of_drift(self):
        other = ["FWM  00000007 wlc", "  -> 0A4D0021:0000  Route 1 0 0", "UDP  0A4D0065:0035 wlc"]
        self.table(NEW, *(f"  -> {server}  Route {weight} 0 0" for server, weight in self.RIGHT), *other)
        self.assertEqual("", self.reload())
        self.assertIn("\n".join(other), self.machine.read("/proc/net/ip_vs"))

    def test_before_anything_is_balanced_there_is_nothing_to_do(self):
        self.assertEqual("", self.reload())


if __name__ == "__main__":
    unittest.main()
