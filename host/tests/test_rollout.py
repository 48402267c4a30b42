"""Promises of a rollout: budget, drain, gate, watcher. A small server stands for the live director."""

import http.server
import json
import os
import signal
import subprocess
import time

from tests.machine import HOST, PYTHON, bundle, file, record
from tests.stand_ins import Handler, serve
from tests.test_converge import OnAMachine

WEB = "10.77.0.100:80"
STEPS = [
    "unpacked", "checked", "planned", "budgeted", "drained", "linked", "marked", "switched", "unlinked", "actions",
    "units", "probed",
]  # fmt: skip


class Director(Handler):
    """Answers as a director whose checkers see the machine's drain flag at once."""

    def do_GET(self):
        state = self.server.state
        if self.path == "/ready":
            parts = {"checks": state.sites} if state.old else {"checks": {}, "sites": state.sites}
            return self.say(200 if state.peer_ready else 503, json.dumps({"ready": 1, **parts}))
        if self.path == "/through":
            live = state.through is None or self.headers["Host"] == state.director
            return self.say(200, json.dumps({"live": live, "doors": {WEB: "" if live else state.through}}))
        own = {"weight": 0 if state.flag.exists() or state.late > 0 else 1, "active": state.active if state.flag.exists() else 9}
        state.asked.append(own["weight"])
        state.late -= 1
        servers = {"10.77.0.21": own, **state.others}
        live = state.live and (state.both or self.headers["Host"] == state.director)
        self.say(200, json.dumps({"live": live, "services": {WEB: servers}}))


class RollingOut(OnAMachine):
    def setUp(self):
        super().setUp()
        self.live, self.active, self.asked, self.peer_ready = True, 0, [], True
        self.old = False  # its responder is one of before
        self.both = False  # both directors hold the VIPs
        self.sites = {}  # as the machine's own responder sees them
        self.late = 0  # answers until the director has noticed that the machine is ready
        self.others = {"10.77.0.22": {"weight": 1, "active": 0}}
        self.flag = self.machine.root / "run/fleet/drain"
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Director)
        server.state = self
        self.through, port = None, serve(self, server)
        self.director, self.second = f"127.0.0.1:{port}", f"localhost:{port}"
        self.probe = self.machine.root / "healthy"
        self.probe.touch()

    def text(self, word, *more, confirm=60, drain=2, healthy=0, **unit):
        settings = record(
            "rollout", address="10.77.0.21", responder=self.director, services=[WEB], balancers=[self.director, self.second], minimumServers=1,
            drainSeconds=drain, minHealthySeconds=healthy, healthyDeadlineSeconds=1, confirmSeconds=confirm,
        )  # fmt: skip
        probe = record("probe", name="healthy", kind="exec", within=1, argv=["/usr/bin/test", "-e", str(self.probe)])
        watcher = file("/etc/systemd/system/fleet-watch.service", "[Service]\n")
        unit = record("unit", name="web.service", drain=True, **{"restart": ["/etc/web.conf"], **unit})
        return bundle(settings, file("/etc/web.conf", f"{word}\n"), watcher, unit, probe, *more)

    def gate(self, generation, hold=0, expect=0, verb="gate", **environment):
        given = json.dumps({"generation": generation, "holdSeconds": hold, "size": "ab"})
        done = self.machine.run("converge.py", verb, given=given, **environment)
        self.assertEqual(expect, done.returncode, done.stderr)
        return json.loads(done.stdout), done.stderr

    def first(self, word="one"):
        """A machine that serves: its first generation, through its gate."""
        generation = self.machine.report(self.text(word))["generation"]
        self.gate(generation)
        self.machine.calls()
        return generation

    def unsettled(self):
        return self.machine.exists("/var/lib/fleet/unsettled")

    def word(self):
        return self.machine.read("/etc/web.conf").strip()


