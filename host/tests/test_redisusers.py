"""Promises of the users of a Redis server: of a real one where there is one, and of a stand-in."""

import hashlib
import json
import shutil
import socket
import socketserver
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from tests.machine import Machine
from tests.stand_ins import free_port, serve

ADMIN = "the administrator's"
COMMANDS = ["+get", "+set", "+setex", "+del", "+exists", "+expire", "+eval", "+evalsha"]
RELEASE = 'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end'


def digest(password):
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def user(site, *passwords):
    return {"passwords": [digest(p) for p in passwords], "rules": [f"~{site}:*", "-@all", *COMMANDS]}


class Denied(Exception):
    """The error that a server answers with."""


class Client:
    """Asks a server; an error is raised."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.stream = self.socket.makefile("rb")

    def __call__(self, *words):
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words))
        self.socket.sendall(b"*%d\r\n%s" % (len(words), parts))
        return read(self.stream)

    def close(self):
        self.stream.close()
        self.socket.close()


def read(stream):
    """One value of RESP 2."""
    line = stream.readline()
    if not line:
        raise EOFError
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise Denied(text)
    if kind == b"*":
        return [read(stream) for _ in range(int(text))]
    if kind == b"$":
        return None if text == "-1" else stream.read(int(text) + 2)[:-2].decode()
    return text


class StandIn(socketserver.StreamRequestHandler):
    """Users as Redis 7 tells them, and nothing else. `server.refuses` holds an error by command."""

    def handle(self):
        try:
            while True:
                words = read(self.rfile)
                self.server.asked.append(words)
                self.wfile.write(self.say(words))
        except (EOFError, ConnectionError):
            pass

    def say(self, words):
        users, command = self.server.users, " ".join(words[:2] if words[0] in ("ACL", "CONFIG") else words[:1])
        if command in self.server.refuses:
            return f"-{self.server.refuses[command]}\r\n".encode()
        if command == "AUTH" and digest(words[-1]) not in users["default"] and "nopass" not in users["default"]:
            return b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        if command == "ACL LIST":
            lines = [f"user {name} {' '.join(rules)}".encode() for name, rules in users.items()]
            return b"*%d\r\n" % len(lines) + b"".join(b"$%d\r\n%s\r\n" % (len(line), line) for line in lines)
        if command == "ACL SETUSER":
            _, _, name, _, *rules = words
            at = rules.index("-@all")
            # The server has its own order of commands and adds words of its own.
            commands = sorted(rules[at + 1 :])
            users[name] = [rules[0], "sanitize-payload", *rules[1:at], "resetchannels", "-@all", *commands]
        if command == "ACL DELUSER":
            for name in words[2:]:
                del users[name]
        if command in ("ACL SAVE", "CONFIG REWRITE"):
            self.server.kept = {name: [*rules] for name, rules in users.items()}
        return b"+OK\r\n"


class Told(unittest.TestCase):
    """Tells a server what users there are; its default user has the password ADMIN."""

    port = 0

    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def tell(self, users, *, settle=False, stack="prod", expect=0, **more):
        order = {"stack": stack, "address": "127.0.0.1", "port": self.port, "password": ADMIN}
        order |= {
            "prefix": f"fleet:{stack}:",
            "users": {f"fleet:{stack}:{n}": u for n, u in users.items()},
            "settle": settle,
        }
        done = self.machine.run("redisusers.py", given=json.dumps(order | more))
        self.assertEqual(expect, done.returncode, done.stderr)
        if expect:
            return done.stderr
        report = json.loads(done.stdout)
        return {kind: [name.removeprefix(f"fleet:{stack}:") for name in names] for kind, names in report.items()}


class OnAnyServer:
    """`users` are the rules of each user, `kept` those that a restart would find, `edit` makes one by hand."""

    def test_users_are_made_once_and_the_second_run_changes_nothing(self):
        wanted = {"wiki": user("wiki", "a"), "blog": user("blog", "b")}
        self.assertEqual({"made": ["blog", "wiki"], "changed": [], "removed": [], "unchanged": []}, self.tell(wanted))
        before = self.users()
        for settle in (False, True):
            self.assertEqual(
                {"made": [], "changed": [], "removed": [], "unchanged": ["blog", "wiki"]},
                self.tell(wanted, settle=settle),
            )
        self.assertEqual(before, self.users())

    def test_a_change_by_hand_is_put_right_and_no_other_user_is_touched(self):
        wanted = {"wiki": user("wiki", "a"), "blog": user("blog", "b")}
        self.tell(wanted)
        before = self.users()
        self.edit("fleet:prod:wiki", "on", digest("a"), "~*", "-@all", "+get")
        self.assertNotEqual(before, self.users())
        self.assertEqual({"made": [], "changed": ["wiki"], "removed": [], "unchanged": ["blog"]}, self.tell(wanted))
        self.assertEqual(before, self.users())

    def test_a_removed_sites_user_goes_when_its_change_is_settled_and_not_before(self):
        self.tell({"wiki": user("wiki", "a"), "blog": user("blog", "b")})
        self.assertEqual([], self.tell({"wiki": user("wiki", "a")})["removed"])
        self.assertIn("fleet:prod:blog", self.users())
        self.assertEqual(["blog"], self.tell({"wiki": user("wiki", "a")}, settle=True)["removed"])
        self.assertNotIn("fleet:prod:blog", self.users())

    def test_users_of_another_stack_and_of_other_people_stay(self):
        self.edit("somebody", "on", digest("x"), "~x", "-@all", "+get")
        self.tell({"wiki": user("wiki", "a")}, stack="prod-2")
        self.tell({"wiki": user("wiki", "b")})
        self.assertEqual(["wiki"], self.tell({}, settle=True)["removed"])
        self.assertEqual({"default", "somebody", "fleet:prod-2:wiki"}, set(self.users()))

    def test_a_new_password_works_beside_the_old_one_until_the_change_is_settled(self):
        self.tell({"wiki": user("wiki", "old")})
        self.assertEqual(["wiki"], self.tell({"wiki": user("wiki", "new")})["changed"])
        self.assertLessEqual({digest("old"), digest("new")}, self.users()["fleet:prod:wiki"])
        self.assertEqual(["wiki"], self.tell({"wiki": user("wiki", "new")}, settle=True)["changed"])
        self.assertNotIn(digest("old"), self.users()["fleet:prod:wiki"])
        self.assertIn(digest("new"), self.users()["fleet:prod:wiki"])

    def test_what_was_made_is_kept_for_the_servers_next_start(self):
        self.tell({"wiki": user("wiki", "a")})
        self.assertIn("fleet:prod:wiki", self.kept())
        self.tell({}, settle=True)
        self.assertNotIn("fleet:prod:wiki", self.kept())

    def test_a_wrong_password_is_told_by_the_name_of_its_secret_and_never_shown(self):
        said = self.tell({"wiki": user("wiki", "a")}, password="no such password", expect=1)
        self.assertIn("Pulumi.prod.secrets.yaml: redisPassword is refused", said)
        self.assertNotIn("no such password", said)
        self.assertEqual({"default"}, set(self.users()))


class OnAStandIn(OnAnyServer, Told):
    def setUp(self):
        super().setUp()
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), StandIn)
        self.server.daemon_threads = True
        self.server.users = {"default": ["on", digest(ADMIN), "~*", "&*", "+@all"]}
        self.server.refuses, self.server.asked, self.server.kept = {}, [], {}
        self.port = serve(self, self.server)

    def users(self):
        return {name: set(rules) for name, rules in self.server.users.items()}

    def kept(self):
        return self.server.kept

    def edit(self, name, *rules):
        self.server.users[name] = [*rules]

    def test_a_user_that_would_be_forgotten_is_not_made(self):
        self.server.refuses = {
            "ACL SAVE": "ERR This Redis instance is not configured to use an ACL file.",
            "CONFIG REWRITE": "ERR The server is running without a config file",
        }
        said = self.tell({"wiki": user("wiki", "a")}, expect=1)
        self.assertIn(
            'Pulumi.prod.yaml: fleet:redis.users is "each"; allowed: each, with a server that keeps its users', said
        )
        self.assertIn("without a config file", said)
        self.assertEqual({"default"}, set(self.users()))
        # Where one of the two ways is open, it is made.
        del self.server.refuses["CONFIG REWRITE"]
        self.tell({"wiki": user("wiki", "a")})
        self.assertIn("fleet:prod:wiki", self.kept())

    def test_a_file_of_users_that_cannot_be_written_is_not_made_good_in_another_place(self):
        self.server.refuses = {"ACL SAVE": "ERR There was an error trying to save the ACLs."}
        self.assertIn("error trying to save", self.tell({"wiki": user("wiki", "a")}, expect=1))
        self.assertNotIn(["CONFIG", "REWRITE"], self.server.asked)

    def test_what_a_run_that_was_killed_has_not_kept_the_next_one_keeps(self):
        self.tell({"wiki": user("wiki", "a")})
        self.server.kept = {}
        self.assertEqual(["wiki"], self.tell({"wiki": user("wiki", "a")})["unchanged"])
        self.assertIn("fleet:prod:wiki", self.kept())

    def test_a_server_without_users_is_refused_with_the_remedy(self):
        self.server.refuses = {"AUTH": "ERR wrong number of arguments for 'auth' command"}
        said = self.tell({"wiki": user("wiki", "a")}, expect=1)
        self.assertIn("Redis 6 or later", said)
        self.assertIn("write `users: one`", said)

    def test_a_server_that_lets_everybody_in_is_refused(self):
        self.server.users["default"] = ["on", "nopass", "~*", "&*", "+@all"]
        self.assertIn("whose default user has a password", self.tell({"wiki": user("wiki", "a")}, expect=1))
        self.assertEqual({"default"}, set(self.users()))

    def test_an_administrator_who_may_not_manage_users_is_told(self):
        self.server.refuses = {"ACL LIST": "NOPERM this user has no permissions to run the 'acl|list' command"}
        said = self.tell({"wiki": user("wiki", "a")}, expect=1)
        self.assertIn("a server whose default user may manage users (NOPERM", said)

    def test_a_server_that_is_not_there_is_named(self):
        self.port = free_port()
        said = self.tell({"wiki": user("wiki", "a")}, expect=1)
        self.assertIn(f'Pulumi.prod.yaml: fleet:redis.address is "127.0.0.1:{self.port}"', said)


@unittest.skipUnless(shutil.which("redis-server"), "no redis-server on this computer")
class OnARealServer(OnAnyServer, Told):
    def setUp(self):
        super().setUp()
        self.place = Path(tempfile.mkdtemp(prefix="fleet-redis-"))
        self.addCleanup(shutil.rmtree, self.place)
        (self.place / "users.acl").write_text(f"user default on {digest(ADMIN)} ~* &* +@all\n")
        self.start("--aclfile", str(self.place / "users.acl"))

    def start(self, *words):
        """A server with these words before those that every one has; the tests' own from here on."""
        self.port = free_port()
        words += ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.place), "--save", "")
        process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.1)
        self.fail("redis-server does not start")

    def client(self, *login):
        client = Client(self.port)
        self.addCleanup(client.close)
        client("AUTH", *login)
        return client

    def users(self):
        lines = [line.split() for line in self.client("default", ADMIN)("ACL", "LIST")]
        return {name: set(rules) for _, name, *rules in lines}

    def kept(self):
        return [line.split()[1] for line in (self.place / "users.acl").read_text().splitlines()]

    def edit(self, name, *rules):
        self.client("default", ADMIN)("ACL", "SETUSER", name, "reset", *rules)

    def test_a_user_does_what_phps_session_handler_does_with_its_own_keys(self):
        self.tell({"wiki": user("wiki", "a")})
        ask = self.client("fleet:prod:wiki", "a")
        self.assertEqual("OK", ask("SET", "wiki:1_LOCK", "web1|7", "NX", "PX", "30000"))
        self.assertEqual("OK", ask("SETEX", "wiki:1", "1440", "a session"))
        self.assertEqual("a session", ask("GET", "wiki:1"))
        self.assertEqual(["1", "1"], [ask("EXISTS", "wiki:1"), ask("EXPIRE", "wiki:1", "1440")])
        with self.assertRaisesRegex(Denied, "NOSCRIPT"):
            ask("EVALSHA", hashlib.sha1(RELEASE.encode()).hexdigest(), "1", "wiki:1_LOCK", "web1|7")
        self.assertEqual("1", ask("EVAL", RELEASE, "1", "wiki:1_LOCK", "web1|7"))
        self.assertEqual("0", ask("EVALSHA", hashlib.sha1(RELEASE.encode()).hexdigest(), "1", "wiki:1_LOCK", "web1|7"))
        self.assertEqual("1", ask("DEL", "wiki:1"))

    def test_and_nothing_else(self):
        self.tell({"wiki": user("wiki", "a"), "blog": user("blog", "b")})
        self.client("fleet:prod:blog", "b")("SETEX", "blog:1", "1440", "a secret")
        attacks = [
            ["GET", "blog:1"], ["SET", "blog:1", "x"], ["DEL", "blog:1"], ["KEYS", "*"], ["SCAN", "0"], ["RANDOMKEY"], ["DBSIZE"],
            ["FLUSHALL"], ["CONFIG", "GET", "*"], ["ACL", "LIST"], ["ACL", "SETUSER", "fleet:prod:wiki", "~*"], ["MONITOR"],
            ["CLIENT", "LIST"], ["SCRIPT", "FLUSH"], ["SUBSCRIBE", "x"], ["SELECT", "1"], ["INFO"], ["DUMP", "blog:1"], ["SAVE"],
            ["EVAL", "return redis.call('get', 'blog:1')", "0"], ["EVAL", "return redis.call('get', KEYS[1])", "1", "blog:1"],
            ["EVAL", "return redis.call('keys', '*')", "0"], ["EVAL", "return redis.call('acl', 'setuser', 'fleet:prod:wiki', '~*')", "0"],
        ]  # fmt: skip
        ask = self.client("fleet:prod:wiki", "a")
        for words in attacks:
            with (
                self.subTest(words),
                self.assertRaisesRegex(Denied, "NOPERM|can't (access|run)|not allowed from script"),
            ):
                ask(*words)
        # As the one user that all would share, all of it goes.
        for words in (["GET", "blog:1"], ["KEYS", "*"], ["EVAL", "return redis.call('get', 'blog:1')", "0"]):
            self.assertTrue(self.client("default", ADMIN)(*words))

    def test_an_old_password_ends_with_the_settling_and_who_is_logged_in_stays(self):
        self.tell({"wiki": user("wiki", "old")})
        logged_in = self.client("fleet:prod:wiki", "old")
        self.tell({"wiki": user("wiki", "new")})
        self.client("fleet:prod:wiki", "old")
        self.client("fleet:prod:wiki", "new")
        self.tell({"wiki": user("wiki", "new")}, settle=True)
        self.assertEqual("OK", logged_in("SET", "wiki:1", "x"))
        with self.assertRaisesRegex(Denied, "WRONGPASS"):
            self.client("fleet:prod:wiki", "old")

    def test_a_server_that_speaks_tls_is_told_by_its_authority_and_its_name(self):
        names = "subjectAltName=DNS:redis.university.example"
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=redis", "-addext", names]
        certificate, key, port = self.place / "redis.crt", self.place / "redis.key", free_port()
        subprocess.run(["openssl", *words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
        self.start("--aclfile", str(self.place / "users.acl"), *tls, "--tls-ca-cert-file", str(certificate))
        authority = certificate.read_text()
        wanted, right = {"wiki": user("wiki", "a")}, {"authority": authority, "name": "redis.university.example"}
        self.assertEqual(["wiki"], self.tell(wanted, port=port, tls=right)["made"])
        for wrong in ({"authority": authority}, {"name": "redis.university.example"}, {**right, "name": "other.example"}):
            self.assertIn("certificate verify failed", self.tell(wanted, port=port, tls=wrong, expect=1))

    def test_a_server_whose_default_user_is_open_in_spite_of_requirepass_is_refused(self):
        (self.place / "empty.acl").touch()
        self.start("--requirepass", ADMIN, "--aclfile", str(self.place / "empty.acl"))
        self.assertIn("the server ignores requirepass", self.tell({"wiki": user("wiki", "a")}, expect=1))

    def test_a_server_that_keeps_nothing_is_refused_and_one_with_a_configuration_file_is_not(self):
        self.start("--requirepass", ADMIN)
        self.assertIn("without a config file", self.tell({"wiki": user("wiki", "a")}, expect=1))
        self.assertEqual({"default"}, set(self.users()))
        (self.place / "redis.conf").write_text(f'requirepass "{ADMIN}"\n')
        self.start(str(self.place / "redis.conf"))
        self.tell({"wiki": user("wiki", "a")})
        self.assertIn("user fleet:prod:wiki on", (self.place / "redis.conf").read_text())


if __name__ == "__main__":
    unittest.main()
