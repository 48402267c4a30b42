"""Promises of the sorry page."""

import asyncio
import http.client
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

import sorry
from tests.stand_ins import free_port

PAGE = b"<p>Not now.</p>\n"


class Answering(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cert, key = (str(Path(folder.name) / name) for name in ("crt", "key"))
        words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=site.test", "-days", "2"]
        subprocess.run(["openssl", "req", "-x509", *words, "-keyout", key, "-out", cert], check=True, capture_output=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        cls.plain, cls.secure = free_port(), free_port()
        loop = asyncio.new_event_loop()
        threading.Thread(target=cls.serve, args=(loop, {cls.plain: None, cls.secure: context}), daemon=True).start()
        for _ in range(100):
            try:
                return socket.create_connection(("127.0.0.1", cls.secure), 1).close()
            except OSError:
                time.sleep(0.05)
        raise AssertionError("it does not listen")

    @staticmethod
    def serve(loop, doors):
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(sorry.run(PAGE, doors))

    def ask(self, connection, method="GET", path="/any?page=1", body=None):
        connection.request(method, path, body, {"Host": "site.test"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, text

    def http(self):
        return http.client.HTTPConnection("127.0.0.1", self.plain, timeout=5)

    def test_every_request_gets_503_with_the_time_to_come_again_and_the_page_by_http_and_https(self):
        https = http.client.HTTPSConnection("127.0.0.1", self.secure, timeout=5, context=ssl._create_unverified_context())
        for connection in (self.http(), https):
            status, headers, text = self.ask(connection)
            self.assertEqual((503, "30", "no-store", PAGE), (status, headers["Retry-After"], headers["Cache-Control"], text))

    def test_head_gets_no_body(self):
        self.assertEqual((503, b""), self.ask(self.http(), "HEAD")[::2])

    def test_an_upload_gets_its_answer_instead_of_a_reset(self):
        self.assertEqual((503, PAGE), self.ask(self.http(), "POST", "/", b"x" * 4_000_000)[::2])

    def test_a_head_without_end_is_answered_too(self):
        with socket.create_connection(("127.0.0.1", self.plain), 5) as client:
            client.sendall(b"GET / HTTP/1.1\r\nCookie: " + b"x" * 2 * sorry.MOST_BYTES)
            self.assertTrue(client.recv(64).startswith(b"HTTP/1.1 503 "))

    def test_who_says_nothing_costs_the_others_nothing(self):
        silent = [socket.create_connection(("127.0.0.1", port), 5) for port in (self.plain, self.secure) for _ in range(50)]
        begun = time.monotonic()
        self.assertEqual(503, self.ask(self.http())[0])
        self.assertLess(time.monotonic() - begun, 2)
        for each in silent:
            each.close()

    def test_who_says_nothing_is_let_go(self):
        with mock.patch.object(sorry, "ASK_SECONDS", 0.3), socket.create_connection(("127.0.0.1", self.plain), 5) as client:
            self.assertEqual(b"", client.recv(1))


if __name__ == "__main__":
    unittest.main()
