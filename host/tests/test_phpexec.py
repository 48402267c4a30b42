"""Promises of phpexec, with a systemd-run that notes what it is asked for and runs the command."""

import fcntl
import json
import os
import signal
import subprocess
import unittest
from http.server import HTTPServer

from .machine import HOST, PYTHON, Machine
from .stand_ins import Answers, serve

# Keeps what it was asked for in <root>/asked, the words apart; $$ becomes $ as systemd has it. How a unit ends
# is in <root>/result, for where its ExecStopPost puts it.
SYSTEMD_RUN = r"""#!/bin/bash
here=${0%/*}
printf '%s\0' "$@" >> "$here/../asked"
while [ "$1" != -- ]; do
    case $1 in --property=ExecStopPost=*) note=${1##* > } ;; esac
    shift
done
shift
[ ! -f "$here/../result" ] || cp "$here/../result" "${note%\'}"
exec "${@//\$\$/$}"
"""
# Stands for PHP: says its words one a line, and does what the site's script is called.
PHP = """#!/bin/bash
printf '%s\\n' "$@"
case $1 in
*/fails.php) exit 7 ;;
*/reads.php) cat ;;
*/sleeps.php) exec sleep 60 ;;
esac
"""


class OnAVm(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        for name, text in (("systemd-run", SYSTEMD_RUN), ("php", PHP)):
            self.machine.program(name, text)
        for site in ("wiki", "blog"):
            order = {"php": "8.2.32", "command": [str(self.machine.root / "bin/php")], "atOnce": 2}
            order["properties"] = ["User=20002", "CapabilityBoundingSet="]
            self.machine.write(f"/etc/fleet/scripts/{site}.json", json.dumps(order))

    def run_script(self, *words, **more):
        return self.machine.run("phpexec.py", *words, **more)

    def asked(self):
        place = self.machine.root / "asked"
        return place.read_text().split("\0")[:-1] if place.exists() else []

    def start(self, *words):
        environment = {
            **os.environ, "FLEET_ROOT": str(self.machine.root), "PATH": f"{self.machine.root}/bin:{os.environ['PATH']}",
        }  # fmt: skip
        child = subprocess.Popen(
            [*PYTHON, str(HOST / "phpexec.py"), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.addCleanup(child.stderr.close)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def running(self, *words):
        """A script that goes on, from when it has said its first word."""
        child = self.start(*words)
        self.assertIn(words[1], child.stdout.readline())
        return child

    def test_a_script_runs_in_the_sites_box_under_a_name_of_its_own(self):
        done = self.run_script("wiki", "bin/say.php")
        self.assertEqual((0, "/srv/sites/wiki/bin/say.php\n", ""), (done.returncode, done.stdout, done.stderr))
        asked = self.asked()
        self.assertIn("--property=User=20002", asked)
        self.assertIn("--property=CapabilityBoundingSet=", asked)
        [unit] = [word for word in asked if word.startswith("--unit=")]
        self.assertRegex(unit, r"^--unit=fleet-exec-wiki-[0-9a-f]{8}\.service$")
        self.run_script("wiki", "bin/say.php")
        self.assertEqual(2, len({word for word in self.asked() if word.startswith("--unit=")}))

    def test_arguments_arrive_as_they_are(self):
        words = ["--help", "a b", "$HOME", "${HOME}", "$$", "100%", 'a"b', "a'b", "`id`", "\\n", "", "two\nlines", "-"]
        done = self.run_script("wiki", "say.php", *words)
        self.assertEqual("\n".join(["/srv/sites/wiki/say.php", *words, ""]), done.stdout)

    def test_the_exit_status_is_the_scripts(self):
        self.assertEqual(7, self.run_script("wiki", "fails.php").returncode)
        self.assertEqual(0, self.run_script("wiki", "works.php").returncode)

    def test_standard_input_is_the_scripts(self):
        done = self.run_script("wiki", "reads.php", given="one\ntwo\n")
        self.assertEqual("/srv/sites/wiki/reads.php\none\ntwo\n", done.stdout)

    def test_what_ended_a_script_that_did_not_end_by_itself_is_told_and_is_a_failure(self):
        self.machine.write("result", "oom-kill killed KILL\n")
        self.assertRegex(
            self.run_script("wiki", "fails.php").stderr, "ended: oom-kill KILL; journalctl -u fleet-exec-wiki-"
        )
        self.machine.write("result", "success killed TERM\n")
        self.assertEqual(255, self.run_script("wiki", "works.php").returncode)
        self.machine.write("result", "success exited 0\n")
        done = self.run_script("wiki", "works.php")
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        self.assertEqual({"0", "1"}, set(os.listdir(self.machine.root / "run/fleet/scripts")))

    def test_a_script_of_another_site_or_outside_of_the_tree_is_refused_before_anything_runs(self):
        for script in (
            "/srv/sites/blog/say.php",
            "../blog/say.php",
            "a/../../blog/x.php",
            "/etc/passwd",
            ".",
            "",
            "/srv/sites/wiki",
            "/srv/sites/wikis/x",
        ):
            done = self.run_script("wiki", script)
            self.assertEqual((2, ""), (done.returncode, done.stdout), script)
            self.assertIn("allowed: a path below /srv/sites/wiki", done.stderr)
        self.assertEqual([], self.asked())

    def test_a_script_of_the_site_runs_by_its_path_from_the_tree_or_from_the_root(self):
        for script in ("a/b.php", "/srv/sites/wiki/a/b.php", "./a//b.php", "a/..b.php"):
            self.assertEqual(0, self.run_script("wiki", script).returncode, script)

    def application(self):
        order = json.loads(self.machine.read("/etc/fleet/scripts/blog.json"))
        self.machine.write("/etc/fleet/scripts/blog.json", json.dumps({**order, "tree": "/opt/code/blog-0a1b"}))
        self.machine.write("/opt/code/blog-0a1c/.fleet-artefact", "")

    def test_scripts_of_an_application_are_those_of_its_code_or_of_another_that_is_installed(self):
        self.application()
        self.assertEqual("/opt/code/blog-0a1b/cli/up.php\n", self.run_script("blog", "cli/up.php").stdout)
        self.assertEqual("/opt/code/blog-0a1c/cli/up.php\n", self.run_script("--tree", "blog-0a1c", "blog", "cli/up.php").stdout)
        self.assertEqual("/srv/sites/wiki/cli/up.php\n", self.run_script("wiki", "cli/up.php").stdout)
        self.machine.write("/etc/fleet/health.json", json.dumps({"listen": "127.0.0.1", "port": 9}))
        self.assertEqual({"blog": "blog-0a1b"}, json.loads(self.run_script("--sites").stdout)["code"])

    def test_code_that_is_not_the_applications_or_not_here_is_refused(self):
        self.application()
        self.machine.write("/opt/code/wiki-0a1c/.fleet-artefact", "")
        for site, name in (("blog", "blog-0a1d"), ("blog", "wiki-0a1c"), ("blog", "blog-0a1c/.."), ("wiki", "wiki-0a1c")):
            done = self.run_script("--tree", name, site, "cli/up.php")
            self.assertEqual(2, done.returncode, name)
            self.assertIn(f"is no code of {site}", done.stderr)
        self.assertEqual([], self.asked())

    def test_a_site_that_is_not_here_is_refused_with_those_that_are(self):
        for site in ("shop", "../wiki", "wiki.json", ""):
            done = self.run_script(site, "say.php")
            self.assertEqual(2, done.returncode)
            self.assertIn("there are: blog, wiki", done.stderr)
        self.assertEqual([], self.asked())

    def stopped(self):
        """The units that were stopped."""
        return [line.split()[-1] for line in self.machine.calls() if line.startswith("stop -- ")]

    def unit(self):
        return next(word.removeprefix("--unit=") for word in self.asked() if word.startswith("--unit="))

    def test_a_script_whose_reader_went_away_is_stopped(self):
        child = self.running("wiki", "sleeps.php")
        child.stdout.close()
        self.assertEqual(1, child.wait(10))
        self.assertEqual([self.unit()], self.stopped())

    def test_a_script_whose_phpexec_gets_a_signal_is_stopped(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            (self.machine.root / "asked").unlink(missing_ok=True)
            child = self.running("wiki", "sleeps.php")
            child.send_signal(number)
            self.assertEqual(128 + number, child.wait(10))
            self.assertEqual([self.unit()], self.stopped())

    def test_a_script_that_ends_by_itself_is_not_stopped(self):
        self.run_script("wiki", "say.php")
        self.assertEqual([], self.stopped())

    def test_no_more_scripts_run_at_once_than_may_and_the_one_that_waits_is_told(self):
        first, _ = self.running("wiki", "sleeps.php"), self.running("blog", "sleeps.php")
        third = self.start("wiki", "say.php")
        self.assertIn("2 scripts run on", third.stderr.readline())
        with self.assertRaises(subprocess.TimeoutExpired):
            third.wait(0.5)
        first.terminate()
        self.assertEqual(0, third.wait(10))
        self.assertEqual("/srv/sites/wiki/say.php\n", third.stdout.read())

    def test_one_that_waits_and_whose_reader_goes_away_runs_nothing(self):
        held = [os.open(self.machine.root / f"run/fleet/scripts/{n}", os.O_CREAT | os.O_RDWR) for n in self.slots()]
        for handle in held:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self.addCleanup(os.close, handle)
        child = self.start("wiki", "say.php")
        child.stderr.readline()
        child.stdout.close()
        self.assertEqual(1, child.wait(10))
        self.assertEqual([], self.asked())

    def slots(self):
        (self.machine.root / "run/fleet/scripts").mkdir(parents=True)
        return range(2)

    def test_the_sites_and_whether_the_machine_is_in_its_services_are_told_as_json(self):
        def said():
            return json.loads(self.run_script("--sites").stdout)

        self.machine.write("/etc/fleet/health.json", json.dumps({"listen": "127.0.0.1", "port": 9}))
        self.assertEqual({"ready": False, "sites": {"blog": "8.2.32", "wiki": "8.2.32"}, "code": {}}, said())
        port = serve(self, HTTPServer(("127.0.0.1", 0), Answers))
        self.machine.write("/etc/fleet/health.json", json.dumps({"listen": "127.0.0.1", "port": port}))
        self.assertTrue(said()["ready"])


if __name__ == "__main__":
    unittest.main()
