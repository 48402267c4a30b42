#!/usr/bin/python3
"""redisusers: a user of a Redis server for each site of a stack, which reaches that site's sessions and nothing else.

Standard input is JSON:
    stack                    for messages
    address, port, password  of the server, and the password of its default user
    tls                      where it speaks TLS: its "authority", PEM, and the "name" in its certificate; by default
                             those that Debian knows, and its address
    prefix                   of this stack's users; no other is touched
    users                    by name: "passwords", as #SHA-256, and "rules" of an ACL user
    settle                   false before the sites' PHP takes new passwords: what a user has it keeps beside them, and
                             none is removed; true afterwards: other passwords go, and so do users that none asks for

Reads first and writes what differs. Nothing is made on a server that would forget it at its next start.
Standard output: a line of JSON, {"made", "changed", "removed", "unchanged"}. Exit status: 0 done, 1 failed.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys

ANSWER_SECONDS = 10
# Of a user's rules, these give nothing: it has no command for channels, and payloads it may not restore.
INERT = {"sanitize-payload", "resetchannels", "&*"}


class ServerError(Exception):
    """An error that the server answers with."""


class Redis:
    """A connection that asks one thing at a time, in RESP 2."""

    def __init__(self, address: str, port: int, tls: dict | None = None) -> None:
        self.socket = socket.create_connection((address, port), timeout=ANSWER_SECONDS)
        if tls is not None:
            context = ssl.create_default_context(cadata=tls.get("authority"))
            self.socket = context.wrap_socket(self.socket, server_hostname=tls.get("name") or address)
        self.stream = self.socket.makefile("rb")

    def ask(self, *words: str):
        parts = [word.encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self.answer()

    def answer(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server ended the connection")
        kind, text = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise ServerError(text)
        if kind == b"*":
            return [self.answer() for _ in range(int(text))]
        if kind == b"$":
            return None if text == "-1" else self.stream.read(int(text) + 2)[:-2].decode()
        return int(text) if kind == b":" else text


class Refused(Exception):
    """What the operator must put right: property, value, what is allowed, remedy."""


def refusal(order: dict, name: str, found: str, allowed: str, remedy: str) -> Refused:
    return Refused(f"Pulumi.{order['stack']}.yaml: fleet:redis.{name} is {found}; allowed: {allowed}. {remedy}")


def passwords(rules: set[str]) -> set[str]:
    return {rule for rule in rules if rule.startswith("#")}


def log_in(redis: Redis, order: dict) -> None:
    """As the default user, by the form of AUTH that only servers with users know."""
    try:
        redis.ask("AUTH", "default", order["password"])
    except ServerError as error:
        if "wrong number of arguments" in str(error):
            allowed = "each, with a server that has users (Redis 6 or later)"
            raise refusal(order, "users", '"each"', allowed, "Update the server, or write `users: one`.") from error
        said = f"redisPassword is refused by {order['address']}:{order['port']} ({error})"
        remedy = f"Set it with: npm run fleet -- secret redisPassword -s {order['stack']} < FILE"
        allowed = "the password of its default user"
        raise Refused(f"Pulumi.{order['stack']}.secrets.yaml: {said}; allowed: {allowed}. {remedy}") from error


def read_users(redis: Redis, order: dict) -> dict[str, set[str]]:
    """Rules of every user by name. On a server that lets everybody in, users would be walls beside an open door."""
    users = {}
    for line in redis.ask("ACL", "LIST"):
        _, name, *rules = line.split()
        users[name] = {*rules} - INERT
    if {"on", "nopass"} <= users.get("default", set()):
        allowed = "each, with a server whose default user has a password"
        remedy = "Give it one. With an aclfile the server ignores requirepass: it takes the line `user default on #<SHA-256> ~* &* +@all` there."
        raise refusal(order, "users", '"each"', allowed, remedy)
    return users


def keep(redis: Redis, order: dict) -> None:
    """Has the server write its users to where it reads them at its next start."""
    try:
        try:
            redis.ask("ACL", "SAVE")
        except ServerError as error:
            if "not configured" not in str(error):
                raise
            redis.ask("CONFIG", "REWRITE")
    except ServerError as error:
        allowed = f"each, with a server that keeps its users over a restart (it says: {error})"
        remedy = "Give it an aclfile that it may write, or write `users: one`."
        raise refusal(order, "users", '"each"', allowed, remedy) from error


def changes(order: dict, found: dict[str, set[str]]) -> dict[str, list]:
    """What has to be asked of the server, by what it is for."""
    asked: dict[str, list] = {"made": [], "changed": [], "removed": [], "unchanged": []}
    for name, user in sorted(order["users"].items()):
        has = found.get(name)
        own = {*user["passwords"]} | (set() if order["settle"] else passwords(has or set()))
        if has == {"on", *own, *user["rules"]}:
            asked["unchanged"].append((name, []))
        else:
            # One command: whoever is logged in never meets half of it.
            words = ["SETUSER", name, "reset", "on", *sorted(own), *user["rules"]]
            asked["made" if has is None else "changed"].append((name, words))
    if order["settle"]:
        gone = sorted(name for name in found if name.startswith(order["prefix"]) and name not in order["users"])
        asked["removed"] = [(name, ["DELUSER", name]) for name in gone]
    return asked


def bring(redis: Redis, order: dict) -> dict:
    log_in(redis, order)
    asked = changes(order, read_users(redis, order))
    # Before anything is changed, and though nothing may be: a run that was killed has kept nothing.
    keep(redis, order)
    words = [w for entries in asked.values() for _, w in entries if w]
    for each in words:
        redis.ask("ACL", *each)
    if words:
        keep(redis, order)
    return {kind: [name for name, _ in entries] for kind, entries in asked.items()}


def main() -> int:
    order = json.load(sys.stdin)
    where = f"{order['address']}:{order['port']}"
    try:
        report = bring(Redis(order["address"], order["port"], order.get("tls")), order)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    except OSError as error:
        allowed, remedy = "a Redis server that answers", f"Start it, or let {socket.gethostname()} reach it."
        print(refusal(order, "address", f'"{where}"', f"{allowed} ({error})", remedy), file=sys.stderr)
        return 1
    except ServerError as error:
        allowed = "a server whose default user may manage users"
        print(refusal(order, "address", f'"{where}"', f"{allowed} ({error})", "Allow it that."), file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
