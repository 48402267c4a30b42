#!/usr/bin/python3
"""sorry: the page that a director shows for a web service which has no server left.

    sorry.py PAGE CERTIFICATE KEY

Answers every request on ports 80 and 443 with 503, Retry-After and the file PAGE. keepalived sends the connections of
such a service to 127.0.0.80, which with direct routing leaves the address as it was asked for: so this listens on all.
One loop serves them all, as everybody comes here at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from asyncio import sslproto

# Seconds. A server that answers again is back within two; browsers and crawlers need not know so quickly.
RETRY_AFTER = 30
ASK_SECONDS, CLOSE_SECONDS = 10.0, 2.0
MOST_BYTES = 16384  # of a request's head
MOST_WAITING = 1024  # connections that the kernel holds until the loop comes to them


def answer(page: bytes, head_only: bool) -> bytes:
    lines = [
        "HTTP/1.1 503 Service Unavailable",
        f"Retry-After: {RETRY_AFTER}",
        "Cache-Control: no-store",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(page)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else page)


async def serve(page: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what has a head, also one that is too long, and nothing else."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(ASK_SECONDS):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                head = b""
            writer.write(answer(page, head.startswith(b"HEAD ")))
            await writer.drain()
        # What a client is still sending must be read, or the kernel resets the connection and our answer with it.
        if writer.can_write_eof():
            writer.write_eof()
        async with asyncio.timeout(CLOSE_SECONDS):
            while await reader.read(MOST_BYTES):
                pass
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await writer.wait_closed()


async def run(page: bytes, doors: dict[int, ssl.SSLContext | None]) -> None:
    async with contextlib.AsyncExitStack() as open_doors:
        for port, context in doors.items():
            patience = {"ssl_handshake_timeout": ASK_SECONDS, "ssl_shutdown_timeout": CLOSE_SECONDS} if context else {}
            server = await asyncio.start_server(
                lambda reader, writer: serve(page, reader, writer),
                "0.0.0.0", port, ssl=context, limit=MOST_BYTES, backlog=MOST_WAITING, **patience,
            )  # fmt: skip
            await open_doors.enter_async_context(server)
        await asyncio.Event().wait()


def main() -> int:
    if len(sys.argv) != 4:
        print("usage: sorry.py PAGE CERTIFICATE KEY", file=sys.stderr)
        return 2
    with open(sys.argv[1], "rb") as source:
        page = source.read()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*sys.argv[2:])
    sslproto.SSLProtocol.max_size = MOST_BYTES  # of a connection's buffer; 256 KB each would be too much for all of them
    asyncio.run(run(page, {80: None, 443: context}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
