"""Small servers that stand for Apache and PHP-FPM."""

import http.server
import socket
import socketserver
import struct
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers in one call, and logs nothing."""

    def say(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Answers(Handler):
    """Says which host and path it was asked for; /missing is 404."""

    def do_GET(self):
        self.say(404 if self.path == "/missing" else 200, f"host {self.headers['Host']} path {self.path}")


class Ping(socketserver.BaseRequestHandler):
    """Answers "pong <peer>", the site and how many have asked to a FastCGI request for /ping; anything else gets no answer."""

    def handle(self):
        asked = b""
        while not asked.endswith(struct.pack("!BBHHBB", 1, 5, 1, 0, 0, 0)):  # the empty body ends the request
            asked += self.request.recv(4096)
        if b"/ping" in asked:
            self.server.connections += 1
            site = asked.partition(b"FLEET_SITE")[2].partition(b"\x01\x04")[0].decode()  # the last of the parameters
            body = f"Status: 200\r\n\r\npong {self.client_address[0]}\nsite {site}\naccepted conn:  {self.server.connections}\n".encode()
            self.request.sendall(struct.pack("!BBHHBB", 1, 6, 1, len(body), 0, 0) + body)
            self.request.sendall(struct.pack("!BBHHBB", 1, 3, 1, 8, 0, 0) + bytes(8))


def serve(test, server):
    """Run a server for the length of one test; its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    test.addCleanup(thread.join)
    test.addCleanup(server.server_close)
    test.addCleanup(server.shutdown)
    return server.server_address[1]


def web_server(test):
    return serve(test, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers))


def fastcgi_server(test):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Ping)
    server.connections = 0
    return serve(test, server)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