class Budget(RollingOut):
    def test_the_last_live_server_is_not_touched_and_one_of_two_is(self):
        first = self.first()
        for entry in ({"weight": 0, "active": 0}, None):
            self.others = {"10.77.0.22": entry} if entry else {}
            before = self.machine.tree("etc", "run")
            said = self.failure(self.text("two"))
            self.assertIn("budget: 10.77.0.100:80 has 0 other live servers (none) and must keep 1", said)
            self.assertEqual((first, []), (self.generation(), self.machine.calls()))
            self.assertEqual(before.keys(), self.machine.tree("etc", "run").keys())
        self.others = {"10.77.0.22": {"weight": 1, "active": 0}}
        self.machine.report(self.text("two"))

    def test_a_server_that_is_not_live_itself_may_be_mended(self):
        self.first()
        self.others = {}
        self.flag.parent.mkdir(parents=True, exist_ok=True)
        self.flag.touch()
        self.machine.report(self.text("two"))

    def test_a_first_change_that_was_cut_short_is_finished_though_no_other_server_is_there_yet(self):
        self.others = {}
        for step in STEPS[STEPS.index("switched") :]:
            with self.subTest(step=step):
                self.setUp()
                self.others = {}
                killed = self.machine.apply(self.text("one"), FLEET_KILL_AT=step)
                self.assertEqual(-signal.SIGKILL, killed.returncode)
                self.gate(self.machine.report(self.text("one"))["generation"])
                self.assertEqual(("one", False), (self.word(), self.unsettled()))

    def test_without_a_live_director_nothing_is_touched(self):
        self.first()
        self.live = False
        said = self.failure(self.text("two"), FLEET_DIRECTOR_SECONDS="1")
        self.assertIn("no director says that it is live", said)
        self.assertEqual([], self.machine.calls())


    def test_a_directors_service_is_restarted_where_another_can_take_over_and_nowhere_else(self):
        self.first()
        changed = self.text("two", leave=True)
        self.peer_ready = False
        said = self.failure(changed)
        self.assertIn(f"budget: no other director is ready to take over ({self.second})", said)
        self.assertEqual([], self.machine.calls())
        self.machine.report(self.text("two", leave=True, restart=[], reload=["/etc/web.conf"]))
        self.peer_ready = True
        self.machine.report(self.text("three", leave=True))


class Draining(RollingOut):
    def test_a_restart_that_loses_requests_waits_for_the_drain_and_a_reload_does_not(self):
        self.first()
        self.asked.clear()
        self.machine.report(self.text("two"))
        self.assertTrue(self.flag.exists(), "the gate takes requests again, not apply")
        self.assertIn(0, self.asked)
        self.gate(self.generation())
        self.assertFalse(self.flag.exists())
        self.asked.clear()
        self.machine.report(self.text("two", restart=[], reload=["/etc/web.conf"]))
        self.machine.report(self.text("three", restart=[], reload=["/etc/web.conf"]))
        self.assertNotIn(0, self.asked)

    def test_requests_in_flight_are_waited_for_no_longer_than_the_bound(self):
        self.first()
        self.active = 3
        begun = time.monotonic()
        done = self.machine.apply(self.text("two", drain=1))
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn("3 connections are still open after 1 s of draining", done.stderr)
        self.assertGreater(time.monotonic() - begun, 1)

    def test_a_failure_leaves_no_machine_drained(self):
        self.first()
        self.machine.write("/broken", "web.service\n")
        self.failure(self.text("two"))
        self.assertEqual((False, "one"), (self.flag.exists(), self.word()))


