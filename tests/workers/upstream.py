"""A provider's server for tests: says exactly these bytes, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Script: TypeAlias = Callable[[Reader, Writer], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunked(raw: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(raw), raw)


class Upstream:
    """Plays one script per request; keeps what was asked. `port` 0 is any free one."""

    def __init__(self, script: Script, port: int = 0) -> None:
        self._script = script
        self._port = port
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.gone = asyncio.Event()  # the other side has closed a connection
        self.root = ""
        self.base_url = ""  # with the version that some providers have in theirs

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=1024)
        self.root = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.base_url = f"{self.root}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while not writer.is_closing():
                    await self._take_request(reader)
                    await self._script(reader, writer)
                    await writer.drain()
        finally:
            self.gone.set()
            writer.close()

    async def _take_request(self, reader: Reader) -> None:
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self.requests.append((line, headers, await reader.readexactly(int(headers["content-length"]))))


def says(*parts: bytes, close: bool = False) -> Script:
    """Writes these bytes, then closes or takes the next request."""

    async def script(_: Reader, writer: Writer) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()

    return script


def hangs(*parts: bytes) -> Script:
    """Writes these bytes, then waits until the other side closes."""

    async def script(reader: Reader, writer: Writer) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        await reader.read()
        writer.close()

    return script
