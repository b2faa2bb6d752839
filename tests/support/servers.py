"""Servers on this machine that take messages: HTTP and SMTP."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_REASONS = {200: "OK", 302: "Found", 404: "Not Found", 500: "Internal Server Error"}


@dataclass
class Request:
    """A request to a server of HTTP."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Letter:
    """A mail that a server of SMTP took."""

    sender: str
    recipients: list[str]
    text: bytes


@dataclass
class Server:
    """A server, and what came.

    :ivar status: of the answers of HTTP; 0 for none at all.
    :ivar logins: what came with AUTH of SMTP: a name and a password.
    """

    port: int = 0
    status: int = 200
    requests: list[Request] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split()
        self.requests.append(Request(method, path, headers, body))
        if not self.status:
            await reader.read()  # until the other end gives up
        line = f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'No')}"
        more = f"Location: http://127.0.0.1:{self.port}/elsewhere\r\n"
        writer.write(f"{line}\r\n{more}Content-Length: 0\r\n\r\n".encode())
        await _close(writer)

    async def smtp(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take mails of one connection: the least of RFC 5321."""
        letter = Letter("", [], b"")
        writer.write(b"220 test ESMTP\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line.split(":")[0].upper()
            answer = "250 fine"
            if verb.startswith("EHLO "):
                answer = "250-test\r\n250 AUTH PLAIN"
            elif verb.startswith("AUTH PLAIN "):
                _, name, password = b64decode(line.split()[2]).decode().split("\0")
                self.logins.append((name, password))
                answer = "235 welcome"
            elif verb == "MAIL FROM":
                letter = Letter(line.split(":", 1)[1].split()[0].strip("<>"), [], b"")
            elif verb == "RCPT TO":
                letter.recipients.append(line.split(":", 1)[1].strip("<>"))
                if "refused" in line:
                    answer = "550 no such user"
            elif verb == "DATA":
                writer.write(b"354 go\r\n")
                letter.text = await reader.readuntil(b"\r\n.\r\n")
                self.letters.append(letter)
            elif verb == "QUIT":
                answer = "221 bye"
            writer.write(f"{answer}\r\n".encode())
            if verb == "QUIT":
                break
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@contextlib.contextmanager
def serving(protocol: str, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve on a free port of the loopback, until the end of the context.

    :param protocol: ``http`` or ``smtp``.
    """
    server = Server()
    loop = asyncio.new_event_loop()

    async def start() -> Any:
        handle = getattr(server, protocol)
        return await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)

    listening = loop.run_until_complete(start())
    server.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listening.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