class Gate(RollingOut):
    def test_a_generation_is_settled_by_the_gate_alone(self):
        self.first()
        self.machine.report(self.text("two"))
        self.assertTrue(self.unsettled())
        report, _ = self.gate(self.generation())
        self.assertEqual(("settled", False), (report["result"], self.unsettled()))

    def test_a_gate_ends_when_the_live_director_sends_requests_here(self):
        self.first()
        self.machine.report(self.text("two", restart=[], reload=["/etc/web.conf"]))
        self.asked.clear()
        self.late = 3
        self.gate(self.generation())
        self.assertEqual([0, 0, 0, 1], self.asked)

    def test_a_gate_before_any_director_is_live_has_nobody_to_wait_for(self):
        self.live = False
        generation = self.machine.report(self.text("one"))["generation"]
        self.assertEqual("settled", self.gate(generation)[0]["result"])

    def test_a_machine_that_is_not_healthy_at_the_gate_goes_back(self):
        first = self.first()
        second = self.machine.report(self.text("two"))["generation"]
        self.probe.unlink()
        report, said = self.gate(second, expect=1)
        self.assertIn("probe healthy failed", said)
        self.assertEqual((first, False), (self.generation(), self.flag.exists()))
        self.assertEqual("not reverted", report["result"])  # the old one is as ill: it is told

    def test_a_machine_that_cannot_be_reached_through_the_vip_goes_back(self):
        first = self.first()
        second = self.machine.report(self.text("two"))["generation"]
        self.through = "timed out"
        report, said = self.gate(second, expect=1, FLEET_DIRECTOR_SECONDS="1")
        self.assertIn("does not answer through the VIP within 1 s: 10.77.0.100:80: timed out", said)
        self.assertEqual((first, "reverted"), (self.generation(), report["result"]))
        third = self.machine.report(self.text("three"))["generation"]
        self.through = ""
        self.assertEqual("settled", self.gate(third)[0]["result"])

    def test_a_generation_that_was_taken_back_fails_its_gate_and_is_applied_again_before_the_next(self):
        self.first()
        second = self.machine.report(self.text("two", confirm=0))["generation"]
        self.assertEqual(0, self.machine.run("converge.py", "watch").returncode)
        self.assertEqual("one", self.word())
        self.assertIn("was taken back by this machine itself", self.gate(second, expect=1)[1])
        self.assertEqual("one", self.word())
        self.assertEqual("applied", self.gate(second, verb="again")[0]["result"])  # the next up
        self.assertEqual(("two", True), (self.word(), self.unsettled()))
        self.gate(second)
        self.assertEqual(("two", False, False), (self.word(), self.unsettled(), self.flag.exists()))

    def test_one_that_is_killed_while_it_is_applied_again_passes_no_gate_and_is_finished_by_the_next(self):
        for step in ("marked", "switched", "unlinked", "actions", "units"):
            with self.subTest(step=step):
                self.setUp()
                self.first()
                second = self.machine.report(self.text("two", confirm=0))["generation"]
                self.machine.run("converge.py", "watch")
                given = json.dumps({"generation": second, "holdSeconds": 0})
                killed = self.machine.run("converge.py", "again", given=given, FLEET_KILL_AT=step)
                self.assertEqual(-signal.SIGKILL, killed.returncode)
                self.assertIn("cut short" if self.word() == "two" else "taken back", self.gate(second, expect=1)[1])
                self.machine.calls()
                self.gate(second, verb="again")
                self.assertIn("restart web.service", self.machine.calls())
                self.assertEqual("settled", self.gate(second)[0]["result"])

    def test_what_failed_before_is_remembered_for_one_that_leaves_in_mid_change(self):
        self.first()
        self.gate(self.machine.report(self.text("two"))["generation"], hold=60)
        self.sites = {"blog": "broken"}
        given = json.dumps({"peers": [], "seconds": 60, "patience": 1})
        self.assertEqual(0, self.machine.run("converge.py", "leave", given=given).returncode)
        self.assertEqual([], json.loads(self.machine.read("/var/lib/fleet/unsettled"))["broken"])

    def test_a_live_generation_is_not_applied_again_and_one_that_is_gone_is_told(self):
        first = self.first()
        second = self.machine.report(self.text("two"))["generation"]
        self.machine.calls()
        before = self.machine.tree("etc", "var")
        self.gate(second, verb="again")
        self.assertEqual((before, []), (self.machine.tree("etc", "var"), self.machine.calls()))
        self.assertIn("is not on this machine any more", self.gate("0" * 64, verb="again", expect=1)[1])
        self.gate(second)
        self.assertNotEqual(first, self.generation())

    def test_a_held_generation_serves_and_stays_unsettled(self):
        self.first()
        second = self.machine.report(self.text("two"))["generation"]
        report, _ = self.gate(second, hold=60)
        self.assertEqual(("held", True, False), (report["result"], self.unsettled(), self.flag.exists()))
        self.assertEqual("settled", self.gate(second)[0]["result"])
        self.assertFalse(self.unsettled())

    def test_a_machine_is_looked_at_again_and_again_before_it_is_held_and_once_when_it_is_settled(self):
        self.first()
        looks = self.machine.root / "looks"
        look = record("probe", name="look", kind="exec", within=1, argv=["/bin/sh", "-c", f"echo look >> {looks}"])
        second = self.machine.report(self.text("two", look, healthy=1))["generation"]
        looks.unlink()
        self.gate(second, hold=60)
        self.assertGreater(len(looks.read_text().split()), 2)
        looks.unlink()
        self.gate(second)
        self.assertEqual(1, len(looks.read_text().split()))

    def test_a_held_generation_that_went_back_is_applied_again(self):
        self.first()
        second = self.machine.report(self.text("two"))["generation"]
        self.gate(second, hold=0.01)
        self.machine.run("converge.py", "watch")
        self.assertEqual("one", self.word())
        self.gate(second, verb="again")
        self.gate(second)
        self.assertEqual("two", self.word())

    def test_a_site_that_failed_before_the_change_fails_nobodys_gate_and_one_that_fails_since_does(self):
        place, _, port = self.director.rpartition(":")
        health = record("probe", name="health", kind="health", address=place, port=int(port), within=0)
        self.first()
        self.sites = {"blog": "broken", "wiki": "ok"}
        second = self.machine.report(self.text("two", health))
        self.assertEqual(["blog"], second["broken"])
        self.sites["wiki"] = "broken"
        self.assertIn("probe health failed: wiki: broken", self.gate(second["generation"], expect=1)[1])
        self.assertEqual("one", self.word())
        third = self.machine.report(self.text("three", health))
        self.assertEqual(["blog", "wiki"], third["broken"])
        self.assertEqual("settled", self.gate(third["generation"])[0]["result"])

    def test_a_site_is_asked_after_a_change_of_its_own_files_alone_and_not_where_it_failed_before(self):
        self.first()
        absent = ["/usr/bin/test", "!", "-e", str(self.machine.root / "etc/blog.conf")]
        asks = record("probe", name="blog", kind="exec", within=0, argv=absent, site="blog", paths=["/etc/blog.conf"])
        self.gate(self.machine.report(self.text("two", asks))["generation"])
        blog = file("/etc/blog.conf", "x\n")
        self.assertIn("probe blog failed", self.failure(self.text("two", asks, blog)))
        self.sites = {"blog": "broken"}
        self.gate(self.machine.report(self.text("two", asks, blog))["generation"])

    def test_a_director_whose_table_lacks_a_ready_server_goes_back(self):
        first = self.first()
        self.peer_ready = True
        servers = record("service", name=WEB, servers=["127.0.0.1"])
        self.machine.program("ipvsadm", "#!/bin/sh\n")
        self.machine.write("/proc/net/ip_vs", "TCP  0A4D0064:0050 mh\n")
        second = self.machine.report(self.text("two", servers))["generation"]
        said = self.gate(second, expect=1, FLEET_DIRECTOR_SECONDS="1")[1]
        self.assertIn(f"ipvs {WEB} 127.0.0.1: missing", said)
        self.assertEqual(first, self.generation())
        self.machine.write("/proc/net/ip_vs", "TCP  0A4D0064:0050 mh\n  -> 7F000001:0050      Route   1      0          0\n")
        third = self.machine.report(self.text("three", servers))["generation"]
        self.assertEqual("settled", self.gate(third)[0]["result"])

    TWO = "TCP  0A4D0064:0050 mh\n  -> 7F000001:0050      Route   1      0          0\n  -> 7F000002:0050      Route   {} {} 0\n"

    def balance(self, weight=1, active=0):
        """A director's table of two servers, and an ipvsadm that notes what it is told and ends what is open."""
        self.machine.write("/proc/net/ip_vs", self.TWO.format(weight, active))
        ended = self.TWO.format(0, 0).replace("\n", "\\n")
        note = f'[ "$1" = --edit-server ] && echo "ipvsadm $*" >> "$here/calls"; [ -e "$here/stays" ] || printf "{ended}" > "$here/proc/net/ip_vs"'
        self.machine.program("ipvsadm", f'#!/bin/sh\nhere=${{0%/*}}/..\ncase "$1" in --edit-server) {note} ;; esac\n')

    def scale(self, word, *servers, **more):
        entry = record("service", name=WEB, servers=list(servers))
        return self.machine.report(self.text(word, entry, restart=[], reload=["/etc/web.conf"], **more))

    def edits(self):
        return [line.removeprefix("ipvsadm --edit-server ") for line in self.machine.calls() if line.startswith("ipvsadm ")]

    GOES = f"--tcp-service {WEB} --real-server 127.0.0.2:80 --gatewaying --weight 0"

    def test_a_director_drains_a_server_before_it_balances_it_no_more(self):
        self.first()
        self.balance(active=3)
        self.gate(self.scale("two", "127.0.0.1", "127.0.0.2")["generation"])
        self.assertEqual([], self.edits())  # none goes
        self.scale("three", "127.0.0.1")
        self.assertEqual([self.GOES], self.edits())

    def test_it_waits_for_what_is_under_way_and_no_longer_than_for_a_drain(self):
        self.first()
        self.balance(active=3)
        self.gate(self.scale("two", "127.0.0.1", "127.0.0.2")["generation"])
        (self.machine.root / "stays").touch()
        began = time.monotonic()
        self.scale("three", "127.0.0.1", drain=1)
        self.assertGreater(time.monotonic() - began, 1)

    def test_one_that_is_not_live_waits_for_nothing(self):
        self.first()
        self.balance(active=3)
        self.gate(self.scale("two", "127.0.0.1", "127.0.0.2")["generation"])
        (self.machine.root / "stays").touch()
        entry = record("service", name=WEB, servers=["127.0.0.1"])
        text = self.text("three", entry, restart=[], reload=["/etc/web.conf"], drain=30)
        began = time.monotonic()
        self.machine.report(text.replace(f'"responder": "{self.director}"', f'"responder": "{self.second}"'))
        self.assertLess(time.monotonic() - began, 20)

    def test_a_change_that_fails_gives_the_server_its_requests_back(self):
        self.first()
        self.balance()
        self.gate(self.scale("two", "127.0.0.1", "127.0.0.2")["generation"])
        entry = record("service", name=WEB, servers=["127.0.0.1"])
        self.machine.write("/broken", "web.service\n")
        self.failure(self.text("three", entry))
        self.assertEqual([self.GOES, self.GOES[:-1] + "1"], self.edits())

    def test_a_director_after_whose_change_nobody_holds_the_virtual_addresses_or_both_do_goes_back(self):
        self.first()
        self.machine.program("ipvsadm", "#!/bin/sh\n")
        self.machine.write("/proc/net/ip_vs", "TCP  0A4D0064:0050 mh\n  -> 7F000001:0050      Route   1      0          0\n")
        servers = record("service", name=WEB, servers=["127.0.0.1"])
        for word, live, both, held in (("two", False, False, "no director"), ("three", True, True, "127.0.0.1:")):
            generation = self.machine.report(self.text(word, servers, restart=[], reload=["/etc/web.conf"]))["generation"]
            self.live, self.both = live, both
            said = self.gate(generation, expect=1, FLEET_DIRECTOR_SECONDS="1")[1]
            self.assertIn(f"address virtual addresses: held by {held}", said)
            self.live, self.both = True, False
            self.assertEqual("one", self.word())

    def test_a_site_that_is_busy_after_a_change_of_its_own_is_not_broken(self):
        self.first()
        asks = record(
            "probe", name="blog", kind="exec", within=0, argv=["/usr/bin/grep", "-q", "one", str(self.machine.root / "etc/web.conf")],
            site="blog", paths=["/etc/web.conf"], unit="blog.service", children=4,
        )  # fmt: skip
        count = "/sys/fs/cgroup/sites.slice/sites-blog.slice/blog.service/pids.current"
        self.machine.write(count, "4\n")
        self.assertIn("probe blog failed", self.failure(self.text("two", asks)))
        self.machine.write(count, "5\n")
        self.machine.report(self.text("two", asks))

    def test_a_machine_all_of_whose_sites_failed_before_may_be_changed(self):
        self.first()
        self.sites, self.peer_ready, self.late = {"blog": "broken"}, False, 99
        second = self.machine.report(self.text("two", restart=[], reload=["/etc/web.conf"]))["generation"]
        self.assertEqual("settled", self.gate(second, FLEET_DIRECTOR_SECONDS="1")[0]["result"])
        third = self.machine.report(self.text("three", restart=[], reload=["/etc/web.conf"]))["generation"]
        self.sites["more"] = "broken"
        self.assertIn("does not send requests here again", self.gate(third, expect=1, FLEET_DIRECTOR_SECONDS="1")[1])

    def test_a_responder_of_before_names_its_broken_sites_among_its_checks(self):
        self.first()
        self.old, self.sites = True, {"blog": "broken"}
        self.assertEqual(["blog"], self.machine.report(self.text("two"))["broken"])


