"""What a trial tells before a candidate goes live. Small web servers stand for Apache and for real servers."""

import contextlib
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import unittest
from unittest import mock

import trial
from tests.machine import HOST, PYTHON, Machine
from tests.stand_ins import free_port, serve, web_server

# Listens on the trial's port and answers each host as candidate.json says.
APACHE = f"""#!{sys.executable}
import http.server, json, ssl, sys
statuses = json.load(open("ROOT/candidate.json"))
if statuses is None:
    sys.exit("AH00558: no such directive")
class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, location, body = statuses[self.headers["Host"]]
        self.send_response(status)
        self.send_header("Location", location) if location else None
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Site)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("ROOT/pair.pem")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""
KEEPALIVED = """vrrp_instance fleet {{
    virtual_ipaddress {{
        169.254.77.51/32 dev lo
    }}
    virtual_ipaddress_excluded {{
        {vip}/32 dev eth0
    }}
}}

virtual_server_group web {{
    10.77.0.100 {port80}
}}

virtual_server group web {{
    delay_loop {delay}
    lvs_method {method}

    real_server {server} {{
        weight {new}
        HTTP_GET {{
            url {{
                path {path}
                status_code 200
            }}
            connect_port {port}
        }}
    }}
}}
"""


class Trial(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def run_trial(self, *words, changed=()):
        done = self.machine.run("trial.py", *words, given="\n".join(changed))
        return done.returncode, done.stderr.strip()


class Sites(Trial):
    def setUp(self):
        super().setUp()
        self.pair = str(self.machine.root / "pair.pem")
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        subprocess.run([*new, "-subj", "/CN=x", "-keyout", self.pair, "-out", self.pair], check=True, capture_output=True)
        statuses = self.live = {}

        class Site(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(statuses[self.headers["Host"]])
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pair)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.ports = str(serve(self, server)), str(free_port())
        self.machine.program("apache2", APACHE.replace("ROOT", str(self.machine.root)).replace("PORT", self.ports[1]))

    def ask(self, now, then, *changed):
        changed = changed or ["/etc/apache2/fleet.conf"]
        self.live.update({f"{name}.test": status for name, status in now.items()})
        self.machine.write("/etc/fleet/sites.json", json.dumps({name: f"{name}.test" for name in now}))
        pages = {name: page if isinstance(page, tuple) else (page, "", "") for name, page in (then or {}).items()}
        candidate = {f"{name}.test": page for name, page in pages.items()} if then is not None else None
        self.machine.write("/candidate.json", json.dumps(candidate))
        return self.run_trial("sites", *self.ports, changed=changed)

    def test_a_site_that_works_must_work_then(self):
        self.assertEqual((0, ""), self.ask({"a": 200, "b": 302}, {"a": 301, "b": 401}))
        for status in (503, 404, 403):
            code, said = self.ask({"a": 200, "b": 200}, {"a": status, "b": 200})
            self.assertEqual((1, f"a (a.test) answers 200 now, and would answer {status}"), (code, said))

    def test_a_page_that_sends_back_to_itself_or_shows_its_php_does_not_work(self):
        self.assertEqual(0, self.ask({"a": 200}, {"a": (301, "https://a.test/start", "")})[0])
        for other in ("https://www.a.test/", "https://a.test/?lang=en", "https://[/"):
            self.assertEqual(0, self.ask({"a": 200}, {"a": (301, other, "")})[0])
        code, said = self.ask({"a": 200}, {"a": (301, "https://a.test/", "")})
        self.assertEqual((1, "a (a.test) answers 200 now, and would answer 301 to https://a.test/"), (code, said))
        code, said = self.ask({"a": 200}, {"a": (200, "", "<?php $password = 1;")})
        self.assertEqual((1, "a (a.test) answers 200 now, and would answer 200 with PHP source"), (code, said))

    def test_a_site_that_does_not_work_now_cannot_get_worse(self):
        self.assertEqual((0, ""), self.ask({"a": 503, "b": 404, "c": 403}, {"a": 500, "b": 503, "c": 403}))

    def test_sites_whose_vhost_changes_are_asked_and_no_others(self):
        now, then = {"a": 200, "b": 200}, {"a": 200, "b": 503}
        self.assertEqual(0, self.ask(now, then, "/etc/fleet/vhosts/a.conf")[0])
        self.assertEqual(1, self.ask(now, then, "/etc/fleet/vhosts/b.conf")[0])
        for wide in ("/etc/apache2/fleet.conf", "/etc/fleet/tls/default.crt"):
            self.assertEqual(1, self.ask(now, then, wide, "/etc/fleet/vhosts/a.conf")[0])
        self.assertEqual((0, ""), self.ask(now, None, "/etc/fleet/vhosts/gone.conf"), "nobody is asked, and nothing started")

    def test_the_candidates_apache_ends_with_its_trial_however_that_ends(self):
        self.live["a.test"] = 200
        self.machine.write("/etc/fleet/sites.json", json.dumps({"a": "a.test"}))
        self.machine.write("/candidate.json", json.dumps({"a.test": [503, "", ""]}))
        words = [*PYTHON, str(HOST / "trial.py"), "sites", *self.ports]
        environment = {**os.environ, "FLEET_ROOT": str(self.machine.root), "PATH": f"{self.machine.root}/bin:{os.environ['PATH']}"}
        with subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, text=True) as child:
            child.stdin.write("/etc/apache2/fleet.conf")
            child.stdin.close()
            self.until(lambda: trial.listens(int(self.ports[1])))
            child.kill()
        self.until(lambda: not trial.listens(int(self.ports[1])))

    def until(self, condition):
        limit = time.monotonic() + 10
        while not condition():
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.05)

    def test_an_apache_that_does_not_start_is_told_with_its_own_words(self):
        code, said = self.ask({"a": 200}, None)
        self.assertEqual((1, "Apache does not start: AH00558: no such directive"), (code, said))

    def test_a_port_that_is_taken_by_somebody_else_is_told(self):
        self.machine.write("/etc/fleet/sites.json", "{}")
        taken = str(web_server(self))
        with mock.patch.object(trial, "START_SECONDS", 0), self.assertRaisesRegex(SystemExit, f"port {taken}.* is taken"):
            with trial.candidate(int(taken)):
                pass

    def test_where_there_are_many_sites_twenty_are_asked_the_changed_ones_first(self):
        hosts = {f"{n:03}": "" for n in range(300)}
        every = {f"/etc/fleet/vhosts/{name}.conf" for name in hosts}
        self.assertEqual(["007"], trial.chosen(hosts, {"/etc/fleet/vhosts/007.conf"}))
        both = trial.chosen(hosts, {"/etc/fleet/vhosts/007.conf", "/etc/apache2/fleet.conf"})
        self.assertEqual(("007", 20, 20), (both[0], len(both), len(set(both))))
        self.assertEqual(20, len(set(trial.chosen(hosts, every))))
        self.assertEqual([], trial.chosen({}, {"/etc/apache2/fleet.conf"}))

    def test_a_page_that_comes_in_drops_takes_no_longer_than_its_time(self):
        class Drips(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b".")
                    time.sleep(0.1)

            def handle_one_request(self):
                with contextlib.suppress(OSError):
                    super().handle_one_request()

            def log_message(self, *_):
                pass

        port = serve(self, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drips))
        begun = time.monotonic()
        self.assertEqual(200, trial.probes.http_answer(f"http://127.0.0.1:{port}/", "", 0.5)[0])
        self.assertLess(time.monotonic() - begun, 2)


class Servers(Trial):
    def ask(self, path, weight, port, **candidate):
        right = {"vip": "10.77.0.100", "port80": 80, "method": "DR", "server": "127.0.0.1", "new": 1, "delay": 1}
        self.machine.write("/etc/keepalived/fleet.conf", KEEPALIVED.format(path=path, port=port, **{**right, **candidate}))
        wanted = {"vips": ["10.77.0.100"], "services": {"10.77.0.100:80": ["127.0.0.1"]}}
        self.machine.write("/etc/fleet/balancing.json", json.dumps(wanted))
        self.balanced(weight)
        return self.run_trial("servers")

    def balanced(self, weight):
        entry = f"  -> 7F000001:0050      Route   {weight}      0          0\n"
        self.machine.write("/proc/net/ip_vs", f"TCP  0A4D0064:0050 mh\n{entry}")

    def test_a_check_that_would_take_a_serving_server_away_is_told(self):
        port = web_server(self)
        self.assertEqual((0, ""), self.ask("/ready", 1, port))
        code, said = self.ask("/missing", 1, port)
        wanted = f"127.0.0.1 takes requests now, and its new check (/missing, port {port}) fails: status 404, expected [200]"
        self.assertEqual((1, wanted), (code, said))
        self.assertIn("Connection refused", self.ask("/ready", 1, free_port())[1])

    def test_a_server_that_leaves_the_balancing_while_it_is_asked_is_no_fault_of_the_check(self):
        port = web_server(self)
        leaving = threading.Timer(8, self.balanced, [0])
        leaving.start()
        self.addCleanup(leaving.join)
        self.assertEqual((0, ""), self.ask("/missing", 1, port, delay=5))

    def test_a_candidate_that_balances_less_than_it_should_is_told(self):
        port = web_server(self)
        lost = "10.77.0.100:80 would not be balanced to 127.0.0.1"
        for wrong in ({"port80": 81}, {"method": "NAT"}, {"server": "127.0.0.2"}, {"new": 0}):
            code, said = self.ask("/ready", 1, port, **wrong)
            self.assertEqual((1, lost), (code, said), wrong)
        self.assertEqual((1, "nobody would hold 10.77.0.100"), self.ask("/ready", 1, port, vip="10.77.0.9"))

    def test_a_server_that_takes_no_requests_is_not_asked_nor_any_before_the_first_balancing(self):
        self.assertEqual((0, ""), self.ask("/missing", 0, free_port()))
        (self.machine.root / "proc/net/ip_vs").unlink()
        self.assertEqual((0, ""), self.run_trial("servers"))

    def test_the_pattern_reads_every_real_server_of_the_template(self):
        text = (HOST.parent / "tests/golden/lb1.bundle").read_text()
        self.assertEqual(text.count("real_server"), len(trial.REAL_SERVER.findall(text)))
        self.assertEqual(text.count("delay_loop"), len(trial.DELAY.findall(text)))
        wanted = text.partition('"/etc/fleet/balancing.json"')[2].partition("\n")[2].partition("\n@")[0]
        self.assertEqual([], trial.lacking(text, json.loads(wanted)))


if __name__ == "__main__":
    unittest.main()
