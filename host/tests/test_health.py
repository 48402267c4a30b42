"""Promises of the health responder."""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
import unittest
from unittest import mock

import health
import probes
import slumber
from tests.machine import HOST, PYTHON, Machine
from tests.stand_ins import fastcgi_server, free_port, web_server


class Responder(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.port = free_port()

    def configure(self, *checks):
        self.machine.write("/health.json", json.dumps({"listen": "127.0.0.1", "port": self.port, "checks": checks}))

    def start(self, *checks):
        self.configure(*checks)
        self.server = subprocess.Popen(
            [*PYTHON, str(HOST / "health.py"), str(self.machine.root / "health.json")],
            env={**os.environ, "FLEET_ROOT": str(self.machine.root)},
        )
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.terminate)
        for _ in range(100):
            try:
                return self.ask()
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the responder did not start")

    def ask(self, path="/ready"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        return answer.status, body

    def runs(self, *units):
        links = self.machine.root / "run/systemd/units"
        links.mkdir(parents=True, exist_ok=True)
        for unit in units:
            (links / f"invocation:{unit}").symlink_to("0123")

    def after_cache(self):
        time.sleep(health.CACHE_SECONDS + 0.1)
        return self.ask()


class Serving(Responder):
    def test_ready_is_200_when_every_check_passes_and_names_the_one_that_does_not(self):
        port, gone = web_server(self), free_port()
        good = {"name": "web", "kind": "http", "url": f"http://127.0.0.1:{port}/", "host": "site.test"}
        self.assertEqual((200, {"ready": True, "drained": False, "checks": {"web": "ok"}, "sites": {}}), self.start(good))
        self.configure(good, {"name": "gone", "kind": "tcp", "address": "127.0.0.1", "port": gone})
        self.server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        status, body = self.ask()
        self.assertEqual((503, "ok"), (status, body["checks"]["web"]))
        self.assertIn("refused", body["checks"]["gone"])

    def test_a_drained_machine_is_not_ready_though_its_checks_pass(self):
        self.assertEqual(200, self.start()[0])
        self.machine.write("/run/fleet/drain", "")
        self.assertEqual((503, {"ready": False, "drained": True, "checks": {}, "sites": {}}), self.ask())
        (self.machine.root / "run/fleet/drain").unlink()
        self.assertEqual(200, self.ask()[0])

    def site(self, name, port, path="/ping", **more):
        place = {"address": "127.0.0.1", "port": port, "path": path}
        return {"name": name, "kind": "fastcgi", **place, "unit": f"{name}.service", "children": 4, **more}

    def test_a_running_site_must_answer(self):
        port = fastcgi_server(self)
        self.runs("a.service")
        self.assertEqual(200, self.start(self.site("a", port), self.site("b", port, "/other"))[0])
        self.runs("b.service")
        _, body = self.after_cache()
        self.assertEqual(("ok", True), (body["sites"]["a"], "pong" in body["sites"]["b"] or "answer" in body["sites"]["b"]))

    def test_one_site_that_does_not_answer_leaves_the_machine_to_its_neighbours_and_all_of_them_do_not(self):
        port = fastcgi_server(self)
        silent = self.site("b", port, "/other")
        self.runs("a.service", "b.service", "c.service")
        status, body = self.start(self.site("a", port), silent)
        self.assertEqual((200, True, ["ok"]), (status, body["ready"], [said for said in body["sites"].values() if said == "ok"]))
        self.configure(silent, {**silent, "name": "c"})
        self.server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        self.assertEqual((503, False), (self.ask()[0], self.ask()[1]["ready"]))

    def test_a_sleeping_site_is_healthy_while_its_port_is_held_and_is_not_woken(self):
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
            self.assertEqual(200, self.start(self.site("a", port))[0])
            self.assertEqual(([], [], []), select.select([held], [], [], 0))
        status, body = self.after_cache()
        self.assertEqual((503, f"nobody listens on 127.0.0.1:{port}"), (status, body["sites"]["a"]))

    def test_a_site_that_is_being_stopped_is_not_asked_and_one_whose_stop_was_left_is(self):
        port = fastcgi_server(self)
        self.runs("a.service")
        self.start(self.site("a", port))
        self.after_cache()
        self.assertEqual(["a.service"], list(self.ask("/quiet")[1]))
        mark = "/run/fleet-rest/stopping/a.service"
        self.machine.write(mark, "")
        self.after_cache()
        self.assertEqual({}, self.ask("/quiet")[1])
        os.utime(f"{self.machine.root}{mark}", (0, time.time() - slumber.STOP_SECONDS - 1))
        self.after_cache()
        self.assertEqual(["a.service"], list(self.ask("/quiet")[1]))

    def test_a_site_that_went_to_sleep_while_its_check_waited_is_not_woken_by_it(self):
        with socket.create_server(("127.0.0.1", 0)) as held:
            site = {"address": "127.0.0.1", "port": held.getsockname()[1], "path": "/ping", "unit": "a.service", "children": 2}
            self.assertEqual("", health.check_fastcgi(site, mock.Mock()))
            self.assertEqual(([], [], []), select.select([held], [], [], 0))
            with mock.patch.object(health, "runs", lambda unit: True), mock.patch.object(health, "SITE_SECONDS", 0.1):
                self.assertRaises(TimeoutError, health.check_fastcgi, site, mock.Mock())
            self.assertEqual([held], select.select([held], [], [], 0)[0])

    def test_a_site_is_quiet_from_the_last_time_that_anybody_else_asked_it(self):
        port = fastcgi_server(self)
        self.runs("a.service")
        self.start(self.site("a", port))
        for _ in range(2):
            self.after_cache()
        _, quiet = self.ask("/quiet")
        self.assertGreater(quiet["a.service"], 2 * health.CACHE_SECONDS)
        probes.fastcgi_answer("127.0.0.1", port, "/ping", 1)
        self.after_cache()
        self.assertLess(self.ask("/quiet")[1]["a.service"], quiet["a.service"])

    def test_a_site_that_sleeps_is_not_among_the_quiet_ones(self):
        self.runs("a.service")
        port = fastcgi_server(self)
        self.start(self.site("a", port))
        self.assertEqual(["a.service"], list(self.ask("/quiet")[1]))
        (self.machine.root / "run/systemd/units/invocation:a.service").unlink()
        self.after_cache()
        self.assertEqual({}, self.ask("/quiet")[1])

    def test_an_address_must_be_the_machines_own(self):
        self.assertEqual(200, self.start({"name": "vip", "kind": "address", "address": "127.0.0.1"})[0])
        self.configure({"name": "vip", "kind": "address", "address": "192.0.2.1"})
        self.server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        status, body = self.ask()
        self.assertEqual((503, {"vip": "192.0.2.1 is not an address of this machine"}), (status, body["checks"]))

    def test_a_unit_must_run(self):
        self.assertEqual(503, self.start({"name": "u", "kind": "unit", "unit": "u.service"})[0])
        self.runs("u.service")
        self.assertEqual(200, self.after_cache()[0])

    def test_a_broken_configuration_is_refused_at_start_and_ignored_at_reload(self):
        self.assertEqual(200, self.start()[0])
        self.machine.write("/health.json", "{")
        self.server.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        self.assertEqual(200, self.ask()[0])
        self.assertEqual(2, self.machine.run("health.py", "--check", str(self.machine.root / "health.json")).returncode)
        self.configure()
        self.assertEqual(0, self.machine.run("health.py", "--check", str(self.machine.root / "health.json")).returncode)

    def test_another_path_is_404(self):
        self.start()
        self.assertEqual(404, self.ask("/")[0])


IPVS = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A4D0064:0050 wlc
  -> 0A4D0016:0050      Route   0      2          7
  -> 0A4D0015:0050      Route   1      0          324
TCP  0A4D0065:2711 wlc
  -> 7F000050:2711      Route   1      0          0
"""


class Balancing(Responder):
    def test_the_doors_are_asked_by_a_director_that_does_not_hold_the_vips_and_by_no_other(self):
        door = f"127.0.0.1:{web_server(self)}"
        self.start()
        for vip, live, doors in (("192.0.2.1", False, {door: ""}), ("127.0.0.1", True, {})):
            text = json.dumps({"listen": "127.0.0.1", "port": self.port, "vips": [vip], "doors": [door]})
            self.machine.write("/health.json", text)
            self.server.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            self.assertEqual((200, {"live": live, "doors": doors}), self.ask("/through"))

    def test_a_director_tells_its_table_and_whether_it_is_live(self):
        self.machine.write("/proc/net/ip_vs", IPVS)
        for vip, live in (("127.0.0.1", True), ("192.0.2.1", False)):
            with self.subTest(vip):
                self.assertEqual(live, health.holds(vip))
        text = json.dumps({"listen": "127.0.0.1", "port": self.port, "vips": ["127.0.0.1"]})
        self.start()
        self.assertEqual(404, self.ask("/balancer")[0])
        self.machine.write("/health.json", text)
        self.server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        status, body = self.ask("/balancer")
        self.assertEqual((200, True), (status, body["live"]))
        web = {"10.77.0.22": {"weight": 0, "active": 2}, "10.77.0.21": {"weight": 1, "active": 0}}
        self.assertEqual({"10.77.0.100:80": web, "10.77.0.101:10001": {}}, body["services"])


class Looking(unittest.TestCase):
    def test_a_mount_is_told_from_a_directory_and_from_nothing(self):
        prober = health.MountProber()
        self.assertEqual("", prober.ask("/proc"))
        self.assertEqual("is not a mount point", prober.ask("/etc"))
        self.assertEqual("No such file or directory", prober.ask("/no/such/path"))
        prober.close()

    def test_a_file_system_that_hangs_costs_one_second_and_one_process(self):
        with mock.patch.object(health, "PROBER", "import time; time.sleep(60)"):
            prober = health.MountProber()
            started = time.monotonic()
            with self.assertRaisesRegex(TimeoutError, "no answer"):
                prober.ask("/proc")
            self.assertLess(time.monotonic() - started, 1.5)
            self.assertIsNone(prober.child)
            prober.killed.wait(5)
        self.assertEqual("", prober.ask("/proc"))
        prober.close()

    def hanging(self, answers):
        """A machine whose mount hangs, and whether its server answers: at the first looks, and later."""
        answers = iter([*answers, *answers[-1:] * 9])
        check = {"name": "sites", "kind": "mount", "path": "/proc", "server": "10.0.0.1"}
        with mock.patch.object(health, "PROBER", "import time; time.sleep(60)"), mock.patch.object(
            probes, "nfs_answers", lambda *_: next(answers)
        ):
            looker = health.Health({"checks": [check]})
            said = [looker.answer()]
            for _ in range(6):  # the first look may still wait for the server
                time.sleep(0.5)
                said.append(looker.answer())
            for child in filter(None, (looker.probers["/proc"].child, looker.probers["/proc"].killed)):
                child.kill()
                child.wait(5)
        return said

    def test_a_mount_whose_server_answers_nobody_is_told_and_takes_no_machine_away(self):
        said = self.hanging(answers=[False])
        self.assertEqual({200}, {status for status, _ in said})
        self.assertEqual(health.SILENT, said[-1][1]["checks"]["sites"])

    def test_a_mount_that_hangs_while_its_server_answers_is_this_machines_own_fault(self):
        status, body = self.hanging(answers=[True])[-1]
        self.assertEqual((503, False), (status, body["ready"]))
        self.assertIn(body["checks"]["sites"], ("no answer for 1 s", "the last look still hangs"))

    def test_a_mount_that_sleeps_on_for_a_while_when_its_server_is_back_takes_no_machine_away_either(self):
        said = self.hanging(answers=[False, True])
        self.assertEqual({200}, {status for status, _ in said})
        self.assertEqual(health.WAKING, said[-1][1]["checks"]["sites"])
        with mock.patch.object(health, "WAKING_SECONDS", 0.5):
            self.assertEqual(503, self.hanging(answers=[False, True])[-1][0])

    def test_an_nfs_server_is_one_that_answers_a_call(self):
        port = free_port()
        self.assertFalse(probes.nfs_answers("127.0.0.1", 0.3, port), "nobody is there")
        with socket.create_server(("127.0.0.1", port)) as server:
            began = time.monotonic()
            self.assertFalse(probes.nfs_answers("127.0.0.1", 0.3, port), "it takes connections, and is frozen")
            self.assertLess(time.monotonic() - began, 1)
            server.accept()[0].close()
            asked = []

            def answer():
                connection, _ = server.accept()
                asked.append(connection.recv(100))
                connection.sendall(b"\x80\x00\x00\x18" + bytes(24))
                connection.close()

            thread = threading.Thread(target=answer)
            thread.start()
            self.assertTrue(probes.nfs_answers("127.0.0.1", 2, port))
            thread.join()
        self.assertEqual((44, b"\x80\x00\x00\x28"), (len(asked[0]), asked[0][:4]))

    def test_all_checks_together_take_no_longer_than_one(self):
        slow = [{"name": str(n), "kind": "slow"} for n in range(20)]
        with mock.patch.dict(health.CHECKS, slow=lambda *_: time.sleep(3)):
            looker = health.Health({"checks": slow})
            started = time.monotonic()
            status, body = looker.answer()
            self.assertLess(time.monotonic() - started, 1.5)
        self.assertEqual((503, {"no answer for 1 s"}), (status, set(body["checks"].values())))

    def test_a_check_that_hangs_does_not_hold_the_answer_of_the_machine_up(self):
        with mock.patch.dict(health.CHECKS, slow=lambda *_: time.sleep(3)):
            looker = health.Health({"checks": [{"name": "n", "kind": "slow"}]})
            self.assertEqual(503, looker.answer()[0])
            time.sleep(health.CACHE_SECONDS + 0.05)
            started = time.monotonic()
            self.assertEqual(503, looker.answer()[0])
            self.assertLess(time.monotonic() - started, 0.8)

    def test_many_sites_that_hang_do_not_hold_the_machines_own_checks_up_and_a_check_that_breaks_fails(self):
        broken = mock.Mock(side_effect=ValueError("broken"))
        awake = mock.patch.object(health, "runs", lambda unit: True)
        with awake, mock.patch.dict(health.CHECKS, fastcgi=lambda *_: time.sleep(2), fine=lambda *_: "", odd=broken):
            sites = [{"name": str(n), "kind": "fastcgi", "unit": "x"} for n in range(2 * health.WORKERS)]
            looker = health.Health({"checks": [*sites, {"name": "n", "kind": "fine"}, {"name": "o", "kind": "odd"}]})
            seen = looker.look()
            self.assertEqual(("", "broken"), (seen["n"], seen["o"]))

    def test_sites_that_wait_for_their_turn_or_sleep_are_not_at_fault_however_many_hang(self):
        def hangs(*_):
            time.sleep(1.3)
            return "timed out"

        site = {"kind": "fastcgi", "address": "127.0.0.1", "port": 9}
        asleep = [{"name": f"asleep{n}", "unit": "asleep", **site} for n in range(20)]
        hanging = [{"name": f"hangs{n}", "unit": "awake", **site} for n in range(6)]
        with (
            mock.patch.object(health, "runs", lambda unit: unit == "awake"),
            mock.patch.object(health, "listening", lambda: {("127.0.0.1", 9)}),
            mock.patch.object(health, "WORKERS", 2),
            mock.patch.dict(health.CHECKS, fastcgi=hangs),
            mock.patch.dict(health.PATIENCE, fastcgi=1.5),
        ):
            looker = health.Health({"checks": [*asleep, *hanging]})
            self.assertEqual({""}, set(looker.look().values()))
            deadline = time.monotonic() + 8
            while (seen := looker.look())["hangs5"] == "" and time.monotonic() < deadline:
                self.assertEqual({""}, {said for name, said in seen.items() if name.startswith("asleep")})
                self.assertLessEqual(set(seen.values()), {"", "timed out"})
                time.sleep(0.3)
            self.assertEqual("timed out", seen["hangs5"])

    def test_a_busy_site_is_at_fault_when_its_patience_is_over_and_asked_once_meanwhile(self):
        asked, release = [], threading.Event()

        def busy(*_):
            asked.append(1)
            if len(asked) > 1:
                release.wait(5)
            return ""

        site = {"name": "site", "kind": "fastcgi", "unit": "x"}
        awake = mock.patch.object(health, "runs", lambda unit: True)
        with awake, mock.patch.dict(health.CHECKS, fastcgi=busy), mock.patch.dict(health.PATIENCE, fastcgi=1.7):
            looker = health.Health({"checks": [site]})
            seen = [looker.look()["site"]]
            for _ in range(2):
                time.sleep(health.CACHE_SECONDS + 0.05)
                looker.look()
                time.sleep(1)
                seen.append(looker.look()["site"])
            self.assertEqual((["", "", "no answer for 1.7 s"], 2), (seen, len(asked)))
            release.set()
            time.sleep(health.CACHE_SECONDS + 0.05)
            looker.look()
            time.sleep(0.2)
            self.assertEqual("", looker.look()["site"])

    def test_a_site_whose_children_are_all_at_work_is_busy_and_not_at_fault_and_one_with_idle_children_is(self):
        machine = Machine()
        self.addCleanup(machine.close)
        with socket.create_server(("127.0.0.1", 0)) as held:  # takes a connection and never answers
            site = {"address": "127.0.0.1", "port": held.getsockname()[1], "path": "/ping", "unit": "a.service", "children": 2}
            with (
                mock.patch.object(health, "runs", lambda unit: True),
                mock.patch.object(health.probes, "SITES", str(machine.root)),
                mock.patch.object(health, "SITE_SECONDS", 0.1),
            ):
                machine.write("/sites-a.slice/a.service/pids.current", "3\n")
                self.assertEqual("", health.check_fastcgi(site, mock.Mock()))
                machine.write("/sites-a.slice/a.service/pids.current", "2\n")
                self.assertRaises(TimeoutError, health.check_fastcgi, site, mock.Mock())
                (machine.root / "sites-a.slice/a.service/pids.current").unlink()
                self.assertRaises(TimeoutError, health.check_fastcgi, site, mock.Mock())

    def wedged(self, cpu=range(99), heard=True, pids="2\n", waits=range(99), patience=1.0):
        """What is said of a site that takes a connection and never answers, and after how long. `cpu` gives what
        its processes have used whenever they are looked at, `waits` how often its master has waited."""
        machine = Machine()
        self.addCleanup(machine.close)
        machine.write("/sites-a.slice/a.service/pids.current", pids)
        used, waited = iter(cpu), iter(waits)
        looker = health.Health({})
        if heard:
            looker.quiet.heard("a.service", 1)
        with (
            socket.create_server(("127.0.0.1", 0)) as held,
            mock.patch.object(health, "runs", lambda unit: True),
            mock.patch.object(health.probes, "SITES", str(machine.root)),
            mock.patch.object(health.probes, "cpu_used", lambda unit: next(used)),
            mock.patch.object(health.probes, "master_waits", lambda unit: next(waited)),
            mock.patch.object(health, "SITE_SECONDS", patience),
        ):
            site = {"address": "127.0.0.1", "port": held.getsockname()[1], "path": "/ping", "unit": "a.service", "children": 2}
            begun = time.monotonic()
            try:
                said = health.check_fastcgi(site, looker)
            except TimeoutError as error:
                said = str(error)
            return said, time.monotonic() - begun

    def test_a_site_that_takes_connections_and_does_nothing_is_wedged_and_known_to_be_at_the_third_look_in_half_a_second(self):
        said, _ = self.wedged(cpu=[7] * 4, patience=4.0)  # one before, two while it waits, one to be sure
        self.assertEqual(health.WEDGED, said)
        self.assertLessEqual(3 * health.probes.STEP_SECONDS, 0.5)

    def test_a_site_whose_children_are_all_at_work_is_wedged_when_its_master_does_nothing(self):
        said, seconds = self.wedged(pids="3\n", waits=[7] * 99, patience=4.0)
        self.assertEqual(health.WEDGED, said)
        self.assertLess(seconds, 2)

    def test_a_master_is_the_oldest_process_of_its_site_whatever_its_name(self):
        machine = Machine()
        self.addCleanup(machine.close)
        machine.write("/sites/sites-a.slice/a.service/cgroup.procs", "31\n4242\n")
        for process, since, waits in (("31", 900, 5), ("4242", 800, 17)):
            machine.write(f"/proc/{process}/stat", f"{process} (php-fpm: a) 1) S {' '.join(['0'] * 18)} {since} 0\n")
            machine.write(f"/proc/{process}/status", f"Name:\tphp-fpm\nvoluntary_ctxt_switches:\t{waits}\nnonvoluntary_ctxt_switches:\t3\n")
        places = {"SITES": f"{machine.root}/sites", "PROC": f"{machine.root}/proc"}
        with mock.patch.multiple(health.probes, **places):
            self.assertEqual([17, None], [health.probes.master_waits(unit) for unit in ("a.service", "b.service")])

    def test_a_site_that_is_slow_and_at_work_or_starting_or_busy_or_was_paused_once_is_not_wedged(self):
        for what, given, said in (
            ("at work", {"cpu": range(99)}, "timed out"),
            ("starting", {"cpu": [7] * 99, "heard": False}, "timed out"),
            ("busy", {"cpu": [7] * 99, "pids": "3\n", "patience": 2.0}, ""),
            ("busy and paused", {"pids": "3\n", "waits": [*range(9), *[9] * 12, *range(9, 99)], "patience": 4.0}, ""),
            ("paused", {"cpu": [number for number in range(50) for _ in range(2)]}, "timed out"),
            ("gone", {"cpu": [None] * 99}, "timed out"),
        ):
            with self.subTest(what):
                self.assertEqual(said, self.wedged(**given)[0])

    def test_a_machine_all_of_whose_running_sites_are_wedged_is_not_ready_and_one_that_has_another_is(self):
        looker = health.Health({"checks": [{"name": name, "kind": "fastcgi", "unit": name} for name in "abc"]})
        looker.seen, looker.results, looker.asleep = float("inf"), {"a": health.WEDGED, "b": "", "c": ""}, {"c"}
        self.assertEqual((200, ["a"]), (looker.answer()[0], looker.wedged()))
        looker.results["b"] = health.WEDGED
        self.assertEqual((503, ["a", "b"]), (looker.answer()[0], looker.wedged()))
        looker.results["b"] = "its answer is not FPM's status"
        self.assertEqual(200, looker.answer()[0])

    def test_a_result_serves_for_a_while(self):
        asked = []
        with mock.patch.dict(health.CHECKS, count=lambda *_: asked.append(1) or ""):
            looker = health.Health({"checks": [{"name": "n", "kind": "count"}]})
            for _ in range(5):
                looker.answer()
            self.assertEqual(1, len(asked))
            time.sleep(health.CACHE_SECONDS + 0.05)
            looker.answer()
            self.assertEqual(2, len(asked))

    def test_every_mistake_in_a_configuration_is_told(self):
        wrong = health.mistakes(
            {"listen": 1, "checks": [{"name": "a", "kind": "ping"}, {"name": "b", "kind": "tcp", "address": "x"}] * 2}
        )
        self.assertEqual(7, len(wrong), wrong)
        self.assertEqual([], health.mistakes({"listen": "127.0.0.1", "port": 8079, "checks": []}))


if __name__ == "__main__":
    unittest.main()
