"""What a bundle says, and what follows from it: decisions only, no machine."""

import unittest

import bundle as reading
import plan
from tests.machine import bundle, file, record


def parse(text):
    return reading.parse(text.encode())


def unit(name, **fields):
    return record("unit", name=name, **fields)


class Reading(unittest.TestCase):
    def test_a_right_bundle_is_read_whole(self):
        read = parse(
            bundle(
                file("/etc/a", "one\ntwo\n"),
                record("secret", path="/etc/key", mode="0640", owner=0, group="root", digest="ab" * 16),
                record("link", path="/etc/l", target="/etc/a"),
                record("check", name="c", argv=["/bin/true"]),
                record("action", name="a", argv=["/bin/true"], paths=["/etc/a"]),
                unit("x.service", restart=["/etc/a"]),
                record("probe", name="p", kind="tcp", address="127.0.0.1", port=80),
            )
        )
        self.assertEqual(["/etc/a", "/etc/key", "/etc/l"], list(read.entries))
        self.assertEqual(b"one\ntwo\n", read.entries["/etc/a"]["content"])
        self.assertEqual([True], [item["start"] for item in read.units])
        self.assertEqual([20], [item["within"] for item in read.probes])

    def test_a_line_of_content_that_looks_like_a_record_is_content(self):
        read = parse(bundle(file("/etc/a", "@unit {}\n"), unit("x.service")))
        self.assertEqual(b"@unit {}\n", read.entries["/etc/a"]["content"])
        self.assertEqual(["x.service"], [item["name"] for item in read.units])

    def test_all_mistakes_are_told_at_once(self):
        text = bundle(
            file("/etc/../root/x", "x\n"),
            file("/etc/a", "x\n", mode="644"),
            file("/etc/a", "y\n"),
            file("/etc/a/b", "y\n"),
            record("link", path="/etc/l", target="a"),
            record("check", name="c", argv=["true"]),
            unit("x", reload="/etc/a"),
            unit("y"),
            record("probe", name="p", kind="http"),
            record("probe", name="q", kind="ping"),
            record("secret", path="/etc/s", mode="0600", owner="root", group="root", digest="short", extra=1),
        )
        with self.assertRaises(reading.Refused) as refused:
            parse(text)
        for part in (
            "'/etc/../root/x' must be a plain path below /etc/",
            "mode '644' must be four octal digits",
            "/etc/a is given twice",
            "/etc/a/b: /etc/a is a file of this bundle",
            "target 'a' must be an absolute path",
            "argv must begin with the absolute path",
            "reload: must be list",
            "'y' is not the name of a unit",
            "'p': a probe of this kind needs url",
            "'q': kind must be one of http, tcp, fastcgi, exec",
            "unknown field 'extra'",
        ):
            self.assertIn(part, str(refused.exception))

    def test_a_bundle_that_was_cut_short_is_refused(self):
        whole = bundle(file("/etc/a", "one\ntwo\n"), unit("x.service"))
        parse(whole)
        for cut in (whole[:-1], whole[: whole.index("two")], ""):
            with self.assertRaises(reading.Refused):
                parse(cut)

    def test_the_generation_is_named_by_every_byte(self):
        self.assertNotEqual(parse(bundle(file("/etc/a", "1\n"))).id, parse(bundle(file("/etc/a", "2\n"))).id)
        self.assertEqual(parse(bundle(file("/etc/a", "1\n"))).id, parse(bundle(file("/etc/a", "1\n"))).id)