class Leaving(RollingOut):
    def leave(self, seconds=60, expect=0):
        order = {"peers": [self.director], "seconds": seconds, "patience": 1}
        done = self.machine.run("converge.py", "leave", given=json.dumps(order), FLEET_DIRECTOR_SECONDS="3")
        self.assertEqual(expect, done.returncode, done.stderr)
        return done.stderr

    def test_two_machines_of_a_tier_are_never_away_together(self):
        self.first()
        self.peer_ready = False
        self.assertIn("of the same tier is not ready", self.leave(expect=1))
        self.assertEqual((False, False), (self.flag.exists(), self.unsettled()))
        self.peer_ready = True
        self.leave()
        self.assertTrue(self.flag.exists())

    def test_a_machine_does_not_leave_the_balancers_without_a_server(self):
        self.first()
        self.others = {"10.77.0.22": {"weight": 0, "active": 0}}  # ready by its own word, and yet nothing is sent there
        self.assertIn("budget: 10.77.0.100:80 has 0 other live servers", self.leave(expect=1))
        self.assertEqual((False, False), (self.flag.exists(), self.unsettled()))
        self.others = {"10.77.0.22": {"weight": 1, "active": 0}}
        self.leave()

    def test_a_machine_that_left_comes_back_by_itself_or_by_its_gate(self):
        first = self.first()
        self.leave(seconds=1)
        self.assertEqual(0, self.machine.run("converge.py", "watch").returncode)
        self.assertEqual((first, False, False), (self.generation(), self.flag.exists(), self.unsettled()))
        self.leave()
        self.gate(first)
        self.assertEqual((False, False), (self.flag.exists(), self.unsettled()))

    def test_a_machine_with_a_partner_hands_over_before_it_goes_away(self):
        generation = self.machine.report(self.text("one", leave=True))["generation"]
        self.gate(generation)
        self.machine.calls()
        self.leave(seconds=1)
        self.assertIn("stop web.service", self.machine.calls())
        self.assertEqual(0, self.machine.run("converge.py", "watch").returncode)
        self.assertIn("start web.service", self.machine.calls())

    def test_a_machine_that_cannot_leave_goes_on_with_its_service(self):
        generation = self.machine.report(self.text("one", leave=True))["generation"]
        self.gate(generation)
        self.live = False
        self.machine.calls()
        order = {"peers": [], "seconds": 60, "patience": 1}
        done = self.machine.run("converge.py", "leave", given=json.dumps(order), FLEET_DIRECTOR_SECONDS="1")
        self.assertEqual(1, done.returncode)
        self.assertEqual((False, False), (self.flag.exists(), self.unsettled()))
        self.assertNotIn("stop web.service", self.machine.calls())

    def test_a_machine_without_a_generation_may_leave(self):
        self.leave()
        self.assertFalse(self.flag.exists())


