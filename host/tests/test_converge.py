"""Promises of `converge apply`, kept on a directory that stands for a machine. Needs root."""

import json
import os
import signal
import subprocess
import threading
import time
import unittest

from tests.machine import HOST, PYTHON, Machine, bundle, file, record
from tests.stand_ins import fastcgi_server, web_server

STEPS = ["unpacked", "checked", "linked", "marked", "switched", "unlinked", "actions", "units", "probed", "settled"]


def web(text, *more, **unit):
    """A bundle with one file and one service that reads it."""
    return bundle(
        file("/etc/web.conf", text), record("unit", name="web.service", reload=["/etc/web.conf"], **unit), *more
    )


def shell_check(script, **more):
    return record("check", name="sees", argv=["/bin/sh", "-c", script], **more)


class OnAMachine(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def generation(self):
        return os.path.basename(os.readlink(self.machine.root / "var/lib/fleet/current"))

    def failure(self, text, expect=1, **environment):
        """Last message of an apply that must fail."""
        done = self.machine.apply(text, **environment)
        self.assertEqual(expect, done.returncode, done.stderr)
        return done.stderr


class Applying(OnAMachine):
    def test_a_first_apply_makes_every_file_and_starts_the_units(self):
        text = bundle(
            file("/etc/web.conf", "one\n", mode="0640"),
            record("link", path="/etc/wants/web", target="/etc/web.conf"),
            record("unit", name="web.service", reload=["/etc/web.conf"]),
            record("unit", name="site.service", restart=["/etc/web.conf"], start=False),
        )
        report = self.machine.report(text)
        self.assertEqual(("applied", "origin"), (report["result"], report["previous"]))
        self.assertEqual({"web.service": "start"}, report["units"])
        self.assertEqual(["/etc/wants/web", "/etc/web.conf"], report["changed"])
        self.assertEqual("one\n", self.machine.read("/etc/web.conf"))
        self.assertEqual(0o640, (self.machine.root / "etc/web.conf").stat().st_mode & 0o777)
        self.assertEqual(["start web.service"], self.machine.calls())

    def test_a_site_reads_no_units_as_they_tell_what_others_are_given(self):
        unit, other = "/etc/systemd/system/web.service", "/etc/systemd/network/x.network"
        self.machine.report(bundle(file(unit, "Environment=KEY=of-a-neighbour\n"), file(other, "for all\n")))
        self.machine.root.chmod(0o755)
        nobody = ["setpriv", "--reuid=65534", "--clear-groups", "cat"]
        seen = [subprocess.run([*nobody, f"{self.machine.root}{path}"], capture_output=True) for path in (unit, other)]
        self.assertEqual([b"", b"for all\n"], [done.stdout for done in seen], seen)

    def test_nothing_to_change_writes_nothing_and_touches_no_unit(self):
        self.machine.report(web("one\n"))
        self.machine.calls()
        before = self.machine.tree("etc", "var")
        self.assertEqual("unchanged", self.machine.report(web("one\n"))["result"])
        self.assertEqual((before, []), (self.machine.tree("etc", "var"), self.machine.calls()))
        self.machine.report(web("two\n"))
        self.assertNotEqual(before, self.machine.tree("etc", "var"))
        self.assertEqual(["reload web.service"], self.machine.calls())

    def test_a_unit_that_died_is_started_though_no_file_changed(self):
        self.machine.report(web("one\n"))
        self.machine.write("/units/web.service", "failed\n")
        self.assertEqual({"web.service": "start"}, self.machine.report(web("one\n"))["units"])

    def test_a_vanished_path_and_a_vanished_unit_go(self):
        unit = file("/etc/systemd/system/x.service", "[Service]\n")
        self.machine.report(bundle(unit, file("/etc/d/x", "x\n"), record("unit", name="x.service")))
        self.machine.calls()
        report = self.machine.report(bundle(file("/etc/d/y", "y\n")))
        self.assertEqual({"x.service": "stop"}, report["units"])
        self.assertEqual(["stop x.service", "daemon-reload "], self.machine.calls())
        self.assertFalse(self.machine.exists("/etc/d/x"))
        self.assertTrue(self.machine.exists("/etc/d/y"))

    def test_actions_run_in_order_before_units_and_only_for_their_paths(self):
        log = self.machine.root / "calls"
        actions = [
            record("action", name=name, argv=["/bin/sh", "-c", f"echo {name} >> {log}"], paths=[path])
            for name, path in (("first", "/etc/web.conf"), ("second", "/etc/"), ("never", "/etc/other"))
        ]
        self.machine.report(web("one\n", *actions))
        self.assertEqual(["first", "second", "start web.service"], self.machine.calls())

    def test_users_of_the_bundle_are_made_before_files_get_their_owner(self):
        self.machine.report(bundle(file("/etc/sysusers.d/fleet.conf", "u site - -\n")))
        self.assertEqual(["sysusers u site - -"], self.machine.calls())
        self.machine.report(bundle(file("/etc/sysusers.d/fleet.conf", "u site - -\n")))
        self.assertEqual([], self.machine.calls())

    def test_users_of_a_candidate_that_failed_before_are_made_again(self):
        users = file("/etc/sysusers.d/fleet.conf", "u site - -\n")
        self.machine.report(web("one\n"))
        self.machine.calls()
        (self.machine.root / "broken").write_text("web.service\n")
        wanted = web("two\n", users)
        self.machine.report(wanted, expect=1)
        self.assertIn("sysusers u site - -", self.machine.calls())
        (self.machine.root / "broken").unlink()
        self.machine.report(wanted)
        self.assertIn("sysusers u site - -", self.machine.calls())

    def test_an_unknown_owner_is_named_and_nothing_happens(self):
        text = file("/etc/a", "x\n").replace('"owner": "root"', '"owner": "no-such-user"')
        self.assertIn("/etc/a: getpwnam(): name not found: 'no-such-user'", self.failure(bundle(text)))
        self.assertFalse(self.machine.exists("/etc/a"))

    def test_a_file_that_was_there_before_the_fleet_is_kept(self):
        self.machine.write("/etc/web.conf", "distribution\n")
        self.machine.report(web("one\n"))
        self.assertEqual("one\n", self.machine.read("/etc/web.conf"))
        self.assertEqual("distribution\n", self.machine.read("/var/lib/fleet/foreign/etc/web.conf"))

    def test_a_file_that_stays_the_same_keeps_its_time(self):
        unit = file("/etc/systemd/system/web.service", "x\n")
        self.machine.report(web("one\n", unit))
        before = [
            (self.machine.root / name).stat().st_mtime_ns for name in ("etc/systemd/system/web.service", "etc/web.conf")
        ]
        self.machine.report(web("two\n", unit))
        after = [
            (self.machine.root / name).stat().st_mtime_ns for name in ("etc/systemd/system/web.service", "etc/web.conf")
        ]
        self.assertEqual((True, False), (before[0] == after[0], before[1] == after[1]))

    def test_only_a_handful_of_generations_is_kept(self):
        for number in range(9):
            self.machine.report(web(f"{number}\n"))
        kept = os.listdir(self.machine.root / "var/lib/fleet/generations")
        self.assertEqual(7, len(kept))  # five old ones, the live one, the origin
        self.assertIn(self.generation(), kept)

    def test_an_earlier_generation_is_taken_up_again(self):
        first = self.machine.report(web("one\n"))["generation"]
        self.machine.report(web("two\n"))
        report = self.machine.report(web("one\n"))
        self.assertEqual((first, ["/etc/web.conf"]), (report["generation"], report["changed"]))
        self.assertEqual("one\n", self.machine.read("/etc/web.conf"))


class Secrets(OnAMachine):
    DIGEST = "ab" * 32

    def bundle(self):
        return bundle(record("secret", path="/etc/key", mode="0600", owner="root", group="root", digest=self.DIGEST))

    def send(self, content, digest=DIGEST):
        return self.machine.run(
            "converge.py", "secrets", given=record("secret", digest=digest, lines=content.count("\n")) + content
        )

    def test_an_absent_secret_is_named_with_the_remedy_and_a_sent_one_is_used(self):
        said = self.failure(self.bundle())
        self.assertIn("/etc/key: secret abababababab is not here; send it by `converge secrets` first", said)
        self.assertEqual({"secrets": 1, "new": 1}, json.loads(self.send("pass\nword\n").stdout))
        self.machine.report(self.bundle())
        self.assertEqual("pass\nword\n", self.machine.read("/etc/key"))

    def test_a_secret_is_readable_by_root_only_and_said_nowhere(self):
        done = [self.send("canary\n"), self.machine.apply(self.bundle()), self.machine.run("converge.py", "drift")]
        self.machine.write("/etc/key", "canary\nedited\n")
        done += [self.machine.run("converge.py", "drift"), self.machine.apply(self.bundle())]
        for each in done:
            self.assertNotIn("canary", each.stdout + each.stderr)
        store = self.machine.root / "var/lib/fleet/secrets"
        self.assertEqual((0o700, 0o600), (store.stat().st_mode & 0o777, (store / self.DIGEST).stat().st_mode & 0o777))

    def test_a_secret_that_nothing_names_any_more_goes_and_one_that_was_just_sent_waits_for_its_apply(self):
        self.send("one\n")
        self.send("two\n", digest="cd" * 32)
        store = self.machine.root / "var/lib/fleet/secrets"
        self.machine.report(self.bundle())
        self.assertEqual(2, len(os.listdir(store)))
        os.utime(store / ("cd" * 32), (0, 0))
        self.machine.report(self.bundle())
        self.machine.report(bundle(file("/etc/other", "x\n")))
        self.assertNotIn("cd" * 32, os.listdir(store))


class Checking(OnAMachine):
    def test_a_failed_check_leaves_the_old_generation_and_no_trace(self):
        self.machine.report(web("good\n"))
        live = self.generation()
        self.machine.calls()
        checked = shell_check(f"grep good {self.machine.root}/etc/web.conf || {{ echo wrong word; exit 1; }}")
        before = self.machine.tree("etc")
        said = self.failure(web("bad\n", file("/etc/new", "x\n"), checked))
        self.assertRegex(
            said, rf"web1: check sees failed: wrong word; [0-9a-f]{{12}} not activated, {live[:12]} stays live"
        )
        self.assertEqual((live, [], before), (self.generation(), self.machine.calls(), self.machine.tree("etc")))
        self.machine.report(web("good\nmore\n", file("/etc/new", "x\n"), checked))
        self.assertTrue(self.machine.exists("/etc/new"))

    def test_a_failed_first_apply_leaves_the_distributions_file(self):
        self.machine.write("/etc/web.conf", "distribution\n")
        self.failure(web("bad\n", shell_check("exit 1")))
        self.assertEqual("distribution\n", self.machine.read("/etc/web.conf"))
        self.assertFalse((self.machine.root / "etc/web.conf").is_symlink())
        self.machine.report(web("good\n", shell_check("exit 0")))
        self.assertEqual("good\n", self.machine.read("/etc/web.conf"))

    def test_checkers_see_etc_as_it_will_be_while_the_machine_sees_it_as_it_is(self):
        self.machine.report(web("old\n", file("/etc/d/gone", "x\n")))
        root = self.machine.root
        sees = f"cd {root}/etc && grep -q new web.conf && test -f d/added && test ! -L d/gone && test -f hostname"
        outside = (
            f"nsenter --mount=/proc/{os.getpid()}/ns/mnt sh -c 'cd {root}/etc; grep -q old web.conf && test -f d/gone'"
        )
        report = self.machine.report(web("new\n", file("/etc/d/added", "x\n"), shell_check(f"{sees} && {outside}")))
        self.assertEqual("applied", report["result"])
        self.assertIn("check sees failed", self.failure(web("newer\n", shell_check(sees))))

    def test_a_check_runs_as_its_user(self):
        text = web("x\n", shell_check('test "$(id -u):$(id -g):$(id -G)" = 65534:65534:65534', user=65534, group=65534))
        self.machine.report(text)
        self.assertIn("check sees failed", self.failure(text.replace('"user": 65534', '"user": 1')))

    def test_a_check_that_has_paths_runs_when_they_change(self):
        def text(word, other):
            return web(word, file("/etc/other", other), shell_check("exit 1", paths=["/etc/other"]))

        self.machine.report(web("one\n", file("/etc/other", "one\n")))
        self.machine.report(text("two\n", "one\n"))
        self.assertIn("check sees failed", self.failure(text("two\n", "two\n")))

    def test_every_failed_check_is_told(self):
        checks = [record("check", name=name, argv=["/bin/false"]) for name in ("one", "two")]
        said = self.failure(web("x\n", *checks))
        self.assertIn("check one failed: exit status 1\ncheck two failed: exit status 1", said)

    def test_a_directory_in_the_way_is_named(self):
        (self.machine.root / "etc/web.conf").mkdir()
        self.assertIn("/etc/web.conf is a directory on this machine", self.failure(web("x\n")))


class GoingBack(OnAMachine):
    def test_a_unit_that_does_not_restart_takes_everything_back(self):
        units = [record("unit", name=name, restart=["/etc/web.conf"]) for name in ("a.service", "b.service")]
        self.machine.report(bundle(file("/etc/web.conf", "one\n"), *units))
        live = self.generation()
        self.machine.calls()
        self.machine.write("/broken", "c.service\n")
        more = record("unit", name="c.service")
        said = self.failure(bundle(file("/etc/web.conf", "two\n"), file("/etc/new", "x\n"), *units, more))
        self.assertIn("Job for c.service failed.\na line of the journal", said)
        self.assertEqual((live, "one\n"), (self.generation(), self.machine.read("/etc/web.conf")))
        self.assertFalse(self.machine.exists("/etc/new"))
        calls = self.machine.calls()
        self.assertEqual("restart a.service b.service", calls[0])
        self.assertEqual("restart a.service b.service", calls[-1])
        self.assertFalse(self.machine.exists("/var/lib/fleet/unsettled"))

    def test_a_probe_that_fails_takes_everything_back_and_one_that_passes_does_not(self):
        self.machine.report(web("one\n"))
        live = self.generation()
        for word, status in (("two", 1), ("three", 0)):
            probe = record("probe", name="word", kind="exec", within=1, argv=[
                "/bin/sh", "-c", f"grep -q -e one -e three {self.machine.root}/etc/web.conf"])  # fmt: skip
            done = self.machine.apply(web(f"{word}\n", probe))
            self.assertEqual(status, done.returncode, done.stderr)
            result = json.loads(done.stdout)["result"]
            self.assertEqual((result == "reverted", result == "applied"), (status == 1, status == 0))
            self.assertEqual(status == 1, self.generation() == live)
        self.assertEqual(["start", "reload", "reload", "reload"], [call.split()[0] for call in self.machine.calls()])

    def test_a_first_apply_that_is_taken_back_leaves_the_machine_as_it_was(self):
        self.machine.write("/etc/web.conf", "distribution\n")
        self.machine.write("/units/web.service", "active\n")
        failing = record("probe", name="never", kind="exec", within=0, argv=["/bin/false"])
        self.failure(web("one\n", file("/etc/new", "x\n"), record("unit", name="new.service"), failing))
        self.assertEqual("distribution\n", self.machine.read("/etc/web.conf"))
        self.assertFalse((self.machine.root / "etc/web.conf").is_symlink())
        self.assertFalse(self.machine.exists("/etc/new"))
        self.assertEqual(
            ("active\n", "inactive\n"), tuple(self.machine.read(f"/units/{u}.service") for u in ("web", "new"))
        )

    def test_a_failing_probe_of_an_unchanged_bundle_fails_and_changes_nothing(self):
        flag = self.machine.root / "flag"
        flag.touch()
        text = web(
            "one\n", record("probe", name="flag", kind="exec", within=0, argv=["/usr/bin/test", "-e", str(flag)])
        )
        self.machine.report(text)
        self.assertEqual("unchanged", self.machine.report(text)["result"])
        flag.unlink()
        self.machine.calls()
        self.assertIn("probe flag failed", self.failure(text))
        self.assertEqual([], self.machine.calls())

    def test_a_signal_in_the_middle_takes_everything_back(self):
        self.machine.report(web("one\n"))
        slow = record("probe", name="slow", kind="exec", within=30, argv=["/bin/sh", "-c", "sleep 0.3; exit 1"])
        environment = {**os.environ, "FLEET_ROOT": str(self.machine.root)}
        environment["PATH"] = f"{self.machine.root}/bin:{environment['PATH']}"
        slow = slow.replace('"within": 30', '"within": 2')
        child = subprocess.Popen(
            [*PYTHON, str(HOST / "converge.py"), "apply"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        child.stdin.write(web("two\n", slow))
        child.stdin.close()
        while self.machine.read("/etc/web.conf") != "two\n":
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        said = child.stderr.read()
        child.stdout.close()
        child.stderr.close()
        self.assertEqual(1, child.wait())
        self.assertIn("stopped by a signal", said)
        self.assertEqual("one\n", self.machine.read("/etc/web.conf"))


class Killed(OnAMachine):
    def test_a_kill_at_any_step_leaves_old_or_new_whole_and_the_next_apply_finishes(self):
        def text(word):
            unit = file("/etc/systemd/system/web.service", f"# {word}\n")
            extra = file(f"/etc/only-{word}", f"{word}\n")
            return web(f"{word}\n", unit, extra, file("/etc/was-foreign", f"{word}\n") if word == "new" else "")

        for number, step in enumerate(STEPS):
            # on to the new bundle or back to the old one: both where it matters most, else in turn
            for then in ("new", "old") if step in ("linked", "switched", "units") else [("new", "old")[number % 2]]:
                with self.subTest(step=step, then=then):
                    machine = self.machine = Machine()
                    machine.write("/etc/was-foreign", "distribution\n")
                    ids = {"old": machine.report(text("old"))["generation"]}
                    machine.calls()
                    killed = machine.apply(text("new"), FLEET_KILL_AT=step)
                    self.assertEqual(-signal.SIGKILL, killed.returncode)

                    word = machine.read("/etc/web.conf").strip()
                    self.assertEqual(self.generation() == ids["old"], word == "old")
                    self.assertEqual(word == "new", STEPS.index(step) >= STEPS.index("switched"))
                    self.assertEqual(f"# {word}\n", machine.read("/etc/systemd/system/web.service"))
                    self.assertEqual(f"{word}\n", machine.read(f"/etc/only-{word}"))
                    foreign = "distribution\n" if word == "old" else "new\n"
                    self.assertEqual(foreign, machine.read("/etc/was-foreign"))

                    machine.report(text(then))
                    self.assertEqual(f"{then}\n", machine.read("/etc/web.conf"))
                    other = "old" if then == "new" else "new"
                    self.assertFalse(machine.exists(f"/etc/only-{other}"))
                    self.assertEqual("new\n" if then == "new" else "distribution\n", machine.read("/etc/was-foreign"))
                    self.assertFalse(machine.exists("/var/lib/fleet/unsettled"))
                    if then == "new":  # the service has read the new file at least once
                        self.assertIn("reload web.service", machine.calls())
                    self.assertEqual("unchanged", machine.report(text(then))["result"])
                    machine.close()

    def test_a_failure_after_a_kill_goes_back_to_what_was_last_proved(self):
        proved = self.machine.report(web("one\n"))["generation"]
        self.machine.apply(web("two\n"), FLEET_KILL_AT="switched")
        self.assertNotEqual(proved, self.generation())
        failing = record("probe", name="never", kind="exec", within=0, argv=["/bin/false"])
        self.failure(web("three\n", failing))
        self.assertEqual((proved, "one\n"), (self.generation(), self.machine.read("/etc/web.conf")))


class Drift(OnAMachine):
    def drift(self):
        done = self.machine.run("converge.py", "drift")
        return done.returncode, json.loads(done.stdout)["findings"]

    def edits(self):
        self.machine.report(web("one\n", file("/etc/other", "x\n")))
        self.machine.calls()

    def test_no_edit_is_no_difference(self):
        self.edits()
        self.assertEqual((0, []), self.drift())

    def test_an_edit_through_the_link_is_shown_and_put_right_and_its_service_told(self):
        self.edits()
        self.machine.write("/etc/web.conf", "one\nby hand\n")
        before = self.machine.tree("etc", "var")
        diff = "--- /etc/web.conf (fleet)\n+++ /etc/web.conf (here)\n@@ -1 +1,2 @@\n one\n+by hand\n"
        found = [{"kind": "file", "name": "/etc/web.conf", "what": "content", "diff": diff}]
        self.assertEqual((2, found), self.drift())
        self.assertEqual(before, self.machine.tree("etc", "var"))
        report = self.machine.report(web("one\n", file("/etc/other", "x\n")))
        self.assertEqual(1, len(report["drift"]))
        self.assertEqual((["/etc/web.conf"], {"web.service": "reload"}), (report["changed"], report["units"]))
        self.assertEqual("one\n", self.machine.read("/etc/web.conf"))

    def test_a_file_that_replaced_the_link_is_kept_and_put_right(self):
        for text in (web("one\n", file("/etc/other", "x\n")), web("two\n", file("/etc/other", "x\n"))):
            self.edits()
            (self.machine.root / "etc/web.conf").unlink()
            self.machine.write("/etc/web.conf", "by hand\n")
            self.assertIn("+by hand", self.drift()[1][0]["diff"])
            report = self.machine.report(text)
            self.assertEqual(["/etc/web.conf: replaced by another file"], report["drift"])
            self.assertTrue((self.machine.root / "etc/web.conf").is_symlink())
        self.assertEqual("by hand\n", self.machine.read("/var/lib/fleet/foreign/etc/web.conf"))

    def test_a_changed_mode_and_a_removed_link_are_found_and_put_right(self):
        self.edits()
        (self.machine.root / "etc/web.conf").chmod(0o666)
        (self.machine.root / "etc/other").unlink()
        report = self.machine.report(web("one\n", file("/etc/other", "x\n")))
        self.assertEqual(
            ["/etc/other: link removed", "/etc/web.conf: mode 0666 instead of 0644"], sorted(report["drift"])
        )
        self.assertEqual((0, []), self.drift())

    def test_a_spoiled_generation_that_is_not_live_is_made_again(self):
        first = self.machine.report(web("one\n"))["generation"]
        self.machine.report(web("two\n"))
        self.machine.write(f"/var/lib/fleet/generations/{first}/etc/web.conf", "spoiled\n")
        self.machine.report(web("one\n"))
        self.assertEqual("one\n", self.machine.read("/etc/web.conf"))


class Refusing(OnAMachine):
    def first(self):
        """A converge that takes its time, and the file that names it."""
        thread = threading.Thread(target=self.machine.apply, args=[web("one\n", shell_check("sleep 1"))])
        thread.start()
        self.addCleanup(thread.join)
        lock = self.machine.root / "run/fleet/converge.lock"
        while not lock.exists() or "pid" not in lock.read_text():
            time.sleep(0.01)
        return lock.read_text()

    def test_a_second_converge_waits_for_the_first(self):
        holder = self.first()
        done = self.machine.apply(web("two\n"))
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn(f"waiting for another converge: {holder}", done.stderr)
        self.assertEqual("two\n", self.machine.read("/etc/web.conf"))

    def test_one_that_has_waited_long_enough_is_turned_away_with_the_name_of_the_first(self):
        holder = self.first()
        said = self.failure(web("two\n"), expect=2, FLEET_LOCK_SECONDS="0")
        self.assertIn(f"another converge is running: {holder}", said)

    def test_a_bundle_for_another_machine_is_refused(self):
        other = bundle(file("/etc/a", "x\n"), host="web2")
        self.assertIn("the bundle is for web2, this machine's /etc/hostname says web1", self.failure(other, expect=2))
        self.machine.report(bundle(file("/etc/a", "x\n"), host="web1.lab.test"))

    def test_a_wrong_bundle_is_refused_before_anything_is_made(self):
        self.assertIn("the bundle is wrong", self.failure("nonsense\n", expect=2))
        self.assertFalse(self.machine.exists("/var"))


class Probing(OnAMachine):
    def setUp(self):
        super().setUp()
        self.port = web_server(self)

    def probe(self, **fields):
        fields = {"name": "p", "within": 0, **fields}
        return self.machine.apply(bundle(record("probe", **fields)))

    def test_http_asks_for_the_vhost_and_looks_at_status_and_content(self):
        url = f"http://127.0.0.1:{self.port}/x?y=1"
        for status, fields in (
            (0, {"contains": "host site.test path /x?y=1"}),
            (1, {"contains": "something else"}),
            (1, {"status": [302]}),
            (0, {"url": url.replace("/x?y=1", "/missing"), "status": [200, 404]}),
            (1, {"url": url.replace("/x?y=1", "/missing")}),
            (1, {"url": "http://127.0.0.1:1/"}),
        ):
            done = self.probe(kind="http", **{"url": url, "host": "site.test", **fields})
            self.assertEqual(status, done.returncode, (fields, done.stderr))

    def test_tcp_wants_a_listener(self):
        self.assertEqual(0, self.probe(kind="tcp", address="127.0.0.1", port=self.port).returncode)
        self.assertEqual(1, self.probe(kind="tcp", address="127.0.0.1", port=1).returncode)

    def test_fastcgi_asks_the_ping_path_from_the_loopback_address(self):
        asked = {"kind": "fastcgi", "address": "127.0.0.1", "port": fastcgi_server(self)}
        self.assertEqual(0, self.probe(**asked, path="/ping", contains="pong 127.0.0.1").returncode)
        self.assertIn("no answer", self.probe(**asked, path="/other", contains="pong").stderr)

    def test_fastcgi_says_whose_script_it_asks_for(self):
        asked = {"kind": "fastcgi", "address": "127.0.0.1", "port": fastcgi_server(self), "path": "/ping"}
        self.assertEqual(0, self.probe(**asked, site="wiki", contains="site wiki\n").returncode)
        self.assertEqual(1, self.probe(**asked, site="blog", contains="site wiki\n").returncode)

    def test_a_site_that_slept_sleeps_again_when_it_was_proved_and_one_that_ran_runs_on(self):
        for state, expected in (("inactive", ["stop -- a.service"]), ("active", [])):
            self.machine.write("/units/a.service", f"{state}\n")
            self.machine.calls()
            done = self.probe(kind="exec", argv=["/usr/bin/true"], site="a", unit="a.service", children=1)
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertEqual(expected, [call for call in self.machine.calls() if "a.service" in call])

    def test_where_one_fails_its_whole_time_those_that_wait_for_their_turn_are_not_made(self):
        asked = self.machine.root / "asked"
        argv = ["/bin/sh", "-c", f"echo >> {asked}; exit 1"]
        done = self.machine.apply(bundle(*(record("probe", name=f"p{n}", kind="exec", argv=argv, within=1) for n in range(40))))
        told = done.stderr.count(" failed for 1 s: ")
        self.assertEqual((1, True), (done.returncode, 0 < told <= 16), done.stderr)
        self.assertIn(f"{40 - told} probes more were not made", done.stderr)

    def test_a_probe_is_tried_until_its_time_is_over(self):
        flag = self.machine.root / "flag"
        threading.Timer(0.5, flag.touch).start()
        done = self.probe(kind="exec", argv=["/usr/bin/test", "-e", str(flag)], within=10)
        self.assertEqual(0, done.returncode, done.stderr)


if __name__ == "__main__":
    unittest.main()
