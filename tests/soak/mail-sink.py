"""mail-sink.py ADDRESS PORT: an SMTP server that takes every message and prints each as one JSON line."""

import json
import socketserver
import sys


class Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        message = {"from": "", "to": [], "text": ""}
        self.say("220 sink")
        while line := self.rfile.readline():
            word, _, rest = line.decode().strip().partition(" ")
            address = rest.partition("<")[2].partition(">")[0]
            if word.upper() == "MAIL":
                message["from"] = address
            elif word.upper() == "RCPT":
                message["to"].append(address)
            elif word.upper() == "DATA":
                self.say("354 go on")
                lines = iter(lambda: self.rfile.readline().decode("utf-8", "replace").rstrip("\r\n"), ".")
                message["text"] = "\n".join(lines)
                print(json.dumps(message), flush=True)
            elif word.upper() == "QUIT":
                return self.say("221 bye")
            self.say("250 ok")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server((sys.argv[1], int(sys.argv[2])), Session).serve_forever()