class Watching(RollingOut):
    def watch(self):
        return self.machine.run("converge.py", "watch")

    def test_a_change_that_nobody_comes_back_for_is_taken_back(self):
        first = self.first()
        self.machine.report(self.text("two", confirm=1))
        self.assertIn("start --no-block fleet-watch.service", self.machine.calls())
        done = self.watch()
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn("the change was not settled in time", done.stderr)
        self.assertEqual((first, "one", False), (self.generation(), self.word(), self.unsettled()))
        self.assertFalse(self.flag.exists())

    def test_a_change_that_is_settled_in_time_stays(self):
        self.first()
        second = self.machine.report(self.text("two", confirm=3))["generation"]
        watcher = subprocess.Popen(
            [*PYTHON, str(HOST / "converge.py"), "watch"],
            env={**os.environ, "FLEET_ROOT": str(self.machine.root)},
        )
        self.gate(second)
        self.assertEqual(0, watcher.wait(10))
        self.assertEqual(second, self.generation())

    def test_after_a_power_cut_the_wait_begins_again(self):
        self.first()
        self.machine.report(self.text("two", confirm=1))
        place = self.machine.root / "var/lib/fleet/unsettled"
        change = json.loads(place.read_text())
        place.write_text(json.dumps({**change, "boot": "another", "deadline": 0}))
        begun = time.monotonic()
        self.watch()
        self.assertEqual("one", self.word())
        self.assertGreater(time.monotonic() - begun, 1)

    def test_a_change_that_was_at_its_end_passes_its_gate_after_a_power_cut(self):
        self.first()
        second = self.machine.report(self.text("two"))["generation"]
        place = self.machine.root / "var/lib/fleet/unsettled"
        place.write_text(json.dumps({**json.loads(place.read_text()), "boot": "another"}))
        watcher = subprocess.Popen(
            [*PYTHON, str(HOST / "converge.py"), "watch"],
            env={**os.environ, "FLEET_ROOT": str(self.machine.root)},
        )
        while json.loads(place.read_text())["boot"] == "another":
            time.sleep(0.05)
        self.assertEqual("settled", self.gate(second)[0]["result"])
        self.assertEqual(0, watcher.wait(10))

    def test_after_a_power_cut_before_the_switch_nothing_is_waited_for_and_nothing_restarts(self):
        first = self.first()
        for step in ("drained", "linked", "marked"):
            self.machine.apply(self.text("two", file("/etc/more.conf", "more\n")), FLEET_KILL_AT=step)
            place = self.machine.root / "var/lib/fleet/unsettled"
            place.write_text(json.dumps({**json.loads(place.read_text()), "boot": "another"}))
            self.flag.unlink(missing_ok=True)
            self.machine.calls()
            self.assertEqual(0, self.watch().returncode)
            self.assertEqual((first, "one", False), (self.generation(), self.word(), self.unsettled()))
            self.assertFalse(self.machine.exists("/etc/more.conf"))
            self.assertEqual([], [call for call in self.machine.calls() if "restart" in call])


    def test_what_an_abandoned_change_started_is_stopped_by_whoever_leaves_it(self):
        more = file("/etc/systemd/system/more.service", "[Service]\n"), record("unit", name="more.service")
        one, three = (self.text(word, confirm=1) for word in ("one", "three"))
        for leaves in (
            lambda: self.machine.report(one),  # the operator took it back
            lambda: self.machine.report(three),  # or went on to another change
            self.watch,
            lambda: (self.killed_on_its_way_back(), self.watch()),
        ):
            self.gate(self.machine.report(one)["generation"])
            self.gate(self.machine.report(self.text("two", *more, confirm=1))["generation"], hold=1)
            state = self.machine.root / "units/more.service"
            self.assertEqual("active", state.read_text().strip())
            leaves()
            self.assertEqual("inactive", state.read_text().strip())

    def killed_on_its_way_back(self):
        done = self.machine.run("converge.py", "watch", FLEET_KILL_AT="unlinked")
        self.assertEqual(-signal.SIGKILL, done.returncode)


class Killed(RollingOut):
    def test_a_kill_at_any_step_is_mended_by_the_watcher_alone(self):
        for step in STEPS:
            with self.subTest(step=step):
                self.first("one")
                killed = self.machine.apply(self.text("two", confirm=0), FLEET_KILL_AT=step)
                self.assertEqual(-signal.SIGKILL, killed.returncode)
                self.assertEqual(0, self.watch_all())
                self.assertEqual(("one", False, False), (self.word(), self.unsettled(), self.flag.exists()))

    def watch_all(self):
        return self.machine.run("converge.py", "watch").returncode
