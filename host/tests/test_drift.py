"""What `drift` finds on a machine: every kind of edit by hand, and nothing where there is none."""

import hashlib
import json
import os
import sys
import time
import types
import unittest

from .machine import HOST, Machine, bundle, file, record

sys.path.insert(0, str(HOST))
import drift

SHOWN = "LoadState=loaded\nFragmentPath={0}/{1}\nDropInPaths=\nNeedDaemonReload=no\n"
OWN, DEBIAN = "/etc/systemd/system", "/lib/systemd/system"
MOUNT = "[Mount]\nWhat=nas:/x\nWhere=/srv\nType=nfs4\nOptions=hard,nosuid,ro,bg\n"
VIPS = "[Service]\nExecStart=-ip link add fleet0 type dummy\nExecStart=ip address replace 10.0.0.1/32 dev fleet0\n"
ACCOUNT = "fleet-site-a:x:20001:20001:Site a:/srv/a:/usr/sbin/nologin\n"
GROUPS = "sudo:x:27:admin\nfleet-site-a:x:20001:\n"
TABLE = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A000001:0050 mh
  -> 0A000002:0000      Route   1      2          7
  -> 0A000003:0000      Route   1      0          0
"""
RULES = """-A -t 10.0.0.1:80 -s mh -b mh-fallback,mh-port
-a -t 10.0.0.1:80 -r 10.0.0.2:0 -g -w 1
-a -t 10.0.0.1:80 -r 10.0.0.3:0 -g -w 1
"""


class OnAMachine(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        unit = record("unit", name="web.service") + record("unit", name="asleep.service", start=False)
        files = [
            file("/etc/fleet/a.conf", "one\n"), file("/etc/fleet/scripts/wiki.json", "{}\n"), file("/etc/sysctl.d/60-fleet.conf", "net.a.b = 1 2\n"),
            file(f"{OWN}/web.service", "[Service]\nExecStart=/opt/php/8.2-ab/sbin/php-fpm\n"),
            file(f"{OWN}/watch.service", "[Service]\n"), file(f"{OWN}/fleet-vip.service", VIPS),
            file(f"{OWN}/srv.mount", MOUNT), file("/etc/sysusers.d/x.conf", 'u fleet-site-a 20001 "Site a" /srv/a\n'),
        ]  # fmt: skip
        self.machine.write("/proc/sys/net/a/b", "1\t2\n")
        self.machine.write("/etc/sysctl.d/README.sysctl", "net.a.b = 3\n")
        self.machine.write("/etc/sysctl.conf", "# net.a.b = 3\nnet.a.b=1 2\nnet.a.c=1\n")
        (self.machine.root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
        self.machine.write("/etc/passwd", f"root:x:0:0::/root:/bin/sh\n{ACCOUNT}")
        self.machine.write("/etc/group", GROUPS)
        for name in ("web.service", "watch.service", "fleet-vip.service", "srv.mount"):
            self.machine.write(f"/units/{name}.shown", SHOWN.format(OWN, name))
        for name in ("asleep.service", "ssh.service"):
            self.machine.write(f"/units/{name}.shown", SHOWN.format(DEBIAN, name))
        self.mounted()
        self.addressed("10.0.0.1")
        self.machine.write("/opt/php/8.2-ab/sbin/php-fpm", "machine code\n")
        drift.seal(str(self.machine.root / "opt/php/8.2-ab"))
        self.machine.report(bundle(*files, unit))

    def mounted(self, *more, **changed):
        root = {"target": "/", "source": "/dev/vda", "fstype": "ext4", "options": "rw", "label": None}
        seen = {"source": "nas:/x", "fstype": "nfs4", "options": "ro,nosuid,relatime,hard,vers=4.2", "label": None}
        text = json.dumps({"filesystems": [root, {"target": "/srv", **seen, **changed}, *({**seen, **each} for each in more)]})
        self.machine.program("findmnt", f"#!/bin/sh\necho '{text}'\n")

    def addressed(self, *addresses):
        text = json.dumps([{"addr_info": [{"local": address, "prefixlen": 32} for address in addresses]}])
        self.machine.program("ip", f"#!/bin/sh\necho '{text}'\n")

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

    def test_a_link_to_a_directory_among_managed_files_is_found(self):
        (self.machine.root / "etc/fleet/more").symlink_to("/tmp")
        self.assertEqual([("file", "/etc/fleet/more", "not from the fleet")], self.found())

    def test_an_unfinished_file_is_a_converges_at_work_and_found_when_it_is_left_lying(self):
        self.machine.write("/etc/fleet/.b.fleet-part", "")
        self.assertEqual([], self.found())
        old = time.time() - 3600
        os.utime(self.machine.root / "etc/fleet/.b.fleet-part", (old, old))
        self.assertEqual([("file", "/etc/fleet/.b.fleet-part", "not from the fleet")], self.found())

    def test_an_edit_that_the_manifest_or_the_bundle_was_made_to_agree_with_is_found(self):
        name = os.path.basename(os.readlink(self.machine.root / "var/lib/fleet/current"))
        place = f"/var/lib/fleet/generations/{name}"

        def replace(path, old, new):
            text = self.machine.read(f"{place}/{path}")
            self.assertIn(old, text)
            self.machine.write(f"{place}/{path}", text.replace(old, new))

        replace("etc/fleet/a.conf", "one", "two")
        replace("manifest.json", *(hashlib.sha256(text).hexdigest() for text in (b"one\n", b"two\n")))
        forged = ("file", "/etc/fleet/a.conf", "content, and the manifest was made to agree")
        self.assertEqual([forged], self.found())
        replace("bundle", "\none\n", "\ntwo\n")
        edited = ("generation", name[:12], "its bundle was edited")
        self.assertEqual([edited], self.found())
        replace("etc/fleet/a.conf", "two", "three")
        self.machine.write(f"{place}/bundle", bundle())
        self.assertIn(edited, self.found())

    def test_a_unit_that_was_stopped_or_failed_is_found_and_one_that_sleeps_is_not(self):
        self.machine.write("/units/web.service", "inactive\n")
        self.assertEqual([("unit", "web.service", "is inactive, should run")], self.found())
        self.machine.write("/units/web.service", "active\n")
        self.machine.write("/units/asleep.service", "failed\n")
        self.assertEqual([("unit", "asleep.service", "is failed, should run")], self.found())

    def test_a_unit_that_was_masked_replaced_changed_by_a_drop_in_or_not_read_again_is_found(self):
        place, text = "/units/web.service.shown", SHOWN.format(OWN, "web.service")
        drop_in = "/etc/systemd/system/web.service.d/x.conf"
        for old, new, what in (
            ("loaded", "masked", "masked"),
            ("/etc/systemd", "/run/systemd", "is read from /run/systemd/system/web.service instead of /etc/systemd/system/web.service"),
            ("DropInPaths=", f"DropInPaths=/run/systemd/generator/web.service.d/x.conf {drop_in}", f"{drop_in} changes it"),
            ("Reload=no", "Reload=yes", "its file has changed since systemd read it"),
        ):  # fmt: skip
            self.machine.write(place, text.replace(old, new))
            self.assertEqual([("unit", "web.service", what)], self.found())

    def test_the_watcher_and_ssh_need_not_run_but_are_found_when_masked_or_changed(self):
        for name, directory in (("watch.service", OWN), ("ssh.service", DEBIAN)):
            place, text = f"/units/{name}.shown", SHOWN.format(directory, name)
            self.machine.write(place, text.replace("DropInPaths=", f"DropInPaths=/usr/lib/x.conf {OWN}/{name}.d/x.conf"))
            self.assertEqual([("unit", name, f"{OWN}/{name}.d/x.conf changes it")], self.found())
            self.machine.write(place, text.replace("loaded", "masked"))
            self.assertEqual([("unit", name, "masked")], self.found())
            self.machine.write(place, text)
            self.machine.write(f"/units/{name}", "failed\n")
            self.assertEqual([], self.found())

    def test_a_unit_of_the_distributions_that_was_replaced_is_found(self):
        for name in ("ssh.service", "asleep.service"):
            self.machine.write(f"/units/{name}.shown", SHOWN.format(OWN, name))
            what = f"is read from {OWN}/{name} instead of the distribution's file"
            self.assertEqual([("unit", name, what)], self.found())
            self.machine.write(f"/units/{name}.shown", SHOWN.format(DEBIAN, name))

    def test_a_unit_of_the_fleets_that_the_machine_should_not_run_is_found(self):
        self.machine.write("/units/running", "fleet-old.service loaded active running Old\n")
        self.assertEqual([("unit", "fleet-old.service", "runs, but is not the fleet's")], self.found())

    def test_a_script_that_phpexec_runs_is_no_finding_and_whatever_else_is_called_so_is(self):
        others = ["fleet-exec-shop-0a1b2c3d.service", "fleet-exec-wiki.service", "fleet-exec-wiki-0a1b2c3d.socket"]
        names = ["fleet-exec-wiki-0a1b2c3d.service", *others]
        self.machine.write("/units/running", "".join(f"{name} loaded active running x\n" for name in names))
        self.assertEqual(others, [name for _, name, _ in self.found()])

    def test_a_kernel_parameter_set_by_hand_is_found(self):
        self.machine.write("/proc/sys/net/a/b", "1\t3\n")
        self.assertEqual([("sysctl", "net.a.b", "is 1 3, should be 1 2")], self.found())

    def test_another_file_that_sets_a_kernel_parameter_of_the_fleets_is_found_once_and_only_if_it_sets_another_value(self):
        what = "sets net.a.b to 3, the fleet to 1 2"
        for path, line in (("/etc/sysctl.conf", "-net.a.b=3"), ("/etc/sysctl.d/x.conf", "net/a/b = 3"), ("/run/sysctl.d/x.conf", "net.a.b=3")):
            self.machine.write(path, f"net.a.b = 9\n{line}\n")
            self.assertEqual([("sysctl", path, what)], self.found())
            self.machine.write(path, "net.a.b = 1  2\nnet.a.c = 3\n; net.a.b = 3\n")
            self.assertEqual([], self.found())

    def test_a_mount_that_is_gone_or_another_or_has_lost_an_option_is_found(self):
        self.mounted(options="rw,nosuid,hard")
        self.assertEqual([("mount", "/srv", "lacks ro")], self.found())
        self.mounted(source="other:/x")
        self.assertEqual([("mount", "/srv", "is nfs4 other:/x, should be nfs4 nas:/x")], self.found())
        self.mounted(target="/elsewhere")
        self.assertEqual([("mount", "/srv", "is not mounted")], self.found())

    def test_a_file_system_over_a_mount_or_below_it_is_found_and_one_that_the_nas_has_there_is_not(self):
        self.mounted({"target": "/srv", "source": "tmpfs"})
        self.assertEqual([("mount", "/srv", "is hidden by tmpfs")], self.found())
        self.mounted({"target": "/srv/a", "source": "nas:/x/a"}, {"target": "/srvs", "source": "tmpfs"})
        self.assertEqual([], self.found())
        self.mounted({"target": "/srv/a", "source": "nas:/x/a"}, {"target": "/srv/a", "source": "tmpfs"})
        self.assertEqual([("mount", "/srv/a", "tmpfs hides a part of /srv")], self.found())
        self.mounted({"target": "/srv/b", "source": "nas:/x/a"})
        self.assertEqual([("mount", "/srv/b", "nas:/x/a hides a part of /srv")], self.found())

    def test_a_virtual_address_that_was_taken_away_or_added_is_found(self):
        self.addressed("10.0.0.2")
        wrong = [("address", "10.0.0.1/32", "missing"), ("address", "10.0.0.2/32", "not from the fleet")]
        self.assertEqual(wrong, self.found())
        self.machine.program("ip", "#!/bin/sh\nexit 1\n")  # there is no such device
        self.assertEqual(wrong[:1], self.found())

    def test_a_sites_user_that_was_changed_or_put_into_another_group_is_found(self):
        for users, groups, what in (
            (ACCOUNT.replace("x:20001", "x:0"), GROUPS, "uid is 0, should be 20001"),
            (ACCOUNT.replace(":20001:Site", ":27:Site"), GROUPS, "gid is 27, should be 20001"),
            (ACCOUNT.replace("/srv/a", "/root"), GROUPS, "home is /root, should be /srv/a"),
            (ACCOUNT.replace("/usr/sbin/nologin", "/bin/sh"), GROUPS, "shell is /bin/sh, should be /usr/sbin/nologin"),
            (ACCOUNT, GROUPS.replace("admin", "admin,fleet-site-a"), "is in group sudo"),
            ("", GROUPS, "missing"),
        ):
            self.machine.write("/etc/passwd", users)
            self.machine.write("/etc/group", groups)
            self.assertEqual([("account", "fleet-site-a", what)], self.found())

    def test_a_php_build_that_is_gone_is_found(self):
        (self.machine.root / "opt/php/8.2-ab").rename(self.machine.root / "opt/php/.8.2-ab")
        self.assertEqual([("artefact", "/opt/php/8.2-ab", "missing")], self.found())

    def test_a_change_of_a_php_build_or_of_a_program_is_found(self):
        for directory, kind in (("opt/php/8.3-cd", "artefact"), ("usr/local/lib/fleet", "program")):
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
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        for module, name, value in (
            (drift, "SETTLE_SECONDS", 0), (drift.ipvs, "ROOT", str(self.machine.root)), (drift, "command", lambda *_: self.rules),
        ):  # fmt: skip
            self.addCleanup(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

    def found(self, table=TABLE, rules=RULES, ready=False, scheduler="mh -b mh-fallback,mh-port", live=("a",)):
        self.machine.write("/proc/net/ip_vs", table)
        self.rules = rules

        class Bundle:
            services = ({"name": "10.0.0.1:80", "scheduler": scheduler, "servers": ["10.0.0.2", "10.0.0.3"]},)
            rollout = {}

        return [(each["name"], each["what"]) for each in drift.balanced(Bundle, lambda *_: ready, lambda _: live)]

    def test_virtual_addresses_that_no_director_holds_or_two_do_are_found(self):
        self.assertEqual([("virtual addresses", "held by no director, should be by one")], self.found(live=()))
        self.assertEqual([("virtual addresses", "held by a and b, should be by one")], self.found(live=("a", "b")))

    def test_a_server_that_is_out_of_many_services_is_asked_once(self):
        lines = "".join(f"TCP  0A000001:{port:04X} mh\n  -> 0A000003:{port:04X}      Route   0      0          0\n" for port in range(100))
        self.machine.write("/proc/net/ip_vs", lines)
        services = [{"name": f"10.0.0.1:{port}", "scheduler": "", "servers": ["10.0.0.3"]} for port in range(100)]
        bundle, asked = types.SimpleNamespace(services=services, rollout={}), []
        self.rules = ""
        self.assertEqual([], drift.balanced(bundle, lambda _, server: asked.append(server), lambda _: ["a"]))
        self.assertEqual(["10.0.0.3"], asked)

    def test_the_table_that_the_fleet_wants_is_no_difference(self):
        self.assertEqual([], self.found())

    def test_a_service_or_server_taken_out_or_added_by_hand_is_found(self):
        self.assertEqual([("10.0.0.1:80", "missing")], self.found(""))
        gone = self.found(TABLE.replace("  -> 0A000003:0000      Route   1      0          0\n", ""))
        self.assertEqual([("10.0.0.1:80 10.0.0.3", "missing")], gone)
        added = self.found(f"{TABLE}  -> 0A000004:0000      Route   1      0          0\n")
        self.assertEqual([("10.0.0.1:80 10.0.0.4", "not from the fleet")], added)

    def test_a_service_of_any_protocol_that_is_not_the_fleets_is_found_and_its_servers_are_its_own(self):
        server = "  -> 0A000004:0000      Route   1      0          0\n"
        for line, name in (
            ("TCP  0A000001:0051 wlc", "10.0.0.1:81"), ("UDP  0A000001:0050 wlc ops", "UDP 10.0.0.1:80"),
            ("FWM  00000010 wlc persistent 300 FFFFFFFF", "FWM 16"), ("TCP  [fd00::1]:0050 wlc", "[fd00::1]:80"),
        ):  # fmt: skip
            self.assertEqual([(name, "not from the fleet")], self.found(f"{TABLE}{line}\n{server}"))

    def test_another_scheduler_or_flag_or_persistence_is_found(self):
        for how in ("wlc", "mh", "mh -b mh-port", "mh -p 300 -b mh-fallback,mh-port"):
            wrong = f"is spread by {how}, should be mh -b mh-fallback,mh-port"
            rules = RULES.replace("mh -b mh-fallback,mh-port", how)
            self.assertEqual([("10.0.0.1:80", wrong)], self.found(rules=rules))
            self.assertEqual([], self.found(rules=rules, scheduler=""))  # a generation from before it was said

    def test_a_weight_set_by_hand_is_found_and_one_that_health_set_is_not(self):
        def weight(number):
            return TABLE.replace("Route   1      0", f"Route   {number}      0")

        self.assertEqual([("10.0.0.1:80 10.0.0.3", "weight is 7, should be 1")], self.found(weight(7)))
        self.assertEqual([], self.found(weight(0)))
        by_hand = self.found(weight(0), ready=True)
        self.assertEqual([("10.0.0.1:80 10.0.0.3", "weight is 0, though the server is ready")], by_hand)


class Nas(unittest.TestCase):
    """`status` of a NAS VM tells of its snapshots, room and quotas."""

    def test_it_asks_the_program_of_the_live_generation(self):
        machine = Machine()
        self.addCleanup(machine.close)
        machine.report(bundle(file("/etc/fleet/lib/snapshots.py", "print('{\"free\": 1}')\n")))
        self.assertEqual({"free": 1}, json.loads(machine.run("converge.py", "status").stdout)["nas"])
        machine.report(bundle(file("/etc/fleet/lib/snapshots.py", "raise SystemExit(1)\n")))
        self.assertIsNone(json.loads(machine.run("converge.py", "status").stdout)["nas"])
        machine.report(bundle())
        self.assertNotIn("nas", json.loads(machine.run("converge.py", "status").stdout))


class Cron(unittest.TestCase):
    """`status` tells what became of the cron entries."""

    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.units = ["fleet-cron-big-wiki-tidy.service", "fleet-cron-wiki-tidy.service"]
        files = [file(f"{OWN}/{name}", "[Service]\n") for name in self.units]
        self.machine.report(bundle(*files, file(f"{OWN}/fleet-cron-wiki-tidy.timer", "[Timer]\n")))

    def said(self, result, status, ended, active="inactive"):
        self.machine.write(f"/units/{self.units[1]}", f"{active}\n")
        shown = f"Result={result}\nExecMainStatus={status}\nInactiveEnterTimestamp={ended}\n"
        self.machine.write(f"/units/{self.units[1]}.shown", shown)
        self.machine.write(f"/units/{self.units[0]}.shown", "Result=success\nExecMainStatus=0\nInactiveEnterTimestamp=\n")
        other, run = json.loads(self.machine.run("converge.py", "status").stdout)["cron"]
        self.assertEqual({"site": "big-wiki", "entry": "tidy", "running": False}, other)
        self.assertEqual(("wiki", "tidy"), (run.pop("site"), run.pop("entry")))
        return run

    def test_a_run_is_told_with_its_end_and_its_result(self):
        ran = {"running": False, "ended": 1795547885}
        self.assertEqual({**ran, "result": "success", "exit": 0}, self.said("success", 0, "@1795547885"))
        self.assertEqual({**ran, "result": "exit-code", "exit": 4}, self.said("exit-code", 4, "@1795547885", "failed"))
        self.assertEqual({**ran, "result": "timeout", "exit": 15}, self.said("timeout", 15, "@1795547885", "failed"))

    def test_a_run_that_another_machine_made_is_no_run_here(self):
        self.assertEqual({"running": False}, self.said("exec-condition", 0, "@1795547885"))

    def test_an_entry_that_runs_now_is_told(self):
        self.assertTrue(self.said("success", 0, "", "activating")["running"])

    def test_a_cron_run_that_failed_is_no_edit_by_hand(self):
        self.said("exit-code", 4, "@1795547885", "failed")
        for name in [*self.units, "fleet-cron-wiki-tidy.timer", "ssh.service"]:
            place = DEBIAN if name == "ssh.service" else OWN
            self.machine.write(f"/units/{name}.shown", SHOWN.format(place, name))
        self.assertEqual([], json.loads(self.machine.run("converge.py", "drift").stdout)["findings"])


if __name__ == "__main__":
    unittest.main()