class Consequences(unittest.TestCase):
    def plan(self, old, new, changed, **states):
        named = {name.replace("_", "."): state for name, state in states.items()}
        return plan.plan_units(parse(bundle(*old)), parse(bundle(*new)), set(changed), named)

    def test_a_unit_is_touched_only_for_its_own_paths(self):
        units = [unit("a.service", reload=["/etc/a/"], restart=["/etc/a.unit"]), unit("b.service", restart=["/etc/b"])]
        running = {"a_service": "active", "b_service": "active"}
        self.assertEqual({}, self.plan(units, units, [], **running))
        self.assertEqual({}, self.plan(units, units, ["/etc/ab"], **running))
        self.assertEqual({"a.service": "reload"}, self.plan(units, units, ["/etc/a/x"], **running))
        self.assertEqual({"a.service": "restart"}, self.plan(units, units, ["/etc/a/x", "/etc/a.unit"], **running))
        self.assertEqual({"b.service": "restart"}, self.plan(units, units, ["/etc/b"], **running))

    def test_a_unit_that_does_not_run_is_started_unless_something_else_starts_it(self):
        wanted = [unit("a.service", restart=["/etc/a"])]
        asleep = [unit("a.service", restart=["/etc/a"], start=False)]
        for state in ("inactive", "failed", "activating"):
            self.assertEqual({"a.service": "start"}, self.plan([], wanted, ["/etc/a"], a_service=state))
        for state, action in (("inactive", {}), ("failed", {}), ("active", {"a.service": "restart"})):
            self.assertEqual(action, self.plan([], asleep, ["/etc/a"], a_service=state))

    def test_a_service_that_its_socket_is_just_starting_has_read_the_old_files(self):
        asleep = [unit("a.service", restart=["/etc/a"], start=False)]
        self.assertEqual({"a.service": "restart"}, self.plan(asleep, asleep, ["/etc/a"], a_service="activating"))
        self.assertEqual({}, self.plan(asleep, asleep, ["/etc/b"], a_service="activating"))

    def test_a_unit_of_ours_that_vanished_is_stopped_and_one_of_the_distribution_is_not(self):
        ours = [file("/etc/systemd/system/a.service", "x\n"), file("/etc/systemd/system/t@.service", "x\n")]
        old = [*ours, unit("a.service"), unit("t@1.service"), unit("ssh.service", reload=["/etc/ssh/x"])]
        running = {"a_service": "active", "t@1_service": "active", "ssh_service": "active"}
        self.assertEqual(
            {"a.service": "stop", "t@1.service": "stop", "ssh.service": "reload"},
            self.plan(old, [], ["/etc/ssh/x"], **running),
        )
        self.assertEqual(
            {}, self.plan(old, [], [], a_service="inactive", ssh_service="active", **{"t@1_service": "failed"})
        )

    def test_a_changed_socket_closes_in_one_call_with_its_service_which_it_would_wake_otherwise(self):
        units = [
            unit("s.socket", restart=["/etc/s.socket"]),
            unit("s.service", restart=["/etc/s.service"], start=False),
        ]
        planned = self.plan(units, units, ["/etc/s.socket"], s_socket="active", s_service="active")
        self.assertEqual(
            [["systemctl", "stop", "s.socket", "s.service"], ["systemctl", "restart", "s.socket"]],
            plan.unit_commands(planned, {"/etc/s.socket"}),
        )
        planned = self.plan(units, units, ["/etc/s.service"], s_socket="active", s_service="active")
        self.assertEqual([["systemctl", "restart", "s.service"]], plan.unit_commands(planned, {"/etc/s.service"}))
        planned = self.plan(units, units, ["/etc/s.socket"], s_socket="active", s_service="inactive")
        self.assertNotIn("s.service", planned)
        self.assertEqual(["systemctl", "stop", "s.socket", "s.service"], plan.unit_commands(planned, {"/etc/s.socket"})[0])

    def test_calls_of_one_kind_are_one_call_and_reload_of_systemd_comes_once_before_them(self):
        planned = {
            "a.service": "restart",
            "b.service": "restart",
            "c.service": "reload",
            "d.service": "start",
            "e.service": "stop",
        }
        self.assertEqual(
            [
                ["systemctl", "stop", "e.service"],
                ["systemctl", "daemon-reload"],
                ["systemctl", "restart", "a.service", "b.service"],
                ["systemctl", "reload", "c.service"],
                ["systemctl", "start", "d.service"],
            ],
            plan.unit_commands(planned, {"/etc/systemd/system/a.service"}),
        )
        self.assertEqual(
            [["systemctl", "reload", "c.service"]], plan.unit_commands({"c.service": "reload"}, {"/etc/c"})
        )
        self.assertEqual([], plan.unit_commands({}, {"/etc/c"}))

    def test_content_mode_owner_and_target_all_count_as_change(self):
        old = {"/a": {"mode": "0644", "uid": 0, "sha256": "x"}, "/l": {"target": "/a"}, "/same": {"target": "/a"}}
        new = {
            "/a": {"mode": "0600", "uid": 0, "sha256": "x"},
            "/l": {"target": "/b"},
            "/same": {"target": "/a"},
            "/n": {},
        }
        self.assertEqual({"/a", "/l", "/n"}, plan.changed_paths(old, new))


if __name__ == "__main__":
    unittest.main()
